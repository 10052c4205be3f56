//! All deliveries of one destination: which of them is tried next, and when.
//!
//! The store is the queue. What has just been committed is handed over as it is, as far as a bounded buffer holds; the rest,
//! and every retry, is read back by due time. A delivery that is in hand (buffered, being sent, being recorded) is claimed,
//! and a claim ends only when its attempt is recorded: so no delivery is in two attempts at once.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Destination,
    attempt::{self, Settled},
    client::Http,
    inbox::{Handed, Inbox, State},
    record::Recorder,
};
use crate::{
    clock::{Clock, Timestamp, until},
    envelope::{DeliveryId, Name},
    render::Templates,
    store::{Attempt, Due, Next, Store},
    telemetry::Metrics,
};

/// Deliveries read back at once.
const FETCH_MAX: usize = 128;
/// Bytes of bodies one read-back brings, more or less; how many rows that is, is judged by the last one.
const FETCH_BYTES: usize = 4 * 1024 * 1024;
/// Size of a body before any was read, in bytes.
const TYPICAL: usize = 64 * 1024;
/// Attempts that are sent and wait to be recorded, beyond those that `concurrency` allows to be sent.
const RECORDING_MAX: usize = 64;
/// How often the store is asked for due deliveries even when nothing calls for it.
const POLL: Duration = Duration::from_secs(30);
/// How long a read-back that failed is left alone.
const FETCH_AGAIN: Duration = Duration::from_secs(1);

/// What a lane works with.
pub(super) struct Parts {
    pub(super) destination: Arc<Destination>,
    pub(super) http: Http,
    pub(super) templates: Arc<Templates>,
    pub(super) store: Arc<dyn Store>,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// Cancelled: begin nothing more.
    pub(super) stop: CancellationToken,
    /// Cancelled: break off what is under way.
    pub(super) break_off: CancellationToken,
}

/// One lane.
pub(super) struct Lane {
    parts: Arc<Parts>,
    inbox: Arc<Inbox>,
    refused: watch::Receiver<usize>,
    /// Read back from the store, earliest due first.
    fetched: VecDeque<Handed>,
    /// Mean size of the bodies last read back.
    typical: usize,
    /// When the store is asked again though nothing calls for it.
    poll_at: Instant,
    /// That time has come.
    poll: bool,
    /// The last read-back failed: none before `poll_at`.
    resting: bool,
    slots: Arc<Semaphore>,
    attempts: JoinSet<()>,
    /// Which delivery each task tries, in case it panics.
    under_way: HashMap<Id, UnderWay>,
}

/// What is recorded should an attempt panic.
struct UnderWay {
    delivery: DeliveryId,
    number: u32,
    at: Timestamp,
    began: Instant,
}

impl Lane {
    /// A lane that begins with what the store holds.
    pub(super) fn new(parts: Parts) -> Self {
        let concurrency = usize::try_from(parts.destination.concurrency).unwrap_or(1);
        Self {
            refused: parts.recorder.refused(),
            parts: Arc::new(parts),
            inbox: Arc::new(Inbox::new()),
            fetched: VecDeque::new(),
            typical: TYPICAL,
            poll_at: Instant::now() + POLL,
            poll: false,
            resting: false,
            slots: Arc::new(Semaphore::new(concurrency)),
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
        }
    }

    pub(super) fn name(&self) -> &Name {
        &self.parts.destination.name
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Delivers until it is stopped; then waits for what is under way, unless that is broken off.
    pub(super) async fn run(mut self) {
        while !self.parts.stop.is_cancelled() {
            if self.wants_more() {
                self.read_back().await;
            }
            self.begin_attempts();
            // One read-back may bring less than there are slots: what is left is read at once.
            if !self.wants_more() {
                self.wait().await;
            }
        }
        let break_off = self.parts.break_off.clone();
        let rest = async { while self.join().await {} };
        if break_off.run_until_cancelled(rest).await.is_none() {
            self.attempts.shutdown().await;
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self) {
        let parts = self.parts.clone();
        let inbox = self.inbox.clone();
        let due = self.wake_at();
        tokio::select! {
            () = parts.stop.cancelled() => {}
            () = inbox.bell.notified() => {}
            Some(ended) = self.attempts.join_next_with_id() => self.ended(ended),
            () = sleep_until(&parts.clock, due) => {}
            () = tokio::time::sleep_until(self.poll_at) => {
                self.poll_at = Instant::now() + POLL;
                (self.poll, self.resting) = (true, false);
            }
            // The sender lives in `parts`, so this ends only when the count changes.
            _ = self.refused.changed() => {}
        }
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.ended(ended);
        }
    }

    /// The next time by the clock at which there is something to do. A time that has passed since it was looked at wakes
    /// at once, unless only a free slot can move things on.
    fn wake_at(&self) -> Option<Timestamp> {
        let state = self.inbox.state();
        state.held_until.or(state.next_due.filter(|_| self.may_fetch()))
    }

    /// Whether the target wants nothing yet.
    fn held(&self) -> bool {
        let now = self.parts.clock.now();
        self.inbox.state().held_until.is_some_and(|until| now < until)
    }

    /// Begins attempts, earliest due first, while there are slots and the store takes their records.
    fn begin_attempts(&mut self) {
        if self.held() || self.parts.stop.is_cancelled() || *self.refused.borrow_and_update() != 0 {
            return;
        }
        self.inbox.release(self.parts.clock.now());
        let most = usize::try_from(self.parts.destination.concurrency).unwrap_or(1).saturating_add(RECORDING_MAX);
        while self.attempts.len() < most {
            let Ok(slot) = self.slots.clone().try_acquire_owned() else { return };
            let Some(next) = self.take() else { return };
            self.begin(next, slot);
        }
    }

    /// The earliest of what is in hand.
    fn take(&mut self) -> Option<Handed> {
        let mut state = self.inbox.state();
        let ready_is_first = match (state.ready.front(), self.fetched.front()) {
            (Some(ready), Some(fetched)) => due_at(&ready.due) < due_at(&fetched.due),
            (ready, _) => ready.is_some(),
        };
        let next = if ready_is_first { state.ready.pop_front() } else { self.fetched.pop_front() }?;
        state.claimed.insert(next.due.delivery.id, true);
        Some(next)
    }

    fn begin(&mut self, next: Handed, slot: OwnedSemaphorePermit) {
        let under_way = UnderWay {
            delivery: next.due.delivery.id,
            number: next.due.delivery.attempts.saturating_add(1),
            at: self.parts.clock.now(),
            began: Instant::now(),
        };
        let task = self.attempts.spawn(deliver(self.parts.clone(), self.inbox.clone(), next, slot));
        self.under_way.insert(task.id(), under_way);
    }

    /// Waits for the end of one attempt; false when none is under way.
    async fn join(&mut self) -> bool {
        match self.attempts.join_next_with_id().await {
            Some(ended) => {
                self.ended(ended);
                true
            }
            None => false,
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let (id, panicked) = match &ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        let Some(it) = self.under_way.remove(&id) else { return };
        if panicked {
            tracing::error!(delivery.id = %it.delivery, target.name = %self.name(), attempt = it.number, "the relay failed while it made an attempt");
            let attempt = attempt::broken(it.delivery, it.number, it.at, it.began.elapsed());
            self.attempts.spawn(record(self.parts.clone(), self.inbox.clone(), attempt));
        }
    }

    /// Reads back what is due; after a failure the store is left alone for a while.
    async fn read_back(&mut self) {
        self.poll = false;
        if let Err(error) = self.fetch().await {
            tracing::error!(target.name = %self.name(), %error, "due deliveries cannot be read");
            self.inbox.state().behind = true;
            self.poll_at = Instant::now() + FETCH_AGAIN;
            self.resting = true;
        }
    }

    /// Whether what is read back could be sent.
    fn may_fetch(&self) -> bool {
        self.fetched.is_empty() && 0 < self.slots.available_permits() && !self.resting
    }

    /// Whether the store may hold something that could be sent now.
    fn wants_more(&self) -> bool {
        if !self.may_fetch() || self.held() {
            return false;
        }
        let state = self.inbox.state();
        let due = state.next_due.is_some_and(|at| at <= self.parts.clock.now());
        // What was handed over comes before what was missed since: the store is asked once that is used up.
        self.poll || due || (state.behind && state.ready.is_empty())
    }

    /// Reads one batch. Nothing is begun meanwhile, so claims made by commits last until it is over, and a row that was read
    /// without being in hand has not been tried since. (The store tells of a commit before it takes the record of an attempt
    /// at what was committed.)
    async fn fetch(&mut self) -> Result<(), crate::store::Error> {
        let limit = self.fetch_limit();
        let (before, except) = {
            let mut state = self.inbox.state();
            (state.behind, state.next_due) = (false, None);
            (state.ready.len(), claimed(&state))
        };
        let (store, target) = (self.parts.store.clone(), self.name().clone());
        let now = self.parts.clock.now();
        let found = store.due(&target, now, u32::try_from(limit).unwrap_or(u32::MAX), except).await?;
        let all = found.len() < limit;
        let all = self.keep(found) && all;
        if !all {
            self.inbox.fall_behind(before);
            return Ok(());
        }
        let except = claimed(&self.inbox.state());
        let next = store.next_due(&target, except).await?;
        let mut state = self.inbox.state();
        state.next_due = [state.next_due, next].into_iter().flatten().min();
        Ok(())
    }

    /// Takes in hand what was read, up to [`FETCH_BYTES`]; false when some of it was left in the store.
    fn keep(&mut self, found: Vec<Due>) -> bool {
        let (mut taken, mut bytes) = (0, 0_usize);
        let mut state = self.inbox.state();
        for due in found {
            if FETCH_BYTES < bytes {
                break;
            }
            (taken, bytes) = (taken + 1, bytes + due.envelope.body.len());
            if let Entry::Vacant(free) = state.claimed.entry(due.delivery.id) {
                free.insert(false);
                self.fetched.push_back(Handed { due, _share: None });
            }
        }
        self.typical = bytes.checked_div(taken).unwrap_or(self.typical);
        bytes <= FETCH_BYTES
    }

    /// Fewer at once where bodies are large, but always enough to fill the slots half.
    fn fetch_limit(&self) -> usize {
        let fitting = FETCH_BYTES / self.typical.max(1);
        fitting.clamp((self.slots.available_permits() / 2).clamp(1, FETCH_MAX), FETCH_MAX)
    }
}

async fn sleep_until(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn claimed(state: &State) -> Vec<DeliveryId> {
    let mut ids: Vec<_> = state.claimed.keys().copied().collect();
    ids.sort_unstable();
    ids
}

fn due_at(due: &Due) -> Timestamp {
    due.delivery.due_at.unwrap_or(due.delivery.created_at)
}

/// One attempt from beginning to record. Its slot is free for the next as soon as it is sent.
async fn deliver(parts: Arc<Parts>, inbox: Arc<Inbox>, handed: Handed, slot: OwnedSemaphorePermit) {
    let due = &handed.due;
    let settled = attempt::make(&parts.destination, &parts.http, &parts.templates, &parts.clock, due).await;
    inbox.sent(settled.hold);
    drop(slot);
    inbox.bell.notify_one();
    report(&parts, due, &settled);
    record(parts, inbox, settled.attempt).await;
}

async fn record(parts: Arc<Parts>, inbox: Arc<Inbox>, attempt: Attempt) {
    let (delivery, next) = (attempt.delivery, attempt.next);
    // Where the store has closed, the claim stays: nobody may try this delivery again in this run.
    if parts.recorder.record(attempt).await {
        inbox.recorded(&delivery, next);
        inbox.bell.notify_one();
    }
}

/// Counts and logs a settled attempt.
fn report(parts: &Parts, due: &Due, settled: &Settled) {
    let (target, attempt) = (&parts.destination.name, &settled.attempt);
    if settled.template_failed {
        parts.metrics.template_failed(target);
    }
    let outcome = match attempt.next {
        Next::Delivered => "delivered",
        Next::Retry(_) => "retry",
        Next::Dead(_) => "dead",
    };
    parts.metrics.attempted(target, outcome);
    let duration_ms = u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX);
    let (number, status) = (attempt.number, attempt.status);
    let error = attempt.error.as_deref().unwrap_or_default();
    match attempt.next {
        Next::Delivered => {
            parts.metrics.delivered_after(target, until(due.envelope.received_at, parts.clock.now()));
            tracing::debug!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, "delivered");
        }
        Next::Retry(at) => {
            tracing::warn!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, detail = ?attempt.detail, "attempt {number} failed: {error}; next at {at}");
        }
        Next::Dead(cause) => {
            tracing::error!(delivery.id = %attempt.delivery, target.name = %target, attempt = number, status, duration_ms, detail = ?attempt.detail, cause = cause.word(), "attempt {number} failed: {error}; dead letter");
        }
    }
}
