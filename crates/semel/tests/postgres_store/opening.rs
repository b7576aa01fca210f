//! temp
use std::time::Instant;
use super::world::{World, claim_and_settle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency() {
    let world = World::new().await;
    let t = Instant::now();
    let store = world.open().await;
    eprintln!("open {:?}", t.elapsed());
    for n in 0..20 { claim_and_settle(&store, n).await; }
    let t = Instant::now();
    for n in 20..120 { claim_and_settle(&store, n).await; }
    eprintln!("pair {:?}", t.elapsed() / 100);
    let t = Instant::now();
    use semel::{store::Store as _, testkit::sample::key};
    for n in 20..120 { store.load(&key(n)).await.unwrap(); }
    eprintln!("load {:?}", t.elapsed() / 100);
    let t = Instant::now();
    let tasks: Vec<_> = (0..128u64).map(|c| { let store = store.clone(); tokio::spawn(async move { for n in 0..20 { claim_and_settle(&store, 1000 + c * 1000 + n).await; } }) }).collect();
    for task in tasks { task.await.unwrap(); }
    eprintln!("pairs/s {}", 128.0 * 20.0 / t.elapsed().as_secs_f64());
    println!("{}", world.sql("select relname, n_tup_ins, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables"));
}
