import { Entries, isForgotten, Turns, type Journal } from "../journal.js";

/** A journal that is gone when the process is: for tests, and where nothing needs to survive. */
export function memoryJournal(): Journal {
  const entries = new Entries();
  const turns = new Turns();
  let puts = 0;
  return {
    get: async (operation) => entries.get(operation),
    put: async (entry) => {
      entries.put(entry);
      // Looked through now and then, so that a long life costs no more than a short one.
      if (++puts % 1024 === 0) {
        for (const old of entries.list()) if (isForgotten(old, Date.now())) entries.delete(old.operation);
      }
    },
    list: async () => entries.list(),
    forget: async (operation) => entries.delete(operation),
    turn: (operation, run) => turns.take(operation, run),
  };
}
