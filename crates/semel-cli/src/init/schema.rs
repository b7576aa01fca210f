//! What a schema says of the members of a JSON content, over references and combinations.

use super::{
    document::{Document, text_of},
    tree::{Node, Value, Wrong},
};

/// How deep schemas are read.
const SCHEMA_DEPTH_MAX: usize = 12;

/// A member of the content.
#[derive(Debug)]
pub(super) struct Field<'d> {
    pub name: &'d str,
    pub line: usize,
    pub is_required: bool,
    pub facts: Facts<'d>,
}

/// What is known of one value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Facts<'d> {
    pub kind: Option<&'d str>,
    pub format: Option<&'d str>,
    pub description: Option<&'d str>,
    pub pattern: Option<&'d str>,
    pub length_max: Option<&'d str>,
    pub is_read_only: bool,
}

impl Facts<'_> {
    /// Whether it is a text, as far as that is said.
    pub(super) fn is_text(&self) -> bool {
        self.kind == Some("string") || (self.kind.is_none() && self.is_uuid())
    }

    pub(super) fn is_uuid(&self) -> bool {
        self.format.is_some_and(|format| format.eq_ignore_ascii_case("uuid"))
    }
}

impl<'d> Document<'d> {
    /// The members of the object that a schema describes, in order. What every alternative demands is required.
    pub(super) fn fields(&self, schema: &'d Node) -> Result<Vec<Field<'d>>, Wrong> {
        let Shape { members, required } = self.shape(schema, SCHEMA_DEPTH_MAX)?;
        let mut fields: Vec<Field<'_>> = Vec::new();
        for (name, line, node) in members {
            if !fields.iter().any(|field| field.name == name) {
                let is_required = required.contains(&name);
                fields.push(Field { name, line, is_required, facts: self.facts(node)? });
            }
        }
        Ok(fields)
    }

    /// The names of all members in a schema, inner ones too.
    pub(super) fn names(&self, schema: &'d Node) -> Result<Vec<&'d str>, Wrong> {
        let mut names = Vec::new();
        self.collect_names(schema, 4, &mut names)?;
        Ok(names)
    }

    fn collect_names(&self, schema: &'d Node, depth: usize, names: &mut Vec<&'d str>) -> Result<(), Wrong> {
        if depth == 0 {
            return Ok(());
        }
        for (name, _, node) in self.shape(schema, SCHEMA_DEPTH_MAX)?.members {
            if !names.contains(&name) {
                names.push(name);
                let items = self.follow(node)?.and_then(|node| node.get("items"));
                self.collect_names(items.unwrap_or(node), depth - 1, names)?;
            }
        }
        Ok(())
    }

    /// What is known of a value, from its schema and from what that is combined of.
    pub(super) fn facts(&self, schema: &'d Node) -> Result<Facts<'d>, Wrong> {
        let mut facts = Facts::default();
        self.collect_facts(schema, SCHEMA_DEPTH_MAX, &mut facts)?;
        Ok(facts)
    }

    fn collect_facts(&self, schema: &'d Node, depth: usize, facts: &mut Facts<'d>) -> Result<(), Wrong> {
        if depth == 0 || !self.may_read_schema(schema.line) {
            return Ok(());
        }
        // OpenAPI 3.1 lets a description stand beside a reference, and it is about this place.
        facts.description = facts.description.or(text_of(schema, "description"));
        let Some(schema) = self.follow(schema)? else { return Ok(()) };
        let kind = match schema.get("type").map(|kind| &kind.value) {
            Some(Value::Text(kind)) => Some(kind.as_str()),
            Some(Value::List(kinds)) => kinds.iter().filter_map(Node::text).find(|kind| *kind != "null"),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => None,
        };
        facts.kind = facts.kind.or(kind);
        facts.format = facts.format.or(text_of(schema, "format"));
        facts.description = facts.description.or(text_of(schema, "description"));
        facts.pattern = facts.pattern.or(text_of(schema, "pattern"));
        facts.length_max = facts.length_max.or(text_of(schema, "maxLength"));
        facts.is_read_only |= schema.get("readOnly").is_some_and(Node::is_true);
        for part in list(schema, "allOf") {
            self.collect_facts(part, depth - 1, facts)?;
        }
        // "This or null" says of the value what "this" says; several alternatives say nothing for sure.
        for name in ["anyOf", "oneOf"] {
            let mut real = list(schema, name).iter().filter(|part| text_of(part, "type") != Some("null"));
            if let (Some(only), None) = (real.next(), real.next()) {
                self.collect_facts(only, depth - 1, facts)?;
            }
        }
        Ok(())
    }

    fn shape(&self, schema: &'d Node, depth: usize) -> Result<Shape<'d>, Wrong> {
        let mut shape = Shape::default();
        if depth == 0 || !self.may_read_schema(schema.line) {
            return Ok(shape);
        }
        let Some(schema) = self.follow(schema)? else { return Ok(shape) };
        if let Some(properties) = schema.get("properties").and_then(Node::members) {
            let read = properties.iter().take_while(|member| self.may_read_schema(member.line));
            shape.members.extend(read.map(|member| (member.name.as_str(), member.line, &member.node)));
        }
        shape.required.extend(list(schema, "required").iter().filter_map(Node::text));
        for part in list(schema, "allOf") {
            let part = self.shape(part, depth - 1)?;
            shape.members.extend(part.members);
            shape.required.extend(part.required);
        }
        for name in ["anyOf", "oneOf"] {
            let real = list(schema, name).iter().filter(|part| text_of(part, "type") != Some("null"));
            let mut demanded: Option<Vec<&str>> = None;
            for part in real {
                let part = self.shape(part, depth - 1)?;
                shape.members.extend(part.members);
                demanded = Some(match demanded {
                    None => part.required,
                    Some(demanded) => demanded.into_iter().filter(|name| part.required.contains(name)).collect(),
                });
            }
            shape.required.extend(demanded.unwrap_or_default());
        }
        Ok(shape)
    }
}

/// The members of an object and which of them must be there.
#[derive(Debug, Default)]
struct Shape<'d> {
    members: Vec<(&'d str, usize, &'d Node)>,
    required: Vec<&'d str>,
}

fn list<'d>(schema: &'d Node, name: &str) -> &'d [Node] {
    schema.get(name).and_then(Node::items).unwrap_or_default()
}
