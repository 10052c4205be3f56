//! The walk of one job: a page at a time, its place kept after each.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{
    Job, Jobs, Kind, State, release,
    selection::{self, Selection},
};
use crate::{
    clock::{Timestamp, later},
    envelope::{DeliveryId, EventUid, Name},
    store::{self, DeliveryRow, Error, NewDelivery},
};

/// Things taken up at once at most.
const PAGE: u32 = 100;
/// Steps in a second of a job with a rate: what it may do in a second comes evenly.
const STEPS: u32 = 4;
/// How long a job waits for a store that fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// Failures in a row after which a job gives up; a full store is waited for as long as it takes.
const FAILURES_MAX: u32 = 20;

/// What one step did.
#[derive(Default)]
struct Step {
    /// The place to go on behind; `None`: there is nothing more.
    cursor: Option<i64>,
    done: u64,
    made: u64,
    failed: u64,
    targets: BTreeSet<Name>,
}

/// Does the job `id` until it is finished, cancelled, another's to do, or the relay stops. `resumed`: a former run may have done part of its
/// next page.
pub(super) async fn run(jobs: Arc<Jobs>, id: String, resumed: bool) {
    match if resumed { jobs.claim(&id).await } else { Ok(true) } {
        Ok(true) => do_it(&jobs, &id, resumed).await,
        Ok(false) => {}
        Err(error) => warn!(job.id = %id, "a job is not gone on with yet: {error}"),
    }
    if let Err(error) = jobs.put_down(&id).await {
        warn!(job.id = %id, "what was done last of a job is not noted: {error}");
    }
    if let Err(error) = jobs.forget_old().await {
        warn!("old jobs could not be forgotten: {error}");
    }
}

async fn do_it(jobs: &Jobs, id: &str, resumed: bool) {
    let Some(cancel) = jobs.known().get(id).map(|known| known.cancel.clone()) else { return };
    let stop = jobs.parts.stop.clone();
    // What a step has begun is finished; only waiting is cut short.
    let stopped = async {
        tokio::select! { () = cancel.cancelled() => {}, () = stop.cancelled() => {} }
    };
    tokio::pin!(stopped);
    if jobs.get(id).is_some_and(|job| job.kind == Kind::Release) {
        return release::run(jobs, id, stopped).await;
    }
    let turns = if jobs.get(id).is_some_and(|job| job.is_bound()) { &jobs.bound_turns } else { &jobs.turns };
    let _turn = tokio::select! {
        turn = turns.acquire() => turn,
        () = &mut stopped => return,
    };
    let mut walk = Walk { jobs, id, resumed, failures: 0 };
    while let Some(rest) = walk.step().await {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = jobs.parts.clock.sleep_until(rest) => {}
        }
    }
}

struct Walk<'j> {
    jobs: &'j Jobs,
    id: &'j str,
    resumed: bool,
    /// Failures in a row.
    failures: u32,
}

impl Walk<'_> {
    /// Takes one step; answers when the next one is to be taken. `None`: there is none.
    async fn step(&mut self) -> Option<Timestamp> {
        // Another may do it once the lease has ended.
        let job = self.jobs.doing(self.id)?;
        let began = self.jobs.parts.clock.now();
        let limit = job.rate.map_or(PAGE, |rate| rate.div_ceil(STEPS).clamp(1, PAGE));
        let step = match self.take(&job, limit).await {
            Ok(step) => step,
            Err(error) => return self.failed(error).await,
        };
        let pause = job.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(step.done) / rate);
        self.wake(&step);
        match self.settle(step).await {
            Ok(true) => Some(later(began, pause)),
            Ok(false) => None,
            Err(error) => self.failed(error).await,
        }
    }

    fn wake(&self, step: &Step) {
        let targets: Vec<Name> = step.targets.iter().cloned().collect();
        if !targets.is_empty() {
            self.jobs.parts.lanes.wake(&targets);
        }
    }

    /// Keeps what a step did; false when it was the last one.
    async fn settle(&mut self, step: Step) -> store::Result<bool> {
        let now = self.jobs.parts.clock.now();
        let ended = step.cursor.is_none();
        let counted = self.jobs.count_in(self.id, |job| {
            job.cursor = step.cursor.unwrap_or(job.cursor);
            job.done += step.done;
            job.made += step.made;
            job.failed += step.failed;
            if job.state == State::Running {
                job.error = None;
            }
            if ended && job.state == State::Running {
                job.finish(State::Done, now);
            }
        });
        (self.resumed, self.failures) = (false, 0);
        // A job that was cancelled meanwhile is kept as cancelled, with what this step did.
        let Some(job) = counted else { return Ok(false) };
        if job.state == State::Done {
            info!(job.id = %job.id, done = job.done, made = job.made, failed = job.failed, "a job is done");
        }
        self.jobs.keep(self.id).await.map(|()| job.state == State::Running)
    }

    /// Says what the store said; answers when to try again.
    async fn failed(&mut self, error: Error) -> Option<Timestamp> {
        if matches!(error, Error::Closed) {
            return None;
        }
        self.failures += u32::from(!matches!(error, Error::Full(_)));
        let (now, over) = (self.jobs.parts.clock.now(), FAILURES_MAX <= self.failures);
        warn!(job.id = %self.id, "a step of a job failed: {error}");
        self.jobs.change(self.id, |job| {
            job.error = Some(error.to_string());
            if over {
                job.finish(State::Failed, now);
            }
        })?;
        if over {
            // The store fails anyway: a job that cannot be kept as failed goes on after the next start.
            let _ = self.jobs.keep(self.id).await;
            return None;
        }
        Some(later(now, PATIENCE))
    }

    async fn take(&self, job: &Job, limit: u32) -> store::Result<Step> {
        let store = &*self.jobs.parts.store;
        match Selection::new(&job.kind, &job.filter) {
            Selection::Nothing => Ok(Step::default()),
            Selection::One(event) => self.erase(vec![event], Step::default()).await,
            Selection::Deliveries(filter) => {
                let rows = selection::deliveries(store, &filter, job.cursor, limit).await?;
                self.deliveries(job, rows).await
            }
            Selection::Events(filter) => {
                let (events, last) = selection::events(store, &filter, job.cursor, limit).await?;
                self.events(job, events, last).await
            }
            Selection::EventsOf(filter) => {
                let (events, last) = selection::events_of(store, &filter, job.cursor, limit).await?;
                self.events(job, events, last).await
            }
        }
    }

    /// Retries or cancels a page of deliveries.
    async fn deliveries(&self, job: &Job, mut rows: Vec<DeliveryRow>) -> store::Result<Step> {
        rows.retain(|row| row.delivery.id.place() <= job.end);
        let mut step = Step { cursor: rows.last().map(|row| row.delivery.id.place()), ..Step::default() };
        if job.kind == Kind::Retry {
            rows.retain(|row| selection::is_retriable(&row.delivery));
        }
        step.done = rows.len() as u64;
        if self.resumed && job.kind == Kind::Retry {
            step.made += self.leave_out_retried(job, &mut rows).await?;
        }
        let (store, now) = (&self.jobs.parts.store, self.jobs.parts.clock.now());
        let ids = rows.iter().map(|row| row.delivery.id).collect();
        let changed = match job.kind {
            Kind::Retry => store.retry(ids, now).await?,
            _ => self.cancel(job, ids, now).await?,
        };
        step.made += changed.len() as u64;
        step.targets = rows.into_iter().map(|row| row.delivery.target).collect();
        Ok(step)
    }

    async fn cancel(&self, job: &Job, ids: Vec<DeliveryId>, now: Timestamp) -> store::Result<Vec<DeliveryId>> {
        let what = if job.filter.target.is_some() { "lane cancelled" } else { "cancelled" };
        let reason = format!("{what} by {} ({})", job.by, job.id);
        let cancelled = self.jobs.parts.store.cancel(ids, &reason, now).await?;
        self.jobs.parts.lanes.forget(&cancelled);
        Ok(cancelled)
    }

    /// Leaves out what died again since the job began: the former run retried it, but could not keep that it had. Answers how many.
    async fn leave_out_retried(&self, job: &Job, rows: &mut Vec<DeliveryRow>) -> store::Result<u64> {
        let before = rows.len();
        let mut fresh = Vec::with_capacity(before);
        for row in rows.drain(..) {
            let attempts = self.jobs.parts.store.attempts(row.delivery.id.event).await?;
            let tried = |since: Timestamp| attempts.iter().any(|it| it.delivery == row.delivery.id && since < it.started_at);
            if !tried(job.started_at) {
                fresh.push(row);
            }
        }
        *rows = fresh;
        Ok((before - rows.len()) as u64)
    }

    /// Replays or erases a page of events; `last` is the place behind the last one that was looked at.
    async fn events(&self, job: &Job, mut events: Vec<EventUid>, last: Option<i64>) -> store::Result<Step> {
        let ours = |event: &EventUid| event.seq <= DeliveryId::at(0, job.end).event.seq;
        events.retain(ours);
        let mut step = Step { cursor: last.filter(|last| *last <= job.end), ..Step::default() };
        if job.kind == Kind::Erase {
            return self.erase(events, step).await;
        }
        for event in events {
            self.replay(job, event, &mut step).await?;
        }
        Ok(step)
    }

    async fn erase(&self, events: Vec<EventUid>, mut step: Step) -> store::Result<Step> {
        let parts = &self.jobs.parts;
        step.done += events.len() as u64;
        let erased = parts.store.erase(events, parts.clock.now()).await?;
        parts.lanes.forget(&erased.ended);
        parts.lanes.read_anew(&erased.carriers);
        step.made += erased.events;
        step.targets.extend(erased.targets);
        Ok(step)
    }

    async fn replay(&self, job: &Job, event: EventUid, step: &mut Step) -> store::Result<()> {
        let parts = &self.jobs.parts;
        step.done += 1;
        let Some(row) = parts.store.event(event).await? else {
            step.failed += 1; // Pruned since the page was read.
            return Ok(());
        };
        let mut envelope = row.envelope;
        envelope.replayed = true;
        let router = parts.router.now();
        let deliveries = match &job.kind {
            Kind::Replay { target: Some(target) } if !router.may_have(target, &envelope) => Vec::new(),
            Kind::Replay { target: Some(target) } => {
                let order_key = router.order_key(&envelope, target);
                let rule = router.is_subscription(target).then(|| target.clone());
                vec![NewDelivery { order_key, rule, ..NewDelivery::to(target.clone()) }]
            }
            // A replay skips throttle, digest and `cancel_on`.
            _ => {
                let plan = router.plan(&envelope);
                let unhandled = |it: NewDelivery| NewDelivery {
                    order_key: it.order_key.or_else(|| router.order_key(&envelope, &it.target)),
                    handling: None,
                    ..it
                };
                plan.deliveries.into_iter().map(unhandled).collect()
            }
        };
        if deliveries.is_empty() {
            return Ok(());
        }
        step.targets.extend(deliveries.iter().map(|delivery| delivery.target.clone()));
        // The tag makes a second run of the same step answer what the first one made.
        let tag = format!("{}.{}", job.id, event.seq);
        let made = parts.store.replay(event, deliveries, &tag, parts.clock.now()).await?;
        step.made += made.len() as u64;
        Ok(())
    }
}
