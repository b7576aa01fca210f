//! Clients that retry, and a sandbox that is killed again and again: claim, order and debit commit together or not at all.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use crate::{
    harness::{Sandbox, for_each, json, try_send, within},
    skeleton::{balanced, order},
};

const VENDOR: &str = "yonne";
const CLIENTS: u64 = 8;
/// Fewer orders that got through would prove nothing.
const DONE_MIN: usize = 60;

for_each!(sqlite, postgres => async fn q27_kills_at_any_moment_leave_one_order_and_one_debit_per_key(sandbox: Sandbox) {
    let mut sandbox = sandbox;
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // Starting takes longer here than in the gateway's kill loop, so a third of its kills.
    let kills = from_env("SEMEL_KILLS").unwrap_or(30) / 3;
    let seed = from_env("SEMEL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    println!("SEMEL_SEED={seed} SEMEL_KILLS={}", kills * 3);
    sandbox.set(json!({ "balance": 1_000_000_000_000_u64 })).await;
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(live(sandbox.addr, client, Arc::clone(&done), Arc::clone(&stop))))
        .collect();
    let mut random = seed;
    let mut killed = 0;
    let mut log = String::new();
    while killed < kills || done.load(Ordering::SeqCst) < DONE_MIN {
        // This pause is the load under which it dies, and no waiting for something.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis(20 + (random >> 33) % 200)).await;
        sandbox.kill9();
        killed += 1;
        log.push_str(&sandbox.log());
        sandbox.start_again().await;
    }
    stop.store(true, Ordering::SeqCst);
    let ledger = sandbox.ledger().await;
    for client in clients {
        for (key, told) in within("the clients end", client).await.expect("no client was lied to") {
            // The ledger may be older than the last answers; asking again is a replay either way.
            let again = json(&sandbox.send(&order(&key)).await);
            assert_eq!(again["order_id"].as_str(), Some(told.as_str()), "{key} was told another order before");
        }
    }
    balanced(&ledger);
    let ledger = sandbox.ledger().await;
    balanced(&ledger);
    let records = ledger["records"].as_array().unwrap().len();
    let wallet = sandbox.get("/api/v1/external/wallet", &[("X-API-Key", "yonne_live_sandbox_1")]).await;
    let left = json(&wallet)["balance"].as_u64().expect("a balance");
    assert_eq!(left, 1_000_000_000_000 - 7_350 * records as u64, "the wallet paid for every order and nothing else");
    println!("{killed} kills, {records} orders");
    assert!(!log.contains("panicked") && !sandbox.log().contains("panicked"), "{log}");
});

/// Orders again and again, each until it is told that it is done; gives keys with the orders that they were told.
async fn live(addr: SocketAddr, client: u64, done: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for nth in 0.. {
        let key = format!("client{client}-order{nth}");
        loop {
            match try_send(addr, &order(&key)).await {
                Ok(response) if response.status == 200 => {
                    let id = json(&response)["order_id"].as_str().expect("an order").to_owned();
                    told.push((key, id));
                    done.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                // Down, or dying: the same key again.
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        if stop.load(Ordering::SeqCst) {
            return told;
        }
    }
    told
}
