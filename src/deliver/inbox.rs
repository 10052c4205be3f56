//! What a lane is told between its turns: deliveries that were just committed, attempts that are sent or recorded.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Name},
    store::{Committed, Due, Next, OnCommit},
    telemetry::Metrics,
};

/// Deliveries that one lane takes over from commits without reading them back.
const HANDED_OVER_MAX: usize = 512;
/// Bytes of bodies that all lanes together hold from commits.
const HANDED_OVER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where commits and attempts leave what a lane has to know.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Rung when there may be something to do.
    pub(super) bell: Notify,
}

pub(super) struct State {
    /// Handed over by commits, in their order.
    pub(super) ready: VecDeque<Handed>,
    /// What is in hand, and whether an attempt of it is under way.
    pub(super) claimed: HashMap<DeliveryId, bool>,
    /// True while the store may hold due deliveries that are not in hand: commits then hand nothing over.
    pub(super) behind: bool,
    /// The earliest known time at which a delivery in the store falls due.
    pub(super) next_due: Option<Timestamp>,
    /// Nothing is sent before (`Retry-After`).
    pub(super) held_until: Option<Timestamp>,
}

/// A delivery in hand, with its share of the budget where a commit handed it over.
pub(super) struct Handed {
    pub(super) due: Due,
    pub(super) _share: Option<Share>,
}

impl Inbox {
    /// Empty, and behind what the store holds.
    pub(super) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            claimed: HashMap::new(),
            // What an earlier run left is read first.
            behind: true,
            next_due: None,
            held_until: None,
        };
        Self { state: Mutex::new(state), bell: Notify::new() }
    }

    /// The state stays sound whatever its holder was doing: each change is one step.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, due: Due, budget: &Arc<AtomicUsize>) {
        let mut state = self.state();
        // A read-back may have seen the commit before this call: what it claimed is in hand already.
        if state.claimed.contains_key(&due.delivery.id) {
            return;
        }
        let room = !state.behind && state.ready.len() < HANDED_OVER_MAX;
        match room.then(|| Share::take(budget, due.envelope.body.len())).flatten() {
            Some(share) => {
                state.claimed.insert(due.delivery.id, false);
                state.ready.push_back(Handed { due, _share: Some(share) });
            }
            None => state.behind = true,
        }
    }

    /// The store holds more that is older than what commits handed over after the first `before`: that goes back.
    pub(super) fn fall_behind(&self, before: usize) {
        let mut state = self.state();
        state.behind = true;
        while before < state.ready.len() {
            if let Some(handed) = state.ready.pop_back() {
                state.claimed.remove(&handed.due.delivery.id);
            }
        }
    }

    /// An attempt is sent: `hold` is until when its target wants nothing more.
    pub(super) fn sent(&self, hold: Option<Timestamp>) {
        let mut state = self.state();
        state.held_until = state.held_until.max(hold);
    }

    /// Forgets a hold that has passed at `now`.
    pub(super) fn release(&self, now: Timestamp) {
        let mut state = self.state();
        state.held_until = state.held_until.filter(|until| now < *until);
    }

    /// An attempt is recorded: its delivery is no longer in hand, and due again where `next` says so.
    pub(super) fn recorded(&self, delivery: &DeliveryId, next: Next) {
        let mut state = self.state();
        state.claimed.remove(delivery);
        if let Next::Retry(at) = next {
            state.next_due = Some(state.next_due.map_or(at, |known| known.min(at)));
        }
    }
}

/// A share of the bytes all lanes may hold together; given back when dropped.
pub(super) struct Share {
    budget: Arc<AtomicUsize>,
    bytes: usize,
}

impl Share {
    fn take(budget: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= HANDED_OVER_BYTES_MAX);
        budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Self { budget: budget.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The inboxes of all lanes; hears of commits.
pub(super) struct Inboxes {
    by_target: HashMap<Name, Arc<Inbox>>,
    budget: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Inboxes {
    /// Hands commits to the lane of each target; targets without one wait in the store.
    pub(super) fn new(by_target: HashMap<Name, Arc<Inbox>>, metrics: Metrics) -> Self {
        Self { by_target, budget: Arc::default(), metrics }
    }

    /// The deliveries an attempt of which is under way.
    pub(super) fn in_flight(&self) -> Vec<DeliveryId> {
        let sending = |inbox: &Arc<Inbox>| {
            inbox.state().claimed.iter().filter(|(_, sending)| **sending).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        self.by_target.values().flat_map(sending).collect()
    }
}

impl OnCommit for Inboxes {
    fn committed(&self, events: Vec<Committed>) {
        let mut told: Vec<&Arc<Inbox>> = Vec::new();
        for event in events {
            for delivery in event.deliveries {
                let Some(inbox) = self.by_target.get(&delivery.target) else { continue };
                inbox.hand_over(Due { delivery, envelope: event.envelope.clone() }, &self.budget);
                if !told.iter().any(|known| Arc::ptr_eq(known, inbox)) {
                    told.push(inbox);
                }
            }
        }
        told.into_iter().for_each(|inbox| inbox.bell.notify_one());
    }

    fn batch(&self, count: usize, took: Duration) {
        self.metrics.committed(count, took);
    }
}
