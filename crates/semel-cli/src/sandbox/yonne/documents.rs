//! What the calls take and answer, as the OpenAPI document tells it.

use http::Method;
use serde_json::{Value, json};

use super::{
    CURRENCY,
    calls::{self, FEE_MAX, TEXT_CHARS_MAX, TEXTS},
    fare::{BUCKETS, Class, WEIGHT_KG_MAX},
    status::Status,
    wallet::BALANCE_MAX,
};
use crate::sandbox::api::{Operation, ReplyDoc};

const JSON: &str = "application/json";

/// Everything that Yonne answers.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation {
            method: Method::GET,
            path: "/api/v1/external/validate",
            summary: "Is the API key good, and what is behind it? Always safe to repeat.",
            headers: api_key(),
            content: None,
            replies: with_common(vec![success(
                "The key is good",
                &[
                    "balance",
                    "currency",
                    "hasPickup",
                    "pickupAddress",
                    "pickupLatitude",
                    "pickupLongitude",
                    "environment",
                ],
                json!({
                    "balance": balance(),
                    "currency": currency(),
                    "hasPickup": { "type": "boolean" },
                    "pickupAddress": { "type": ["string", "null"] },
                    "pickupLatitude": { "type": ["number", "null"] },
                    "pickupLongitude": { "type": ["number", "null"] },
                    "environment": environment(),
                }),
            )]),
            run: |call| Box::pin(calls::validate(call)),
        },
        quote(
            Method::POST,
            "What a delivery from the merchant's place would cost. Creates nothing.",
            Some(quote_content()),
        ),
        quote(
            Method::GET,
            "The same with delivery_lat, delivery_lng, weight_estimate and total_weight_kg in the query.",
            None,
        ),
        Operation {
            method: Method::POST,
            path: "/api/v1/external/create-order",
            summary: "Orders a delivery and debits its fee. Safe to repeat with the same Idempotency-Key.",
            headers: {
                let mut headers = api_key();
                headers.push((
                    "Idempotency-Key",
                    false,
                    json!({ "type": "string", "pattern": "^[!#-+\\-.-~]{1,255}$" }),
                    "Names the order: within 24 hours the same key gets the original success",
                ));
                headers
            },
            content: Some(order_content()),
            replies: with_common(vec![
                success(
                    "The order, created now or (with idempotent_replay) by the first request with this key",
                    &[
                        "tracking_id",
                        "order_id",
                        "status",
                        "tracking_link",
                        "delivery_fee",
                        "wallet_balance",
                        "currency",
                        "environment",
                    ],
                    {
                        let mut members = order_members();
                        members["wallet_balance"] = balance();
                        members["idempotent_replay"] = json!({ "const": true });
                        members
                    },
                ),
                error(400, "Nothing was created; correct the content", order_errors(), json!({})),
                error(
                    400,
                    "Nothing was created; correct the Idempotency-Key",
                    json!({ "enum": ["Invalid Idempotency-Key", "Missing Idempotency-Key", "Incomplete request"] }),
                    json!({ "code": { "type": "string" } }),
                ),
                error(
                    402,
                    "Nothing was created; top up, then the same key creates the order",
                    json!({ "const": "Insufficient Funds" }),
                    json!({ "balance": balance(), "required": fee() }),
                ),
                error(
                    408,
                    "The content did not arrive in time; nothing was created",
                    json!({ "const": "Request timeout" }),
                    json!({ "code": { "type": "string" } }),
                ),
                error(
                    409,
                    "The first request with this key still runs, or its reply is not kept",
                    json!({ "enum": ["Request in progress", "Outcome unknown", "Reply gone"] }),
                    json!({ "code": { "type": "string" } }),
                ),
                error(413, "The content is too large; nothing was created", json!({ "type": "string" }), json!({})),
                error(
                    422,
                    "Nothing was created; wait for a rider, then the same key creates the order",
                    json!({ "const": "ERR_NO_CAPACITY_AVAILABLE" }),
                    json!({ "required_weight_kg": weight() }),
                ),
                error(
                    422,
                    "The key was used for another content; nothing was created",
                    json!({ "const": "Idempotency key reused" }),
                    json!({ "code": { "const": "key-reused" } }),
                ),
                error(
                    503,
                    "Nothing was created; send it again with the same key",
                    json!({ "const": "Service Unavailable" }),
                    json!({ "code": { "type": "string" } }),
                ),
            ]),
            run: |call| Box::pin(calls::create_order(call)),
        },
        Operation {
            method: Method::GET,
            path: "/api/v1/external/track/{tracking_id}",
            summary: "Where an order is. Always safe to repeat.",
            headers: api_key(),
            content: None,
            replies: with_common(vec![
                success(
                    "The order as it is now",
                    &["tracking_id", "order_id", "status", "tracking_link", "delivery_fee", "currency", "environment"],
                    order_members(),
                ),
                error(404, "This account has no such order", json!({ "const": "Order not found" }), json!({})),
            ]),
            run: |call| Box::pin(calls::track(call)),
        },
        Operation {
            method: Method::GET,
            path: "/api/v1/external/wallet",
            summary: "The balance. Always safe to repeat.",
            headers: api_key(),
            content: None,
            replies: with_common(vec![success(
                "The balance",
                &["balance", "currency", "environment"],
                json!({ "balance": balance(), "currency": currency(), "environment": environment() }),
            )]),
            run: |call| Box::pin(calls::wallet(call)),
        },
        Operation {
            method: Method::POST,
            path: "/api/v1/external/test/simulate-status",
            summary: "Sets an order's status, as its courier would. Doing it again changes nothing.",
            headers: api_key(),
            content: Some(json!({
                "type": "object",
                "required": ["order_id", "status"],
                "examples": [{ "order_id": "ORD-123456", "status": "In Transit" }],
                "properties": {
                    "order_id": { "type": "string", "minLength": 1 },
                    "status": { "enum": status_names() },
                },
            })),
            replies: with_common(vec![
                success(
                    "The order's status now",
                    &["order_id", "status"],
                    json!({ "order_id": { "type": "string" }, "status": { "enum": status_names() } }),
                ),
                error(
                    400,
                    "A member is missing, or there is no such status",
                    json!({ "enum": ["order_id and status are required", "Invalid status"] }),
                    json!({}),
                ),
                error(404, "This account has no such order", json!({ "const": "Order not found" }), json!({})),
                error(413, "The content is too large", json!({ "type": "string" }), json!({})),
            ]),
            run: |call| Box::pin(calls::simulate_status(call)),
        },
    ]
}

fn quote(method: Method, summary: &'static str, content: Option<Value>) -> Operation {
    let mut replies = vec![
        success(
            "The price",
            &[
                "price",
                "delivery_fee",
                "currency",
                "eta",
                "eta_minutes",
                "service_id",
                "suggested_vehicle_class",
                "required_weight_kg",
                "distance_km",
                "environment",
            ],
            json!({
                "price": fee(),
                "delivery_fee": fee(),
                "currency": currency(),
                "eta": { "type": "string", "pattern": "^[0-9]+m$" },
                "eta_minutes": { "type": "integer", "minimum": 0 },
                "service_id": { "enum": Class::ALL.map(|class| format!("{}_std", class.name().to_lowercase())) },
                "suggested_vehicle_class": { "enum": Class::ALL.map(Class::name) },
                "required_weight_kg": weight(),
                "distance_km": { "type": "number", "exclusiveMinimum": 0 },
                "environment": environment(),
            }),
        ),
        error(400, "No price can be given", json!({ "enum": TRIP_ERRORS }), json!({})),
    ];
    if content.is_some() {
        replies.push(error(413, "The content is too large", json!({ "type": "string" }), json!({})));
    }
    let run: crate::sandbox::api::Run = |call| Box::pin(calls::quote(call));
    let replies = with_common(replies);
    Operation { method, path: "/api/v1/external/quote", summary, headers: api_key(), content, replies, run }
}

/// Why there is no way from here to there.
const TRIP_ERRORS: [&str; 8] = [
    "Missing coordinates",
    "Invalid coordinates",
    "Pickup not set",
    "Invalid pickup",
    "Invalid delivery",
    "Invalid distance",
    "Invalid weight_estimate",
    "Invalid total_weight_kg",
];

fn order_errors() -> Value {
    let mut errors: Vec<String> = TRIP_ERRORS.map(str::to_owned).to_vec();
    errors.extend(["Missing delivery_fee", "Invalid delivery_fee", "Invalid metadata"].map(str::to_owned));
    errors.extend(TEXTS.map(|name| format!("Invalid {name}")));
    json!({ "enum": errors })
}

fn api_key() -> Vec<(&'static str, bool, Value, &'static str)> {
    let schema = || json!({ "type": "string" });
    vec![
        ("X-API-Key", false, schema(), "The API key"),
        ("Authorization", false, schema(), "Bearer and the API key, where there is no X-API-Key"),
    ]
}

fn quote_content() -> Value {
    json!({
        "type": "object",
        "required": ["delivery_lat", "delivery_lng"],
        "examples": [{ "delivery_lat": -13.9831, "delivery_lng": 33.7812, "weight_estimate": "0-5kg" }],
        "properties": {
            "delivery_lat": degrees(90),
            "delivery_lng": degrees(180),
            "product_type": { "type": "string" },
            "delivery_speed": { "type": "string" },
            "weight_estimate": { "enum": BUCKETS.map(|(name, _)| name) },
            "total_weight_kg": weight(),
        },
    })
}

fn order_content() -> Value {
    let mut content = quote_content();
    content["required"] = json!(["delivery_fee", "delivery_lat", "delivery_lng"]);
    content["examples"][0]["delivery_fee"] = json!(7350);
    content["examples"][0]["merchant_reference_id"] = json!("WEB-100245");
    let members = &mut content["properties"];
    members["delivery_fee"] = fee();
    members["pickup_lat"] = degrees(90);
    members["pickup_lng"] = degrees(180);
    members["metadata"] = json!({ "type": "object" });
    for name in TEXTS {
        members[name] = json!({ "type": "string", "maxLength": TEXT_CHARS_MAX });
    }
    content
}

/// What `create-order` and `track` both say of an order.
fn order_members() -> Value {
    json!({
        "tracking_id": { "type": "string", "pattern": "^YON-TRK-[0-9]+$" },
        "order_id": { "type": "string", "pattern": "^ORD-[0-9]+$" },
        "status": { "enum": status_names() },
        "tracking_link": { "type": "string", "format": "uri" },
        "delivery_fee": fee(),
        "currency": currency(),
        "environment": environment(),
        "merchant_reference_id": { "type": "string" },
        "metadata": { "type": "object" },
    })
}

/// Each status in both of its ways.
fn status_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Status::ALL.iter().flat_map(|status| [status.name(), status.readable()]).collect();
    names.dedup();
    names
}

fn degrees(max: i32) -> Value {
    json!({ "type": "number", "minimum": -max, "maximum": max })
}

fn fee() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": FEE_MAX })
}

fn balance() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": BALANCE_MAX })
}

fn weight() -> Value {
    json!({ "type": "number", "minimum": 0, "maximum": WEIGHT_KG_MAX })
}

fn currency() -> Value {
    json!({ "const": CURRENCY })
}

fn environment() -> Value {
    json!({ "enum": ["live", "test"] })
}

fn success(about: &'static str, required: &[&str], members: Value) -> ReplyDoc {
    ReplyDoc { status: 200, about, media: JSON, schema: object(json!({ "const": true }), required, members) }
}

/// `members` besides `error` and `message`, all of them always there.
fn error(status: u16, about: &'static str, label: Value, mut members: Value) -> ReplyDoc {
    let mut required: Vec<String> = members.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    required.push("error".to_owned());
    members["error"] = label;
    members["message"] = json!({ "type": "string" });
    ReplyDoc { status, about, media: JSON, schema: object(json!({ "const": false }), &required, members) }
}

fn object<T: AsRef<str>>(success: Value, required: &[T], mut members: Value) -> Value {
    members["success"] = success;
    let required: Vec<&str> = required.iter().map(AsRef::as_ref).chain(["success"]).collect();
    json!({ "type": "object", "required": required, "properties": members })
}

/// What every call can answer before it is looked at.
fn with_common(mut replies: Vec<ReplyDoc>) -> Vec<ReplyDoc> {
    replies.push(error(
        401,
        "There is no API key, or none that is good: correct it, and do not repeat the request as it is",
        json!({ "const": "Unauthorized" }),
        json!({}),
    ));
    replies.push(error(
        429,
        "Too many requests, with the setting rate_limit",
        json!({ "const": "Too Many Requests" }),
        json!({ "retry_after": { "type": "integer", "minimum": 1 } }),
    ));
    replies
}
