//! Who may send how much: verified requests per source, failing ones per source and client. Memory is bounded whatever comes.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{RateLimiter, clock, middleware::NoOpMiddleware, nanos::Nanos, state::keyed::HashMapStateStore};

use super::answer::Limited;
use crate::{
    clock::Clock,
    config::decode::Rate,
    rate::{Ticks, quota},
};

/// `failure_limit` by default, per source and client address.
pub(crate) const FAILURES: Rate = Rate::per_second(100, 1000);
/// Keys that one limiter remembers; beyond, those that are not at their limit are forgotten.
const KEYS_MAX: usize = 65_536;

/// A limiter with a bucket for each key.
pub(crate) struct Keyed<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, Ticks, NoOpMiddleware<Nanos>>,
    rate: Rate,
    ticks: Ticks,
    swept: Mutex<Nanos>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// Lets `rate` through for each key.
    pub(crate) fn new(rate: Rate, clock: &Clock) -> Self {
        let ticks = Ticks::new(clock.clone());
        let limiter = RateLimiter::hashmap_with_clock(quota(rate), ticks.clone());
        Self { limiter, rate, swept: Mutex::new(clock::Clock::now(&ticks)), ticks }
    }

    /// What it lets through.
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one from the bucket of `key`; says when to come back if there is none.
    pub(crate) fn take(&self, key: &K) -> Result<(), Limited> {
        if KEYS_MAX <= self.limiter.len() {
            self.sweep();
        }
        self.limiter.check_key(key).map_err(|until| {
            let wait = until.wait_time_from(clock::Clock::now(&self.ticks));
            Limited { limit: self.rate.burst, wait }
        })
    }

    /// Forgets keys whose bucket is full again; at most once a second, since it looks at every key.
    fn sweep(&self) {
        let now = clock::Clock::now(&self.ticks);
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if Duration::from_secs(1) <= Duration::from_nanos(now.as_u64().saturating_sub(swept.as_u64())) {
            *swept = now;
            self.limiter.retain_recent();
        }
    }
}

/// Who a client is, as far as limits go: an IPv4 address, or the first 64 bits of an IPv6 one, of which one client has 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    /// The client behind `address`.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(limit: &Keyed<&str>, key: &'static str, times: usize) -> usize {
        (0..times).filter(|_| limit.take(&key).is_ok()).count()
    }

    #[test]
    fn each_key_has_its_own_bucket_which_fills_again() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let limit = Keyed::new(Rate::per_second(10, 20), &clock);
        assert_eq!((taken(&limit, "a", 50), taken(&limit, "b", 5)), (20, 5));
        let limited = limit.take(&"a").unwrap_err();
        assert_eq!(limited, Limited { limit: 20, wait: Duration::from_millis(100) });
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&limit, "a", 50), 10);
    }

    #[test]
    fn slow_rates_are_exact() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let limit = Keyed::new(Rate { count: 2, per: Duration::from_secs(3600), burst: 1 }, &clock);
        assert_eq!(taken(&limit, "a", 3), 1);
        clock.advance(Duration::from_secs(1800));
        assert_eq!(taken(&limit, "a", 3), 1);
    }

    #[test]
    fn keys_are_forgotten_when_there_are_too_many() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let limit = Keyed::new(Rate::per_second(100, 100), &clock);
        (0..KEYS_MAX).for_each(|key| _ = limit.take(&key));
        clock.advance(Duration::from_secs(2));
        limit.take(&KEYS_MAX).unwrap();
        assert!(limit.limiter.len() <= 2);
    }

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        let client = |text: &str| Client::of(text.parse().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }
}
