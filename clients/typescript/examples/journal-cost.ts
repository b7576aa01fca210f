// What the journal costs: calls with a durable journal and with one in memory, beside a bare write and its sync.
//
//     npm run journal-cost [-- folder]

import { fdatasyncSync, openSync, writeSync, closeSync } from "node:fs";
import { mkdtemp, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { idempotentFetch, memoryJournal, type Journal } from "semel";
import { fileJournal } from "semel/node";
import { ietf } from "semel/tables";

const ROUNDS = 21;
const CALLS = 100;
const TOGETHER = 64;
const CALLS_EACH = 8;
/** As long as the steps. */
const PAUSE_MAX_MS = 8;
const WARM_UP_CALLS = 500;

const folder = await mkdtemp(join(process.argv[2] ?? ".", "semel-"));
const durable = await fileJournal(join(folder, "journal"));
let memory = memoryJournal();
const raw = await open(join(folder, "raw"), "w");
const rawSync = openSync(join(folder, "raw-sync"), "w");
const kilobyte = Buffer.alloc(1024, 7);
const body = " ".repeat(512);

/** A service in this process that answers at once. */
const fetch = async (): Promise<Response> => new Response('{"id":"p"}', { status: 201 });

async function call(journal: Journal): Promise<void> {
  const { outcome } = await idempotentFetch("http://api.example/payments", { body }, { journal, policy: ietf, fetch });
  if (outcome !== "fresh") throw new Error(outcome);
}

async function writeRaw(): Promise<void> {
  await raw.write(kilobyte);
  await raw.datasync();
}

/** The same without the way to another thread and back, for information: it stops everything else. */
function writeRawSync(): void {
  writeSync(rawSync, kilobyte);
  fdatasyncSync(rawSync);
}

/**
 * All begin alike: at any point of the steps of milliseconds in which a disk that others use may answer; and after a
 * call that is not counted, so that the processor is awake.
 */
async function settle(): Promise<void> {
  await sleep(Math.random() * PAUSE_MAX_MS);
  await call(memory);
}

async function micros(run: () => unknown): Promise<number> {
  const started = process.hrtime.bigint();
  await run();
  return Number(process.hrtime.bigint() - started) / 1000;
}

/** Microseconds of one of `TOGETHER` that call at the same time. */
async function together(journal: Journal): Promise<number> {
  const caller = async (): Promise<void> => {
    for (let n = 0; n < CALLS_EACH; n++) await call(journal);
  };
  const all = await micros(() => Promise.all(Array.from({ length: TOGETHER }, caller)));
  return all / (TOGETHER * CALLS_EACH);
}

function median(values: number[]): number {
  return values.sort((one, other) => one - other)[values.length >> 1]!;
}

const ALONE = ["raw", "raw sync", "durable", "memory", "overhead", "ratio"];
const COLUMNS = [...ALONE, "durable@64", "memory@64", "calls/raw"];
console.log(`Medians in microseconds of ${CALLS} each, in turns: a bare write of 1 KiB and its fdatasync (by promises; by`);
console.log("blocking calls, for information); a call alone with the durable journal, and with the one in memory;");
console.log("overhead: durable less memory, which is what the journal costs a call; ratio: overhead / raw.");
console.log(`Of ${TOGETHER} calls together: microseconds of each; how many there are in the time of one bare write.`);
console.log(COLUMNS.join("  "));
for (let n = 0; n < WARM_UP_CALLS; n++) {
  await call(durable);
  await call(memory);
}
const rounds: number[][] = [];
for (let round = 0; round < ROUNDS; round++) {
  // A fresh one: it looks through all it has now and then.
  memory = memoryJournal();
  const times: number[][] = [[], [], [], []];
  for (let n = 0; n < CALLS; n++) {
    // One after the other, so that all see the same disk.
    await settle();
    times[0]!.push(await micros(writeRaw));
    await settle();
    times[1]!.push(await micros(writeRawSync));
    await settle();
    times[2]!.push(await micros(() => call(durable)));
    await settle();
    times[3]!.push(await micros(() => call(memory)));
  }
  const [bare, bareSync, alone, inMemory] = times.map(median) as [number, number, number, number];
  const overhead = alone - inMemory;
  const many = await together(durable);
  const manyInMemory = await together(memory);
  const figures = [bare, bareSync, alone, inMemory, overhead, overhead / bare, many, manyInMemory, bare / many];
  console.log(figures.map((figure, at) => shown(figure, at).padStart(COLUMNS[at]!.length)).join("  "));
  rounds.push(figures);
}
const of = (at: number): number[] => rounds.map((figures) => figures[at]!);
console.log(`of ${ROUNDS} rounds:`);
COLUMNS.forEach((name, at) => {
  const values = of(at);
  console.log(`  ${name}: median ${shown(median(values), at)}, least ${shown(Math.min(...values), at)}`);
});
await durable.close();
await raw.close();
closeSync(rawSync);
await rm(folder, { recursive: true });

function shown(figure: number, at: number): string {
  return figure.toFixed(["ratio", "calls/raw"].includes(COLUMNS[at]!) ? 2 : 0);
}
