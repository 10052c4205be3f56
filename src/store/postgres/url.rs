//! What a store's URL says: where the servers are, and how they are spoken to.

use std::{path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

/// How long one server may take to take a new connection; what it may take after that is the same for all.
const CONNECT: Duration = Duration::from_secs(5);
/// How long what was sent may go unacknowledged until the connection counts as lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// How long a connection is silent until it is asked whether it is still there.
const SILENT: Duration = Duration::from_secs(15);
/// How often it is asked then, and how many times: an answer to what was asked may never come from a machine that is gone.
const PROBED: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;

/// How the server's certificate is looked at, as PostgreSQL's own clients do (`sslmode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verify {
    /// Not at all: nobody may listen, anybody may answer.
    Nothing,
    /// An authority that is trusted has signed it.
    Authority,
    /// Likewise, for the name of the server.
    Full,
}

/// A URL that was read.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) config: Config,
    pub(super) verify: Verify,
    /// The file of the authorities that are trusted (`sslrootcert`); else those of the system.
    pub(super) authorities: Option<PathBuf>,
}

impl Place {
    /// It without password and options.
    pub(super) fn shown(&self) -> String {
        // Some clouds' names of users have one of their own.
        let user = self.config.get_user().map(|user| format!("{}@", user.replace('@', "%40"))).unwrap_or_default();
        format!("postgres://{user}{}/{}", self.names().join(","), self.config.get_dbname().unwrap_or_default())
    }

    /// What its servers are called.
    pub(super) fn names(&self) -> Vec<String> {
        let name = |(at, host): (usize, &Host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(&self.config, at)),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        };
        self.config.get_hosts().iter().enumerate().map(name).collect()
    }
}

/// Where the server listens that is named at this place.
pub(super) fn port(config: &Config, at: usize) -> u16 {
    let ports = config.get_ports();
    ports.get(at).or(ports.first()).copied().unwrap_or(5432)
}

/// What is wrong with a URL of which part of the password would be taken for something else, and shown.
const ENCODE: &str = "more than one `@`, or one behind the `?`: in user, password and options, write @ / ? % # percent-encoded, as %40 %2F \
                      %3F %25 %23";

/// Reads `url`. The reason why it cannot be used tells nothing of it: it may hold a password.
pub(super) fn parse(url: &str) -> Result<Place, String> {
    let (servers, query) = url.split_once('?').unwrap_or((url, ""));
    // What precedes the last one is, or may be, of the password.
    if 1 < servers.matches('@').count() || query.contains('@') {
        return Err(ENCODE.into());
    }
    let mut verify = Verify::Nothing;
    let mut authorities = None;
    let mut rest: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", "verify-ca")) => (verify, _) = (Verify::Authority, rest.push("sslmode=require".into())),
            Some(("sslmode", "verify-full")) => (verify, _) = (Verify::Full, rest.push("sslmode=require".into())),
            Some(("sslmode", mode)) if !["disable", "prefer", "require"].contains(&mode) => {
                return Err("`sslmode` is one of disable, prefer, require, verify-ca, verify-full".into());
            }
            Some(("password", _)) => {
                return Err("a password stands before the server: postgres://user:password@host/database".into());
            }
            Some(("channel_binding", "require")) => {
                return Err("channel binding is not spoken: leave `channel_binding` out, or write `prefer`".into());
            }
            Some(("sslnegotiation", "direct")) => {
                return Err("TLS begins by asking for it: leave `sslnegotiation` out, or write `postgres`".into());
            }
            // One that is no standby: all that are written to are of that kind.
            Some(("target_session_attrs", "primary")) => rest.push("target_session_attrs=read-write".into()),
            Some(("sslrootcert", path)) => authorities = Some(decoded(path)?),
            _ => rest.push(pair.to_owned()),
        }
    }
    let text = if rest.is_empty() { servers.to_owned() } else { format!("{servers}?{}", rest.join("&")) };
    let mut config: Config = text.parse().map_err(|error| reason(&error))?;
    if config.get_hosts().is_empty() {
        return Err("it names no server".into());
    }
    if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err("the name of a server has an `@`".into());
    }
    let all = config.get_hosts().len();
    if !config.get_hostaddrs().is_empty() && config.get_hostaddrs().len() != all {
        return Err("it has another number of `hostaddr` than of servers".into());
    }
    if 1 < config.get_ports().len() && config.get_ports().len() != all {
        return Err("it has another number of ports than of servers".into());
    }
    match sockets(&config) {
        Sockets::None => {}
        // As PostgreSQL's own clients do: nothing of it leaves the machine, and no server speaks TLS there.
        Sockets::All => {
            config.ssl_mode(SslMode::Disable);
            (verify, authorities) = (Verify::Nothing, None);
        }
        Sockets::Some if config.get_ssl_mode() == SslMode::Require => {
            return Err(
                "over a socket of this machine there is no TLS, which its `sslmode` wants of all servers: name them all by \
                        address, or leave `sslmode` out"
                    .into(),
            );
        }
        Sockets::Some => {}
    }
    // As PostgreSQL's own clients do.
    if authorities.is_some() && config.get_ssl_mode() == SslMode::Require && verify == Verify::Nothing {
        verify = Verify::Authority;
    }
    if config.get_application_name().is_none() {
        config.application_name("hookyard");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    // A standby takes nothing in: of several servers, the one that does; after a failover, the new one.
    config.target_session_attrs(TargetSessionAttrs::ReadWrite).tcp_user_timeout(UNACKNOWLEDGED);
    config.keepalives_idle(SILENT).keepalives_interval(PROBED).keepalives_retries(PROBES);
    Ok(Place { config, verify, authorities })
}

/// How many of the servers are reached by a socket in the file system.
enum Sockets {
    None,
    Some,
    All,
}

fn sockets(config: &Config) -> Sockets {
    let is_socket = |host: &Host| match host {
        Host::Tcp(_) => false,
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    let (many, all) = (config.get_hosts().iter().filter(|host| is_socket(host)).count(), config.get_hosts().len());
    match many {
        0 => Sockets::None,
        // An address goes before the name.
        _ if many == all && config.get_hostaddrs().is_empty() => Sockets::All,
        _ => Sockets::Some,
    }
}

fn decoded(text: &str) -> Result<PathBuf, String> {
    let pair = format!("p={}", text.replace('+', "%2B"));
    let value = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned());
    value.filter(|path| !path.is_empty()).map(PathBuf::from).ok_or_else(|| "`sslrootcert` is a path".into())
}

/// What the parser says, which names options and never values.
fn reason(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let source = error.source().map(ToString::to_string);
    source.unwrap_or_else(|| "it is not of the form postgres://user:password@host:5432/database".into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn modes_are_those_of_postgresql() {
        let modes = [
            ("", SslMode::Prefer, Verify::Nothing),
            ("?sslmode=disable", SslMode::Disable, Verify::Nothing),
            ("?sslmode=require", SslMode::Require, Verify::Nothing),
            ("?sslmode=require&sslrootcert=/ca.pem", SslMode::Require, Verify::Authority),
            ("?sslmode=verify-ca&connect_timeout=3", SslMode::Require, Verify::Authority),
            ("?sslrootcert=%2Fca.pem&sslmode=verify-full", SslMode::Require, Verify::Full),
        ];
        for (query, mode, verify) in modes {
            let place = parse(&format!("postgres://me:hush@one:1,two:2/db{query}")).unwrap();
            assert_eq!((place.config.get_ssl_mode(), place.verify), (mode, verify), "{query}");
            assert_eq!(place.config.get_hosts().len(), 2);
            assert_eq!(place.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            assert!(place.authorities.as_deref().is_none_or(|path| path == Path::new("/ca.pem")));
        }
    }

    #[test]
    fn what_is_shown_has_no_password() {
        let place = parse("postgres://me:hush@one:1,two/db?sslmode=require&options=-chush%3Dhush").unwrap();
        assert_eq!(place.shown(), "postgres://me@one:1,two:5432/db");
        assert_eq!(parse("postgres://host/db").unwrap().shown(), "postgres://host:5432/db");
        let place = parse("postgres://me%40corp:h%40u%2Fs%3Fh%25%23@host/db").unwrap();
        assert_eq!(place.shown(), "postgres://me%40corp@host:5432/db");
        assert_eq!((place.config.get_user(), place.config.get_password()), (Some("me@corp"), Some(&b"h@u/s?h%#"[..])));
    }

    #[test]
    fn a_password_as_it_is_typed_is_never_taken_for_a_server() {
        for url in [
            "postgres://me:P@hush@host/db",
            "postgres://me:P@hush/hush@host/db?sslmode=require",
            "postgres://me:P?hush@host/db",
            "postgres://me:P?hush=hush&hush@host/db",
            "postgres://me:P@h?hush=hush@host,two/db",
            "postgres://me:P@hush:hush@host/db",
            "postgres://host/db?user=me:hush@host",
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains("percent-encoded") && !error.contains("hush"), "{url}: {error}");
        }
        let error = parse("postgres://me%3Ahush%40host/db").unwrap_err();
        assert!(error.contains("server") && !error.contains("hush"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_has_no_tls_whatever_the_mode() {
        for query in ["", "?sslmode=prefer", "?sslmode=require", "?sslmode=verify-full&sslrootcert=/none.pem"] {
            for servers in ["%2Frun%2Fpg", "%2Frun%2Fpg,%2Frun%2Fother"] {
                let place = parse(&format!("postgres://me@{servers}/db{query}")).unwrap();
                let looked = (place.config.get_ssl_mode(), place.verify, place.authorities);
                assert_eq!(looked, (SslMode::Disable, Verify::Nothing, None), "{query}");
            }
            let mixed = parse(&format!("postgres://me@%2Frun%2Fpg,two/db{query}"));
            match mixed {
                Ok(place) => assert_eq!(place.config.get_ssl_mode(), SslMode::Prefer, "{query}"),
                Err(error) => assert!(error.contains("socket") && query.len() > 15, "{query}: {error}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_without_the_password() {
        for (url, said) in [
            ("postgres://me:hush@host/db?sslmode=hush", "sslmode"),
            ("postgres://me:hush@host/db?colour=hush", "colour"),
            ("postgres://me:hush@host/db?channel_binding=require", "channel binding"),
            ("postgres://me:hush@host/db?sslnegotiation=direct", "sslnegotiation"),
            ("postgres://me:hush@host:hush/db", "port"),
            ("postgresql:///db", "server"),
            ("postgres://host/db?user=me&password=hush", "before the server"),
            ("postgres://me:hush@one,two/db?hostaddr=127.0.0.1", "`hostaddr`"),
            ("postgres://me:hush@one,two/db?port=1", "ports"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(said) && !error.contains("hush"), "{error}");
        }
    }
}
