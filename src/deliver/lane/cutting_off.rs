//! The end of the grace of a stop: what is still under way is broken off, and its log says so, as its target may have seen it.

use std::time::Duration;

use tokio::{task::Id, time::timeout};

use super::{Lane, Settled, attempt, recording::Unrecorded};

/// How long the store may take for the records of what was broken off: a stop that is over waits no longer for one that fails.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Lane {
    /// Breaks off what is under way and records that, so that its number is not given out again. It counts for nothing, and its delivery
    /// is due at once after the next start.
    pub(super) async fn cut_off(&mut self) {
        self.attempts.abort_all();
        while let Some(ended) = self.attempts.join_next_with_id().await {
            match ended {
                Err(error) if error.is_cancelled() => self.is_cut_off(error.id()),
                ended => self.ended(ended),
            }
        }
        let _ = timeout(LAST_WORDS, self.record_all()).await;
        self.recordings.shutdown().await;
    }

    /// What is broken off after the lease has ended is not ours to tell of: whoever owns the lane now tries it under the same number.
    fn is_cut_off(&mut self, id: Id) {
        let Some(it) = self.under_way.remove(&id).filter(|_| self.lease.is_some() && !self.over.is_cancelled()) else { return };
        let due = &it.handed.due;
        let mut attempt = attempt::cut_off(&due.delivery, it.at, it.began.elapsed());
        (attempt.epoch, attempt.stood_still_ms) = (it.epoch, it.still_ms);
        let settled = Settled { attempt, hold: None, template_failed: false };
        self.report(due, &settled, self.parts.clock.now());
        self.unrecorded.push(Unrecorded { attempt: settled.attempt, handed: it.handed.clone() });
    }

    async fn record_all(&mut self) {
        while !(self.unrecorded.is_empty() && self.recordings.is_empty()) {
            self.record();
            let Some(ended) = self.recordings.join_next().await else { return };
            self.recorded(ended);
        }
    }
}
