//! Reading what a client sent, member by member: the first one that is wrong is named, and nothing is executed.

use http::{StatusCode, header};
use rust_decimal::Decimal;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Step, Stop, refuse};
use crate::sandbox::api::Call;

/// The most characters of a text, unless said otherwise.
pub(super) const TEXT_CHARS_MAX: usize = 200;
/// The most digits of an amount before its point.
pub(super) const AMOUNT_WHOLE_DIGITS_MAX: usize = 12;
/// The most digits of an amount after its point: what a Stellar asset has.
pub(super) const AMOUNT_FRACTION_DIGITS_MAX: usize = 7;

/// A JSON object. A member that is null counts as absent.
pub(super) struct Form {
    within: &'static str,
    members: Map<String, Value>,
}

impl Form {
    /// The content of a request.
    pub(super) fn of(call: &Call<'_>) -> Step<Form> {
        let media = call.header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let essence = media.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(bad("Content-Type must be application/json"));
        }
        match serde_json::from_slice(call.request.body()) {
            Ok(Value::Object(members)) => Ok(Form { within: "", members }),
            Ok(_) => Err(bad("the content must be a JSON object")),
            Err(error) => Err(bad(&format!("the content must be a JSON object: {error}"))),
        }
    }

    /// A member that is an object, if it is there.
    pub(super) fn object(&self, name: &'static str) -> Step<Option<Form>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(Form { within: name, members: members.clone() })),
            Some(_) => Err(self.wrong(name, "must be an object")),
        }
    }

    /// A UUID in its canonical spelling (Q25), if it is there.
    pub(super) fn uuid(&self, name: &str) -> Step<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let uuid = value.as_str().and_then(canonical);
        uuid.map(Some).ok_or_else(|| self.wrong(name, "must be a UUID"))
    }

    /// A text of at most `chars_max` characters, none of them a control character, if it is there.
    pub(super) fn text(&self, name: &str, chars_max: usize) -> Step<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let fits = |text: &&str| text.chars().count() <= chars_max && !text.chars().any(char::is_control);
        match value.as_str().filter(fits) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(self.wrong(name, &format!("must be a text of at most {chars_max} characters"))),
        }
    }

    /// The same, and with at least one character.
    pub(super) fn word(&self, name: &str) -> Step<Option<String>> {
        match self.text(name, TEXT_CHARS_MAX)? {
            Some(text) if text.is_empty() => Err(self.wrong(name, "must not be empty")),
            word => Ok(word),
        }
    }

    /// One of a few words, if it is there.
    pub(super) fn one_of(&self, name: &str, words: &[&'static str]) -> Step<Option<&'static str>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let word = words.iter().find(|word| value.as_str() == Some(word));
        let wrong = || self.wrong(name, &format!("must be one of {}", words.join(", ")));
        word.copied().map(Some).ok_or_else(wrong)
    }

    /// True or false; absent is false.
    pub(super) fn is_on(&self, name: &str) -> Step<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(name, "must be true or false")),
        }
    }

    /// A whole number up to `max`, if it is there.
    pub(super) fn whole(&self, name: &str, max: u32) -> Step<Option<u32>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // 5.0 is a whole number in JSON too.
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=f64::from(max)).contains(number));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and from 0 to a u32")]
        let number = number.map(|number| number as u32);
        number.map(Some).ok_or_else(|| self.wrong(name, &format!("must be a whole number from 0 to {max}")))
    }

    /// A member of exactly this shape, if it is there.
    pub(super) fn shaped(&self, name: &str, shape: fn(&str) -> bool, words: &str) -> Step<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().filter(|text| shape(text));
        text.map(|text| Some(text.to_owned())).ok_or_else(|| self.wrong(name, words))
    }

    /// An amount of money, as it was spelled and as what it is.
    pub(super) fn amount(&self, name: &str) -> Step<(String, Decimal)> {
        let words = "must be a decimal string above zero, such as \"100.50\"";
        let text = need(self.shaped(name, is_amount, words), self, name)?;
        let amount: Decimal = text.parse().expect("digits, and not too many");
        if amount.is_zero() { Err(self.wrong(name, words)) } else { Ok((text, amount)) }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, name: &str, words: &str) -> Stop {
        let dot = if self.within.is_empty() { "" } else { "." };
        bad(&format!("{}{dot}{name} {words}", self.within))
    }
}

/// What has to be there.
pub(super) fn need<T>(read: Step<Option<T>>, form: &Form, name: &str) -> Step<T> {
    read?.ok_or_else(|| form.wrong(name, "is missing"))
}

/// A UUID in lower case and with hyphens, however it was spelled.
pub(super) fn canonical(text: &str) -> Option<String> {
    Uuid::try_parse(text).ok().map(|uuid| uuid.hyphenated().to_string())
}

/// A UUID of version 4.
pub(super) fn fresh_id() -> String {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the operating system gives randomness");
    uuid::Builder::from_random_bytes(bits).into_uuid().to_string()
}

/// `^(0|[1-9][0-9]{0,11})(\.[0-9]{1,7})?$`: no sign, no exponent, no separators, no `NaN`.
fn is_amount(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole, AMOUNT_WHOLE_DIGITS_MAX)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(|fraction| digits(fraction, AMOUNT_FRACTION_DIGITS_MAX))
}

fn bad(error: &str) -> Stop {
    refuse(StatusCode::BAD_REQUEST, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q14_what_is_an_amount() {
        for amount in ["0", "100", "100.00", "0.0000001", "999999999999.9999999"] {
            assert!(is_amount(amount), "{amount}");
        }
        let not = ["", ".", "1.", ".5", "-1", "+1", "1e3", "NaN", "Infinity", "1_000", "1,5", " 1", "01", "٣", "0x1"];
        for text in not.into_iter().chain(["1.12345678", "1234567890123", "1.2.3"]) {
            assert!(!is_amount(text), "{text}");
        }
    }

    #[test]
    fn q25_one_uuid_has_one_spelling() {
        let id = "3f2c1d8e-0b6a-4c7d-9e5f-1a2b3c4d5e6f";
        for spelling in [id, "3F2C1D8E-0B6A-4C7D-9E5F-1A2B3C4D5E6F", "{3f2c1d8e-0b6a-4c7d-9e5f-1a2b3c4d5e6f}"] {
            assert_eq!(canonical(spelling).as_deref(), Some(id), "{spelling}");
        }
        assert_eq!(canonical("not-a-uuid"), None);
        assert_eq!(Uuid::try_parse(&fresh_id()).map(|uuid| uuid.get_version_num()), Ok(4));
    }
}
