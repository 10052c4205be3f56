//! What runs beside the way of an event: keeps the store within its retention, the gauges current and the counts of the sources on
//! disk, and tells of what only shows with time.

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    announce::Notice,
    app::Handles,
    clock::{Timestamp, rfc3339_ms, until},
    deliver::seats::LABEL,
    envelope::Name,
    store::{self, Backlog, Pruned, Store},
};

/// How often the store is pruned and the gauges are read.
const EVERY: Duration = Duration::from_secs(5);
/// Share of `store.max_bytes` from which its filling is warned of.
const FILLING: f64 = 0.8;
/// Share below which it must fall before it is warned of again: pruning keeps a full store just below its limit.
const EMPTIED: f64 = 0.7;

/// Runs until `stop`.
pub async fn run(handles: Handles, stop: CancellationToken) {
    let mut keeper = Keeper::default();
    loop {
        if let Err(error) = keeper.round(&handles, &stop).await {
            warn!(%error, "the store could not be tidied; trying again in {}s", EVERY.as_secs());
        }
        tokio::select! {
            () = handles.clock.sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What is remembered from one round to the next.
#[derive(Default)]
struct Keeper {
    filling: bool,
    gone: Option<Gone>,
}

impl Keeper {
    async fn round(&mut self, handles: &Handles, stop: &CancellationToken) -> store::Result<()> {
        let now = handles.clock.now();
        let backlog = handles.store.backlog(None).await?;
        handles.metrics.backlog(&gauges(&backlog, handles, now));
        // What came in elsewhere is known before a source is called silent; and of several replicas one tells.
        let ownership = handles.deliver.ownership();
        let owns = move |source: &Name| ownership.owns(source);
        handles.ingest.keep_statistics(&owns).await?;
        let told = handles.ingest.notices(&owns);
        if !told.is_empty() {
            told.into_iter().for_each(|notice| handles.announcer.tell(notice));
            // Whoever tells of it next knows that it was told.
            handles.ingest.keep_statistics(&owns).await?;
        }
        handles.tokens.tidy(now).await?;
        handles.deliver.expire().await?;
        handles.subscriptions.tidy(&backlog).await?;
        let mut held = handles.deliver.held();
        held.extend(self.gone(handles, &backlog, now).await?);
        let retention = handles.config().store.retention;
        let mut total = Pruned::default();
        let ended = loop {
            match handles.store.prune(now, retention, held.clone()).await {
                Ok(slice) => {
                    add(&mut total, slice);
                    if !slice.more || stop.is_cancelled() {
                        break Ok(());
                    }
                }
                // What went before is gone all the same, and nobody else tells of it.
                Err(error) => break Err(error),
            }
        };
        report(total, handles);
        ended?;
        self.filling(total.used, retention.max_bytes, handles);
        Ok(())
    }

    /// The targets with a backlog that `routes.yaml` does not declare, and since when.
    async fn gone(&mut self, handles: &Handles, backlog: &[Backlog], now: Timestamp) -> store::Result<Vec<(Name, Timestamp)>> {
        if handles.generations.yields() {
            // Whoever goes by a newer file says what is gone.
            self.gone = None;
            return Ok(Vec::new());
        }
        let config = handles.config();
        let declared = |name: &Name| config.destinations.iter().any(|destination| destination.name == *name);
        let names = backlog.iter().map(|row| &row.target).filter(|name| !declared(name) && !is_anothers(handles, name));
        let gone = match self.gone.take() {
            Some(gone) => gone,
            None => Gone::read(&*handles.store).await?,
        };
        let gone = self.gone.insert(gone);
        if gone.now(names, now) {
            gone.keep(&*handles.store).await?;
        }
        Ok(gone.0.iter().map(|(name, since)| (name.clone(), *since)).collect())
    }

    /// Says that the store fills up: once when it begins to.
    fn filling(&mut self, used: u64, max_bytes: Option<u64>, handles: &Handles) {
        let Some(max) = max_bytes else { return };
        let filling = share(max, if self.filling { EMPTIED } else { FILLING }) <= used;
        if filling && !self.filling {
            warn!(
                used_bytes = used,
                max_bytes = max,
                "the store is filling up: finished events go early, then new ones are refused"
            );
            handles.announcer.tell(Notice::Filling { used, max });
        }
        self.filling = filling;
    }
}

/// Targets that are gone from `routes.yaml` while deliveries wait for them, and since when: kept, so that a restart does not start their
/// clock anew.
#[derive(Debug, Default, PartialEq)]
struct Gone(BTreeMap<Name, Timestamp>);

/// Where the store keeps them.
const GONE: &str = "targets.gone";

impl Gone {
    async fn read(store: &dyn Store) -> store::Result<Self> {
        let text = store.setting(GONE).await?.unwrap_or_default();
        let kept: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
        let read = |(name, since): (String, String)| Some((Name::parse(&name)?, since.parse().ok()?));
        Ok(Self(kept.into_iter().filter_map(read).collect()))
    }

    /// Notes that exactly `names` are gone at `now`; true when that is news.
    fn now<'n>(&mut self, names: impl Iterator<Item = &'n Name>, now: Timestamp) -> bool {
        let since = |name: &Name| self.0.get(name).copied().unwrap_or(now);
        let fresh: BTreeMap<_, _> = names.map(|name| (name.clone(), since(name))).collect();
        let news = fresh != self.0;
        self.0 = fresh;
        news
    }

    async fn keep(&self, store: &dyn Store) -> store::Result<()> {
        let kept: BTreeMap<&str, String> = self.0.iter().map(|(name, since)| (name.as_str(), rfc3339_ms(*since))).collect();
        // Names and times can always be written.
        store.set_setting(GONE, serde_json::to_string(&kept).unwrap_or_default()).await
    }
}

/// Whether somebody else than the file says what becomes of `target`: it is a subscription, or only others know it.
fn is_anothers(handles: &Handles, target: &Name) -> bool {
    handles.subscriptions.keeps(target) || handles.subscriptions.cannot_read(target) || handles.generations.is_elsewhere(target)
}

/// What gauges show of `backlog`: subscriptions, of which there may be thousands, together.
fn gauges(backlog: &[Backlog], handles: &Handles, now: Timestamp) -> Vec<(Name, u64, Duration, u64)> {
    let (of_all, of_file): (Vec<&Backlog>, Vec<&Backlog>) =
        backlog.iter().partition(|row| handles.subscriptions.keeps(&row.target));
    let row = |row: &Backlog| (row.target.clone(), row.waiting, age(row.oldest_at, now), row.dead);
    let mut rows: Vec<_> = of_file.into_iter().map(row).collect();
    if !of_all.is_empty() {
        let oldest = of_all.iter().filter_map(|row| row.oldest_at).min();
        let sum = |of: fn(&Backlog) -> u64| of_all.iter().map(|row| of(row)).sum();
        rows.push((LABEL.into(), sum(|row| row.waiting), age(oldest, now), sum(|row| row.dead)));
    }
    rows
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
    total.own_dead_letters += slice.own_dead_letters;
    total.own_given_up += slice.own_given_up;
    total.used = slice.used;
}

/// Says what was removed or given up for good.
pub(crate) fn report(total: Pruned, handles: &Handles) {
    if 0 < total.dead_letters + total.given_up {
        warn!(
            dead_letters = total.dead_letters,
            given_up = total.given_up,
            "dead letters reached the end of their retention, or deliveries waited too long for a target that is held or gone"
        );
    }
    // Nobody is told what befalls the relay's own events.
    let (given_up, removed) = (total.given_up - total.own_given_up, total.dead_letters - total.own_dead_letters);
    if 0 < given_up {
        handles.announcer.tell(Notice::HeldTooLong { count: given_up });
    }
    if 0 < removed {
        handles.announcer.tell(Notice::Removed { count: removed });
    }
    if 0 < total.events + total.rejections {
        info!(events = total.events, rejections = total.rejections, keys = total.keys, "pruned the store");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, store::sqlite};

    #[tokio::test]
    async fn targets_are_gone_since_they_were_first_missed_over_restarts_too() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let store = sqlite::open(&folder.path().join("store"), clock.clone()).await.unwrap();
        let noon = clock.now();
        let (crm, old) = (Name::from("crm"), Name::from("old"));
        let mut gone = Gone::read(&*store).await.unwrap();
        assert!(gone.now([&crm].into_iter(), noon) && !gone.now([&crm].into_iter(), noon));
        gone.keep(&*store).await.unwrap();
        clock.advance(Duration::from_secs(3600));
        let mut after = Gone::read(&*store).await.unwrap();
        assert_eq!(after, gone);
        assert!(after.now([&crm, &old].into_iter(), clock.now()));
        assert_eq!(after.0, [(crm, noon), (old.clone(), clock.now())].into());
        // One that came back is gone anew when it goes again.
        assert!(after.now([&old].into_iter(), clock.now()));
        clock.advance(Duration::from_secs(60));
        after.now([&Name::from("crm"), &old].into_iter(), clock.now());
        assert_eq!(after.0.get(&Name::from("crm")), Some(&clock.now()));
    }
}
