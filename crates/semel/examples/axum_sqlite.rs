//! An axum service whose orders and idempotency records commit together, on SQLite.
//!
//! ```text
//! cargo run -p semel --example axum_sqlite --features sqlite
//! curl -i http://127.0.0.1:4610/orders -H 'Idempotency-Key: k1' -d 'two tickets'    # 201, once
//! curl -i http://127.0.0.1:4610/orders -H 'Idempotency-Key: k1' -d 'two tickets'    # the same reply, replayed
//! ```

use std::{error::Error, path::Path, time::Duration};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::{Request, Response};
use semel::{
    Body,
    core::policy::{Policy, Preset},
    secret_in,
    transaction::{Transactional, Work, derived_key, migrate},
};
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};

/// Orders, and leaves a charge to be made after the commit: a call from here could not be rolled back.
fn order<'t>(tx: &'t mut Transaction<'static, Sqlite>, request: &'t Request<Bytes>) -> Work<'t> {
    Box::pin(async move {
        let what = std::str::from_utf8(request.body())?;
        if what.trim().is_empty() {
            // Not a success, so whatever was written is rolled back and the key is free.
            return Ok(Response::builder().status(422).body("say what you order\n".into())?);
        }
        let id: i64 = sqlx::query_scalar("INSERT INTO orders (what) VALUES (?1) RETURNING id")
            .bind(what)
            .fetch_one(&mut **tx)
            .await?;
        sqlx::query("INSERT INTO charges_to_make (key, order_id) VALUES (?1, ?2)")
            .bind(derived_key(request, "charge"))
            .bind(id)
            .execute(&mut **tx)
            .await?;
        Ok(Response::builder().status(201).header("location", format!("/orders/{id}")).body("ordered\n".into())?)
    })
}

async fn orders(State(semel): State<Transactional<Sqlite>>, request: axum::extract::Request) -> Response<Body> {
    semel.handle(request, order).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = SqliteConnectOptions::new()
        .filename("orders.sqlite")
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(5));
    let pool = SqlitePool::connect_with(options).await?;
    migrate(&pool).await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, what TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS charges_to_make (key TEXT PRIMARY KEY, order_id INTEGER NOT NULL)",
    )
    .execute(&pool)
    .await?;

    let semel = Transactional::<Sqlite>::new(Policy::preset(Preset::Ietf), secret_in(Path::new("semel-data"))?, pool);
    let sweeping = semel.clone();
    tokio::spawn(async move { sweeping.housekeeping().await });

    let app = Router::new().route("/orders", post(orders)).with_state(semel);
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:4610").await?, app).await?;
    Ok(())
}
