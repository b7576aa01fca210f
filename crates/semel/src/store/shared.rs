//! What the shared stores have in common: what they refuse to start on, what they find, how they are connected to.

use std::{fmt, fs, io, path::PathBuf};

use super::StoreError;

/// A password, which no `Debug`, error or log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// The text, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The URL of a server, perhaps with a password, which no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Url {
        Url(text.into())
    }

    /// The text, for the one place that parses it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password may contain any sign if it was not percent-encoded: nothing up to the last @ is shown, and no query.
        let (front, server) = self.0.rsplit_once('@').unwrap_or_else(|| self.0.split_once("://").unwrap_or_default());
        let scheme = front.split_once("://").map_or(front, |(scheme, _)| scheme);
        write!(f, "{scheme}://{}", server.split('?').next().unwrap_or_default())
    }
}

/// Files of a connection by TLS, all in PEM.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tls {
    /// Who may have signed the server's certificate; without it, those whom this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate chain that this client shows. Needs its key.
    pub client_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    pub client_key_file: Option<PathBuf>,
}

/// The bytes of the files of a [`Tls`].
pub(crate) struct TlsPem {
    pub(crate) ca: Option<Vec<u8>>,
    /// The chain and its key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    pub(crate) fn read(&self) -> Result<TlsPem, OpenError> {
        let read = |file: &PathBuf| fs::read(file).map_err(|source| OpenError::File { file: file.clone(), source });
        let ca = self.ca_file.as_ref().map(read).transpose()?;
        let client = match (&self.client_cert_file, &self.client_key_file) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            (None, None) => None,
            (Some(_), None) => return Err(OpenError::Options("client_cert_file needs client_key_file".into())),
            (None, Some(_)) => return Err(OpenError::Options("client_key_file needs client_cert_file".into())),
        };
        Ok(TlsPem { ca, client })
    }
}

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Something that was told as kept may be lost, in a case that the finding names.
    Warning,
    /// A store does not open: records would be lost, and retries of what they protect would execute again.
    Fatal,
}

/// What is noticed about a server: how it is set up, or what state it is in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What is the case, and what follows from it.
    pub what: String,
    /// What an operator does about it; empty where there is nothing to do.
    pub what_to_do: String,
}

impl Finding {
    pub(crate) fn new(severity: Severity, what: impl Into<String>, what_to_do: impl Into<String>) -> Finding {
        Finding { severity, what: what.into(), what_to_do: what_to_do.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what_to_do.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{}; {}", self.what, self.what_to_do)
        }
    }
}

/// Refuses what is fatal, unless `accept_loss` makes warnings of it; warnings go to the log.
///
/// Returns the findings as they count then.
pub(crate) fn admit(findings: Vec<Finding>, accept_loss: bool) -> Result<Vec<Finding>, OpenError> {
    let (fatal, mut others): (Vec<Finding>, Vec<Finding>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Fatal);
    if !fatal.is_empty() && !accept_loss {
        return Err(OpenError::Refused(fatal));
    }
    others.splice(0..0, fatal.into_iter().map(|finding| Finding { severity: Severity::Warning, ..finding }));
    for finding in &others {
        match finding.severity {
            Severity::Warning | Severity::Fatal => tracing::warn!(target: "semel::store", "{finding}"),
            Severity::Note => tracing::info!(target: "semel::store", "{finding}"),
        }
    }
    Ok(others)
}

/// Why a shared store does not open. No text of it contains a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL or another option cannot be used.
    #[error("{0}")]
    Options(String),
    /// A file that the options name cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No connection to the server, or it does not let us in.
    #[error("cannot connect to {server}: {why}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What was answered, if anything.
        why: String,
    },
    /// The tables are not there, or those of an older release.
    #[error("the tables of the store are {found}, and this release needs version {needed}: run `semel store migrate`")]
    NotMigrated {
        /// What is there.
        found: String,
        /// The version of this release.
        needed: u32,
    },
    /// A newer release made the tables.
    #[error("the tables of the store have version {found}, and this release knows up to {known}: run a newer release")]
    NewerSchema {
        /// The version there.
        found: u32,
        /// The version of this release.
        known: u32,
    },
    /// The server would lose records.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Finding>),
    /// The server was reached, and then failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatal() -> Finding {
        Finding::new(Severity::Fatal, "it forgets", "make it remember")
    }

    #[test]
    fn what_is_fatal_is_refused_unless_loss_is_accepted() {
        let warning = Finding::new(Severity::Warning, "it may forget", "");
        let refused = admit(vec![warning.clone(), fatal()], false);
        assert_eq!(refused.unwrap_err().to_string(), "it forgets; make it remember");
        let accepted = admit(vec![warning.clone(), fatal()], true).unwrap();
        assert_eq!(accepted, [Finding { severity: Severity::Warning, ..fatal() }, warning]);
    }

    #[test]
    fn a_password_is_not_shown_and_half_a_client_certificate_is_refused() {
        assert_eq!(format!("{:?}", Password::new("hunter2")), "(hidden)");
        for url in
            ["db://u:hunter2@host:1/name", "db://u:hun@hunter2?/@host:1/name?password=hunter2", "db://host:1/name"]
        {
            assert_eq!(format!("{:?}", Url::new(url)), "db://host:1/name");
        }
        let tls = Tls { client_cert_file: Some("/cert.pem".into()), ..Tls::default() };
        assert!(matches!(tls.read(), Err(OpenError::Options(text)) if text.contains("client_key_file")));
    }
}
