//! Whose key it is, and what a request may carry: SC1 to SC4, SC7 to SC10, SC13 to SC15.

use crate::harness::{
    Act, Conn, Gateway, Origin, Reply, assert_problem, assert_replay, gateway, get, post, request, twice,
};

async fn configured(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn sc01_a_key_belongs_to_who_used_it() {
    let (origin, gateway) = configured("").await;
    let callers = [
        post("/orders").key("k"),
        post("/orders").key("k").header("Authorization", "Bearer a"),
        post("/orders").key("k").header("Authorization", "Bearer b"),
        post("/orders").key("k").header("Authorization", "Basic a"),
        post("/orders").key("k").header("X-API-Key", "Bearer a"),
        post("/orders").key("k").header("X-API-Key", "b").header("Authorization", "Bearer a"),
    ];
    let mut firsts = Vec::new();
    for (n, caller) in callers.iter().enumerate() {
        let first = gateway.send(caller).await;
        assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "caller {n}");
        assert_eq!(origin.effects(), n + 1);
        firsts.push(first);
    }
    for (caller, first) in callers.iter().zip(&firsts) {
        assert_replay(first, &gateway.send(caller).await);
        // And another content of theirs is refused because of theirs alone.
        assert_problem(&gateway.send(&caller.clone().body("{}")).await, 422, "key-reused");
    }
    assert_eq!(origin.seen().len(), callers.len());
}

#[tokio::test]
async fn sc01_the_principal_is_what_the_operator_says() {
    let (origin, gateway) = configured("principal = [\"X-Tenant\"]\n").await;
    let caller = |tenant: &str, credential: &str| {
        post("/orders").key("k").header("X-Tenant", tenant).header("Authorization", credential)
    };
    let first = gateway.send(&caller("a", "old")).await;
    assert_replay(&first, &gateway.send(&caller("a", "rotated")).await);
    assert_eq!(gateway.send(&caller("b", "old")).await.header("idempotent-replayed"), None);
    assert_eq!(origin.effects(), 2);
}

#[tokio::test]
async fn sc02_a_key_on_two_endpoints_is_two_operations() {
    let (origin, gateway) = configured("").await;
    let orders = gateway.send(&post("/orders").key("k")).await;
    let payments = gateway.send(&post("/payments").key("k")).await;
    let patched = gateway.send(&request("PATCH", "/orders").key("k").body("{}")).await;
    assert_eq!(origin.effects(), 3);
    assert_replay(&orders, &gateway.send(&post("/orders").key("k")).await);
    assert_replay(&payments, &gateway.send(&post("/payments").key("k")).await);
    assert_replay(&patched, &gateway.send(&request("PATCH", "/orders").key("k").body("{}")).await);
}

#[tokio::test]
async fn sc03_a_key_on_two_paths_of_one_route_is_two_operations() {
    let (origin, gateway) = configured("[[route]]\npath = \"/v2/intents/{id}\"\n").await;
    let one = gateway.send(&post("/v2/intents/1").key("k")).await;
    let two = gateway.send(&post("/v2/intents/2").key("k")).await;
    assert_eq!((origin.effects(), two.header("idempotent-replayed")), (2, None));
    assert_replay(&one, &gateway.send(&post("/v2/intents/1").key("k")).await);
}

#[tokio::test]
async fn sc04_spellings_of_a_path_are_one_operation() {
    let (origin, gateway) = configured("[[route]]\npath = \"/v2/orders\"\nkey_presence = \"required\"\n").await;
    let first = gateway.send(&post("/v2/orders").key("k")).await;
    let spellings = ["/v2//orders", "//v2/orders", "/v2/orders/", "/v2/%6Frders", "/v2/./orders", "/v2/x/../orders"];
    for spelling in spellings {
        assert_replay(&first, &gateway.send(&post(spelling).key("k")).await);
        // And no spelling gets around the route's rule.
        assert_problem(&gateway.send(&post(spelling)).await, 400, "key-missing");
    }
    assert_eq!(origin.seen().len(), 1);
    // These name other resources, which the route does not cover; they are passed on as they were sent.
    for other in ["/v2/Orders", "/v2%2Forders", "/v2/orders/1"] {
        let answer = gateway.send(&post(other).key("k")).await;
        assert_eq!(answer.header("idempotency-status"), Some("ignored"), "{other}");
        assert_eq!(origin.seen().last().unwrap().target, other);
    }
}

#[tokio::test]
async fn sc04_a_path_is_passed_on_as_it_was_sent() {
    let (origin, gateway) = configured("").await;
    for (n, target) in
        ["/a//b/", "/%6Frders?q=%20+&&a=b;c", "/a/./b/../c", "/%2F%2f", "/?", "/a:b@c,d'e"].iter().enumerate()
    {
        gateway.send(&post(target).key(&n.to_string())).await;
        assert_eq!(origin.seen().last().unwrap().target, *target);
        gateway.send(&get(target)).await;
        assert_eq!(origin.seen().last().unwrap().target, *target);
    }
}

#[tokio::test]
async fn sc07_a_revoked_credential_is_not_told_a_kept_reply() {
    let asked = Origin::start().await;
    let origin = Origin::start().await;
    let toml = format!("[gateway]\nauthorize = \"http://{}/authorize\"\n", asked.addr);
    let gateway = gateway(&origin).config(&toml).start().await;
    asked.always(|_| Act::refuse(Reply::new(204)));
    let request = post("/orders").key("k").header("Authorization", "Bearer good-then-revoked");
    origin.next(Act::reply(Reply::json(201, r#"{"iban":"DE00"}"#)));
    let (first, retry) = twice(&gateway, &request).await;
    assert_replay(&first, &retry);
    let question = asked.seen().pop().expect("the authorizer was asked");
    assert_eq!(question.header("authorization"), Some("Bearer good-then-revoked"));

    for status in [401, 403] {
        asked.always(move |_| Act::refuse(Reply::json(status, r#"{"error":"revoked"}"#)));
        let refused = gateway.send(&request).await;
        assert_eq!((refused.status, refused.header("idempotent-replayed")), (status, None), "{refused:?}");
        assert!(!String::from_utf8_lossy(&refused.body).contains("DE00"), "{refused:?}");
    }
    // An authorizer that cannot answer has not said yes.
    asked.always(|_| Act::refuse(Reply::new(500)));
    let refused = gateway.send(&request).await;
    assert!(refused.status >= 500 && !String::from_utf8_lossy(&refused.body).contains("DE00"), "{refused:?}");
    asked.always(|_| Act::refuse(Reply::new(204)));
    assert_replay(&first, &gateway.send(&request).await);
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn sc08_who_does_not_say_who_they_are_learns_nothing() {
    let (origin, gateway) = configured("").await;
    origin.always(|seen| match seen.header("authorization") {
        Some(_) => Act::reply(Reply::json(201, r#"{"secret":"of a"}"#)),
        None => Act::refuse(Reply::json(401, r#"{"error":"login"}"#)),
    });
    let known = post("/orders").key("k").header("Authorization", "Bearer a");
    let first = gateway.send(&known).await;
    for stranger in [post("/orders").key("k"), post("/orders").key("k").body("{}"), post("/orders").key("unused")] {
        let answer = gateway.send(&stranger).await;
        assert_eq!((answer.status, answer.text()), (401, r#"{"error":"login"}"#));
    }
    assert_replay(&first, &gateway.send(&known).await);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn sc09_odd_keys_are_opaque() {
    let (origin, gateway) = configured("").await;
    let odd =
        ["' OR 1=1 --", "../../etc/passwd", "*", "%00%0d%0aX: y", "{}${jndi:ldap://x}", "a, b", "<script>", "\\\\\\\""];
    let mut bodies = std::collections::BTreeSet::new();
    for key in odd {
        let (first, retry) = twice(&gateway, &post("/orders").key(key)).await;
        assert_eq!(first.status, 201, "{key}");
        assert_replay(&first, &retry);
        assert!(bodies.insert(first.body), "{key} is a key of its own");
        assert_eq!(origin.seen().last().unwrap().header("idempotency-key"), Some(&*format!("\"{key}\"")));
    }
    // A line break ends the field line, as HTTP says; what follows is no part of the key, and no log line.
    gateway.send(&post("/orders").header("Idempotency-Key", "\"a\"\r\nX-Forged: ERROR forged by a client")).await;
    for bare_break in ["\"a\rb\"", "\"a\nb\""] {
        let answer = gateway.send(&post("/orders").header("Idempotency-Key", bare_break)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    assert_eq!(origin.effects(), odd.len() + 1);
    assert!(!gateway.log().contains("forged"), "{}", gateway.log());
}

#[tokio::test]
async fn sc10_who_guesses_keys_of_another_learns_nothing() {
    let (origin, gateway) = configured("[[route]]\non_mismatch = \"refuse\"\n").await;
    let of =
        |who: &str, key: u32| post("/orders").key(&key.to_string()).header("Authorization", format!("Bearer {who}"));
    origin.always(|seen| match seen.header("authorization") {
        Some("Bearer tenant") => {
            Act::reply(Reply::json(201, r#"{"iban":"DE00"}"#).header("Location", "/orders/of-tenant"))
        }
        Some("Bearer held") => Act::cut(crate::harness::Cut::AfterExecuting),
        Some(_) | None => Act::refuse(Reply::json(403, r#"{"error":"no"}"#)),
    });
    let firsts: Vec<_> = {
        let mut firsts = Vec::new();
        for key in 1..=5 {
            firsts.push(gateway.send(&of("tenant", key)).await);
        }
        firsts
    };
    // One more tenant whose keys are held by outcomes that nobody knows.
    for key in 1..=5 {
        assert_eq!(gateway.send(&of("held", key)).await.status, 502);
    }
    // Keys that are taken, keys that are held, keys that are free, with the content or another: all the same answer.
    let unused = gateway.send(&of("guesser", 1_000)).await;
    for key in 1..=20 {
        for guess in [of("guesser", key), of("guesser", key).body("{}")] {
            let answer = gateway.send(&guess).await;
            crate::harness::assert_same_reply(&unused, &answer);
            assert_eq!((answer.status, answer.text()), (403, r#"{"error":"no"}"#));
        }
    }
    // And nothing that they tried is in the way of whose keys they are.
    for (first, key) in firsts.iter().zip(1..) {
        assert_replay(first, &gateway.send(&of("tenant", key)).await);
        assert_problem(&gateway.send(&of("held", key)).await, 409, "outcome-unknown");
    }
    assert_eq!(origin.effects(), 10);
}

#[tokio::test]
async fn sc13_a_reply_that_is_told_once_is_kept_nowhere() {
    let toml = "[[route]]\npath = \"/tokens\"\nreply = \"omitted\"\n";
    let (origin, gateway) = configured(toml).await;
    let told = ["token-in-content-4f1c", "token-in-location-77d0", "token-in-cookie-a0e9"];
    origin.always(move |_| {
        let reply = Reply::json(201, &format!(r#"{{"token":"{}"}}"#, told[0]));
        Act::reply(reply.header("Location", &format!("/tokens/{}", told[1])).header("Set-Cookie", told[2]))
    });
    let request = post("/tokens").key("k").header("Authorization", "Bearer a");
    let first = gateway.send(&request).await;
    assert!(first.status == 201 && first.text().contains(told[0]), "{first:?}");
    let (data, before) = (gateway.setup.data(), gateway.log());
    // Told once is told once: now, after a crash, and to whoever was not first.
    let mut gateway = gateway.restart().await;
    for _ in 0..2 {
        let retry = gateway.send(&request).await;
        assert_problem(&retry, 409, "reply-gone");
        assert_eq!(retry.json()["original_status"], 201);
        assert!(told.iter().all(|secret| !format!("{retry:?}").contains(secret)), "{retry:?}");
    }
    assert_eq!(origin.effects(), 1);
    gateway.signal("TERM");
    gateway.ended().await;
    let log = before + &gateway.log();
    let files = files(&data);
    assert!(files.iter().any(|file| std::fs::metadata(file).unwrap().len() > 0), "there is something to search");
    for secret in told {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        for file in &files {
            let bytes = std::fs::read(file).unwrap();
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", file.display());
        }
    }
}

#[tokio::test]
async fn no_key_and_no_credential_is_ever_logged_or_kept_readable() {
    // Not even in the words that are written for whoever hunts a bug.
    let origin = Origin::start().await;
    let gateway = gateway(&origin).arg("--log").arg("trace").start().await;
    let secrets = ["key-5c1a7e", "bearer-77aa01", "apikey-aa9f02", "member-b81e03", "reply-c00d04", "cookie-d44e05"];
    let request = post("/orders")
        .key(secrets[0])
        .header("Authorization", format!("Bearer {}", secrets[1]))
        .header("X-API-Key", secrets[2])
        .header("Cookie", secrets[5])
        .body(format!(r#"{{"card":"{}"}}"#, secrets[3]));
    origin.next(Act::reply(Reply::json(201, &format!(r#"{{"secret":"{}"}}"#, secrets[4]))));
    let (first, retry) = twice(&gateway, &request).await;
    assert_replay(&first, &retry);
    gateway.send(&request.clone().body("{}")).await;
    gateway.send(&request.clone().header("Idempotency-Key", secrets[0])).await;
    let answer = gateway.send(&post("/orders").header("Idempotency-Key", format!("\"{}", secrets[0]))).await;
    assert!(!answer.text().contains(secrets[0]), "a problem repeats no key: {answer:?}");
    origin.next(Act::cut(crate::harness::Cut::AfterExecuting));
    gateway.send(&request.clone().without("Idempotency-Key").key(&format!("{}-2", secrets[0]))).await;
    let data = gateway.setup.data();
    let mut gateway = gateway;
    gateway.signal("TERM");
    gateway.ended().await;
    let log = gateway.log();
    assert!(log.lines().count() >= 5, "every exchange has a line:\n{log}");
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    // The reply itself is sealed only with a later release; keys, credentials and requests never reach the disk.
    for file in files(&data) {
        let bytes = std::fs::read(&file).unwrap();
        for secret in secrets.iter().filter(|secret| !secret.starts_with("reply")) {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", file.display());
        }
    }
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut all): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    all.extend(folders.iter().flat_map(|folder| files(folder)));
    all
}

#[tokio::test]
async fn sc14_what_only_the_gateway_says_is_not_taken_from_clients_or_origins() {
    let (origin, gateway) = configured("").await;
    let names = ["Idempotent-Replayed", "Idempotency-Status", "Idempotency-Effect", "Idempotency-Warning"];
    let lie =
        |request: crate::harness::Request| names.iter().fold(request, |request, name| request.header(name, "true"));
    gateway.send(&lie(post("/orders").key("k"))).await;
    let seen = origin.seen().pop().unwrap();
    for name in names {
        assert_eq!(seen.header(&name.to_ascii_lowercase()), None, "{name} of {seen:?}");
    }
    let lie = Reply::json(201, "{}").header("Idempotent-Replayed", "true").header("Idempotency-Status", "unkept");
    origin.next(Act::reply(lie));
    let answer = gateway.send(&post("/orders").key("lied")).await;
    assert_eq!((answer.header("idempotent-replayed"), answer.header("idempotency-status")), (None, None), "{answer:?}");
    // A client's word on the effect counts for nothing, and an origin's word on it is not repeated.
    origin.next(Act::refuse(Reply::json(500, "{}")));
    let request = post("/orders").key("claimed").header("Idempotency-Effect", "none");
    let (first, retry) = twice(&gateway, &request).await;
    assert_eq!((first.status, first.header("idempotency-status")), (500, Some("unknown")));
    assert_problem(&retry, 409, "outcome-unknown");
}

#[tokio::test]
async fn sc15_what_can_be_read_in_two_ways_is_refused() {
    let (origin, gateway) = configured("").await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let rows = [
        ("length and chunks", format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("chunks and length", format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{smuggled}")),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: 5\r\n\r\n{smuggled}")),
        ("two lengths in one", format!("Content-Length: 0, 5\r\n\r\n{smuggled}")),
        ("a signed length", format!("Content-Length: +0\r\n\r\n{smuggled}")),
        ("a length in words", format!("Content-Length: five\r\n\r\n{smuggled}")),
        ("chunks not last", format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}")),
        ("chunks twice over", format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("a chunk size in words", format!("Transfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n{smuggled}")),
        ("a chunk that is longer", format!("Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n{smuggled}")),
        (
            "a huge chunk size",
            format!("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n{smuggled}"),
        ),
        ("a space before the colon", format!("Content-Length : 0\r\n\r\n{smuggled}")),
        ("a folded line", format!("X-A: 1\r\n b\r\nContent-Length: 0\r\n\r\n{smuggled}")),
    ];
    for (what, rest) in rows {
        let mut conn = Conn::open(gateway.addr).await;
        conn.write(format!("{head}{rest}")).await;
        let answer = conn.response().await;
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        let after = conn.rest().await;
        assert!(after.is_empty(), "{what}: the connection goes on with {}", String::from_utf8_lossy(&after));
        assert_eq!(origin.seen().len(), 0, "{what}: {:?}", origin.seen());
    }
    // The key is as free as before.
    assert_eq!(gateway.send(&post("/orders").key("k")).await.header("idempotent-replayed"), None);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn sc15_what_can_be_read_in_two_ways_is_refused_where_nothing_is_covered() {
    let (origin, gateway) = configured("").await;
    let rows = ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 0\r\nContent-Length: 5\r\n"];
    for framing in rows {
        let mut conn = Conn::open(gateway.addr).await;
        conn.write(format!(
            "PUT /orders HTTP/1.1\r\nHost: a\r\n{framing}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        ))
        .await;
        let answer = conn.response().await;
        assert_eq!((answer.status, conn.rest().await.len()), (400, 0), "{framing}: {answer:?}");
        assert_eq!(origin.seen().len(), 0, "{framing}: {:?}", origin.seen());
    }
}
