//! What a gateway must, may and must not change in a message that it forwards.

use std::{net::SocketAddr, str::FromStr as _};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA},
    uri::PathAndQuery,
};

use parking_lot::Mutex;
use semel::Body;

use crate::config::{HostRule, Scheme};

/// RFC 9110 section 7.6.1: these are for the next hop only, besides whatever `Connection` names.
const HOP_BY_HOP: [HeaderName; 4] =
    [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection"), TRANSFER_ENCODING, UPGRADE];

/// How many fields a request gains at most.
const ADDED: usize = 6;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The connection that a request came in by, in the forms that it is told to the origin.
#[derive(Debug)]
pub(crate) struct Peer {
    address: HeaderValue,
    scheme: Scheme,
    forwarded_for: String,
    /// The last `Forwarded` and the host it was for: one connection asks for one host.
    forwarded: Mutex<Option<(Option<HeaderValue>, HeaderValue)>>,
}

impl Peer {
    /// Of a client's address, and how it connected.
    pub(crate) fn new(address: SocketAddr, scheme: Scheme) -> Peer {
        let ip = address.ip().to_canonical();
        // RFC 7239 section 6: an IPv6 address is bracketed and quoted.
        let forwarded_for = if ip.is_ipv6() { format!("for=\"[{ip}]\"") } else { format!("for={ip}") };
        let address = HeaderValue::from_str(&ip.to_string()).expect("an address is a header value");
        Peer { address, scheme, forwarded_for, forwarded: Mutex::default() }
    }

    /// The element of RFC 7239 for a request for `host`.
    fn forwarded(&self, host: Option<&HeaderValue>) -> HeaderValue {
        let mut last = self.forwarded.lock();
        if let Some((for_host, value)) = &*last
            && for_host.as_ref() == host
        {
            return value.clone();
        }
        let mut element = self.forwarded_for.clone();
        if let Some(host) = host.and_then(|host| host.to_str().ok()) {
            element.push_str(";host=\"");
            element.push_str(host);
            element.push('"');
        }
        element.push_str(";proto=");
        element.push_str(self.scheme.as_str());
        let value = HeaderValue::from_str(&element).expect("an address and a checked host are visible");
        *last = Some((host.cloned(), value.clone()));
        value
    }
}

/// Whether the client asks to speak another protocol on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// It does not.
    Http,
    /// It does: `Upgrade` and its `Connection` option stay.
    Upgrade,
}

/// Why a request is not forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unforwardable {
    /// What the client is told.
    pub status: StatusCode,
    /// And why.
    pub detail: &'static str,
}

/// See [`Ambiguous`](super::framing::Ambiguous).
pub(crate) const AMBIGUOUS: Unforwardable = Unforwardable {
    status: StatusCode::BAD_REQUEST,
    detail: "The request must not have both Content-Length and Transfer-Encoding.",
};

/// Refuses what no origin should have to interpret.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Unforwardable> {
    let refuse = |status, detail| Err(Unforwardable { status, detail });
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::NOT_IMPLEMENTED, "This gateway opens no tunnels.");
    }
    if matches!(requested_host(request), Asked::Badly) {
        // RFC 9112 section 3.2.
        return refuse(StatusCode::BAD_REQUEST, "The request must have exactly one valid Host.");
    }
    if origin_form(request.uri()).is_none() {
        return refuse(StatusCode::BAD_REQUEST, "The request target must be a path.");
    }
    Ok(())
}

/// Makes a client's request, which was [checked](check), into one for the origin. Its path and query stay as they were
/// sent.
pub(crate) fn prepare_request<B>(request: &mut Request<B>, peer: &Peer, rule: HostRule, origin: &HeaderValue) -> Wish {
    let version = request.version();
    let host = match requested_host(request) {
        Asked::For(host) => Some(host),
        Asked::Nothing | Asked::Badly => None,
    };
    if let Some(target) = origin_form(request.uri()) {
        *request.uri_mut() = target;
    }
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();

    let wish = strip_hop_by_hop(headers, wish_of(headers, version));
    // The gateway answers the expectation itself, when it begins to read the content.
    if headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        headers.remove(EXPECT);
    }
    join_cookies(headers);

    headers.reserve(ADDED);
    let said = match rule {
        HostRule::Preserve => host.clone().unwrap_or_else(|| origin.clone()),
        HostRule::Upstream => origin.clone(),
    };
    headers.insert(HOST, said);
    // RFC 7239: whoever reads these decides which hops it believes; each hop adds what it saw itself.
    append(headers, FORWARDED, peer.forwarded(host.as_ref()));
    append(headers, X_FORWARDED_FOR, peer.address.clone());
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(peer.scheme.as_str()));
    // RFC 9110 section 7.6.3: the protocol that the message was received by.
    append(headers, VIA, via(version));
    wish
}

impl Unforwardable {
    /// What the client is told. There is no problem type for it: it is HTTP that is wrong.
    pub(crate) fn into_response(self) -> Response<Body> {
        let content = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Body::full(content.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Makes the origin's response into one for the client.
pub(crate) fn prepare_response<B>(response: &mut Response<B>) {
    let wish = if response.status() == StatusCode::SWITCHING_PROTOCOLS { Wish::Upgrade } else { Wish::Http };
    strip_hop_by_hop(response.headers_mut(), wish);
    // RFC 9110 section 6.2: an intermediary sends its own protocol version, whatever the origin speaks.
    *response.version_mut() = Version::HTTP_11;
}

/// Takes a wish to leave HTTP back.
pub(crate) fn strip_upgrade(headers: &mut HeaderMap) {
    headers.remove(UPGRADE);
    headers.remove(CONNECTION);
}

/// Which host a request asks for.
enum Asked {
    For(HeaderValue),
    /// None, in a version that does not demand it.
    Nothing,
    /// Several, or none in a version that demands it, or one that is not a host.
    Badly,
}

fn requested_host<B>(request: &Request<B>) -> Asked {
    let mut lines = request.headers().get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Asked::Badly;
    }
    // RFC 9112 section 3.2.2: an absolute target beats the header; RFC 9113 section 8.3.1: so does `:authority`.
    if let Some(authority) = request.uri().authority() {
        let without_user = authority.as_str().rsplit('@').next().unwrap_or_default();
        return HeaderValue::from_str(without_user).map_or(Asked::Badly, Asked::For);
    }
    match line {
        None if request.version() == Version::HTTP_11 => Asked::Badly,
        None => Asked::Nothing,
        Some(host) if host.as_bytes().iter().all(|b| b.is_ascii_graphic() && !b"\"\\/@?#,".contains(b)) => {
            Asked::For(host.clone())
        }
        Some(_) => Asked::Badly,
    }
}

fn origin_form(uri: &Uri) -> Option<Uri> {
    match uri.path_and_query() {
        // Already so, as nearly always.
        Some(path) if uri.authority().is_none() => (path.as_str().starts_with('/') || path == "*").then(|| uri.clone()),
        Some(path) if path.as_str().starts_with('/') => Some(Uri::from(path.clone())),
        // RFC 9112 section 3.2.4: an absolute target without a path, in OPTIONS, is the asterisk.
        Some(path) if path == "*" => Some(Uri::from_static("*")),
        // Only a query: its display has the slash.
        Some(path) => PathAndQuery::from_str(&path.to_string()).ok().map(Uri::from),
        // A host and port alone is for CONNECT (RFC 9112 section 3.2.3).
        None => None,
    }
}

fn wish_of(headers: &HeaderMap, version: Version) -> Wish {
    let named = headers.get_all(CONNECTION).iter().any(|line| options(line).any(|o| o.eq_ignore_ascii_case("upgrade")));
    if version == Version::HTTP_11 && named && headers.contains_key(UPGRADE) { Wish::Upgrade } else { Wish::Http }
}

fn options(line: &HeaderValue) -> impl Iterator<Item = &str> {
    line.to_str().unwrap_or_default().split(',').map(str::trim).filter(|option| !option.is_empty())
}

fn strip_hop_by_hop(headers: &mut HeaderMap, wish: Wish) -> Wish {
    let upgrade = match wish {
        Wish::Http => None,
        Wish::Upgrade => headers.get(UPGRADE).cloned(),
    };
    let trailers = headers.get_all(TE).iter().any(|line| {
        options(line).any(|coding| coding.split(';').next().is_some_and(|c| c.trim().eq_ignore_ascii_case("trailers")))
    });
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(options)
            .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
            // Whoever names an end-to-end field that other parts rely on does not get rid of it (RFC 9110 section
            // 7.6.1: "such as Cache-Control"; `peers.md` #37: a client must not strip what a proxy before us set).
            .filter(|name| !is_end_to_end(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    match upgrade {
        None => Wish::Http,
        Some(protocol) => {
            headers.insert(UPGRADE, protocol);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            Wish::Upgrade
        }
    }
}

/// Fields that no `Connection` option removes: the message's own framing and address, and who sent it.
fn is_end_to_end(name: &HeaderName) -> bool {
    const KEPT: [HeaderName; 9] = [
        http::header::AUTHORIZATION,
        http::header::CONTENT_LENGTH,
        http::header::CONTENT_TYPE,
        http::header::CACHE_CONTROL,
        FORWARDED,
        HOST,
        X_FORWARDED_FOR,
        X_FORWARDED_HOST,
        X_FORWARDED_PROTO,
    ];
    KEPT.contains(name)
}

/// RFC 9113 section 8.2.3: HTTP/2 may split a cookie over field lines, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let joined = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    headers.insert(COOKIE, HeaderValue::from_bytes(&joined).expect("field values joined by printable characters"));
}

/// Adds to the list that previous hops began, as one more field line.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    if let Some(before) = headers.get(&name) {
        let lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        let mut joined = if lines.len() == 1 { before.as_bytes().to_vec() } else { lines.join(&b", "[..]) };
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(value.as_bytes());
        headers.insert(name, HeaderValue::from_bytes(&joined).expect("field values joined by printable characters"));
    } else {
        headers.insert(name, value);
    }
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 semel",
        Version::HTTP_2 => "2 semel",
        _ => "1.1 semel",
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn request(head: &str) -> Request<()> {
        let mut lines = head.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut first = lines.next().expect("a request line").split(' ');
        let mut request = Request::builder()
            .method(first.next().expect("a method"))
            .uri(first.next().expect("a target"))
            .version(match first.next() {
                Some("HTTP/1.0") => Version::HTTP_10,
                Some("HTTP/2") => Version::HTTP_2,
                _ => Version::HTTP_11,
            });
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a field");
            request = request.header(name, value);
        }
        request.body(()).expect("a request")
    }

    fn shown(headers: &HeaderMap) -> String {
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().expect("visible"))).collect();
        lines.sort();
        lines.concat()
    }

    fn check_request(head: &str, rule: HostRule, expected: &Expect) {
        let mut request = request(head);
        assert_eq!(check(&request), Ok(()), "{head}");
        let peer = Peer::new(([10, 0, 0, 9], 4000).into(), Scheme::Http);
        let wish = prepare_request(&mut request, &peer, rule, &HeaderValue::from_static("origin:3000"));
        let line = format!("{} {} {:?} {wish:?}\n", request.method(), request.uri(), request.version());
        expected.assert_eq(&(line + &shown(request.headers())));
    }

    #[test]
    fn a_request_is_made_into_one_for_the_origin() {
        check_request(
            "GET /a?b HTTP/1.1\nHost: api.example",
            HostRule::Preserve,
            &expect![[r#"
            GET /a?b HTTP/1.1 Http
            forwarded: for=10.0.0.9;host="api.example";proto=http
            host: api.example
            via: 1.1 semel
            x-forwarded-for: 10.0.0.9
            x-forwarded-host: api.example
            x-forwarded-proto: http
        "#]],
        );
        check_request(
            "GET /a?b HTTP/1.1\nHost: api.example",
            HostRule::Upstream,
            &expect![[r#"
            GET /a?b HTTP/1.1 Http
            forwarded: for=10.0.0.9;host="api.example";proto=http
            host: origin:3000
            via: 1.1 semel
            x-forwarded-for: 10.0.0.9
            x-forwarded-host: api.example
            x-forwarded-proto: http
        "#]],
        );
        check_request(
            "GET /a HTTP/1.0",
            HostRule::Preserve,
            &expect![[r#"
            GET /a HTTP/1.1 Http
            forwarded: for=10.0.0.9;proto=http
            host: origin:3000
            via: 1.0 semel
            x-forwarded-for: 10.0.0.9
            x-forwarded-proto: http
        "#]],
        );
        check_request(
            "GET http://api.example:8080/a HTTP/2\ncookie: a=1\ncookie: b=2",
            HostRule::Preserve,
            &expect![[r#"
                GET /a HTTP/1.1 Http
                cookie: a=1; b=2
                forwarded: for=10.0.0.9;host="api.example:8080";proto=http
                host: api.example:8080
                via: 2 semel
                x-forwarded-for: 10.0.0.9
                x-forwarded-host: api.example:8080
                x-forwarded-proto: http
            "#]],
        );
    }

    #[test]
    fn hop_by_hop_fields_stay_here_and_what_connection_names_with_them() {
        check_request(
            "POST /a HTTP/1.1
             Host: api.example
             Connection: keep-alive, X-Private
             Connection: te, authorization, x-forwarded-for
             Keep-Alive: timeout=5
             Proxy-Connection: keep-alive
             TE: gzip;q=0.5, Trailers
             Transfer-Encoding: chunked
             Trailer: X-Sum
             Upgrade: h2c
             X-Private: 1
             X-Public: 1
             X-Public: 2
             Authorization: Bearer t
             Expect: 100-Continue
             Idempotency-Key: k",
            HostRule::Preserve,
            &expect![[r#"
                POST /a HTTP/1.1 Http
                authorization: Bearer t
                forwarded: for=10.0.0.9;host="api.example";proto=http
                host: api.example
                idempotency-key: k
                te: trailers
                trailer: X-Sum
                via: 1.1 semel
                x-forwarded-for: 10.0.0.9
                x-forwarded-host: api.example
                x-forwarded-proto: http
                x-public: 1
                x-public: 2
            "#]],
        );
        check_request(
            "GET /ws HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: x",
            HostRule::Preserve,
            &expect![[r#"
                GET /ws HTTP/1.1 Upgrade
                connection: upgrade
                forwarded: for=10.0.0.9;host="a";proto=http
                host: a
                sec-websocket-key: x
                upgrade: websocket
                via: 1.1 semel
                x-forwarded-for: 10.0.0.9
                x-forwarded-host: a
                x-forwarded-proto: http
            "#]],
        );
    }

    #[test]
    fn what_earlier_hops_said_is_kept_and_added_to() {
        check_request(
            "GET /a HTTP/1.1
             Host: inner
             Forwarded: for=1.1.1.1
             X-Forwarded-For: 1.1.1.1
             X-Forwarded-For: 2.2.2.2
             X-Forwarded-Proto: https
             X-Forwarded-Host: outer
             Via: 2 edge",
            HostRule::Preserve,
            &expect![[r#"
                GET /a HTTP/1.1 Http
                forwarded: for=1.1.1.1, for=10.0.0.9;host="inner";proto=http
                host: inner
                via: 2 edge, 1.1 semel
                x-forwarded-for: 1.1.1.1, 2.2.2.2, 10.0.0.9
                x-forwarded-host: outer
                x-forwarded-proto: https
            "#]],
        );
    }

    #[test]
    fn an_ipv6_address_is_quoted_and_a_mapped_one_is_ipv4() {
        let told = |address: &str| {
            let peer = Peer::new(address.parse().expect("an address"), Scheme::Http);
            format!("{} {}", peer.forwarded_for, peer.address.to_str().expect("visible"))
        };
        assert_eq!(told("[2001:db8::1]:80"), "for=\"[2001:db8::1]\" 2001:db8::1");
        assert_eq!(told("[::ffff:1.2.3.4]:80"), "for=1.2.3.4 1.2.3.4");
    }

    #[test]
    fn what_no_origin_should_interpret_is_refused() {
        let cases = [
            ("GET /a HTTP/1.1", 400),
            ("GET /a HTTP/1.1\nHost: a\nHost: a", 400),
            ("GET /a HTTP/1.1\nHost: a\" for=b", 400),
            ("GET /a HTTP/1.1\nHost: user@a", 400),
            ("CONNECT a:80 HTTP/1.1\nHost: a:80", 501),
            ("GET a:80 HTTP/1.1\nHost: a:80", 400),
        ];
        for (head, status) in cases {
            let refused = check(&request(head)).err().map_or(200, |why| why.status.as_u16());
            assert_eq!(refused, status, "{head}");
        }
    }

    #[test]
    fn a_response_is_made_into_one_for_the_client() {
        let mut response = Response::builder()
            .status(200)
            .header("connection", "close, x-private")
            .header("keep-alive", "timeout=5")
            .header("upgrade", "h2c")
            .header("transfer-encoding", "chunked")
            .header("x-private", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("trailer", "x-sum")
            .body(())
            .expect("a response");
        prepare_response(&mut response);
        expect![[r#"
            set-cookie: a=1
            set-cookie: b=2
            trailer: x-sum
        "#]]
        .assert_eq(&shown(response.headers()));
        let mut switching = Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .body(())
            .expect("a response");
        prepare_response(&mut switching);
        expect![[r#"
            connection: upgrade
            upgrade: websocket
        "#]]
        .assert_eq(&shown(switching.headers()));
    }
}
