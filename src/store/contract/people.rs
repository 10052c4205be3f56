//! Promises about what people do to deliveries: retry, cancel, resolve, replay.

use super::*;

impl Bench {
    async fn dead(&self, id: &str) -> DeliveryId {
        let id = self.planned(id, "crm").await;
        self.recorded(id, 1, Next::Dead(Cause::Receiver)).await;
        id
    }

    fn resolution(&self) -> Resolution {
        Resolution { at: self.clock.now(), note: "the customer is gone".into() }
    }

    pub(crate) async fn replay(&self, event: EventUid, targets: &[&str], tag: &str) -> Vec<DeliveryId> {
        let deliveries = targets.iter().map(|target| NewDelivery::to((*target).into())).collect();
        self.store.replay(event, deliveries, tag, self.clock.now()).await.unwrap()
    }
}

pub(crate) async fn a_retried_dead_letter_starts_anew(bench: Bench) {
    let id = bench.dead("evt_1").await;
    let [pending, resolved] = [bench.planned("evt_2", "crm").await, bench.dead("evt_3").await];
    assert!(bench.store.resolve(resolved, bench.resolution()).await.unwrap());
    bench.clock.advance(days(2));
    let now = bench.clock.now();
    let unknown = DeliveryId { n: 9, ..id };
    let foreign = DeliveryId { event: EventUid { salt: !id.event.salt, ..id.event }, ..id };
    assert_eq!(bench.store.retry(vec![unknown, id, pending, resolved, foreign], now).await.unwrap(), [id]);
    assert_eq!(bench.store.retry(vec![id], now).await.unwrap(), [], "it is pending already");
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.state, row.cause, row.due_at, row.first_attempt_at), (State::Pending, None, Some(now), None));
    assert_eq!((row.attempts, row.uncounted, row.out_of_order), (1, 1, false));
    bench.recorded(id, 2, Next::Delivered).await;
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.state, row.attempts, row.uncounted, row.first_attempt_at), (State::Delivered, 2, 1, Some(now)));
    assert_eq!(bench.store.attempts(id.event).await.unwrap().len(), 2);
}

pub(crate) async fn a_retry_goes_out_of_order_and_says_so(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..3 {
        let planned = NewDelivery { order_key: Some([1; 16]), ..NewDelivery::to("crm".into()) };
        let event = NewEvent { deliveries: vec![planned], ..bench.event(&format!("evt_{n}")) };
        ids.push(DeliveryId { event: bench.accept(event).await, n: 1 });
    }
    bench.recorded(ids[0], 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.due("crm").await, [ids[1]]);
    bench.store.retry(vec![ids[0]], bench.clock.now()).await.unwrap();
    assert_eq!(bench.due("crm").await, ids[..2], "beside the head of its key");
    let row = bench.delivery(ids[0]).await.unwrap();
    assert_eq!((row.out_of_order, row.order_key), (true, None));
}

pub(crate) async fn what_is_cancelled_is_final_and_releases_its_key(bench: Bench) {
    let [first, second] = [0, 1].map(|n| NewEvent {
        deliveries: vec![NewDelivery { order_key: Some([1; 16]), ..NewDelivery::to("crm".into()) }],
        ..bench.event(&format!("evt_{n}"))
    });
    let (first, second) = (bench.accept(first).await, bench.accept(second).await);
    let [first, second] = [first, second].map(|event| DeliveryId { event, n: 1 });
    let dead = bench.dead("evt_3").await;
    assert_eq!(bench.store.cancel(vec![first, dead], "cancelled by admin", bench.clock.now()).await.unwrap(), [first]);
    assert_eq!(bench.store.cancel(vec![first], "", bench.clock.now()).await.unwrap(), []);
    assert_eq!(bench.due("crm").await, [second]);
    // An attempt that was under way is kept and changes nothing.
    bench.recorded(first, 1, Next::Delivered).await;
    let row = bench.delivery(first).await.unwrap();
    assert_eq!((row.state, row.due_at, row.attempts), (State::Cancelled, None, 0));
    assert_eq!((row.cause, row.reason.as_deref()), (None, Some("cancelled by admin")));
    assert_eq!(bench.store.attempts(first.event).await.unwrap().len(), 1);
    let cancelled = Filter { state: Some(State::Cancelled), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(cancelled).await.unwrap(), 1);
}

pub(crate) async fn a_dead_letter_is_resolved_once(bench: Bench) {
    let (dead, pending) = (bench.dead("evt_1").await, bench.planned("evt_2", "crm").await);
    assert!(!bench.store.resolve(pending, bench.resolution()).await.unwrap());
    assert!(!bench.store.resolve(DeliveryId { n: 2, ..dead }, bench.resolution()).await.unwrap());
    assert!(bench.store.resolve(dead, bench.resolution()).await.unwrap());
    let again = Resolution { note: "another".into(), ..bench.resolution() };
    assert!(!bench.store.resolve(dead, again).await.unwrap());
    let row = bench.delivery(dead).await.unwrap();
    assert_eq!((row.state, row.resolved), (State::Dead, Some(bench.resolution())));
    let of = async |resolved| {
        let filter = Filter { resolved: Some(resolved), ..Filter::default() };
        bench.store.deliveries(filter).await.unwrap().into_iter().map(|row| row.delivery.id).collect::<Vec<_>>()
    };
    assert_eq!((of(true).await, of(false).await), (vec![dead], vec![]));
    let backlog = bench.store.backlog(None).await.unwrap();
    assert_eq!((backlog.len(), backlog[0].dead, backlog[0].waiting), (1, 0, 1), "a settled one is not counted");
}

pub(crate) async fn a_replay_makes_new_deliveries(bench: Bench) {
    let old = bench.planned("evt_1", "crm").await;
    bench.recorded(old, 1, Next::Dead(Cause::Receiver)).await;
    let heard = Arc::new(Heard::default());
    bench.store.on_commit(heard.clone());
    bench.clock.advance(seconds(5));
    let made = bench.replay(old.event, &["crm", "n8n"], "job 1 evt_1").await;
    assert_eq!(made, [2, 3].map(|n| DeliveryId { event: old.event, n }));
    let told = heard.events.lock().unwrap().clone();
    assert_eq!((told.len(), told[0].envelope.replayed, told[0].deliveries.len()), (1, true, 2));
    assert_eq!(told[0].envelope.data(), br#"{"n":1}"#);
    let due = bench.store.due(&"crm".into(), bench.clock.now(), 9, Vec::new()).await.unwrap();
    assert_eq!(due[0].delivery, told[0].deliveries[0], "what is told is what is held");
    assert!(due.len() == 1 && due[0].envelope.replayed && due[0].delivery.replayed && due[0].delivery.id == made[0]);
    assert_eq!(due[0].delivery.created_at, bench.clock.now());
    // The old one and the event stay as they were.
    assert_eq!(bench.delivery(old).await.unwrap().state, State::Dead);
    assert!(!bench.store.event(old.event).await.unwrap().unwrap().envelope.replayed);
}

pub(crate) async fn what_replays_make_is_listed_as_it_is_made(bench: Bench) {
    let mut events = Vec::new();
    for n in 1..=3 {
        events.push(bench.planned(&format!("evt_{n}"), "crm").await.event);
    }
    let mut made = bench.replay(events[2], &["crm", "n8n"], "job 1 evt_3").await;
    made.extend(bench.replay(events[0], &["crm"], "job 2 evt_1").await);
    let list = async |replayed, page| {
        let filter = Filter { replayed: Some(replayed), page, ..Filter::default() };
        assert!(bench.store.count_deliveries(filter.clone()).await.unwrap() >= 3);
        bench.store.deliveries(filter).await.unwrap().into_iter().map(|row| row.delivery.id).collect::<Vec<_>>()
    };
    assert_eq!(list(true, Page::After(0)).await, made);
    for (at, id) in made.iter().enumerate() {
        assert_eq!(list(true, Page::After(id.place())).await, made[at + 1..]);
        let before: Vec<_> = made[..at].iter().rev().copied().collect();
        assert_eq!(list(true, Page::Before(id.place())).await, before);
    }
    assert_eq!(list(true, Page::Newest).await, [made[2], made[1], made[0]]);
    let planned: Vec<_> = events.iter().map(|event| DeliveryId { event: *event, n: 1 }).collect();
    assert_eq!(list(false, Page::After(0)).await, planned, "the others");
    // One for several recipients is one for each: the others come behind it, and to whoever has read on.
    let body = Rendered { content_type: "text/plain".into(), body: "x".into(), progress: None, reached: false };
    bench.store.split(Read { id: made[0], unmade: 0 }, vec!["a".into(), "b".into()], body, bench.clock.now()).await.unwrap();
    let other = DeliveryId { event: events[2], n: 4 };
    assert_eq!(list(true, Page::After(made[2].place())).await, [other]);
    let only = Filter { replayed: Some(true), event: Some(events[2]), page: Page::After(0), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(only).await.unwrap(), 3);
}

pub(crate) async fn a_step_of_a_replay_is_done_once(bench: Bench) {
    let event = bench.accept(bench.event("evt_1")).await;
    let first = bench.replay(event, &["crm"], "job 1 evt_1").await;
    let bench = bench.restart().await;
    assert_eq!(bench.replay(event, &["crm", "n8n"], "job 1 evt_1").await, first);
    assert_eq!(bench.due("crm").await, first);
    assert_eq!(bench.due("n8n").await, []);
    assert_ne!(bench.replay(event, &["crm"], "job 2 evt_1").await, first);
    assert_eq!(bench.replay(event, &[], "job 3 evt_1").await, []);
    let gone = EventUid { seq: 99, ..event };
    assert_eq!(bench.replay(gone, &["crm"], "job 4").await, []);
}

pub(crate) async fn replays_never_use_an_id_twice(bench: Bench) {
    let keep = Retention { events: days(30), dead_letters: seconds(60), rejections: days(7), audit: days(365), max_bytes: None };
    let id = bench.dead("evt_1").await;
    bench.clock.advance(seconds(61));
    assert_eq!(bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap().dead_letters, 1);
    assert_eq!(bench.replay(id.event, &["crm"], "job 1").await, [DeliveryId { n: 2, ..id }]);
    let many = vec![NewDelivery::to("crm".into()); N_MAX as usize];
    let refused = bench.store.replay(id.event, many, "job 2", bench.clock.now()).await;
    assert!(matches!(refused, Err(Error::Backend(_))), "{refused:?}");
}
