use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use maud::Markup;
use semel::{
    Semel,
    store::{
        Put, RecordKey, Store, Swap, Swapped,
        embedded::{EmbeddedStore, Options},
    },
};
use semel_core::{
    fingerprint::Fingerprint,
    policy::{Policy, Preset},
    record::{About, ExchangeId, Kept, Phase, Record, Stamp},
    scope::Secret,
};
use tokio::task::JoinSet;

use super::{
    Console, Transport, overview,
    page::{self, Fields, Place},
    records,
    session::{Asks, Operator, Sessions},
};
use crate::{
    config::{Config, Flags},
    serve::{
        operators::{
            Operators, Which,
            recent::Recent,
            row::{RecordName, Row, Seconds, StampText, Standing},
        },
        reload::{CurrentTerms, Terms},
    },
};

/// The slowest that a page may be.
const PAGE_MAX: Duration = Duration::from_millis(100);
/// Every how-manieth record is unknown.
const UNKNOWN_OF: u64 = 1_000;
/// Swaps at once while a store is filled.
const FILLING_AT_ONCE: u64 = 1_024;

const EVIL: &str = "\"><script>alert(1)</script>";

fn no_script(markup: &Markup) {
    assert!(!markup.0.contains("<script>"), "{}", markup.0);
}

#[test]
fn e11_what_others_wrote_is_shown_as_text() {
    let stamp = Stamp { exchange: ExchangeId(1), write: 1 };
    let row = Row {
        record: RecordName(RecordKey::from_bytes([1; RecordKey::LEN])),
        phase: Standing::Unknown,
        route: Some(EVIL.to_owned()),
        principal: Some(EVIL.to_owned()),
        attempt: 1,
        age: Seconds(Duration::from_secs(1)),
        left: Seconds(Duration::from_secs(1)),
        exchange: stamp.exchange,
        status: None,
        reply_kept: false,
        guarded: false,
        trace: Some(EVIL.to_owned()),
        stamp: StampText(stamp),
    };
    no_script(&records::facts(&row));
    no_script(&records::unknown_table(&[row]));
    let sessions = Sessions::default();
    let id = sessions.begin(EVIL.to_owned(), Instant::now());
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::COOKIE, format!("semel-console={id}").parse().expect("a cookie"));
    let operator: Operator = sessions.find(&headers, Asks::ForAPage, Instant::now()).expect("a session");
    let page = page::page(&operator, Place::Overview, EVIL, &maud::html! {});
    assert!(page.0.contains("&lt;script&gt;"), "it is there, as text");
    no_script(&page);
}

fn key(number: u64) -> RecordKey {
    let mut bytes = [0; RecordKey::LEN];
    let digest = blake3::hash(&number.to_le_bytes());
    bytes.copy_from_slice(&digest.as_bytes()[..RecordKey::LEN]);
    RecordKey::from_bytes(bytes)
}

fn record(number: u64) -> Swap {
    let retention = Duration::from_hours(1);
    let phase = if number.is_multiple_of(UNKNOWN_OF) {
        Phase::Unknown
    } else {
        Phase::Completed { kept: Kept::Omitted { status: 201 }, replay_for: retention }
    };
    let about = About { route: "/orders".to_owned(), principal: [7; 8], trace: None };
    let record = Record {
        fingerprint: Fingerprint::from_bytes([1; Fingerprint::LEN]),
        attempt: 1,
        phase,
        retention,
        guard: None,
        about: Some(Arc::new(about)),
    };
    let stamp = Stamp { exchange: ExchangeId(u128::from(number) + 1), write: 1 };
    Swap { expect: None, put: Some(Put { stamp, record }) }
}

/// Records of which one in [`UNKNOWN_OF`] is unknown.
async fn fill(store: &Arc<dyn Store>, records: u64) {
    let mut filling = JoinSet::new();
    for first in 0..FILLING_AT_ONCE {
        let store = Arc::clone(store);
        filling.spawn(async move {
            let mut number = first;
            while number < records {
                let swapped = store.swap(&key(number), &record(number)).await.expect("the store works");
                assert!(matches!(swapped, Swapped::Done), "{swapped:?}");
                number += FILLING_AT_ONCE;
            }
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled.expect("it does not panic");
    }
}

/// The time of the fastest of a few: a machine that does something else meanwhile says nothing of a page.
async fn fastest<T>(name: &str, mut page: impl AsyncFnMut() -> T) -> T {
    let mut best = None;
    for _ in 0..5 {
        let began = Instant::now();
        let made = page().await;
        let took = began.elapsed();
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, made));
        }
    }
    let (took, made) = best.expect("it was made");
    println!("{name}: {took:?}");
    assert!(took < PAGE_MAX, "{name} took {took:?}");
    made
}

#[tokio::test]
async fn e11_pages_of_many_records_are_quick() {
    let count = std::env::var("SEMEL_CONSOLE_RECORDS").map_or(20_000, |count| count.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let (store, _) = EmbeddedStore::open(folder.path(), Options::default()).expect("a store");
    let store: Arc<dyn Store> = Arc::new(store);
    fill(&store, count).await;
    let semel = Semel::new(Policy::preset(Preset::Ietf), Secret::from_bytes([1; 32]), store);
    let gateway = Config::load(None, Flags::default()).expect("nothing is a configuration").gateway;
    let terms = CurrentTerms::new(Terms::new(semel, gateway));
    let console = Console::new(Operators::new(terms, Arc::new(Recent::default()), None), None, Transport::Plain);

    let now = fastest("overview", async || console.now().await).await.0;
    let unknown = count.div_ceil(UNKNOWN_OF);
    let counted = u64::from(overview::COUNTED_MAX);
    let told = if unknown < counted { format!(">{unknown}<") } else { format!(">{counted} or more<") };
    assert!(now.contains(&told), "{told} in {now}");
    let none = Fields::default();
    let list = fastest("unknown", async || console.unknown_list(&none).await).await.expect("a list").0;
    assert_eq!(list.matches("data-row").count() as u64, unknown.min(50));
    let fields = Fields::read(b"principal=ffffffffffffffff&older_than=1h").expect("a query");
    let list = fastest("unknown, filtered", async || console.unknown_list(&fields).await).await.expect("a list").0;
    assert_eq!(list.matches("data-row").count(), 0);
    for which in [Which::Record(key(7)), Which::Exchange(ExchangeId(u128::from(UNKNOWN_OF) + 1))] {
        let shown = fastest("record", async || console.operators.show(&which).await).await.expect("a record");
        no_script(&console.record_page(&shown));
    }
}
