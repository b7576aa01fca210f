//! The idempotency key: where a route finds it, what form it must have, and its canonical form.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::wire::{SfStringError, read_sf_string, write_sf_string};

/// Where the key of a route is, and what identifies the operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyRule {
    /// A request header (the draft's dialect).
    Header {
        /// Its name, `Idempotency-Key` unless configured.
        name: HeaderName,
        /// Which values are keys.
        grammar: Grammar,
        /// How the value may be written.
        form: Form,
        /// Whether a request without it is refused or passed through.
        presence: Presence,
        /// What an attempt number at the end of the key means.
        attempt_suffix: AttemptSuffix,
        /// How the origin is sent it.
        sent: Sent,
    },
    /// A member of the JSON content: a client-supplied resource id (E2).
    Member {
        /// Where in the content.
        pointer: Pointer,
        /// Which values are keys.
        grammar: Grammar,
        /// Whether a request without it is refused or passed through.
        presence: Presence,
    },
    /// The operation itself, that is its resolved path: a slot that is filled once (E38). The fingerprint says with what.
    Operation,
}

/// Which texts are keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grammar {
    /// 1 to `key_bytes_max` printable ASCII characters.
    #[default]
    Any,
    /// A UUID of any version (RFC 9562).
    Uuid,
    /// A UUID of version 4 (E12).
    UuidV4,
    /// A UUID of version 7, whose time tells when it was minted: one minted longer ago than keys are remembered is
    /// refused as too late (draft section 2.3, conformance X5).
    UuidV7,
}

/// How a header value may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Quoted as the draft demands, or bare as nearly everybody sends it; the same characters are the same key.
    #[default]
    Lenient,
    /// Only quoted (draft section 2.1).
    Strict,
}

/// Whether a key must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// A request without a key passes through, unprotected and marked so.
    #[default]
    Optional,
    /// A request without a key is refused (draft section 2.7).
    Required,
}

/// What an attempt number at the end of a key means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptSuffix {
    /// Nothing: it is part of the key.
    #[default]
    Literal,
    /// `<stem>-attempt-<n>` is looked up by its stem, so that a client that counts its attempts in the key still has one
    /// operation (Q1); it is warned.
    Stem,
}

/// How the key of a header is sent on to the origin.
///
/// One key has several spellings: quoted or bare, a UUID in capitals, an attempt number that does not count. Here they are
/// one; an origin that knows keys by their characters takes them for several, and its effect would happen again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sent {
    /// Byte for byte as the client sent it.
    AsReceived,
    /// The canonical form without quotes, as nearly every API expects it. A key with a space, comma or quote is quoted
    /// nevertheless.
    Bare,
    /// The canonical form as a structured-field string (draft section 2.1).
    Quoted,
}

/// A JSON Pointer (RFC 6901) to a member, such as `/orderId`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Pointer(String);

impl Pointer {
    /// Its reference tokens, unescaped.
    pub fn tokens(&self) -> impl Iterator<Item = String> + '_ {
        self.0.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// To what it is a member of; `None`: to the whole content.
    pub(crate) fn parent(&self) -> Option<Pointer> {
        let (parent, _) = self.0.rsplit_once('/').expect("a pointer begins with a slash");
        (!parent.is_empty()).then(|| Pointer(parent.to_owned()))
    }
}

impl std::str::FromStr for Pointer {
    type Err = String;
    fn from_str(text: &str) -> Result<Pointer, String> {
        let escapes_valid = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        if text.starts_with('/') && escapes_valid {
            Ok(Pointer(text.to_owned()))
        } else {
            Err(format!("expected a JSON Pointer (RFC 6901) such as \"/orderId\", found \"{text}\""))
        }
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pointer, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A key in its canonical form. Made only by reading one, so a value of this type has the route's form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    kind: Kind,
    text: String,
    is_stem: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Header,
    Member,
    Operation,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A log never shows a key.
        f.write_str("Key(..)")
    }
}

/// Why a key is not one. The texts are shown to the caller and never repeat the key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Two field lines, or a list in one.
    #[error("more than one key was sent; send one header field with one value")]
    Several,
    /// Nothing, or only spaces.
    #[error("the key is empty")]
    Empty,
    /// Over `key_bytes_max`.
    #[error("the key has {bytes} bytes, and at most {bytes_max} are allowed")]
    TooLong {
        /// What was sent.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A control character, a non-ASCII byte, or an unquoted space, comma or quote.
    #[error(
        "the key may hold printable ASCII characters only, and spaces, commas and quotes only inside a quoted string"
    )]
    Characters,
    /// Not a structured-field String.
    #[error("the key is not a structured-field string: {0}")]
    Quoting(#[from] SfStringError),
    /// Bare on a route that demands quotes.
    #[error(
        "the key must be a quoted structured-field string (draft-ietf-httpapi-idempotency-key-header-07 section 2.1)"
    )]
    NotQuoted,
    /// Not of the grammar.
    #[error("the key must be {0}")]
    Grammar(&'static str),
    /// The content is not JSON, or the member is absent, or not a string.
    #[error("the member {0} of the JSON content must be there, and a string")]
    Member(String),
}

impl Key {
    /// Reads the header field `name`: `Ok(None)` when there is none.
    ///
    /// Two field lines are an error, not a choice of the first (`peers.md` #33), and whatever cannot be read is an error,
    /// never "no key": it would execute unprotected (`peers.md` #41).
    pub fn from_header(
        headers: &HeaderMap,
        name: &HeaderName,
        grammar: Grammar,
        form: Form,
        attempt_suffix: AttemptSuffix,
        key_bytes_max: usize,
    ) -> Result<Option<Key>, KeyError> {
        let mut lines = headers.get_all(name).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(KeyError::Several);
        }
        let value = line.as_bytes().trim_ascii();
        let text = match value.first() {
            None => return Err(KeyError::Empty),
            Some(b'"') => read_sf_string(value)?,
            Some(_) if form == Form::Strict => return Err(KeyError::NotQuoted),
            // A comma is how a proxy joins two field lines (RFC 9110 section 5.2).
            Some(_) if value.contains(&b',') => return Err(KeyError::Several),
            Some(_) if value.iter().all(|b| b.is_ascii_graphic() && *b != b'"') => {
                String::from_utf8(value.to_vec()).expect("ASCII is UTF-8")
            }
            Some(_) => return Err(KeyError::Characters),
        };
        let key = Key::canonical(Kind::Header, text, grammar, key_bytes_max)?;
        Ok(Some(match attempt_suffix {
            AttemptSuffix::Literal => key,
            AttemptSuffix::Stem => key.into_stem(),
        }))
    }

    /// Takes the text of a member of the content as the key.
    pub(crate) fn from_member(text: String, grammar: Grammar, key_bytes_max: usize) -> Result<Key, KeyError> {
        Key::canonical(Kind::Member, text, grammar, key_bytes_max)
    }

    /// The operation itself.
    pub(crate) fn operation() -> Key {
        Key { kind: Kind::Operation, text: String::new(), is_stem: false }
    }

    /// The key without `-attempt-<n>`, if that is how it ends.
    fn into_stem(self) -> Key {
        let stem = self.text.rsplit_once("-attempt-").filter(|(stem, number)| {
            !stem.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        });
        match stem {
            Some((stem, _)) => Key { kind: self.kind, text: stem.to_owned(), is_stem: true },
            None => self,
        }
    }

    /// Whether the key was sent with an attempt number that was taken off.
    pub fn is_stem(&self) -> bool {
        self.is_stem
    }

    /// The key as text, for the address of the resource that a client-supplied id names.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    fn canonical(kind: Kind, text: String, grammar: Grammar, key_bytes_max: usize) -> Result<Key, KeyError> {
        if text.trim().is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > key_bytes_max {
            return Err(KeyError::TooLong { bytes: text.len(), bytes_max: key_bytes_max });
        }
        if !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            return Err(KeyError::Characters);
        }
        let uuid = uuid::Uuid::try_parse(&text).ok();
        let version = uuid.map(|uuid| uuid.get_version_num());
        match (grammar, version) {
            (Grammar::Any, _) | (Grammar::Uuid, Some(_)) | (Grammar::UuidV4, Some(4)) | (Grammar::UuidV7, Some(7)) => {}
            (Grammar::Uuid, _) => return Err(KeyError::Grammar("a UUID")),
            (Grammar::UuidV4, _) => return Err(KeyError::Grammar("a UUID of version 4")),
            (Grammar::UuidV7, _) => return Err(KeyError::Grammar("a UUID of version 7")),
        }
        // One UUID is one key however it is spelled: case, braces, urn (Q25). Whoever sends the same one in two
        // spellings for two operations is told key-reused, not given a second effect.
        let text = uuid.map_or(text, |uuid| uuid.hyphenated().to_string());
        Ok(Key { kind, text, is_stem: false })
    }

    /// The field value by which an origin is sent this key; `None`: whatever the client sent.
    pub(crate) fn to_send(&self, sent: Sent) -> Option<HeaderValue> {
        let is_plain = self.text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b','));
        let value = match sent {
            Sent::AsReceived => return None,
            Sent::Bare if is_plain => self.text.clone(),
            Sent::Bare | Sent::Quoted => write_sf_string(&self.text).expect("a key is printable ASCII"),
        };
        Some(HeaderValue::try_from(value).expect("printable ASCII is a field value"))
    }

    /// When the key was minted, as time since the Unix epoch, if it is a UUID of version 7.
    pub fn minted_at(&self) -> Option<Duration> {
        let (seconds, nanos) = uuid::Uuid::try_parse(&self.text).ok()?.get_timestamp()?.to_unix();
        Some(Duration::new(seconds, nanos))
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Header => "header",
            Kind::Member => "member",
            Kind::Operation => "operation",
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}
