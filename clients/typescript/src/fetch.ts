// Sends operations until it is known how they ended, or until going on would be unsafe.

import { CONTENT_BYTES_MAX, fromBytes, toBytes, whole } from "./content.js";
import { SemelError } from "./error.js";
import { intentOf, isSecret, keyHeader, scopeOf, type Intent } from "./intent.js";
import type { Entry, Journal, State } from "./journal.js";
import { judge, type Event, type Judged, type Outcome, type Table } from "./judge.js";
import { isSuccess, logLine, type LogLine } from "./log.js";
import { publishedWindow } from "./published.js";

/** Time and chance, so that a test can own them. */
export interface Clock {
  /** Milliseconds since the Unix epoch, by the wall clock: it must mean the same after a restart. */
  now(): number;
  /** Waits; resolves early when the signal is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** A whole number from `least` to `most`, each as likely as any other. */
  draw(least: number, most: number): number;
}

/** What holds for every operation that is sent. */
export interface Common {
  /** Where operations survive. */
  journal: Journal;
  /** At most so many attempts in one run, instead of the table's number. */
  attemptsMax?: number;
  /** Runs of at most this length, instead of the table's. */
  elapsedMaxMs?: number;
  /** Is told every exchange. */
  log?: (line: LogLine) => void;
  /** What sends one request: it must not send it twice by itself. The platform's `fetch` by default. */
  fetch?: typeof globalThis.fetch;
  clock?: Clock;
}

/** How to send one operation. */
export interface Options extends Common {
  /** What this API's answers mean: a table of `semel/tables`. */
  policy: Table;
  /** The caller's own name for this user action, such as an order's number: sent twice, it is one operation. */
  id?: string;
  /** The key, instead of a fresh one. */
  key?: string;
  /** Whether a key may end with a number of attempts; refused by default, since a key must not change per attempt. */
  countedKeys?: "refuse" | "allow";
}

/** How to go on with what was interrupted or is unresolved. */
export interface ResumeOptions extends Common {
  /** What the answers mean: the tables of the presets that are to be resumed. */
  policy: Table | readonly Table[];
  /** Only this operation; then also one that was stopped for a cause that had to be mended. */
  id?: string;
  /** The credentials, which no journal keeps. */
  headers?: HeadersInit | ((entry: Entry) => HeadersInit);
  signal?: AbortSignal;
}

/** How an operation ended, or that nobody knows. There is always one. */
export interface Result {
  /**
   * `fresh`: it happened. `replayed`: it happened earlier, and this is the response to that. `already-exists`: the
   * resource with this key was seen. `rejected`: it did not happen. `unresolved`: nobody knows; resume it later.
   */
  outcome: Outcome;
  /** Whether it is proven that it happened. */
  happened: boolean;
  /** The operation's id. */
  id: string;
  key: string;
  /** The reason, as a stable word. */
  why: string;
  /** The reason, for people. */
  say: string;
  /** Whether an attempt may have had its effect and nobody knows. */
  open: boolean;
  /** Whether the same key and content may be sent again: later, or once the cause is mended. */
  resumable: boolean;
  /** The API's last answer, if there was any. */
  response?: Response;
}

/** One resumed operation: how it ended, or why it was not sent on. */
export type Resumed = { id: string; result: Result } | { id: string; error: unknown };

/** So many operations are resumed at a time. */
const RESUMED_AT_ONCE_MAX = 16;

/**
 * Sends a write request, or goes on with it if the journal knows it, until there is an outcome. `init` is that of
 * `fetch`; POST by default. Headers that hold a secret, such as `Authorization`, are sent and not kept. When
 * `init.signal` is aborted the operation stays in the journal, and can be resumed.
 *
 * Rejects with a {@link SemelError} where nothing was sent for a mistake of the caller or of the journal.
 */
export async function idempotentFetch(url: string | URL, init: RequestInit, options: Options): Promise<Result> {
  init.signal?.throwIfAborted();
  const now_ms = (options.clock ?? system).now();
  const intent = await intentOf(url, init, options, now_ms);
  const { operation, fingerprint, key, given, preset } = intent.entry;
  const { flying } = memoryOf(options.journal);
  const same = JSON.stringify([fingerprint, preset, given && key, intent.secrets]);
  const before = flying.get(operation);
  // A double click: one promise.
  if (before?.same === same) return result(await before.end);
  const end = options.journal.turn(operation, () => send(new Run(options, intent, [options.policy], init.signal)));
  const flight = { same, end };
  flying.set(operation, flight);
  try {
    return result(await end);
  } finally {
    if (flying.get(operation) === flight) flying.delete(operation);
  }
}

/**
 * Goes on with everything that was interrupted or is unresolved, with the same keys and the same bytes. What is over is
 * left alone; what was stopped for a cause that somebody has to mend waits until it is named by `id`.
 */
export async function resume(options: ResumeOptions): Promise<Resumed[]> {
  const { journal, id } = options;
  const tables = [options.policy].flat() as Table[];
  const named = id === undefined ? undefined : await journal.get(id);
  if (id !== undefined && !named) throw new SemelError("no-such-operation", `the journal has no operation ${id}`);
  const known = named ? [named] : (await journal.list()).filter(({ state }) => state === "open" || state === "unresolved");
  const open = known.filter(({ preset }) => tables.some((table) => table.preset === preset));
  if (named && !open.length) throw edited(named.operation);
  const one = async ({ operation }: Entry): Promise<Resumed> => {
    try {
      const end = await journal.turn(operation, async () => {
        const entry = await journal.get(operation);
        if (!entry) throw new SemelError("no-such-operation", `the journal has no operation ${operation}`);
        const { headers = {} } = options;
        const given = [...new Headers(typeof headers === "function" ? headers(entry) : headers)];
        const secrets = given.filter(([name]) => isSecret(name));
        return new Run(options, { entry, secrets }, tables, options.signal).goOn();
      });
      return { id: operation, result: result(end) };
    } catch (error) {
      return { id: operation, error };
    }
  };
  const resumed: Resumed[] = [];
  while (open.length) resumed.push(...(await Promise.all(open.splice(0, RESUMED_AT_ONCE_MAX).map(one))));
  return resumed;
}

/** Sends it, or goes on with what the journal knows under its name. */
async function send(run: Run): Promise<End> {
  const { entry } = run;
  const known = await run.options.journal.get(entry.operation);
  if (!known) return run.toEnd();
  const anotherKey = entry.given && entry.key !== known.key;
  const changed = entry.fingerprint !== known.fingerprint || entry.preset !== known.preset;
  // Nothing happened and it is over: a corrected one under the same name is a new one.
  if (known.state === "rejected" && (changed || anotherKey)) return run.toEnd();
  if (anotherKey) {
    throw new SemelError("another-key", `operation ${entry.operation} has another key: it never changes`);
  }
  if (changed) throw edited(entry.operation);
  run.entry = known;
  return run.goOn();
}

function edited(operation: string): SemelError {
  return new SemelError(
    "edited",
    `operation ${operation} was sent with another target, content or preset before, and that one happened or may have: ` +
      "a changed one is a new operation",
  );
}

/** How a run ended. */
type End = [entry: Entry, judged: Judged];

/** One operation on its way. */
class Run {
  entry: Entry;
  readonly #clock: Clock;
  readonly #table: Table;

  constructor(
    readonly options: Common,
    readonly intent: Intent,
    tables: readonly Table[],
    readonly signal: AbortSignal | null | undefined,
  ) {
    this.entry = intent.entry;
    this.#clock = options.clock ?? system;
    const table = tables.find(({ preset }) => preset === this.entry.preset)!;
    const { attemptsMax, elapsedMaxMs } = options;
    this.#table = {
      ...table,
      budget: {
        ...table.budget,
        ...(attemptsMax !== undefined && { attempts_max: Math.max(1, attemptsMax) }),
        ...(elapsedMaxMs !== undefined && { elapsed_max_ms: elapsedMaxMs }),
      },
    };
  }

  /** Goes on with what the journal has; what is over is told again. */
  async goOn(): Promise<End> {
    const { entry } = this;
    const judged = await this.#judge();
    const over = judged.verdict === "done" || (judged.verdict === "rejected" && !judged.resumable);
    // A crash can come between the last answer and this.
    if (over) return this.#conclude(judged);
    const scope = await scopeOf(entry.key, entry.url, this.intent.secrets);
    if (judged.open && scope !== entry.scope) {
      throw new SemelError(
        "other-credentials",
        `operation ${entry.operation} may have happened under other credentials: with these the API would not recognise ` +
          "it, and could do it a second time. Resume it with the credentials it was sent with",
      );
    }
    entry.scope = scope;
    entry.history.push({ act: "resumed", at_ms: this.#clock.now() });
    return this.toEnd();
  }

  /** Sends, waits, looks and sends again, as the judgement says. */
  async toEnd(): Promise<End> {
    const { entry } = this;
    for (let paused = false; ; ) {
      const judged = await this.#judge();
      const { verdict, at_least_ms = 0, at_most_ms = 0, path } = judged;
      if (verdict !== "retry" && verdict !== "read") return this.#conclude(judged);
      if (this.signal?.aborted) return [entry, interrupted(judged)];
      // After a pause it is judged again: a machine that slept may wake up after the window.
      if (at_least_ms > 0 || (at_most_ms > 0 && !paused)) {
        const pause_ms = paused ? at_least_ms : this.#clock.draw(at_least_ms, at_most_ms);
        await this.#clock.sleep(pause_ms, this.signal ?? undefined);
        paused = true;
        continue;
      }
      paused = false;
      const event: Event = { at_ms: this.#clock.now() };
      if (verdict === "read") event.act = "read";
      entry.history.push(event);
      this.#stands("open", "");
      // Before the first byte leaves: a crash from here on is an attempt that may have happened.
      await this.options.journal.put(entry);
      Object.assign(event, await this.#exchange(path), { end_ms: this.#clock.now() });
      const next = await this.#judge();
      this.options.log?.(logLine(entry, this.#table, next, this.intent.secrets));
      // A last word is written down together with where it leaves the operation.
      if (next.verdict === "retry" || next.verdict === "read") await this.options.journal.put(entry);
    }
  }

  async #conclude(judged: Judged): Promise<End> {
    const state = stateOf(judged);
    const told = this.entry.state === state && this.entry.why === judged.why;
    this.#stands(state, judged.why);
    if (!told) await this.options.journal.put(this.entry);
    return [this.entry, judged];
  }

  #stands(state: State, why: string): void {
    Object.assign(this.entry, { state, why, state_ms: this.#clock.now() });
  }

  /** By the table and, once a retry is at stake, within the window that the API publishes. */
  async #judge(): Promise<Judged> {
    const { entry } = this;
    const { pathname } = new URL(entry.url);
    const last = entry.history.at(-1);
    let table = this.#table;
    if (last && ((last.act ?? "attempt") !== "attempt" || !isSuccess(last))) {
      const { published } = memoryOf(this.options.journal);
      const window_ms = await publishedWindow(entry, this.options.fetch ?? globalThis.fetch, published);
      if (window_ms !== undefined) {
        // A short window would otherwise be all margin.
        const margin_ms = Math.min(table.budget.margin_ms, Math.floor(window_ms / 2));
        table = { ...table, budget: { ...table.budget, window_ms, margin_ms } };
      }
    }
    return judge(table, { path: pathname, key: entry.key }, entry.history, this.#clock.now());
  }

  /** One attempt, or one look at the own resource. */
  async #exchange(path: string | undefined): Promise<Partial<Event>> {
    const { entry, intent } = this;
    const headers = new Headers(path === undefined ? entry.headers : undefined);
    for (const [name, value] of intent.secrets) headers.set(name, value);
    const init: RequestInit = { headers, redirect: "manual", cache: "no-store" };
    if (entry.credentials) init.credentials = entry.credentials;
    if (path === undefined) {
      init.method = entry.method;
      const bytes = toBytes(entry);
      if (bytes.length) init.body = bytes;
      const header = keyHeader(this.#table, entry);
      if (header) headers.set(...header);
    }
    const stop = new AbortController();
    const abort = (): void => stop.abort();
    const timer = setTimeout(abort, this.#table.budget.attempt_max_ms);
    this.signal?.addEventListener("abort", abort);
    init.signal = stop.signal;
    const send = this.options.fetch ?? globalThis.fetch;
    try {
      const response = await send(path === undefined ? entry.url : new URL(path, entry.url).href, init);
      // A browser shows nothing of a redirect but that it is one.
      if (response.type === "opaqueredirect") return { status: 300 };
      const content = await whole(response, CONTENT_BYTES_MAX);
      return { status: response.status, headers: Object.fromEntries(response.headers), ...fromBytes(content) };
    } catch (error) {
      return { failure: isNotSent(error) ? "not-sent" : "no-response" };
    } finally {
      clearTimeout(timer);
      this.signal?.removeEventListener("abort", abort);
    }
  }
}

function stateOf({ verdict, resumable }: Judged): State {
  if (verdict === "done") return "done";
  if (verdict === "rejected") return resumable ? "stopped" : "rejected";
  return "unresolved";
}

/** The caller has seen enough: the operation stays as it is. */
function interrupted({ open }: Judged): Judged {
  const say = "It was interrupted. Resume it later.";
  return { verdict: "undecided", why: "interrupted", say, open, outcome: "unresolved" };
}

/** To each who asks a response of his own: a content can be read by one. */
function result([entry, judged]: End): Result {
  const { verdict, why, say, open, resumable } = judged;
  const outcome = judged.outcome!;
  const act = outcome === "already-exists" ? "read" : "attempt";
  const seen = entry.history.filter((event) => (event.act ?? "attempt") === act).at(-1);
  const told: Result = {
    outcome,
    happened: verdict === "done",
    id: entry.operation,
    key: entry.key,
    why,
    say,
    open,
    resumable: outcome === "unresolved" || !!resumable,
  };
  if (seen?.status !== undefined) {
    const { status, headers = {} } = seen;
    const content = [204, 205, 304].includes(status) ? null : toBytes(seen);
    told.response = new Response(content, { status, headers });
  }
  return told;
}

/** Whether not one byte left, which only Node says: no address was found, or no connection was made. */
function isNotSent(error: unknown): boolean {
  const cause = (error as { cause?: unknown } | undefined)?.cause;
  const all = cause instanceof AggregateError ? cause.errors : [cause];
  return all.every((one: { code?: string; syscall?: string } | undefined) => {
    return one?.code === "UND_ERR_CONNECT_TIMEOUT" || one?.syscall === "connect" || one?.syscall === "getaddrinfo";
  });
}

/** What is known of a journal's operations and APIs while the process lives. */
interface Memory {
  /** Operations on their way. */
  flying: Map<string, { same: string; end: Promise<End> }>;
  /** What each API publishes, by its origin; null where it publishes nothing. */
  published: Map<string, unknown>;
}

const memories = new WeakMap<Journal, Memory>();

function memoryOf(journal: Journal): Memory {
  const memory = memories.get(journal) ?? { flying: new Map(), published: new Map() };
  memories.set(journal, memory);
  return memory;
}

/** Timers hold no more. */
const SLEEP_MS_MAX = 2 ** 31 - 1;

const system: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const done = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, Math.min(ms, SLEEP_MS_MAX));
      signal?.addEventListener("abort", done);
    }),
  draw: (least, most) => least + Math.floor(Math.random() * (most - least + 1)),
};
