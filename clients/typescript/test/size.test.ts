// What a page pays: nothing but what it imports.

import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import * as tables from "semel/tables";

/** With the longest table, minified and compressed, in bytes. */
const CORE_BYTES_MAX = 6000;
const JOURNAL_BYTES_MAX = 1000;

async function bundled(contents: string): Promise<{ code: string; bytes: number }> {
  const stdin = { contents, resolveDir: import.meta.dirname };
  // For a browser: an import of Node would fail, as one of another package does.
  const options = { bundle: true, minify: true, write: false, metafile: true } as const;
  const built = await build({ stdin, ...options, format: "esm", platform: "browser", target: "es2022" });
  for (const input of Object.keys(built.metafile!.inputs)) assert.ok(!input.includes("node_modules"), input);
  const code = built.outputFiles[0]!.text;
  return { code, bytes: gzipSync(code, { level: 9 }).length };
}

const CORE = 'export { idempotentFetch, resume } from "semel";';

for (const preset of Object.keys(tables)) {
  test(`the core and the table ${preset} are small, and no other table comes along`, async (context) => {
    const { code, bytes } = await bundled(`${CORE} export { ${preset} } from "semel/tables";`);
    context.diagnostic(`${bytes} bytes`);
    assert.ok(bytes < CORE_BYTES_MAX, `${bytes} bytes`);
    const others = Object.keys(tables).filter((other) => other !== preset);
    for (const other of others) assert.ok(!code.includes(`preset:"${other}"`), other);
  });
}

test("the browser's journal is small", async (context) => {
  const core = await bundled(CORE);
  const both = await bundled(`${CORE} export { webJournal } from "semel/web";`);
  context.diagnostic(`${core.bytes} bytes and ${both.bytes - core.bytes} bytes`);
  assert.ok(both.bytes - core.bytes < JOURNAL_BYTES_MAX, `${both.bytes - core.bytes} bytes`);
});
