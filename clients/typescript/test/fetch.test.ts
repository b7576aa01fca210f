import assert from "node:assert/strict";
import { createServer, type AddressInfo } from "node:net";
import { test } from "node:test";
import {
  derivedKey,
  idempotentFetch,
  lines,
  memoryJournal,
  resume,
  SemelError,
  type LogLine,
  type Options,
  type Table,
} from "semel";
import { etherfuse, ietf, stripe, yonne } from "semel/tables";
import { Api, START_MS, Still, type Step } from "./world.js";

const ORDER = "11111111-1111-4111-8111-111111111111";
const YONNE_OK = '{"success":true,"order_id":"ORD-1","tracking_id":"YON-TRK-1"}';

/** An API, a journal and a clock; `send` sends the same payment every time unless told otherwise. */
async function world(...steps: Step[]) {
  const api = await Api.start(...steps);
  const journal = memoryJournal();
  const clock = new Still();
  const send = (options: Partial<Options> = {}, init: RequestInit = {}, path = "/payments") =>
    idempotentFetch(
      api.url + path,
      {
        body: '{"amount": 7}',
        headers: { "x-api-key": "yonne_live_1234", "content-type": "application/json" },
        ...init,
      },
      { journal, clock, policy: ietf, id: "payment-7", ...options },
    );
  return { api, journal, clock, send };
}

type World = Awaited<ReturnType<typeof world>>;

/** A test with a world of its own. */
function scripted(name: string, steps: Step[], run: (world: World) => Promise<void>): void {
  test(name, async () => {
    const made = await world(...steps);
    try {
      await run(made);
      assert.equal(made.api.steps.length, 0, "all that was scripted was asked for");
    } finally {
      await made.api.stop();
    }
  });
}

async function code(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => assert.fail("it should be refused"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof SemelError, String(error));
  return error.code;
}

const replayed: Step = { status: 201, headers: { "idempotent-replayed": "true" }, content: '{"id":"p-1"}' };
const created: Step = { status: 201, content: '{"id":"p-1"}' };

function oneKey(api: Api): void {
  const sent = api.attempts.map(({ method, path, key, content }) => ({ method, path, key, content }));
  for (const attempt of sent) assert.deepEqual(attempt, sent[0]);
}

scripted("e24_l15 a success is fresh, and its response is the caller's", [created], async ({ api, send }) => {
  const result = await send();
  assert.deepEqual(
    [result.outcome, result.happened, result.open, result.id, result.why],
    ["fresh", true, false, "payment-7", "success"],
  );
  assert.equal(result.response!.status, 201);
  assert.deepEqual(await result.response!.json(), { id: "p-1" });
  const [attempt] = api.attempts;
  // The draft quotes its keys; version 7 by default.
  assert.match(attempt!.key!, /^"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$/);
  assert.equal(attempt!.key, `"${result.key}"`);
  assert.equal(attempt!.content, '{"amount": 7}');
  assert.equal(attempt!.headers["x-api-key"], "yonne_live_1234");
});

scripted(
  "e30_l02_q1 whatever is lost, the key and the bytes stay",
  ["reset", { status: 500 }, "break-off", { status: 503, headers: { "retry-after": "7" } }, { status: 429 }, replayed],
  async ({ api, send, clock }) => {
    const result = await send();
    assert.equal(result.outcome, "replayed");
    assert.equal(api.attempts.length, 6);
    oneKey(api);
    // Full jitter, and dice that fall on the most; the fourth counts from the end of what Retry-After asked for.
    assert.deepEqual(clock.slept, [500, 1000, 2000, 7000 + 4000, 8000]);
  },
);

test("e30 a refused connection sent nothing: it may be given up", async () => {
  const nobody = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => nobody.once("listening", done));
  const { port } = nobody.address() as AddressInfo;
  await new Promise((done) => nobody.close(done));
  const journal = memoryJournal();
  const send = idempotentFetch(
    `http://127.0.0.1:${port}/x`,
    {},
    { journal, policy: ietf, clock: new Still(), attemptsMax: 3 },
  );
  const result = await send;
  assert.deepEqual(
    [result.outcome, result.why, result.open, result.resumable],
    ["rejected", "attempts-over", false, true],
  );
  const [entry] = await journal.list();
  assert.deepEqual(
    entry!.history.map(({ failure }) => failure),
    ["not-sent", "not-sent", "not-sent"],
  );
});

scripted("l02 an attempt that takes too long may have been executed", ["hang", replayed], async ({ send }) => {
  const policy: Table = { ...ietf, budget: { ...ietf.budget, attempt_max_ms: 100 } };
  const told: LogLine[] = [];
  const result = await send({ policy, log: lines((line) => told.push(line)) });
  assert.equal(result.outcome, "replayed");
  assert.deepEqual(
    told.map(({ status }) => status),
    ["no-response", "201"],
  );
});

scripted(
  "l03_e31 a refusal is not sent again, and says why",
  [{ status: 400, content: '{"error":"no"}' }],
  async ({ send }) => {
    const result = await send({ policy: yonne });
    assert.deepEqual([result.outcome, result.happened, result.resumable], ["rejected", false, false]);
    assert.deepEqual(await result.response!.json(), { error: "no" });
    // It is over: told again, and nothing is sent.
    assert.equal((await send({ policy: yonne })).outcome, "rejected");
  },
);

scripted(
  "e31 what was refused may be corrected under the same id, with a new key",
  [{ status: 400 }, { status: 200, content: YONNE_OK }],
  async ({ api, send }) => {
    const refused = await send({ policy: yonne });
    const corrected = await send({ policy: yonne }, { body: '{"amount": 8}' });
    assert.equal(corrected.outcome, "fresh");
    assert.notEqual(refused.key, corrected.key);
    assert.equal(api.attempts[1]!.content, '{"amount": 8}');
  },
);

scripted(
  "l04 no funds: stop, and resume with the same key once there are",
  [
    { status: 402, content: '{"error":"ERR_INSUFFICIENT_FUNDS"}' },
    { status: 200, content: YONNE_OK },
  ],
  async ({ api, send, journal, clock }) => {
    const stopped = await send({ policy: yonne });
    assert.deepEqual([stopped.outcome, stopped.resumable, stopped.open], ["rejected", true, false]);
    const common = { journal, clock, policy: yonne, headers: { "x-api-key": "yonne_live_1234" } };
    assert.deepEqual(await resume(common), [], "it waits for somebody to mend the cause");
    const [resumed] = await resume({ ...common, id: "payment-7" });
    assert.ok(resumed && "result" in resumed);
    assert.equal(resumed.result.outcome, "fresh");
    oneKey(api);
    assert.equal(api.attempts[1]!.headers["x-api-key"], "yonne_live_1234");
  },
);

const EXISTS = '{"error":"An order with this transaction ID already exists"}';
const ramp = { policy: etherfuse, id: "ramp-7" };
const rampInit = { body: `{"orderId":"${ORDER}","quoteId":"q-1"}` };

scripted(
  "l05_e7_q7 it exists and is mine: seen by its id",
  ["reset", { status: 409, content: EXISTS }, { status: 503 }, { status: 200, content: `{"orderId":"${ORDER}"}` }],
  async ({ api, send }) => {
    const result = await send(ramp, rampInit, "/ramp/order");
    assert.deepEqual([result.outcome, result.happened, result.key], ["already-exists", true, ORDER]);
    assert.deepEqual(await result.response!.json(), { orderId: ORDER });
    const [, , read] = api.seen;
    assert.deepEqual(
      [read!.method, read!.path, read!.headers["x-api-key"]],
      ["GET", `/ramp/order/${ORDER}`, "yonne_live_1234"],
    );
    assert.equal(api.attempts[0]!.key, undefined, "the key is in the content");
  },
);

scripted(
  "l06_e10 a guard that somebody else holds is no success",
  [
    { status: 409, content: '{"error":"A pending onramp order already exists for this bank account and amount"}' },
    { status: 404 },
  ],
  async ({ send }) => {
    const result = await send(ramp, rampInit, "/ramp/order");
    assert.deepEqual([result.outcome, result.why, result.resumable], ["rejected", "guard-held", true]);
  },
);

scripted("e2_e12 an id that the content lacks is minted into it, once", ["reset", created], async ({ api, send }) => {
  const result = await send(ramp, { body: ' {"quoteId":"q"}' }, "/ramp/order");
  assert.match(result.key, /^[0-9a-f]{8}-[0-9a-f]{4}-4/);
  assert.equal(api.attempts[0]!.content, ` {"orderId":"${result.key}","quoteId":"q"}`);
  oneKey(api);
});

scripted(
  "l08 an outcome that the API itself does not know is not sent again",
  [{ status: 409, content: '{"code":"outcome-unknown"}' }],
  async ({ send }) => {
    const result = await send();
    assert.deepEqual([result.outcome, result.open, result.resumable], ["unresolved", true, true]);
  },
);

scripted(
  "l10 it stops within the window that the API publishes, and is never sent with another key",
  ["reset", "reset"],
  async ({ api, send, clock }) => {
    const times = { replay_for: 60, remember_for: 60, unknown_for: 60 };
    const route = { path: "/*", methods: ["POST"], retry: { on_expired: "refuse" }, times_seconds: times };
    api.policy = JSON.stringify({ version: 1, routes: [route] });
    assert.equal((await send({ attemptsMax: 1 })).outcome, "unresolved");
    clock.ms = START_MS + 20_000;
    assert.equal((await send({ attemptsMax: 1 })).why, "attempts-over");
    clock.ms = START_MS + 31_000;
    const late = await send({ attemptsMax: 1 });
    assert.deepEqual([late.outcome, late.why], ["unresolved", "window-over"]);
    assert.equal(api.attempts.length, 2);
    assert.equal(api.askedForPolicy, 1);
    oneKey(api);
  },
);

scripted("l12 a double click is one operation, and everybody gets a response", [created], async ({ api, send }) => {
  const clicks = await Promise.all([send(), send(), send()]);
  assert.deepEqual(await Promise.all(clicks.map(({ response }) => response!.text())), Array(3).fill('{"id":"p-1"}'));
  assert.equal((await send()).outcome, "fresh", "and later it is told again");
  assert.equal(api.attempts.length, 1);
});

scripted("l12 a double click that stays unresolved is no second run", ["reset"], async ({ api, send }) => {
  const clicks = await Promise.all([send({ attemptsMax: 1 }), send({ attemptsMax: 1 })]);
  assert.deepEqual(
    clicks.map(({ outcome }) => outcome),
    ["unresolved", "unresolved"],
  );
  assert.equal(api.attempts.length, 1);
});

scripted("l13 an edited content is refused for as long as the first may have happened", ["reset"], async ({ send }) => {
  assert.equal((await send({ attemptsMax: 1 })).outcome, "unresolved");
  assert.equal(await code(send({}, { body: '{"amount": 8}' })), "edited");
  assert.equal(await code(send({ key: "another" })), "another-key");
  assert.equal(await code(send({ policy: stripe })), "edited");
});

scripted("l14_e47_q1 keys that count attempts, and one key for two operations", [created], async ({ send }) => {
  for (const key of ["order-7-attempt-2", "x_retry_3", "attempt-1", "o:attempt:12"]) {
    assert.equal(await code(send({ key })), "key-counts", key);
  }
  for (const key of ["", " k", "k ", "kä", "k\n", "k".repeat(256)]) assert.equal(await code(send({ key })), "key-form");
  assert.equal((await send({ key: "at-program-start" })).key, "at-program-start");
  assert.equal(await code(send({ key: "at-program-start", id: "payment-8" })), "key-taken");
  assert.equal(await code(send({ id: "p" }, { headers: { "idempotency-key": "k" } })), "key-header");
});

test("e12 the derived key is that of every language", async () => {
  assert.equal(await derivedKey("order-7"), "cdd80cc9-7962-524f-a2e1-a0a5c9ab9e88");
});

scripted("l01 other credentials would be another key space", ["reset"], async ({ send, journal, clock }) => {
  await send({ attemptsMax: 1 });
  assert.equal(
    await code(send({}, { headers: { "x-api-key": "other", "content-type": "application/json" } })),
    "other-credentials",
  );
  const [resumed] = await resume({ journal, clock, policy: ietf });
  assert.ok(resumed && "error" in resumed && (resumed.error as SemelError).code === "other-credentials");
});

scripted(
  "l01_l16 the journal has everything before the first byte leaves, and no secret",
  [{ status: 201, headers: { "set-cookie": "session=s3cret" } }],
  async ({ api, send, journal }) => {
    let during: unknown;
    api.before = async () => (during = await journal.list());
    await send();
    const [entry] = during as Awaited<ReturnType<typeof journal.list>>;
    assert.deepEqual(entry!.history, [{ at_ms: START_MS }]);
    assert.deepEqual([entry!.state, entry!.content, entry!.url], ["open", '{"amount": 7}', `${api.url}/payments`]);
    assert.ok(!/yonne_live|s3cret/.test(JSON.stringify([during, await journal.list()])));
  },
);

scripted(
  "l16_e34 six fields of every attempt, secrets redacted, no forged lines",
  [
    { status: 500, content: "bad key yonne_live_1234\nx" },
    { status: 200, content: YONNE_OK },
  ],
  async ({ send }) => {
    const told: LogLine[] = [];
    const body = '{"merchant_reference_id":"WEB-7"}';
    const result = await send({ policy: yonne, log: lines((line) => told.push(line)) }, { body });
    const common = {
      merchant_reference_id: "WEB-7",
      idempotency_key: result.key,
      operation: "payment-7",
      act: "attempt",
    };
    assert.deepEqual(told, [
      {
        ...common,
        order_id: "",
        tracking_id: "",
        status: "500",
        error: "bad key [redacted] x",
        number: 1,
        why: "failed",
        proven: false,
      },
      {
        ...common,
        order_id: "ORD-1",
        tracking_id: "YON-TRK-1",
        status: "200",
        error: "",
        number: 2,
        why: "success",
        proven: true,
      },
    ]);
  },
);

scripted(
  "l18 a caller that leaves gets an answer, and the operation can be resumed",
  ["hang", replayed],
  async ({ api, send, journal, clock }) => {
    const leaving = new AbortController();
    api.before = () => leaving.abort();
    const left = await send({}, { signal: leaving.signal });
    assert.deepEqual([left.outcome, left.why, left.open], ["unresolved", "interrupted", true]);
    api.before = undefined;
    const [resumed] = await resume({
      journal,
      clock,
      policy: [yonne, ietf],
      headers: { "x-api-key": "yonne_live_1234" },
    });
    assert.ok(resumed && "result" in resumed && resumed.result.outcome === "replayed");
    oneKey(api);
    assert.deepEqual(await resume({ journal, clock, policy: ietf }), [], "once it is done there is nothing to resume");
  },
);

scripted("e33_l18 a success in name only is unresolved", [{ status: 200, content: "{}" }], async ({ send }) => {
  assert.equal((await send({ policy: yonne })).outcome, "unresolved");
});

scripted("q25 the vendors take bare keys", [{ status: 200, content: YONNE_OK }], async ({ api, send }) => {
  await send({ policy: yonne, key: 'a"b' });
  assert.equal(api.attempts[0]!.key, 'a"b');
});

scripted(
  "e43 everything that is open is resumed",
  Array<Step>(40).fill("reset"),
  async ({ api, send, journal, clock }) => {
    for (let n = 0; n < 40; n++) await send({ id: `payment-${n}`, attemptsMax: 1 });
    api.steps.push(...Array<Step>(40).fill(replayed));
    const resumed = await resume({ journal, clock, policy: ietf, headers: { "x-api-key": "yonne_live_1234" } });
    assert.equal(resumed.filter((one) => "result" in one && one.result.happened).length, 40);
    const keys = api.attempts.map(({ key }) => key).sort();
    assert.equal(new Set(keys).size, 40);
  },
);

scripted(
  "bytes that are no text arrive as they are, there and back",
  [{ status: 201, content: Buffer.from([0xff, 0x00, 0xfe]) }],
  async ({ send }) => {
    const result = await send({}, { body: new Uint8Array([0xff, 0x01]) });
    assert.deepEqual(new Uint8Array(await result.response!.arrayBuffer()), new Uint8Array([0xff, 0x00, 0xfe]));
  },
);

test("what cannot be sent is refused", async () => {
  const common = { journal: memoryJournal(), policy: ietf };
  assert.equal(await code(idempotentFetch("ftp://api.example/", {}, common)), "target");
  assert.equal(await code(idempotentFetch("http://a/", {}, { ...common, id: "" })), "operation");
  assert.equal(await code(idempotentFetch("http://a/", { body: new Uint8Array((16 << 20) + 1) }, common)), "too-large");
  const ramp = (body: string) => idempotentFetch("http://a/ramp/order", { body }, { ...common, policy: etherfuse });
  assert.equal(await code(ramp("[]")), "not-an-object");
  assert.equal(await code(ramp('{"orderId":7}')), "another-key");
  assert.equal(await code(ramp('{"orderId":"o-attempt-2"}')), "key-counts");
  await assert.rejects(idempotentFetch("/orders", {}, common), TypeError);
});

test("l18 a content in parts is told whole, and one without an end is none", async () => {
  const contentOf = async (...parts: Uint8Array[]) => {
    let at = 0;
    const pull = (stream: ReadableStreamDefaultController) =>
      at < parts.length ? stream.enqueue(parts[at++]) : stream.close();
    const fetch = async () => new Response(new ReadableStream({ pull }), { status: 201 });
    const options = { journal: memoryJournal(), policy: ietf, clock: new Still(), attemptsMax: 1, fetch };
    const { outcome, response } = await idempotentFetch("http://a/", { body: "{}" }, options);
    return outcome === "fresh" ? await response!.text() : outcome;
  };
  assert.equal(await contentOf(), "");
  assert.equal(await contentOf(...["a", "bcd", "", "ef"].map((part) => new TextEncoder().encode(part))), "abcdef");
  const megabytes = Array<Uint8Array>(17).fill(new Uint8Array(1 << 20));
  assert.equal(await contentOf(...megabytes), "unresolved");
  assert.equal((await contentOf(...megabytes.slice(1))).length, 16 << 20);
});
