//! What is logged of every attempt: the six fields that support asks for (E34), and never a secret.

use http::HeaderValue;
use semel_core::{
    key::Pointer,
    retry::{Judged, Judgement, Saw, Verdict},
};
use serde_json::Value;

use crate::intent::Intent;

/// Of an error's content, no more than this is logged, in bytes.
const ERROR_BYTES_MAX: usize = 4096;

/// One exchange and what follows from it. A client logs its own keys: without them nobody can reconcile.
pub(crate) fn exchange(
    intent: &Intent,
    table: &Judgement,
    what: &'static str,
    number: usize,
    saw: &Saw,
    judged: &Judged<'_>,
    secrets: &[HeaderValue],
) {
    let reference = member(&intent.content, &table.log().reference).unwrap_or_else(|| intent.operation.clone());
    let (status, content) = match saw {
        Saw::NotSent => ("not sent".to_owned(), None),
        Saw::NoResponse => ("no response".to_owned(), None),
        Saw::Reply(reply) => (reply.status.as_str().to_owned(), Some((reply.status, &reply.content))),
    };
    let found = |pointers: &[Pointer]| content.and_then(|(_, content)| member(content, pointers)).unwrap_or_default();
    let error = content.filter(|(status, _)| !status.is_success()).map(|(_, content)| redacted(content, secrets));
    let proven = matches!(judged.verdict, Verdict::Done(_));
    // One line that a person can read, fields that a machine can.
    tracing::info!(
        target: "semel::attempt",
        merchant_reference_id = %redacted(reference.as_bytes(), secrets),
        idempotency_key = %intent.key,
        order_id = %redacted(found(&table.log().order_id).as_bytes(), secrets),
        tracking_id = %redacted(found(&table.log().tracking_id).as_bytes(), secrets),
        status = %status,
        error = %error.unwrap_or_default(),
        operation = %intent.operation,
        attempt = number,
        why = judged.why,
        proven,
        "{what} {number} of {}: {status}. {}",
        intent.operation,
        judged.say
    );
}

fn member(content: &[u8], pointers: &[Pointer]) -> Option<String> {
    let content: Value = serde_json::from_slice(content).ok()?;
    pointers.iter().find_map(|pointer| match content.pointer(pointer.as_str())? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    })
}

/// The text without the client's credentials, which an API might repeat, and without control characters.
fn redacted(content: &[u8], secrets: &[HeaderValue]) -> String {
    let mut text = String::from_utf8_lossy(content).into_owned();
    for secret in secrets.iter().filter_map(|secret| secret.to_str().ok()) {
        // `Bearer x`: what counts is x.
        for part in [secret, secret.rsplit(' ').next().unwrap_or_default()] {
            if part.len() >= 4 {
                text = text.replace(part, "[redacted]");
            }
        }
    }
    // Cut last: half a secret is still one.
    if text.len() > ERROR_BYTES_MAX {
        text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
        text.push_str("...");
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l16_secrets_are_redacted_and_logs_cannot_be_forged() {
        let secrets = [HeaderValue::from_static("Bearer sk_live_1234"), HeaderValue::from_static("x")];
        assert_eq!(redacted(b"bad key sk_live_1234\nx", &secrets), "bad key [redacted] x");
        assert_eq!(redacted(b"Bearer sk_live_1234", &secrets), "[redacted]");
        let long = [vec![b'a'; ERROR_BYTES_MAX - 2], b"sk_live_1234".to_vec()].concat();
        assert!(!redacted(&long, &secrets).contains("sk_"));
    }
}
