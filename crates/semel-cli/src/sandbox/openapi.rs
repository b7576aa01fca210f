//! The OpenAPI 3.1 document of a vendor, made from what its handlers say they take and answer.

use serde_json::{Value, json};

use super::{engine::Stand, shelf::Shelf};

/// The document.
pub(crate) fn document<DB: Shelf>(stand: &Stand<DB>) -> Value {
    json!({ "openapi": "3.1.0", "info": { "title": stand.vendor.about().title, "version": "1" }, "paths": {} })
}
