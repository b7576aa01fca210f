//! The text of `semel.toml`: settings, proposals and what there is to decide.

use std::fmt::Write as _;

use http::{HeaderName, Method};

use super::{
    document::{Api, Note, Scheme},
    judge::{Line, Section, at, heading},
};
use crate::config::Origin;

/// How wide the file is.
const WIDTH: usize = 120;
/// Where comments behind settings begin.
const COMMENT_COLUMN: usize = 44;
/// How much of a text of the document is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// A text of the document on one line, without what a terminal or a comment must not hold.
pub(super) fn shown(text: &str) -> String {
    let is_plain = |c: &char| {
        !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| word.chars().filter(is_plain).collect::<String>())
        .filter(|word| !word.is_empty())
        .collect();
    let line = words.join(" ");
    if line.chars().count() <= SHOWN_CHARS_MAX {
        return line;
    }
    let cut: String = line.chars().take(SHOWN_CHARS_MAX - 1).collect();
    format!("{}…", cut.trim_end())
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What the file amounts to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Written {
    pub text: String,
    /// Operations that have a route.
    pub covered: usize,
    /// Operations that take no key and deserve one, with the lines of the document.
    pub deserving: Vec<Note>,
    /// What a person has to decide.
    pub decisions: Vec<Note>,
}

/// Writes the file for an API that the document `name` describes.
pub(super) fn write(name: &str, api: &Api<'_>, sections: &[Section], notes: &[Note]) -> Written {
    let mut out = Out::default();
    let of = format!("{}, {} (OpenAPI {})", shown(name), api.title, api.openapi);
    out.say(&format!("Written by `semel init` from {of}. It is yours: the document is not read again."));
    for paragraph in LEGEND {
        out.text.push_str("#\n");
        out.say(paragraph);
    }
    out.blank();
    for note in notes {
        out.line(&Line::Decide { line: note.line, text: note.text.clone() });
    }
    if !notes.is_empty() {
        out.blank();
    }
    for line in principal(api) {
        out.line(&line);
    }
    out.text.push_str("\n[gateway]\n");
    for line in gateway(api) {
        out.line(&line);
    }
    out.text.push_str("\n[defaults]\n");
    for line in defaults(api) {
        out.line(&line);
    }
    for section in sections {
        out.blank();
        out.text.push_str(if section.is_route { "[[route]]\n" } else { "" });
        out.about = if section.is_route { section.heading.clone() } else { String::new() };
        for line in &section.lines {
            out.line(line);
        }
    }
    let unneeded = |operation: &&super::document::Operation<'_>| {
        [Method::PUT, Method::DELETE].contains(&operation.method)
            && !sections.iter().any(|section| section.heading == heading(operation))
    };
    let mut unneeded = api.operations.iter().filter(unneeded).peekable();
    if unneeded.peek().is_some() {
        out.blank();
        out.say(
            "Not covered: what is idempotent by itself (RFC 9110 section 9.2.2), as long as the API keeps to that.",
        );
        for operation in unneeded {
            out.wrap("#   ", "#   ", &at(&heading(operation), operation.line));
        }
    }
    let covered = sections.iter().filter(|section| section.is_route).count();
    if covered == 0 {
        // Without a route a file covers every path, which nobody asked for.
        out.blank();
        out.say(
            "The document has no operation that needs a route. Without any, every POST and PATCH would be covered.",
        );
        out.text.push_str("[[route]]\n");
        out.line(&Line::Set { name: "path", value: quoted("/"), why: "a place holder".to_owned() });
    }
    Written { text: out.text, covered, deserving: out.deserving, decisions: out.decisions }
}

const LEGEND: [&str; 3] = [
    "Lines with \"decide:\" are what the document cannot say. A setting in a comment is a proposal: take its # away to \
     have it. `semel config show` lists all settings, `semel config check` says what is wrong with a file.",
    "A request without a key passes through as before, unless key_presence = \"required\".",
    "Responses of the API are listed where clients meet their statuses from Semel too: 409 in-flight, outcome-unknown \
     and reply-gone, 422 key-reused, 503 store-unavailable (all in docs/reference/problems.md). A 503 of the API is \
     taken for \"nothing happened\": see effect_none.",
];

/// Who asks: from the security schemes that operations which write ask for, or else from all.
fn principal(api: &Api<'_>) -> Vec<Line> {
    let writing = || api.operations.iter().filter(|operation| operation.method != Method::GET);
    let is_used = |name: &str| writing().any(|operation| operation.schemes.contains(&name));
    let mut used: Vec<(&str, &Scheme)> =
        api.schemes.iter().filter(|(name, _)| is_used(name)).map(|(name, scheme)| (*name, scheme)).collect();
    if used.is_empty() {
        used = api.schemes.iter().map(|(name, scheme)| (*name, scheme)).collect();
    }
    let (mut headers, mut lines, mut is_renewed): (Vec<String>, _, _) = (Vec::new(), Vec::new(), false);
    let mut add = |header: &str| {
        if HeaderName::from_bytes(header.as_bytes()).is_ok() && !headers.iter().any(|h| h.eq_ignore_ascii_case(header))
        {
            headers.push(header.to_owned());
        }
    };
    for (name, scheme) in used {
        match scheme {
            Scheme::Header(header) => add(header),
            Scheme::Lasting => add("Authorization"),
            Scheme::Renewed => {
                add("Authorization");
                is_renewed = true;
            }
            Scheme::Elsewhere(place) => lines.push(Line::Decide {
                line: 0,
                text: format!(
                    "the scheme {} is in {place}, which no header of its own holds: callers who differ in nothing else \
                     share one key space",
                    shown(name)
                ),
            }),
        }
    }
    for parameter in writing().flat_map(|operation| &operation.parameters) {
        let is_credential = ["Authorization", "X-API-Key"].iter().any(|name| parameter.name.eq_ignore_ascii_case(name));
        if parameter.place == "header" && is_credential {
            add(parameter.name);
        }
    }
    if headers.is_empty() {
        let text = "the document does not say which header tells callers apart; unless set, these do".to_owned();
        lines.push(Line::Decide { line: 0, text });
        let value = r#"["Authorization", "X-API-Key"]"#.to_owned();
        lines.push(Line::Propose {
            name: "principal".to_owned(),
            value,
            why: "callers have key spaces of their own".to_owned(),
        });
        return lines;
    }
    let value = format!("[{}]", headers.iter().map(|header| quoted(header)).collect::<Vec<_>>().join(", "));
    let why = "from the security schemes: callers have key spaces of their own".to_owned();
    lines.push(Line::Set { name: "principal", value, why });
    if is_renewed {
        let text = "a token that is renewed between two tries makes another caller, whose retry executes again: \
                    clients must keep theirs while they retry";
        lines.push(Line::Decide { line: 0, text: text.to_owned() });
    }
    lines
}

fn gateway(api: &Api<'_>) -> Vec<Line> {
    let propose = |value: &str, why: &str| Line::Propose {
        name: "upstream".to_owned(),
        value: quoted(value),
        why: why.to_owned(),
    };
    let decide = |line, found: &str| {
        let text = format!("gateway.upstream is the API itself, as the gateway reaches it{found}");
        Line::Decide { line, text }
    };
    let Some(server) = api.servers.first() else {
        return vec![decide(0, "; the document names no server"), propose("http://127.0.0.1:3000", "")];
    };
    match server.origin() {
        Some(origin) if origin.starts_with("http://") && origin.parse::<Origin>().is_ok() => {
            let why = at("the first of `servers`", server.line);
            vec![Line::Set { name: "upstream", value: quoted(origin), why }]
        }
        Some(origin) => {
            let found = format!("; the document has {}, where clients reach it", shown(origin));
            vec![decide(server.line, &found), propose("http://127.0.0.1:3000", "")]
        }
        None => vec![decide(server.line, "; the document names only a path"), propose("http://127.0.0.1:3000", "")],
    }
}

fn defaults(api: &Api<'_>) -> Vec<Line> {
    let propose = |name: &str, value: &str, why: &str| Line::Propose {
        name: name.to_owned(),
        value: quoted(value),
        why: why.to_owned(),
    };
    let mut media = api.operations.iter().flat_map(|operation| &operation.content.media);
    let mut lines = Vec::new();
    if media.all(|media| media == "application/json" || media.ends_with("+json")) {
        lines.push(propose("fingerprint", "json", "white space and member order do not make another request"));
    }
    lines.push(propose("wait_max", "10s", "a retry whose first try still runs waits for the reply"));
    lines
}

#[derive(Default)]
struct Out {
    text: String,
    /// What the lines are about.
    about: String,
    deserving: Vec<Note>,
    decisions: Vec<Note>,
}

impl Out {
    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A comment, wrapped.
    fn say(&mut self, text: &str) {
        self.wrap("# ", "# ", text);
    }

    /// The same with every line but the first set in.
    fn decide(&mut self, text: &str) {
        self.wrap("# decide: ", "#   ", &format!("{text}."));
    }

    fn wrap(&mut self, first: &str, other: &str, text: &str) {
        let mut line = first.to_owned();
        let mut is_begun = false;
        for word in text.split_whitespace() {
            if is_begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _ = writeln!(self.text, "{line}");
                other.clone_into(&mut line);
                is_begun = false;
            }
            if is_begun {
                line.push(' ');
            }
            line.push_str(word);
            is_begun = true;
        }
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn setting(&mut self, setting: &str, why: &str) {
        if why.is_empty() {
            let _ = writeln!(self.text, "{setting}");
        } else if COMMENT_COLUMN.max(setting.chars().count() + 1) + 2 + why.chars().count() <= WIDTH {
            let _ = writeln!(
                self.text,
                "{setting:<width$}# {why}",
                width = COMMENT_COLUMN.max(setting.chars().count() + 1)
            );
        } else {
            self.say(&format!("{why}:"));
            let _ = writeln!(self.text, "{setting}");
        }
    }

    fn line(&mut self, line: &Line) {
        let about = if self.about.is_empty() { String::new() } else { format!("{}: ", self.about) };
        match line {
            Line::Set { name, value, why } => self.setting(&format!("{name} = {value}"), why),
            Line::Propose { name, value, why } => self.setting(&format!("# {name} = {value}"), why),
            Line::Say(text) => self.say(text),
            Line::Decide { line, text } => {
                self.decide(text);
                self.decisions.push(Note { line: *line, text: format!("{about}{text}") });
            }
            Line::Deserves { line, text } => {
                self.decide(text);
                self.deserving.push(Note { line: *line, text: format!("{about}{text}") });
            }
        }
    }
}
