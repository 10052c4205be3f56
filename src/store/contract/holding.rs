//! Promises about what subscriptions hold: handed over, and bounded.

use super::*;

impl Bench {
    async fn hands_over(&self, old: &str, new: &str) -> HandedOver {
        let mut all = HandedOver::default();
        loop {
            let slice = self.store.hand_over(&old.into(), &new.into(), self.clock.now()).await.unwrap();
            if slice == HandedOver::default() {
                return all;
            }
            (all.moved, all.dropped) = (all.moved + slice.moved, all.dropped + slice.dropped);
        }
    }

    async fn bounds(&self, target: &str, cutoff: Option<Timestamp>, bytes: u64, except: Vec<DeliveryId>) -> Vec<DeliveryId> {
        let bound = HeldBound { cutoff, bytes, reason: "too much".into() };
        self.store.bound_held(&target.into(), bound, except, self.clock.now()).await.unwrap()
    }

    /// An event for `target` whose body has so many bytes.
    async fn sized(&self, id: &str, target: &str, bytes: usize) -> DeliveryId {
        let event = self.event(id).to(&[target]).with_body(vec![b'x'; bytes]);
        DeliveryId { event: self.accept(event).await, n: 1 }
    }
}

pub(crate) async fn what_waits_is_handed_over_once_and_nothing_is_doubled(bench: Bench) {
    let old = bench.planned("evt_1", "wh_old").await;
    let dead = bench.planned("evt_2", "wh_old").await;
    bench.recorded(dead, 1, Next::Dead(Cause::Receiver)).await;
    let arrived = bench.planned("evt_3", "wh_old").await;
    bench.recorded(arrived, 1, Next::Delivered).await;
    let both = bench.accept(bench.event("evt_4").to(&["wh_old", "wh_new"])).await;
    let had = bench.accept(bench.event("evt_5").to(&["wh_new", "wh_old"])).await;
    bench.recorded(DeliveryId { event: had, n: 1 }, 1, Next::Delivered).await;
    let failed = bench.accept(bench.event("evt_6").to(&["wh_new", "wh_old"])).await;
    bench.recorded(DeliveryId { event: failed, n: 1 }, 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.hands_over("wh_old", "wh_new").await, HandedOver { moved: 3, dropped: 2 });
    assert_eq!(bench.hands_over("wh_old", "wh_new").await, HandedOver::default());
    let due = [old, DeliveryId { event: both, n: 2 }, DeliveryId { event: failed, n: 2 }];
    assert_eq!(bench.due("wh_new").await, due);
    assert_eq!(bench.due("wh_old").await, []);
    let dropped = bench.delivery(DeliveryId { event: both, n: 1 }).await.unwrap();
    assert_eq!((dropped.state, dropped.reason.as_deref()), (State::Cancelled, Some("wh_new has this event already")));
    assert_eq!(bench.delivery(DeliveryId { event: had, n: 2 }).await.unwrap().state, State::Cancelled);
    assert_eq!(bench.delivery(dead).await.unwrap().target, "wh_new".into());
    assert_eq!(bench.delivery(arrived).await.unwrap().target, "wh_old".into(), "what is over stays as it was");
    assert_eq!(bench.hands_over("wh_new", "wh_new").await, HandedOver::default());
}

pub(crate) async fn a_replay_is_handed_over_beside_what_arrived_before(bench: Bench) {
    let event = bench.accept(bench.event("evt_1").to(&["wh_new"])).await;
    bench.recorded(DeliveryId { event, n: 1 }, 1, Next::Delivered).await;
    let replayed = vec![NewDelivery::to("wh_old".into())];
    let made = bench.store.replay(event, replayed, "job.1", bench.clock.now()).await.unwrap();
    assert_eq!(bench.hands_over("wh_old", "wh_new").await, HandedOver { moved: 1, dropped: 0 });
    assert_eq!(bench.due("wh_new").await, made);
}

pub(crate) async fn thousands_are_handed_over_in_slices(bench: Bench) {
    for n in 0..1500 {
        bench.planned(&format!("evt_{n}"), "wh_old").await;
    }
    let first = bench.store.hand_over(&"wh_old".into(), &"wh_new".into(), bench.clock.now()).await.unwrap();
    assert!(first.moved < 1500, "one commit is bounded");
    let bench = bench.restart().await;
    assert_eq!(first.moved + bench.hands_over("wh_old", "wh_new").await.moved, 1500);
}

pub(crate) async fn beyond_its_bytes_the_oldest_expire(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(bench.sized(&format!("evt_{n}"), "wh_a", 1000).await);
    }
    bench.sized("evt_other", "wh_b", 100_000).await;
    assert_eq!(bench.bounds("wh_a", None, 5000, Vec::new()).await, []);
    assert_eq!(bench.bounds("wh_none", None, 0, Vec::new()).await, []);
    // What is in hand is left alone, and so is what is enough without it.
    assert_eq!(bench.bounds("wh_a", None, 3500, vec![ids[0]]).await, ids[1..3]);
    let row = bench.delivery(ids[1]).await.unwrap();
    assert_eq!((row.state, row.reason.as_deref(), row.due_at), (State::Expired, Some("too much"), None));
    assert_eq!(bench.bounds("wh_a", None, 0, Vec::new()).await, [ids[0], ids[3], ids[4]]);
    assert_eq!(bench.due("wh_b").await.len(), 1);
}

pub(crate) async fn what_has_waited_for_too_long_expires(bench: Bench) {
    let old = bench.planned("evt_1", "wh_a").await;
    let retried = bench.planned("evt_2", "wh_a").await;
    bench.clock.advance(days(3));
    bench.recorded(retried, 1, Next::Retry(bench.clock.now())).await;
    let young = bench.planned("evt_3", "wh_a").await;
    let cutoff = Some(crate::clock::earlier(bench.clock.now(), days(1)));
    assert_eq!(bench.bounds("wh_a", cutoff, u64::MAX, Vec::new()).await, [old]);
    assert_eq!(bench.due("wh_a").await, [retried, young]);
}
