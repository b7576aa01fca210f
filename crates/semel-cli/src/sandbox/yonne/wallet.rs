//! What a merchant has paid in, per environment, in whole MWK.

use serde_json::json;

use super::Account;
use crate::sandbox::api::{Desk, Outcome};

/// The most that a wallet holds, in MWK: far from where arithmetic ends.
pub(super) const BALANCE_MAX: u64 = 1_000_000_000_000_000;

/// The balance now.
pub(super) async fn balance(desk: &mut Desk<'_>, account: &Account) -> Outcome<u64> {
    let balance = desk.state(&state_name(account)).await?.and_then(|balance| balance.as_u64());
    Ok(balance.ok_or("a wallet is furnished")?)
}

/// Sets it.
pub(super) async fn set(desk: &mut Desk<'_>, account: &Account, balance: u64) -> Outcome<()> {
    desk.keep(&state_name(account), &json!(balance)).await
}

fn state_name(account: &Account) -> String {
    format!("balance {}", account.name())
}
