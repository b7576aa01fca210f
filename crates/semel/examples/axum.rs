//! A card is charged at most once per idempotency key: plain axum with the layer around it.
//!
//! `cargo run --example axum`, then twice:
//! `curl -i 127.0.0.1:3000/charges -H 'idempotency-key: "order-7"' -H 'content-type: application/json' -d '{"amount":100}'`

use std::sync::Arc;

use axum::{Json, Router, routing::post};
use semel::{
    Semel,
    core::policy::{Policy, Preset},
    store::embedded::{EmbeddedStore, Options},
};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::Path::new("./semel-data");
    let (store, recovery) = EmbeddedStore::open(folder, Options::default())?;
    println!("{recovery:?}");
    let semel = Semel::new(Policy::preset(Preset::Ietf), semel::secret_in(folder)?, Arc::new(store));
    tokio::spawn({
        let semel = semel.clone();
        async move { semel.housekeeping().await }
    });
    let app = Router::new().route("/charges", post(charge)).layer(semel.layer());
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
    Ok(())
}

async fn charge(Json(order): Json<Value>) -> Json<Value> {
    println!("charging {order}");
    Json(json!({ "charged": order["amount"] }))
}
