//! Promises about what is given up while its target is broken.

use super::*;

const AFTER: Duration = Duration::from_secs(120);

impl Bench {
    async fn give_up(&self, still_ms: i64, except: Vec<DeliveryId>) -> (Vec<DeliveryId>, Option<u64>) {
        let now = self.clock.now();
        let when = GaveUp { now, after: AFTER, still_ms, epoch: i64::MAX };
        let given_up = self.store.give_up(&"crm".into(), when, except).await.unwrap();
        let next = given_up.next.map(|next| crate::clock::until(now, next).as_secs());
        (given_up.dead.into_iter().map(|row| row.delivery.id).collect(), next)
    }

    /// A delivery to `crm` that is tried now, for the first time, when its lane has stood still for so long.
    async fn tried(&self, id: &str, stood_still_ms: i64) -> DeliveryId {
        let delivery = self.planned(id, "crm").await;
        let retry = Next::Retry(crate::clock::later(self.clock.now(), seconds(30)));
        self.store.record(vec![Attempt { stood_still_ms, ..self.attempt(delivery, 1, retry) }]).await.unwrap();
        delivery
    }
}

pub(crate) async fn what_was_tried_dies_at_its_give_up_time_without_an_attempt(bench: Bench) {
    let first = bench.tried("evt_1", 0).await;
    let never = bench.planned("evt_never", "crm").await;
    let other = bench.planned("evt_other", "n8n").await;
    bench.recorded(other, 1, Next::Retry(bench.clock.now())).await;
    bench.clock.advance(seconds(50));
    let (second, third) = (bench.tried("evt_2", 0).await, bench.tried("evt_3", 0).await);
    bench.clock.advance(seconds(69));
    assert_eq!(bench.give_up(0, vec![]).await, (vec![], Some(1)));
    bench.clock.advance(seconds(1));
    let when = GaveUp { now: bench.clock.now(), after: AFTER, still_ms: 0, epoch: i64::MAX };
    let given_up = bench.store.give_up(&"crm".into(), when, vec![]).await.unwrap();
    let row = &given_up.dead[0];
    assert_eq!((given_up.dead.len(), row.delivery.id, row.event_id.as_str()), (1, first, "evt_1"));
    assert_eq!((row.delivery.state, row.delivery.cause, row.delivery.due_at), (State::Dead, Some(Cause::Receiver), None));
    assert_eq!(bench.delivery(first).await.as_ref(), Some(&row.delivery));
    assert_eq!((row.delivery.attempts, row.delivery.error.as_deref()), (1, Some("http_503")), "as its last attempt left it");
    assert_eq!(bench.store.attempts(first.event).await.unwrap().len(), 1);
    bench.clock.advance(seconds(3600));
    assert_eq!(bench.give_up(0, vec![second]).await, (vec![third], None), "what is being tried is left out");
    assert_eq!(bench.give_up(0, vec![]).await, (vec![second], None));
    for (id, state) in [(never, State::Pending), (other, State::Pending), (second, State::Dead)] {
        assert_eq!(bench.delivery(id).await.unwrap().state, state);
    }
}

pub(crate) async fn give_up_stands_still_with_its_lane(bench: Bench) {
    let (early, late) = (bench.tried("evt_1", 0).await, bench.tried("evt_2", 60_000).await);
    bench.clock.advance(seconds(120));
    // The lane has stood still for 90 s: all of them since the first was tried, 30 since the second.
    assert_eq!(bench.give_up(90_000, vec![]).await, (vec![], Some(30)));
    bench.clock.advance(seconds(30));
    assert_eq!(bench.give_up(90_000, vec![]).await, (vec![late], Some(60)));
    bench.clock.advance(seconds(60));
    assert_eq!(bench.give_up(90_000, vec![]).await, (vec![early], None));
    // What comes from another lane may have seen more standing still than this one: it dies no earlier for that.
    let adopted = bench.tried("evt_3", 500_000).await;
    let own = bench.tried("evt_4", 90_000).await;
    bench.clock.advance(seconds(119));
    assert_eq!(bench.give_up(90_000, vec![]).await, (vec![], Some(1)));
    bench.clock.advance(seconds(1));
    assert_eq!(bench.give_up(90_000, vec![]).await, (vec![adopted, own], None));
}

pub(crate) async fn what_is_given_up_at_once_is_bounded_and_frees_its_order_key(bench: Bench) {
    let ordered = |id: &str| {
        let planned = NewDelivery { order_key: Some([7; 16]), ..NewDelivery::to("crm".into()) };
        NewEvent { deliveries: vec![planned], ..bench.event(id) }
    };
    let head = DeliveryId { event: bench.accept(ordered("evt_head")).await, n: 1 };
    let next = DeliveryId { event: bench.accept(ordered("evt_next")).await, n: 1 };
    bench.recorded(head, 1, Next::Retry(bench.clock.now())).await;
    let mut all = vec![head];
    for n in 0..600 {
        all.push(bench.tried(&format!("evt_{n}"), 0).await);
    }
    bench.clock.advance(AFTER);
    let mut dead = Vec::new();
    loop {
        let (some, more) = bench.give_up(0, vec![]).await;
        assert!(some.len() <= 250, "{}", some.len());
        dead.extend(some);
        if more.is_none() {
            break;
        }
        assert_eq!(more, Some(0));
    }
    dead.sort_unstable();
    assert_eq!(dead, all);
    assert_eq!(bench.due("crm").await, [next]);
}

pub(crate) async fn a_former_owner_gives_nothing_up(bench: Bench) {
    let lease = Duration::from_secs(15);
    bench.tried("evt_1", 0).await;
    let stale = bench.store.own_shards(OwnerId(1), bench.clock.now(), lease).await.unwrap()[0].epoch;
    bench.store.release_shards(OwnerId(1)).await.unwrap();
    bench.store.own_shards(OwnerId(2), bench.clock.now(), lease).await.unwrap();
    bench.clock.advance(AFTER);
    let when = GaveUp { now: bench.clock.now(), after: AFTER, still_ms: 0, epoch: stale };
    assert_eq!(bench.store.give_up(&"crm".into(), when, vec![]).await.unwrap(), GivenUp::default());
    assert_eq!(bench.give_up(0, vec![]).await.0.len(), 1);
}
