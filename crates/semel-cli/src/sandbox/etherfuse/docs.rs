//! What the API answers, for its OpenAPI document and for the index page.

use http::Method;
use serde_json::{Map, Value, json};

use super::{
    BANK_ACCOUNTS, CUSTOMER, KEY, PUBLIC_KEY,
    form::{AMOUNT_FRACTION_DIGITS_MAX, AMOUNT_WHOLE_DIGITS_MAX, TEXT_CHARS_MAX},
    onboarding::{self, ACCOUNT_TYPES},
    order::{self, MEMO_CHARS_MAX},
    outcome,
    quote::{self, CHAINS, PARTNER_FEE_BPS_MAX},
};
use crate::sandbox::api::{About, Operation, ReplyDoc};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const PROBLEM: &str = "application/problem+json";

/// What the index page says.
pub(super) fn about() -> About {
    let post = |path: &str, content: &Value| {
        format!("curl -i -H 'Authorization: {KEY}' -H 'Content-Type: application/json' {{base}}{path} -d '{content}'")
    };
    let quote_id = "11111111-1111-4111-8111-111111111111";
    let order_id = "22222222-2222-4222-8222-222222222222";
    let quote = json!({
        "quoteId": quote_id,
        "customerId": CUSTOMER,
        "blockchain": "stellar",
        "quoteAssets": { "type": "onramp", "sourceAsset": "MXN", "targetAsset": "USDC" },
        "sourceAmount": "100",
    });
    let order = json!({
        "orderId": order_id,
        "quoteId": quote_id,
        "bankAccountId": BANK_ACCOUNTS[0],
        "publicKey": PUBLIC_KEY,
    });
    About {
        title: "Etherfuse",
        says: "The UUID that a client gives to what it creates is the idempotency key: a create with a taken one is 409, \
               and GET by that UUID tells what exists. Only one pending onramp per bank account and amount.",
        curl: vec![
            post("/ramp/quote", &quote),
            post("/ramp/order", &order),
            format!("curl -i -H 'Authorization: {KEY}' {{base}}/ramp/order/{order_id}"),
            post("/ramp/order/fiat_received", &json!({ "orderId": order_id })),
        ],
    }
}

/// Everything it answers.
pub(super) fn operations() -> Vec<Operation> {
    let creates = [BAD, UNAUTHORIZED, TAKEN, TOO_LARGE, IN_FLIGHT];
    vec![
        Operation {
            method: Method::POST,
            path: "/ramp/quote",
            summary: "Quote what an amount buys",
            headers: authorization(),
            content: Some(new_quote()),
            replies: replies(
                reply(200, "The quote, good for two minutes", quote()),
                &creates,
                &[NO_PROXY_ACCOUNT, UNPROCESSABLE],
            ),
            run: |call| Box::pin(async { outcome(quote::create(call).await) }),
        },
        Operation {
            method: Method::POST,
            path: "/ramp/order",
            summary: "Order on a quote; orderId is the idempotency key",
            headers: authorization(),
            content: Some(new_order()),
            replies: replies(
                reply(200, "The order was created", created_order()),
                &creates,
                &[NOT_FOUND, (409, TEXT, "A pending onramp order of this bank account and amount exists")],
            ),
            run: |call| Box::pin(async { outcome(order::create(call).await) }),
        },
        Operation {
            method: Method::GET,
            path: "/ramp/order/{id}",
            summary: "An order as it is now",
            headers: authorization(),
            content: None,
            replies: replies(reply(200, "The order", order()), &[UNAUTHORIZED], &[NO_ORDER]),
            run: |call| Box::pin(async { outcome(order::get(call).await) }),
        },
        Operation {
            method: Method::POST,
            path: "/ramp/order/{id}/cancel",
            summary: "Cancel an order that is not funded",
            headers: authorization(),
            content: None,
            replies: replies(
                reply(200, "The order, canceled", order()),
                &[UNAUTHORIZED],
                &[NO_ORDER, (400, JSON, "The order is past `created`")],
            ),
            run: |call| Box::pin(async { outcome(order::cancel(call).await) }),
        },
        Operation {
            method: Method::POST,
            path: "/ramp/order/fiat_received",
            summary: "Simulate the deposit of an onramp (sandbox only)",
            headers: authorization(),
            content: Some(object(&["orderId"], json!({ "orderId": uuid() }))),
            replies: replies(
                ReplyDoc { status: 200, about: "The order is completed; no content", media: "", schema: json!(true) },
                &[BAD, UNAUTHORIZED],
                &[NO_ORDER],
            ),
            run: |call| Box::pin(async { outcome(order::fiat_received(call).await) }),
        },
        Operation {
            method: Method::POST,
            path: "/ramp/organization",
            summary: "Create a customer; id is the idempotency key",
            headers: authorization(),
            content: Some(new_organization()),
            replies: replies(reply(201, "The customer was created", created_organization()), &creates, &[]),
            run: |call| Box::pin(async { outcome(onboarding::create_organization(call).await) }),
        },
        Operation {
            method: Method::POST,
            path: "/ramp/onboarding-url",
            summary: "An address where a customer onboards; makes the customer, bank account and wallet that are missing",
            headers: authorization(),
            content: Some(new_onboarding()),
            replies: replies(
                reply(
                    200,
                    "The address, good for 15 minutes",
                    object(&["presigned_url"], json!({ "presigned_url": { "type": "string", "format": "uri" } })),
                ),
                &[BAD, UNAUTHORIZED],
                &[(409, TEXT, "The wallet or the bank account belongs to another customer"), UNPROCESSABLE],
            ),
            run: |call| Box::pin(async { outcome(onboarding::onboarding_url(call).await) }),
        },
        Operation {
            method: Method::POST,
            path: "/ramp/customer/{customerId}/bank-account",
            summary: "Create a bank account; bankAccountId is the idempotency key",
            headers: authorization(),
            content: Some(new_bank_account()),
            replies: replies(reply(201, "The bank account was created", bank_account()), &creates, &[NO_PROXY_ACCOUNT]),
            run: |call| Box::pin(async { outcome(onboarding::create_bank_account(call).await) }),
        },
        Operation {
            method: Method::GET,
            path: "/ramp/customer/{id}",
            summary: "A customer",
            headers: authorization(),
            content: None,
            replies: replies(reply(200, "The customer", customer()), &[UNAUTHORIZED], &[NO_PROXY_ACCOUNT]),
            run: |call| Box::pin(async { outcome(onboarding::get_customer(call).await) }),
        },
        Operation {
            method: Method::GET,
            path: "/ramp/bank-account/{id}",
            summary: "A bank account",
            headers: authorization(),
            content: None,
            replies: replies(reply(200, "The bank account", bank_account()), &[UNAUTHORIZED], &[NO_BANK_ACCOUNT]),
            run: |call| Box::pin(async { outcome(onboarding::get_bank_account(call).await) }),
        },
    ]
}

/// A reply that is not a success: status, media type, when.
type Refusal = (u16, &'static str, &'static str);

const BAD: Refusal = (400, JSON, "A member is missing or wrong, or the quote is missing or expired");
const UNAUTHORIZED: Refusal = (401, TEXT, "Not the raw API key");
const NO_ORDER: Refusal = (404, JSON, "No order of this id");
const NO_BANK_ACCOUNT: Refusal = (404, JSON, "No bank account of this id");
const NO_PROXY_ACCOUNT: Refusal = (404, JSON, "No customer of this id");
const NOT_FOUND: Refusal = (404, JSON, "No such bank account or wallet of the quote's customer");
const TAKEN: Refusal = (409, TEXT, "The id is taken");
const TOO_LARGE: Refusal = (413, PROBLEM, "The content is too large");
const UNPROCESSABLE: Refusal = (422, JSON, "An asset, currency or chain that is not supported");
const IN_FLIGHT: Refusal = (503, PROBLEM, "The first request with this id is still running");

fn reply(status: u16, about: &'static str, schema: Value) -> ReplyDoc {
    ReplyDoc { status, about, media: JSON, schema }
}

fn replies(success: ReplyDoc, usual: &[Refusal], own: &[Refusal]) -> Vec<ReplyDoc> {
    let refusals = usual.iter().chain(own).map(|(status, media, about)| {
        let schema = match *media {
            JSON => object(&["error"], json!({ "error": { "type": "string" } })),
            PROBLEM => {
                object(&["code", "detail"], json!({ "code": { "type": "string" }, "detail": { "type": "string" } }))
            }
            _ => json!({ "type": "string" }),
        };
        ReplyDoc { status: *status, about, media, schema }
    });
    std::iter::once(success).chain(refusals).collect()
}

fn authorization() -> Vec<(&'static str, bool, Value, &'static str)> {
    vec![("Authorization", true, json!({ "type": "string" }), "The API key, without a scheme before it")]
}

#[allow(clippy::needless_pass_by_value, reason = "written in place, it reads better")]
fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "properties": properties })
}

/// The same schema with other members that are required.
fn with(mut schema: Value, properties: Value) -> Value {
    let (Some(Value::Object(all)), Value::Object(more)) = (schema.get_mut("properties"), properties) else {
        return schema;
    };
    all.extend::<Map<String, Value>>(more);
    schema
}

fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

/// What a client may also leave out by null.
#[allow(clippy::needless_pass_by_value, reason = "written in place, it reads better")]
fn optional(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

const NO_CONTROL_CHARACTER: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

fn text(chars_max: usize) -> Value {
    json!({ "type": "string", "maxLength": chars_max, "pattern": NO_CONTROL_CHARACTER })
}

fn word() -> Value {
    let mut word = text(TEXT_CHARS_MAX);
    word["minLength"] = json!(1);
    word
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn shaped(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn amount() -> Value {
    let (whole, fraction) = (AMOUNT_WHOLE_DIGITS_MAX - 1, AMOUNT_FRACTION_DIGITS_MAX);
    shaped(&format!("^(?!0(\\.0+)?$)(0|[1-9][0-9]{{0,{whole}}})(\\.[0-9]{{1,{fraction}}})?$"))
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn boolean() -> Value {
    json!({ "type": "boolean" })
}

/// The pairs that the sandbox quotes. An issuer may be named after the token.
fn assets() -> Value {
    let (fiat, token) = (shaped("^MXN$"), shaped("^USDC(:[A-Za-z0-9]{1,100})?$"));
    let pair = |direction: &str, source: &Value, target: &Value| {
        let members = json!({ "type": { "const": direction }, "sourceAsset": source, "targetAsset": target });
        object(&["type", "sourceAsset", "targetAsset"], members)
    };
    json!({ "oneOf": [pair("onramp", &fiat, &token), pair("offramp", &token, &fiat)] })
}

fn new_quote() -> Value {
    let members = json!({
        "quoteId": uuid(),
        "customerId": uuid(),
        "blockchain": one_of(&CHAINS),
        "quoteAssets": assets(),
        "sourceAmount": amount(),
        "walletAddress": optional(text(TEXT_CHARS_MAX)),
        "partnerFeeBps": optional(json!({ "type": "integer", "minimum": 0, "maximum": PARTNER_FEE_BPS_MAX })),
    });
    object(&["quoteId", "customerId", "blockchain", "quoteAssets", "sourceAmount"], members)
}

fn quote() -> Value {
    let required = [
        "quoteId",
        "customerId",
        "blockchain",
        "quoteAssets",
        "sourceAmount",
        "destinationAmount",
        "exchangeRate",
        "etherfuseMidMarketRate",
        "nominalRate",
        "feeBps",
        "feeAmount",
        "requiresSwap",
        "createdAt",
        "updatedAt",
        "expiresAt",
    ];
    let members = json!({
        "quoteId": uuid(),
        "customerId": uuid(),
        "blockchain": one_of(&CHAINS),
        "quoteAssets": assets(),
        "walletAddress": text(TEXT_CHARS_MAX),
        "requiresSwap": boolean(),
        "createdAt": time(),
        "updatedAt": time(),
        "expiresAt": time(),
    });
    let money = [
        "sourceAmount",
        "destinationAmount",
        "exchangeRate",
        "etherfuseMidMarketRate",
        "nominalRate",
        "feeBps",
        "feeAmount",
    ];
    let money: Map<String, Value> = money.into_iter().map(|name| (name.to_owned(), decimal())).collect();
    with(object(&required, members), Value::Object(money))
}

fn decimal() -> Value {
    shaped("^[0-9]+(\\.[0-9]+)?$")
}

fn new_order() -> Value {
    let members = json!({
        "orderId": uuid(),
        "quoteId": uuid(),
        "bankAccountId": uuid(),
        "publicKey": word(),
        "cryptoWalletId": uuid(),
        "memo": optional(text(MEMO_CHARS_MAX)),
        "useAnchor": optional(boolean()),
        "feePayer": optional(text(TEXT_CHARS_MAX)),
    });
    let mut schema = object(&["orderId", "quoteId", "bankAccountId"], members);
    schema["oneOf"] = json!([{ "required": ["publicKey"] }, { "required": ["cryptoWalletId"] }]);
    schema
}

fn created_order() -> Value {
    let deposit = json!({
        "orderId": uuid(),
        "depositClabe": { "type": "string" },
        "depositAmount": decimal(),
        "depositBankName": { "type": "string" },
        "depositAccountHolder": { "type": "string" },
    });
    let deposit =
        object(&["orderId", "depositClabe", "depositAmount", "depositBankName", "depositAccountHolder"], deposit);
    let withdrawal = json!({
        "orderId": uuid(),
        "withdrawAnchorAccount": { "type": "string" },
        "withdrawMemo": { "type": "string" },
        "withdrawMemoType": { "type": "string" },
    });
    let withdrawal = object(&["orderId"], withdrawal);
    json!({ "oneOf": [
        object(&["onramp"], json!({ "onramp": deposit })),
        object(&["offramp"], json!({ "offramp": withdrawal })),
    ] })
}

fn order() -> Value {
    let required = [
        "orderId",
        "customerId",
        "createdAt",
        "updatedAt",
        "amountInFiat",
        "walletId",
        "bankAccountId",
        "orderType",
        "status",
        "statusPage",
        "feeBps",
        "feeAmountInFiat",
        "exchangeRate",
        "etherfuseMidMarketRate",
        "sourceAsset",
        "targetAsset",
        "blockchain",
    ];
    let members = json!({
        "orderId": uuid(),
        "customerId": uuid(),
        "createdAt": time(),
        "updatedAt": time(),
        "completedAt": time(),
        "amountInFiat": decimal(),
        "amountInTokens": decimal(),
        "walletId": uuid(),
        "bankAccountId": uuid(),
        "orderType": one_of(&["onramp", "offramp"]),
        "status": one_of(&order::STATUSES),
        "statusPage": { "type": "string", "format": "uri" },
        "depositClabe": { "type": "string" },
        "depositBankName": { "type": "string" },
        "depositAccountHolder": { "type": "string" },
        "confirmedTxSignature": { "type": "string" },
        "feeBps": decimal(),
        "feeAmountInFiat": decimal(),
        "exchangeRate": decimal(),
        "etherfuseMidMarketRate": decimal(),
        "sourceAsset": { "type": "string" },
        "targetAsset": { "type": "string" },
        "blockchain": one_of(&CHAINS),
        "memo": text(MEMO_CHARS_MAX),
    });
    object(&required, members)
}

fn person() -> Value {
    let members = json!({ "email": optional(text(TEXT_CHARS_MAX)), "displayName": optional(text(TEXT_CHARS_MAX)) });
    optional(object(&[], members))
}

fn new_organization() -> Value {
    let members = json!({
        "id": optional(uuid()),
        "displayName": optional(text(TEXT_CHARS_MAX)),
        "accountType": optional(one_of(&ACCOUNT_TYPES)),
        "userInfo": person(),
        "country": optional(shaped("^[A-Z]{2}$")),
    });
    let mut schema = object(&[], members);
    let is_business = json!({ "properties": { "accountType": { "const": "business" } }, "required": ["accountType"] });
    schema["if"] = is_business;
    schema["then"] = json!({ "properties": { "userInfo": { "type": "null" } } });
    schema
}

fn created_organization() -> Value {
    let members = json!({
        "organizationId": uuid(),
        "displayName": { "type": ["string", "null"] },
        "accountType": one_of(&ACCOUNT_TYPES),
    });
    object(&["organizationId", "displayName", "accountType"], members)
}

fn customer() -> Value {
    let members = json!({
        "customerId": uuid(),
        "displayName": { "type": ["string", "null"] },
        "createdAt": time(),
        "updatedAt": time(),
    });
    object(&["customerId", "displayName", "createdAt", "updatedAt"], members)
}

fn new_onboarding() -> Value {
    let members = json!({
        "customerId": uuid(),
        "bankAccountId": uuid(),
        "publicKey": word(),
        "blockchain": one_of(&CHAINS),
        "userInfo": person(),
    });
    object(&["customerId", "bankAccountId", "publicKey", "blockchain"], members)
}

fn new_bank_account() -> Value {
    let account = json!({
        "transactionId": uuid(),
        "firstName": word(),
        "paternalLastName": word(),
        "maternalLastName": word(),
        "birthDate": word(),
        "birthCountryIsoCode": word(),
        "curp": shaped("^[A-Z0-9]{18}$"),
        "rfc": shaped("^[A-Z\u{d1}&]{3,4}[0-9]{6}[A-Z0-9]{3}$"),
        "clabe": shaped("^[0-9]{18}$"),
    });
    let required = [
        "transactionId",
        "firstName",
        "paternalLastName",
        "maternalLastName",
        "birthDate",
        "birthCountryIsoCode",
        "curp",
        "rfc",
        "clabe",
    ];
    let members = json!({
        "account": object(&required, account),
        "bankAccountId": optional(uuid()),
        "label": optional(text(TEXT_CHARS_MAX)),
        "skipAutoApproval": optional(boolean()),
    });
    object(&["account"], members)
}

fn bank_account() -> Value {
    let required = [
        "bankAccountId",
        "customerId",
        "createdAt",
        "updatedAt",
        "currency",
        "abbrClabe",
        "compliant",
        "needsWork",
        "status",
    ];
    let members = json!({
        "bankAccountId": uuid(),
        "customerId": uuid(),
        "createdAt": time(),
        "updatedAt": time(),
        "currency": { "type": "string" },
        "abbrClabe": { "type": "string" },
        "compliant": boolean(),
        "needsWork": boolean(),
        "status": one_of(&["pending", "awaitingDepositVerification", "active", "inactive"]),
        "label": { "type": "string" },
    });
    object(&required, members)
}
