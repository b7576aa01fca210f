//! Transactional mode on SQLite and on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test that panics says what failed")]

/// One test per database for each of these.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Sqlite>().await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Postgres>().await; })*
        }
    };
}

mod both;
mod crash;
mod guards;
mod postgres;
mod proxy;
mod releases;
mod sqlite;
mod world;
