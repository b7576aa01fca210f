// Renews the pictures of docs/guide/console.md: `npm run screenshots`, after `cargo build`.

import { join } from "node:path";
import { Gateway, Origin, browse, signIn } from "./world.js";

const GUIDE = join(import.meta.dirname, "../../docs/guide");

const origin = new Origin();
const gateway = await Gateway.start(await origin.start());
const browser = await browse();

async function take(page, name) {
  await page.screenshot({ path: join(GUIDE, `console-${name}.png`) });
  console.log(`docs/guide/console-${name}.png`);
}

for (let i = 1; i <= 12; i++) await gateway.order(`order-${i}`);
for (let i = 1; i <= 5; i++) await gateway.order(`order-${i}`);
await gateway.order("order-13", { lose: true });
await gateway.order("order-14", { lose: true, who: "Bearer bob" });
await gateway.order("order-14", { who: "Bearer bob" });
await gateway.order("payment-1", { lose: true, path: "/payments" });

for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 880, height: 560 } });
  const page = await context.newPage();
  await signIn(page, gateway);
  await take(page, `overview-${colorScheme}`);
  await page.goto(`${gateway.console}/unknown`);
  await take(page, `unknown-${colorScheme}`);
  if (colorScheme === "light") {
    await page.getByRole("link", { name: "It happened" }).first().click();
    await page.waitForURL("**/happened");
    await page.getByLabel("Why").fill("order 13 is in the ledger");
    await page.setViewportSize({ width: 880, height: 720 });
    await take(page, "settle-light");
    await page.getByLabel("Status that a retry is told").fill("201");
    await page.getByLabel("I have looked at the origin").check();
    await page.getByRole("button", { name: "Settle as happened" }).click();
    await page.getByText("Settled:").waitFor();
    await take(page, "record-light");
    await page.goto(`${gateway.console}/routes`);
    await page.setViewportSize({ width: 880, height: 560 });
    await take(page, "routes-light");
  }
  await context.close();
}
await browser.close();
await gateway.stop();
await origin.stop();
