//! Certificates for the loopback interface, made anew for every server.

use std::io;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::keeper::{Keeper, quote};

/// Whether a server speaks TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// Plain connections only.
    #[default]
    Off,
    /// TLS only; the client may check the server's certificate.
    Server,
    /// TLS only, and the server wants a certificate of the client.
    Mutual,
}

pub(crate) const CA: &str = "ca.pem";
pub(crate) const SERVER_CERTIFICATE: &str = "server.pem";
pub(crate) const SERVER_KEY: &str = "server.key";
pub(crate) const CLIENT_CERTIFICATE: &str = "client.pem";
pub(crate) const CLIENT_KEY: &str = "client.key";

/// Writes an authority, and certificates by it of a server on `localhost` and 127.0.0.1 and of the client `client`.
pub(crate) fn write(keeper: &Keeper, client: &str) -> io::Result<()> {
    let authority = authority().map_err(io::Error::other)?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let (server, server_key) = signed(&authority, "localhost", names).map_err(io::Error::other)?;
    let (client, client_key) = signed(&authority, client, Vec::new()).map_err(io::Error::other)?;
    let files = [
        (CA, authority.pem()),
        (SERVER_CERTIFICATE, server),
        (SERVER_KEY, server_key),
        (CLIENT_CERTIFICATE, client),
        (CLIENT_KEY, client_key),
    ];
    let write = files.map(|(name, pem)| format!("printf %s {} >{name} && chmod 600 {name}", quote(&pem)));
    keeper.run(&write.join(" && "))
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "Authority of a private server");
    CertifiedIssuer::self_signed(authority, KeyPair::generate()?)
}

/// A certificate and its key.
fn signed(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    hosts: Vec<String>,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}
