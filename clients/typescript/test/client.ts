// A process that a test starts and kills: it opens the journal, sends the order or resumes, and tells the result.
// It kills itself where it is told to: before or after its n-th write to the journal.

import { idempotentFetch, resume, SemelError, type Journal } from "semel";
import { fileJournal } from "semel/node";
import { ietf } from "semel/tables";

const [folder, url, what, die] = process.argv.slice(2) as [string, string, "send" | "resume" | "hold", string?];

function tell(line: unknown): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Dies before the write `before-1`, after the write `after-1`. */
function mortal(journal: Journal): Journal {
  let puts = 0;
  const reached = (step: string) => step === die && process.kill(process.pid, "SIGKILL");
  const put: Journal["put"] = async (entry, durable) => {
    puts++;
    if (reached(`before-${puts}`)) return new Promise(() => {});
    await journal.put(entry, durable);
    if (reached(`after-${puts}`)) return new Promise(() => {});
  };
  return { ...journal, put };
}

try {
  const journal = await fileJournal(folder);
  const common = { journal: mortal(journal), policy: ietf };
  if (what === "send") {
    const body = JSON.stringify({ amount: 7, note: "n".repeat(1 << 20) });
    const result = await idempotentFetch(`${url}/orders`, { body }, { ...common, id: "order-7" });
    tell({ outcome: result.outcome, key: result.key });
  } else if (what === "resume") {
    for (const one of await resume(common)) tell("result" in one ? one.result : String(one.error));
  } else {
    tell({ holds: true });
    await new Promise((never) => setTimeout(never, 60_000));
  }
  await journal.close();
} catch (error) {
  tell({ error: error instanceof SemelError ? error.code : String(error) });
  process.exitCode = 1;
}
