//! How a lane goes over from one file to the next, and how it ends when the next has no such destination. What it knows stays: breaker,
//! pause, holds, what is in hand, and the tokens of a rate that has not changed.

use std::sync::Arc;

use super::Lane;
use crate::{deliver::desk::Today, rate::Bucket};

impl Lane {
    /// Goes by what the file says now.
    pub(super) fn follow_file(&mut self) {
        let today = self.parts.desk.today();
        if Arc::ptr_eq(&today, &self.today) {
            return;
        }
        let former = std::mem::replace(&mut self.today, today);
        let (old, new): (&Today, &Today) = (&former, &self.today);
        if old.destination.rate_limit != new.destination.rate_limit {
            self.bucket = new.destination.rate_limit.map(|rate| Bucket::new(rate, &self.parts.clock));
            self.paced_until = None;
        }
        // When it gives up may have changed.
        self.looked = None;
        let quiet_now = new.destination.quiet.is_some();
        if quiet_now || old.destination.quiet.is_some() {
            // What other quiet hours held or let go is decided about anew.
            self.prepared = false;
            self.inbox.state().behind = true;
        }
        if quiet_now {
            self.keep();
        }
    }

    /// Whether an attempt may be begun by what the lane goes by.
    pub(super) fn may_begin(&self) -> bool {
        !self.parts.stop.is_cancelled() && self.parts.desk.goes_by(&self.today)
    }

    /// True once its destination is gone and nothing is under way: it is over.
    pub(super) async fn leaves(&mut self) -> bool {
        let idle = self.attempts.is_empty() && self.unrecorded.is_empty() && self.recordings.is_empty();
        let idle = idle && self.deciding.is_empty() && self.chores.is_empty();
        if !idle || !self.inbox.state().retired {
            return false;
        }
        // Before it ends: whoever brings it back reads this.
        if self.inbox.state().loaded
            && let Err(error) = self.parts.desk.keep().await
        {
            tracing::warn!(target.name = %self.name(), %error, "how the lane stands is not kept");
        }
        self.parts.desk.end()
    }
}
