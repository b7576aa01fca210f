// A scripted API on a real socket, and a clock that moves only when somebody waits.

import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Clock } from "semel";

/** What the API does with the next request. */
export type Step =
  | { status: number; headers?: Record<string, string>; content?: string | Buffer }
  /** The content breaks off; the connection is reset before any answer; there never is one. */
  | "break-off"
  | "reset"
  | "hang";

export interface Seen {
  method: string;
  path: string;
  key: string | undefined;
  content: string;
  headers: IncomingHttpHeaders;
}

export class Api {
  readonly seen: Seen[] = [];
  readonly steps: Step[] = [];
  policy: string | undefined;
  askedForPolicy = 0;
  /** Runs when a request has arrived. */
  before: ((seen: Seen) => unknown) | undefined;
  readonly #server = createServer((request, response) => void this.#answer(request, response));
  #hanging: ServerResponse[] = [];

  static async start(...steps: Step[]): Promise<Api> {
    const api = new Api();
    api.steps.push(...steps);
    await new Promise<void>((done) => api.#server.listen(0, "127.0.0.1", done));
    return api;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get attempts(): Seen[] {
    return this.seen.filter(({ method }) => method === "POST");
  }

  async stop(): Promise<void> {
    for (const response of this.#hanging) response.destroy();
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const path = request.url!;
    if (path === "/.well-known/idempotency") {
      this.askedForPolicy++;
      response.writeHead(this.policy ? 200 : 404).end(this.policy);
      return;
    }
    const { method = "", headers } = request;
    const content = Buffer.concat(chunks).toString();
    const seen = { method, path, key: headers["idempotency-key"] as string | undefined, content, headers };
    this.seen.push(seen);
    await this.before?.(seen);
    const step = this.steps.shift() ?? { status: 599, content: "more requests than were scripted" };
    if (step === "hang") {
      this.#hanging.push(response);
    } else if (step === "reset") {
      request.socket.resetAndDestroy();
    } else if (step === "break-off") {
      response.writeHead(201, { "content-length": "100" }).write('{"succ');
      setImmediate(() => request.socket.destroy());
    } else {
      response.writeHead(step.status, step.headers).end(step.content ?? "");
    }
  }
}

export const START_MS = 1_750_000_000_000;

/** Dice fall on the most. */
export class Still implements Clock {
  readonly slept: number[] = [];
  ms = START_MS;
  now(): number {
    return this.ms;
  }
  async sleep(ms: number): Promise<void> {
    this.slept.push(ms);
    this.ms += ms;
  }
  draw(_: number, most: number): number {
    return most;
  }
}
