//! Intents: onramp, offramp and the approval of a burn.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{
    caller,
    form::{AMOUNT_CENTS_MAX, Family, Form, TEXT_CHARS_MAX, optional_text_schema, text_schema, token_schema},
    fresh_id, is_id, key_header, parties,
    problems::{covered, uncovered},
};
use crate::sandbox::{
    api::{self, Call, Desk, Operation, Outcome, ReplyDoc},
    books::Row,
};

const INTENT: &str = "intent";
/// One approval: its id is the intent's, its key the signature.
const BURN: &str = "burn";
/// The intents on one page of the list. Chosen.
const INTENTS_PER_PAGE: usize = 100;
const CHAINS: [&str; 2] = ["solana", "polygon"];

const AWAITING_FIAT: &str = "awaiting_fiat_payment";
const AWAITING_APPROVAL: &str = "awaiting_burn_approval";
const APPROVED: &str = "burn_approved";
const EXPIRED: &str = "expired";
/// How an intent goes on (chosen order of the documented names).
const ONRAMP_PATH: [&str; 4] = [AWAITING_FIAT, "fiat_received", "minting", "completed"];
const OFFRAMP_PATH: [&str; 6] = [AWAITING_APPROVAL, APPROVED, "onchain_received", "burning", "paying_out", "completed"];
/// How it ends otherwise.
const OTHER_ENDS: [&str; 4] = [EXPIRED, "failed", "canceled", "refunded"];

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ramp {
    On,
    Off,
}

impl Ramp {
    fn name(self) -> &'static str {
        match self {
            Ramp::On => "onramp",
            Ramp::Off => "offramp",
        }
    }

    fn destination(self) -> &'static str {
        match self {
            Ramp::On => "destinationWallet",
            Ramp::Off => "destinationAddress",
        }
    }

    fn path(self) -> &'static [&'static str] {
        match self {
            Ramp::On => &ONRAMP_PATH,
            Ramp::Off => &OFFRAMP_PATH,
        }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation {
            method: Method::POST,
            path: "/v2/intents/onramp",
            summary: "Begins to turn BRL that arrives by PIX into tokens",
            headers: vec![super::api_key_header(), key_header()],
            content: Some(content_schema(Ramp::On)),
            replies: create_docs(Ramp::On),
            run: |call| Box::pin(create(call, Ramp::On)),
        },
        Operation {
            method: Method::POST,
            path: "/v2/intents/offramp",
            summary: "Begins to turn tokens into BRL that leaves by PIX",
            headers: vec![super::api_key_header(), key_header()],
            content: Some(content_schema(Ramp::Off)),
            replies: create_docs(Ramp::Off),
            run: |call| Box::pin(create(call, Ramp::Off)),
        },
        Operation {
            method: Method::POST,
            path: "/v2/intents/{id}/approve-burn",
            summary: "Submits the signature of a burn; the signature is the key, and no header is read",
            headers: vec![super::api_key_header()],
            content: Some(json!({
                "type": "object",
                "required": ["txSignature", "tokenHolder"],
                "properties": { "txSignature": token_schema(), "tokenHolder": token_schema() },
                "examples": [{ "txSignature": "sigA", "tokenHolder": "ATA" }],
            })),
            replies: uncovered(
                Family::Intents,
                vec![
                    intent_doc(200, "The intent as it is now; the same signature again changes nothing"),
                    Family::Intents.doc(400, "A member is missing or wrong (`validation_error`)"),
                    Family::Intents.doc(404, "This instance has no such intent"),
                    Family::Intents.doc(
                        409,
                        "The intent has another signature, or this one was dropped (`burn_signature_conflict`); the intent awaits no burn (`invalid_state`)",
                    ),
                ],
            ),
            run: |call| Box::pin(approve_burn(call)),
        },
        Operation {
            method: Method::GET,
            path: "/v2/intents/{id}",
            summary: "The intent as it is now",
            headers: vec![super::api_key_header()],
            content: None,
            replies: uncovered(
                Family::Intents,
                vec![
                    intent_doc(200, "The intent"),
                    Family::Intents.doc(404, "This instance has no such intent: often the wrong environment"),
                ],
            ),
            run: |call| Box::pin(get(call)),
        },
        Operation {
            method: Method::GET,
            path: "/v2/intents",
            summary: "The intents of the instance, newest first, 100 on a page; `?cursor=` takes the page's nextCursor",
            headers: vec![super::api_key_header()],
            content: None,
            replies: uncovered(
                Family::Intents,
                vec![
                    ReplyDoc {
                        status: 200,
                        about: "A page",
                        media: "application/json",
                        schema: json!({
                            "type": "object",
                            "required": ["items", "nextCursor"],
                            "properties": {
                                "items": { "type": "array", "maxItems": INTENTS_PER_PAGE, "items": intent_schema() },
                                "nextCursor": { "type": ["string", "null"] },
                            },
                            "additionalProperties": false,
                        }),
                    },
                    Family::Intents.doc(400, "The cursor is not one"),
                ],
            ),
            run: |call| Box::pin(list(call)),
        },
    ]
}

/// E35: with a key, at most one intent; without one, each request is an intent.
async fn create(call: &mut Call<'_>, ramp: Ramp) -> Outcome {
    let mut form = Form::of(call);
    let cents = form.cents("amountCents");
    let destination = form.text(ramp.destination(), 1, TEXT_CHARS_MAX);
    let chain = form.one_of("chainId", &CHAINS);
    let reference = form.optional_text("clientReference", 0, TEXT_CHARS_MAX);
    if let Some(refusal) = form.refusal(Family::Intents) {
        return Ok(refusal);
    }
    let instance = caller(call).instance;
    let party = match ramp {
        Ramp::On => parties::bound_to(&mut call.desk, instance, &destination).await?,
        Ramp::Off => None,
    };
    if ramp == Ramp::On && party.is_none() && call.desk.settings.is_on("require_bound_wallet") {
        let message =
            "the destination wallet belongs to no party of this instance: bind it with PATCH /v2/parties/{id}/wallet";
        return Ok(refuse(StatusCode::UNPROCESSABLE_ENTITY, "destination_wallet_not_authorized", message));
    }
    let id = fresh_id()?;
    let now = call.desk.timestamp(0);
    let (expires_at_ms, pix) = match ramp {
        Ramp::On => {
            let expires_at_ms = call.desk.now_ms + call.desk.settings.whole("onramp_expires_ms");
            let pix = json!({
                "keyType": "cnpj",
                "keyValue": "00000000000191",
                "recipientName": "Nora Sandbox Ltda",
                "bank": "Banco Sandbox",
                "description": reference.as_deref().unwrap_or(&id),
                "amountCents": cents,
            });
            (Some(expires_at_ms), pix)
        }
        Ramp::Off => (None, Value::Null),
    };
    let intent = json!({
        "id": id,
        "instanceId": instance,
        "partyId": party.as_ref().map(|party| &party["id"]),
        "intentType": ramp.name(),
        "flowVersion": 1,
        "adapter": match ramp { Ramp::On => "squads", Ramp::Off => "cuiaba" },
        "status": ramp.path()[0],
        "statusReason": null,
        "clientReference": reference,
        "metadata": null,
        "expiresAt": expires_at_ms.map(api::timestamp),
        "createdAt": now,
        "updatedAt": now,
        "pixInfo": pix,
        "depositInstructions": null,
        "party": party.map(|party| json!({ "id": party["id"], "displayName": party["profile"]["displayName"] })),
        "chainId": chain,
    });
    let data = json!({
        "intent": intent,
        "amountCents": cents,
        ramp.destination(): destination,
        "expiresAtMs": expires_at_ms,
    });
    let key = call.key().map(str::to_owned);
    call.desk.add(INTENT, &id, instance, key.as_deref(), &data).await?;
    Ok(api::json(StatusCode::CREATED, &intent))
}

/// E38: the signature is the key. Q18: another one counts only once the first is known never to have landed, which
/// `drop_signature` says, and a signature that was dropped never comes back.
async fn approve_burn(call: &mut Call<'_>) -> Outcome {
    let mut form = Form::of(call);
    let signature = form.token("txSignature");
    let holder = form.token("tokenHolder");
    if let Some(refusal) = form.refusal(Family::Intents) {
        return Ok(refusal);
    }
    let Some((row, intent)) = asked_for(call).await? else { return Ok(not_found()) };
    if intent["intentType"] != Ramp::Off.name() {
        return Ok(refuse(StatusCode::CONFLICT, "invalid_state", "only an offramp intent has a burn to approve"));
    }
    if !call.desk.naive {
        let conflict = |message: &str| Ok(refuse(StatusCode::CONFLICT, "burn_signature_conflict", message));
        let burns = burns(&mut call.desk, &row.id).await?;
        let same = burns.iter().find(|burn| burn.data["txSignature"] == signature.as_str());
        if same.is_some_and(is_dropped) {
            return conflict(
                "the transaction of this signature never landed, and its blockhash has expired: sign anew",
            );
        }
        if same.is_some() {
            return Ok(api::json(StatusCode::OK, &intent));
        }
        if burns.iter().any(|burn| !is_dropped(burn)) {
            return conflict("the intent has another txSignature: to retry, send the same signed bytes again");
        }
        if intent["status"] != AWAITING_APPROVAL {
            let message = format!("the intent is {} and awaits no burn", intent["status"].as_str().unwrap_or_default());
            return Ok(refuse(StatusCode::CONFLICT, "invalid_state", &message));
        }
    }
    let burn = json!({ "txSignature": signature, "tokenHolder": holder, "dropped": false });
    call.desk.add(BURN, &row.id, &row.owner, Some(&signature), &burn).await?;
    let intent = move_on(&mut call.desk, row, intent, APPROVED).await?;
    Ok(api::json(StatusCode::OK, &intent))
}

async fn get(call: &mut Call<'_>) -> Outcome {
    let intent = asked_for(call).await?;
    Ok(intent.map_or_else(not_found, |(_, intent)| api::json(StatusCode::OK, &intent)))
}

async fn list(call: &mut Call<'_>) -> Outcome {
    let instance = caller(call).instance;
    let now_ms = call.desk.now_ms;
    let mut rows = call.desk.list(INTENT).await?;
    rows.retain(|row| row.owner == instance);
    rows.reverse();
    let query = call.request.uri().query().unwrap_or_default();
    let cursor = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
    let start = match cursor {
        None => 0,
        Some(cursor) => match rows.iter().position(|row| row.id == cursor) {
            Some(position) => position + 1,
            None => return Ok(refuse(StatusCode::BAD_REQUEST, "validation_error", "cursor is not a nextCursor")),
        },
    };
    let page = &rows[start..rows.len().min(start + INTENTS_PER_PAGE)];
    let is_last = start + page.len() == rows.len();
    let next = page.last().filter(|_| !is_last).map(|row| &row.id);
    let items: Vec<Value> = page.iter().map(|row| shown(row, now_ms)).collect();
    Ok(api::json(StatusCode::OK, &json!({ "items": items, "nextCursor": next })))
}

/// `advance`: `status` may be any later one of the intent's path, or one of the other ends. The inner error says what
/// would be right.
pub(super) async fn advance(desk: &mut Desk<'_>, id: &str, status: &str) -> Outcome<Result<(), String>> {
    let Some(row) = find(desk, id).await? else { return Ok(Err(format!("there is no intent \"{id}\""))) };
    let intent = shown(&row, desk.now_ms);
    let ramp = if intent["intentType"] == Ramp::On.name() { Ramp::On } else { Ramp::Off };
    let now = intent["status"].as_str().unwrap_or_default().to_owned();
    let later = ramp.path().iter().position(|step| *step == now).map(|at| &ramp.path()[at + 1..]);
    let allowed: Vec<&str> = match later {
        Some(later) if !later.is_empty() => later.iter().chain(&OTHER_ENDS).copied().collect(),
        Some(_) | None => return Ok(Err(format!("the intent is {now}, and that is final"))),
    };
    if !allowed.contains(&status) {
        return Ok(Err(format!("the intent is {now}: \"status\" must be one of {}", allowed.join(", "))));
    }
    move_on(desk, row, intent, status).await?;
    Ok(Ok(()))
}

/// `drop_signature`: the blockhash expired and the transaction never landed, so that another signature may come (E44).
pub(super) async fn drop_signature(desk: &mut Desk<'_>, id: &str) -> Outcome<Result<(), String>> {
    let Some(row) = find(desk, id).await? else { return Ok(Err(format!("there is no intent \"{id}\""))) };
    let intent = shown(&row, desk.now_ms);
    let live = burns(desk, &row.id).await?.into_iter().find(|burn| !is_dropped(burn));
    match live {
        Some(mut burn) if intent["status"] == APPROVED => {
            burn.data["dropped"] = Value::Bool(true);
            desk.change(burn.number, &burn.data).await?;
            move_on(desk, row, intent, AWAITING_APPROVAL).await?;
            Ok(Ok(()))
        }
        Some(_) => Ok(Err(format!("the intent is {}: its burn has landed, or it is over", intent["status"]))),
        None => Ok(Err("the intent has no signature".to_owned())),
    }
}

/// The intent of the path, if it is the caller's.
async fn asked_for(call: &mut Call<'_>) -> Outcome<Option<(Row, Value)>> {
    let instance = caller(call).instance;
    let id = call.segment("id").to_owned();
    let row = find(&mut call.desk, &id).await?.filter(|row| row.owner == instance);
    Ok(row.map(|row| {
        let intent = shown(&row, call.desk.now_ms);
        (row, intent)
    }))
}

async fn find(desk: &mut Desk<'_>, id: &str) -> Outcome<Option<Row>> {
    if is_id(id) { desk.find(INTENT, id).await } else { Ok(None) }
}

async fn burns(desk: &mut Desk<'_>, intent: &str) -> Outcome<Vec<Row>> {
    let mut burns = desk.list(BURN).await?;
    burns.retain(|burn| burn.id == intent);
    Ok(burns)
}

fn is_dropped(burn: &Row) -> bool {
    burn.data["dropped"] == true
}

/// The intent as it is at this time: what nobody paid for in time is expired.
fn shown(row: &Row, now_ms: u64) -> Value {
    let mut intent = row.data["intent"].clone();
    if let Some(expires_at_ms) = row.data["expiresAtMs"].as_u64()
        && intent["status"] == AWAITING_FIAT
        && expires_at_ms <= now_ms
    {
        intent["status"] = EXPIRED.into();
        intent["updatedAt"] = intent["expiresAt"].clone();
    }
    intent
}

async fn move_on(desk: &mut Desk<'_>, mut row: Row, mut intent: Value, status: &str) -> Outcome<Value> {
    intent["status"] = status.into();
    intent["updatedAt"] = desk.timestamp(0).into();
    row.data["intent"] = intent.clone();
    desk.change(row.number, &row.data).await?;
    Ok(intent)
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Bytes> {
    Family::Intents.error(status, code, message)
}

fn not_found() -> Response<Bytes> {
    refuse(StatusCode::NOT_FOUND, "not_found", "this instance has no such intent")
}

fn create_docs(ramp: Ramp) -> Vec<ReplyDoc> {
    let mut replies = vec![
        intent_doc(201, "The intent; a retry with the same key and content gets these very bytes"),
        Family::Intents.doc(400, "A member is missing or wrong, or the key is not a UUID (`validation_error`)"),
        Family::Intents.doc(409, "The key was used for another content (`idempotency_key_reused`)"),
    ];
    if ramp == Ramp::On {
        let about = "The wallet belongs to no party (`destination_wallet_not_authorized`), with `require_bound_wallet`";
        replies.push(Family::Intents.doc(422, about));
    }
    covered(replies)
}

fn content_schema(ramp: Ramp) -> Value {
    let destination = match ramp {
        Ramp::On => super::WALLET,
        Ramp::Off => "user@example.com",
    };
    json!({
        "type": "object",
        "required": ["amountCents", ramp.destination(), "chainId"],
        "properties": {
            "amountCents": { "type": "integer", "minimum": 1, "maximum": AMOUNT_CENTS_MAX },
            ramp.destination(): text_schema(1, TEXT_CHARS_MAX),
            "chainId": { "enum": CHAINS },
            "clientReference": optional_text_schema(0, TEXT_CHARS_MAX),
        },
        "examples": [{
            "amountCents": 10000, ramp.destination(): destination, "chainId": "solana", "clientReference": "ord_123",
        }],
    })
}

fn intent_doc(status: u16, about: &'static str) -> ReplyDoc {
    ReplyDoc { status, about, media: "application/json", schema: intent_schema() }
}

fn intent_schema() -> Value {
    let mut statuses = vec!["created", "requires_compliance"];
    for status in ONRAMP_PATH.iter().chain(&["awaiting_onchain_transfer"]).chain(&OFFRAMP_PATH).chain(&OTHER_ENDS) {
        if !statuses.contains(status) {
            statuses.push(status);
        }
    }
    let time = json!({ "type": "string", "format": "date-time" });
    let mut properties = json!({
        "id": { "type": "string", "format": "uuid" },
        "instanceId": { "type": "string", "format": "uuid" },
        "partyId": { "type": ["string", "null"], "format": "uuid" },
        "intentType": { "enum": ["onramp", "offramp"] },
        "flowVersion": { "const": 1 },
        "adapter": { "enum": ["squads", "cuiaba", null] },
        "status": { "enum": statuses },
        "statusReason": { "type": ["string", "null"] },
        "clientReference": { "type": ["string", "null"] },
        "metadata": { "type": ["object", "null"] },
        "expiresAt": { "type": ["string", "null"], "format": "date-time" },
        "createdAt": time.clone(),
        "updatedAt": time,
        "depositInstructions": { "type": "null" },
        "chainId": { "enum": CHAINS },
    });
    properties["pixInfo"] = json!({
        "type": ["object", "null"],
        "required": ["keyType", "keyValue", "recipientName", "bank", "description", "amountCents"],
        "properties": {
            "keyType": { "const": "cnpj" },
            "keyValue": { "type": "string" },
            "recipientName": { "type": "string" },
            "bank": { "type": "string" },
            "description": { "type": "string" },
            "amountCents": { "type": "integer", "minimum": 1, "maximum": AMOUNT_CENTS_MAX },
        },
        "additionalProperties": false,
    });
    properties["party"] = json!({
        "type": ["object", "null"],
        "required": ["id", "displayName"],
        "properties": { "id": { "type": "string", "format": "uuid" }, "displayName": { "type": "string" } },
        "additionalProperties": false,
    });
    super::closed(&properties)
}
