//! All deliveries of one destination: which of them is tried next, and when.
//!
//! The store is the queue. What has just been committed is handed over as it is, as far as a bounded buffer holds; the rest,
//! and every retry, is read back by due time (`reading.rs`). A delivery that is in hand (buffered, being sent, being recorded) is
//! claimed, and a claim ends only when its attempt is recorded (`recording.rs`): so no delivery is in two attempts at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{self, Made, Settled, Standing},
    breaker::{Allowed, Change, Verdict},
    desk::{Desk, Today},
    inbox::{Handed, Inbox},
    mutes::{Active, Mutes},
    ownership::{self, LAST, Lease, Leases},
    record::Recorder,
    seats,
};
use crate::{
    announce::{Announcer, Notice},
    clock::{Clock, Timestamp, later},
    envelope::Name,
    rate::Bucket,
    route::OWN_SOURCE,
    store::{self, Attempt, Due, Store, Wish, shard_of},
    telemetry::Metrics,
};

mod cutting_off;
mod deciding;
mod following;
mod giving_up;
mod reading;
mod recording;
mod reporting;
mod seated;

use deciding::Decided;
pub(super) use deciding::{decisions, expired, wish};
use giving_up::Looked;
use recording::{Recorded, Unrecorded};

/// Attempts that are sent and not yet recorded, beyond those that `concurrency` allows to be sent. With those, as many as a lane sends again
/// when its owner is killed: two batches that are being written, and as much as comes meanwhile.
pub const UNRECORDED_MAX: usize = 256;
/// How often the store is asked for due deliveries even when nothing calls for it.
const POLL: Duration = Duration::from_secs(30);
/// How long a store that failed is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// What a lane works with.
pub(super) struct Parts {
    pub(super) desk: Arc<Desk>,
    pub(super) recorder: Recorder,
    pub(super) leases: watch::Receiver<Leases>,
    pub(super) mutes: Arc<Mutes>,
    pub(super) announcer: Announcer,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// Rung when a delivery begins to wait for a report.
    pub(super) awaited: Arc<Notify>,
    /// Cancelled: begin nothing more.
    pub(super) stop: CancellationToken,
    /// Cancelled: break off what is under way.
    pub(super) break_off: CancellationToken,
}

/// One lane.
pub(super) struct Lane {
    parts: Arc<Parts>,
    /// What the file says: the next attempt goes by it.
    today: Arc<Today>,
    inbox: Arc<Inbox>,
    store: Arc<dyn Store>,
    refused: watch::Receiver<usize>,
    leases: watch::Receiver<Leases>,
    shard: u16,
    /// The lease it works under; `None`: the lane is somebody else's.
    lease: Option<Lease>,
    /// Cancelled when that is over, whatever the lane is waiting for,
    over: CancellationToken,
    /// by this one.
    watching: JoinSet<()>,
    bucket: Option<Bucket>,
    /// The rate allows nothing before.
    paced_until: Option<Timestamp>,
    /// Mean size of the bodies last read back.
    typical: usize,
    /// When the store is asked again though nothing calls for it.
    poll_at: Instant,
    /// That time has come.
    poll: bool,
    /// The store failed: it is left alone before `poll_at`.
    resting: bool,
    /// `None`: broken off with the lease.
    attempts: JoinSet<Option<Made>>,
    /// What each of them tries.
    under_way: HashMap<Id, UnderWay>,
    unrecorded: Vec<Unrecorded>,
    recordings: JoinSet<Recorded>,
    /// Attempts in `recordings`.
    recording: usize,
    /// Writing down how the lane stands.
    chores: JoinSet<()>,
    /// What people want to hear nothing of.
    mutes: watch::Receiver<Active>,
    /// What is left to be decided from before is known.
    prepared: bool,
    /// In hand, and to be decided about before it is tried.
    undecided: Vec<(Handed, Wish)>,
    /// What the store is asked about now,
    asked: Vec<Handed>,
    /// and the asking; one at a time.
    deciding: JoinSet<store::Result<Vec<Decided>>>,
    /// What is known of deliveries that die while the target is broken; `None`: the store is asked.
    looked: Option<Looked>,
    /// When there was last something to do.
    busy_at: Instant,
}

/// An attempt that is under way.
struct UnderWay {
    handed: Arc<Handed>,
    /// What it is made by: a file that comes meanwhile changes nothing of it.
    today: Arc<Today>,
    probe: bool,
    at: Timestamp,
    began: Instant,
    still_ms: i64,
    epoch: i64,
}

/// What may be begun now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Attempts, while fewer than so many are under way.
    Open(usize),
    /// One.
    Probe,
    /// None before then, or before something happens; `idle`: what is in hand is better off in the store.
    Shut { until: Option<Timestamp>, idle: bool },
}

impl Lane {
    /// A lane that begins with what the store holds.
    pub(super) fn new(parts: Parts) -> Self {
        let today = parts.desk.today();
        Self {
            refused: parts.recorder.refused(),
            leases: parts.leases.clone(),
            mutes: parts.mutes.watch(),
            shard: shard_of(parts.desk.name()),
            lease: None,
            over: CancellationToken::new(),
            watching: JoinSet::new(),
            bucket: today.destination.rate_limit.map(|rate| Bucket::new(rate, &parts.clock)),
            paced_until: None,
            inbox: parts.desk.inbox.clone(),
            store: parts.desk.store.clone(),
            today,
            parts: Arc::new(parts),
            typical: reading::TYPICAL,
            poll_at: Instant::now() + POLL,
            poll: false,
            resting: false,
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
            unrecorded: Vec::new(),
            recordings: JoinSet::new(),
            recording: 0,
            chores: JoinSet::new(),
            prepared: false,
            undecided: Vec::new(),
            asked: Vec::new(),
            deciding: JoinSet::new(),
            looked: None,
            busy_at: Instant::now(),
        }
    }

    fn name(&self) -> &Name {
        self.parts.desk.name()
    }

    /// What metrics call it.
    fn label(&self) -> Name {
        match &self.parts.desk.seated {
            Some(_) => Name::from(seats::LABEL),
            None => self.name().clone(),
        }
    }

    /// Delivers until it is stopped, or its destination is gone; then waits for what is under way, unless that is broken off.
    pub(super) async fn run(mut self) {
        let stop = self.parts.stop.clone();
        // The desk of a subscription outlives its lane.
        let _ended = self.parts.desk.seated.is_none().then(|| self.parts.desk.ended.clone().drop_guard());
        while !stop.is_cancelled() {
            self.follow_file();
            self.follow_lease().await;
            self.keep_what_was_asked();
            self.take_reports();
            self.tell_late();
            self.give_up().await;
            if self.wants_more() {
                self.read_back().await;
            }
            self.begin_attempts();
            self.decide();
            self.record();
            if self.leaves().await || self.falls_asleep().await {
                return;
            }
            // One read-back may bring less than there are slots: what is left is read at once.
            if !self.wants_more() {
                self.wait().await;
            }
        }
        let break_off = self.parts.break_off.clone();
        if break_off.run_until_cancelled(self.finish()).await.is_none() {
            self.cut_off().await;
        }
    }

    /// Waits for what is under way, but for no attempt past the end of the lease, and writes down how the lane stands, unless another
    /// knows better by then.
    async fn finish(&mut self) {
        self.stop_deciding().await;
        let over = self.over.clone();
        while !(self.attempts.is_empty() && self.unrecorded.is_empty() && self.recordings.is_empty()) {
            self.record();
            tokio::select! {
                Some(ended) = self.attempts.join_next_with_id() => self.ended(ended),
                Some(ended) = self.recordings.join_next() => self.recorded(ended),
                () = over.cancelled(), if self.lease.is_some() => {
                    self.lose().await;
                    self.lease = None;
                }
                else => break,
            }
        }
        while self.chores.join_next().await.is_some() {}
        let known = { self.inbox.state().condition.last_success_at.is_some() };
        if known && let Err(error) = self.parts.desk.keep().await {
            tracing::warn!(target.name = %self.name(), %error, "how the lane stands is not kept");
        }
        self.inbox.state().mine = false;
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self) {
        let (parts, inbox) = (self.parts.clone(), self.inbox.clone());
        let (due, lease) = (self.wake_at(), self.lease_ends());
        tokio::select! {
            () = parts.stop.cancelled() => {}
            () = inbox.bell.notified() => {}
            Some(ended) = self.attempts.join_next_with_id() => self.ended(ended),
            Some(ended) = self.recordings.join_next() => self.recorded(ended),
            Some(ended) = self.deciding.join_next() => self.decided(ended),
            Some(_) = self.chores.join_next() => {}
            () = sleep_until(&parts.clock, due) => {}
            () = tokio::time::sleep_until(lease) => {}
            () = tokio::time::sleep_until(self.poll_at) => {
                self.poll_at = Instant::now() + POLL;
                (self.poll, self.resting, self.looked) = (true, false, None);
            }
            // The senders live as long as the lanes, so these end only when something changes.
            _ = self.refused.changed() => {}
            _ = self.leases.changed() => {}
        }
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.ended(ended);
        }
        while let Some(ended) = self.recordings.try_join_next() {
            self.recorded(ended);
        }
    }

    /// The next time by the clock at which there is something to do. A time that has passed since it was looked at wakes
    /// at once, unless only a free slot can move things on.
    fn wake_at(&self) -> Option<Timestamp> {
        match self.gate() {
            Gate::Shut { until, .. } => return [until, self.gives_up_at()].into_iter().flatten().min(),
            Gate::Open(limit) if limit <= self.attempts.len() => return None,
            Gate::Open(_) | Gate::Probe => {}
        }
        let gives_up = self.gives_up_at();
        let state = self.inbox.state();
        let next_due = state.next_due.filter(|_| self.may_fetch(&state));
        let urgent = state.urgent_at.filter(|_| self.may_fetch_urgently());
        [self.paced_until, next_due, urgent, gives_up].into_iter().flatten().min()
    }

    /// When the lease changes what may be done: first nothing new, then nothing at all. Without a lease, no time of its own.
    fn lease_ends(&self) -> Instant {
        let Some(lease) = self.lease else { return self.poll_at };
        let last = lease.until - LAST;
        if Instant::now() < last { last } else { lease.until }
    }

    /// Takes note of what this relay owns now; what is under way ends with its lease.
    async fn follow_lease(&mut self) {
        let now = Instant::now();
        let owned = self.leases.borrow_and_update().get(&self.shard).copied().filter(|lease| now < lease.until);
        // One that was renewed too late has broken off what was under way, though nobody else had it.
        let same = owned.map(|lease| lease.epoch) == self.lease.map(|lease| lease.epoch) && !self.over.is_cancelled();
        if !same {
            self.lose().await;
            self.watch(owned);
        }
        self.lease = owned;
        if self.lease.is_none() || self.resting {
            return;
        }
        match self.load().await {
            Ok(()) => self.take_charge(),
            Err(error) => {
                tracing::error!(target.name = %self.name(), %error, "how the lane stood cannot be read");
                self.rest();
            }
        }
    }

    /// Has what is begun under `lease` broken off when that is over: the lane may be waiting for the store then, or stop.
    fn watch(&mut self, lease: Option<Lease>) {
        (self.over, self.watching) = (CancellationToken::new(), JoinSet::new());
        if let Some(lease) = lease {
            let (over, leases, shard) = (self.over.clone(), self.leases.clone(), self.shard);
            self.watching.spawn(async move {
                ownership::over(leases, shard, lease.epoch).await;
                over.cancel();
            });
        }
    }

    /// From now on nobody knows better how the lane stands.
    fn take_charge(&mut self) {
        {
            let mut state = self.inbox.state();
            if std::mem::replace(&mut state.mine, true) {
                return;
            }
        }
        // From here on the time it stands still is counted: that must not begin anew at every start.
        if self.today.destination.quiet.is_some() {
            self.keep();
        }
    }

    /// Keeps what people have asked other replicas for, as it holds here.
    fn keep_what_was_asked(&mut self) {
        let asked = std::mem::take(&mut self.inbox.state().unkept);
        if asked {
            self.keep();
        }
    }

    /// Breaks off what is under way, and forgets how the lane stood: its next owner knows better.
    async fn lose(&mut self) {
        if self.lease.is_none() {
            // Somebody else may have worked on it since that was read.
            self.inbox.state().loaded &= !self.store.is_shared();
            return;
        }
        tracing::warn!(target.name = %self.name(), attempts = self.attempts.len(), "the lane is no longer owned");
        self.attempts.shutdown().await;
        self.stop_deciding().await;
        self.prepared = false;
        let mut state = self.inbox.state();
        for (_, it) in self.under_way.drain() {
            state.claimed.remove(&it.handed.due.delivery.id);
        }
        state.condition.breaker.probe_lost();
        (state.loaded, state.mine) = (false, false);
        drop(state);
        self.inbox.put_back(true);
    }

    /// Learns how the lane stood, and what was left to be decided.
    async fn load(&mut self) -> store::Result<()> {
        self.parts.desk.load().await?;
        self.prepare().await
    }

    fn rest(&mut self) {
        self.poll_at = Instant::now() + AGAIN;
        self.resting = true;
    }

    /// Whether the lane is this relay's, and for long enough to begin something.
    fn owns(&self) -> bool {
        self.lease.is_some_and(|lease| Instant::now() + LAST < lease.until)
    }

    /// What may be begun now.
    fn gate(&self) -> Gate {
        const IDLE: Gate = Gate::Shut { until: None, idle: true };
        let owns = self.owns();
        let now = self.parts.clock.now();
        let state = self.inbox.state();
        if !owns || !self.prepared || !state.loaded || state.retired || state.condition.is_stopped() {
            return IDLE;
        }
        if *self.refused.borrow() != 0 {
            return Gate::Shut { until: None, idle: false };
        }
        if let Some(until) = state.condition.hold_until.filter(|until| now < *until) {
            return Gate::Shut { until: Some(until), idle: false };
        }
        match state.condition.breaker.allows(now) {
            Allowed::UpTo(limit) => Gate::Open(usize::try_from(limit).unwrap_or(1)),
            Allowed::Probe => Gate::Probe,
            Allowed::NotBefore(until) => Gate::Shut { until, idle: true },
        }
    }

    /// Begins attempts, the first of what is in hand first, while there are slots and the store takes their records.
    fn begin_attempts(&mut self) {
        self.refused.borrow_and_update();
        let now = self.parts.clock.now();
        self.inbox.state().condition.release(now, self.today.destination.retry_after_max);
        // The rate asks for no longer a wait: what lies further ahead was meant before the clock was set back.
        let longest = self.today.destination.rate_limit.map_or(Duration::ZERO, |rate| rate.per / rate.count.max(1));
        self.paced_until = self.paced_until.filter(|until| now < *until && *until <= later(now, longest));
        while self.paced_until.is_none() && self.unsettled() < UNRECORDED_MAX && self.may_begin() {
            match self.gate() {
                Gate::Shut { idle: true, .. } => {
                    self.leave_undecided();
                    return self.inbox.put_back(true);
                }
                Gate::Open(limit) if self.attempts.len() < limit => self.inbox.open(),
                Gate::Probe => {}
                Gate::Open(_) | Gate::Shut { .. } => return,
            }
            let probe = self.gate() == Gate::Probe;
            let Some(next) = self.take_decided() else { return };
            if let Some(Err(until)) = self.bucket.as_ref().map(Bucket::take) {
                self.paced_until = Some(until);
                self.inbox.state().take_back(next, true);
                return;
            }
            self.begin(next, probe);
        }
    }

    /// Attempts that are over and not yet recorded.
    fn unsettled(&self) -> usize {
        self.unrecorded.len() + self.recording
    }

    fn begin(&mut self, next: Handed, probe: bool) {
        let at = self.parts.clock.now();
        let still_ms = {
            let mut state = self.inbox.state();
            if probe {
                state.condition.breaker.probes();
            }
            state.condition.stood_still_ms(at)
        };
        let handed = Arc::new(next);
        let epoch = self.lease.map_or(0, |lease| lease.epoch);
        let today = self.today.clone();
        let under_way =
            UnderWay { handed: handed.clone(), today: today.clone(), probe, at, began: Instant::now(), still_ms, epoch };
        let over = self.over.clone();
        // Not by `run_until_cancelled`, whose future holds what it runs twice.
        let make = async move {
            tokio::select! {
                biased;
                () = over.cancelled() => None,
                made = attempt::make(&today.destination, &today.tools, &handed) => Some(made),
            }
        };
        let task = self.attempts.spawn(make);
        self.under_way.insert(task.id(), under_way);
    }

    /// An attempt is over: its slot is free, and what it leaves its delivery as is decided and waits to be recorded.
    fn ended(&mut self, ended: Result<(Id, Option<Made>), JoinError>) {
        let (id, made) = match ended {
            Ok((id, made)) => (id, Ok(made)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(it) = self.under_way.remove(&id) else { return };
        let attempt = match made {
            Ok(Some(made)) => self.settle(&it, made),
            Ok(None) => return self.broken_off(&it),
            Err(_) => self.failed(&it),
        };
        self.unrecorded.push(Unrecorded { attempt, handed: it.handed });
    }

    /// The lease was over: nothing is recorded, and whoever owns the lane now tries it again.
    fn broken_off(&self, it: &UnderWay) {
        let delivery = &it.handed.due.delivery;
        let number = delivery.attempts.saturating_add(1);
        tracing::warn!(delivery.id = %delivery.id, target.name = %self.name(), attempt = number, "broken off: the lane is no longer owned");
        let mut state = self.inbox.state();
        state.claimed.remove(&delivery.id);
        state.behind = true;
        if it.probe {
            state.condition.breaker.probe_lost();
        }
    }

    /// Our own code broke the attempt off.
    fn failed(&self, it: &UnderWay) -> Attempt {
        if it.probe {
            self.inbox.state().condition.breaker.probe_lost();
        }
        let delivery = &it.handed.due.delivery;
        let number = delivery.attempts.saturating_add(1);
        tracing::error!(delivery.id = %delivery.id, target.name = %self.name(), attempt = number, "the relay failed while it made an attempt");
        Attempt { epoch: it.epoch, ..attempt::broken(delivery.id, number, it.at, it.began.elapsed()) }
    }

    fn settle(&mut self, it: &UnderWay, made: Made) -> Attempt {
        let now = self.parts.clock.now();
        let (due, error) = (&it.handed.due, made.tried.error.clone());
        let (verdict, still_now, told) = self.judge(it, &made, now);
        let standing = Standing { verdict, still_then: it.still_ms, still_now, epoch: it.epoch, now };
        let (outcome, status) = (made.tried.outcome, made.tried.status);
        let settled = attempt::settle(&it.today.destination, &due.delivery, made, standing);
        let ails = self.ails(&it.today, due, &settled.attempt, outcome, status);
        if let Some(until) = settled.hold {
            self.inbox.state().condition.hold(until);
        }
        self.report(due, &settled, now);
        if let Some(change) = verdict.change {
            self.changed(change, error.as_deref(), due);
        }
        if let Some(told) = told {
            self.tell(told, error);
        }
        let keep = it.probe
            || verdict.change.is_some()
            || told.is_some()
            || settled.hold.is_some()
            || ails
            || self.inbox.state().condition.success_is_new();
        if keep {
            self.keep();
        }
        settled.attempt
    }

    /// What the breaker makes of an attempt; how long the lane has stood still; and what is told of that.
    fn judge(&self, it: &UnderWay, made: &Made, now: Timestamp) -> (Verdict, i64, Option<Change>) {
        let mut state = self.inbox.state();
        let outcome = made.tried.outcome;
        state.minute.count(now, outcome == attempt::Outcome::Delivered);
        let condition = &mut state.condition;
        let still_now = condition.stood_still_ms(now);
        if let Some(error) = &made.tried.error {
            condition.last_error = Some(error.clone());
        }
        let Some(signal) = outcome.signal() else {
            if it.probe {
                condition.breaker.probe_lost();
            }
            return (Verdict::default(), still_now, None);
        };
        let due = &it.handed.due;
        let own = due.envelope.source.as_str() == OWN_SOURCE;
        let (verdict, told) = condition.answered(signal, due.delivery.id, it.probe, own, now);
        state.keeps_others |= state.condition.is_untold() && state.holds_others();
        (verdict, still_now, told)
    }

    fn changed(&self, change: Change, error: Option<&str>, due: &Due) {
        let target = self.name();
        self.tell_sign(change, error, due);
        match change {
            Change::Opened(cause) => {
                // A probe is made with the oldest of all that wait, not of what happens to be in hand.
                self.inbox.put_back(true);
                tracing::error!(target.name = %target, cause = cause.word(), "the target is broken: {}", error.unwrap_or_default());
            }
            Change::Closed(broken_since) => {
                tracing::info!(target.name = %target, since = %broken_since, "the target works again");
            }
        }
    }

    fn tell(&self, change: Change, error: Option<String>) {
        let target = self.name().clone();
        self.parts.announcer.tell(match change {
            Change::Opened(cause) => Notice::Broken { target, cause, error },
            Change::Closed(broken_since) => Notice::Recovered { target, broken_since },
        });
    }

    /// Tells that the target is broken, where that was left out as long as it kept nothing but the relay's own events.
    fn tell_late(&mut self) {
        let (late, error) = {
            let mut state = self.inbox.state();
            if !std::mem::take(&mut state.keeps_others) {
                return;
            }
            (state.condition.tell_late(), state.condition.last_error.clone())
        };
        if let Some(change) = late {
            self.tell(change, error);
            self.keep();
        }
    }

    /// Writes down how the lane stands, beside the way.
    fn keep(&mut self) {
        {
            let mut state = self.inbox.state();
            state.version += 1;
            state.condition.success_is_kept();
        }
        let desk = self.parts.desk.clone();
        self.chores.spawn(async move {
            if let Err(error) = desk.keep().await {
                tracing::warn!(target.name = %desk.name(), %error, "how the lane stands is not kept");
            }
        });
    }
}

async fn sleep_until(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
