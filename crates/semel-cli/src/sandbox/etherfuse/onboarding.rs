//! Customers, their bank accounts and their wallets.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    BANK_ACCOUNT_EXISTS, BANK_ACCOUNTS, CUSTOMER, NO_BANK_ACCOUNT, NO_PROXY_ACCOUNT, ORG, ORG_2, ORGANIZATION_EXISTS,
    PUBLIC_KEY, Step, WALLET, admitted, conflict,
    form::{Form, TEXT_CHARS_MAX, fresh_id, need},
    own, own_by_text, quote, refuse, taken,
};
use crate::sandbox::{
    api::{Call, Desk, Outcome, json},
    books::Row,
};

pub(super) const ORGANIZATION: &str = "organization";
pub(super) const BANK_ACCOUNT: &str = "bank-account";
const CRYPTO_WALLET: &str = "wallet";

pub(super) const ACCOUNT_TYPES: [&str; 2] = ["personal", "business"];
/// Tax numbers of the sandbox whose bank accounts are active at once: of a person, and of a business.
const RFCS_ACTIVE: [&str; 2] = ["XEXX010101000", "XEX010101000"];
/// How long an onboarding address is good for.
const ONBOARDING_VALID_MS: i64 = 15 * 60 * 1000;

/// What is there at first start.
pub(super) async fn furnish(desk: &mut Desk<'_>) -> Outcome<()> {
    for (id, owner, name) in [(ORG, ORG, "Sandbox"), (ORG_2, ORG_2, "Other sandbox"), (CUSTOMER, ORG, "Customer")] {
        let organization = organization(desk, Some(name), "business");
        desk.add_fixture(ORGANIZATION, id, owner, &organization).await?;
    }
    for (id, clabe) in BANK_ACCOUNTS.into_iter().zip(["646180000000000001", "646180000000000002"]) {
        let account = bank_account(desk, id, CUSTOMER, clabe, "active");
        desk.add_fixture(BANK_ACCOUNT, id, ORG, &account).await?;
    }
    let wallet = json!({ "walletId": WALLET, "customerId": CUSTOMER, "blockchain": "stellar" });
    desk.add_fixture(CRYPTO_WALLET, PUBLIC_KEY, ORG, &wallet).await?;
    Ok(())
}

/// `POST /ramp/organization`
pub(super) async fn create_organization(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let form = Form::of(call)?;
    let supplied = form.uuid("id")?;
    let name = form.text("displayName", TEXT_CHARS_MAX)?;
    let kind = form.one_of("accountType", &ACCOUNT_TYPES)?.unwrap_or("personal");
    let country = form.shaped("country", is_country, "must be a country of two letters, such as \"MX\"")?;
    let person = person(&form)?;
    if kind == "business" && person.is_some() {
        return Err(form.wrong("userInfo", "is for personal accounts"));
    }

    let desk = &mut call.desk;
    let id = supplied.clone().unwrap_or_else(fresh_id);
    if !desk.naive && own(desk, owner, ORGANIZATION, &id).await?.is_some() {
        return Err(taken(ORGANIZATION_EXISTS, Some(format!("/ramp/customer/{id}"))));
    }
    let mut data = organization(desk, name.as_deref(), kind);
    for (member, value) in [("country", country.map(Value::from)), ("userInfo", person)] {
        if let Some(value) = value {
            data[member] = value;
        }
    }
    desk.add(ORGANIZATION, &id, owner, supplied.as_deref(), &data).await?;
    let reply = json!({ "organizationId": id, "displayName": name, "accountType": kind });
    Ok(json(StatusCode::CREATED, &reply))
}

/// `GET /ramp/customer/{id}`
pub(super) async fn get_customer(call: &mut Call<'_>) -> Step {
    let row = customer_of_path(call, "id").await?;
    let data = &row.data;
    let reply = json!({
        "customerId": row.id,
        "displayName": data["displayName"],
        "createdAt": data["createdAt"],
        "updatedAt": data["updatedAt"],
    });
    Ok(json(StatusCode::OK, &reply))
}

/// `POST /ramp/onboarding-url`. What is named and missing is made; repeated with the same ids it makes nothing more and
/// gives a new address.
pub(super) async fn onboarding_url(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let form = Form::of(call)?;
    let customer = need(form.uuid("customerId"), &form, "customerId")?;
    let account = need(form.uuid("bankAccountId"), &form, "bankAccountId")?;
    let public_key = need(form.word("publicKey"), &form, "publicKey")?;
    let chain = need(form.word("blockchain"), &form, "blockchain")?;
    let person = person(&form)?;
    if !quote::CHAINS.contains(&chain.as_str()) {
        let error = format!("blockchain must be one of {}", quote::CHAINS.join(", "));
        return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, &error));
    }

    let desk = &mut call.desk;
    let known_wallet = wallet(desk, owner, Some(&public_key), None).await?;
    if let Some(row) = &known_wallet {
        let of = super::member(row, "customerId");
        if of != customer {
            let error = format!("This wallet belongs to another organization, see org: {of}");
            return Err(conflict(&error, "resource-exists", Some(format!("/ramp/customer/{of}"))));
        }
    }
    let known_account = own(desk, owner, BANK_ACCOUNT, &account).await?;
    if known_account.as_ref().is_some_and(|row| super::member(row, "customerId") != customer) {
        return Err(taken(BANK_ACCOUNT_EXISTS, Some(format!("/ramp/bank-account/{account}"))));
    }
    if own(desk, owner, ORGANIZATION, &customer).await?.is_none() {
        let mut data = organization(desk, None, "personal");
        if let Some(person) = person {
            data["displayName"] = person["displayName"].clone();
            data["userInfo"] = person;
        }
        desk.add(ORGANIZATION, &customer, owner, Some(&customer), &data).await?;
    }
    if known_account.is_none() {
        let data = bank_account(desk, &account, &customer, "", "pending");
        desk.add(BANK_ACCOUNT, &account, owner, Some(&account), &data).await?;
    }
    if known_wallet.is_none() {
        let data = json!({ "walletId": fresh_id(), "customerId": customer, "blockchain": chain });
        desk.add(CRYPTO_WALLET, &public_key, owner, None, &data).await?;
    }
    let expires = desk.timestamp(ONBOARDING_VALID_MS);
    let url = format!("https://etherfuse.sandbox.invalid/onboarding/{}?expires={expires}", fresh_id());
    Ok(json(StatusCode::OK, &json!({ "presigned_url": url })))
}

/// `POST /ramp/customer/{customerId}/bank-account`
pub(super) async fn create_bank_account(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let form = Form::of(call)?;
    let supplied = form.uuid("bankAccountId")?;
    let label = form.text("label", TEXT_CHARS_MAX)?;
    let skips_approval = form.is_on("skipAutoApproval")?;
    let account = need(form.object("account"), &form, "account")?;
    need(account.uuid("transactionId"), &account, "transactionId")?;
    for name in ["firstName", "paternalLastName", "maternalLastName", "birthDate", "birthCountryIsoCode"] {
        need(account.word(name), &account, name)?;
    }
    need(account.shaped("curp", is_curp, "must be 18 capital letters and digits"), &account, "curp")?;
    let rfc = need(account.shaped("rfc", is_rfc, "must be an RFC, such as \"XEXX010101000\""), &account, "rfc")?;
    let clabe = need(account.shaped("clabe", is_clabe, "must be 18 digits"), &account, "clabe")?;

    let customer = customer_of_path(call, "customerId").await?.id;
    let desk = &mut call.desk;
    let id = supplied.clone().unwrap_or_else(fresh_id);
    if !desk.naive && own(desk, owner, BANK_ACCOUNT, &id).await?.is_some() {
        return Err(taken(BANK_ACCOUNT_EXISTS, Some(format!("/ramp/bank-account/{id}"))));
    }
    let is_active = RFCS_ACTIVE.contains(&rfc.as_str()) && !skips_approval;
    let mut data = bank_account(desk, &id, &customer, &clabe, if is_active { "active" } else { "pending" });
    if let Some(label) = label {
        data["label"] = Value::from(label);
    }
    desk.add(BANK_ACCOUNT, &id, owner, supplied.as_deref(), &data).await?;
    Ok(json(StatusCode::CREATED, &data))
}

/// `GET /ramp/bank-account/{id}`
pub(super) async fn get_bank_account(call: &mut Call<'_>) -> Step {
    let owner = admitted(call);
    let id = call.segment("id").to_owned();
    match own_by_text(&mut call.desk, owner, BANK_ACCOUNT, &id).await? {
        Some(row) => Ok(json(StatusCode::OK, &row.data)),
        None => Err(refuse(StatusCode::NOT_FOUND, NO_BANK_ACCOUNT)),
    }
}

/// A wallet by its public key or by its id.
pub(super) async fn wallet(
    desk: &mut Desk<'_>,
    owner: &str,
    public_key: Option<&str>,
    id: Option<&str>,
) -> Outcome<Option<Row>> {
    if let Some(public_key) = public_key {
        return own(desk, owner, CRYPTO_WALLET, public_key).await;
    }
    let mut wallets = desk.list(CRYPTO_WALLET).await?;
    wallets.retain(|row| row.owner == owner && Some(super::member(row, "walletId")) == id);
    Ok(wallets.pop())
}

async fn customer_of_path(call: &mut Call<'_>, variable: &str) -> Step<Row> {
    let owner = admitted(call);
    let id = call.segment(variable).to_owned();
    let row = own_by_text(&mut call.desk, owner, ORGANIZATION, &id).await?;
    row.ok_or_else(|| refuse(StatusCode::NOT_FOUND, NO_PROXY_ACCOUNT))
}

fn organization(desk: &Desk<'_>, name: Option<&str>, kind: &str) -> Value {
    let now = desk.timestamp(0);
    json!({ "displayName": name, "accountType": kind, "createdAt": now, "updatedAt": now })
}

fn bank_account(desk: &Desk<'_>, id: &str, customer: &str, clabe: &str, status: &str) -> Value {
    let now = desk.timestamp(0);
    let shown = clabe.get(clabe.len().saturating_sub(4)..).unwrap_or_default();
    json!({
        "bankAccountId": id,
        "customerId": customer,
        "createdAt": now,
        "updatedAt": now,
        "currency": "mxn",
        "abbrClabe": if shown.is_empty() { String::new() } else { format!("...{shown}") },
        "compliant": status == "active",
        "needsWork": false,
        "status": status,
    })
}

fn person(form: &Form) -> Step<Option<Value>> {
    let Some(person) = form.object("userInfo")? else { return Ok(None) };
    let email = person.text("email", TEXT_CHARS_MAX)?;
    let name = person.text("displayName", TEXT_CHARS_MAX)?;
    Ok(Some(json!({ "email": email, "displayName": name })))
}

fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn is_curp(text: &str) -> bool {
    text.len() == 18 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn is_clabe(text: &str) -> bool {
    text.len() == 18 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `^[A-ZÑ&]{3,4}[0-9]{6}[A-Z0-9]{3}$`
fn is_rfc(text: &str) -> bool {
    let letters = text.chars().take_while(|char| char.is_ascii_uppercase() || matches!(char, 'Ñ' | '&')).count();
    let rest: Vec<char> = text.chars().skip(letters).collect();
    (3..=4).contains(&letters)
        && rest.len() == 9
        && rest[..6].iter().all(char::is_ascii_digit)
        && rest[6..].iter().all(|char| char.is_ascii_uppercase() || char.is_ascii_digit())
}
