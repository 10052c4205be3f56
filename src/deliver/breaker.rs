//! When a lane leaves its target alone, and how it finds out that it may go on. Pure: `now` is passed in.
//!
//! Facts: `delivery.md`, "Breaker" and "What answers mean" (target-level).

use std::time::Duration;

use crate::{
    clock::{Timestamp, later, until},
    envelope::{DeliveryId, EventUid},
    store::Cause,
};

/// Transient failures in a row that open it,
const FAILURES: u32 = 5;
/// on at least this many deliveries.
const DELIVERIES: usize = 3;
/// Answers 3xx or 410 in a row that are target-level.
const MOVED: u32 = 3;
/// Different events in a row that are denied (401, 403, 407) until that is target-level.
const DENIED: usize = 3;
/// A target without a success for so long is broken by the first denial.
const TRUST: Duration = Duration::from_secs(24 * 3600);
/// The wait before the first probe, and the longest.
const WAIT_MIN: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What the answer to an attempt says of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// It works.
    Success,
    /// It fails, and that may pass.
    Transient,
    /// It wants nothing of us: 401, 403, 407.
    Denied,
    /// It is somewhere else, or gone: 3xx, 410.
    Moved,
    /// It refuses this one delivery.
    Permanent,
    /// It refuses whatever we send, and says so.
    Refused,
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// The failure is the target's, not the delivery's: the attempt does not count.
    pub(super) target_level: bool,
    /// The breaker has just opened, or closed.
    pub(super) change: Option<Change>,
}

/// A change of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It opened, through this cause's fault.
    Opened(Cause),
    /// It closed, having been open since then.
    Closed(Timestamp),
}

/// What may be begun now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Attempts, up to so many at once.
    UpTo(u32),
    /// One probe.
    Probe,
    /// Nothing before then; `None`: a probe is under way.
    NotBefore(Option<Timestamp>),
}

/// An open breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    /// Since when.
    pub(super) since: Timestamp,
    /// Whose fault.
    pub(super) cause: Cause,
    /// How long is waited before a probe.
    pub(super) wait: Duration,
    /// When the next one is due.
    pub(super) probe_at: Timestamp,
    /// One is under way.
    probing: bool,
}

impl Open {
    /// As it was kept by an earlier run.
    pub(super) fn kept(since: Timestamp, cause: Cause, wait: Duration, probe_at: Timestamp) -> Self {
        Self { since, cause, wait: wait.clamp(WAIT_MIN, WAIT_MAX), probe_at, probing: false }
    }
}

/// The breaker of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Breaker {
    open: Option<Open>,
    /// Transient failures in a row, and the first few deliveries they befell.
    failures: u32,
    failed: Vec<DeliveryId>,
    /// Answers 3xx and 410 in a row.
    moved: u32,
    /// Different events denied in a row, as far as they are counted.
    denied: Vec<EventUid>,
    ramp: Ramp,
    /// Whether answers 3xx and 410 open it: a destination's do. Those of a subscription say something of the delivery only, and a 410
    /// switches it off.
    moves: bool,
}

/// How many attempts may run at once after the breaker has closed: it doubles with each round of successes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ramp {
    /// So many now.
    limit: u32,
    /// Successes since it last doubled.
    successes: u32,
    /// So many in the end.
    full: u32,
}

impl Breaker {
    /// A closed breaker of a lane that makes `concurrency` attempts at once.
    pub(super) fn new(concurrency: u32) -> Self {
        let ramp = Ramp { limit: concurrency, successes: 0, full: concurrency };
        Self { open: None, failures: 0, failed: Vec::new(), moved: 0, denied: Vec::new(), ramp, moves: true }
    }

    /// The same of a subscription's lane, which answers 3xx and 410 do not open.
    pub(super) fn of_subscription(concurrency: u32) -> Self {
        Self { moves: false, ..Self::new(concurrency) }
    }

    /// Lets `concurrency` attempts run at once from now on. One that ramps up goes on doing so.
    pub(super) fn resize(&mut self, concurrency: u32) {
        let ramp = &mut self.ramp;
        ramp.limit = if ramp.limit == ramp.full { concurrency } else { ramp.limit.min(concurrency) };
        ramp.full = concurrency;
    }

    /// Goes on where an earlier run stopped.
    pub(super) fn resume(&mut self, open: Option<Open>) {
        self.open = open;
    }

    /// How it is open, where it is.
    pub(super) fn open(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// What may be begun at `now`.
    pub(super) fn allows(&self, now: Timestamp) -> Allowed {
        match &self.open {
            None => Allowed::UpTo(self.ramp.limit),
            Some(open) if open.probing => Allowed::NotBefore(None),
            // Due, or further ahead than a probe ever is: the clock was set back.
            Some(open) if open.probe_at <= now || later(now, open.wait * 2) < open.probe_at => Allowed::Probe,
            Some(open) => Allowed::NotBefore(Some(open.probe_at)),
        }
    }

    /// A probe has begun.
    pub(super) fn probes(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = true;
        }
    }

    /// A probe came to nothing that says something of the target: the next one may begin at once.
    pub(super) fn probe_lost(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// Takes in what an attempt at `delivery` came to at `now`. `last_success` is when its target last took something.
    pub(super) fn answered(
        &mut self,
        signal: Signal,
        delivery: DeliveryId,
        probe: bool,
        last_success: Option<Timestamp>,
        now: Timestamp,
    ) -> Verdict {
        let target_level = self.count(signal, delivery, last_success, now);
        let heals = signal == Signal::Success || (probe && signal == Signal::Permanent);
        let change = match (&mut self.open, heals) {
            (Some(_), true) => self.close().map(Change::Closed),
            (Some(open), false) => {
                if probe {
                    open.probing = false;
                    open.wait = (open.wait * 2).min(WAIT_MAX);
                    open.probe_at = later(now, open.wait);
                }
                None
            }
            (None, true) => {
                self.ramp.up();
                None
            }
            (None, false) => self.trips(target_level).map(|cause| self.opens(cause, now)),
        };
        Verdict { target_level, change }
    }

    /// Closes it, whatever was counted; says since when it was open.
    pub(super) fn close(&mut self) -> Option<Timestamp> {
        let open = self.open.take()?;
        *self = Self { moves: self.moves, ..Self::new(self.ramp.full) };
        self.ramp.limit = 1;
        Some(open.since)
    }

    /// Another target stands there from now on: nothing is known of it.
    pub(super) fn forget(&mut self) {
        *self = Self { moves: self.moves, ..Self::new(self.ramp.full) };
    }

    /// Counts the runs; true when this failure is at target level.
    fn count(&mut self, signal: Signal, delivery: DeliveryId, last_success: Option<Timestamp>, now: Timestamp) -> bool {
        // What opened it for the target's fault goes on to be its fault.
        let known = self.open.is_some_and(|open| open.cause == Cause::Config);
        match signal {
            Signal::Success => (self.failures, self.moved) = (0, 0),
            Signal::Transient | Signal::Denied => {
                self.failures = self.failures.saturating_add(1);
                self.moved = 0;
                note(&mut self.failed, delivery, DELIVERIES);
            }
            Signal::Moved => self.moved = self.moved.saturating_add(1),
            Signal::Permanent | Signal::Refused => {}
        }
        match signal {
            Signal::Success => {
                self.failed.clear();
                self.denied.clear();
                false
            }
            Signal::Denied => {
                note(&mut self.denied, delivery.event, DENIED);
                let trusted = last_success.is_some_and(|at| until(at, now) < TRUST);
                known || !trusted || DENIED <= self.denied.len()
            }
            Signal::Transient => {
                self.denied.clear();
                false
            }
            Signal::Moved => self.moves && (known || MOVED <= self.moved),
            Signal::Permanent => false,
            Signal::Refused => true,
        }
    }

    fn trips(&self, target_level: bool) -> Option<Cause> {
        if target_level {
            return Some(Cause::Config);
        }
        (FAILURES <= self.failures && DELIVERIES <= self.failed.len()).then_some(Cause::Receiver)
    }

    fn opens(&mut self, cause: Cause, now: Timestamp) -> Change {
        self.open = Some(Open { since: now, cause, wait: WAIT_MIN, probe_at: later(now, WAIT_MIN), probing: false });
        Change::Opened(cause)
    }
}

impl Ramp {
    fn up(&mut self) {
        if self.full <= self.limit {
            return;
        }
        self.successes += 1;
        if self.limit <= self.successes {
            (self.limit, self.successes) = (self.limit.saturating_mul(2).min(self.full), 0);
        }
    }
}

/// Adds `item` to the first `max` different ones.
fn note<T: PartialEq>(seen: &mut Vec<T>, item: T, max: usize) {
    if seen.len() < max && !seen.contains(&item) {
        seen.push(item);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(secs: u64) -> Timestamp {
        later("2026-01-20T12:00:00Z".parse().unwrap(), Duration::from_secs(secs))
    }

    fn delivery(seq: i64) -> DeliveryId {
        DeliveryId { event: EventUid { salt: 7, seq }, n: 1 }
    }

    /// Answers, one a second, each to the delivery named; what the last of them leads to.
    fn after(breaker: &mut Breaker, answers: &[(Signal, i64)]) -> Verdict {
        let mut verdict = Verdict::default();
        for (second, (signal, seq)) in (0..).zip(answers) {
            verdict = breaker.answered(*signal, delivery(*seq), false, Some(at(0)), at(second));
        }
        verdict
    }

    use Signal::{Denied, Moved, Permanent, Refused, Success, Transient};

    const OPENED: Option<Change> = Some(Change::Opened(Cause::Receiver));
    const AT_TARGET_LEVEL: Verdict = Verdict { target_level: true, change: Some(Change::Opened(Cause::Config)) };

    #[test]
    fn five_transient_failures_in_a_row_on_three_deliveries_open_it() {
        let failing = |seqs: [i64; 5]| after(&mut Breaker::new(8), &seqs.map(|seq| (Transient, seq)));
        assert_eq!(failing([1, 2, 3, 1, 2]), Verdict { target_level: false, change: OPENED });
        assert_eq!(failing([1, 2, 1, 2, 1]), Verdict::default());
        let mut breaker = Breaker::new(8);
        let four = [1, 2, 3, 4].map(|seq| (Transient, seq));
        assert_eq!(after(&mut breaker, &[&four[..], &[(Success, 5)], &four].concat()), Verdict::default());
        assert_eq!(after(&mut breaker, &[(Transient, 9)]).change, OPENED);
    }

    #[test]
    fn a_permanent_answer_neither_counts_nor_resets() {
        let mut breaker = Breaker::new(8);
        after(&mut breaker, &[(Transient, 1), (Transient, 2), (Permanent, 3), (Transient, 4), (Transient, 5)]);
        assert!(breaker.open().is_none());
        assert_eq!(after(&mut breaker, &[(Permanent, 6), (Transient, 7)]).change, OPENED);
        assert_eq!(after(&mut Breaker::new(8), &[(Permanent, 1); 50]), Verdict::default());
    }

    #[test]
    fn three_moved_or_gone_in_a_row_are_target_level() {
        let mut breaker = Breaker::new(8);
        let moved = |seq| (Moved, seq);
        assert_eq!(after(&mut breaker, &[moved(1), moved(2), (Success, 3), moved(4), moved(5)]), Verdict::default());
        assert_eq!(after(&mut breaker, &[moved(6)]), AT_TARGET_LEVEL);
    }

    #[test]
    fn a_subscriptions_moved_answers_never_open_it_and_heal_nothing() {
        let mut breaker = Breaker::of_subscription(8);
        assert_eq!(after(&mut breaker, &[(Moved, 1); 20]), Verdict::default());
        breaker.answered(Refused, delivery(2), false, None, at(30));
        breaker.probes();
        assert_eq!(breaker.answered(Moved, delivery(3), true, None, at(60)), Verdict::default());
        assert!(breaker.open().is_some() && breaker.close().is_some());
        assert_eq!(after(&mut breaker, &[(Moved, 1); 20]), Verdict::default());
    }

    #[test]
    fn one_that_refuses_whatever_we_send_is_broken_at_once_even_if_it_has_just_worked() {
        let mut breaker = Breaker::new(8);
        assert_eq!(after(&mut breaker, &[(Success, 1), (Refused, 2)]), AT_TARGET_LEVEL);
    }

    #[test]
    fn three_events_denied_in_a_row_are_target_level() {
        let mut breaker = Breaker::new(8);
        assert_eq!(after(&mut breaker, &[(Denied, 1), (Denied, 1), (Denied, 2)]), Verdict::default());
        assert_eq!(after(&mut breaker, &[(Denied, 3)]), AT_TARGET_LEVEL);
    }

    #[test]
    fn the_first_denial_without_a_success_in_a_day_is_target_level() {
        for last_success in [None, Some(at(0))] {
            let verdict = Breaker::new(8).answered(Denied, delivery(1), false, last_success, at(24 * 3600));
            assert_eq!(verdict, AT_TARGET_LEVEL);
        }
        let verdict = Breaker::new(8).answered(Denied, delivery(1), false, Some(at(1)), at(24 * 3600));
        assert_eq!(verdict, Verdict::default());
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(8);
        for seq in 1..=5 {
            breaker.answered(Transient, delivery(seq), false, None, at(0));
        }
        breaker
    }

    #[test]
    fn open_it_lets_one_probe_through_after_30_s_and_the_wait_doubles_to_10_min() {
        let mut breaker = opened();
        let mut now = 0;
        for wait in [30, 60, 120, 240, 480, 600, 600] {
            assert_eq!(breaker.allows(at(now + wait - 1)), Allowed::NotBefore(Some(at(now + wait))));
            now += wait;
            assert_eq!(breaker.allows(at(now)), Allowed::Probe);
            breaker.probes();
            assert_eq!(breaker.allows(at(now + 5)), Allowed::NotBefore(None));
            assert_eq!(breaker.answered(Transient, delivery(9), true, None, at(now)), Verdict::default());
        }
        assert_eq!(breaker.close(), Some(at(0)));
    }

    #[test]
    fn a_clock_set_back_keeps_it_from_probing_for_twice_the_wait_at_most() {
        let breaker = opened();
        let back = |secs| crate::clock::earlier(at(0), Duration::from_secs(secs));
        assert_eq!(breaker.allows(back(29)), Allowed::NotBefore(Some(at(30))));
        assert_eq!(breaker.allows(back(31)), Allowed::Probe);
        assert_eq!(breaker.allows(back(365 * 86_400)), Allowed::Probe);
    }

    #[test]
    fn a_success_closes_it_and_concurrency_ramps_up_by_doubling() {
        let mut breaker = opened();
        breaker.probes();
        let verdict = breaker.answered(Success, delivery(9), true, None, at(30));
        assert_eq!(verdict.change, Some(Change::Closed(at(0))));
        let mut limits = Vec::new();
        for _ in 0..10 {
            let Allowed::UpTo(limit) = breaker.allows(at(31)) else { panic!("it is closed") };
            limits.push(limit);
            breaker.answered(Success, delivery(9), false, None, at(31));
        }
        assert_eq!(limits, [1, 2, 2, 4, 4, 4, 4, 8, 8, 8]);
    }

    #[test]
    fn another_concurrency_holds_at_once_and_a_ramp_goes_on_to_it() {
        let full = |breaker: &Breaker| match breaker.allows(at(0)) {
            Allowed::UpTo(limit) => limit,
            other => panic!("{other:?}"),
        };
        let mut breaker = Breaker::new(8);
        breaker.resize(3);
        assert_eq!(full(&breaker), 3);
        breaker.resize(20);
        assert_eq!(full(&breaker), 20);
        let mut ramping = opened();
        ramping.close();
        ramping.resize(4);
        let mut limits = Vec::new();
        for _ in 0..5 {
            limits.push(full(&ramping));
            ramping.answered(Success, delivery(9), false, None, at(0));
        }
        assert_eq!(limits, [1, 2, 2, 4, 4]);
        let mut open = opened();
        open.resize(4);
        assert_eq!(open.allows(at(0)), Allowed::NotBefore(Some(at(30))));
    }

    #[test]
    fn a_permanent_answer_closes_it_as_a_probes_only() {
        let mut breaker = opened();
        assert_eq!(breaker.answered(Permanent, delivery(9), false, None, at(1)), Verdict::default());
        breaker.probes();
        assert_eq!(breaker.answered(Moved, delivery(9), true, None, at(30)), Verdict::default());
        breaker.probes();
        assert_eq!(breaker.answered(Permanent, delivery(9), true, None, at(90)).change, Some(Change::Closed(at(0))));
    }

    #[test]
    fn what_a_broken_target_goes_on_to_refuse_burns_nothing() {
        let mut breaker = Breaker::new(8);
        breaker.answered(Denied, delivery(1), false, None, at(0));
        for (signal, probe) in [(Denied, false), (Moved, false), (Denied, true)] {
            let verdict = breaker.answered(signal, delivery(2), probe, Some(at(0)), at(1));
            assert_eq!(verdict, Verdict { target_level: true, change: None });
        }
    }

    fn signals() -> impl Strategy<Value = Signal> {
        prop::sample::select(vec![Success, Transient, Denied, Moved, Permanent])
    }

    proptest! {
        #[test]
        fn it_never_lets_more_through_than_it_may(
            steps in prop::collection::vec((signals(), 0i64..6, 0u64..400, any::<bool>()), 0..200), concurrency in 1u32..64,
        ) {
            let (mut breaker, mut now) = (Breaker::new(concurrency), 0);
            let mut opened_at = None;
            for (signal, seq, passed, lost) in steps {
                now += passed;
                let probe = match breaker.allows(at(now)) {
                    Allowed::UpTo(limit) => { prop_assert!(1 <= limit && limit <= concurrency && breaker.open().is_none()); false }
                    Allowed::Probe => { breaker.probes(); true }
                    Allowed::NotBefore(next) => { prop_assert!(next.is_some_and(|next| at(now) < next && next <= at(now + 600))); continue }
                };
                if probe && lost {
                    breaker.probe_lost();
                    continue;
                }
                let verdict = breaker.answered(signal, delivery(seq), probe, None, at(now));
                match verdict.change {
                    Some(Change::Opened(_)) => { prop_assert!(!matches!(signal, Success | Permanent)); opened_at = Some(at(now)); }
                    Some(Change::Closed(since)) => prop_assert_eq!(Some(since), opened_at.take()),
                    None => {}
                }
                prop_assert_eq!(breaker.open().is_some(), opened_at.is_some());
                prop_assert!(!verdict.target_level || breaker.open().is_some());
            }
        }
    }
}
