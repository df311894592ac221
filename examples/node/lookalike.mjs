// What every Lookalike client in Node needs: the services, made from the .proto files, and readable errors.

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

export const DEFAULT_ADDRESS = "localhost:50051";

// Pictures have up to 20 MB; gRPC stops at 4 MB unless told otherwise.
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

const protos = fileURLToPath(new URL("../../protos", import.meta.url));

const definition = protoLoader.loadSync(["lookalike/v1/catalog.proto", "lookalike/v1/search.proto"], {
  includeDirs: [protos, `${protos}/vendor`],
  keepCase: true, // field names as the .proto files have them
  defaults: true,
  enums: String,
  longs: Number,
  oneofs: true,
});

const { lookalike } = grpc.loadPackageDefinition(definition);

/** @returns clients of SearchService and CatalogService, and `close()`. */
export function connect(address = DEFAULT_ADDRESS, credentials = grpc.credentials.createInsecure()) {
  const options = {
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
  };
  const search = new lookalike.v1.SearchService(address, credentials, options);
  const catalog = new lookalike.v1.CatalogService(address, credentials, options);
  return { search, catalog, close: () => [search, catalog].forEach((client) => client.close()) };
}

/** Calls a unary method as a promise. The deadline reaches the server, which gives up in time too. */
export function call(client, method, request, { timeoutMs = 10_000 } = {}) {
  const deadline = new Date(Date.now() + timeoutMs);
  return new Promise((resolve, reject) =>
    client[method](request, { deadline }, (error, response) => (error ? reject(error) : resolve(response))),
  );
}

/**
 * Writes products through the bidirectional stream, the way to send many.
 *
 * @param products an (async) iterable of Product messages; read only as fast as the gateway takes them.
 * @yields one `{ request_id, name, status, etag }` for each product, in order; `status.code` 0 means durable.
 */
export async function* upsert(catalog, products, { timeoutMs = 60_000 } = {}) {
  const stream = catalog.UpsertProducts({ deadline: new Date(Date.now() + timeoutMs) });
  let sendError;
  const sending = (async () => {
    let sent = 0;
    for await (const product of products) {
      if (!stream.write({ request_id: String(sent++), product })) await once(stream, "drain");
    }
    stream.end();
  })().catch((error) => {
    sendError = error;
    stream.cancel();
  });
  try {
    yield* stream;
  } catch (error) {
    throw sendError ?? error;
  } finally {
    stream.cancel(); // ends the sending too when the reader stopped early
  }
  await sending;
}

// The messages of google/rpc/error_details.proto that Lookalike sends, as far as they are read here.
const rpc = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message BadRequest {
    message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1;
  }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`).root;

/** Reads a google.rpc.Status, with details, as in an UpsertProducts answer. */
export function describeStatus({ code, message, details = [] }) {
  const described = { code: grpc.status[code] ?? String(code), message };
  for (const { type_url: url, value } of details) {
    const type = rpc.get(url.split(".").pop());
    if (!type) continue; // a newer gateway may send more
    const detail = type.decode(value);
    if (type.name === "ErrorInfo") {
      described.reason = detail.reason;
      described.metadata = detail.metadata;
    } else if (type.name === "BadRequest") {
      described.fields = detail.fieldViolations.map(({ field, description }) => ({ field, description }));
    } else if (type.name === "RetryInfo") {
      const { seconds = 0, nanos = 0 } = detail.retryDelay ?? {};
      described.retry_after_s = Number(seconds) + nanos / 1e9;
    }
  }
  return described;
}

/**
 * Reads a failed call: `{ code, message, reason, metadata, fields, retry_after_s }`, the last four when sent.
 * What did not come from gRPC, a file that is missing for example, has a message alone.
 */
export function describeError(error) {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (details) {
    const { code, message, details: list } = rpc.lookupType("Status").decode(details);
    return describeStatus({ code, message, details: list.map((any) => ({ type_url: any.typeUrl, value: any.value })) });
  }
  return { code: grpc.status[error.code], message: error.details || error.message };
}

/** One line for a person. */
export function formatError({ code, message, reason, fields = [], retry_after_s: retryAfterS }) {
  const where = fields.map(({ field }) => field).join(", ");
  const retry = retryAfterS === undefined ? "" : `; try again after ${retryAfterS} s`;
  return `${reason ?? code ?? "error"}: ${message}${where ? ` (${where})` : ""}${retry}`;
}
