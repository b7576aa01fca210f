// Real processes that are killed at every step, and an API that has an effect per key.

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { idempotentFetch, SemelError, type Entry } from "semel";
import { fileJournal } from "semel/node";
import { ietf } from "semel/tables";

const CLIENT = fileURLToPath(new URL("client.js", import.meta.url));

/** Where the API has the client killed; each once. */
type Moment = "mid-send" | "before-effect" | "after-effect" | "mid-receive";

/** An API that remembers its keys, as a process of its own would. */
class Ledger {
  readonly effects = new Map<string, number>();
  readonly keys: string[] = [];
  killAt: Moment | undefined;
  kill: () => void = () => {};
  readonly #server = createServer(async (request, response) => {
    if (request.method !== "POST") return void response.writeHead(404).end();
    const key = request.headers["idempotency-key"] as string;
    this.keys.push(key);
    try {
      for await (const _ of request) if (this.#dies("mid-send")) return;
    } catch {
      // Half a request has no effect.
      return;
    }
    if (this.#dies("before-effect")) return;
    const before = this.effects.get(key);
    this.effects.set(key, 1);
    if (this.#dies("after-effect")) return;
    response.writeHead(201, { ...(before && { "idempotent-replayed": "true" }), "content-length": "2" });
    response.write("{");
    if (this.#dies("mid-receive")) return;
    response.end("}");
  });

  #dies(moment: Moment): boolean {
    if (this.killAt !== moment) return false;
    this.killAt = undefined;
    // What was written so far is on its way before the kill.
    setImmediate(() => this.kill());
    return true;
  }

  async start(): Promise<string> {
    await new Promise<void>((done) => this.#server.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}

async function withFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "semel-"));
  try {
    await run(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

function start(...args: string[]): { child: ChildProcess; end: Promise<{ lines: any[]; signal: string | null }> } {
  const child = spawn(process.execPath, [CLIENT, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout!.on("data", (chunk: Buffer) => (out += chunk.toString()));
  const end = new Promise<{ lines: unknown[]; signal: string | null }>((done) =>
    child.on("close", (_, signal) =>
      done({
        lines: out
          .split("\n")
          .filter(Boolean)
          .map((line) => JSON.parse(line)),
        signal,
      }),
    ),
  );
  return { child, end };
}

const steps = [
  "before-1",
  "after-1",
  "mid-send",
  "before-effect",
  "after-effect",
  "mid-receive",
  "before-2",
  "after-2",
];
for (const step of steps) {
  test(`l01_l09_e5 killed at ${step}, resumed with the same key: one effect`, () =>
    withFolder(async (folder) => {
      const ledger = new Ledger();
      const url = await ledger.start();
      try {
        const first = start(folder, url, "send", step);
        ledger.killAt = step as Moment;
        ledger.kill = () => first.child.kill("SIGKILL");
        assert.equal((await first.end).signal, "SIGKILL");
        ledger.killAt = undefined;

        const resumed = (await start(folder, url, "resume").end).lines;
        // What came of it is written a moment later: at `after-2` that is lost, and the API is asked again.
        const nothingToResume = step === "before-1";
        assert.deepEqual(
          resumed.map(({ happened }) => happened),
          nothingToResume ? [] : [true],
        );
        const [again] = (await start(folder, url, "send").end).lines;
        assert.ok(["fresh", "replayed"].includes(again.outcome), JSON.stringify(again));
        assert.deepEqual([...ledger.effects], [[`"${again.key}"`, 1]]);
        assert.deepEqual(new Set(ledger.keys), new Set([`"${again.key}"`]));
      } finally {
        await ledger.stop();
      }
    }));
}

test("l11 two processes on one journal: the second is told, and has it once the first is dead", () =>
  withFolder(async (folder) => {
    const holder = start(folder, "", "hold");
    await new Promise((done) => holder.child.stdout!.once("data", done));
    await assert.rejects(fileJournal(folder), { code: "journal-locked" });
    assert.deepEqual((await start(folder, "http://127.0.0.1:9", "send").end).lines, [{ error: "journal-locked" }]);
    holder.child.kill("SIGKILL");
    await holder.end;
    const journal = await fileJournal(folder);
    await journal.close();
    assert.deepEqual(await readdir(folder), ["journal"], "the dead one's lock is gone, too");
  }));

test("l11 of many at the same moment at most one has the journal", () =>
  withFolder(async (folder) => {
    let holders = 0;
    let held = 0;
    const worker = async () => {
      for (let round = 0; round < 12; round++) {
        const journal = await fileJournal(folder).catch((error: SemelError) => {
          assert.equal(error.code, "journal-locked");
        });
        if (!journal) continue;
        assert.equal(++holders, 1);
        held++;
        await new Promise((done) => setImmediate(done));
        holders--;
        await journal.close();
      }
    };
    await Promise.all(Array.from({ length: 6 }, worker));
    assert.ok(held > 0);
  }));

function entry(operation: string, key: string): Entry {
  const fixed = { given: false, preset: "ietf", method: "POST", url: "http://a/", headers: [], content: "{}" };
  const moment = { created_ms: Date.now(), state: "open" as const, why: "", state_ms: Date.now() };
  return { operation, key, ...fixed, fingerprint: "f", scope: "s", ...moment, history: [{ at_ms: 1 }] };
}

/** What returns when all is on the disk. */
const BARRIER = process.platform === "linux" ? "write" : "datasync";

/** Runs with another barrier of the disk. */
async function withBarrier(
  folder: string,
  barrier: (real: () => Promise<void>) => Promise<void>,
  run: () => Promise<void>,
) {
  const probe = await open(join(folder, "probe"), "w");
  const handles = Object.getPrototypeOf(probe) as { [name: string]: (this: FileHandle, ...all: any) => Promise<any> };
  await probe.close();
  const original = handles[BARRIER]!;
  handles[BARRIER] = async function (...all) {
    let told;
    await barrier(async () => {
      if (BARRIER === "write") assert.ok((await flags(this)) & constants.O_DSYNC, "this write waits for the disk");
      told = await original.apply(this, all);
    });
    return told;
  };
  try {
    await run();
  } finally {
    handles[BARRIER] = original;
  }
}

/** How Linux opened a file. */
async function flags(file: FileHandle): Promise<number> {
  const about = await readFile(`/proc/self/fdinfo/${file.fd}`, "utf8");
  return parseInt(/^flags:\s*(\d+)$/m.exec(about)![1]!, 8);
}

test("l01 nothing is sent without its barrier, and nothing more after one that failed", () =>
  withFolder(async (folder) => {
    const journal = await fileJournal(folder);
    let sent = 0;
    const fetch = async () => new Response("{}", { status: ++sent && 201 });
    const send = (id: string) => idempotentFetch("http://a/", {}, { journal, policy: ietf, id, fetch });
    let barriers = 0;
    const real = async (real: () => Promise<void>) => {
      barriers++;
      assert.equal(sent, barriers - 1);
      await real();
    };
    await withBarrier(folder, real, async () => {
      for (const id of ["order-1", "order-2", "order-3"]) assert.equal((await send(id)).outcome, "fresh");
      assert.equal(barriers, 3, "one for each call: what came of it goes with the next");
    });
    const failing = async (real: () => Promise<void>) => {
      await real();
      throw new Error("no disk");
    };
    await withBarrier(folder, failing, () => assert.rejects(send("order-4"), { code: "journal-broken" }));
    await assert.rejects(send("order-5"), { code: "journal-broken" });
    assert.equal(sent, 3);
    await journal.close();
    // Perhaps it is there: it must not be taken for new.
    const again = await fileJournal(folder);
    assert.equal((await again.get("order-4"))?.state, "open");
    await again.close();
  }));

/** What a crash at this moment leaves of an operation. */
async function leftOf(folder: string, id: string): Promise<Entry | undefined> {
  const copy = join(folder, "copy");
  await mkdir(copy, { recursive: true });
  await copyFile(join(folder, "journal"), join(copy, "journal"));
  const journal = await fileJournal(copy);
  const left = await journal.get(id);
  await journal.close();
  return left;
}

test("e31 l18 a crash does not forget what somebody was told that it did not happen", () =>
  withFolder(async (folder) => {
    const journal = await fileJournal(folder);
    for (const [status, state] of [
      [422, "rejected"],
      [401, "stopped"],
    ] as const) {
      const fetch = async () => new Response("{}", { status });
      const { outcome } = await idempotentFetch("http://a/", {}, { journal, policy: ietf, id: state, fetch });
      assert.equal(outcome, "rejected");
      assert.equal((await leftOf(folder, state))?.state, state);
    }
    await journal.close();
  }));

test("l09 what happened is written soon, whether somebody else writes or not", () =>
  withFolder(async (folder) => {
    const journal = await fileJournal(folder);
    const fetch = async () => new Response("{}", { status: 201 });
    await idempotentFetch("http://a/", {}, { journal, policy: ietf, id: "order-1", fetch });
    const deadline = Date.now() + 10_000;
    while ((await leftOf(folder, "order-1"))?.state !== "done") assert.ok(Date.now() < deadline, "it is written");
    await idempotentFetch("http://a/", {}, { journal, policy: ietf, id: "order-2", fetch });
    await journal.close();
    assert.equal((await leftOf(folder, "order-2"))?.state, "done", "and at the latest when it is closed");
  }));

/** The file without the zeros at its end. */
async function used(path: string): Promise<Buffer> {
  const bytes = await readFile(path);
  return bytes.subarray(0, bytes.findLastIndex((byte) => byte !== 0) + 1);
}

test("l17 a torn tail is dropped, wherever it is torn; what was kept before stays", () =>
  withFolder(async (folder) => {
    const path = join(folder, "journal");
    const journal = await fileJournal(folder);
    await journal.put(entry("order-1", "k-1"));
    const kept = (await used(path)).length;
    await journal.put({ ...entry("order-1", "k-1"), history: [{ at_ms: 1, end_ms: 2, status: 201 }] });
    await journal.close();
    const whole = await used(path);
    const statusLeft = async (...parts: Buffer[]) => {
      await writeFile(path, Buffer.concat(parts));
      const torn = await fileJournal(folder);
      const [event] = (await torn.get("order-1"))!.history;
      await torn.close();
      return event!.status;
    };
    const zeros = Buffer.alloc(5000);
    for (let length = kept; length <= whole.length; length += length + 1 < whole.length && length > kept ? 17 : 1) {
      const about = `${length} of ${whole.length}`;
      const begun = whole.subarray(0, length);
      // An attempt whose end is lost may have been sent.
      const left = length === whole.length ? 201 : undefined;
      assert.equal(await statusLeft(begun), left, about);
      assert.equal(await statusLeft(begun, zeros), left, `${about}, zeros behind it`);
      if (length === kept) continue;
      // The disk need not write from front to back.
      const gap = Buffer.alloc(length - kept);
      assert.equal(await statusLeft(whole.subarray(0, kept), gap, whole.subarray(length), zeros), undefined, about);
    }
  }));

test("l17 the file is as long as before for as long as there are zeros, and then gets more of them", () =>
  withFolder(async (folder) => {
    const path = join(folder, "journal");
    const journal = await fileJournal(folder);
    const { size } = await stat(path);
    for (let n = 0; n < 50; n++) await journal.put(entry(`order-${n}`, `k-${n}`));
    assert.equal((await stat(path)).size, size);
    await journal.put({ ...entry("large", "k-large"), content: "x".repeat(size) });
    const longer = (await stat(path)).size;
    assert.ok(longer > (await used(path)).length + 1000, "there are zeros again");
    await journal.put(entry("order-50", "k-50"));
    assert.equal((await stat(path)).size, longer);
    await journal.close();
    const again = await fileJournal(folder);
    assert.equal((await again.list()).length, 52);
    assert.equal((await again.get("order-50"))!.key, "k-50");
    await again.close();
  }));

test("l17 damage in the middle is refused, and so is what is newer", () =>
  withFolder(async (folder) => {
    const path = join(folder, "journal");
    const journal = await fileJournal(folder);
    await journal.put(entry("order-1", "k-1"));
    await journal.put(entry("order-2", "k-2"));
    await journal.close();
    const text = await readFile(path, "utf8");
    await writeFile(path, text.replace("k-1", "k-9"));
    await assert.rejects(fileJournal(folder), { code: "journal-damaged" });
    const [begin, first] = text.split("\n");
    await writeFile(path, text.replace(first!, "\0".repeat(first!.length)));
    await assert.rejects(fileJournal(folder), { code: "journal-damaged" }, begin);
    await writeFile(path, text.replace("semel-journal 2", "semel-journal 3"));
    await assert.rejects(fileJournal(folder), { code: "journal-format" });
    await writeFile(path, text);
    const mended = await fileJournal(folder);
    assert.deepEqual(
      (await mended.list()).map(({ key }) => key),
      ["k-1", "k-2"],
    );
    await mended.close();
  }));

test("e47 one key for two operations is refused, also after a restart", () =>
  withFolder(async (folder) => {
    const journal = await fileJournal(folder);
    await journal.put(entry("order-1", "k"));
    await assert.rejects(journal.put(entry("order-2", "k")), { code: "key-taken" });
    await journal.close();
    await assert.rejects(journal.put(entry("order-3", "k-3")), { code: "journal-broken" });
    const again = await fileJournal(folder);
    await assert.rejects(again.put(entry("order-2", "k")), { code: "key-taken" });
    await again.forget("order-1");
    await again.put(entry("order-2", "k"));
    await again.close();
  }));

test("the file is written anew when most of it is waste, and what is old and over is forgotten", () =>
  withFolder(async (folder) => {
    const journal = await fileJournal(folder);
    const large = { ...entry("order-1", "k-1"), content: "x".repeat(100_000) };
    for (let n = 0; n < 40; n++) await journal.put(large);
    await journal.put({ ...entry("old", "k-2"), state: "done", state_ms: Date.now() - 31 * 24 * 60 * 60 * 1000 });
    await journal.put({ ...entry("open", "k-3"), state_ms: 0 });
    await journal.close();
    const length = (await readFile(join(folder, "journal"))).length;
    assert.ok(length < 2_500_000, `${length} bytes`);
    const again = await fileJournal(folder);
    assert.deepEqual((await again.list()).map(({ operation }) => operation).sort(), ["open", "order-1"]);
    await again.close();
  }));

test("a folder whose path is too long for a lock is told so", () =>
  withFolder((folder) => assert.rejects(fileJournal(join(folder, "x".repeat(100))), { code: "journal-unusable" })));
