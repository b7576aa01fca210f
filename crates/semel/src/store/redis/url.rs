//! From the options to where the nodes are and how to log in.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

use super::{
    super::shared::OpenError,
    Options, PREFIX_BYTES_MAX,
    lanes::{Address, Kind},
};

/// What a URL says.
pub(super) struct At {
    pub(super) kind: Kind,
    pub(super) transport: Transport,
    pub(super) addresses: Vec<Address>,
    pub(super) login: RedisConnectionInfo,
}

/// How bytes travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Plain,
    Tls,
}

impl Transport {
    pub(super) fn is_tls(self) -> bool {
        self == Transport::Tls
    }
}

const SCHEMES: [(&str, Kind, Transport); 4] = [
    ("redis://", Kind::Single, Transport::Plain),
    ("rediss://", Kind::Single, Transport::Tls),
    ("redis+cluster://", Kind::Cluster, Transport::Plain),
    ("rediss+cluster://", Kind::Cluster, Transport::Tls),
];

/// Reads the URL and refuses options that cannot work. No error shows the URL, which may hold a password.
pub(super) fn read(options: &Options) -> Result<At, OpenError> {
    let wrong = |text: &str| Err(OpenError::Options(text.to_owned()));
    let text = options.url.expose();
    let scheme =
        SCHEMES.iter().find_map(|(scheme, kind, transport)| Some((*kind, *transport, text.strip_prefix(scheme)?)));
    let Some((kind, transport, rest)) = scheme else {
        return wrong("the URL of the store begins with redis://, rediss://, redis+cluster:// or rediss+cluster://");
    };
    if rest.contains(['?', '#']) {
        return wrong("the URL of the store has options after ? or #, and Redis takes none there");
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    let infos: Result<Vec<ConnectionInfo>, _> =
        hosts.split(',').map(|host| format!("redis://{login}{host}/{database}").into_connection_info()).collect();
    let Ok(infos) = infos else {
        return wrong("the URL of the store is not of the form redis://[user[:password]@]host[:port][/database]");
    };
    let addresses: Vec<Address> = infos
        .iter()
        .filter_map(|info| match info.addr() {
            ConnectionAddr::Tcp(host, port) => Some(Address { host: host.clone(), port: *port }),
            ConnectionAddr::TcpTls { .. } | ConnectionAddr::Unix(_) => None,
            _ => None,
        })
        .collect();
    let Some(mut login) = infos.first().map(|info| info.redis_settings().clone()) else {
        return wrong("the URL of the store names no host");
    };
    match kind {
        Kind::Single if addresses.len() > 1 => {
            return wrong(
                "several hosts are those of a Cluster: its URL begins with redis+cluster:// or rediss+cluster://",
            );
        }
        Kind::Cluster if login.db() != 0 => return wrong("a Cluster has no database but 0"),
        Kind::Single | Kind::Cluster => {}
    }
    if let Some(password) = &options.password {
        login = login.set_password(password.expose());
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_.-".contains(&byte);
    if options.prefix.len() > PREFIX_BYTES_MAX || !options.prefix.bytes().all(is_plain) {
        // Braces would bring all keys of a Cluster to one node, and others would mean something to SCAN.
        return Err(OpenError::Options(format!("prefix is at most {PREFIX_BYTES_MAX} letters, digits and : _ . -")));
    }
    let limits = [
        ("connections", options.connections as u128),
        ("statement_max", options.statement_max.as_millis()),
        ("connect_max", options.connect_max.as_millis()),
        ("batch_requests_max", options.batch_requests_max as u128),
        ("batch_bytes_max", options.batch_bytes_max as u128),
        ("queue_max", options.queue_max as u128),
        ("queue_bytes_max", options.queue_bytes_max as u128),
        ("copies_wait_max", options.copies_wait_max.as_millis()),
    ];
    if let Some((name, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
        return Err(OpenError::Options(format!("{name} is 0, and the store could not work")));
    }
    let waits = options.replicas > 0 || options.local_aof;
    if waits && options.copies_wait_max >= options.statement_max {
        return wrong("copies_wait_max must be less than statement_max: a write waits for its copies within its time");
    }
    Ok(At { kind, transport, addresses, login })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::shared::Url;

    fn refused(options: &Options) -> String {
        match read(options) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_url_says_where_and_how_and_who() {
        let at = read(&Options::new("rediss+cluster://ann:p%40ss@one:7000,[::1]:7001,three")).unwrap();
        assert_eq!((at.kind, at.transport), (Kind::Cluster, Transport::Tls));
        let addresses: Vec<String> = at.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["one:7000", "[::1]:7001", "three:6379"]);
        assert_eq!((at.login.username(), at.login.password()), (Some("ann"), Some("p@ss")));
        let at = read(&Options::new("redis://localhost/3")).unwrap();
        assert_eq!((at.kind, at.transport, at.login.db()), (Kind::Single, Transport::Plain, 3));
    }

    #[test]
    fn what_cannot_work_is_refused_and_no_text_shows_the_password() {
        let good = Options::new("redis://:hunter2@localhost");
        let cases = [
            Options { url: Url::new("http://:hunter2@localhost"), ..good.clone() },
            Options { url: Url::new("redis://:hunter2@localhost:port"), ..good.clone() },
            Options { url: Url::new("redis://:hunter2@localhost/?protocol=resp3"), ..good.clone() },
            Options { url: Url::new("redis://:hunter2@one,two"), ..good.clone() },
            Options { url: Url::new("redis+cluster://:hunter2@one/2"), ..good.clone() },
            Options { prefix: "{semel}".into(), ..good.clone() },
            Options { prefix: "semel*".into(), ..good.clone() },
            Options { connections: 0, ..good.clone() },
            Options { replicas: 1, copies_wait_max: good.statement_max, ..good.clone() },
        ];
        for options in &cases {
            let text = format!("{} {options:?}", refused(options));
            assert!(!text.starts_with("accepted"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert_eq!(refused(&good), "accepted");
    }
}
