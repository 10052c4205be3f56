//! Durable intake as fast as it goes: every event is planned for one target, which is paused.

use super::{Bench, at_least_one};
use crate::{
    Outcome,
    receiver::Manner,
    relay::{Relay, Target},
};

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let target = Target { concurrency: Some(1), ..bench.target("paused", Manner::Never) };
    let name = target.name.clone();
    let (_place, relay) = bench.relay(vec![target]).await?;
    pause(bench, &relay, &name).await?;
    let (report, metered) = bench.saturate(&relay).await?;
    relay.stop().await?;
    bench.record("ingest_rate", report.rate());
    bench.record("ingest_p50_ms", report.latency.percentile_ms(0.5));
    bench.record("ingest_p99_ms", report.latency.percentile_ms(0.99));
    bench.record("ingest_p999_ms", report.latency.percentile_ms(0.999));
    bench.record("ingest_cpu_us", metered.cpu_us / at_least_one(report.accepted));
    bench.record_some("ingest_server_cpu_us", metered.server_cpu_us.map(|us| us / at_least_one(report.accepted)));
    Ok(())
}

/// The target never answers and has one attempt at a time: as near to paused as a relay gets that cannot pause.
async fn pause(bench: &mut Bench, relay: &Relay, name: &str) -> Outcome {
    if !relay.pause(name).await? {
        bench.results.note("ingest: this relay cannot pause a target, so it has one that never answers, concurrency 1");
    }
    Ok(())
}
