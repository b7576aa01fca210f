use std::time::Duration;

use expect_test::expect;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use semel_core::{
    admit::{Admission, Head, admit},
    fingerprint::Fingerprint,
    policy::Policy,
    scope::Secret,
};

use crate::{Letters, policy, table};

#[derive(Clone)]
struct Request {
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    headers: &'static [(&'static str, &'static str)],
    content: Vec<u8>,
}

fn post(content: impl Into<Vec<u8>>) -> Request {
    Request {
        method: "POST",
        path: "/orders",
        query: None,
        headers: &[("content-type", "application/json")],
        content: content.into(),
    }
}

fn fingerprint(policy: &Policy, request: &Request) -> Fingerprint {
    let mut headers = HeaderMap::new();
    headers.append("idempotency-key", HeaderValue::from_static("k"));
    for (name, value) in request.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let method = Method::from_bytes(request.method.as_bytes()).expect("a method");
    let head = Head { method: &method, path: request.path, query: request.query, headers: &headers, caller: None };
    let Admission::Read(admitted) = admit(policy, &head, Duration::ZERO) else { panic!("the request is covered") };
    let covered = admitted.cover(policy, &Secret::from_bytes([7; 32]), &head, &request.content);
    covered.expect("the request is covered").expect("it has a key").fingerprint
}

const METHODS: &str = "methods = [\"POST\", \"PATCH\"]\n";

/// The parts that always count (H17, H18, H19, `peers.md` #1 and #9).
#[test]
fn what_counts_of_a_request() {
    let policy = policy(METHODS);
    let base = post("amount=1");
    let requests: Vec<(&str, Request)> = vec![
        ("the first", base.clone()),
        ("repeated", base.clone()),
        ("other content", post("amount=9")),
        ("longer content", post("amount=1 ")),
        ("no content", post("")),
        ("other method", Request { method: "PATCH", ..base.clone() }),
        ("other path", Request { path: "/orders/1", ..base.clone() }),
        ("same path, spelled otherwise", Request { path: "//%6Frders/", ..base.clone() }),
        ("a query", Request { query: Some("a=1"), ..base.clone() }),
        ("another query", Request { query: Some("a=2"), ..base.clone() }),
        ("an empty query", Request { query: Some(""), ..base.clone() }),
        ("the content in the query", Request { query: Some("amount=1"), ..post("") }),
        ("no content type", Request { headers: &[], ..base.clone() }),
        ("other content type", Request { headers: &[("content-type", "text/plain")], ..base.clone() }),
        (
            "two content types",
            Request {
                headers: &[("content-type", "application/json"), ("content-type", "text/plain")],
                ..base.clone()
            },
        ),
        (
            "a content encoding",
            Request { headers: &[("content-type", "application/json"), ("content-encoding", "gzip")], ..base.clone() },
        ),
        ("the type as encoding", Request { headers: &[("content-encoding", "application/json")], ..base.clone() }),
        (
            "other headers",
            Request {
                headers: &[
                    ("content-type", " application/json "),
                    ("user-agent", "x"),
                    ("date", "y"),
                    ("traceparent", "z"),
                    ("accept-encoding", "gzip"),
                ],
                ..base.clone()
            },
        ),
    ];
    let mut letters = Letters(Vec::new());
    let rows = requests.iter().map(|(what, request)| [(*what).to_owned(), letters.of(fingerprint(&policy, request))]);
    expect![[r#"
        the first                     a
        repeated                      a
        other content                 b
        longer content                c
        no content                    d
        other method                  e
        other path                    f
        same path, spelled otherwise  a
        a query                       g
        another query                 h
        an empty query                i
        the content in the query      j
        no content type               k
        other content type            l
        two content types             m
        a content encoding            n
        the type as encoding          o
        other headers                 a
    "#]]
    .assert_eq(&table(rows));
}

/// H16, H20, `peers.md` #12, #13, #17 and #34. In one column, the same number is the same
/// fingerprint. Volatile are `/at`, `/c/at` and `/l/0/at`; the members are `/a` and `/c/at`.
#[test]
fn what_counts_of_the_content() {
    let contents: Vec<Vec<u8>> = [
        &br#"{"a":1,"b":2}"#[..],
        b" {\n\t\"a\" : 1,\r\n \"b\":2 } ",
        br#"{"b":2,"a":1}"#,
        br#"{"\u0061":1,"b":2}"#,
        br#"{"a":1,"b":2,"at":5}"#,
        br#"{"at":{"x":[]},"a":1,"b":2,"at":6}"#,
        br#"{"a":1,"b":2,"c":{"at":1}}"#,
        br#"{"a":1,"b":2,"c":{"at":2}}"#,
        br#"{"a":1,"b":2,"c":{}}"#,
        br#"{"a":1,"b":2,"l":[{"at":1},{"at":1}]}"#,
        br#"{"a":1,"b":2,"l":[{},{"at":1}]}"#,
        br#"{"a":1,"b":2,"l":[{},{}]}"#,
        br#"{"a":1,"a":1,"b":2}"#,
        br#"{"a":1,"a":2,"b":2}"#,
        br#"{"a":2,"a":1,"b":2}"#,
        br#"{"b":2,"a":1,"a":2}"#,
        br#"{"a":"1","b":2}"#,
        br#"{"a":1.0,"b":2e0}"#,
        br#"{"a":true,"b":2}"#,
        br#"{"a":null,"b":2}"#,
        br#"{"b":2}"#,
        b"{}",
        b"[]",
        b"null",
        b"\"\"",
        b"0",
        b"-0.0",
        b"100",
        b"100.00",
        b"1e2",
        b"9007199254740992",
        b"9007199254740993",
        b"1e400",
        b"1e401",
        b"[1,2]",
        b"[2,1]",
        b"[[1],2]",
        b"[[1,2]]",
        b"",
        b"{\"a\":1,\"b\":2",
        b"{\"a\":1,\"b\":2}{}",
        b"{\"a\":1,\"b\":2,}",
        b"{'a':1}",
        b"NaN",
        b"01",
        b"\"\\ud800\"",
        b"\"\\ud801\"",
        b"\"\\ufffd\"",
        b"\"\xef\xbf\xbd\"",
        b"\"\xff\"",
        b"\"\xfe\"",
        b"\"\\u0000\"",
        b"to=a&amt=1&to=b&amt=9",
        b"to=a&amt=9&to=b&amt=1",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let policies = [
        policy("fingerprint = \"raw\""),
        policy("fingerprint = \"json\""),
        policy("fingerprint = \"json\"\nfingerprint_ignore = [\"/at\", \"/c/at\", \"/l/0/at\"]"),
        policy("fingerprint = \"members\"\nfingerprint_members = [\"/a\", \"/c/at\"]"),
    ];
    let mut letters = [(); 4].map(|()| Letters(Vec::new()));
    let head = ["content", "raw", "json", "volatile", "members"].map(str::to_owned);
    let rows = contents.iter().map(|content| {
        let mut row = vec![content.escape_ascii().to_string().replace("\\\"", "\"").replace("\\\\", "\\")];
        for (policy, seen) in policies.iter().zip(&mut letters) {
            let print = fingerprint(policy, &post(content.clone()));
            let at = seen.0.iter().position(|other| *other == print).unwrap_or_else(|| {
                seen.0.push(print);
                seen.0.len() - 1
            });
            row.push((at + 1).to_string());
        }
        <[String; 5]>::try_from(row).expect("five columns")
    });
    expect![[r#"
        content                                raw  json  volatile  members
        {"a":1,"b":2}                          1    1     1         1
         {\n\t"a" : 1,\r\n "b":2 }             2    1     1         1
        {"b":2,"a":1}                          3    1     1         1
        {"\u0061":1,"b":2}                     4    1     1         1
        {"a":1,"b":2,"at":5}                   5    2     1         1
        {"at":{"x":[]},"a":1,"b":2,"at":6}     6    3     1         1
        {"a":1,"b":2,"c":{"at":1}}             7    4     2         2
        {"a":1,"b":2,"c":{"at":2}}             8    5     2         3
        {"a":1,"b":2,"c":{}}                   9    6     2         1
        {"a":1,"b":2,"l":[{"at":1},{"at":1}]}  10   7     3         1
        {"a":1,"b":2,"l":[{},{"at":1}]}        11   8     3         1
        {"a":1,"b":2,"l":[{},{}]}              12   9     4         1
        {"a":1,"a":1,"b":2}                    13   10    5         4
        {"a":1,"a":2,"b":2}                    14   11    6         5
        {"a":2,"a":1,"b":2}                    15   12    7         6
        {"b":2,"a":1,"a":2}                    16   11    6         7
        {"a":"1","b":2}                        17   13    8         8
        {"a":1.0,"b":2e0}                      18   1     1         1
        {"a":true,"b":2}                       19   14    9         9
        {"a":null,"b":2}                       20   15    10        10
        {"b":2}                                21   16    11        11
        {}                                     22   17    12        11
        []                                     23   18    13        11
        null                                   24   19    14        11
        ""                                     25   20    15        11
        0                                      26   21    16        11
        -0.0                                   27   21    16        11
        100                                    28   22    17        11
        100.00                                 29   22    17        11
        1e2                                    30   22    17        11
        9007199254740992                       31   23    18        11
        9007199254740993                       32   24    19        11
        1e400                                  33   25    20        11
        1e401                                  34   26    21        11
        [1,2]                                  35   27    22        11
        [2,1]                                  36   28    23        11
        [[1],2]                                37   29    24        11
        [[1,2]]                                38   30    25        11
                                               39   31    26        12
        {"a":1,"b":2                           40   32    27        13
        {"a":1,"b":2}{}                        41   33    28        14
        {"a":1,"b":2,}                         42   34    29        15
        {\'a\':1}                              43   35    30        16
        NaN                                    44   36    31        17
        01                                     45   37    32        18
        "\ud800"                               46   38    33        19
        "\ud801"                               47   39    34        20
        "\ufffd"                               48   40    35        11
        "\xef\xbf\xbd"                         49   40    35        11
        "\xff"                                 50   41    36        21
        "\xfe"                                 51   42    37        22
        "\u0000"                               52   43    38        11
        to=a&amt=1&to=b&amt=9                  53   44    39        23
        to=a&amt=9&to=b&amt=1                  54   45    40        24
    "#]]
    .assert_eq(&table(std::iter::once(head).chain(rows)));
}

/// The same content by another rule is another fingerprint, whatever its canonical bytes are.
#[test]
fn the_forms_never_meet() {
    let content = post(r#"{"a":1}"#);
    let rules = [
        "fingerprint = \"raw\"",
        "fingerprint = \"json\"",
        "fingerprint = \"members\"\nfingerprint_members = [\"/a\"]",
    ];
    let mut letters = Letters(Vec::new());
    let seen: Vec<String> = rules.map(|rule| letters.of(fingerprint(&policy(rule), &content))).to_vec();
    assert_eq!(seen, ["a", "b", "c"]);
}

/// Somebody else's secret makes another fingerprint: digests of guessable content say nothing.
#[test]
fn a_fingerprint_takes_the_secret() {
    let policy = policy("");
    let mut headers = HeaderMap::new();
    headers.append("idempotency-key", HeaderValue::from_static("k"));
    let head = Head { method: &Method::POST, path: "/orders", query: None, headers: &headers, caller: None };
    let covered = [1, 2].map(|secret| {
        let Admission::Read(admitted) = admit(&policy, &head, Duration::ZERO) else { panic!("the request is covered") };
        admitted
            .cover(&policy, &Secret::from_bytes([secret; 32]), &head, b"")
            .expect("the request is covered")
            .expect("it has a key")
    });
    assert_ne!(covered[0].fingerprint, covered[1].fingerprint);
    assert_ne!(covered[0].record_key, covered[1].record_key);
}
