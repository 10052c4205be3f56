//! What lanes of subscriptions tell of their receivers, for whoever decides what becomes of a subscription: that one is gone, or takes
//! nothing any more. One entry per subscription and kind: so it is bounded, and nothing is lost while nobody listens.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use url::Url;

use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Name},
};

/// What lanes of subscriptions have told, and nobody has dealt with yet.
#[derive(Debug, Default)]
pub struct Signs {
    told: Mutex<Told>,
    bell: Notify,
}

/// What was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Subscriptions that are to be switched off, why, and by what receiver: the URL that said so.
    pub ailing: BTreeMap<Name, (Ailment, Url)>,
    /// Targets without a lane for which something was committed all the same: they went, or were taken over, in that moment.
    pub strays: BTreeSet<Name>,
    /// Subscriptions that hold more than when it was last looked.
    pub heavy: BTreeSet<Name>,
    /// Those whose release may have ended.
    pub released: BTreeSet<Name>,
    /// Broken ones.
    broken: BTreeMap<Name, Broken>,
}

/// Why a subscription is to be switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ailment {
    /// Its receiver answered 410.
    Gone(Tried),
    /// So many deliveries in a row died for lack of attempts; this is the last of them.
    Undelivered(Tried),
}

/// What an attempt was about, and what it ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its event, as its sender knows it.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// What it ended with.
    pub error: Option<String>,
}

/// A breaker that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Since when.
    pub since: Timestamp,
    /// By what, where that was in this run.
    pub by: Option<Tried>,
}

impl Signs {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Each change is one step.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ails(&self, target: &Name, ailment: Ailment, url: Url) {
        let mut told = self.told();
        match told.ailing.entry(target.clone()) {
            // Another receiver stands there now.
            Entry::Occupied(mut known) if known.get().1 != url => _ = known.insert((ailment, url)),
            known => _ = known.or_insert((ailment, url)),
        }
        drop(told);
        self.bell.notify_one();
    }

    pub(super) fn broke(&self, target: &Name, broken: Broken) {
        self.told().broken.entry(target.clone()).or_insert(broken);
        self.bell.notify_one();
    }

    pub(super) fn heals(&self, target: &Name) {
        self.told().broken.remove(target);
    }

    pub(super) fn strays(&self, target: &Name) {
        if self.told().strays.insert(target.clone()) {
            self.bell.notify_one();
        }
    }

    pub(super) fn grows(&self, target: &Name) {
        if self.told().heavy.insert(target.clone()) {
            self.bell.notify_one();
        }
    }

    /// The release of `target` may have ended.
    pub fn released(&self, target: &Name) {
        self.told().released.insert(target.clone());
        self.bell.notify_one();
    }

    /// Waits until something is told.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Wakes whoever waits in [`Signs::rung`].
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// What was told since it was last taken.
    pub fn take(&self) -> Told {
        let mut told = self.told();
        let broken = told.broken.clone();
        std::mem::replace(&mut *told, Told { broken, ..Told::default() })
    }

    /// The broken ones.
    pub fn broken(&self) -> BTreeMap<Name, Broken> {
        self.told().broken.clone()
    }

    /// It is no longer of interest whether `target` is broken.
    pub fn forget(&self, target: &Name) {
        let mut told = self.told();
        told.broken.remove(target);
        told.ailing.remove(target);
        told.heavy.remove(target);
    }
}
