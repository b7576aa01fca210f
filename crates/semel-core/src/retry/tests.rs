//! The shared vectors, and what holds for every history and every table.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::Deserialize;

use super::{
    table::{Rule, json},
    *,
};
use crate::policy::Preset;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    preset: String,
    path: String,
    key: String,
    #[serde(default)]
    budget: serde_json::Map<String, serde_json::Value>,
    history: Vec<EventText>,
    now_ms: i64,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventText {
    at_ms: u64,
    end_ms: Option<u64>,
    #[serde(default)]
    act: Act,
    failure: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    content: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum Act {
    #[default]
    Attempt,
    Read,
    Resumed,
}

#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Expect {
    verdict: String,
    why: String,
    open: bool,
    outcome: Option<String>,
    resumable: Option<bool>,
    path: Option<String>,
    at_least_ms: Option<u64>,
    at_most_ms: Option<u64>,
}

impl EventText {
    fn event(&self) -> Event {
        let saw = match (&self.failure, self.status) {
            (Some(failure), None) if failure == "not-sent" => Saw::NotSent,
            (Some(failure), None) if failure == "no-response" => Saw::NoResponse,
            (None, Some(status)) => Saw::Reply(Reply {
                status: StatusCode::from_u16(status).expect("a status"),
                headers: self
                    .headers
                    .iter()
                    .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
                    .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
                    .into_iter()
                    .collect(),
                content: Bytes::from(self.content.clone()),
            }),
            (None, None) if matches!(self.act, Act::Resumed) => return Event::Resumed { at_ms: self.at_ms },
            (Some(_), _) | (None, None) => panic!("a failure or a status"),
        };
        let (at_ms, end_ms) = (self.at_ms, self.end_ms.unwrap_or(self.at_ms));
        match self.act {
            Act::Attempt => Event::Attempt { at_ms, end_ms, saw },
            Act::Read => Event::Read { at_ms, end_ms, saw },
            Act::Resumed => panic!("a resumption saw nothing"),
        }
    }
}

fn table_of(vector: &Vector) -> Judgement {
    let preset = Preset::ALL.into_iter().find(|preset| preset.name() == vector.preset).expect("a preset");
    let mut table: serde_json::Value = serde_json::from_str(Judgement::source(preset)).expect("JSON");
    let budget = table["budget"].as_object_mut().expect("an object");
    budget.extend(vector.budget.clone());
    Judgement::parse(&table.to_string()).expect("still a table")
}

fn told(judged: &Judged<'_>) -> Expect {
    let told = |verdict: &str| Expect {
        verdict: verdict.to_owned(),
        why: judged.why.to_owned(),
        open: judged.open,
        outcome: None,
        resumable: None,
        path: None,
        at_least_ms: None,
        at_most_ms: None,
    };
    let outcome = |outcome: &str| Some(outcome.to_owned());
    match &judged.verdict {
        Verdict::Done(Proof::Fresh) => Expect { outcome: outcome("fresh"), ..told("done") },
        Verdict::Done(Proof::Replayed) => Expect { outcome: outcome("replayed"), ..told("done") },
        Verdict::Done(Proof::AlreadyExists) => Expect { outcome: outcome("already-exists"), ..told("done") },
        Verdict::RetryAfter { at_least_ms, at_most_ms } => {
            Expect { at_least_ms: Some(*at_least_ms), at_most_ms: Some(*at_most_ms), ..told("retry") }
        }
        Verdict::Read { path, at_least_ms, at_most_ms } => Expect {
            path: Some(path.clone()),
            at_least_ms: Some(*at_least_ms),
            at_most_ms: Some(*at_most_ms),
            ..told("read")
        },
        Verdict::GiveUp { resumable } => {
            Expect { resumable: Some(*resumable), outcome: outcome("rejected"), ..told("rejected") }
        }
        Verdict::Undecided => Expect { outcome: outcome("unresolved"), ..told("undecided") },
    }
}

fn vectors() -> Vec<Vector> {
    [
        include_str!("../../judgement/vectors/ietf.json"),
        include_str!("../../judgement/vectors/stripe.json"),
        include_str!("../../judgement/vectors/etherfuse.json"),
        include_str!("../../judgement/vectors/credicorp.json"),
        include_str!("../../judgement/vectors/yonne.json"),
        include_str!("../../judgement/vectors/nora.json"),
    ]
    .into_iter()
    .flat_map(|text| serde_json::from_str::<Vec<Vector>>(text).expect("vectors"))
    .collect()
}

fn now(vector: &Vector) -> u64 {
    u64::try_from(vector.now_ms).expect("after 1970")
}

#[test]
fn l02_l03_l04_l06_l07_l08_l10_every_vector() {
    let vectors = vectors();
    assert!(vectors.len() >= 120, "{}", vectors.len());
    let mut wrong = Vec::new();
    for vector in &vectors {
        let table = table_of(vector);
        let history: Vec<Event> = vector.history.iter().map(EventText::event).collect();
        let operation = Operation { path: &vector.path, key: &vector.key };
        let judged = told(&judge(&table, operation, &history, now(vector)));
        if judged != vector.expect {
            wrong.push(format!("{}: {}\n  got  {judged:?}\n  want {:?}", vector.preset, vector.name, vector.expect));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

/// Every rule, and the `otherwise` of every read, decides some vector: nothing in a table is there in vain.
#[test]
fn every_rule_is_hit_by_a_vector() {
    let mut hit: BTreeSet<(String, usize, &str)> = BTreeSet::new();
    for vector in vectors() {
        let table = table_of(&vector);
        let operation = Operation { path: &vector.path, key: &vector.key };
        let mut walk = Walk::new(&table, operation);
        for event in vector.history.iter().map(EventText::event) {
            let (before, asked) = (walk.open_since_ms.is_some(), walk.otherwise.is_some());
            walk.step(&event);
            match &event {
                Event::Attempt { saw, .. } => {
                    let at = table.rules().iter().position(|rule| rule.when.holds(saw, before)).expect("the last");
                    hit.insert((vector.preset.clone(), at, "rule"));
                }
                Event::Read { .. } if asked && matches!(walk.next, Next::Follow(_)) => {
                    let Next::Follow(then) = walk.next else { continue };
                    let of = |rule: &Rule| matches!(&rule.then.to, To::Read(otherwise) if std::ptr::eq(otherwise.as_ref(), then));
                    let at = table.rules().iter().position(of).expect("the otherwise of a rule");
                    hit.insert((vector.preset.clone(), at, "otherwise"));
                }
                Event::Read { .. } | Event::Resumed { .. } => {}
            }
        }
    }
    for preset in Preset::ALL {
        for (at, rule) in Judgement::preset(preset).rules().iter().enumerate() {
            let name = preset.name().to_owned();
            assert!(hit.contains(&(name.clone(), at, "rule")), "{name}: no vector hits rule {at}, {}", rule.then.why);
            if matches!(rule.then.to, To::Read(_)) {
                assert!(hit.contains(&(name.clone(), at, "otherwise")), "{name}: no vector for rule {at}'s otherwise");
            }
        }
    }
}

#[test]
fn every_preset_has_a_table_of_its_name() {
    for preset in Preset::ALL {
        assert_eq!(Judgement::preset(preset).name(), preset.name());
        assert!(!Judgement::preset(preset).doc().is_empty());
    }
}

#[test]
fn a_table_that_could_lie_is_refused() {
    let check = |from: &str, to: &str, message: &str| {
        let text = Judgement::source(Preset::Yonne);
        assert!(text.contains(from), "{from}");
        let refused = Judgement::parse(&text.replacen(from, to, 1)).map(|_| ()).expect_err(message).to_string();
        assert!(refused.contains(message), "{refused}");
    };
    check(
        r#"{"status": "2xx", "member": "/success", "is": true}"#,
        r#"{"status": "4xx"}"#,
        "done needs a status of success",
    );
    check(
        r#"{"failure": "no-response"}, "verdict": "retry""#,
        r#"{"failure": "no-response"}, "proves": "key", "verdict": "retry""#,
        "nothing is proven",
    );
    check(
        r#""proves": "attempt", "say": "No connection"#,
        r#""say": "No connection"#,
        "what was not sent proves itself",
    );
    check(r#"{"when": {}, "#, r#"{"when": {"status": "418"}, "#, "the last rule must match everything");
    check(r#""path": "/*""#, r#""path": "/api""#, "the last route must match every path");
    check(r#""attempts_max": 8"#, r#""attempts_max": 0"#, "no budget may be zero");
    check(r#""resumable": false"#, r#""resumable": 0"#, "expected a boolean");
    check(r#""verdict": "retry""#, r#""verdict": "repeat""#, "unknown variant");
    check(r#""status": "402""#, r#""statuses": "402""#, "unknown field");
    check(r#""is": true"#, r#""is": 1"#, "is must be a text or a truth value");
    check(r#", "is": true}, "verdict""#, r#"}, "verdict""#, "member and is belong together");
}

#[test]
fn a_read_stays_at_the_api() {
    let text = Judgement::source(Preset::Etherfuse).replace("\"/ramp/order/{key}\"", "\"//evil.example/{key}\"");
    assert!(Judgement::parse(&text).is_err());
    let etherfuse = Judgement::preset(Preset::Etherfuse);
    assert_eq!(
        etherfuse.route("/ramp/order").resource("../../x?y#z").as_deref(),
        Some("/ramp/order/..%2F..%2Fx%3Fy%23z")
    );
}

const KEY: &str = "0197f0a0-0000-7000-8000-000000000001";

fn replies() -> impl Strategy<Value = Saw> {
    let statuses = prop::sample::select(vec![
        199u16, 200, 201, 204, 302, 308, 400, 401, 402, 404, 405, 408, 409, 410, 412, 422, 424, 429, 500, 502, 503, 999,
    ]);
    let contents = prop::sample::select(vec![
        "",
        "An order with this transaction ID already exists",
        "A pending onramp order already exists for this bank account and amount",
        r#"{"orderId":"0197f0a0-0000-7000-8000-000000000001"}"#,
        r#"{"orderId":"0197f0a0-0000-7000-8000-000000000002"}"#,
        r#"{"code":"in-flight","retryable":true}"#,
        r#"{"code":"key-reused"}"#,
        r#"{"code":"outcome-unknown"}"#,
        r#"{"code":"guard-held"}"#,
        r#"{"code":"resource-exists"}"#,
        r#"{"success":true,"idempotent_replay":true}"#,
        r#"{"success":false,"error":"ERR_NO_CAPACITY_AVAILABLE"}"#,
        r#"{"error":{"code":"idempotency_key_reused","type":"idempotency_error"}}"#,
    ]);
    let headers = prop::sample::select(vec![
        None,
        Some(("idempotent-replayed", "true")),
        Some(("idempotency-status", "released")),
        Some(("retry-after", "2")),
        Some(("stripe-should-retry", "false")),
    ]);
    prop_oneof![
        1 => Just(Saw::NotSent),
        2 => Just(Saw::NoResponse),
        7 => (statuses, contents, headers).prop_map(|(status, content, header)| Saw::Reply(Reply {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: header
                .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
                .into_iter()
                .collect(),
            content: Bytes::from_static(content.as_bytes()),
        })),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Event>> {
    let events = (0u8..10, replies(), 0u64..100_000_000);
    prop::collection::vec(events, 0..12).prop_map(|events| {
        let mut at_ms = 1_750_000_000_000;
        events
            .into_iter()
            .map(|(kind, saw, later)| {
                // Mostly seconds, sometimes a day.
                at_ms += if later > 90_000_000 { later } else { later / 10_000 };
                match kind {
                    0 => Event::Resumed { at_ms },
                    1 | 2 => Event::Read { at_ms, end_ms: at_ms + 10, saw },
                    _ => Event::Attempt { at_ms, end_ms: at_ms + 10, saw },
                }
            })
            .collect()
    })
}

fn paths(preset: Preset) -> &'static str {
    match preset {
        Preset::Etherfuse => "/ramp/order",
        Preset::Nora => "/v2/parties",
        Preset::Ietf | Preset::Stripe | Preset::Credicorp | Preset::Yonne => "/payments",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Success never without proof; failure never while an attempt without any answer is not accounted for.
    #[test]
    fn l18_truth_whatever_the_table_says(preset in prop::sample::select(Preset::ALL.to_vec()), history in histories(), late in 0u64..200_000_000) {
        let table = Judgement::preset(preset);
        let operation = Operation { path: paths(preset), key: KEY };
        let last_ms = history.iter().map(|event| match event {
            Event::Attempt { end_ms, .. } | Event::Read { end_ms, .. } => *end_ms,
            Event::Resumed { at_ms } => *at_ms,
        }).max().unwrap_or_default();
        let judged = judge(&table, operation, &history, last_ms + late);
        let succeeded = |event: &Event| match event {
            Event::Attempt { saw: Saw::Reply(reply), .. } => reply.status.is_success(),
            Event::Read { saw: Saw::Reply(reply), .. } => {
                reply.status.is_success() && json(&reply.content).is_some_and(|json| json["orderId"] == KEY)
            }
            Event::Attempt { .. } | Event::Read { .. } | Event::Resumed { .. } => false,
        };
        // A response after the last attempt without one, or none at all: only then can anything be known to have failed.
        let silent = history.iter().rposition(|event| matches!(event, Event::Attempt { saw: Saw::NoResponse, .. }));
        let answered = |event: &Event| matches!(event, Event::Attempt { saw: Saw::Reply(reply), .. } if reply.status.is_client_error() || reply.status.is_server_error());
        match judged.verdict {
            Verdict::Done(_) => prop_assert!(history.iter().any(succeeded)),
            Verdict::GiveUp { .. } => {
                prop_assert!(!judged.open);
                prop_assert!(silent.is_none_or(|silent| history[silent..].iter().any(answered)));
            }
            Verdict::RetryAfter { at_least_ms, at_most_ms } | Verdict::Read { at_least_ms, at_most_ms, .. } => {
                prop_assert!(at_least_ms <= at_most_ms);
                let run_ms = table.budget.elapsed_max_ms;
                prop_assert!(at_most_ms <= run_ms, "{at_most_ms}");
            }
            Verdict::Undecided => {}
        }
    }
}
