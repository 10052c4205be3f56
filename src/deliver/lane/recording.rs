//! What a lane leaves in the store: while one batch is written, the attempts that end meanwhile gather for the next.

use std::sync::Arc;

use tokio::task::JoinError;

use super::{Lane, Settled};
use crate::{
    announce::{Announcer, Notice},
    clock::{Timestamp, until},
    deliver::inbox::Handed,
    envelope::Name,
    route::OWN_SOURCE,
    store::{Attempt, Due, Next},
};

/// Attempts in one batch.
const BATCH_MAX: usize = 64;
/// Batches under way at once: the second waits in the store's queue while the first is synced.
const BATCHES: usize = 2;

/// An attempt that is settled and not yet recorded.
pub(super) struct Unrecorded {
    pub(super) attempt: Attempt,
    pub(super) handed: Arc<Handed>,
}

/// A batch that the store has taken, or not because it has closed.
pub(super) struct Recorded {
    batch: Vec<(Next, Option<String>, Arc<Handed>)>,
    taken: bool,
}

impl Lane {
    /// Records what is settled.
    pub(super) fn record(&mut self) {
        while !self.unrecorded.is_empty() && self.recordings.len() < BATCHES {
            let size = self.unrecorded.len().min(BATCH_MAX);
            let mut attempts = Vec::with_capacity(size);
            let mut batch = Vec::with_capacity(size);
            for Unrecorded { attempt, handed } in self.unrecorded.drain(..size) {
                batch.push((attempt.next, attempt.error.clone(), handed));
                attempts.push(attempt);
            }
            self.recording += size;
            let recorder = self.parts.recorder.clone();
            self.recordings.spawn(async move { Recorded { taken: recorder.record(attempts).await, batch } });
        }
    }

    /// A batch is recorded: its deliveries are no longer in hand.
    pub(super) fn recorded(&mut self, ended: Result<Recorded, JoinError>) {
        match ended {
            Ok(Recorded { batch, taken }) => {
                self.recording = self.recording.saturating_sub(batch.len());
                self.looked = None;
                // Where the store has closed, the claim stays: nobody may try these deliveries again in this run.
                for (next, error, handed) in batch.into_iter().filter(|_| taken) {
                    self.inbox.recorded(&handed.due.delivery, next);
                    if matches!(next, Next::Awaits(_)) {
                        self.parts.awaited.notify_one();
                    }
                    announce_death(&self.parts.announcer, self.name(), next, error, &handed.due);
                }
            }
            // The claims stay likewise.
            Err(error) => {
                tracing::error!(target.name = %self.name(), %error, "the relay failed while it recorded attempts");
                self.recording = if self.recordings.is_empty() { 0 } else { self.recording };
            }
        }
    }

    /// Counts and logs a settled attempt.
    pub(super) fn report(&self, due: &Due, settled: &Settled, now: Timestamp) {
        let (target, attempt, metrics, label) = (self.name(), &settled.attempt, &self.parts.metrics, self.label());
        if settled.template_failed {
            metrics.template_failed(&label);
        }
        let outcome = match attempt.next {
            Next::Delivered => Some("delivered"),
            Next::Retry(_) => Some("retry"),
            Next::Dead(_) => Some("dead"),
            // It is counted once its report says what it came to.
            Next::Awaits(_) => None,
        };
        if let Some(outcome) = outcome {
            metrics.attempted(&label, outcome);
        }
        let duration_ms = u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX);
        let (number, status) = (attempt.number, attempt.status);
        let error = attempt.error.as_deref().unwrap_or_default();
        match attempt.next {
            Next::Delivered => {
                metrics.delivered_after(&label, until(due.envelope.received_at, now));
                tracing::debug!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, "delivered");
            }
            Next::Awaits(until) => {
                tracing::debug!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, "taken; a report is waited for until {until}");
            }
            Next::Retry(at) => {
                tracing::warn!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, detail = ?attempt.detail, "attempt {number} failed: {error}; next at {at}");
            }
            Next::Dead(cause) => {
                tracing::error!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, detail = ?attempt.detail, cause = cause.word(), "attempt {number} failed: {error}; dead letter");
            }
        }
    }
}

/// The relay's own events are not told of: their deaths would make more of them.
pub(super) fn announce_death(announcer: &Announcer, target: &Name, next: Next, error: Option<String>, due: &Due) {
    let event = &due.envelope;
    if let Next::Dead(cause) = next
        && event.source.as_str() != OWN_SOURCE
    {
        announcer.tell(Notice::Dead {
            delivery: due.delivery.id,
            event_id: event.id.clone(),
            event_type: event.r#type.clone(),
            target: target.clone(),
            cause,
            error,
        });
    }
}
