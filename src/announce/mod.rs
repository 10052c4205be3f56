//! The relay reports on itself as events of source `hookyard`: batched, planned like any other, and never the cause of more of
//! themselves. Notices come in from every room, through a bounded queue; events go to the store. Sends nothing itself.
//!
//! What is alike (same type, same target or source) is gathered for a few seconds and told as one event with a count ([`batch`]); the
//! more often it comes, the longer it is gathered. Of what befalls deliveries of these very events nobody gives notice (the lanes see to
//! that): telling of it would go on for ever.

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use self::batch::{Batch, Batches, WINDOW_MAX};
use crate::{
    clock::{Clock, Timestamp, until},
    envelope::{DeliveryId, Name},
    live::Live,
    route::{Plan, Router},
    sign,
    store::{Cause, DedupeKey, Error, NewEvent, Remember, Store},
};

/// The types of the relay's own events.
pub(crate) const TYPES: [&str; 12] = [
    "relay.delivery.dead",
    "relay.target.broken",
    "relay.target.disabled",
    "relay.target.paused",
    "relay.target.recovered",
    "relay.source.rejecting",
    "relay.source.silent",
    "relay.store.filling",
    "relay.config.rejected",
    "relay.config.loaded",
    "relay.replicas.differ",
    "relay.replicas.agree",
];

mod batch;
mod event;
#[cfg(test)]
mod tests;

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
    /// `relay.target.disabled`: the relay switched a subscription off.
    Disabled {
        /// Which.
        target: Name,
        /// Why: `gone`, `broken` or `undelivered`.
        why: &'static str,
        /// What the last attempt ended with.
        error: Option<String>,
        /// The delivery it was about, its event as its sender knows it, and that one's type, where they are known.
        event: Option<(DeliveryId, String, String)>,
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
    /// `relay.source.rejecting` too: the API of a source that is polled does not answer as it should.
    Unanswered {
        /// Which source.
        source: Name,
        /// How often in a row.
        failures: u32,
        /// What that is called, and what it is.
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
    /// `relay.delivery.dead` again: deliveries that were held for too long, of which nobody was told one by one.
    HeldTooLong {
        /// How many died.
        count: u64,
    },
    /// `relay.delivery.dead` too: the oldest of what a subscription held, which were beyond what it may hold and have expired.
    Expired {
        /// Which subscription.
        target: Name,
        /// How many.
        count: u64,
    },
    /// `relay.delivery.dead` too: deliveries that were never planned, as more subscriptions take an event than may.
    LeftOut {
        /// From which source the event came.
        source: Name,
        /// How many subscriptions do not get it.
        count: u64,
    },
    /// `relay.delivery.dead` too: dead letters that reached the end of their retention and are gone for good.
    Removed {
        /// How many.
        count: u64,
    },
    /// `relay.config.loaded`.
    ConfigLoaded {
        /// Its hash.
        hash: String,
    },
    /// `relay.replicas.differ`: the replicas that share the store do not go by the same configuration, or are not of the same version.
    Differ {
        /// The newest generation of configurations, where one is known.
        newest: Option<u64>,
        /// Since when they differ.
        since: Timestamp,
        /// All of them.
        replicas: Vec<Differing>,
    },
    /// `relay.replicas.agree`: they no longer do.
    Agree {
        /// Since when they are alike.
        since: Timestamp,
    },
    /// `relay.config.rejected`: the file on disk is bad, an older configuration runs.
    ConfigRejected {
        /// What is wrong with it.
        error: String,
    },
}

/// A replica that differs from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// What it is called.
    pub name: String,
    /// The version of Hookyard that it is.
    pub version: String,
    /// The generation of its configuration, where that is remembered.
    pub generation: Option<u64>,
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

/// What telling works with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// Keeps the events.
    pub store: Arc<dyn Store>,
    /// Plans their deliveries.
    pub router: Live<Router>,
    /// What time it is.
    pub clock: Clock,
}

/// The task that tells. Dropping it ends the task, what is gathered untold.
#[derive(Debug)]
pub struct Announcing {
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Announcing {
    /// Tells at once what is gathered, and ends: before the store is closed, when nobody has anything to tell any more.
    pub async fn finish(self) {
        drop(self.stop);
        if self.task.await.is_err() {
            warn!("telling of the relay's own notices had failed");
        }
    }
}

/// Turns the notices that arrive at `receiver` into events. Must be called on a runtime.
pub fn start(receiver: mpsc::Receiver<Notice>, parts: Parts) -> Announcing {
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(receiver, parts, stop.clone()));
    Announcing { stop: stop.drop_guard(), task }
}

async fn run(mut receiver: mpsc::Receiver<Notice>, parts: Parts, stop: CancellationToken) {
    let mut batches = Batches::default();
    loop {
        let due = batches.next_due();
        let wait = async {
            match due {
                // No window is longer: a clock that is set back does not put off what is gathered.
                Some(due) => parts.clock.sleep(until(parts.clock.now(), due).min(WINDOW_MAX)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            notice = receiver.recv() => match notice {
                Some(notice) => batches.add(&notice, parts.clock.now()),
                None => break,
            },
            () = wait => tell(&parts, batches.due(parts.clock.now())).await,
            () = stop.cancelled() => break,
        }
    }
    while let Ok(notice) = receiver.try_recv() {
        batches.add(&notice, parts.clock.now());
    }
    tell(&parts, batches.all()).await;
}

async fn tell(parts: &Parts, batches: Vec<Batch>) {
    for batch in batches {
        let (r#type, count) = (batch.r#type, batch.count);
        if let Err(error) = accept(parts, &batch).await {
            warn!(event.r#type = r#type, count, "an event of the relay's own is dropped: {error}");
        }
    }
}

/// How long an event of the relay's own is known again: its id is drawn, so nobody sends it twice.
const REMEMBER: std::time::Duration = std::time::Duration::from_secs(60);

async fn accept(parts: &Parts, batch: &Batch) -> Result<(), Error> {
    let envelope = event::envelope(batch, parts.clock.now()).ok_or_else(|| Error::Backend("no random bytes".into()))?;
    let plan = parts.router.now().plan(&envelope);
    let half = |digest: [u8; 32]| std::array::from_fn(|at| digest[at]);
    let dedupe = DedupeKey {
        key: half(sign::sha256(&[b"own\0", envelope.id.as_bytes()])),
        body: half(sign::sha256(&[&envelope.body])),
        remember: Remember::Id(REMEMBER),
    };
    let Plan { deliveries, rules, endings, .. } = plan;
    parts.store.accept(NewEvent { envelope, dedupe, deliveries, rules, endings, setting: None }).await.map(|_| ())
}
