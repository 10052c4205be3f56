//! What time it is: the machine's clock in production, one that tests move by hand.

use std::{sync::Arc, time::Duration};

pub use jiff::Timestamp;
use tokio::sync::watch;

/// The one source of `now` and of waiting for a time. Pure code takes `now` as an argument instead.
#[derive(Clone, Debug)]
pub struct Clock(Inner);

#[derive(Clone, Debug)]
enum Inner {
    System,
    Manual(Arc<watch::Sender<Timestamp>>),
}

/// How long the system clock is slept on at most before it is read again, so that a step of the clock is noticed.
const NAP_MAX: Duration = Duration::from_secs(30);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Inner::System)
    }

    /// A clock that stands at `at` (RFC 3339) until [`Clock::advance`] moves it.
    ///
    /// # Panics
    /// When `at` is not a time: it is written in tests.
    #[expect(clippy::expect_used, reason = "for tests, which write the time themselves")]
    pub fn manual(at: &str) -> Self {
        Self::standing(at.parse().expect("a time in RFC 3339"))
    }

    /// A clock that stands at `at` until [`Clock::advance`] moves it.
    pub fn standing(at: Timestamp) -> Self {
        Self(Inner::Manual(Arc::new(watch::Sender::new(at))))
    }

    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Inner::System => Timestamp::now(),
            Inner::Manual(time) => *time.borrow(),
        }
    }

    /// Whether this is the machine's clock, which other machines' may differ from.
    pub fn is_system(&self) -> bool {
        matches!(self.0, Inner::System)
    }

    /// Moves a manual clock forward and wakes everybody whose time has come; the system clock is not moved.
    pub fn advance(&self, by: Duration) {
        if let Inner::Manual(time) = &self.0 {
            time.send_modify(|now| *now = later(*now, by));
        }
    }

    /// Sets a manual clock back, as somebody may do to the machine's.
    #[cfg(test)]
    pub(crate) fn set_back(&self, by: Duration) {
        if let Inner::Manual(time) = &self.0 {
            time.send_modify(|now| *now = earlier(*now, by));
        }
    }

    /// Waits for `by`. A step of the machine's clock neither shortens nor lengthens it.
    pub async fn sleep(&self, by: Duration) {
        match &self.0 {
            Inner::System => tokio::time::sleep(by).await,
            Inner::Manual(_) => self.sleep_until(later(self.now(), by)).await,
        }
    }

    /// Waits until this clock shows `at` or later.
    pub async fn sleep_until(&self, at: Timestamp) {
        match &self.0 {
            Inner::System => loop {
                let left = until(self.now(), at);
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(NAP_MAX)).await;
            },
            Inner::Manual(time) => {
                // The sender lives in `self`, so the channel cannot close while this waits.
                let _ = time.subscribe().wait_for(|now| at <= *now).await;
            }
        }
    }
}

/// `at` + `by`, held at the last representable time.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// `at` - `by`, held at the first representable time.
pub fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// How long from `now` until `at`; zero when `at` has passed.
pub fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// Milliseconds since 1970, as the store keeps times.
pub fn to_ms(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// The time of `ms` milliseconds since 1970; what lies outside the calendar is held at its ends.
pub fn from_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// `2026-01-20T12:00:00.412Z`: RFC 3339 in UTC with milliseconds, as the relay writes its own times.
pub fn rfc3339_ms(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// `90s`, `5m`, `24h`, `7d`: a length of time in the largest unit that tells all of it, as `routes.yaml` writes it.
pub fn short(length: Duration) -> String {
    let ms = length.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units.iter().find(|(_, unit)| ms != 0 && ms.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{ms}ms"), |(word, unit)| format!("{}{word}", ms / unit))
}

/// `2026-01-20T12:00:00Z`: RFC 3339 in UTC with whole seconds.
pub fn rfc3339_s(at: Timestamp) -> String {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    format!("{whole:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let at: Timestamp = "2026-01-20T13:00:00.4126+01:00".parse().unwrap();
        assert_eq!(rfc3339_ms(at), "2026-01-20T12:00:00.412Z");
        assert_eq!(rfc3339_s(at), "2026-01-20T12:00:00Z");
        assert_eq!(from_ms(to_ms(at)), "2026-01-20T12:00:00.412Z".parse().unwrap());
    }

    #[test]
    fn lengths_are_written_short() {
        let written = [90, 300, 86_400, 604_800, 5400].map(|s| short(Duration::from_secs(s)));
        assert_eq!(written, ["90s", "5m", "1d", "7d", "90m"]);
        assert_eq!([short(Duration::ZERO), short(Duration::from_millis(1500))], ["0ms", "1500ms"]);
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_those_whose_time_has_come() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let at = later(clock.now(), Duration::from_secs(60));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(at).await }
        });
        clock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
