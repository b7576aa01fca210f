//! The control surface, `/_sandbox/`: what a client under test must not see, so it is out of band.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use semel::store::Clock as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    api::{self, Outcome},
    clock::AHEAD_MS_MAX,
    engine::{CONTENT_BYTES_MAX, Engine, Stand},
    faults::{self, Fault},
    shelf::Shelf,
};

/// What control addresses begin with.
pub(crate) const SPACE: &str = "/_sandbox/";

/// What there is: method, path and what for.
pub(crate) const CALLS: [(&str, &str, &str); 9] = [
    ("POST", "/_sandbox/reset", "everything as at first start: no records, no faults, the clock at now"),
    ("POST", "/_sandbox/clock", r#"{"advance_ms": 86401000} moves the clock forward"#),
    (
        "POST",
        "/_sandbox/faults",
        r#"{"vendor", "op", "kind", "times"?, "ms"?} breaks the next requests for one operation"#,
    ),
    ("DELETE", "/_sandbox/faults", "forgets the faults that wait"),
    ("GET", "/_sandbox/fixtures", "keys and ids of every vendor"),
    ("POST", "/_sandbox/fixtures", r#"{"vendor", "set": {…}} changes fixtures and settings"#),
    ("GET", "/_sandbox/ledger", "what really exists: ?vendor= for one of them"),
    ("GET", "/_sandbox/config", "every setting with its value, and who says so"),
    ("GET", "/_sandbox/openapi/{vendor}.json", "the vendor's OpenAPI 3.1 document"),
];

/// What somebody asked for that cannot be.
struct Wrong(StatusCode, String);

type Asked<T> = Result<T, Wrong>;

fn wrong<T>(says: impl Into<String>) -> Asked<T> {
    Err(Wrong(StatusCode::BAD_REQUEST, says.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockAsk {
    advance_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultAsk {
    vendor: String,
    op: String,
    kind: String,
    times: Option<u64>,
    ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FixtureAsk {
    vendor: String,
    set: Map<String, Value>,
}

impl<DB: Shelf> Engine<DB> {
    /// Answers a control request.
    pub(crate) async fn control(&self, head: &request::Parts, content: &Bytes) -> Response<Bytes> {
        match self.controlled(head, content).await {
            Ok(Ok(content)) => api::json(StatusCode::OK, &content),
            Ok(Err(Wrong(status, says))) => {
                let mut response = api::json(status, &json!({ "error": says }));
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    let allow = HeaderValue::from_str(&allowed(head.uri.path()).join(", "));
                    response.headers_mut().insert(header::ALLOW, allow.expect("methods are tokens"));
                }
                response
            }
            Err(error) => {
                tracing::error!(target: "semel::sandbox", %error, "a control request failed");
                let says = format!("the sandbox's database failed, and nothing was changed: {error}");
                api::json(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": says }))
            }
        }
    }

    async fn controlled(&self, head: &request::Parts, content: &Bytes) -> Outcome<Asked<Value>> {
        let path = head.uri.path();
        let query = head.uri.query().filter(|query| !query.is_empty());
        if query.is_some() && path != "/_sandbox/ledger" {
            return Ok(wrong(format!("{path} takes no query")));
        }
        if !allowed(path).contains(&head.method.as_str()) {
            return Ok(Err(no_such_call(&head.method, path)));
        }
        match (head.method.as_str(), path) {
            ("POST", "/_sandbox/reset") => self.control_reset(content).await,
            ("POST", "/_sandbox/clock") => self.control_clock(content).await,
            ("POST", "/_sandbox/faults") => Ok(self.control_fault(content)),
            ("DELETE", "/_sandbox/faults") => {
                self.faults.clear();
                Ok(Ok(json!({ "cleared": true })))
            }
            ("GET", "/_sandbox/fixtures") => self.fixtures().await.map(Ok),
            ("POST", "/_sandbox/fixtures") => self.control_set(content).await,
            ("GET", "/_sandbox/ledger") => self.control_ledger(query).await,
            ("GET", "/_sandbox/config") => Ok(Ok(self.config())),
            ("GET", path) if openapi_name(path).is_some() => {
                let name = openapi_name(path).expect("it was just asked");
                Ok(self.named(name).map(super::openapi::document))
            }
            _ => Ok(Err(no_such_call(&head.method, path))),
        }
    }

    async fn control_reset(&self, content: &Bytes) -> Outcome<Asked<Value>> {
        // Most clients send no content here.
        let content = if content.is_empty() { &Bytes::from_static(b"{}") } else { content };
        if let Err(wrong) = parse::<Nothing>(content) {
            return Ok(Err(wrong));
        }
        self.reset().await?;
        Ok(Ok(json!({ "reset": true, "now": api::timestamp(self.clock.now_ms()) })))
    }

    async fn control_clock(&self, content: &Bytes) -> Outcome<Asked<Value>> {
        let ask: ClockAsk = match parse(content) {
            Ok(ask) => ask,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let ahead_ms = self.clock.ahead_ms().saturating_add(ask.advance_ms);
        if ahead_ms > AHEAD_MS_MAX {
            return Ok(wrong(format!("the clock would be {ahead_ms} ms ahead; at most {AHEAD_MS_MAX} are possible")));
        }
        self.advance(ahead_ms).await?;
        Ok(Ok(json!({ "now": api::timestamp(self.clock.now_ms()), "ahead_ms": ahead_ms })))
    }

    fn control_fault(&self, content: &Bytes) -> Asked<Value> {
        let FaultAsk { vendor, op, kind, times, ms } = parse(content)?;
        let stand = self.named(&vendor)?;
        let ops: Vec<String> = stand.operations.iter().map(|it| format!("{} {}", it.method, it.path)).collect();
        if !ops.contains(&op) {
            let says = format!("{vendor} has no operation \"{op}\"; it has \"{}\"", ops.join("\", \""));
            return wrong(says);
        }
        let times = times.unwrap_or(1);
        if !(1..=faults::TIMES_MAX).contains(&times) {
            return wrong(format!("\"times\" is a whole number from 1 to {}", faults::TIMES_MAX));
        }
        let added = Fault::parse(&kind, ms).and_then(|fault| self.faults.add(stand.vendor.name(), op, fault, times));
        match added {
            Ok(()) => Ok(json!({ "added": true })),
            Err(says) => wrong(says),
        }
    }

    async fn control_set(&self, content: &Bytes) -> Outcome<Asked<Value>> {
        let asked = parse::<FixtureAsk>(content).and_then(|ask| Ok((self.named(&ask.vendor)?, ask.set)));
        let (stand, wanted) = match asked {
            Ok(asked) => asked,
            Err(wrong) => return Ok(Err(wrong)),
        };
        match self.set(stand, &wanted).await? {
            Ok(()) => Ok(Ok(json!({ "set": wanted }))),
            Err(says) => Ok(wrong(says)),
        }
    }

    async fn control_ledger(&self, query: Option<&str>) -> Outcome<Asked<Value>> {
        let vendor = match query.map(|query| query.split_once('=')) {
            None => None,
            Some(Some(("vendor", name))) => match self.named(name) {
                Ok(stand) => Some(stand.vendor.name()),
                Err(wrong) => return Ok(Err(wrong)),
            },
            Some(_) => return Ok(wrong("the only question to a ledger is ?vendor=NAME")),
        };
        let read = self.read(async |connection| {
            use super::books::Keeper as _;
            Ok((connection.records(vendor).await?, connection.debits(vendor).await?))
        });
        let (records, debits) = read.await?;
        let record = |(vendor, row): (String, super::books::Row)| {
            json!({
                "vendor": vendor, "kind": row.kind, "id": row.id, "key": row.key,
                "created_at": api::timestamp(row.created_at_ms), "data": row.data,
            })
        };
        let debit = |debit: super::books::Debit| {
            json!({
                "vendor": debit.vendor, "account": debit.account, "amount": debit.amount,
                "record_id": debit.record_id,
            })
        };
        let records: Vec<Value> = records.into_iter().map(record).collect();
        let debits: Vec<Value> = debits.into_iter().map(debit).collect();
        Ok(Ok(json!({ "records": records, "debits": debits })))
    }

    fn config(&self) -> Value {
        let vendor = |stand: &Stand<DB>| {
            let settings = stand.settings();
            let setting = |setting: api::Setting| {
                json!({
                    "name": setting.name, "value": settings.0[setting.name], "default": setting.default,
                    "mark": setting.mark, "takes": setting.takes.words(), "about": setting.about,
                })
            };
            let all: Vec<Value> = stand.vendor.settings().into_iter().map(setting).collect();
            (stand.vendor.name().to_owned(), Value::from(all))
        };
        json!({
            "vendors": self.stands.iter().map(vendor).collect::<Map<String, Value>>(),
            "sandbox": {
                "database": self.database,
                "naive": self.naive,
                "now": api::timestamp(self.clock.now_ms()),
                "ahead_ms": self.clock.ahead_ms(),
                "content_bytes_max": CONTENT_BYTES_MAX,
                "delay_ms_max": faults::DELAY_MS_MAX,
                "fault_times_max": faults::TIMES_MAX,
            },
        })
    }

    fn named(&self, name: &str) -> Asked<&Stand<DB>> {
        let names = || self.stands.iter().map(|stand| stand.vendor.name()).collect::<Vec<_>>().join(", ");
        self.stand(name).map_or_else(|| wrong(format!("there is no vendor \"{name}\"; there are {}", names())), Ok)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(content: &Bytes) -> Asked<T> {
    serde_json::from_slice(content).or_else(|error| wrong(format!("the content is not what this takes: {error}")))
}

fn openapi_name(path: &str) -> Option<&str> {
    path.strip_prefix("/_sandbox/openapi/")?.strip_suffix(".json").filter(|name| !name.contains('/'))
}

/// The methods of a control address.
fn allowed(path: &str) -> Vec<&'static str> {
    let is_it = |known: &str| known == path || (known.contains('{') && openapi_name(path).is_some());
    CALLS.iter().filter(|(_, known, _)| is_it(known)).map(|(method, _, _)| *method).collect()
}

fn no_such_call(method: &Method, path: &str) -> Wrong {
    let there = allowed(path);
    if there.is_empty() {
        let all: Vec<String> = CALLS.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        return Wrong(StatusCode::NOT_FOUND, format!("there is no {path}; there are {}", all.join(", ")));
    }
    Wrong(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {}, not {method}", there.join(" and ")))
}
