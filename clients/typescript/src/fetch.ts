// Sends operations until it is known how they ended, or until going on would be unsafe.

import { CONTENT_BYTES_MAX, fromBytes, toBytes, whole } from "./content.js";
import { SemelError } from "./error.js";
import { intentOf, isSecret, keyHeader, scopeOf, type Intent } from "./intent.js";
import type { Durable, Entry, Journal, State } from "./journal.js";
import { isSuccess, judge, type Event, type Judged, type Outcome, type Table } from "./judge.js";
import type { Told } from "./log.js";
import { publishedWindow } from "./published.js";

/** Time and chance, so that a test can own them. */
export interface Clock {
  /** Milliseconds since the Unix epoch, by the wall clock: it must mean the same after a restart. */
  now(): number;
  /** Waits; resolves early when the signal is aborted. */
  sleep(ms: number, signal?: AbortSignal | null): Promise<void>;
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
  /** Is told every exchange; {@link lines} makes log lines of them. */
  log?: (told: Told) => void;
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
  /** The reason, as a stable word; `explain` of `semel/explain` says it for people. */
  why: string;
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
  const { journal, policy, clock = system } = options;
  const intent = await intentOf(url, init, options, clock.now());
  const { operation, fingerprint, key, given } = intent.entry;
  const flying = flights.get(journal) ?? new Map<string, Flight>();
  flights.set(journal, flying);
  const same = JSON.stringify([fingerprint, policy.preset, given && key, intent.secrets]);
  let flight = flying.get(operation);
  // A double click: one promise.
  if (flight?.same !== same) {
    const end = journal.turn(operation, async () => {
      const before = await journal.get(operation);
      return run(options, { ...intent, entry: continued(intent.entry, before) }, [policy], init.signal);
    });
    flight = { same, end };
    flying.set(operation, flight);
  }
  try {
    return result(await flight.end);
  } finally {
    if (flying.get(operation) === flight) flying.delete(operation);
  }
}

/** What there is to send for a request: itself, or what is known under its name. */
function continued(entry: Entry, before: Entry | undefined): Entry {
  const { operation } = entry;
  if (!before) return entry;
  const anotherKey = entry.given && entry.key !== before.key;
  const changed = entry.fingerprint !== before.fingerprint || entry.preset !== before.preset;
  // It is known that nothing happened: a corrected one under the same name is a new one.
  if (["rejected", "stopped"].includes(before.state) && (anotherKey || changed)) return entry;
  if (anotherKey) throw new SemelError("another-key", operation);
  if (changed) throw new SemelError("edited", operation);
  return before;
}

/**
 * Goes on with everything that was interrupted or is unresolved, with the same keys and the same bytes. What is over is
 * left alone; what was stopped for a cause that somebody has to mend waits until it is named by `id`.
 */
export async function resume({ policy, id, headers = {}, signal, ...common }: ResumeOptions): Promise<Resumed[]> {
  const { journal } = common;
  const tables = [policy].flat() as Table[];
  const open = (await journal.list()).filter(({ operation, state, preset }) => {
    const wanted = id === undefined ? state === "open" || state === "unresolved" : operation === id;
    return wanted && tables.some((table) => table.preset === preset);
  });
  if (id !== undefined && !open.length) throw new SemelError("no-such-operation", id);
  const one = async ({ operation }: Entry): Promise<Resumed> => {
    try {
      const end = await journal.turn(operation, async () => {
        // It may have ended, or be forgotten, while another one had the turn.
        const entry = await journal.get(operation);
        if (!entry) throw new SemelError("no-such-operation", operation);
        const given = [...new Headers(typeof headers === "function" ? headers(entry) : headers)];
        const secrets = given.filter(([name]) => isSecret(name));
        return run(common, { entry, secrets }, tables, signal);
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

/** How a run ended. */
type End = [entry: Entry, judged: Judged];

/** Sends a new operation, or goes on with one that the journal knows. */
async function run(
  { journal, clock = system, fetch = globalThis.fetch, log, attemptsMax, elapsedMaxMs }: Common,
  { entry, secrets }: Intent,
  tables: readonly Table[],
  signal: AbortSignal | null | undefined,
): Promise<End> {
  const { url, history } = entry;
  const preset = tables.find((table) => table.preset === entry.preset)!;
  const budget = { ...preset.budget };
  if (attemptsMax) budget.attempts_max = attemptsMax;
  if (elapsedMaxMs) budget.elapsed_max_ms = elapsedMaxMs;
  const table = { ...preset, budget };

  const judgeNow = async (): Promise<Judged> => {
    const last = history.at(-1);
    // Once a retry is at stake, within the window that the API publishes.
    if (last && (last.act || !isSuccess(last.status))) {
      const window_ms = await publishedWindow(entry, fetch);
      if (window_ms !== undefined) {
        budget.window_ms = window_ms;
        // A short window would otherwise be all margin.
        budget.margin_ms = Math.min(preset.budget.margin_ms, Math.floor(window_ms / 2));
      }
    }
    return judge(table, { path: new URL(url).pathname, key: entry.key }, history, clock.now());
  };
  const stands = (state: State, why: string, durable: Durable): Promise<void> => {
    Object.assign(entry, { state, why, state_ms: clock.now() });
    return journal.put(entry, durable);
  };
  const conclude = async (judged: Judged): Promise<End> => {
    const { verdict, resumable, why, outcome } = judged;
    const state = verdict === "done" ? verdict : resumable ? "stopped" : (outcome as "rejected" | "unresolved");
    // Told again, it stays where it was, and since when. Whoever is told that it did not happen may do it in another way,
    // so no crash may forget that. If one forgets anything else, the API is asked again, with the same key.
    if (entry.state !== state || entry.why !== why) {
      await stands(state, why, verdict === "rejected" ? "now" : "soon");
    }
    return [entry, judged];
  };

  // Nobody writes an operation down before its first attempt.
  if (history.length) {
    const judged = await judgeNow();
    // Over, and told again; a crash can come between the last answer and this.
    if (judged.verdict === "done" || (judged.verdict === "rejected" && !judged.resumable)) return conclude(judged);
    const scope = await scopeOf(entry.key, url, secrets);
    if (judged.open && scope !== entry.scope) throw new SemelError("other-credentials", entry.operation);
    entry.scope = scope;
    history.push({ act: "resumed", at_ms: clock.now() });
  }
  for (let paused = false; ;) {
    const judged = await judgeNow();
    const { at_least_ms, at_most_ms, path } = judged;
    if (judged.outcome) return conclude(judged);
    // The caller has seen enough: the operation stays as it is.
    if (signal?.aborted) return [entry, { ...judged, verdict: "undecided", why: "interrupted", outcome: "unresolved" }];
    // After a pause it is judged again: a machine that slept may wake up after the window.
    if (at_least_ms! > 0 || (at_most_ms! > 0 && !paused)) {
      await clock.sleep(paused ? at_least_ms! : clock.draw(at_least_ms!, at_most_ms!), signal);
      paused = true;
      continue;
    }
    paused = false;
    const event: Event = { at_ms: clock.now() };
    if (path) event.act = "read";
    history.push(event);
    // Before the first byte leaves: a crash from here on is an attempt that may have happened. Losing a read loses nothing.
    await stands("open", "", path ? "soon" : "now");
    Object.assign(event, await exchange(fetch, table, entry, secrets, path, signal), { end_ms: clock.now() });
    const next = await judgeNow();
    log?.({ entry, table, judged: next, secrets });
    // A last word is written down together with where it leaves the operation.
    if (!next.outcome) await journal.put(entry, "soon");
  }
}

/** One attempt, or one look at the own resource. */
async function exchange(
  fetch: typeof globalThis.fetch,
  table: Table,
  entry: Entry,
  secrets: [string, string][],
  path: string | undefined,
  signal: AbortSignal | null | undefined,
): Promise<Partial<Event>> {
  const stop = new AbortController();
  const headers = new Headers(path ? [] : entry.headers);
  const init: RequestInit = {
    headers,
    redirect: "manual",
    cache: "no-store",
    signal: stop.signal,
    ...(entry.credentials && { credentials: entry.credentials }),
  };
  secrets.forEach((secret) => headers.set(...secret));
  if (!path) {
    init.method = entry.method;
    const bytes = toBytes(entry);
    if (bytes.length) init.body = bytes;
    const header = keyHeader(table, entry);
    if (header) headers.set(...header);
  }
  const end = onFirst(table.budget.attempt_max_ms, signal, () => stop.abort());
  try {
    const response = await fetch(new URL(path ?? "", entry.url).href, init);
    const { status } = response;
    // A browser shows nothing of a redirect but that it is one.
    if (!status) return { status: 300 };
    const content = fromBytes(await whole(response, CONTENT_BYTES_MAX));
    // Cookies are credentials, too.
    const told = [...response.headers].filter(([name]) => !isSecret(name));
    return { status, headers: Object.fromEntries(told), ...content };
  } catch (error) {
    return { failure: isNotSent(error) ? "not-sent" : "no-response" };
  } finally {
    // What is over cannot be stopped any more.
    end();
  }
}

/** To each who asks a response of his own: a content can be read by one. */
function result([entry, judged]: End): Result {
  const { verdict, why, open, resumable } = judged;
  const outcome = judged.outcome!;
  const seen = entry.history.findLast(({ act }) => act === (outcome === "already-exists" ? "read" : undefined));
  const { status, headers = {} } = seen ?? {};
  // What has no content must not have an empty one where its status forbids that, such as 204.
  const bytes = toBytes(seen ?? {});
  return {
    outcome,
    happened: verdict === "done",
    id: entry.operation,
    key: entry.key,
    why,
    open,
    resumable: resumable ?? outcome === "unresolved",
    ...(status && { response: new Response(bytes.length ? bytes : null, { status, headers }) }),
  };
}

/** Whether not one byte left, which only Node says: no address was found, or no connection was made. */
function isNotSent(error: unknown): boolean {
  type Cause = { code?: string; syscall?: string; errors?: Cause[] } | undefined;
  const isConnect = (cause: Cause): boolean =>
    cause?.errors?.length
      ? cause.errors.every(isConnect)
      : /^connect$|^getaddrinfo$|_CONNECT_TIMEOUT$/.test(cause?.syscall ?? cause?.code ?? "");
  return isConnect((error as { cause?: Cause } | undefined)?.cause);
}

/** A run on its way: of one journal, under the id of its operation. */
interface Flight {
  same: string;
  end: Promise<End>;
}

const flights = new WeakMap<Journal, Map<string, Flight>>();

/** Runs `run` after that time, or when the signal is aborted, or when what this gives is called. */
function onFirst(ms: number, signal: AbortSignal | null | undefined, run: () => void): () => void {
  const first = (): void => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", first);
    run();
  };
  const timer = setTimeout(first, ms);
  signal?.addEventListener("abort", first);
  return first;
}

/** Timers hold no more. */
const SLEEP_MS_MAX = 2 ** 31 - 1;

const system: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) => new Promise((done) => void onFirst(Math.min(ms, SLEEP_MS_MAX), signal, done)),
  draw: (least, most) => least + Math.floor(Math.random() * (most - least + 1)),
};
