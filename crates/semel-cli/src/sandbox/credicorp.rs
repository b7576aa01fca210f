//! Credicorp in the sandbox.

use bytes::Bytes;
use http::{Response, StatusCode};
use semel_core::policy::{PolicyDocument, Preset};
use serde_json::{Value, json};

use super::api::{self, About, Desk, Operation, Outcome, Setting, Settings, Vendor};

/// The API.
pub(crate) struct Credicorp;

#[async_trait::async_trait]
impl Vendor for Credicorp {
    fn name(&self) -> &'static str {
        "credicorp"
    }
    fn about(&self) -> About {
        About { title: "Credicorp", says: "", curl: Vec::new() }
    }
    fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }
    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }
    fn policy(&self, _settings: &Settings) -> PolicyDocument {
        PolicyDocument { preset: Some(Preset::Credicorp), ..PolicyDocument::default() }
    }
    async fn furnish(&self, _desk: &mut Desk<'_>) -> Outcome<()> {
        Ok(())
    }
    async fn fixtures(&self, _desk: &mut Desk<'_>) -> Outcome<Value> {
        Ok(json!({}))
    }
    async fn set(&self, _desk: &mut Desk<'_>, name: &str, _value: &Value) -> Outcome<Result<(), String>> {
        Ok(Err(format!("there is no fixture \"{name}\"")))
    }
    fn trouble(&self, status: StatusCode) -> Response<Bytes> {
        api::json(status, &json!({ "error": status.canonical_reason() }))
    }
}
