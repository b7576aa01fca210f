// The browser's journal in a real browser: a double click, a reload in mid-request, two tabs. One order, always.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { chromium, type Browser, type BrowserContext, type Page } from "playwright-core";

/** Debian's, and where others have it; SEMEL_CHROMIUM names any other. */
const CHROMIUM = [process.env.SEMEL_CHROMIUM ?? "", "/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);

/** The shop: what a page would do, with a button. */
const PAGE = `
import { idempotentFetch, resume } from "semel";
import { webJournal } from "semel/web";
import { ietf } from "semel/tables";

const storage = new URLSearchParams(location.search).get("storage") ?? undefined;
const journal = await webJournal({ storage });
const results = [];
async function order(id) {
  const result = await idempotentFetch("/orders", { body: '{"amount":7}' }, { journal, policy: ietf, id });
  results.push({ outcome: result.outcome, key: result.key, content: await result.response.text() });
}
document.querySelector("button").onclick = () => order("order-7");
Object.assign(window, { order, results, journal, resume: () => resume({ journal, policy: ietf }) });
document.body.dataset.ready = "yes";
`;

/** Orders by key; replies wait until they are let go. */
class Shop {
  readonly orders = new Map<string, number>();
  readonly requests: string[] = [];
  held = false;
  #waiting: (() => void)[] = [];
  #arrived: (() => void) | undefined;
  #script = "";
  readonly #server = createServer(async (request, response: ServerResponse) => {
    if (request.url === "/page.js") {
      return void response.writeHead(200, { "content-type": "text/javascript" }).end(this.#script);
    }
    if (request.method === "GET" && request.url?.startsWith("/shop")) {
      const page = '<!doctype html><button>Buy</button><script type="module" src="/page.js"></script>';
      return void response.writeHead(200, { "content-type": "text/html" }).end(page);
    }
    if (request.method !== "POST") return void response.writeHead(404).end();
    for await (const _ of request);
    const key = request.headers["idempotency-key"] as string;
    this.requests.push(key);
    const number = this.orders.get(key) ?? this.orders.size + 1;
    const replayed = this.orders.has(key);
    this.orders.set(key, number);
    this.#arrived?.();
    if (this.held) await new Promise<void>((go) => this.#waiting.push(go));
    response.writeHead(201, replayed ? { "idempotent-replayed": "true" } : {}).end(`{"order":${number}}`);
  });

  async start(script: string): Promise<string> {
    this.#script = script;
    await new Promise<void>((done) => this.#server.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/shop`;
  }

  /** When the next request is there. */
  arrival(): Promise<void> {
    return new Promise((done) => (this.#arrived = done));
  }

  letGo(): void {
    this.held = false;
    for (const go of this.#waiting.splice(0)) go();
  }

  async stop(): Promise<void> {
    this.letGo();
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}

let browser: Browser;
let script: string;

before(async () => {
  assert.ok(CHROMIUM, "Chromium is missing: apt-get install chromium, or name one in SEMEL_CHROMIUM");
  const stdin = { contents: PAGE, resolveDir: import.meta.dirname ?? process.cwd() };
  const built = await build({ stdin, bundle: true, format: "esm", write: false, logLevel: "silent" });
  script = built.outputFiles[0]!.text;
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
});

after(() => browser?.close());

type Results = { outcome: string; key: string; content: string }[];

async function opened(context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("body[data-ready]");
  return page;
}

async function results(page: Page, count: number): Promise<Results> {
  await page.waitForFunction((count) => (window as any).results.length >= count, count);
  return page.evaluate(() => (window as any).results);
}

for (const storage of ["indexed-db", "local-storage"]) {
  function inBrowser(name: string, run: (shop: Shop, context: BrowserContext, url: string) => Promise<void>): void {
    test(`${name} (${storage})`, async () => {
      const shop = new Shop();
      const url = `${await shop.start(script)}?storage=${storage}`;
      const context = await browser.newContext();
      try {
        await run(shop, context, url);
      } finally {
        await context.close();
        await shop.stop();
      }
    });
  }

  inBrowser("l12 a double click is one order", async (shop, context, url) => {
    shop.held = true;
    const page = await opened(context, url);
    const arrival = shop.arrival();
    await page.dblclick("button");
    await arrival;
    shop.letGo();
    const [one, other] = await results(page, 2);
    assert.deepEqual(one, other);
    assert.equal(one!.outcome, "fresh");
    assert.equal(shop.requests.length, 1);
    await page.click("button");
    await results(page, 3);
    assert.equal(shop.requests.length, 1, "and so is a third click later");
  });

  inBrowser("l09 a reload in mid-request is one order", async (shop, context, url) => {
    shop.held = true;
    const page = await opened(context, url);
    const arrival = shop.arrival();
    await page.click("button");
    await arrival;
    shop.held = false;
    await page.reload();
    await page.waitForSelector("body[data-ready]");
    const resumed = await page.evaluate(async () => {
      const all = await (window as any).resume();
      return all.map(({ id, result }: any) => [id, result?.outcome]);
    });
    assert.deepEqual(resumed, [["order-7", "replayed"]]);
    await page.click("button");
    const [again] = await results(page, 1);
    assert.deepEqual([again!.outcome, again!.content], ["replayed", '{"order":1}']);
    assert.equal(shop.orders.size, 1);
    assert.equal(shop.requests.length, 2);
  });

  inBrowser("l11 two tabs are one order", async (shop, context, url) => {
    shop.held = true;
    const [one, other] = [await opened(context, url), await opened(context, url)];
    const arrival = shop.arrival();
    await one.click("button");
    await arrival;
    await other.click("button");
    shop.letGo();
    const [[first], [second]] = [await results(one, 1), await results(other, 1)];
    assert.equal(first!.outcome, "fresh");
    // What one tab writes to localStorage another may see late: it asks again then, with the same key.
    const outcome = shop.requests.length === 1 ? "fresh" : "replayed";
    assert.deepEqual(second, { ...first, outcome });
    assert.equal(shop.orders.size, 1);
  });

  inBrowser("l11 a tab that is closed in mid-request leaves the order to the other one", async (shop, context, url) => {
    shop.held = true;
    const [one, other] = [await opened(context, url), await opened(context, url)];
    const arrival = shop.arrival();
    await one.click("button");
    await arrival;
    await other.click("button");
    shop.held = false;
    await one.close();
    const [result] = await results(other, 1);
    assert.equal(result!.outcome, "replayed");
    assert.equal(shop.orders.size, 1);
  });

  inBrowser("e47 one key for two operations is refused", async (_, context, url) => {
    const page = await opened(context, url);
    const code = await page.evaluate(async () => {
      const { journal, order } = window as any;
      await order("order-7");
      const [entry] = await journal.list();
      return journal.put({ ...entry, operation: "order-8" }).catch((error: any) => error.code);
    });
    assert.equal(code, "key-taken");
  });
}
