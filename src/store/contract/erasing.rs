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

pub(crate) async fn nothing_that_stays_names_what_is_erased(bench: Bench) {
    let cancels = Handling { cancels: vec![KEY], ..Handling::default() };
    let waiting = bench.handled("evt_1", cancels).await;
    let named = bench.ends("evt_2", &[], &[KEY]).await;
    let reason = bench.delivery(waiting).await.unwrap().reason;
    assert_eq!(reason, Some(format!("credential.expired {named} came")));
    assert_eq!(bench.erased(&[named]).await.events, 1);
    assert_eq!(bench.delivery(waiting).await.unwrap().reason, reason, "our own id tells nothing of its sender");
}

/// A digest of three events on its way to several recipients, with one body for all.
async fn split(bench: &Bench, among: &[&str]) -> [DeliveryId; 3] {
    let ids = bench.digest().await;
    let among = among.iter().map(ToString::to_string).collect();
    let read = Read { id: ids[0], unmade: 0 };
    bench.store.split(read, among, made("one, two, three").unwrap(), bench.clock.now()).await.unwrap();
    ids
}

/// What is due, and for whom.
async fn due_for(bench: &Bench) -> Vec<(DeliveryId, String)> {
    let due = bench.store.due(&"crm".into(), bench.clock.now(), 100, Vec::new()).await.unwrap();
    due.into_iter().map(|due| (due.delivery.id, due.delivery.recipient.unwrap_or_default())).collect()
}

pub(crate) async fn a_digest_for_several_goes_on_without_what_is_erased(bench: Bench) {
    let [first, second, third] = split(&bench, &["+1", "+2"]).await;
    let other = DeliveryId { n: 2, ..first };
    assert_eq!((bench.inside(other).await, bench.delivery(other).await.unwrap().carrier), (bench.inside(first).await, None));
    bench.recorded(first, 1, Next::Delivered).await;
    bench.recorded(other, 1, Next::Retry(bench.clock.now())).await;
    // Of those that it carries: whoever does not have it gets it without that one, and of whoever does nothing is left.
    let erased = bench.erased(&[second.event]).await;
    assert_eq!((erased.events, erased.carriers, erased.targets), (1, vec![other], vec!["crm".into()]));
    let bench = bench.restart().await;
    let attempts = bench.store.attempts(first.event).await.unwrap();
    assert!(attempts.len() == 2 && attempts.iter().all(|attempt| attempt.response.is_empty()), "{attempts:?}");
    assert_eq!((bench.body_of(other).await, due_for(&bench).await), (None, vec![(other, "+2".into())]));
    assert_eq!((bench.decided(other).await, bench.inside(other).await), (Decision::Go(1), vec!["evt_3".to_owned()]));
    let inside = Filter { carrier: Some(other), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(inside).await.unwrap(), 1);
    // The one that carries: the next does, for the recipient that does not have it, and for nobody else.
    bench.erased(&[first.event]).await;
    let bench = bench.restart().await;
    assert_eq!((due_for(&bench).await, bench.decided(third).await), (vec![(third, "+2".into())], Decision::Go(0)));
    assert_eq!(bench.store.event(third.event).await.unwrap().unwrap().deliveries, 1);
}

pub(crate) async fn whoever_has_a_digest_does_not_get_it_twice_for_what_is_erased(bench: Bench) {
    let [first, second, third] = split(&bench, &["+1", "+2", "+3", "+4"]).await;
    let [two, three] = [2, 3].map(|n| DeliveryId { n, ..first });
    bench.recorded(two, 1, Next::Delivered).await;
    bench.recorded(three, 1, Next::Dead(Cause::Receiver)).await;
    bench.erased(&[first.event]).await;
    let bench = bench.restart().await;
    let (dead, last) = (DeliveryId { n: 2, ..second }, DeliveryId { n: 3, ..second });
    assert_eq!(due_for(&bench).await, [(second, "+1".into()), (last, "+4".into())]);
    assert_eq!(
        (bench.stands(dead).await, bench.delivery(dead).await.unwrap().recipient),
        ("dead receiver".into(), Some("+3".into()))
    );
    for id in [second, last] {
        assert_eq!((bench.body_of(id).await, bench.decided(id).await), (None, Decision::Go(1)));
        assert_eq!(bench.inside(id).await, ["evt_3"]);
    }
    // Each goes its own way from there on, and once more where it is erased too.
    bench.recorded(second, 1, Next::Delivered).await;
    assert_eq!(bench.store.retry(vec![dead], bench.clock.now()).await.unwrap(), [dead]);
    bench.erased(&[second.event]).await;
    assert_eq!(due_for(&bench).await, [(third, "+3".into()), (DeliveryId { n: 2, ..third }, "+4".into())]);
    assert_eq!(bench.decided(third).await, Decision::Go(0));
}

pub(crate) async fn what_was_made_of_a_digest_before_is_not_kept(bench: Bench) {
    let [carrier, second, third] = bench.digest().await;
    let failed = |number, unmade, body: &str| {
        let retry = Next::Retry(bench.clock.now());
        let (rendered, detail) = (made(body), Some(format!("not taken: {body}")));
        Attempt { rendered, detail, unmade: Some(unmade), ..bench.attempt(carrier, number, retry) }
    };
    // The first attempt is under way when one of its events is erased; two ends are told at once.
    let erased = bench.erased(&[second.event]).await;
    assert_eq!((erased.carriers, erased.targets), (vec![carrier], vec!["crm".into()]));
    let left = made("one, two, three").map(|it| Rendered { progress: Some(Bytes::from_static(b"left")), ..it });
    let late = Attempt { rendered: left, ..failed(2, 0, "one, two, three") };
    bench.store.record(vec![failed(1, 0, "one, two, three"), late]).await.unwrap();
    let attempts = bench.store.attempts(carrier.event).await.unwrap();
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        assert_eq!((attempt.response.len(), attempt.detail, attempt.error.as_deref()), (0, None, Some("http_503")));
    }
    assert_eq!(bench.body_of(carrier).await, None);
    // What is made of it from then on is.
    let unmade = bench.delivery(carrier).await.unwrap().unmade;
    bench.store.record(vec![failed(3, unmade, "one, three")]).await.unwrap();
    assert_eq!(bench.body_of(carrier).await, made("one, three"));
    // Likewise what is made for several.
    assert_eq!(bench.erased(&[third.event]).await.carriers, [carrier]);
    let among = vec!["+1".to_owned(), "+2".to_owned()];
    bench.store.split(Read { id: carrier, unmade }, among, made("one, three").unwrap(), bench.clock.now()).await.unwrap();
    for id in [carrier, DeliveryId { n: 2, ..carrier }] {
        assert_eq!((bench.body_of(id).await, bench.decided(id).await), (None, Decision::Go(0)));
    }
}
