//! What only the lanes of subscriptions do: they sleep while there is nothing to do, and tell when a receiver is gone or takes nothing.
//!
//! Facts: `delivery.md`, "What answers mean" (410) and "Breaker" (five deliveries in a row dead for lack of attempts).

use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use crate::{
    deliver::{
        attempt::Outcome,
        breaker::Change,
        desk::Today,
        signs::{Ailment, Broken, Tried},
    },
    store::{Attempt, Cause, DeliveryRow, Due, Next},
};

/// How long a lane that has nothing to do goes on: longer than the pauses of one that is used.
const SLEEPS_AFTER: Duration = Duration::from_secs(20);
/// Deliveries in a row that die for lack of attempts until their subscription is to be switched off.
const UNDELIVERED_MAX: u32 = 5;
/// The answer of a receiver that is gone for good.
const GONE: u16 = 410;

impl Lane {
    /// True when there has been nothing to do for a while: its desk stays, and calls another lane when there is.
    pub(super) async fn falls_asleep(&mut self) -> bool {
        if self.parts.desk.seated.is_none() {
            return false;
        }
        let working =
            [self.attempts.is_empty(), self.unrecorded.is_empty(), self.recordings.is_empty(), self.deciding.is_empty()];
        if working.contains(&false) || !self.undecided.is_empty() || !self.inbox.state().claimed.is_empty() {
            self.busy_at = Instant::now();
            return false;
        }
        let stopped = self.inbox.state().condition.is_stopped();
        if (!stopped && self.busy_at.elapsed() < SLEEPS_AFTER) || !self.chores.is_empty() {
            return false;
        }
        if self.inbox.state().condition.has_unkept_success()
            && let Err(error) = self.parts.desk.keep().await
        {
            tracing::warn!(target.name = %self.name(), %error, "how the lane stands is not kept");
        }
        self.inbox.falls_asleep()
    }

    /// Tells what an attempt that went by `today` says of its subscription; true when that is to be kept. Nothing is said of a receiver
    /// that another has taken the place of.
    pub(super) fn ails(&self, today: &Today, due: &Due, attempt: &Attempt, outcome: Outcome, status: Option<u16>) -> bool {
        let Some(seated) = &self.parts.desk.seated else { return false };
        let Some(url) = today.url().filter(|_| self.parts.desk.today().goes_where(today)).cloned() else { return false };
        let tried = || tried(due, attempt.error.clone());
        let mut state = self.inbox.state();
        let condition = &mut state.condition;
        let before = condition.undelivered;
        match (outcome, attempt.next) {
            (Outcome::Delivered, _) => condition.undelivered = 0,
            (Outcome::Permanent { .. }, _) if status == Some(GONE) => {
                seated.signs.ails(self.name(), Ailment::Gone(tried()), url.clone());
            }
            (Outcome::Retry { .. }, Next::Dead(Cause::Receiver)) => condition.undelivered = before.saturating_add(1),
            _ => {}
        }
        if before < condition.undelivered && UNDELIVERED_MAX <= condition.undelivered {
            seated.signs.ails(self.name(), Ailment::Undelivered(tried()), url);
        }
        before != condition.undelivered
    }

    /// Likewise of deliveries that were given up while the target is broken.
    pub(super) fn ails_of(&mut self, dead: &[DeliveryRow]) {
        let (Some(seated), Some(last)) = (&self.parts.desk.seated, dead.last()) else { return };
        let undelivered = {
            let mut state = self.inbox.state();
            let more = u32::try_from(dead.len()).unwrap_or(u32::MAX);
            state.condition.undelivered = state.condition.undelivered.saturating_add(more);
            state.condition.undelivered
        };
        if UNDELIVERED_MAX <= undelivered {
            let (event_id, event_type) = (last.event_id.clone(), last.r#type.clone());
            let tried = Tried { delivery: last.delivery.id, event_id, event_type, error: last.delivery.error.clone() };
            if let Some(url) = self.parts.desk.today().url() {
                seated.signs.ails(self.name(), Ailment::Undelivered(tried), url.clone());
            }
        }
        self.keep();
    }

    /// Tells that the breaker opened or closed.
    pub(super) fn tell_sign(&self, change: Change, error: Option<&str>, due: &Due) {
        let Some(seated) = &self.parts.desk.seated else { return };
        match change {
            Change::Opened(_) => {
                let by = Some(tried(due, error.map(ToOwned::to_owned)));
                seated.signs.broke(self.name(), Broken { since: self.parts.clock.now(), by });
            }
            Change::Closed(_) => seated.signs.heals(self.name()),
        }
    }
}

fn tried(due: &Due, error: Option<String>) -> Tried {
    Tried { delivery: due.delivery.id, event_id: due.envelope.id.clone(), event_type: due.envelope.r#type.clone(), error }
}
