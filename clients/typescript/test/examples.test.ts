// The recipes of the README do what they say: axios and stripe-node are the real ones.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AxiosError } from "axios";
import Stripe from "stripe";
import { memoryJournal } from "semel";
import { ietf } from "semel/tables";
import { paymentTool } from "../examples/agent.js";
import { safeAxios } from "../examples/axios.js";
import { safeStripe } from "../examples/stripe.js";
import { Api, Still, type Step } from "./world.js";

async function withApi(steps: Step[], run: (api: Api) => Promise<void>): Promise<void> {
  const api = await Api.start(...steps);
  try {
    await run(api);
    assert.equal(api.steps.length, 0);
  } finally {
    await api.stop();
  }
}

const common = () => ({ journal: memoryJournal(), clock: new Still() });

test("axios: a lost response is retried with one key, and the answer is axios's", () =>
  withApi(
    ["reset", { status: 201, content: '{"id":"o-1"}' }, { status: 400 }, { status: 200, content: "[]" }],
    async (api) => {
      const http = safeAxios({ ...common(), policy: ietf });
      const order = () => http.post(`${api.url}/orders`, { amount: 7 }, { params: { shop: 1 }, intentId: "order-7" });
      const [one, other] = await Promise.all([order(), order()]);
      assert.deepEqual([one.status, one.data, other.data], [201, { id: "o-1" }, { id: "o-1" }]);
      assert.equal(api.attempts.length, 2);
      const [first, second] = api.attempts;
      assert.deepEqual([first!.key, first!.content, first!.path], [second!.key, '{"amount":7}', "/orders?shop=1"]);
      const refused = await http
        .post(`${api.url}/orders`, {}, { intentId: "order-8" })
        .catch((error: AxiosError) => error);
      assert.ok(refused instanceof AxiosError && refused.code === "rejected" && refused.response!.status === 400);
      // What has no name goes as before.
      assert.deepEqual((await http.get(`${api.url}/orders`)).data, []);
    },
  ));

test("stripe-node: its keys, its errors, one charge", () =>
  withApi(
    [
      "reset",
      { status: 200, content: '{"id":"pi_1","object":"payment_intent"}' },
      { status: 402, content: '{"error":{"type":"card_error","code":"card_declined","message":"no"}}' },
    ],
    async (api) => {
      const { hostname, port } = new URL(api.url);
      const stripe = safeStripe("sk_test_123", common(), { host: hostname, port, protocol: "http" });
      const pay = () => stripe.paymentIntents.create({ amount: 7, currency: "eur" }, { idempotencyKey: "order-7" });
      assert.equal((await pay()).id, "pi_1");
      assert.equal((await pay()).id, "pi_1", "told again");
      assert.deepEqual(
        api.attempts.map(({ key }) => key),
        ["order-7", "order-7"],
      );
      const declined = stripe.paymentIntents.create({ amount: 8, currency: "eur" }, { idempotencyKey: "order-8" });
      await assert.rejects(declined, Stripe.errors.StripeCardError);
    },
  ));

test("e47 an agent's tool call has one key, and an agent that planned anew cannot pay twice", () =>
  withApi(["reset", { status: 201, content: '{"id":"p-1"}' }], async (api) => {
    const shared = { ...common(), policy: ietf, attemptsMax: 1 };
    const pay = paymentTool(`${api.url}/payments`, { authorization: "Bearer sk_1234" }, shared);
    const call = { id: "call_1", arguments: { invoice: "INV-7", amount: 7 } };
    assert.match(await pay(call), /^Unknown: .* Do not pay again/);
    assert.match(await pay({ ...call, id: "call_2" }), /^Not paid: call call_1/);
    assert.match(await pay(call), /^Paid \(fresh\): \{"id":"p-1"\}$/);
    assert.match(await pay(call), /^Paid/, "told again");
    assert.equal(await pay({ ...call, id: "call_3" }), "Not paid again: call call_1 paid this invoice.");
    assert.equal(api.attempts.length, 2);
    assert.equal(api.attempts[0]!.key, api.attempts[1]!.key);
  }));
