//! The README's order, in full: `cargo run --package semel-client --example order`, beside `semel sandbox`.

use semel_client::{Client, Http, Intent, Journal, Outcome, Preset};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let order = r#"{"delivery_fee":7350,"delivery_lat":-13.9831,"delivery_lng":33.7812}"#;
    #[rustfmt::skip] // As in the README.
    let client = Client::new(Http::new()?, Journal::open("orders.journal")?)
        .secret_header("x-api-key", "yonne_live_sandbox_1")?;
    let intent = Intent::post("http://127.0.0.1:4600/api/v1/external/create-order")
        .preset(Preset::Yonne)
        .operation("order-7") // your own id: sent twice, it is one order
        .json(order)
        .build()?; // the key is minted here, and never again
    match client.send(&intent).await? {
        Outcome::Fresh(reply) | Outcome::Replayed(reply) => println!("ordered: {:?}", reply.content),
        Outcome::AlreadyExists(resource) => println!("ordered before: {}", resource.path),
        Outcome::Rejected(no) => println!("not ordered: {}", no.say),
        Outcome::Unresolved(open) => println!("nobody knows yet: {}; resume later", open.say),
    }
    Ok(())
}
