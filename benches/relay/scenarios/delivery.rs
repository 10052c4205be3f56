//! Deliveries per second while intake runs as fast as it goes, to one signed target and to four, with as many attempts under way in all.

use super::{Bench, IN_FLIGHT, at_least_one};
use crate::{Outcome, receiver::Manner, relay::Target};

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    measure(bench, 1, ["deliver_1_rate", "deliver_1_ingest_rate", "deliver_1_cpu_us", "deliver_1_server_cpu_us"]).await?;
    measure(bench, 4, ["deliver_4_rate", "deliver_4_ingest_rate", "deliver_4_cpu_us", "deliver_4_server_cpu_us"]).await
}

async fn measure(bench: &mut Bench, count: u32, [rate, ingest_rate, cpu, server_cpu]: [&'static str; 4]) -> Outcome {
    let target = |n| Target { concurrency: Some(IN_FLIGHT / count), ..bench.target(&format!("of-{count}-{n}"), Manner::Ok) };
    let (_place, relay) = bench.relay((1..=count).map(target).collect()).await?;
    let (report, metered) = bench.saturate(&relay).await?;
    relay.stop().await?;
    let delivered = metered.taken.delivered;
    bench.record(rate, delivered as f64 / bench.options.length().as_secs_f64());
    bench.record(ingest_rate, report.rate());
    bench.record(cpu, metered.cpu_us / at_least_one(delivered));
    bench.record_some(server_cpu, metered.server_cpu_us.map(|us| us / at_least_one(delivered)));
    Ok(())
}
