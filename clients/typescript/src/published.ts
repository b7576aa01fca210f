// How long an API says that it remembers keys: the policy document of Semel.

import { fromBytes, whole } from "./content.js";
import type { Entry } from "./journal.js";
import { matches, parse } from "./judge.js";

/** So long the document may take, in milliseconds. */
const PUBLISHED_MAX_MS = 2000;
/** And so large it may be. */
const PUBLISHED_BYTES_MAX = 1 << 20;

interface Route {
  path: string;
  methods: string[];
  retry: { on_expired: string };
  times_seconds: { replay_for: number; remember_for: number; unknown_for: number };
}

/** What each API publishes, by its origin, for as long as the process lives; null where it publishes nothing. */
const known = new Map<string, unknown>();

/** The window of an operation in milliseconds, if its API publishes one. */
export async function publishedWindow(
  { url, method }: Entry,
  fetch: typeof globalThis.fetch,
): Promise<number | undefined> {
  const { origin, pathname } = new URL(url);
  try {
    if (!known.has(origin)) {
      // No credentials: it is public.
      const init: RequestInit = { credentials: "omit", signal: AbortSignal.timeout(PUBLISHED_MAX_MS) };
      const response = await fetch(`${origin}/.well-known/idempotency`, init);
      const { content } = fromBytes(await whole(response, PUBLISHED_BYTES_MAX));
      known.set(origin, response.status === 200 ? parse(content) : null);
    }
    return windowOf(known.get(origin), method, pathname);
  } catch {
    // Not to be had, not what it should be, or nothing about this operation.
    return undefined;
  }
}

/**
 * A key is safe to send again for as long as it is remembered; where an expired one executes afresh, only for as long
 * as replies are.
 */
function windowOf(document: unknown, method: string, path: string): number | undefined {
  const { version, routes } = document as { version: number; routes: Route[] };
  const route = routes.find((one) => version === 1 && one.methods.includes(method) && matches(one.path, path))!;
  const { replay_for, remember_for, unknown_for } = route.times_seconds;
  const seconds = Math.min(route.retry.on_expired === "refuse" ? remember_for : replay_for, unknown_for);
  return seconds >= 0 ? Math.floor(seconds * 1000) : undefined;
}
