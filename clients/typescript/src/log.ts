import type { Entry } from "./journal.js";
import { parse, pointer, type Event, type Judged, type Table } from "./judge.js";

/** What is told of every exchange: the six fields that support asks for (E34), and what follows. Never a secret. */
export interface LogLine {
  merchant_reference_id: string;
  idempotency_key: string;
  order_id: string;
  tracking_id: string;
  /** The HTTP status, `not-sent` or `no-response`. */
  status: string;
  /** The content of an answer that was no success. */
  error: string;
  operation: string;
  act: "attempt" | "read";
  /** Of this operation: its first attempt is 1, its first read too. */
  number: number;
  why: string;
  say: string;
  /** Whether it is proven that it happened. */
  happened: boolean;
}

/** Of an error's content, no more than this is logged, in characters. */
const ERROR_MAX = 4096;

/** The line of the last exchange. */
export function logLine(entry: Entry, table: Table, judged: Judged, secrets: [string, string][]): LogLine {
  const event = entry.history.at(-1)!;
  const act = event.act === "read" ? "read" : "attempt";
  const { status, failure = "no-response", content } = event;
  const clean = (text: string): string => redacted(text, secrets);
  return {
    merchant_reference_id: clean(member(entry.content, table.log.reference) ?? entry.operation),
    idempotency_key: entry.key,
    order_id: clean(member(content, table.log.order_id) ?? ""),
    tracking_id: clean(member(content, table.log.tracking_id) ?? ""),
    status: status === undefined ? failure : `${status}`,
    error: status === undefined || isSuccess(event) ? "" : clean(content ?? ""),
    operation: entry.operation,
    act,
    number: entry.history.filter((one) => (one.act ?? "attempt") === act).length,
    why: judged.why,
    say: judged.say,
    happened: judged.verdict === "done",
  };
}

export function isSuccess({ status }: Event): boolean {
  return status !== undefined && status >= 200 && status < 300;
}

function member(content: string | undefined, pointers: readonly string[]): string | undefined {
  const json = parse(content);
  const found = pointers.map((one) => pointer(json, one)).find((one) => typeof one === "string" || typeof one === "number");
  return found === undefined ? undefined : `${found}`;
}

/** The text without the credentials, which an API might repeat, and without control characters. */
export function redacted(text: string, secrets: [string, string][]): string {
  for (const [, secret] of secrets) {
    // `Bearer x`: what counts is x.
    for (const part of [secret, secret.split(" ").at(-1)!]) {
      if (part.length >= 4) text = text.replaceAll(part, "[redacted]");
    }
  }
  // Cut last: half a secret is still one.
  if (text.length > ERROR_MAX) text = text.slice(0, ERROR_MAX) + "...";
  return text.replace(/\p{Cc}/gu, " ");
}
