//! `smtp` of an email destination: where mail is handed in, under which protection, as whom.

use std::sync::Arc;

use lettre::transport::smtp::authentication::Credentials;
use rustls::{ClientConfig, pki_types::ServerName};
use url::{Host, Url};

use crate::{
    config::{
        decode::{Context, Definitions, Field, Fields, Keys, Located, Schema, Shape, Words},
        tree::Node,
    },
    contacts::address::ascii_domain,
    deliver::{policy::AddressPolicy, tls::TlsProfile},
    secret::Secret,
};

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// With the connection.
    Implicit,
    /// By `STARTTLS`, before anything else is said; a server that does not offer it gets no mail.
    StartTls,
    /// Never.
    None,
}

impl Words for Protection {
    const WORDS: &'static [(&'static str, Self)] =
        &[("starttls", Self::StartTls), ("implicit", Self::Implicit), ("none", Self::None)];
}

const KEYS: Keys = Keys::of(&[
    Field::of::<String>("host", "Its name or address, without a port.").required().example("smtp.example.com"),
    Field::of::<u32>("port", "Its port. Left out: 587, with `tls: implicit` 465, with `tls: none` 25.")
        .example("465")
        .such_that(|port| port.between(1, 65_535)),
    Field::of::<Protection>("tls", "How the connection is protected; `none` only towards hosts in `security.allow_targets`.")
        .default("starttls"),
    Field::of::<String>("username", "Who we are there.").example("relay"),
    Field::of::<Secret>("password", "The password.").example("${SMTP_PASSWORD}"),
])
.such_that(|smtp| smtp.needs("username", &["password"]).needs("password", &["username"]));

impl Shape for Server {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

/// The server that takes our mail.
#[derive(Clone)]
pub(super) struct Server {
    /// Its name, or its address.
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) protection: Protection,
    /// Who we are there.
    pub(super) login: Option<(String, Secret)>,
    pub(super) tls: Arc<ClientConfig>,
    /// What its certificate must be for.
    pub(super) certified: ServerName<'static>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.masked_url()).field("protection", &self.protection).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads `smtp`; `tls` is how its certificate is checked.
    pub(super) fn decode(node: &Node, tls: &TlsProfile, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`smtp`", KEYS, cx)?;
        let host = fields.required::<Located<String>>("host", cx);
        let protection = fields.or("tls", Protection::StartTls, cx);
        let port = fields.optional::<Located<u32>>("port", cx);
        let username = fields.optional::<String>("username", cx);
        let password = fields.optional::<Secret>("password", cx);
        if username.is_some() != password.is_some() && !cx.failed() {
            cx.error("missing-key", fields.place(), "`username` and `password` go together");
        }
        fields.finish(cx);
        let host = host?;
        let place = host.place;
        let Some(read) = read_host(&host.value) else {
            cx.error("bad-value", place, "expected the name of a mail server such as smtp.example.com, without a port");
            return None;
        };
        let port = match port {
            Some(Located { value, place }) => match u16::try_from(value).ok().filter(|port| *port != 0) {
                Some(port) => port,
                None => {
                    cx.error("bad-value", place, "a port is between 1 and 65535");
                    return None;
                }
            },
            None => protection.port(),
        };
        check_reach(&read, protection, place, cx)?;
        let config = match tls.config() {
            Ok(mut config) => {
                // Mail servers speak one protocol.
                config.alpn_protocols.clear();
                config
            }
            Err(error) => {
                cx.error("bad-ca-file", place, format!("no certificate can be checked: {error}"));
                return None;
            }
        };
        let certified = ServerName::try_from(bare(&read)).ok()?;
        Some(Self { host: read, port, protection, login: username.zip(password), tls: Arc::new(config), certified })
    }

    /// Where mail is handed in, for people.
    pub(super) fn masked_url(&self) -> String {
        let scheme = if self.protection == Protection::Implicit { "smtps" } else { "smtp" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// The login as lettre takes it.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        let (username, password) = self.login.as_ref()?;
        Some(Credentials::new(username.clone(), password.reveal().to_owned()))
    }
}

impl Protection {
    /// The port where it is usual (RFC 8314, 5321).
    fn port(self) -> u16 {
        match self {
            Self::Implicit => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

/// The host without the brackets that IPv6 has in URLs.
pub(super) fn bare(host: &Host) -> String {
    match host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    }
}

fn read_host(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse() {
        return Some(Host::Ipv6(address));
    }
    match Host::parse(text).ok()? {
        Host::Domain(_) => ascii_domain(text).map(Host::Domain),
        address => Some(address),
    }
}

/// Mail without protection goes only where the file lets it through; an address that policy forbids is worth a warning.
fn check_reach(host: &Host, protection: Protection, place: crate::config::tree::Place, cx: &mut Context) -> Option<()> {
    let policy = AddressPolicy::new(&cx.allow_targets);
    // The policy knows URLs; what counts is the host.
    let url = Url::parse(&format!("http://{host}/")).ok()?;
    if protection == Protection::None && !policy.lets_through(&url) {
        let help = "use `tls: starttls` or `tls: implicit`, or name the host under `security.allow_targets`";
        cx.error("tls-required", place, "mail goes without TLS only to hosts in `allow_targets`").help(help);
        return None;
    }
    if policy.forbids_literal(&url) {
        let help = "let it through under `security.allow_targets`";
        cx.warning("address-forbidden", place, "no mail will reach this address: it is not public").help(help);
    }
    Some(())
}
