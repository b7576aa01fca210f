//! Style and scripts of the pages, out of the binary. They hold no secret, so they need no session.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use semel::Body;

/// Where they are.
const PREFIX: &str = "/console/assets/";
/// The style of every page.
pub(super) const STYLE: &str = "/console/assets/console.css";
/// Keys that lead somewhere.
pub(super) const SCRIPT: &str = "/console/assets/console.js";
/// What replaces a part of a page without loading the rest.
pub(super) const HTMX: &str = "/console/assets/htmx-2.0.11.min.js";
/// The picture in a tab.
pub(super) const ICON: &str = "/console/assets/icon.svg";

struct Asset {
    path: &'static str,
    media_type: &'static str,
    content: &'static [u8],
}

const ASSETS: &[Asset] = &[
    Asset {
        path: STYLE,
        media_type: "text/css; charset=utf-8",
        content: include_bytes!("../../../assets/console/console.css"),
    },
    Asset {
        path: SCRIPT,
        media_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../../assets/console/console.js"),
    },
    Asset {
        path: HTMX,
        media_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../../assets/console/htmx-2.0.11.min.js"),
    },
    Asset { path: ICON, media_type: "image/svg+xml", content: include_bytes!("../../../assets/console/icon.svg") },
];

/// Whether a path is one of an asset, be it there or not.
pub(super) fn has(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The asset at `path`; `None` when there is none.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let asset = ASSETS.iter().find(|asset| asset.path == path)?;
    let etag = etag(asset.content);
    let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|line| names(line, &etag));
    let (status, content) = if is_known {
        (StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        (StatusCode::OK, Bytes::from_static(asset.content))
    };
    let mut response = Response::new(Body::full(content));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    // Kept, and asked about each time: a page never runs with the script of another release.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ETAG, etag);
    Some(response)
}

fn etag(content: &[u8]) -> HeaderValue {
    let digest = blake3::hash(content).to_hex();
    HeaderValue::from_str(&format!("\"{}\"", &digest[..16])).expect("hexadecimal digits in quotes are a value")
}

/// Whether an `If-None-Match` line names this tag (RFC 9110 section 13.1.2), which is weakly compared.
fn names(line: &HeaderValue, etag: &HeaderValue) -> bool {
    let tags = line.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_that_is_known_is_not_sent_again() {
        for asset in ASSETS {
            let first = answer(asset.path, &HeaderMap::new()).expect("it is there");
            assert_eq!(first.status(), StatusCode::OK);
            let etag = first.headers()[header::ETAG].clone();
            for (line, status) in [
                (etag.to_str().expect("a text").to_owned(), StatusCode::NOT_MODIFIED),
                (format!("\"other\", W/{}", etag.to_str().expect("a text")), StatusCode::NOT_MODIFIED),
                ("\"other\"".to_owned(), StatusCode::OK),
            ] {
                let mut headers = HeaderMap::new();
                headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&line).expect("a value"));
                assert_eq!(answer(asset.path, &headers).expect("it is there").status(), status, "{line}");
            }
        }
        assert!(answer("/console/assets/../console.css", &HeaderMap::new()).is_none());
    }
}
