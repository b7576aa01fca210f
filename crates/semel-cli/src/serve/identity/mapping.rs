//! The file that gives several credentials one principal, so that a credential can be rotated and keeps its history (SC6).
//!
//! ```toml
//! [principals]
//! "acme" = ["sha256:<64 hexadecimal digits>", "sha256:..."]   # printf %s 'Bearer sk_1' | sha256sum
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::File,
    io::Read as _,
    ops::Range,
    path::Path,
    sync::Arc,
};

use ring::digest::{SHA256, digest};
use semel_core::scope::Caller;
use serde::Deserialize;
use toml::Spanned;

use crate::config::ConfigError;

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The longest name, in characters.
const NAME_CHARS_MAX: usize = 200;

/// Principals by the SHA-256 of their credentials: the file of a gateway has nothing that lets anybody in.
#[derive(Default)]
pub(super) struct Mapping(HashMap<[u8; 32], Arc<str>>);

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} credentials)", self.0.len())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    principals: BTreeMap<Spanned<String>, Vec<Spanned<String>>>,
}

impl Mapping {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Mapping, ConfigError> {
        let wrong =
            |why: &dyn fmt::Display| ConfigError::new(format!("identity.mapping_file = \"{}\": {why}", path.display()));
        let mut text = String::new();
        let file = File::open(path).map_err(|error| wrong(&error))?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(&format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        Mapping::parse(&path.display().to_string(), &text)
    }

    fn parse(name: &str, text: &str) -> Result<Mapping, ConfigError> {
        let complain = |span, message: &str| complaint(name, text, span, message);
        let document: Document =
            toml::from_str(text).map_err(|error| complain(error.span(), &without_texts(error.message())))?;
        let mut mapping = HashMap::new();
        for (principal, credentials) in document.principals {
            let known = principal.get_ref();
            let is_name = !known.trim().is_empty() && known.chars().count() <= NAME_CHARS_MAX;
            if !is_name || known.chars().any(char::is_control) {
                let message = format!(
                    "the name of a principal must have 1 to {NAME_CHARS_MAX} characters, and no control characters"
                );
                return Err(complain(Some(principal.span()), &message));
            }
            let known: Arc<str> = known.as_str().into();
            for credential in credentials {
                let Some(digest) = read_digest(credential.get_ref()) else {
                    let message = "expected \"sha256:\" and 64 hexadecimal digits, as \
                                   printf %s 'Bearer sk_1' | sha256sum writes them";
                    return Err(complain(Some(credential.span()), message));
                };
                match mapping.insert(digest, Arc::clone(&known)) {
                    Some(other) if other != known => {
                        let message = format!("this credential is also one of \"{other}\"");
                        return Err(complain(Some(credential.span()), &message));
                    }
                    Some(_) | None => {}
                }
            }
        }
        Ok(Mapping(mapping))
    }

    /// Whom the file names for a credential.
    pub(super) fn of(&self, credential: &[u8]) -> Option<Caller> {
        self.name(credential).map(|name| Caller::Named((**name).to_owned()))
    }

    /// Whether a principal has that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.values().any(|known| **known == *name)
    }

    /// Whom it names for every one of these; `None` where there is none, or two of them are not one principal's: whoever
    /// sends a credential beside their own must not be taken for its owner.
    pub(super) fn of_all<'c>(&self, mut credentials: impl Iterator<Item = &'c [u8]>) -> Option<Caller> {
        if self.0.is_empty() {
            return None;
        }
        let first = self.name(credentials.next()?)?;
        credentials.all(|credential| self.name(credential) == Some(first)).then(|| Caller::Named((**first).to_owned()))
    }

    fn name(&self, credential: &[u8]) -> Option<&Arc<str>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(digest(&SHA256, credential).as_ref())
    }
}

/// `FILE:LINE:COLUMN: what is wrong`. The line itself is not repeated: somebody may have put a credential there as it is.
fn complaint(name: &str, text: &str, span: Option<Range<usize>>, message: &str) -> ConfigError {
    let place = span.and_then(|span| text.get(..span.start)).map_or(String::new(), |before| {
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        format!(":{}:{column}", before.matches('\n').count() + 1)
    });
    ConfigError::new(format!("{name}{place}: {message}"))
}

/// The words of the TOML reader without the texts that it found.
fn without_texts(message: &str) -> String {
    let parts = message.split('"').enumerate();
    parts.map(|(at, part)| if at % 2 == 0 { part } else { "\"..\"" }).collect()
}

fn read_digest(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s 'Bearer sk_1' | sha256sum`, and of `Bearer sk_2`.
    const SK_1: &str = "753a7c532cdb595ab3fc91c85d65568f69437c0c66bef5e59d6238166c9d37e6";
    const SK_2: &str = "bc3c86c62a6a975c9a9e97d603f90d52cc1b8a1cb67107c8c195e7d933cfbbfd";

    fn is_named(caller: Option<&Caller>, name: &str) -> bool {
        caller == Some(&Caller::Named(name.to_owned()))
    }

    #[test]
    fn sc06_credentials_of_one_name_are_one_principal() {
        let text = format!("[principals]\nacme = [\"sha256:{SK_1}\"]\nother = [\"sha256:{}\"]\n", SK_2.to_uppercase());
        let mapping = Mapping::parse("m", &text).unwrap();
        assert!(
            is_named(mapping.of(b"Bearer sk_1").as_ref(), "acme")
                && is_named(mapping.of(b"Bearer sk_2").as_ref(), "other")
        );
        assert!(mapping.of(b"Bearer sk_3").is_none() && mapping.of(b"acme").is_none());
        let all = |credentials: &[&[u8]]| mapping.of_all(credentials.iter().copied());
        assert!(is_named(all(&[b"Bearer sk_1", b"Bearer sk_1"]).as_ref(), "acme"));
        for mixed in [&[b"Bearer sk_1".as_slice(), b"Bearer sk_2"], &[b"Bearer sk_1", b"x"], &[b"x", b"Bearer sk_1"]] {
            assert!(all(mixed).is_none());
        }
        assert!(all(&[]).is_none() && Mapping::default().of(b"Bearer sk_1").is_none());
    }

    #[test]
    fn a_file_that_is_wrong_is_pointed_at() {
        let digest = format!("\"sha256:{SK_1}\"");
        let table = [
            ("principals = 1".to_owned(), "m:1:14: invalid type"),
            ("[principal]\n".to_owned(), "m:1:2: unknown field"),
            (String::new(), "missing field `principals`"),
            ("[principals]\nacme = \"Bearer sk_1\"".to_owned(), "m:2:8: invalid type: string \"..\""),
            ("[principals]\nacme = [\"Bearer sk_1\"]".to_owned(), "m:2:9: expected \"sha256:\""),
            ("[principals]\nacme = [\"Bearer sk_1]".to_owned(), "m:2:"),
            (format!("[principals]\nacme = [\"sha256:{}\"]", &SK_1[1..]), "m:2:9: expected \"sha256:\""),
            (format!("[principals]\na = [{digest}]\nb = [{digest}]"), "m:3:6: this credential is also one of \"a\""),
            (format!("[principals]\n\" \" = [{digest}]"), "m:2:1: the name of a principal"),
            (format!("[principals]\na = [{digest}]\na = [{digest}]"), "m:3:1: duplicate key"),
        ];
        for (text, expected) in table {
            let error = Mapping::parse("m", &text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(
                !error.contains("sk_1\n") && error.matches("sk_1").count() <= usize::from(error.contains("printf"))
            );
        }
        let absent = Mapping::read(Path::new("/nowhere/mapping.toml")).unwrap_err().to_string();
        assert!(absent.contains("identity.mapping_file") && absent.contains("No such file"), "{absent}");
    }
}
