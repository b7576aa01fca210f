//! `[store]`: where records live, and how a shared store is reached.
//!
//! A password may come with the URL, from the environment, or in a file, and from one of them only. Nothing here prints
//! it: what is shown of a URL never has one, and a line of a file that may have one is not quoted in a complaint.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use semel::store::{postgres, redis, shared::Password};
use semel_core::policy::Policy;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{PositiveText, from_text};

#[cfg(test)]
mod tests;

/// How long one partition of PostgreSQL takes records where nothing is said: a part of what is remembered longest, so
/// that a few partitions exist at a time, within these bounds.
const PERIODS_PER_MEMORY: u32 = 4;
const PERIOD_MIN: Duration = Duration::from_hours(1);
const PERIOD_MAX: Duration = Duration::from_hours(30 * 24);

/// The most connections that one gateway may have to a store.
const CONNECTIONS_MAX: i64 = 1_000;
/// The most replicas that a write may wait for.
const REPLICAS_MAX: i64 = 100;
/// The longest prefix of keys in Redis, in bytes.
const PREFIX_BYTES_MAX: usize = redis::PREFIX_BYTES_MAX;

/// Where records live, and how a shared store is reached, with every default filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoreConfig {
    /// Where records live.
    pub place: Place,
    /// What the shared store asks for.
    pub password: PasswordFrom,
    /// The file of the secret that all gateways on one store have in common; `None`: the one in the data folder.
    pub secret_file: Option<PathBuf>,
    /// The secret itself, as `SEMEL_SECRET` gives it; it stands in for every file.
    pub secret: Option<SecretText>,
    /// Connections of this gateway to the shared store.
    pub connections: usize,
    /// How long the shared store may take for one answer.
    pub statement_max: Duration,
    /// How long reaching the shared store may take.
    pub connect_max: Duration,
    /// A shared store that may lose what it confirmed is warned of, and used.
    pub accept_loss: bool,
    /// Who vouches for the shared store; `None`: the authorities that the web trusts.
    pub ca_file: Option<PathBuf>,
    /// What this gateway shows of itself, and the key of it.
    pub client_cert_file: Option<PathBuf>,
    /// See `client_cert_file`: both or neither.
    pub client_key_file: Option<PathBuf>,
    /// PostgreSQL: how long one partition takes records.
    pub period: Duration,
    /// PostgreSQL: statements are prepared; not behind a pooler that cannot.
    pub prepared: bool,
    /// Redis: what every key begins with.
    pub prefix: String,
    /// Redis: how many replicas must have a write before it counts.
    pub replicas: u32,
    /// Redis: a write counts only once it is on the server's own disk.
    pub local_aof: bool,
}

/// Where records live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the data folder.
    Embedded,
    /// In this process only: everything is forgotten when it ends.
    Memory,
    /// In a PostgreSQL that any number of gateways use at once.
    Postgres(StoreUrl),
    /// The same in Redis or Valkey.
    Redis(StoreUrl),
}

/// A secret as a text of 64 hexadecimal digits, which no output shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretText([u8; 32]);

impl SecretText {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl FromStr for SecretText {
    type Err = String;
    fn from_str(text: &str) -> Result<SecretText, String> {
        let wrong = || format!("it must be 64 hexadecimal digits, and has {} characters", text.chars().count());
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(SecretText(bytes))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// The URL of a shared store, without its password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoreUrl(String);

/// Who tells the password of a shared store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PasswordFrom {
    /// Nobody.
    Nowhere,
    /// The URL, which whoever lists processes or reads the file sees.
    Url(Password),
    /// `SEMEL_STORE_PASSWORD`.
    Environment(Password),
    /// A file, whose content it is.
    File(PathBuf),
}

/// What a file or the command line says of the place, and the password if that was in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PlaceText {
    place: Place,
    password: Option<Password>,
}

/// What the command line and the environment say of the store; it beats the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreFlags {
    /// `--store` or `SEMEL_STORE`.
    pub place: Option<PlaceText>,
    /// `--secret-file` or `SEMEL_SECRET_FILE`.
    pub secret_file: Option<PathBuf>,
    /// `SEMEL_SECRET`.
    pub secret: Option<SecretText>,
    /// `SEMEL_STORE_PASSWORD`.
    pub password: Option<Password>,
}

/// The table as a file gives it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreSettings {
    url: Option<PlaceText>,
    password_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    connections: Option<Connections>,
    statement_max: Option<PositiveText>,
    connect_max: Option<PositiveText>,
    accept_loss: Option<bool>,
    ca_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    period: Option<PositiveText>,
    prepared: Option<bool>,
    prefix: Option<Prefix>,
    replicas: Option<Replicas>,
    local_aof: Option<bool>,
}

impl StoreSettings {
    /// Lays the command line over it. All defaults of `[store]` are here: those of the library, alike for both shared stores.
    ///
    /// Of settings that contradict each other, the message begins with the one to look at.
    pub(super) fn build(self, flags: StoreFlags, policy: &Policy) -> Result<StoreConfig, String> {
        let told = flags.place.or_else(|| self.url.clone());
        let PlaceText { place, password } = told.unwrap_or(PlaceText { place: Place::Embedded, password: None });
        if let Some(name) = self.out_of_place(&place) {
            return Err(format!("`{name}` says nothing about {}: leave it out", place.kind()));
        }
        let secret_file = flags.secret_file.or(self.secret_file);
        if secret_file.is_some() && !place.is_shared() {
            return Err(format!(
                "`secret_file` is for a store that gateways share: {} has its own secret in gateway.data",
                place.kind()
            ));
        }
        if secret_file.is_some() && flags.secret.is_some() {
            return Err("`secret_file` and SEMEL_SECRET: give one of them".to_owned());
        }
        // A password that is there for another store is no contradiction in an environment.
        let from_environment = flags.password.filter(|_| place.is_shared());
        let password = match (password, from_environment, self.password_file) {
            (None, None, None) => PasswordFrom::Nowhere,
            (Some(password), None, None) => PasswordFrom::Url(password),
            (None, Some(password), None) => PasswordFrom::Environment(password),
            (None, None, Some(file)) => PasswordFrom::File(file),
            _two => {
                let why = "`password_file`, SEMEL_STORE_PASSWORD and a password in the URL: give one of them";
                return Err(why.to_owned());
            }
        };
        for (one, there, other) in [
            ("client_cert_file", self.client_cert_file.is_some(), "client_key_file"),
            ("client_key_file", self.client_key_file.is_some(), "client_cert_file"),
        ] {
            if there && (self.client_cert_file.is_none() || self.client_key_file.is_none()) {
                return Err(format!("`{one}` needs {other}"));
            }
        }
        Ok(StoreConfig {
            place,
            password,
            secret_file,
            secret: flags.secret,
            connections: self.connections.map_or(postgres::CONNECTIONS_DEFAULT, |Connections(connections)| connections),
            statement_max: self.statement_max.map_or(postgres::STATEMENT_MAX_DEFAULT, |duration| duration.0),
            connect_max: self.connect_max.map_or(postgres::CONNECT_MAX_DEFAULT, |duration| duration.0),
            accept_loss: self.accept_loss.unwrap_or(false),
            ca_file: self.ca_file,
            client_cert_file: self.client_cert_file,
            client_key_file: self.client_key_file,
            period: self.period.map_or_else(|| period_of(policy), |duration| duration.0),
            prepared: self.prepared.unwrap_or(true),
            prefix: self.prefix.map_or_else(|| redis::PREFIX_DEFAULT.to_owned(), |Prefix(prefix)| prefix),
            replicas: self.replicas.map_or(0, |Replicas(replicas)| replicas),
            local_aof: self.local_aof.unwrap_or(false),
        })
    }

    /// A setting that is there and means nothing at that place.
    fn out_of_place(&self, place: &Place) -> Option<&'static str> {
        let shared = [
            ("password_file", self.password_file.is_some()),
            ("connections", self.connections.is_some()),
            ("statement_max", self.statement_max.is_some()),
            ("connect_max", self.connect_max.is_some()),
            ("accept_loss", self.accept_loss.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("client_cert_file", self.client_cert_file.is_some()),
            ("client_key_file", self.client_key_file.is_some()),
        ];
        let postgres = [("period", self.period.is_some()), ("prepared", self.prepared.is_some())];
        let redis = [
            ("prefix", self.prefix.is_some()),
            ("replicas", self.replicas.is_some()),
            ("local_aof", self.local_aof.is_some()),
        ];
        let (shared, postgres, redis) = (shared.as_slice(), postgres.as_slice(), redis.as_slice());
        let meaningless: &[&[_]] = match place {
            Place::Embedded | Place::Memory => &[shared, postgres, redis],
            Place::Postgres(_) => &[redis],
            Place::Redis(_) => &[postgres],
        };
        meaningless.iter().copied().flatten().find(|(_, there)| *there).map(|(name, _)| *name)
    }
}

/// See [`PERIODS_PER_MEMORY`].
fn period_of(policy: &Policy) -> Duration {
    let longest = policy.routes().iter().map(|route| route.remember_for).max().unwrap_or_default();
    (longest / PERIODS_PER_MEMORY).clamp(PERIOD_MIN, PERIOD_MAX)
}

impl Place {
    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Place::Embedded => "the embedded store",
            Place::Memory => "the store in memory",
            Place::Postgres(_) => "PostgreSQL",
            Place::Redis(_) => "Redis",
        }
    }

    /// Whether several gateways may use it at once.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Place::Embedded | Place::Memory => false,
            Place::Postgres(_) | Place::Redis(_) => true,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Embedded => f.write_str("embedded"),
            Place::Memory => f.write_str("memory"),
            Place::Postgres(url) | Place::Redis(url) => f.write_str(url.as_str()),
        }
    }
}

impl PlaceText {
    /// The place, without a password.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

impl StoreUrl {
    /// The URL, without a password.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Host, port and database, for people.
    pub(crate) fn place(&self) -> &str {
        let rest = self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest);
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, rest)| rest).trim_end_matches('/')
    }
}

impl FromStr for PlaceText {
    type Err = String;

    fn from_str(text: &str) -> Result<PlaceText, String> {
        let place = |place| Ok(PlaceText { place, password: None });
        let unknown = || {
            Err(format!(
                "expected \"embedded\", \"memory\", or a URL such as \"postgres://user@host/database\", \"redis://host:6379\" \
                 or \"redis+cluster://host:6379\" (rediss with TLS; Valkey speaks redis), found \"{}\"",
                redacted(text)
            ))
        };
        let (scheme, rest) = match (text, text.split_once("://")) {
            ("embedded", _) => return place(Place::Embedded),
            ("memory", _) => return place(Place::Memory),
            (_, Some(parts)) => parts,
            (_, None) => return unknown(),
        };
        // Where it is not known what of it is the password, nothing of it is quoted.
        let wrong = |why: &str| Err(format!("{scheme}://..: {why}"));
        let engine: fn(StoreUrl) -> Place = match scheme {
            "postgres" | "postgresql" => Place::Postgres,
            "redis" | "rediss" | "redis+cluster" | "rediss+cluster" => Place::Redis,
            _ => return unknown(),
        };
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) || text.contains('#') {
            return wrong("write white space and # as %20 and %23");
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if path.contains('@') || authority.matches('@').count() > 1 {
            return wrong("write @ within user and password as %40, / as %2F, ? as %3F");
        }
        let (credentials, hosts) = authority.split_once('@').unwrap_or(("", authority));
        if hosts.is_empty() {
            return wrong("the host is missing");
        }
        if !hosts.split(',').all(has_good_port) {
            return wrong("what stands behind a host's colon is no port");
        }
        if has_password_parameter(path) {
            return wrong(
                "the password must stand before the host, or in a file: behind the question mark other programs would show it",
            );
        }
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let Ok(password) = percent_encoding::percent_decode_str(password).decode_utf8() else {
            return wrong("the password is not UTF-8");
        };
        let at = if user.is_empty() { "" } else { "@" };
        let url = StoreUrl(format!("{scheme}://{user}{at}{hosts}{path}"));
        let password = Some(password.into_owned()).filter(|password| !password.is_empty()).map(Password::new);
        Ok(PlaceText { place: engine(url), password })
    }
}

/// `host`, `host:5432`, `[::1]`, `[::1]:5432`.
fn has_good_port(host: &str) -> bool {
    let behind_address = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
    behind_address.split_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// libpq's parameters may carry one, and no other program would know to hide it.
fn has_password_parameter(path: &str) -> bool {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name.to_ascii_lowercase().contains("password"))
}

/// The part of a line that may be a password: what stands before the last `@` of a URL, behind `password=`, or behind
/// the equals sign of a member that somebody named so.
pub(super) fn secret_of(line: &str) -> Option<&str> {
    let (member, value) = line.split_once('=').unwrap_or(("", line));
    let member = member.trim().to_ascii_lowercase();
    if member.contains("password") && member != "password_file" {
        return Some(value.trim());
    }
    let parameter = line.to_ascii_lowercase().find("password=").map(|at| &line[at + "password=".len()..]);
    let credentials = line.find("://").and_then(|at| {
        let rest = &line[at + 3..];
        if let Some(end) = rest.rfind('@') {
            return Some(&rest[..end]).filter(|credentials| credentials.contains(':'));
        }
        // Somebody may have forgotten the host.
        let authority = rest.split(['/', '?', '"', '\'', ' ']).next().unwrap_or_default();
        let (_, port) = authority.rsplit_once(':')?;
        Some(port).filter(|port| !port.ends_with(']') && port.contains(|c: char| !c.is_ascii_digit()))
    });
    credentials.or(parameter).filter(|secret| !secret.is_empty())
}

/// The text without what may be a password in it.
pub(super) fn redacted(text: &str) -> String {
    secret_of(text).map_or_else(|| text.to_owned(), |secret| text.replace(secret, ".."))
}

/// What every key begins with; the same for all keys of a store, and without what Redis reads a meaning into.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Prefix(String);

impl FromStr for Prefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Prefix, String> {
        // Braces would put all keys into one slot of a Cluster, and stars and brackets match others in a SCAN.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ":._-".contains(c);
        if (1..=PREFIX_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain) {
            return Ok(Prefix(text.to_owned()));
        }
        Err(format!(
            "expected 1 to {PREFIX_BYTES_MAX} letters, digits, and : . _ -, such as \"semel:\", found \"{text}\""
        ))
    }
}

#[derive(Clone, Copy, Debug)]
struct Connections(usize);

#[derive(Clone, Copy, Debug)]
struct Replicas(u32);

fn whole<'de, D: Deserializer<'de>, T: TryFrom<i64>>(deserializer: D, least: i64, most: i64) -> Result<T, D::Error> {
    let number = i64::deserialize(deserializer)?;
    let wrong = || D::Error::custom(format!("expected a whole number from {least} to {most}, found {number}"));
    Some(number).filter(|number| (least..=most).contains(number)).and_then(|n| T::try_from(n).ok()).ok_or_else(wrong)
}

impl<'de> Deserialize<'de> for Connections {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Connections, D::Error> {
        whole(deserializer, 1, CONNECTIONS_MAX).map(Connections)
    }
}

impl<'de> Deserialize<'de> for Replicas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Replicas, D::Error> {
        whole(deserializer, 0, REPLICAS_MAX).map(Replicas)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for PlaceText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlaceText, D::Error> {
        from_text(deserializer)
    }
}
