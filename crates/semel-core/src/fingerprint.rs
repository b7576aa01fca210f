//! The draft's fingerprint: a digest of the request, to tell a retry from another request under the same key.

use std::fmt;

use crate::{key::Pointer, scope::Secret};

mod json;
pub(crate) use json::{Document, Member, Value, one_number, string_member};

/// A keyed digest of one request. Equal only if every part that the rule counts is equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; Fingerprint::LEN]);

impl Fingerprint {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// For stores and tests, which read back what was written.
    pub const fn from_bytes(bytes: [u8; Fingerprint::LEN]) -> Fingerprint {
        Fingerprint(bytes)
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; Fingerprint::LEN] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// What of the content counts. Method, normalised path, query, content type and content encoding always do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FingerprintRule {
    /// Every byte of the content, as it was sent (draft section 2.4). Bytes are compared, not texts, so contents that
    /// are not UTF-8 stay different (`peers.md` #12).
    Raw,
    /// The JSON value: white space and the order of members do not count; numbers are compared exactly (Q14,
    /// `peers.md` #17), duplicate members stay apart (`peers.md` #13). Content that is not JSON is compared as bytes.
    Json {
        /// Members that do not count, such as `/client_timestamp` (conformance H20).
        volatile: Vec<Pointer>,
    },
    /// Only these members of the JSON content; content that is not JSON is compared as bytes.
    Members(Vec<Pointer>),
}

/// What a fingerprint is made of.
pub(crate) struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    pub content: &'a [u8],
}

impl Fingerprint {
    /// Digests a request by a rule. The rule's own name is part of it, so raw bytes never equal a JSON value.
    pub(crate) fn of(secret: &Secret, rule: &FingerprintRule, request: &Request<'_>) -> Fingerprint {
        let canonical = match rule {
            FingerprintRule::Raw => None,
            FingerprintRule::Json { volatile } => json::canonical_without(request.content, volatile),
            FingerprintRule::Members(pointers) => json::canonical_members(request.content, pointers),
        };
        let (form, content) = match (&canonical, rule) {
            (None, _) => ("raw", request.content),
            (Some(canonical), FingerprintRule::Members(_)) => ("members", canonical.as_slice()),
            (Some(canonical), FingerprintRule::Json { .. } | FingerprintRule::Raw) => ("json", canonical.as_slice()),
        };
        Fingerprint(secret.digest(
            "semel fingerprint 1",
            &[
                request.method.as_bytes(),
                request.path.as_bytes(),
                if request.query.is_some() { b"?" } else { b"" },
                request.query.unwrap_or_default().as_bytes(),
                request.content_type.unwrap_or_default(),
                request.content_encoding.unwrap_or_default(),
                form.as_bytes(),
                content,
            ],
        ))
    }
}
