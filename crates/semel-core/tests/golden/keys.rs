use std::time::Duration;

use expect_test::expect;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use semel_core::{
    admit::{Admission, Head, admit},
    policy::Policy,
    scope::{RecordKey, Secret},
    wire::KeyStatus,
};

use crate::{Letters, policy, table};

/// What was read: keys by letters, and refusals by the number of their detail.
#[derive(Default)]
struct Read {
    keys: Letters<RecordKey>,
    details: Vec<String>,
}

impl Read {
    fn table<const N: usize>(&self, rows: impl IntoIterator<Item = [String; N]>) -> String {
        let details = self.details.iter().enumerate().map(|(n, detail)| format!("({}) {detail}\n", n + 1));
        table(rows) + &details.collect::<String>()
    }
}

/// Sends a request with these field lines, and says which key was read: the same letter is the same key.
fn read_key(policy: &Policy, lines: &[&[u8]], content: &str, now: Duration, read: &mut Read) -> String {
    let mut headers = HeaderMap::new();
    for line in lines {
        let value = HeaderValue::from_bytes(line).expect("a field value");
        headers.append(HeaderName::from_static("idempotency-key"), value);
    }
    let head = Head { method: &Method::POST, path: "/orders", query: None, headers: &headers, caller: None };
    let secret = Secret::from_bytes([7; 32]);
    let problem = match admit(policy, &head, now) {
        Admission::Pass(status) => {
            return format!("passes: {}", status.map_or("no status", KeyStatus::as_str));
        }
        Admission::Refuse(refused) => refused.problem,
        Admission::Read(admitted) => match admitted.cover(policy, &secret, &head, content.as_bytes()) {
            Ok(Some(covered)) => return read.keys.of(covered.record_key),
            Ok(None) => return "passes: no key in the content".to_owned(),
            Err(refused) => refused.problem,
        },
    };
    let code = problem.kind.code();
    let Some(detail) = problem.detail else { return code.to_owned() };
    let at = read.details.iter().position(|seen| *seen == detail).unwrap_or_else(|| {
        read.details.push(detail);
        read.details.len() - 1
    });
    format!("{code} ({})", at + 1)
}

/// How a value is written down here: what is not printable as an escape, and what is long by its length.
fn shown(lines: &[&[u8]]) -> String {
    let line = |line: &[u8]| {
        if line.len() > 60 {
            format!("{} bytes", line.len())
        } else {
            line.escape_ascii().to_string().replace("\\\"", "\"").replace("\\'", "'")
        }
    };
    lines.iter().map(|bytes| line(bytes)).collect::<Vec<_>>().join(" | ")
}

/// H7 to H14, `peers.md` #33 and #41.
#[test]
fn keys_in_a_header() {
    let (long, too_long) = ("k".repeat(255), "k".repeat(256));
    let quoted_long = format!("\"{long}\"");
    // 255 characters of key in 510 of header.
    let escaped_long = format!("\"{}\"", "\\\\".repeat(255));
    let values: &[&[&[u8]]] = &[
        &[],
        &[b"k"],
        &[b"\"k\""],
        &[b"  k\t"],
        &[b" \"k\" "],
        &[b"K"],
        &[b"\" k\""],
        &[b""],
        &[b"   "],
        &[b"\"\""],
        &[b"\"  \""],
        &[b"\"k"],
        &[b"k\""],
        &[b"\""],
        &[b"\"k\"\""],
        &[b"\"k\"x"],
        &[b"\"k\";a=1"],
        &[b"k;a=1"],
        &[b"\"a\\\"b\""],
        &[b"\"a\\\\b\""],
        &[b"a\\b"],
        &[b"\"a\\b\""],
        &[b"\"a\\"],
        &[b"a\"b"],
        &[b"a b"],
        &[b"\"a b\""],
        &[b"\"a\tb\""],
        &[b"a\tb"],
        &[b"k1, k2"],
        &[b"k1,k2"],
        &[b"\"k1\", \"k2\""],
        &[b"\"k1, k2\""],
        &[b"k", b"k"],
        &[b"k1", b"k2"],
        &[b"k", b""],
        &[b"caf\xc3\xa9"],
        &[b"\"caf\xe9\""],
        &[b"\xff"],
        &[b":k"],
        &[b":a2lleQ==:"],
        &[b"order/7:1?x=%20"],
        &[b"' OR 1=1"],
        &[b"'OR(1=1)--"],
        &[b"../../x"],
        &[b"*"],
        &[b"?1"],
        &[long.as_bytes()],
        &[quoted_long.as_bytes()],
        &[escaped_long.as_bytes()],
        &[too_long.as_bytes()],
    ];
    let (lenient, strict) = (policy(""), policy("key_form = \"strict\"\nkey_presence = \"required\""));
    let mut keys = Read::default();
    let head = ["value", "strict and required", "lenient and optional"].map(str::to_owned);
    let rows: Vec<_> = values
        .iter()
        .map(|lines| {
            let mut read = |policy: &Policy| read_key(policy, lines, "", Duration::ZERO, &mut keys);
            [shown(lines), read(&strict), read(&lenient)]
        })
        .collect();
    expect![[r#"
        value            strict and required  lenient and optional
                         key-missing (1)      passes: absent
        k                key-invalid (2)      a
        "k"              a                    a
          k\t            key-invalid (2)      a
         "k"             a                    a
        K                key-invalid (2)      b
        " k"             c                    c
                         key-invalid (3)      key-invalid (3)
                         key-invalid (3)      key-invalid (3)
        ""               key-invalid (3)      key-invalid (3)
        "  "             key-invalid (3)      key-invalid (3)
        "k               key-invalid (4)      key-invalid (4)
        k"               key-invalid (2)      key-invalid (5)
        "                key-invalid (4)      key-invalid (4)
        "k""             key-invalid (6)      key-invalid (6)
        "k"x             key-invalid (6)      key-invalid (6)
        "k";a=1          key-invalid (6)      key-invalid (6)
        k;a=1            key-invalid (2)      d
        "a\\"b"          e                    e
        "a\\\\b"         f                    f
        a\\b             key-invalid (2)      f
        "a\\b"           key-invalid (4)      key-invalid (4)
        "a\\             key-invalid (4)      key-invalid (4)
        a"b              key-invalid (2)      key-invalid (5)
        a b              key-invalid (2)      key-invalid (5)
        "a b"            g                    g
        "a\tb"           key-invalid (7)      key-invalid (7)
        a\tb             key-invalid (2)      key-invalid (5)
        k1, k2           key-invalid (2)      key-invalid (8)
        k1,k2            key-invalid (2)      key-invalid (8)
        "k1", "k2"       key-invalid (6)      key-invalid (6)
        "k1, k2"         h                    h
        k | k            key-invalid (8)      key-invalid (8)
        k1 | k2          key-invalid (8)      key-invalid (8)
        k |              key-invalid (8)      key-invalid (8)
        caf\xc3\xa9      key-invalid (2)      key-invalid (5)
        "caf\xe9"        key-invalid (7)      key-invalid (7)
        \xff             key-invalid (2)      key-invalid (5)
        :k               key-invalid (2)      i
        :a2lleQ==:       key-invalid (2)      j
        order/7:1?x=%20  key-invalid (2)      k
        ' OR 1=1         key-invalid (2)      key-invalid (5)
        'OR(1=1)--       key-invalid (2)      l
        ../../x          key-invalid (2)      m
        *                key-invalid (2)      n
        ?1               key-invalid (2)      o
        255 bytes        key-invalid (2)      p
        257 bytes        p                    p
        512 bytes        q                    q
        256 bytes        key-invalid (2)      key-invalid (9)
        (1) This operation requires the header Idempotency-Key: a fresh unique value, such as a UUID, for every new operation and the same one on every retry. Nothing was executed.
        (2) The key must be a quoted structured-field string (draft-ietf-httpapi-idempotency-key-header-07 section 2.1). Nothing was executed.
        (3) The key is empty. Nothing was executed.
        (4) The key is not a structured-field string: the quoted string is not closed or holds a bad escape. Nothing was executed.
        (5) The key may hold printable ASCII characters only, and spaces, commas and quotes only inside a quoted string. Nothing was executed.
        (6) The key is not a structured-field string: nothing may follow the closing quote. Nothing was executed.
        (7) The key is not a structured-field string: only printable ASCII characters are allowed. Nothing was executed.
        (8) More than one key was sent; send one header field with one value. Nothing was executed.
        (9) The key has 256 bytes, and at most 255 are allowed. Nothing was executed.
    "#]].assert_eq(&keys.table(std::iter::once(head).chain(rows)));
}

/// A NUL, a line feed or a carriage return cannot be a field value at all.
#[test]
fn what_is_no_field_value() {
    for value in [&b"k\0"[..], b"k\r\nx: y", b"k\n", b"\x7f"] {
        assert!(HeaderValue::from_bytes(value).is_err());
    }
}

/// H13, H14, Q25 and X5. The keys of version 7 were minted at 2024-01-01 and 2024-02-01, and keys are remembered for 30 days.
#[test]
fn keys_that_are_uuids() {
    let values = [
        "2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11",
        "2F1ACC1C-2BD7-4D1C-9C9A-3C0B6A0F6A11",
        "\"2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11\"",
        "{2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11}",
        "urn:uuid:2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11",
        "URN:UUID:2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11",
        "2f1acc1c2bd74d1c9c9a3c0b6a0f6a11",
        "2f1acc1c-2bd74d1c-9c9a-3c0b6a0f6a11",
        "2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a1",
        "2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a1g",
        "c232ab00-9414-11ec-b3c8-9f6bdeced846",
        "018cc251-f400-7000-8000-000000000001",
        "018d61f7-1800-7000-8000-000000000001",
        "00000000-0000-0000-0000-000000000000",
        "not-a-uuid",
    ];
    let grammars = ["any", "uuid", "uuid-v4", "uuid-v7"];
    let policies = grammars.map(|grammar| policy(&format!("key_grammar = \"{grammar}\"")));
    let now = Duration::from_hours(474_096);
    let mut keys = Read::default();
    let head = ["value", "any", "uuid", "uuid-v4", "uuid-v7"].map(str::to_owned);
    let rows: Vec<_> = values
        .iter()
        .map(|value| {
            let mut read = |policy: &Policy| read_key(policy, &[value.as_bytes()], "", now, &mut keys);
            [(*value).to_owned(), read(&policies[0]), read(&policies[1]), read(&policies[2]), read(&policies[3])]
        })
        .collect();
    expect![[r#"
        value                                          any  uuid             uuid-v4          uuid-v7
        2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11           a    a                a                key-invalid (1)
        2F1ACC1C-2BD7-4D1C-9C9A-3C0B6A0F6A11           a    a                a                key-invalid (1)
        "2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11"         a    a                a                key-invalid (1)
        {2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11}         a    a                a                key-invalid (1)
        urn:uuid:2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11  a    a                a                key-invalid (1)
        URN:UUID:2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a11  a    a                a                key-invalid (1)
        2f1acc1c2bd74d1c9c9a3c0b6a0f6a11               a    a                a                key-invalid (1)
        2f1acc1c-2bd74d1c-9c9a-3c0b6a0f6a11            b    key-invalid (2)  key-invalid (3)  key-invalid (1)
        2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a1            c    key-invalid (2)  key-invalid (3)  key-invalid (1)
        2f1acc1c-2bd7-4d1c-9c9a-3c0b6a0f6a1g           d    key-invalid (2)  key-invalid (3)  key-invalid (1)
        c232ab00-9414-11ec-b3c8-9f6bdeced846           e    e                key-invalid (3)  key-invalid (1)
        018cc251-f400-7000-8000-000000000001           f    f                key-invalid (3)  too-late
        018d61f7-1800-7000-8000-000000000001           g    g                key-invalid (3)  g
        00000000-0000-0000-0000-000000000000           h    h                key-invalid (3)  key-invalid (1)
        not-a-uuid                                     i    key-invalid (2)  key-invalid (3)  key-invalid (1)
        (1) The key must be a UUID of version 7. Nothing was executed.
        (2) The key must be a UUID. Nothing was executed.
        (3) The key must be a UUID of version 4. Nothing was executed.
    "#]]
    .assert_eq(&keys.table(std::iter::once(head).chain(rows)));
}

/// E2, N7 and `peers.md` #34: the key is a string of the content, and anything else is refused.
#[test]
fn keys_in_the_content() {
    let contents = [
        r#"{"order":{"id":"o-1"}}"#,
        r#"{ "order" : {"x":[1,{}], "id":"o-1"}, "y": 1 }"#,
        r#"{"order":{"\u0069d":"\u006f-1"}}"#,
        r#"{"order":{"id":"o-2"}}"#,
        r#"{"order":{"id":"O-1"}}"#,
        r#"{"order":{"id":1}}"#,
        r#"{"order":{"id":"1"}}"#,
        r#"{"order":{"id":null}}"#,
        r#"{"order":{"id":["o-1"]}}"#,
        r#"{"order":{"id":""}}"#,
        r#"{"order":{"id":"  "}}"#,
        r#"{"order":{"id":"o-1","id":"o-1"}}"#,
        r#"{"order":{"id":"o-1","id":"o-2"}}"#,
        r#"{"order":{"id":"o-1"},"order":{}}"#,
        r#"{"order":{"ID":"o-1"}}"#,
        r#"{"order":[{"id":"o-1"}]}"#,
        r#"{"order.id":"o-1"}"#,
        r#"{"order":{"id":"o-\u0000"}}"#,
        r#"{"order":{"id":"caf\u00e9"}}"#,
        r#"{"order":{"id":"o-1"}} {}"#,
        r#"{"order":{"id":"o-1"}"#,
        r#"[]"#,
        "o-1",
        "",
    ];
    let member = policy("key = \"member\"\nkey_member = \"/order/id\"");
    let slot = policy("key = \"operation\"\nfingerprint = \"members\"\nfingerprint_members = [\"/order/id\"]");
    let mut keys = Read::default();
    let head = ["content", "member", "operation"].map(str::to_owned);
    let rows: Vec<_> = contents
        .iter()
        .map(|content| {
            let mut read = |policy: &Policy| read_key(policy, &[], content, Duration::ZERO, &mut keys);
            [(*content).to_owned(), read(&member), read(&slot)]
        })
        .collect();
    expect![[r#"
        content                                         member                         operation
        {"order":{"id":"o-1"}}                          a                              b
        { "order" : {"x":[1,{}], "id":"o-1"}, "y": 1 }  a                              b
        {"order":{"\u0069d":"\u006f-1"}}                a                              b
        {"order":{"id":"o-2"}}                          c                              b
        {"order":{"id":"O-1"}}                          d                              b
        {"order":{"id":1}}                              key-invalid (1)                key-invalid (1)
        {"order":{"id":"1"}}                            e                              b
        {"order":{"id":null}}                           passes: no key in the content  key-invalid (1)
        {"order":{"id":["o-1"]}}                        key-invalid (1)                key-invalid (1)
        {"order":{"id":""}}                             key-invalid (2)                key-invalid (1)
        {"order":{"id":"  "}}                           key-invalid (2)                key-invalid (1)
        {"order":{"id":"o-1","id":"o-1"}}               key-invalid (1)                key-invalid (1)
        {"order":{"id":"o-1","id":"o-2"}}               key-invalid (1)                key-invalid (1)
        {"order":{"id":"o-1"},"order":{}}               key-invalid (1)                key-invalid (1)
        {"order":{"ID":"o-1"}}                          passes: no key in the content  key-invalid (1)
        {"order":[{"id":"o-1"}]}                        passes: no key in the content  key-invalid (1)
        {"order.id":"o-1"}                              passes: no key in the content  key-invalid (1)
        {"order":{"id":"o-\u0000"}}                     key-invalid (3)                b
        {"order":{"id":"caf\u00e9"}}                    key-invalid (3)                b
        {"order":{"id":"o-1"}} {}                       key-invalid (1)                key-invalid (1)
        {"order":{"id":"o-1"}                           key-invalid (1)                key-invalid (1)
        []                                              passes: no key in the content  key-invalid (1)
        o-1                                             key-invalid (1)                key-invalid (1)
                                                        key-invalid (1)                key-invalid (1)
        (1) The member /order/id of the JSON content must be there, and a string. Nothing was executed.
        (2) The key is empty. Nothing was executed.
        (3) The key may hold printable ASCII characters only, and spaces, commas and quotes only inside a quoted string. Nothing was executed.
    "#]].assert_eq(&keys.table(std::iter::once(head).chain(rows)));
}

/// A key on a route that takes none is not taken for protection, and what cannot be read is never "no key".
#[test]
fn a_key_where_none_is_taken() {
    let policy = policy("path = \"/payments\"");
    let mut keys = Read::default();
    assert_eq!(read_key(&policy, &[b"k"], "", Duration::ZERO, &mut keys), "passes: ignored");
    assert_eq!(read_key(&policy, &[b""], "", Duration::ZERO, &mut keys), "passes: ignored");
    assert_eq!(read_key(&policy, &[], "", Duration::ZERO, &mut keys), "passes: no status");
}
