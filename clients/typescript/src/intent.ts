// One user action: its key, its target and its exact bytes, none of which changes afterwards.

import { base64, CONTENT_BYTES_MAX, fromBytes, toBytes } from "./content.js";
import { SemelError } from "./error.js";
import type { Entry } from "./journal.js";
import { isObject, parse, pointer, routeOf, type Table } from "./judge.js";

/** No key is longer; the limit that most APIs have. */
export const KEY_BYTES_MAX = 255;
/** No operation's id is longer. */
export const OPERATION_BYTES_MAX = 255;

/** What a caller says of an operation besides the request. */
export interface Naming {
  id?: string;
  key?: string;
  countedKeys?: "refuse" | "allow";
  policy: Table;
}

/** An operation that may be sent, and the credentials that are sent along. */
export interface Intent {
  entry: Entry;
  secrets: [name: string, value: string][];
}

/** The intent of a request; its key is minted here, and nowhere else. */
export async function intentOf(
  url: string | URL,
  init: RequestInit,
  { id, key, countedKeys = "refuse", policy }: Naming,
  now_ms: number,
): Promise<Intent> {
  const { signal: _, ...rest } = init;
  // The platform's own reading: it encodes the content, and says what type that has.
  const request = new Request(url, { method: "POST", ...rest });
  const target = new URL(request.url);
  target.hash = "";
  if (!/^https?:$/.test(target.protocol)) throw new SemelError("target", target.href);
  const content = new Uint8Array(await request.arrayBuffer());
  if (content.length > CONTENT_BYTES_MAX) throw new SemelError("too-large", `${content.length} bytes`);
  const place = routeOf(policy, target.pathname).key;
  const headers: [string, string][] = [];
  const secrets: [string, string][] = [];
  for (const [name, value] of request.headers) {
    if ("header" in place && name === place.header.toLowerCase()) {
      throw new SemelError("key-header", name);
    }
    (isSecret(name) ? secrets : headers).push([name, value]);
  }
  const kept = fromBytes(content);
  const fingerprint = await digest([request.method, target.href, headers, kept]);
  let given = !!key;
  if ("member" in place) {
    const before = kept.content;
    [key, kept.content] = keyInContent(place.member, key, policy.preset, before);
    given ||= kept.content === before;
  }
  key ??= keyV7(now_ms);
  checkKey(key, countedKeys);
  const operation = id ?? key;
  if (!/^\P{Cc}+$/u.test(operation) || new TextEncoder().encode(operation).length > OPERATION_BYTES_MAX) {
    throw new SemelError("operation", operation);
  }
  const entry: Entry = {
    operation,
    key,
    given,
    preset: policy.preset,
    method: request.method,
    url: target.href,
    headers,
    ...(init.credentials && { credentials: init.credentials }),
    ...kept,
    fingerprint,
    scope: await scopeOf(key, target.href, secrets),
    created_ms: now_ms,
    state: "open",
    why: "",
    state_ms: now_ms,
    history: [],
  };
  return { entry, secrets };
}

/** The key that the content names; where it names none, one is minted and put first, every other byte as it was. */
function keyInContent(
  place: string,
  key: string | undefined,
  preset: string,
  content = "",
): [key: string, content: string] {
  const object = parse(content);
  if (!isObject(object)) throw new SemelError("not-an-object", place);
  const there = pointer(object, place);
  const name = place.slice(1);
  // A member deeper down, or one that is not an id that a client may choose, must be there already.
  if (there === undefined && preset === "etherfuse" && !name.includes("/")) {
    key ??= crypto.randomUUID();
    const member = JSON.stringify({ [name]: key }).slice(1, -1) + (Object.keys(object).length ? "," : "");
    return [key, content.replace("{", () => "{" + member)];
  }
  if (typeof there !== "string" || there !== (key ?? there)) throw new SemelError("another-key", place);
  return [there, content];
}

/** Throws `key-form` or `key-counts` where a text is not a key. */
export function checkKey(key: string, counted: "refuse" | "allow"): void {
  if (!/^[!-~]([ -~]*[!-~])?$/.test(key) || key.length > KEY_BYTES_MAX) {
    throw new SemelError("key-form", key);
  }
  if (counted === "refuse" && /(^|[^a-z0-9])(attempt|retry|try)[-_.:#=]*\d+$/i.test(key)) {
    throw new SemelError("key-counts", key);
  }
}

/** A fresh UUID of version 7: by the time in it an API can tell a late retry. */
export function keyV7(now_ms: number): string {
  const time = now_ms.toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${crypto.randomUUID().slice(15)}`;
}

/**
 * The key of the caller's own id, the same one every time and in every language: the UUID of version 5 (RFC 9562) of
 * `id` in the namespace that is itself the version 5 of `urn:semel:operation` in the namespace of URLs.
 */
export async function derivedKey(id: string): Promise<string> {
  const name = new TextEncoder().encode(id);
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-1", new Uint8Array([...OPERATIONS, ...name]))).slice(
    0,
    16,
  );
  sum[6] = (sum[6]! & 0x0f) | 0x50;
  sum[8] = (sum[8]! & 0x3f) | 0x80;
  return hex(sum).replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** The UUID 21f75e72-7ca4-5088-9ac4-df4187d09ebf. */
const OPERATIONS = [0x21, 0xf7, 0x5e, 0x72, 0x7c, 0xa4, 0x50, 0x88, 0x9a, 0xc4, 0xdf, 0x41, 0x87, 0xd0, 0x9e, 0xbf];

/** The header that the key is sent in, if it is not in the content. */
export function keyHeader(policy: Table, { key, url }: Entry): [name: string, value: string] | undefined {
  const place = routeOf(policy, new URL(url).pathname).key;
  if ("member" in place) return undefined;
  // The draft says that the value is a structured-field String, in quotes (section 2.1); the vendors take it bare. Of a
  // printable ASCII text, JSON makes the same.
  return [place.header, policy.preset === "ietf" ? JSON.stringify(key) : key];
}

/** Whose key space the keys live in at this address: a digest, which tells nothing about the credentials. */
export function scopeOf(key: string, url: string, secrets: [string, string][]): Promise<string> {
  return digest([key, new URL(url).host, secrets.map(String).sort()]);
}

/** Whether a header by that name holds a secret, which no journal keeps. */
export function isSecret(name: string): boolean {
  return name !== "idempotency-key" && /authorization|cookie|token|secret|password|api-?key|signature/.test(name);
}

/** SHA-256 of a list, whose JSON tells where each part of it ends. */
async function digest(list: unknown[]): Promise<string> {
  return base64(new Uint8Array(await crypto.subtle.digest("SHA-256", toBytes({ content: JSON.stringify(list) }))));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
