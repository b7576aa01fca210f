/**
 * Why an operation was not sent, or not sent on. None of these is an answer about its effect: if it was sent before, it
 * stays open in the journal.
 *
 * - `target`: not an absolute http or https address.
 * - `operation`: an id that is none.
 * - `key-form`, `key-counts`: a key that no API takes, or one that counts attempts (every retry would be a new operation).
 * - `key-header`: the header that the key is sent in was given; use the option `key`.
 * - `too-large`: more content than {@link CONTENT_BYTES_MAX}.
 * - `not-an-object`, `another-key`: the API takes the key as a member of the content, and that is no JSON object, or has
 *   another key there; or the operation is known with another key.
 * - `edited`: the operation is known with another target or content, and it happened or may have happened.
 * - `key-taken`: the key belongs to another operation.
 * - `other-credentials`: it may have happened under other credentials, and with these the API would not recognise it.
 * - `no-such-operation`: there is nothing to resume.
 * - `journal-locked`, `journal-unusable`, `journal-format`, `journal-damaged`, `journal-broken`: the journal.
 */
export type ErrorCode =
  | "target"
  | "operation"
  | "key-form"
  | "key-counts"
  | "key-header"
  | "too-large"
  | "not-an-object"
  | "another-key"
  | "edited"
  | "key-taken"
  | "other-credentials"
  | "no-such-operation"
  | "journal-locked"
  | "journal-unusable"
  | "journal-format"
  | "journal-damaged"
  | "journal-broken";

/** A mistake of the caller, or a journal that cannot be used. */
export class SemelError extends Error {
  override name = "SemelError";

  constructor(
    /** The reason, as a stable word. */
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
