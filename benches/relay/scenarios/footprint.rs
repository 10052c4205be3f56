//! What a relay costs at rest, and how soon it answers, on an empty and on the filled store.

use std::time::Duration;

use tokio::time::sleep;

use super::Bench;
use crate::{
    Outcome, process,
    receiver::Manner,
    relay::{Relay, Routes},
    stores::Place,
};

const REST: Duration = Duration::from_secs(3); // until it is taken to be idle

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let (empty, filled) = (bench.stores.empty(bench.engine).await?, bench.stores.filled(bench.engine).await?);
    measure(bench, &empty, "idle_mb", "start_ms").await?;
    measure(bench, &filled, "idle_filled_mb", "start_filled_ms").await
}

async fn measure(bench: &mut Bench, place: &Place, memory: &'static str, start: &'static str) -> Outcome {
    let relay = Relay::start(place, &Routes::to(vec![bench.target("idle", Manner::Ok)])).await?;
    sleep(REST).await;
    bench.record(start, relay.first_answer.as_secs_f64() * 1e3);
    bench.record(memory, process::memory_mb(relay.pid())?);
    relay.stop().await
}
