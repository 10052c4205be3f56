//! Asks the APIs of `poll` sources on behalf of those who would ask them themselves. What they answer comes in, one item after the
//! other, and goes the way of every event from `normalise` on. Takes no requests and sends no events.
//!
//! What is promised: an item is taken in if its cursor's value, at the time the item first shows up, lies no further behind the greatest
//! value seen before than `overlap`; and each item once, by `map.id` or by its bytes. For that, each round asks again for what lies within
//! `overlap`, and notes how far it came only once everything up to there is on disk. A value that cannot be followed (of another type, or
//! one that goes back) stops the cursor where it is, and says so: what was asked for is asked for again, and nothing is passed over.
//!
//! There is one task for each source ([`task`]), for as long as files declare it. A source that becomes one of another kind (its API has
//! learnt to push) is asked a last time, once requests to its new way in are taken; across restarts too ([`mark`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::task::{Assignment, Task};
use super::{Ingest, Source};
use crate::{
    announce::Announcer,
    clock::Clock,
    config::AllowTarget,
    deliver::{Ownership, fetch::Fetch, policy::AddressPolicy},
    envelope::Name,
    store::{self, Store},
    telemetry::Metrics,
};

mod cursor;
mod fault;
mod mark;
mod page;
mod paging;
mod pass;
mod round;
mod state;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use cursor::Cursor;
pub(crate) use mark::Mark;
pub(crate) use page::Pulled;
pub(crate) use paging::Paging;
pub use status::PollStatus;

/// Longest wait for a round that somebody asked for.
const NOW_MAX: Duration = Duration::from_secs(25);

/// What asking works with, whatever the file says.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// Takes items in.
    pub ingest: Arc<Ingest>,
    /// Keeps how far each source has come.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Tells of sources that cannot be asked.
    pub announcer: Announcer,
    /// Which sources are this relay's to ask.
    pub ownership: Ownership,
}

/// The sources of one file that are asked, made ready.
#[derive(Debug)]
pub struct Prepared {
    asked: Vec<(Source, Fetch)>,
    /// The names of those that are not asked: their senders come by themselves.
    pushed: Vec<Name>,
}

impl Prepared {
    /// Makes a client for each of `sources` that is asked; the error names the one for which there can be none.
    pub fn new(sources: &[Source], allow_targets: &[AllowTarget]) -> Result<Self, String> {
        let mut prepared = Self { asked: Vec::new(), pushed: Vec::new() };
        for source in sources {
            match source.poll() {
                None => prepared.pushed.push(source.name.clone()),
                Some(poll) => {
                    let fetch = Fetch::new(AddressPolicy::new(allow_targets), &poll.tls);
                    prepared.asked.push((source.clone(), fetch.map_err(|error| format!("source `{}`: {error}", source.name))?));
                }
            }
        }
        Ok(prepared)
    }
}

/// Where the store keeps which source is to be asked now, by its name: another value with every wish.
const WISHES: &str = "poll-now.";

/// The tasks that ask, by the names of their sources.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Pollers {
    parts: Parts,
    tasks: Mutex<BTreeMap<Name, Running>>,
    /// What people have wished that was last read; `None`: nothing was read yet.
    wishes: Mutex<Option<BTreeMap<Name, String>>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when what is under way must end, too.
    break_off: CancellationToken,
}

/// A task as others see it.
struct Running {
    assignments: watch::Sender<Arc<Assignment>>,
    desk: Arc<task::Desk>,
}

impl Running {
    fn is_asked(&self) -> bool {
        self.assignments.borrow().is_asked()
    }

    /// Whether no file has its source.
    fn is_gone(&self) -> bool {
        self.assignments.borrow().is_gone()
    }
}

/// Whether `source` was ever asked, as far as `store` knows.
///
/// # Errors
/// The store's.
pub(crate) async fn was_asked(store: &dyn Store, source: &Name) -> store::Result<bool> {
    state::State::is_kept(store, source).await
}

impl Pollers {
    /// Asks what `prepared` says until `stop`. Must be called on a runtime.
    pub fn start(parts: Parts, prepared: Prepared, stop: CancellationToken) -> Arc<Self> {
        let pollers = Self {
            parts,
            tasks: Mutex::default(),
            wishes: Mutex::default(),
            tracker: TaskTracker::new(),
            stop,
            break_off: CancellationToken::new(),
        };
        pollers.switch(prepared);
        Arc::new(pollers)
    }

    /// Goes by `prepared` from the next round on; after [`Ingest::switch`], so that a source which becomes another kind misses nothing.
    pub fn switch(&self, prepared: Prepared) {
        let Prepared { asked, pushed } = prepared;
        let names: Vec<_> = asked.iter().map(|(source, _)| source.name.clone()).collect();
        self.parts.metrics.asked(&names);
        let mut tasks = self.tasks();
        let over = |name: &Name| !asked.iter().any(|(source, _)| source.name == *name);
        // One that was gone for a while and is pushed to now has something to end, too.
        let ends = |name: &Name, running: &Running| running.is_asked() || (running.is_gone() && pushed.contains(name));
        for (name, running) in tasks.iter().filter(|(name, running)| over(name) && ends(name, running)) {
            running.assignments.send_modify(|now| *now = Arc::new(now.ending(pushed.contains(name))));
        }
        for (source, fetch) in asked {
            let assignment = Arc::new(Assignment::new(source, fetch));
            let name = assignment.source.name.clone();
            match tasks.get(&name) {
                Some(running) => _ = running.assignments.send_replace(assignment),
                None => _ = tasks.insert(name, self.begin(assignment)),
            }
        }
    }

    /// Asks those sources of `former`, a file before this one, a last time that nobody else does: their senders come by themselves now. Must be
    /// called on a runtime.
    pub(crate) fn end(&self, former: Prepared) {
        let mut tasks = self.tasks();
        for (source, fetch) in former.asked {
            let name = source.name.clone();
            let ending = Arc::new(Assignment::new(source, fetch).ending(true));
            match tasks.get(&name) {
                Some(running) if running.is_gone() => _ = running.assignments.send_replace(ending),
                Some(_) => {}
                None => _ = tasks.insert(name, self.begin(ending)),
            }
        }
    }

    /// Whether the source of this name is asked a last time, or was since the start.
    pub(crate) fn is_ending(&self, name: &Name) -> bool {
        self.tasks().get(name).is_some_and(|running| !running.is_asked() && !running.is_gone())
    }

    /// How the source of this name stands, where it is asked.
    pub fn status(&self, name: &Name) -> Option<PollStatus> {
        self.tasks().get(name).filter(|running| running.is_asked()).map(|running| running.desk.status())
    }

    /// Has the source of this name asked now, and answers how it stands then, or when that takes too long; `None`: it is not asked. Where
    /// another relay asks it, that one is told ([`Pollers::follow`]), and nothing is waited for.
    ///
    /// # Errors
    /// What the store says.
    pub async fn now(&self, name: &Name) -> store::Result<Option<PollStatus>> {
        let asked = self.tasks().get(name).filter(|running| running.is_asked()).map(|running| running.desk.clone());
        let Some(desk) = asked else { return Ok(None) };
        if self.parts.store.is_shared() && !self.parts.ownership.owns(name) {
            let wish = format!("{:016x}", fastrand::u64(..));
            self.parts.store.set_setting(&format!("{WISHES}{name}"), wish).await?;
            return Ok(Some(desk.status()));
        }
        let round = desk.call();
        // It goes on, whether or not it is waited for.
        let _ = timeout(NOW_MAX, desk.ended(round)).await;
        Ok(Some(desk.status()))
    }

    /// Has those sources asked now that are this relay's, and that people asked another relay for since this was last called.
    ///
    /// # Errors
    /// What the store says.
    pub async fn follow(&self) -> store::Result<()> {
        let kept = self.parts.store.settings(WISHES).await?;
        let kept = kept.into_iter().filter_map(|(key, wish)| Some((Name::parse(key.strip_prefix(WISHES)?)?, wish)));
        let kept: BTreeMap<Name, String> = kept.collect();
        let known = self.wishes.lock().unwrap_or_else(PoisonError::into_inner).replace(kept.clone());
        // What was wished before the start was done by whoever asked then.
        let Some(known) = known else { return Ok(()) };
        let tasks = self.tasks();
        for (name, _) in kept.iter().filter(|(name, wish)| known.get(*name) != Some(wish) && self.parts.ownership.owns(name)) {
            if let Some(running) = tasks.get(name).filter(|running| running.is_asked()) {
                running.desk.call();
            }
        }
        Ok(())
    }

    /// Waits until what is under way is on disk, at most `grace`: after `stop`.
    pub async fn drain(&self, grace: Duration) {
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            warn!("a source was still being asked; it is asked again from where it was after the next start");
            self.break_off.cancel();
            self.tracker.wait().await;
        }
    }

    fn begin(&self, assignment: Arc<Assignment>) -> Running {
        let name = assignment.source.name.clone();
        let (sender, assignments) = watch::channel(assignment);
        let task = Task::new(self.parts.clone(), assignments, self.stop.clone());
        let desk = task.desk();
        let going = self.parts.ownership.works(&name);
        let run = self.break_off.clone().run_until_cancelled_owned(task.run());
        self.tracker.spawn(async move {
            let _going = going;
            run.await
        });
        Running { assignments: sender, desk }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<Name, Running>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
