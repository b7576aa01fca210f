//! What may change while the gateway serves, and how: everything is checked, and only then exchanged.
//!
//! A reload (SIGHUP) reads the configuration anew. If any of it is wrong, or cannot change without a restart, nothing
//! changes. Files of certificates are also looked at every `reload_every`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use parking_lot::Mutex;
use semel::{Quota, Semel};
use semel_core::policy::RoutePolicy;
use tokio::signal::unix::Signal;

use super::{
    authorize::AskAddress,
    cors::Cors,
    published,
    tls::{self, Incoming, Manner, Outgoing, Stamps},
};
use crate::config::{Config, ConfigError, Flags, Gateway, IdentityConfig, Place, RELOAD_EVERY, Scheme};

/// What requests are served by: the policy, and limits. A reload exchanges it as a whole, and whatever runs keeps what it
/// began with.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The protocol, with its policy.
    pub semel: Semel,
    /// The process and its connections.
    pub gateway: Gateway,
    /// The policy document.
    pub document: Bytes,
    /// What pages may read of the answers.
    pub cors: Arc<Cors>,
}

impl Terms {
    /// With what follows from them.
    pub(crate) fn new(semel: Semel, gateway: Gateway) -> Terms {
        let document = Bytes::from(published::document(semel.policy()));
        let cors = Arc::new(Cors::new(gateway.cors.clone(), semel.policy()));
        Terms { semel, gateway, document, cors }
    }

    /// The same, where the document says how callers are told apart.
    pub(crate) fn telling(self, identity: &IdentityConfig) -> Terms {
        let document = published::document_where(self.semel.policy(), identity.source.instead_of_headers());
        Terms { document: Bytes::from(document), ..self }
    }
}

/// The terms of now, the same for all who have a clone.
#[derive(Clone, Debug)]
pub(crate) struct CurrentTerms(Arc<ArcSwap<Terms>>);

impl CurrentTerms {
    /// Until they are exchanged.
    pub(crate) fn new(terms: Terms) -> CurrentTerms {
        CurrentTerms(Arc::new(ArcSwap::from_pointee(terms)))
    }

    /// Those of now. Not to be kept across an await: take a clone of what is needed.
    pub(crate) fn load(&self) -> Guard<Arc<Terms>> {
        self.0.load()
    }
}

/// Makes a checked change, which cannot fail.
pub(crate) type Commit = Box<dyn FnOnce() + Send>;
/// Checks what a new configuration, whatever else it says, would change in one part of the gateway.
pub(crate) type Check = Box<dyn Fn(&Config) -> Result<Commit, ConfigError> + Send>;

/// Where the configuration comes from, what it was last, and who has to agree to another one.
pub(crate) struct Reloading {
    file: Option<PathBuf>,
    flags: Flags,
    loaded: Config,
    parts: Vec<Check>,
    incoming: Option<Incoming>,
    outgoing: Outgoing,
    stamps: Stamps,
}

impl Reloading {
    /// Of a configuration that is in use. Reads the files of certificates: [`Reloading::tls`] has what came of it.
    pub(crate) fn new(file: Option<PathBuf>, flags: Flags, loaded: Config) -> Result<Reloading, ConfigError> {
        let stamps = stamps(&loaded);
        let incoming = loaded.tls.as_ref().map(Manner::read).transpose()?.map(Incoming::new);
        let outgoing = Outgoing::default();
        if speaks_https(&loaded.gateway) {
            outgoing.set(tls::read_outgoing(&loaded.gateway.upstream_tls)?);
        }
        Ok(Reloading { file, flags, loaded, parts: Vec::new(), incoming, outgoing, stamps })
    }

    /// How clients are met, if by TLS, and how the origin is.
    pub(crate) fn tls(&self) -> (Option<Incoming>, Outgoing) {
        (self.incoming.clone(), self.outgoing.clone())
    }

    /// One more part that has to agree. Parts commit in the order in which they joined.
    pub(crate) fn join(&mut self, check: Check) {
        self.parts.push(check);
    }

    /// Joins the terms: they change with the policy, who authorizes, the quota and the limits. `base` is the layer before
    /// anybody was asked to authorize.
    pub(crate) fn join_terms(&mut self, current: &CurrentTerms, base: &Semel, quota: &Arc<Quota>) {
        let (current, base, outgoing) = (current.clone(), base.clone(), self.outgoing.clone());
        let quota = Arc::clone(quota);
        self.join(Box::new(move |config| {
            let semel = with_terms(base.with_policy(config.policy.clone()), config, &quota, &outgoing);
            let terms = Arc::new(Terms::new(semel, config.gateway.clone()).telling(&config.identity));
            let current = current.clone();
            let (quota, limits) = (Arc::clone(&quota), config.quota);
            Ok(Box::new(move || {
                quota.change(limits);
                current.0.store(terms);
            }))
        }));
    }

    /// Reads the configuration and the files of certificates, and uses all of it or nothing; says what changed.
    pub(crate) fn reload(&mut self) -> Result<Vec<String>, ConfigError> {
        let config = Config::load(self.file.as_deref(), self.flags.clone())?;
        self.refuse_fixed(&config)?;
        let stamps = stamps(&config);
        let certificates = self.check_certificates(&config)?;
        let commits = self.parts.iter().map(|check| check(&config)).collect::<Result<Vec<_>, _>>()?;
        certificates();
        commits.into_iter().for_each(|commit| commit());
        let mut changes = changes(&self.loaded, &config);
        if self.stamps != stamps {
            changes.push("certificates".to_owned());
        }
        (self.loaded, self.stamps) = (config, stamps);
        Ok(changes)
    }

    /// Reads the files of certificates again if one of them was exchanged since they were last read. `None`: none was.
    pub(crate) fn refresh(&mut self) -> Option<Result<(), ConfigError>> {
        let stamps = stamps(&self.loaded);
        if stamps == self.stamps {
            return None;
        }
        // Whatever comes of it, it is not tried again before the next change: a warning is told once.
        self.stamps = stamps;
        Some(self.check_certificates(&self.loaded).map(|commit| commit()))
    }

    fn check_certificates(&self, config: &Config) -> Result<Commit, ConfigError> {
        let incoming = match (&self.incoming, &config.tls) {
            (Some(incoming), Some(tls)) => Some((incoming.clone(), Manner::read(tls)?)),
            (None, _) | (Some(_), None) => None,
        };
        let outgoing = if speaks_https(&config.gateway) {
            Some((self.outgoing.clone(), tls::read_outgoing(&config.gateway.upstream_tls)?))
        } else {
            None
        };
        Ok(Box::new(move || {
            if let Some((incoming, manner)) = incoming {
                incoming.set(manner);
            }
            if let Some((outgoing, config)) = outgoing {
                outgoing.set(config);
            }
        }))
    }

    /// Refuses a configuration with other settings than a running process can change.
    fn refuse_fixed(&self, config: &Config) -> Result<(), ConfigError> {
        let (old, new) = (&self.loaded.gateway, &config.gateway);
        let mut fixed = vec![
            ("gateway.listen", old.listen == new.listen),
            ("gateway.upstream", old.upstream == new.upstream),
            ("gateway.upstream_server_name", old.upstream_tls.server_name == new.upstream_tls.server_name),
            ("gateway.data", old.data == new.data),
            ("gateway.seal_secret_files", old.seal_secret_files == new.seal_secret_files),
            ("gateway.admin", old.admin == new.admin),
            ("gateway.admin_token_file", old.admin_token_file == new.admin_token_file),
            ("gateway.audit_log", old.audit_log == new.audit_log),
            ("gateway.log", old.log == new.log),
            ("gateway.threads", old.threads == new.threads),
            ("gateway.connections_max", old.connections_max == new.connections_max),
            ("gateway.upstream_connections_max", old.upstream_connections_max == new.upstream_connections_max),
            ("gateway.upstream_idle_max", old.upstream_idle_max == new.upstream_idle_max),
            ("gateway.connect_max", old.connect_max == new.connect_max),
            ("[identity], but for the contents of its files,", self.loaded.identity == config.identity),
            ("[tls], whether clients connect by TLS,", self.loaded.tls.is_some() == config.tls.is_some()),
        ];
        let every = |config: &Config| config.tls.as_ref().map(|tls| tls.reload_every);
        fixed.push(("tls.reload_every", every(&self.loaded) == every(config) || config.tls.is_none()));
        fixed.push(("[telemetry]", self.loaded.telemetry == config.telemetry));
        // Whatever is added to the gateway and not named here or below does not change either.
        let mut rest = new.clone();
        rest.publish_policy = old.publish_policy;
        rest.authorize.clone_from(&old.authorize);
        rest.host = old.host;
        rest.log_filter.clone_from(&old.log_filter);
        rest.header_read_max = old.header_read_max;
        rest.response_header_max = old.response_header_max;
        rest.drain_max = old.drain_max;
        rest.cors.clone_from(&old.cors);
        rest.upstream_tls.clone_from(&old.upstream_tls);
        if fixed.iter().all(|(_, same)| *same) {
            fixed.push(("a setting of [gateway]", rest == *old));
        }
        let mut store = config.store.clone();
        if !matches!(store.place, Place::Postgres(_)) {
            // It follows from the policy, and means nothing there.
            store.period = self.loaded.store.period;
        }
        fixed.push(("[store], or what follows from remember_for for its period,", self.loaded.store == store));
        let changed: Vec<&str> = fixed.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
        match changed.as_slice() {
            [] => Ok(()),
            changed => Err(ConfigError::new(format!("{} cannot change without a restart", changed.join(" and ")))),
        }
    }
}

/// The layer with a quota if there is one, which asks whom the configuration says before it replays.
pub(crate) fn with_terms(semel: Semel, config: &Config, quota: &Arc<Quota>, outgoing: &Outgoing) -> Semel {
    let semel = if config.quota.live_keys_max > 0 { semel.limited_by(Arc::clone(quota)) } else { semel };
    match config.gateway.authorize.clone() {
        None => semel,
        Some(question) => {
            let token = config.identity.token_header().cloned();
            let ask = AskAddress::new(question, &config.gateway, outgoing, &semel, token);
            semel.authorize_replays(Arc::new(ask))
        }
    }
}

/// Reloads when told to, and looks at the files of certificates every `reload_every`; never returns.
pub(crate) async fn heed(reloading: Reloading, mut hangup: Signal) {
    let every = reloading.loaded.tls.as_ref().map_or(RELOAD_EVERY, |tls| tls.reload_every);
    let reloading = Arc::new(Mutex::new(reloading));
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    loop {
        let told = tokio::select! {
            Some(()) = hangup.recv() => Told::Everything,
            _ = ticks.tick() => Told::Files,
        };
        let reloading = Arc::clone(&reloading);
        // Files are read, which may take long, beside those who accept.
        let _panicked = tokio::task::spawn_blocking(move || match told {
            Told::Everything => tell(reloading.lock().reload()),
            Told::Files => match reloading.lock().refresh() {
                None => {}
                Some(Ok(())) => tracing::info!(target: "semel::serve", "certificates were exchanged"),
                Some(Err(error)) => tracing::warn!(
                    target: "semel::serve",
                    "certificates were exchanged and cannot be used, those from before stay: {error}"
                ),
            },
        })
        .await;
    }
}

/// What is to be read again.
#[derive(Clone, Copy)]
enum Told {
    Everything,
    Files,
}

fn tell(outcome: Result<Vec<String>, ConfigError>) {
    match outcome {
        Ok(changes) if changes.is_empty() => {
            tracing::info!(target: "semel::serve", "SIGHUP: reloaded, nothing changed");
        }
        Ok(changes) => tracing::info!(target: "semel::serve", "SIGHUP: reloaded: {}", changes.join("; ")),
        Err(error) => tracing::error!(
            target: "semel::serve",
            "SIGHUP: the configuration is refused, the one from before stays: {error}"
        ),
    }
}

/// What differs, in words.
fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let names = |config: &Config| config.policy.routes().iter().map(|route| name(route)).collect::<Vec<_>>();
    let (had, has) = (names(old), names(new));
    let without = |all: &[String], others: &[String]| {
        all.iter().filter(|name| !others.contains(name)).cloned().collect::<Vec<_>>().join(", ")
    };
    let (added, removed) = (without(&has, &had), without(&had, &has));
    if !added.is_empty() {
        changes.push(format!("routes added: {added}"));
    }
    if !removed.is_empty() {
        changes.push(format!("routes removed: {removed}"));
    }
    if old.policy.principal() != new.policy.principal() {
        changes.push("principal: callers of before have new key spaces, so their retries of before execute".to_owned());
    }
    let is_other = |route: &&Arc<RoutePolicy>| {
        let of_before = old.policy.routes().iter().find(|before| name(before) == name(route));
        of_before.is_some_and(|before| before != *route)
    };
    let others: Vec<_> = new.policy.routes().iter().filter(is_other).map(|route| name(route)).collect();
    if !others.is_empty() {
        changes.push(format!("routes changed: {}", others.join(", ")));
    }
    if old.policy.documentation() != new.policy.documentation() {
        changes.push("documentation".to_owned());
    }
    let (had, has) = (&old.gateway, &new.gateway);
    let settings = [
        ("publish_policy", had.publish_policy == has.publish_policy),
        ("authorize", had.authorize == has.authorize),
        ("host", had.host == has.host),
        ("log_filter", had.log_filter == has.log_filter),
        ("header_read_max", had.header_read_max == has.header_read_max),
        ("response_header_max", had.response_header_max == has.response_header_max),
        ("[cors]", had.cors == has.cors),
        ("drain_max", had.drain_max == has.drain_max),
        ("the files of connections to the origin", had.upstream_tls == has.upstream_tls),
        ("[tls]", old.tls == new.tls),
        ("[quota]", old.quota == new.quota),
    ];
    changes.extend(settings.iter().filter(|(_, same)| !same).map(|(name, _)| (*name).to_owned()));
    changes
}

fn name(route: &RoutePolicy) -> String {
    let methods = route.methods.iter().map(http::Method::as_str).collect::<Vec<_>>();
    format!("{} {}", methods.join(" "), route.path.as_str())
}

fn speaks_https(gateway: &Gateway) -> bool {
    let authorize = gateway.authorize.as_ref().map(|question| &question.origin);
    gateway.upstream.as_ref().into_iter().chain(authorize).any(|origin| origin.scheme() == Scheme::Https)
}

fn stamps(config: &Config) -> Stamps {
    let mut files = Vec::new();
    if let Some(tls) = &config.tls {
        files.extend([tls.cert_file.clone(), tls.key_file.clone()]);
        files.extend(tls.client_ca_file.clone());
    }
    let upstream = &config.gateway.upstream_tls;
    files.extend(upstream.ca_file.clone());
    files.extend(upstream.client.iter().flat_map(|client| [client.cert.clone(), client.key.clone()]));
    Stamps::of(&files)
}
