//! Documents what is answered before an operation runs: who asks, what is too large, what idempotency refuses.

use serde_json::{Value, json};

use super::form::Family;
use crate::sandbox::api::ReplyDoc;

/// An operation without idempotency of the header.
pub(super) fn uncovered(family: Family, mut replies: Vec<ReplyDoc>) -> Vec<ReplyDoc> {
    replies.push(family.doc(401, "No `X-API-Key`, or none that is known (`unauthorized`)"));
    replies
}

/// An operation that takes a key.
pub(super) fn covered(replies: Vec<ReplyDoc>) -> Vec<ReplyDoc> {
    let mut replies = uncovered(Family::Intents, replies);
    replies.push(ReplyDoc {
        status: 409,
        about: "The first request with this key still runs after 10 s, or its reply is gone",
        media: "application/problem+json",
        schema: schema(),
    });
    replies
}

fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "code": { "type": "string" },
            "detail": { "type": "string" },
        },
    })
}
