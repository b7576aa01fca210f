/** No content of a request or a response is larger (16 MiB). */
export const CONTENT_BYTES_MAX = 16 << 20;

/** Bytes as a journal keeps them. */
export function fromBytes(bytes: Uint8Array): { content?: string; base64?: string } {
  try {
    return { content: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    return { base64: base64(bytes) };
  }
}

export function base64(bytes: Uint8Array): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

/** As they were. */
export function toBytes({ content = "", base64 }: { content?: string; base64?: string }): Uint8Array<ArrayBuffer> {
  return base64
    ? Uint8Array.from(atob(base64), (char) => char.charCodeAt(0))
    : (new TextEncoder().encode(content) as Uint8Array<ArrayBuffer>);
}

/** All of a content; throws if it broke off or is too long. */
export async function whole(response: Response, bytes_max: number): Promise<Uint8Array> {
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  let length = 0;
  for (let part; reader && (part = (await reader.read()).value); parts.push(part)) {
    length += part.length;
    // Whoever asked for it stops what is still to come.
    if (length > bytes_max) throw Error();
  }
  const all = new Uint8Array(length);
  for (const part of parts.reverse()) all.set(part, (length -= part.length));
  return all;
}
