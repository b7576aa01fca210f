//! What Nora's operations read of a content, and the two shapes of its errors.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::sandbox::api::{self, Call, ReplyDoc};

/// The longest text of any member, in characters (`destinationWallet` 1-255, documented).
pub(super) const TEXT_CHARS_MAX: usize = 255;
/// The largest amount, in cents: the largest whole number that every JSON reader keeps exact (RFC 8259 section 6).
/// Chosen.
pub(super) const AMOUNT_CENTS_MAX: u64 = (1 << 53) - 1;

/// Intents say `{"code","message"}`, parties say `{"error","code"}` (documented).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    Intents,
    Parties,
}

impl Family {
    /// The family of a path.
    pub(super) fn of(path: &str) -> Family {
        match path.trim_start_matches('/').split('/').find(|part| !part.is_empty() && *part != "v2") {
            Some("parties") => Family::Parties,
            Some(_) | None => Family::Intents,
        }
    }

    /// An error in the family's shape.
    pub(super) fn error(self, status: StatusCode, code: &str, message: &str) -> Response<Bytes> {
        let content = match self {
            Family::Intents => json!({ "code": code, "message": message }),
            Family::Parties => json!({ "error": message, "code": code }),
        };
        api::json(status, &content)
    }

    /// Documents an error of this shape.
    pub(super) fn doc(self, status: u16, about: &'static str) -> ReplyDoc {
        ReplyDoc { status, about, media: "application/json", schema: self.schema() }
    }

    fn schema(self) -> Value {
        match self {
            Family::Intents => json!({
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string" },
                    "message": { "type": "string" },
                    "validationErrors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["field", "message"],
                            "properties": { "field": { "type": "string" }, "message": { "type": "string" } },
                            "additionalProperties": false,
                        },
                    },
                    "details": { "type": "object" },
                },
            }),
            Family::Parties => json!({
                "type": "object",
                "required": ["error"],
                "properties": { "error": { "type": "string" }, "code": { "type": "string" } },
            }),
        }
    }
}

/// The members of a content, and what is wrong with them. Members that it is not asked for do not count.
pub(super) struct Form {
    /// `None`: the content is not a JSON object.
    members: Option<Map<String, Value>>,
    wrong: Vec<(&'static str, String)>,
}

impl Form {
    /// Reads the content as JSON, whatever its media type says.
    pub(super) fn of(call: &Call<'_>) -> Form {
        Form { members: call.object(), wrong: Vec::new() }
    }

    /// The value of a member, unless it is absent or null.
    fn member(&self, name: &str) -> Option<&Value> {
        self.members.as_ref()?.get(name).filter(|value| !value.is_null())
    }

    /// Notes what is wrong with a member.
    pub(super) fn mend(&mut self, field: &'static str, message: impl Into<String>) {
        self.wrong.push((field, message.into()));
    }

    /// A text of `chars_min` to `chars_max` characters that must be there; empty when it is wrong.
    pub(super) fn text(&mut self, name: &'static str, chars_min: usize, chars_max: usize) -> String {
        if self.member(name).is_none() {
            self.mend(name, "is required");
        }
        self.optional_text(name, chars_min, chars_max).unwrap_or_default()
    }

    /// A text that may be absent or null.
    pub(super) fn optional_text(&mut self, name: &'static str, chars_min: usize, chars_max: usize) -> Option<String> {
        let value = self.member(name)?;
        let Some(text) = value.as_str().map(str::to_owned) else {
            self.mend(name, "must be a string");
            return None;
        };
        let chars = text.chars().count();
        if chars < chars_min || chars > chars_max {
            self.mend(name, format!("must have {chars_min} to {chars_max} characters"));
        } else if text.chars().any(|c| c.is_ascii_control()) {
            self.mend(name, "must not hold control characters");
        } else if chars_min > 0 && text.trim().is_empty() {
            self.mend(name, "must not be blank");
        } else {
            return Some(text);
        }
        None
    }

    /// A text without spaces, in ASCII, as signatures and addresses on a chain are.
    pub(super) fn token(&mut self, name: &'static str) -> String {
        let text = self.text(name, 1, TEXT_CHARS_MAX);
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            self.mend(name, "must hold printable ASCII characters without spaces only");
        }
        text
    }

    /// One of a few texts that must be there.
    pub(super) fn one_of(&mut self, name: &'static str, choices: &[&'static str]) -> &'static str {
        let found = self.member(name).map(|value| value.as_str().and_then(|text| choices.iter().find(|c| **c == text)));
        match found {
            Some(Some(choice)) => return choice,
            Some(None) => self.mend(name, format!("must be one of {}", choices.join(", "))),
            None => self.mend(name, "is required"),
        }
        ""
    }

    /// A whole number of cents above zero.
    pub(super) fn cents(&mut self, name: &'static str) -> u64 {
        let message = match self.member(name) {
            None => "is required".to_owned(),
            Some(value) => match whole(value) {
                Some(cents) if (1..=AMOUNT_CENTS_MAX.into()).contains(&cents) => {
                    return u64::try_from(cents).expect("it is in the range");
                }
                Some(cents) if cents < 1 => "must be > 0".to_owned(),
                Some(_) => format!("must be <= {AMOUNT_CENTS_MAX}"),
                None => "must be an integer".to_owned(),
            },
        };
        self.mend(name, message);
        0
    }

    /// The refusal, if anything is wrong.
    pub(super) fn refusal(&self, family: Family) -> Option<Response<Bytes>> {
        if self.members.is_none() {
            let message = "the content must be a JSON object";
            return Some(family.error(StatusCode::BAD_REQUEST, "validation_error", message));
        }
        if self.wrong.is_empty() {
            return None;
        }
        let words: Vec<String> = self.wrong.iter().map(|(field, message)| format!("{field} {message}")).collect();
        let message = words.join("; ");
        Some(match family {
            Family::Parties => family.error(StatusCode::BAD_REQUEST, "validation_error", &message),
            Family::Intents => {
                let errors: Vec<Value> =
                    self.wrong.iter().map(|(field, message)| json!({ "field": field, "message": message })).collect();
                let content = json!({ "code": "validation_error", "message": message, "validationErrors": errors });
                api::json(StatusCode::BAD_REQUEST, &content)
            }
        })
    }
}

/// The whole number that a JSON number is, also when it is written as `1e3` or `5.0`. Beyond 2^53 its size is enough.
fn whole(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from)) {
        return Some(number);
    }
    let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
    // A cast saturates, and both ends are out of every range that is asked for.
    #[allow(clippy::cast_possible_truncation)]
    Some(number as i128)
}

/// JSON Schema of a text of this length without control characters.
pub(super) fn text_schema(chars_min: usize, chars_max: usize) -> Value {
    json!({
        "type": "string",
        "minLength": chars_min,
        "maxLength": chars_max,
        "pattern": "^[^\\u0000-\\u001f\\u007f]*$",
    })
}

/// The same, or null.
pub(super) fn optional_text_schema(chars_min: usize, chars_max: usize) -> Value {
    let mut schema = text_schema(chars_min, chars_max);
    schema["type"] = json!(["string", "null"]);
    schema
}

/// JSON Schema of a token.
pub(super) fn token_schema() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": TEXT_CHARS_MAX, "pattern": "^[!-~]+$" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(content: &str) -> Form {
        Form { members: serde_json::from_str(content).ok(), wrong: Vec::new() }
    }

    #[test]
    fn amounts_are_whole_cents_above_zero() {
        let cases = [
            (r#"{"a":1}"#, Ok(1)),
            (r#"{"a":1e3}"#, Ok(1000)),
            (r#"{"a":9007199254740991}"#, Ok(AMOUNT_CENTS_MAX)),
            (r#"{"a":9007199254740992}"#, Err("a must be <= 9007199254740991")),
            (r#"{"a":18446744073709551615}"#, Err("a must be <= 9007199254740991")),
            (r#"{"a":1e300}"#, Err("a must be <= 9007199254740991")),
            (r#"{"a":0}"#, Err("a must be > 0")),
            (r#"{"a":-0.0}"#, Err("a must be > 0")),
            (r#"{"a":-1e300}"#, Err("a must be > 0")),
            (r#"{"a":0.5}"#, Err("a must be an integer")),
            (r#"{"a":"1"}"#, Err("a must be an integer")),
            (r#"{"a":"NaN"}"#, Err("a must be an integer")),
            (r#"{"a":true}"#, Err("a must be an integer")),
            (r#"{"a":[1]}"#, Err("a must be an integer")),
            (r#"{"a":null}"#, Err("a is required")),
            ("{}", Err("a is required")),
            (r#"{"a":1e400}"#, Err("the content must be a JSON object")),
            (r#"{"a":NaN}"#, Err("the content must be a JSON object")),
            ("[]", Err("the content must be a JSON object")),
            ("", Err("the content must be a JSON object")),
        ];
        for (content, expected) in cases {
            let mut form = form(content);
            let cents = form.cents("a");
            let message = form.refusal(Family::Intents).map(|refusal| {
                assert_eq!(refusal.status(), 400);
                let refusal: Value = serde_json::from_slice(refusal.body()).unwrap();
                refusal["message"].as_str().unwrap().to_owned()
            });
            assert_eq!(message.map_or(Ok(cents), Err), expected.map_err(str::to_owned), "{content}");
        }
    }

    #[test]
    fn texts_have_a_length_in_characters_and_no_control_characters() {
        let long = format!(r#"{{"a":"{}"}}"#, "ã".repeat(256));
        let cases = [
            (r#"{"a":"João 🙂"}"#, None),
            (long.as_str(), Some("a must have 2 to 255 characters")),
            (r#"{"a":"x"}"#, Some("a must have 2 to 255 characters")),
            (r#"{"a":"   "}"#, Some("a must not be blank")),
            (r#"{"a":"a\u0000b"}"#, Some("a must not hold control characters")),
            (r#"{"a":{}}"#, Some("a must be a string")),
            (r#"{"a":"\ud800"}"#, Some("the content must be a JSON object")),
        ];
        for (content, expected) in cases {
            let mut form = form(content);
            form.text("a", 2, 255);
            let message = form.refusal(Family::Parties).map(|refusal| {
                let refusal: Value = serde_json::from_slice(refusal.body()).unwrap();
                refusal["error"].as_str().unwrap().to_owned()
            });
            assert_eq!(message.as_deref(), expected, "{content}");
        }
    }
}
