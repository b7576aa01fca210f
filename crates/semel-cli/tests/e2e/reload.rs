//! SIGHUP: all of a new configuration or nothing of it, and no exchange notices.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::harness::{
    Act, Conn, Gate, Gateway, Origin, Reply, assert_problem, assert_replay, gateway, get, post, replace, twice, until,
};

async fn configured(toml: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).config(toml).start().await;
    (origin, gateway)
}

fn count(gateway: &Gateway, words: &str) -> usize {
    gateway.log().matches(words).count()
}

/// Writes another configuration, and waits until it was judged.
async fn reload(gateway: &Gateway, toml: &str) {
    let before = count(gateway, "SIGHUP:");
    replace(gateway.setup.folder(), "semel.toml", toml);
    gateway.signal("HUP");
    until("the reload is over", async || count(gateway, "SIGHUP:") > before).await;
}

#[tokio::test]
async fn routes_change_and_what_runs_goes_on_as_it_began() {
    let (origin, gateway) = configured("[[route]]\npath = \"/orders\"\n").await;
    let gate = Gate::new();
    origin.next(Act::execute().held(&gate));
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("k")).await;
    origin.arrived(1).await;
    assert_eq!(gateway.send(&post("/payments").key("p")).await.header("idempotency-status"), Some("ignored"));

    reload(&gateway, "[[route]]\npath = \"/payments\"\nkey_presence = \"required\"\n").await;
    assert!(gateway.log().contains("routes added: POST PATCH /payments; routes removed: POST PATCH /orders"));
    assert_problem(&gateway.send(&post("/payments")).await, 400, "key-missing");
    let (first, retry) = twice(&gateway, &post("/payments").key("p")).await;
    assert_replay(&first, &retry);
    assert_eq!(gateway.send(&post("/orders").key("o")).await.header("idempotency-status"), Some("ignored"));
    // On the connection from before, too.
    gate.open();
    let kept = conn.response().await;
    assert_eq!((kept.status, kept.header("idempotency-status")), (201, None), "{kept:?}");
    conn.send(&post("/payments")).await;
    assert_problem(&conn.response().await, 400, "key-missing");

    // What was settled under the old policy counts under the next.
    reload(&gateway, "[[route]]\npath = \"/orders\"\n").await;
    assert_replay(&kept, &gateway.send(&post("/orders").key("k")).await);
}

#[tokio::test]
async fn a_storm_of_reloads_drops_nothing() {
    let routes = |n: usize| format!("[[route]]\npath = \"/orders\"\n[[route]]\npath = \"/other-{n}\"\n");
    let (origin, gateway) = configured(&routes(0)).await;
    let gateway = Arc::new(gateway);
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (gateway, answered) = (Arc::clone(&gateway), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut conn = Conn::open(gateway.addr).await;
                for n in 0..60 {
                    let request = post("/orders").key(&format!("{client}-{n}"));
                    conn.send(&request).await;
                    let first = conn.response().await;
                    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "{first:?}");
                    conn.send(&request).await;
                    assert_replay(&first, &conn.response().await);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut reloads = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        reloads += 1;
        // Every third is refused.
        let toml = if reloads % 3 == 0 { "nonsense = 1\n".to_owned() } else { routes(reloads) };
        reload(&gateway, &toml).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    assert!(reloads >= 3, "{reloads}");
    assert_eq!((answered.load(Ordering::SeqCst), origin.effects(), origin.seen().len()), (480, 480, 480));
}

#[tokio::test]
async fn what_is_wrong_or_needs_a_restart_changes_nothing() {
    let good = "[[route]]\npath = \"/orders\"\nkey_presence = \"required\"\n";
    let (_origin, gateway) = configured(good).await;
    let rows = [
        ("nonsense", "nonsense"),
        ("[[route]]\npath = \"no-slash\"\n", "path"),
        ("[gateway]\nthreads = 7\n", "gateway.threads cannot change without a restart"),
        (
            "[gateway]\nconnections_max = 7\nupstream_idle_max = \"1s\"\n",
            "gateway.connections_max and gateway.upstream_idle_max",
        ),
        ("[store]\nurl = \"memory\"\n", "[store]"),
        ("[tls]\ncert_file = \"a\"\nkey_file = \"b\"\n", "[tls]"),
        ("[gateway]\nlog_filter = \"=,=\"\n", "log filter"),
    ];
    for (n, (toml, why)) in rows.iter().enumerate() {
        reload(&gateway, toml).await;
        assert_eq!(count(&gateway, "the configuration is refused"), n + 1, "{toml}");
        let log = gateway.log();
        let line = &log[log.rfind("the configuration is refused").unwrap()..];
        assert!(line.contains(why), "{why}: {line}");
        assert_problem(&gateway.send(&post("/orders")).await, 400, "key-missing");
    }
    std::fs::remove_file(gateway.setup.config_file()).unwrap();
    gateway.signal("HUP");
    until("it is missed", async || gateway.log().contains("cannot read")).await;
    assert_problem(&gateway.send(&post("/orders")).await, 400, "key-missing");
    reload(&gateway, good).await;
    assert!(gateway.log().contains("nothing changed"), "{}", gateway.log());
}

#[tokio::test]
async fn sc07_who_authorizes_and_who_may_read_the_policy_change() {
    let asked = Origin::start().await;
    asked.always(|_| Act::refuse(Reply::json(401, "{}")));
    let (origin, gateway) = configured("").await;
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    assert_replay(&first, &retry);
    assert_eq!(gateway.send(&get("/.well-known/idempotency")).await.header("content-type"), Some("application/json"));
    assert_eq!(origin.seen().len(), 2);

    let toml = format!(
        "[gateway]\nauthorize = \"http://{}/a\"\npublish_policy = \"public\"\nlog_filter = \"debug\"\n",
        asked.addr
    );
    reload(&gateway, &toml).await;
    assert!(gateway.log().contains("reloaded: publish_policy; authorize; log_filter"), "{}", gateway.log());
    assert_eq!(gateway.send(&post("/orders").key("k")).await.status, 401);
    assert!(gateway.send(&get("/.well-known/idempotency")).await.json()["routes"].is_array());
    assert_eq!((origin.seen().len(), asked.seen().len()), (2, 1));

    reload(&gateway, "").await;
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
    assert_eq!(asked.seen().len(), 1);
}

#[tokio::test]
async fn without_a_file_a_signal_to_reload_is_harmless() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin).start().await;
    let (first, retry) = twice(&gateway, &post("/orders").key("k")).await;
    gateway.signal("HUP");
    until("it says so", async || gateway.log().contains("nothing changed")).await;
    assert_replay(&first, &retry);
    assert_replay(&first, &gateway.send(&post("/orders").key("k")).await);
}
