//! What is measured, a file each. All start relays of their own on a copy of the filled store, put a load on, and record figures.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::sleep;

use crate::{
    Outcome,
    load::{Load, Report},
    options::{Engine, Options, Scenario},
    postgres::Server,
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
mod drain;
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

/// What a round measures, in this order.
const ROUND: [Scenario; 8] = [
    Scenario::Ingest,
    Scenario::Delivery,
    Scenario::Latency,
    Scenario::Isolation,
    Scenario::Reload,
    Scenario::Footprint,
    Scenario::Backlog,
    Scenario::Drain,
];
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
    /// On which it is measured now: relays that are started get such a store, and figures go into its column.
    engine: Engine,
    engines: Vec<Engine>,
    stores: Stores,
    receiver: Receiver,
    run: String,
    round: u32,
}

/// What a process did while a load was counted.
struct Metered {
    cpu_us: f64,
    /// All processes of the store's server, where it is one of the bench's own.
    server_cpu_us: Option<f64>,
    taken: Taken,
}

impl Bench {
    /// Gets ready: the receiver runs, nothing is filled yet.
    pub(crate) async fn new(options: Options) -> Outcome<Self> {
        let mut run = [0; 4];
        SystemRandom::new().fill(&mut run).map_err(|_| "the system gives no random bytes")?;
        let (mut engines, mut results, mut server) = (options.engines(), Results::default(), None);
        if options.store_url.is_none() && options.wants_engine(Engine::Postgres) {
            server = Server::start().await?;
            match &server {
                Some(server) => results.note(server.described().await?),
                None => {
                    engines.retain(|engine| *engine != Engine::Postgres);
                    results.note("PostgreSQL is not installed here (apt-get install postgresql): its column is missing");
                }
            }
        }
        Ok(Self {
            stores: Stores::new(options.store_url.clone(), server),
            receiver: Receiver::start().await?,
            results,
            engine: engines.first().copied().unwrap_or(Engine::Sqlite),
            engines,
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
        for engine in self.engines.clone() {
            self.engine = engine;
            if self.options.wants_filled_on(engine) {
                say(format!("filling the store ({}) with {} events", engine.name(), self.options.prefill));
                fill::run(self).await?;
            }
        }
        if self.options.wants_rounds() {
            for round in 1..=self.options.rounds {
                self.round = round;
                self.one_round().await?;
            }
        }
        self.engine = self.engines.first().copied().unwrap_or(Engine::Sqlite);
        if self.options.wants_on(Scenario::Soak, self.engine) {
            soak::run(self).await?;
        }
        Ok(())
    }

    async fn one_round(&mut self) -> Outcome {
        if self.options.wants_bare() {
            self.begins("bare handler");
            bare::run(self).await?;
        }
        for scenario in ROUND {
            for engine in self.engines.clone() {
                self.engine = engine;
                if self.options.wants_on(scenario, engine) {
                    self.one_scenario(scenario).await?;
                }
            }
        }
        Ok(())
    }

    async fn one_scenario(&mut self, scenario: Scenario) -> Outcome {
        self.begins(
            scenario.to_possible_value().map_or_else(String::new, |it| format!("{}, {}", it.get_name(), self.engine.name())),
        );
        match scenario {
            Scenario::Ingest => ingest::run(self).await,
            Scenario::Delivery => delivery::run(self).await,
            Scenario::Latency => latency::run(self).await,
            Scenario::Isolation => isolation::run(self).await,
            Scenario::Reload => reload::run(self).await,
            Scenario::Footprint => footprint::run(self).await,
            Scenario::Backlog => backlog::run(self).await,
            Scenario::Drain => drain::run(self).await,
            // Once, not in every round.
            Scenario::Rules | Scenario::Subscriptions | Scenario::Soak => Ok(()),
        }
    }

    fn begins(&self, what: impl std::fmt::Display) {
        say(format!("round {} of {}: {what}", self.round, self.options.rounds));
    }

    /// Adds the figure `key` of this round, of the store it is measured on now.
    fn record(&mut self, key: &'static str, value: f64) {
        self.results.record(Some(self.engine), key, value);
    }

    /// The same, where there is one.
    fn record_some(&mut self, key: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.record(key, value);
        }
    }

    /// A relay on a copy of the filled store. The place comes first so that it outlives its relay.
    async fn relay(&mut self, targets: Vec<Target>) -> Outcome<(Place, Relay)> {
        let place = self.stores.filled(self.engine).await?;
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
        let server = self.stores.server().filter(|_| self.engine == Engine::Postgres).map(Server::pid);
        let (report, metered) = tokio::join!(load.closed(&batch), meter(relay.pid(), server, &mut self.receiver, load));
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

/// What process `pid` and the store's `server` spend and what reaches the receiver while `load` is counted.
async fn meter(pid: u32, server: Option<u32>, receiver: &mut Receiver, load: Load) -> Outcome<Metered> {
    sleep(load.warm_up).await;
    let spent = || Outcome::Ok((process::cpu_us(pid)?, server.map(process::cpu_us_of_all).transpose()?));
    let before = spent()?;
    receiver.take().await?;
    sleep(load.length).await;
    let taken = receiver.take().await?;
    let after = spent()?;
    Ok(Metered { cpu_us: after.0 - before.0, server_cpu_us: after.1.zip(before.1).map(|(after, before)| after - before), taken })
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
