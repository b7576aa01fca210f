//! TLS to clients and to the origin: what is covered stays covered, and what is known of an origin stays true.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use tokio_rustls::TlsAcceptor;

use crate::crash::kept_connections_that_end_do_no_harm;
use crate::harness::{
    Act, Authority, Conn, Cut, Gate, Gateway, Issued, Origin, Part, Reply, Request, Response, Setup, assert_problem,
    assert_replay, gateway, get, post, replace, semel, twice, until, within,
};

const H1: &[&str] = &["http/1.1"];

/// The table of a gateway that shows `issued`, with more lines of it.
fn tls_table(folder: &Path, issued: &Issued, more: &str) -> String {
    let (cert, key) = issued.write(folder, "server");
    format!("[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n{more}", cert.display(), key.display())
}

/// A gateway that speaks TLS, and an authority that its clients trust.
async fn by_tls(more: &str) -> (Origin, Authority, Gateway) {
    let (origin, authority) = (Origin::start().await, Authority::new());
    let setup = gateway(&origin);
    let config = tls_table(setup.folder(), &authority.server(), more);
    let gateway = setup.config(&config).start().await;
    (origin, authority, gateway)
}

async fn send(gateway: &Gateway, client: &Arc<ClientConfig>, request: &Request) -> Response {
    let mut conn = Conn::open_tls(gateway.addr, client).await;
    conn.send(request).await;
    conn.response().await
}

/// An origin that speaks TLS, and a gateway in front of it that trusts `authority`.
async fn to_https(authority: &Authority, origin: &Origin, more: &str) -> Gateway {
    trusting(gateway(origin), authority, more).start().await
}

fn trusting(setup: Setup, authority: &Authority, more: &str) -> Setup {
    let ca = replace(setup.folder(), "ca.pem", &authority.pem());
    let config = format!("[gateway]\nupstream_ca_file = \"{}\"\n{more}", ca.display());
    setup.https().config(&config)
}

#[tokio::test]
async fn http_1_and_2_by_tls_are_covered_just_the_same() {
    let (origin, authority, gateway) = by_tls("").await;
    let request = post("/orders").key("k").header("Host", gateway.addr.to_string());
    let first = send(&gateway, &authority.trusted_by(H1, None), &request).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "{first:?}");
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert!(seen.header("forwarded").is_some_and(|value| value.contains("proto=https")), "{seen:?}");
    // Who names no protocol speaks HTTP/1.1.
    assert_replay(&first, &send(&gateway, &authority.trusted_by(&[], None), &request).await);

    let stream = Conn::open_tls(gateway.addr, &authority.trusted_by(&["h2", "http/1.1"], None)).await.into_stream();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let ask = http::Request::post(format!("https://{}/orders", gateway.addr))
        .header("content-type", "application/json")
        .header("idempotency-key", "\"k\"")
        .body(Full::new(Bytes::from_static(b"{\"amount\":1}")))
        .unwrap();
    let answer = within("an answer", sender.send_request(ask)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["idempotent-replayed"].to_str().unwrap()), (201, "true"));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), first.body);
    assert_eq!(origin.seen().len(), 1);
    drop(sender);
    let _ = driving.await;
}

#[tokio::test]
async fn sc15_what_can_be_read_in_two_ways_is_refused_by_tls_too() {
    let (origin, authority, gateway) = by_tls("").await;
    let client = authority.trusted_by(H1, None);
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    ] {
        let mut conn = Conn::open_tls(gateway.addr, &client).await;
        conn.write(format!("{head}{framing}{smuggled}")).await;
        let answer = conn.response().await;
        assert_eq!((answer.status, conn.rest().await.len()), (400, 0), "{framing}: {answer:?}");
        assert_eq!(origin.seen().len(), 0, "{framing}");
    }
}

#[tokio::test]
async fn websockets_pass_by_tls_on_both_sides() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server().shown_by_server()).await;
    let setup = gateway(&origin);
    let table = tls_table(setup.folder(), &authority.server(), "");
    let gateway = trusting(setup, &authority, &table).start().await;
    let upgraded = Reply::new(101).header("Connection", "Upgrade").header("Upgrade", "websocket").raw([Part::Echo]);
    origin.next(Act::refuse(upgraded));
    let mut conn = Conn::open_tls(gateway.addr, &authority.trusted_by(H1, None)).await;
    conn.send(&get("/socket").header("Connection", "Upgrade").header("Upgrade", "websocket")).await;
    assert_eq!(conn.response().await.status, 101);
    let frames: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for part in frames.chunks(9_999) {
        conn.write(part).await;
        assert!(within("the echo", conn.take(part.len())).await.unwrap() == part);
    }
}

#[tokio::test]
async fn who_speaks_plain_http_or_nothing_or_nonsense_is_let_go() {
    let (origin, authority, gateway) = by_tls("handshake_max = \"500ms\"\n").await;
    let answer = gateway.send(&post("/orders").key("k").body("x".repeat(60_000))).await;
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{answer:?}");
    assert!(answer.text().contains("https"), "{answer:?}");
    let mut silent = TcpStream::connect(gateway.addr).await.unwrap();
    let mut slow = TcpStream::connect(gateway.addr).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    let mut nonsense = TcpStream::connect(gateway.addr).await.unwrap();
    nonsense.write_all(&[0; 64]).await.unwrap();
    // Nobody waits for them.
    assert_eq!(send(&gateway, &authority.trusted_by(H1, None), &post("/orders").key("k")).await.status, 201);
    for stream in [&mut silent, &mut slow, &mut nonsense] {
        let mut said = Vec::new();
        let _reset = within("the end", stream.read_to_end(&mut said)).await;
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_certificate_is_exchanged_while_connections_execute() {
    let (origin, authority, gateway) = by_tls("reload_every = \"50ms\"\n").await;
    let (client, gate) = (authority.trusted_by(H1, None), Gate::new());
    let held = gate.clone();
    origin.always(move |_| Act::execute().held(&held));
    let mut conns = Vec::new();
    for n in 0..16 {
        let mut conn = Conn::open_tls(gateway.addr, &client).await;
        conn.send(&post("/orders").key(&n.to_string())).await;
        conns.push(conn);
    }
    origin.arrived(16).await;
    let new = authority.server();
    new.write(gateway.setup.folder(), "server");
    until("new connections see the new certificate", async || {
        Conn::open_tls(gateway.addr, &client).await.shown() == new.chain()[0].as_ref()
    })
    .await;
    gate.open();
    for (n, conn) in conns.iter_mut().enumerate() {
        let first = conn.response().await;
        assert_eq!(first.status, 201, "{first:?}");
        assert_ne!(conn.shown(), new.chain()[0].as_ref());
        // On the old connection, and on a new one.
        conn.send(&post("/orders").key(&n.to_string())).await;
        assert_replay(&first, &conn.response().await);
        assert_replay(&first, &send(&gateway, &client, &post("/orders").key(&n.to_string())).await);
    }
    assert_eq!(origin.effects(), 16);
}

#[tokio::test]
async fn files_that_do_not_fit_together_change_nothing() {
    let (_origin, authority, gateway) = by_tls("reload_every = \"50ms\"\n").await;
    let (client, folder) = (authority.trusted_by(H1, None), gateway.setup.folder());
    let old = Conn::open_tls(gateway.addr, &client).await.shown();
    let new = authority.server();
    let warned = || gateway.log().matches("those from before stay").count();
    let mut before = 0;
    for (name, text) in [("server.pem", new.cert.as_str()), ("server.pem", "nonsense"), ("server.pem", "")] {
        replace(folder, name, text);
        until("the log says so", async || warned() > before).await;
        before = warned();
        assert_eq!(Conn::open_tls(gateway.addr, &client).await.shown(), old);
        gateway.signal("HUP");
        until("a reload is refused", async || gateway.log().contains("the configuration is refused")).await;
        assert_eq!(Conn::open_tls(gateway.addr, &client).await.shown(), old);
    }
    assert_eq!(before, 3, "each is told once: {}", gateway.log());
    new.write(folder, "server");
    until("the new one is shown", async || {
        Conn::open_tls(gateway.addr, &client).await.shown() == new.chain()[0].as_ref()
    })
    .await;
}

#[tokio::test]
async fn sc01_a_client_without_a_good_certificate_is_let_in_only_where_the_operator_says() {
    for (rule, without, with_bad) in [("required", "no", "no"), ("optional", "yes", "no")] {
        let (origin, authority) = (Origin::start().await, Authority::new());
        let (setup, clients) = (gateway(&origin), Authority::new());
        let ca = replace(setup.folder(), "clients.pem", &clients.pem());
        let more = format!("client_ca_file = \"{}\"\nclient_certificate = \"{rule}\"\n", ca.display());
        let config = tls_table(setup.folder(), &authority.server(), &more);
        let gateway = setup.config(&config).start().await;
        let stranger = authority.client("billing");
        let rows = [
            ("a good one", Some(clients.client("billing")), "yes"),
            ("none", None, without),
            ("another authority's", Some(stranger), with_bad),
        ];
        for (what, shows, is_let_in) in rows {
            let client = authority.trusted_by(H1, shows.as_ref());
            let sent = async {
                let mut conn = Conn::try_open_tls(gateway.addr, &client).await?;
                conn.write_lossy("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
                conn.try_response().await
            };
            match within("an answer, or none", sent).await {
                Ok(answer) => assert_eq!((is_let_in, answer.status), ("yes", 200), "{rule}: {what}"),
                Err(error) => assert_eq!(is_let_in, "no", "{rule}: {what}: {error}"),
            }
        }
        assert_eq!(origin.seen().len(), if rule == "required" { 1 } else { 2 });
    }
}

#[tokio::test]
async fn an_https_origin_is_covered_just_the_same() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server().shown_by_server()).await;
    let gateway = to_https(&authority, &origin, "").await;
    for n in 0..20 {
        let (first, retry) = twice(&gateway, &post("/orders").key(&n.to_string())).await;
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &retry);
        assert_eq!(gateway.send(&get("/orders")).await.status, 200);
    }
    // Larger than what TLS writes at once, in both directions.
    let large = vec![b'x'; 900_000];
    origin.next(Act::reply(Reply::new(201).body(&large)));
    let (first, retry) = twice(&gateway, &post("/orders").key("large").body(&large)).await;
    assert_eq!((first.status, first.body.len()), (201, large.len()));
    assert_replay(&first, &retry);
    assert_eq!(origin.seen().last().unwrap().body.len(), large.len());
    assert_eq!(origin.effects(), 21);
}

#[tokio::test]
async fn k17_a_connection_by_tls_that_is_lost_after_the_request_left_is_unknown() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server().shown_by_server()).await;
    let gateway = to_https(&authority, &origin, "").await;
    let half = Reply::new(201).header("Content-Length", "10").raw([Part::from("{\"id\""), Part::Reset]);
    let chunk = Reply::new(201).chunked([Part::from("{\"id\""), Part::Reset]);
    // RFC 8446 section 6.1: without its close_notify it may be half of the answer.
    let truncated = Reply::new(201).until_close([Part::from("{\"id\"")]);
    let rows = [
        ("reset after executing", Act::cut(Cut::AfterExecuting), 1),
        ("reset after reading", Act::cut(Cut::AfterReading), 0),
        ("reset before reading", Act::cut(Cut::BeforeReading), 0),
        ("reset amid a counted answer", Act::reply(half), 1),
        ("reset amid a chunked answer", Act::reply(chunk), 1),
        ("truncated", Act::reply(truncated), 1),
    ];
    for (what, act, effects) in rows {
        let before = origin.effects();
        // On a connection of its own, and on one that was used before.
        for used in ["fresh", "used"] {
            if used == "used" {
                assert_eq!(gateway.send(&get("/orders")).await.status, 200);
            }
            origin.next(act.clone());
            let request = post("/orders").key(&format!("{what}-{used}").replace(' ', "-"));
            assert_problem(&gateway.send(&request).await, 502, "outcome-unknown");
            assert_problem(&gateway.send(&request).await, 409, "outcome-unknown");
        }
        assert_eq!(origin.effects() - before, 2 * effects, "{what}");
    }
}

#[tokio::test]
async fn k18_an_origin_whose_certificate_is_not_accepted_gets_no_byte_and_the_key_is_free() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let rows = [
        ("another authority's", stranger.server(), "UnknownIssuer"),
        ("an expired one", authority.expired_server(), "expired"),
        ("one for another name", authority.server_named("other.example"), "not valid for name"),
    ];
    for (what, shown, why) in rows {
        let bad = Origin::start_tls(shown.shown_by_server()).await;
        let gateway = to_https(&authority, &bad, "").await;
        for _ in 0..2 {
            let answer = gateway.send(&post("/orders").key("k")).await;
            assert_problem(&answer, 502, "origin-unavailable");
        }
        assert_eq!(bad.seen().len(), 0, "{what}");
        let log = gateway.log();
        assert!(log.contains("nothing was sent") && log.contains(why), "{what}: {log}");
        let good = Origin::start_tls(authority.server().shown_by_server()).await;
        let gateway = gateway.restart_with(|setup| setup.origin(&good)).await;
        let answer = gateway.send(&post("/orders").key("k")).await;
        assert_eq!((answer.status, answer.header("idempotent-replayed"), good.effects()), (201, None, 1), "{what}");
    }
}

#[tokio::test]
async fn k18_an_origin_that_is_not_there_or_speaks_no_tls_has_got_nothing() {
    let (authority, plain) = (Authority::new(), Origin::start().await);
    let gateway = to_https(&authority, &plain, "connect_max = \"500ms\"\n").await;
    for _ in 0..2 {
        assert_problem(&gateway.send(&post("/orders").key("k")).await, 502, "origin-unavailable");
    }
    let nobody = TcpListener::bind("127.0.0.78:0").await.unwrap();
    let addr = nobody.local_addr().unwrap();
    drop(nobody);
    let gateway = gateway.restart_with(|setup| setup.origin_at(addr)).await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 502, "origin-unavailable");
    // One that takes connections, and never shakes hands.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let gateway = gateway.restart_with(|setup| setup.origin_at(addr)).await;
    assert_problem(&gateway.send(&post("/orders").key("k")).await, 502, "origin-unavailable");
    assert!(gateway.log().contains("connect_max"), "{}", gateway.log());
    let origin = Origin::start_tls(authority.server().shown_by_server()).await;
    let gateway = gateway.restart_with(|setup| setup.origin(&origin)).await;
    assert_eq!((gateway.send(&post("/orders").key("k")).await.status, origin.effects()), (201, 1));
}

#[tokio::test]
async fn a_kept_connection_by_tls_that_the_origin_closes_is_not_the_clients_trouble() {
    let authority = Authority::new();
    let origin = Origin::start_tls(authority.server().shown_by_server()).await;
    let gateway = to_https(&authority, &origin, "").await;
    kept_connections_that_end_do_no_harm(&origin, &gateway).await;
}

/// An origin that asks for new keys (RFC 8446 section 4.6.3) after its first answer on a connection, says that it says no
/// more after its second, both once it may, and never closes. Tells of every connection, and when all of that is said.
async fn talkative_origin(authority: &Authority, may: Arc<Notify>) -> (SocketAddr, mpsc::UnboundedReceiver<Said>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, acceptor) = (listener.local_addr().unwrap(), TlsAcceptor::from(authority.server().shown_by_server()));
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            // What is said is there when that is told.
            stream.set_nodelay(true).unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            tell.send(Said::Accepted).unwrap();
            for answer in 0..2 {
                let mut request = Vec::new();
                while !request.ends_with(b"{\"amount\":1}") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                stream.flush().await.unwrap();
                may.notified().await;
                let (_, session) = stream.get_mut();
                match answer {
                    0 => session.refresh_traffic_keys().unwrap(),
                    _ => session.send_close_notify(),
                }
                stream.flush().await.unwrap();
                tell.send(Said::Answered).unwrap();
            }
            open.push(stream);
        }
    });
    (addr, told)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Said {
    Accepted,
    Answered,
}

#[tokio::test]
async fn what_an_origin_says_of_tls_is_nobodys_answer_and_its_end_is_the_end() {
    let (authority, elsewhere) = (Authority::new(), Origin::start().await);
    let may = Arc::new(Notify::new());
    let (addr, mut told) = talkative_origin(&authority, Arc::clone(&may)).await;
    let more = "upstream_idle_max = \"60s\"\n";
    let gateway = trusting(gateway(&elsewhere).origin_at(addr), &authority, more).start().await;
    let mut conn = Conn::open(gateway.addr).await;
    let mut heard = Vec::new();
    for n in 0..3 {
        conn.send(&post("/orders").key(&n.to_string())).await;
        let answer = conn.response().await;
        assert_eq!(answer.status, 204, "{answer:?}");
        may.notify_one();
        while heard.iter().filter(|said| **said == Said::Answered).count() <= n {
            heard.push(within("the origin has said it all", told.recv()).await.unwrap());
        }
    }
    let expected = [Said::Accepted, Said::Answered, Said::Answered, Said::Accepted, Said::Answered];
    assert_eq!(heard, expected, "the third is the first on a new connection");
}

#[tokio::test]
async fn the_gateway_shows_its_certificate_to_the_origin_and_to_who_authorizes() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(clients.demanded_by(&authority.server())).await;
    let asked = Origin::start_tls(clients.demanded_by(&authority.server())).await;
    let setup = gateway(&origin);
    let (cert, key) = clients.client("gateway").write(setup.folder(), "client");
    let more = format!(
        "upstream_client_cert_file = \"{}\"\nupstream_client_key_file = \"{}\"\nauthorize = \"https://{}/session\"\n",
        cert.display(),
        key.display(),
        asked.addr
    );
    let gateway = trusting(setup, &authority, &more).start().await;
    let request = post("/orders").key("k").header("Authorization", "Bearer a");
    let (first, retry) = twice(&gateway, &request).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(asked.seen().len(), 1);
    assert_replay(&first, &retry);
    asked.always(|_| Act::refuse(Reply::json(401, "{}")));
    assert_eq!(gateway.send(&request).await.status, 401);
    assert_eq!(origin.effects(), 1);
}

#[tokio::test]
async fn who_an_origin_must_be_is_exchanged_with_its_file() {
    let (old, new) = (Authority::new(), Authority::new());
    let origin = Origin::start_tls(old.server().shown_by_server()).await;
    let gateway = to_https(&old, &origin, "upstream_idle_max = \"60s\"\n").await;
    // One client connection is served by one thread, which has one kept connection.
    let mut conn = Conn::open(gateway.addr).await;
    conn.send(&post("/orders").key("a")).await;
    assert_eq!(conn.response().await.status, 201);
    replace(gateway.setup.folder(), "ca.pem", &new.pem());
    gateway.signal("HUP");
    until("it is read", async || gateway.log().contains("reloaded: certificates")).await;
    // The kept connection is of the old authority, and is not used again.
    conn.send(&post("/orders").key("b")).await;
    assert_problem(&conn.response().await, 502, "origin-unavailable");
    replace(gateway.setup.folder(), "ca.pem", &old.pem());
    gateway.signal("HUP");
    until("it is read", async || gateway.log().matches("reloaded: certificates").count() == 2).await;
    assert_eq!((gateway.send(&post("/orders").key("b")).await.status, origin.effects()), (201, 2));
}

#[tokio::test]
async fn a_configuration_can_be_checked_with_its_certificates() {
    let (authority, origin) = (Authority::new(), Origin::start().await);
    let setup = gateway(&origin);
    let good = tls_table(setup.folder(), &authority.server(), "");
    let file = setup.config_file();
    let check = async |config: &str| {
        std::fs::write(&file, config).unwrap();
        semel(&["serve", "--check", "--upstream", "http://127.0.0.1:9", "--config", file.to_str().unwrap()], &[]).await
    };
    let said = check(&good).await;
    assert_eq!((said.code, said.stdout.contains("fine")), (0, true), "{said:?}");
    authority.server().write(setup.folder(), "other");
    let misfit = good.replace("server.key", "other.key");
    let missing = good.replace("server.pem", "nowhere.pem");
    let half = "[tls]\ncert_file = \"a.pem\"\n".to_owned();
    let filter = format!("[gateway]\nlog_filter = \"=,=\"\n{good}");
    for (config, why) in
        [(misfit, "do not fit together"), (missing, "nowhere.pem"), (half, "key_file"), (filter, "log filter")]
    {
        let said = check(&config).await;
        assert_eq!((said.code, said.stderr.contains(why)), (2, true), "{why}: {said:?}");
        // And it does not start on it.
        let said = setup.clone().config(&config).run().await;
        assert_eq!((said.code, said.stderr.contains(why)), (2, true), "{why}: {said:?}");
    }
}
