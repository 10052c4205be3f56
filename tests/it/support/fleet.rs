//! Several relays on one store, as processes, and how soon what is done on one holds on the others.

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Home, Relay, Routes, SOON, relay, signed::interactor, until};

/// How long a change may take to hold everywhere.
pub(crate) const HELD_WITHIN: Duration = Duration::from_secs(2);

/// How soon changes hold elsewhere. On a machine that stands still now and then, the soonest of each kind counts.
#[derive(Default)]
pub(crate) struct Delays(pub(crate) BTreeMap<&'static str, Duration>);

impl Delays {
    pub(crate) async fn until<T>(&mut self, what: &'static str, probe: impl AsyncFnMut() -> Option<T>) -> T {
        let began = Instant::now();
        let found = until(what, SOON, probe).await;
        let soonest = self.0.entry(what).or_insert(SOON);
        *soonest = began.elapsed().min(*soonest);
        found
    }

    /// Prints them; each must hold within `most`.
    pub(crate) fn are_within(&self, most: Duration) {
        let _ = writeln!(std::io::stderr(), "replicas: holds elsewhere after {:?}", self.0);
        assert!(self.0.values().all(|soonest| *soonest <= most), "{:?}", self.0);
    }
}

/// Three relays on one store, and who sends to them.
pub(crate) struct Fleet {
    pub(crate) home: Home,
    pub(crate) file: Routes,
    pub(crate) relays: Vec<Option<Relay>>,
    /// Where each is, while it runs.
    pub(crate) addrs: Arc<Mutex<Vec<Option<SocketAddr>>>>,
}

impl Fleet {
    pub(crate) async fn start(home: Home, file: Routes, count: usize) -> Self {
        let mut relays = Vec::new();
        for _ in 0..count {
            relays.push(Some(Relay::start_in(&home, &file).await));
        }
        let addrs = relays.iter().map(|relay| relay.as_ref().map(|it| it.public)).collect();
        Self { home, file, relays, addrs: Arc::new(Mutex::new(addrs)) }
    }

    /// Takes one away, by SIGKILL or as a service manager does, and starts another in its place.
    pub(crate) async fn replace(&mut self, n: usize, kill: bool) {
        self.addrs.lock().unwrap()[n] = None;
        let relay = self.relays[n].take().unwrap();
        if kill {
            relay.kill();
        } else {
            assert!(relay.stop().await.success());
        }
        let relay = Relay::start_in(&self.home, &self.file).await;
        self.addrs.lock().unwrap()[n] = Some(relay.public);
        self.relays[n] = Some(relay);
    }

    /// The one whose lane `target` is, once somebody's is.
    pub(crate) async fn owner(&self, target: &str) -> usize {
        until("the lane to be somebody's", SOON, async || {
            for (n, relay) in self.relays.iter().enumerate() {
                if let Some(relay) = relay
                    && sends_to(&lane(relay, target).await)
                {
                    return Some(n);
                }
            }
            None
        })
        .await
    }

    /// Those that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Relay)> {
        self.relays.iter().enumerate().filter_map(|(n, relay)| Some((n, relay.as_ref()?)))
    }

    /// The one in this place, which runs.
    pub(crate) fn at(&self, n: usize) -> &Relay {
        self.relays[n].as_ref().unwrap()
    }

    /// Kills one, and leaves its place empty.
    pub(crate) fn kill(&mut self, n: usize) {
        self.addrs.lock().unwrap()[n] = None;
        self.relays[n].take().unwrap().kill();
    }

    pub(crate) fn any(&self) -> &Relay {
        self.relays.iter().flatten().next().unwrap()
    }
}

/// How a relay says that the lane of `target` stands.
pub(crate) async fn lane(relay: &Relay, target: &str) -> Value {
    relay.data(&format!("/api/v1/targets/{target}")).await
}

/// Whether who answered so sends to the target.
pub(crate) fn sends_to(row: &Value) -> bool {
    !row["attempts_per_minute"].is_null()
}

/// `pause`, `resume` or `close` of a target.
pub(crate) async fn tells(relay: &Relay, target: &str, verb: &str) {
    relay.posts(&format!("/api/v1/targets/{target}/{verb}"), &json!({})).await;
}

/// Some relay that runs.
pub(crate) fn one_of(addrs: &Mutex<Vec<Option<SocketAddr>>>) -> Option<SocketAddr> {
    let all: Vec<SocketAddr> = addrs.lock().unwrap().iter().flatten().copied().collect();
    (!all.is_empty()).then(|| all[fastrand::usize(..all.len())])
}

/// Sends `body` to one relay or another until it is acknowledged, as a platform behind a load balancer does.
pub(crate) async fn send_until_taken(client: &reqwest::Client, addrs: &Mutex<Vec<Option<SocketAddr>>>, body: &str) {
    loop {
        let Some(addr) = one_of(addrs) else { continue };
        let answer = relay::send(client, addr, &interactor(body)).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
