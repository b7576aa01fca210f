// A journal in a folder: durable before the first byte leaves, one process at a time.
//
// One file to which frames are appended. A frame is a line, a checksum and a JSON list of entries, written and synced
// before the next one begins: so only the last can be torn, and what is wrong anywhere else is damage.

import { createHash } from "node:crypto";
import { mkdir, open, readFile, rename, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { SemelError } from "../error.js";
import { Entries, isForgotten, Turns, type Durable, type Entry, type Journal } from "../journal.js";
import { lockFolder, type Lock } from "./lock.js";

/** The first line of the file. */
const FORMAT = "semel-journal 1";
/** The file is written anew when it has this many bytes more than what is live in it needs, and is twice as long. */
const WASTE_BYTES_MAX = 1 << 20;
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
    const { entries, length } = await recover(folder);
    return new Log(folder, lock, entries, await rewrite(folder, entries), length).journal();
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
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

function apply(entries: Entries, change: Change): void {
  if ("forget" in change) entries.delete(change.forget);
  else entries.put(change);
}

/** What the file says; a torn last frame was never told as kept. */
async function recover(folder: string): Promise<{ entries: Entries; length: number }> {
  const entries = new Entries();
  const text = await readFile(join(folder, "journal"), "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
  if (text === "") return { entries, length: 0 };
  const [first, ...lines] = text.split("\n");
  if (first !== FORMAT) {
    const why = `its file begins with "${first!.slice(0, 40)}", and this version reads "${FORMAT}"`;
    throw new SemelError("journal-format", `${folder} is not a journal that this version can read: ${why}`);
  }
  lines.forEach((line, at) => {
    const json = line.slice(17);
    // A torn frame has no end, or has one and nothing behind it.
    const last = at === lines.length - 1 || (at === lines.length - 2 && lines.at(-1) === "");
    if (line.slice(0, 17) === `${checksum(json)} ` && at < lines.length - 1) {
      for (const change of JSON.parse(json) as Change[]) apply(entries, change);
    } else if (!last) {
      throw new SemelError("journal-damaged", `line ${at + 2} of ${join(folder, "journal")} is not what was written`);
    }
  });
  for (const old of entries.list()) if (isForgotten(old, Date.now())) entries.delete(old.operation);
  return { entries, length: text.length };
}

/** The file with what is live and nothing else, in place of the old one, on the disk. */
async function rewrite(folder: string, entries: Entries): Promise<FileHandle> {
  const path = join(folder, "journal");
  const file = await open(`${path}.new`, "w", 0o600);
  try {
    await file.writeFile(
      `${FORMAT}\n${entries
        .list()
        .map((entry) => frame([JSON.stringify(entry)]))
        .join("")}`,
    );
    await file.sync();
    await rename(`${path}.new`, path);
    const directory = await open(folder, "r");
    await directory.sync();
    await directory.close();
    return file;
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
    private file: FileHandle,
    /** How long the file is, in characters or more; and how long it was when it was last written anew. */
    private length: number,
    private live = length,
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
    apply(this.entries, change);
    const json = JSON.stringify(change);
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
        const text = frame(group.map(({ change }) => change));
        await this.file.writeFile(text);
        await this.file.datasync();
        this.length += text.length;
        group.forEach(({ kept }) => kept?.());
        if (this.length > 2 * this.live + WASTE_BYTES_MAX) await this.#rewrite();
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

  async #rewrite(): Promise<void> {
    const old = this.file;
    this.file = await rewrite(this.folder, this.entries);
    this.length = this.live = (await this.file.stat()).size;
    await old.close();
  }

  async #close(): Promise<void> {
    this.#hurry();
    await this.#writer;
    this.#broken ??= new SemelError("journal-broken", "the journal is closed");
    await this.file.close();
    await this.lock.free();
  }
}
