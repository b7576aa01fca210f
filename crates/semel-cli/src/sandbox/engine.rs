//! How a request runs: vendor and operation, fault, admission, the exchange with the vendor's books in its transaction.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt as _;
use parking_lot::RwLock;
use percent_encoding::percent_decode_str;
use semel::{
    core::{
        admit::normalise_path,
        policy::{Policy, PolicyDocument},
        scope::Secret,
    },
    store::Clock as _,
    transaction::Transactional,
};
use sqlx::Pool;
use tokio_util::task::TaskTracker;

use super::{
    api::{Call, Desk, Operation, Outcome, Settings, Takes, Vendor},
    books::{Books, Keeper},
    clock::MovedClock,
    faults::{Fault, Faults},
    shelf::{Opened, Owned, Shelf},
};

/// The largest content of a request, in bytes.
pub(crate) const CONTENT_BYTES_MAX: usize = 1 << 20;
/// The name of the clock's offset in the books.
const AHEAD: &str = "clock ahead in ms";

/// The sandbox: vendors on one database.
pub(crate) struct Engine<DB: Shelf> {
    pub(crate) stands: Vec<Stand<DB>>,
    pub(crate) faults: Faults,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) naive: bool,
    /// What the database is, in words.
    pub(crate) database: String,
    /// Requests hold it shared; who changes what they are answered by holds it alone.
    gate: Arc<tokio::sync::RwLock<()>>,
    /// Executions, which may outlive their connections.
    running: TaskTracker,
    pool: Pool<DB>,
    secret: Secret,
    _owned: Owned,
}

/// One vendor, and how it is to behave now.
pub(crate) struct Stand<DB: Shelf> {
    pub(crate) vendor: &'static dyn Vendor,
    /// What its paths begin with.
    pub(crate) spaces: &'static [&'static str],
    pub(crate) operations: Vec<Operation>,
    rules: RwLock<Arc<Rules<DB>>>,
}

struct Rules<DB: Shelf> {
    settings: Settings,
    exchanges: Transactional<DB>,
}

/// How a request is answered.
#[derive(Debug)]
pub(crate) enum Told {
    /// With this.
    Reply(Response<Bytes>),
    /// With this, so much later.
    Late(Response<Bytes>, Duration),
    /// The connection closes without a byte.
    Cut,
    /// Not at all, on a connection that stays open.
    Silence,
}

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    stand: usize,
    operation: usize,
}

/// Who is at the other end of the connection; in the extensions of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl<DB: Shelf> Engine<DB> {
    /// Brings the tables up to date, furnishes what is new, and reads what was set before.
    pub(crate) async fn open(
        vendors: Vec<(&'static dyn Vendor, &'static [&'static str])>,
        opened: Opened<DB>,
        naive: bool,
    ) -> anyhow::Result<Engine<DB>> {
        let Opened { pool, secret, words, owned } = opened;
        semel::transaction::migrate(&pool).await.context("cannot create the tables")?;
        let clock = Arc::new(MovedClock::default());
        let mut tx = pool.begin_with(DB::BEGIN).await?;
        tx.migrate().await.context("cannot create the tables")?;
        let ahead_ms = tx.meta(AHEAD).await?;
        clock.set_ahead_ms(ahead_ms.and_then(|ms| ms.parse().ok()).unwrap_or_default());
        let mut stands = Vec::new();
        for (vendor, spaces) in vendors {
            let kept = tx.settings(vendor.name()).await?;
            let settings = settings_of(vendor, &kept);
            if !tx.is_furnished(vendor.name()).await? {
                let furnished = furnish(vendor, &mut *tx, &settings, clock.as_ref(), naive).await;
                furnished.map_err(|error| anyhow::anyhow!(error).context("cannot put down the fixtures"))?;
            }
            let policy = policy(vendor, &settings, naive)?;
            let exchanges = DB::transactional(policy, secret.clone(), pool.clone()).with_clock(clock.clone());
            let rules = RwLock::new(Arc::new(Rules { settings, exchanges }));
            stands.push(Stand { vendor, spaces, operations: vendor.operations(), rules });
        }
        tx.commit().await?;
        Ok(Engine {
            stands,
            faults: Faults::default(),
            clock,
            naive,
            database: words,
            gate: Arc::default(),
            running: TaskTracker::new(),
            pool,
            secret,
            _owned: owned,
        })
    }

    /// Deletes what is past its retention, for ever.
    pub(crate) async fn housekeeping(self: Arc<Self>) {
        // Any of them: the records of all vendors are in one table.
        let Some(stand) = self.stands.first() else { return };
        let exchanges = stand.rules().exchanges.clone();
        match exchanges.housekeeping().await {}
    }

    /// Waits until nothing runs; nothing may begin any more.
    pub(crate) async fn finish(&self) {
        self.running.close();
        self.running.wait().await;
        self.pool.close().await;
    }

    /// The vendor of that name.
    pub(crate) fn stand(&self, name: &str) -> Option<&Stand<DB>> {
        self.stands.iter().find(|stand| stand.vendor.name() == name)
    }

    /// Where a request goes, or its answer if there is no such place.
    pub(crate) fn place(&self, head: &request::Parts) -> Result<Place, Box<Response<Bytes>>> {
        let path = normalise_path(head.uri.path());
        let Some(index) = self.stands.iter().position(|stand| stand.holds(&path)) else {
            return Err(Box::new(self.nowhere()));
        };
        let stand = &self.stands[index];
        // HEAD is GET without the content, which the server leaves out (RFC 9110 section 9.3.2).
        let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
        // A path without variables is not also one whose variable would stand for the same, as in an OpenAPI document.
        let is_literal = stand.operations.iter().any(|it| it.path == path);
        let is_of_path =
            |it: &Operation| if is_literal { it.path == path } else { variables(it.path, &path).is_some() };
        let of_path = || stand.operations.iter().enumerate().filter(|(_, it)| is_of_path(it));
        if let Some((operation, _)) = of_path().find(|(_, it)| it.method == method) {
            return Ok(Place { stand: index, operation });
        }
        let mut allowed: Vec<&str> = of_path().map(|(_, it)| it.method.as_str()).collect();
        if allowed.is_empty() {
            return Err(Box::new(stand.trouble(StatusCode::NOT_FOUND)));
        }
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        let mut response = stand.trouble(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = HeaderValue::from_str(&allowed.join(", ")).expect("methods are tokens");
        response.headers_mut().insert(header::ALLOW, allowed);
        Err(Box::new(response))
    }

    /// An answer of the place's vendor for a request that never got there.
    pub(crate) fn trouble(&self, place: Place, status: StatusCode) -> Response<Bytes> {
        self.stands[place.stand].trouble(status)
    }

    fn nowhere(&self) -> Response<Bytes> {
        let vendors: BTreeMap<&str, &[&str]> =
            self.stands.iter().map(|stand| (stand.vendor.name(), stand.spaces)).collect();
        let content = serde_json::json!({
            "error": "no vendor of this sandbox has this path; GET / shows what there is",
            "vendors": vendors,
        });
        super::api::json(StatusCode::NOT_FOUND, &content)
    }

    /// Answers a request. It runs to its end even if nobody waits for it.
    pub(crate) async fn answer(self: &Arc<Self>, place: Place, request: Request<Bytes>) -> Told {
        let stand = &self.stands[place.stand];
        let operation = &stand.operations[place.operation];
        let fault = self.faults.take(stand.vendor.name(), format!("{} {}", operation.method, operation.path));
        match fault {
            Some(Fault::DropBefore) => return Told::Cut,
            Some(Fault::StatusBefore(status)) => return Told::Reply(stand.trouble(status)),
            None | Some(Fault::DropAfter | Fault::StatusAfter(_) | Fault::Delay(_) | Fault::Stall) => {}
        }
        let engine = Arc::clone(self);
        let running = self.running.spawn(async move { engine.execute(place, request).await });
        let mut response = running.await.unwrap_or_else(|error| {
            tracing::error!(target: "semel::sandbox", %error, "a request was not answered");
            stand.vendor.trouble(StatusCode::INTERNAL_SERVER_ERROR)
        });
        stand.dress(&mut response);
        match fault {
            None | Some(Fault::DropBefore | Fault::StatusBefore(_)) => Told::Reply(response),
            Some(Fault::DropAfter) => Told::Cut,
            Some(Fault::StatusAfter(status)) => Told::Reply(stand.trouble(status)),
            Some(Fault::Delay(time)) => Told::Late(response, time),
            Some(Fault::Stall) => Told::Silence,
        }
    }

    async fn execute(self: Arc<Self>, place: Place, mut request: Request<Bytes>) -> Response<Bytes> {
        let _open = Arc::clone(&self.gate).read_owned().await;
        let rules = self.stands[place.stand].rules();
        let vendor = self.stands[place.stand].vendor;
        vendor.recognise(request.headers_mut());
        let noted = match self.admit(place, &rules, &request).await {
            Ok((None, noted)) => noted,
            Ok((Some(mut refused), noted)) => {
                refused.headers_mut().extend(noted);
                return refused;
            }
            Err(error) => {
                tracing::error!(target: "semel::sandbox", vendor = vendor.name(), error, "a request was not admitted");
                return vendor.trouble(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        let engine = Arc::clone(&self);
        let settings = rules.settings.clone();
        let request = request.map(http_body_util::Full::new);
        let response = rules
            .exchanges
            .handle(request, move |tx, request| {
                let (engine, settings) = (Arc::clone(&engine), settings.clone());
                Box::pin(async move {
                    let stand = &engine.stands[place.stand];
                    let operation = &stand.operations[place.operation];
                    let books: &mut DB::Connection = &mut *tx;
                    books.hold(stand.vendor.name()).await?;
                    let path = variables(operation.path, &normalise_path(request.uri().path()));
                    let path = path.expect("the operation was found by this path");
                    let desk = engine.desk(stand.vendor, books, &settings);
                    (operation.run)(&mut Call { desk, request, path, noted: HeaderMap::new() }).await
                })
            })
            .await;
        let (head, content) = response.into_parts();
        let content = content.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut response = in_its_words(vendor, Response::from_parts(head, content));
        response.headers_mut().extend(noted);
        response
    }

    /// Asks the vendor whether it looks at the request at all, and for header fields of the response.
    async fn admit(
        &self,
        place: Place,
        rules: &Rules<DB>,
        request: &Request<Bytes>,
    ) -> Result<(Option<Response<Bytes>>, HeaderMap), String> {
        let stand = &self.stands[place.stand];
        let admitting = async {
            let mut tx = self.pool.begin_with(DB::BEGIN).await?;
            tx.hold(stand.vendor.name()).await?;
            let path = variables(stand.operations[place.operation].path, &normalise_path(request.uri().path()));
            let path = path.expect("the operation was found by this path");
            let desk = self.desk(stand.vendor, &mut *tx, &rules.settings);
            let mut call = Call { desk, request, path, noted: HeaderMap::new() };
            let refused = stand.vendor.admit(&mut call).await?;
            let noted = call.noted;
            tx.commit().await?;
            Outcome::Ok((refused, noted))
        };
        admitting.await.map_err(|error| error.to_string())
    }

    fn desk<'t>(&self, vendor: &'static dyn Vendor, books: &'t mut dyn Books, settings: &'t Settings) -> Desk<'t> {
        Desk { vendor: vendor.name(), books, settings, now_ms: self.clock.now_ms(), naive: self.naive }
    }

    /// Reads from the books of all vendors at one moment.
    pub(crate) async fn read<T>(&self, read: impl AsyncFnOnce(&mut DB::Connection) -> Outcome<T>) -> Outcome<T> {
        let _alone = self.gate.write().await;
        let mut tx = self.pool.begin_with(DB::BEGIN).await?;
        let said = read(&mut *tx).await?;
        tx.rollback().await?;
        Ok(said)
    }

    /// What the fixtures of every vendor are.
    pub(crate) async fn fixtures(&self) -> Outcome<serde_json::Value> {
        self.read(async |connection| {
            let mut fixtures = serde_json::Map::new();
            for stand in &self.stands {
                let rules = stand.rules();
                let mut desk = self.desk(stand.vendor, &mut *connection, &rules.settings);
                fixtures.insert(stand.vendor.name().to_owned(), stand.vendor.fixtures(&mut desk).await?);
            }
            Ok(fixtures.into())
        })
        .await
    }

    /// Changes settings and fixtures of a vendor, all of them or none. The inner error is for whoever asked.
    pub(crate) async fn set(
        &self,
        stand: &Stand<DB>,
        wanted: &serde_json::Map<String, serde_json::Value>,
    ) -> Outcome<Result<(), String>> {
        let _alone = self.gate.write().await;
        let vendor = stand.vendor;
        let mut settings = stand.rules().settings.clone();
        let known = vendor.settings();
        let mut tx = self.pool.begin_with(DB::BEGIN).await?;
        for (name, value) in wanted {
            if let Some(setting) = known.iter().find(|setting| setting.name == name) {
                if let Err(wrong) = setting.takes.check(value) {
                    return Ok(Err(format!("\"{name}\" {wrong}")));
                }
                tx.set(vendor.name(), name, value).await?;
                settings.0.insert(setting.name, value.clone());
            }
        }
        for (name, value) in wanted {
            if known.iter().all(|setting| setting.name != name) {
                let mut desk = self.desk(vendor, &mut *tx, &settings);
                if let Err(wrong) = vendor.set(&mut desk, name, value).await? {
                    let names: Vec<&str> = known.iter().map(|setting| setting.name).collect();
                    return Ok(Err(format!("{wrong} (settings of {}: {})", vendor.name(), names.join(", "))));
                }
            }
        }
        let exchanges = match policy(vendor, &settings, self.naive) {
            Ok(policy) => policy,
            Err(error) => return Ok(Err(format!("these settings do not go together: {error:#}"))),
        };
        tx.commit().await?;
        self.put_rules(stand, settings, exchanges);
        Ok(Ok(()))
    }

    /// Moves the clock.
    pub(crate) async fn advance(&self, ahead_ms: u64) -> Outcome<()> {
        let _alone = self.gate.write().await;
        let mut tx = self.pool.begin_with(DB::BEGIN).await?;
        tx.keep_meta(AHEAD, &ahead_ms.to_string()).await?;
        tx.commit().await?;
        self.clock.set_ahead_ms(ahead_ms);
        Ok(())
    }

    /// Makes everything as at first start.
    pub(crate) async fn reset(&self) -> Outcome<()> {
        let _alone = self.gate.write().await;
        self.faults.clear();
        let mut tx = self.pool.begin_with(DB::BEGIN).await?;
        tx.wipe().await?;
        tx.keep_meta(AHEAD, "0").await?;
        let before_ms = self.clock.ahead_ms();
        // Fixtures are put down at the time that it will be.
        self.clock.set_ahead_ms(0);
        let mut fresh = Vec::new();
        let furnishing = async {
            for stand in &self.stands {
                let settings = settings_of(stand.vendor, &BTreeMap::new());
                furnish(stand.vendor, &mut *tx, &settings, self.clock.as_ref(), self.naive).await?;
                let policy = policy(stand.vendor, &settings, self.naive)?;
                fresh.push((settings, policy));
            }
            tx.commit().await?;
            Outcome::Ok(())
        };
        let furnished = furnishing.await;
        if furnished.is_err() {
            self.clock.set_ahead_ms(before_ms);
            return furnished;
        }
        for (stand, (settings, policy)) in self.stands.iter().zip(fresh) {
            self.put_rules(stand, settings, policy);
        }
        Ok(())
    }

    fn put_rules(&self, stand: &Stand<DB>, settings: Settings, policy: Policy) {
        let exchanges = DB::transactional(policy, self.secret.clone(), self.pool.clone());
        let exchanges = exchanges.with_clock(self.clock.clone());
        *stand.rules.write() = Arc::new(Rules { settings, exchanges });
    }
}

impl<DB: Shelf> Stand<DB> {
    fn rules(&self) -> Arc<Rules<DB>> {
        Arc::clone(&self.rules.read())
    }

    /// Its settings now.
    pub(crate) fn settings(&self) -> Settings {
        self.rules().settings.clone()
    }

    fn holds(&self, path: &str) -> bool {
        self.spaces
            .iter()
            .any(|space| path.strip_prefix(space).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }

    /// An error of this vendor, complete.
    pub(crate) fn trouble(&self, status: StatusCode) -> Response<Bytes> {
        let mut response = self.vendor.trouble(status);
        self.dress(&mut response);
        response
    }

    fn dress(&self, response: &mut Response<Bytes>) {
        self.vendor.dress(&self.rules().settings, response.headers_mut());
        self.vendor.finish(response);
    }
}

impl Takes {
    /// Whether a value may be set. The error says what would be right.
    fn check(self, value: &serde_json::Value) -> Result<(), String> {
        let fits = match self {
            Takes::OneOf(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Takes::Switch => value.is_boolean(),
            Takes::Whole(from, to) => value.as_u64().is_some_and(|number| (from..=to).contains(&number)),
        };
        if fits { Ok(()) } else { Err(format!("is {}", self.words())) }
    }
}

fn settings_of(vendor: &dyn Vendor, kept: &BTreeMap<String, serde_json::Value>) -> Settings {
    let value = |setting: super::api::Setting| {
        let kept = kept.get(setting.name).filter(|value| setting.takes.check(value).is_ok()).cloned();
        (setting.name, kept.unwrap_or(setting.default))
    };
    Settings(vendor.settings().into_iter().map(value).collect())
}

async fn furnish(
    vendor: &'static dyn Vendor,
    books: &mut (impl Keeper + 'static),
    settings: &Settings,
    clock: &MovedClock,
    naive: bool,
) -> Outcome<()> {
    let name = vendor.name();
    vendor.furnish(&mut Desk { vendor: name, books, settings, now_ms: clock.now_ms(), naive }).await?;
    Ok(books.mark_furnished(name).await?)
}

/// The vendor's idempotency, of which the naive copy has none.
fn policy(vendor: &dyn Vendor, settings: &Settings, naive: bool) -> anyhow::Result<Policy> {
    let document = if naive {
        // A policy without routes covers everything, so this one has one that no vendor's path is on.
        let nothing: PolicyText = toml::from_str("[[route]]\npath = \"/_sandbox\"").expect("it is a route");
        PolicyDocument { routes: nothing.route, ..PolicyDocument::default() }
    } else {
        vendor.policy(settings)
    };
    document.build().with_context(|| format!("the policy of {}", vendor.name()))
}

#[derive(serde::Deserialize)]
struct PolicyText {
    route: Vec<toml::Spanned<semel::core::policy::RouteSettings>>,
}

/// A failure that the transactional mode tells in its own words, in the vendor's.
fn in_its_words(vendor: &dyn Vendor, response: Response<Bytes>) -> Response<Bytes> {
    let is_nobodys = response.status().is_server_error()
        && serde_json::from_slice::<serde_json::Value>(response.body())
            .is_ok_and(|content| content.get("type").is_some_and(|kind| kind == "about:blank"));
    if !is_nobodys {
        return response;
    }
    let (mut head, _) = response.into_parts();
    let mut told = vendor.trouble(head.status);
    for name in [header::CONTENT_TYPE, header::CONTENT_LANGUAGE, header::CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    told.headers_mut().extend(head.headers);
    told
}

/// What the variables of a template stand for in a normalised path, if it matches.
fn variables(template: &'static str, path: &str) -> Option<BTreeMap<&'static str, String>> {
    let mut found = BTreeMap::new();
    let mut parts = path.split('/');
    for segment in template.split('/') {
        let part = parts.next()?;
        match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) => {
                let decoded = percent_decode_str(part).decode_utf8().ok().filter(|text| !text.is_empty())?;
                found.insert(name, decoded.into_owned());
            }
            None if segment == part => {}
            None => return None,
        }
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_whole_segments_and_decoded() {
        let of = |template, path| variables(template, path).map(|found| found.into_iter().collect::<Vec<_>>());
        assert_eq!(of("/a", "/a"), Some(vec![]));
        assert_eq!(of("/a", "/a/b"), None);
        assert_eq!(of("/a/{id}", "/a"), None);
        assert_eq!(of("/a/{id}", "/a/x%20y"), Some(vec![("id", "x y".to_owned())]));
        assert_eq!(of("/a/{id}/b", "/a/1/b"), Some(vec![("id", "1".to_owned())]));
        assert_eq!(of("/a/{id}/b", "/a/1/c"), None);
        assert_eq!(of("/a/{id}", "/a/%ff"), None, "no text");
    }
}
