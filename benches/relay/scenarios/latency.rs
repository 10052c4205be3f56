//! Latency at a steady 1,000 events per second, one signed target.
//!
//! *Accept to answered* is measured from outside: from the instant the request was due (before it was sent, let alone accepted) until
//! the receiver, which answers at once, had read its delivery whole. That is longer than the relay's own lag by the request's way in
//! and shorter by the answer's way back over loopback.

use super::{Bench, meter};
use crate::{Outcome, receiver::Manner};

const RATE: u32 = 1000; // events per second

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let (_place, relay) = bench.relay(vec![bench.target("steady", Manner::Ok)]).await?;
    let load = bench.load(relay.public);
    let (report, metered) = tokio::join!(load.open(&bench.signer, RATE), meter(relay.pid(), None, &mut bench.receiver, load));
    let (report, taken) = (report?, metered?.taken);
    relay.stop().await?;
    bench.note_refused(&report);
    bench
        .results
        .note("accept to answered: from when a request was due until its delivery was read by the receiver, ingest included");
    bench.record("steady_ingest_p50_ms", report.latency.percentile_ms(0.5));
    bench.record("steady_ingest_p99_ms", report.latency.percentile_ms(0.99));
    bench.record("steady_ingest_p999_ms", report.latency.percentile_ms(0.999));
    bench.record("steady_lag_p50_ms", taken.lag_p50_ms);
    bench.record("steady_lag_p99_ms", taken.lag_p99_ms);
    Ok(())
}
