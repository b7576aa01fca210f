//! The OpenAPI 3.1 document of a vendor, made from what its handlers say they take and answer.

use std::collections::BTreeMap;

use http::{Method, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{
    api::{Operation, ReplyDoc},
    engine::Stand,
    shelf::Shelf,
};

/// Header fields that say who asks. OpenAPI wants them told as security schemes, not as parameters.
const CREDENTIALS: [&str; 2] = ["Authorization", "X-API-Key"];

/// The document.
pub(crate) fn document<DB: Shelf>(stand: &Stand<DB>) -> Value {
    let about = stand.vendor.about();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in &stand.operations {
        let described = describe(stand, operation);
        paths.entry(operation.path).or_default().insert(operation.method.as_str().to_lowercase(), described);
    }
    let headers = stand.operations.iter().flat_map(|operation| &operation.headers);
    let schemes: Map<String, Value> = headers
        .filter(|(name, ..)| is_credential(name))
        .map(|(name, _, _, says)| {
            ((*name).to_owned(), json!({ "type": "apiKey", "in": "header", "name": name, "description": says }))
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": format!("{} in the sandbox", about.title),
            "version": env!("CARGO_PKG_VERSION"),
            "description": about.says,
        },
        "servers": [{ "url": "/" }],
        "tags": [{ "name": about.title }],
        "paths": paths,
        "components": { "securitySchemes": schemes },
    })
}

fn describe<DB: Shelf>(stand: &Stand<DB>, operation: &Operation) -> Value {
    let variables = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = variables
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        })
        .collect();
    let mut security: Vec<Value> = Vec::new();
    for (name, is_required, schema, says) in &operation.headers {
        if is_credential(name) {
            security.push(json!({ *name: [] }));
        } else {
            parameters.push(json!({
                "name": name, "in": "header", "required": is_required, "schema": schema, "description": says,
            }));
        }
    }
    let mut described = json!({
        "operationId": operation_id(&operation.method, operation.path),
        "summary": operation.summary,
        "tags": [stand.vendor.about().title],
        "parameters": parameters,
        "responses": responses(stand, operation),
    });
    if !security.is_empty() {
        described["security"] = security.into();
    }
    if let Some(schema) = &operation.content {
        described["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    described
}

/// Several responses of one status are one in a document, with one schema for each media type.
fn responses<DB: Shelf>(stand: &Stand<DB>, operation: &Operation) -> Value {
    let mut statuses: BTreeMap<u16, Vec<&ReplyDoc>> = BTreeMap::new();
    for reply in &operation.replies {
        statuses.entry(reply.status).or_default().push(reply);
    }
    let mut responses = Map::new();
    for (status, replies) in &statuses {
        let says: Vec<&str> = replies.iter().map(|reply| reply.about).collect();
        let mut content: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for reply in replies.iter().filter(|reply| !reply.media.is_empty()) {
            content.entry(reply.media).or_default().push(&reply.schema);
        }
        let content: Map<String, Value> = content
            .into_iter()
            .map(|(media, schemas)| {
                let schema = match schemas.as_slice() {
                    [one] => (*one).clone(),
                    several => json!({ "anyOf": several }),
                };
                (media.to_owned(), json!({ "schema": schema }))
            })
            .collect();
        responses.insert(status.to_string(), json!({ "description": says.join("; or: "), "content": content }));
    }
    for (status, says) in of_the_machine(operation) {
        if !responses.contains_key(status.as_str()) {
            let response = stand.trouble(status);
            let media = response.headers().get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
            let media = media.and_then(|media| media.split(';').next()).unwrap_or("application/json");
            let content = json!({ media: { "schema": {} } });
            responses.insert(status.as_str().to_owned(), json!({ "description": says, "content": content }));
        }
    }
    responses.into()
}

/// What the listener and the database answer on behalf of every operation.
fn of_the_machine(operation: &Operation) -> Vec<(StatusCode, &'static str)> {
    let mut statuses = vec![
        (StatusCode::INTERNAL_SERVER_ERROR, "The sandbox is broken; nothing happened"),
        (StatusCode::SERVICE_UNAVAILABLE, "The database cannot be asked now; nothing happened"),
    ];
    if operation.method != Method::GET {
        statuses.push((StatusCode::REQUEST_TIMEOUT, "The content did not arrive in time; nothing happened"));
        statuses.push((StatusCode::PAYLOAD_TOO_LARGE, "The content is over 1 MiB; nothing happened"));
    }
    statuses
}

fn is_credential(name: &str) -> bool {
    CREDENTIALS.iter().any(|credential| credential.eq_ignore_ascii_case(name))
}

fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.as_str().to_lowercase(), |id, word| id + "-" + word)
}
