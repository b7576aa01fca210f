//! What the source documents say (`e26_...`) and where they contradict themselves (`q1_...`): the catalogue that the
//! tests of the four source APIs are named after.

/// A statement of a source, or a contradiction in one with its answer.
pub(crate) struct Row {
    /// `E26`.
    pub(crate) name: &'static str,
    /// Which API it is about.
    pub(crate) api: &'static str,
    /// What it says, or what is answered, in one line.
    pub(crate) what: &'static str,
}

/// Every statement and every contradiction, in order.
pub(crate) const ROWS: &[Row] = &[
    row("E1", "Etherfuse", "the client makes the UUIDs of the orders, customers and bank accounts that it creates"),
    row("E2", "Etherfuse", "such an id is the idempotency key: a create that is sent again duplicates nothing"),
    row("E3", "Etherfuse", "a create with a taken order id is a 409 in exact words"),
    row("E4", "Etherfuse", "after a lost connection the same id creates, or conflicts; there is one order either way"),
    row("E5", "Etherfuse", "the client makes the id once and keeps it before its first attempt"),
    row("E6", "Etherfuse", "every retry has the same id"),
    row("E7", "Etherfuse", "a client that takes the 409 for success is right"),
    row("E8", "Etherfuse", "the state of an order is read by its id"),
    row(
        "E9",
        "Etherfuse",
        "the client of the sample: create, on 409 read, on another failure an error with its status",
    ),
    row("E10", "Etherfuse", "one pending onramp per bank account and amount; a second is a 409 in exact words"),
    row("E11", "Etherfuse", "a second one goes through when the first is no longer pending, or with another amount"),
    row("E12", "Etherfuse", "ids are UUIDs of version 4, for customers and bank accounts too"),
    row("E13", "Etherfuse", "there is an index of the documents for tools"),
    row("E14", "Credicorp", "a repeat with the same key returns the original result and records nothing"),
    row("E15", "Credicorp", "one key per operation of a user, made when it is submitted"),
    row("E16", "Credicorp", "every retry has the same key"),
    row("E17", "Credicorp", "whoever is told a conflict already has it"),
    row("E18", "Credicorp", "the client of the sample: an enquiry with a key, inside a retry"),
    row("E19", "Credicorp", "the first result is kept, so that a retry after a time-out is safe"),
    row("E20", "Credicorp", "keys are per endpoint, and remembered long enough for retries"),
    row("E21", "Credicorp", "a key is neither used for another submission nor shared by two users"),
    row("E22", "Credicorp", "reads need no key; enquiries and consents do"),
    row("E23", "Credicorp", "a key with other data is a 409, or returns the original"),
    row("E24", "Yonne", "an order is created once, however often it is sent: time-outs, double clicks"),
    row("E25", "Yonne", "every create-order has a unique key in a header, bare"),
    row("E26", "Yonne", "within 24 hours the same key returns the original success"),
    row("E27", "Yonne", "a replay may say so in a member of its content"),
    row("E28", "Yonne", "keys name the order and count the attempts"),
    row("E29", "Yonne", "a random key per retry makes an order per retry"),
    row("E30", "Yonne", "network errors, time-outs and 5xx are retried with the same key"),
    row("E31", "Yonne", "401 and 400 are mended, not retried; 402 and 422 are retried once their cause is gone"),
    row("E32", "Yonne", "reads are always safe; create-order is with the same key"),
    row(
        "E33",
        "Yonne",
        "the client of the sample: three attempts of ten seconds, a growing pause, success by a member",
    ),
    row("E34", "Yonne", "every attempt can be logged with reference, key, order, tracking id, status and error"),
    row("E35", "Nora", "the two creates of intents take a key, and need none"),
    row("E36", "Nora", "a second call with the same key and endpoint executes nothing and is told the first reply"),
    row("E37", "Nora", "a key must be a UUID"),
    row("E38", "Nora", "the signature of a burn is its key: the same again is nothing new, another is rejected"),
    row("E39", "Nora", "a second party with the same document number is a 409"),
    row("E40", "Nora", "a wallet is replaced in place, and the same again changes nothing"),
    row("E41", "Nora", "reads need nothing"),
    row("E42", "Nora", "one UUID per click and all its retries; an edited form has another"),
    row("E43", "Nora", "after a crash the kept UUID returns the original, or executes afresh"),
    row("E44", "Nora", "a burn is retried with the same bytes; after it expired, with a new signature"),
    row("E45", "Nora", "the same UUID on two paths is two operations"),
    row("E46", "Nora", "keys are per API key, and sandbox and production share none"),
    row("E47", "Nora", "the client makes the UUID when the user acts, not when the program starts"),
    row("E48", "Nora", "the window is finite, and a retry after it is a fresh operation"),
    row("E49", "Nora", "a replay has the original status"),
    row(
        "Q1",
        "Yonne",
        "the text wants the same key, the sample counts attempts in it: the stem is looked up, and one order is made",
    ),
    row("Q2", "Yonne", "the sample retries 402 and 422 blindly: that is harmless"),
    row("Q3", "Yonne", "the sample retries 400, 401 and 503 at once: that is harmless, and the wait is told"),
    row("Q4", "Yonne", "the sample's time-out is shorter than a slow create: the next attempt waits for the first"),
    row("Q5", "Yonne", "422 means two things: a member of the error tells them apart"),
    row(
        "Q6",
        "Yonne",
        "the flag of a replay is optional and in the content: a header always says it, and it is never kept",
    ),
    row("Q7", "Etherfuse", "two conflicts on one path: code, resource and Location tell them apart"),
    row("Q8", "Etherfuse", "the same id with other data looks like success: it is told as what it is"),
    row("Q9", "Etherfuse", "the id is looked at before the guard and before anything that goes stale"),
    row("Q10", "Etherfuse", "nobody is told that it exists while the first still runs"),
    row("Q11", "Etherfuse", "a create that failed leaves the id free"),
    row(
        "Q12",
        "Etherfuse, Credicorp",
        "the samples make one id per program: a later create with other data never passes for a success",
    ),
    row("Q13", "Etherfuse", "whose ids are unique is unstated: each caller's own, and foreign ones are answered alike"),
    row("Q14", "Etherfuse", "amounts are compared as numbers, however they are spelt"),
    row("Q15", "Credicorp", "409 means three things: here it means another request under the key, and nothing else"),
    row("Q16", "Credicorp", "\"409 or the original\" is one of the two, always the same"),
    row(
        "Q17",
        "Credicorp",
        "a key shared by two users: the caller is in the scope where there is one, and the window is published",
    ),
    row("Q18", "Nora", "another signature is accepted only when the old one is dead"),
    row("Q19", "Nora", "an edited form under the old key is a conflict, not a stale success"),
    row("Q20", "Nora", "status, header fields and content are kept, not the content alone"),
    row("Q21", "Nora", "a crash leaves a third answer: still running, or unknown"),
    row(
        "Q22",
        "Nora",
        "a late repeat of an old wallet must not bring it back, where the client sends a key or a precondition",
    ),
    row("Q23", "Nora", "a rotated credential keeps its history where the scope is not the secret"),
    row("Q24", "Nora", "a conflict after an own lost success names the resource to its owner, and no personal data"),
    row("Q25", "all", "UUIDs and keys have one canonical spelling"),
    row("Q26", "all", "how long, for whom and what is kept is set per route, and published"),
    row("Q27", "all", "what is promised: at most one effect per key, and a truthful answer"),
];

const fn row(name: &'static str, api: &'static str, what: &'static str) -> Row {
    Row { name, api, what }
}
