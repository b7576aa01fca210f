//! `POST /v1/release`: an operator says that the owner of a guard or slot is over (E11).

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use semel::Semel;
use semel_core::policy::MethodText;
use serde::Deserialize;

use super::{By, Operators, Refusal};

/// What an operator asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    path: String,
    method: Option<MethodText>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    who: String,
    why: String,
}

/// Does what a content asks for, and says what is free.
pub(super) async fn release(operators: &Operators, content: &Bytes, from: SocketAddr) -> Result<&'static str, Refusal> {
    let asked: Asked = serde_json::from_slice(content).map_err(|error| Refusal::wrong(error.to_string()))?;
    let Asked { path, method, headers, who, why } = asked;
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err(Refusal::wrong("path must start with a slash, and have no query and no fragment"));
    }
    let headers = read_headers(&operators.semel(), &headers).map_err(Refusal::wrong)?;
    let method = method.map_or(Method::GET, |method| method.0);
    operators.release(method, path, headers, By { who, why, from }).await
}

/// Reads the headers that make the caller; or says what is wrong.
fn read_headers(semel: &Semel, given: &BTreeMap<String, String>) -> Result<HeaderMap, String> {
    let principal = semel.policy().principal();
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        // A header that tells no callers apart is a mistake that would otherwise look like "no such record".
        let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| principal.contains(name));
        let Some(known) = known else {
            let names: Vec<&str> = principal.iter().map(HeaderName::as_str).collect();
            return Err(format!("headers: \"{name}\" is none of those that tell callers apart: {}", names.join(", ")));
        };
        let value = HeaderValue::from_str(value.trim());
        let value = value.map_err(|_| format!("headers: the value of \"{name}\" is none that a header can have"))?;
        if headers.insert(known, value).is_some() {
            return Err(format!("headers: \"{name}\" is there twice"));
        }
    }
    Ok(headers)
}
