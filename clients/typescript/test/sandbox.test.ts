// The four source APIs as `semel sandbox` has them, under every fault: one record, and the truth about it. The program
// is the one that SEMEL names; `cargo xtask test` does.

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { idempotentFetch, type Table } from "semel";
import { fileJournal, type FileJournal } from "semel/node";
import * as tables from "semel/tables";

/** Every kind of fault, and how many attempts in a row meet it. */
const FAULTS: [kind: string, times: number, extra?: object][] = [
  ["none", 0],
  ["drop_before", 2],
  ["drop_after", 2],
  ["status_before:503", 2],
  ["status_after:500", 2],
  ["delay", 1, { ms: 60_000 }],
  ["stall", 1],
];
/** How long an attempt waits for a reply that does not come: a retry too many on a slow machine does no harm. */
const ATTEMPT_MAX_MS = 1500;

let sandbox: ChildProcess;
let folder: string;
let base: string;
let journal: FileJournal;

before(async () => {
  const program = process.env.SEMEL;
  assert.ok(program, "SEMEL must name the program `semel`; `cargo xtask test` does");
  folder = await mkdtemp(join(tmpdir(), "semel-"));
  sandbox = spawn(program, ["sandbox", "--listen", "127.0.0.1:0", "--data", join(folder, "data")], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  base = await new Promise<string>((listening, failed) => {
    for (const stream of [sandbox.stdout!, sandbox.stderr!]) {
      stream.on("data", (chunk: Buffer) => {
        said += chunk.toString();
        const found = /listening on (http:\S+)/.exec(said);
        if (found) listening(found[1]!);
      });
    }
    sandbox.once("error", failed);
    sandbox.once("exit", (code) => failed(new Error(`the sandbox ended with ${code}: ${said}`)));
  });
  journal = await fileJournal(join(folder, "journal"));
});

after(async () => {
  await journal?.close();
  if (sandbox?.exitCode === null) {
    const ended = new Promise((done) => sandbox.once("exit", done));
    sandbox.kill("SIGKILL");
    await ended;
  }
  if (folder) await rm(folder, { recursive: true });
});

async function control(path: string, content?: object): Promise<any> {
  const init = content ? { method: "POST", body: JSON.stringify(content) } : {};
  const response = await fetch(`${base}/_sandbox/${path}`, init);
  const answer: unknown = await response.json();
  assert.equal(response.status, 200, JSON.stringify(answer));
  return answer;
}

/** What is ordered of a vendor, from its fixtures. */
interface Order {
  op: string;
  /** The kind of record that it leaves. */
  kind?: string;
  secret: (fixtures: any) => Record<string, string>;
  content: (fixtures: any) => object | Promise<object>;
}

const WALLET = "So11111111111111111111111111111111111111112";

const ORDERS: Record<"etherfuse" | "credicorp" | "yonne" | "nora", Order> = {
  etherfuse: {
    op: "POST /ramp/order",
    kind: "order",
    secret: ({ api_key }) => ({ authorization: api_key }),
    content: async ({ api_key, customer_id, bank_account_ids, public_key }) => {
      const quoteId = crypto.randomUUID();
      const quoteAssets = { type: "onramp", sourceAsset: "MXN", targetAsset: "USDC" };
      const quote = { quoteId, customerId: customer_id, blockchain: "stellar", quoteAssets, sourceAmount: "100" };
      const headers = { authorization: api_key, "content-type": "application/json" };
      const response = await fetch(`${base}/ramp/quote`, { method: "POST", headers, body: JSON.stringify(quote) });
      assert.equal(response.status, 200, await response.text());
      return { quoteId, bankAccountId: bank_account_ids[0], publicKey: public_key };
    },
  },
  credicorp: {
    op: "POST /public/v1/enquiries",
    secret: () => ({}),
    content: () => ({ form: "contact-us", fields: { name: "Jo", email: "jo@example.com", consent: "yes" } }),
  },
  yonne: {
    op: "POST /api/v1/external/create-order",
    secret: ({ live_key }) => ({ "x-api-key": live_key }),
    content: () => ({
      delivery_fee: 7350,
      delivery_lat: -13.9831,
      delivery_lng: 33.7812,
      weight_estimate: "0-5kg",
      merchant_reference_id: "WEB-100245",
    }),
  },
  nora: {
    op: "POST /v2/intents/onramp",
    secret: ({ test_key }) => ({ "x-api-key": test_key }),
    content: () => ({ amountCents: 10_000, destinationWallet: WALLET, chainId: "solana", clientReference: "ord_123" }),
  },
};

for (const [vendor, { op, kind, secret, content }] of Object.entries(ORDERS)) {
  test(`l02_l05_l15_e5_e30 ${vendor}: one record and one key under every fault`, async () => {
    const table = tables[vendor as keyof typeof ORDERS];
    const budget = { ...table.budget, attempt_max_ms: ATTEMPT_MAX_MS, pause_base_ms: 20, pause_max_ms: 200 };
    const policy: Table = { ...table, budget };
    for (const [fault, times, extra] of FAULTS) {
      await control("reset", {});
      const fixtures = (await control("fixtures"))[vendor] ?? {};
      const body = JSON.stringify(await content(fixtures));
      if (times) await control("faults", { vendor, op, kind: fault, times, ...extra });
      const headers = { ...secret(fixtures), "content-type": "application/json" };
      const url = base + op.split(" ")[1]!;
      const id = `${vendor} ${fault}`;
      const result = await idempotentFetch(url, { body, headers }, { journal, policy, id });
      const about = `${id}: ${JSON.stringify({ ...result, history: (await journal.get(id))?.history })}`;
      assert.ok(result.happened, about);
      const { records } = await control(`ledger?vendor=${vendor}`);
      const left = records.filter((record: any) => kind === undefined || record.kind === kind);
      assert.equal(left.length, 1, `${about} ${JSON.stringify(records)}`);
      const attempts = (await journal.get(id))!.history.filter(({ act }) => !act);
      assert.ok(attempts.length > times, about);
      assert.ok([left[0].key, left[0].id].includes(result.key), `${about} ${JSON.stringify(left)}`);
      // Nora does not say that a reply is a replay.
      if (fault === "drop_after" && vendor !== "nora") assert.notEqual(result.outcome, "fresh", about);
    }
  });
}
