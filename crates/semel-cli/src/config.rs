//! What `semel serve` can be told: a TOML file, and flags that beat it.
//!
//! The section `[gateway]` is about the process and its connections and is defined here, `[store]` in [`store`],
//! `[telemetry]` in [`telemetry`]; everything
//! else in the file is the policy, whose members and presets are defined in [`semel_core::policy`]. Both are read strictly: what is not
//! known is an error that names the file, the line and what would be right.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use http::{HeaderValue, uri::Authority};
use rustls::pki_types::ServerName;
use semel::QuotaLimits;
use semel_core::{
    key::Presence,
    policy::{DurationText, HeaderText, Policy, PolicyDocument, Preset, RouteSettings},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use self::{
    cors::CorsSettings,
    identity::{IdentitySettings, QuotaSettings},
    store::StoreSettings,
    telemetry::TelemetrySettings,
    tls::TlsSettings,
};

mod complain;
mod cors;
mod identity;
mod show;
mod store;
mod telemetry;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod words;

pub(crate) use cors::{Cors, Credentials};
pub(crate) use identity::{IdentityConfig, IdentitySource, JwtConfig, KeysFrom};
pub(crate) use show::show;
pub(crate) use store::{PasswordFrom, Place, PlaceText, StoreConfig, StoreFlags, StoreUrl};
pub(crate) use telemetry::Telemetry;
pub(crate) use tls::{ClientCertificate, RELOAD_EVERY, Tls, UpstreamTls};

/// Everything that `semel serve` was told, with every default filled in.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The process and its connections.
    pub gateway: Gateway,
    /// How clients connect, if by TLS.
    pub tls: Option<Tls>,
    /// How it is found out who asks.
    pub identity: IdentityConfig,
    /// How many fresh keys one principal may use; none counts while `live_keys_max` is 0.
    pub quota: QuotaLimits,
    /// Where records live.
    pub store: StoreConfig,
    /// What is counted, and where traces go.
    pub telemetry: Telemetry,
    /// What is protected, and how.
    pub policy: Policy,
    /// The preset that the policy started from.
    pub preset: Preset,
}

/// The process and its connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gateway {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The origin; nothing in a request can name another one (`peers.md` #38).
    pub upstream: Option<Origin>,
    /// How it is spoken to by `https`, and so is who authorizes.
    pub upstream_tls: UpstreamTls,
    /// The folder of records and secret.
    pub data: PathBuf,
    /// The files of the sealing secrets, of which the first seals; none: the secret itself seals.
    pub seal_secret_files: Vec<PathBuf>,
    /// Where operators connect, if anywhere.
    pub admin: Option<SocketAddr>,
    /// The file whose token lets operators look at records, settle and release; without it nobody can.
    pub admin_token_file: Option<PathBuf>,
    /// Where every act of an operator is written down; `None`: in `data`.
    pub audit_log: Option<PathBuf>,
    /// Who may read the policy document.
    pub publish_policy: PublishPolicy,
    /// Who is asked before a kept reply is told, if anybody.
    pub authorize: Option<Question>,
    /// What the origin is told in `Host`.
    pub host: HostRule,
    /// How log lines are written.
    pub log: LogForm,
    /// Which log lines are written, in the words of tracing-subscriber's `EnvFilter`.
    pub log_filter: String,
    /// Threads that serve connections.
    pub threads: usize,
    /// Client connections at once.
    pub connections_max: usize,
    /// How long a client may take from connecting, or from its last response, to the end of its next header section.
    pub header_read_max: Duration,
    /// Connections to the origin at once, over all threads.
    pub upstream_connections_max: usize,
    /// How long an idle connection to the origin is kept; less than the origin's own limit.
    pub upstream_idle_max: Duration,
    /// How long reaching the origin may take: waiting for a free connection, DNS, connecting.
    pub connect_max: Duration,
    /// How long the origin may be silent before its response begins, for requests that no route covers.
    pub response_header_max: Duration,
    /// How long what runs may still run after SIGTERM.
    pub drain_max: Duration,
    /// `[cors]`: which web pages may read its answers.
    pub cors: Cors,
}

impl Gateway {
    /// Where every act of an operator is written down.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.audit_log.clone().unwrap_or_else(|| self.data.join("audit.log"))
    }
}

/// Who may read the policy document.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PublishPolicy {
    /// Whoever reaches the admin address.
    Admin,
    /// Every client too; the origin's own document under that path is hidden.
    Public,
}

/// What the origin is told in `Host`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HostRule {
    /// What the client said, as if the gateway were not there.
    Preserve,
    /// The origin's own name.
    Upstream,
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogForm {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Whether a connection is by TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scheme {
    /// It is not.
    Http,
    /// It is.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The origin, as `http://host[:port]` or `https://host[:port]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    /// Whether it is reached by TLS.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, to be resolved; an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// The value of `Host`.
    pub(crate) fn host_header(&self) -> HeaderValue {
        HeaderValue::from_str(self.authority.as_str()).expect("an authority is a header value")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

impl FromStr for Origin {
    type Err = String;
    fn from_str(text: &str) -> Result<Origin, String> {
        let wrong =
            |why: &str| Err(format!("expected an origin such as \"http://127.0.0.1:3000\", found \"{text}\"{why}"));
        let Ok(uri) = text.parse::<http::Uri>() else { return wrong("") };
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) | None => return wrong(""),
        };
        match uri.authority() {
            Some(authority) if authority.as_str().contains('@') => wrong(": credentials do not belong here"),
            Some(_) if uri.path_and_query().is_some_and(|path| path.as_str() != "/") => {
                wrong(": a path does not belong here, since every path is forwarded as it was sent")
            }
            Some(authority) if scheme == Scheme::Https && ServerName::try_from(host_of(authority)).is_err() => {
                wrong(": no certificate can be for this host")
            }
            Some(authority) => Ok(Origin { scheme, authority: authority.clone() }),
            None => wrong(""),
        }
    }
}

/// Without the brackets of an IPv6 address.
fn host_of(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

/// An address that is asked with a caller's credentials, as `http://host[:port]/path` or with `https`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    /// Who.
    pub origin: Origin,
    /// Where; with its query, if any.
    pub path: String,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl FromStr for Question {
    type Err = String;
    fn from_str(text: &str) -> Result<Question, String> {
        let wrong = || format!("expected an address such as \"http://127.0.0.1:3000/session\", found \"{text}\"");
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default()).parse()?;
        Ok(Question { origin, path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned() })
    }
}

impl<'de> Deserialize<'de> for Question {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Question, D::Error> {
        from_text(deserializer)
    }
}

/// Limits and addresses as a file or the command line gives them; `None`: as in the layer below.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewaySettings {
    pub listen: Option<AddressText>,
    pub upstream: Option<OriginText>,
    pub upstream_ca_file: Option<PathBuf>,
    pub upstream_client_cert_file: Option<PathBuf>,
    pub upstream_client_key_file: Option<PathBuf>,
    pub upstream_server_name: Option<String>,
    pub data: Option<PathBuf>,
    pub seal_secret_files: Option<Vec<PathBuf>>,
    pub admin: Option<AdminText>,
    pub admin_token_file: Option<PathBuf>,
    pub audit_log: Option<PathBuf>,
    pub publish_policy: Option<PublishPolicy>,
    pub authorize: Option<Question>,
    pub host: Option<HostRule>,
    pub log: Option<LogForm>,
    pub log_filter: Option<String>,
    pub threads: Option<CountText>,
    pub connections_max: Option<CountText>,
    pub header_read_max: Option<PositiveText>,
    pub upstream_connections_max: Option<CountText>,
    pub upstream_idle_max: Option<DurationText>,
    pub connect_max: Option<PositiveText>,
    pub response_header_max: Option<PositiveText>,
    pub drain_max: Option<DurationText>,
}

/// What the command line and the environment say; they beat the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Of the process and its connections.
    pub gateway: GatewaySettings,
    /// Of the store.
    pub store: StoreFlags,
    /// Of the policy.
    pub policy: PolicyFlags,
}

/// What the command line says of the policy; it beats the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolicyFlags {
    /// `--preset`.
    pub preset: Option<Preset>,
    /// `--require-key`.
    pub key_presence: Option<Presence>,
}

/// Why a configuration is not one, in words for the person who wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConfigError(String);

impl ConfigError {
    /// With these words.
    pub(crate) fn new(message: impl Into<String>) -> ConfigError {
        ConfigError(message.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    gateway: Option<GatewaySettings>,
    tls: Option<Spanned<TlsSettings>>,
    cors: Option<CorsSettings>,
    identity: Option<Spanned<IdentitySettings>>,
    quota: Option<QuotaSettings>,
    store: Option<Spanned<StoreSettings>>,
    telemetry: Option<TelemetrySettings>,
    preset: Option<Preset>,
    principal: Option<Vec<HeaderText>>,
    documentation: Option<String>,
    defaults: Option<Spanned<RouteSettings>>,
    #[serde(default)]
    route: Vec<Spanned<RouteSettings>>,
}

impl Config {
    /// Reads a file, or nothing, and lays the command line over it.
    pub(crate) fn load(file: Option<&Path>, flags: Flags) -> Result<Config, ConfigError> {
        let (name, text) = match file {
            None => (String::new(), String::new()),
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError(format!("cannot read {name}: {error}")))?;
                (name, text)
            }
        };
        Config::read(&name, &text, flags)
    }

    /// Reads the text of the file `name`.
    pub(crate) fn read(name: &str, text: &str, flags: Flags) -> Result<Config, ConfigError> {
        let complain =
            |span: Option<Range<usize>>, message: &str| ConfigError(complain::complaint(name, text, span, message));
        let mut document: Document = toml::from_str(text).map_err(|error| complain(error.span(), error.message()))?;
        if let Some(presence) = flags.policy.key_presence {
            document.demand(presence);
        }
        let preset = flags.policy.preset.or(document.preset).unwrap_or_default();
        let written = PolicyDocument {
            preset: Some(preset),
            principal: document.principal,
            documentation: document.documentation,
            defaults: document.defaults,
            routes: document.route,
        };
        let policy = written.build().map_err(|error| complain(Some(error.span), &error.message))?;
        let gateway =
            flags.gateway.over(document.gateway.unwrap_or_default()).build(document.cors.unwrap_or_default().build());
        let gateway = gateway.map_err(|message| complain(None, &message))?;
        let tls = match document.tls {
            None => None,
            Some(settings) => {
                let span = settings.span();
                Some(settings.into_inner().build().map_err(|message| complain(Some(span), &message))?)
            }
        };
        if gateway.admin_token_file.is_some() && gateway.admin.is_none() {
            return Err(complain(
                None,
                "gateway.admin_token_file is for the admin address, which is off: set gateway.admin too",
            ));
        }
        if gateway.audit_log.is_some() && gateway.admin_token_file.is_none() {
            return Err(complain(
                None,
                "gateway.audit_log is about what operators do, who need a token: set gateway.admin_token_file too",
            ));
        }
        let (span, identity) = match document.identity {
            None => (None, IdentitySettings::default()),
            Some(settings) => (Some(settings.span()), settings.into_inner()),
        };
        let identity = identity.build().map_err(|message| complain(span.clone(), &message))?;
        let shows_certificates = tls.as_ref().is_some_and(|tls| tls.client_certificate != ClientCertificate::None);
        if identity.source == IdentitySource::ClientCertificate && !shows_certificates {
            let message = "identity.source = \"client-certificate\" needs [tls] with client_ca_file, and \
                           client_certificate = \"required\" or \"optional\": otherwise nobody shows one";
            return Err(complain(span, message));
        }
        let quota = document.quota.unwrap_or_default().build();
        let (span, settings) = match document.store {
            None => (None, StoreSettings::default()),
            Some(settings) => (Some(settings.span()), settings.into_inner()),
        };
        let store = settings.build(flags.store, &policy).map_err(|message| complain(span, &message))?;
        let telemetry = document.telemetry.unwrap_or_default().build();
        Ok(Config { gateway, tls, identity, quota, store, telemetry, policy, preset })
    }
}

impl Document {
    /// `--require-key` beats what a route says.
    fn demand(&mut self, presence: Presence) {
        let settings = |key_presence| RouteSettings { key_presence, ..RouteSettings::default() };
        self.defaults.get_or_insert_with(|| Spanned::new(0..0, settings(None))).get_mut().key_presence = Some(presence);
        for route in &mut self.route {
            route.get_mut().key_presence = Some(presence);
        }
    }
}

impl GatewaySettings {
    fn over(self, base: GatewaySettings) -> GatewaySettings {
        GatewaySettings {
            listen: self.listen.or(base.listen),
            upstream: self.upstream.or(base.upstream),
            upstream_ca_file: self.upstream_ca_file.or(base.upstream_ca_file),
            upstream_client_cert_file: self.upstream_client_cert_file.or(base.upstream_client_cert_file),
            upstream_client_key_file: self.upstream_client_key_file.or(base.upstream_client_key_file),
            upstream_server_name: self.upstream_server_name.or(base.upstream_server_name),
            data: self.data.or(base.data),
            seal_secret_files: self.seal_secret_files.or(base.seal_secret_files),
            admin: self.admin.or(base.admin),
            admin_token_file: self.admin_token_file.or(base.admin_token_file),
            audit_log: self.audit_log.or(base.audit_log),
            publish_policy: self.publish_policy.or(base.publish_policy),
            authorize: self.authorize.or(base.authorize),
            host: self.host.or(base.host),
            log: self.log.or(base.log),
            log_filter: self.log_filter.or(base.log_filter),
            threads: self.threads.or(base.threads),
            connections_max: self.connections_max.or(base.connections_max),
            header_read_max: self.header_read_max.or(base.header_read_max),
            upstream_connections_max: self.upstream_connections_max.or(base.upstream_connections_max),
            upstream_idle_max: self.upstream_idle_max.or(base.upstream_idle_max),
            connect_max: self.connect_max.or(base.connect_max),
            response_header_max: self.response_header_max.or(base.response_header_max),
            drain_max: self.drain_max.or(base.drain_max),
        }
    }

    /// All defaults of `[gateway]` are here and nowhere else.
    fn build(self, cors: Cors) -> Result<Gateway, String> {
        let threads = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = |count: Option<CountText>, default| count.map_or(default, |count| count.0);
        let seconds = |duration: Option<PositiveText>, default| {
            duration.map_or(Duration::from_secs(default), |duration| duration.0)
        };
        let upstream = self.upstream.map(|origin| origin.0);
        let upstream_tls =
            UpstreamTls { ca_file: self.upstream_ca_file, client: None, server_name: self.upstream_server_name };
        let files = (self.upstream_client_cert_file, self.upstream_client_key_file);
        let upstream_tls = upstream_tls.build(files, upstream.as_ref(), self.authorize.as_ref())?;
        Ok(Gateway {
            listen: self.listen.map_or(SocketAddr::from(([127, 0, 0, 1], 8080)), |address| address.0),
            upstream,
            upstream_tls,
            data: self.data.unwrap_or_else(|| PathBuf::from("./semel-data")),
            seal_secret_files: self.seal_secret_files.unwrap_or_default(),
            admin: self.admin.and_then(|admin| admin.0),
            admin_token_file: self.admin_token_file,
            audit_log: self.audit_log,
            publish_policy: self.publish_policy.unwrap_or(PublishPolicy::Admin),
            authorize: self.authorize,
            host: self.host.unwrap_or(HostRule::Preserve),
            log: self.log.unwrap_or(LogForm::Text),
            log_filter: self.log_filter.unwrap_or_else(|| "info".to_owned()),
            threads: self.threads.map_or_else(threads, |count| count.0),
            connections_max: count(self.connections_max, 8_192),
            header_read_max: seconds(self.header_read_max, 60),
            upstream_connections_max: count(self.upstream_connections_max, 1_024),
            // Node's servers, the most common ones with a short limit, close an idle connection after 5 s.
            upstream_idle_max: self.upstream_idle_max.map_or(Duration::from_secs(4), |duration| duration.0),
            connect_max: seconds(self.connect_max, 5),
            response_header_max: seconds(self.response_header_max, 60),
            drain_max: self.drain_max.map_or(Duration::from_secs(30), |duration| duration.0),
            cors,
        })
    }
}

/// An address to listen on, such as `127.0.0.1:8080` or `localhost:0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AddressText(pub SocketAddr);

impl FromStr for AddressText {
    type Err = String;
    fn from_str(text: &str) -> Result<AddressText, String> {
        let first = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        first.map(AddressText).ok_or_else(|| {
            format!("expected an address and port such as \"127.0.0.1:8080\" or \"0.0.0.0:8080\", found \"{text}\"")
        })
    }
}

/// An address, or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AdminText(pub Option<SocketAddr>);

impl FromStr for AdminText {
    type Err = String;
    fn from_str(text: &str) -> Result<AdminText, String> {
        if text == "off" {
            return Ok(AdminText(None));
        }
        let wrong = |_| format!("expected \"off\" or an address and port such as \"127.0.0.1:9090\", found \"{text}\"");
        text.parse::<AddressText>().map(|address| AdminText(Some(address.0))).map_err(wrong)
    }
}

/// See [`Origin`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OriginText(pub Origin);

impl FromStr for OriginText {
    type Err = String;
    fn from_str(text: &str) -> Result<OriginText, String> {
        text.parse().map(OriginText)
    }
}

/// A whole number, 1 or more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CountText(pub usize);

/// A duration of more than zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PositiveText(pub Duration);

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for AddressText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AddressText, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for AdminText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AdminText, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for OriginText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OriginText, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for CountText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CountText, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let count = usize::try_from(number).ok().filter(|count| (1..=1_000_000).contains(count));
        count
            .map(CountText)
            .ok_or_else(|| D::Error::custom(format!("expected a whole number from 1 to 1000000, found {number}")))
    }
}

impl<'de> Deserialize<'de> for PositiveText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PositiveText, D::Error> {
        let DurationText(duration) = DurationText::deserialize(deserializer)?;
        if duration.is_zero() {
            return Err(D::Error::custom("expected a duration of more than zero"));
        }
        Ok(PositiveText(duration))
    }
}
