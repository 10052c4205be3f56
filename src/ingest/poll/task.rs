//! One source that is asked: when, and what is said of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Parts,
    cursor::Cursor,
    fault::{Code, Fault},
    mark::Mark,
    round::{End, Round, Tally},
    state::State,
    status::{PollStatus, RETRY_AFTER_MAX, next},
};
use crate::{
    announce::Notice,
    clock::{Timestamp, later, until},
    deliver::fetch::Fetch,
    envelope::Name,
    ingest::{Source, kinds::Poll},
    store,
    telemetry::SUCCESS,
};

/// How often a source that became another kind is tried a last time, with growing waits.
const LAST_TRIES: u32 = 8;

/// What a task is to do.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) source: Source,
    fetch: Fetch,
    /// `None`: it is to be asked.
    end: Option<Ending>,
}

/// How a task ends whose source is no longer asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// As it is: the source is gone.
    Gone,
    /// After a last round: events of this source come by themselves from now on, and what happened just before must not be missed.
    Pushed,
}

impl Assignment {
    pub(super) fn new(source: Source, fetch: Fetch) -> Self {
        Self { source, fetch, end: None }
    }

    /// The end of this one: with last rounds where its sender comes by itself from now on.
    pub(super) fn ending(&self, pushed: bool) -> Self {
        let end = if pushed { Ending::Pushed } else { Ending::Gone };
        Self { source: self.source.clone(), fetch: self.fetch.clone(), end: Some(end) }
    }

    /// Whether its source is asked.
    pub(super) fn is_asked(&self) -> bool {
        self.end.is_none()
    }

    /// Whether no file has its source.
    pub(super) fn is_gone(&self) -> bool {
        self.end == Some(Ending::Gone)
    }
}

/// What others see of a task, and ask of it.
pub(super) struct Desk {
    status: Mutex<PollStatus>,
    called: Notify,
    /// How many rounds have begun, and how many have ended.
    rounds: watch::Sender<(u64, u64)>,
}

impl Desk {
    /// How the source stands.
    pub(super) fn status(&self) -> PollStatus {
        self.lock().clone()
    }

    /// Has it asked now; answers which round that will be.
    pub(super) fn call(&self) -> u64 {
        let round = self.rounds.borrow().0 + 1;
        self.called.notify_one();
        round
    }

    /// Waits until that round has ended, or none will.
    pub(super) async fn ended(&self, round: u64) {
        let _ = self.rounds.subscribe().wait_for(|(_, ended)| round <= *ended).await;
    }

    fn lock(&self) -> MutexGuard<'_, PollStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of one source.
pub(super) struct Task {
    parts: Parts,
    assignments: watch::Receiver<Arc<Assignment>>,
    stop: CancellationToken,
    desk: Arc<Desk>,
    /// `None`: not read yet.
    state: Option<State>,
    /// The API asked to be left alone until then.
    not_before: Option<Timestamp>,
    /// People know that it fails.
    told: bool,
}

impl Task {
    pub(super) fn new(parts: Parts, assignments: watch::Receiver<Arc<Assignment>>, stop: CancellationToken) -> Self {
        let status = match assignments.borrow().source.poll() {
            Some(poll) => PollStatus::new(poll.masked_url(), poll.every),
            None => PollStatus::new(String::new(), Duration::ZERO),
        };
        let desk = Desk { status: Mutex::new(status), called: Notify::new(), rounds: watch::Sender::new((0, 0)) };
        Self { parts, assignments, stop, desk: Arc::new(desk), state: None, not_before: None, told: false }
    }

    pub(super) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// Asks again and again until the relay stops; while the source is not there to be asked, waits for it to come back. A round that has
    /// begun is ended by the settings it began with.
    pub(super) async fn run(mut self) {
        let mut due = self.parts.clock.now();
        let mut former: Option<Arc<Assignment>> = None;
        while !self.stop.is_cancelled() {
            let assignment = self.assignments.borrow_and_update().clone();
            let changed = former.replace(assignment.clone()).is_none_or(|former| !Arc::ptr_eq(&former, &assignment));
            if let Some(end) = assignment.end {
                if changed && end == Ending::Pushed {
                    self.last(&assignment).await;
                } else if !self.other().await {
                    return;
                }
                continue;
            }
            let Some(poll) = assignment.source.poll() else { return };
            if changed {
                due = self.follow(poll);
            }
            self.desk.lock().next_poll_at = Some(due);
            match self.wait(&assignment, due).await {
                Wait::Due => due = self.round(&assignment.source, poll, &assignment.fetch).await,
                Wait::Look => {}
                Wait::Over => return,
            }
        }
    }

    /// When it is due by other settings: they may have put right what failed, or ask more often. What the API wishes stands.
    fn follow(&self, poll: &Poll) -> Timestamp {
        let mut status = self.desk.lock();
        (status.url, status.every) = (poll.masked_url(), poll.every);
        let now = self.parts.clock.now();
        let due = status.last_poll_at.filter(|_| status.failures == 0).map_or(now, |last| later(last, poll.every));
        // However the clock was set meanwhile.
        let due = due.min(later(now, poll.every));
        self.not_before.map_or(due, |wished| wished.min(later(now, RETRY_AFTER_MAX.max(poll.every))).max(due))
    }

    /// Waits until there is another assignment; false when there will be none.
    async fn other(&mut self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            changed = self.assignments.changed() => changed.is_ok(),
        }
    }

    async fn wait(&mut self, assignment: &Assignment, due: Timestamp) -> Wait {
        let clock = &self.parts.clock;
        // A wait, and not a time of day: a clock that is set back does not lengthen it.
        let left = until(clock.now(), due);
        let (ownership, name) = (&self.parts.ownership, &assignment.source.name);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Wait::Over,
            changed = self.assignments.changed() => return Wait::of(changed.is_ok()),
            () = ownership.lost(name) => {}
            () = clock.sleep(left) => {}
            () = self.desk.called.notified() => {}
        }
        if !ownership.owns(name) {
            // Of several relays on one store, one asks. Whoever did may have come further.
            self.desk.lock().next_poll_at = None;
            self.state = None;
            tokio::select! {
                () = self.stop.cancelled() => return Wait::Over,
                changed = self.assignments.changed() => return Wait::of(changed.is_ok()),
                () = ownership.gained(name) => {}
            }
        }
        Wait::Due
    }

    /// Asks once, up to the end of the answer; answers when it is due again.
    async fn round(&mut self, source: &Source, poll: &Poll, fetch: &Fetch) -> Timestamp {
        let began = self.parts.clock.now();
        self.desk.rounds.send_modify(|(begun, _)| *begun += 1);
        let mut tally = Tally::default();
        let ended = self.ask(source, poll, fetch, &mut tally).await;
        let now = self.parts.clock.now();
        let due = match &ended {
            Ok(End::More | End::Stopped) => now,
            Ok(End::Through) => next(began, now, poll.every, 0, None),
            Err(fault) => next(began, now, poll.every, self.desk.lock().failures + 1, Some(fault)),
        };
        self.not_before = ended.as_ref().err().filter(|fault| fault.retry_after.is_some()).map(|_| due);
        if !matches!(ended, Ok(End::Stopped)) {
            self.note(source, poll, began, ended.as_ref().err(), tally);
        }
        self.desk.rounds.send_modify(|(begun, ended)| *ended = *begun);
        due
    }

    async fn ask(&mut self, source: &Source, poll: &Poll, fetch: &Fetch, tally: &mut Tally) -> Result<End, Fault> {
        let mut state = self.state(source, poll).await.map_err(|error| Fault::new(Code::Store, error.to_string()))?;
        let Parts { ingest, store, clock, .. } = &self.parts;
        let round = Round { source, poll, fetch, ingest, store: &**store, clock, stop: &self.stop };
        let ended = round.run(&mut state, tally).await;
        self.state = Some(state);
        ended
    }

    /// How far it has come. One that begins (anew) is kept at once: `now` is when it was first asked, however often the relay is started.
    async fn state(&mut self, source: &Source, poll: &Poll) -> store::Result<State> {
        let start = poll.cursor.as_ref().map_or("", Cursor::start_text);
        let known = match self.state.take() {
            Some(state) => Some(state),
            None => State::read(&*self.parts.store, &source.name).await?,
        };
        if let Some(mut known) = known.filter(|known| known.start == start) {
            let floor = poll.cursor.as_ref().zip(known.floor.as_deref());
            if let Some(floor) =
                floor.and_then(|(cursor, floor)| cursor.floor_set_back(floor, self.parts.clock.now(), poll.every))
            {
                warn!(source.name = %source.name, "the clock ran ahead when source {} was first polled: it begins at {} now", source.name, floor.text);
                known.floor = Some(floor.text);
                known.keep(&*self.parts.store, &source.name).await?;
            }
            return Ok(known);
        }
        let floor = poll.cursor.as_ref().and_then(|cursor| cursor.floor(self.parts.clock.now()));
        let fresh = State { start: start.to_owned(), floor: floor.map(|value| value.text), ..State::default() };
        fresh.keep(&*self.parts.store, &source.name).await?;
        Ok(fresh)
    }

    /// Says what a round came to.
    fn note(&mut self, source: &Source, poll: &Poll, began: Timestamp, fault: Option<&Fault>, tally: Tally) {
        let reached = self.state.as_ref().and_then(|state| state.reached.as_deref());
        let mut status = self.desk.lock();
        status.note(began, fault, tally);
        status.cursor = poll.cursor.as_ref().zip(reached).map(|(cursor, reached)| cursor.shown(reached));
        let (name, failures) = (&source.name, status.failures);
        let news = fault.is_some_and(|fault| status.is_news(fault, self.told));
        drop(status);
        self.parts.metrics.polled(name, fault.map_or_else(|| SUCCESS.to_owned(), Fault::word), began);
        let Some(fault) = fault else {
            if std::mem::take(&mut self.told) {
                info!(source.name = %name, "source {name} can be asked again");
            }
            debug!(source.name = %name, pages = tally.pages, items = tally.items, taken = tally.taken, "polled");
            return;
        };
        let word = fault.word();
        if news {
            self.told = true;
            let reason = format!("{word}: {}", fault.message);
            self.parts.announcer.tell(Notice::Unanswered { source: name.clone(), failures, reason });
        }
        if news || failures.is_power_of_two() {
            warn!(source.name = %name, code = word, failures, "source {name} cannot be polled: {}", fault.message);
        }
    }

    /// Asks a source a last time that is of another kind now: what it had before its sender came by itself. And once more when what may
    /// show up late has shown up. Then the store forgets that it is to be done; a restart before begins with it anew.
    async fn last(&mut self, assignment: &Assignment) {
        let Some(poll) = assignment.source.poll() else { return };
        let late = poll.cursor.as_ref().and_then(Cursor::late).unwrap_or(poll.every);
        for wait in [Duration::ZERO, late] {
            if !self.rest(wait).await {
                return;
            }
            match self.once_more(assignment, poll).await {
                Last::Through => {}
                Last::Failed => break,
                Last::Look => return,
            }
        }
        let name = &assignment.source.name;
        if let Err(error) = Mark::remove(&*self.parts.store, name).await {
            warn!(source.name = %name, %error, "source {name} is polled a last time again after the next start");
        }
    }

    /// Asks until the answer is through.
    async fn once_more(&mut self, assignment: &Assignment, poll: &Poll) -> Last {
        let name = &assignment.source.name;
        for _ in 0..LAST_TRIES {
            if !self.owned(name).await {
                return Last::Look;
            }
            let due = self.round(&assignment.source, poll, &assignment.fetch).await;
            if self.desk.lock().failures == 0 && self.not_before.is_none() && self.parts.clock.now() < due {
                return Last::Through;
            }
            if !self.rest(until(self.parts.clock.now(), due)).await {
                return Last::Look;
            }
        }
        let (failures, last) = {
            let status = self.desk.lock();
            (status.failures, status.last_error.clone())
        };
        let why = last.map_or_else(|| "there was always more".to_owned(), |(word, message)| format!("{word}: {message}"));
        warn!(source.name = %name, "source {name} could not be polled a last time: what happened just before its sender came by itself may be missing: {why}");
        let reason = format!(
            "it could not be polled a last time, and what happened just before its sender came by itself may be missing: {why}"
        );
        self.parts.announcer.tell(Notice::Unanswered { source: name.clone(), failures, reason });
        Last::Failed
    }

    /// Waits until the source is this relay's to ask; false when there is something else to do.
    async fn owned(&mut self, name: &Name) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.assignments.changed() => false,
            () = self.parts.ownership.gained(name) => true,
        }
    }

    /// Waits so long; false when there is something else to do.
    async fn rest(&mut self, wait: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.assignments.changed() => false,
            () = self.parts.clock.sleep(wait) => true,
        }
    }
}

/// What a last round came to.
enum Last {
    /// All there was is on disk.
    Through,
    /// It was tried often enough.
    Failed,
    /// There is something else to do.
    Look,
}

/// What a task waited for.
enum Wait {
    /// A round.
    Due,
    /// Another assignment.
    Look,
    /// The end.
    Over,
}

impl Wait {
    fn of(there: bool) -> Self {
        if there { Self::Look } else { Self::Over }
    }
}
