// An order whose id is made once and written down before it is first sent. A 409 says that an attempt before did land,
// and then the order is asked for by that id.

import { randomUUID } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { pause, pauseMs, report, setting, watched } from "./report.mjs";

const base = setting("base");
const headers = { Authorization: setting("api_key"), "Content-Type": "application/json" };

/** The ids of this purchase: from the file if it was begun before. */
function remembered() {
  const file = setting("state_file");
  if (!existsSync(file)) {
    writeFileSync(file, JSON.stringify({ orderId: randomUUID(), quoteId: randomUUID() }), { flush: true });
  }
  return JSON.parse(readFileSync(file, "utf8"));
}

async function quote(quoteId) {
  const response = await fetch(`${base}/ramp/quote`, {
    method: "POST",
    headers,
    body: JSON.stringify({
      quoteId,
      customerId: setting("customer_id"),
      blockchain: "stellar",
      quoteAssets: setting("quote_assets"),
      sourceAmount: setting("amount"),
    }),
  });
  // After a restart the quote may be there already.
  if (!response.ok && response.status !== 409) throw new Error(`no quote: ${response.status}`);
}

async function createOrder({ orderId, quoteId }) {
  const response = await watched(`${base}/ramp/order`, {
    method: "POST",
    headers,
    body: JSON.stringify({
      orderId,
      quoteId,
      bankAccountId: setting("bank_account_id"),
      publicKey: setting("public_key"),
    }),
  });
  if (response.status === 409) {
    const existing = await fetch(`${base}/ramp/order/${orderId}`, { headers });
    return existing.json();
  }
  if (!response.ok) throw new Error(`Create failed: ${response.status}`);
  return response.json();
}

await report(async () => {
  const ids = remembered();
  await quote(ids.quoteId);
  for (let attempt = 1; ; attempt += 1) {
    try {
      const order = await createOrder(ids);
      return { orderId: order.onramp?.orderId ?? order.orderId, wanted: ids.orderId };
    } catch (error) {
      if (attempt === setting("attempts")) throw error;
      await pause(pauseMs * attempt);
    }
  }
});
