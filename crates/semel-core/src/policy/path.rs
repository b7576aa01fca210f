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
    Any(String),
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
                (Segment::Any(_), Some(_)) => {}
                _ => return false,
            }
        }
        self.rest == Rest::Any || parts.next().is_none()
    }

    /// Whether it ends with `*`.
    pub(crate) fn ends_open(&self) -> bool {
        self.rest == Rest::Any
    }

    /// The names of its variables, in order.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Any(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The values of its variables in a normalised path that it covers, in order; `None` for any other path.
    pub(crate) fn bind<'p>(&self, path: &'p str) -> Option<Vec<(&str, &'p str)>> {
        let parts = path.split('/').skip(1).filter(|part| !part.is_empty());
        let bound = self.segments.iter().zip(parts).filter_map(|(segment, part)| match segment {
            Segment::Any(name) => Some((name.as_str(), part)),
            Segment::Literal(_) => None,
        });
        self.matches(path).then(|| bound.collect())
    }

    /// The one normalised path that it covers with these values; `None` when a variable has none, or it ends with `*`.
    pub(crate) fn fill(&self, values: &[(&str, &str)]) -> Option<String> {
        if self.rest == Rest::Any {
            return None;
        }
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            path.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Any(name) => values.iter().find(|(bound, _)| bound == name)?.1,
            });
        }
        Some(if path.is_empty() { "/".to_owned() } else { path })
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
                _ if named => Segment::Any(part[1..part.len() - 1].to_owned()),
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
