//! What operators show to be ones.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use http::{HeaderMap, header};

use crate::config::ConfigError;

/// The shortest token, in characters.
const TOKEN_CHARS_MIN: usize = 16;
/// The largest token file, in bytes.
const TOKEN_BYTES_MAX: usize = 4 << 10;
/// The permissions that others must not have on the token file.
const MODE_OF_OTHERS: u32 = 0o007;

/// What an operator shows to be one. Only its digest is kept, whose comparison takes the same time whatever differs.
#[derive(Clone)]
pub(crate) struct Token(blake3::Hash);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads `gateway.admin_token_file`.
    pub(crate) fn read(path: &Path) -> Result<Token, ConfigError> {
        let wrong = |why: &dyn fmt::Display| {
            ConfigError::new(format!("gateway.admin_token_file = \"{}\": {why}", path.display()))
        };
        let read = || -> io::Result<(u32, Vec<u8>)> {
            // What waits for a writer, such as a named pipe, must not hold up the start.
            if !std::fs::metadata(path)?.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            let file = File::open(path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut bytes = Vec::new();
            file.take(TOKEN_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok((mode, bytes))
        };
        let (mode, bytes) = read().map_err(|error| wrong(&error))?;
        if mode & MODE_OF_OTHERS != 0 {
            return Err(wrong(&format!("mode {:03o} is open to others; run chmod 600", mode & 0o777)));
        }
        let token = bytes.trim_ascii_end();
        let is_token = (TOKEN_CHARS_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
        if !is_token || !token.iter().all(u8::is_ascii_graphic) {
            return Err(wrong(&format!(
                "it must hold {TOKEN_CHARS_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters without spaces"
            )));
        }
        Ok(Token(blake3::hash(token)))
    }

    /// Whether a request shows it (RFC 6750 section 2.1).
    pub(crate) fn is_shown_by(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        let Some((scheme, shown)) = line.as_bytes().split_at_checked(b"Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && self.matches(shown.trim_ascii())
    }

    /// Whether it is this.
    pub(crate) fn matches(&self, shown: &[u8]) -> bool {
        blake3::hash(shown) == self.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn e11_a_token_is_long_visible_and_not_for_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let read = |content: &str, mode: u32| {
            std::fs::write(&path, content).expect("it is written");
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode is set");
            Token::read(&path).map_err(|error| error.to_string())
        };
        let token = read("0123456789abcdef\n", 0o640).expect("a token");
        assert_eq!(format!("{token:?}"), "Token(..)");
        let shown = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
            }
            token.is_shown_by(&headers)
        };
        assert!(shown(&["Bearer 0123456789abcdef"]) && shown(&["bearer  0123456789abcdef"]));
        for wrong in ["0123456789abcdef", "Basic 0123456789abcdef", "Bearer 0123456789abcdeF", "Bearer ", "Bearer", ""]
        {
            assert!(!shown(&[wrong]), "{wrong}");
        }
        assert!(!shown(&[]) && !shown(&["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]));
        for (content, mode, why) in [
            ("0123456789abcdef", 0o644, "mode 644 is open to others"),
            ("0123456789abcdef", 0o602, "mode 602 is open to others"),
            ("0123456789abcde\n", 0o600, "it must hold 16"),
            ("0123456789 abcdef", 0o600, "it must hold 16"),
            ("0123456789abcdéf", 0o600, "it must hold 16"),
            ("", 0o600, "it must hold 16"),
            (&"x".repeat(TOKEN_BYTES_MAX + 1), 0o600, "it must hold 16"),
        ] {
            let error = read(content, mode).expect_err(why);
            assert!(error.contains(why) && error.contains("gateway.admin_token_file"), "{error}");
            assert!(content.is_empty() || !error.contains(content.trim()), "{error}");
        }
        let absent = Token::read(&folder.path().join("absent")).expect_err("it is not there").to_string();
        assert!(absent.contains("No such file"), "{absent}");
        let folder = Token::read(folder.path()).expect_err("it is a folder").to_string();
        assert!(folder.contains("not a regular file"), "{folder}");
    }
}
