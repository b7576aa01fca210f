//! Nora in the sandbox (`dialects.md` section 4).
//!
//! Keys of the two creates are the policy's business; a burn's signature and a party's cpf are unique in the books
//! themselves, because a dropped signature frees its intent and a cpf is the instance's, not the API key's.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use semel_core::policy::{
    DurationText, HeaderText, OnExpired, OnMismatch, PolicyDocument, Preset, RouteSettings, StatusPattern,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{self, About, Call, Desk, Mark, Operation, Outcome, Setting, Settings, Takes, Vendor};
use form::Family;

mod form;
mod intents;
mod parties;
mod problems;

/// The API.
pub(crate) struct Nora;

/// An API key stands for an organisation and an instance (E46).
#[derive(Clone, Copy, Debug)]
struct Caller {
    api_key: &'static str,
    instance: &'static str,
}

const SANDBOX_INSTANCE: &str = "6f0f9f3e-6d1c-4f0b-9d0e-5a7d0c1b0001";
const LIVE_INSTANCE: &str = "6f0f9f3e-6d1c-4f0b-9d0e-5a7d0c1b0002";
const CALLERS: [Caller; 3] = [
    Caller { api_key: "sk_test_a", instance: SANDBOX_INSTANCE },
    Caller { api_key: "sk_test_a2", instance: SANDBOX_INSTANCE },
    Caller { api_key: "sk_live_a", instance: LIVE_INSTANCE },
];
const PARTY_ID: &str = "6f0f9f3e-6d1c-4f0b-9d0e-5a7d0c1b0003";
const WALLET: &str = "So11111111111111111111111111111111111111112";
/// Who asks, for `key_scope = instance`; what a client sends in it does not count.
const INSTANCE: HeaderName = HeaderName::from_static("x-sandbox-instance");
/// How long a completed key is remembered with `expiry = refuse`: a year.
const REMEMBER_FOR_STRICT: Duration = Duration::from_hours(365 * 24);

#[async_trait::async_trait]
impl Vendor for Nora {
    fn name(&self) -> &'static str {
        "nora"
    }

    fn about(&self) -> About {
        let create = |key: &str, cents: u32| {
            format!(
                "curl -i {{base}}/v2/intents/onramp -H 'X-API-Key: sk_test_a' -H 'idempotency-key: {key}' -H 'Content-Type: application/json' -d '{{\"amountCents\":{cents},\"destinationWallet\":\"{WALLET}\",\"chainId\":\"solana\"}}'"
            )
        };
        let key = "5f1e8a52-7c1d-4e67-9a4d-7e5a1f0c2b11";
        About {
            title: "Nora",
            says: "The header idempotency-key, a UUID, makes the two intent creates safe to retry: a retry gets the original reply and status, another content 409. A burn's txSignature and a party's cpf are keys of their own.",
            curl: vec![
                create(key, 10_000),
                create(key, 20_000),
                "curl -i {base}/v2/intents/offramp -H 'X-API-Key: sk_test_a' -H 'Content-Type: application/json' -d '{\"amountCents\":10000,\"destinationAddress\":\"user@example.com\",\"chainId\":\"solana\"}'".to_owned(),
                "curl -i {base}/v2/intents/INTENT_ID/approve-burn -H 'X-API-Key: sk_test_a' -H 'Content-Type: application/json' -d '{\"txSignature\":\"sigA\",\"tokenHolder\":\"ATA\"}'".to_owned(),
                "curl -i {base}/v2/parties -H 'X-API-Key: sk_test_a' -H 'Content-Type: application/json' -d '{\"cpf\":\"12345678901\",\"displayName\":\"João\"}'".to_owned(),
                format!(
                    "curl -i -X PATCH {{base}}/v2/parties/{PARTY_ID}/wallet -H 'X-API-Key: sk_test_a' -H 'Content-Type: application/json' -H 'If-Match: \"1\"' -d '{{\"solanaWallet\":\"another\"}}'"
                ),
                "curl {base}/v2/intents -H 'X-API-Key: sk_test_a'".to_owned(),
                "curl {base}/_sandbox/faults -d '{\"vendor\":\"nora\",\"op\":\"POST /v2/intents/onramp\",\"kind\":\"drop_after\"}'".to_owned(),
                "curl {base}/_sandbox/fixtures -d '{\"vendor\":\"nora\",\"set\":{\"advance\":{\"intent_id\":\"INTENT_ID\",\"status\":\"completed\"}}}'".to_owned(),
                "curl {base}/_sandbox/fixtures -d '{\"vendor\":\"nora\",\"set\":{\"drop_signature\":{\"intent_id\":\"INTENT_ID\"}}}'".to_owned(),
            ],
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let mut operations = intents::operations();
        operations.extend(parties::operations());
        operations
    }

    fn settings(&self) -> Vec<Setting> {
        vec![
            Setting {
                name: "mismatch",
                default: "conflict".into(),
                mark: Mark::Documented,
                about: "A known key with another content: 409 `idempotency_key_reused`, or the original reply (the seed's words)",
                takes: Takes::OneOf(&["conflict", "replay"]),
            },
            Setting {
                name: "key_scope",
                default: "api_key".into(),
                mark: Mark::Seed,
                about: "Whose an idempotency key is: the API key's (the seed's words), or the instance's, so that a retry survives a rotated API key",
                takes: Takes::OneOf(&["api_key", "instance"]),
            },
            Setting {
                name: "store",
                default: "2xx_422".into(),
                mark: Mark::Chosen,
                about: "Which replies are kept and replayed; after any other the same key executes",
                takes: Takes::OneOf(&["2xx_422", "2xx"]),
            },
            Setting {
                name: "ttl_ms",
                default: 86_400_000.into(),
                mark: Mark::Chosen,
                about: "How long a reply is replayed, in milliseconds from its completion, for what completes from now on",
                takes: Takes::Whole(60_000, 31_536_000_000),
            },
            Setting {
                name: "expiry",
                default: "execute".into(),
                mark: Mark::Seed,
                about: "A retry after ttl_ms: a fresh operation, or for a year 409 `reply-gone`",
                takes: Takes::OneOf(&["execute", "refuse"]),
            },
            Setting {
                name: "require_bound_wallet",
                default: false.into(),
                mark: Mark::Chosen,
                about: "An onramp to a wallet of no party: 422 `destination_wallet_not_authorized`",
                takes: Takes::Switch,
            },
            Setting {
                name: "onramp_expires_ms",
                default: 1_800_000.into(),
                mark: Mark::Documented,
                about: "How long an onramp intent awaits its payment, in milliseconds",
                takes: Takes::Whole(1_000, 31_536_000_000),
            },
            Setting {
                name: "replay_marker",
                default: false.into(),
                mark: Mark::Chosen,
                about: "Replays carry the header field `Idempotent-Replayed: true`; the API itself has no mark",
                takes: Takes::Switch,
            },
        ]
    }

    fn policy(&self, settings: &Settings) -> PolicyDocument {
        #[derive(Deserialize)]
        struct Document {
            principal: Vec<HeaderText>,
            defaults: RouteSettings,
            route: Vec<RouteSettings>,
        }
        let preset: Document = toml::from_str(Preset::Nora.source()).expect("presets are tested");
        let statuses = |list: &[&str]| -> Vec<StatusPattern> {
            list.iter().map(|status| status.parse().expect("a class or a status")).collect()
        };
        let ttl = Duration::from_millis(settings.whole("ttl_ms"));
        let (on_expired, remember_for) = match settings.text("expiry") {
            "refuse" => (OnExpired::Refuse, ttl.max(REMEMBER_FOR_STRICT)),
            _ => (OnExpired::Execute, ttl),
        };
        let own = RouteSettings {
            on_mismatch: Some(match settings.text("mismatch") {
                "replay" => OnMismatch::Replay,
                _ => OnMismatch::Refuse,
            }),
            effect_happened: Some(match settings.text("store") {
                "2xx" => statuses(&["2xx", "3xx"]),
                _ => statuses(&["2xx", "3xx", "422"]),
            }),
            on_expired: Some(on_expired),
            replay_for: Some(DurationText(ttl)),
            remember_for: Some(DurationText(remember_for)),
            ..RouteSettings::default()
        };
        let spanned = |settings| toml::Spanned::new(0..0, settings);
        PolicyDocument {
            principal: Some(match settings.text("key_scope") {
                "instance" => vec![HeaderText(INSTANCE)],
                _ => preset.principal,
            }),
            defaults: Some(spanned(own.over(preset.defaults))),
            // The others name their key in the content, and the handlers see to those themselves.
            routes: preset.route.into_iter().filter(|route| route.key.is_none()).map(spanned).collect(),
            ..PolicyDocument::default()
        }
    }

    async fn furnish(&self, desk: &mut Desk<'_>) -> Outcome<()> {
        parties::furnish(desk).await
    }

    async fn fixtures(&self, _desk: &mut Desk<'_>) -> Outcome<Value> {
        Ok(json!({
            "test_key": CALLERS[0].api_key,
            "test_key_2": CALLERS[1].api_key,
            "live_key": CALLERS[2].api_key,
            "party_id": PARTY_ID,
            "wallet": WALLET,
        }))
    }

    async fn set(&self, desk: &mut Desk<'_>, name: &str, value: &Value) -> Outcome<Result<(), String>> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Advance {
            intent_id: String,
            status: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct One {
            intent_id: String,
        }
        fn read<T: for<'de> Deserialize<'de>>(name: &str, value: &Value, example: &str) -> Result<T, String> {
            T::deserialize(value).map_err(|error| format!("\"{name}\" takes {example}: {error}"))
        }
        let one = r#"{"intent_id": "<id>"}"#;
        let advance = r#"{"intent_id": "<id>", "status": "<status>"}"#;
        match name {
            "advance" => match read::<Advance>(name, value, advance) {
                Ok(Advance { intent_id, status }) => intents::advance(desk, &intent_id, &status).await,
                Err(message) => Ok(Err(message)),
            },
            "expire" => match read::<One>(name, value, one) {
                Ok(One { intent_id }) => intents::advance(desk, &intent_id, "expired").await,
                Err(message) => Ok(Err(message)),
            },
            "drop_signature" => match read::<One>(name, value, one) {
                Ok(One { intent_id }) => intents::drop_signature(desk, &intent_id).await,
                Err(message) => Ok(Err(message)),
            },
            _ => Ok(Err(format!(
                "there is no fixture \"{name}\"; the fixtures of nora are advance, expire, drop_signature"
            ))),
        }
    }

    fn recognise(&self, headers: &mut HeaderMap) {
        headers.remove(INSTANCE);
        if let Some(caller) = known(headers) {
            headers.insert(INSTANCE, HeaderValue::from_static(caller.instance));
        }
    }

    async fn admit(&self, call: &mut Call<'_>) -> Outcome<Option<Response<Bytes>>> {
        if known(call.request.headers()).is_some() {
            return Ok(None);
        }
        let family = Family::of(call.request.uri().path());
        let message = "send one X-API-Key that is known in this environment";
        Ok(Some(family.error(StatusCode::UNAUTHORIZED, "unauthorized", message)))
    }

    fn trouble(&self, status: StatusCode) -> Response<Bytes> {
        let words = status.canonical_reason().unwrap_or("Error");
        let code = match status {
            StatusCode::BAD_REQUEST => "validation_error".to_owned(),
            StatusCode::TOO_MANY_REQUESTS => "rate_limited".to_owned(),
            _ => words.to_ascii_lowercase().replace([' ', '-'], "_"),
        };
        // Nobody knows here which family was asked, so it has the members of both.
        let response = api::json(status, &json!({ "code": code, "message": words, "error": words }));
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => api::with(response, "retry-after", "1"),
            _ => response,
        }
    }

    fn dress(&self, settings: &Settings, headers: &mut HeaderMap) {
        if !settings.is_on("replay_marker") {
            headers.remove(semel_core::wire::IDEMPOTENT_REPLAYED);
        }
    }
}

/// Who asks. Two keys in one request are nobody's: one of them would choose the key space and the other the instance.
fn known(headers: &HeaderMap) -> Option<Caller> {
    let mut lines = headers.get_all("x-api-key").iter();
    let (first, second) = (lines.next()?, lines.next());
    CALLERS.into_iter().find(|caller| second.is_none() && caller.api_key.as_bytes() == first.as_bytes())
}

fn caller(call: &Call<'_>) -> Caller {
    known(call.request.headers()).expect("`admit` refuses everybody else")
}

/// Whether a text is an id in the spelling of the books. Another spelling of the same UUID names nothing: it would be
/// another operation to whoever protects a path from outside.
fn is_id(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok_and(|id| id.hyphenated().to_string() == text)
}

fn fresh_id() -> Outcome<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

fn api_key_header() -> (&'static str, bool, Value, &'static str) {
    let schema = json!({ "type": "string", "examples": [CALLERS[0].api_key] });
    ("X-API-Key", true, schema, "Stands for an organisation and an instance")
}

fn key_header() -> (&'static str, bool, Value, &'static str) {
    let schema = json!({ "type": "string", "format": "uuid" });
    ("idempotency-key", false, schema, "A UUID, minted per user action and sent with every retry of it")
}

/// JSON Schema of an object that has these members, all of them and no others.
fn closed(properties: &Value) -> Value {
    let names: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    json!({ "type": "object", "required": names, "properties": properties, "additionalProperties": false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(changed: &[(&'static str, Value)]) -> Settings {
        let mut settings =
            Settings(Nora.settings().into_iter().map(|setting| (setting.name, setting.default)).collect());
        settings.0.extend(changed.iter().cloned());
        settings
    }

    #[test]
    fn every_setting_makes_a_policy_of_the_two_creates() {
        for (name, value) in [
            ("mismatch", json!("replay")),
            ("store", json!("2xx")),
            ("expiry", json!("refuse")),
            ("ttl_ms", json!(60_000)),
            ("ttl_ms", json!(31_536_000_000_u64)),
            ("key_scope", json!("instance")),
            ("replay_marker", json!(true)),
        ] {
            let policy = Nora.policy(&settings(&[(name, value)])).build().unwrap();
            let paths: Vec<&str> = policy.routes().iter().map(|route| route.name()).collect();
            assert_eq!(paths, ["/v2/intents/onramp", "/v2/intents/offramp"], "{name}");
        }
    }

    #[test]
    fn settings_reach_the_policy() {
        let route = |changed: &[(&'static str, Value)]| {
            let policy = Nora.policy(&settings(changed)).build().unwrap();
            policy.routes()[0].as_ref().clone()
        };
        let default = route(&[]);
        assert_eq!((default.on_mismatch, default.on_expired), (OnMismatch::Refuse, OnExpired::Execute));
        assert_eq!(default.effect_of(422), semel_core::policy::Effect::Happened);
        assert_eq!(default.replay_for, Duration::from_hours(24));
        assert_eq!(route(&[("mismatch", json!("replay"))]).on_mismatch, OnMismatch::Replay);
        assert_eq!(route(&[("store", json!("2xx"))]).effect_of(422), semel_core::policy::Effect::None);
        let strict = route(&[("expiry", json!("refuse")), ("ttl_ms", json!(60_000))]);
        assert_eq!((strict.on_expired, strict.replay_for), (OnExpired::Refuse, Duration::from_mins(1)));
        assert_eq!(strict.remember_for, REMEMBER_FOR_STRICT);
    }

    #[test]
    fn a_caller_sends_one_key_that_is_known() {
        let headers = |keys: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for key in keys {
                headers.append("x-api-key", http::HeaderValue::from_static(key));
            }
            headers
        };
        assert_eq!(known(&headers(&["sk_test_a"])).unwrap().instance, SANDBOX_INSTANCE);
        assert_eq!(known(&headers(&["sk_live_a"])).unwrap().instance, LIVE_INSTANCE);
        for keys in [&[][..], &["sk_test_b"], &[""], &["SK_TEST_A"], &["sk_test_a", "sk_live_a"]] {
            assert!(known(&headers(keys)).is_none(), "{keys:?}");
        }
    }

    #[test]
    fn who_asks_is_not_the_clients_word() {
        let mut headers = HeaderMap::new();
        headers.append(INSTANCE, HeaderValue::from_static(LIVE_INSTANCE));
        Nora.recognise(&mut headers);
        assert_eq!(headers.get(INSTANCE), None);
        headers.append(INSTANCE, HeaderValue::from_static(LIVE_INSTANCE));
        headers.append(INSTANCE, HeaderValue::from_static("another"));
        headers.append("x-api-key", HeaderValue::from_static("sk_test_a2"));
        Nora.recognise(&mut headers);
        assert_eq!(headers.get_all(INSTANCE).iter().collect::<Vec<_>>(), [SANDBOX_INSTANCE]);
    }

    #[test]
    fn errors_have_the_shape_of_their_family() {
        for (path, family) in [
            ("/v2/parties", Family::Parties),
            ("/v2/parties/1/wallet", Family::Parties),
            ("//v2//parties", Family::Parties),
            ("/v2/intents", Family::Intents),
            ("/v2", Family::Intents),
        ] {
            assert_eq!(Family::of(path), family, "{path}");
        }
    }
}
