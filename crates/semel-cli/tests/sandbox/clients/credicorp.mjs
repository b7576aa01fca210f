// An enquiry: one key when the user submits, and a wrapper that repeats the request under it.

import { randomUUID } from "node:crypto";
import { pause, pauseMs, report, setting, watched } from "./report.mjs";

async function withRetry(send) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const response = await send();
      if (response.status < 500 || attempt === setting("attempts")) return response;
    } catch (error) {
      if (attempt === setting("attempts")) throw error;
    }
    await pause(pauseMs * attempt);
  }
}

async function submit(enquiry) {
  const key = randomUUID();
  const response = await withRetry(() =>
    watched(
      `${setting("base")}/public/v1/enquiries`,
      {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": key },
        body: JSON.stringify(enquiry),
      },
      { key },
    ),
  );
  if (!response.ok) throw new Error(`not taken: ${response.status}`);
  return response.json();
}

await report(() => submit(setting("enquiry")));
