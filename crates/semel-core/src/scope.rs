//! Whose key space a key lives in, and the name a store knows it by.

use std::fmt;

use crate::{
    key::Key,
    record::PRINCIPAL_LABEL_LEN,
    seal::{Opener, Seal, Sealing},
};

/// The secret that turns keys, principals and requests into digests which only its holder can recompute, and the sealing
/// secrets beside it.
///
/// Names made with another secret are other names: a key that is looked up under them counts as never seen. So this one is
/// for life, and only the sealing secrets can be exchanged ([`Secret::sealing_with`]).
#[derive(Clone)]
pub struct Secret {
    naming: [u8; 32],
    sealing: Sealing,
}

impl Secret {
    /// Wraps 32 bytes of randomness that the caller minted and keeps. They seal as well.
    pub fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret { naming: bytes, sealing: Sealing::one(&bytes) }
    }

    /// The same, with other sealing secrets than itself.
    #[must_use]
    pub fn sealing_with(self, sealing: Sealing) -> Secret {
        Secret { sealing, ..self }
    }

    /// The sealing secrets.
    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// What seals and opens this record.
    pub(crate) fn seal(&self, record: RecordKey, opener: Opener) -> Seal {
        Seal::new(&self.sealing, record, opener)
    }

    /// What two holders compare to learn whether they hold the same secret: it tells nothing else about it.
    ///
    /// A shared store keeps it, since gateways with different secrets would keep the same key under different names and
    /// each execute.
    pub fn check(&self) -> [u8; 32] {
        self.digest("semel secret check 1", &[])
    }

    pub(crate) fn digest(&self, domain: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        keyed_digest(&self.naming, domain, parts)
    }

    /// A digest of whose guard it is, its name and its canonical values.
    pub(crate) fn digest_of_guard(
        &self,
        domain: &'static str,
        principal: &Principal,
        name: &str,
        values: &[Vec<u8>],
    ) -> [u8; 32] {
        let mut parts: Vec<&[u8]> = vec![&principal.0, name.as_bytes()];
        parts.extend(values.iter().map(Vec::as_slice));
        self.digest(domain, &parts)
    }
}

/// A keyed digest over length-prefixed parts under a domain: no two lists of parts collide by being joined
/// (`peers.md` #43), and nobody without the key can guess a part from the digest.
pub(crate) fn keyed_digest(key: &[u8; 32], domain: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(domain.as_bytes());
    for bytes in parts {
        part(bytes);
    }
    *hasher.finalize().as_bytes()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who was found to be asking, by something better than a header's value: what makes a principal in its stead.
///
/// Nothing that was not verified is one: it would hand kept replies to a forger (`design.md` section 5).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Whom an operator gave this name; all their credentials are one principal, so that a credential may be rotated (SC6).
    Named(String),
    /// Whom this claim of a verified token names; two issuers may use one name for two people (RFC 7519 section 4.1.2).
    Claim {
        /// Who vouches for it.
        issuer: String,
        /// Which claim, as a JSON Pointer.
        claim: String,
        /// Its value.
        value: String,
    },
    /// The subject of a verified client certificate, as RFC 4514 writes it.
    Certificate(String),
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller(..)")
    }
}

/// Who is asking: the digest of the credentials that the policy names, or of a [`Caller`]. Callers without any share one
/// principal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal([u8; 32]);

impl Principal {
    /// Digests the values of the principal headers, in the policy's order; an absent header differs from an empty one.
    pub fn of<'a>(secret: &Secret, credentials: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Principal {
        let mut parts: Vec<&[u8]> = Vec::new();
        for (name, value) in credentials {
            if let Some(value) = value {
                parts.push(name.as_bytes());
                parts.push(value);
            }
        }
        Principal(secret.digest("semel principal 1", &parts))
    }

    /// Digests who was found to be asking. No caller of one kind is one of another, or somebody that headers name.
    pub fn of_caller(secret: &Secret, caller: &Caller) -> Principal {
        let parts: &[&[u8]] = match caller {
            Caller::Named(name) => &[b"named", name.as_bytes()],
            Caller::Claim { issuer, claim, value } => {
                &[b"claim", issuer.as_bytes(), claim.as_bytes(), value.as_bytes()]
            }
            Caller::Certificate(subject) => &[b"certificate", subject.as_bytes()],
        };
        Principal(secret.digest("semel principal of a caller 1", parts))
    }

    /// What operators see of it, in hexadecimal: it tells callers apart, and nothing else about them.
    pub fn label(&self) -> [u8; PRINCIPAL_LABEL_LEN] {
        *self.0.first_chunk().expect("a digest has 32 bytes")
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Principal(..)")
    }
}

/// Principal and operation: two requests with the same key are about the same thing only within one scope.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Who asks.
    pub principal: Principal,
    /// The method.
    pub method: &'a str,
    /// The normalised path ([`crate::admit::normalise_path`]), so that `/orders/1` and `/orders/2` are two operations
    /// (`peers.md` #20); of an id that a client supplies, the path of the resource that it names
    /// ([`crate::policy::RoutePolicy::resource`]). The route's own template is left out: an operator who renames it, or puts another route in front,
    /// must not forget the keys that live.
    pub path: &'a str,
}

/// The name of a record in a store: a keyed digest of scope and key, so that a store never sees either.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey([u8; RecordKey::LEN]);

impl RecordKey {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// Digests scope and key.
    pub fn of(secret: &Secret, scope: &Scope<'_>, key: &Key) -> RecordKey {
        let parts: [&[u8]; 5] =
            [&scope.principal.0, scope.method.as_bytes(), scope.path.as_bytes(), key.kind().as_bytes(), key.as_bytes()];
        RecordKey(secret.digest("semel record key 1", &parts))
    }

    /// Digests whose guard it is, its name and its canonical values. Its domain keeps it apart from every record.
    pub(crate) fn of_guard(secret: &Secret, principal: &Principal, name: &str, values: &[Vec<u8>]) -> RecordKey {
        RecordKey(secret.digest_of_guard("semel guard 1", principal, name, values))
    }

    /// A key for work that follows from this record, as a UUID of version 8 (RFC 9562 section 5.8): the same for the same
    /// record and label, and nobody who sees it learns anything of the record.
    ///
    /// Work that a transaction leaves to be done elsewhere is done under such a key, so that doing it again is a retry
    /// (`peers.md` #48).
    pub fn derived(&self, label: &str) -> String {
        let digest = keyed_digest(&self.0, "semel derived key 1", &[label.as_bytes()]);
        let (bytes, _) = digest.split_first_chunk::<16>().expect("a digest has 32 bytes");
        uuid::Builder::from_custom_bytes(*bytes).into_uuid().to_string()
    }

    /// For stores, which read back what they wrote.
    pub const fn from_bytes(bytes: [u8; RecordKey::LEN]) -> RecordKey {
        RecordKey(bytes)
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; RecordKey::LEN] {
        &self.0
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKey({:02x}{:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_key_is_a_uuid_of_its_record_and_label() {
        let key = RecordKey::from_bytes([7; RecordKey::LEN]);
        let charge = key.derived("charge");
        assert_eq!(charge, key.derived("charge"));
        assert_ne!(charge, key.derived("refund"));
        assert_ne!(charge, RecordKey::from_bytes([8; RecordKey::LEN]).derived("charge"));
        assert_eq!(uuid::Uuid::parse_str(&charge).unwrap().get_version_num(), 8);
    }
}
