//! Quotes: what an amount buys, for two minutes.

use http::StatusCode;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

use super::{
    NO_PROXY_ACCOUNT, QUOTE_EXISTS, Step, admitted,
    form::{Form, TEXT_CHARS_MAX, need},
    own, refuse, taken,
};
use crate::sandbox::api::{Call, json};

pub(super) const KIND: &str = "quote";
pub(super) const CHAINS: [&str; 5] = ["stellar", "solana", "base", "polygon", "monad"];
pub(super) const TYPES: [&str; 3] = ["onramp", "offramp", "swap"];
pub(super) const PARTNER_FEE_BPS_MAX: u32 = 500;

/// Pesos for one dollar token.
const RATE: &str = "17.12";
const FIAT: &str = "MXN";
const TOKEN: &str = "USDC";
/// Decimals of a fiat amount and of a token amount.
const FIAT_PLACES: u32 = 2;
const TOKEN_PLACES: u32 = 6;

/// `POST /ramp/quote`
pub(super) async fn create(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let form = Form::of(call)?;
    let id = need(form.uuid("quoteId"), &form, "quoteId")?;
    let customer = need(form.uuid("customerId"), &form, "customerId")?;
    let chain = need(form.word("blockchain"), &form, "blockchain")?;
    let assets = need(form.object("quoteAssets"), &form, "quoteAssets")?;
    let direction = need(assets.one_of("type", &TYPES), &assets, "type")?;
    let source = need(assets.word("sourceAsset"), &assets, "sourceAsset")?;
    let target = need(assets.word("targetAsset"), &assets, "targetAsset")?;
    let (spelled, amount) = form.amount("sourceAmount")?;
    let wallet = form.text("walletAddress", TEXT_CHARS_MAX)?;
    let partner_bps = form.whole("partnerFeeBps", PARTNER_FEE_BPS_MAX)?.unwrap_or(0);

    let desk = &mut call.desk;
    if !desk.naive && own(desk, owner, KIND, &id).await?.is_some() {
        return Err(taken(QUOTE_EXISTS, None));
    }
    if own(desk, owner, "organization", &customer).await?.is_none() {
        return Err(refuse(StatusCode::NOT_FOUND, NO_PROXY_ACCOUNT));
    }
    if !CHAINS.contains(&chain.as_str()) {
        return Err(unprocessable(&format!("blockchain must be one of {}", CHAINS.join(", "))));
    }
    let pair = (direction, symbol(&source), symbol(&target));
    if pair != ("onramp", FIAT, TOKEN) && pair != ("offramp", TOKEN, FIAT) {
        let only = "the sandbox quotes onramps from MXN to USDC and offramps from USDC to MXN";
        return Err(unprocessable(only));
    }
    let is_onramp = direction == "onramp";
    let cap = Decimal::from(desk.settings.whole("onramp_max_mxn"));
    if is_onramp && amount > cap {
        return Err(refuse(StatusCode::BAD_REQUEST, &format!("sandbox onramps are limited to {cap} MXN per quote")));
    }
    if is_onramp && amount.normalize().scale() > FIAT_PLACES {
        return Err(refuse(StatusCode::BAD_REQUEST, "sourceAmount in MXN has at most two decimals"));
    }
    let bps = Decimal::from(desk.settings.whole("fee_bps")) + Decimal::from(partner_bps);
    let rate: Decimal = RATE.parse().expect("a decimal");
    let (fee, bought) = if is_onramp {
        let fee = fiat(amount * bps / Decimal::from(10_000));
        let tokens = (amount - fee) / rate;
        (fee, tokens.round_dp_with_strategy(TOKEN_PLACES, RoundingStrategy::ToZero))
    } else {
        let gross = fiat(amount * rate);
        let fee = fiat(gross * bps / Decimal::from(10_000));
        (fee, gross - fee)
    };
    if bought <= Decimal::ZERO {
        return Err(refuse(StatusCode::BAD_REQUEST, "sourceAmount is too small to buy anything"));
    }

    let valid_ms = i64::try_from(desk.settings.whole("quote_valid_ms")).expect("a day at most");
    let now = desk.timestamp(0);
    let mut quote = json!({
        "quoteId": id,
        "customerId": customer,
        "blockchain": chain,
        "quoteAssets": { "type": direction, "sourceAsset": source, "targetAsset": target },
        "sourceAmount": spelled,
        "destinationAmount": bought.to_string(),
        "exchangeRate": RATE,
        "etherfuseMidMarketRate": RATE,
        "nominalRate": RATE,
        "feeBps": bps.to_string(),
        "feeAmount": fee.to_string(),
        "requiresSwap": false,
        "createdAt": now,
        "updatedAt": now,
        "expiresAt": desk.timestamp(valid_ms),
    });
    if let Some(wallet) = wallet {
        quote["walletAddress"] = Value::from(wallet);
    }
    desk.add(KIND, &id, owner, Some(&id), &quote).await?;
    Ok(json(StatusCode::OK, &quote))
}

/// An asset without its issuer: `USDC` of `USDC:GBBD...`.
fn symbol(asset: &str) -> &str {
    asset.split_once(':').map_or(asset, |(symbol, _issuer)| symbol)
}

/// Rounded as banks do, and spelled with all its decimals.
fn fiat(amount: Decimal) -> Decimal {
    let mut amount = amount.round_dp_with_strategy(FIAT_PLACES, RoundingStrategy::MidpointAwayFromZero);
    amount.rescale(FIAT_PLACES);
    amount
}

fn unprocessable(error: &str) -> super::Stop {
    refuse(StatusCode::UNPROCESSABLE_ENTITY, error)
}
