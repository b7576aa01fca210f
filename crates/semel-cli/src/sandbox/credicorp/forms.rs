//! What an enquiry and a consent must look like. The first thing that is wrong is told, in the order of the reference:
//! unknown members, `form`, `dept`, `fields`.

use serde_json::{Map, Value, json};

use super::refusal::{Code, Refusal};

/// The most members of `fields`, and of `purposes`.
const FIELDS_MAX: usize = 60;
/// The most bytes of `fields`, as JSON without spaces.
const FIELDS_BYTES_MAX: usize = 16 << 10;
/// The longest name of a form, in characters.
const FORM_CHARS_MAX: usize = 64;
/// The longest address, in characters (RFC 5321 section 4.5.3.1.3 less the brackets).
const EMAIL_CHARS_MAX: usize = 254;
/// The longest `source`, in characters.
const SOURCE_CHARS_MAX: usize = 200;
const DEPARTMENTS: [&str; 4] = ["support", "payments", "hardship", "complaints"];

/// Reads the content of `POST /public/v1/enquiries`; gives what is put on record.
pub(super) fn enquiry(content: &Map<String, Value>) -> Result<Value, Refusal> {
    known_members(content, &["form", "dept", "fields"])?;
    match content.get("form") {
        Some(Value::String(form)) if is_slug(form) => {}
        Some(Value::String(_)) => {
            return Err(Refusal::of(
                Code::FormRequired,
                "form",
                format!("form must be 1 to {FORM_CHARS_MAX} of the characters a-z 0-9 _ -."),
            ));
        }
        Some(Value::Null) | None => {
            return Err(Refusal::of(Code::FormRequired, "form", "Name the form, such as \"contact-us\"."));
        }
        Some(other) => return Err(wrong_type("form", "a string", other)),
    }
    match content.get("dept") {
        None => {}
        Some(Value::String(dept)) if DEPARTMENTS.contains(&dept.as_str()) => {}
        Some(_) => {
            let message = format!("dept must be one of {}, or be left out.", DEPARTMENTS.join(", "));
            return Err(Refusal::of(Code::InvalidDept, "dept", message));
        }
    }
    let fields = match content.get("fields") {
        Some(Value::Object(fields)) => fields,
        other => return Err(wrong_type("fields", "an object of strings, numbers and booleans", or_null(other))),
    };
    flat(fields, "fields.")?;
    if fields.get("consent").and_then(Value::as_str) != Some("yes") {
        return Err(Refusal::of(Code::ConsentRequired, "fields.consent", "fields.consent must be \"yes\"."));
    }
    optional_email(fields, "fields.email")?;
    Ok(Value::Object(content.clone()))
}

/// The same where `enquiry_mode` is `lenient`: a flat object with its consent is an enquiry too, as one recipe sends it.
pub(super) fn lenient_enquiry(content: &Map<String, Value>) -> Result<Value, Refusal> {
    if content.get("fields").is_some_and(Value::is_object) {
        return enquiry(content);
    }
    flat(content, "")?;
    let agrees = matches!(content.get("consent"), Some(Value::Bool(true)))
        || content.get("consent").and_then(Value::as_str) == Some("yes");
    if !agrees {
        return Err(Refusal::of(Code::ConsentRequired, "consent", "consent must be true or \"yes\"."));
    }
    optional_email(content, "email")?;
    Ok(Value::Object(content.clone()))
}

/// Reads the content of `POST /public/v1/consent`: what somebody agrees to be sent, or, in the reference's form, the
/// cookies that they allow.
pub(super) fn consent(content: &Map<String, Value>) -> Result<Value, Refusal> {
    let is_of_cookies = ["analytics", "marketing"].iter().any(|name| content.contains_key(*name));
    if is_of_cookies {
        known_members(content, &["analytics", "marketing"])?;
        for name in ["analytics", "marketing"] {
            if !content.get(name).is_some_and(Value::is_boolean) {
                return Err(wrong_type(name, "true or false", or_null(content.get(name))));
            }
        }
        return Ok(Value::Object(content.clone()));
    }
    known_members(content, &["email", "purposes", "source"])?;
    match content.get("email") {
        Some(Value::String(email)) if is_email(email) => {}
        Some(_) | None => return Err(invalid_email("email")),
    }
    let purposes = match content.get("purposes") {
        Some(Value::Object(purposes)) => purposes,
        other => return Err(wrong_type("purposes", "an object of booleans", or_null(other))),
    };
    if purposes.is_empty() {
        return Err(Refusal::of(Code::InvalidValueType, "purposes", "purposes must name at least one purpose."));
    }
    limits(purposes, "purposes")?;
    if let Some((name, value)) = purposes.iter().find(|(_, value)| !value.is_boolean()) {
        return Err(wrong_type(&format!("purposes.{name}"), "true or false", value));
    }
    match content.get("source") {
        None => {}
        Some(Value::String(source)) if source.chars().count() <= SOURCE_CHARS_MAX => {}
        Some(Value::String(_)) => {
            let message = format!("source must have at most {SOURCE_CHARS_MAX} characters.");
            return Err(Refusal::of(Code::PayloadTooLarge, "source", message));
        }
        Some(other) => return Err(wrong_type("source", "a string", other)),
    }
    Ok(Value::Object(content.clone()))
}

/// JSON Schema of an enquiry as the reference has it. It cannot say how many bytes `fields` may have.
pub(super) fn enquiry_schema() -> Value {
    json!({
        "type": "object",
        "required": ["form", "fields"],
        "additionalProperties": false,
        "properties": {
            "form": { "type": "string", "pattern": "^[a-z0-9_-]{1,64}$", "examples": ["contact-us"] },
            "dept": { "enum": DEPARTMENTS },
            "fields": {
                "type": "object",
                "description": "At most 16 KiB as JSON without spaces.",
                "required": ["consent"],
                "maxProperties": FIELDS_MAX,
                "properties": { "consent": { "const": "yes" }, "email": email_schema() },
                "additionalProperties": { "type": ["string", "number", "boolean"] }
            }
        },
        "examples": [{ "form": "contact-us", "fields": { "name": "Jo", "email": "jo@example.com", "consent": "yes" } }]
    })
}

/// JSON Schema of both forms of a consent.
pub(super) fn consent_schema() -> Value {
    json!({ "oneOf": consent_forms(&[]) })
}

/// JSON Schema of a consent as it is told: what was sent, and what the record adds.
pub(super) fn consent_record_schema() -> Value {
    json!({ "oneOf": consent_forms(&["id", "recorded_at"]) })
}

fn consent_forms(added: &[&str]) -> Value {
    let mut forms = json!([
        {
            "type": "object",
            "required": ["email", "purposes"],
            "additionalProperties": false,
            "properties": {
                "email": email_schema(),
                "purposes": {
                    "type": "object",
                    "description": "At most 16 KiB as JSON without spaces.",
                    "minProperties": 1,
                    "maxProperties": FIELDS_MAX,
                    "additionalProperties": { "type": "boolean" }
                },
                "source": { "type": "string", "maxLength": SOURCE_CHARS_MAX }
            }
        },
        {
            "type": "object",
            "required": ["analytics", "marketing"],
            "additionalProperties": false,
            "properties": { "analytics": { "type": "boolean" }, "marketing": { "type": "boolean" } }
        }
    ]);
    for form in forms.as_array_mut().expect("it is written so") {
        for name in added {
            form["properties"][name] = json!({ "type": "string" });
            form["required"].as_array_mut().expect("it is written so").push(json!(name));
        }
    }
    forms
}

/// The address of HTML forms, less the parts that nobody has: a local part, and a domain of at least two labels.
fn email_schema() -> Value {
    let pattern = "^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+([.][A-Za-z0-9-]+)+$";
    json!({ "type": "string", "maxLength": EMAIL_CHARS_MAX, "pattern": pattern, "examples": ["jo@example.com"] })
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let is_local = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let is_label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    text.len() <= EMAIL_CHARS_MAX
        && !local.is_empty()
        && local.chars().all(is_local)
        && domain.contains('.')
        && domain.split('.').all(is_label)
}

fn is_slug(text: &str) -> bool {
    (1..=FORM_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

fn optional_email(fields: &Map<String, Value>, param: &str) -> Result<(), Refusal> {
    match fields.get("email") {
        None => Ok(()),
        Some(Value::String(email)) if is_email(email) => Ok(()),
        Some(_) => Err(invalid_email(param)),
    }
}

fn invalid_email(param: &str) -> Refusal {
    Refusal::of(Code::InvalidEmail, param, format!("{param} must be an email address."))
}

fn known_members(content: &Map<String, Value>, known: &[&str]) -> Result<(), Refusal> {
    match content.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            Err(Refusal::of(Code::UnknownField, name.as_str(), format!("The members are {}.", known.join(", "))))
        }
    }
}

fn flat(fields: &Map<String, Value>, prefix: &str) -> Result<(), Refusal> {
    limits(fields, "fields")?;
    match fields.iter().find(|(_, value)| value.is_null() || value.is_array() || value.is_object()) {
        None => Ok(()),
        Some((name, value)) => Err(wrong_type(&format!("{prefix}{name}"), "a string, number or boolean", value)),
    }
}

fn limits(fields: &Map<String, Value>, param: &str) -> Result<(), Refusal> {
    if fields.len() > FIELDS_MAX {
        let message = format!("{param} may have at most {FIELDS_MAX} members, and has {}.", fields.len());
        return Err(Refusal::of(Code::PayloadTooLarge, param, message));
    }
    let bytes = serde_json::to_vec(fields).expect("JSON that was read can be written").len();
    if bytes > FIELDS_BYTES_MAX {
        let message = format!("{param} may have at most {FIELDS_BYTES_MAX} bytes as JSON, and has {bytes}.");
        return Err(Refusal::of(Code::PayloadTooLarge, param, message));
    }
    Ok(())
}

fn wrong_type(param: &str, right: &str, found: &Value) -> Refusal {
    let found = match found {
        Value::Null => "null, or absent",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Refusal::of(Code::InvalidValueType, param, format!("{param} must be {right}, and is {found}."))
}

fn or_null(value: Option<&Value>) -> &Value {
    value.unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `201`, or the code and the member that it is about.
    fn told(read: fn(&Map<String, Value>) -> Result<Value, Refusal>, content: &Value) -> String {
        match read(content.as_object().expect("an object")) {
            Ok(kept) => {
                assert_eq!(&kept, content, "what is on record is what was sent");
                "201".to_owned()
            }
            Err(refusal) => format!("{} {}", refusal.code.text(), refusal.param.unwrap_or_default()),
        }
    }

    #[test]
    fn what_an_enquiry_must_look_like() {
        let fields = |change: Value| {
            let mut fields = json!({ "consent": "yes" });
            fields.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            json!({ "form": "contact-us", "fields": fields })
        };
        let many: Map<String, Value> = (0..60).map(|n| (n.to_string(), json!(n))).collect();
        let cases = [
            (fields(json!({ "email": "jo@example.com", "n": 1.5e300, "u": "é\u{0}🦀", "b": false })), "201"),
            (json!({ "form": "a", "dept": "hardship", "fields": { "consent": "yes" } }), "201"),
            (json!({}), "form_required form"),
            (json!({ "form": null }), "form_required form"),
            (json!({ "form": "" }), "form_required form"),
            (json!({ "form": "Contact us" }), "form_required form"),
            (json!({ "form": "a\n" }), "form_required form"),
            (json!({ "form": "a".repeat(65) }), "form_required form"),
            (json!({ "form": 7 }), "invalid_value_type form"),
            (json!({ "form": "a", "dept": "sales" }), "invalid_dept dept"),
            (json!({ "form": "a", "dept": null }), "invalid_dept dept"),
            (json!({ "form": "a" }), "invalid_value_type fields"),
            (json!({ "form": "a", "fields": [] }), "invalid_value_type fields"),
            (json!({ "form": "a", "fields": {} }), "consent_required fields.consent"),
            (fields(json!({ "consent": true })), "consent_required fields.consent"),
            (fields(json!({ "consent": "YES" })), "consent_required fields.consent"),
            (fields(json!({ "a": null })), "invalid_value_type fields.a"),
            (fields(json!({ "a": { "b": 1 } })), "invalid_value_type fields.a"),
            (fields(json!({ "email": "x" })), "invalid_email fields.email"),
            (fields(json!({ "email": 1 })), "invalid_email fields.email"),
            (fields(json!({ "email": "jo@example.com\n" })), "invalid_email fields.email"),
            (fields(Value::Object(many)), "payload_too_large fields"),
            (fields(json!({ "message": "m".repeat(FIELDS_BYTES_MAX) })), "payload_too_large fields"),
            (json!({ "form": 7, "name": "Jo" }), "unknown_field name"),
        ];
        for (content, expected) in cases {
            assert_eq!(told(enquiry, &content), expected, "{content}");
        }
    }

    #[test]
    fn the_lenient_mode_takes_flat_enquiries_too() {
        let cases = [
            (json!({ "name": "Jo", "email": "jo@example.com", "message": "hi", "consent": true }), "201"),
            (json!({ "consent": "yes" }), "201"),
            (json!({ "form": "contact-us", "fields": { "consent": "yes" } }), "201"),
            (json!({ "form": "contact-us", "fields": {} }), "consent_required fields.consent"),
            (json!({ "name": "Jo", "consent": false }), "consent_required consent"),
            (json!({ "consent": true, "email": "x" }), "invalid_email email"),
            (json!({ "consent": true, "a": [] }), "invalid_value_type a"),
        ];
        for (content, expected) in cases {
            assert_eq!(told(lenient_enquiry, &content), expected, "{content}");
        }
    }

    #[test]
    fn what_a_consent_must_look_like() {
        let purposes = |purposes: Value| json!({ "email": "jo@example.com", "purposes": purposes });
        let cases = [
            (json!({ "email": "jo@example.com", "purposes": { "sms": false }, "source": "footer" }), "201"),
            (purposes(json!({ "sms": true })), "201"),
            (json!({ "analytics": true, "marketing": false }), "201"),
            (json!({ "analytics": true }), "invalid_value_type marketing"),
            (json!({ "analytics": "true", "marketing": false }), "invalid_value_type analytics"),
            (json!({ "analytics": true, "marketing": false, "email": "a@b.c" }), "unknown_field email"),
            (json!({}), "invalid_email email"),
            (json!({ "email": "jo@localhost" }), "invalid_email email"),
            (json!({ "email": "jo@example.com" }), "invalid_value_type purposes"),
            (purposes(json!({})), "invalid_value_type purposes"),
            (purposes(json!({ "sms": "NaN" })), "invalid_value_type purposes.sms"),
            (purposes(json!({ "s".repeat(20_000): true })), "payload_too_large purposes"),
            (json!({ "email": "a@b.c", "purposes": { "sms": true }, "source": 1 }), "invalid_value_type source"),
            (
                json!({ "email": "a@b.c", "purposes": { "sms": true }, "source": "é".repeat(201) }),
                "payload_too_large source",
            ),
        ];
        for (content, expected) in cases {
            assert_eq!(told(consent, &content), expected, "{content}");
        }
    }
}
