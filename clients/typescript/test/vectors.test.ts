// The vectors that every language's judgement is tested against.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { judge, type Event, type Judged, type Table } from "semel";
import { explain } from "semel/explain";
import * as tables from "semel/tables";

const FOLDER = new URL("../../../../crates/semel-core/judgement/", import.meta.url);

type Conclusion = Table["rules"][number];

interface Vector {
  name: string;
  preset: keyof typeof tables;
  path: string;
  key: string;
  budget?: object;
  history: Event[];
  now_ms: number;
  expect: Partial<Judged>;
}

function read<T>(path: string): T {
  return JSON.parse(readFileSync(new URL(path, FOLDER), "utf8")) as T;
}

test("the tables are those that every language has", () => {
  for (const [preset, table] of Object.entries(tables)) {
    const { doc, log, rules, ...rest } = read<{ doc: string; log: object; rules: Conclusion[] }>(`${preset}.json`);
    assert.deepEqual(table, { ...rest, rules: rules.map(bare) });
  }
});

/** A rule without what only people read. */
function bare({
  say,
  rows,
  resumable,
  otherwise,
  ...rule
}: Partial<Conclusion> & { say?: string; rows?: string }): object {
  return { ...rule, ...(resumable && { resumable }), ...(otherwise && { otherwise: bare(otherwise) }) };
}

for (const file of readdirSync(new URL("vectors/", FOLDER))) {
  test(`l02_l03_l04_l05_l06_l07_l08_l10_l15_l18 vectors of ${file}`, () => {
    const vectors = read<Vector[]>(`vectors/${file}`);
    assert.ok(vectors.length > 20);
    for (const { name, preset, path, key, budget, history, now_ms, expect } of vectors) {
      const table = { ...tables[preset], budget: { ...tables[preset].budget, ...budget } };
      const told = judge(table, { path, key }, history, now_ms);
      assert.deepEqual(told, expect, `${file}: ${name}`);
      assert.notEqual(explain(table, told.why), told.why, `${file}: ${name}: every reason is said for people, too`);
    }
  });
}

test("l09_l17 an attempt whose end nobody wrote down may have happened", () => {
  const judged = judge(tables.ietf, { path: "/", key: "k" }, [{ at_ms: 1 }], 2);
  assert.deepEqual([judged.verdict, judged.why, judged.open], ["retry", "no-response", true]);
});
