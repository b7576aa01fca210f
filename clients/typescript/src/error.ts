/** Why an operation was not sent, or not sent on; `explain` of `semel/explain` says it for people. */
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

/**
 * A mistake of the caller, or a journal that cannot be used. It is no answer about the effect of an operation: one that
 * was sent before stays open in the journal.
 */
export class SemelError extends Error {
  override name = "SemelError";

  constructor(
    /** The reason, as a stable word. */
    readonly code: ErrorCode,
    /** What it is about, such as the operation's id. */
    about: string,
    options?: ErrorOptions,
  ) {
    super(`${code}: ${about}`, options);
  }
}
