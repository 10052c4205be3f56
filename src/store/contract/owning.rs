//! Promises about who may work on which lanes, and about what a former owner reports.

use super::*;

const LEASE: Duration = Duration::from_secs(15);
const FIRST: OwnerId = OwnerId(1);
const SECOND: OwnerId = OwnerId(2);

impl Bench {
    async fn own(&self, owner: OwnerId) -> Vec<Owned> {
        self.store.own_shards(owner, self.clock.now(), LEASE).await.unwrap()
    }
}

pub(crate) async fn a_lone_owner_holds_every_shard(bench: Bench) {
    let owned = bench.own(FIRST).await;
    assert_eq!(owned.iter().map(|it| it.shard).collect::<Vec<_>>(), (0..SHARDS).collect::<Vec<_>>());
    let until = crate::clock::later(bench.clock.now(), LEASE);
    assert!(owned.iter().all(|it| it.until == until && 0 < it.epoch));
    bench.clock.advance(seconds(5));
    let renewed = bench.own(FIRST).await;
    assert!(owned.iter().zip(&renewed).all(|(old, new)| old.epoch == new.epoch && old.until < new.until));
}

pub(crate) async fn shards_change_hands_when_released_or_at_lease_end(bench: Bench) {
    let first = bench.own(FIRST).await;
    assert_eq!(bench.own(SECOND).await, [], "they are held");
    bench.store.release_shards(SECOND).await.unwrap();
    assert_eq!(bench.own(SECOND).await, [], "only their owner lets go of them");
    bench.store.release_shards(FIRST).await.unwrap();
    let second = bench.own(SECOND).await;
    assert!(second.len() == first.len() && first[0].epoch < second[0].epoch);
    bench.clock.advance(LEASE);
    let third = bench.own(FIRST).await;
    assert!(second[0].epoch < third[0].epoch);
    bench.store.release_shards(FIRST).await.unwrap();
    let bench = bench.restart().await;
    assert!(third[0].epoch < bench.own(FIRST).await[0].epoch, "it grows over a restart");
}

pub(crate) async fn a_former_owners_failures_change_nothing(bench: Bench) {
    let [one, two] = [bench.planned("evt_1", "crm").await, bench.planned("evt_2", "crm").await];
    let stale = bench.own(FIRST).await[0].epoch;
    bench.store.release_shards(FIRST).await.unwrap();
    let today = bench.own(SECOND).await[0].epoch;
    let attempt = |id, number, next, epoch| Attempt { epoch, ..bench.attempt(id, number, next) };
    let before = bench.delivery(one).await.unwrap();
    let failed = attempt(one, 1, Next::Dead(Cause::Receiver), stale);
    bench.store.record(vec![failed.clone(), attempt(two, 1, Next::Retry(bench.clock.now()), today)]).await.unwrap();
    assert_eq!(bench.delivery(one).await.unwrap(), before);
    assert_eq!(bench.delivery(two).await.unwrap().attempts, 1);
    assert_eq!(bench.store.attempts(one.event).await.unwrap(), [failed]);
    // Its successes are worth as much as anybody's.
    bench.store.record(vec![attempt(two, 2, Next::Delivered, stale)]).await.unwrap();
    assert_eq!(bench.delivery(two).await.unwrap().state, State::Delivered);
}
