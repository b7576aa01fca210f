// The reasons for people, apart from the tables: a page that shows its own words does not load these.

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
  "window-over":
    "By the next try the API might have forgotten the key, and do it a second time. Look the resource up.",
  interrupted: "It was interrupted. Resume it later.",
};

/** Says for people why an operation ended so: `explain(policy, result.why)`. */
export function explain({ preset }: Table, why: string): string {
  return SAYS[preset]?.[why] ?? OWN[why] ?? why;
}
