//! What a gateway must, may and must not change in a message that it forwards.

use std::{net::SocketAddr, str::FromStr as _};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA},
    uri::PathAndQuery,
};

use crate::config::HostRule;

/// RFC 9110 section 7.6.1: these are for the next hop only, besides whatever `Connection` names.
const HOP_BY_HOP: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The connection that a request came in by, in the forms that it is told to the origin.
#[derive(Debug)]
pub(crate) struct Peer {
    address: HeaderValue,
    forwarded_for: String,
}

impl Peer {
    /// Of a client's address.
    pub(crate) fn new(address: SocketAddr) -> Peer {
        let ip = address.ip().to_canonical();
        // RFC 7239 section 6: an IPv6 address is bracketed and quoted.
        let forwarded_for = if ip.is_ipv6() { format!("for=\"[{ip}]\"") } else { format!("for={ip}") };
        let address = HeaderValue::from_str(&ip.to_string()).expect("an address is a header value");
        Peer { address, forwarded_for }
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

/// Makes a client's request into one for the origin. Its path and query stay as they were sent.
pub(crate) fn prepare_request<B>(
    request: &mut Request<B>,
    peer: &Peer,
    rule: HostRule,
    origin: &HeaderValue,
) -> Result<Wish, Unforwardable> {
    let refuse = |status, detail| Err(Unforwardable { status, detail });
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::NOT_IMPLEMENTED, "This gateway opens no tunnels.");
    }
    let version = request.version();
    let Some(host) = requested_host(request) else {
        // RFC 9112 section 3.2.
        return refuse(StatusCode::BAD_REQUEST, "The request must have exactly one valid Host.");
    };
    let Some(target) = origin_form(request.uri()) else {
        return refuse(StatusCode::BAD_REQUEST, "The request target must be a path.");
    };
    *request.uri_mut() = target;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();

    let wish = strip_hop_by_hop(headers, wish_of(headers, version));
    // The gateway answers the expectation itself, when it begins to read the content.
    if headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        headers.remove(EXPECT);
    }
    join_cookies(headers);

    let said = match rule {
        HostRule::Preserve => host.clone().unwrap_or_else(|| origin.clone()),
        HostRule::Upstream => origin.clone(),
    };
    headers.insert(HOST, said);
    // RFC 7239: whoever reads these decides which hops it believes; each hop adds what it saw itself.
    let mut forwarded = peer.forwarded_for.clone();
    if let Some(host) = host.as_ref().and_then(|host| host.to_str().ok()) {
        forwarded.push_str(";host=\"");
        forwarded.push_str(host);
        forwarded.push('"');
    }
    forwarded.push_str(";proto=http");
    append(headers, FORWARDED, HeaderValue::from_str(&forwarded).expect("an address and a checked host are visible"));
    append(headers, X_FORWARDED_FOR, peer.address.clone());
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    // RFC 9110 section 7.6.3: the protocol that the message was received by.
    append(headers, VIA, via(version));
    Ok(wish)
}

/// Makes the origin's response into one for the client.
pub(crate) fn prepare_response<B>(response: &mut Response<B>) {
    let wish = if response.status() == StatusCode::SWITCHING_PROTOCOLS { Wish::Upgrade } else { Wish::Http };
    strip_hop_by_hop(response.headers_mut(), wish);
}

/// Takes a wish to leave HTTP back.
pub(crate) fn strip_upgrade(headers: &mut HeaderMap) {
    headers.remove(UPGRADE);
    headers.remove(CONNECTION);
}

/// The one host that was asked for; `None` when there are several, or none in a version that demands it.
fn requested_host<B>(request: &Request<B>) -> Option<Option<HeaderValue>> {
    let mut lines = request.headers().get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return None;
    }
    // RFC 9112 section 3.2.2: an absolute target beats the header; RFC 9113 section 8.3.1: so does `:authority`.
    if let Some(authority) = request.uri().authority() {
        let without_user = authority.as_str().rsplit('@').next().unwrap_or_default();
        return HeaderValue::from_str(without_user).ok().map(Some);
    }
    match line {
        None if request.version() == Version::HTTP_11 => None,
        None => Some(None),
        Some(host) if host.as_bytes().iter().all(|b| b.is_ascii_graphic() && !b"\"\\/@?#,".contains(b)) => {
            Some(Some(host.clone()))
        }
        Some(_) => None,
    }
}

fn origin_form(uri: &Uri) -> Option<Uri> {
    match uri.path_and_query() {
        // Already so, as nearly always.
        Some(path) if uri.authority().is_none() => (path.as_str().starts_with('/') || path == "*").then(|| uri.clone()),
        Some(path) if path.as_str().starts_with('/') => Some(Uri::from(path.clone())),
        // RFC 9112 section 3.2.4: an absolute target without a path, in OPTIONS, is the asterisk.
        Some(path) if path == "*" => Some(Uri::from_static("*")),
        Some(path) => PathAndQuery::from_str(&format!("/{path}")).ok().map(Uri::from),
        None => Some(Uri::from_static("/")),
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
