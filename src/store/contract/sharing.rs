//! Promises of stores that several processes work on at once.

use std::{collections::BTreeSet, time::Instant};

use super::*;

const LEASE: Duration = Duration::from_secs(15);
/// How long the other process may take to hear of something, on a slow machine.
const SOON: Duration = Duration::from_secs(30);

impl Bench {
    /// The same store, as another process opens it.
    async fn beside(&self) -> Arc<dyn Store> {
        (self.open)(self.folder.path().join("store"), self.clock.clone()).await.unwrap()
    }

    /// The shards that each of `owners` holds once all have asked.
    async fn shares(&self, owners: &[u64]) -> Vec<BTreeSet<u16>> {
        let mut shares = Vec::new();
        for owner in owners {
            let held = self.store.own_shards(OwnerId(*owner), self.clock.now(), LEASE).await.unwrap();
            shares.push(held.into_iter().map(|it| it.shard).collect());
        }
        shares
    }

    /// The shares after so much time, in which all have renewed every five seconds.
    async fn shares_after(&self, owners: &[u64], s: u64) -> Vec<BTreeSet<u16>> {
        for _ in 0..s / 5 {
            self.shares(owners).await;
            self.clock.advance(seconds(5));
        }
        self.shares(owners).await
    }
}

fn are_apart(shares: &[BTreeSet<u16>]) -> bool {
    let all: BTreeSet<u16> = shares.iter().flatten().copied().collect();
    all.len() == shares.iter().map(BTreeSet::len).sum::<usize>()
}

pub(crate) async fn shards_spread_evenly_as_owners_come_and_go(bench: Bench) {
    let alone = bench.shares(&[1]).await;
    assert_eq!(alone[0].len(), usize::from(SHARDS));
    let mut sizes = Vec::new();
    for owners in [&[1, 2][..], &[1, 2, 3], &[1, 2, 3, 4]] {
        // While one hands over, nobody works on what another may still be working on.
        for _ in 0..4 {
            assert!(are_apart(&bench.shares(owners).await));
            bench.clock.advance(seconds(5));
        }
        let shares = bench.shares_after(owners, 15).await;
        assert!(are_apart(&shares));
        assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), usize::from(SHARDS), "none is left alone");
        sizes.push(shares.iter().map(BTreeSet::len).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec![128, 128], vec![86, 85, 85], vec![64, 64, 64, 64]]);
    // One leaves in peace: the others have what it had as soon as they ask.
    bench.store.release_shards(OwnerId(4)).await.unwrap();
    assert_eq!(bench.shares(&[1, 2, 3]).await.iter().map(BTreeSet::len).sum::<usize>(), usize::from(SHARDS));
    // One dies: when its lease ends.
    let rest = bench.shares_after(&[1, 2], 10).await;
    assert!(rest.iter().map(BTreeSet::len).sum::<usize>() < usize::from(SHARDS));
    let rest = bench.shares_after(&[1, 2], 10).await;
    assert_eq!(rest.iter().map(BTreeSet::len).collect::<Vec<_>>(), [128, 128]);
}

pub(crate) async fn a_shard_that_changes_hands_has_a_higher_epoch(bench: Bench) {
    let epochs = async |owner| {
        let held = bench.store.own_shards(OwnerId(owner), bench.clock.now(), LEASE).await.unwrap();
        held.into_iter().map(|it| (it.shard, it.epoch)).collect::<std::collections::HashMap<_, _>>()
    };
    let before = epochs(1).await;
    for _ in 0..4 {
        epochs(1).await;
        epochs(2).await;
        bench.clock.advance(seconds(5));
    }
    let (one, two) = (epochs(1).await, epochs(2).await);
    assert_eq!((one.len(), two.len()), (128, 128));
    assert!(one.iter().all(|(shard, epoch)| before[shard] == *epoch), "what it kept is still its own");
    assert!(two.iter().all(|(shard, epoch)| before[shard] < *epoch));
}

pub(crate) async fn a_lease_of_a_clock_that_was_ahead_lasts_no_longer_than_any(bench: Bench) {
    bench.shares(&[1]).await;
    bench.clock.set_back(Duration::from_hours(1));
    // The first may live, and have seen nothing of that.
    assert!(bench.shares(&[2]).await[0].is_empty());
    assert!(bench.shares_after(&[2], 10).await[0].is_empty());
    let rest = bench.shares_after(&[2], 10).await;
    assert_eq!(rest[0].len(), usize::from(SHARDS), "20 s after its clock was set back it is over");
    // One that does live keeps what it has.
    let held = async || {
        let held = bench.store.own_shards(OwnerId(2), bench.clock.now(), LEASE).await.unwrap();
        held.into_iter().map(|it| (it.shard, it.epoch)).collect::<Vec<_>>()
    };
    let before = held().await;
    bench.clock.set_back(Duration::from_hours(1));
    assert!(bench.shares(&[3]).await[0].is_empty());
    bench.clock.advance(seconds(5));
    assert_eq!(held().await, before);
}

pub(crate) async fn a_repeat_is_known_wherever_it_comes(bench: Bench) {
    let other = bench.beside().await;
    let mut copies = tokio::task::JoinSet::new();
    for n in 0..40 {
        let store = if n % 2 == 0 { bench.store.clone() } else { other.clone() };
        let event = bench.event("evt_1").to(&["crm", "n8n"]);
        copies.spawn(async move { store.accept(event).await.unwrap() });
    }
    let answers = copies.join_all().await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Accepted::New { .. })).count(), 1);
    assert_eq!(other.events(Filter::default()).await.unwrap()[0].duplicates, 39);
    other.close().await;
}

pub(crate) async fn what_was_read_past_never_fills_later(bench: Bench) {
    let other = bench.beside().await;
    let mut accepts = tokio::task::JoinSet::new();
    for n in 0..400 {
        let store = if n % 2 == 0 { bench.store.clone() } else { other.clone() };
        let event = bench.event(&format!("evt_{n}")).to(&["crm"]);
        accepts.spawn(async move { store.accept(event).await.unwrap() });
    }
    let (mut seen, mut cursor, began) = (BTreeSet::new(), 0, Instant::now());
    while seen.len() < 400 {
        let page = other.events(Filter { page: Page::After(cursor), limit: 50, ..Filter::default() }).await.unwrap();
        for row in page {
            assert_eq!(row.uid.seq, cursor + 1, "nothing is left out");
            cursor = row.uid.seq;
            seen.insert(row.envelope.id);
        }
        assert!(began.elapsed() < 4 * SOON, "{}", seen.len());
    }
    accepts.join_all().await;
    other.close().await;
}

pub(crate) async fn others_hear_what_is_new(bench: Bench) {
    let (other, heard) = (bench.beside().await, Arc::new(Heard::default()));
    other.on_commit(heard.clone());
    let mut newest = other.newest();
    // What came before it listened may be told as anything.
    heard.elsewhere.lock().unwrap().clear();
    let uid = bench.accept(bench.event("evt_1").to(&["crm"])).await;
    tokio::time::timeout(SOON, newest.wait_for(|seq| *seq == uid.seq)).await.expect("the place is shown").unwrap();
    let began = Instant::now();
    while heard.elsewhere.lock().unwrap().is_empty() {
        assert!(began.elapsed() < SOON, "nobody told the other");
        tokio::task::yield_now().await;
    }
    let told = heard.elsewhere.lock().unwrap().clone();
    assert!(told.iter().all(|it| it.as_ref().is_none_or(|names| *names == ["crm".into()])), "{told:?}");
    assert_eq!(heard.events.lock().unwrap().len(), 0, "what another committed is read, not handed over");
    other.close().await;
}

/// Waits until `found` holds of what was heard.
async fn until(heard: &Heard, what: &str, found: impl Fn(&Heard) -> bool) {
    let began = Instant::now();
    while !found(heard) {
        assert!(began.elapsed() < SOON, "nobody told the other of {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn others_hear_what_ended_and_what_was_freed(bench: Bench) {
    let (other, heard) = (bench.beside().await, Arc::new(Heard::default()));
    bench.store.own_shards(OwnerId(1), bench.clock.now(), LEASE).await.unwrap();
    other.on_commit(heard.clone());
    // One that was alone hears a little later that it no longer is; until then it names nothing.
    let (began, mut n) = (Instant::now(), 0);
    let id = loop {
        n += 1;
        let id = bench.planned(&format!("evt_{n}"), "crm").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if heard.elsewhere.lock().unwrap().contains(&Some(vec!["crm".into()])) {
            break id;
        }
        assert!(began.elapsed() < SOON, "nobody told the other of what is new");
    };
    heard.ended.lock().unwrap().clear();
    assert_eq!(bench.store.cancel(vec![id], "", bench.clock.now()).await.unwrap(), [id]);
    until(&heard, "what ended", |heard| !heard.ended.lock().unwrap().is_empty()).await;
    let ended = heard.ended.lock().unwrap().clone();
    assert!(ended.iter().all(|it| it.as_ref().is_none_or(|names| *names == ["crm".into()])), "{ended:?}");
    let before = *heard.freed.lock().unwrap();
    bench.store.release_shards(OwnerId(1)).await.unwrap();
    until(&heard, "shards that are free", |heard| before < *heard.freed.lock().unwrap()).await;
    bench.store.own_shards(OwnerId(1), bench.clock.now(), LEASE).await.unwrap();
    // Nobody says when a lease ends.
    bench.clock.advance(LEASE);
    let before = *heard.freed.lock().unwrap();
    until(&heard, "a lease that ended", |heard| before + 1 < *heard.freed.lock().unwrap()).await;
    other.close().await;
}

pub(crate) async fn others_hear_what_was_taken_out_of_a_digest(bench: Bench) {
    let (other, heard) = (bench.beside().await, Arc::new(Heard::default()));
    other.on_commit(heard.clone());
    let [carrier, second, _] = bench.digest().await;
    assert_eq!(bench.erased(&[second.event]).await.carriers, [carrier]);
    until(&heard, "what is to be read anew", |heard| !heard.ended.lock().unwrap().is_empty()).await;
    other.close().await;
}

pub(crate) async fn what_a_process_of_this_machine_owned_is_taken_once_that_has_ended(bench: Bench) {
    let other = bench.beside().await;
    let theirs = other.own_shards(OwnerId(2), bench.clock.now(), LEASE).await.unwrap();
    assert_eq!((theirs.len(), bench.shares(&[1]).await[0].len()), (usize::from(SHARDS), 0), "it is there");
    // As if it had been killed: nothing is released.
    other.close().await;
    let ours = bench.store.own_shards(OwnerId(1), bench.clock.now(), LEASE).await.unwrap();
    let seen = cfg!(target_os = "linux");
    assert_eq!(ours.len(), if seen { usize::from(SHARDS) } else { 0 });
    assert!(ours.iter().all(|it| theirs[0].epoch < it.epoch));
    // One of another machine, by contrast, is waited for; and so is one who is not seen.
    bench.store.release_shards(OwnerId(1)).await.unwrap();
    let (again, twin) = (bench.beside().await, bench.beside().await);
    assert!(!again.own_shards(OwnerId(3), bench.clock.now(), LEASE).await.unwrap().is_empty());
    twin.own_shards(OwnerId(3), bench.clock.now(), LEASE).await.unwrap();
    again.close().await;
    assert_eq!(bench.shares(&[1]).await[0].len(), 0, "two had drawn the same: neither tells anything of the other");
    twin.close().await;
}

pub(crate) async fn an_order_key_has_one_head_wherever_events_come_in(bench: Bench) {
    let other = bench.beside().await;
    let mut accepts = tokio::task::JoinSet::new();
    for n in 0..60 {
        let mut event = bench.event(&format!("evt_{n}")).to(&["crm"]);
        event.deliveries[0].order_key = Some([7; 16]);
        let store = if n % 2 == 0 { bench.store.clone() } else { other.clone() };
        accepts.spawn(async move { store.accept(event).await.unwrap() });
    }
    let (mut last, mut delivered, began) = (0, 0, Instant::now());
    while delivered < 60 {
        let due = bench.due("crm").await;
        assert!(due.len() <= 1, "{due:?}");
        if let Some(head) = due.first() {
            assert!(last < head.event.seq, "by acceptance");
            (last, delivered) = (head.event.seq, delivered + 1);
            bench.recorded(*head, 1, Next::Delivered).await;
        }
        assert!(began.elapsed() < 4 * SOON, "{delivered} of 60: nobody moved up");
    }
    accepts.join_all().await;
    other.close().await;
}

/// What an owner says that lacks the lanes of these shards.
fn lacking(shards: &[u16]) -> Profile {
    Profile { lacks: shards.to_vec(), doc: format!("{shards:?}") }
}

pub(crate) async fn a_shard_that_some_owners_lack_is_for_the_others(bench: Bench) {
    let present = async |owner, lacks: &[u16]| {
        bench.store.present(OwnerId(owner), lacking(lacks), bench.clock.now(), LEASE).await.unwrap();
    };
    present(1, &[]).await;
    bench.shares_after(&[1, 2], 30).await;
    // The second has a newer configuration, with lanes in shards of the first and in its own.
    let special: Vec<u16> = vec![3, 4, 5, 200, 201];
    present(1, &special).await;
    let shares = bench.shares_after(&[1, 2], 20).await;
    assert!(special.iter().all(|shard| shares[1].contains(shard) && !shares[0].contains(shard)), "{shares:?}");
    assert!(are_apart(&shares));
    assert_eq!(shares.iter().map(BTreeSet::len).collect::<Vec<_>>(), [128, 128], "and all of them are owned");
    // A third knows them too; they share.
    let shares = bench.shares_after(&[1, 2, 3], 40).await;
    let [of_two, of_three] = [1, 2].map(|n| special.iter().filter(|shard| shares[n].contains(shard)).count());
    assert_eq!(of_two + of_three, special.len());
    assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), usize::from(SHARDS), "none is left alone");
    // Who is left when those have gone takes what it lacks all the same: other lanes are in those shards.
    for owner in [2, 3] {
        bench.store.release_shards(OwnerId(owner)).await.unwrap();
    }
    assert_eq!(bench.shares(&[1]).await[0].len(), usize::from(SHARDS));
    // With all shards special, whoever knows them has them all.
    present(1, &(0..SHARDS).collect::<Vec<_>>()).await;
    let shares = bench.shares_after(&[1, 2], 20).await;
    assert_eq!(shares.iter().map(BTreeSet::len).collect::<Vec<_>>(), [0, 256]);
}

pub(crate) async fn who_shares_the_store_is_known_with_what_it_says(bench: Bench) {
    bench.store.present(OwnerId(7), lacking(&[9]), bench.clock.now(), LEASE).await.unwrap();
    bench.shares_after(&[7, 8], 20).await;
    let replicas = bench.store.replicas(bench.clock.now()).await.unwrap();
    assert_eq!(replicas.iter().map(|it| (it.owner, &*it.doc)).collect::<Vec<_>>(), [(OwnerId(7), "[9]"), (OwnerId(8), "")]);
    assert!(replicas.iter().all(|it| it.seen_at == bench.clock.now() && it.shards.len() == 128), "{replicas:?}");
    assert!(replicas[1].shards.contains(&9) && !replicas[0].shards.contains(&9));
    // Who has said nothing for a lease is gone.
    bench.clock.advance(LEASE);
    bench.shares(&[8]).await;
    let left = bench.store.replicas(bench.clock.now()).await.unwrap();
    assert_eq!(left.iter().map(|it| it.owner).collect::<Vec<_>>(), [OwnerId(8)]);
}

pub(crate) async fn who_leaves_keeps_what_is_under_way_and_gives_up_the_rest_at_once(bench: Bench) {
    bench.shares_after(&[1, 2, 3], 30).await;
    let leaves = async |kept: &[u16]| {
        let held = bench.store.keep_shards(OwnerId(1), kept.to_vec(), bench.clock.now(), LEASE).await.unwrap();
        held.into_iter().map(|it| (it.shard, it.epoch)).collect::<Vec<_>>()
    };
    let before = bench.store.own_shards(OwnerId(1), bench.clock.now(), LEASE).await.unwrap();
    let [first, second] = [before[0], before[1]].map(|it| (it.shard, it.epoch));
    assert_eq!(leaves(&[first.0, second.0]).await, [first, second]);
    // The others have the rest as soon as they ask, each up to its share of all, and what is kept for no lease that passes.
    for _ in 0..5 {
        let shares = bench.shares(&[2, 3]).await;
        assert_eq!(shares.iter().map(BTreeSet::len).collect::<Vec<_>>(), [128, 126]);
        assert!(are_apart(&shares));
        assert_eq!(leaves(&[first.0, second.0]).await, [first, second]);
        bench.clock.advance(seconds(5));
    }
    assert_eq!(leaves(&[second.0]).await, [second]);
    assert!(bench.shares(&[2, 3]).await.iter().any(|share| share.contains(&first.0)));
    let replicas = bench.store.replicas(bench.clock.now()).await.unwrap();
    assert!(replicas.iter().any(|it| it.owner == OwnerId(1) && it.shards == [second.0]), "it is still there: {replicas:?}");
    bench.store.release_shards(OwnerId(1)).await.unwrap();
    assert_eq!(bench.shares(&[2, 3]).await.iter().map(BTreeSet::len).collect::<Vec<_>>(), [128, 128]);
}
