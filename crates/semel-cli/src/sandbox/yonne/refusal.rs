//! Errors in Yonne's envelope: `{"success":false,"error":…,"message":…}` and what belongs to the case.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::sandbox::api;

/// Why a call did nothing.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    content: Map<String, Value>,
}

impl Refusal {
    /// `error` is what clients branch on.
    pub(super) fn new(status: StatusCode, error: &str) -> Refusal {
        let mut content = Map::new();
        content.insert("success".to_owned(), json!(false));
        content.insert("error".to_owned(), json!(error));
        Refusal { status, content }
    }

    /// A 400.
    pub(super) fn bad(error: &str, message: &str) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error).message(message)
    }

    /// `delivery_lat` or `delivery_lng` is not there. `why_unread` says so when no member could be read at all.
    pub(super) fn missing_coordinates(why_unread: Option<&str>) -> Refusal {
        let message = "delivery_lat and delivery_lng are required.";
        match why_unread {
            None => Refusal::bad("Missing coordinates", message),
            Some(why) => Refusal::bad("Missing coordinates", &format!("{message} {why}")),
        }
    }

    /// No order of this caller has that id.
    pub(super) fn no_order() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "Order not found")
    }

    /// For people.
    pub(super) fn message(self, message: &str) -> Refusal {
        self.with("message", json!(message))
    }

    /// A member of this case.
    pub(super) fn with(mut self, name: &str, value: Value) -> Refusal {
        self.content.insert(name.to_owned(), value);
        self
    }

    /// When to come back, in seconds: in the content and in `Retry-After`.
    pub(super) fn retry_after(self, seconds: u64) -> Refusal {
        self.with("retry_after", json!(seconds))
    }

    /// What is sent.
    pub(super) fn response(self) -> Response<Bytes> {
        let retry_after = self.content.get("retry_after").map(Value::to_string);
        let response = api::json(self.status, &Value::Object(self.content));
        match retry_after {
            Some(seconds) => api::with(response, "retry-after", &seconds),
            None => response,
        }
    }
}
