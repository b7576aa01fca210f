//! One user action: its key, its target and its exact bytes, none of which changes afterwards.

use std::{fmt, str::FromStr, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::CONTENT_TYPE};
use semel_core::{
    policy::Preset,
    retry::{Judgement, KeyPlace},
    wire::write_sf_string,
};

/// An idempotency key: 1 to [`Key::BYTES_MAX`] printable ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key(String);

/// Why a text is not a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Nothing, too long, or characters that no API takes.
    #[error("a key is 1 to {} printable ASCII characters and does not begin or end with a space", Key::BYTES_MAX)]
    Form,
    /// It counts attempts: every retry would be another operation (Q1).
    #[error(
        "the key ends with a number of attempts; every retry would be a new operation. Leave the number off, and send \
         the same key on every attempt"
    )]
    Counts,
}

/// Whether keys that end with a number of attempts are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CountedKeys {
    /// They are refused (L14).
    #[default]
    Refuse,
    /// They are taken: the caller knows that the number never changes.
    Allow,
}

impl Key {
    /// No key is longer, in bytes; the limit that most APIs have.
    pub const BYTES_MAX: usize = 255;

    /// A fresh UUID of version 7: by the time in it an API can tell a late retry. The default.
    pub fn v7() -> Key {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since_epoch.as_millis()).unwrap_or(0);
        let mut random = [0; 10];
        getrandom::fill(&mut random).expect("the system has randomness");
        Key(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string())
    }

    /// A fresh random UUID (version 4).
    pub fn v4() -> Key {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the system has randomness");
        Key(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
    }

    /// The key of the caller's own id, the same one every time: the UUID of version 5 (RFC 9562) of `own_id` in the
    /// namespace that is itself the version 5 of `urn:semel:operation` in the namespace of URLs.
    pub fn derived(own_id: &str) -> Key {
        let namespace = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, b"urn:semel:operation");
        Key(uuid::Uuid::new_v5(&namespace, own_id.as_bytes()).to_string())
    }

    /// A key of the caller's own making.
    pub fn given(text: &str, counted: CountedKeys) -> Result<Key, KeyError> {
        let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if text.is_empty() || text.len() > Key::BYTES_MAX || !printable || text.trim() != text {
            return Err(KeyError::Form);
        }
        if counted == CountedKeys::Refuse && counts_attempts(text) {
            return Err(KeyError::Counts);
        }
        Ok(Key(text.to_owned()))
    }

    /// As it was written down before.
    pub(crate) fn stored(text: String) -> Key {
        Key(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Key, KeyError> {
        Key::given(text, CountedKeys::Refuse)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `order-7-attempt-2`, `order_7_retry3`, `x.try.2`.
fn counts_attempts(text: &str) -> bool {
    let stem = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = text.len() - stem.len();
    let stem = stem.trim_end_matches(['-', '_', '.', ':', '#', '=']).to_ascii_lowercase();
    number > 0
        && ["attempt", "retry", "try"].iter().any(|word| {
            stem.strip_suffix(word).is_some_and(|rest| !rest.ends_with(|c: char| c.is_ascii_alphanumeric()))
        })
}

/// One user action. Everything that is sent for it, on the first attempt and on every other, is in here and is fixed;
/// credentials are not, they are the client's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    pub(crate) operation: String,
    pub(crate) key: Key,
    pub(crate) preset: Preset,
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Bytes,
    /// By this, two intents with one operation are the same one; a key that was minted does not count.
    pub(crate) fingerprint: [u8; 32],
    pub(crate) given_key: GivenKey,
}

/// Who chose the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GivenKey {
    /// The caller: another one for the same operation is a mistake.
    Yes,
    /// It was minted: an operation that is known already keeps the one that it has.
    No,
}

/// Why an intent cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntentError {
    /// Not an address.
    #[error("\"{0}\" is not an absolute http or https URL")]
    Target(String),
    /// The operation's own id.
    #[error("an operation's id is 1 to {} bytes without control characters", Intent::OPERATION_BYTES_MAX)]
    Operation,
    /// A header that cannot be one.
    #[error("the header {0} has a name or value that cannot be sent")]
    Header(String),
    /// A header that holds a secret: a journal must not keep it.
    #[error("{0} is a credential: give it to the client, so that it is not written to the journal")]
    Secret(String),
    /// A header that the key is sent in.
    #[error("{0} is where the key is sent; use .key(...)")]
    KeyHeader(String),
    /// Too much content.
    #[error("the content has {0} bytes, more than {max}", max = Intent::CONTENT_BYTES_MAX)]
    TooLarge(usize),
    /// The API takes the key in the content, and that is no JSON object.
    #[error("this API takes the key as the member {0} of a JSON object, and the content is none")]
    NotAnObject(String),
    /// The API takes the key in the content, and what is there is another one or not a text.
    #[error("the content's member {0} is not a text, or not the key that was given")]
    AnotherKey(String),
    /// The key in the content.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// An intent in the making.
#[derive(Clone, Debug)]
pub struct IntentBuilder {
    method: Method,
    target: String,
    operation: Option<String>,
    key: Option<Key>,
    counted: CountedKeys,
    preset: Preset,
    headers: Vec<(String, String)>,
    content: Bytes,
}

impl Intent {
    /// No content is larger (16 MiB).
    pub const CONTENT_BYTES_MAX: usize = 16 << 20;
    /// No operation's id is longer.
    pub const OPERATION_BYTES_MAX: usize = 255;

    /// A POST to this URL.
    pub fn post(target: impl Into<String>) -> IntentBuilder {
        Intent::request(Method::POST, target)
    }

    /// A request with this method.
    pub fn request(method: Method, target: impl Into<String>) -> IntentBuilder {
        IntentBuilder {
            method,
            target: target.into(),
            operation: None,
            key: None,
            counted: CountedKeys::Refuse,
            preset: Preset::Ietf,
            headers: Vec::new(),
            content: Bytes::new(),
        }
    }

    /// Its key, the same on every attempt.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The caller's own name for it; the key unless another one was given.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// What is sent.
    pub fn content(&self) -> &Bytes {
        &self.content
    }

    /// Where it is sent.
    pub fn target(&self) -> &Uri {
        &self.target
    }

    /// Whose answers these will be.
    pub fn preset(&self) -> Preset {
        self.preset
    }

    /// One attempt at it, without credentials. It borrows the intent, so it cannot have another key.
    pub(crate) fn attempt(&self, table: &Judgement) -> http::Request<Bytes> {
        let mut request = http::Request::new(self.content.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        if let KeyPlace::Header(name) = &table.route(self.target.path()).key {
            let name = HeaderName::from_str(name).expect("a table's header names are valid");
            request.headers_mut().insert(name, key_value(&self.key, self.preset));
        }
        request
    }
}

/// The draft says that the value is a structured-field String, in quotes (section 2.1); the vendors take it bare.
fn key_value(key: &Key, preset: Preset) -> HeaderValue {
    let text = match preset {
        Preset::Ietf => write_sf_string(key.as_str()).expect("a key is printable ASCII"),
        Preset::Stripe | Preset::Etherfuse | Preset::Credicorp | Preset::Yonne | Preset::Nora => key.0.clone(),
    };
    HeaderValue::from_str(&text).expect("a key is printable ASCII")
}

/// Whether a header by that name is a credential: one of the client's, never an intent's.
pub fn is_credential(name: &str) -> bool {
    HeaderName::from_str(name).is_ok_and(|name| is_secret(&name))
}

/// Whether a header by that name holds a secret, and so is the client's and never written down.
pub(crate) fn is_secret(name: &HeaderName) -> bool {
    let name = name.as_str();
    name != "idempotency-key"
        && ["authorization", "cookie", "token", "secret", "password", "api-key", "apikey", "signature"]
            .iter()
            .any(|word| name.contains(word))
}

impl IntentBuilder {
    /// The caller's own name for this action, such as an order's number: sent twice, it is one operation (L12).
    #[must_use]
    pub fn operation(self, id: impl Into<String>) -> IntentBuilder {
        IntentBuilder { operation: Some(id.into()), ..self }
    }

    /// With this key instead of a fresh one.
    #[must_use]
    pub fn key(self, key: Key) -> IntentBuilder {
        IntentBuilder { key: Some(key), ..self }
    }

    /// Whether a key in the content may count attempts.
    #[must_use]
    pub fn counted_keys(self, counted: CountedKeys) -> IntentBuilder {
        IntentBuilder { counted, ..self }
    }

    /// Whose API this is.
    #[must_use]
    pub fn preset(self, preset: Preset) -> IntentBuilder {
        IntentBuilder { preset, ..self }
    }

    /// With a header, such as `Accept`. Credentials are the client's.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> IntentBuilder {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a JSON content, byte for byte as it is given.
    #[must_use]
    pub fn json(self, content: impl Into<Bytes>) -> IntentBuilder {
        self.content("application/json", content)
    }

    /// With a content of this media type.
    #[must_use]
    pub fn content(mut self, media_type: &str, content: impl Into<Bytes>) -> IntentBuilder {
        self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(CONTENT_TYPE.as_str()));
        self.headers.push((CONTENT_TYPE.as_str().to_owned(), media_type.to_owned()));
        IntentBuilder { content: content.into(), ..self }
    }

    /// The intent; its key is minted here, and nowhere else.
    pub fn build(self) -> Result<Intent, IntentError> {
        let target: Uri = self.target.parse().map_err(|_| IntentError::Target(self.target.clone()))?;
        if !matches!(target.scheme_str(), Some("http" | "https")) || target.host().is_none_or(str::is_empty) {
            return Err(IntentError::Target(self.target));
        }
        let table = Judgement::preset(self.preset);
        let place = &table.route(target.path()).key;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || IntentError::Header(name.clone());
            let parsed = HeaderName::from_str(name).map_err(|_| wrong())?;
            if is_secret(&parsed) {
                return Err(IntentError::Secret(name.clone()));
            }
            if matches!(place, KeyPlace::Header(key) if key.eq_ignore_ascii_case(name)) {
                return Err(IntentError::KeyHeader(name.clone()));
            }
            headers.append(parsed, HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        if self.content.len() > Intent::CONTENT_BYTES_MAX {
            return Err(IntentError::TooLarge(self.content.len()));
        }
        let fingerprint = fingerprint(&self.method, &target, &headers, &self.content);
        let (key, given_key, content) = match place {
            KeyPlace::Header(_) => match self.key {
                Some(key) => (key, GivenKey::Yes, self.content),
                None => (Key::v7(), GivenKey::No, self.content),
            },
            KeyPlace::Member(pointer) => {
                let (key, given, content) =
                    key_in_content(pointer.as_str(), self.key, self.counted, self.preset, self.content)?;
                (key, given, content)
            }
        };
        let operation = self.operation.unwrap_or_else(|| key.0.clone());
        let control = operation.chars().any(char::is_control);
        if operation.is_empty() || operation.len() > Intent::OPERATION_BYTES_MAX || control {
            return Err(IntentError::Operation);
        }
        Ok(Intent {
            operation,
            key,
            preset: self.preset,
            method: self.method,
            target,
            headers,
            content,
            fingerprint,
            given_key,
        })
    }
}

/// The key that the content names; where it names none, one is minted and put first, every other byte as it was.
fn key_in_content(
    pointer: &str,
    given: Option<Key>,
    counted: CountedKeys,
    preset: Preset,
    content: Bytes,
) -> Result<(Key, GivenKey, Bytes), IntentError> {
    let object = serde_json::from_slice::<serde_json::Value>(&content).ok().filter(serde_json::Value::is_object);
    let object = object.ok_or_else(|| IntentError::NotAnObject(pointer.to_owned()))?;
    if let Some(there) = object.pointer(pointer) {
        let there = there.as_str().ok_or_else(|| IntentError::AnotherKey(pointer.to_owned()))?;
        if given.as_ref().is_some_and(|given| given.as_str() != there) {
            return Err(IntentError::AnotherKey(pointer.to_owned()));
        }
        return Ok((Key::given(there, counted)?, GivenKey::Yes, content));
    }
    // A member deeper down, or one that is not an id that a client may choose, must be there already.
    let name = pointer.strip_prefix('/').filter(|name| !name.contains('/') && preset == Preset::Etherfuse);
    let name = name.ok_or_else(|| IntentError::AnotherKey(pointer.to_owned()))?;
    let (key, given_key) = match given {
        Some(key) => (key, GivenKey::Yes),
        // E12: version 4.
        None => (Key::v4(), GivenKey::No),
    };
    let open = content.iter().position(|byte| *byte == b'{').expect("an object has an opening brace");
    let comma = if object.as_object().is_some_and(serde_json::Map::is_empty) { "" } else { "," };
    let member = serde_json::to_string(name).expect("a text always serialises");
    let value = serde_json::to_string(key.as_str()).expect("a text always serialises");
    let mut out = content[..=open].to_vec();
    out.extend_from_slice(format!("{member}:{value}{comma}").as_bytes());
    out.extend_from_slice(&content[open + 1..]);
    Ok((key, given_key, Bytes::from(out)))
}

fn fingerprint(method: &Method, target: &Uri, headers: &HeaderMap, content: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(method.as_str().as_bytes());
    part(target.to_string().as_bytes());
    let mut fields: Vec<(&str, &[u8])> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    fields.sort_unstable();
    for (name, value) in fields {
        part(name.as_bytes());
        part(value);
    }
    part(content);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l14_a_key_that_counts_attempts_is_refused() {
        for key in ["order-7-attempt-2", "order-7-Attempt2", "x_retry_3", "a.try.1", "attempt-1", "o:attempt:12"] {
            assert_eq!(Key::given(key, CountedKeys::Refuse), Err(KeyError::Counts), "{key}");
            assert!(Key::given(key, CountedKeys::Allow).is_ok(), "{key}");
        }
        for key in ["order-7", "country-7", "entry9", "attempt", "order-7-attempts", "reattempt-3", "2", "a-7-retry"] {
            assert!(Key::given(key, CountedKeys::Refuse).is_ok(), "{key}");
        }
    }

    #[test]
    fn a_key_has_a_form() {
        let long = "k".repeat(256);
        for key in ["", " k", "k ", "k\n", "kä", long.as_str()] {
            assert_eq!(key.parse::<Key>(), Err(KeyError::Form), "{key:?}");
        }
    }

    #[test]
    fn e12_keys_that_are_minted() {
        let version = |key: Key| uuid::Uuid::parse_str(key.as_str()).unwrap().get_version_num();
        assert_eq!((version(Key::v7()), version(Key::v4()), version(Key::derived("order-7"))), (7, 4, 5));
        assert_ne!(Key::v7(), Key::v7());
        assert_ne!(Key::v4(), Key::v4());
        // The documented derivation, as any other language computes it.
        assert_eq!(Key::derived("order-7").as_str(), "cdd80cc9-7962-524f-a2e1-a0a5c9ab9e88");
    }

    #[test]
    fn e2_the_key_of_a_create_is_in_its_content() {
        let order = |content: &'static str| {
            Intent::post("https://api.example/ramp/order").preset(Preset::Etherfuse).json(content)
        };
        let minted = order(r#" {"quoteId":"q"}"#).build().unwrap();
        let expected = format!(r#" {{"orderId":"{}","quoteId":"q"}}"#, minted.key());
        assert_eq!(minted.content(), expected.as_bytes());
        assert!(!minted.attempt(&Judgement::preset(Preset::Etherfuse)).headers().contains_key("idempotency-key"));
        let empty = order("{}").build().unwrap();
        assert_eq!(empty.content(), format!(r#"{{"orderId":"{}"}}"#, empty.key()).as_bytes());
        let given = order(r#"{"orderId":"o-1"}"#).build().unwrap();
        assert_eq!((given.key().as_str(), given.content().as_ref()), ("o-1", br#"{"orderId":"o-1"}"#.as_slice()));
        let member = || "/orderId".to_owned();
        assert_eq!(order("[]").build(), Err(IntentError::NotAnObject(member())));
        assert_eq!(order(r#"{"orderId":7}"#).build(), Err(IntentError::AnotherKey(member())));
        let another = order(r#"{"orderId":"o-1"}"#).key("o-2".parse().unwrap()).build();
        assert_eq!(another, Err(IntentError::AnotherKey(member())));
        assert_eq!(order(r#"{"orderId":"o-attempt-2"}"#).build(), Err(IntentError::Key(KeyError::Counts)));
    }

    #[test]
    fn q25_the_draft_quotes_its_keys_and_the_vendors_do_not() {
        for preset in Preset::ALL {
            let intent = Intent::post("http://api.example/x").preset(preset).key("a\"b".parse().unwrap()).json("{}");
            let request = intent.build().unwrap().attempt(&Judgement::preset(preset));
            let sent = request.headers()["idempotency-key"].to_str().unwrap();
            assert_eq!(sent, if preset == Preset::Ietf { r#""a\"b""# } else { "a\"b" });
        }
    }

    #[test]
    fn l16_secrets_are_not_an_intents() {
        for header in ["Authorization", "X-API-Key", "Cookie", "X-Auth-Token"] {
            let refused = Intent::post("http://api.example/x").header(header, "s").build();
            assert_eq!(refused, Err(IntentError::Secret(header.to_owned())));
        }
        let refused = Intent::post("http://api.example/x").header("Idempotency-Key", "k").build();
        assert_eq!(refused, Err(IntentError::KeyHeader("Idempotency-Key".to_owned())));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for target in ["", "/orders", "api.example", "ftp://api.example/", "http:///x", "http://"] {
            assert_eq!(Intent::post(target).build(), Err(IntentError::Target(target.to_owned())), "{target}");
        }
        assert_eq!(Intent::post("http://a/").operation("").build(), Err(IntentError::Operation));
        let large = Intent::post("http://a/").json(vec![b' '; Intent::CONTENT_BYTES_MAX + 1]).build();
        assert_eq!(large, Err(IntentError::TooLarge(Intent::CONTENT_BYTES_MAX + 1)));
    }
}
