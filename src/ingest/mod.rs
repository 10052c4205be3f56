//! From a request to an accepted event: limit, verify, normalise, plan, accept. Knows nothing of how things are sent.

use std::sync::Arc;

use jiff::SignedDuration;

use crate::{
    clock::Clock,
    config::{
        decode::Context,
        tree::{Key, Node},
    },
    envelope::Name,
    route::Router,
    seal::Sealer,
    store::{self, Filter, Store},
    telemetry::Metrics,
};

/// A named way in, as `routes.yaml` declares it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: Name,
    /// The path of the public listener that it answers on: `/webhooks/interactor`.
    pub path: String,
}

impl Source {
    /// Reads one entry of `sources`.
    pub fn decode(_key: &Key, _node: &Node, _cx: &mut Context) -> Option<Self> {
        None
    }
}

/// What ingest works with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// The ways in.
    pub sources: Vec<Source>,
    /// Plans deliveries.
    pub router: Arc<Router>,
    /// Keeps events.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Seals the quarantine.
    pub sealer: Sealer,
    /// Largest request body in bytes.
    pub max_body: usize,
}

/// The public side of one relay.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Ingest {
    _parts: Parts,
}

/// What retrying rejections came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryReport {
    /// How many were tried.
    pub tried: u64,
    /// How many became events.
    pub accepted: u64,
    /// How many were events already.
    pub duplicates: u64,
    /// How many failed again.
    pub failed: u64,
}

impl Ingest {
    /// Takes requests for `parts.sources`.
    pub fn new(parts: Parts) -> Self {
        Self { _parts: parts }
    }

    /// Answers every path of the public listener that nothing else answers.
    pub fn router(self: Arc<Self>) -> axum::Router {
        axum::Router::new()
    }

    /// Verifies quarantined requests again with today's configuration and takes in what passes. `clock_offset` is added to
    /// their time of arrival, to which their timestamps are held.
    pub async fn retry_rejections(&self, _filter: Filter, _clock_offset: SignedDuration) -> Result<RetryReport, store::Error> {
        Ok(RetryReport::default())
    }
}
