#!/usr/bin/env node
// Writes products, one for each picture; the file's name without its ending is the product's id.
//
//   node upsert.mjs [--address localhost:50051] [--category shoes] [--json] PICTURE...

import { readFile } from "node:fs/promises";
import { basename, extname } from "node:path";
import { parseArgs } from "node:util";
import { connect, describeError, describeStatus, formatError, upsert } from "./lookalike.mjs";

const { positionals: pictures, values } = parseArgs({
  allowPositionals: true,
  options: {
    address: { type: "string" },
    category: { type: "string", default: "" },
    json: { type: "boolean", default: false },
  },
});
if (pictures.length === 0) {
  console.error("usage: node upsert.mjs [--address ADDRESS] [--category CATEGORY] [--json] PICTURE...");
  process.exit(2);
}

async function* products() {
  for (const picture of pictures) {
    const id = basename(picture, extname(picture));
    const images = [{ content: await readFile(picture) }];
    yield { name: `products/${id}`, title: id, category: values.category, images };
  }
}

const { catalog, close } = connect(values.address);
try {
  for await (const { name, status, etag } of upsert(catalog, products())) {
    const failure = status?.code ? describeStatus(status) : undefined;
    if (failure) process.exitCode = 1; // one product's failure does not end the stream
    if (values.json) console.log(JSON.stringify({ name, etag, error: failure }));
    else console.log(failure ? `${name}: ${formatError(failure)}` : `${name}: written`);
  }
} catch (error) {
  console.error(formatError(describeError(error)));
  process.exitCode = 1;
} finally {
  close();
}
