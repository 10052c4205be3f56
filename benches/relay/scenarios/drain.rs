//! A backlog over eight targets, sent by one relay and by two that share it, each on a copy of the same database: who takes how long, and
//! what was sent twice. The targets are paused until the relays have settled which of them works on which, four each.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Bench, IN_FLIGHT};
use crate::{
    Outcome,
    load::Load,
    receiver::Manner,
    relay::{Relay, Routes, Target},
    stores::Place,
};

const TARGETS: u16 = 8;
const EVENTS: u64 = 10_000; // each to all targets
const SHARDS: u16 = hookyard::store::SHARDS;
const FILL_MAX: Duration = Duration::from_secs(120);
const SHARE_MAX: Duration = Duration::from_secs(60); // until relays have shared the lanes
const POLL: Duration = Duration::from_millis(250);
const SETTLE: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(2); // for what is sent twice, after all has come

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let targets = targets(bench);
    let backlog = fill(bench, &targets).await?;
    // Each twice, and either first in every other round: what the machine does beside it comes to both.
    let counts = if bench.round.is_multiple_of(2) { [1, 2, 2, 1] } else { [2, 1, 1, 2] };
    let (mut one, mut two) = (Drained::default(), Drained::default());
    for count in counts {
        let drained = if count == 1 { &mut one } else { &mut two };
        drain(bench, &backlog, &targets, count, drained).await?;
    }
    bench.record("drain_one_rate", one.rate());
    bench.record("drain_two_rate", two.rate());
    bench.record("drain_ratio", two.rate() / one.rate());
    bench.record("drain_twice", (one.twice + two.twice) as f64);
    Ok(())
}

/// What sending the backlog came to, as often as it was sent.
#[derive(Default)]
struct Drained {
    sent: u64,
    took: Duration,
    twice: u64,
}

impl Drained {
    fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }
}

/// Targets whose lanes lie evenly over all shards, so that two relays have as many each.
fn targets(bench: &Bench) -> Vec<Target> {
    let in_place = |n: u16| {
        let target = |k: u32| bench.target(&format!("drain-{n}-{k}"), Manner::Once);
        let there = |target: &Target| {
            let shard = hookyard::store::shard_of(&target.name.as_str().into());
            (n * (SHARDS / TARGETS)..(n + 1) * (SHARDS / TARGETS)).contains(&shard)
        };
        (0..).map(target).find(there)
    };
    let concurrency = Some(IN_FLIGHT / u32::from(TARGETS));
    (0..TARGETS).filter_map(in_place).map(|target| Target { concurrency, ..target }).collect()
}

/// A store with events that wait for all targets, which are paused.
async fn fill(bench: &mut Bench, targets: &[Target]) -> Outcome<Place> {
    let place = bench.stores.empty(bench.engine).await?;
    let relay = Relay::start(&place, &Routes::to(targets.to_vec())).await?;
    for target in targets {
        if !relay.pause(&target.name).await? {
            return Err("the relay cannot pause a target".into());
        }
    }
    let batch = Arc::new(bench.signer.batch(usize::try_from(EVENTS)?)?);
    let load = Load { warm_up: Duration::ZERO, length: FILL_MAX, ..bench.load(relay.public) };
    let report = load.closed(&batch).await?;
    relay.stop().await?;
    if report.accepted != EVENTS {
        return Err(format!("the relay took {} of {EVENTS} events for the backlog", report.accepted).into());
    }
    bench.stores.settle(&place).await?;
    Ok(place)
}

/// Lets `count` relays send a copy of the backlog, and adds what that came to.
async fn drain(bench: &mut Bench, backlog: &Place, targets: &[Target], count: usize, drained: &mut Drained) -> Outcome {
    let place = bench.stores.copy_of(backlog).await?;
    let mut relays = Vec::new();
    for _ in 0..count {
        relays.push(Relay::start(&place, &Routes::to(targets.to_vec())).await?);
    }
    share(bench, &place, count).await?;
    let mut asked = Vec::new();
    for target in targets {
        asked.push(owner(&relays, &target.name).await?.resume(&target.name));
    }
    bench.receiver.forget().await?;
    bench.receiver.take().await?;
    let (began, due) = (Instant::now(), EVENTS * u64::from(TARGETS));
    // All targets begin as one.
    for resumed in asked.into_iter().collect::<JoinSet<_>>().join_all().await {
        if !resumed? {
            return Err("a relay cannot resume a target".into());
        }
    }
    drained.twice += bench.receiver.wait_for(due).await?;
    drained.took += began.elapsed();
    drained.sent += due;
    sleep(LATE).await;
    drained.twice += bench.receiver.take().await?.repeated;
    for relay in relays {
        relay.stop().await?;
    }
    Ok(())
}

/// Waits until `count` relays have shared the shards evenly.
async fn share(bench: &Bench, place: &Place, count: usize) -> Outcome {
    let began = Instant::now();
    let even = vec![i64::from(SHARDS) / i64::try_from(count)?; count];
    loop {
        let shares = bench.stores.shares(place).await?;
        if shares == even {
            sleep(SETTLE).await;
            return Ok(());
        }
        if SHARE_MAX < began.elapsed() {
            return Err(format!("{count} relays did not share the lanes evenly: {shares:?}").into());
        }
        sleep(POLL).await;
    }
}

/// The one of `relays` that sends to `target`: any may be asked to resume it, but the others leave word of it, which is read a little later.
async fn owner<'r>(relays: &'r [Relay], target: &str) -> Outcome<&'r Relay> {
    for relay in relays {
        if relay.works_on(target).await? {
            return Ok(relay);
        }
    }
    Err(format!("no relay sends to {target}").into())
}
