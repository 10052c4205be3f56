//! How a lane stands: paused by a person, broken, quiet, or well; and what of that outlives a restart, as JSON.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Destination,
    attempt::Tools,
    breaker::{Breaker, Change, Open, Signal, Verdict},
    endpoint::Endpoint,
    inbox::Inbox,
    seats,
    signs::Signs,
    status::{TargetState, TargetStatus},
};
use crate::{
    clock::{Timestamp, from_ms, later, to_ms, until},
    envelope::{DeliveryId, Name},
    live::Live,
    schedule::Schedule,
    store::{self, Cause, Store},
};

/// A last success that is known anew is kept at once when the one kept is older than this.
const SUCCESS_KEPT_EVERY: Duration = Duration::from_secs(600);
/// How much time may go by before standing still is added up: the windows in it are walked over at every attempt.
const COUNTED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// How one lane stands.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// A person has stopped it.
    pub(super) paused: Option<Paused>,
    pub(super) breaker: Breaker,
    /// Whether anybody was told that it broke.
    told: bool,
    /// What the last failed attempt ended with.
    pub(super) last_error: Option<String>,
    /// When its target last took something.
    pub(super) last_success_at: Option<Timestamp>,
    /// That time, as far as it is kept.
    success_kept: Option<Timestamp>,
    /// Nothing is sent before (`Retry-After`).
    pub(super) hold_until: Option<Timestamp>,
    /// How long it has stood still in all until
    still_ms: i64,
    /// this time: paused, or quiet.
    counted_at: Timestamp,
    /// When it is quiet.
    quiet: Option<Arc<Schedule>>,
    /// Since when its subscription is switched off.
    pub(super) off: Option<Timestamp>,
    /// Deliveries in a row that died for lack of attempts.
    pub(super) undelivered: u32,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paused {
    pub(super) since: Timestamp,
    pub(super) by: String,
}

impl Condition {
    /// Well at `now`, and nothing known.
    pub(super) fn new(concurrency: u32, quiet: Option<Arc<Schedule>>, now: Timestamp) -> Self {
        Self {
            paused: None,
            breaker: Breaker::new(concurrency),
            told: false,
            last_error: None,
            last_success_at: None,
            success_kept: None,
            hold_until: None,
            still_ms: 0,
            counted_at: now,
            quiet,
            off: None,
            undelivered: 0,
        }
    }

    /// That of a subscription's lane, which may be switched off since `off`.
    fn of_subscription(concurrency: u32, off: Option<Timestamp>, now: Timestamp) -> Self {
        let counted_at = off.map_or(now, |since| since.min(now));
        Self { breaker: Breaker::of_subscription(concurrency), off, counted_at, ..Self::new(concurrency, None, now) }
    }

    /// Whether somebody has stopped it: nothing goes on by itself.
    pub(super) fn is_stopped(&self) -> bool {
        self.paused.is_some() || self.off.is_some()
    }

    /// Its subscription is switched off since `off`, or on (`None`): as known to whoever keeps it. Switched on, it begins as if it had never
    /// failed.
    pub(super) fn switch(&mut self, off: Option<Timestamp>, now: Timestamp) {
        match (self.off, off) {
            (None, Some(since)) => {
                self.count_until(since.clamp(self.counted_at.min(now), now));
                self.off = Some(since);
            }
            (Some(_), None) => {
                self.count_until(now);
                (self.off, self.undelivered, self.told) = (None, 0, false);
                self.breaker.close();
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// How long it has stood still in all until `now`, in milliseconds. A pause in quiet hours counts once.
    pub(super) fn stood_still_ms(&self, now: Timestamp) -> i64 {
        let since = match (self.is_stopped(), &self.quiet) {
            (true, _) => until(self.counted_at, now),
            (false, Some(quiet)) => quiet.within(self.counted_at, now),
            (false, None) => Duration::ZERO,
        };
        self.still_ms.saturating_add(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Adds up until `now`, so that little is left to add.
    fn count_until(&mut self, now: Timestamp) {
        (self.still_ms, self.counted_at) = (self.stood_still_ms(now), now);
    }

    /// Goes by another file from `now` on: what it has stood still so far stays counted, and the breaker as it is.
    pub(super) fn follow(&mut self, destination: &Destination, now: Timestamp) {
        self.count_until(now);
        self.quiet = quiet_of(destination);
        self.breaker.resize(destination.concurrency);
    }

    /// Another receiver stands there from now on: it has never failed.
    fn begins_anew(&mut self) {
        (self.undelivered, self.told, self.hold_until) = (0, false, None);
        self.breaker.forget();
    }

    /// Stops it, until somebody lets it go on. False: it was stopped already.
    pub(super) fn pause(&mut self, by: &str, now: Timestamp) -> bool {
        let first = self.paused.is_none();
        if first {
            self.count_until(now);
        }
        self.paused.get_or_insert_with(|| Paused { since: now, by: by.to_owned() });
        first
    }

    /// Lets it go on.
    pub(super) fn resume(&mut self, now: Timestamp) {
        self.count_until(now);
        self.paused = None;
    }

    /// Takes in what an attempt came to. `own`: it was one of the relay's own events, of which nobody is told more.
    pub(super) fn answered(
        &mut self,
        signal: Signal,
        delivery: DeliveryId,
        probe: bool,
        own: bool,
        now: Timestamp,
    ) -> (Verdict, Option<Change>) {
        if COUNTED_EVERY < until(self.counted_at, now) {
            self.count_until(now);
        }
        let verdict = self.breaker.answered(signal, delivery, probe, self.last_success_at, now);
        if signal == Signal::Success {
            self.last_success_at = self.last_success_at.max(Some(now));
        }
        let tell = match verdict.change {
            Some(Change::Opened(_)) => {
                self.told = !own;
                self.told
            }
            Some(Change::Closed(_)) => std::mem::take(&mut self.told),
            None if own => false,
            None => return (verdict, self.tell_late()),
        };
        (verdict, verdict.change.filter(|_| tell))
    }

    /// Whether it is broken and nobody was told: it broke on an event of the relay's own.
    pub(super) fn is_untold(&self) -> bool {
        !self.told && self.breaker.open().is_some()
    }

    /// It keeps an event that is not the relay's own: whoever was not told that it is broken is told now.
    pub(super) fn tell_late(&mut self) -> Option<Change> {
        let cause = self.breaker.open().filter(|_| !self.told)?.cause;
        self.told = true;
        Some(Change::Opened(cause))
    }

    /// Closes the breaker, whatever it thinks; says since when it was open, where somebody was told so.
    pub(super) fn close(&mut self) -> Option<Timestamp> {
        let since = self.breaker.close();
        since.filter(|_| std::mem::take(&mut self.told))
    }

    /// Since when its deliveries are held.
    pub(super) fn held_since(&self) -> Option<Timestamp> {
        let broken = self.breaker.open().map(|open| open.since);
        self.paused.as_ref().map(|paused| paused.since).into_iter().chain(broken).chain(self.off).min()
    }

    /// Its target wants nothing before `until`.
    pub(super) fn hold(&mut self, until: Timestamp) {
        self.hold_until = self.hold_until.max(Some(until));
    }

    /// Forgets a hold that has passed at `now`, or lies further ahead than the `longest` there is: the clock was set back.
    pub(super) fn release(&mut self, now: Timestamp, longest: Duration) {
        self.hold_until = self.hold_until.filter(|until| now < *until && *until <= later(now, longest));
    }

    /// Whether a success has come that should be kept soon.
    pub(super) fn success_is_new(&self) -> bool {
        match (self.success_kept, self.last_success_at) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(kept), Some(at)) => SUCCESS_KEPT_EVERY <= until(kept, at),
        }
    }

    /// Whether a success has come since one was kept.
    pub(super) fn has_unkept_success(&self) -> bool {
        self.success_kept != self.last_success_at
    }

    /// That success is being kept.
    pub(super) fn success_is_kept(&mut self) {
        self.success_kept = self.last_success_at;
    }

    fn to_json(&self) -> String {
        let kept = Kept {
            paused: self.paused.as_ref().map(|it| KeptPause { since_ms: to_ms(it.since), by: it.by.clone() }),
            broken: self.breaker.open().map(|open| KeptBreaker {
                since_ms: to_ms(open.since),
                cause: open.cause.word().to_owned(),
                wait_ms: u64::try_from(open.wait.as_millis()).unwrap_or(u64::MAX),
                probe_at_ms: to_ms(open.probe_at),
                told: self.told,
            }),
            last_error: self.last_error.clone(),
            last_success_ms: self.last_success_at.map(to_ms),
            hold_until_ms: self.hold_until.map(to_ms),
            still_ms: self.still_ms,
            counted_ms: Some(to_ms(self.counted_at)),
            off_ms: self.off.map(to_ms),
            undelivered: self.undelivered,
        };
        // Plain data: writing it cannot fail.
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// Goes on as `json` says; text that nobody can read is as good as none.
    fn restore(&mut self, json: &str) {
        let Ok(kept) = serde_json::from_str::<Kept>(json) else { return };
        self.paused = kept.paused.map(|it| Paused { since: from_ms(it.since_ms), by: it.by });
        self.told = kept.broken.as_ref().is_some_and(|it| it.told);
        self.breaker.resume(kept.broken.map(|it| it.open()));
        self.last_error = kept.last_error;
        self.last_success_at = kept.last_success_ms.map(from_ms);
        self.success_kept = self.last_success_at;
        self.hold_until = kept.hold_until_ms.map(from_ms);
        self.still_ms = kept.still_ms;
        (self.off, self.undelivered) = (kept.off_ms.map(from_ms), kept.undelivered);
        let counted = kept.counted_ms.map(from_ms).or(self.paused.as_ref().map(|paused| paused.since));
        self.counted_at = counted.unwrap_or(self.counted_at);
    }
}

/// What outlives a restart.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    paused: Option<KeptPause>,
    broken: Option<KeptBreaker>,
    last_error: Option<String>,
    last_success_ms: Option<i64>,
    #[serde(default)]
    hold_until_ms: Option<i64>,
    still_ms: i64,
    /// Absent in what older versions kept: they knew pauses only.
    #[serde(default)]
    counted_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    off_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    undelivered: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptPause {
    since_ms: i64,
    by: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptBreaker {
    since_ms: i64,
    cause: String,
    wait_ms: u64,
    probe_at_ms: i64,
    told: bool,
}

impl KeptBreaker {
    fn open(self) -> Open {
        let cause = Cause::ALL.iter().find(|(word, _)| *word == self.cause).map_or(Cause::Receiver, |(_, cause)| *cause);
        Open::kept(from_ms(self.since_ms), cause, Duration::from_millis(self.wait_ms), from_ms(self.probe_at_ms))
    }
}

fn quiet_of(destination: &Destination) -> Option<Arc<Schedule>> {
    destination.quiet.as_ref().map(|quiet| quiet.schedule.clone())
}

/// What a lane goes by until another file holds: its destination, and what attempts are made with.
pub(super) struct Today {
    pub(super) destination: Arc<Destination>,
    pub(super) tools: Tools,
}

impl Today {
    /// Where it sends, where that is a URL.
    pub(super) fn url(&self) -> Option<&Url> {
        self.destination.kind.endpoint().map(Endpoint::url)
    }

    /// Whether `other` sends to the same URL.
    pub(super) fn goes_where(&self, other: &Self) -> bool {
        self.url() == other.url()
    }
}

/// One lane as others see it: what it goes by, what it is told, and where its condition is kept.
pub(super) struct Desk {
    name: Name,
    today: Live<Today>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) store: Arc<dyn Store>,
    /// Cancelled once nothing of the lane is under way and nothing ever will be.
    pub(super) ended: CancellationToken,
    /// Of a subscription's lane.
    pub(super) seated: Option<Seated>,
}

/// What only the lanes of subscriptions have.
pub(super) struct Seated {
    /// Where they tell what befalls their subscriptions.
    pub(super) signs: Arc<Signs>,
    /// Since when it is switched off, as whoever keeps the subscription last said.
    off: Mutex<Option<Timestamp>>,
}

impl Desk {
    /// The desk of a lane that goes by `today`, well at `now`.
    pub(super) fn new(today: Arc<Today>, store: Arc<dyn Store>, now: Timestamp) -> Self {
        let destination = today.destination.clone();
        let inbox = Inbox::new(Condition::new(destination.concurrency, quiet_of(&destination), now));
        Self {
            name: destination.name.clone(),
            today: Live::new(today),
            inbox: Arc::new(inbox),
            store,
            ended: CancellationToken::new(),
            seated: None,
        }
    }

    /// The desk of a subscription's lane, which does not work yet; it is switched off since `off`.
    pub(super) fn of_subscription(
        today: Arc<Today>,
        store: Arc<dyn Store>,
        now: Timestamp,
        signs: Arc<Signs>,
        off: Option<Timestamp>,
    ) -> Self {
        let condition = Condition::of_subscription(today.destination.concurrency, off, now);
        let desk = Self { seated: Some(Seated { signs, off: Mutex::new(off) }), ..Self::new(today, store, now) };
        {
            let mut state = desk.inbox.state();
            (state.condition, state.asleep) = (condition, true);
        }
        desk
    }

    /// Its subscription is switched off since `off`, or on.
    pub(super) async fn switch(&self, off: Option<Timestamp>, now: Timestamp) -> store::Result<()> {
        if let Some(seated) = &self.seated {
            *seated.off.lock().unwrap_or_else(PoisonError::into_inner) = off;
        }
        self.change(|condition| condition.switch(off, now)).await
    }

    /// The same, where whoever switched it keeps that.
    pub(super) fn switched(&self, off: Option<Timestamp>, now: Timestamp) {
        if let Some(seated) = &self.seated {
            *seated.off.lock().unwrap_or_else(PoisonError::into_inner) = off;
        }
        {
            let mut state = self.inbox.state();
            state.version += 1;
            state.condition.switch(off, now);
        }
        self.inbox.bell.notify_one();
    }

    /// Goes on as `json`, which was kept, says.
    pub(super) fn restore(&self, json: &str) {
        let mut state = self.inbox.state();
        if !state.loaded {
            state.condition.restore(json);
            state.loaded = true;
            self.switch_as_told(&mut state.condition);
        }
    }

    /// The subscription itself says whether it is switched off; how long it has been is the condition's to know.
    fn switch_as_told(&self, condition: &mut Condition) {
        if let Some(seated) = &self.seated {
            let off = *seated.off.lock().unwrap_or_else(PoisonError::into_inner);
            condition.switch(off, self.today().tools.clock.now());
        }
    }

    /// The same, going on as the lane of `former`, whose destination it takes the place of, stands at `now`.
    pub(super) fn after(today: Arc<Today>, former: &Self, now: Timestamp) -> Self {
        let desk = Self::new(today, former.store.clone(), now);
        let condition = {
            let state = former.inbox.state();
            state.loaded.then(|| state.condition.clone())
        };
        if let Some(mut condition) = condition {
            condition.follow(&desk.today().destination, now);
            condition.breaker.probe_lost();
            let mut state = desk.inbox.state();
            (state.condition, state.loaded, state.version) = (condition, true, 1);
        }
        desk
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// What the lane goes by now.
    pub(super) fn today(&self) -> Arc<Today> {
        self.today.now()
    }

    /// Whether it still goes by `today`.
    pub(super) fn goes_by(&self, today: &Arc<Today>) -> bool {
        self.today.is(today)
    }

    /// Goes by `today` from the next attempt on. False: its lane has ended, and nothing happens.
    pub(super) fn follow(&self, today: &Arc<Today>, now: Timestamp) -> bool {
        let mut state = self.inbox.state();
        if self.ended.is_cancelled() {
            return false;
        }
        state.retired = false;
        state.condition.follow(&today.destination, now);
        if self.seated.is_some() && !self.today().goes_where(today) {
            state.condition.begins_anew();
        }
        drop(state);
        self.today.replace(today.clone());
        self.inbox.bell.notify_one();
        true
    }

    /// Its destination is gone: nothing more is begun, and the lane ends when what is under way is recorded.
    pub(super) fn retire(&self) {
        self.inbox.state().retired = true;
        self.inbox.bell.notify_one();
    }

    /// Ends it, unless its destination has come back.
    pub(super) fn end(&self) -> bool {
        // Under the lock, so that nobody goes on with a lane that has ended.
        let state = self.inbox.state();
        if state.retired {
            self.ended.cancel();
        }
        state.retired
    }

    /// How the lane stands at `now`.
    pub(super) fn status(&self, now: Timestamp) -> TargetStatus {
        let destination = &self.today().destination;
        let state = self.inbox.state();
        let (condition, open) = (&state.condition, state.condition.breaker.open());
        let (attempts, deliveries) = state.minute.sums(now);
        let (word, since) = match (condition.off, &condition.paused, open) {
            (Some(since), ..) => (TargetState::Disabled, Some(since)),
            (None, Some(paused), _) => (TargetState::Paused, Some(paused.since)),
            (None, None, Some(open)) => (TargetState::Broken, Some(open.since)),
            (None, None, None) => (TargetState::Ok, None),
        };
        TargetStatus {
            name: self.name().clone(),
            kind: if self.seated.is_some() { seats::KIND } else { destination.kind.word() },
            url: destination.masked_url(),
            state: word,
            since,
            cause: open.map(|open| open.cause),
            paused_by: condition.paused.as_ref().map(|paused| paused.by.clone()),
            last_error: condition.last_error.clone(),
            last_success_at: condition.last_success_at,
            attempts_last_minute: attempts,
            deliveries_last_minute: deliveries,
            next_probe_at: open.map(|open| open.probe_at),
        }
    }

    /// Reads what an earlier run, or owner, kept; nothing that was changed here meanwhile is lost.
    pub(super) async fn load(&self) -> store::Result<()> {
        if self.inbox.state().loaded {
            return Ok(());
        }
        let destination = self.today().destination.clone();
        while !self.inbox.state().loaded {
            let before = self.inbox.state().version;
            let mut json = self.store.setting(&key(self.name())).await?;
            if let (None, Some(old)) = (&json, &destination.renamed_from) {
                json = self.store.setting(&key(old)).await?;
            }
            let mut state = self.inbox.state();
            if state.version == before {
                if let Some(json) = json {
                    state.condition.restore(&json);
                }
                state.loaded = true;
                self.switch_as_told(&mut state.condition);
            }
        }
        // From here on the time it stands still is counted: that must not begin anew at every start.
        if destination.quiet.is_some() { self.keep().await } else { Ok(()) }
    }

    /// Changes the condition and keeps it. On an error the change holds for this run, but may not outlive it.
    pub(super) async fn change<T>(&self, change: impl FnOnce(&mut Condition) -> T) -> store::Result<T> {
        self.load().await?;
        let changed = {
            let mut state = self.inbox.state();
            state.version += 1;
            change(&mut state.condition)
        };
        self.inbox.bell.notify_one();
        self.keep().await?;
        Ok(changed)
    }

    /// Keeps the condition as it is. Whoever finds that it was changed meanwhile keeps it again, so the last to write is right.
    pub(super) async fn keep(&self) -> store::Result<()> {
        loop {
            let (version, json) = {
                let state = self.inbox.state();
                (state.version, state.condition.to_json())
            };
            self.store.set_setting(&key(self.name()), json).await?;
            if self.inbox.state().version == version {
                return Ok(());
            }
        }
    }
}

fn key(target: &Name) -> String {
    key_of(target.as_str())
}

/// Where the store keeps the condition of the lane of `target`, or of all whose names begin so.
pub(super) fn key_of(target: &str) -> String {
    format!("lane.{target}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::EventUid;

    #[test]
    fn a_condition_outlives_a_restart() {
        let now: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let id = DeliveryId { event: EventUid { salt: 7, seq: 1 }, n: 1 };
        let mut condition = Condition::new(8, None, now);
        condition.answered(Signal::Success, id, false, false, now);
        (condition.last_error, condition.still_ms) = (Some("http_401".into()), 5);
        condition.hold_until = Some(later(now, Duration::from_secs(60)));
        for _ in 0..2 {
            condition.answered(Signal::Denied, id, false, false, later(now, Duration::from_secs(24 * 3600)));
        }
        assert!(condition.pause("ana", now) && !condition.pause("ben", later(now, Duration::from_secs(9))));
        let mut restored = Condition::new(8, None, later(now, Duration::from_secs(7)));
        restored.restore(&condition.to_json());
        assert_eq!((&restored.paused, restored.breaker.open()), (&condition.paused, condition.breaker.open()));
        assert_eq!(restored.hold_until, condition.hold_until);
        assert_eq!((&restored.last_error, restored.last_success_at), (&condition.last_error, Some(now)));
        assert_eq!(restored.stood_still_ms(later(now, Duration::from_secs(60))), 60_005);
        restored.resume(later(now, Duration::from_secs(90)));
        assert_eq!(restored.stood_still_ms(later(now, Duration::from_secs(900))), 90_005);
        assert_eq!(restored.close(), Some(later(now, Duration::from_secs(24 * 3600))));
        restored.restore("nonsense");
    }
}
