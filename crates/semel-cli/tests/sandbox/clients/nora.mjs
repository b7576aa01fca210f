// Deposits: a UUID for each click, written down before it is sent, used for every retry of that click and after a
// restart. An edited form is another click.

import { randomUUID } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { pause, pauseMs, report, setting, watched } from "./report.mjs";

const stateFile = setting("state_file");
const clicks = existsSync(stateFile) ? JSON.parse(readFileSync(stateFile, "utf8")) : {};

/** The key of a click: what was in the form tells one click from another. */
function keyOf(form) {
  const click = JSON.stringify(form);
  if (!(click in clicks)) {
    clicks[click] = randomUUID();
    writeFileSync(stateFile, JSON.stringify(clicks), { flush: true });
  }
  return clicks[click];
}

async function onClick(form) {
  const key = keyOf(form);
  for (let attempt = 1; ; attempt += 1) {
    try {
      const response = await watched(
        `${setting("base")}/v2/intents/onramp`,
        {
          method: "POST",
          headers: {
            "X-API-Key": setting("api_key"),
            "Content-Type": "application/json",
            "idempotency-key": key,
          },
          body: JSON.stringify(form),
        },
        { key },
      );
      if (response.status < 500) {
        if (!response.ok) throw Object.assign(new Error(`refused: ${response.status}`), { isFinal: true });
        return { id: (await response.json()).id, status: response.status, key };
      }
      if (attempt === setting("attempts")) throw new Error(`failed: ${response.status}`);
    } catch (error) {
      if (error.isFinal || attempt === setting("attempts")) throw error;
    }
    await pause(pauseMs * attempt);
  }
}

await report(async () => {
  const intents = [];
  for (const form of setting("forms")) intents.push(await onClick(form));
  return intents;
});
