//! Fills the store through a relay at full speed, every event delivered: what a relay that has worked for a while runs on.

use std::{sync::Arc, time::Duration};

use super::{Bench, IN_FLIGHT};
use crate::{
    Outcome,
    load::Load,
    receiver::Manner,
    relay::{Relay, Routes, Target},
};

const BATCH: u64 = 50_000; // requests signed at a time
const BATCH_MAX: Duration = Duration::from_secs(120); // to send one

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let place = bench.stores.empty(bench.engine).await?;
    let target = Target { concurrency: Some(IN_FLIGHT), ..bench.target("fill", Manner::Ok) };
    let relay = Relay::start(&place, &Routes::to(vec![target])).await?;
    let mut left = bench.options.prefill;
    while left != 0 {
        let count = left.min(BATCH);
        send(bench, &relay, count).await?;
        left -= count;
    }
    relay.stop().await?;
    bench.stores.fill_with(bench.engine, place).await
}

/// Waits for the deliveries of each batch, so that none of the others' time goes into them later.
async fn send(bench: &mut Bench, relay: &Relay, count: u64) -> Outcome {
    let batch = Arc::new(bench.signer.batch(usize::try_from(count)?)?);
    let load = Load { warm_up: Duration::ZERO, length: BATCH_MAX, ..bench.load(relay.public) };
    let report = load.closed(&batch).await?;
    if report.accepted != count {
        return Err(format!("the relay took {} of {count} events while the store was filled", report.accepted).into());
    }
    bench.receiver.wait_for(count).await.map(|_| ())
}
