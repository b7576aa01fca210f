//! An axum service whose orders and idempotency records commit together, on PostgreSQL.
//!
//! ```text
//! DATABASE_URL=postgres://localhost/shop cargo run -p semel --example axum_postgres --features postgres
//! curl -i http://127.0.0.1:4611/orders -H 'Idempotency-Key: k1' -d 'two tickets'    # 201, once
//! curl -i http://127.0.0.1:4611/orders -H 'Idempotency-Key: k1' -d 'two tickets'    # the same reply, replayed
//! ```

use std::{error::Error, path::Path};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::{Request, Response};
use semel::{
    Body,
    core::policy::{Policy, Preset},
    secret_in,
    transaction::{Transactional, Work, derived_key, migrate},
};
use sqlx::{PgPool, Postgres, Transaction};

/// Orders, and leaves a charge to be made after the commit: a call from here could not be rolled back.
fn order<'t>(tx: &'t mut Transaction<'static, Postgres>, request: &'t Request<Bytes>) -> Work<'t> {
    Box::pin(async move {
        let what = std::str::from_utf8(request.body())?;
        if what.trim().is_empty() {
            // Not a success, so whatever was written is rolled back and the key is free.
            return Ok(Response::builder().status(422).body("say what you order\n".into())?);
        }
        let id: i64 = sqlx::query_scalar("INSERT INTO orders (what) VALUES ($1) RETURNING id")
            .bind(what)
            .fetch_one(&mut **tx)
            .await?;
        sqlx::query("INSERT INTO charges_to_make (key, order_id) VALUES ($1, $2)")
            .bind(derived_key(request, "charge"))
            .bind(id)
            .execute(&mut **tx)
            .await?;
        Ok(Response::builder().status(201).header("location", format!("/orders/{id}")).body("ordered\n".into())?)
    })
}

async fn orders(State(semel): State<Transactional<Postgres>>, request: axum::extract::Request) -> Response<Body> {
    semel.handle(request, order).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    migrate(&pool).await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS orders (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS charges_to_make (key TEXT PRIMARY KEY, order_id BIGINT NOT NULL)",
    )
    .execute(&pool)
    .await?;

    let semel = Transactional::<Postgres>::new(Policy::preset(Preset::Ietf), secret_in(Path::new("semel-data"))?, pool);
    let sweeping = semel.clone();
    tokio::spawn(async move { sweeping.housekeeping().await });

    let app = Router::new().route("/orders", post(orders)).with_state(semel);
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:4611").await?, app).await?;
    Ok(())
}
