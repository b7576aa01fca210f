// stripe-node: every POST with an idempotency key goes through the journal; so does what a crash interrupted.

import Stripe from "stripe";
import { idempotentFetch, type Common } from "semel";
import { stripe as policy } from "semel/tables";

/** A Stripe client whose writes are safe to retry: `charges.create(…, { idempotencyKey: "order-7" })`. */
export function safeStripe(secret: string, common: Common, config: object = {}): Stripe {
  const send = async (url: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const headers = new Headers(init.headers);
    const key = headers.get("idempotency-key");
    if (init.method !== "POST" || key === null) return fetch(url, init);
    headers.delete("idempotency-key");
    const { signal: _, ...request } = init;
    const result = await idempotentFetch(url as string, { ...request, headers }, { ...common, policy, id: key, key });
    // Stripe's own errors for Stripe's own answers; without one, nobody knows.
    if (!result.response) throw new Error(`${result.outcome}: ${result.why}; resume it later`);
    return result.response;
  };
  return new Stripe(secret, {
    ...config,
    httpClient: Stripe.createFetchHttpClient(send),
    // The journal retries, and knows for how long that is safe.
    maxNetworkRetries: 0,
    // It differs from call to call, and a retry is the same request.
    telemetry: false,
  });
}
