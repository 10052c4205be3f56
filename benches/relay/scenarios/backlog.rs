//! Memory while many accepted events wait for a target that answers 500, and how many attempts it was spared.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::Bench;
use crate::{Outcome, load::Load, process, receiver::Manner};

const SEND_MAX: Duration = Duration::from_secs(240);
const WAIT: Duration = Duration::from_secs(5); // after the last event
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let batch = Arc::new(bench.signer.batch(usize::try_from(bench.options.backlog)?)?);
    let (_place, relay) = bench.relay(vec![bench.target("down", Manner::Error)]).await?;
    bench.receiver.take().await?;
    let load = Load { warm_up: Duration::ZERO, length: SEND_MAX, ..bench.load(relay.public) };
    let sent_and_waited = async {
        let report = load.closed(&batch).await;
        sleep(WAIT).await;
        report
    };
    let (report, peak) = peak_memory_during(relay.pid(), sent_and_waited).await?;
    let report = report?;
    relay.stop().await?;
    bench.note_refused(&report);
    let attempts = bench.receiver.take().await?.other;
    bench.record("backlog_mb", peak);
    bench.record("backlog_accepted", report.accepted as f64);
    bench.record("backlog_attempts", attempts as f64);
    Ok(())
}

/// What `work` comes to, and the most memory that process `pid` had meanwhile.
async fn peak_memory_during<T>(pid: u32, work: impl Future<Output = T>) -> Outcome<(T, f64)> {
    let mut work = pin!(work);
    let mut peak = process::memory_mb(pid)?;
    loop {
        tokio::select! {
            done = &mut work => return Ok((done, peak)),
            () = sleep(SAMPLE_EVERY) => peak = peak.max(process::memory_mb(pid)?),
        }
    }
}
