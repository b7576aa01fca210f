//! Parties and the wallets that they are bound to.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    caller,
    form::{Family, Form, TEXT_CHARS_MAX, optional_text_schema, text_schema},
    fresh_id, is_id,
    problems::uncovered,
};
use crate::sandbox::{
    api::{self, Call, Desk, Operation, Outcome, ReplyDoc},
    books::Row,
};

const PARTY: &str = "party";
/// E39, in the words of the source's own samples (chosen text).
const CPF_TAKEN: &str = "Party with this cpf already exists";
/// The length of a display name, in characters (documented).
const NAME_CHARS_MIN: usize = 2;
const NAME_CHARS_MAX: usize = 100;

pub(super) fn operations() -> Vec<Operation> {
    let if_match = (
        "if-match",
        false,
        json!({ "type": "string" }),
        "The ETag of the party as it was last seen: a late retry then cannot undo a later change",
    );
    vec![
        Operation {
            method: Method::POST,
            path: "/v2/parties",
            summary: "Creates a party; its cpf is unique in the instance, and no idempotency key is read",
            headers: vec![super::api_key_header()],
            content: Some(content_schema()),
            replies: uncovered(
                Family::Parties,
                vec![
                    party_doc(201, "The party"),
                    Family::Parties.doc(400, "A member is missing or wrong"),
                    Family::Parties.doc(409, "The cpf is taken: `Location` says by which party"),
                ],
            ),
            run: |call| Box::pin(create(call)),
        },
        Operation {
            method: Method::GET,
            path: "/v2/parties/{id}",
            summary: "The party as it is now",
            headers: vec![super::api_key_header()],
            content: None,
            replies: uncovered(
                Family::Parties,
                vec![party_doc(200, "The party"), Family::Parties.doc(404, "This instance has no such party")],
            ),
            run: |call| Box::pin(get(call)),
        },
        Operation {
            method: Method::PATCH,
            path: "/v2/parties/{id}/wallet",
            summary: "Binds a wallet in place of the one before; the same again changes nothing",
            headers: vec![super::api_key_header(), if_match],
            content: Some(json!({
                "type": "object",
                "required": ["solanaWallet"],
                "properties": { "solanaWallet": text_schema(1, TEXT_CHARS_MAX) },
                "examples": [{ "solanaWallet": super::WALLET }],
            })),
            replies: uncovered(
                Family::Parties,
                vec![
                    party_doc(200, "The party"),
                    Family::Parties.doc(400, "The member is missing or wrong"),
                    Family::Parties.doc(404, "This instance has no such party"),
                    Family::Parties.doc(412, "The party is not as `If-Match` says (`precondition_failed`)"),
                ],
            ),
            run: |call| Box::pin(bind_wallet(call)),
        },
    ]
}

/// E39: a cpf that is taken is a conflict. Q24: the caller learns which party it was.
async fn create(call: &mut Call<'_>) -> Outcome {
    let mut form = Form::of(call);
    let cpf = form.text("cpf", 1, TEXT_CHARS_MAX);
    if !cpf.is_empty() && (!matches!(cpf.len(), 11 | 14) || !cpf.bytes().all(|b| b.is_ascii_digit())) {
        form.mend("cpf", "must have 11 or 14 digits");
    }
    let name = form.text("displayName", NAME_CHARS_MIN, NAME_CHARS_MAX);
    let kind = form.optional_text("partyType", 1, TEXT_CHARS_MAX);
    let country = form.optional_text("countryCode", 1, TEXT_CHARS_MAX);
    let reference = form.optional_text("externalRef", 0, TEXT_CHARS_MAX);
    // Checked and not kept: no reply tells them.
    form.optional_text("email", 0, TEXT_CHARS_MAX);
    form.optional_text("phone", 0, TEXT_CHARS_MAX);
    if let Some(refusal) = form.refusal(Family::Parties) {
        return Ok(refusal);
    }
    let instance = caller(call).instance;
    let digest = digest(&mut call.desk, instance, &cpf).await?;
    if !call.desk.naive {
        let rows = call.desk.list(PARTY).await?;
        if let Some(row) = rows.iter().find(|row| row.data["cpfDigest"] == digest.as_str()) {
            let conflict = api::json(StatusCode::CONFLICT, &json!({ "error": CPF_TAKEN }));
            return Ok(api::with(conflict, "location", &format!("/v2/parties/{}", row.id)));
        }
    }
    let id = fresh_id()?;
    let party = party(&call.desk, &New { id: &id, instance, cpf: &cpf, name: &name, kind, country, reference });
    let data = json!({ "party": party, "cpfDigest": digest, "version": 1 });
    call.desk.add(PARTY, &id, instance, Some(&id), &data).await?;
    Ok(tell(StatusCode::CREATED, &data))
}

async fn get(call: &mut Call<'_>) -> Outcome {
    let row = asked_for(call).await?;
    Ok(row.map_or_else(not_found, |row| tell(StatusCode::OK, &row.data)))
}

/// E40: replaces in place, and the same content changes nothing. Q22: without `If-Match` a late retry undoes what was
/// changed since, as the source has it.
async fn bind_wallet(call: &mut Call<'_>) -> Outcome {
    let mut form = Form::of(call);
    let wallet = form.text("solanaWallet", 1, TEXT_CHARS_MAX);
    if let Some(refusal) = form.refusal(Family::Parties) {
        return Ok(refusal);
    }
    let Some(mut row) = asked_for(call).await? else { return Ok(not_found()) };
    // RFC 9110 section 13.1.1: what has been done already may be told as done, whatever the precondition says.
    if row.data["party"]["profile"]["solanaWallet"] == wallet.as_str() {
        return Ok(tell(StatusCode::OK, &row.data));
    }
    if !is_as_said(call, &row.data) {
        let message = "the party was changed since: get it, and decide again";
        return Ok(Family::Parties.error(StatusCode::PRECONDITION_FAILED, "precondition_failed", message));
    }
    row.data["party"]["profile"]["solanaWallet"] = wallet.into();
    row.data["party"]["updatedAt"] = call.desk.timestamp(0).into();
    row.data["version"] = (row.data["version"].as_u64().unwrap_or_default() + 1).into();
    call.desk.change(row.number, &row.data).await?;
    Ok(tell(StatusCode::OK, &row.data))
}

/// The party of an instance that a wallet is bound to.
pub(super) async fn bound_to(desk: &mut Desk<'_>, instance: &str, wallet: &str) -> Outcome<Option<Value>> {
    let rows = desk.list(PARTY).await?;
    let bound =
        rows.into_iter().find(|row| row.owner == instance && row.data["party"]["profile"]["solanaWallet"] == wallet);
    Ok(bound.map(|row| row.data["party"].clone()))
}

/// Puts down the party of the fixtures.
pub(super) async fn furnish(desk: &mut Desk<'_>) -> Outcome<()> {
    let (id, instance) = (super::PARTY_ID, super::CALLERS[0].instance);
    let cpf = "52998224725";
    let digest = digest(desk, instance, cpf).await?;
    let new = New { id, instance, cpf, name: "Maria da Silva", kind: None, country: None, reference: None };
    let mut party = party(desk, &new);
    party["profile"]["solanaWallet"] = super::WALLET.into();
    desk.add_fixture(PARTY, id, instance, &json!({ "party": party, "cpfDigest": digest, "version": 1 })).await?;
    Ok(())
}

/// The party of the path, if it is the caller's.
async fn asked_for(call: &mut Call<'_>) -> Outcome<Option<Row>> {
    let instance = caller(call).instance;
    let id = call.segment("id").to_owned();
    if !is_id(&id) {
        return Ok(None);
    }
    Ok(call.desk.find(PARTY, &id).await?.filter(|row| row.owner == instance))
}

struct New<'a> {
    id: &'a str,
    instance: &'a str,
    cpf: &'a str,
    name: &'a str,
    kind: Option<String>,
    country: Option<String>,
    reference: Option<String>,
}

fn party(desk: &Desk<'_>, new: &New<'_>) -> Value {
    let now = desk.timestamp(0);
    let (document, masked, kind) = match new.cpf.len() {
        11 => ("cpf", format!("***.{}.{}-**", &new.cpf[3..6], &new.cpf[6..9]), "individual"),
        _ => ("cnpj", format!("**.{}.{}/****-**", &new.cpf[2..5], &new.cpf[5..8]), "business"),
    };
    json!({
        "id": new.id,
        "instanceId": new.instance,
        "partyType": new.kind.as_deref().unwrap_or(kind),
        "countryCode": new.country.as_deref().unwrap_or("BR"),
        "externalRef": new.reference,
        "status": "pending",
        "profile": {
            "displayName": new.name,
            "documentType": document,
            "documentMasked": masked,
            "solanaWallet": null,
        },
        "createdAt": now,
        "updatedAt": now,
    })
}

/// Q24: a cpf is personal data, and the books keep only a keyed digest of it.
async fn digest(desk: &mut Desk<'_>, instance: &str, cpf: &str) -> Outcome<String> {
    const SECRET: &str = "cpf secret";
    let kept = desk.state(SECRET).await?;
    let secret = if let Some(hex) = kept.as_ref().and_then(Value::as_str) {
        blake3::Hash::from_hex(hex).map_err(|error| error.to_string())?
    } else {
        let mut bytes = [0; blake3::KEY_LEN];
        getrandom::fill(&mut bytes)?;
        let secret = blake3::Hash::from_bytes(bytes);
        desk.keep(SECRET, &secret.to_hex().as_str().into()).await?;
        secret
    };
    Ok(blake3::keyed_hash(secret.as_bytes(), format!("{instance} {cpf}").as_bytes()).to_hex().to_string())
}

/// The party with its version as a validator.
fn tell(status: StatusCode, data: &Value) -> Response<Bytes> {
    api::with(api::json(status, &data["party"]), "etag", &etag(data))
}

fn etag(data: &Value) -> String {
    format!("\"{}\"", data["version"])
}

/// Whether the party is as `If-Match` says; strong comparison, so that a weak or broken tag never matches.
fn is_as_said(call: &Call<'_>, data: &Value) -> bool {
    let mut lines = call.request.headers().get_all(header::IF_MATCH).iter().peekable();
    if lines.peek().is_none() {
        return true;
    }
    let etag = etag(data);
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag == etag)
}

fn not_found() -> Response<Bytes> {
    Family::Parties.error(StatusCode::NOT_FOUND, "not_found", "this instance has no such party")
}

fn content_schema() -> Value {
    let optional = |chars_min| optional_text_schema(chars_min, TEXT_CHARS_MAX);
    json!({
        "type": "object",
        "required": ["cpf", "displayName"],
        "properties": {
            "cpf": { "type": "string", "pattern": "^([0-9]{11}|[0-9]{14})$" },
            "displayName": text_schema(NAME_CHARS_MIN, NAME_CHARS_MAX),
            "partyType": optional(1),
            "countryCode": optional(1),
            "externalRef": optional(0),
            "email": optional(0),
            "phone": optional(0),
        },
        "examples": [{ "cpf": "12345678901", "displayName": "João" }],
    })
}

fn party_doc(status: u16, about: &'static str) -> ReplyDoc {
    let time = json!({ "type": "string", "format": "date-time" });
    let schema = super::closed(&json!({
        "id": { "type": "string", "format": "uuid" },
        "instanceId": { "type": "string", "format": "uuid" },
        "partyType": { "type": "string" },
        "countryCode": { "type": "string" },
        "externalRef": { "type": ["string", "null"] },
        "status": { "const": "pending" },
        "profile": super::closed(&json!({
            "displayName": { "type": "string" },
            "documentType": { "enum": ["cpf", "cnpj"] },
            "documentMasked": { "type": "string" },
            "solanaWallet": { "type": ["string", "null"] },
        })),
        "createdAt": time.clone(),
        "updatedAt": time,
    }));
    ReplyDoc { status, about, media: "application/json", schema }
}
