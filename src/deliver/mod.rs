//! Talks out, never answers requests: lanes, attempts, retries, dead letters.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    config::{
        AllowTarget,
        decode::Context,
        tree::{Key, Node},
    },
    envelope::{DeliveryId, Name},
    store::Store,
    telemetry::Metrics,
};

/// A named way out, as `routes.yaml` declares it.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its name.
    pub name: Name,
}

/// `defaults.destination`: what a destination that does not say otherwise gets.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Longest time for one attempt. Default 30 s, at most 300 s.
    pub timeout: Duration,
    /// Attempts under way at once. Default 8.
    pub concurrency: u32,
}

impl Defaults {
    /// Reads `defaults.destination`; `None` stands for its absence.
    pub fn decode(_node: Option<&Node>, _cx: &mut Context) -> Self {
        Self { timeout: Duration::from_secs(30), concurrency: 8 }
    }
}

impl Destination {
    /// Reads one entry of `destinations`.
    pub fn decode(_key: &Key, _node: &Node, _defaults: &Defaults, _cx: &mut Context) -> Option<Self> {
        None
    }
}

/// What delivery works with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// The ways out.
    pub destinations: Vec<Destination>,
    /// Named templates.
    pub templates: std::collections::BTreeMap<String, String>,
    /// Private targets that are let through.
    pub allow_targets: Vec<AllowTarget>,
    /// Where deliveries wait.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
}

/// Why delivery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP client of a destination cannot be made: its CA file, ….
    #[error("destination {target}: {reason}")]
    Client {
        /// Which destination.
        target: Name,
        /// Why.
        reason: String,
    },
}

/// The sending side of one relay: a lane per destination.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Deliver {
    _parts: Parts,
}

impl Deliver {
    /// Starts a lane per destination, which begin with what the store holds for them, and listens to the store's commits.
    pub fn start(parts: Parts) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self { _parts: parts }))
    }

    /// The deliveries an attempt of which is under way.
    pub fn in_flight(&self) -> Vec<DeliveryId> {
        Vec::new()
    }

    /// Begins no new attempt; returns when those under way are recorded, or after `grace`, when they are broken off.
    pub async fn drain(&self, _grace: Duration) {}
}
