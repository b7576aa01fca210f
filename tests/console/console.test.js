// The operators' console in a real browser, before a real gateway: what is shown, and that settling has its effect.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { Gateway, Origin, TOKEN, browse, signIn } from "./world.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PAGES = ["", "/unknown", "/search", "/routes"];

let browser, origin, gateway;

before(async () => {
  browser = await browse();
  origin = new Origin();
  gateway = await Gateway.start(await origin.start());
});

after(async () => {
  await browser?.close();
  await gateway?.stop();
  await origin?.stop();
});

/** A test in a browser of its own, which fails if a page logs an error: so does a script or style that is refused. */
function inBrowser(name, run, options = {}) {
  test(name, { timeout: 60_000 }, async () => {
    const context = await browser.newContext(options);
    context.setDefaultTimeout(10_000);
    const errors = [];
    context.on("console", (message) => {
      // A browser logs an error for every answer of 4xx that is a page.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) errors.push(message.text());
    });
    context.on("weberror", (error) => errors.push(String(error.error())));
    const page = await context.newPage();
    try {
      await run(page, context);
      assert.deepEqual(errors, []);
    } catch (error) {
      error.message += `\nOn ${page.url()}:\n${await page.locator("main").innerText()}`;
      throw error;
    } finally {
      await context.close();
    }
  });
}

/** Makes an unknown outcome, and gives the path of its record below the console. */
async function lose(key, page) {
  const first = await gateway.order(key, { lose: true });
  assert.equal(first.status, 502, first.content);
  await page.goto(`${gateway.console}/search`);
  await page.getByLabel("Path").fill("/orders");
  await page.getByLabel("Headers, one a line").fill(`Idempotency-Key: "${key}"\nAuthorization: Bearer ada`);
  await page.locator("main").getByRole("button", { name: "Find" }).last().click();
  await page.waitForURL(/\/records\//);
  return new URL(page.url()).pathname.replace("/console", "");
}

const shipped = (key) => origin.shipped.filter((order) => order.includes(`"${key}"`)).length;

inBrowser("e11 an outcome settled as happened is told to retries, and nothing is shipped again", async (page) => {
  await signIn(page, gateway);
  await lose("happened-1", page);
  await page.getByText("nobody knows whether its effect happened").waitFor();
  await page.getByRole("link", { name: "It happened" }).click();
  await page.getByText("A retry will not be executed any more.").waitFor();
  await page.getByLabel("Why").fill("order 1 is in the ledger");
  await page.getByLabel("Status that a retry is told").fill("201");
  await page.locator("summary", { hasText: "Keep the reply" }).click();
  await page.getByLabel("Headers of the reply, one a line").fill("Content-Type: application/json");
  await page.getByLabel("Content of the reply").fill('{"number":1,"by":"hand"}');
  await page.getByLabel("I have looked at the origin").check();
  await page.getByRole("button", { name: "Settle as happened" }).click();
  await page.getByText("give the request, too").waitFor();
  await page.locator("#headers").fill('Idempotency-Key: "happened-1"\nAuthorization: Bearer ada\nContent-Type: application/json');
  await page.getByLabel("Content, as it was sent").fill('{"order":"happened-1"}');
  await page.getByLabel("I have looked at the origin").check();
  await page.getByRole("button", { name: "Settle as happened" }).click();
  await page.getByText("Settled: it is completed now; a retry is told the reply that was given, with status 201.").waitFor();
  await page.locator(".phase.completed").waitFor();

  const retry = await gateway.order("happened-1");
  assert.deepEqual(retry, { status: 201, content: '{"number":1,"by":"hand"}', replayed: "true" });
  assert.equal(shipped("happened-1"), 1);
  const acts = gateway.audit().filter(({ why }) => why === "order 1 is in the ledger");
  assert.deepEqual(acts.map(({ who, stage }) => [who, stage]), [["Ada Lovelace", "intended"], ["Ada Lovelace", "done"]]);

  await page.reload();
  await page.getByText("Settled, as lost").waitFor();
  await page.getByText("Ada Lovelace settled it: it happened.").waitFor();
  await page.getByText("answered with 201: Answered with the kept reply.").waitFor();
});

inBrowser("e11 an outcome settled as did not happen is executed by the next retry, once", async (page) => {
  await signIn(page, gateway);
  const path = await lose("not-1", page);
  await page.getByRole("link", { name: "It did not happen" }).click();
  await page.getByText("The next retry will be executed as a first time.").waitFor();
  await page.getByLabel("Who says so").fill("Grace Hopper");
  await page.getByLabel("Why").fill("no such order at the carrier");
  await page.getByLabel("I have looked at the origin").check();
  await page.getByRole("button", { name: "Settle as did not happen" }).click();
  await page.getByText("Settled:").waitFor();
  assert.equal(new URL(page.url()).pathname, `/console${path}`);

  const before = shipped("not-1");
  assert.deepEqual([(await gateway.order("not-1")).status, shipped("not-1")], [201, before + 1]);
  assert.equal((await gateway.order("not-1")).replayed, "true");
  assert.equal(shipped("not-1"), before + 1);
  const acts = gateway.audit().filter(({ who }) => who === "Grace Hopper");
  assert.deepEqual(acts.map(({ stage }) => stage), ["intended", "done"]);
});

inBrowser("e11 with the keyboard alone", async (page) => {
  await page.goto(gateway.console);
  await typeAtCursor(page, TOKEN);
  await page.keyboard.press("Tab");
  await page.keyboard.type("Keys Only");
  await page.keyboard.press("Enter");
  await page.getByText("Signed in as Keys Only").waitFor();
  await lose("keys-1", page);
  await page.goto(gateway.console);

  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "Skip to the content");
  await page.keyboard.press("g");
  await page.keyboard.press("u");
  await page.waitForURL("**/console/unknown");
  const exchange = await page.locator("[data-row]").first().innerText();
  await page.keyboard.press("j");
  assert.equal(await focused(page), exchange);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/did-not-happen");
  await typeAtCursor(page, "nothing in the books");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await page.keyboard.press("Enter");
  await page.getByText("Settled:").waitFor();

  await page.keyboard.press("/");
  await typeAtCursor(page, exchange);
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/records\/|exchange=/);
  for (const [key, path] of [["o", "/console"], ["s", "/console/search"], ["r", "/console/routes"]]) {
    await page.locator("#main").focus();
    await page.keyboard.press("g");
    await page.keyboard.press(key);
    await page.waitForURL(gateway.admin + path);
  }
});

/** Types into the field that the page has chosen, which a browser does a moment after the page has loaded. */
async function typeAtCursor(page, text) {
  await page.locator("input:focus, textarea:focus").waitFor();
  await page.keyboard.type(text);
}

const focused = (page) => page.evaluate(() => document.activeElement?.textContent?.trim());

inBrowser(
  "e11 without scripts",
  async (page) => {
    await signIn(page, gateway);
    await lose("plain-1", page);
    await page.goto(`${gateway.console}/unknown`);
    await page.getByRole("link", { name: "It did not happen" }).first().click();
    await page.getByLabel("Why").fill("looked by hand");
    await page.getByLabel("I have looked at the origin").check();
    await page.getByRole("button", { name: "Settle as did not happen" }).click();
    await page.getByText("Settled:").waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
  },
  { javaScriptEnabled: false },
);

inBrowser("e11 counts move while somebody looks", async (page) => {
  await signIn(page, gateway);
  const cell = page.locator("tr", { has: page.getByRole("rowheader", { name: "completed" }) }).locator("td").last();
  await gateway.order("moves-1");
  await page.reload();
  const before = Number(await cell.innerText());
  await gateway.order("moves-2");
  await page.waitForFunction(
    (before) => [...document.querySelectorAll("tbody tr")].some((row) =>
      row.querySelector("th").innerText === "completed" && Number(row.lastElementChild.innerText) === before + 1),
    before,
  );
});

inBrowser("e11 words of operators are shown as they are, and run nowhere", async (page) => {
  const who = '<script>document.title="ran"</script>"><img src=x onerror=document.title="ran">';
  await signIn(page, gateway, "", who);
  await lose("escaped-1", page);
  await page.getByRole("link", { name: "It did not happen" }).click();
  assert.equal(await page.getByLabel("Who says so").inputValue(), who);
  await page.goto(`${gateway.console}/search?exchange=${encodeURIComponent(who)}`);
  assert.equal(await page.locator("#find + *").count(), 1);
  assert.notEqual(await page.title(), "ran");
});

inBrowser(
  "e11 pages are accessible",
  async (page) => {
    await check(page, `${gateway.console}/login`);
    await signIn(page, gateway);
    const record = await lose("axe-1", page);
    const pages = [...PAGES, record, `${record}/happened`, `${record}/did-not-happen`, "/nowhere"];
    for (const path of pages) await check(page, gateway.console + path);
    // What differs in the dark is the contrast.
    await page.emulateMedia({ colorScheme: "dark" });
    for (const path of ["", "/unknown", `${record}/did-not-happen`]) {
      await check(page, gateway.console + path, { type: "rule", values: ["color-contrast"] });
    }
  },
  { bypassCSP: true },
);

inBrowser(
  "e11 pages fit a small screen",
  async (page) => {
    await signIn(page, gateway);
    const record = await lose("small-1", page);
    for (const path of [...PAGES, record, `${record}/happened`]) {
      await page.goto(gateway.console + path);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(over <= 0, `${path} is ${over} pixels too wide`);
    }
  },
  { viewport: { width: 360, height: 640 } },
);

const AA = { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] };

/** Nothing that axe finds wrong, by WCAG 2.2 AA unless said otherwise. */
async function check(page, url, runOnly = AA) {
  await page.goto(url);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate((runOnly) => window.axe.run({ runOnly }), runOnly);
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  assert.deepEqual(found, [], url);
}

test("e11 nothing of a record is shown without a session, and no form counts that is not its own", async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  try {
    await signIn(page, gateway);
    const record = await lose("guarded-1", page);
    const cookies = await context.cookies();
    assert.deepEqual(cookies.map(({ httpOnly, sameSite, path }) => [httpOnly, sameSite, path]), [[true, "Strict", "/console"]]);
    const cookie = `${cookies[0].name}=${cookies[0].value}`;
    await page.goto(`${gateway.console}${record}/did-not-happen`);
    const token = await page.locator("main input[name=form]").inputValue();
    const stamp = await page.locator("input[name=stamp]").inputValue();

    for (const path of [...PAGES, "/now", record, `${record}/happened`]) {
      const answer = await fetch(gateway.console + path, { redirect: "manual" });
      assert.ok([303, 401].includes(answer.status), path);
      assert.equal(await answer.text(), "", path);
    }
    const settle = (form, headers = {}) => {
      const body = new URLSearchParams({ stamp, who: "x", why: "y", sure: "yes", ...(form && { form }) });
      const url = `${gateway.console}${record}/did-not-happen`;
      return fetch(url, { method: "POST", body, headers: { cookie, ...headers }, redirect: "manual" });
    };
    const other = await browser.newContext();
    const theirs = await other.newPage();
    await signIn(theirs, gateway);
    const foreign = await theirs.locator("input[name=form]").first().inputValue();
    await other.close();
    for (const form of [undefined, "", foreign]) assert.equal((await settle(form)).status, 403);
    assert.equal((await settle(token, { "sec-fetch-site": "cross-site" })).status, 403);
    assert.equal((await settle(token, { cookie: "" })).headers.get("location"), "/console/login?to=%2Fconsole");
    assert.equal((await gateway.order("guarded-1")).status, 409, "it is as unknown as before");

    await page.getByRole("button", { name: "Sign out" }).click();
    assert.equal((await settle(token)).headers.get("location"), "/console/login?to=%2Fconsole", "the session is over");
    assert.equal(shipped("guarded-1"), 1);
  } finally {
    await context.close();
  }
});

test("e11 a token that is guessed is soon refused unheard, and without one nobody signs in", async () => {
  const [guarded, open] = await Promise.all([Gateway.start(gateway.url), Gateway.start(gateway.url, "")]);
  try {
    const guess = async (token) => {
      const body = new URLSearchParams({ token, who: "guesser" });
      return (await fetch(`${guarded.console}/login`, { method: "POST", body, redirect: "manual" })).status;
    };
    const guesses = [];
    for (let i = 0; i < 6; i++) guesses.push(await guess(`guess-${i}`));
    assert.deepEqual([...guesses, await guess(TOKEN)], [403, 403, 403, 403, 403, 429, 429]);

    const answer = await fetch(open.console);
    assert.equal(answer.status, 403);
    assert.match(await answer.text(), /admin_token_file/);
    const policy = answer.headers.get("content-security-policy");
    assert.match(policy, /default-src 'none'/);
    assert.doesNotMatch(policy, /unsafe/);
  } finally {
    await Promise.all([guarded.stop(), open.stop()]);
  }
});

test("e11 no key and no credential is in the log or in the audit log", () => {
  for (const secret of ["happened-1", "not-1", "Bearer", TOKEN]) {
    assert.ok(!gateway.log.includes(secret), secret);
    assert.ok(!JSON.stringify(gateway.audit()).includes(secret), secret);
  }
});
