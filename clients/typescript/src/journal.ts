// Where operations survive. A journal only keeps entries and takes turns; what they mean is decided elsewhere.

import type { Event } from "./judge.js";
import { SemelError } from "./error.js";

/**
 * Where an operation stands: it runs or was interrupted; it happened; it did not, and is over; it did not, and may be
 * resumed once the cause is mended; nobody knows whether it happened.
 */
export type State = "open" | "done" | "rejected" | "stopped" | "unresolved";

/** An operation: what is sent for it, none of which ever changes, and what happened to it. Plain JSON. */
export interface Entry {
  /** The caller's own name for it; the key unless another one was given. */
  operation: string;
  key: string;
  /** Whether the caller chose the key: then another one for the same operation is a mistake. */
  given: boolean;
  preset: string;
  method: string;
  url: string;
  /** Without credentials, which no journal keeps. */
  headers: [name: string, value: string][];
  /** Whether a browser sends its cookies along. */
  credentials?: RequestCredentials;
  /** The exact content if it is UTF-8, else in base64. */
  content?: string;
  base64?: string;
  /** By this, two requests with one id are the same one; a key that was minted does not count. */
  fingerprint: string;
  /** A digest of the credentials that it was last sent with. */
  scope: string;
  created_ms: number;
  state: State;
  /** Why, as a stable word; empty while it runs. */
  why: string;
  /** Since when. */
  state_ms: number;
  history: Event[];
}

/**
 * `now`, the default: when it resolves the entry is kept, as durably as the journal can. `soon`: it is there for who asks,
 * and kept with the next one that is kept now, or a moment later; a crash in between may take it.
 */
export type Durable = "now" | "soon";

/** Where operations survive: `memoryJournal()`, `fileJournal()` of `semel/node`, `webJournal()` of `semel/web`. */
export interface Journal {
  /** One operation, or undefined. */
  get(operation: string): Promise<Entry | undefined>;
  /**
   * Keeps an entry in place of the one with the same operation. Rejects with `key-taken`, and keeps nothing, if another
   * operation has the same key at the same address.
   */
  put(entry: Entry, durable?: Durable): Promise<void>;
  /** All of them, the oldest first. */
  list(): Promise<Entry[]>;
  /** Forgets one. Only what is over, or what a person looked up, is safe to forget. */
  forget(operation: string): Promise<void>;
  /** Runs `run` while nobody else who shares this journal has a turn with this operation. */
  turn<T>(operation: string, run: () => Promise<T>): Promise<T>;
}

/** What is over is forgotten after this time (30 days). */
export const OVER_KEPT_MS = 30 * 24 * 60 * 60 * 1000;

/** Whether an entry is so old that it is forgotten. */
export function isForgotten({ state, state_ms }: Entry, now_ms: number): boolean {
  return (state === "done" || state === "rejected") && state_ms < now_ms - OVER_KEPT_MS;
}

/** Entries in memory, by operation and by key, as JSON: what a caller does to its own changes nothing here. */
export class Entries {
  readonly #entries = new Map<string, { json: string; claim: string }>();
  readonly #claims = new Map<string, string>();

  get(operation: string): Entry | undefined {
    const kept = this.#entries.get(operation);
    return kept && (JSON.parse(kept.json) as Entry);
  }

  /** What it keeps. Throws `key-taken`, and changes nothing, where the key belongs to another operation. */
  put(entry: Entry): string {
    const { operation, key, url } = entry;
    const claim = `${key}\n${url}`;
    const holder = this.#claims.get(claim);
    if (holder !== undefined && holder !== operation) throw keyTaken(holder);
    const json = JSON.stringify(entry);
    const before = this.#entries.get(operation);
    if (before) this.#claims.delete(before.claim);
    this.#claims.set(claim, operation);
    this.#entries.set(operation, { json, claim });
    return json;
  }

  delete(operation: string): void {
    const kept = this.#entries.get(operation);
    if (kept) this.#claims.delete(kept.claim);
    this.#entries.delete(operation);
  }

  list(): Entry[] {
    return oldestFirst([...this.#entries.values()].map(({ json }) => JSON.parse(json) as Entry));
  }
}

export function oldestFirst(entries: Entry[]): Entry[] {
  return entries.sort((one, other) => one.created_ms - other.created_ms);
}

export function keyTaken(holder: string): SemelError {
  return new SemelError("key-taken", holder);
}

/** Turns within one process. */
export class Turns {
  readonly #last = new Map<string, Promise<unknown>>();

  async take<T>(operation: string, run: () => Promise<T>): Promise<T> {
    const before = this.#last.get(operation);
    const mine = (async () => {
      await before?.catch(() => {});
      return run();
    })();
    this.#last.set(operation, mine);
    try {
      return await mine;
    } finally {
      if (this.#last.get(operation) === mine) this.#last.delete(operation);
    }
  }
}
