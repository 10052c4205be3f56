//! What the tests share: the relay as a process, receivers it delivers to, senders' signatures, referees, and polling.

pub(crate) mod api;
pub(crate) mod app;
pub(crate) mod fleet;
pub(crate) mod honeyframe;
pub(crate) mod http;
pub(crate) mod postgres;
pub(crate) mod receiver;
pub(crate) mod referee;
pub(crate) mod relay;
pub(crate) mod routes;
pub(crate) mod seeds;
pub(crate) mod servers;
pub(crate) mod signed;
pub(crate) mod smtp;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod subscribed;

use std::time::{Duration, Instant};

pub(crate) use api::Api;
pub(crate) use app::{TestApp, spawn_app};
pub(crate) use http::{Answer, Request, raw};
pub(crate) use receiver::{Received, Receiver, Reply};
pub(crate) use relay::{Home, Relay};
pub(crate) use routes::{Routes, routes};

/// How long a test waits for what should happen at once; generous, since other tests share the processors.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(25);

/// Looks with `probe` until it yields something; fails after `within`, naming `what` was waited for.
pub(crate) async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks with `probe` again and again for `long`, and fails as soon as it is false: for what must not happen.
pub(crate) async fn throughout(what: &str, long: Duration, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + long;
    while Instant::now() < deadline {
        assert!(probe().await, "{what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// `count` seconds.
pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// `count` minutes.
pub(crate) const fn minutes(count: u64) -> Duration {
    seconds(count * 60)
}

/// `count` hours.
pub(crate) const fn hours(count: u64) -> Duration {
    minutes(count * 60)
}

/// Now, in Unix seconds.
pub(crate) fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// `offset` seconds from now as `2026-01-20T12:00:00Z`.
pub(crate) fn iso(offset: i64) -> String {
    jiff::Timestamp::from_second(unix_now() + offset).unwrap().to_string()
}
