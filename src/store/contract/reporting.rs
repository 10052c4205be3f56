//! Promises about deliveries that wait for a report, and about those that are split among recipients.

use super::*;

impl Bench {
    /// A delivery that was taken and counts as delivered in ten minutes.
    async fn awaiting(&self, event: NewEvent) -> DeliveryId {
        let id = DeliveryId { event: self.accept(event).await, n: 1 };
        let until = crate::clock::later(self.clock.now(), seconds(600));
        let attempt = Attempt { status: Some(201), error: None, ..self.attempt(id, 1, Next::Awaits(until)) };
        self.store.record(vec![attempt]).await.unwrap();
        id
    }

    async fn in_state(&self, state: State) -> usize {
        self.store.deliveries(Filter { state: Some(state), ..Filter::default() }).await.unwrap().len()
    }
}

fn keyed(mut event: NewEvent) -> NewEvent {
    event.deliveries[0].order_key = Some([7; 16]);
    event
}

pub(crate) async fn what_awaits_a_report_is_being_sent_and_due_for_nothing(bench: Bench) {
    let id = bench.awaiting(bench.event("evt_1").to(&["wa"])).await;
    let bench = bench.restart().await;
    assert_eq!(bench.due("wa").await, []);
    assert_eq!(bench.store.next_due(&"wa".into(), Vec::new()).await.unwrap(), None);
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.state, row.attempts, row.awaits_report, row.unconfirmed), (State::Pending, 1, true, false));
    assert_eq!((bench.in_state(State::Sending).await, bench.in_state(State::Pending).await), (1, 0));
    let until = crate::clock::later(bench.clock.now(), seconds(600));
    assert_eq!(bench.store.attempts(id.event).await.unwrap()[0].next, Next::Awaits(until));
    bench.clock.advance(days(400));
    let when = GaveUp { now: bench.clock.now(), after: days(1), still_ms: 0, epoch: 0 };
    assert!(bench.store.give_up(&"wa".into(), when, Vec::new()).await.unwrap().dead.is_empty(), "it was sent");
}

pub(crate) async fn a_report_settles_what_awaits_it_once(bench: Bench) {
    let ids = [
        bench.awaiting(bench.event("evt_1").to(&["wa"])).await,
        bench.awaiting(bench.event("evt_2").to(&["wa"])).await,
        bench.awaiting(bench.event("evt_3").to(&["wa"])).await,
    ];
    let now = bench.clock.now();
    let nexts = [Next::Delivered, Next::Dead(Cause::Receiver), Next::Retry(now)];
    for (id, next) in ids.into_iter().zip(nexts) {
        let attempt = Attempt { counts: next != Next::Retry(now), detail: Some("told".into()), ..bench.attempt(id, 1, next) };
        assert!(!bench.store.reported(Attempt { number: 2, ..attempt.clone() }).await.unwrap(), "of an attempt never made");
        assert!(bench.store.reported(attempt.clone()).await.unwrap());
        assert!(!bench.store.reported(Attempt { next: Next::Dead(Cause::Config), ..attempt }).await.unwrap(), "a second time");
    }
    let mut found = Vec::new();
    for id in ids {
        let row = bench.delivery(id).await.unwrap();
        let attempt = bench.store.attempts(id.event).await.unwrap().remove(0);
        assert_eq!((attempt.status, attempt.detail.as_deref()), (Some(201), Some("told")));
        found.push((row.state, row.cause, row.uncounted, attempt.next));
    }
    let expected = [
        (State::Delivered, None, 0, Next::Delivered),
        (State::Dead, Some(Cause::Receiver), 0, Next::Dead(Cause::Receiver)),
        (State::Pending, None, 1, Next::Retry(now)),
    ];
    assert_eq!(found, expected);
    assert_eq!(bench.due("wa").await, [ids[2]]);
    let strange = DeliveryId { event: EventUid { salt: !ids[0].event.salt, ..ids[0].event }, n: 1 };
    assert!(!bench.store.reported(bench.attempt(strange, 1, Next::Delivered)).await.unwrap());
}

pub(crate) async fn what_nobody_reports_counts_as_delivered_at_its_time(bench: Bench) {
    let id = bench.awaiting(bench.event("evt_1").to(&["wa"])).await;
    bench.clock.advance(seconds(1));
    bench.awaiting(bench.event("evt_2").to(&["gone"])).await;
    bench.clock.advance(seconds(598));
    let early = bench.store.unreported(bench.clock.now()).await.unwrap();
    assert_eq!((early.settled, early.next), (Vec::new(), Some(crate::clock::later(bench.clock.now(), seconds(1)))));
    let bench = bench.restart().await;
    bench.clock.advance(seconds(1));
    let found = bench.store.unreported(bench.clock.now()).await.unwrap();
    assert_eq!((found.settled, found.next.is_some()), (vec![("wa".into(), id)], true));
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.state, row.unconfirmed, row.awaits_report, row.error), (State::Delivered, true, false, None));
    assert!(!bench.store.reported(bench.attempt(id, 1, Next::Dead(Cause::Receiver))).await.unwrap(), "final stays final");
    bench.clock.advance(seconds(1));
    assert_eq!(bench.store.unreported(bench.clock.now()).await.unwrap().settled.len(), 1, "of a target that is gone, too");
}

pub(crate) async fn what_awaits_a_report_holds_its_key(bench: Bench) {
    let first = bench.awaiting(keyed(bench.event("evt_1").to(&["wa"]))).await;
    let second = DeliveryId { event: bench.accept(keyed(bench.event("evt_2").to(&["wa"]))).await, n: 1 };
    let third = DeliveryId { event: bench.accept(keyed(bench.event("evt_3").to(&["wa"]))).await, n: 1 };
    assert_eq!(bench.due("wa").await, []);
    while bench.store.adopt(&"wa".into(), &"new".into()).await.unwrap() != 0 {}
    assert_eq!(bench.due("new").await, []);
    assert!(bench.store.reported(bench.attempt(first, 1, Next::Delivered)).await.unwrap());
    assert_eq!(bench.due("new").await, [second]);
    bench.recorded(second, 1, Next::Delivered).await;
    assert_eq!(bench.due("new").await, [third]);
}

pub(crate) async fn one_for_several_becomes_one_for_each_and_only_once(bench: Bench) {
    let id = bench.planned("evt_1", "wa").await;
    let heard = Arc::new(Heard::default());
    bench.store.on_commit(heard.clone());
    let created = bench.clock.now();
    bench.clock.advance(seconds(5));
    let body = Rendered { content_type: "text/plain".into(), body: Bytes::from_static(b"hello"), progress: None, reached: false };
    let split = async |among: &[&str]| {
        let among = among.iter().map(ToString::to_string).collect();
        bench.store.split(Read { id, unmade: 0 }, among, body.clone(), bench.clock.now()).await.unwrap()
    };
    assert_eq!(split(&["+1", "+2", "+3"]).await.as_deref(), Some("+1"));
    assert_eq!(split(&["+9", "+8"]).await.as_deref(), Some("+1"), "split already");
    let due = bench.store.due(&"wa".into(), bench.clock.now(), 10, Vec::new()).await.unwrap();
    let found: Vec<_> = due.iter().map(|due| (due.delivery.id.n, due.delivery.recipient.as_deref().unwrap())).collect();
    assert_eq!(found, [(1, "+1"), (2, "+2"), (3, "+3")]);
    assert!(due.iter().all(|due| due.delivery.body.as_ref() == Some(&body) && due.delivery.created_at == created));
    let told = heard.events.lock().unwrap().clone();
    let told: Vec<_> = told.iter().flat_map(|event| &event.deliveries).map(|it| (it.id.n, it.recipient.clone())).collect();
    assert_eq!(told, [(2, Some("+2".into())), (3, Some("+3".into()))]);
    assert_eq!(bench.store.event(id.event).await.unwrap().unwrap().deliveries, 3);
    bench.recorded(id, 1, Next::Delivered).await;
    assert_eq!(split(&["+1"]).await, None, "it is final");
}

pub(crate) async fn a_report_is_waited_for_no_less_though_the_clock_was_set_back(bench: Bench) {
    let keep = Retention { events: days(30), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    bench.clock.advance(days(400));
    let id = bench.awaiting(bench.event("evt_1").to(&["wa"])).await;
    bench.clock.set_back(days(400));
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    let until = crate::clock::later(bench.clock.now(), seconds(600));
    let found = bench.store.unreported(bench.clock.now()).await.unwrap();
    assert_eq!((found.settled.len(), found.next), (0, Some(until)));
    bench.clock.advance(seconds(600));
    assert_eq!(bench.store.unreported(bench.clock.now()).await.unwrap().settled, [("wa".into(), id)]);
}
