//! What a lane is told between its turns: deliveries that were just committed, attempts that are sent or recorded.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{condition::Condition, reports::Report, seats::Seats, status::Minute};
use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Name},
    live::Live,
    route::{OWN_SOURCE, subscribers},
    store::{self, Cause, Committed, Delivery, Digested, Due, Next, OnCommit, Severity, Stage},
    telemetry::Metrics,
};

/// Deliveries that one lane takes over from commits without reading them back.
const HANDED_OVER_MAX: usize = 512;
/// Bytes that a lane which is held may grow by before that is told: how much is held at most is looked at then.
const GROWN: usize = 1024 * 1024;
/// Bytes of bodies that all lanes together hold from commits.
const HANDED_OVER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where commits and attempts leave what a lane has to know.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Rung when there may be something to do.
    pub(super) bell: Notify,
}

pub(super) struct State {
    /// How the lane stands,
    pub(super) condition: Condition,
    /// how often that was changed,
    pub(super) version: u64,
    /// and whether what was kept of it is known.
    pub(super) loaded: bool,
    /// The record that is known of it.
    pub(super) revision: Option<i64>,
    /// Whatever is recorded under its name is another's, which it takes the place of.
    pub(super) anew: bool,
    /// This relay works on the lane: it knows better than what is kept.
    pub(super) mine: bool,
    /// The lane is to keep how it stands.
    pub(super) unkept: bool,
    /// What was done in the last minute.
    pub(super) minute: Minute,
    /// Critical ones handed over by commits; these have no order key.
    critical: VecDeque<Handed>,
    /// Others handed over by commits, in their order.
    pub(super) ready: VecDeque<Handed>,
    /// Those that may go: they were decided about, or the rate did not allow them yet.
    decided: VecDeque<Handed>,
    /// Read back from the store: critical ones first, then earliest due.
    pub(super) fetched: VecDeque<Handed>,
    /// True while the lane does not send: nothing is handed over.
    shut: bool,
    /// What is in hand, and whether an attempt of it is under way.
    pub(super) claimed: HashMap<DeliveryId, bool>,
    /// Of that, what is being decided about and may be less than it was when it was read, should it carry a digest.
    pub(super) stale: HashSet<DeliveryId>,
    /// True while the store may hold due deliveries that are not in hand: commits then hand nothing over.
    pub(super) behind: bool,
    /// The earliest known time at which a delivery in the store falls due.
    pub(super) next_due: Option<Timestamp>,
    /// When a critical one in the store falls due: it must not wait until what was read back is used up.
    pub(super) urgent_at: Option<Timestamp>,
    /// Its destination is gone from the file: nothing more is begun.
    pub(super) retired: bool,
    /// No lane works: whoever has something for it calls one.
    pub(super) asleep: bool,
    /// Bytes of events that were committed while it held them, since that was last told.
    grown: usize,
    /// What was reported on deliveries that the target took.
    pub(super) reports: VecDeque<Report>,
    /// Its target is broken, nobody was told, and somebody's event waits for it.
    pub(super) keeps_others: bool,
}

/// A delivery in hand, with its share of the budget where a commit handed it over.
pub(super) struct Handed {
    pub(super) due: Due,
    /// Nothing is left to be decided before it is tried.
    pub(super) decided: bool,
    /// What goes out with it.
    pub(super) digest: Option<Arc<Digested>>,
    _share: Option<Share>,
}

impl Handed {
    /// One that was read from the store.
    pub(super) fn read(due: Due) -> Self {
        Self { due, decided: false, digest: None, _share: None }
    }
}

impl Inbox {
    /// Empty, and behind what the store holds.
    pub(super) fn new(condition: Condition) -> Self {
        let state = State {
            condition,
            version: 0,
            loaded: false,
            revision: None,
            anew: false,
            mine: false,
            unkept: false,
            minute: Minute::default(),
            critical: VecDeque::new(),
            ready: VecDeque::new(),
            decided: VecDeque::new(),
            fetched: VecDeque::new(),
            // A broken lane takes nothing over: it opens once it knows that it is not.
            shut: true,
            claimed: HashMap::new(),
            stale: HashSet::new(),
            // What an earlier run left is read first.
            behind: true,
            next_due: None,
            urgent_at: None,
            retired: false,
            asleep: false,
            grown: 0,
            reports: VecDeque::new(),
            keeps_others: false,
        };
        Self { state: Mutex::new(state), bell: Notify::new() }
    }

    /// The state stays sound whatever its holder was doing: each change is one step.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what was just committed; what does not fit is read from the store.
    pub(super) fn hand_over(&self, due: Due, budget: &Arc<AtomicUsize>) -> HandOver {
        let mut state = self.state();
        if state.asleep {
            state.behind = true;
            if !state.condition.is_stopped() {
                return HandOver::Asleep;
            }
            return HandOver::Held { grown: state.grows(due.envelope.body.len()) };
        }
        // A read-back may have seen the commit before this call: what it claimed is in hand already.
        if state.claimed.contains_key(&due.delivery.id) {
            return HandOver::Awake;
        }
        state.keeps_others |= !is_own(&due) && state.condition.is_untold();
        // The store knows the order of a key.
        let free = !state.shut && due.delivery.order_key.is_none();
        let critical = due.delivery.severity == Severity::Critical;
        let room = if critical { state.critical.len() } else { state.ready.len() } < HANDED_OVER_MAX;
        // What was missed comes before what is handed over now; but for critical ones.
        let share = (free && room && (critical || !state.behind)).then(|| Share::take(budget, due.envelope.body.len())).flatten();
        match share {
            Some(share) => {
                state.claimed.insert(due.delivery.id, false);
                let queue = if critical { &mut state.critical } else { &mut state.ready };
                queue.push_back(Handed { due, decided: false, digest: None, _share: Some(share) });
            }
            None => {
                state.behind = true;
                if critical {
                    let at = due.delivery.due_at.unwrap_or(due.delivery.created_at);
                    state.urgent_at = Some(state.urgent_at.map_or(at, |known| known.min(at)));
                }
                if state.condition.held_since().is_some() {
                    return HandOver::Held { grown: state.grows(due.envelope.body.len()) };
                }
            }
        }
        HandOver::Awake
    }

    /// A lane is to work. False: one does, or none ever will.
    pub(super) fn wakes(&self) -> bool {
        let mut state = self.state();
        let wakes = state.asleep && !state.retired;
        if wakes {
            (state.asleep, state.behind) = (false, true);
        }
        wakes
    }

    /// Its lane stops working, as there is nothing to do: from now on it is called. False: there is something after all.
    pub(super) fn falls_asleep(&self) -> bool {
        let mut state = self.state();
        let holds = state.condition.is_stopped();
        let nothing_waits = !state.behind && state.next_due.is_none() && state.urgent_at.is_none();
        let idle = state.claimed.is_empty() && state.reports.is_empty() && !state.keeps_others && !state.retired;
        state.asleep = idle && state.loaded && (nothing_waits || holds);
        state.shut |= state.asleep;
        // From now on what is kept is all there is to know.
        state.mine &= !state.asleep;
        state.asleep
    }

    /// The deliveries an attempt of which is under way.
    pub(super) fn in_flight(&self) -> Vec<DeliveryId> {
        self.state().claimed.iter().filter(|(_, sending)| **sending).map(|(id, _)| *id).collect()
    }

    /// Puts back into the store what is in hand and not being sent; `shut`: and takes nothing over until told otherwise.
    pub(super) fn put_back(&self, shut: bool) {
        let mut state = self.state();
        state.shut = shut;
        let State { critical, decided, ready, fetched, claimed, behind, .. } = &mut *state;
        for handed in critical.drain(..).chain(decided.drain(..)).chain(ready.drain(..)).chain(fetched.drain(..)) {
            claimed.remove(&handed.due.delivery.id);
            *behind = true;
        }
    }

    /// Something that waited was ended or moved elsewhere: what is in hand and not being sent is read again.
    pub(super) fn look_anew(&self) {
        let shut = self.state().shut;
        self.put_back(shut);
        {
            let mut state = self.state();
            let State { claimed, stale, .. } = &mut *state;
            stale.extend(claimed.iter().filter(|(_, sending)| !**sending).map(|(id, _)| *id));
        }
        self.wake();
    }

    /// Puts back what was read from the store, to read anew what goes first.
    pub(super) fn put_back_fetched(&self) {
        let mut state = self.state();
        let State { fetched, claimed, behind, .. } = &mut *state;
        for handed in fetched.drain(..) {
            claimed.remove(&handed.due.delivery.id);
            *behind = true;
        }
    }

    /// Lets go of deliveries that are not being sent: the store holds them.
    pub(super) fn let_go(&self, deliveries: Vec<Handed>) {
        let mut state = self.state();
        for handed in deliveries {
            state.claimed.remove(&handed.due.delivery.id);
            state.stale.remove(&handed.due.delivery.id);
            state.behind = true;
        }
    }

    /// Takes over again what commits bring.
    pub(super) fn open(&self) {
        self.state().shut = false;
    }

    /// Lets go of `ids` as far as they are not being sent: they were cancelled.
    pub(super) fn forget(&self, ids: &[DeliveryId]) {
        let mut state = self.state();
        let State { critical, decided, ready, fetched, claimed, stale, .. } = &mut *state;
        let gone: Vec<_> = ids.iter().filter(|id| claimed.get(id) == Some(&false)).copied().collect();
        if gone.is_empty() {
            return;
        }
        for queue in [critical, decided, ready, fetched] {
            queue.retain(|handed| !gone.contains(&handed.due.delivery.id));
        }
        gone.iter().for_each(|id| _ = (claimed.remove(id), stale.remove(id)));
    }

    /// Something was taken out of `ids`: as far as they are not being sent, they are read again.
    pub(super) fn read_anew(&self, ids: &[DeliveryId]) {
        let mut state = self.state();
        let State { critical, decided, ready, fetched, claimed, stale, behind, .. } = &mut *state;
        for queue in [critical, decided, ready, fetched] {
            queue.retain(|handed| {
                let goes = ids.contains(&handed.due.delivery.id);
                if goes {
                    claimed.remove(&handed.due.delivery.id);
                    *behind = true;
                }
                !goes
            });
        }
        stale.extend(ids.iter().filter(|id| claimed.get(id) == Some(&false)));
    }

    /// The store may hold due deliveries that nobody told of.
    pub(super) fn wake(&self) {
        let mut state = self.state();
        state.behind = true;
        drop(state);
        self.bell.notify_one();
    }

    /// The store holds more that is older than what commits handed over after the first `before`: that goes back.
    pub(super) fn fall_behind(&self, before: usize) {
        let mut state = self.state();
        state.behind = true;
        while before < state.ready.len() {
            if let Some(handed) = state.ready.pop_back() {
                state.claimed.remove(&handed.due.delivery.id);
            }
        }
    }

    /// An attempt is recorded: its delivery is no longer in hand, and due again where `next` says so.
    pub(super) fn recorded(&self, delivery: &Delivery, next: Next) {
        let mut state = self.state();
        state.claimed.remove(&delivery.id);
        if let Next::Retry(at) = next {
            state.wake_at(at, delivery.severity == Severity::Critical);
        }
        // The next one of its key may go now, or a suppressed one may have taken its place.
        state.behind |= delivery.order_key.is_some() || (matches!(next, Next::Dead(_)) && delivery.stage != Stage::Free);
    }
}

/// What became of a delivery that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandOver {
    /// Its lane works, and has or will read it.
    Awake,
    /// No lane works: it is to be called.
    Asleep,
    /// Its lane is held, and it waits in the store.
    Held {
        /// So much was held since that was last told that it is told again.
        grown: bool,
    },
}

impl State {
    /// So many bytes more are held; true when that is to be told.
    fn grows(&mut self, bytes: usize) -> bool {
        self.grown += bytes;
        let grown = GROWN <= self.grown;
        if grown {
            self.grown = 0;
        }
        grown
    }

    /// Whether a lane would do something if it worked.
    pub(super) fn sleeps_though_it_may_send(&self) -> bool {
        self.asleep && !self.condition.is_stopped()
    }
    /// Whether anything is in hand and not being sent.
    #[cfg(test)]
    pub(super) fn has_more(&self) -> bool {
        !(self.critical.is_empty() && self.decided.is_empty() && self.ready.is_empty() && self.fetched.is_empty())
    }

    /// Whether anything in hand and not being sent is not an event of the relay's own.
    pub(super) fn holds_others(&self) -> bool {
        let mut all = self.critical.iter().chain(&self.ready).chain(&self.decided).chain(&self.fetched);
        all.any(|handed| !is_own(&handed.due))
    }

    /// Whether an attempt is under way, or not yet recorded.
    pub(super) fn is_sending(&self) -> bool {
        self.claimed.values().any(|sending| *sending)
    }

    /// What is in hand, sent or not, by id.
    pub(super) fn in_hand(&self) -> Vec<DeliveryId> {
        let mut ids: Vec<_> = self.claimed.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Takes back what is not sent yet, to go before (`first`) or behind what else may go.
    pub(super) fn take_back(&mut self, handed: Handed, first: bool) {
        let it = &handed.due.delivery;
        self.claimed.insert(it.id, false);
        let queue = if it.severity == Severity::Critical { &mut self.critical } else { &mut self.decided };
        if first { queue.push_front(handed) } else { queue.push_back(handed) }
    }

    /// A delivery that was taken is not sent yet.
    pub(super) fn lay_aside(&mut self, id: DeliveryId) {
        self.claimed.insert(id, false);
    }

    /// One in the store falls due at this time.
    pub(super) fn wake_at(&mut self, at: Timestamp, critical: bool) {
        self.next_due = Some(self.next_due.map_or(at, |known| known.min(at)));
        if critical {
            self.urgent_at = Some(self.urgent_at.map_or(at, |known| known.min(at)));
        }
    }

    /// The first of what is in hand: a critical one, else what was decided about, else the earliest due.
    pub(super) fn take(&mut self) -> Option<Handed> {
        let urgent = |handed: &Handed| handed.due.delivery.severity == Severity::Critical;
        let fetched_first = match (self.ready.front(), self.fetched.front()) {
            (Some(ready), Some(fetched)) => urgent(fetched) || due_at(&fetched.due) <= due_at(&ready.due),
            (ready, _) => ready.is_none(),
        };
        let next = match self.critical.pop_front().or_else(|| self.decided.pop_front()) {
            Some(first) => first,
            None if fetched_first => self.fetched.pop_front()?,
            None => self.ready.pop_front()?,
        };
        self.claimed.insert(next.due.delivery.id, true);
        Some(next)
    }
}

/// Whether it tells what the relay does itself.
fn is_own(due: &Due) -> bool {
    due.envelope.source.as_str() == OWN_SOURCE
}

fn due_at(due: &Due) -> Timestamp {
    due.delivery.due_at.unwrap_or(due.delivery.created_at)
}

/// A share of the bytes all lanes may hold together; given back when dropped.
pub(super) struct Share {
    budget: Arc<AtomicUsize>,
    bytes: usize,
}

impl Share {
    fn take(budget: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= HANDED_OVER_BYTES_MAX);
        budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Self { budget: budget.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Who is told of what.
#[derive(Default)]
pub(super) struct Known {
    /// The inbox of each target's lane.
    pub(super) by_target: HashMap<Name, Arc<Inbox>>,
    /// The inboxes of lanes whose targets are gone, while something of them is under way.
    pub(super) leaving: Vec<Arc<Inbox>>,
    /// Rung when something is committed for the former name of a target.
    pub(super) former: HashMap<Name, Arc<Notify>>,
}

/// The inboxes of all lanes; hears of commits.
pub(super) struct Inboxes {
    known: Live<Known>,
    seats: Arc<Seats>,
    budget: Arc<AtomicUsize>,
    metrics: Metrics,
    /// Rung when there may be shards to take.
    pub(super) freed: Arc<Notify>,
}

impl Inboxes {
    /// Hands commits to the lane of each target; targets without one wait in the store.
    pub(super) fn new(metrics: Metrics, seats: Arc<Seats>) -> Self {
        Self { known: Live::new(Arc::default()), seats, budget: Arc::default(), metrics, freed: Arc::default() }
    }

    /// Tells these from now on.
    pub(super) fn tell(&self, known: Known) {
        self.known.replace(Arc::new(known));
    }

    /// The store may hold due deliveries of `target` that nobody told of.
    pub(super) fn wake(&self, target: &Name) {
        if let Some(inbox) = self.known.now().by_target.get(target) {
            inbox.wake();
        }
    }

    /// Counts deliveries of `target` that have expired.
    pub(super) fn expired(&self, target: &Name, count: usize) {
        self.metrics.unsent(target, store::State::Expired, None, count as u64);
    }

    /// The deliveries an attempt of which is under way.
    pub(super) fn in_flight(&self) -> Vec<DeliveryId> {
        let known = self.known.now();
        let of_file = known.by_target.values().chain(&known.leaving).flat_map(|inbox| inbox.in_flight());
        of_file.chain(self.seats.in_flight()).collect()
    }
}

impl OnCommit for Inboxes {
    fn committed(&self, events: Vec<Committed>) {
        let known = self.known.now();
        let mut told: Vec<&Arc<Inbox>> = Vec::new();
        for event in events {
            for delivery in event.deliveries {
                let Some(inbox) = known.by_target.get(&delivery.target) else {
                    match known.former.get(&delivery.target) {
                        // Planned just before its target got another name.
                        Some(bell) => bell.notify_one(),
                        None => self.seats.hand_over(Due { delivery, envelope: event.envelope.clone() }, &self.budget),
                    }
                    continue;
                };
                let _awake = inbox.hand_over(Due { delivery, envelope: event.envelope.clone() }, &self.budget);
                if !told.iter().any(|known| Arc::ptr_eq(known, inbox)) {
                    told.push(inbox);
                }
            }
            for (target, delivery) in event.cancelled {
                self.metrics.unsent(&target, store::State::Cancelled, Some(Cause::CancelOn), 1);
                let Some(inbox) = known.by_target.get(&target) else { continue };
                inbox.forget(&[delivery]);
                // Another may have moved up, or carries its digest now.
                inbox.wake();
            }
        }
        told.into_iter().for_each(|inbox| inbox.bell.notify_one());
    }

    fn elsewhere(&self, targets: Option<&[Name]>) {
        let known = self.known.now();
        match targets {
            Some(targets) => targets.iter().for_each(|target| match known.by_target.get(target) {
                Some(inbox) => inbox.wake(),
                None => match known.former.get(target) {
                    Some(bell) => bell.notify_one(),
                    None if self.seats.rouse(target) => {}
                    // Planned by a relay that did not know yet that it is gone; or this one does not know yet that it has come.
                    None if subscribers::is_id(target) => self.seats.signs.strays(target),
                    None => {}
                },
            }),
            None => {
                known.by_target.values().for_each(|inbox| inbox.wake());
                self.seats.rouse_working();
                known.former.values().for_each(|bell| bell.notify_one());
            }
        }
    }

    fn ended_elsewhere(&self, targets: Option<&[Name]>) {
        let known = self.known.now();
        match targets {
            Some(targets) => targets.iter().for_each(|target| match known.by_target.get(target) {
                Some(inbox) => inbox.look_anew(),
                None => self.seats.look_anew(Some(target)),
            }),
            None => {
                known.by_target.values().for_each(|inbox| inbox.look_anew());
                self.seats.look_anew(None);
            }
        }
    }

    fn freed(&self) {
        self.freed.notify_one();
    }

    fn batch(&self, count: usize, took: Duration) {
        self.metrics.committed(count, took);
    }
}
