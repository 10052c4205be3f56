//! Promises about what is removed, and when.

use super::*;

pub(super) const KEEP: Retention = Retention {
    events: days_30(),
    dead_letters: Duration::from_hours(24 * 90),
    rejections: Duration::from_hours(24 * 7),
    audit: Duration::from_hours(24 * 365),
    max_bytes: None,
};

const fn days_30() -> Duration {
    Duration::from_hours(24 * 30)
}

impl Bench {
    /// Prunes until nothing more is left to do; gives the sum.
    async fn prune(&self, retention: Retention, gone: &[&str]) -> Pruned {
        let mut sum = Pruned::default();
        loop {
            let held = gone.iter().map(|name| (Name::from(*name), crate::clock::Timestamp::MIN)).collect();
            let one = self.store.prune(self.clock.now(), retention, held).await.unwrap();
            sum.events += one.events;
            sum.dead_letters += one.dead_letters;
            sum.rejections += one.rejections;
            sum.keys += one.keys;
            sum.given_up += one.given_up;
            sum.own_dead_letters += one.own_dead_letters;
            sum.own_given_up += one.own_given_up;
            sum.used = one.used;
            if !one.more {
                return sum;
            }
        }
    }
}

pub(crate) async fn what_a_clock_that_was_ahead_put_off_is_due(bench: Bench) {
    let now = bench.clock.now();
    let early = now - days(400);
    let new = bench.planned("evt_1", "crm").await;
    let tried = bench.planned("evt_2", "crm").await;
    bench.recorded(tried, 1, Next::Retry(now + seconds(60))).await;
    let due = async || {
        let found = bench.store.due(&"crm".into(), early, 10, Vec::new()).await.unwrap();
        found.iter().map(|due| due.delivery.id).collect::<Vec<_>>()
    };
    assert!(due().await.is_empty());
    bench.store.prune(early, KEEP, Vec::new()).await.unwrap();
    assert_eq!(due().await, [new, tried]);
}

pub(crate) async fn events_of_a_clock_that_was_ahead_keep_no_others(bench: Bench) {
    bench.clock.advance(days(400));
    for n in 0..500 {
        bench.accept(bench.event(&format!("ahead_{n}"))).await;
    }
    bench.clock.set_back(days(400));
    let late = bench.accept(bench.event("evt_1")).await;
    bench.clock.advance(days(31));
    assert_eq!(bench.prune(KEEP, &[]).await.events, 1);
    assert!(!bench.holds(late).await);
}

pub(crate) async fn finished_events_go_after_their_time(bench: Bench) {
    let unmatched = bench.accept(bench.event("evt_1")).await;
    let delivered = bench.planned("evt_2", "crm").await;
    bench.recorded(delivered, 1, Next::Delivered).await;
    bench.clock.advance(days(30));
    let young = bench.accept(bench.event("evt_3")).await;
    assert_eq!(bench.prune(KEEP, &[]).await.events, 0, "not before its time");
    bench.clock.advance(seconds(1));
    assert_eq!(bench.prune(KEEP, &[]).await.events, 2);
    assert!(!bench.holds(unmatched).await && !bench.holds(delivered.event).await && bench.holds(young).await);
    assert_eq!(bench.store.attempts(delivered.event).await.unwrap(), []);
    assert_eq!(bench.delivery(delivered).await, None);
}

pub(crate) async fn what_waits_keeps_its_event(bench: Bench) {
    let waiting = bench.planned("evt_1", "crm").await;
    let half = bench.accept(bench.event("evt_2").to(&["crm", "n8n"])).await;
    bench.recorded(DeliveryId { event: half, n: 1 }, 1, Next::Delivered).await;
    bench.clock.advance(days(365));
    assert_eq!(bench.prune(KEEP, &[]).await.events, 0);
    assert_eq!(bench.due("crm").await, [waiting]);
    bench.recorded(waiting, 1, Next::Delivered).await;
    bench.recorded(DeliveryId { event: half, n: 2 }, 1, Next::Delivered).await;
    assert_eq!(bench.prune(KEEP, &[]).await.events, 2);
}

pub(crate) async fn dead_letters_go_after_their_own_time(bench: Bench) {
    let id = bench.accept(bench.event("evt_1").to(&["crm", "n8n"])).await;
    let (dead, other) = (DeliveryId { event: id, n: 1 }, DeliveryId { event: id, n: 2 });
    bench.recorded(other, 1, Next::Delivered).await;
    bench.clock.advance(days(40));
    bench.recorded(dead, 1, Next::Dead(Cause::Receiver)).await;
    bench.clock.advance(days(90));
    assert_eq!(bench.prune(KEEP, &[]).await.dead_letters, 0, "counted from death");
    assert!(bench.holds(id).await);
    bench.clock.advance(seconds(1));
    let pruned = bench.prune(KEEP, &[]).await;
    assert_eq!((pruned.dead_letters, pruned.events), (1, 1));
    assert!(!bench.holds(id).await);
    assert_eq!(bench.store.backlog(None).await.unwrap(), []);
}

pub(crate) async fn dead_letters_of_own_events_are_counted_apart(bench: Bench) {
    let own = |id| {
        let event = bench.event(id).to(&["crm"]);
        NewEvent { envelope: Envelope { source: crate::route::OWN_SOURCE.into(), ..event.envelope }, ..event }
    };
    bench.accept(own("own_1")).await;
    bench.accept(own("own_2")).await;
    bench.planned("evt_1", "crm").await;
    bench.clock.advance(days(30) + seconds(1));
    let pruned = bench.prune(KEEP, &["crm"]).await;
    assert_eq!((pruned.given_up, pruned.own_given_up), (3, 2));
    bench.clock.advance(days(90) + seconds(1));
    let pruned = bench.prune(KEEP, &["crm"]).await;
    assert_eq!((pruned.dead_letters, pruned.own_dead_letters), (3, 2));
}

pub(crate) async fn a_seq_is_never_given_out_twice(bench: Bench) {
    let last = bench.accept(bench.event("evt_1")).await;
    bench.clock.advance(days(31));
    assert_eq!(bench.prune(KEEP, &[]).await.events, 1);
    let bench = bench.restart().await;
    let next = bench.accept(bench.event("evt_2")).await;
    assert!(last < next, "{last} {next}");
}

pub(crate) async fn keys_outlive_their_events(bench: Bench) {
    let short = Retention { events: seconds(60), ..KEEP };
    bench.accept(bench.event("evt_1")).await;
    bench.clock.advance(seconds(61));
    let pruned = bench.prune(short, &[]).await;
    assert_eq!((pruned.events, pruned.keys), (1, 0));
    let repeat = bench.store.accept(bench.event("evt_1")).await.unwrap();
    assert_eq!(repeat_of(repeat), ("evt_1".into(), false));
    bench.clock.advance(days(7));
    assert_eq!(bench.prune(short, &[]).await.keys, 1);
    assert_eq!(bench.prune(short, &[]).await, Pruned { used: bench.prune(short, &[]).await.used, ..Pruned::default() });
}

pub(crate) async fn deliveries_of_targets_that_are_gone_are_given_up(bench: Bench) {
    let gone = bench.planned("evt_1", "gone").await;
    let known = bench.planned("evt_2", "crm").await;
    bench.clock.advance(days(30));
    assert_eq!(bench.prune(KEEP, &["gone", "unheard-of"]).await.given_up, 0);
    bench.clock.advance(seconds(1));
    assert_eq!(bench.prune(KEEP, &["gone", "unheard-of"]).await.given_up, 1);
    let row = bench.delivery(gone).await.unwrap();
    assert_eq!((row.state, row.cause, row.due_at), (State::Dead, Some(Cause::Config), None));
    assert_eq!(bench.delivery(known).await.unwrap().state, State::Pending);
    // A dead letter like any other from now on.
    bench.clock.advance(days(90) + seconds(1));
    let pruned = bench.prune(KEEP, &["gone"]).await;
    assert_eq!((pruned.dead_letters, pruned.events), (1, 1));
}

pub(crate) async fn a_lane_held_for_a_shorter_time_keeps_what_waits(bench: Bench) {
    let old = bench.planned("evt_1", "crm").await;
    bench.clock.advance(days(20));
    let (held_since, young) = (bench.clock.now(), bench.planned("evt_2", "crm").await);
    let prune = async || {
        let held = vec![("crm".into(), held_since)];
        bench.store.prune(bench.clock.now(), KEEP, held).await.unwrap().given_up
    };
    bench.clock.advance(days(30));
    assert_eq!(prune().await, 0, "30 days have not passed since it is held");
    let retried = bench.planned("evt_3", "crm").await;
    bench.recorded(retried, 1, Next::Dead(Cause::Receiver)).await;
    bench.store.retry(vec![retried], bench.clock.now()).await.unwrap();
    bench.clock.advance(seconds(1));
    assert_eq!(prune().await, 2);
    assert_eq!(bench.delivery(old).await.unwrap().cause, Some(Cause::Config));
    assert_eq!(bench.delivery(young).await.unwrap().cause, Some(Cause::Config));
    assert_eq!(bench.delivery(retried).await.unwrap().state, State::Pending, "it waits since a moment ago");
}

pub(crate) async fn resolved_dead_letters_are_finished(bench: Bench) {
    let dead = bench.planned("evt_1", "crm").await;
    bench.recorded(dead, 1, Next::Dead(Cause::Receiver)).await;
    bench.clock.advance(days(31));
    assert_eq!(bench.prune(KEEP, &[]).await.events, 0);
    let resolution = Resolution { at: bench.clock.now(), note: "seen".into() };
    assert!(bench.store.resolve(dead, resolution).await.unwrap());
    let pruned = bench.prune(KEEP, &[]).await;
    assert_eq!((pruned.events, pruned.dead_letters), (1, 0));
    assert!(!bench.holds(dead.event).await);
}

pub(crate) async fn a_hash_key_stays_while_its_event_is_held(bench: Bench) {
    let id = bench.accept(bench.hashed("sha256:ab", seconds(60)).to(&["crm"])).await;
    bench.clock.advance(days(20));
    assert_eq!(bench.prune(KEEP, &[]).await.keys, 0);
    let Accepted::New { id: again, .. } = bench.store.accept(bench.hashed("sha256:ab", seconds(60))).await.unwrap() else {
        panic!("a duplicate");
    };
    assert_eq!(again, format!("sha256:ab-{}", bench.clock.now().as_second()));
    bench.recorded(DeliveryId { event: id, n: 1 }, 1, Next::Delivered).await;
    bench.clock.advance(days(31));
    let pruned = bench.prune(KEEP, &[]).await;
    assert_eq!(pruned.events, 2);
    bench.clock.advance(days(2));
    assert_eq!(bench.prune(KEEP, &[]).await.keys + pruned.keys, 1);
}

pub(crate) async fn slices_say_when_more_is_left(bench: Bench) {
    let mut accepts = tokio::task::JoinSet::new();
    for n in 0..1200 {
        let (store, event) = (bench.store.clone(), bench.event(&format!("evt_{n}")));
        accepts.spawn(async move { store.accept(event).await.unwrap() });
    }
    accepts.join_all().await;
    let stays = bench.planned("last", "crm").await;
    bench.clock.advance(days(31));
    let first = bench.store.prune(bench.clock.now(), KEEP, Vec::new()).await.unwrap();
    assert!(first.more && first.events < 1200 && first.keys < 1200, "{first:?}");
    let rest = bench.prune(KEEP, &[]).await;
    assert_eq!((first.events + rest.events, first.keys + rest.keys), (1200, 1201));
    assert!(rest.used < first.used);
    assert!(bench.holds(stays.event).await);
}

/// Room for about 150 events of [`LARGE`] bytes.
const LIMIT: u64 = 4 * 1024 * 1024;
const LARGE: usize = 25_000;

pub(crate) async fn a_full_store_drops_finished_events_first(bench: Bench) {
    let limited = Retention { max_bytes: Some(LIMIT), ..KEEP };
    let waiting = bench.accept(bench.event("waits").with_body(vec![b'x'; LARGE]).to(&["crm"])).await;
    let mut uids = Vec::new();
    for n in 0..300 {
        uids.push(bench.accept(bench.event(&format!("evt_{n}")).with_body(vec![b'x'; LARGE])).await);
    }
    let pruned = bench.prune(limited, &[]).await;
    assert!(pruned.used < LIMIT, "{pruned:?}");
    assert!(LIMIT / 2 < pruned.used, "more than needed was removed: {pruned:?}");
    assert!(!bench.holds(uids[0]).await && bench.holds(uids[299]).await && bench.holds(waiting).await);
    // From now on the oldest make room for new ones without being asked to.
    for n in 300..600 {
        uids.push(bench.accept(bench.event(&format!("evt_{n}")).with_body(vec![b'x'; LARGE])).await);
    }
    assert!(!bench.holds(uids[299]).await && bench.holds(uids[599]).await && bench.holds(waiting).await);
    let used = bench.store.prune(bench.clock.now(), Retention { max_bytes: None, ..KEEP }, Vec::new()).await.unwrap().used;
    assert!(used < LIMIT + LIMIT / 8, "{used}");
}

pub(crate) async fn a_store_full_of_waiting_events_refuses_new_ones(bench: Bench) {
    let limited = Retention { max_bytes: Some(LIMIT), ..KEEP };
    bench.prune(limited, &[]).await;
    let mut waiting = Vec::new();
    let refused = loop {
        let event = bench.event(&format!("evt_{}", waiting.len())).with_body(vec![b'x'; LARGE]).to(&["crm"]);
        match bench.store.accept(event).await {
            Ok(Accepted::New { uid, .. }) => waiting.push(DeliveryId { event: uid, n: 1 }),
            Ok(repeat) => panic!("{repeat:?}"),
            Err(error) => break error,
        }
        assert!(waiting.len() < 400, "no end");
    };
    assert!(matches!(refused, Error::Full(_)), "{refused}");
    assert!(matches!(bench.store.ready().await, Err(Error::Full(_))));
    // Repeats are still known, attempts still recorded, and nothing is lost.
    let repeat = bench.event("evt_0").with_body(vec![b'x'; LARGE]);
    assert!(matches!(bench.store.accept(repeat).await, Ok(Accepted::Duplicate { mismatch: false, .. })));
    assert_eq!(bench.store.backlog(None).await.unwrap()[0].waiting, waiting.len() as u64);
    for id in &waiting[..50] {
        bench.recorded(*id, 1, Next::Delivered).await;
    }
    let event = bench.event("afterwards").with_body(vec![b'x'; LARGE]).to(&["crm"]);
    assert!(matches!(bench.store.accept(event).await, Ok(Accepted::New { .. })));
    bench.store.ready().await.unwrap();
    assert!(!bench.holds(waiting[0].event).await && bench.holds(waiting[50].event).await);
}

pub(crate) async fn threads_go_after_the_time_of_events(bench: Bench) {
    bench.store.set_thread([1; 16], Some("old".into())).await.unwrap();
    bench.clock.advance(days(30));
    bench.store.set_thread([2; 16], Some("young".into())).await.unwrap();
    bench.prune(KEEP, &[]).await;
    assert!(bench.store.thread([1; 16]).await.unwrap().is_some(), "not before its time");
    bench.clock.advance(seconds(1));
    bench.prune(KEEP, &[]).await;
    assert_eq!(bench.store.thread([1; 16]).await.unwrap(), None);
    assert_eq!(bench.store.thread([2; 16]).await.unwrap().as_deref(), Some("young"));
}
