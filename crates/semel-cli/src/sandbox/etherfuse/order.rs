//! Orders, and what becomes of them.

use http::{Response, StatusCode};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{
    NO_BANK_ACCOUNT, NO_ORDER, NO_PROXY_ACCOUNT, ORDER_EXISTS, PENDING_EXISTS, Step, Stop, admitted, conflict,
    form::{Form, TEXT_CHARS_MAX, canonical, fresh_id, need},
    member, onboarding, own, own_by_text, quote, refuse, taken,
};
use crate::sandbox::{
    api::{Call, Desk, Outcome, json},
    books::Row,
};

pub(super) const KIND: &str = "order";
pub(super) const STATUSES: [&str; 7] =
    ["created", "funded", "completed", "finalized", "failed", "refunded", "canceled"];
/// The longest memo, in characters: what a Stellar transaction holds.
pub(super) const MEMO_CHARS_MAX: usize = 28;

/// What an onramp waits for, and the only state that holds its amount (E10, E11).
const PENDING: &str = "created";
const DEPOSIT_CLABE: &str = "646180157000000004";
const DEPOSIT_BANK: &str = "STP";
const DEPOSIT_HOLDER: &str = "Etherfuse MX";

/// `POST /ramp/order`. The order of the checks matters: an id that is taken is told as that whatever else has become of
/// the request meanwhile (an expired quote, its own pending order), or a retry would hide an order that landed (Q9).
pub(super) async fn create(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let form = Form::of(call)?;
    let id = need(form.uuid("orderId"), &form, "orderId")?;
    let quote_id = need(form.uuid("quoteId"), &form, "quoteId")?;
    let account = need(form.uuid("bankAccountId"), &form, "bankAccountId")?;
    let public_key = form.word("publicKey")?;
    let wallet_id = form.uuid("cryptoWalletId")?;
    if public_key.is_some() == wallet_id.is_some() {
        return Err(refuse(StatusCode::BAD_REQUEST, "send one of publicKey and cryptoWalletId"));
    }
    let memo = form.text("memo", MEMO_CHARS_MAX)?;
    let uses_anchor = form.is_on("useAnchor")?;
    form.text("feePayer", TEXT_CHARS_MAX)?;

    let desk = &mut call.desk;
    if !desk.naive && own(desk, owner, KIND, &id).await?.is_some() {
        return Err(taken(ORDER_EXISTS, Some(address(&id))));
    }
    let Some(quote) = own(desk, owner, quote::KIND, &quote_id).await? else {
        return Err(refuse(StatusCode::BAD_REQUEST, "Quote not found"));
    };
    // Times of this format are in the order of their text.
    if desk.timestamp(0).as_str() >= member(&quote, "expiresAt") {
        return Err(refuse(StatusCode::BAD_REQUEST, "Quote has expired"));
    }
    let customer = member(&quote, "customerId");
    let account = match own(desk, owner, onboarding::BANK_ACCOUNT, &account).await? {
        Some(row) if member(&row, "customerId") == customer => row,
        Some(_) | None => return Err(refuse(StatusCode::NOT_FOUND, NO_BANK_ACCOUNT)),
    };
    if member(&account, "status") != "active" {
        return Err(refuse(StatusCode::BAD_REQUEST, "Bank account is not active"));
    }
    let wallet = onboarding::wallet(desk, owner, public_key.as_deref(), wallet_id.as_deref()).await?;
    let wallet = match wallet {
        Some(row) if member(&row, "customerId") == customer => row,
        Some(_) | None => return Err(refuse(StatusCode::NOT_FOUND, NO_PROXY_ACCOUNT)),
    };
    let direction = quote.data["quoteAssets"]["type"].as_str().unwrap_or_default();
    let chain = member(&quote, "blockchain");
    let is_onramp = direction == "onramp";
    if uses_anchor && (is_onramp || chain != "stellar") {
        return Err(refuse(StatusCode::BAD_REQUEST, "useAnchor is for offramps on stellar"));
    }
    let fiat = member(&quote, if is_onramp { "sourceAmount" } else { "destinationAmount" });
    if is_onramp && !desk.naive {
        guard(desk, owner, &account.id, fiat).await?;
    }

    let now = desk.timestamp(0);
    let mut order = json!({
        "orderId": id,
        "customerId": customer,
        "createdAt": now,
        "updatedAt": now,
        "amountInFiat": fiat,
        "walletId": member(&wallet, "walletId"),
        "bankAccountId": account.id,
        "orderType": direction,
        "status": PENDING,
        "statusPage": format!("https://etherfuse.sandbox.invalid/ramp/order/{id}"),
        "feeBps": member(&quote, "feeBps"),
        "feeAmountInFiat": member(&quote, "feeAmount"),
        "exchangeRate": member(&quote, "exchangeRate"),
        "etherfuseMidMarketRate": member(&quote, "etherfuseMidMarketRate"),
        "sourceAsset": quote.data["quoteAssets"]["sourceAsset"],
        "targetAsset": quote.data["quoteAssets"]["targetAsset"],
        "blockchain": chain,
        "quoteId": quote.id,
    });
    if let Some(memo) = memo {
        order["memo"] = Value::from(memo);
    }
    let mut reply = json!({ "orderId": id });
    if is_onramp {
        order["depositClabe"] = Value::from(DEPOSIT_CLABE);
        order["depositBankName"] = Value::from(DEPOSIT_BANK);
        order["depositAccountHolder"] = Value::from(DEPOSIT_HOLDER);
        for name in ["depositClabe", "depositBankName", "depositAccountHolder"] {
            reply[name] = order[name].clone();
        }
        reply["depositAmount"] = Value::from(fiat);
    } else if uses_anchor {
        reply["withdrawAnchorAccount"] = Value::from("GANCHORSANDBOXWITHDRAWALSGOHERE234567ABCDEFGHIJKLMNOPQRS");
        reply["withdrawMemo"] = Value::from(desk.next("withdraw memo", 1).await?.to_string());
        reply["withdrawMemoType"] = Value::from("id");
    }
    desk.add(KIND, &id, owner, Some(&id), &order).await?;
    Ok(json(StatusCode::OK, &json!({ direction: reply })))
}

/// Refuses a second pending onramp of one bank account and amount (E10). Amounts are numbers: `100` is `100.00` (Q14).
async fn guard(desk: &mut Desk<'_>, owner: &str, account: &str, fiat: &str) -> Step<()> {
    let amount = |text: &str| text.parse::<Decimal>().ok();
    let holder = desk.list(KIND).await?.into_iter().find(|order| {
        order.owner == owner
            && member(order, "status") == PENDING
            && member(order, "orderType") == "onramp"
            && member(order, "bankAccountId") == account
            && amount(member(order, "amountInFiat")) == amount(fiat)
    });
    match holder {
        Some(order) => Err(conflict(PENDING_EXISTS, "guard-held", Some(address(&order.id)))),
        None => Ok(()),
    }
}

/// `GET /ramp/order/{id}`
pub(super) async fn get(call: &mut Call<'_>) -> Step {
    let order = of_path(call).await?;
    Ok(tell(&order.data))
}

/// `POST /ramp/order/{id}/cancel`
pub(super) async fn cancel(call: &mut Call<'_>) -> Step {
    let order = of_path(call).await?;
    if member(&order, "status") != PENDING {
        return Err(not_pending(&order));
    }
    let canceled = move_to(&mut call.desk, &order, "canceled").await?;
    Ok(tell(&canceled))
}

/// `POST /ramp/order/fiat_received`: the deposit arrives, and the order goes all the way.
pub(super) async fn fiat_received(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let form = Form::of(call)?;
    let id = need(form.uuid("orderId"), &form, "orderId")?;
    let desk = &mut call.desk;
    let Some(mut order) = own(desk, owner, KIND, &id).await? else {
        return Err(refuse(StatusCode::NOT_FOUND, NO_ORDER));
    };
    if member(&order, "orderType") != "onramp" {
        return Err(refuse(StatusCode::BAD_REQUEST, "Order is not an onramp"));
    }
    if member(&order, "status") != PENDING {
        return Err(not_pending(&order));
    }
    for status in ["funded", "completed"] {
        order.data = move_to(desk, &order, status).await?;
    }
    Ok(Response::default())
}

/// The fixture `advance`: `{"order_id", "status"}`.
pub(super) async fn advance(desk: &mut Desk<'_>, value: &Value) -> Outcome<Result<(), String>> {
    let wanted = |name: &str| value.get(name).and_then(Value::as_str);
    let (Some(id), Some(status)) = (wanted("order_id"), wanted("status")) else {
        return Ok(Err("advance is an object {\"order_id\":\"<uuid>\",\"status\":\"<status>\"}".to_owned()));
    };
    let Some(status) = STATUSES.into_iter().find(|known| *known == status) else {
        return Ok(Err(format!("there is no status \"{status}\"; there are {}", STATUSES.join(", "))));
    };
    let order = match canonical(id) {
        Some(id) => desk.find(KIND, &id).await?,
        None => None,
    };
    let Some(order) = order else { return Ok(Err(format!("there is no order \"{id}\""))) };
    let (from, kind) = (member(&order, "status"), member(&order, "orderType"));
    let may = next(kind, from);
    if !may.contains(&status) {
        let may =
            if may.is_empty() { "it stays as it is".to_owned() } else { format!("it can become {}", may.join(", ")) };
        return Ok(Err(format!("the {kind} {} is {from} and cannot become {status}: {may}", order.id)));
    }
    move_to(desk, &order, status).await?;
    Ok(Ok(()))
}

/// What can become of an order.
fn next(kind: &str, status: &str) -> &'static [&'static str] {
    match (kind, status) {
        // A deposit that differs from the order is refunded.
        (_, "created") => &["funded", "failed", "refunded", "canceled"],
        (_, "funded") => &["completed", "failed", "refunded"],
        ("offramp", "completed") => &["finalized"],
        _ => &[],
    }
}

async fn move_to(desk: &mut Desk<'_>, order: &Row, status: &str) -> Outcome<Value> {
    let mut data = order.data.clone();
    let now = desk.timestamp(0);
    data["status"] = Value::from(status);
    data["updatedAt"] = Value::from(now.clone());
    if status == "completed" {
        let quote = own(desk, &order.owner, quote::KIND, member(order, "quoteId")).await?;
        let tokens = if member(order, "orderType") == "onramp" { "destinationAmount" } else { "sourceAmount" };
        data["amountInTokens"] = quote.map_or(Value::Null, |quote| quote.data[tokens].clone());
        data["completedAt"] = Value::from(now);
        data["confirmedTxSignature"] = Value::from(fresh_id().replace('-', ""));
    }
    desk.change(order.number, &data).await?;
    Ok(data)
}

async fn of_path(call: &mut Call<'_>) -> Step<Row> {
    let owner = admitted(call);
    let id = call.segment("id").to_owned();
    let order = own_by_text(&mut call.desk, owner, KIND, &id).await?;
    order.ok_or_else(|| refuse(StatusCode::NOT_FOUND, NO_ORDER))
}

/// An order as the API tells it, without what the sandbox remembers beside it.
fn tell(order: &Value) -> Response<bytes::Bytes> {
    let mut told = order.clone();
    if let Some(members) = told.as_object_mut() {
        members.remove("quoteId");
    }
    json(StatusCode::OK, &told)
}

fn address(id: &str) -> String {
    format!("/ramp/order/{id}")
}

fn not_pending(order: &Row) -> Stop {
    refuse(StatusCode::BAD_REQUEST, &format!("Order is {}, not {PENDING}", member(order, "status")))
}
