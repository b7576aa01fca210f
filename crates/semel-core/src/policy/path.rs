//! Paths as routes name them.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::words::from_text;

/// A path as a route names it: literal segments, `{name}` for any one segment, and `*` at the end for any rest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
    rest: Rest,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Segment {
    Literal(String),
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Rest {
    None,
    Any,
}

impl PathTemplate {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it covers a path in the form that [`normalise_path`](crate::admit::normalise_path) gives it.
    pub fn matches(&self, path: &str) -> bool {
        let mut parts = path.split('/').skip(1).filter(|part| !part.is_empty());
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Literal(literal), Some(part)) if literal == part => {}
                (Segment::Any, Some(_)) => {}
                _ => return false,
            }
        }
        self.rest == Rest::Any || parts.next().is_none()
    }
}

impl FromStr for PathTemplate {
    type Err = String;
    fn from_str(text: &str) -> Result<PathTemplate, String> {
        let wrong = |why: &str| Err(format!("the path template \"{text}\" {why}"));
        if !text.starts_with('/') {
            return wrong("must start with a slash");
        }
        if text.contains(['?', '#']) {
            return wrong("must not hold a query or fragment; the query always counts in the fingerprint");
        }
        let normal = crate::admit::normalise_path(text);
        let (body, rest) = match normal.strip_suffix("/*") {
            Some(body) => (body, Rest::Any),
            None => (normal.as_ref(), Rest::None),
        };
        let mut segments = Vec::new();
        for part in body.split('/').skip(1).filter(|part| !part.is_empty()) {
            let named = part.starts_with('{') && part.ends_with('}') && part.len() > 2;
            segments.push(match part {
                _ if named => Segment::Any,
                _ if part.contains(['{', '}', '*']) => {
                    return wrong("may use {name} for one whole segment, and * as the last one");
                }
                literal => Segment::Literal(literal.to_owned()),
            });
        }
        Ok(PathTemplate { text: text.to_owned(), segments, rest })
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PathTemplate, D::Error> {
        from_text(deserializer)
    }
}
