// A journal in a folder: durable before the first byte leaves, one process at a time.
//
// One file to which frames are appended. A frame is a line, a checksum and a JSON list of entries, written and synced
// before the next one begins: so only the last can be torn, and what is wrong anywhere else is damage. Behind the last
// frame there are zeros: a sync after a write that makes a file longer waits for the file system's own journal, too.

import { constants } from "node:fs";
import { mkdir, open, readFile, rename, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { SemelError } from "../error.js";
import { Entries, isForgotten, Turns, type Durable, type Entry, type Journal } from "../journal.js";
import { lockFolder, type Lock } from "./lock.js";

/** The first line of the file. */
const FORMAT = "semel-journal 2";
/** The file is written anew when it has this many bytes more than what is live in it needs, and is twice as long. */
const WASTE_BYTES_MAX = 1 << 20;
/** When its zeros are used up, the file gets so many more. */
const ZEROS_BYTES = 1 << 20;
/**
 * On Linux a write returns when it is on the disk, which saves a way to another thread and back. Elsewhere this is less
 * than a sync, or not there.
 */
const { O_WRONLY, O_CREAT, O_TRUNC, O_DSYNC } = constants;
const DSYNC = process.platform === "linux" ? O_DSYNC : 0;
/** So many puts share one write to the disk. */
const GROUP_PUTS_MAX = 512;
/** What is to be kept soon waits so long for one that is kept now, in milliseconds. */
const SOON_MAX_MS = 100;

/** A journal in a folder. */
export interface FileJournal extends Journal {
  /** Frees the folder for others. A process that ends frees it too. */
  close(): Promise<void>;
}

/**
 * Opens the journal in this folder, or begins one; recovers what a crash left; forgets operations that have been over
 * for `OVER_KEPT_MS`. One process at a time, on one machine: another one is told `journal-locked`.
 */
export async function fileJournal(folder: string): Promise<FileJournal> {
  let lock: Lock;
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    lock = await lockFolder(folder);
  } catch (error) {
    throw error instanceof SemelError ? error : unusable(folder, error);
  }
  try {
    const entries = await recover(folder);
    return new Log(folder, lock, entries, await rewrite(folder, entries)).journal();
  } catch (error) {
    await lock.free();
    throw error instanceof SemelError ? error : unusable(folder, error);
  }
}

function unusable(folder: string, error: unknown): SemelError {
  return new SemelError("journal-unusable", `cannot use the folder ${folder}: ${String(error)}`, { cause: error });
}

/** A change: an entry, or the name of one that is forgotten. */
type Change = Entry | { forget: string };

function frame(changes: string[]): string {
  const json = `[${changes.join()}]`;
  return `${checksum(json)} ${json}\n`;
}

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, "0");
}

/** Makes a change in memory, and gives its JSON. */
function apply(entries: Entries, change: Change): string {
  if (!("forget" in change)) return entries.put(change);
  entries.delete(change.forget);
  return JSON.stringify(change);
}

/** What the file says; a torn last frame was never told as kept. */
async function recover(folder: string): Promise<Entries> {
  const entries = new Entries();
  const bytes = await readFile(join(folder, "journal")).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return Buffer.alloc(0);
    throw error;
  });
  if (bytes.length === 0) return entries;
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  const text = bytes.toString("utf8", 0, end);
  const [first, ...lines] = text.split("\n");
  if (first !== FORMAT) {
    const why = `its file begins with "${first!.slice(0, 40)}", and this version reads "${FORMAT}"`;
    throw new SemelError("journal-format", `${folder} is not a journal that this version can read: ${why}`);
  }
  lines.forEach((line, at) => {
    const json = line.slice(9);
    // A torn frame has no end, or has one and nothing behind it.
    const last = at === lines.length - 1 || (at === lines.length - 2 && lines.at(-1) === "");
    if (line.slice(0, 9) === `${checksum(json)} ` && at < lines.length - 1) {
      for (const change of JSON.parse(json) as Change[]) apply(entries, change);
    } else if (!last) {
      throw new SemelError("journal-damaged", `line ${at + 2} of ${join(folder, "journal")} is not what was written`);
    }
  });
  for (const old of entries.list()) if (isForgotten(old, Date.now())) entries.delete(old.operation);
  return entries;
}

/** A file, and how many of its bytes are used; the rest are zeros. */
interface Written {
  file: FileHandle;
  used: number;
  length: number;
}

/** The file with what is live and nothing else, in place of the old one, on the disk. */
async function rewrite(folder: string, entries: Entries): Promise<Written> {
  const path = join(folder, "journal");
  const file = await open(`${path}.new`, O_WRONLY | O_CREAT | O_TRUNC | DSYNC, 0o600);
  try {
    const frames = entries.list().map((entry) => frame([JSON.stringify(entry)]));
    const bytes = Buffer.from(`${FORMAT}\n${frames.join("")}`);
    await file.writeFile(bytes);
    await file.writeFile(Buffer.alloc(ZEROS_BYTES));
    await file.sync();
    await rename(`${path}.new`, path);
    const directory = await open(folder, "r");
    await directory.sync();
    await directory.close();
    return { file, used: bytes.length, length: bytes.length + ZEROS_BYTES };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A change, as JSON, that waits for the disk; and who waits for it. */
interface Waiting {
  change: string;
  kept?: () => void;
  failed?: (error: unknown) => void;
}

class Log {
  readonly #turns = new Turns();
  readonly #queue: Waiting[] = [];
  #writer: Promise<void> | undefined;
  /** Whether what is in the queue waits no longer. */
  #due = false;
  #soon: NodeJS.Timeout | undefined;
  #broken: SemelError | undefined;

  constructor(
    readonly folder: string,
    readonly lock: Lock,
    readonly entries: Entries,
    private written: Written,
    /** What was used when the file was last written anew. */
    private live = written.used,
  ) {}

  journal(): FileJournal {
    return {
      get: async (operation) => this.entries.get(operation),
      put: (entry, durable) => this.#keep(entry, durable),
      list: async () => this.entries.list(),
      forget: (operation) => this.#keep({ forget: operation }),
      turn: (operation, run) => this.#turns.take(operation, run),
      close: () => this.#close(),
    };
  }

  async #keep(change: Change, durable: Durable = "now"): Promise<void> {
    if (this.#broken) throw this.#broken;
    // In memory first: it says who has the key, and the file is written in the same order.
    const json = apply(this.entries, change);
    if (durable === "soon") {
      this.#queue.push({ change: json });
      this.#soon ??= setTimeout(() => this.#hurry(), SOON_MAX_MS);
      return;
    }
    const kept = new Promise<void>((kept, failed) => this.#queue.push({ change: json, kept, failed }));
    this.#hurry();
    return kept;
  }

  #hurry(): void {
    clearTimeout(this.#soon);
    this.#soon = undefined;
    if (!this.#queue.length) return;
    this.#due = true;
    this.#writer ??= this.#write();
  }

  /** Writes groups for as long as there is something that waits no longer. */
  async #write(): Promise<void> {
    while (this.#due) {
      const group = this.#queue.splice(0, GROUP_PUTS_MAX);
      this.#due = this.#queue.length > 0;
      try {
        if (this.#broken) throw this.#broken;
        await this.#append(Buffer.from(frame(group.map(({ change }) => change))));
        group.forEach(({ kept }) => kept?.());
        if (this.written.used > 2 * this.live + WASTE_BYTES_MAX) await this.#rewrite();
      } catch (error) {
        // What is on the disk now nobody knows: nothing more is written until it is opened again.
        this.#broken ??= new SemelError(
          "journal-broken",
          `the journal cannot be written: ${String(error)}; open it again`,
        );
        group.forEach(({ failed }) => failed?.(this.#broken));
      }
    }
    this.#writer = undefined;
  }

  /** Writes where the zeros begin, and returns when it is on the disk. */
  async #append(bytes: Buffer): Promise<void> {
    const { written } = this;
    const isLonger = written.used + bytes.length > written.length;
    const all = isLonger ? Buffer.concat([bytes, Buffer.alloc(ZEROS_BYTES)]) : bytes;
    const { bytesWritten } = await written.file.write(all, 0, all.length, written.used);
    if (bytesWritten < all.length) throw new Error("the disk is full");
    if (!DSYNC) await written.file.datasync();
    if (isLonger) written.length = written.used + all.length;
    written.used += bytes.length;
  }

  async #rewrite(): Promise<void> {
    const { file } = this.written;
    this.written = await rewrite(this.folder, this.entries);
    this.live = this.written.used;
    await file.close();
  }

  async #close(): Promise<void> {
    this.#hurry();
    await this.#writer;
    this.#broken ??= new SemelError("journal-broken", "the journal is closed");
    await this.written.file.close();
    await this.lock.free();
  }
}
