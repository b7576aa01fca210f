//! Yonne in the sandbox: deliveries in Malawi, paid from a wallet in whole kwacha (`dialects.md` section 3).
//!
//! The idempotency is the preset `yonne`; nothing here knows of keys but the ledger.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use semel_core::{
    key::{AttemptSuffix, Presence},
    policy::{DurationText, HeaderText, OnMismatch, PolicyDocument, Preset, RouteSettings},
};
use serde_json::{Value, json};
use std::time::Duration;
use toml::Spanned;

use self::{
    fare::{Class, Place},
    refusal::Refusal,
};
use super::api::{About, Call, Desk, Mark, Operation, Outcome, Setting, Settings, Takes, Vendor};

mod calls;
mod documents;
mod fare;
mod refusal;
mod status;
mod wallet;

/// The API.
pub(crate) struct Yonne;

/// The only currency.
const CURRENCY: &str = "MWK";
/// A wallet at first start, in MWK: the balance of Yonne's examples.
const BALANCE: u64 = 125_000;
/// Where the merchant is.
const PICKUP_PLACE: Place = Place { lat: -13.9626, lng: 33.7741 };
const PICKUP_ADDRESS: &str = "Area 3, Lilongwe";
/// The time that `rate_limit` is about, from the first request in it, in milliseconds.
const RATE_WINDOW_MS: u64 = 60_000;
/// When to come back after a 503, in seconds.
const RETRY_AFTER_S: u64 = 1;
/// No record is forgotten while its execution may run: `execution_max` and `grace` of the preset.
const REMEMBER_MIN: Duration = Duration::from_secs(35);

// Names in the books.
const PICKUP: &str = "pickup";
const RIDERS_ONLINE: &str = "riders_online";
const INACTIVE_KEYS: &str = "inactive_keys";

/// A merchant in one environment: whose keys, orders and wallet they are.
#[derive(PartialEq, Eq, Debug)]
struct Account {
    merchant: &'static str,
    environment: &'static str,
}

const LIVE: Account = Account { merchant: "MER-1001", environment: "live" };
const TEST: Account = Account { merchant: "MER-1001", environment: "test" };

/// Every API key with its account. The second live key is the one that the merchant changes to when the first is made
/// inactive: the same orders, the same wallet, the same idempotency keys (Q23).
const API_KEYS: [(&str, &Account); 3] =
    [("yonne_live_sandbox_1", &LIVE), ("yonne_live_sandbox_2", &LIVE), ("yonne_test_sandbox_1", &TEST)];

/// What the policy's principal is here: the account, whichever key and header field it came by.
const ACCOUNT: HeaderName = HeaderName::from_static("sandbox-account");

impl Account {
    fn name(&self) -> String {
        format!("{}/{}", self.merchant, self.environment)
    }

    /// Who asks, if it is one of the keys.
    fn of(headers: &HeaderMap) -> Option<&'static Account> {
        let key = api_key(headers)?;
        API_KEYS.iter().find(|(known, _)| *known == key).map(|(_, account)| *account)
    }
}

/// The API key: `X-API-Key`, or else the bearer token.
fn api_key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = || {
        let (scheme, token) = text(header::AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    let given = text(HeaderName::from_static("x-api-key")).filter(|key| !key.is_empty());
    given.or_else(bearer).filter(|key| !key.is_empty())
}

#[async_trait::async_trait]
impl Vendor for Yonne {
    fn name(&self) -> &'static str {
        "yonne"
    }

    fn about(&self) -> About {
        let create = |key: &str| {
            format!(
                "curl -i {{base}}/api/v1/external/create-order -H 'X-API-Key: {}' -H 'Content-Type: application/json' \
                 -H 'Idempotency-Key: {key}' -d '{{\"delivery_fee\":7350,\"delivery_lat\":-13.9831,\
                 \"delivery_lng\":33.7812,\"weight_estimate\":\"0-5kg\",\"merchant_reference_id\":\"WEB-100245\"}}'",
                API_KEYS[0].0
            )
        };
        About {
            title: "Yonne",
            says: "A create-order with the same Idempotency-Key within 24 hours gets the original success, marked \
                   idempotent_replay; errors are not kept, so after a top-up the same key creates the order. A key \
                   that counts attempts (order-7-attempt-2) is looked up without the number.",
            curl: vec![
                format!("curl {{base}}/api/v1/external/validate -H 'X-API-Key: {}'", API_KEYS[0].0),
                create("order-100245-attempt-1"),
                create("order-100245-attempt-2"),
                format!("curl {{base}}/api/v1/external/track/YON-TRK-123456 -H 'X-API-Key: {}'", API_KEYS[0].0),
                format!("curl {{base}}/api/v1/external/wallet -H 'X-API-Key: {}'", API_KEYS[0].0),
            ],
        }
    }

    fn operations(&self) -> Vec<Operation> {
        documents::operations()
    }

    fn settings(&self) -> Vec<Setting> {
        vec![
            Setting {
                name: "attempt_suffix",
                default: json!("stem"),
                mark: Mark::Chosen,
                about: "stem: order-7-attempt-1 and order-7-attempt-2 are one operation, as the rule \"the SAME key\" \
                        means; literal: they are two, and a lost reply makes two orders",
                takes: Takes::OneOf(&["stem", "literal"]),
            },
            Setting {
                name: "mismatch",
                default: json!("refuse"),
                mark: Mark::Chosen,
                about: "what another content under a known key gets: refuse: 422 \"Idempotency key reused\"; replay: \
                        the original success",
                takes: Takes::OneOf(&["refuse", "replay"]),
            },
            Setting {
                name: "strict_key",
                default: json!(false),
                mark: Mark::Chosen,
                about: "whether create-order without an Idempotency-Key is refused with 400; otherwise it creates",
                takes: Takes::Switch,
            },
            Setting {
                name: "ttl_ms",
                default: json!(24 * 60 * 60 * 1000),
                mark: Mark::Seed,
                about: "how long a success is replayed, in milliseconds",
                takes: Takes::Whole(1, 365 * 24 * 60 * 60 * 1000),
            },
            Setting {
                name: "rate_limit",
                default: json!(0),
                mark: Mark::Chosen,
                about: "requests per minute and API key, 429 beyond; 0: no limit",
                takes: Takes::Whole(0, 1_000_000),
            },
        ]
    }

    fn policy(&self, settings: &Settings) -> PolicyDocument {
        let attempt_suffix = match settings.text("attempt_suffix") {
            "literal" => AttemptSuffix::Literal,
            _ => AttemptSuffix::Stem,
        };
        let on_mismatch = match settings.text("mismatch") {
            "replay" => OnMismatch::Replay,
            _ => OnMismatch::Refuse,
        };
        let presence = if settings.is_on("strict_key") { Presence::Required } else { Presence::Optional };
        let replay_for = Duration::from_millis(settings.whole("ttl_ms"));
        let defaults = RouteSettings {
            attempt_suffix: Some(attempt_suffix),
            on_mismatch: Some(on_mismatch),
            key_presence: Some(presence),
            replay_for: Some(DurationText(replay_for)),
            remember_for: Some(DurationText(replay_for.max(REMEMBER_MIN))),
            ..RouteSettings::default()
        };
        PolicyDocument {
            preset: Some(Preset::Yonne),
            principal: Some(vec![HeaderText(ACCOUNT)]),
            defaults: Some(Spanned::new(0..0, defaults)),
            ..PolicyDocument::default()
        }
    }

    fn recognise(&self, headers: &mut HeaderMap) {
        match Account::of(headers).map(Account::name) {
            Some(name) => {
                let name = HeaderValue::try_from(name).expect("an account's name is visible ASCII");
                headers.insert(ACCOUNT, name);
            }
            None => {
                headers.remove(ACCOUNT);
            }
        }
    }

    async fn furnish(&self, desk: &mut Desk<'_>) -> Outcome<()> {
        for account in [&LIVE, &TEST] {
            wallet::set(desk, account, BALANCE).await?;
        }
        desk.keep(PICKUP, &json!(true)).await?;
        desk.keep(RIDERS_ONLINE, &json!([Class::Bike.name(), Class::Van.name()])).await?;
        desk.keep(INACTIVE_KEYS, &json!([])).await
    }

    async fn fixtures(&self, _desk: &mut Desk<'_>) -> Outcome<Value> {
        let [(live, _), (live_2, _), (test, _)] = API_KEYS;
        Ok(json!({ "live_key": live, "test_key": test, "live_key_2": live_2 }))
    }

    async fn set(&self, desk: &mut Desk<'_>, name: &str, value: &Value) -> Outcome<Result<(), String>> {
        match name {
            "balance" | "top_up" => {
                let Some(amount) = value.as_u64().filter(|amount| *amount <= wallet::BALANCE_MAX) else {
                    let max = wallet::BALANCE_MAX;
                    return Ok(Err(format!("`{name}` is a whole number of MWK from 0 to {max}, found {value}")));
                };
                // Both environments have the same rules, and whoever tests one should not have to name it.
                for account in [&LIVE, &TEST] {
                    let before = if name == "top_up" { wallet::balance(desk, account).await? } else { 0 };
                    wallet::set(desk, account, (before + amount).min(wallet::BALANCE_MAX)).await?;
                }
                Ok(Ok(()))
            }
            "riders_online" => {
                let names: Option<Vec<&str>> =
                    value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
                if !names.is_some_and(|names| names.iter().all(|name| Class::of(name).is_some())) {
                    let known = Class::ALL.map(Class::name).join(", ");
                    return Ok(Err(format!("`riders_online` is a list of classes ({known}), found {value}")));
                }
                desk.keep(RIDERS_ONLINE, value).await?;
                Ok(Ok(()))
            }
            "pickup" => {
                if !value.is_boolean() {
                    return Ok(Err(format!("`pickup` is true or false, found {value}")));
                }
                desk.keep(PICKUP, value).await?;
                Ok(Ok(()))
            }
            "key_active" => set_key_active(desk, value).await,
            _ => Ok(Err(format!(
                "there is no fixture \"{name}\"; yonne has balance, top_up, riders_online, pickup, key_active"
            ))),
        }
    }

    async fn admit(&self, call: &mut Call<'_>) -> Outcome<Option<Response<Bytes>>> {
        calls::admit(call).await
    }

    fn trouble(&self, status: StatusCode) -> Response<Bytes> {
        let error = match status {
            StatusCode::PAYMENT_REQUIRED => "Insufficient Funds",
            StatusCode::UNPROCESSABLE_ENTITY => "ERR_NO_CAPACITY_AVAILABLE",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        let refusal = Refusal::new(status, error).with("status", json!(status.as_u16()));
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => refusal.retry_after(RETRY_AFTER_S),
            _ => refusal,
        }
        .response()
    }
}

async fn set_key_active(desk: &mut Desk<'_>, value: &Value) -> Outcome<Result<(), String>> {
    let key = value["key"].as_str().filter(|key| API_KEYS.iter().any(|(known, _)| known == key));
    let members = value.as_object().map_or(0, serde_json::Map::len);
    let (Some(key), Some(is_active), 2) = (key, value["active"].as_bool(), members) else {
        let known = API_KEYS.map(|(key, _)| key).join(", ");
        return Ok(Err(format!(
            "`key_active` is {{\"key\": one of {known}, \"active\": true or false}}, found {value}"
        )));
    };
    let kept = desk.state(INACTIVE_KEYS).await?.unwrap_or_default();
    let mut inactive: Vec<Value> = kept.as_array().cloned().unwrap_or_default();
    inactive.retain(|inactive| inactive != key);
    if !is_active {
        inactive.push(json!(key));
    }
    desk.keep(INACTIVE_KEYS, &json!(inactive)).await?;
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_setting_makes_a_policy() {
        let defaults: BTreeMap<&'static str, Value> =
            Yonne.settings().into_iter().map(|setting| (setting.name, setting.default)).collect();
        for (name, value) in [
            ("attempt_suffix", json!("literal")),
            ("mismatch", json!("replay")),
            ("strict_key", json!(true)),
            ("ttl_ms", json!(1)),
            ("ttl_ms", json!(365_u64 * 24 * 60 * 60 * 1000)),
        ] {
            let mut settings = Settings(defaults.clone());
            settings.0.insert(name, value);
            Yonne.policy(&settings).build().unwrap();
        }
    }

    #[test]
    fn a_key_is_known_by_either_field_and_the_account_is_never_the_clients_word() {
        let account = |fields: &[(&'static str, &'static str)]| {
            let mut headers: HeaderMap = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            Yonne.recognise(&mut headers);
            headers.get(ACCOUNT).map(|name| name.to_str().unwrap().to_owned())
        };
        let live = Some("MER-1001/live".to_owned());
        assert_eq!(account(&[("x-api-key", "yonne_live_sandbox_1")]), live);
        assert_eq!(account(&[("x-api-key", "yonne_live_sandbox_2")]), live);
        assert_eq!(account(&[("authorization", "bearer yonne_live_sandbox_1")]), live);
        assert_eq!(account(&[("x-api-key", ""), ("authorization", "Bearer yonne_live_sandbox_1")]), live);
        assert_eq!(
            account(&[("x-api-key", "yonne_test_sandbox_1"), ("sandbox-account", "MER-1001/live")]).as_deref(),
            Some("MER-1001/test")
        );
        assert_eq!(account(&[("sandbox-account", "MER-1001/live")]), None);
        assert_eq!(account(&[("authorization", "Basic yonne_live_sandbox_1")]), None);
    }
}
