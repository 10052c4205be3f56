//! What a lane gives up while its target is broken: a delivery that reaches its give-up time then dies without another attempt, at that
//! time and wherever it waits.

use super::Lane;
use crate::{
    announce::Notice,
    clock::Timestamp,
    route::OWN_SOURCE,
    store::{self, DeliveryRow, GaveUp},
};

/// When something is to be given up next, as the store said while the lane's condition was in this version.
pub(super) struct Looked {
    version: u64,
    next: Option<Timestamp>,
}

impl Lane {
    /// Gives up what has reached its time; after a failure the store is left alone for a while.
    pub(super) async fn give_up(&mut self) {
        while self.must_give_up() {
            if let Err(error) = self.give_up_some().await {
                tracing::error!(target.name = %self.name(), %error, "what has reached its give-up time cannot be given up");
                return self.rest();
            }
        }
    }

    /// When something is to be given up, as far as nothing happens until then.
    pub(super) fn gives_up_at(&self) -> Option<Timestamp> {
        self.looked.as_ref().filter(|_| self.may_give_up()).and_then(|looked| looked.next)
    }

    fn must_give_up(&self) -> bool {
        if !self.may_give_up() {
            return false;
        }
        let (now, version) = (self.parts.clock.now(), self.inbox.state().version);
        let known = |looked: &super::Looked| looked.version == version && looked.next.is_none_or(|next| now < next);
        !self.looked.as_ref().is_some_and(known)
    }

    /// The breaker is open, and nobody has stopped the lane: while it is paused, give-up stands still.
    fn may_give_up(&self) -> bool {
        let dies = self.today.destination.retry.give_up_after.is_some();
        if !dies || !self.owns() || self.resting || *self.refused.borrow() != 0 || self.parts.stop.is_cancelled() {
            return false;
        }
        let state = self.inbox.state();
        state.loaded && !state.retired && !state.condition.is_stopped() && state.condition.breaker.open().is_some()
    }

    async fn give_up_some(&mut self) -> store::Result<()> {
        let Some(after) = self.today.destination.retry.give_up_after else { return Ok(()) };
        // What was read for a probe has not been sent.
        self.inbox.put_back(true);
        let (now, epoch) = (self.parts.clock.now(), self.lease.map_or(0, |lease| lease.epoch));
        let (version, when, except) = {
            let state = self.inbox.state();
            let when = GaveUp { now, after, still_ms: state.condition.stood_still_ms(now), epoch };
            (state.version, when, state.in_hand())
        };
        let given_up = self.store.give_up(self.name(), when, except).await?;
        self.looked = Some(Looked { version, next: given_up.next });
        if !given_up.dead.is_empty() {
            // The next of their keys may go now.
            self.inbox.state().behind = true;
        }
        given_up.dead.iter().for_each(|row| self.tell_given_up(row));
        self.ails_of(&given_up.dead);
        Ok(())
    }

    fn tell_given_up(&self, row: &DeliveryRow) {
        let (target, delivery, error) = (self.name(), row.delivery.id, row.delivery.error.clone());
        self.parts.metrics.given_up(&self.label());
        tracing::error!(
            delivery.id = %delivery, target.name = %target, attempts = row.delivery.attempts,
            "given up without another attempt: its give-up time came while the target is broken; dead letter"
        );
        if row.source != OWN_SOURCE {
            self.parts.announcer.tell(Notice::Dead {
                delivery,
                event_id: row.event_id.clone(),
                event_type: row.r#type.clone(),
                target: target.clone(),
                cause: store::Cause::Receiver,
                error,
            });
        }
    }
}
