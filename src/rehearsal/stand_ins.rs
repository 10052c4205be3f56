//! What stands in for variables and files that are not there, so that a file is rehearsed where its secrets are not.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::{
    config::{Environment, Spot},
    sign::{base64, hex, sha256},
};

/// The environment of a test: its own variables, then those of the process; and something that fits its place for what is in neither.
#[expect(missing_debug_implementations, reason = "it holds what may be secrets")]
pub struct StandIns<'e> {
    own: BTreeMap<String, String>,
    beyond: &'e dyn Environment,
    used: Mutex<BTreeSet<String>>,
}

impl<'e> StandIns<'e> {
    /// The environment of a test that says `own`, before what is `beyond` it.
    pub fn new(own: BTreeMap<String, String>, beyond: &'e dyn Environment) -> Self {
        Self { own, beyond, used: Mutex::default() }
    }

    /// The references that something stood in for so far.
    pub fn used(&self) -> Vec<String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Environment for StandIns<'_> {
    fn var(&self, name: &str) -> Option<String> {
        self.own.get(name).cloned().or_else(|| self.beyond.var(name))
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        self.beyond.file(path)
    }

    fn stand_in(&self, reference: &str, spot: &Spot<'_>) -> Option<String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.to_owned());
        Some(fitting(reference, spot))
    }
}

/// A host that no resolver knows (RFC 2606).
const HOST: &str = "stand-in.invalid";
/// Where an address, a number or a channel is wanted: nobody's.
const MAILBOX: &str = "stand-in@stand-in.invalid";
const NUMBER: &str = "whatsapp:+15550100";

/// Text that is read where `spot` is. It is nobody's secret, and always the same for one reference.
fn fitting(reference: &str, spot: &Spot<'_>) -> String {
    // A part of a value: of a URL or a path, mostly.
    if !spot.whole {
        return HOST.to_owned();
    }
    let section = spot.keys.first().map_or("", String::as_str);
    let key = spot.keys.last().map_or("", String::as_str);
    let digest = sha256(&[reference.as_bytes()]);
    match (section, key, spot.kind) {
        ("store", "url", _) => "sqlite://stand-in.db".to_owned(),
        ("contacts_lookup", "url", _) => format!("https://{HOST}/{{namespace}}"),
        ("sources", "path", _) => format!("/stand-in/{}", hex(&digest)),
        (_, "url" | "base_url" | "public_url" | "admin_url" | "connector_api", _) => format!("https://{HOST}/{}", hex(&digest)),
        (_, "secret" | "secrets", _) => format!("whsec_{}", base64(&digest)),
        (_, "encryption_key", _) => base64(&digest),
        (_, "account_sid", _) => format!("AC{}", hex(&digest[..16])),
        (_, "content_sid", _) => format!("HX{}", hex(&digest[..16])),
        (_, "from" | "to", Some("whatsapp")) | (_, "whatsapp", _) => NUMBER.to_owned(),
        (_, "from" | "to" | "email", _) => MAILBOX.to_owned(),
        (_, "slack", _) => "U000STANDIN".to_owned(),
        (_, "host" | "allow_targets", _) => HOST.to_owned(),
        (_, "port", _) => "465".to_owned(),
        (_, "listen" | "admin_listen", _) => "127.0.0.1:0".to_owned(),
        (_, "max_body" | "max_bytes", _) => "1MiB".to_owned(),
        (_, "rate" | "rate_limit" | "failure_limit", _) => "10/s".to_owned(),
        (_, "concurrency" | "limit" | "burst" | "max_attempts", _) => "1".to_owned(),
        _ if DURATIONS.contains(&key) => "10s".to_owned(),
        (_, "public_api" | "require_https" | "verify" | "stop" | "allow_unauthenticated", _) => "true".to_owned(),
        _ => format!("stand-in-{}", hex(&digest[..8])),
    }
}

/// Keys whose values are lengths of time.
const DURATIONS: [&str; 19] = [
    "timeout",
    "tolerance",
    "ttl",
    "link_ttl",
    "per",
    "window",
    "initial",
    "max",
    "give_up_after",
    "retry_after_max",
    "silent_after",
    "shutdown_grace",
    "events",
    "dead_letters",
    "rejections",
    "grace",
    "every",
    "after",
    "delay",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, File, report};

    #[test]
    fn the_example_loads_without_any_of_its_variables() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/good/example.yaml");
        let nothing = |_: &str| None;
        let env = StandIns::new(BTreeMap::new(), &nothing);
        let loaded = config::load(&path, &env);
        assert!(loaded.config.is_some(), "{}", report::text(&loaded, false));
        assert_eq!(env.used().len(), 10, "{:?}", env.used());
    }

    #[test]
    fn what_a_test_says_comes_first_and_defaults_stay() {
        let text = "version: 1
server: {public_url: 'https://${A}/x', shutdown_grace: '${GRACE:-5s}', listen: '${B}'}
destinations:
  wa: {kind: whatsapp, account_sid: '${SID}', auth_token: '${T}', from: '${FROM}', to: ['${TO}']}
  mail: {kind: email, smtp: {host: '${H}', port: '${P}', username: u, password: '${file:/nowhere}'}, from: '${FROM}', to: '${TO}'}
rules: [{to: [wa, mail]}]
";
        let outside = |name: &str| (name == "B").then(|| "127.0.0.1:7".to_owned());
        let own = BTreeMap::from([("A".to_owned(), "own.example".to_owned())]);
        let env = StandIns::new(own, &outside);
        let loaded = config::parse(File { path: "routes.yaml".into(), text: text.to_owned() }, &env);
        let config = loaded.config.clone().unwrap_or_else(|| panic!("{}", report::text(&loaded, false)));
        assert_eq!(config.server.public_url.unwrap().as_str(), "https://own.example/x");
        assert_eq!((config.server.shutdown_grace.as_secs(), config.server.listen.as_str()), (5, "127.0.0.1:7"));
        assert_eq!(env.used(), ["/nowhere", "FROM", "H", "P", "SID", "T", "TO"]);
    }
}
