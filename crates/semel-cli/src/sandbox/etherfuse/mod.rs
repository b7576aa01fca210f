//! Etherfuse in the sandbox: a client names what it creates by a UUID, and the UUID is the idempotency key (S0, S1).
//!
//! That an id is taken comes from the preset, and is looked up once more in the books, because not every resource is
//! made by the call that the preset covers: fixtures and `onboarding-url` make some too. Everything belongs to an
//! organisation, and another one's ids are unknown ids (Q13).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use semel::BoxError;
use semel_core::{
    policy::{HeaderText, PolicyDocument, Preset, RouteSettings},
    wire::ProblemType,
};
use serde_json::{Value, json};
use toml::Spanned;

use super::{
    api::{self, About, Call, Desk, Mark, Operation, Outcome, Setting, Settings, Takes, Vendor},
    books::Row,
};

mod docs;
mod form;
mod onboarding;
mod order;
mod quote;

/// The API.
pub(crate) struct Etherfuse;

/// Two organisations; the first has two keys, as somebody who rotates them has for a while.
const ORG: &str = "0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b01";
const ORG_2: &str = "0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b02";
const KEY: &str = "api_sand:test:0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b01";
const KEY_ROTATED: &str = "api_sand:test-rotated:0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b01";
const KEY_2: &str = "api_sand:test:0e7f3a52-6c1d-4b8e-9f20-5a1c7d3e4b02";
const KEYS: [(&str, &str); 3] = [(KEY, ORG), (KEY_ROTATED, ORG), (KEY_2, ORG_2)];

const CUSTOMER: &str = "c0570e52-1f4b-4a6d-8c3e-2b9d5f7a1c01";
const BANK_ACCOUNTS: [&str; 2] = ["ba4c0052-3d2e-4f1a-b7c6-8e9f0a1b2c01", "ba4c0052-3d2e-4f1a-b7c6-8e9f0a1b2c02"];
const WALLET: &str = "3a11e752-7b6c-4d5e-9f80-1c2d3e4f5a01";
const PUBLIC_KEY: &str = "GCSANDBOXWALLETOFTHEFIXTURES234567ABCDEFGHIJKLMNOPQRSTUV";

const ORDER_EXISTS: &str = "An order with this transaction ID already exists";
const QUOTE_EXISTS: &str = "A quote with this ID already exists";
const ORGANIZATION_EXISTS: &str = "An organization with this ID already exists";
const BANK_ACCOUNT_EXISTS: &str = "A bank account with this ID already exists";
const PENDING_EXISTS: &str = "A pending onramp order already exists for this bank account and amount";
const NO_ORDER: &str = "Order not found";
const NO_BANK_ACCOUNT: &str = "Bank account not found";
/// Of a customer as well as of a wallet.
const NO_PROXY_ACCOUNT: &str = "Proxy account not found";

#[async_trait::async_trait]
impl Vendor for Etherfuse {
    fn name(&self) -> &'static str {
        "etherfuse"
    }

    fn about(&self) -> About {
        docs::about()
    }

    fn operations(&self) -> Vec<Operation> {
        docs::operations()
    }

    fn settings(&self) -> Vec<Setting> {
        vec![
            Setting {
                name: "quote_valid_ms",
                default: json!(120_000),
                mark: Mark::Documented,
                about: "how long a quote can be ordered on, in milliseconds",
                takes: Takes::Whole(1, 86_400_000),
            },
            Setting {
                name: "onramp_max_mxn",
                default: json!(500),
                mark: Mark::Documented,
                about: "the most pesos that an onramp quote may have",
                takes: Takes::Whole(1, 1_000_000_000),
            },
            Setting {
                name: "fee_bps",
                default: json!(20),
                mark: Mark::Chosen,
                about: "the fee in hundredths of a percent, before a partner's",
                takes: Takes::Whole(0, 1_000),
            },
        ]
    }

    /// The preset without its guard: an API looks at the quote before its guard, and a guard before the API cannot.
    fn policy(&self, _settings: &Settings) -> PolicyDocument {
        const TESTED: &str = "presets are tested";
        let mut preset: toml::Table = Preset::Etherfuse.source().parse().expect(TESTED);
        for route in preset.get_mut("route").and_then(toml::Value::as_array_mut).into_iter().flatten() {
            let route = route.as_table_mut().expect(TESTED);
            route.remove("guard");
            route.remove("release");
        }
        let unguarded = toml::to_string(&preset).expect(TESTED);
        let Unguarded { principal, defaults, route } = toml::from_str(&unguarded).expect(TESTED);
        PolicyDocument {
            principal: Some(principal),
            defaults: Some(defaults),
            routes: route,
            ..PolicyDocument::default()
        }
    }

    async fn furnish(&self, desk: &mut Desk<'_>) -> Outcome<()> {
        onboarding::furnish(desk).await
    }

    async fn fixtures(&self, _desk: &mut Desk<'_>) -> Outcome<Value> {
        Ok(json!({
            "api_key": KEY,
            "customer_id": CUSTOMER,
            "bank_account_ids": BANK_ACCOUNTS,
            "public_key": PUBLIC_KEY,
        }))
    }

    async fn set(&self, desk: &mut Desk<'_>, name: &str, value: &Value) -> Outcome<Result<(), String>> {
        match name {
            "advance" => order::advance(desk, value).await,
            _ => Ok(Err(format!(
                "there is no fixture \"{name}\"; there is \"advance\": \
                 {{\"order_id\":\"<uuid>\",\"status\":\"funded\"}}"
            ))),
        }
    }

    /// Every key of an organisation is its first one, so that one organisation is one principal.
    fn recognise(&self, headers: &mut HeaderMap) {
        let Some(org) = owner_of(headers) else { return };
        if let Some((first, _)) = KEYS.into_iter().find(|(_, owner)| *owner == org) {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(first));
        }
    }

    async fn admit(&self, call: &mut Call<'_>) -> Outcome<Option<Response<Bytes>>> {
        let known = owner_of(call.request.headers()).is_some();
        Ok((!known).then(|| api::text(StatusCode::UNAUTHORIZED, "Unauthorized")))
    }

    fn trouble(&self, status: StatusCode) -> Response<Bytes> {
        match status {
            StatusCode::UNAUTHORIZED => api::text(status, "Unauthorized"),
            _ => api::json(status, &json!({ "error": status.canonical_reason().unwrap_or("Error") })),
        }
    }
}

/// A preset as it is written down.
#[derive(serde::Deserialize)]
struct Unguarded {
    principal: Vec<HeaderText>,
    defaults: Spanned<RouteSettings>,
    route: Vec<Spanned<RouteSettings>>,
}

/// The organisation whose key a request carries: the raw key, without a scheme before it, and only one of them.
fn owner_of(headers: &HeaderMap) -> Option<&'static str> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    KEYS.iter().find(|(key, _)| line.as_bytes() == key.as_bytes()).map(|(_, org)| *org)
}

/// Why a handler stopped early.
enum Stop {
    /// With this answer, which is not a success.
    Answer(Box<Response<Bytes>>),
    /// Because something is broken.
    Broken(BoxError),
}

impl From<BoxError> for Stop {
    fn from(error: BoxError) -> Stop {
        Stop::Broken(error)
    }
}

type Step<T = Response<Bytes>> = Result<T, Stop>;

fn outcome(step: Step) -> Outcome {
    match step {
        Ok(response) => Ok(response),
        Err(Stop::Answer(response)) => Ok(*response),
        Err(Stop::Broken(error)) => Err(error),
    }
}

fn refuse(status: StatusCode, error: &str) -> Stop {
    Stop::Answer(Box::new(api::json(status, &json!({ "error": error }))))
}

/// What exists is in `Location`, and which of the conflicts it is in `Idempotency-Problem`: the texts are for people,
/// and clients that take every 409 for "mine exists" are wrong about the pending order (Q7).
fn conflict(text: &str, code: &str, location: Option<String>) -> Stop {
    let mut response = api::with(api::text(StatusCode::CONFLICT, text), "idempotency-problem", code);
    if let Some(location) = location {
        response = api::with(response, "location", &location);
    }
    Stop::Answer(Box::new(response))
}

/// The conflict of an id that is taken.
fn taken(text: &str, location: Option<String>) -> Stop {
    conflict(text, ProblemType::ResourceExists.code(), location)
}

/// The newest record of an id among an organisation's own.
async fn own(desk: &mut Desk<'_>, owner: &str, kind: &str, id: &str) -> Outcome<Option<Row>> {
    match desk.find(kind, id).await? {
        Some(row) if row.owner != owner => {
            let mut rows = desk.list(kind).await?;
            rows.retain(|row| row.owner == owner && row.id == id);
            Ok(rows.pop())
        }
        found => Ok(found),
    }
}

/// The same by an id that a client wrote, in any spelling.
async fn own_by_text(desk: &mut Desk<'_>, owner: &str, kind: &str, text: &str) -> Outcome<Option<Row>> {
    match form::canonical(text) {
        Some(id) => own(desk, owner, kind, &id).await,
        None => Ok(None),
    }
}

/// Whose request it is, once it was admitted.
fn admitted(call: &Call<'_>) -> &'static str {
    owner_of(call.request.headers()).expect("what has no known key is not admitted")
}

/// A member that this vendor's records have.
fn member<'r>(row: &'r Row, name: &str) -> &'r str {
    row.data.get(name).and_then(Value::as_str).unwrap_or_default()
}
