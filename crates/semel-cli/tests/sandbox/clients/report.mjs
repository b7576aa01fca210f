// What every client here tells the test that runs it: one JSON document on standard output, whatever happens.

export const attempts = [];

const settings = JSON.parse(process.argv[2]);

/** A setting that the test must give. */
export function setting(name) {
  if (!(name in settings)) throw new Error(`the test gives no ${name}`);
  return settings[name];
}

export const timeoutMs = setting("timeout_ms");
export const pauseMs = setting("pause_ms");

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** fetch with the time limit, and with a line in the report for each try. */
export async function watched(url, request, about = {}) {
  const attempt = { ...about };
  attempts.push(attempt);
  try {
    const response = await fetch(url, { ...request, signal: AbortSignal.timeout(timeoutMs) });
    attempt.status = response.status;
    attempt.replayed = response.headers.get("idempotent-replayed") ?? response.headers.get("idempotency-replayed");
    return response;
  } catch (error) {
    attempt.error = error.cause?.code ?? error.name;
    throw error;
  }
}

/** Runs the client, and reports how it ended. */
export async function report(client) {
  let ended;
  try {
    const returned = await client();
    ended = returned === undefined ? { nothing: true } : { returned };
  } catch (error) {
    ended = { threw: error instanceof Error ? error.message : error };
  }
  console.log(JSON.stringify({ ...ended, attempts }));
}
