//! The command line of the benchmark.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use hookyard::secret::Secret;

/// Measures the relay against a bare axum handler on this machine: throughput, latency, isolation, footprint.
#[derive(Parser)]
#[command(name = "cargo bench --bench relay --")]
pub(crate) struct Options {
    /// Rounds; each figure is the median of all
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How long each measurement counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=240))]
    pub(crate) seconds: u64,
    /// Connections of the load generator
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) connections: u16,
    /// Events in the store before anything is measured
    #[arg(long, default_value_t = 300_000)]
    pub(crate) prefill: u64,
    /// Events that wait for a target that is down
    #[arg(long, default_value_t = 100_000)]
    pub(crate) backlog: u64,
    /// Measure only on this store (may be repeated); default: both, PostgreSQL where its programs are installed
    #[arg(long)]
    pub(crate) store: Vec<Engine>,
    /// A store to use for everything, filled first; default: a new one of the bench's own, copied for each measurement
    #[arg(long, value_parser = secret, conflicts_with = "store")]
    pub(crate) store_url: Option<Secret>,
    /// Measure only this (may be repeated); default: everything but the soak
    #[arg(long)]
    pub(crate) only: Vec<Scenario>,
    /// Length of the soak
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub(crate) minutes: u64,
    /// Events per second of the soak
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Write the figures as JSON here instead of to stdout, below the table
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// What cargo adds when it runs benchmarks, and not when it runs tests
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// The part this process has
    #[arg(long, hide = true)]
    pub(crate) role: Option<Role>,
}

/// What keeps the events: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Engine {
    /// A file of each relay's own
    Sqlite,
    /// A server beside the relay
    Postgres,
}

impl Engine {
    /// All of them, in the order of the columns.
    pub(crate) const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    /// As the command line writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// Something that is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Durable intake, every event matching one target that takes none
    Ingest,
    /// Delivered per second while intake runs, with one target and with four
    Delivery,
    /// Latency of intake and of delivery at a fixed rate
    Latency,
    /// What three bad targets among ten do to the others
    Isolation,
    /// What fifty reloads do to intake at a fixed rate
    Reload,
    /// Memory at rest and time to the first answer
    Footprint,
    /// Memory while many events wait for a target that is down
    Backlog,
    /// A backlog over eight targets, drained by one relay and by two that share it; PostgreSQL only
    Drain,
    /// Loading ten thousand rules, and planning an event that one of them matches
    Rules,
    /// Planning for ten thousand subscriptions, and changing one of them
    Subscriptions,
    /// A long steady run with short retention, minute by minute
    Soak,
}

/// The parts that are played by processes of their own.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    /// The bare axum handler
    Bare,
    /// The target of all deliveries
    Receiver,
}

impl Role {
    /// As the command line writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Receiver => "receiver",
        }
    }
}

impl Options {
    /// The stores that are to be measured on.
    pub(crate) fn engines(&self) -> Vec<Engine> {
        if let Some(url) = &self.store_url {
            let postgres = url.reveal().starts_with("postgres");
            return vec![if postgres { Engine::Postgres } else { Engine::Sqlite }];
        }
        Engine::ALL.into_iter().filter(|engine| self.store.is_empty() || self.store.contains(engine)).collect()
    }

    /// Whether `scenario` is to be measured on `engine`: on PostgreSQL, what a store changes much; all of it on a store that was given.
    pub(crate) fn wants_on(&self, scenario: Scenario, engine: Engine) -> bool {
        let own = match engine {
            Engine::Sqlite => scenario != Scenario::Drain,
            Engine::Postgres => {
                matches!(scenario, Scenario::Ingest | Scenario::Delivery | Scenario::Latency | Scenario::Drain)
            }
        };
        let given = self.store_url.is_some() && scenario != Scenario::Drain;
        self.wants(scenario) && (own || given)
    }

    /// Whether anything is to be measured on `engine`.
    pub(crate) fn wants_engine(&self, engine: Engine) -> bool {
        self.engines().contains(&engine) && Scenario::value_variants().iter().any(|scenario| self.wants_on(*scenario, engine))
    }

    /// Whether anything is to be measured on a filled `engine`.
    pub(crate) fn wants_filled_on(&self, engine: Engine) -> bool {
        let without = [Scenario::Soak, Scenario::Rules, Scenario::Subscriptions, Scenario::Drain];
        let filled = |scenario: &&Scenario| !without.contains(scenario);
        Scenario::value_variants().iter().filter(filled).any(|scenario| self.wants_on(*scenario, engine))
    }

    /// Whether `scenario` is to be measured.
    pub(crate) fn wants(&self, scenario: Scenario) -> bool {
        match self.only.is_empty() {
            true => scenario != Scenario::Soak,
            false => self.only.contains(&scenario),
        }
    }

    /// Whether any figure is held against that of the bare handler.
    pub(crate) fn wants_bare(&self) -> bool {
        self.wants(Scenario::Ingest) || self.wants(Scenario::Delivery)
    }

    /// Whether anything is to be measured in rounds, which the soak, the rules and the subscriptions are not.
    pub(crate) fn wants_rounds(&self) -> bool {
        let once = |only: &Scenario| matches!(only, Scenario::Soak | Scenario::Rules | Scenario::Subscriptions);
        self.only.is_empty() || !self.only.iter().all(once)
    }

    /// How long each measurement counts.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}
