// A gateway as a real process, before an origin that loses replies when told to; and a browser.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

/** The program under test. */
const SEMEL = process.env.SEMEL ?? join(import.meta.dirname ?? ".", "../../target/debug/semel");
/** Debian's, and where others have it; SEMEL_CHROMIUM names any other. */
const CHROMIUM = [process.env.SEMEL_CHROMIUM ?? "", "/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);
/** How long a gateway may take to listen, in milliseconds. */
const START_MAX = 30_000;

export const TOKEN = "console-test-token-0123456789";

/** Ships what it is asked to, every time; loses the reply when the request says so. */
export class Origin {
  shipped = [];
  #server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const order = Buffer.concat(chunks).toString();
    if (!request.headers["x-refuse"]) this.shipped.push(order);
    if (request.headers["x-lose"]) return request.socket.resetAndDestroy();
    response.writeHead(201, { "content-type": "application/json" }).end(`{"number":${this.shipped.length}}`);
  });

  async start() {
    await new Promise((done) => this.#server.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  stop() {
    this.#server.closeAllConnections();
    return new Promise((done) => this.#server.close(done));
  }
}

export class Gateway {
  log = "";
  #folder = mkdtempSync(join(tmpdir(), "semel-console-"));
  #process;

  /** Starts one before `origin`; without `token` nobody can sign in. */
  static async start(origin, token = TOKEN) {
    const gateway = new Gateway();
    const file = (name) => join(gateway.#folder, name);
    if (token) writeFileSync(file("token"), token, { mode: 0o600 });
    writeFileSync(
      file("semel.toml"),
      `principal = ["Authorization"]
[gateway]
upstream = "${origin}"
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
data = "${file("data")}"
log = "text"
${token ? `admin_token_file = "${file("token")}"` : ""}
[[route]]
path = "/orders"
key_presence = "required"
[[route]]
path = "/payments"
key_presence = "required"
fingerprint = "json"
wait_max = "10s"
`,
    );
    gateway.#process = spawn(SEMEL, ["serve", "--config", file("semel.toml")], { stdio: ["ignore", "ignore", "pipe"] });
    await new Promise((done, fail) => {
      const late = setTimeout(() => fail(new Error(`the gateway does not listen:\n${gateway.log}`)), START_MAX);
      gateway.#process.on("error", fail);
      gateway.#process.on("exit", () => fail(new Error(`the gateway ended:\n${gateway.log}`)));
      gateway.#process.stderr.on("data", (bytes) => {
        gateway.log += bytes;
        const listening = /listening on (http:\/\/[\d.:]+)/.exec(gateway.log);
        const operators = /operators: (http:\/\/[\d.:]+)\//.exec(gateway.log);
        if (!listening || !operators || !gateway.log.includes("/payments")) return;
        [gateway.url, gateway.admin] = [listening[1], operators[1]];
        clearTimeout(late);
        done();
      });
    });
    return gateway;
  }

  get console() {
    return `${this.admin}/console`;
  }

  /** Sends an order under a key; gives status, content and the fields that matter. */
  async order(key, { path = "/orders", who = "Bearer ada", lose = false } = {}) {
    const headers = { "idempotency-key": `"${key}"`, authorization: who, "content-type": "application/json" };
    if (lose) headers["x-lose"] = "yes";
    const response = await fetch(this.url + path, { method: "POST", headers, body: `{"order":"${key}"}` });
    const content = await response.text();
    return { status: response.status, content, replayed: response.headers.get("idempotent-replayed") };
  }

  /** The lines of the audit log. */
  audit() {
    const path = join(this.#folder, "data/audit.log");
    const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
    return lines.filter(Boolean).map((line) => JSON.parse(line));
  }

  async stop() {
    this.#process.removeAllListeners("exit");
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill("SIGTERM");
    await ended;
    rmSync(this.#folder, { recursive: true });
  }
}

export function browse() {
  if (!CHROMIUM) throw new Error("Chromium is missing: apt-get install chromium, or name one in SEMEL_CHROMIUM");
  return chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/** Signs in on a page; ends where the page was meant to go. */
export async function signIn(page, gateway, path = "", who = "Ada Lovelace") {
  await page.goto(gateway.console + path);
  await page.getByLabel("Token of operators").fill(TOKEN);
  await page.getByLabel("Who you are").fill(who);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText(`Signed in as ${who}`).waitFor();
}
