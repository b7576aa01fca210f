//! All SQL of the PostgreSQL store.
//!
//! Every statement is a transaction of its own at `READ COMMITTED`, whatever the session's default: nothing here relies on
//! session state, so that a pooler may stand in between.
//!
//! # One row per key
//!
//! Records lie in partitions, one per epoch, and are dropped by the partition; so the primary key `(key, epoch)` alone
//! does not keep a key from having two rows. These rules do:
//!
//! 1. Rows are put only into the current epoch `E`: by a statement whose snapshot shows `E` in `semel_meta`, and which
//!    holds that row locked `FOR SHARE`, still showing `E`, when it commits.
//! 2. `E + 1` is opened by updating that row, which waits for those who hold it.
//!
//! So whoever put a row into an older epoch had committed before `E` was opened, and a snapshot that shows `E` shows all
//! that they put. If it shows no row of a key in an older epoch, there is none and will be none; and within `E` the
//! primary key tells twins apart. What is moved out of an old epoch is deleted there and put into `E` by one statement.

/// The version of the tables; higher by one with each change of [`MIGRATION`].
pub(super) const VERSION: u32 = 1;

/// Now, in milliseconds since the Unix epoch: the server's clock, or the parameter where a test owns the time.
macro_rules! now_ms {
    ($parameter:literal) => {
        concat!("coalesce($", $parameter, "::bigint, floor(date_part('epoch', clock_timestamp()) * 1000)::bigint)")
    };
}

/// Room for the settle beside the claim that it replaces (a HOT update writes no index).
macro_rules! fillfactor {
    () => {
        "40"
    };
}

/// Makes the tables, or leaves those that are there.
pub(super) const MIGRATION: &str = concat!(
    "\
BEGIN;
CREATE TABLE IF NOT EXISTS semel_meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    epoch integer NOT NULL,
    secret_check bytea
);
CREATE TABLE IF NOT EXISTS semel_epochs (
    epoch integer PRIMARY KEY,
    opened_ms bigint NOT NULL,
    -- Not looked at for what is past before then.
    look_ms bigint
);
CREATE TABLE IF NOT EXISTS semel_records (
    key bytea NOT NULL,
    epoch integer NOT NULL,
    stamp bytea NOT NULL,
    written_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    phase smallint NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (key, epoch)
) PARTITION BY LIST (epoch);
-- Only when they are new: the first epoch of a store that has been used is gone for good.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM semel_meta) THEN
        CREATE TABLE semel_records_1 PARTITION OF semel_records FOR VALUES IN (1) WITH (fillfactor = ",
    fillfactor!(),
    ");
        INSERT INTO semel_epochs VALUES (1, floor(date_part('epoch', clock_timestamp()) * 1000)::bigint);
        INSERT INTO semel_meta (version, epoch) VALUES (1, 1);
    END IF;
END $$;
COMMIT;
"
);

/// A batch of swaps of different keys, in ascending order of key so that two batches wait for each other in one order.
///
/// A key has one row, and `LIMIT` tells the planner about as much (2, so that a second one is noticed): in a partition that
/// the server has not analysed yet it would expect thousands, and read it from end to end to join them. `ORDER BY` keeps it
/// to the index.
///
/// `seen` is what the snapshot shows, and what is answered unless a write below succeeds. A write that meets another
/// row than the one seen changes nothing: such a swap is asked again, with a new snapshot.
pub(super) const SWAP: &str = concat!(
    "\
WITH meta AS MATERIALIZED (SELECT epoch FROM semel_meta),
seen AS MATERIALIZED (
    SELECT a.n, a.key, a.expect, a.put, a.retention_ms, a.phase, a.record,
        r.epoch, r.stamp, r.record AS was,
        r.expires_ms > c.now_ms AS live, greatest(c.now_ms - r.written_ms, 0) AS age_ms
    -- Also bounds every wait for a row that somebody holds, in this transaction only.
    FROM (SELECT set_config('lock_timeout', $1, true) AS waits, ",
    now_ms!("2"),
    " AS now_ms OFFSET 0) c
    CROSS JOIN unnest($3::bytea[], $4::bytea[], $5::bytea[], $6::bigint[], $7::smallint[], $8::bytea[])
        WITH ORDINALITY AS a(key, expect, put, retention_ms, phase, record, n)
    LEFT JOIN LATERAL (SELECT * FROM semel_records r WHERE r.key = a.key ORDER BY r.epoch DESC LIMIT 2) r ON true
    WHERE c.waits IS NOT NULL
),
-- In place: what replaces the record that was expected, or a record of this epoch that is past.
changed AS (
    UPDATE semel_records r
    SET stamp = s.put, written_ms = ",
    now_ms!("2"),
    ", expires_ms = ",
    now_ms!("2"),
    " + s.retention_ms,
        phase = s.phase, record = s.record
    FROM seen s
    WHERE r.key = s.key AND r.epoch = s.epoch AND r.stamp = s.stamp AND s.put IS NOT NULL
        AND CASE WHEN s.expect IS NULL
            THEN r.expires_ms <= ",
    now_ms!("2"),
    " AND r.epoch = (SELECT epoch FROM meta)
            ELSE s.expect = r.stamp AND s.put <> r.stamp AND r.expires_ms > ",
    now_ms!("2"),
    " END
    RETURNING r.key
),
-- What was to be removed; and records of older epochs that are past, to be put anew: in an old epoch nothing that is
-- past ever lives again, so what is past there can be dropped without looking twice.
removed AS (
    DELETE FROM semel_records r
    USING seen s
    WHERE r.key = s.key AND r.epoch = s.epoch AND r.stamp = s.stamp
        AND CASE WHEN s.expect IS NULL
            THEN s.put IS NOT NULL AND r.expires_ms <= ",
    now_ms!("2"),
    " AND r.epoch <> (SELECT epoch FROM meta)
            ELSE s.put IS NULL AND s.expect = r.stamp AND r.expires_ms > ",
    now_ms!("2"),
    " END
    RETURNING r.key
),
fresh AS MATERIALIZED (
    SELECT s.* FROM seen s
    WHERE s.expect IS NULL AND s.put IS NOT NULL
        AND (s.epoch IS NULL OR s.key IN (SELECT key FROM removed))
),
added AS (
    INSERT INTO semel_records (key, epoch, stamp, written_ms, expires_ms, phase, record)
    SELECT f.key, (SELECT epoch FROM meta), f.put, ",
    now_ms!("2"),
    ", ",
    now_ms!("2"),
    " + f.retention_ms, f.phase, f.record
    FROM fresh f
    -- CASE, so that only a batch that puts something new locks the row.
    WHERE CASE WHEN f.n IS NOT NULL THEN (SELECT epoch FROM semel_meta FOR SHARE) END = (SELECT epoch FROM meta)
    ORDER BY f.n
    ON CONFLICT DO NOTHING
    RETURNING key
)
SELECT s.n, s.live, s.stamp, s.age_ms,
    s.key IN (SELECT key FROM changed) OR s.key IN (SELECT key FROM added)
        OR s.put IS NULL AND s.key IN (SELECT key FROM removed) AS done,
    CASE WHEN s.live AND s.stamp IS DISTINCT FROM s.put AND s.stamp IS DISTINCT FROM s.expect THEN s.was END AS record
FROM seen s
"
);

/// A batch of loads.
pub(super) const LOAD: &str = concat!(
    "\
SELECT a.n, r.stamp, greatest(c.now_ms - r.written_ms, 0) AS age_ms, r.record
FROM (SELECT ",
    now_ms!("1"),
    " AS now_ms OFFSET 0) c
CROSS JOIN unnest($2::bytea[]) WITH ORDINALITY AS a(key, n)
CROSS JOIN LATERAL (SELECT * FROM semel_records r WHERE r.key = a.key ORDER BY r.epoch DESC LIMIT 2) r
WHERE r.expires_ms > c.now_ms
"
);

/// A page of records in a phase. Reads what is before it in the order of keys: for operators.
pub(super) const SCAN: &str = concat!(
    "\
SELECT r.key, r.stamp, greatest(c.now_ms - r.written_ms, 0) AS age_ms, r.record
FROM (SELECT ",
    now_ms!("1"),
    " AS now_ms OFFSET 0) c
CROSS JOIN semel_records r
WHERE r.phase = $2 AND ($3::bytea IS NULL OR r.key > $3) AND r.expires_ms > c.now_ms
ORDER BY r.key
LIMIT $4
"
);

/// What decides whether a server may keep records.
pub(super) const SETTINGS: &str = "\
SELECT current_setting('server_version_num')::integer, current_setting('server_version'), pg_is_in_recovery(),
    current_setting('default_transaction_read_only'), current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
    to_regclass('semel_meta') IS NOT NULL
";

pub(super) const META: &str = "SELECT version, epoch FROM semel_meta";

/// The first secret counts.
pub(super) const AGREE: &str = "\
WITH first AS (UPDATE semel_meta SET secret_check = $1 WHERE secret_check IS NULL RETURNING secret_check)
SELECT secret_check FROM first
UNION ALL SELECT secret_check FROM semel_meta WHERE secret_check IS NOT NULL
";

/// The epochs in ascending order, whether each is the current, and the time now.
pub(super) const EPOCHS: &str = concat!(
    "\
SELECT e.epoch, e.opened_ms, e.look_ms, e.epoch >= m.epoch AS current, ",
    now_ms!("1"),
    " AS now_ms
FROM semel_epochs e, semel_meta m ORDER BY e.epoch
"
);

/// Makes the partition of an epoch, before the epoch is opened.
pub(super) fn make_partition(epoch: i32) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS semel_records_{epoch} PARTITION OF semel_records FOR VALUES IN ({epoch}) \
         WITH (fillfactor = {})",
        fillfactor!()
    )
}

/// Opens the epoch after `$1`, unless somebody has.
pub(super) const OPEN_EPOCH: &str = concat!(
    "\
WITH opened AS (UPDATE semel_meta SET epoch = $1 + 1 WHERE epoch = $1 RETURNING epoch)
INSERT INTO semel_epochs (epoch, opened_ms) SELECT epoch, ",
    now_ms!("2"),
    " FROM opened ON CONFLICT DO NOTHING
"
);

/// How many rows an epoch has, how many of them count after `$1`, and by when 98 of 100 do not count any more, from a
/// sample of `$2` per cent.
pub(super) fn look_at(epoch: i32) -> String {
    format!(
        "SELECT count(*), count(*) FILTER (WHERE expires_ms > $1),
            (SELECT percentile_disc(0.98) WITHIN GROUP (ORDER BY expires_ms)
                FROM semel_records_{epoch} TABLESAMPLE SYSTEM ($2))
        FROM semel_records_{epoch}"
    )
}

pub(super) fn pages_of(epoch: i32) -> String {
    format!("SELECT pg_relation_size(to_regclass('semel_records_{epoch}')) / 8192")
}

pub(super) const LOOK_AGAIN: &str = "UPDATE semel_epochs SET look_ms = $2 WHERE epoch = $1";

/// Moves some of what is left of an old epoch to the current one.
pub(super) fn move_stragglers(epoch: i32) -> String {
    format!(
        "WITH meta AS MATERIALIZED (SELECT epoch FROM semel_meta),
        leftover AS MATERIALIZED (
            SELECT key FROM semel_records_{epoch} WHERE expires_ms > $1 ORDER BY key LIMIT $2 FOR UPDATE SKIP LOCKED
        ),
        moved AS (
            DELETE FROM semel_records r USING leftover s WHERE r.key = s.key AND r.epoch = {epoch}
                AND (SELECT epoch FROM semel_meta FOR SHARE) = (SELECT epoch FROM meta)
            RETURNING r.*
        )
        INSERT INTO semel_records (key, epoch, stamp, written_ms, expires_ms, phase, record)
        SELECT m.key, (SELECT epoch FROM meta), m.stamp, m.written_ms, m.expires_ms, m.phase, m.record FROM moved m
        ORDER BY m.key
        RETURNING 1"
    )
}

pub(super) fn drop_partition(epoch: i32) -> String {
    format!("DROP TABLE IF EXISTS semel_records_{epoch}; DELETE FROM semel_epochs WHERE epoch = {epoch};")
}

/// Counts what lives. Reads every record's fixed columns.
pub(super) const STATS: &str = concat!(
    "\
SELECT count(*) FILTER (WHERE r.phase = 1) AS in_flight, count(*) FILTER (WHERE r.phase = 2) AS unknown,
    count(*) FILTER (WHERE r.phase = 3) AS completed, count(*) FILTER (WHERE r.phase = 4) AS held,
    max(greatest(c.now_ms - r.written_ms, 0)) FILTER (WHERE r.phase = 2) AS oldest_unknown_ms,
    (SELECT coalesce(sum(pg_total_relation_size(i.inhrelid)), 0)::bigint FROM pg_inherits i
        WHERE i.inhparent = 'semel_records'::regclass) AS bytes,
    (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = 'semel_records'::regclass) AS partitions,
    (SELECT epoch FROM semel_meta)::bigint AS epoch
FROM (SELECT ",
    now_ms!("1"),
    " AS now_ms OFFSET 0) c
LEFT JOIN semel_records r ON r.expires_ms > c.now_ms
"
);
