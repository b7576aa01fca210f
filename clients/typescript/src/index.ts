// Write requests that are safe to retry.

export { SemelError, type ErrorCode } from "./error.js";
export {
  idempotentFetch,
  resume,
  type Clock,
  type Common,
  type Options,
  type Result,
  type Resumed,
  type ResumeOptions,
} from "./fetch.js";
export { CONTENT_BYTES_MAX } from "./content.js";
export { derivedKey, KEY_BYTES_MAX, OPERATION_BYTES_MAX } from "./intent.js";
export { OVER_KEPT_MS, type Durable, type Entry, type Journal, type State } from "./journal.js";
export { memoryJournal } from "./journal/memory.js";
export { judge, type Event, type Failure, type Judged, type Operation, type Outcome, type Table } from "./judge.js";
export { lines, type LogLine, type Told } from "./log.js";
