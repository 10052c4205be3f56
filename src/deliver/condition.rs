//! How a lane stands: paused by a person, broken, quiet, or well; and what of that outlives a restart, as JSON. It is kept as one record
//! of the store for each lane (`desk.rs`).

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Destination,
    breaker::{Breaker, Change, Open, Signal, Verdict},
};
use crate::{
    clock::{Timestamp, from_ms, later, to_ms, until},
    envelope::DeliveryId,
    schedule::Schedule,
    store::Cause,
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
    /// How often people have closed its breaker.
    closes: u64,
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
            closes: 0,
        }
    }

    /// That of a subscription's lane, which may be switched off since `off`.
    pub(super) fn of_subscription(concurrency: u32, off: Option<Timestamp>, now: Timestamp) -> Self {
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
    pub(super) fn begins_anew(&mut self) {
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

    /// The same, as a person wants it.
    pub(super) fn close_as_asked(&mut self) -> Option<Timestamp> {
        self.closes = self.closes.saturating_add(1);
        self.close()
    }

    /// Does what people have asked other replicas for, as `json` says which one of those kept: all else in it is older than what is
    /// known here. True where that changes anything; whoever was asked tells of it.
    pub(super) fn obey(&mut self, json: &str, now: Timestamp) -> bool {
        let Ok(kept) = serde_json::from_str::<Kept>(json) else { return false };
        let (paused, closes) = (kept.paused.map(Paused::from), kept.closes);
        let (pauses, closed) = (self.paused != paused, self.closes < closes);
        match (&self.paused, &paused) {
            (None, Some(it)) => self.count_until(it.since.clamp(self.counted_at.min(now), now)),
            (Some(_), None) => self.count_until(now),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.paused = paused;
        if closed {
            self.closes = closes;
            self.close();
        }
        pauses || closed
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

    pub(super) fn to_json(&self) -> String {
        let kept = Kept {
            paused: self.paused.as_ref().map(|it| KeptPause { since_ms: to_ms(it.since), by: it.by.clone() }),
            closes: self.closes,
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
    pub(super) fn restore(&mut self, json: &str) {
        let Ok(kept) = serde_json::from_str::<Kept>(json) else { return };
        self.paused = kept.paused.map(Paused::from);
        self.closes = kept.closes;
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
    #[serde(default, skip_serializing_if = "is_zero")]
    closes: u64,
}

fn is_zero<N: Default + PartialEq>(count: &N) -> bool {
    *count == N::default()
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

impl From<KeptPause> for Paused {
    fn from(kept: KeptPause) -> Self {
        Self { since: from_ms(kept.since_ms), by: kept.by }
    }
}

impl KeptBreaker {
    fn open(self) -> Open {
        let cause = Cause::ALL.iter().find(|(word, _)| *word == self.cause).map_or(Cause::Receiver, |(_, cause)| *cause);
        Open::kept(from_ms(self.since_ms), cause, Duration::from_millis(self.wait_ms), from_ms(self.probe_at_ms))
    }
}

pub(super) fn quiet_of(destination: &Destination) -> Option<Arc<Schedule>> {
    destination.quiet.as_ref().map(|quiet| quiet.schedule.clone())
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

    #[test]
    fn what_people_asked_another_replica_for_is_done_and_nothing_else() {
        let now: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let at = |secs| later(now, Duration::from_secs(secs));
        let id = DeliveryId { event: EventUid { salt: 7, seq: 1 }, n: 1 };
        let mut owner = Condition::new(8, None, now);
        owner.answered(Signal::Refused, id, false, false, at(1));
        let kept = |change: &dyn Fn(&mut Condition)| {
            let mut asked = Condition::new(8, None, now);
            asked.restore(&owner.to_json());
            change(&mut asked);
            asked.to_json()
        };
        let (same, paused) = (kept(&|_| {}), kept(&|it| _ = it.pause("ana", at(10))));
        let (stale, closed) = (kept(&|it| it.last_error = Some("x".into())), kept(&|it| _ = it.close_as_asked()));
        assert!(!owner.obey(&same, at(11)) && !owner.obey(&stale, at(11)) && !owner.obey("nonsense", at(11)));
        assert!(owner.obey(&paused, at(12)) && !owner.obey(&paused, at(13)));
        assert_eq!((owner.paused.as_ref().unwrap().since, owner.last_error.as_ref()), (at(10), None));
        assert_eq!(owner.stood_still_ms(at(20)), 10_000, "since it was asked for");
        assert!(owner.breaker.open().is_some());
        assert!(owner.obey(&closed, at(30)), "which was not paused");
        assert!(owner.paused.is_none() && owner.breaker.open().is_none());
        assert_eq!(owner.stood_still_ms(at(90)), 20_000);
        owner.answered(Signal::Refused, id, false, false, at(91));
        assert!(!owner.obey(&closed, at(92)) && owner.breaker.open().is_some(), "it was closed once");
    }
}
