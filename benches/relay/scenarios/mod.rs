//! What is measured, a file each. All start relays of their own on a copy of the filled store, put a load on, and record figures.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::sleep;

use crate::{
    Outcome,
    load::{Load, Report},
    options::{Options, Scenario},
    process,
    receiver::{Manner, Receiver, Taken},
    relay::{Relay, Routes, Target},
    requests::{Batch, Signer},
    stores::{Place, Stores},
    table::Results,
};

mod backlog;
mod bare;
mod delivery;
mod fill;
mod footprint;
mod ingest;
mod isolation;
mod latency;
mod planning;
mod reload;
mod rules;
mod soak;
mod subscriptions;

const WARM_UP: Duration = Duration::from_secs(1);
const RATE_MAX: u64 = 60_000; // requests per second that are signed in advance
/// Attempts under way at once, all targets together, where throughput of delivery is measured.
const IN_FLIGHT: u32 = 64;

/// What every scenario works with.
pub(crate) struct Bench {
    /// What was asked for.
    pub(crate) options: Options,
    /// What was found.
    pub(crate) results: Results,
    signer: Signer,
    stores: Stores,
    receiver: Receiver,
    run: String,
    round: u32,
}

/// What a process did while a load was counted.
struct Metered {
    cpu_us: f64,
    taken: Taken,
}

impl Bench {
    /// Gets ready: the receiver runs, nothing is filled yet.
    pub(crate) async fn new(options: Options) -> Outcome<Self> {
        let mut run = [0; 4];
        SystemRandom::new().fill(&mut run).map_err(|_| "the system gives no random bytes")?;
        Ok(Self {
            stores: Stores::new(options.store_url.clone()),
            receiver: Receiver::start().await?,
            results: Results::default(),
            signer: Signer::new(),
            run: hookyard::sign::hex(&run),
            round: 0,
            options,
        })
    }

    /// Measures all that was asked for, round after round, so that a change of the machine meets every figure alike.
    pub(crate) async fn run(&mut self) -> Outcome {
        if self.options.store_url.is_some() {
            self.results.note("one given store was used for everything: it grew from figure to figure and was never empty");
        }
        if self.options.wants(Scenario::Rules) {
            say("ten thousand rules");
            rules::run(self)?;
        }
        if self.options.wants(Scenario::Subscriptions) {
            say("ten thousand subscriptions");
            subscriptions::run(self)?;
        }
        if self.options.wants_rounds() {
            say(format!("filling the store with {} events", self.options.prefill));
            fill::run(self).await?;
            for round in 1..=self.options.rounds {
                self.round = round;
                self.one_round().await?;
            }
        }
        if self.options.wants(Scenario::Soak) {
            soak::run(self).await?;
        }
        Ok(())
    }

    async fn one_round(&mut self) -> Outcome {
        if self.options.wants_bare() {
            self.begins("bare handler");
            bare::run(self).await?;
        }
        if self.options.wants(Scenario::Ingest) {
            self.begins("ingest");
            ingest::run(self).await?;
        }
        if self.options.wants(Scenario::Delivery) {
            self.begins("delivery");
            delivery::run(self).await?;
        }
        if self.options.wants(Scenario::Latency) {
            self.begins("latency");
            latency::run(self).await?;
        }
        if self.options.wants(Scenario::Isolation) {
            self.begins("isolation");
            isolation::run(self).await?;
        }
        if self.options.wants(Scenario::Reload) {
            self.begins("reload");
            reload::run(self).await?;
        }
        if self.options.wants(Scenario::Footprint) {
            self.begins("footprint");
            footprint::run(self).await?;
        }
        if self.options.wants(Scenario::Backlog) {
            self.begins("backlog");
            backlog::run(self).await?;
        }
        Ok(())
    }

    fn begins(&self, what: &str) {
        say(format!("round {} of {}: {what}", self.round, self.options.rounds));
    }

    /// A relay on a copy of the filled store. The place comes first so that it outlives its relay.
    async fn relay(&self, targets: Vec<Target>) -> Outcome<(Place, Relay)> {
        let place = self.stores.filled()?;
        let relay = Relay::start(&place, &Routes::to(targets)).await?;
        Ok((place, relay))
    }

    /// A target whose name no other run or round has used: on a store that outlives them, what they left stays theirs.
    fn target(&self, name: &str, manner: Manner) -> Target {
        let name = format!("{name}-{}-{}", self.run, self.round);
        Target { name, url: self.receiver.url(manner), concurrency: None }
    }

    /// The load that was asked for, towards `address`.
    fn load(&self, address: std::net::SocketAddr) -> Load {
        let connections = usize::from(self.options.connections);
        Load { address, connections, warm_up: WARM_UP, length: self.options.length() }
    }

    /// As many signed requests as a relay could take in while a load runs.
    fn requests(&self) -> Outcome<Arc<Batch>> {
        let count = (WARM_UP.as_secs() + self.options.seconds) * RATE_MAX;
        Ok(Arc::new(self.signer.batch(usize::try_from(count)?)?))
    }

    /// Puts a closed load on `relay` as fast as it goes.
    async fn saturate(&mut self, relay: &Relay) -> Outcome<(Report, Metered)> {
        let (load, batch) = (self.load(relay.public), self.requests()?);
        let (report, metered) = tokio::join!(load.closed(&batch), meter(relay.pid(), &mut self.receiver, load));
        let (report, metered) = (report?, metered?);
        if report.took < load.length.mul_f64(0.9) {
            self.results.note("a relay took requests faster than they were signed in advance");
        }
        self.note_refused(&report);
        Ok((report, metered))
    }

    fn note_refused(&mut self, report: &Report) {
        if report.refused != 0 {
            self.results.note(format!("round {}: {} requests were not answered 200", self.round, report.refused));
        }
    }
}

/// What process `pid` spends and what reaches the receiver while `load` is counted.
async fn meter(pid: u32, receiver: &mut Receiver, load: Load) -> Outcome<Metered> {
    sleep(load.warm_up).await;
    let before = process::cpu_us(pid)?;
    receiver.take().await?;
    sleep(load.length).await;
    let taken = receiver.take().await?;
    Ok(Metered { cpu_us: process::cpu_us(pid)? - before, taken })
}

/// Tells the person who waits.
fn say(what: impl AsRef<str>) {
    // When nobody can read it, the measurement goes on.
    let _ = writeln!(io::stderr(), "{}", what.as_ref());
}

/// Events or deliveries as a divisor: at least one.
fn at_least_one(count: u64) -> f64 {
    count.max(1) as f64
}
