//! What becomes of documents: goldens, what is refused, and documents that nobody would write.

use expect_test::{Expect, ExpectFile, expect, expect_file};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SHOP: &str = include_str!("tests/shop.yaml");
const LEDGER: &str = include_str!("tests/ledger.json");

fn accepted(text: &str) {
    let read = Config::read("semel.toml", text, Flags::default());
    read.unwrap_or_else(|error| panic!("{error}\n{text}"));
}

/// The text with every proposal taken.
fn taken(text: &str) -> String {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b"_.-".contains(&b));
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| is_name(name)) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

fn check(name: &str, document: &str, expected: &ExpectFile) {
    let written = file(name, document.as_bytes()).unwrap_or_else(|wrong| panic!("{}", complaint(name, &wrong)));
    accepted(&written.text);
    let all = taken(&written.text);
    assert_ne!(all, written.text, "it proposes something");
    accepted(&all);
    assert_eq!(file(name, document.as_bytes()).expect("it was"), written, "the same twice");
    let wide = written.text.lines().find(|line| line.chars().count() > 160);
    assert_eq!(wide, None);
    let notes = |notes: &[Note]| {
        let lines: Vec<String> = notes.iter().map(|note| format!("## {}: {}\n", note.line, note.text)).collect();
        lines.concat()
    };
    let told = format!(
        "## covered {}; deserving:\n{}## to look at:\n{}",
        written.covered,
        notes(&written.deserving),
        notes(&written.decisions)
    );
    expected.assert_eq(&format!("{}\n{told}", written.text));
}

#[test]
fn a_document_of_3_0_in_yaml() {
    check("shop.yaml", SHOP, &expect_file!["tests/shop.toml"]);
}

#[test]
fn a_document_of_3_1_in_json() {
    check("ledger.json", LEDGER, &expect_file!["tests/ledger.toml"]);
}

#[test]
fn a_document_without_writes_covers_nothing_by_accident() {
    let written = file("-", b"{\"openapi\": \"3.0.0\", \"paths\": {\"/a\": {\"get\": {}}}}").expect("it is one");
    accepted(&written.text);
    let config = Config::read("", &written.text, Flags::default()).expect("accepted");
    assert!(config.policy.route(&http::Method::POST, "/a").is_none());
    assert_eq!(written.covered, 0);
}

#[test]
fn the_more_exact_route_comes_first() {
    let paths = ["/a/{b}", "/{a}/b", "/a/b", "/a/{b}/c"].map(|path| format!("  {path}: {{post: {{}}}}\n")).concat();
    let written = file("-", format!("openapi: 3.1.0\npaths:\n{paths}").as_bytes()).expect("it is one");
    let config = Config::read("", &written.text, Flags::default()).expect("accepted");
    let covers = |path: &str| config.policy.route(&http::Method::POST, path).map(|route| route.name().to_owned());
    assert_eq!(covers("/a/b").as_deref(), Some("/a/b"));
    assert_eq!(covers("/a/x").as_deref(), Some("/a/{b}"));
    assert_eq!(covers("/x/b").as_deref(), Some("/{a}/b"));
}

fn check_wrong(documents: &[&[u8]], expected: &Expect) {
    let told = documents.iter().map(|document| match file("api", document) {
        Ok(written) => panic!("it is not wrong:\n{}", written.text),
        Err(wrong) => complaint("api", &wrong) + "\n",
    });
    expected.assert_eq(&told.collect::<String>());
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let post = |what: &str| format!("openapi: 3.1.0\npaths:\n  /a:\n    post:\n      {what}\n");
    let documents = [
        String::new(),
        "- a\n".to_owned(),
        "a: b\n".to_owned(),
        "a: [\n".to_owned(),
        "{\n \"a\": 1\n \"b\": 2}".to_owned(),
        "openapi: 3.1.0\n---\nopenapi: 3.1.0\n".to_owned(),
        "info: {}\nswagger: '2.0'\n".to_owned(),
        "openapi: 3.2.0\npaths: {}\n".to_owned(),
        "openapi: [3]\n".to_owned(),
        "openapi: 3.1.0\n".to_owned(),
        "openapi: 3.1.0\npaths:\n  - /a\n".to_owned(),
        "openapi: 3.1.0\npaths:\n  a: {}\n".to_owned(),
        "openapi: 3.1.0\npaths:\n  /a: {}\n  /a: {}\n".to_owned(),
        "openapi: 3.1.0\npaths:\n  /a:\n    post: !include a.yaml\n".to_owned(),
        "openapi: 3.1.0\npaths: {? [a] : b}\n".to_owned(),
        post("parameters: {}"),
        post("parameters: [{in: header}]"),
        post("parameters: [{in: header, name: A, required: yes}]"),
        post("parameters: [{$ref: '#/components/parameters/A'}]"),
        post("requestBody: {$ref: '#/paths/~1a/post/requestBody'}"),
        post("security: {}"),
        post("servers: [{}]"),
    ];
    let documents: Vec<&[u8]> = documents.iter().map(String::as_bytes).collect();
    check_wrong(
        &documents,
        &expect![[r#"
        api: the document is empty
        api:1: the document must be an OpenAPI document, which is an object, found a list
        api:1: this is no OpenAPI document: it has no member `openapi`, such as openapi: 3.1.0
        api:2: this is not YAML: while parsing a node, did not find expected node content
        api:3: this is not JSON: Object values must be followed by a comma to add a new value or a curly bracket to end the object
        api:2: a second document begins here: give one by itself
        api:2: this is a Swagger document: convert it to OpenAPI 3 first, for example with swagger2openapi
        api:1: `openapi` must be 3.0.x or 3.1.x, found "3.2.0"
        api:1: `openapi` must be 3.0.x or 3.1.x, found a list
        api: the document has no `paths`: there is nothing to cover
        api:3: `paths` must be an object, found a list
        api:3: the path "a" must begin with a slash
        api:4: the member "/a" is there twice, first on line 3: keep one of them
        api:4: the tag !include means nothing here: put in its place what it stands for
        api:2: the name of a member must be a text
        api:5: `parameters` must be a list, found an object
        api:5: this parameter has no `name`
        api:5: `required` must be true or false, found a text
        api:5: the reference #/components/parameters/A leads nowhere: mend it, or add what it names
        api:5: over 16 references lead from one to the next here
        api:5: `security` must be a list, found an object
        api:5: this server has no `url`
    "#]],
    );
}

#[test]
fn everything_has_a_limit() {
    let lines = |line: &dyn Fn(usize) -> String, count: usize| (0..count).map(line).collect::<Vec<_>>().concat();
    let alias = |n: usize| n.checked_sub(1).map_or("0".to_owned(), |n| format!("*a{n}"));
    // Few bytes that stand for millions of values; no more, so that a broken limit is a red test and no dead machine.
    let bomb = lines(&|n| format!("a{n}: &a{n} [{}]\n", vec![alias(n); 10].join(", ")), 6) + "b: [*a5, *a5]\n";
    let deep = lines(&|n| format!("a{n}: &a{n} [[[[{}]]]]\n", alias(n)), 40);
    let paths = lines(&|n| format!("  /p{n}: {{post: {{}}}}\n"), document::OPERATIONS_MAX + 1);
    check_wrong(
        &[
            &vec![b' '; DOCUMENT_BYTES_MAX + 1],
            b"openapi: \xff",
            "[".repeat(200).as_bytes(),
            format!("{{\"a\":\n {}", "[".repeat(1_000)).as_bytes(),
            deep.as_bytes(),
            bomb.as_bytes(),
            b"a: &a [*a]\n",
            format!("openapi: 3.0.0\npaths:\n{paths}").as_bytes(),
        ],
        &expect![[r#"
            api: the document is over 16 MiB, and so much is not read: give a part of it
            api:1: this is not UTF-8: save the document as UTF-8
            api:1: this is nested deeper than 128 levels
            api:2: this is nested deeper than 128 levels
            api:32: this is nested deeper than 128 levels
            api:7: the document has over 2000000 values, and so many are not read
            api:1: this alias is within what it stands for: write it out
            api:5003: over 5000 operations write here: give the document in parts
        "#]],
    );
}

/// A schema that is too large is read in part, and that is told.
#[test]
fn a_schema_has_a_limit() {
    let schemas: serde_json::Map<String, Value> = (0..30)
        .map(|n| {
            let next = json!({ "$ref": format!("#/components/schemas/S{}", n + 1) });
            (format!("S{n}"), json!({ "allOf": [next, next, next, next] }))
        })
        .chain([("S30".to_owned(), json!({}))])
        .collect();
    let schema = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/S0" } } });
    let document = json!({
        "openapi": "3.1.0",
        "paths": { "/a": { "post": { "requestBody": { "content": schema } } } },
        "components": { "schemas": schemas },
    });
    let written = file("api", document.to_string().as_bytes()).expect("it is one");
    let told = written.decisions.iter().any(|note| note.text.contains("was not read"));
    assert!(told, "{:?}", written.decisions);
}

/// What a document may be made of; the words make it likely that parts of it are read.
fn any_value() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "openapi",
        "3.1.0",
        "paths",
        "/a",
        "/a/{id}",
        "/{b}/c.{d}",
        "/a/*",
        "get",
        "post",
        "put",
        "patch",
        "parameters",
        "name",
        "in",
        "header",
        "query",
        "Idempotency-Key",
        "X-Request-Id",
        "required",
        "schema",
        "$ref",
        "#/components/schemas/A",
        "#/paths/~1a",
        "b.yaml",
        "properties",
        "allOf",
        "anyOf",
        "oneOf",
        "items",
        "type",
        "string",
        "null",
        "format",
        "uuid",
        "description",
        "id",
        "aId",
        "amount",
        "maxLength",
        "64",
        "requestBody",
        "content",
        "application/json",
        "responses",
        "201",
        "409",
        "425",
        "security",
        "servers",
        "url",
        "http://h/p",
        "https://{v}",
        "variables",
        "v",
        "default",
        "components",
        "schemas",
        "A",
        "securitySchemes",
        "apiKey",
        "oauth2",
        "deprecated",
        "The key is in progress, another, 90 days \u{7} \" # = [",
        "",
    ];
    let word = || prop::sample::select(WORDS).prop_map(str::to_owned);
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        2 => any::<bool>().prop_map(Value::from),
        1 => any::<i32>().prop_map(Value::from),
        8 => word().prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 8, move |inner| {
        let name = prop_oneof![9 => word(), 1 => any::<String>()];
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            3 => prop::collection::vec((name, inner), 0..8).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Reads a document that is perhaps none: it never panics, and what comes of it is a configuration, with and without
/// what it proposes.
fn survives(document: &str) -> bool {
    let Ok(written) = file("any", document.as_bytes()) else { return false };
    accepted(&written.text);
    accepted(&taken(&written.text));
    true
}

/// Puts `new` in the place of the `at`-th value.
fn replace(value: &mut Value, at: &mut usize, new: &Value) {
    if *at == 0 {
        *value = new.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| replace(member, at, new)),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, new)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_json_makes_it_panic(paths in any_value(), components in any_value(), whole in any_value()) {
        survives(&whole.to_string());
        survives(&json!({ "openapi": "3.0.0", "paths": paths, "components": components }).to_string());
    }

    #[test]
    fn a_document_with_anything_in_it_is_refused_or_makes_a_configuration(at in 1usize..240, new in any_value()) {
        let mut document: Value = serde_json::from_str(LEDGER).expect("JSON");
        replace(&mut document, &mut { at }, &new);
        survives(&document.to_string());
    }

    #[test]
    fn no_text_makes_it_panic(at in 0usize..SHOP.len(), length in 0usize..40, new in "[ -~\n\t\u{e9}]{0,6}") {
        let start = (0..=at).rev().find(|at| SHOP.is_char_boundary(*at)).expect("0 is one");
        let end = (at + length..=SHOP.len()).find(|at| SHOP.is_char_boundary(*at)).unwrap_or(SHOP.len());
        survives(&format!("{}{new}{}", &SHOP[..start], &SHOP[end..]));
    }
}

#[test]
fn the_properties_are_about_documents_that_are_read() {
    assert!(survives(SHOP) && survives(LEDGER));
}
