//! An issuer of tokens, with keys that live as long as the test program.

use std::{
    process::Command,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
        RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

/// Whose tokens they are.
pub(crate) const ISSUER: &str = "https://login.example.com/";
/// For whom.
pub(crate) const AUDIENCE: &str = "https://api.example.com";

/// A key to sign with, under the name that a key set has it by.
pub(crate) enum Key {
    /// RS256, or PS256 where a header says so.
    Rsa(&'static str, RsaKeyPair),
    /// ES256.
    Ec(&'static str, EcdsaKeyPair),
    /// HS256, or HS512 where a header says so, with these bytes.
    Secret(Vec<u8>),
}

impl Key {
    /// Makes a new one. OpenSSL does it, since ring makes no RSA keys.
    pub(crate) fn rsa(kid: &'static str) -> Key {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"])
            .output()
            .expect("openssl is needed to make keys: install it, for example with `apt-get install openssl`");
        // Its versions differ in which of the two they write.
        let key = RsaKeyPair::from_pkcs8(&made.stdout).or_else(|_| RsaKeyPair::from_der(&made.stdout));
        Key::Rsa(kid, key.expect("a key of RSA"))
    }

    /// Makes a new one.
    pub(crate) fn ec(kid: &'static str) -> Key {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random);
        Key::Ec(kid, key.expect("a key of P-256"))
    }

    /// What a key set says of it (RFC 7517).
    pub(crate) fn public(&self) -> Value {
        match self {
            Key::Rsa(kid, key) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                let (n, e) = (encoded(&parts.n), encoded(&parts.e));
                json!({ "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": n, "e": e })
            }
            Key::Ec(kid, key) => {
                // An uncompressed point: 4, x, y.
                let point = key.public_key().as_ref();
                let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
                json!({ "kty": "EC", "kid": kid, "crv": "P-256", "x": x, "y": y })
            }
            Key::Secret(bytes) => json!({ "kty": "oct", "k": encoded(bytes) }),
        }
    }

    /// A token that it signed, with a header that is true.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = match self {
            Key::Rsa(kid, _) => json!({ "alg": "RS256", "typ": "JWT", "kid": kid }),
            Key::Ec(kid, _) => json!({ "alg": "ES256", "typ": "JWT", "kid": kid }),
            Key::Secret(_) => json!({ "alg": "HS256", "typ": "JWT" }),
        };
        self.sign_as(&header, claims)
    }

    /// The same with any header.
    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let random = SystemRandom::new();
        let signature = match self {
            Key::Rsa(_, key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let padding: &dyn RsaEncoding =
                    if header["alg"] == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                key.sign(padding, &random, message.as_bytes(), &mut signature).expect("it signs");
                signature
            }
            Key::Ec(_, key) => key.sign(&random, message.as_bytes()).expect("it signs").as_ref().to_vec(),
            Key::Secret(bytes) => {
                let digest = if header["alg"] == "HS512" { hmac::HMAC_SHA512 } else { hmac::HMAC_SHA256 };
                hmac::sign(&hmac::Key::new(digest, bytes), message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", encoded(&signature))
    }
}

/// Header and claims of a token, without a signature.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()))
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Claims that are good for an hour.
pub(crate) fn claims(subject: &str) -> Value {
    json!({ "iss": ISSUER, "aud": [AUDIENCE, "another"], "sub": subject, "exp": seconds() + 3_600 })
}

/// The time of now, in seconds since the epoch.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// A key set (RFC 7517 section 5).
pub(crate) fn key_set(keys: &[&Key]) -> String {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() }).to_string()
}

/// The issuer's key of RSA: made once, since that takes a while.
pub(crate) static RSA: LazyLock<Key> = LazyLock::new(|| Key::rsa("rsa-1"));
/// Its key of an elliptic curve.
pub(crate) static EC: LazyLock<Key> = LazyLock::new(|| Key::ec("ec-1"));
