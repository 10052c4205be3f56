//! Ten targets, of which one never answers, one answers 500 and one drips its body: how late the other seven are, against the same
//! load on these seven alone. Either comes first in every other round.

use super::{Bench, meter};
use crate::{Outcome, receiver::Manner, relay::Target};

const RATE: u32 = 200; // events per second, each to all targets
const GOOD: u32 = 7; // targets
const SHARE_MAX: f64 = 1.25; // of the lag without the bad ones
const MORE_MAX_MS: f64 = 2.0; // or this much more

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let (without, with) = match bench.round.is_multiple_of(2) {
        false => (measure(bench, false).await?, measure(bench, true).await?),
        true => {
            let with = measure(bench, true).await?;
            (measure(bench, false).await?, with)
        }
    };
    bench.record("isolation_without_p99_ms", without);
    bench.record("isolation_with_p99_ms", with);
    bench.record("isolation_share", with / (without * SHARE_MAX).max(without + MORE_MAX_MS));
    Ok(())
}

/// The good targets' p99 lag.
async fn measure(bench: &mut Bench, with_bad: bool) -> Outcome<f64> {
    let (_place, relay) = bench.relay(targets(bench, with_bad)).await?;
    let load = bench.load(relay.public);
    let (report, metered) = tokio::join!(load.open(&bench.signer, RATE), meter(relay.pid(), None, &mut bench.receiver, load));
    bench.note_refused(&report?);
    let taken = metered?.taken;
    relay.stop().await?;
    let due = bench.options.seconds * u64::from(RATE * GOOD);
    if taken.delivered < due / 2 {
        bench.results.note(format!("isolation: only {} of {due} deliveries came in time", taken.delivered));
    }
    Ok(taken.lag_p99_ms)
}

fn targets(bench: &Bench, with_bad: bool) -> Vec<Target> {
    let kind = if with_bad { "beside" } else { "alone" };
    let mut targets: Vec<_> = (0..GOOD).map(|n| bench.target(&format!("{kind}-{n}"), Manner::Ok)).collect();
    if with_bad {
        let bad = [("silent", Manner::Never), ("failing", Manner::Error), ("dripping", Manner::Drip)];
        targets.extend(bad.map(|(name, manner)| bench.target(name, manner)));
    }
    targets
}
