//! How the server finds rows: by the primary key, however many epochs there are.

use std::{fmt::Write as _, time::Duration};

use semel::{
    store::{Store as _, postgres::Options},
    testkit::sample::{completed, in_flight, key, put, remove, stamp},
};

use super::world::{SESSIONS, World, claim_and_settle};

#[tokio::test]
async fn with_six_epochs_nothing_reads_a_partition_from_end_to_end() {
    // A partition is new each period, and full before the server has counted what is in it.
    for (prepared, analysed) in [(true, true), (false, true), (true, false), (false, false)] {
        let world = World::with(|options| Options { period: Duration::ZERO, prepared, ..options }).await;
        let store = world.open().await;
        for epoch in 1..=6 {
            // Rows that live, so that no epoch is given back.
            let mut rows = String::from("SELECT 1;");
            let _ = write!(
                rows,
                "INSERT INTO semel_records SELECT decode(md5(random()::text) || md5(random()::text), 'hex'), {epoch},
                    '\\x00', 1700000000000, 9000000000000, 3, decode(repeat('00', 200), 'hex') FROM generate_series(1, 20000)"
            );
            world.sql(&rows);
            if epoch < 6 {
                store.sweep(1).await.unwrap();
            }
        }
        if analysed {
            world.sql("ANALYZE");
        }
        let seq_scans = || {
            world.sql(
                "SELECT pg_stat_clear_snapshot();
                SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_user_tables WHERE relname ~ '^semel_records'",
            )
        };
        // A session tells what it did at most once a second, and when it ends.
        let store = {
            drop(store);
            super::world::until("its sessions are over", async || world.sql(SESSIONS) == "0").await;
            world.open().await
        };
        let before = seq_scans();
        for n in 0..30 {
            claim_and_settle(&store, n).await;
            store.swap(&key(n), &put(None, stamp(n, 5), in_flight(n))).await.unwrap();
            store.swap(&key(n), &put(Some(stamp(n, 2)), stamp(n, 3), completed(n, "again"))).await.unwrap();
            store.load(&key(n)).await.unwrap();
            store.swap(&key(n), &remove(stamp(n, 3))).await.unwrap();
        }
        drop(store);
        super::world::until("its sessions are over", async || world.sql(SESSIONS) == "0").await;
        assert_eq!(seq_scans(), before, "prepared: {prepared}, analysed: {analysed}");
        let scans = world.sql("SELECT sum(idx_scan) FROM pg_stat_user_tables WHERE relname ~ '^semel_records'");
        assert!(scans.parse::<u64>().unwrap() > 30 * 5 * 6, "index scans are counted: {scans}");
    }
}
