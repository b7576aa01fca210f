//! What an OpenAPI 3.0 or 3.1 document says of its API, as far as it matters for retries.
//!
//! Both versions are one walk: of what is read here, they differ only in how a schema says "or null". Nothing is
//! fetched: a reference that leaves the document is noted.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use http::Method;

use super::{
    tree::{Node, Object, Wrong},
    write::shown,
};

/// The most operations that write.
pub(super) const OPERATIONS_MAX: usize = 5_000;
/// The most references that lead from one to the next.
const REFERENCES_MAX: usize = 16;
/// The most parts of schemas that are read for one operation.
const SCHEMA_PARTS_MAX: usize = 10_000;

/// Something in the document that a person has to look at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Note {
    pub line: usize,
    pub text: String,
}

/// An API as its document describes it.
#[derive(Debug)]
pub(super) struct Api<'d> {
    /// Its title and version.
    pub title: String,
    /// The version of OpenAPI, as it is written.
    pub openapi: String,
    pub servers: Vec<Server>,
    /// In the order of the document.
    pub operations: Vec<Operation<'d>>,
    /// By name.
    pub schemes: BTreeMap<&'d str, Scheme>,
}

/// Where an API is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Server {
    pub line: usize,
    /// With the defaults of its variables put in.
    pub url: String,
}

impl Server {
    /// Scheme and authority, where the URL has them.
    pub(super) fn origin(&self) -> Option<&str> {
        self.parts().0
    }

    /// The path before every path of the document, without a slash at its end.
    pub(super) fn base(&self) -> String {
        let path = self.parts().1.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let path = path.trim_start_matches("./");
        if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
    }

    fn parts(&self) -> (Option<&str>, &str) {
        let Some(at) = self.url.find("://") else { return (None, &self.url) };
        let end = self.url[at + 3..].find('/').map_or(self.url.len(), |end| at + 3 + end);
        (Some(&self.url[..end]), &self.url[end..])
    }
}

#[derive(Debug)]
pub(super) struct Operation<'d> {
    pub method: Method,
    /// With the server's path before it.
    pub path: String,
    pub line: usize,
    /// Its `operationId`, or nothing.
    pub id: &'d str,
    pub is_deprecated: bool,
    pub parameters: Vec<Parameter<'d>>,
    pub content: Content<'d>,
    pub responses: Vec<Response<'d>>,
    /// The names of the security schemes that it asks for, in any combination.
    pub schemes: Vec<&'d str>,
    /// Whether a request without credentials is answered too.
    pub is_open: bool,
    /// Whether all of it is in this document.
    pub is_whole: bool,
    /// Another server than the API's, if it has one.
    pub elsewhere: Option<String>,
}

#[derive(Debug)]
pub(super) struct Parameter<'d> {
    pub name: &'d str,
    /// `header`, `query`, `path` or `cookie`.
    pub place: &'d str,
    pub line: usize,
    pub is_required: bool,
    pub description: &'d str,
    pub schema: Option<&'d Node>,
}

#[derive(Debug, Default)]
pub(super) struct Content<'d> {
    /// The media types, without parameters, in lower case.
    pub media: Vec<String>,
    /// The schema of the JSON among them.
    pub schema: Option<&'d Node>,
}

#[derive(Debug)]
pub(super) struct Response<'d> {
    pub status: &'d str,
    pub description: &'d str,
}

/// How an API knows who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    /// A header of this name.
    Header(String),
    /// `Authorization`, with what stays the same as long as the account does.
    Lasting,
    /// `Authorization`, with what is renewed from time to time.
    Renewed,
    /// What no header of its own holds, in words.
    Elsewhere(String),
}

/// A document while it is read.
#[derive(Debug)]
pub(super) struct Document<'d> {
    root: &'d Node,
    /// What is being read, such as `POST /orders`.
    about: RefCell<String>,
    notes: RefCell<Vec<Note>>,
    /// Whether a reference led out of the document since it was last asked.
    has_left: Cell<bool>,
    schema_parts: Cell<usize>,
}

/// What the Reference Object of 3.0 and 3.1 is made of.
const REFERENCE: &str = "$ref";

impl<'d> Document<'d> {
    pub(super) fn new(root: &'d Node) -> Document<'d> {
        Document {
            root,
            about: RefCell::default(),
            notes: RefCell::default(),
            has_left: Cell::new(false),
            schema_parts: Cell::new(0),
        }
    }

    pub(super) fn note(&self, line: usize, text: impl Into<String>) {
        let (about, text) = (self.about.borrow(), text.into());
        let text = if about.is_empty() { text } else { format!("{about}: {text}") };
        let note = Note { line, text };
        let mut notes = self.notes.borrow_mut();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// What was noted since it was last asked.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        self.notes.take()
    }

    /// Where a chain of references ends; `None` where it leaves the document, which is noted.
    pub(super) fn follow(&self, node: &'d Node) -> Result<Option<&'d Node>, Wrong> {
        let mut node = node;
        for _ in 0..REFERENCES_MAX {
            let Some(target) = node.get(REFERENCE) else { return Ok(Some(node)) };
            let Some(text) = target.text() else { return Ok(Some(node)) };
            let Some(pointer) = text.strip_prefix('#').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
                let text = shown(text);
                self.has_left.set(true);
                let why = if text.starts_with('#') {
                    "names an anchor, which is not followed: write where it is, such as #/components/schemas/Order"
                } else {
                    "is outside this document and was not read: bundle it into one"
                };
                self.note(target.line, format!("{text} {why}"));
                return Ok(None);
            };
            node = self.at(pointer).ok_or_else(|| {
                let text = shown(text);
                Wrong::new(target.line, format!("the reference {text} leads nowhere: mend it, or add what it names"))
            })?;
        }
        Err(Wrong::new(node.line, format!("over {REFERENCES_MAX} references lead from one to the next here")))
    }

    fn at(&self, pointer: &str) -> Option<&'d Node> {
        let mut node = self.root;
        for token in pointer.split('/').skip(1) {
            let token = percent_encoding::percent_decode_str(token).decode_utf8().ok()?;
            let token = token.replace("~1", "/").replace("~0", "~");
            node = match node.items() {
                Some(items) => items.get(token.parse::<usize>().ok()?)?,
                None => node.get(&token)?,
            };
        }
        Some(node)
    }

    /// Counts one more part of a schema; false when enough were read for this operation.
    pub(super) fn may_read_schema(&self, line: usize) -> bool {
        let parts = self.schema_parts.get() + 1;
        self.schema_parts.set(parts);
        if parts == SCHEMA_PARTS_MAX {
            self.note(line, format!("the schema has over {SCHEMA_PARTS_MAX} parts; what follows here was not read"));
        }
        parts < SCHEMA_PARTS_MAX
    }

    /// Begins with another operation, or with none.
    pub(super) fn begin(&self, about: &str) {
        about.clone_into(&mut self.about.borrow_mut());
        self.schema_parts.set(0);
    }

    pub(super) fn api(&self) -> Result<Api<'d>, Wrong> {
        let openapi = version(self.root)?;
        let info = self.root.get("info");
        let about = |name: &str| info.and_then(|info| text_of(info, name)).map(shown).unwrap_or_default();
        let title = match (about("title"), about("version")) {
            (title, _) if title.is_empty() => "an API without a title".to_owned(),
            (title, version) => format!("{title} {version}").trim().to_owned(),
        };
        let servers = servers(self.root)?;
        let base = servers.first().map(Server::base).unwrap_or_default();
        if let Some(other) = servers.iter().find(|server| server.base() != base) {
            let base = if base.is_empty() { "/" } else { &base };
            self.note(
                other.line,
                format!("the servers have different paths: the routes begin with the first one's, {}", shown(base)),
            );
        }
        let Some(paths) = self.root.get("paths") else {
            return Err(Wrong::new(0, "the document has no `paths`: there is nothing to cover"));
        };
        let mut api = Api { title, openapi, servers, operations: Vec::new(), schemes: self.schemes()? };
        for path in object(paths, "`paths`")?.iter().filter(|path| !path.name.starts_with("x-")) {
            if !path.name.starts_with('/') {
                let name = shown(&path.name);
                return Err(Wrong::new(path.line, format!("the path \"{name}\" must begin with a slash")));
            }
            self.path(&path.name, &path.node, &mut api)?;
        }
        self.begin("");
        Ok(api)
    }

    fn path(&self, path: &str, item: &'d Node, api: &mut Api<'d>) -> Result<(), Wrong> {
        self.begin(&shown(path));
        let Some(item) = self.follow(item)? else { return Ok(()) };
        let members = object(item, "a path")?;
        self.has_left.set(false);
        let shared = self.parameters(item)?;
        let is_shared_whole = !self.has_left.get();
        for member in members.iter() {
            let method = match member.name.as_str() {
                "get" => Method::GET,
                "post" => Method::POST,
                "put" => Method::PUT,
                "patch" => Method::PATCH,
                "delete" => Method::DELETE,
                _ => continue,
            };
            // What a GET takes and answers matters to nobody here.
            let is_read = method == Method::GET;
            self.begin(&format!("{method} {}", shown(path)));
            self.has_left.set(false);
            let operation = match &member.node {
                node if is_read => node,
                node => match self.follow(node)? {
                    Some(operation) => operation,
                    None => continue,
                },
            };
            object(operation, "an operation")?;
            let server = match servers(operation)?.into_iter().next() {
                Some(server) => Some(server),
                None => servers(item)?.into_iter().next(),
            };
            let base = server.as_ref().or(api.servers.first()).map(Server::base).unwrap_or_default();
            let origin = api.servers.first().and_then(Server::origin);
            let other = server.as_ref().and_then(Server::origin).filter(|other| origin != Some(*other));
            let elsewhere = other.map(str::to_owned);
            let (schemes, is_open) = self.security(operation)?;
            let mut described = Operation {
                method,
                path: format!("{base}{path}"),
                line: member.line,
                id: text_of(operation, "operationId").unwrap_or_default(),
                is_deprecated: operation.get("deprecated").is_some_and(Node::is_true),
                parameters: Vec::new(),
                content: Content::default(),
                responses: Vec::new(),
                schemes,
                is_open,
                is_whole: true,
                elsewhere,
            };
            if !is_read {
                described.parameters = self.parameters(operation)?;
                let own = |shared: &Parameter<'_>| {
                    described.parameters.iter().any(|own| own.name == shared.name && own.place == shared.place)
                };
                let inherited: Vec<Parameter<'d>> =
                    shared.iter().filter(|parameter| !own(parameter)).map(Parameter::again).collect();
                described.parameters.extend(inherited);
                described.content = self.content(operation)?;
                described.responses = self.responses(operation)?;
                described.is_whole = is_shared_whole && !self.has_left.get();
            }
            api.operations.push(described);
            if api.operations.iter().filter(|operation| operation.method != Method::GET).count() > OPERATIONS_MAX {
                let message = format!("over {OPERATIONS_MAX} operations write here: give the document in parts");
                return Err(Wrong::new(member.line, message));
            }
        }
        Ok(())
    }

    /// The parameters of a path or an operation; those of which nothing is known are noted.
    fn parameters(&self, of: &'d Node) -> Result<Vec<Parameter<'d>>, Wrong> {
        let Some(list) = of.get("parameters") else { return Ok(Vec::new()) };
        let Some(items) = list.items() else {
            return Err(expected(list, "`parameters`", "a list"));
        };
        let mut parameters = Vec::with_capacity(items.len());
        for item in items {
            let line = item.line;
            let Some(item) = self.follow(item)? else { continue };
            object(item, "a parameter")?;
            let part = |name: &str| {
                text_of(item, name).ok_or_else(|| Wrong::new(item.line, format!("this parameter has no `{name}`")))
            };
            parameters.push(Parameter {
                name: part("name")?,
                place: part("in")?,
                line,
                is_required: truth(item, "required")?,
                description: text_of(item, "description").unwrap_or_default(),
                schema: item.get("schema").or_else(|| {
                    let content = item.get("content").and_then(Node::members)?;
                    content.iter().next()?.node.get("schema")
                }),
            });
        }
        Ok(parameters)
    }

    fn content(&self, operation: &'d Node) -> Result<Content<'d>, Wrong> {
        let Some(body) = operation.get("requestBody") else { return Ok(Content::default()) };
        let Some(body) = self.follow(body)? else { return Ok(Content::default()) };
        object(body, "`requestBody`")?;
        let Some(media) = body.get("content") else { return Ok(Content::default()) };
        let mut content = Content::default();
        for member in object(media, "`content`")?.iter() {
            let name = member.name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            let is_json = name == "application/json" || name.ends_with("+json") || name == "*/*";
            if is_json && content.schema.is_none() {
                content.schema = member.node.get("schema");
            }
            content.media.push(name);
        }
        Ok(content)
    }

    fn responses(&self, operation: &'d Node) -> Result<Vec<Response<'d>>, Wrong> {
        let Some(responses) = operation.get("responses") else { return Ok(Vec::new()) };
        let mut described = Vec::new();
        for member in object(responses, "`responses`")?.iter() {
            let Some(response) = self.follow(&member.node)? else { continue };
            let description = text_of(response, "description").unwrap_or_default();
            described.push(Response { status: &member.name, description });
        }
        Ok(described)
    }

    /// The schemes that an operation asks for, and whether it can do without any.
    fn security(&self, operation: &'d Node) -> Result<(Vec<&'d str>, bool), Wrong> {
        let Some(list) = operation.get("security").or_else(|| self.root.get("security")) else {
            return Ok((Vec::new(), true));
        };
        let Some(alternatives) = list.items() else {
            return Err(expected(list, "`security`", "a list"));
        };
        let mut names: Vec<&str> = Vec::new();
        let mut is_open = alternatives.is_empty();
        for alternative in alternatives {
            let members = object(alternative, "a security requirement")?;
            is_open |= members.is_empty();
            for member in members.iter().filter(|member| !names.contains(&member.name.as_str())).collect::<Vec<_>>() {
                names.push(&member.name);
            }
        }
        Ok((names, is_open))
    }

    fn schemes(&self) -> Result<BTreeMap<&'d str, Scheme>, Wrong> {
        let Some(declared) = self.root.get("components").and_then(|components| components.get("securitySchemes"))
        else {
            return Ok(BTreeMap::new());
        };
        let mut schemes = BTreeMap::new();
        for member in object(declared, "`securitySchemes`")?.iter() {
            let Some(scheme) = self.follow(&member.node)? else { continue };
            let part = |name: &str| text_of(scheme, name).unwrap_or_default();
            let http = part("scheme").to_ascii_lowercase();
            let kind = match (part("type"), part("in")) {
                ("apiKey", "header") if !part("name").is_empty() => Scheme::Header(part("name").to_owned()),
                ("apiKey", place) => Scheme::Elsewhere(format!("the {} {}", place_of(place), shown(part("name")))),
                ("http", _) if http == "basic" => Scheme::Lasting,
                ("http" | "oauth2" | "openIdConnect", _) => Scheme::Renewed,
                ("mutualTLS", _) => Scheme::Elsewhere("the client's certificate".to_owned()),
                (other, _) => Scheme::Elsewhere(format!("a scheme of the type \"{}\"", shown(other))),
            };
            schemes.insert(member.name.as_str(), kind);
        }
        Ok(schemes)
    }
}

impl<'d> Parameter<'d> {
    fn again(&self) -> Parameter<'d> {
        Parameter { ..*self }
    }
}

fn place_of(place: &str) -> &'static str {
    match place {
        "query" => "query parameter",
        "cookie" => "cookie",
        _ => "unnamed place",
    }
}

fn version(root: &Node) -> Result<String, Wrong> {
    let Some(members) = root.members() else {
        return Err(expected(root, "the document", "an OpenAPI document, which is an object"));
    };
    if let Some(old) = members.get("swagger") {
        let message = "this is a Swagger document: convert it to OpenAPI 3 first, for example with swagger2openapi";
        return Err(Wrong::new(old.line, message));
    }
    let Some(version) = members.get("openapi") else {
        let message = "this is no OpenAPI document: it has no member `openapi`, such as openapi: 3.1.0";
        return Err(Wrong::new(root.line, message));
    };
    let text = version.text().unwrap_or_default();
    if !["3.0", "3.1"]
        .iter()
        .any(|known| text == *known || text.strip_prefix(known).is_some_and(|c| c.starts_with('.')))
    {
        let found = if text.is_empty() { version.kind().to_owned() } else { format!("\"{}\"", shown(text)) };
        return Err(Wrong::new(version.line, format!("`openapi` must be 3.0.x or 3.1.x, found {found}")));
    }
    Ok(shown(text))
}

fn servers(of: &Node) -> Result<Vec<Server>, Wrong> {
    let Some(list) = of.get("servers") else { return Ok(Vec::new()) };
    let Some(items) = list.items() else { return Err(expected(list, "`servers`", "a list")) };
    let server = |item: &Node| {
        let Some(url) = item.get("url").and_then(Node::text) else {
            return Err(Wrong::new(item.line, "this server has no `url`"));
        };
        let mut url = url.trim().to_owned();
        for variable in item.get("variables").and_then(Node::members).into_iter().flat_map(Object::iter) {
            if let Some(default) = text_of(&variable.node, "default") {
                url = url.replace(&format!("{{{}}}", variable.name), default);
            }
        }
        Ok(Server { line: item.line, url })
    };
    items.iter().map(server).collect()
}

/// The members of what must be an object.
fn object<'d>(node: &'d Node, what: &str) -> Result<&'d Object, Wrong> {
    node.members().ok_or_else(|| expected(node, what, "an object"))
}

fn expected(node: &Node, what: &str, right: &str) -> Wrong {
    Wrong::new(node.line, format!("{what} must be {right}, found {}", node.kind()))
}

/// The text of a member.
pub(super) fn text_of<'d>(node: &'d Node, name: &str) -> Option<&'d str> {
    node.get(name).and_then(Node::text)
}

/// A member that is true or false, and false where it is not there.
fn truth(node: &Node, name: &str) -> Result<bool, Wrong> {
    use super::tree::Value;
    match node.get(name) {
        None => Ok(false),
        Some(Node { value: Value::Bool(value), .. }) => Ok(*value),
        Some(other) => Err(expected(other, &format!("`{name}`"), "true or false")),
    }
}
