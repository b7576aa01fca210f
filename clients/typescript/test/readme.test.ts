// The README's examples are code that the compiler takes.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

test("the examples of the README compile", () => {
  const root = fileURLToPath(new URL("../../", import.meta.url));
  const blocks = [...readFileSync(`${root}README.md`, "utf8").matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code);
  assert.ok(blocks.length >= 2);
  // In the package's folder, so that its own name leads to itself.
  const file = `${root}build/readme.ts`;
  writeFileSync(file, blocks.join("\n"));
  try {
    const options =
      "--noEmit --strict --target es2022 --lib es2023,dom,dom.iterable --module nodenext --types node".split(" ");
    execFileSync(process.execPath, [`${root}node_modules/typescript/bin/tsc`, "--ignoreConfig", ...options, file], {
      cwd: root,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  } catch (error) {
    assert.fail((error as { stdout: string }).stdout);
  } finally {
    rmSync(file);
  }
});
