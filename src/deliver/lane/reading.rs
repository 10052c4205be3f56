//! What a lane reads back from the store.

use std::collections::hash_map::Entry;

use super::{Gate, Lane};
use crate::{
    deliver::inbox::{Handed, State},
    store::{self, Due},
};

/// Deliveries read back at once.
const FETCH_MAX: usize = 128;
/// Bytes of bodies one read-back brings, more or less; how many rows that is, is judged by the last one.
const FETCH_BYTES: usize = 4 * 1024 * 1024;
/// Size of a body before any was read, in bytes.
pub(super) const TYPICAL: usize = 64 * 1024;

impl Lane {
    /// Reads back what is due; after a failure the store is left alone for a while.
    pub(super) async fn read_back(&mut self) {
        self.poll = false;
        if let Err(error) = self.fetch().await {
            tracing::error!(target.name = %self.name(), %error, "due deliveries cannot be read");
            self.inbox.state().behind = true;
            self.rest();
        }
    }

    /// Whether what is read back could be sent.
    pub(super) fn may_fetch(&self, state: &State) -> bool {
        state.fetched.is_empty() && self.may_fetch_urgently()
    }

    /// Whether a critical one that is read back could be sent before what is in hand. While some are being decided about, nothing
    /// more is read, so that no more than was read at once is in hand.
    pub(super) fn may_fetch_urgently(&self) -> bool {
        0 < self.free() && !self.resting && self.paced_until.is_none() && self.deciding.is_empty()
    }

    /// Attempts that could be begun beside those under way.
    fn free(&self) -> usize {
        let concurrency = usize::try_from(self.today.destination.concurrency).unwrap_or(1);
        concurrency.saturating_sub(self.attempts.len())
    }

    /// Whether the store may hold something that could be sent now.
    pub(super) fn wants_more(&self) -> bool {
        match self.gate() {
            Gate::Open(limit) if self.attempts.len() < limit => {}
            Gate::Probe => {}
            Gate::Open(_) | Gate::Shut { .. } => return false,
        }
        let (state, now) = (self.inbox.state(), self.parts.clock.now());
        if self.may_fetch_urgently() && state.urgent_at.is_some_and(|at| at <= now) {
            return true;
        }
        let due = state.next_due.is_some_and(|at| at <= now);
        // What was handed over comes before what was missed since: the store is asked once that is used up.
        self.may_fetch(&state) && (self.poll || due || (state.behind && state.ready.is_empty()))
    }

    /// Reads one batch. Nothing is begun meanwhile, so claims made by commits last until it is over, and a row that was read
    /// without being in hand has not been tried since. (The store tells of a commit before it takes the record of an attempt
    /// at what was committed.)
    async fn fetch(&mut self) -> Result<(), store::Error> {
        let probe = self.gate() == Gate::Probe;
        let limit = if probe { 1 } else { self.fetch_limit() };
        self.inbox.put_back_fetched();
        let (before, except) = {
            let mut state = self.inbox.state();
            (state.behind, state.next_due, state.urgent_at) = (false, None, None);
            (state.ready.len(), state.in_hand())
        };
        let (store, target) = (self.store.clone(), self.name().clone());
        let now = self.parts.clock.now();
        let found = match probe {
            true => store.oldest_due(&target, now, except).await?.into_iter().collect(),
            false => store.due(&target, now, u32::try_from(limit).unwrap_or(u32::MAX), except).await?,
        };
        let (all, brought) = (found.len() < limit, !found.is_empty());
        let all = self.take_in(found) && all;
        if !all {
            self.inbox.fall_behind(before);
            return Ok(());
        }
        let except = self.inbox.state().in_hand();
        let next = store.next_due(&target, except).await?;
        // What is due and does not come when it is asked for has to wait for something that the lane will be told of.
        let next = next.filter(|at| brought || now < *at);
        let mut state = self.inbox.state();
        state.next_due = [state.next_due, next].into_iter().flatten().min();
        Ok(())
    }

    /// Takes in hand what was read, up to [`FETCH_BYTES`]; false when some of it was left in the store.
    fn take_in(&mut self, found: Vec<Due>) -> bool {
        let (mut taken, mut bytes) = (0, 0_usize);
        let mut state = self.inbox.state();
        for due in found {
            if FETCH_BYTES < bytes {
                break;
            }
            (taken, bytes) = (taken + 1, bytes + due.envelope.body.len());
            if let Entry::Vacant(free) = state.claimed.entry(due.delivery.id) {
                free.insert(false);
                state.fetched.push_back(Handed::read(due));
            }
        }
        self.typical = bytes.checked_div(taken).unwrap_or(self.typical);
        bytes <= FETCH_BYTES
    }

    /// Fewer at once where bodies are large, but always enough to fill the slots half.
    fn fetch_limit(&self) -> usize {
        let fitting = FETCH_BYTES / self.typical.max(1);
        fitting.clamp((self.free() / 2).clamp(1, FETCH_MAX), FETCH_MAX)
    }
}
