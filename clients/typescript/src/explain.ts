// The reasons for people, apart from the tables: a page that shows its own words does not load these.

import type { ErrorCode } from "./error.js";
import { CONTENT_BYTES_MAX } from "./content.js";
import { KEY_BYTES_MAX, OPERATION_BYTES_MAX } from "./intent.js";
import type { Table } from "./judge.js";
import { SAYS } from "./says.js";

/** The client's own reasons. */
const OWN: { [why: string]: string } = {
  first: "It was not sent yet.",
  resumed: "It is sent again, unchanged.",
  seen: "The own resource was looked up, and is there.",
  "read-again": "The resource could not be looked up yet.",
  "read-failed": "The resource could not be looked up.",
  "attempts-over": "It was tried as often as it may be in one run. Resume later.",
  "elapsed-over": "The next try would be later than one run may last. Resume later.",
  "window-over": "By the next try the API might have forgotten the key, and do it a second time. Look the resource up.",
  interrupted: "It was interrupted. Resume it later.",
};

/** Of mistakes. */
const ERRORS: { [code in ErrorCode]: string } = {
  target: "The address is not an absolute http or https URL.",
  operation: `An id has 1 to ${OPERATION_BYTES_MAX} bytes and no control characters.`,
  "key-form": `A key has 1 to ${KEY_BYTES_MAX} printable ASCII characters, and does not begin or end with a space.`,
  "key-counts":
    "The key ends with a number of attempts; every retry would be a new operation. Leave the number off, and send the " +
    "same key on every attempt.",
  "key-header": "This header is where the key is sent; use the option `key`.",
  "too-large": `The content has more than ${CONTENT_BYTES_MAX} bytes.`,
  "not-an-object": "This API takes the key as a member of a JSON object, and the content is none.",
  "another-key":
    "The operation has another key, and the key of an operation never changes; or the content has another one than was " +
    "given, or one that is not a text.",
  edited:
    "The operation was sent with another target, content or table before, and that one happened or may have: a changed one " +
    "is a new operation.",
  "key-taken": "The key belongs to another operation: every operation needs a key of its own.",
  "other-credentials":
    "It may have happened under other credentials: with these the API would not recognise it, and could do it a second " +
    "time. Resume it with the credentials it was sent with.",
  "no-such-operation": "The journal has no such operation of these tables.",
  "journal-locked": "Another process uses the journal.",
  "journal-unusable": "There is no place for a journal.",
  "journal-format": "It is not a journal that this version can read.",
  "journal-damaged": "What the journal has is not what was written; it is refused, never read as if it knew nothing.",
  "journal-broken": "A write to the journal failed. Nothing more is written until it is opened again.",
};

/** Says for people why an operation ended so (`result.why`), or was refused (`error.code`). */
export function explain({ preset }: Table, why: string): string {
  return SAYS[preset]?.[why] ?? OWN[why] ?? (ERRORS as { [code: string]: string })[why] ?? why;
}
