//! Counting what a subscription that was switched on sends of what it held. The lane sends, under the cap that its subscription says; the
//! job tells how far that is, and whether a person wants the rest cancelled. What is cancelled then, and that the cap goes, is the
//! subscription's affair ([`super::Lanes::released`]).

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{BeginError, Job, Jobs, Kind, State};
use crate::{
    clock::Timestamp,
    envelope::Name,
    store::{self, Filter},
};

/// Releases that are counted at once.
const RELEASES_MAX: usize = 1000;
/// How often what is left is counted,
const EVERY: Duration = Duration::from_millis(500);
/// where that takes no more than one part in so many of the time: tens of thousands are counted less often.
const PAUSE: u32 = 20;

impl Jobs {
    /// Whether as many releases are counted as can be.
    pub fn too_many_releases(&self) -> bool {
        let releases = self.known();
        let running = |job: &Job| job.state == State::Running && job.kind == Kind::Release;
        RELEASES_MAX <= releases.values().filter(|known| running(&known.job)).count()
    }

    /// Counts what was planned for `target` before `until` and waits, as it goes out at `rate` a second. What is tried and fails has been
    /// released as well: it is tried again at its own time, and the cap of the others does not last for that.
    ///
    /// # Errors
    /// What the store says.
    pub async fn release(self: &Arc<Self>, target: &Name, until: Timestamp, rate: u32, by: &str) -> Result<Job, BeginError> {
        let filter = Filter { target: Some(target.to_string()), until: Some(until), ..Filter::default() };
        self.begin_one(Kind::Release, filter, Some(rate), by).await
    }

    /// Ends the release `id` where it is, for this reason; nothing is cancelled.
    pub async fn end_release(&self, id: &str, why: &str) -> store::Result<()> {
        let now = self.parts.clock.now();
        let end = |job: &mut Job| {
            job.error = Some(why.to_owned());
            job.finish(State::Failed, now);
        };
        self.end_as(id, end).await.map(|_| ())
    }
}

/// Counts until nothing is left that is yet to be tried, somebody ends it, it is another relay's to count, or this one stops.
pub(super) async fn run(jobs: &Jobs, id: &str, mut stopped: Pin<&mut impl Future<Output = ()>>) {
    loop {
        let began = Instant::now();
        if let Err(error) = count(jobs, id).await {
            if matches!(error, store::Error::Closed) {
                return;
            }
            warn!(job.id = %id, "what a release has left cannot be counted: {error}");
        }
        if jobs.doing(id).is_none() {
            break;
        }
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = tokio::time::sleep(EVERY.max(began.elapsed() * PAUSE)) => {}
        }
    }
    let job = jobs.get(id).filter(|job| job.state != State::Running);
    if let Some(target) = job.and_then(|job| job.filter.target).as_deref().and_then(Name::parse) {
        jobs.parts.lanes.released(&target);
    }
}

async fn count(jobs: &Jobs, id: &str) -> store::Result<()> {
    let Some(job) = jobs.doing(id) else { return Ok(()) };
    // What was tried since waits for a later time.
    let left = jobs.count(&job.kind, &Filter { due_before: job.filter.until, ..job.filter.clone() }).await?;
    let (done, now) = (job.total.saturating_sub(left), jobs.parts.clock.now());
    if 0 < left && done == job.done {
        return Ok(());
    }
    let counted = jobs.change(id, |job| {
        (job.done, job.made) = (done, done);
        if left == 0 {
            job.finish(State::Done, now);
        }
    });
    let Some(job) = counted else { return Ok(()) };
    if job.state == State::Done {
        info!(job.id = %id, done, "a release is done");
    }
    jobs.keep(id).await
}
