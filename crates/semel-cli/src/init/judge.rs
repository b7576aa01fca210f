//! What a route of `semel.toml` should say of an operation, and what only a person can decide.

use http::{HeaderName, Method};
use semel_core::{policy::PathTemplate, wire::ProblemType};

use super::{
    document::{Api, Document, Operation, Parameter},
    schema::{Facts, Field},
    tree::Wrong,
    write::{quoted, shown},
};

/// One thing that the file says, in the order in which it says them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    /// A setting, and where it comes from.
    Set { name: &'static str, value: String, why: String },
    /// A setting in a comment, to be taken or left.
    Propose { name: String, value: String, why: String },
    /// A comment.
    Say(String),
    /// What a person has to decide; also told when the file is written.
    Decide { line: usize, text: String },
    /// Why an operation that takes no key deserves one; also told when the file is written.
    Deserves { line: usize, text: String },
}

/// A route, or an operation that gets none.
#[derive(Debug)]
pub(super) struct Section {
    /// What it is about, such as `POST /orders`.
    pub heading: String,
    pub is_route: bool,
    pub lines: Vec<Line>,
    method: Method,
    /// The path as segments; `None` stands for any one.
    shape: Vec<Option<String>>,
}

/// The longest key that is taken over from a document, in bytes.
const KEY_BYTES_TAKEN_MAX: usize = 4_096;

/// How long the preset `ietf` remembers a record, in hours.
const REMEMBERED_HOURS: u32 = 30 * 24;

/// Words of paths and members that tell of money.
const MONEY: &[&str] = &[
    "amount",
    "charge",
    "checkout",
    "credit",
    "currency",
    "debit",
    "deposit",
    "donation",
    "fee",
    "invoice",
    "payment",
    "payout",
    "price",
    "purchase",
    "refund",
    "tip",
    "topup",
    "transfer",
    "withdraw",
    "withdrawal",
];
/// Words at the end of paths that only ask.
const ASKING: &[&str] = &[
    "calculate",
    "check",
    "count",
    "estimate",
    "export",
    "filter",
    "introspect",
    "list",
    "login",
    "lookup",
    "preview",
    "query",
    "quote",
    "report",
    "search",
    "simulate",
    "token",
    "validate",
    "verify",
];
/// How descriptions say that a client chooses an id.
const CHOSEN: &[&str] = &[
    "client-generated",
    "client generated",
    "client-supplied",
    "client supplied",
    "client-provided",
    "client-side",
    "by the client",
    "by the caller",
    "you generate",
    "you choose",
    "you provide",
    "you supply",
    "your own",
    "your unique",
];
/// How headers end that often, but not always, hold a key.
const PERHAPS: &[&str] = &["clienttoken", "messageid", "requestid", "requesttoken", "transactionid"];

/// The sections of an API, those that cover fewer paths before those that would take them away.
pub(super) fn sections(document: &Document<'_>, api: &Api<'_>) -> Result<Vec<Section>, Wrong> {
    let mut sections: Vec<Section> = Vec::new();
    for operation in &api.operations {
        document.begin(&heading(operation));
        let is_covered = match operation.method {
            Method::POST | Method::PATCH => true,
            Method::PUT | Method::DELETE => key_headers(operation).next().is_some(),
            _ => false,
        };
        if !is_covered {
            continue;
        }
        let section = section(document, api, operation)?;
        let overlapping = sections.iter().position(|earlier| takes(earlier, &section));
        match overlapping {
            Some(at) if sections[at].shape == section.shape => {
                let text = format!("{} is the same under another name", section.heading);
                sections[at].lines.push(Line::Decide { line: operation.line, text });
            }
            Some(at) => sections.insert(at, section),
            None => sections.push(section),
        }
    }
    Ok(sections)
}

/// How an operation is named.
pub(super) fn heading(operation: &Operation<'_>) -> String {
    format!("{} {}", operation.method, shown(&operation.path))
}

/// Whether a request for `later` could go to `earlier`, which is no more exact.
fn takes(earlier: &Section, later: &Section) -> bool {
    let is_wider = |pair: (&Option<String>, &Option<String>)| match pair {
        (None, _) => true,
        (Some(a), Some(b)) => a == b,
        (Some(_), None) => false,
    };
    earlier.is_route
        && later.is_route
        && earlier.method == later.method
        && earlier.shape.len() == later.shape.len()
        && earlier.shape.iter().zip(&later.shape).all(is_wider)
}

fn section(document: &Document<'_>, api: &Api<'_>, operation: &Operation<'_>) -> Result<Section, Wrong> {
    let line = operation.line;
    let heading = heading(operation);
    let without = |why: String| {
        let lines = vec![Line::Decide { line, text: format!("{heading} has no route: {why}") }];
        Section {
            heading: heading.clone(),
            is_route: false,
            lines,
            method: operation.method.clone(),
            shape: Vec::new(),
        }
    };
    if let Some(elsewhere) = &operation.elsewhere {
        let elsewhere = shown(elsewhere);
        return Ok(without(format!(
            "{elsewhere} serves it, and a gateway has one origin: give it a gateway of its own"
        )));
    }
    let (path, template) = match template(&operation.path) {
        Ok(found) => found,
        Err(why) => return Ok(without(why)),
    };
    let mut lines = Vec::new();
    lines.push(Line::Set { name: "path", value: quoted(&path), why: at(&shown(operation.id), line) });
    lines.push(Line::Set {
        name: "methods",
        value: format!("[{}]", quoted(operation.method.as_str())),
        why: String::new(),
    });
    if operation.is_deprecated {
        lines.push(Line::Say("Deprecated.".to_owned()));
    }
    if operation.path.split('/').any(|segment| segment.contains('{') && !is_whole_variable(segment)) {
        let text = format!("it is covered as {path}: a variable is one whole segment");
        lines.push(Line::Decide { line, text });
    }
    if operation.is_open && api.operations.iter().any(|other| !other.is_open && other.method != Method::GET) {
        let text = "it asks for no credentials: callers without any share one key space".to_owned();
        lines.push(Line::Decide { line, text });
    }
    key(document, api, operation, &template, &mut lines)?;
    let is_conditional = |p: &Parameter<'_>| p.place == "header" && p.name.eq_ignore_ascii_case("If-Match");
    if operation.parameters.iter().any(is_conditional) {
        lines.push(Line::Say(
            "If-Match: a retry after a success is refused by the API (RFC 9110 section 13.1.1).".to_owned(),
        ));
    }
    large_content(operation, &mut lines);
    statuses(operation, &mut lines);
    Ok(Section { heading, is_route: true, lines, method: operation.method.clone(), shape: shape(&path) })
}

/// Where the key of an operation is, or could be.
fn key(
    document: &Document<'_>,
    api: &Api<'_>,
    operation: &Operation<'_>,
    template: &PathTemplate,
    lines: &mut Vec<Line>,
) -> Result<(), Wrong> {
    let mut headers: Vec<&Parameter<'_>> = key_headers(operation).collect();
    // Where there are several, the draft's own name is the one that clients know.
    headers.sort_by_key(|header| !header.name.eq_ignore_ascii_case("Idempotency-Key"));
    if let Some((header, others)) = headers.split_first() {
        for other in others {
            let text = format!("it takes {} too, and a route has one key", shown(other.name));
            lines.push(Line::Decide { line: other.line, text });
        }
        return key_header(document, header, lines);
    }
    if let Some(parameter) = operation.parameters.iter().find(|p| p.place == "query" && is_key_name(p.name)) {
        let text = format!(
            "its key {} is in the query, where no route looks: let clients send it as a header",
            shown(parameter.name)
        );
        lines.push(Line::Decide { line: parameter.line, text });
    }
    let fields = match operation.content.schema {
        Some(schema) => document.fields(schema)?,
        None => Vec::new(),
    };
    if let Some(field) = fields.iter().find(|field| is_key_name(field.name) && field.facts.is_text()) {
        let why = at("as documented", field.line);
        lines.push(Line::Set { name: "key", value: quoted("member"), why });
        lines.push(Line::Set { name: "key_member", value: pointer(field.name), why: String::new() });
        if field.is_required {
            lines.push(Line::Set { name: "key_presence", value: quoted("required"), why: String::new() });
        }
        grammar(&field.facts, lines);
        return Ok(());
    }
    if operation.method != Method::POST {
        return Ok(());
    }
    if let Some(id) = client_id(api, operation, &fields) {
        propose_id(&id, operation, template, lines);
    } else if let Some(header) = operation.parameters.iter().find(|parameter| is_perhaps_key(parameter)) {
        let name = shown(header.name);
        let text = format!(
            "{name} may be an idempotency key: it is one if a retry repeats it, and none if every try has its own"
        );
        lines.push(Line::Decide { line: header.line, text });
        if !header.description.is_empty() {
            lines.push(Line::Say(format!("{name}: \"{}\"", shown(header.description))));
        }
        let why = at("", header.line);
        lines.push(Line::Propose { name: "key_header".to_owned(), value: quoted(header.name), why });
    } else if operation.is_whole {
        // Of what was not read, nobody can say that it takes no key.
        let reasons = reasons(document, api, operation)?;
        if !reasons.is_empty() {
            let text = format!("it takes no key and deserves one: {}", reasons.join("; "));
            lines.push(Line::Deserves { line: operation.line, text });
            lines.push(Line::Propose {
                name: "key_presence".to_owned(),
                value: quoted("required"),
                why: "once every client sends Idempotency-Key".to_owned(),
            });
        }
    }
    Ok(())
}

fn key_header(document: &Document<'_>, header: &Parameter<'_>, lines: &mut Vec<Line>) -> Result<(), Wrong> {
    let presence = if header.is_required { "required" } else { "optional" };
    if header.name.eq_ignore_ascii_case("Idempotency-Key") {
        let why = at(&shown(header.name), header.line);
        lines.push(Line::Set { name: "key_presence", value: quoted(presence), why });
    } else {
        lines.push(Line::Set { name: "key_header", value: quoted(header.name), why: at("", header.line) });
        lines.push(Line::Set { name: "key_presence", value: quoted(presence), why: String::new() });
    }
    let facts = match header.schema {
        Some(schema) => document.facts(schema)?,
        None => Facts::default(),
    };
    grammar(&facts, lines);
    let description =
        if header.description.is_empty() { facts.description.unwrap_or_default() } else { header.description };
    if !description.is_empty() {
        lines.push(Line::Say(format!("{}: \"{}\"", shown(header.name), shown(description))));
    }
    if let Some((hours, text)) = remembered(description) {
        let mut propose = |name: &str, why: &str| {
            lines.push(Line::Propose { name: name.to_owned(), value: quoted(&text), why: why.to_owned() });
        };
        propose("replay_for", "as its description says");
        if hours > REMEMBERED_HOURS {
            propose("remember_for", "at least as long");
        }
    }
    Ok(())
}

fn grammar(facts: &Facts<'_>, lines: &mut Vec<Line>) {
    if facts.is_uuid() {
        let why = "format: uuid".to_owned();
        lines.push(Line::Set { name: "key_grammar", value: quoted("uuid"), why });
    }
    if let Some(length) = facts.length_max {
        let taken = length.parse::<usize>().ok().filter(|length| (1..=KEY_BYTES_TAKEN_MAX).contains(length));
        lines.push(match taken {
            Some(length) => Line::Set { name: "key_bytes_max", value: length.to_string(), why: "maxLength".to_owned() },
            None => Line::Say(format!("Its maxLength, {}, is not taken over: see key_bytes_max.", shown(length))),
        });
    }
    if let Some(pattern) = facts.pattern {
        lines.push(Line::Say(format!("A key's pattern is for the API to check: {}", shown(pattern))));
    }
}

/// A duration such as "24 hours" or "7 days" in a description.
fn remembered(description: &str) -> Option<(u32, String)> {
    let words: Vec<&str> =
        description.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.windows(2).find_map(|pair| {
        let number = pair[0].parse::<u32>().ok().filter(|number| (1..=1_000).contains(number))?;
        match pair[1].to_ascii_lowercase().as_str() {
            "hour" | "hours" | "h" => Some((number, format!("{number}h"))),
            "day" | "days" | "d" => Some((number * 24, format!("{number}d"))),
            _ => None,
        }
    })
}

/// A member of the content that looks like an id which the client chooses.
struct ClientId<'a> {
    field: &'a Field<'a>,
    reasons: Vec<String>,
    /// The path of the GET that shows what the id names.
    item: Option<&'a str>,
}

fn client_id<'a>(api: &'a Api<'_>, operation: &Operation<'_>, fields: &'a [Field<'a>]) -> Option<ClientId<'a>> {
    let own = last_word(&operation.path)?;
    let item = items(api, &operation.path).next();
    let variable = item.and_then(|path| path.rsplit('/').next()).map(letters).unwrap_or_default();
    let singular = singular(&own);
    let conflicts =
        operation.responses.iter().any(|response| response.status == "409" && tells_existing(response.description));
    let judged = fields.iter().filter(|field| field.facts.is_text() && !field.facts.is_read_only).filter_map(|field| {
        let name = letters(field.name);
        let is_own = name == "id" || name == "uuid" || name == format!("{singular}id") || name == format!("{own}id");
        let is_variable = item.is_some() && name == variable && name.ends_with("id");
        let is_chosen = says(field.facts.description.unwrap_or_default(), CHOSEN);
        let is_uuid = field.facts.is_uuid();
        let is_likely = match (is_own || is_variable, is_chosen) {
            (true, true) => true,
            (true, false) if field.is_required => is_uuid || item.is_some(),
            (true, false) => is_uuid && conflicts,
            (false, true) => is_uuid || (field.is_required && (name.ends_with("id") || name.ends_with("reference"))),
            (false, false) => false,
        };
        if !is_likely {
            return None;
        }
        let shows = item.filter(|_| is_own || is_variable);
        let mut reasons = Vec::new();
        reasons.push(if field.is_required { "required".to_owned() } else { "optional".to_owned() });
        reasons.extend(is_uuid.then(|| "format: uuid".to_owned()));
        reasons.extend(is_chosen.then(|| "its description says so".to_owned()));
        reasons.extend(shows.map(|path| format!("GET {} shows what it names", shown(path))));
        reasons.extend(conflicts.then(|| "409 says that it exists".to_owned()));
        Some((is_own || is_variable, ClientId { field, reasons, item: shows }))
    });
    // The id of what is made here comes before ids of other things.
    let mut judged: Vec<(bool, ClientId<'_>)> = judged.collect();
    judged.sort_by_key(|(is_own, _)| !*is_own);
    judged.into_iter().next().map(|(_, id)| id)
}

fn propose_id(id: &ClientId<'_>, operation: &Operation<'_>, template: &PathTemplate, lines: &mut Vec<Line>) {
    let field = id.field;
    let text = format!(
        "\"{}\" looks like an id that the client chooses, which can be the key: {}",
        shown(field.name),
        id.reasons.join("; ")
    );
    lines.push(Line::Decide { line: field.line, text });
    let mut propose = |name: &str, value: String, why: &str| {
        lines.push(Line::Propose { name: name.to_owned(), value, why: why.to_owned() });
    };
    propose("key", quoted("member"), "");
    propose("key_member", pointer(field.name), "");
    if field.facts.is_uuid() {
        propose("key_grammar", quoted("uuid"), "");
    }
    if field.is_required {
        propose("key_presence", quoted("required"), "");
    }
    if operation.responses.iter().any(|response| response.status == "409") {
        propose("on_completed", quoted("conflict"), "an id that is taken is a 409; without it a retry gets the reply");
    }
    if let Some(resource) = id.item.and_then(|item| resource(item, template)) {
        propose("resource", quoted(&resource), "where it then is");
    }
}

/// The path of an item with `{key}` as its last variable, and the others named as the route names them.
fn resource(item: &str, template: &PathTemplate) -> Option<String> {
    let (path, _) = self::template(item).ok()?;
    let (front, _) = path.rsplit_once('/')?;
    let route: Vec<&str> = template.as_str().split('/').collect();
    let mut segments = Vec::new();
    let mut is_prefix = true;
    for (at, segment) in front.split('/').enumerate() {
        let own = route.get(at).copied().unwrap_or_default();
        let is_variable = segment.starts_with('{');
        is_prefix &= if is_variable { own.starts_with('{') } else { own == segment };
        segments.push(match is_variable {
            true if is_prefix => own,
            true if template.variables().any(|name| segment == format!("{{{name}}}")) => segment,
            true => return None,
            false => segment,
        });
    }
    Some(format!("{}/{{key}}", segments.join("/")))
}

/// Why a request that takes no key deserves one.
fn reasons(document: &Document<'_>, api: &Api<'_>, operation: &Operation<'_>) -> Result<Vec<String>, Wrong> {
    let mut reasons = Vec::new();
    let creates = operation.responses.iter().any(|response| response.status == "201");
    let last = words(operation.path.rsplit('/').find(|part| !part.starts_with('{')).unwrap_or_default());
    if !creates && last.iter().any(|word| ASKING.contains(&singular(word).as_str())) {
        return Ok(reasons);
    }
    let under = |path: &&str| path.rsplit_once('/').is_some_and(|(front, _)| shape(front) == shape(&operation.path));
    match (creates, items(api, &operation.path).find(under)) {
        (_, Some(item)) => reasons.push(format!("it creates what GET {} shows", shown(item))),
        (true, None) => reasons.push("it answers 201, so it creates something".to_owned()),
        (false, None) => {}
    }
    let in_path = operation.path.split('/').filter(|part| !part.starts_with('{'));
    let mut money: Vec<&str> = in_path.filter(|part| is_money(part)).collect();
    if let Some(schema) = operation.content.schema {
        money.extend(document.names(schema)?.into_iter().filter(|name| is_money(name)));
    }
    if !money.is_empty() {
        let mut names: Vec<String> = Vec::new();
        for name in money.into_iter().map(shown) {
            if !names.contains(&name) && names.len() < 4 {
                names.push(name);
            }
        }
        reasons.push(format!("it seems to move money ({})", names.join(", ")));
    }
    Ok(reasons)
}

/// Content that a gateway does not hold in memory unless it is told to.
fn large_content(operation: &Operation<'_>, lines: &mut Vec<Line>) {
    let media = &operation.content.media;
    let is_large = |media: &&String| media.starts_with("multipart/") || media.as_str() == "application/octet-stream";
    if let Some(media) = media.iter().find(is_large) {
        let media = shown(media);
        let text =
            format!("Its content may be {media}: with a key, what is larger than request_body_bytes_max is refused.");
        lines.push(Line::Say(text));
        let why = "at most 64 MiB".to_owned();
        lines.push(Line::Propose { name: "request_body_bytes_max".to_owned(), value: quoted("16 MiB"), why });
    }
}

/// The responses whose statuses clients of a gateway meet too, and which of its problems they tell.
fn statuses(operation: &Operation<'_>, lines: &mut Vec<Line>) {
    let mut proposed: Vec<ProblemType> = Vec::new();
    let has_key = key_headers(operation).next().is_some();
    for response in &operation.responses {
        let problems = problems(response.status, response.description, has_key);
        if !matches!(response.status, "409" | "422" | "425" | "503") && problems.is_empty() {
            continue;
        }
        lines.push(Line::Say(format!("{}: \"{}\"", shown(response.status), shown(response.description))));
        for problem in problems {
            let default = problem.default_status();
            if default.as_str() != response.status && !proposed.contains(&problem) {
                proposed.push(problem);
                lines.push(Line::Propose {
                    name: format!("problems.{}", problem.code()),
                    value: format!("{{ status = {} }}", response.status),
                    why: format!("as the API says it; otherwise {default}", default = default.as_str()),
                });
            }
        }
    }
}

/// The problems of Semel's that a documented response tells.
fn problems(status: &str, description: &str, has_key: bool) -> Vec<ProblemType> {
    const MEANINGS: [(ProblemType, &[&str]); 4] = [
        (
            ProblemType::InFlight,
            &["in progress", "in flight", "in-flight", "concurrent", "still being", "still runs", "still running"],
        ),
        (ProblemType::KeyReused, &["different", "reuse", "re-use", "mismatch", "another", "not match"]),
        (ProblemType::KeyMissing, &["missing", "required"]),
        (ProblemType::KeyInvalid, &["invalid", "malformed"]),
    ];
    if !status.starts_with('4') || status.len() != 3 || !status.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    if status == "425" {
        return vec![ProblemType::InFlight];
    }
    let is_about_keys =
        says(description, &["idempoten", "same key"]) || (has_key && says(description, &["the key", "this key"]));
    if !is_about_keys {
        return Vec::new();
    }
    let meant = MEANINGS.iter().filter(|(_, words)| says(description, words));
    let several: Vec<ProblemType> = meant.map(|(problem, _)| *problem).collect();
    // Beside a reused key, "required" and "invalid" are about something else.
    let is_told = |problem: &ProblemType| match problem {
        ProblemType::KeyMissing | ProblemType::KeyInvalid => !several.contains(&ProblemType::KeyReused),
        _ => true,
    };
    several.iter().copied().filter(is_told).collect()
}

/// The headers that are idempotency keys by their names.
fn key_headers<'o, 'd>(operation: &'o Operation<'d>) -> impl Iterator<Item = &'o Parameter<'d>> {
    let is_header = |parameter: &&Parameter<'_>| {
        parameter.place == "header" && HeaderName::from_bytes(parameter.name.as_bytes()).is_ok()
    };
    operation.parameters.iter().filter(is_header).filter(|parameter| is_key_name(parameter.name))
}

fn is_key_name(name: &str) -> bool {
    let name = letters(name);
    // OASIS Repeatable Requests 1.0 has a name of its own.
    name.contains("idempoten") || name == "repeatabilityrequestid"
}

fn is_perhaps_key(parameter: &Parameter<'_>) -> bool {
    parameter.place == "header"
        && HeaderName::from_bytes(parameter.name.as_bytes()).is_ok()
        && (PERHAPS.iter().any(|end| letters(parameter.name).ends_with(end))
            || says(parameter.description, &["idempoten"]))
}

fn tells_existing(description: &str) -> bool {
    says(description, &["exist", "already", "duplicate", "taken", "conflict"])
}

fn says(text: &str, any: &[&str]) -> bool {
    let text = text.to_lowercase();
    any.iter().any(|words| text.contains(words))
}

/// The paths of GETs on one item of what is at `path`: `/orders/{id}` for `/orders`, those below it before others.
fn items<'a>(api: &'a Api<'_>, path: &str) -> impl Iterator<Item = &'a str> {
    let own = last_word(path).map(|word| singular(&word));
    let here = shape(path);
    let gets = api.operations.iter().filter(|operation| operation.method == Method::GET);
    let mut items: Vec<&str> = gets
        .map(|operation| operation.path.as_str())
        .filter(|path| {
            let Some((front, last)) = path.rsplit_once('/') else { return false };
            last.starts_with('{') && own.is_some() && last_word(front).map(|word| singular(&word)) == own
        })
        .collect();
    items.sort_by_key(|path| path.rsplit_once('/').is_none_or(|(front, _)| shape(front) != here));
    items.into_iter()
}

/// The last segment of a path, unless it is a variable: letters and digits only, in lower case.
fn last_word(path: &str) -> Option<String> {
    let last = path.trim_end_matches('/').rsplit('/').next().filter(|last| !last.is_empty() && !last.contains('{'))?;
    Some(letters(last))
}

fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn singular(word: &str) -> String {
    match (word.strip_suffix("ies"), word.strip_suffix('s')) {
        (Some(stem), _) if !stem.is_empty() => format!("{stem}y"),
        (_, Some(stem)) if !stem.is_empty() && !stem.ends_with('s') => stem.to_owned(),
        _ => word.to_owned(),
    }
}

/// The words of `delivery_fee`, `deliveryFee` and `delivery-fee`, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && was_lower) {
            words.push(String::new());
        }
        was_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        if let (true, Some(word)) = (c.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_money(name: &str) -> bool {
    words(name).iter().any(|word| MONEY.contains(&word.as_str()) || MONEY.contains(&singular(word).as_str()))
}

/// Something and its line, as far as they are known.
pub(super) fn at(what: &str, line: usize) -> String {
    match (what, line) {
        (what, 0) => what.to_owned(),
        ("", line) => format!("line {line}"),
        (what, line) => format!("{what}, line {line}"),
    }
}

fn pointer(member: &str) -> String {
    quoted(&format!("/{}", member.replace('~', "~0").replace('/', "~1")))
}

/// The segments of a path; `None` stands for any one.
fn shape(path: &str) -> Vec<Option<String>> {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.map(|segment| (!segment.contains('{')).then(|| segment.to_owned())).collect()
}

fn is_whole_variable(segment: &str) -> bool {
    segment.starts_with('{') && segment.find('}') == Some(segment.len() - 1)
}

/// What clients encode in a path before they send it.
const ENCODED: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'|');

/// A path of OpenAPI as a route names it, or why no route can.
fn template(path: &str) -> Result<(String, PathTemplate), String> {
    if path.contains(['?', '#']) {
        return Err("it is told from others by a query or fragment, and a route covers a path".to_owned());
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        if segment.contains('*') {
            return Err("it has a * in it, which in a route stands for any rest".to_owned());
        }
        let variable = segment.find('{').and_then(|start| {
            let end = segment[start..].find('}')?;
            Some(&segment[start..=start + end])
        });
        segments.push(match variable {
            Some(variable) => variable.to_owned(),
            None => percent_encoding::utf8_percent_encode(segment, ENCODED).to_string(),
        });
    }
    let path = segments.join("/");
    let template = path.parse::<PathTemplate>().map_err(|error| shown(&error))?;
    Ok((path, template))
}
