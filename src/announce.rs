//! The relay reports on itself as events of source `hookyard`: batched, planned like any other, and never the cause of more of themselves.

use tokio::sync::mpsc;

use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Name},
    store::Cause,
};

/// Something worth telling (`product.md`, "The relay reports on itself").
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// `relay.delivery.dead`.
    Dead {
        /// Which delivery.
        delivery: DeliveryId,
        /// Of which event, as its sender knows it.
        event_id: String,
        /// Its type.
        event_type: String,
        /// To which target.
        target: Name,
        /// Whose fault.
        cause: Cause,
        /// What the last attempt ended with.
        error: Option<String>,
    },
    /// `relay.target.broken`: the breaker opened.
    Broken {
        /// Of which target.
        target: Name,
        /// Whose fault.
        cause: Cause,
        /// What the last attempt ended with.
        error: Option<String>,
    },
    /// `relay.target.recovered`: the breaker closed.
    Recovered {
        /// Of which target.
        target: Name,
        /// Since when it had been open.
        broken_since: Timestamp,
    },
    /// `relay.target.paused`.
    Paused {
        /// Which target.
        target: Name,
        /// By whom.
        by: String,
    },
    /// `relay.source.rejecting`: a source refuses what it gets.
    Rejecting {
        /// Which source.
        source: Name,
        /// How many were refused in the last minutes.
        count: u64,
        /// The commonest reason.
        reason: String,
    },
    /// `relay.source.silent`: nothing came for longer than the source's `silent_after`.
    Silent {
        /// Which source.
        source: Name,
        /// When it last got something.
        last_at: Option<Timestamp>,
    },
    /// `relay.store.filling`: 80 % of `store.max_bytes` are used.
    Filling {
        /// Bytes in use.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// `relay.config.loaded`.
    ConfigLoaded {
        /// Its hash.
        hash: String,
    },
    /// `relay.config.rejected`: the file on disk is bad, an older configuration runs.
    ConfigRejected {
        /// What is wrong with it.
        error: String,
    },
}

/// Hands notices over, without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Announcer(mpsc::Sender<Notice>);

/// Notices that wait to be told; what comes beyond is counted in the log only.
const WAITING_MAX: usize = 4096;

impl Announcer {
    /// An announcer and the end at which its notices arrive.
    pub fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Tells of `notice`; never waits.
    pub fn tell(&self, notice: Notice) {
        if self.0.try_send(notice).is_err() {
            tracing::warn!("a notice of the relay's own was dropped: too many wait");
        }
    }
}
