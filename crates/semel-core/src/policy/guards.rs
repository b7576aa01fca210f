//! Guards and releases as they are written down, and what makes them right together with the routes around them.

use std::{fmt, time::Duration};

use http::Method;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use toml::Spanned;

use super::{DurationText, MethodText, PathTemplate, PolicyError, ReplyRule, RoutePolicy};
use crate::{
    guard::{Condition, GuardRule, Overriding, ReplySource, Source},
    key::{KeyRule, Pointer, Presence},
    release::{KEY_VARIABLE, ReleaseRule, Shows},
};

/// The most values of a guard, conditions of a guard, texts of a list and releases of a route.
pub const GUARD_ITEMS_MAX: usize = 16;
/// The longest name of a guard, in bytes.
pub const GUARD_NAME_BYTES_MAX: usize = 64;

/// `[route.guard]`; see [`GuardRule`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is documented at the member of GuardRule of the same name")]
pub struct GuardSettings {
    pub name: String,
    pub values: Vec<SourceText>,
    #[serde(default)]
    pub when: Vec<ConditionText>,
    pub hold_for: Option<DurationText>,
    #[serde(default)]
    pub r#override: bool,
}

/// A JSON Pointer into the content, or a table that names a kept reply; see [`Source`].
#[derive(Clone, Debug)]
pub struct SourceText {
    reply: Option<(PathTemplate, Pointer, Option<String>)>,
    member: Pointer,
}

/// A source and what it may be; see [`Condition`].
#[derive(Clone, Debug)]
pub struct ConditionText {
    source: SourceText,
    is: Vec<String>,
}

/// `[[route.release]]`; see [`ReleaseRule`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is documented at the member of ReleaseRule of the same name, or at Shows")]
pub struct ReleaseSettings {
    pub path: PathTemplate,
    pub methods: Option<Vec<MethodText>>,
    pub member: Pointer,
    pub held_while: Option<Vec<String>>,
    pub dead_when: Option<Vec<String>>,
    pub after: Option<DurationText>,
}

/// The members of a source and of a condition, each optional, so that what is missing is said in our words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    path: Option<PathTemplate>,
    key: Option<Pointer>,
    member: Pointer,
    absent: Option<String>,
    is: Option<Vec<String>>,
}

impl SourceTable {
    fn source(self) -> Result<SourceText, String> {
        let reply = match (self.path, self.key, self.absent) {
            (Some(path), Some(key), absent) => Some((path, key, absent)),
            (None, None, None) => None,
            (_, _, _) => {
                return Err(
                    "a value of a kept reply needs both `path`, such as \"/quotes\", and `key`, a JSON Pointer into the \
                     content; `absent` goes with them"
                        .to_owned(),
                );
            }
        };
        Ok(SourceText { reply, member: self.member })
    }
}

impl<'de> Deserialize<'de> for SourceText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SourceText, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = SourceText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON Pointer such as \"/accountId\", or a table with path, key and member")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SourceText, E> {
                Ok(SourceText { reply: None, member: text.parse().map_err(E::custom)? })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SourceText, A::Error> {
                let table = SourceTable::deserialize(MapAccessDeserializer::new(map))?;
                if table.is.is_some() {
                    return Err(A::Error::custom("`is` belongs to a condition in `when`, not to a value"));
                }
                table.source().map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for ConditionText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ConditionText, D::Error> {
        let mut table = SourceTable::deserialize(deserializer)?;
        let is = table.is.take().unwrap_or_default();
        if is.is_empty() || is.len() > GUARD_ITEMS_MAX || is.iter().any(|text| text.trim().is_empty()) {
            let message =
                format!("a condition needs `is`, a list of 1 to {GUARD_ITEMS_MAX} texts such as [\"onramp\"]");
            return Err(D::Error::custom(message));
        }
        Ok(ConditionText { source: table.source().map_err(D::Error::custom)?, is })
    }
}

/// What is written of a route's guard and releases, until all routes are known.
#[derive(Debug)]
pub(super) struct Written {
    pub guard: Option<Spanned<GuardSettings>>,
    pub releases: Vec<Spanned<ReleaseSettings>>,
}

/// Resolves the guard and the releases of `routes[at]`, and puts them there.
pub(super) fn resolve(written: Written, at: usize, routes: &mut [RoutePolicy]) -> Result<(), PolicyError> {
    let guard = written.guard.map(|guard| {
        let span = guard.span();
        guard_rule(guard.into_inner(), &routes[at], routes).map_err(|message| PolicyError { span, message })
    });
    let guard = guard.transpose()?;
    if let Some(first) = written.releases.get(GUARD_ITEMS_MAX) {
        let message = format!("a route may have at most {GUARD_ITEMS_MAX} releases");
        return Err(PolicyError { span: first.span(), message });
    }
    let releases = written.releases.into_iter().map(|release| {
        let span = release.span();
        let release = release_rule(release.into_inner(), &routes[at], guard.is_some());
        release.map_err(|message| PolicyError { span, message })
    });
    let releases = releases.collect::<Result<_, _>>()?;
    (routes[at].guard, routes[at].releases) = (guard, releases);
    Ok(())
}

fn guard_rule(settings: GuardSettings, route: &RoutePolicy, routes: &[RoutePolicy]) -> Result<GuardRule, String> {
    let name = settings.name;
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > GUARD_NAME_BYTES_MAX || !name.bytes().all(is_word) {
        return Err(format!(
            "a guard's `name` has 1 to {GUARD_NAME_BYTES_MAX} lower-case letters, digits and hyphens, such as \
             \"pending-order\"; found \"{name}\""
        ));
    }
    if settings.values.is_empty() || settings.values.len() > GUARD_ITEMS_MAX || settings.when.len() > GUARD_ITEMS_MAX {
        return Err(format!("a guard has 1 to {GUARD_ITEMS_MAX} `values` and at most as many conditions in `when`"));
    }
    let is_required = match &route.key {
        KeyRule::Header { presence, .. } | KeyRule::Member { presence, .. } => *presence == Presence::Required,
        KeyRule::Operation => true,
    };
    if !is_required {
        let message =
            "a guarded route needs `key_presence = \"required\"`: a request without a key would pass unguarded";
        return Err(message.to_owned());
    }
    let source = |text: SourceText| source(text, route, routes);
    let hold_for = settings.hold_for.map_or_else(|| route.remember_for.max(route.unknown_for), |hold_for| hold_for.0);
    if hold_for < route.lease() {
        let message =
            "`hold_for` must be at least `execution_max` + `grace`, or a guard would be free while its owner runs";
        return Err(message.to_owned());
    }
    let condition = |text: ConditionText| Ok(Condition { source: source(text.source)?, is: text.is });
    Ok(GuardRule {
        name,
        values: settings.values.into_iter().map(source).collect::<Result<_, String>>()?,
        when: settings.when.into_iter().map(condition).collect::<Result<_, String>>()?,
        hold_for,
        overriding: if settings.r#override { Overriding::WithReason } else { Overriding::Never },
    })
}

fn source(text: SourceText, route: &RoutePolicy, routes: &[RoutePolicy]) -> Result<Source, String> {
    let Some((path, key, absent)) = text.reply else { return Ok(Source::Content(text.member)) };
    let wrong = |why: &str| Err(format!("the kept reply of \"{}\" cannot be read: {why}", path.as_str()));
    let Some(filled) = path.fill(&[]) else { return wrong("its path must have no variables and no *") };
    let Some(named) = routes.iter().find(|route| route.path.matches(&filled)) else {
        return wrong("no route of this policy covers that path");
    };
    let (KeyRule::Member { grammar, .. }, [method]) = (&named.key, named.methods.as_slice()) else {
        return wrong("the first route that covers that path must have one method, and `key = \"member\"`");
    };
    if named.reply == ReplyRule::Omitted {
        return wrong("that route keeps no replies (`reply = \"omitted\"`)");
    }
    if std::ptr::eq(named, route) {
        return wrong("that is the guarded route itself");
    }
    Ok(Source::Reply(ReplySource {
        method: method.clone(),
        scope_path: named.scope_path(&filled).into_owned(),
        path: filled,
        key,
        grammar: *grammar,
        key_bytes_max: named.key_bytes_max,
        member: text.member,
        absent,
    }))
}

fn release_rule(settings: ReleaseSettings, route: &RoutePolicy, is_guarded: bool) -> Result<ReleaseRule, String> {
    let is_slot = route.key == KeyRule::Operation;
    let shows = match (settings.held_while, settings.dead_when) {
        (Some(list), None) if is_guarded => Shows::HeldWhile(list),
        (Some(_), None) => return Err("`held_while` belongs to a route with a guard".to_owned()),
        (None, Some(list)) if is_slot => Shows::DeadWhen(list),
        (None, Some(_)) => return Err("`dead_when` belongs to a route with `key = \"operation\"`".to_owned()),
        (Some(_), Some(_)) | (None, None) => {
            return Err("a release needs either `held_while` (of a guard) or `dead_when` (of a slot)".to_owned());
        }
    };
    let (Shows::HeldWhile(list) | Shows::DeadWhen(list)) = &shows;
    if list.is_empty() || list.len() > GUARD_ITEMS_MAX {
        return Err(format!("a release's list has 1 to {GUARD_ITEMS_MAX} texts, such as [\"created\"]"));
    }
    let methods: Vec<Method> = match settings.methods {
        Some(methods) => methods.into_iter().map(|method| method.0).collect(),
        None => vec![Method::GET],
    };
    if methods.is_empty() || methods.contains(&Method::HEAD) {
        return Err(
            "a release's `methods` must name at least one, and not HEAD, whose response has no content".to_owned()
        );
    }
    if route.methods.len() != 1 {
        return Err("a route with a release must have one method: a release names one record".to_owned());
    }
    let needed: Vec<&str> = match &route.key {
        KeyRule::Header { .. } => {
            return Err("a release needs `key = \"member\"` or \"operation\": its path must name the record".to_owned());
        }
        KeyRule::Member { .. } => route.scope_variables().chain([KEY_VARIABLE]).collect(),
        KeyRule::Operation => route.scope_variables().collect(),
    };
    let mut variables: Vec<&str> = settings.path.variables().collect();
    let has_all = needed.iter().all(|name| variables.contains(name));
    variables.sort_unstable();
    let is_plain = variables.windows(2).all(|pair| pair[0] != pair[1]);
    if !has_all || !is_plain || settings.path.ends_open() || route.path.ends_open() {
        let needed: Vec<String> = needed.iter().map(|name| format!("{{{name}}}")).collect();
        return Err(format!(
            "a release's `path` must have {}, each once, and neither it nor the route's may end with *; found \"{}\"",
            needed.join(" and "),
            settings.path.as_str()
        ));
    }
    let after = match (&shows, settings.after) {
        (_, Some(after)) => after.0,
        (Shows::HeldWhile(_), None) => Duration::ZERO,
        (Shows::DeadWhen(_), None) => route.lease(),
    };
    if matches!(shows, Shows::DeadWhen(_)) && after < route.lease() {
        let message =
            "`after` must be at least `execution_max` + `grace`, or a value could count as dead while it is still sent";
        return Err(message.to_owned());
    }
    Ok(ReleaseRule { methods, path: settings.path, member: settings.member, shows, after })
}
