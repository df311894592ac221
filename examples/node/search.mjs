#!/usr/bin/env node
// Searches a Lookalike catalogue by a picture.
//
//   npm install
//   node search.mjs photo.jpg [localhost:50051] [--filter 'category = "food"'] [--top 10] [--json]

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { call, connect, describeError, formatError } from "./lookalike.mjs";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    filter: { type: "string", default: "" },
    top: { type: "string", default: "10" },
    json: { type: "boolean", default: false },
  },
});
const [picture, address] = positionals;
if (!picture) {
  console.error("usage: node search.mjs IMAGE [ADDRESS] [--filter FILTER] [--top N] [--json]");
  process.exit(2);
}
const image = await readFile(picture).catch((error) => {
  console.error(`cannot read ${picture}: ${error.message}`);
  process.exit(2);
});

const { search, close } = connect(address);
try {
  const answer = await call(search, "SearchProducts", {
    queries: [{ image }],
    filter: values.filter,
    page_size: Number(values.top),
  });
  if (values.json) {
    console.log(JSON.stringify(answer, null, 1));
  } else {
    console.table(
      answer.results.map(({ product, similarity }) => ({
        product: product.name,
        title: product.title,
        category: product.category,
        similarity: similarity.toFixed(3),
      })),
    );
  }
} catch (error) {
  const described = describeError(error);
  console.error(values.json ? JSON.stringify(described) : formatError(described));
  process.exitCode = 1;
} finally {
  close();
}
