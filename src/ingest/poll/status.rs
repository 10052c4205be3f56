//! How a poll source stands: what is shown of it, and when it is asked again.

use std::time::Duration;

use super::{fault::Fault, round::Tally};
use crate::clock::{Timestamp, later};

/// Longest wait after a failure, where `every` is not longer.
const BACKOFF_MAX: Duration = Duration::from_secs(900);
/// Longest wait that an API may ask for by `Retry-After`.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How often a passing failure must come in a row before it is told.
const TOLD_FROM: u32 = 3;

/// How a poll source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollStatus {
    /// Where it is asked: scheme and host only.
    pub url: String,
    /// How often.
    pub every: Duration,
    /// When it was last asked.
    pub last_poll_at: Option<Timestamp>,
    /// When it was last asked with success.
    pub last_success_at: Option<Timestamp>,
    /// What went wrong the last time: what that is called, and a sentence. `None`: nothing.
    pub last_error: Option<(String, String)>,
    /// How often in a row it failed.
    pub failures: u32,
    /// When it is asked next; `None`: another relay asks.
    pub next_poll_at: Option<Timestamp>,
    /// The greatest value that was reached, a token masked; `None`: none yet.
    pub cursor: Option<String>,
    /// Pages of the last round.
    pub pages: u32,
    /// Items on them.
    pub items: u64,
    /// Of these, how many were new.
    pub taken: u64,
    /// How many were left out because they lie before where the source began.
    pub left_out: u64,
}

impl PollStatus {
    /// One that was never asked.
    pub(super) fn new(url: String, every: Duration) -> Self {
        Self {
            url,
            every,
            last_poll_at: None,
            last_success_at: None,
            last_error: None,
            failures: 0,
            next_poll_at: None,
            cursor: None,
            pages: 0,
            items: 0,
            taken: 0,
            left_out: 0,
        }
    }

    /// Notes what a round came to that began at `at`.
    pub(super) fn note(&mut self, at: Timestamp, fault: Option<&Fault>, tally: Tally) {
        self.last_poll_at = Some(at);
        (self.pages, self.items, self.taken, self.left_out) = (tally.pages, tally.items, tally.taken, tally.left_out);
        match fault {
            None => (self.failures, self.last_success_at) = (0, Some(at)),
            Some(_) => self.failures = self.failures.saturating_add(1),
        }
        self.last_error = fault.map(|fault| (fault.word(), fault.message.clone()));
    }

    /// Whether `fault`, the last of so many in a row, is worth telling people: each row of them once.
    pub(super) fn is_news(&self, fault: &Fault, told: bool) -> bool {
        !told && (fault.is_lasting() || TOLD_FROM <= self.failures)
    }
}

/// When a source is asked again whose round began at `began` and ended at `now`.
pub(super) fn next(began: Timestamp, now: Timestamp, every: Duration, failures: u32, fault: Option<&Fault>) -> Timestamp {
    match fault {
        // However the clock was set meanwhile.
        None => later(began, every).max(now).min(later(now, every)),
        Some(fault) => {
            let wished = fault.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            later(now, backoff(every, failures).max(wished))
        }
    }
}

/// `every` after the first failure, twice as long after each more, at most [`BACKOFF_MAX`].
fn backoff(every: Duration, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    every.saturating_mul(factor).min(BACKOFF_MAX.max(every))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::poll::fault::Code;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn rounds_begin_at_their_distance_and_one_that_took_longer_is_followed_at_once() {
        assert_eq!(next(at(0), at(5), MINUTE, 0, None), at(60));
        assert_eq!(next(at(0), at(90), MINUTE, 0, None), at(90));
        assert_eq!(next(at(9000), at(90), MINUTE, 0, None), at(150), "the clock was set back");
    }

    #[test]
    fn failures_are_met_with_growing_waits_and_wishes_of_the_api_with_theirs() {
        let after = |failures, retry_after: Option<u64>| {
            let fault = Fault::status(503, None, retry_after.map(Duration::from_secs));
            next(at(0), at(0), MINUTE, failures, Some(&fault)).as_second()
        };
        assert_eq!([1, 2, 3, 4, 5, 6, 100].map(|failures| after(failures, None)), [60, 120, 240, 480, 900, 900, 900]);
        assert_eq!((after(1, Some(300)), after(5, Some(300)), after(1, Some(1 << 40))), (300, 900, 3600));
        let daily = Duration::from_secs(86_400);
        assert_eq!(next(at(0), at(0), daily, 9, Some(&Fault::new(Code::BadAnswer, ""))).as_second(), 86_400);
    }

    #[test]
    fn what_lasts_is_told_at_once_and_what_passes_when_it_does_not() {
        let (mut status, refused, down) =
            (PollStatus::new(String::new(), MINUTE), Fault::status(401, None, None), Fault::status(503, None, None));
        status.note(at(0), Some(&refused), Tally::default());
        assert!(status.is_news(&refused, false) && !status.is_news(&refused, true) && !status.is_news(&down, false));
        (0..2).for_each(|_| status.note(at(0), Some(&down), Tally::default()));
        assert!(status.is_news(&down, false));
        status.note(at(1), None, Tally { pages: 1, items: 2, taken: 1, left_out: 0 });
        assert_eq!((status.failures, status.last_error, status.last_success_at, status.taken), (0, None, Some(at(1)), 1));
    }
}
