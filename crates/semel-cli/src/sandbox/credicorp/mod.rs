//! Credicorp's public API in the sandbox (`dialects.md` section 2): enquiries, consents and products, without credentials.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use semel_core::policy::{DurationText, OnMismatch, PolicyDocument, Preset, RouteSettings};
use serde_json::{Map, Value, json};
use toml::Spanned;

use super::api::{self, About, Call, Desk, Mark, Operation, Outcome, ReplyDoc, Setting, Settings, Takes, Vendor};

mod forms;
mod refusal;
mod window;

use refusal::{Code, Refusal};
use window::{WINDOW_MS, Windows};

/// The API.
pub(crate) struct Credicorp;

const ENQUIRIES: &str = "/public/v1/enquiries";
const CONSENT: &str = "/public/v1/consent";
const PRODUCTS: &str = "/public/v1/products";
const PRODUCT: &str = "/public/v1/products/{id}";

/// The shortest and longest `ttl_ms`: one second, and one year.
const TTL_MS: (u64, u64) = (1_000, 31_536_000_000);

#[async_trait::async_trait]
impl Vendor for Credicorp {
    fn name(&self) -> &'static str {
        "credicorp"
    }

    fn about(&self) -> About {
        let enquiry = r#"'{"form":"contact-us","fields":{"name":"Jo","email":"jo@example.com","consent":"yes"}}'"#;
        let consent = r#"'{"email":"jo@example.com","purposes":{"marketing_email":true},"source":"partner-widget"}'"#;
        let post = |path: &str, content: &str| {
            format!(
                "curl -i {{base}}{path} -H 'Content-Type: application/json' -H 'Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324' -d {content}"
            )
        };
        About {
            title: "Credicorp",
            says: "An Idempotency-Key makes a POST safe to retry: a repeat gets the first result, marked Idempotency-Replayed, and a key that is used for something else is a conflict.",
            curl: vec![
                post(ENQUIRIES, enquiry),
                post(CONSENT, consent),
                format!("curl -i {{base}}{PRODUCTS}"),
                "curl -s '{base}/_sandbox/ledger?vendor=credicorp'".to_owned(),
            ],
        }
    }

    fn operations(&self) -> Vec<Operation> {
        vec![
            Operation {
                method: Method::POST,
                path: ENQUIRIES,
                summary: "Sends an enquiry. It cannot be read back.",
                headers: vec![key_header()],
                content: Some(forms::enquiry_schema()),
                replies: creating(
                    json!({
                        "type": "object",
                        "required": ["id", "status"],
                        "additionalProperties": false,
                        "properties": {
                            "id": { "type": "string", "pattern": "^enq_[0-9a-f]{20}$" },
                            "status": { "const": "new" }
                        }
                    }),
                    &[Code::FormRequired, Code::InvalidDept, Code::ConsentRequired],
                ),
                run: |call| Box::pin(create_enquiry(call)),
            },
            Operation {
                method: Method::POST,
                path: CONSENT,
                summary: "Records what somebody agrees to. Every consent is kept; the latest counts.",
                headers: vec![key_header()],
                content: Some(forms::consent_schema()),
                replies: creating(forms::consent_record_schema(), &[]),
                run: |call| Box::pin(create_consent(call)),
            },
            Operation {
                method: Method::GET,
                path: PRODUCTS,
                summary: "Lists the products. A key is ignored.",
                headers: Vec::new(),
                content: None,
                replies: reading(json!({
                    "type": "object",
                    "required": ["data"],
                    "additionalProperties": false,
                    "properties": { "data": { "type": "array", "items": product_schema() } }
                })),
                run: |call| Box::pin(list_products(call)),
            },
            Operation {
                method: Method::GET,
                path: PRODUCT,
                summary: "Gets one product. A key is ignored.",
                headers: Vec::new(),
                content: None,
                replies: [
                    reading(product_schema()),
                    vec![error_doc(404, "There is no such product.", &["resource_not_found"])],
                ]
                .concat(),
                run: |call| Box::pin(get_product(call)),
            },
        ]
    }

    fn settings(&self) -> Vec<Setting> {
        vec![
            Setting {
                name: "mismatch",
                default: json!("conflict"),
                mark: Mark::Chosen,
                about: "what another content under a known key gets: `conflict`, a 409, or `original`, the first result; the API says that it may be either",
                takes: Takes::OneOf(&["conflict", "original"]),
            },
            Setting {
                name: "enquiry_mode",
                default: json!("strict"),
                mark: Mark::Chosen,
                about: "`strict`: enquiries as in the reference; `lenient`: flat objects with their consent too, as in one recipe",
                takes: Takes::OneOf(&["strict", "lenient"]),
            },
            Setting {
                name: "ttl_ms",
                default: json!(86_400_000),
                mark: Mark::Chosen,
                about: "how long a key is remembered, in milliseconds; the API says long enough to cover retries",
                takes: Takes::Whole(TTL_MS.0, TTL_MS.1),
            },
            Setting {
                name: "rate_limit",
                default: json!(60),
                mark: Mark::Documented,
                about: "how many requests one address may send to one route in 60 s; replays count",
                takes: Takes::Whole(1, 1_000_000_000),
            },
        ]
    }

    fn policy(&self, settings: &Settings) -> PolicyDocument {
        let ttl = Duration::from_millis(settings.whole("ttl_ms"));
        let on_mismatch = if settings.text("mismatch") == "original" { OnMismatch::Replay } else { OnMismatch::Refuse };
        let defaults = RouteSettings {
            on_mismatch: Some(on_mismatch),
            replay_for: Some(DurationText(ttl)),
            // A record outlives its claim; past `replay_for` it is executed over all the same.
            remember_for: Some(DurationText(ttl.max(LEASE))),
            ..RouteSettings::default()
        };
        PolicyDocument {
            preset: Some(Preset::Credicorp),
            defaults: Some(Spanned::new(0..0, defaults)),
            ..PolicyDocument::default()
        }
    }

    async fn furnish(&self, desk: &mut Desk<'_>) -> Outcome<()> {
        for product in products() {
            let id = product["id"].as_str().expect("every product has an id");
            desk.add_fixture("product", id, "", &product).await?;
        }
        Ok(())
    }

    async fn fixtures(&self, _desk: &mut Desk<'_>) -> Outcome<Value> {
        // Nobody has credentials, and products list themselves.
        Ok(json!({}))
    }

    async fn set(&self, _desk: &mut Desk<'_>, name: &str, _value: &Value) -> Outcome<Result<(), String>> {
        Ok(Err(format!("there is no fixture \"{name}\"")))
    }

    /// In the order of the API: too many requests, then the content's type, then its syntax, and only then the key.
    async fn admit(&self, call: &mut Call<'_>) -> Outcome<Option<Response<Bytes>>> {
        if let Some(refusal) = count(call).await? {
            return Ok(Some(refusal.response()));
        }
        if call.request.method() != Method::POST {
            return Ok(None);
        }
        if !says_json(call) {
            let message = "Send the header Content-Type: application/json.";
            return Ok(Some(Refusal::new(Code::MissingContentType, message).response()));
        }
        Ok(content(call).err().map(|refusal| refusal.response()))
    }

    fn trouble(&self, status: StatusCode) -> Response<Bytes> {
        refusal::trouble(status)
    }

    fn finish(&self, response: &mut Response<Bytes>) {
        let request_id = id("req");
        refusal::name_request(response, &request_id);
        let request_id = HeaderValue::try_from(request_id).expect("hexadecimal digits are visible ASCII");
        response.headers_mut().insert("credicorp-request-id", request_id);
    }
}

/// `execution_max` and `grace` of the preset: no record may be forgotten while its claim can still count as in flight.
const LEASE: Duration = Duration::from_secs(35);

async fn create_enquiry(call: &mut Call<'_>) -> Outcome {
    let read =
        if call.desk.settings.text("enquiry_mode") == "lenient" { forms::lenient_enquiry } else { forms::enquiry };
    let enquiry = match content(call).and_then(|content| read(&content)) {
        Ok(enquiry) => enquiry,
        Err(refusal) => return Ok(refusal.response()),
    };
    let id = id("enq");
    put_down(call, "enquiry", &id, &enquiry).await?;
    Ok(api::json(StatusCode::CREATED, &json!({ "id": id, "status": "new" })))
}

async fn create_consent(call: &mut Call<'_>) -> Outcome {
    let mut consent = match content(call).and_then(|content| forms::consent(&content)) {
        Ok(consent) => consent,
        Err(refusal) => return Ok(refusal.response()),
    };
    let id = id("con");
    consent["id"] = json!(id);
    consent["recorded_at"] = json!(call.desk.timestamp(0));
    put_down(call, "consent", &id, &consent).await?;
    Ok(api::json(StatusCode::CREATED, &consent))
}

async fn list_products(call: &mut Call<'_>) -> Outcome {
    let products: Vec<Value> = call.desk.list("product").await?.into_iter().map(|row| row.data).collect();
    Ok(api::json(StatusCode::OK, &json!({ "data": products })))
}

async fn get_product(call: &mut Call<'_>) -> Outcome {
    // Among all, since not every text that a path can hold is one that a database can look up.
    let found = call.desk.list("product").await?.into_iter().find(|row| row.id == call.segment("id"));
    Ok(match found {
        Some(row) => api::json(StatusCode::OK, &row.data),
        None => Refusal::of(Code::ResourceNotFound, "id", "There is no product with this id.").response(),
    })
}

async fn put_down(call: &mut Call<'_>, kind: &str, id: &str, data: &Value) -> Outcome<()> {
    let key = call.key().map(str::to_owned);
    call.desk.add(kind, id, "", key.as_deref(), data).await?;
    Ok(())
}

/// Counts a request in its window, and notes what is left for the response.
async fn count(call: &mut Call<'_>) -> Outcome<Option<Refusal>> {
    let path = if call.path.is_empty() { call.request.uri().path() } else { PRODUCT };
    let name = format!("windows of {} {path}", call.request.method());
    let address = call.peer().to_string();
    let mut windows: Windows = match call.desk.state(&name).await? {
        Some(windows) => serde_json::from_value(windows)?,
        None => Windows::default(),
    };
    let limit = call.desk.settings.whole("rate_limit");
    let left = windows.count(&address, call.desk.now_ms, limit);
    call.desk.keep(&name, &serde_json::to_value(&windows)?).await?;
    call.noted.insert("ratelimit-limit", HeaderValue::from(limit));
    call.noted.insert("ratelimit-remaining", HeaderValue::from(left.requests.unwrap_or(0)));
    call.noted.insert("ratelimit-reset", HeaderValue::from(left.reset_s));
    if left.requests.is_some() {
        return Ok(None);
    }
    call.noted.insert(header::RETRY_AFTER, HeaderValue::from(left.reset_s));
    let message = format!(
        "At most {limit} requests in {} s. Repeat this one, with the same Idempotency-Key, in {} s.",
        WINDOW_MS / 1_000,
        left.reset_s
    );
    Ok(Some(Refusal::new(Code::RateLimited, message)))
}

fn says_json(call: &Call<'_>) -> bool {
    let media_type = call.header("content-type").and_then(|value| value.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn content(call: &Call<'_>) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_slice(call.request.body()) {
        Ok(Value::Object(content)) => Ok(content),
        Ok(_) => Err(Refusal::new(Code::InvalidJson, "The content must be a JSON object.")),
        Err(error) => Err(Refusal::new(Code::InvalidJson, format!("The content is not JSON: {error}."))),
    }
}

/// A fresh id: the API shows a prefix and 20 characters.
fn id(prefix: &str) -> String {
    let random = || getrandom::u64().expect("the operating system has randomness");
    let digits = format!("{:016x}{:016x}", random(), random());
    format!("{prefix}_{}", &digits[..20])
}

fn products() -> [Value; 2] {
    let product = |id: &str, name: &str, pence: (u64, u64), months: (u64, u64)| {
        json!({
            "id": id, "name": name, "currency": "GBP", "amount_pence_min": pence.0, "amount_pence_max": pence.1,
            "term_months_min": months.0, "term_months_max": months.1
        })
    };
    [
        product("working-capital", "Working capital", (500_000, 25_000_000), (3, 24)),
        product("invoice-bridge", "Invoice bridge", (100_000, 10_000_000), (1, 6)),
    ]
}

fn product_schema() -> Value {
    let whole = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["id", "name", "currency", "amount_pence_min", "amount_pence_max", "term_months_min", "term_months_max"],
        "additionalProperties": false,
        "properties": {
            "id": { "type": "string" },
            "name": { "type": "string" },
            "currency": { "const": "GBP" },
            "amount_pence_min": whole,
            "amount_pence_max": whole,
            "term_months_min": whole,
            "term_months_max": whole
        }
    })
}

fn key_header() -> (&'static str, bool, Value, &'static str) {
    // Bare, or a quoted string (draft-ietf-httpapi-idempotency-key-header-07 section 2.1): the same characters are the
    // same key.
    let pattern = r#"^([!#-+\x2d-~]{1,255}|"[!#-\[\]-~]([ !#-\[\]-~]|\\["\\]){0,254}")$"#;
    let schema = json!({ "type": "string", "pattern": pattern });
    ("Idempotency-Key", false, schema, "One UUID per submission, the same on every retry of it. Scoped per endpoint.")
}

/// What a create can answer: `about_content` are the codes of 422 that only this one has.
fn creating(created: Value, about_content: &[Code]) -> Vec<ReplyDoc> {
    let mut codes_422 = vec![Code::InvalidEmail.text(), Code::InvalidValueType.text(), Code::PayloadTooLarge.text()];
    codes_422.extend(about_content.iter().map(|code| code.text()));
    let mut replies = vec![
        ReplyDoc {
            status: 201,
            about: "Recorded; with Idempotency-Replayed: true, the result of the first request with this key.",
            media: "application/json",
            schema: created,
        },
        error_doc(
            400,
            "The request cannot be read, or the key is not one. Nothing was recorded.",
            &["missing_content_type", "invalid_json", "unknown_field", "invalid_idempotency_key"],
        ),
        error_doc(
            409,
            "The key was used for another content, or its first request still runs. Nothing was recorded a second time.",
            &["idempotency_key_reused", "request_in_progress"],
        ),
        error_doc(422, "A member is wrong; the first one is told. The key is still free.", &codes_422),
    ];
    replies.extend(always());
    replies
}

fn reading(schema: Value) -> Vec<ReplyDoc> {
    let mut replies = vec![ReplyDoc { status: 200, about: "What there is.", media: "application/json", schema }];
    replies.extend(always());
    replies
}

/// What any request can be answered.
fn always() -> [ReplyDoc; 3] {
    [
        error_doc(429, "Too many requests from this address on this route; see Retry-After.", &["rate_limited"]),
        error_doc(500, "The machine is broken. Nothing was recorded.", &["server_error"]),
        error_doc(503, "The machine is busy. Nothing was recorded.", &["temporarily_unavailable"]),
    ]
}

fn error_doc(status: u16, about: &'static str, codes: &[&str]) -> ReplyDoc {
    let schema = json!({
        "type": "object",
        "required": ["error"],
        "additionalProperties": false,
        "properties": {
            "error": {
                "type": "object",
                "required": ["type", "code", "message", "request_id"],
                "additionalProperties": false,
                "properties": {
                    "type": { "enum": ["invalid_request_error", "rate_limit_error", "api_error"] },
                    "code": { "enum": codes },
                    "message": { "type": "string" },
                    "param": { "type": "string" },
                    "request_id": { "type": "string", "pattern": "^req_[0-9a-f]{20}$" }
                }
            }
        }
    });
    ReplyDoc { status, about, media: "application/json", schema }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(changes: &[(&'static str, Value)]) -> Settings {
        let mut settings = Settings(Credicorp.settings().into_iter().map(|s| (s.name, s.default)).collect());
        settings.0.extend(changes.iter().cloned());
        settings
    }

    #[test]
    fn e20_e23_every_setting_makes_a_policy() {
        for ttl_ms in [TTL_MS.0, 34_999, 35_001, 86_400_000, TTL_MS.1] {
            let policy = Credicorp.policy(&settings(&[("ttl_ms", json!(ttl_ms))])).build().unwrap();
            let route = policy.route(&Method::POST, CONSENT).unwrap();
            assert_eq!(route.replay_for, Duration::from_millis(ttl_ms));
            assert_eq!(route.on_mismatch, OnMismatch::Refuse);
            assert!(route.remember_for >= route.lease() && LEASE == route.lease());
        }
        let policy = Credicorp.policy(&settings(&[("mismatch", json!("original"))])).build().unwrap();
        assert_eq!(policy.route(&Method::POST, ENQUIRIES).unwrap().on_mismatch, OnMismatch::Replay);
    }

    #[test]
    fn whatever_goes_wrong_is_told_in_the_api_s_own_shape() {
        for status in (400..600).filter_map(|status| StatusCode::from_u16(status).ok()) {
            let mut response = Credicorp.trouble(status);
            Credicorp.finish(&mut response);
            assert_eq!(response.status(), status);
            let content: Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(content["error"]["request_id"], response.headers()["credicorp-request-id"].to_str().unwrap());
        }
    }
}
