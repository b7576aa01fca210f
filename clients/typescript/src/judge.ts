// What a client may conclude from what it saw. The semantics, shared with the other languages, are those of
// crates/semel-core/judgement/README.md, and its vectors are the tests of this file.
//
// No clock and no dice: the time comes in, and a pause comes out as a range to draw from.

/** How long and how often a client goes on. Times in milliseconds. */
export interface Budget {
  /** Attempts in one run: from a send or a resumption to its verdict. */
  attempts_max: number;
  /** How long one run may last. */
  elapsed_max_ms: number;
  /** How long one attempt may last; the sender enforces it. */
  attempt_max_ms: number;
  /** The pause after the first attempt is at most this, after the second twice as much, and so on. */
  pause_base_ms: number;
  /** No pause is longer, unless the API asks for one that is. */
  pause_max_ms: number;
  /** How long the API remembers a key; null where an id stays taken for as long as the resource exists. */
  window_ms: number | null;
  /** How long before the end of that window the last attempt may begin. */
  margin_ms: number;
}

/** Where an API takes the key: in a request header, or in a member (a JSON Pointer) of the content. */
export type KeyPlace = { header: string } | { member: string };

/** What a path of the API does with keys. */
export interface Route {
  path: string;
  key: KeyPlace;
  /** The own resource: its path with `{key}`, and the JSON Pointer at which it shows the key. */
  read?: { path: string; id: string };
}

type OneOrMore = string | readonly string[];

/** Conditions on what an attempt saw; all that are there must hold. */
export interface When {
  failure?: Failure;
  status?: OneOrMore;
  code?: OneOrMore;
  text?: OneOrMore;
  member?: string;
  is?: string | boolean;
  header?: { readonly [name: string]: string };
  retryable?: boolean;
  open?: boolean;
}

/** What follows from a rule. */
export interface Conclusion {
  verdict: "done" | "retry" | "read" | "rejected" | "undecided";
  /** The reason, as a stable word. */
  why: string;
  /** What it proves about effects that did not happen; nothing by default. */
  proves?: "nothing" | "attempt" | "key";
  /** Of `rejected`: whether the same key and content may be sent again once the cause is mended. */
  resumable?: boolean;
  /** Of `read`: what follows where the resource is not there. */
  otherwise?: Conclusion;
}

/** One line of a table. */
export interface Rule extends Conclusion {
  when: When;
}

/** What the answers of one API mean. Those that there are come from `semel/tables`. */
export interface Table {
  preset: string;
  routes: readonly Route[];
  budget: Budget;
  replayed: readonly When[];
  rules: readonly Rule[];
}

/** `not-sent`: not one byte left. `no-response`: it may have arrived, and no whole response came back. */
export type Failure = "not-sent" | "no-response";

/**
 * One thing that happened to an operation; times in milliseconds since the Unix epoch. An exchange with neither
 * `status` nor `failure` is one whose end nobody wrote down, as after a crash: it counts as `no-response`.
 */
export interface Event {
  /** An attempt (the default), a look at the own resource, or the wish to go on. */
  act?: "attempt" | "read" | "resumed";
  at_ms: number;
  /** When what it saw was there; `at_ms` by default. */
  end_ms?: number;
  failure?: Failure;
  status?: number;
  /** Names in any case. */
  headers?: { [name: string]: string };
  /** The content, if it is UTF-8. */
  content?: string;
  /** The content in base64, if it is not. */
  base64?: string;
}

/** What a client knows of an operation before any answer. */
export interface Operation {
  /** The path of its address, without query. */
  path: string;
  /** Its key, the same on every attempt. */
  key: string;
}

/** What to do next, and why. */
export interface Judged {
  verdict: "done" | "retry" | "read" | "rejected" | "undecided";
  why: string;
  /** Whether an attempt may have had its effect and nobody knows. */
  open: boolean;
  /** Of a last word: how it ended. */
  outcome?: Outcome;
  /** Of `rejected`. */
  resumable?: boolean;
  /** Of `read`: the own resource. */
  path?: string;
  /** Of `retry` and `read`: not earlier, from now. */
  at_least_ms?: number;
  /** Of `retry` and `read`: not later, from now. */
  at_most_ms?: number;
}

/** How an operation ended, or that nobody knows. */
export type Outcome = "fresh" | "replayed" | "already-exists" | "rejected" | "unresolved";

/** Where a history stands: at a conclusion, or to be sent, or to be looked up again. */
interface Next extends Omit<Conclusion, "verdict"> {
  verdict: Conclusion["verdict"] | "send" | "look";
  outcome?: Outcome;
}

/** What to do next with an operation that this happened to. */
export function judge(table: Table, { path, key }: Operation, history: readonly Event[], now_ms: number): Judged {
  const { budget } = table;
  const { read } = routeOf(table, path);
  /** When the first of the attempts began that may have had the effect. */
  let open_since: number | undefined;
  let run_from: number | undefined;
  let attempts = 0;
  let reads = 0;
  let pause_from = 0;
  let otherwise: Conclusion | undefined;
  let next: Next = { verdict: "send", why: "first" };

  for (const event of history) {
    const { act = "attempt", at_ms, end_ms = at_ms, status } = event;
    if (act === "resumed") {
      run_from = at_ms;
      attempts = reads = 0;
      otherwise = undefined;
      const over = next.verdict === "rejected" && !next.resumable && open_since === undefined;
      if (!over) next = { verdict: "send", why: "resumed" };
      continue;
    }
    pause_from = end_ms + askedPause(event, end_ms);
    const text = status && !event.base64 ? (event.content ?? "") : undefined;
    const content = { text, json: parse(text) };
    const holding = (when: When): boolean => holds(when, event, content, open_since !== undefined);
    if (act === "attempt") {
      run_from ??= at_ms;
      attempts++;
      reads = 0;
      const rule: Conclusion = table.rules.find(({ when }) => holding(when))!;
      if (rule.proves === "key") open_since = undefined;
      else if (rule.proves !== "attempt") open_since ??= at_ms;
      otherwise = read && rule.otherwise;
      next = otherwise ? rule : (rule.otherwise ?? rule);
      if (next.verdict === "done") {
        next = { ...next, outcome: table.replayed.some(holding) ? "replayed" : "fresh" };
      }
    } else {
      reads++;
      // The own resource is a proof even where nobody asked for it; that it is not there says something only after the
      // answer that made one ask.
      if (isSuccess(status) && read && pointer(content.json, read.id) === key) {
        next = { verdict: "done", why: "seen", outcome: "already-exists" };
      } else if (otherwise) {
        const again = !status || status >= 500 || [408, 425, 429].includes(status);
        next = again ? { verdict: "look", why: "read-again" } : { verdict: "undecided", why: "read-failed" };
        if (status === 404) {
          if (otherwise.proves === "key") open_since = undefined;
          next = otherwise;
          otherwise = undefined;
        }
      }
    }
    // What is proven stays proven, whatever came later.
    if (next.verdict === "done") break;
  }

  const { verdict, why, outcome, resumable } = next;
  if (verdict === "done") return { verdict, why, open: false, outcome: outcome! };
  const open = open_since !== undefined;
  const window_end =
    open && budget.window_ms !== null ? open_since! + Math.max(0, budget.window_ms - budget.margin_ms) : Infinity;
  const undecided = (why: string): Judged => ({ verdict: "undecided", why, open, outcome: "unresolved" });
  // Stopping is a failure only where nothing can have happened.
  const stop = (resumable: boolean, why: string): Judged =>
    open ? undecided(why) : { verdict: "rejected", why, open, outcome: "rejected", resumable };
  const act = (verdict: "retry" | "read", at_least_ms: number, at_most_ms: number): Judged => ({
    verdict,
    why,
    open,
    at_least_ms,
    at_most_ms,
    ...(verdict === "read" && { path: read!.path.replace("{key}", () => escape(key)) }),
  });
  const pause = (verdict: "retry" | "read", tries: number, until: number): Judged => {
    const earliest = Math.max(pause_from, now_ms);
    const doubled = Math.min(budget.pause_max_ms, budget.pause_base_ms * 2 ** Math.max(0, tries - 1));
    const run_end = run_from! + budget.elapsed_max_ms;
    const latest = Math.min(Math.max(pause_from + doubled, now_ms), run_end, until);
    return tries >= budget.attempts_max
      ? stop(true, "attempts-over")
      : earliest > run_end
        ? stop(true, "elapsed-over")
        : earliest > until
          ? stop(true, "window-over")
          : act(verdict, earliest - now_ms, latest - now_ms);
  };

  return verdict === "send"
    ? now_ms > window_end
      ? undecided("window-over")
      : act("retry", 0, 0)
    : verdict === "look"
      ? pause("read", reads, Infinity)
      : verdict === "retry"
        ? pause(verdict, attempts, window_end)
        : verdict === "read"
          ? act(verdict, 0, 0)
          : verdict === "rejected"
            ? stop(!!resumable, why)
            : undecided(why);
}

export function isSuccess(status = 0): boolean {
  return status >= 200 && status < 300;
}

/** What the API does with keys on this path (without query). */
export function routeOf(table: Table, path: string): Route {
  return table.routes.find((route) => matches(route.path, path))!;
}

/** Whether a path matches a template: literal segments, `{x}` for any one, a final `*` for all that follow. */
export function matches(template: string, path: string): boolean {
  const parts = path.split("/").filter(Boolean);
  const wanted = template.split("/").filter(Boolean);
  return (
    (wanted.at(-1) === "*" && wanted.pop() ? parts.length >= wanted.length : parts.length === wanted.length) &&
    wanted.every((segment, at) => segment[0] === "{" || segment === parts[at])
  );
}

/** Everything but unreserved characters (RFC 3986 section 2.3) as `%XX`. */
function escape(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (char) => "%" + char.charCodeAt(0).toString(16).toUpperCase());
}

/** What a content is: JSON, text, or neither. */
interface Content {
  json?: unknown;
  text: string | undefined;
}

/** The value of a JSON text; undefined where it is none. */
export function parse(text: string | undefined): unknown {
  try {
    return JSON.parse(text!);
  } catch {
    return undefined;
  }
}

/** The value at a JSON Pointer (RFC 6901); undefined where there is none. */
export function pointer(json: unknown, path: string): unknown {
  for (const token of path.split("/").slice(1)) {
    const name = token.replaceAll("~1", "/").replaceAll("~0", "~");
    // `length` is an own property of arrays and no element.
    if (typeof json !== "object" || !Object.hasOwn(json ?? {}, name) || (Array.isArray(json) && name === "length"))
      return;
    json = (json as { [name: string]: unknown })[name];
  }
  return json;
}

export function isObject(json: unknown): json is { [name: string]: unknown } {
  return typeof json === "object" && json !== null && !Array.isArray(json);
}

function trim(text: string): string {
  return text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
}

function field({ headers = {} }: Event, name: string): string | undefined {
  const found = Object.keys(headers).find((there) => there.toLowerCase() === name.toLowerCase());
  return found && trim(headers[found]!);
}

/** Whether all conditions hold. One that a table can put to a reply only finds nothing in a failure, and so fails. */
function holds(when: When, event: Event, { json, text }: Content, open: boolean): boolean {
  const { status } = event;
  const object = isObject(json) ? json : undefined;
  const said = typeof json === "string" ? json : object ? object.error : text;
  const code = field(event, "idempotency-problem") ?? object?.code;
  const found: { [condition: string]: unknown[] } = {
    open: [open],
    failure: status ? [] : [event.failure ?? "no-response"],
    status: [`${status}`, `${status}`[0] + "xx"],
    code: status! >= 400 && status! <= 599 ? [code] : [],
    text: typeof said === "string" ? [trim(said)] : [],
    retryable: [object?.retryable],
    member: [when.member],
    is: [when.member && pointer(json, when.member)],
  };
  return Object.entries(when).every(([condition, wanted]) =>
    condition === "header"
      ? Object.entries(when.header!).every(([name, value]) => {
          const there = field(event, name);
          return value === "*" ? there !== undefined : there?.toLowerCase() === value.toLowerCase();
        })
      : [wanted].flat().some((one) => found[condition]!.includes(one)),
  );
}

/** `Retry-After` (RFC 9110 section 10.2.3) in milliseconds from the end of the exchange; 0 where there is none. */
function askedPause(event: Event, end_ms: number): number {
  // Where there is none it is tested as the word "undefined", which is neither a number nor a date.
  const text = field(event, "retry-after")!;
  if (/^\d{1,9}$/.test(text)) return +text * 1000;
  // Of the three forms of a date (RFC 9110 section 5.6.7) all end with a time and a zone, or a year for UTC.
  if (!/:.. (\d+|GMT)$/.test(text)) return 0;
  return Math.max(0, Date.parse(text.replace(/\d$/, "$& GMT")) - end_ms || 0);
}
