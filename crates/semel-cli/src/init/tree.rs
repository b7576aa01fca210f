//! A JSON or YAML document as a tree whose every value knows its line, with limits on all that can grow.

use std::{collections::HashMap, iter};

use json_event_parser::{JsonEvent, LowLevelJsonParser};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

/// The largest document, in bytes.
pub(super) const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// The most values in a document, each counted as often as an alias repeats it.
const DOCUMENT_VALUES_MAX: usize = 2_000_000;
/// The deepest nesting in a document.
const DOCUMENT_DEPTH_MAX: usize = 128;

/// What is wrong, and on which line; line 0 is the document as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub line: usize,
    pub message: String,
}

impl Wrong {
    pub(super) fn new(line: usize, message: impl Into<String>) -> Wrong {
        Wrong { line, message: message.into() }
    }
}

/// A value and the line on which it begins, counted from 1; 0 in JSON on one line, where numbers would say nothing.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As it is written: a version such as 3.10 is no number.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Object),
}

/// Members in the order of the document, no two of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    members: Vec<Member>,
    /// Places in `members`, ordered by name.
    by_name: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub name: String,
    pub line: usize,
    pub node: Node,
}

impl Node {
    /// The member of this name; `None` also where this is no object.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.members()?.get(name)
    }

    pub(super) fn members(&self) -> Option<&Object> {
        match &self.value {
            Value::Object(object) => Some(object),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    pub(super) fn items(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Object(_) => None,
        }
    }

    /// A text, or a number as it is written.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Object(_) => None,
        }
    }

    pub(super) fn is_true(&self) -> bool {
        matches!(self.value, Value::Bool(true))
    }

    /// What it is, in words for an error.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }

    fn count(&self) -> usize {
        match &self.value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 1,
            Value::List(items) => 1 + items.iter().map(Node::count).sum::<usize>(),
            Value::Object(object) => 1 + object.iter().map(|member| member.node.count()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        match &self.value {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 0,
            Value::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Object(object) => 1 + object.iter().map(|member| member.node.depth()).max().unwrap_or(0),
        }
    }
}

impl Object {
    fn new(members: Vec<Member>) -> Result<Object, Wrong> {
        let mut by_name: Vec<usize> = (0..members.len()).collect();
        by_name.sort_by(|a, b| members[*a].name.cmp(&members[*b].name));
        if let Some(pair) = by_name.windows(2).find(|pair| members[pair[0]].name == members[pair[1]].name) {
            let (first, second) = (&members[pair[0]], &members[pair[1]]);
            let name = super::write::shown(&first.name);
            return Err(Wrong::new(
                second.line,
                format!("the member \"{name}\" is there twice, first on line {}: keep one of them", first.line),
            ));
        }
        Ok(Object { members, by_name })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let found = self.by_name.binary_search_by(|at| self.members[*at].name.as_str().cmp(name)).ok()?;
        Some(&self.members[self.by_name[found]].node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Reads a document: JSON where it begins with a brace, and otherwise YAML.
pub(super) fn read(bytes: &[u8]) -> Result<Node, Wrong> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        let mib = DOCUMENT_BYTES_MAX >> 20;
        return Err(Wrong::new(
            0,
            format!("the document is over {mib} MiB, and so much is not read: give a part of it"),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_at(bytes, error.valid_up_to());
        Wrong::new(line, "this is not UTF-8: save the document as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with('{') {
        return yaml(text);
    }
    // YAML may begin with a brace too; what is wrong is then told in the words of JSON, which is the likelier.
    json(text).or_else(|wrong| yaml(text).map_err(|_| wrong))
}

/// The line of the byte at `at`, counted from 1.
fn line_at(bytes: &[u8], at: usize) -> usize {
    bytes[..at].split(|byte| *byte == b'\n').count()
}

fn json(text: &str) -> Result<Node, Wrong> {
    let bytes = text.as_bytes();
    let is_one_line = !text.trim().contains('\n');
    let mut parser = LowLevelJsonParser::new().with_max_stack_size(2 * DOCUMENT_DEPTH_MAX + 8);
    let mut builder = Builder::default();
    let (mut at, mut line) = (0, 1);
    loop {
        // A value has the line on which it begins, and none holds a line break.
        let blank = bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace() || b",:".contains(byte)).count();
        line += line_at(&bytes[at..], blank) - 1;
        line *= usize::from(!is_one_line);
        let result = parser.parse_next(&bytes[at..], true);
        at += result.consumed_bytes;
        let event = match result.event {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                let line = usize::try_from(error.location().start.line).unwrap_or(0) + 1;
                return Err(Wrong::new(line, format!("this is not JSON: {}", error.message())));
            }
            None => return Err(Wrong::new(line, "this is not JSON: it ends too early")),
        };
        match event {
            JsonEvent::Null => builder.value(Node { line, value: Value::Null })?,
            JsonEvent::Boolean(value) => builder.value(Node { line, value: Value::Bool(value) })?,
            JsonEvent::Number(number) => builder.value(Node { line, value: Value::Number(number.into_owned()) })?,
            JsonEvent::String(text) => builder.value(Node { line, value: Value::Text(text.into_owned()) })?,
            JsonEvent::ObjectKey(name) => builder.name(name.into_owned(), line)?,
            JsonEvent::StartArray => builder.open(line, Open::List(Vec::new()))?,
            JsonEvent::StartObject => builder.open(line, Open::Object { members: Vec::new(), name: None })?,
            JsonEvent::EndArray | JsonEvent::EndObject => builder.close()?,
            JsonEvent::Eof => return builder.end(),
        }
    }
}

fn yaml(text: &str) -> Result<Node, Wrong> {
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder::default();
    let mut anchors: HashMap<usize, (Node, usize)> = HashMap::new();
    // Of every list and object that is open: its anchor, 0 for none.
    let mut open: Vec<usize> = Vec::new();
    let mut documents = 0;
    let events = iter::from_fn(|| parser.next_event());
    for event in events {
        let (event, span): (Event<'_>, Span) = event.map_err(|error: ScanError| {
            Wrong::new(error.marker().line(), format!("this is not YAML: {}", error.info()))
        })?;
        let line = span.start.line();
        let (node, anchor) = match event {
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => continue,
            Event::StreamEnd => break,
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(Wrong::new(line, "a second document begins here: give one by itself"));
                }
                continue;
            }
            Event::SequenceStart(anchor, tag) => {
                untagged(tag.as_deref(), line)?;
                builder.open(line, Open::List(Vec::new()))?;
                open.push(anchor);
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                untagged(tag.as_deref(), line)?;
                builder.open(line, Open::Object { members: Vec::new(), name: None })?;
                open.push(anchor);
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let anchor = open.pop().unwrap_or(0);
                match builder.close_with(|node| (anchor != 0).then(|| node.clone()))? {
                    Some(node) => (Some(node), anchor),
                    None => continue,
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                untagged(tag.as_deref(), line)?;
                let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
                let value = if is_text { Value::Text(text.into_owned()) } else { plain(&text) };
                let node = Node { line, value };
                let kept = (anchor != 0).then(|| node.clone());
                builder.scalar(node)?;
                (kept, anchor)
            }
            Event::Alias(anchor) => {
                let Some((node, values)) = anchors.get(&anchor) else {
                    return Err(Wrong::new(line, "this alias is within what it stands for: write it out"));
                };
                builder.alias(node, *values, line)?;
                continue;
            }
        };
        if let Some(node) = node {
            let values = node.count();
            anchors.insert(anchor, (node, values));
        }
    }
    builder.end()
}

/// Only the tags of YAML itself are known.
fn untagged(tag: Option<&Tag>, line: usize) -> Result<(), Wrong> {
    let is_known = |tag: &&Tag| tag.is_yaml_core_schema() || (tag.handle.is_empty() && tag.suffix == "!");
    match tag.filter(|tag| !is_known(tag)) {
        None => Ok(()),
        Some(tag) => {
            let tag = super::write::shown(&tag.to_string());
            Err(Wrong::new(line, format!("the tag {tag} means nothing here: put in its place what it stands for")))
        }
    }
}

/// A scalar without quotes, in the core schema of YAML 1.2.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        number
            if number.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
                && number.parse::<f64>().is_ok() =>
        {
            Value::Number(number.to_owned())
        }
        text => Value::Text(text.to_owned()),
    }
}

/// What puts values into the lists and objects that are open.
#[derive(Debug, Default)]
struct Builder {
    open: Vec<(usize, Open)>,
    values: usize,
    root: Option<Node>,
}

#[derive(Debug)]
enum Open {
    List(Vec<Node>),
    Object {
        members: Vec<Member>,
        /// The member whose value comes next, and its line.
        name: Option<(String, usize)>,
    },
}

impl Builder {
    fn count(&mut self, values: usize, line: usize) -> Result<(), Wrong> {
        self.values = self.values.saturating_add(values);
        if self.values > DOCUMENT_VALUES_MAX {
            let message = format!("the document has over {DOCUMENT_VALUES_MAX} values, and so many are not read");
            return Err(Wrong::new(line, message));
        }
        Ok(())
    }

    fn deep(&self, more: usize, line: usize) -> Result<(), Wrong> {
        if self.open.len() + more > DOCUMENT_DEPTH_MAX {
            return Err(Wrong::new(line, format!("this is nested deeper than {DOCUMENT_DEPTH_MAX} levels")));
        }
        Ok(())
    }

    fn open(&mut self, line: usize, kind: Open) -> Result<(), Wrong> {
        self.count(1, line)?;
        self.deep(1, line)?;
        if let Some((_, Open::Object { name: None, .. })) = self.open.last() {
            return Err(Wrong::new(line, "the name of a member must be a text"));
        }
        self.open.push((line, kind));
        Ok(())
    }

    fn close(&mut self) -> Result<(), Wrong> {
        self.close_with(|_| None::<()>).map(drop)
    }

    /// Closes the innermost list or object; `keep` sees it whole before it goes where it belongs.
    fn close_with<T>(&mut self, keep: impl FnOnce(&Node) -> Option<T>) -> Result<Option<T>, Wrong> {
        let Some((line, kind)) = self.open.pop() else { return Ok(None) };
        let value = match kind {
            Open::List(items) => Value::List(items),
            Open::Object { members, .. } => Value::Object(merged(members)?),
        };
        let node = Node { line, value };
        let kept = keep(&node);
        self.put(node);
        Ok(kept)
    }

    fn name(&mut self, text: String, line: usize) -> Result<(), Wrong> {
        self.count(1, line)?;
        if let Some((_, Open::Object { name, .. })) = self.open.last_mut() {
            *name = Some((text, line));
        }
        Ok(())
    }

    /// A value, or in YAML the name of a member.
    fn scalar(&mut self, node: Node) -> Result<(), Wrong> {
        if let Some((_, Open::Object { name: None, .. })) = self.open.last() {
            let line = node.line;
            let name = match node.value {
                Value::Text(text) | Value::Number(text) => text,
                Value::Bool(value) => value.to_string(),
                Value::Null | Value::List(_) | Value::Object(_) => {
                    return Err(Wrong::new(line, "the name of a member must be a text"));
                }
            };
            return self.name(name, line);
        }
        self.value(node)
    }

    fn alias(&mut self, node: &Node, values: usize, line: usize) -> Result<(), Wrong> {
        self.count(values, line)?;
        self.deep(node.depth(), line)?;
        self.scalar(node.clone())
    }

    fn value(&mut self, node: Node) -> Result<(), Wrong> {
        self.count(1, node.line)?;
        self.put(node);
        Ok(())
    }

    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((_, Open::List(items))) => items.push(node),
            Some((_, Open::Object { members, name })) => {
                if let Some((name, line)) = name.take() {
                    members.push(Member { name, line, node });
                }
            }
        }
    }

    fn end(self) -> Result<Node, Wrong> {
        self.root.ok_or_else(|| Wrong::new(0, "the document is empty"))
    }
}

/// An object with what its member `<<` brings: many writers of YAML expect that, and would miss parameters otherwise.
fn merged(mut members: Vec<Member>) -> Result<Object, Wrong> {
    let Some(at) = members.iter().position(|member| member.name == "<<" && is_mergeable(&member.node)) else {
        return Object::new(members);
    };
    let sources = match members.remove(at).node.value {
        Value::List(items) => items,
        Value::Object(object) => vec![Node { line: 0, value: Value::Object(object) }],
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => Vec::new(),
    };
    let mut object = Object::new(members)?;
    for source in sources {
        let Value::Object(source) = source.value else { continue };
        let mut members = object.members.clone();
        members.extend(source.members.into_iter().filter(|member| object.get(&member.name).is_none()));
        object = Object::new(members)?;
    }
    Ok(object)
}

fn is_mergeable(node: &Node) -> bool {
    match &node.value {
        Value::Object(_) => true,
        Value::List(items) => items.iter().all(|item| item.members().is_some()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => false,
    }
}
