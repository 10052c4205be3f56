//! R0: the rate of a bare axum handler, which all rates of the round are held against.

use std::sync::Arc;

use super::{Bench, at_least_one, meter};
use crate::{Outcome, options::Role, process::Helper, table::BARE_RATE};

const REQUESTS: usize = 50_000; // sent in circles

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let handler = Helper::start(Role::Bare)?;
    let (load, batch) = (bench.load(handler.address), Arc::new(bench.signer.batch(REQUESTS)?));
    let (report, metered) = tokio::join!(load.closed_in_circles(&batch), meter(handler.pid(), None, &mut bench.receiver, load));
    let (report, metered) = (report?, metered?);
    bench.results.record(None, BARE_RATE, report.rate());
    bench.results.record(None, "bare_p99_ms", report.latency.percentile_ms(0.99));
    bench.results.record(None, "bare_cpu_us", metered.cpu_us / at_least_one(report.accepted));
    Ok(())
}
