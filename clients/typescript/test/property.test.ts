// For any sequence of what an API and a network may do: one key, one content, and never a success or a failure that is
// not one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { idempotentFetch, memoryJournal, resume, type Result } from "semel";
import * as tables from "semel/tables";
import { Still } from "./world.js";

const CASES = Number(process.env.PROPTEST_CASES ?? 200);

/** A dice that falls the same way for the same seed (mulberry32). */
function dice(seed: number): (sides: number) => number {
  return (sides) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % sides;
  };
}

/** An API that keeps its word, over a network that does not. */
class Honest {
  readonly effects = new Set<string>();
  readonly sent: { key: string; content: string }[] = [];
  constructor(readonly roll: (sides: number) => number) {}

  readonly fetch: typeof globalThis.fetch = async (_, init) => {
    if ((init?.method ?? "GET") === "GET") return new Response(null, { status: 404 });
    const key = new Headers(init!.headers).get("idempotency-key")!;
    this.sent.push({ key, content: new TextDecoder().decode(init!.body as Uint8Array) });
    // Refused before it is looked at, and so nothing is said of the key.
    switch (this.roll(8)) {
      case 0:
        return new Response('{"code":"unauthorized"}', { status: 401 });
      case 1:
        return new Response("", { status: 429, headers: { "retry-after": `${this.roll(90)}` } });
      case 2:
        throw new TypeError("fetch failed", { cause: { code: "ECONNREFUSED", syscall: "connect" } });
      case 3:
        throw new TypeError("fetch failed", { cause: { code: "ECONNRESET" } });
      case 4:
        return new Response("<html>", { status: [500, 502, 503, 302, 418 + 81][this.roll(5)]! });
    }
    if (!this.effects.has(key)) {
      // Refused for good, or executed.
      if (this.roll(3) === 0) return new Response('{"error":"no"}', { status: 400 });
      this.effects.add(key);
    }
    switch (this.roll(3)) {
      case 0:
        throw new TypeError("fetch failed", { cause: { code: "ECONNRESET" } });
      case 1:
        return new Response("", { status: 500 });
      default:
        return new Response('{"success":true,"id":"o-1"}', { status: 201 });
    }
  };
}

for (const policy of [tables.ietf, tables.stripe, tables.credicorp, tables.yonne, tables.nora]) {
  test(`l02_l10_l18_q1 any sequence of behaviours, judged by ${policy.preset}`, async () => {
    const seen = new Set<string>();
    for (let seed = 0; seed < CASES; seed++) {
      const roll = dice(seed);
      const api = new Honest(roll);
      const clock = new Still();
      const journal = memoryJournal();
      const common = { journal, clock, fetch: api.fetch };
      const options = { ...common, policy, id: "order-7", attemptsMax: 1 + roll(5) };
      let result: Result = await idempotentFetch("https://api.example/orders", { body: '{"amount":7}' }, options);
      for (let turns = roll(4); turns > 0; turns--) {
        clock.ms += roll(2) * roll(30 * 60 * 60 * 1000);
        const [resumed] = await resume({ ...common, policy, id: "order-7" });
        assert.ok(resumed && "result" in resumed);
        result = resumed.result;
      }
      const about = `seed ${seed}: ${JSON.stringify([result, (await journal.get("order-7"))!.history])}`;
      for (const sent of api.sent) assert.deepEqual(sent, api.sent[0], about);
      assert.ok(api.effects.size <= 1, about);
      if (result.happened) assert.equal(api.effects.size, 1, about);
      if (result.outcome === "rejected") assert.equal(api.effects.size, 0, about);
      if (api.effects.size === 1 && !result.happened) assert.ok(result.open, about);
      seen.add(result.outcome);
    }
    // Else it would show nothing.
    assert.deepEqual([...seen].sort(), ["fresh", "rejected", "unresolved"]);
  });
}
