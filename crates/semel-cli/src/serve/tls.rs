//! TLS of both sides: how clients are met, and how the gateway meets the origin.
//!
//! Early data (RFC 8446 section 2.3) is off on both: whoever sees it can replay it, and what has no key is protected by
//! nobody (RFC 8470). The files may change while the gateway runs; what a connection began with it keeps.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::config::{ClientCertificate, ConfigError, Origin, Scheme, Tls, UpstreamTls};

mod subject;

pub(crate) use subject::ClientSubject;

const H1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";
/// How much is read of what a client says after it was refused, so that it can read why.
const REFUSED_BYTES_MAX: u64 = 64 << 10;

/// How new connections of clients begin.
#[derive(Clone, Debug)]
pub(crate) struct Incoming(Arc<ArcSwap<Manner>>);

/// What [`Incoming`] exchanges as a whole.
#[derive(Debug)]
pub(crate) struct Manner {
    config: Arc<ServerConfig>,
    handshake_max: Duration,
    file: String,
    expires: i64,
}

/// A client's connection after the handshake.
pub(crate) struct Met {
    /// What it says and is told.
    pub stream: server::TlsStream<TcpStream>,
    /// Whether both agreed on HTTP/2. RFC 9113 section 3.2: over TLS nothing else says so.
    pub agreed_h2: AgreedH2,
    /// Who it is, if it showed a certificate.
    pub subject: Option<ClientSubject>,
}

/// Whether both sides agreed on HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AgreedH2 {
    Yes,
    No,
}

impl Manner {
    /// Reads the files.
    pub(crate) fn read(tls: &Tls) -> Result<Manner, ConfigError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need");
        let builder = match (&tls.client_ca_file, tls.client_certificate) {
            (None, _) | (Some(_), ClientCertificate::None) => builder.with_no_client_auth(),
            (Some(file), rule @ (ClientCertificate::Optional | ClientCertificate::Required)) => {
                let provider = Arc::clone(builder.crypto_provider());
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(file)?), provider);
                let verifier = match rule {
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                    ClientCertificate::None | ClientCertificate::Required => verifier,
                };
                let verifier = verifier.build();
                builder.with_client_cert_verifier(verifier.map_err(|error| refused(file, &error))?)
            }
        };
        let (chain, key) = pair(&tls.cert_file, &tls.key_file)?;
        let expires = chain.iter().filter_map(expiry_of).min().unwrap_or(i64::MAX);
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| misfit(&tls.cert_file, &tls.key_file, &error))?;
        config.alpn_protocols = vec![H2.to_vec(), H1.to_vec()];
        let file = tls.cert_file.display().to_string();
        Ok(Manner { config: Arc::new(config), handshake_max: tls.handshake_max, file, expires })
    }
}

impl Incoming {
    /// Until something else is [set](Incoming::set).
    pub(crate) fn new(manner: Manner) -> Incoming {
        Incoming(Arc::new(ArcSwap::from_pointee(manner)))
    }

    /// The file of the certificate that is shown, and when the first one in it expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> (String, i64) {
        let manner = self.0.load();
        (manner.file.clone(), manner.expires)
    }

    /// From the next connection on.
    pub(crate) fn set(&self, manner: Manner) {
        self.0.store(Arc::new(manner));
    }

    /// Shakes hands. `None`: it was told in plain HTTP that this is TLS.
    pub(crate) async fn meet(&self, stream: TcpStream) -> io::Result<Option<Met>> {
        let manner = self.0.load_full();
        let limit = tokio::time::Instant::now() + manner.handshake_max;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no handshake within handshake_max");
        match tokio::time::timeout_at(limit, first(&stream)).await.map_err(|_| late())?? {
            First::Letter => {
                let _told_in_time = tokio::time::timeout_at(limit, refuse_plain(stream)).await;
                return Ok(None);
            }
            First::Other => {}
        }
        let shaking = TlsAcceptor::from(Arc::clone(&manner.config)).accept(stream);
        let stream = tokio::time::timeout_at(limit, shaking).await.map_err(|_| late())??;
        let (_, session) = stream.get_ref();
        let agreed_h2 = if session.alpn_protocol() == Some(H2) { AgreedH2::Yes } else { AgreedH2::No };
        let subject = session.peer_certificates().and_then(<[_]>::first).and_then(ClientSubject::of);
        Ok(Some(Met { stream, agreed_h2, subject }))
    }
}

/// How what a client says begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    /// As HTTP does; a handshake begins with 22 (RFC 8446 section 5.1).
    Letter,
    Other,
}

/// Leaves it unread.
async fn first(stream: &TcpStream) -> io::Result<First> {
    let mut byte = [0];
    let read = stream.peek(&mut byte).await?;
    Ok(if read == 1 && byte[0].is_ascii_alphabetic() { First::Letter } else { First::Other })
}

/// Tells a client that speaks HTTP here what is wrong, and reads on for a while: closing at once would reset the
/// connection, and what it was told be lost (RFC 9112 section 9.6).
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let content = r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"This address speaks TLS: use https://."}"#;
    let length = content.len();
    let response = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{content}"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(REFUSED_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

/// How new connections to the origin, and to who authorizes replays, begin; nothing until one of them is `https`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing(Arc<ArcSwapOption<ClientConfig>>);

/// Reads the files of [`Outgoing`].
pub(crate) fn read_outgoing(files: &UpstreamTls) -> Result<ClientConfig, ConfigError> {
    let roots = files.ca_file.as_ref().map_or_else(roots_of_this_machine, |file| roots(file))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots);
    let mut config = match &files.client {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = pair(&files.cert, &files.key)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| misfit(&files.cert, &files.key, &error))?
        }
    };
    config.alpn_protocols = vec![H1.to_vec()];
    Ok(config)
}

impl Outgoing {
    /// From the next connection on; idle ones are not used again.
    pub(crate) fn set(&self, config: ClientConfig) {
        self.0.store(Some(Arc::new(config)));
    }
}

/// How an origin is spoken to.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    /// Without TLS.
    Plain,
    /// By TLS, where its certificate has this name.
    Tls(Outgoing, ServerName<'static>),
}

/// What a connection began with: none by TLS is used again once that has changed.
#[derive(Clone, Debug)]
pub(crate) struct Begun(Option<Arc<ClientConfig>>);

impl Transport {
    /// To this origin, perhaps with another name in its certificate.
    pub(crate) fn to(origin: &Origin, name: Option<&str>, outgoing: &Outgoing) -> Transport {
        match origin.scheme() {
            Scheme::Http => Transport::Plain,
            Scheme::Https => {
                let name = name.unwrap_or(origin.host()).to_owned();
                Transport::Tls(outgoing.clone(), ServerName::try_from(name).expect("the configuration checks the name"))
            }
        }
    }

    /// What a connection begins with now.
    pub(crate) fn begin(&self) -> Begun {
        match self {
            Transport::Plain => Begun(None),
            Transport::Tls(outgoing, _) => Begun(outgoing.0.load_full()),
        }
    }

    /// Whether a connection would begin with the same now.
    pub(crate) fn is_as(&self, begun: &Begun) -> bool {
        match (&begun.0, self) {
            (None, Transport::Plain) => true,
            (Some(had), Transport::Tls(outgoing, _)) => {
                outgoing.0.load().as_ref().is_some_and(|now| Arc::ptr_eq(had, now))
            }
            (None, Transport::Tls(..)) | (Some(_), Transport::Plain) => false,
        }
    }

    /// Shakes hands, where it is by TLS: until that is over nothing of a request is written.
    pub(crate) async fn meet<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        begun: &Begun,
    ) -> io::Result<Wire<S>> {
        match (self, &begun.0) {
            (Transport::Plain, _) => Ok(Wire::Plain(stream)),
            (Transport::Tls(_, name), Some(config)) => {
                let shaking = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
                match shaking.await {
                    Ok(stream) => Ok(Wire::Tls(Box::new(stream))),
                    Err(error) => Err(io::Error::new(error.kind(), format!("no TLS with {}: {error}", name.to_str()))),
                }
            }
            (Transport::Tls(..), None) => Err(io::Error::other("how to speak TLS was not said")),
        }
    }
}

/// A connection to the origin, as what speaks HTTP reads and writes it.
#[derive(Debug)]
pub(crate) enum Wire<S> {
    Plain(S),
    Tls(Box<client::TlsStream<S>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Those whom this machine trusts.
fn roots_of_this_machine() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(ConfigError::new(
            "this machine trusts no authority, so no https origin can be reached: install ca-certificates, or give gateway.upstream_ca_file",
        ));
    }
    Ok(roots)
}

/// Those who may vouch.
/// `None`: rustls will say what is wrong with it.
fn expiry_of(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn roots(file: &Path) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| refused(file, &error))?;
    }
    Ok(roots)
}

/// A chain and its key. Whether they fit, rustls says.
fn pair(cert: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), ConfigError> {
    let chain = certificates(cert)?;
    // The error of the parser could quote the file.
    let key = PrivateKeyDer::from_pem_slice(&bytes(key)?)
        .map_err(|_| ConfigError::new(format!("{} has no private key in PEM", key.display())))?;
    Ok((chain, key))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let wrong = || ConfigError::new(format!("{} has no certificate in PEM", file.display()));
    let all = CertificateDer::pem_slice_iter(&bytes(file)?).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    if all.is_empty() { Err(wrong()) } else { Ok(all) }
}

fn bytes(file: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(file).map_err(|error| ConfigError::new(format!("cannot read {}: {error}", file.display())))
}

fn refused(file: &Path, error: &dyn std::error::Error) -> ConfigError {
    ConfigError::new(format!("{} cannot be used: {error}", file.display()))
}

fn misfit(cert: &Path, key: &Path, error: &rustls::Error) -> ConfigError {
    ConfigError::new(format!("{} and {} do not fit together: {error}", cert.display(), key.display()))
}

/// What tells that one of some files was exchanged, without reading them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stamps(Vec<Option<[i64; 4]>>);

impl Stamps {
    /// Of these files as they are now. A file that is exchanged by renaming has another number, and one that is written
    /// over another time.
    pub(crate) fn of(files: &[PathBuf]) -> Stamps {
        let stamp = |file: &PathBuf| {
            let about = fs::metadata(file).ok()?;
            Some([about.ino().cast_signed(), about.size().cast_signed(), about.mtime(), about.mtime_nsec()])
        };
        Stamps(files.iter().map(stamp).collect())
    }
}
