//! How much may be asked of the API: each created token its rate, and each client address so many wrong tokens.
//!
//! The token that the relay was started with has no rate. It may be short, though, where created ones are 256 random bits that nobody
//! guesses at any speed: so only it is refused to an address that has shown too many wrong ones, unless that address has shown the
//! right one before. Whoever keeps asking with a revoked token thus locks nobody else out of what works.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::{RateLimiter, clock::Clock as _, middleware::StateInformationMiddleware, state::keyed::HashMapStateStore};

use super::error::ApiError;
use crate::{
    clock::{Clock, Timestamp, later},
    config::decode::Rate,
    ingest::limits::{Client, Keyed},
    live::Live,
    rate::{Ticks, quota},
};

/// Wrong tokens that one address may show.
const WRONG: Rate = Rate::per_second(10, 100);
/// How long a client waits that has shown too many, in seconds.
const WRONG_WAIT: u32 = 1;
/// Addresses remembered that have shown the right token; beyond, the first ones are forgotten.
const TRUSTED_MAX: usize = 4096;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The limits of the API.
pub(crate) struct Limits {
    clock: Clock,
    tokens: Live<PerToken>,
    wrong: Keyed<Client>,
    trusted: Mutex<BTreeSet<IpAddr>>,
}

/// The rates of tokens, as long as one file says how high they are.
struct PerToken {
    rate: Rate,
    // Only tokens that were verified have a bucket, and there are so many tokens at most.
    limiter: RateLimiter<String, HashMapStateStore<String>, Ticks, StateInformationMiddleware>,
    ticks: Ticks,
}

/// What a token has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    limit: u32,
    remaining: u32,
    /// When it has all of its limit again.
    full_at: Timestamp,
    /// How long until the next request is let through, where this one is not.
    pub(super) wait: Option<Duration>,
}

/// What a token was that is no created one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guess {
    /// The one that the relay was started with.
    Right,
    /// None.
    Wrong,
    /// The client has shown too many wrong ones.
    TooMany,
}

impl Limits {
    /// Lets each token ask at `rate`.
    pub(crate) fn new(rate: Rate, clock: &Clock) -> Self {
        let tokens = Live::new(Arc::new(PerToken::new(rate, clock)));
        Self { clock: clock.clone(), tokens, wrong: Keyed::new(WRONG, clock), trusted: Mutex::default() }
    }

    /// Takes one request of token `id`, at the `rate` that holds now.
    pub(super) fn take(&self, id: &str, rate: Rate) -> Left {
        let mut tokens = self.tokens.now();
        if tokens.rate != rate {
            tokens = Arc::new(PerToken::new(rate, &self.clock));
            self.tokens.replace(tokens.clone());
        }
        tokens.take(id, self.clock.now())
    }

    /// What a client at `address` shows is no created token: whether it is held against `right`, the token that the relay was started
    /// with, and if so, whether it is that.
    pub(super) fn guess(&self, address: IpAddr, right: impl FnOnce() -> bool) -> Guess {
        // Where it is trusted, only wrong ones count.
        let trusted = self.trusted().contains(&address);
        let room = || self.wrong.take(&Client::of(address)).is_ok();
        if !trusted && !room() {
            return Guess::TooMany;
        }
        match right() {
            true => {
                self.trust(address);
                Guess::Right
            }
            false if trusted && !room() => Guess::TooMany,
            false => Guess::Wrong,
        }
    }

    fn trust(&self, address: IpAddr) {
        let mut trusted = self.trusted();
        if TRUSTED_MAX <= trusted.len() && !trusted.contains(&address) {
            trusted.pop_first();
        }
        trusted.insert(address);
    }

    fn trusted(&self) -> std::sync::MutexGuard<'_, BTreeSet<IpAddr>> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PerToken {
    fn new(rate: Rate, clock: &Clock) -> Self {
        let ticks = Ticks::new(clock.clone());
        let limiter = RateLimiter::hashmap_with_clock(quota(rate), ticks.clone()).with_middleware();
        Self { rate, limiter, ticks }
    }

    fn take(&self, id: &str, now: Timestamp) -> Left {
        let limit = self.rate.burst.max(1);
        let each = self.rate.per / self.rate.count.max(1);
        let full_at = |remaining: u32| later(now, each.saturating_mul(limit - remaining));
        match self.limiter.check_key(&id.to_owned()) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity().min(limit);
                Left { limit, remaining, full_at: full_at(remaining), wait: None }
            }
            Err(until) => {
                let wait = until.wait_time_from(self.ticks.now());
                Left { limit, remaining: 0, full_at: full_at(0), wait: Some(wait) }
            }
        }
    }
}

impl Left {
    /// Tells the caller how it stands, as Interactor does ("Rate limit headers"): its limit, what is left of it, and when in Unix
    /// seconds it has all of it again.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        // A refusal may speak of another limit.
        if !headers.contains_key(LIMIT) {
            headers.insert(LIMIT, HeaderValue::from(self.limit));
            headers.insert(REMAINING, HeaderValue::from(self.remaining));
            headers.insert(RESET, HeaderValue::from(ceiled(self.full_at)));
        }
    }
}

/// The refusal of a client that has shown too many wrong tokens.
pub(super) fn too_many_wrong(now: Timestamp) -> ApiError {
    ApiError::Crowded {
        message: format!("too many wrong tokens came from this address: come back in {WRONG_WAIT} s"),
        limit: WRONG.burst,
        reset_at: now.as_second() + i64::from(WRONG_WAIT),
        retry_after: WRONG_WAIT,
    }
}

/// `at` in Unix seconds, rounded up: not before it.
fn ceiled(at: Timestamp) -> i64 {
    at.as_second() + i64::from(0 < at.subsec_nanosecond())
}

/// `wait` in whole seconds, at least one.
pub(super) fn seconds(wait: Duration) -> u64 {
    let more = u64::from(0 < wait.subsec_nanos());
    (wait.as_secs() + more).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn each_token_has_its_rate_and_is_told_what_is_left() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let (limits, rate, now) = (Limits::new(Rate::per_second(1, 1), &clock), Rate::per_second(20, 100), clock.now());
        let first = limits.take("tok_a", rate);
        assert_eq!(
            (first.limit, first.remaining, first.full_at, first.wait),
            (100, 99, later(now, Duration::from_millis(50)), None)
        );
        let last = (1..100).map(|_| limits.take("tok_a", rate)).last().unwrap();
        assert_eq!((last.remaining, last.full_at, last.wait), (0, later(now, Duration::from_secs(5)), None));
        let refused = limits.take("tok_a", rate);
        assert_eq!((refused.remaining, refused.wait), (0, Some(Duration::from_millis(50))));
        assert_eq!(limits.take("tok_b", rate).remaining, 99);
        clock.advance(Duration::from_secs(1));
        assert_eq!((0..50).filter(|_| limits.take("tok_a", rate).wait.is_none()).count(), 20);
        // Another file.
        assert_eq!(limits.take("tok_a", Rate::per_second(1, 2)).remaining, 1);
    }

    #[test]
    fn a_token_is_told_as_interactor_does() {
        let full_at = "2026-01-20T12:00:00.001Z".parse().unwrap();
        let mut headers = HeaderMap::new();
        Left { limit: 100, remaining: 7, full_at, wait: None }.tell(&mut headers);
        let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(told, [("x-ratelimit-limit", "100"), ("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "1768910401")]);
        assert_eq!((seconds(Duration::ZERO), seconds(Duration::from_secs(2)), seconds(Duration::from_millis(2001))), (1, 2, 3));
    }

    #[test]
    fn who_shows_too_many_wrong_tokens_is_not_told_which_is_right() {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let limits = Limits::new(Rate::per_second(1, 1), &clock);
        assert_eq!(limits.guess(THERE, || true), Guess::Right);
        for _ in 0..100 {
            assert_eq!(limits.guess(HERE, || false), Guess::Wrong);
        }
        assert_eq!(limits.guess(HERE, || panic!("it is held against the right one")), Guess::TooMany);
        // Whoever has shown it before still may, and a wrong one from there counts as well.
        for _ in 0..100 {
            limits.guess(THERE, || false);
        }
        assert_eq!((limits.guess(THERE, || false), limits.guess(THERE, || true)), (Guess::TooMany, Guess::Right));
        clock.advance(Duration::from_millis(100));
        assert_eq!((limits.guess(HERE, || true), limits.guess(HERE, || false)), (Guess::Right, Guess::TooMany));
    }

    #[test]
    fn addresses_that_are_trusted_are_so_many_at_most() {
        let limits = Limits::new(Rate::per_second(1, 1), &Clock::manual("2026-01-20T12:00:00Z"));
        for n in 0..u32::try_from(TRUSTED_MAX).unwrap() + 5 {
            limits.guess(IpAddr::V4(n.into()), || true);
        }
        assert_eq!(limits.trusted().len(), TRUSTED_MAX);
    }
}
