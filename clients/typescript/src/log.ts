import type { Entry } from "./journal.js";
import { LOGS } from "./logs.js";
import { isSuccess, parse, pointer, type Judged, type Table } from "./judge.js";

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
  /** Whether it is proven that it happened. */
  proven: boolean;
}

/** JSON Pointers: the first member that is there counts. */
export interface LogFields {
  /** In the request: the caller's own id. */
  reference: string[];
  /** In the response. */
  order_id: string[];
  /** In the response. */
  tracking_id: string[];
}

/** Of an error's content, no more than this is logged, in characters. */
const ERROR_MAX = 4096;

/** What there is to tell of an exchange, the last in the history of its entry. */
export interface Told {
  entry: Entry;
  table: Table;
  judged: Judged;
  /** The credentials that it was sent with. */
  secrets: [name: string, value: string][];
}

/** Makes lines of what is told: `log: lines(console.info)`. */
export function lines(log: (line: LogLine) => void): (told: Told) => void {
  return (told) => log(line(told));
}

function line({ entry, table, judged, secrets }: Told): LogLine {
  const fields = LOGS[table.preset]!;
  const event = entry.history.at(-1)!;
  const act = event.act === "read" ? "read" : "attempt";
  const { status, failure = "no-response", content } = event;
  const clean = (text: string): string => redacted(text, secrets);
  return {
    merchant_reference_id: clean(member(entry.content, fields.reference) ?? entry.operation),
    idempotency_key: entry.key,
    order_id: clean(member(content, fields.order_id) ?? ""),
    tracking_id: clean(member(content, fields.tracking_id) ?? ""),
    status: status === undefined ? failure : `${status}`,
    error: status === undefined || isSuccess(status) ? "" : clean(content ?? ""),
    operation: entry.operation,
    act,
    number: entry.history.filter((one) => (one.act ?? "attempt") === act).length,
    why: judged.why,
    proven: judged.verdict === "done",
  };
}

function member(content: string | undefined, pointers: readonly string[]): string | undefined {
  const json = parse(content);
  const found = pointers
    .map((one) => pointer(json, one))
    .find((one) => typeof one === "string" || typeof one === "number");
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
