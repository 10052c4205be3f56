//! Promises about erasing: what is erased is gone with all that was made of it, and what is beside it goes on.

use super::{gathering::digested, *};

const KEY: Key = [1; 16];

fn made(text: &str) -> Option<Rendered> {
    let body = Bytes::copy_from_slice(text.as_bytes());
    Some(Rendered { content_type: "text/plain".into(), body, progress: None, reached: false })
}

impl Bench {
    pub(crate) async fn erased(&self, events: &[EventUid]) -> Erased {
        self.store.erase(events.to_vec(), self.clock.now()).await.unwrap()
    }

    /// Records that a first attempt failed that sent `body`; the next one is due now.
    pub(crate) async fn failed_with(&self, id: DeliveryId, body: &str) {
        let retry = Next::Retry(self.clock.now());
        self.store.record(vec![Attempt { rendered: made(body), ..self.attempt(id, 1, retry) }]).await.unwrap();
    }

    /// What the next attempt of `id` is to send again.
    async fn body_of(&self, id: DeliveryId) -> Option<Rendered> {
        let due = self.store.due(&"crm".into(), self.clock.now(), 100, Vec::new()).await.unwrap();
        due.into_iter().find(|due| due.delivery.id == id).expect("it is due").delivery.body
    }

    /// Three events in one digest, which is on its way: its carrier first.
    pub(crate) async fn digest(&self) -> [DeliveryId; 3] {
        let mut ids = Vec::new();
        for n in 1..=3 {
            let id = self.handled(&format!("evt_{n}"), digested(KEY)).await;
            self.decided(id).await;
            ids.push(id);
        }
        self.clock.advance(seconds(600));
        assert_eq!(self.decided(ids[0]).await, Decision::Go(2));
        ids.try_into().unwrap()
    }
}

pub(crate) async fn what_is_erased_is_gone_with_all_that_belongs_to_it(bench: Bench) {
    let ordered = |id: &str| {
        let planned = NewDelivery { order_key: Some(KEY), ..NewDelivery::to("crm".into()) };
        NewEvent { deliveries: vec![planned, NewDelivery::to("n8n".into())], ..bench.event(id) }
    };
    let (first, second) = (bench.accept(ordered("evt_1")).await, bench.accept(ordered("evt_2")).await);
    let [head, other, behind] = [(first, 1), (first, 2), (second, 1)].map(|(event, n)| DeliveryId { event, n });
    bench.failed_with(head, "something of somebody").await;
    bench.recorded(other, 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.due("crm").await, [head]);
    let foreign = EventUid { salt: !first.salt, ..second };
    let erased = bench.erased(&[foreign, first, EventUid { seq: 999, ..first }]).await;
    assert_eq!((erased.events, erased.ended, erased.targets), (1, vec![head], vec!["crm".into()]));
    let bench = bench.restart().await;
    assert!(!bench.holds(first).await && bench.holds(second).await);
    assert_eq!(bench.store.count_deliveries(Filter { event: Some(first), ..Filter::default() }).await.unwrap(), 0);
    assert_eq!(bench.store.attempts(first).await.unwrap(), []);
    assert_eq!(bench.due("crm").await, [behind], "the next of its key may go");
    // An attempt that was under way is for nothing, a repeat is still one, and no place is given out twice.
    bench.recorded(head, 2, Next::Delivered).await;
    assert_eq!(bench.store.attempts(first).await.unwrap(), []);
    let again = bench.store.accept(bench.event("evt_1").to(&["crm"])).await.unwrap();
    assert!(matches!(again, Accepted::Duplicate { .. }), "{again:?}");
    assert_eq!(bench.erased(&[second, first]).await.events, 1);
    assert!(second.seq < bench.accept(bench.event("evt_3")).await.seq);
    assert_eq!(bench.erased(&[first, second]).await, Erased::default());
}

pub(crate) async fn a_digest_goes_on_without_what_is_erased(bench: Bench) {
    let [carrier, second, third] = bench.digest().await;
    bench.failed_with(carrier, "one, two, three").await;
    assert_eq!(bench.body_of(carrier).await, made("one, two, three"));
    // Of those that it carries: it is made anew without that one.
    assert_eq!(bench.erased(&[second.event]).await.events, 1);
    assert_eq!((bench.body_of(carrier).await, bench.inside(carrier).await), (None, vec!["evt_3".to_owned()]));
    let attempts = bench.store.attempts(carrier.event).await.unwrap();
    assert_eq!((attempts.len(), attempts[0].response.len()), (1, 0), "what was answered may repeat what was sent");
    // The one that carries: the next does.
    bench.failed_with(carrier, "one, three").await;
    let erased = bench.erased(&[carrier.event]).await;
    assert_eq!((erased.events, erased.ended), (1, vec![carrier]));
    assert!(erased.targets.contains(&"crm".into()));
    let bench = bench.restart().await;
    assert_eq!(bench.due("crm").await, [third]);
    assert_eq!((bench.body_of(third).await, bench.delivery(third).await.unwrap().stage), (None, Stage::Passed));
    assert_eq!(bench.decided(third).await, Decision::Go(0));
}

pub(crate) async fn a_dead_digest_stays_one_without_what_is_erased(bench: Bench) {
    let [carrier, second, third] = bench.digest().await;
    bench.recorded(carrier, 1, Next::Dead(Cause::Receiver)).await;
    bench.erased(&[carrier.event]).await;
    assert_eq!((bench.stands(second).await, bench.stands(third).await), ("dead receiver".into(), "digested".into()));
    assert_eq!(bench.inside(second).await, ["evt_3"]);
    assert_eq!(bench.store.retry(vec![second], bench.clock.now()).await.unwrap(), [second]);
    assert_eq!(bench.due("crm").await, [second]);
}

pub(crate) async fn a_digest_that_gathers_goes_on_without_what_is_erased(bench: Bench) {
    let [first, second] = [bench.handled("evt_1", digested(KEY)).await, bench.handled("evt_2", digested(KEY)).await];
    bench.decided(first).await;
    bench.decided(second).await;
    bench.erased(&[first.event]).await;
    assert_eq!(bench.due("crm").await, []);
    bench.clock.advance(seconds(600));
    assert_eq!(bench.due("crm").await, [second]);
    assert_eq!(bench.decided(second).await, Decision::Go(0));
}
