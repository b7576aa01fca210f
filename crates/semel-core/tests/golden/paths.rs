use expect_test::expect;
use http::Method;
use semel_core::admit::normalise_path;

use crate::{read, table};

#[test]
fn one_spelling_per_path() {
    let paths = [
        "/",
        "",
        "//",
        "/.",
        "/..",
        "/orders",
        "/orders/",
        "//orders//1",
        "/orders/./1",
        "/orders/../1",
        "/../../orders",
        "/orders/%2e%2E/1",
        "/%6frders",
        "/%7Eorders",
        "/a%2fb",
        "/a%2Fb",
        "/a/b",
        "/Orders",
        "/a%20b",
        "/a+b",
        "/caf%c3%a9",
        "/100%",
        "/%",
        "/%4",
        "/%zz",
        "/%25zz",
        "/%%41",
        "/%2541",
        "/a;b=1",
        "/a:b@c",
        "/.well-known/x",
        "/a..b",
        "/...",
        "*",
    ];
    let rows = paths.map(|path| [path.to_owned(), normalise_path(path).into_owned()]);
    expect![[r#"
        /                 /
                          /
        //                /
        /.                /
        /..               /
        /orders           /orders
        /orders/          /orders
        //orders//1       /orders/1
        /orders/./1       /orders/1
        /orders/../1      /1
        /../../orders     /orders
        /orders/%2e%2E/1  /1
        /%6frders         /orders
        /%7Eorders        /~orders
        /a%2fb            /a%2Fb
        /a%2Fb            /a%2Fb
        /a/b              /a/b
        /Orders           /Orders
        /a%20b            /a%20b
        /a+b              /a+b
        /caf%c3%a9        /caf%C3%A9
        /100%             /100%25
        /%                /%25
        /%4               /%254
        /%zz              /%25zz
        /%25zz            /%25zz
        /%%41             /%25A
        /%2541            /%2541
        /a;b=1            /a;b=1
        /a:b@c            /a:b@c
        /.well-known/x    /.well-known/x
        /a..b             /a..b
        /...              /...
        *                 /*
    "#]]
    .assert_eq(&table(rows));
}

#[test]
fn normalising_twice_changes_nothing() {
    let parts = ["/", "//", ".", "..", "%", "%2", "%2e", "%2F", "%25", "%41", "41", "a", "é", "%c3", "*", "{a}"];
    // Every path of up to four parts.
    let mut paths = vec![String::new()];
    for _ in 0..4 {
        let longer: Vec<String> = paths.iter().flat_map(|path| parts.map(|part| format!("{path}{part}"))).collect();
        paths.extend(longer);
        paths.sort();
        paths.dedup();
    }
    for path in paths {
        let once = normalise_path(&path).into_owned();
        assert_eq!(normalise_path(&once), once, "{path}");
        assert!(once.starts_with('/') && !once.contains("//"), "{path} became {once}");
    }
}

#[test]
fn the_first_route_that_covers_a_request() {
    let policy = read(
        r#"
        [[route]]
        path = "/orders/{id}/capture"
        [[route]]
        path = "/orders/{id}"
        methods = ["PATCH"]
        [[route]]
        path = "/Orders%2f/*"
        [[route]]
        path = "/files/*"
        methods = ["PUT"]
        [[route]]
        path = "/"
        "#,
    )
    .unwrap_or_else(|refused| panic!("{}", refused.message));
    let requests = [
        "POST /",
        "POST /orders",
        "POST /orders/1",
        "PATCH /orders/1",
        "PATCH /orders/1/",
        "PATCH //orders/%31",
        "PATCH /orders/1/2",
        "POST /orders/1/capture",
        "POST /orders/../orders/1/capture",
        "POST /orders//capture",
        "POST /orders/{id}/capture",
        "POST /Orders%2F",
        "POST /Orders%2fx",
        "POST /Orders%2f/x/y",
        "POST /orders%2F/x",
        "PUT /files",
        "PUT /files/",
        "PUT /files/a/b",
        "PUT /filesystem",
        "POST /files/a",
        "GET /orders/1",
        "post /",
    ];
    let rows = requests.map(|request| {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let route = policy.route(&method, &normalise_path(path));
        [request.to_owned(), route.map_or("-", |route| route.name()).to_owned()]
    });
    expect![[r#"
        POST /                            /
        POST /orders                      -
        POST /orders/1                    -
        PATCH /orders/1                   /orders/{id}
        PATCH /orders/1/                  /orders/{id}
        PATCH //orders/%31                /orders/{id}
        PATCH /orders/1/2                 -
        POST /orders/1/capture            /orders/{id}/capture
        POST /orders/../orders/1/capture  /orders/{id}/capture
        POST /orders//capture             -
        POST /orders/{id}/capture         /orders/{id}/capture
        POST /Orders%2F                   /Orders%2f/*
        POST /Orders%2fx                  -
        POST /Orders%2f/x/y               /Orders%2f/*
        POST /orders%2F/x                 -
        PUT /files                        /files/*
        PUT /files/                       /files/*
        PUT /files/a/b                    /files/*
        PUT /filesystem                   -
        POST /files/a                     -
        GET /orders/1                     -
        post /                            -
    "#]]
    .assert_eq(&table(rows));
}
