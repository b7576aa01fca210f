// An agent's tool: one key per tool call. A run that is repeated, or resumed after a crash, repeats its calls with
// their ids and pays once; an agent that planned anew has other ids, and is told of the payment that was made or is open.

import { derivedKey, idempotentFetch, type Common, type Table } from "semel";

/** What a model asks for. */
export interface ToolCall {
  id: string;
  arguments: { invoice: string; amount: number };
}

/** Pays an invoice, and tells the model the truth about it. */
export function paymentTool(url: string, headers: Record<string, string>, options: Common & { policy: Table }) {
  const { journal } = options;
  return ({ id, arguments: { invoice, amount } }: ToolCall): Promise<string> => {
    const body = JSON.stringify({ invoice, amount });
    // One call at a time for an invoice: models call tools in parallel, too.
    return journal.turn(`invoice ${invoice}`, async () => {
      const other = (await journal.list()).find((one) => one.operation !== id && one.content === body);
      if (other?.state === "done") return `Not paid again: call ${other.operation} paid this invoice.`;
      if (other?.state === "open" || other?.state === "unresolved") {
        return `Not paid: call ${other.operation} for this invoice is unresolved. Do not pay; repeat that call.`;
      }
      const init = { body, headers: { ...headers, "content-type": "application/json" } };
      // Derived from the id: even without this journal, the same call has the same key.
      const result = await idempotentFetch(url, init, { ...options, id, key: await derivedKey(id) });
      if (result.happened) return `Paid (${result.outcome}): ${await result.response!.text()}`;
      if (result.outcome === "rejected") return `Not paid: ${result.why}. Nothing was charged.`;
      return `Unknown: ${result.why}. It may have been paid. Do not pay again; repeat this call with the same id.`;
    });
  };
}
