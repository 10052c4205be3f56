//! Work on many deliveries at once, asked for by a person: dead letters retried, deliveries cancelled, events replayed. A filter and a
//! rate come in; the store is walked page by page, so that memory stays bounded, and lanes are woken. What a job has done is kept beside
//! its place in the walk, so that it goes on after a restart and does nothing twice. Where several relays share the store, one of them does
//! a job, and all know of it (`sharing.rs`). Sends nothing itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicI64},
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;
use utoipa::ToSchema;

use crate::{
    clock::{Clock, Timestamp, to_ms},
    deliver::{Deliver, Ownership},
    envelope::{DeliveryId, Name},
    live::Live,
    route::Router,
    store::{self, Filter, N_MAX, Store},
};

mod kept;
mod release;
mod selection;
mod sharing;
#[cfg(test)]
mod tests;
mod work;

pub use kept::Shown;

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Tries dead letters again.
    Retry,
    /// Cancels deliveries that are not final.
    Cancel,
    /// Makes new deliveries of stored events.
    Replay {
        /// For this target only; `None`: by today's rules.
        target: Option<Name>,
    },
    /// Erases events for good.
    Erase,
    /// Counts what a subscription that was switched on sends of what it held; its lane sends it, under a cap.
    Release,
}

impl Kind {
    /// The kind's word in the API.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Replay { .. } => "replay",
            Self::Erase => "erase",
            Self::Release => "release",
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = JobState, rename_all = "snake_case")]
pub enum State {
    /// Waits for other jobs, works, or waits for its rate.
    Running,
    /// Everything was looked at.
    Done,
    /// A person stopped it; what it did stays done.
    Cancelled,
    /// It gave up: see [`Job::error`].
    Failed,
}

impl State {
    /// Every state and its word.
    pub const ALL: [(&str, Self); 4] =
        [("running", Self::Running), ("done", Self::Done), ("cancelled", Self::Cancelled), ("failed", Self::Failed)];

    /// The state's word in API and CLI.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(word, _)| word)
    }
}

/// A job and how far it is. Serialises as the API shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id: `job_` and 20 hex digits, of which the first 12 are the time it began.
    pub id: String,
    /// What it does.
    pub kind: Kind,
    /// What it does that to; `page` and `limit` mean nothing here.
    pub filter: Filter,
    /// How many things it takes up in a second at most.
    pub rate: Option<u32>,
    /// Who asked for it.
    pub by: String,
    /// How far it is.
    pub state: State,
    /// How many things were counted when it began: dead letters, deliveries, or events to replay.
    pub total: u64,
    /// How many of them were looked at.
    pub done: u64,
    /// What came of them: deliveries that are pending again, cancelled, or new; events that were erased.
    pub made: u64,
    /// How many could not be done: events that are gone, or that have all the deliveries an event can have.
    pub failed: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it ended early, or what it waits for.
    pub error: Option<String>,
    /// The place behind which it goes on.
    cursor: i64,
    /// The place of the newest delivery there could be when it began: what comes later is none of its business.
    end: i64,
}

/// What jobs work with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// What they work on.
    pub store: Arc<dyn Store>,
    /// Today's rules.
    pub router: Live<Router>,
    /// What time it is.
    pub clock: Clock,
    /// What they make work for, or take it from.
    pub lanes: Arc<dyn Lanes>,
    /// Which of them are this relay's to do: a job goes by its id as a lane by its name.
    pub ownership: Ownership,
    /// Cancelled when the relay stops: jobs end where they are, and go on after the next start.
    pub stop: CancellationToken,
}

/// The lanes, as jobs see them.
pub trait Lanes: Send + Sync {
    /// The store may hold due deliveries for `targets` that it told nobody of.
    fn wake(&self, targets: &[Name]);
    /// Those of `ids` that wait in hand were cancelled.
    fn forget(&self, ids: &[DeliveryId]);
    /// Something was taken out of those of `ids` that wait in hand.
    fn read_anew(&self, ids: &[DeliveryId]);
    /// What `target` held is released, or will not be: its cap may go.
    fn released(&self, target: &Name);
}

impl Lanes for Deliver {
    fn wake(&self, targets: &[Name]) {
        self.wake(targets);
    }

    fn forget(&self, ids: &[DeliveryId]) {
        self.forget(ids);
    }

    fn read_anew(&self, ids: &[DeliveryId]) {
        self.read_anew(ids);
    }

    fn released(&self, target: &Name) {
        self.signs().released(target);
    }
}

/// Jobs that work at once; further ones wait for their turn.
const WORKING_MAX: usize = 4;
/// Likewise of those whose callers are bound to namespaces: they wait for each other, and nobody else for them.
const BOUND_WORKING_MAX: usize = 2;
/// Jobs that are not finished; further ones are refused.
const UNFINISHED_MAX: usize = 100;
/// Likewise of those whose callers are bound to the same namespaces.
const BOUND_EACH_MAX: usize = 4;
/// What stands in the place of an id or a subject that was erased.
const ERASED: &str = "***";
/// Finished jobs that are remembered.
const FINISHED_MAX: usize = 100;

/// Why a job does not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Others are to end first, or to be cancelled.
    #[error("{0} jobs are unfinished, which is as many as there may be: wait for one to end, or cancel one")]
    TooMany(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// How often an id is drawn anew that would make a job another relay's to do.
const DRAWS: u32 = 64;

/// All jobs, as one relay knows them.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Jobs {
    parts: Parts,
    known: Mutex<BTreeMap<String, Known>>,
    /// Those that cannot be read as they are kept: a later version may have begun them.
    unread: Mutex<BTreeSet<String>>,
    /// One of this relay's writes a record at a time, or takes note of what others have written.
    saving: tokio::sync::Mutex<()>,
    /// The newest record that was read.
    seen: AtomicI64,
    turns: Semaphore,
    bound_turns: Semaphore,
    tasks: TaskTracker,
}

struct Known {
    job: Job,
    /// The record that says so, or takes the place of which is being written.
    revision: i64,
    /// This relay does it.
    here: bool,
    /// Somebody else has ended it: what was done here until then is still to be noted.
    unnoted: bool,
    /// Cancelled when a person stops the job, or another relay does it.
    cancel: CancellationToken,
}

impl Known {
    fn of(job: Job, revision: i64) -> Self {
        Self { job, revision, here: false, unnoted: false, cancel: CancellationToken::new() }
    }
}

impl Jobs {
    /// Reads the jobs that the store knows, and goes on with those that are not finished and this relay's to do. Must be called on a
    /// runtime.
    pub async fn start(parts: Parts) -> store::Result<Arc<Self>> {
        let jobs = Arc::new(Self {
            parts,
            known: Mutex::default(),
            unread: Mutex::default(),
            saving: tokio::sync::Mutex::new(()),
            seen: AtomicI64::new(0),
            turns: Semaphore::new(WORKING_MAX),
            bound_turns: Semaphore::new(BOUND_WORKING_MAX),
            tasks: TaskTracker::new(),
        });
        jobs.adopt_settings().await?;
        jobs.refresh().await?;
        tokio::spawn(sharing::watch(Arc::downgrade(&jobs), jobs.parts.ownership.clone(), jobs.parts.stop.clone()));
        Ok(jobs)
    }

    /// Those that cannot be read as they are kept: others may know how to do them.
    pub(crate) fn unread(&self) -> BTreeSet<String> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many things a job of `kind` would take up: dead letters, deliveries, or events.
    pub async fn count(&self, kind: &Kind, filter: &Filter) -> store::Result<u64> {
        selection::count(&*self.parts.store, kind, filter).await
    }

    /// Counts what there is to do, then begins to do it, at most `rate` things a second.
    ///
    /// # Errors
    /// [`BeginError::TooMany`] while too many are unfinished; else what the store says. Those that callers bound to namespaces asked for
    /// count by themselves, so that they keep nobody else from working.
    pub async fn begin(
        self: &Arc<Self>,
        kind: Kind,
        filter: Filter,
        rate: Option<u32>,
        by: &str,
    ) -> std::result::Result<Job, BeginError> {
        // Releases last as long as their receivers take, and are counted by themselves.
        let counts = |job: &Job| job.state == State::Running && job.kind != Kind::Release;
        let unfinished = |fits: &dyn Fn(&Job) -> bool| {
            let known = self.known();
            known.values().filter(|known| counts(&known.job) && fits(&known.job)).count()
        };
        let bound = is_bound(&kind, &filter);
        if bound && BOUND_EACH_MAX <= unfinished(&|job| job.filter.namespaces == filter.namespaces) {
            return Err(BeginError::TooMany(BOUND_EACH_MAX));
        }
        if UNFINISHED_MAX <= unfinished(&|job| job.is_bound() == bound) {
            return Err(BeginError::TooMany(UNFINISHED_MAX));
        }
        self.begin_one(kind, filter, rate, by).await
    }

    async fn begin_one(
        self: &Arc<Self>,
        kind: Kind,
        filter: Filter,
        rate: Option<u32>,
        by: &str,
    ) -> std::result::Result<Job, BeginError> {
        let end = self.end().await?;
        let total = self.count(&kind, &filter).await?;
        let started_at = self.parts.clock.now();
        let job = Job {
            id: self.draw(started_at)?,
            kind,
            filter,
            rate: rate.map(|rate| rate.max(1)),
            by: by.to_owned(),
            state: State::Running,
            total,
            done: 0,
            made: 0,
            failed: 0,
            started_at,
            finished_at: None,
            error: None,
            cursor: 0,
            end,
        };
        self.add(&job).await?;
        info!(job.id = %job.id, job.kind = job.kind.word(), job.by = by, total, "a job begins");
        self.take_up(Some(&job.id));
        Ok(job)
    }

    /// An id that sorts by `at`; of a job that is this relay's to do, as far as it has any.
    fn draw(&self, at: Timestamp) -> store::Result<String> {
        let mut drawn = id(at)?;
        for _ in 0..DRAWS {
            if self.is_ours(&drawn) {
                break;
            }
            drawn = id(at)?;
        }
        Ok(drawn)
    }

    /// The job of this id.
    pub fn get(&self, id: &str) -> Option<Job> {
        self.known().get(id).map(|known| known.job.clone())
    }

    /// All jobs that are remembered, newest first.
    pub fn list(&self) -> Vec<Job> {
        self.known().values().rev().map(|known| known.job.clone()).collect()
    }

    /// Stops a job, whichever relay does it; what it did stays done, and what is finished stays so. `None` when there is none of this id.
    pub async fn cancel(&self, id: &str) -> store::Result<Option<Job>> {
        let now = self.parts.clock.now();
        let ended = self.end_as(id, |job| job.finish(State::Cancelled, now)).await?;
        if let Some(job) = ended.as_ref().filter(|job| job.state == State::Cancelled) {
            info!(job.id = %id, done = job.done, total = job.total, "a job was cancelled");
        }
        Ok(ended)
    }

    /// Waits until no job works any more: after [`Parts::stop`], before the store is closed.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job, while it runs and is this relay's to do.
    fn doing(&self, id: &str) -> Option<Job> {
        let known = self.known();
        let known = known.get(id).filter(|known| known.here && known.job.state == State::Running)?;
        self.is_ours(id).then(|| known.job.clone())
    }

    /// Changes a job that still runs, and answers it; `None` once it was cancelled.
    fn change(&self, id: &str, change: impl FnOnce(&mut Job)) -> Option<Job> {
        let mut known = self.known();
        let known = known.get_mut(id).filter(|known| known.job.state == State::Running)?;
        change(&mut known.job);
        Some(known.job.clone())
    }

    /// Counts in what a step did, though its job was cancelled meanwhile.
    fn count_in(&self, id: &str, change: impl FnOnce(&mut Job)) -> Option<Job> {
        let mut known = self.known();
        let known = known.get_mut(id).filter(|known| matches!(known.job.state, State::Running | State::Cancelled))?;
        change(&mut known.job);
        Some(known.job.clone())
    }

    /// The place of the last delivery that an event of today can have.
    async fn end(&self) -> store::Result<i64> {
        let newest = self.parts.store.events(Filter { limit: 1, ..Filter::default() }).await?;
        Ok(newest.first().map_or(0, |row| DeliveryId { event: row.uid, n: N_MAX }.place()))
    }
}

impl Job {
    /// Whether a caller that is bound to namespaces asked for it: then its filter names them.
    pub fn is_bound(&self) -> bool {
        is_bound(&self.kind, &self.filter)
    }

    /// As it is told where it stays: what an erasure is about is not kept by having been erased.
    pub fn forgetful(&self) -> Self {
        let mut job = self.clone();
        if job.kind == Kind::Erase {
            for text in [&mut job.filter.id, &mut job.filter.subject].into_iter().flatten() {
                *text = ERASED.to_owned();
            }
        }
        job
    }

    /// A job that has just begun, for tests of others.
    #[cfg(test)]
    pub(crate) fn sample(kind: Kind, id: &str, at: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            filter: Filter::default(),
            rate: None,
            by: "admin".to_owned(),
            state: State::Running,
            total: 2,
            done: 0,
            made: 0,
            failed: 0,
            started_at: at,
            finished_at: None,
            error: None,
            cursor: 0,
            end: 0,
        }
    }

    fn finish(&mut self, state: State, at: Timestamp) {
        self.state = state;
        self.finished_at = Some(at);
        if state != State::Failed {
            self.error = None;
        }
        *self = self.forgetful();
    }
}

fn is_bound(kind: &Kind, filter: &Filter) -> bool {
    *kind != Kind::Erase && filter.namespaces.is_some()
}

/// An id that sorts by `at`.
fn id(at: Timestamp) -> store::Result<String> {
    let ms = u64::try_from(to_ms(at)).unwrap_or_default();
    let drawn = random().ok_or_else(|| store::Error::Backend("the system gives no random bytes".into()))?;
    Ok(format!("job_{ms:012x}{drawn:08x}"))
}

fn random() -> Option<u32> {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(u32::from_be_bytes(bytes))
}
