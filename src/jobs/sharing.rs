//! Which relay does a job, and how the others know of it.
//!
//! A job is one record of the store. It is done by whoever owns the shard of its id, under the lease that lanes are worked on under: so
//! there is one that does it, another takes it over when that one leaves or is killed, and nothing else has to be agreed on. Every write
//! takes the place of the record it was made from. Who finds another there has been asked to end the job, or no longer does it.

use std::sync::{Arc, PoisonError, Weak, atomic::Ordering};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{FINISHED_MAX, Job, Jobs, Kind, Known, State, kept, work};
use crate::{
    deliver::Ownership,
    envelope::Name,
    store::{self, Change, Changed, Record, RecordKind, Write},
};

/// How often a change is made again that another relay was faster than.
const TRIES: u32 = 10;

/// Takes up jobs that become this relay's to do, until `stop`.
pub(super) async fn watch(jobs: Weak<Jobs>, mut ownership: Ownership, stop: CancellationToken) {
    while stop.run_until_cancelled(ownership.changed()).await.is_some() {
        let Some(jobs) = jobs.upgrade() else { return };
        jobs.take_up(None);
    }
}

impl Jobs {
    /// Whether the job `id` is this relay's to do, for long enough to take a step.
    pub(super) fn is_ours(&self, id: &str) -> bool {
        self.parts.ownership.owns(&Name::from(id))
    }

    /// Begins with what is this relay's to do and nobody does here. Of all but `begun` another, or an earlier run, may have done some.
    pub(super) fn take_up(self: &Arc<Self>, begun: Option<&str>) {
        if self.parts.stop.is_cancelled() {
            return;
        }
        let mut known = self.known();
        let mine = |known: &&mut Known| known.job.state == State::Running && !known.here && self.is_ours(&known.job.id);
        for known in known.values_mut().filter(mine) {
            (known.here, known.cancel) = (true, CancellationToken::new());
            let job = &known.job;
            let resumed = begun != Some(job.id.as_str());
            let going = self.parts.ownership.works(&Name::from(job.id.as_str()));
            let run = work::run(self.clone(), job.id.clone(), resumed);
            self.tasks.spawn(async move {
                let _going = going;
                run.await;
            });
        }
    }

    /// Goes on with the job `id` as whoever did it left it: from now on, what that one would still note of it is refused. False: there is
    /// nothing left to do.
    pub(super) async fn claim(&self, id: &str) -> store::Result<bool> {
        let _saving = self.saving.lock().await;
        for _ in 0..TRIES {
            let record = self.parts.store.record_of(RecordKind::Job, id).await?;
            let theirs = record.as_ref().and_then(|record| kept::read(record.doc.as_deref()?));
            let (Some(Record { revision, .. }), Some(job)) = (record, theirs) else { return Ok(false) };
            let ended = job.state != State::Running;
            info!(job.id = %id, job.kind = job.kind.word(), done = job.done, total = job.total, "going on with a job");
            if let Some(known) = self.known().get_mut(id) {
                (known.job, known.revision) = (job, revision);
            }
            if ended || self.put(id).await? {
                return Ok(!ended);
            }
        }
        Err(raced())
    }

    /// This relay no longer does the job `id`; what was done of it here is noted.
    pub(super) async fn put_down(&self, id: &str) -> store::Result<()> {
        let unnoted = {
            let mut all = self.known();
            let Some(known) = all.get_mut(id) else { return Ok(()) };
            known.here = false;
            std::mem::take(&mut known.unnoted)
        };
        if unnoted { self.keep(id).await } else { Ok(()) }
    }

    /// Takes note of what other relays have made of jobs.
    ///
    /// # Errors
    /// What the store says.
    pub async fn refresh(self: &Arc<Self>) -> store::Result<()> {
        let records = self.parts.store.records(RecordKind::Job, self.seen.load(Ordering::Relaxed)).await?;
        if !records.is_empty() {
            let _saving = self.saving.lock().await;
            for record in records {
                self.seen.fetch_max(record.revision, Ordering::Relaxed);
                self.learn(record);
            }
        }
        self.take_up(None);
        Ok(())
    }

    /// Goes by what `record` says, unless that is known. Under [`Jobs::saving`].
    fn learn(&self, record: Record) {
        let mut all = self.known();
        if all.get(&record.id).is_some_and(|known| record.revision <= known.revision) {
            return;
        }
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
        let Some(doc) = record.doc else {
            if let Some(gone) = all.remove(&record.id) {
                gone.cancel.cancel();
            }
            return;
        };
        let Some(theirs) = kept::read(&doc) else {
            warn!(job.id = %record.id, "a job that the store holds cannot be read and is left alone");
            self.unread.lock().unwrap_or_else(PoisonError::into_inner).insert(record.id);
            return;
        };
        let known = all.entry(record.id).or_insert_with(|| Known::of(theirs.clone(), 0));
        known.revision = record.revision;
        let ends = known.job.state == State::Running && theirs.state != State::Running;
        if known.here && theirs.state != State::Running {
            // What was done here and is not noted yet is noted with the end that somebody else has put to it.
            (known.job.state, known.job.finished_at, known.job.error) = (theirs.state, theirs.finished_at, theirs.error);
            (known.job, known.unnoted) = (known.job.forgetful(), true);
        } else {
            known.job = theirs;
        }
        if known.here {
            known.cancel.cancel();
        }
        let released =
            known.job.filter.target.as_deref().filter(|_| ends && known.job.kind == Kind::Release).and_then(Name::parse);
        drop(all);
        if let Some(target) = released {
            self.parts.lanes.released(&target);
        }
    }

    /// Keeps a new job.
    pub(super) async fn add(&self, job: &Job) -> store::Result<()> {
        let _saving = self.saving.lock().await;
        let Changed::Done { revision } = self.write(job, None).await? else {
            return Err(store::Error::Backend("two jobs have drawn the same id".into()));
        };
        self.known().insert(job.id.clone(), Known::of(job.clone(), revision));
        Ok(())
    }

    /// Keeps the job `id` as it is known, with what others have made of it.
    pub(super) async fn keep(&self, id: &str) -> store::Result<()> {
        let _saving = self.saving.lock().await;
        for _ in 0..TRIES {
            if self.put(id).await? {
                return Ok(());
            }
            self.meet(id).await?;
            // Nothing of ours is to be kept of what another does, or has forgotten.
            if !self.known().get_mut(id).is_some_and(|known| std::mem::take(&mut known.unnoted)) {
                return Ok(());
            }
        }
        Err(raced())
    }

    /// Ends the job `id` by `end`, whoever does it; answers it as it is since. One that has ended stays as it is.
    pub(super) async fn end_as(&self, id: &str, end: impl Fn(&mut Job)) -> store::Result<Option<Job>> {
        let _saving = self.saving.lock().await;
        for _ in 0..TRIES {
            {
                let mut all = self.known();
                let Some(known) = all.get_mut(id) else { return Ok(None) };
                if known.job.state != State::Running {
                    return Ok(Some(known.job.clone()));
                }
                end(&mut known.job);
                known.cancel.cancel();
            }
            if self.put(id).await? {
                return Ok(self.get(id));
            }
            self.meet(id).await?;
        }
        Err(raced())
    }

    /// Writes the job `id` as it is known; false: the record has another revision. Under [`Jobs::saving`].
    async fn put(&self, id: &str) -> store::Result<bool> {
        loop {
            let Some((job, revision)) = self.known().get(id).map(|known| (known.job.clone(), known.revision)) else {
                return Ok(true);
            };
            let Changed::Done { revision } = self.write(&job, Some(revision)).await? else { return Ok(false) };
            let mut all = self.known();
            let Some(known) = all.get_mut(id) else { return Ok(true) };
            known.revision = revision;
            // A step may have been counted in, or the job have ended, while that was written.
            if known.job == job {
                return Ok(true);
            }
        }
    }

    async fn write(&self, job: &Job, expected: Option<i64>) -> store::Result<Changed> {
        let (id, doc) = (job.id.clone(), kept::write(job));
        let write = Write::Put { kind: RecordKind::Job, id, owner: String::new(), doc, sealed: None, expected };
        self.parts.store.change(Change { writes: vec![write], ..Change::default() }).await
    }

    /// Reads what another relay has made of the job `id`. Under [`Jobs::saving`].
    async fn meet(&self, id: &str) -> store::Result<()> {
        match self.parts.store.record_of(RecordKind::Job, id).await? {
            Some(record) => self.learn(record),
            None => {
                if let Some(gone) = self.known().remove(id) {
                    gone.cancel.cancel();
                }
            }
        }
        Ok(())
    }

    /// Forgets the oldest finished jobs beyond [`FINISHED_MAX`].
    pub(super) async fn forget_old(&self) -> store::Result<()> {
        let finished = self.list().into_iter().filter(|job| job.state != State::Running);
        for Job { id, .. } in finished.skip(FINISHED_MAX) {
            let _saving = self.saving.lock().await;
            let Some(expected) = self.known().get(&id).map(|known| known.revision) else { continue };
            let removed = Write::Remove { kind: RecordKind::Job, id: id.clone(), expected };
            // Where another relay was faster, it has done the same.
            self.parts.store.change(Change { writes: vec![removed], ..Change::default() }).await?;
            self.known().remove(&id);
        }
        Ok(())
    }

    /// Makes records of the jobs that older versions kept among the settings.
    pub(super) async fn adopt_settings(&self) -> store::Result<()> {
        for (key, text) in self.parts.store.settings(kept::PREFIX).await? {
            let Some(job) = kept::read(&text) else {
                warn!(job.key = %key, "a job that the store holds cannot be read and is left alone");
                continue;
            };
            // Where it is a record already, that was not removed in time.
            self.write(&job, None).await?;
            self.parts.store.remove_setting(&key).await?;
        }
        Ok(())
    }
}

fn raced() -> store::Error {
    store::Error::Full("others change the same job".into())
}
