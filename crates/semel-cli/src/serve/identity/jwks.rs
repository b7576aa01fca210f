//! Public keys from an address: fetched before anybody needs them, and again; kept while they cannot be fetched.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::{Mutex, RwLock};
use semel_client::Http;
use tokio::sync::Notify;
use tower::ServiceExt as _;

use super::jwt::Keys;

/// How long one fetch may take.
const FETCH_MAX: Duration = Duration::from_secs(10);
/// The largest key set, in bytes.
const SET_BYTES_MAX: usize = 256 << 10;
/// How often at most a token with an unknown key makes them be fetched.
const ASKED_EVERY_MIN: Duration = Duration::from_secs(30);
/// The first pause after a fetch that failed while there are no keys at all; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(250);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The keys, and who fetches them.
#[derive(Debug)]
pub(super) struct Fetched {
    url: Uri,
    refresh: Duration,
    keys: RwLock<Option<Arc<Keys>>>,
    asked: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When somebody last asked for keys that were not there.
    asked_at: Option<Instant>,
    is_fetching: bool,
}

/// What becomes of somebody who asks for a key that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// The keys are being fetched: the next answer may be another.
    Fetching,
    /// They were fetched just now, and it is not among them.
    Known,
}

impl Fetched {
    pub(super) fn new(url: Uri, refresh: Duration) -> Fetched {
        let state = Mutex::new(State { asked_at: None, is_fetching: true });
        Fetched { url, refresh, keys: RwLock::new(None), asked: Notify::new(), state }
    }

    /// The keys of now; `None` before they were first fetched.
    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.read().clone()
    }

    /// Asks for keys to be fetched again, since one is missing.
    pub(super) fn ask(&self) -> Asked {
        let mut state = self.state.lock();
        if state.is_fetching {
            return Asked::Fetching;
        }
        if state.asked_at.is_some_and(|at| at.elapsed() < ASKED_EVERY_MIN) {
            return Asked::Known;
        }
        *state = State { asked_at: Some(Instant::now()), is_fetching: true };
        self.asked.notify_one();
        Asked::Fetching
    }

    /// Fetches them for ever.
    pub(super) async fn keep(&self) {
        let mut pause = PAUSE;
        loop {
            self.state.lock().is_fetching = true;
            let fetched = tokio::time::timeout(FETCH_MAX, self.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {FETCH_MAX:?}")));
            let wait = match fetched {
                Ok(keys) => {
                    tracing::debug!(target: "semel::identity", "the keys of tokens were fetched");
                    *self.keys.write() = Some(Arc::new(keys));
                    pause = PAUSE;
                    self.refresh
                }
                Err(error) => {
                    tracing::warn!(target: "semel::identity", url = %self.url, "the keys of tokens cannot be fetched: {error:#}");
                    let wait = pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                    wait
                }
            };
            self.state.lock().is_fetching = false;
            let _asked_or_due = tokio::time::timeout(wait, self.asked.notified()).await;
        }
    }

    async fn fetch(&self) -> anyhow::Result<Keys> {
        // A client of its own each time: a few fetches an hour need no kept connection that may have died.
        let http = Http::new().context("no HTTP client")?;
        let request = Request::get(&self.url).header(header::ACCEPT, "application/json").body(Bytes::new())?;
        let response = http.oneshot(request).await.context("the issuer cannot be reached")?;
        if response.status() != StatusCode::OK {
            bail!("the issuer answers {}", response.status());
        }
        let content = Limited::new(response.into_body(), SET_BYTES_MAX).collect().await;
        let content = content.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Keys::of_set(&content).map_err(anyhow::Error::msg)
    }
}
