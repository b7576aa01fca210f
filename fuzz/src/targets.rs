//! The bodies of the fuzz targets: ordinary functions, so that a plain test replays the corpus through them too.
//! Each panics when something that holds for every input does not.

use std::{sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use semel_core::{
    admit::{Admission, Head, admit, normalise_path},
    fingerprint::Fingerprint,
    key::{AttemptSuffix, Form, Grammar, Key},
    policy::{Policy, PolicyDocument, Preset, RouteSettings},
    record::Record,
    scope::Secret,
    wire::write_sf_string,
};
use serde::Deserialize;
use toml::Spanned;

/// Reads a key: the first byte chooses how, the rest are field lines with a NUL between them.
pub(crate) fn key(data: &[u8]) {
    let Some((choice, lines)) = data.split_first() else { return };
    let grammar = [Grammar::Any, Grammar::Uuid, Grammar::UuidV4, Grammar::UuidV7][usize::from(choice & 3)];
    let form = [Form::Lenient, Form::Strict][usize::from(choice >> 2 & 1)];
    let name = HeaderName::from_static("idempotency-key");
    let read = |lines: &[HeaderValue], form| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, line.clone());
        }
        Key::from_header(&headers, &name, grammar, form, AttemptSuffix::Literal, 64)
    };
    let lines: Vec<HeaderValue> =
        lines.split(|byte| *byte == 0).filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let Ok(found) = read(&lines, form) else { return };
    // What was sent is a key or an error, and never "no key", or it would execute unprotected.
    assert_eq!(found.is_none(), lines.is_empty());
    let Some(key) = found else { return };
    let [line] = lines.as_slice() else { panic!("of several lines one was chosen") };
    assert_eq!(read(&lines, Form::Lenient), Ok(Some(key.clone())), "what is strict is lenient");
    let text = line.to_str().expect("a key is printable").trim();
    if !text.starts_with('"') {
        let quoted = write_sf_string(text).expect("a key is printable");
        let quoted = HeaderValue::from_str(&quoted).expect("a quoted key is a field value");
        assert_eq!(read(&[quoted], Form::Strict), Ok(Some(key)), "bare and quoted are one key");
    }
}

/// Decodes a record, which has one form only.
pub(crate) fn record(data: &[u8]) {
    let Ok(record) = Record::decode(Bytes::copy_from_slice(data)) else { return };
    let mut out = BytesMut::new();
    record.encode(&mut out);
    assert_eq!(&out[..], data);
    for age in [Duration::ZERO, record.retention, Duration::MAX] {
        assert_eq!(record.clone().at_age(age).is_some(), age < record.retention);
    }
    if let Some(trims_at) = record.trims_at() {
        assert!(trims_at < record.retention);
        assert_ne!(record.clone().at_age(trims_at), Some(record));
    }
}

/// Reads a policy; one that is accepted answers everything that is asked of it.
pub(crate) fn policy(data: &[u8]) {
    #[derive(Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[derive(Default)]
    struct Document {
        preset: Option<Preset>,
        defaults: Option<Spanned<RouteSettings>>,
        route: Vec<Spanned<RouteSettings>>,
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(Document { preset, defaults, route }) = toml::from_str(text) else { return };
    let document = PolicyDocument { preset, defaults, routes: route, ..PolicyDocument::default() };
    let policy = match document.build() {
        Ok(policy) => policy,
        Err(error) => {
            assert!(text.get(error.span.clone()).is_some(), "{error} points into the text");
            return;
        }
    };
    assert!(!policy.routes().is_empty());
    for route in policy.routes() {
        assert!(route.lease() <= route.unknown_for, "a running claim is not forgotten");
        assert!(route.replay_for <= route.remember_for);
        assert!(route.methods.iter().all(|method| !method.is_safe()));
        for status in [0, 100, 199, 200, 404, 599, 600, u16::MAX] {
            route.effect_of(status);
        }
        let path = normalise_path(route.path.as_str());
        // A template covers its own text, unless an earlier route does.
        if !path.contains('{') {
            assert!(policy.route(&route.methods[0], &path).is_some(), "{path} is covered");
        }
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_static("k"));
        let head = Head { method: &route.methods[0], path: &path, query: None, headers: &headers, caller: None };
        if let Admission::Read(admitted) = admit(&policy, &head, Duration::from_hours(1)) {
            let _ = admitted.cover(&policy, &Secret::from_bytes([0; 32]), &head, b"{\"id\":\"k\"}");
        }
    }
}

/// Fingerprints content by every rule, and compares with another reader of JSON.
pub(crate) fn json(data: &[u8]) {
    static POLICIES: OnceLock<[Policy; 3]> = OnceLock::new();
    let [json, members, keyed] = POLICIES.get_or_init(|| {
        [
            "fingerprint = \"json\"\nfingerprint_ignore = [\"/a\", \"/b/0\", \"/c/d\"]",
            "fingerprint = \"members\"\nfingerprint_members = [\"/a\", \"/b/0/c\"]",
            "key = \"member\"\nkey_member = \"/id\"\nfingerprint = \"json\"",
        ]
        .map(|text| {
            let settings: RouteSettings = toml::from_str(text).expect("settings");
            let routes = vec![Spanned::new(0..0, settings)];
            PolicyDocument { routes, ..PolicyDocument::default() }.build().expect("a policy")
        })
    });
    let spaced: Vec<u8> = [b" \n", data, b"\t"].concat();
    let found = fingerprint(json, data).expect("a key in the header");
    let is_value = found == fingerprint(json, &spaced).expect("a key in the header");
    // Neither reader may take for JSON what the other does not. Of a byte order mark, opinions differ.
    let depth = data.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if depth < 64 && serde_json::from_slice::<serde_json::Value>(data).is_ok() {
        assert!(is_value, "a JSON value is compared as one");
    }
    if !data.starts_with(b"\xef\xbb\xbf") && serde_json::from_slice::<serde::de::IgnoredAny>(data).is_err() {
        assert!(!is_value, "what is no JSON value is compared as bytes");
    }
    fingerprint(members, data).expect("a key in the header");
    let key = fingerprint(keyed, data);
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(data)
        && depth < 64
        && !object.get("id").is_some_and(serde_json::Value::is_string)
    {
        assert!(key.is_none(), "a key that is no string is refused");
    }
}

/// `None` when the request is refused.
fn fingerprint(policy: &Policy, content: &[u8]) -> Option<Fingerprint> {
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", HeaderValue::from_static("k"));
    let head = Head { method: &Method::POST, path: "/", query: None, headers: &headers, caller: None };
    let Admission::Read(admitted) = admit(policy, &head, Duration::ZERO) else { panic!("every request is covered") };
    admitted
        .cover(policy, &Secret::from_bytes([0; 32]), &head, content)
        .ok()
        .flatten()
        .map(|covered| covered.fingerprint)
}
