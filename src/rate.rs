//! Rates as governor counts them, over the relay's own clock.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, direct::NotKeyed},
};

use crate::{
    clock::{Clock, Timestamp, later, until},
    config::decode::Rate,
};

/// One bucket: lets a rate through.
pub(crate) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Nanos>>,
    ticks: Ticks,
    clock: Clock,
}

impl Bucket {
    /// Lets `rate` through, its burst first.
    pub(crate) fn new(rate: Rate, clock: &Clock) -> Self {
        let ticks = Ticks::new(clock.clone());
        let limiter = RateLimiter::direct_with_clock(quota(rate), ticks.clone());
        Self { limiter, ticks, clock: clock.clone() }
    }

    /// Takes one; says from when on there is one if there is none.
    pub(crate) fn take(&self) -> Result<(), Timestamp> {
        self.limiter.check().map_err(|until| {
            let wait = until.wait_time_from(clock::Clock::now(&self.ticks));
            later(self.clock.now(), wait)
        })
    }
}

/// `rate` as governor counts it. Numbers are checked when the configuration is read; the fallback lets one a second through.
pub(crate) fn quota(rate: Rate) -> Quota {
    let count = rate.count.max(1);
    let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(rate.per / count).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

/// The relay's clock as governor reads it: nanoseconds that never run backwards, even when the machine's clock is set back.
#[derive(Clone)]
pub(crate) struct Ticks(Arc<TicksInner>);

struct TicksInner {
    clock: Clock,
    last: Mutex<(Timestamp, u64)>,
}

impl Ticks {
    /// Begins at `clock`'s now.
    pub(crate) fn new(clock: Clock) -> Self {
        // A start well above zero: governor subtracts from it.
        let start = (clock.now(), Duration::from_secs(86_400).as_nanos() as u64);
        Self(Arc::new(TicksInner { clock, last: Mutex::new(start) }))
    }
}

impl clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let now = self.0.clock.now();
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = until(last.0, now);
        *last = (now, last.1.saturating_add(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX / 2)));
        Nanos::new(last.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let bucket = Bucket::new(Rate::per_second(10, 20), &clock);
        let take = |times: u32| (0..times).filter(|_| bucket.take().is_ok()).count();
        assert_eq!(take(50), 20);
        assert_eq!(bucket.take(), Err(later(clock.now(), Duration::from_millis(100))));
        clock.advance(Duration::from_secs(1));
        assert_eq!(take(50), 10);
    }
}
