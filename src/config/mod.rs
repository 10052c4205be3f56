//! `routes.yaml` in, a [`Config`] or every problem with its line and column out. Opens no socket, knows no store.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{deliver::Destination, envelope::Name, ingest::Source, route::Rule, secret::Secret, store::Retention};

pub mod decode;
pub mod tree;

pub use decode::{AllowTarget, Problem, Severity};

/// What one `routes.yaml` says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// First 12 hex digits of SHA-256 over the file.
    pub hash: String,
    /// `server`.
    pub server: Server,
    /// `store`.
    pub store: StoreSettings,
    /// `security`.
    pub security: Security,
    /// `sources`, in the order of the file.
    pub sources: Vec<Source>,
    /// `destinations`, in the order of the file.
    pub destinations: Vec<Destination>,
    /// `rules`, top to bottom.
    pub rules: Vec<Rule>,
    /// `templates` by name.
    pub templates: BTreeMap<String, String>,
    /// `unmatched`: where events go that no rule matches; empty means `keep`.
    pub unmatched: Vec<Name>,
}

/// `server`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Address of the public listener, `host:port`. Default `0.0.0.0:8080`.
    pub listen: String,
    /// Address of the admin listener. Default `127.0.0.1:9080`.
    pub admin_listen: String,
    /// Where senders reach the public listener: shown with the sources' paths.
    pub public_url: Option<url::Url>,
    /// Where ops reach the admin listener.
    pub admin_url: Option<url::Url>,
    /// Whether `/api/v1/events` answers on the public listener too.
    pub public_api: bool,
    /// Largest request body in bytes. Default 1 MiB.
    pub max_body: usize,
    /// How long a stop waits for what is under way. Default 30 s.
    pub shutdown_grace: Duration,
}

/// `store`.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `sqlite://<path>`. Default `sqlite://hookyard.db`.
    pub url: Secret,
    /// `retention` and `max_bytes`. Defaults: events 30 d, dead letters 90 d, rejections 7 d, no limit of size.
    pub retention: Retention,
}

/// `security`.
#[derive(Debug, Clone)]
pub struct Security {
    /// Private targets that are let through.
    pub allow_targets: Vec<AllowTarget>,
    /// Whether targets must be https, but for those in `allow_targets`. Default true.
    pub require_https: bool,
    /// The key that seals what is kept secret: 32 bytes.
    pub encryption_key: Option<Secret>,
}

/// Where a file was read from and what it says.
#[derive(Debug, Clone)]
pub struct File {
    /// As given on the command line.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}
