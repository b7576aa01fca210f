// A journal in the browser: it outlives a reload in mid-request, and all tabs of an origin share it.
//
// Turns are Web Locks, which the browser frees with the tab. Entries are in IndexedDB, or in localStorage where that is
// missing; without either, or without Web Locks, there is no journal, and nothing pretends to be one.

import { SemelError } from "../error.js";
import { isForgotten, keyTaken, oldestFirst, type Entry, type Journal } from "../journal.js";

/** Where it is kept. */
export interface WebOptions {
  /** Two journals of an origin have different names; `semel` by default. */
  name?: string;
  storage?: "indexed-db" | "local-storage";
}

/** Opens the journal of this origin, or begins one; forgets operations that have been over for `OVER_KEPT_MS`. */
export async function webJournal({ name = "semel", storage }: WebOptions = {}): Promise<Journal> {
  if (!globalThis.navigator?.locks) throw unusable("Web Locks are missing; they need a secure context (https)");
  storage ??= globalThis.indexedDB ? "indexed-db" : "local-storage";
  const entries = storage === "indexed-db" ? await indexedDb(name) : localStorageEntries(name);
  const journal: Journal = {
    ...entries,
    turn: async (operation, run) => navigator.locks.request(`${name}:turn:${operation}`, run) as ReturnType<typeof run>,
  };
  for (const old of await journal.list()) if (isForgotten(old, Date.now())) await journal.forget(old.operation);
  return journal;
}

function unusable(why: string, cause?: unknown): SemelError {
  return new SemelError("journal-unusable", `there is no journal in this browser: ${why}`, { cause });
}

function broken(cause: unknown): SemelError {
  return new SemelError("journal-broken", `the journal cannot be used: ${String(cause)}`, { cause });
}

type Kept = Omit<Journal, "turn">;

const ENTRIES = "entries";
const CLAIM = "claim";

async function indexedDb(name: string): Promise<Kept> {
  const opening = indexedDB.open(name, 1);
  opening.onupgradeneeded = () => {
    const entries = opening.result.createObjectStore(ENTRIES, { keyPath: "operation" });
    entries.createIndex(CLAIM, ["key", "url"], { unique: true });
  };
  const database = await asked(opening).catch((error: unknown) => {
    throw unusable(String(error), error);
  });
  // Another version of this page may want to change it.
  database.onversionchange = () => database.close();

  /** Resolves when the transaction is on the disk; a relaxed one, when the system has it. */
  async function transact<T>(
    mode: IDBTransactionMode,
    run: (entries: IDBObjectStore) => Promise<T>,
    durability: IDBTransactionDurability = "strict",
  ): Promise<T> {
    try {
      const transaction = database.transaction(ENTRIES, mode, { durability });
      const done = new Promise<void>((kept, failed) => {
        transaction.oncomplete = () => kept();
        transaction.onabort = () => failed(transaction.error);
      });
      // Of the two, what `run` says is worth more.
      done.catch(() => {});
      const value = await run(transaction.objectStore(ENTRIES));
      await done;
      return value;
    } catch (error) {
      throw error instanceof SemelError ? error : broken(error);
    }
  }

  return {
    get: (operation) => transact("readonly", (entries) => asked<Entry | undefined>(entries.get(operation))),
    put: (entry, durable) =>
      transact(
        "readwrite",
        async (entries) => {
          const holder = await asked<Entry | undefined>(entries.index(CLAIM).get([entry.key, entry.url]));
          if (holder && holder.operation !== entry.operation) throw keyTaken(holder.operation);
          await asked(entries.put(entry));
        },
        // A tab that is closed loses nothing of it, either.
        durable === "soon" ? "relaxed" : "strict",
      ),
    list: async () => oldestFirst(await transact("readonly", (entries) => asked<Entry[]>(entries.getAll()))),
    forget: (operation) => transact("readwrite", async (entries) => void (await asked(entries.delete(operation)))),
  };
}

function asked<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

function localStorageEntries(name: string): Kept {
  const prefix = `${name}:entry:`;
  const all = (): Entry[] =>
    Object.keys(localStorage)
      .filter((item) => item.startsWith(prefix))
      .map((item) => read(item)!);
  const read = (item: string): Entry | undefined => {
    const text = localStorage.getItem(item);
    if (text === null) return undefined;
    try {
      return JSON.parse(text) as Entry;
    } catch (cause) {
      throw new SemelError("journal-damaged", `the journal's ${item} is not what was written`, { cause });
    }
  };
  return {
    get: async (operation) => read(prefix + operation),
    // One at a time in all tabs: who has a key is looked up and written in two steps.
    put: (entry) =>
      navigator.locks.request(`${name}:put`, async () => {
        const holder = all().find(({ key, url }) => key === entry.key && url === entry.url);
        if (holder && holder.operation !== entry.operation) throw keyTaken(holder.operation);
        try {
          localStorage.setItem(prefix + entry.operation, JSON.stringify(entry));
        } catch (error) {
          throw broken(error);
        }
      }),
    list: async () => oldestFirst(all()),
    forget: async (operation) => localStorage.removeItem(prefix + operation),
  };
}
