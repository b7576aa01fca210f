//! Who shares a key space: SC1 to SC4, `peers.md` #20, #40 and #43.

use std::time::Duration;

use expect_test::expect;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use semel_core::{
    admit::{Admission, Head, admit},
    policy::Policy,
    scope::{Principal, RecordKey, Secret},
};

use crate::{Letters, read, table};

const SECRET: [u8; 32] = [7; 32];

fn record_key(policy: &Policy, request: &str, fields: &[(&'static str, &'static str)]) -> RecordKey {
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let head = Head { method: &method, path, query: None, headers: &headers, caller: None };
    let Admission::Read(admitted) = admit(policy, &head, Duration::ZERO) else { panic!("{request} is covered") };
    let covered = admitted.cover(policy, &Secret::from_bytes(SECRET), &head, b"{\"id\":\"k\"}");
    let covered = covered.unwrap_or_else(|refused| panic!("{request}: {:?}", refused.problem));
    covered.expect("it has a key").record_key
}

#[test]
fn who_shares_a_record() {
    let policy = read(
        r#"
        [[route]]
        path = "/members"
        key = "member"
        key_member = "/id"
        [[route]]
        path = "/slots/{id}"
        key = "operation"
        [[route]]
        path = "/*"
        "#,
    )
    .unwrap_or_else(|refused| panic!("{}", refused.message));
    let key = ("idempotency-key", "k");
    let requests: &[(&str, &[(&str, &str)])] = &[
        ("POST /orders", &[key]),
        ("POST /orders", &[key, ("user-agent", "x")]),
        ("POST //orders/", &[key]),
        ("POST /Orders", &[key]),
        ("PATCH /orders", &[key]),
        ("POST /orders/1", &[key]),
        ("POST /orders/2", &[key]),
        ("POST /orders%2F1", &[key]),
        ("POST /orders", &[("idempotency-key", "k2")]),
        ("POST /orders", &[key, ("authorization", "a")]),
        ("POST /orders", &[key, ("authorization", "b")]),
        ("POST /orders", &[key, ("authorization", "")]),
        ("POST /orders", &[key, ("x-api-key", "a")]),
        ("POST /orders", &[key, ("authorization", "a"), ("x-api-key", "a")]),
        ("POST /orders", &[key, ("x-api-key", "a"), ("authorization", "a")]),
        ("POST /orders", &[key, ("authorization", "a"), ("authorization", "b")]),
        ("POST /orders", &[key, ("authorization", "b"), ("authorization", "a")]),
        ("POST /orders", &[key, ("authorization", "a, b")]),
        ("POST /members", &[]),
        ("POST /members", &[("idempotency-key", "other")]),
        ("POST /slots/k", &[]),
        ("POST /slots/K", &[]),
        ("POST /slots/k", &[("authorization", "a")]),
    ];
    let mut letters = Letters(Vec::new());
    let rows = requests.iter().map(|(request, fields)| {
        let shown: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        [(*request).to_owned(), shown.join(", "), letters.of(record_key(&policy, request, fields))]
    });
    expect![[r#"
        POST /orders      idempotency-key: k                                      a
        POST /orders      idempotency-key: k, user-agent: x                       a
        POST //orders/    idempotency-key: k                                      a
        POST /Orders      idempotency-key: k                                      b
        PATCH /orders     idempotency-key: k                                      c
        POST /orders/1    idempotency-key: k                                      d
        POST /orders/2    idempotency-key: k                                      e
        POST /orders%2F1  idempotency-key: k                                      f
        POST /orders      idempotency-key: k2                                     g
        POST /orders      idempotency-key: k, authorization: a                    h
        POST /orders      idempotency-key: k, authorization: b                    i
        POST /orders      idempotency-key: k, authorization:                      j
        POST /orders      idempotency-key: k, x-api-key: a                        k
        POST /orders      idempotency-key: k, authorization: a, x-api-key: a      l
        POST /orders      idempotency-key: k, x-api-key: a, authorization: a      l
        POST /orders      idempotency-key: k, authorization: a, authorization: b  m
        POST /orders      idempotency-key: k, authorization: b, authorization: a  n
        POST /orders      idempotency-key: k, authorization: a, b                 o
        POST /members                                                             p
        POST /members     idempotency-key: other                                  p
        POST /slots/k                                                             q
        POST /slots/K                                                             r
        POST /slots/k     authorization: a                                        s
    "#]]
    .assert_eq(&table(rows));
}

/// Joined without lengths, each of these pairs would be one (`peers.md` #43).
#[test]
fn parts_do_not_run_together() {
    type Parts<'a> = &'a [(&'a str, Option<&'a str>)];
    let secret = Secret::from_bytes(SECRET);
    let of =
        |parts: Parts<'_>| Principal::of(&secret, parts.iter().map(|(name, value)| (*name, value.map(str::as_bytes))));
    let pairs: [[Parts<'_>; 2]; 6] = [
        [&[("ab", Some("c"))], &[("a", Some("bc"))]],
        [&[("a", Some("b")), ("c", Some("d"))], &[("a", Some("bcd"))]],
        [&[("a", Some("b")), ("c", Some("d"))], &[("a", Some("bc")), ("", Some("d"))]],
        [&[("a", Some(""))], &[("a", None)]],
        [&[("a", None), ("b", Some("x"))], &[("a", Some("x")), ("b", None)]],
        [&[("a", Some("b"))], &[("a", Some("b\0"))]],
    ];
    for [left, right] in pairs {
        assert_ne!(of(left), of(right), "{left:?} and {right:?}");
    }
    assert_eq!(of(&[("a", None)]), of(&[]), "an absent credential is no credential");
}

/// What goes to a log or a store says nothing of what it was made from.
#[test]
fn secrets_and_principals_are_not_printed() {
    let secret = Secret::from_bytes(SECRET);
    let principal = Principal::of(&secret, [("authorization", Some(&b"Bearer hunter2"[..]))]);
    assert_eq!(format!("{secret:?} {principal:?}"), "Secret(..) Principal(..)");
    let policy = read("").unwrap_or_else(|refused| panic!("{}", refused.message));
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", HeaderValue::from_static("hunter2"));
    let head = Head { method: &Method::POST, path: "/", query: None, headers: &headers, caller: None };
    let admission = admit(&policy, &head, Duration::ZERO);
    assert!(!format!("{admission:?}").contains("hunter2"));
}

/// A caller is never somebody whom headers name, or a caller of another kind, whatever they are called (SC1).
#[test]
fn sc01_callers_of_every_kind_are_apart() {
    use semel_core::scope::Caller;
    let secret = Secret::from_bytes(SECRET);
    let claim = |issuer: &str, claim: &str, value: &str| Caller::Claim {
        issuer: issuer.to_owned(),
        claim: claim.to_owned(),
        value: value.to_owned(),
    };
    let callers = [
        Caller::Named("acme".to_owned()),
        Caller::Certificate("acme".to_owned()),
        claim("", "", "acme"),
        claim("i", "/sub", "acme"),
        claim("j", "/sub", "acme"),
        claim("i", "/org", "acme"),
        claim("i", "/sub", "\"acme\""),
        claim("i/sub", "", "acme"),
    ];
    let mut principals: Vec<Principal> = callers.iter().map(|caller| Principal::of_caller(&secret, caller)).collect();
    principals
        .extend(["named", "claim", "certificate"].map(|name| Principal::of(&secret, [(name, Some(&b"acme"[..]))])));
    for (n, one) in principals.iter().enumerate() {
        assert!(principals.iter().skip(n + 1).all(|other| other != one), "{n}");
    }
    assert!(Principal::of_caller(&secret, &callers[0]) == principals[0]);
}
