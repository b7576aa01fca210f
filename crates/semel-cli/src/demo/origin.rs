//! `semel demo-origin`: a payment API as people write it on the first day. It charges a card for every POST, knows
//! nothing of idempotency keys, and now and then fails in the ways real ones do.
//!
//! `POST /charges` charges, `GET /ledger` and `GET /ledger/{order}` tell what was really charged, and
//! `PUT /faults` changes how often it fails.

use std::{collections::BTreeMap, fmt, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use super::dice::Dice;

/// What `semel demo-origin` takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one, and standard output names it.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Decides which requests meet which fault.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// End as soon as standard input does, so that it never outlives whoever started it. Otherwise it serves until it
    /// is interrupted.
    #[arg(long)]
    until_input_ends: bool,
    #[command(flatten)]
    faults: Faults,
}

/// How many requests in a thousand meet which fault. The rest are charged and answered within [`WORK`].
#[derive(clap::Args, Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "it is the unit")]
pub(crate) struct Faults {
    /// Charged and answered, but only after most clients gave up.
    #[arg(long, default_value_t = 0)]
    pub(crate) slow_per_mille: u32,
    /// Charged, and then the connection breaks instead of an answer.
    #[arg(long, default_value_t = 0)]
    pub(crate) reply_lost_per_mille: u32,
    /// The connection breaks before anything is charged.
    #[arg(long, default_value_t = 0)]
    pub(crate) dropped_per_mille: u32,
}

/// What the origin really did.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Requests that are being worked on.
    pub(crate) running: u32,
    /// By the order that a request named.
    pub(crate) orders: BTreeMap<String, Account>,
}

/// What the origin did for one order.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    /// How many requests arrived.
    pub(crate) requests: u32,
    /// What was charged, in order of time.
    pub(crate) charges: Vec<Charge>,
    /// How many times the connection broke after the charge.
    pub(crate) replies_lost: u32,
    /// How many times the connection broke before the charge.
    pub(crate) dropped: u32,
}

/// Money taken from a card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    /// Its identity, a fresh one for every charge.
    #[serde(rename = "charge")]
    pub(crate) id: String,
    /// What it was for, in the words of the client.
    pub(crate) order: String,
    /// In cents.
    pub(crate) amount: u64,
}

/// What the origin says on standard output once it listens, before its address.
pub(crate) const LISTENING: &str = "listening on ";

/// Serves until it is interrupted, or until standard input ends if that was asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(listen(args))
}

/// How long a charge takes.
const WORK: Range<Duration> = Duration::from_millis(15)..Duration::from_millis(60);
/// How long a slow answer takes after the charge. The clients of the storm wait less.
const SLOW: Range<Duration> = Duration::from_millis(450)..Duration::from_millis(700);
const CONTENT_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
struct Origin {
    seed: u64,
    books: Mutex<Books>,
}

#[derive(Default, Debug)]
struct Books {
    faults: Faults,
    ledger: Ledger,
    charges: u64,
}

/// What a client wants charged. The card is not kept.
#[derive(Deserialize)]
struct Purchase {
    order: String,
    amount: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Fine,
    Slow,
    ReplyLost,
    Dropped,
}

/// Breaks the connection: hyper answers an error of the service by closing it.
#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection breaks here, on purpose")
    }
}

impl std::error::Error for Broken {}

impl Faults {
    fn fate(self, dice: &mut Dice) -> Fate {
        let roll = dice.below(1000);
        let slow = self.slow_per_mille;
        let lost = slow.saturating_add(self.reply_lost_per_mille);
        let dropped = lost.saturating_add(self.dropped_per_mille);
        match roll {
            roll if roll < slow => Fate::Slow,
            roll if roll < lost => Fate::ReplyLost,
            roll if roll < dropped => Fate::Dropped,
            _ => Fate::Fine,
        }
    }
}

async fn listen(args: &Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("{LISTENING}{}", listener.local_addr()?);
    let origin =
        Arc::new(Origin { seed: args.seed, books: Mutex::new(Books { faults: args.faults, ..Books::default() }) });
    let (ended, end) = tokio::sync::oneshot::channel();
    if args.until_input_ends {
        std::thread::spawn(move || {
            // An error and the end of the input mean the same: nobody is there any more.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = ended.send(());
        });
    }
    tokio::select! {
        served = origin.serve(listener) => served,
        Ok(()) = end => Ok(()),
    }
}

impl Origin {
    async fn serve(self: Arc<Origin>, listener: TcpListener) -> anyhow::Result<()> {
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept connections")?;
            tokio::spawn(Arc::clone(&self).converse(stream));
        }
    }

    async fn converse(self: Arc<Origin>, stream: TcpStream) {
        // Small answers must not wait for the client's acknowledgement of earlier ones.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| Arc::clone(&self).answer(request));
        // It ends with an error whenever a connection breaks, here on purpose and there by a client that left.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(self: Arc<Origin>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Broken> {
        let (head, content) = request.into_parts();
        let Ok(content) = Limited::new(content, CONTENT_BYTES_MAX).collect().await else {
            return Ok(complaint(StatusCode::BAD_REQUEST, "the content is too large or broke off"));
        };
        let content = content.to_bytes();
        let path = head.uri.path();
        match (&head.method, path) {
            (&Method::POST, "/charges") => match serde_json::from_slice(&content) {
                Ok(purchase) => self.charge(purchase).await,
                Err(error) => Ok(complaint(StatusCode::BAD_REQUEST, &error.to_string())),
            },
            (&Method::GET, "/ledger") => Ok(json(StatusCode::OK, &self.books.lock().ledger)),
            (&Method::PUT, "/faults") => match serde_json::from_slice(&content) {
                Ok(faults) => {
                    self.books.lock().faults = faults;
                    Ok(json(StatusCode::OK, &faults))
                }
                Err(error) => Ok(complaint(StatusCode::BAD_REQUEST, &error.to_string())),
            },
            (&Method::GET, path) if path.starts_with("/ledger/") => {
                let account = self.books.lock().ledger.orders.get(&path["/ledger/".len()..]).cloned();
                Ok(json(StatusCode::OK, &account.unwrap_or_default()))
            }
            _ => Ok(complaint(StatusCode::NOT_FOUND, "there are POST /charges, GET /ledger and PUT /faults")),
        }
    }

    async fn charge(self: Arc<Origin>, purchase: Purchase) -> Result<Response<Full<Bytes>>, Broken> {
        // A client that hangs up stops this future, but no payment processor stops because a client hung up.
        let work = tokio::spawn(self.work(purchase));
        work.await.map_err(|_| Broken)?.map(|charge| json(StatusCode::CREATED, &charge))
    }

    async fn work(self: Arc<Origin>, purchase: Purchase) -> Result<Charge, Broken> {
        let (fate, mut dice) = self.arrived(&purchase.order);
        tokio::time::sleep(dice.between(&WORK)).await;
        let charged = match fate {
            Fate::Fine | Fate::Slow => Ok(self.enter(&purchase)),
            Fate::ReplyLost => {
                self.enter(&purchase);
                self.books.lock().account(&purchase.order).replies_lost += 1;
                Err(Broken)
            }
            Fate::Dropped => {
                self.books.lock().account(&purchase.order).dropped += 1;
                Err(Broken)
            }
        };
        if fate == Fate::Slow {
            tokio::time::sleep(dice.between(&SLOW)).await;
        }
        self.books.lock().ledger.running -= 1;
        charged
    }

    /// The fate of a request depends on the order and on how many requests for it came before, and on nothing else.
    fn arrived(&self, order: &str) -> (Fate, Dice) {
        let mut books = self.books.lock();
        books.ledger.running += 1;
        let account = books.account(order);
        let mut dice = Dice::new(self.seed, order, account.requests.into());
        account.requests += 1;
        (books.faults.fate(&mut dice), dice)
    }

    fn enter(&self, purchase: &Purchase) -> Charge {
        let mut books = self.books.lock();
        books.charges += 1;
        let charge =
            Charge { id: format!("ch_{:04}", books.charges), order: purchase.order.clone(), amount: purchase.amount };
        books.account(&purchase.order).charges.push(charge.clone());
        charge
    }
}

impl Books {
    fn account(&mut self, order: &str) -> &mut Account {
        self.ledger.orders.entry(order.to_owned()).or_default()
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let mut content = serde_json::to_vec(value).expect("strings and numbers always serialise");
    content.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(content)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn complaint(status: StatusCode, error: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": error }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_as_often_as_they_are_asked_for() {
        let faults = Faults { slow_per_mille: 100, reply_lost_per_mille: 50, dropped_per_mille: 20 };
        let count = |wanted: Fate| {
            let fate = |nth| faults.fate(&mut Dice::new(7, "order", nth));
            (0..10_000).filter(|nth| fate(*nth) == wanted).count()
        };
        let near = |wanted: Fate, expected: usize| {
            let got = count(wanted);
            assert!(got.abs_diff(expected) < expected / 5, "{wanted:?}: {got} of 10000, expected about {expected}");
        };
        near(Fate::Slow, 1000);
        near(Fate::ReplyLost, 500);
        near(Fate::Dropped, 200);
        near(Fate::Fine, 8300);
    }

    #[tokio::test(start_paused = true)]
    async fn charges_every_time_and_books_what_it_did_even_when_it_says_nothing() {
        let purchase = || Purchase { order: "tea".to_owned(), amount: 300 };
        let origin = |faults| Arc::new(Origin { seed: 7, books: Mutex::new(Books { faults, ..Books::default() }) });
        let after_two = async |faults| {
            let origin = origin(faults);
            let answers = [Arc::clone(&origin).work(purchase()).await, Arc::clone(&origin).work(purchase()).await];
            let answered = answers.iter().filter(|answer| answer.is_ok()).count();
            let account = origin.books.lock().account("tea").clone();
            (answered, account.requests, account.charges.len(), account.replies_lost, account.dropped)
        };
        assert_eq!(after_two(Faults::default()).await, (2, 2, 2, 0, 0));
        assert_eq!(after_two(Faults { slow_per_mille: 1000, ..Faults::default() }).await, (2, 2, 2, 0, 0));
        assert_eq!(after_two(Faults { reply_lost_per_mille: 1000, ..Faults::default() }).await, (0, 2, 2, 2, 0));
        assert_eq!(after_two(Faults { dropped_per_mille: 1000, ..Faults::default() }).await, (0, 2, 0, 0, 2));
    }
}
