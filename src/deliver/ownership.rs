//! Which lanes this relay may work on: their shards are owned under a lease, renewed long before it ends.
//!
//! A lease is measured from before it was asked for, on a clock that nobody sets: whoever believes to own a shard is right, whatever
//! the machine's clock does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Clock, until},
    envelope::Name,
    store::{self, OwnerId, Profile, Store, shard_of},
};

/// How long a shard is owned, unless that is renewed.
const LEASE: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWED_EVERY: Duration = Duration::from_secs(5);
/// What an owner begins nothing new in, at the end of its lease.
pub(super) const LAST: Duration = Duration::from_secs(5);
/// How long a renewal that failed is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// What ends so soon after another is given up with it.
const TOGETHER: Duration = Duration::from_millis(20);

/// What may be worked on, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// The epoch that goes with every attempt.
    pub(super) epoch: i64,
    /// When it ends, unless it is renewed.
    pub(super) until: Instant,
}

/// The leases of this relay, by shard.
pub(super) type Leases = HashMap<u16, Lease>;

/// What of a relay's work that is told apart by name is this relay's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ownership {
    leases: watch::Receiver<Leases>,
    works: Works,
}

impl Ownership {
    pub(super) fn new(leases: watch::Receiver<Leases>, works: Works) -> Self {
        Self { leases, works }
    }

    /// Whether what goes under `name` is this relay's, for long enough to begin something.
    pub fn owns(&self, name: &Name) -> bool {
        owns(&self.leases.borrow(), name)
    }

    /// Something goes on under `name` until what this answers is dropped: a relay that stops keeps it from others until then. Begun before it
    /// is asked whether that may be.
    pub fn works(&self, name: &Name) -> Work {
        self.works.begin(name)
    }

    /// All there is, for ever: for tests of others.
    #[cfg(test)]
    pub(crate) fn whole() -> Self {
        Self::turns(true).seen()
    }

    /// All there is, or nothing, by turns: likewise.
    #[cfg(test)]
    pub(crate) fn turns(owns: bool) -> Turns {
        let turns = Turns(watch::Sender::new(Leases::new()));
        turns.owns(owns);
        turns
    }

    /// Waits until this relay may own something else than before, or the same for longer; for ever where it never will.
    pub async fn changed(&mut self) {
        if self.leases.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until it is found that it is not, when leases are renewed, given up or lost; for ever where it always will be.
    pub async fn lost(&self, name: &Name) {
        if self.leases.clone().wait_for(|leases| !owns(leases, name)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until it is; for ever where it never will be.
    pub async fn gained(&self, name: &Name) {
        if self.leases.clone().wait_for(|leases| owns(leases, name)).await.is_err() {
            std::future::pending().await
        }
    }
}

/// What goes on by owning shards: how much of each. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Works(Arc<Going>);

#[derive(Debug, Default)]
struct Going {
    by_shard: Mutex<HashMap<u16, usize>>,
    /// Rung when nothing goes on any more of a shard.
    ended: Notify,
}

impl Works {
    /// Something begins under `name`.
    pub(super) fn begin(&self, name: &Name) -> Work {
        let shard = shard_of(name);
        let mut going = self.0.by_shard.lock().unwrap_or_else(PoisonError::into_inner);
        *going.entry(shard).or_default() += 1;
        Work { going: self.0.clone(), shard }
    }

    /// The shards of which something goes on.
    fn shards(&self) -> Vec<u16> {
        self.0.by_shard.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// Something that goes on by owning its shard, until this is dropped.
#[derive(Debug)]
pub struct Work {
    going: Arc<Going>,
    shard: u16,
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut going = self.going.by_shard.lock().unwrap_or_else(PoisonError::into_inner);
        let left = going.get(&self.shard).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            going.remove(&self.shard);
            self.going.ended.notify_one();
        } else {
            going.insert(self.shard, left);
        }
    }
}

/// Waits until the lease on `shard` under `epoch` is over: it has ended without having been renewed, or is another's.
pub(super) async fn over(mut leases: watch::Receiver<Leases>, shard: u16, epoch: i64) {
    loop {
        let lease = leases.borrow_and_update().get(&shard).copied().filter(|lease| lease.epoch == epoch);
        let Some(Lease { until, .. }) = lease else { return };
        tokio::select! {
            biased;
            Ok(()) = leases.changed() => {}
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

fn owns(leases: &Leases, name: &Name) -> bool {
    leases.get(&shard_of(name)).is_some_and(|lease| Instant::now() + LAST < lease.until)
}

/// Gives everything to whoever sees it, and takes it away.
#[cfg(test)]
pub(crate) struct Turns(watch::Sender<Leases>);

#[cfg(test)]
impl Turns {
    pub(crate) fn seen(&self) -> Ownership {
        Ownership::new(self.0.subscribe(), Works::default())
    }

    pub(crate) fn owns(&self, all: bool) {
        let until = Instant::now() + Duration::from_secs(24 * 3600);
        let lease = |shard| (shard, Lease { epoch: 1, until });
        self.0.send_replace(if all { (0..store::SHARDS).map(lease).collect() } else { Leases::new() });
    }
}

/// Takes and renews leases until it is stopped, then gives them up; in between, while the relay finishes what is under way, all but those
/// of which something is.
pub(super) struct Keeper {
    pub(super) owner: OwnerId,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    /// What this relay says of itself with each renewal, and at once when that changes.
    pub(super) profile: watch::Receiver<Profile>,
    pub(super) leases: Arc<watch::Sender<Leases>>,
    /// Rung when there may be shards to take.
    pub(super) freed: Arc<Notify>,
    /// What goes on by owning shards.
    pub(super) works: Works,
    /// Cancelled: nothing new is begun.
    pub(super) draining: CancellationToken,
    pub(super) stop: CancellationToken,
}

impl Keeper {
    /// Runs until `stop`.
    pub(super) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let pause = match self.renew().await {
                Ok(()) => RENEWED_EVERY,
                Err(store::Error::Closed) => return,
                Err(error) => {
                    tracing::error!(%error, "the lease on the lanes cannot be renewed; nothing new is sent when it ends");
                    AGAIN
                }
            };
            let leaves = self.leaves();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
                () = self.draining.cancelled(), if self.store.is_shared() && !leaves => {}
                () = self.works.0.ended.notified(), if leaves => {}
                () = self.freed.notified(), if !leaves => {}
                () = changed(&mut self.profile), if !leaves => {}
            }
        }
        if let Err(error) = self.store.release_shards(self.owner).await {
            tracing::warn!(%error, "the lanes are not released; they go to others when the lease ends");
        }
    }

    /// Whether the relay stops, and others wait for what it has.
    fn leaves(&self) -> bool {
        self.store.is_shared() && self.draining.is_cancelled()
    }

    async fn renew(&mut self) -> store::Result<()> {
        let leaves = self.leaves();
        if leaves {
            tokio::time::sleep(TOGETHER).await;
        }
        let (asked, now) = (Instant::now(), self.clock.now());
        let owned = if leaves {
            let going = self.works.shards();
            // Nothing begins there any more, before others may have it.
            self.leases.send_modify(|leases| leases.retain(|shard, _| going.contains(shard)));
            self.store.keep_shards(self.owner, going, now, LEASE).await?
        } else {
            let profile = self.profile.borrow_and_update().clone();
            self.store.present(self.owner, profile, now, LEASE).await?;
            self.store.own_shards(self.owner, now, LEASE).await?
        };
        let lease = |it: store::Owned| (it.shard, Lease { epoch: it.epoch, until: asked + until(now, it.until).min(LEASE) });
        self.leases.send_replace(owned.into_iter().map(lease).collect());
        Ok(())
    }
}

/// Waits until it says something else; for ever when nobody will.
async fn changed(profile: &mut watch::Receiver<Profile>) {
    if profile.changed().await.is_err() {
        std::future::pending().await
    }
}
