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
  /** The reason, for people. */
  say: string;
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
  rows: string;
}

/** What the answers of one API mean. Those that there are come from `semel/tables`. */
export interface Table {
  preset: string;
  doc: string;
  routes: readonly Route[];
  budget: Budget;
  replayed: readonly When[];
  log: { reference: readonly string[]; order_id: readonly string[]; tracking_id: readonly string[] };
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
  say: string;
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

/** Where a history stands. */
type Next =
  | { is: "first" | "read-again" | "read-failed" | "resumed" }
  | { is: "done"; outcome: Outcome; why: string; say: string }
  /** By a rule, or by its `otherwise`; `over` is resumed though there is nothing to resume. */
  | { is: "follow" | "over"; by: Conclusion };

/** What to do next with an operation that this happened to. */
export function judge(table: Table, { path, key }: Operation, history: readonly Event[], now_ms: number): Judged {
  const { budget } = table;
  const route = routeOf(table, path);
  const read = route.read;
  let open_since = Infinity;
  let run_from = 0;
  let attempts = 0;
  let reads = 0;
  let pause_from = 0;
  let otherwise: Conclusion | undefined;
  let next: Next = { is: "first" };

  for (const event of history) {
    const { act = "attempt", at_ms, end_ms = at_ms, status } = event;
    if (act === "resumed") {
      const ended: boolean =
        next.is === "follow" && next.by.verdict === "rejected" && !next.by.resumable && open_since === Infinity;
      run_from = at_ms;
      attempts = reads = 0;
      otherwise = undefined;
      if (next.is !== "over") next = ended ? { is: "over", by: (next as { by: Conclusion }).by } : { is: "resumed" };
      continue;
    }
    pause_from = end_ms + askedPause(event, end_ms);
    const content = readContent(event);
    if (act === "attempt") {
      if (next.is === "first") run_from = at_ms;
      attempts++;
      reads = 0;
      const open = open_since !== Infinity;
      const by: Conclusion = table.rules.find((rule) => holds(rule.when, event, content, open))!;
      otherwise = undefined;
      if (by.proves === "key") open_since = Infinity;
      else if (by.proves !== "attempt" && !open) open_since = at_ms;
      if (by.verdict === "done") {
        const replayed = table.replayed.some((when) => holds(when, event, content, false));
        next = { is: "done", outcome: replayed ? "replayed" : "fresh", why: by.why, say: by.say };
      } else if (by.verdict === "read" && read) {
        otherwise = by.otherwise;
        next = { is: "follow", by };
      } else {
        next = { is: "follow", by: by.verdict === "read" ? by.otherwise! : by };
      }
    } else {
      reads++;
      // The own resource is a proof even where nobody asked for it; that it is not there says something only after the
      // answer that made one ask.
      if (status && status >= 200 && status < 300 && read && pointer(content.json, read.id) === key) {
        next = { is: "done", outcome: "already-exists", why: "seen", say: "The own resource was looked up, and is there." };
      } else if (otherwise) {
        if (status === 404) {
          if (otherwise.proves === "key") open_since = Infinity;
          next = { is: "follow", by: otherwise };
          otherwise = undefined;
        } else {
          next = { is: !status || status >= 500 || [408, 425, 429].includes(status) ? "read-again" : "read-failed" };
        }
      }
    }
    // What is proven stays proven, whatever came later.
    if (next.is === "done") break;
  }

  const open = open_since !== Infinity && next.is !== "done";
  const window_end =
    open && budget.window_ms !== null ? open_since + Math.max(0, budget.window_ms - budget.margin_ms) : Infinity;
  const undecided = (why: string, say: string): Judged => ({ verdict: "undecided", why, say, open, outcome: "unresolved" });
  // Stopping is a failure only where nothing can have happened.
  const stop = (resumable: boolean, why: string, say: string): Judged =>
    open ? undecided(why, say) : { verdict: "rejected", why, say, open, outcome: "rejected", resumable };
  const act = (verdict: "retry" | "read", why: string, say: string, at_least_ms = 0, at_most_ms = 0): Judged => ({
    verdict,
    why,
    say,
    open,
    at_least_ms,
    at_most_ms,
    ...(verdict === "read" && { path: read!.path.replace("{key}", () => escape(key)) }),
  });
  const pause = (verdict: "retry" | "read", tries: number, until: number, why: string, say: string): Judged => {
    const earliest = Math.max(pause_from, now_ms);
    const doubled = Math.min(budget.pause_max_ms, budget.pause_base_ms * 2 ** Math.max(0, tries - 1));
    const run_end = run_from + budget.elapsed_max_ms;
    if (tries >= budget.attempts_max) {
      return stop(true, "attempts-over", "It was tried as often as it may be in one run. Resume later.");
    }
    if (earliest > run_end) {
      return stop(true, "elapsed-over", "The next try would be later than one run may last. Resume later.");
    }
    if (earliest > until) return stop(true, ...WINDOW_OVER);
    const latest = Math.min(Math.max(pause_from + doubled, now_ms), run_end, until);
    return act(verdict, why, say, earliest - now_ms, latest - now_ms);
  };

  switch (next.is) {
    case "first":
      return act("retry", "first", "It was not sent yet.");
    case "done":
      return { verdict: "done", why: next.why, say: next.say, open, outcome: next.outcome };
    case "over":
      return stop(false, next.by.why, next.by.say);
    case "read-again":
      return pause("read", reads, Infinity, "read-again", "The resource could not be looked up yet.");
    case "read-failed":
      return undecided("read-failed", "The resource could not be looked up.");
    case "resumed":
      return now_ms > window_end ? undecided(...WINDOW_OVER) : act("retry", "resumed", "It is sent again, unchanged.");
    case "follow": {
      const { verdict, why, say, resumable } = next.by;
      if (verdict === "retry") return pause("retry", attempts, window_end, why, say);
      if (verdict === "read") return act("read", why, say);
      return verdict === "rejected" ? stop(!!resumable, why, say) : undecided(why, say);
    }
  }
}

const WINDOW_OVER: [string, string] = [
  "window-over",
  "By the next try the API might have forgotten the key, and do it a second time. Look the resource up.",
];

/** What the API does with keys on this path (without query). */
export function routeOf(table: Table, path: string): Route {
  return table.routes.find((route) => matches(route.path, path))!;
}

/** Whether a path matches a template: literal segments, `{x}` for any one, a final `*` for all that follow. */
export function matches(template: string, path: string): boolean {
  const parts = segments(path);
  const wanted = template.split("/").filter(Boolean);
  const rest = wanted.at(-1) === "*";
  if (rest) wanted.pop();
  return (
    (rest ? parts.length >= wanted.length : parts.length === wanted.length) &&
    wanted.every((segment, at) => segment.startsWith("{") || segment === parts[at])
  );
}

/** As the server normalises it: no needless escapes, no dot segments, no empty ones. */
function segments(path: string): string[] {
  const plain = path.replace(/%([0-9a-f]{2})?/gi, (escaped: string, hex?: string) => {
    const char = hex ? String.fromCharCode(parseInt(hex, 16)) : "";
    return /[\w.~-]/.test(char) ? char : hex ? escaped.toUpperCase() : "%25";
  });
  const out: string[] = [];
  for (const segment of plain.split("/")) {
    if (segment === "..") out.pop();
    else if (segment && segment !== ".") out.push(segment);
  }
  return out;
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

function readContent({ content, base64 }: Event): Content {
  const text = base64 === undefined ? (content ?? "") : undefined;
  return { text, json: parse(text) };
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
    if (!isObject(json) || !Object.hasOwn(json, name)) return undefined;
    // `length` is an own property of arrays and no element.
    if (Array.isArray(json) && !/^(0|[1-9]\d*)$/.test(name)) return undefined;
    json = json[name];
  }
  return json;
}

function isObject(json: unknown): json is { [name: string]: unknown } {
  return typeof json === "object" && json !== null;
}

/** What a content says in words: the text of a JSON string or of a member `error` of an object, or else all of it. */
function words({ json, text }: Content): string | undefined {
  if (typeof json === "string") text = json;
  else if (isObject(json) && !Array.isArray(json)) {
    const error = pointer(json, "/error");
    text = typeof error === "string" ? error : undefined;
  }
  return text === undefined ? undefined : trim(text);
}

function trim(text: string): string {
  return text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
}

function field({ headers = {} }: Event, name: string): string | undefined {
  const found = Object.keys(headers).find((there) => there.toLowerCase() === name.toLowerCase());
  return found === undefined ? undefined : trim(headers[found]!);
}

function holds(when: When, event: Event, content: Content, open: boolean): boolean {
  const { status } = event;
  if (when.open !== undefined && when.open !== open) return false;
  if (status === undefined) {
    if (when.failure) return when.failure === (event.failure ?? "no-response");
    return Object.keys(when).every((condition) => condition === "open");
  }
  const any = (wanted: OneOrMore, found: (one: string) => boolean): boolean =>
    typeof wanted === "string" ? found(wanted) : wanted.some(found);
  const said = words(content);
  const code = field(event, "idempotency-problem") ?? pointer(isArray(content.json) ? null : content.json, "/code");
  return (
    !when.failure &&
    (when.status === undefined || any(when.status, (one) => one.replace("xx", "") === `${status}`.slice(0, one.endsWith("xx") ? 1 : 3))) &&
    (when.code === undefined || (status >= 400 && status <= 599 && any(when.code, (one) => one === code))) &&
    (when.text === undefined || any(when.text, (one) => one === said)) &&
    (when.member === undefined || pointer(content.json, when.member) === when.is) &&
    (when.retryable === undefined || pointer(content.json, "/retryable") === when.retryable) &&
    Object.entries(when.header ?? {}).every(([name, wanted]) => {
      const value = field(event, name);
      return value !== undefined && (wanted === "*" || value.toLowerCase() === wanted.toLowerCase());
    })
  );
}

function isArray(json: unknown): boolean {
  return Array.isArray(json);
}

/** `Retry-After` (RFC 9110 section 10.2.3) in milliseconds from the end of the exchange; 0 where there is none to read. */
function askedPause(event: Event, end_ms: number): number {
  const text = field(event, "retry-after") ?? "";
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const date = new Date(text);
  // Of all the forms that Date reads, only the one that it writes back is an IMF-fixdate.
  return !Number.isNaN(date.getTime()) && date.toUTCString() === text ? Math.max(0, date.getTime() - end_ms) : 0;
}
