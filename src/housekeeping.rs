//! What runs beside the way of an event: keeps the store within its retention and the gauges current.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    app::Handles,
    clock::{Timestamp, later, until},
    envelope::Name,
    store::{self, Pruned},
};

/// How often the store is pruned and the gauges are read.
const EVERY: Duration = Duration::from_secs(5);
/// Share of `store.max_bytes` from which its filling is warned of.
const FILLING: f64 = 0.8;

/// Runs until `stop`.
pub async fn run(handles: Handles, stop: CancellationToken) {
    let mut warned = false;
    loop {
        let next = later(handles.clock.now(), EVERY);
        if let Err(error) = round(&handles, &stop, &mut warned).await {
            warn!(%error, "the store could not be tidied; trying again in {}s", EVERY.as_secs());
        }
        tokio::select! {
            () = handles.clock.sleep_until(next) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn round(handles: &Handles, stop: &CancellationToken, warned: &mut bool) -> store::Result<()> {
    let now = handles.clock.now();
    let backlog = handles.store.backlog().await?;
    let declared = |name: &Name| handles.config.destinations.iter().any(|destination| destination.name == *name);
    let gone = backlog.iter().map(|row| &row.target).filter(|name| !declared(name)).cloned().collect::<Vec<_>>();
    let rows: Vec<_> = backlog.iter().map(|row| (row.target.clone(), row.waiting, age(row.oldest_at, now), row.dead)).collect();
    handles.metrics.backlog(&rows);
    let mut total = Pruned::default();
    loop {
        let slice = handles.store.prune(now, handles.config.store.retention, gone.clone()).await?;
        add(&mut total, slice);
        if !slice.more || stop.is_cancelled() {
            break;
        }
    }
    report(total, handles.config.store.retention.max_bytes, warned);
    Ok(())
}

fn age(oldest_at: Option<Timestamp>, now: Timestamp) -> Duration {
    oldest_at.map_or(Duration::ZERO, |oldest| until(oldest, now))
}

fn add(total: &mut Pruned, slice: Pruned) {
    total.events += slice.events;
    total.dead_letters += slice.dead_letters;
    total.rejections += slice.rejections;
    total.keys += slice.keys;
    total.given_up += slice.given_up;
    total.used = slice.used;
}

/// Says what was removed for good, and that the store fills up: once when it begins to.
fn report(total: Pruned, max_bytes: Option<u64>, warned: &mut bool) {
    if 0 < total.dead_letters + total.given_up {
        warn!(
            dead_letters = total.dead_letters,
            given_up = total.given_up,
            "dead letters reached the end of their retention, or deliveries waited too long for a destination that is gone"
        );
    }
    if 0 < total.events + total.rejections {
        info!(events = total.events, rejections = total.rejections, keys = total.keys, "pruned the store");
    }
    let filling = max_bytes.is_some_and(|max| max.saturating_sub(total.used) < share(max, 1.0 - FILLING));
    if filling && !*warned {
        warn!(
            used_bytes = total.used,
            max_bytes, "the store is filling up: finished events will be pruned early, then new ones refused"
        );
    }
    *warned = filling;
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a size needs no exactness"
)]
fn share(of: u64, share: f64) -> u64 {
    (of as f64 * share) as u64
}
