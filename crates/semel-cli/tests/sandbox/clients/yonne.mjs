// A delivery ordered in the documented loop, with its defects left in: the attempt's number is part of the key, what is
// thrown for 402 and 422 is caught by the loop itself, and other refusals are neither thrown nor waited after.

import { pause, pauseMs, report, setting, watched } from "./report.mjs";

async function createOrder(payload, internalOrderId, maxAttempts) {
  for (let attempt = 1; attempt <= maxAttempts; attempt += 1) {
    const key = `order-${internalOrderId}-attempt-${attempt}`;
    // What support asks for is logged with every attempt.
    const logged = { merchant_reference_id: payload.merchant_reference_id, key };
    try {
      const response = await watched(
        `${setting("base")}/api/v1/external/create-order`,
        {
          method: "POST",
          headers: {
            "X-API-Key": setting("api_key"),
            "Content-Type": "application/json",
            "Idempotency-Key": key,
          },
          body: JSON.stringify(payload),
        },
        logged,
      );
      const data = await response.json();
      if (data.success) {
        console.error(JSON.stringify({ ...logged, order_id: data.order_id, tracking_id: data.tracking_id, status: response.status }));
        return data;
      }
      console.error(JSON.stringify({ ...logged, status: response.status, error: data }));
      if (response.status === 402 || response.status === 422) throw data;
    } catch (error) {
      if (attempt === maxAttempts) throw error;
      await pause(pauseMs * attempt);
    }
  }
}

await report(() => createOrder(setting("order"), setting("internal_order_id"), setting("attempts")));
