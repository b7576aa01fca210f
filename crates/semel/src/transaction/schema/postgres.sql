-- Semel's tables for the transactional mode on PostgreSQL, version 1. Applying this again changes nothing.
-- Copy it into your own migrations, or call semel::transaction::migrate.

CREATE TABLE IF NOT EXISTS semel_schema (
    version INTEGER NOT NULL PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS semel_records (
    record_key    BYTEA  NOT NULL PRIMARY KEY, -- keyed digest of scope and idempotency key, 32 bytes
    stamp         BYTEA  NOT NULL,             -- who wrote it: exchange (16 bytes), write (2 bytes), big endian
    written_at_ms BIGINT NOT NULL,             -- milliseconds since the Unix epoch, by this database's clock
    expires_at_ms BIGINT NOT NULL,             -- from when it counts as never seen
    trims_at_ms   BIGINT,                      -- from when its content is not replayed any more
    record        BYTEA  NOT NULL              -- semel_core::record::Record
);

CREATE INDEX IF NOT EXISTS semel_records_expires ON semel_records (expires_at_ms);
CREATE INDEX IF NOT EXISTS semel_records_trims ON semel_records (trims_at_ms) WHERE trims_at_ms IS NOT NULL;

INSERT INTO semel_schema (version) VALUES (1) ON CONFLICT DO NOTHING;
