//! `[tls]`: how clients connect by TLS; and how the gateway itself does, to the origin and to whoever authorizes replays.

use std::{path::PathBuf, time::Duration};

use rustls::pki_types::ServerName;
use serde::Deserialize;

use super::{PositiveText, Question, Scheme};
use crate::config::Origin;

/// How often the files of certificates are looked at where nothing is said.
pub(crate) const RELOAD_EVERY: Duration = Duration::from_secs(10);
/// How long a client may take to shake hands where nothing is said.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How clients connect by TLS, with every default filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tls {
    /// What the gateway shows: its certificate first, then whoever vouches for it (PEM).
    pub cert_file: PathBuf,
    /// The key of that certificate (PEM).
    pub key_file: PathBuf,
    /// Who may vouch for clients (PEM).
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_certificate: ClientCertificate,
    /// How often the files are looked at, those of the connections to the origin included.
    pub reload_every: Duration,
    /// How long a client may take from connecting to the end of the handshake.
    pub handshake_max: Duration,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientCertificate {
    /// They are not asked for one.
    None,
    /// Who shows one must show a good one.
    Optional,
    /// Who shows none is not served.
    Required,
}

/// How the gateway connects where it speaks `https`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct UpstreamTls {
    /// Who vouches for the other side (PEM); `None`: whom this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// What the gateway shows of itself, and the key of it (PEM).
    pub client: Option<ClientFiles>,
    /// The name that the origin's certificate must have; `None`: the host of its address.
    pub server_name: Option<String>,
}

/// A certificate that the gateway shows, and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClientFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// The table as a file gives it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsSettings {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_certificate: Option<ClientCertificate>,
    reload_every: Option<PositiveText>,
    handshake_max: Option<PositiveText>,
}

impl TlsSettings {
    /// All defaults of `[tls]` are here. Of settings that contradict each other, the message begins with the one to look at.
    pub(super) fn build(self) -> Result<Tls, String> {
        let (Some(cert_file), Some(key_file)) = (self.cert_file, self.key_file) else {
            return Err("[tls] needs cert_file and key_file: the gateway's certificate and its key, in PEM".to_owned());
        };
        let client_certificate = match (self.client_certificate, &self.client_ca_file) {
            (None, None) => ClientCertificate::None,
            (None, Some(_)) => ClientCertificate::Required,
            (Some(ClientCertificate::None), Some(_)) => {
                return Err(
                    "`client_ca_file` is for clients that show a certificate; with client_certificate = \"none\" nobody is asked for one"
                        .to_owned(),
                );
            }
            (Some(ClientCertificate::Optional | ClientCertificate::Required), None) => {
                return Err("`client_certificate` needs client_ca_file: who vouches for clients, in PEM".to_owned());
            }
            (Some(said), _) => said,
        };
        Ok(Tls {
            cert_file,
            key_file,
            client_ca_file: self.client_ca_file,
            client_certificate,
            reload_every: self.reload_every.map_or(RELOAD_EVERY, |every| every.0),
            handshake_max: self.handshake_max.map_or(HANDSHAKE_MAX, |most| most.0),
        })
    }
}

impl UpstreamTls {
    /// Refuses what would mean nothing, so that nobody takes a connection for safer than it is.
    pub(super) fn build(
        self,
        files: (Option<PathBuf>, Option<PathBuf>),
        upstream: Option<&Origin>,
        authorize: Option<&Question>,
    ) -> Result<UpstreamTls, String> {
        let client = match files {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ClientFiles { cert, key }),
            (Some(_), None) => return Err("`upstream_client_cert_file` needs upstream_client_key_file".to_owned()),
            (None, Some(_)) => return Err("`upstream_client_key_file` needs upstream_client_cert_file".to_owned()),
        };
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            return Err(format!("`upstream_server_name` is a host name or an address, not \"{name}\""));
        }
        let is_https = |origin: &Origin| origin.scheme() == Scheme::Https;
        let asked_by_tls = authorize.is_some_and(|question| is_https(&question.origin));
        // An address that is still to be named, on the command line of `semel serve`, may be anything.
        let upstream_by_tls = upstream.is_none_or(is_https);
        if self.server_name.is_some() && !upstream_by_tls {
            return Err("`upstream_server_name` is for an origin that is reached by https://".to_owned());
        }
        if (self.ca_file.is_some() || client.is_some()) && !upstream_by_tls && !asked_by_tls {
            let name = if self.ca_file.is_some() { "upstream_ca_file" } else { "upstream_client_cert_file" };
            return Err(format!("`{name}` is for an origin that is reached by https://"));
        }
        Ok(UpstreamTls { client, ..self })
    }
}
