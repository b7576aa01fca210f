//! Seals: what a store keeps of a reply can be read only by whoever has a sealing secret and the idempotency key.
//!
//! A record is sealed under a key of its own: a keyed digest of the sealing secret over the record's key and its
//! [`Opener`], which is a digest of the idempotency key that no store ever sees. So whoever steals a store reads nothing,
//! and whoever steals the secrets as well still needs each client's key.
//!
//! The cipher is XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03). Its nonce is the stamp of the write: a stamp never
//! repeats, so no nonce repeats under one key. The nonce is kept with the bytes, since a record may be written again as it
//! is under another stamp. What stands in the clear beside the bytes, which record it is, its fingerprint and its status,
//! is authenticated with them.

use std::{fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce, aead::AeadInOut};

use crate::{
    key::Key,
    record::{DecodeError, Kept, Phase, Place, Reader, Record, Reply, Sealed, Stamp, put_len},
    register::Put,
    scope::{Principal, RecordKey, Secret, keyed_digest},
};

/// How many sealing secrets there may be: one that seals, and those before it.
pub const SEALING_SECRETS_MAX: usize = 16;

/// Which sealing secret something is sealed with: it stands in the clear before the sealed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; KeyId::LEN]);

impl KeyId {
    /// Its length in bytes.
    const LEN: usize = 4;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The sealing secrets: the first seals, and all of them open.
#[derive(Clone)]
pub struct Sealing(Arc<[SealingSecret]>);

struct SealingSecret {
    id: KeyId,
    key: [u8; 32],
}

impl Sealing {
    /// Makes sealing secrets of these secrets, of which the first is to seal.
    pub fn of(secrets: &[[u8; 32]]) -> Result<Sealing, SealingError> {
        if secrets.is_empty() || secrets.len() > SEALING_SECRETS_MAX {
            return Err(SealingError::Count(secrets.len()));
        }
        let sealing: Vec<SealingSecret> = secrets.iter().map(SealingSecret::of).collect();
        for (n, secret) in sealing.iter().enumerate() {
            if let Some(earlier) = sealing[..n].iter().position(|earlier| earlier.id == secret.id) {
                return Err(SealingError::Same { first: earlier + 1, second: n + 1 });
            }
        }
        Ok(Sealing(sealing.into()))
    }

    pub(crate) fn one(secret: &[u8; 32]) -> Sealing {
        Sealing([SealingSecret::of(secret)].into())
    }

    /// Which of them seals.
    pub fn key_id(&self) -> KeyId {
        self.0[0].id
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|secret| secret.id)).finish()
    }
}

impl SealingSecret {
    fn of(secret: &[u8; 32]) -> SealingSecret {
        let id = keyed_digest(secret, "semel key id 1", &[]);
        let id = KeyId(*id.first_chunk().expect("a digest has 32 bytes"));
        SealingSecret { id, key: keyed_digest(secret, "semel sealing secret 1", &[]) }
    }
}

/// Why these are no sealing secrets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealingError {
    /// None, or too many.
    #[error("there must be 1 to {SEALING_SECRETS_MAX} sealing secrets, and there are {0}")]
    Count(usize),
    /// One stands there twice.
    #[error("the sealing secrets {first} and {second} are the same")]
    Same {
        /// Which, from 1.
        first: usize,
        /// And which.
        second: usize,
    },
}

/// What opens a record beside a sealing secret: who does not know the idempotency key, or the values of a guard, cannot
/// make it. No store sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opener([u8; 32]);

impl Opener {
    /// Of the record that a key names.
    pub(crate) fn of(secret: &Secret, record: &RecordKey, key: &Key) -> Opener {
        let parts: [&[u8]; 3] = [record.as_bytes(), key.kind().as_bytes(), key.as_bytes()];
        Opener(secret.digest("semel opener 1", &parts))
    }

    /// Of a guard. Whoever meets it has the same values, or they would not have met.
    pub(crate) fn of_guard(secret: &Secret, principal: &Principal, name: &str, values: &[Vec<u8>]) -> Opener {
        Opener(secret.digest_of_guard("semel guard opener 1", principal, name, values))
    }

    /// For a model, which has no secrets.
    #[cfg(test)]
    pub(crate) fn none() -> Opener {
        Opener([0; 32])
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

/// What seals and opens one record.
#[derive(Clone, Debug)]
pub struct Seal {
    sealing: Sealing,
    record: RecordKey,
    opener: Opener,
}

/// Why something sealed was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unopened {
    /// It was sealed with a secret that is not here. It stays sealed, which means that its reply is gone.
    #[error("it is sealed with the secret {0}, which is none of the sealing secrets")]
    UnknownSecret(KeyId),
    /// The secret is here, and the bytes or what stands beside them are not what was sealed.
    #[error("it is not what was sealed")]
    Damaged,
}

impl Seal {
    pub(crate) fn new(sealing: &Sealing, record: RecordKey, opener: Opener) -> Seal {
        Seal { sealing: sealing.clone(), record, opener }
    }

    /// The seal of another record, by the same sealing secrets.
    #[must_use]
    pub fn of_other(&self, record: RecordKey, opener: Opener) -> Seal {
        Seal::new(&self.sealing, record, opener)
    }

    /// Seals what of a record is nobody's business but its caller's. `again` tells apart what is written under one stamp
    /// after an earlier try was undone, as a transaction does; sealing the same thing twice is never told apart.
    pub fn close(&self, put: &mut Put, again: u32) {
        let fingerprint = *put.record.fingerprint.as_bytes();
        let nonce = nonce(put.stamp, again);
        match &mut put.record.phase {
            Phase::Completed { kept: kept @ Kept::Reply(_), .. } => {
                let Kept::Reply(reply) = &*kept else { unreachable!("it just was one") };
                let status = reply.status;
                let mut out = self.begin(&nonce, encoded_len(reply));
                encode(reply, &mut out);
                let bytes = self.encrypt(&nonce, &self.beside(b"reply", &fingerprint, &status.to_le_bytes()), out);
                *kept = Kept::Sealed(Sealed { status, bytes });
            }
            Phase::Held { owner, resource: Some(place @ Place::Path(_)) } => {
                let Place::Path(path) = &*place else { unreachable!("it just was one") };
                let mut out = self.begin(&nonce, path.len());
                out.put_slice(path.as_bytes());
                *place =
                    Place::Sealed(self.encrypt(&nonce, &self.beside(b"place", &fingerprint, owner.as_bytes()), out));
            }
            Phase::Completed { kept: Kept::Sealed(_) | Kept::Omitted { .. }, .. }
            | Phase::Held { resource: Some(Place::Sealed(_)) | None, .. }
            | Phase::InFlight { .. }
            | Phase::Unknown => {}
        }
    }

    /// Opens what [`Seal::close`] sealed. After an `Err` the record is as it was.
    pub fn open(&self, record: &mut Record) -> Result<(), Unopened> {
        let fingerprint = *record.fingerprint.as_bytes();
        match &mut record.phase {
            Phase::Completed { kept: kept @ Kept::Sealed(_), .. } => {
                let Kept::Sealed(Sealed { status, bytes }) = &*kept else { unreachable!("it just was sealed") };
                let content = self.decrypt(&self.beside(b"reply", &fingerprint, &status.to_le_bytes()), bytes)?;
                let reply = decode(*status, content).map_err(|_| Unopened::Damaged)?;
                *kept = Kept::Reply(Arc::new(reply));
            }
            Phase::Held { owner, resource: Some(place @ Place::Sealed(_)) } => {
                let Place::Sealed(bytes) = &*place else { unreachable!("it just was sealed") };
                let path = self.decrypt(&self.beside(b"place", &fingerprint, owner.as_bytes()), bytes)?;
                *place = Place::Path(String::from_utf8(path.into()).map_err(|_| Unopened::Damaged)?);
            }
            Phase::Completed { kept: Kept::Reply(_) | Kept::Omitted { .. }, .. }
            | Phase::Held { resource: Some(Place::Path(_)) | None, .. }
            | Phase::InFlight { .. }
            | Phase::Unknown => {}
        }
        Ok(())
    }

    fn cipher(&self, secret: &SealingSecret) -> XChaCha20Poly1305 {
        let key = keyed_digest(&secret.key, "semel seal 1", &[self.record.as_bytes(), &self.opener.0]);
        XChaCha20Poly1305::new(&key.into())
    }

    /// What is authenticated beside the bytes. All parts but the first have one length for each first part.
    fn beside(&self, what: &[u8], fingerprint: &[u8; 32], with: &[u8]) -> Vec<u8> {
        [what, self.record.as_bytes(), fingerprint, with].concat()
    }

    /// The bytes before the sealed ones, in a buffer that has room for `len` of those.
    fn begin(&self, nonce: &XNonce, len: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(HEAD_LEN + len + TAG_LEN);
        out.put_slice(&self.sealing.key_id().0);
        out.put_slice(nonce);
        out
    }

    fn encrypt(&self, nonce: &XNonce, beside: &[u8], mut out: BytesMut) -> Bytes {
        let cipher = self.cipher(&self.sealing.0[0]);
        let tag = cipher
            .encrypt_inout_detached(nonce, beside, (&mut out[HEAD_LEN..]).into())
            .expect("limits of the policy keep replies far below the cipher's 256 GiB");
        out.put_slice(&tag);
        out.freeze()
    }

    fn decrypt(&self, beside: &[u8], bytes: &Bytes) -> Result<Bytes, Unopened> {
        let (head, rest) = bytes.split_at_checked(HEAD_LEN).ok_or(Unopened::Damaged)?;
        let (id, nonce) = head.split_first_chunk::<{ KeyId::LEN }>().expect("a head is longer than a key id");
        let nonce: [u8; NONCE_LEN] = nonce.try_into().expect("the rest of a head is a nonce");
        let (sealed, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Unopened::Damaged)?;
        let secret = self.sealing.0.iter().find(|secret| secret.id.0 == *id);
        let secret = secret.ok_or(Unopened::UnknownSecret(KeyId(*id)))?;
        let mut content = BytesMut::from(sealed);
        self.cipher(secret)
            .decrypt_inout_detached(&nonce.into(), beside, (&mut content[..]).into(), &Tag::from(*tag))
            .map_err(|_| Unopened::Damaged)?;
        Ok(content.freeze())
    }
}

const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
/// Before the sealed bytes: which secret, and the nonce.
const HEAD_LEN: usize = KeyId::LEN + NONCE_LEN;

fn nonce(stamp: Stamp, again: u32) -> XNonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..16].copy_from_slice(&stamp.exchange.0.to_be_bytes());
    nonce[16..18].copy_from_slice(&stamp.write.to_be_bytes());
    nonce[18..22].copy_from_slice(&again.to_be_bytes());
    nonce.into()
}

fn encoded_len(reply: &Reply) -> usize {
    let headers: usize = reply.headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
    8 + headers + reply.content.len()
}

/// All of a reply but its status, which stands beside it.
fn encode(reply: &Reply, out: &mut BytesMut) {
    put_len(out, reply.headers.len());
    for (name, value) in &reply.headers {
        put_len(out, name.len());
        out.put_slice(name);
        put_len(out, value.len());
        out.put_slice(value);
    }
    put_len(out, reply.content.len());
    out.put_slice(&reply.content);
}

/// Reads what [`encode`] wrote. Header fields and content share `bytes` without copying.
fn decode(status: u16, bytes: Bytes) -> Result<Reply, DecodeError> {
    let mut r = Reader(bytes);
    let count = r.u32()? as usize;
    // Every field line takes at least its two lengths, so a wild count fails before it allocates.
    if count > r.0.len() / 8 {
        return Err(DecodeError::Malformed("header count"));
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push((r.run()?, r.run()?));
    }
    let content = r.run()?;
    if r.0.is_empty() { Ok(Reply { status, headers, content }) } else { Err(DecodeError::Malformed("trailing bytes")) }
}

#[cfg(test)]
mod tests;
