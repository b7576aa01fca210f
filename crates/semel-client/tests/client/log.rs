//! What is logged of an attempt.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use parking_lot::Mutex;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::world::{Step, World, YONNE_OK, answer, yonne};

type Fields = BTreeMap<String, String>;

/// Keeps the fields of every event of an attempt.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Fields>>>);

struct Reading<'a>(&'a mut Fields);

impl Visit for Reading<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "semel::attempt"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::new();
        event.record(&mut Reading(&mut fields));
        self.0.lock().push(fields);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn e34_l16_every_attempt_is_logged_with_six_fields_and_no_secret() {
    let kept = Kept::default();
    // For the whole process: one for a thread would miss what other tests had logged first. The key tells them apart.
    tracing::subscriber::set_global_default(kept.clone()).unwrap();
    let echo = r#"{"success":false,"error":"Unavailable","message":"key yonne_live_1234\nforged line"}"#;
    let world = World::of([Step::Reset, answer(503, echo), answer(200, YONNE_OK)]);
    let intent = yonne().build().unwrap();
    world.client().send(&intent).await.unwrap();
    let mut logged = kept.0.lock().clone();
    logged.retain(|fields| fields["idempotency_key"] == intent.key().as_str());
    assert_eq!(logged.len(), 3);
    for (fields, status) in logged.iter().zip(["no response", "503", "200"]) {
        assert_eq!(fields["merchant_reference_id"], "WEB-7");
        assert_eq!(fields["idempotency_key"], intent.key().as_str());
        assert_eq!(fields["status"], status);
        assert!(fields.values().all(|value| !value.contains("yonne_live_1234")), "{fields:?}");
    }
    assert_eq!(
        logged[1]["error"],
        r#"{"success":false,"error":"Unavailable","message":"key [redacted]\nforged line"}"#
    );
    assert_eq!((logged[2]["order_id"].as_str(), logged[2]["tracking_id"].as_str()), ("ORD-1", "YON-TRK-1"));
    assert_eq!((logged[2]["error"].as_str(), logged[2]["proven"].as_str()), ("", "true"));
}
