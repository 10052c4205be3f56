//! Promises about what is decided before a first attempt: throttles, digests, `cancel_on`, quiet hours, `ttl`; over restarts too.

use super::*;

const KEY: Key = [1; 16];
const OTHER: Key = [2; 16];
const NAMED: Key = [3; 16];

const THROTTLED: Decision = Decision::Ended { state: State::Suppressed, cause: Some(Cause::Throttle), others: 0 };

fn dropped_by_hours(others: u32) -> Decision {
    Decision::Ended { state: State::Suppressed, cause: Some(Cause::Quiet), others }
}

fn throttle(key: Key, limit: u32) -> Throttle {
    Throttle { key, limit, per: days(1) }
}

/// One may go in a day.
fn throttled(key: Key) -> Handling {
    Handling { throttles: vec![throttle(key, 1)], ..Handling::default() }
}

/// Ten minutes, five at most.
pub(super) fn digested(key: Key) -> Handling {
    Handling { digest: Some(Digest { key, window: seconds(600), max: 5 }), ..Handling::default() }
}

fn until(bench: &Bench, s: u64) -> Timestamp {
    crate::clock::later(bench.clock.now(), seconds(s))
}

impl Bench {
    /// Takes in an event for `crm` that is to be handled so; gives its delivery.
    pub(super) async fn handled(&self, id: &str, handling: Handling) -> DeliveryId {
        let planned = NewDelivery { handling: Some(Box::new(handling)), ..NewDelivery::to("crm".into()) };
        let event = NewEvent { deliveries: vec![planned], ..self.event(id) };
        DeliveryId { event: self.accept(event).await, n: 1 }
    }

    pub(super) async fn ends(&self, id: &str, resets: &[Key], cancels: &[Key]) -> EventUid {
        let endings = Endings { resets: resets.to_vec(), cancels: cancels.to_vec() };
        self.accept(NewEvent { endings, ..self.event(id) }).await
    }

    async fn asked(&self, asks: &[(DeliveryId, Wish)]) -> Vec<Decision> {
        let asks = asks.iter().map(|(delivery, wish)| Ask { delivery: *delivery, wish: wish.clone() }).collect();
        self.store.decide(&"crm".into(), asks, 0, self.clock.now()).await.unwrap()
    }

    /// What is decided about `id` when it is not quiet.
    pub(super) async fn decided(&self, id: DeliveryId) -> Decision {
        self.hushed(id, Hush::None).await
    }

    async fn hushed(&self, id: DeliveryId, hush: Hush) -> Decision {
        self.asked(&[(id, Wish::Decide(hush))]).await[0]
    }

    /// State and cause of a delivery: `suppressed throttle`.
    pub(super) async fn stands(&self, id: DeliveryId) -> String {
        let it = self.delivery(id).await.unwrap();
        let cause = it.cause.map_or_else(String::new, |cause| format!(" {}", cause.word()));
        format!("{}{cause}", it.state.word())
    }

    /// The numbers of the events that go out inside `carrier`.
    pub(crate) async fn inside(&self, carrier: DeliveryId) -> Vec<String> {
        self.store.carried(carrier, 100).await.unwrap().iter().map(|(_, event)| event.id.clone()).collect()
    }
}

pub(crate) async fn of_a_throttled_key_so_many_go(bench: Bench) {
    let [first, second, third] = [
        bench.handled("evt_1", throttled(KEY)).await,
        bench.handled("evt_2", throttled(KEY)).await,
        bench.handled("evt_3", throttled(OTHER)).await,
    ];
    assert_eq!(bench.delivery(first).await.unwrap().stage, Stage::Undecided);
    assert_eq!(bench.decided(first).await, Decision::Go(0));
    // One that waits for its retry counts, over a restart too.
    bench.recorded(first, 1, Next::Retry(until(&bench, 3600))).await;
    let bench = bench.restart().await;
    assert_eq!((bench.decided(second).await, bench.decided(third).await), (THROTTLED, Decision::Go(0)));
    assert_eq!(bench.stands(second).await, "suppressed throttle");
    let row = bench.delivery(second).await.unwrap();
    assert_eq!((row.due_at, row.reason.as_deref()), (None, Some("one of the same key went within 1d")));
    assert_eq!(bench.decided(second).await, Decision::Over, "it is final");
    // Asked again about one that may go, the answer stays.
    assert_eq!(bench.decided(first).await, Decision::Go(0));
    bench.clock.advance(days(1));
    let fourth = bench.handled("evt_4", throttled(KEY)).await;
    assert_eq!(bench.decided(fourth).await, Decision::Go(0), "its window is over");
    let suppressed = Filter { state: Some(State::Suppressed), cause: Some(Cause::Throttle), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(suppressed).await.unwrap(), 1);
}

pub(crate) async fn a_throttle_counts_what_is_not_suppressed_cancelled_expired_or_dead(bench: Bench) {
    for (n, end) in ["suppressed", "cancelled", "expired", "dead"].into_iter().enumerate() {
        let key = [10 + u8::try_from(n).unwrap(); 16];
        let first = bench.handled(&format!("{end}_1"), throttled(key)).await;
        if end != "suppressed" {
            assert_eq!(bench.decided(first).await, Decision::Go(0));
        }
        match end {
            "suppressed" => _ = bench.asked(&[(first, Wish::Suppress(Cause::Mute, "a test".into()))]).await,
            "cancelled" => _ = bench.store.cancel(vec![first], "", bench.clock.now()).await.unwrap(),
            "expired" => _ = bench.asked(&[(first, Wish::Expire("old".into()))]).await,
            _ => bench.recorded(first, 1, Next::Dead(Cause::Receiver)).await,
        }
        assert_eq!(bench.delivery(first).await.unwrap().state.word(), end);
        let second = bench.handled(&format!("{end}_2"), throttled(key)).await;
        assert_eq!(bench.decided(second).await, Decision::Go(0), "{end}");
    }
}

pub(crate) async fn a_delivery_of_two_rules_is_suppressed_when_both_are_full(bench: Bench) {
    let both = Handling { throttles: vec![throttle(KEY, 1), throttle(OTHER, 2)], ..Handling::default() };
    let mut went = Vec::new();
    for n in 0..4 {
        let id = bench.handled(&format!("evt_{n}"), both.clone()).await;
        went.push(bench.decided(id).await == Decision::Go(0));
    }
    assert_eq!(went, [true, true, false, false]);
}

pub(crate) async fn the_newest_suppressed_one_takes_the_place_of_one_that_died(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(bench.handled(&format!("evt_{n}"), throttled(KEY)).await);
        bench.decided(ids[n]).await;
        bench.clock.advance(seconds(1));
    }
    bench.recorded(ids[0], 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.stands(ids[3]).await, "pending", "the newest");
    assert_eq!(bench.due("crm").await, [ids[3]]);
    assert_eq!(
        (bench.stands(ids[1]).await, bench.stands(ids[2]).await),
        ("suppressed throttle".into(), "suppressed throttle".into())
    );
    let bench = bench.restart().await;
    assert_eq!(bench.decided(ids[3]).await, Decision::Go(0));
    bench.recorded(ids[3], 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.due("crm").await, [ids[2]], "and when that dies, the next");
    // Retried, the dead one counts again.
    bench.store.retry(vec![ids[0]], bench.clock.now()).await.unwrap();
    assert_eq!((bench.decided(ids[2]).await, bench.decided(ids[0]).await), (THROTTLED, Decision::Go(0)));
}

pub(crate) async fn one_that_reached_somebody_gives_up_its_place_to_nobody(bench: Bench) {
    let body =
        |reached| Rendered { content_type: "message/rfc822".into(), body: Bytes::from_static(b"m"), progress: None, reached };
    let both = [bench.handled("evt_1", throttled(KEY)).await, bench.handled("evt_2", throttled(KEY)).await];
    for id in both {
        bench.decided(id).await;
    }
    let dead = Next::Dead(Cause::Receiver);
    bench.store.record(vec![Attempt { rendered: Some(body(true)), ..bench.attempt(both[0], 1, dead) }]).await.unwrap();
    let bench = bench.restart().await;
    assert_eq!(bench.stands(both[1]).await, "suppressed throttle");
    // So does one that was split, until the last of them dies.
    let [first, other] = [bench.handled("evt_3", throttled(OTHER)).await, bench.handled("evt_4", throttled(OTHER)).await];
    bench.decided(first).await;
    bench
        .store
        .split(Read { id: first, unmade: 0 }, vec!["+1".into(), "+2".into()], body(false), bench.clock.now())
        .await
        .unwrap();
    bench.recorded(first, 1, dead).await;
    bench.decided(other).await;
    assert_eq!(bench.stands(other).await, "suppressed throttle", "the second may still arrive");
    bench.recorded(DeliveryId { n: 2, ..first }, 1, dead).await;
    assert_eq!(bench.stands(other).await, "pending");
}

pub(crate) async fn what_a_clock_that_was_ahead_let_go_suppresses_nothing(bench: Bench) {
    let [first, second, third] = [
        bench.handled("evt_1", throttled(KEY)).await,
        bench.handled("evt_2", throttled(KEY)).await,
        bench.handled("evt_3", throttled(KEY)).await,
    ];
    let decide = async |delivery, now| {
        let asks = vec![Ask { delivery, wish: Wish::Decide(Hush::None) }];
        bench.store.decide(&"crm".into(), asks, 0, now).await.unwrap()[0]
    };
    let now = bench.clock.now();
    assert_eq!(decide(first, now + days(400)).await, Decision::Go(0));
    assert_eq!(decide(second, now).await, Decision::Go(0), "the window of the other is 400 days away");
    assert_eq!(decide(third, now - seconds(60)).await, THROTTLED, "a clock that is set back by a minute ends no window");
}

pub(crate) async fn a_reset_ends_the_window_and_what_was_suppressed_in_it_stays_so(bench: Bench) {
    let [first, second] = [bench.handled("evt_1", throttled(KEY)).await, bench.handled("evt_2", throttled(KEY)).await];
    assert_eq!((bench.decided(first).await, bench.decided(second).await), (Decision::Go(0), THROTTLED));
    let waiting = bench.handled("evt_3", throttled(KEY)).await;
    bench.ends("evt_4", &[KEY], &[]).await;
    let [after, again] = [bench.handled("evt_5", throttled(KEY)).await, bench.handled("evt_6", throttled(KEY)).await];
    let bench = bench.restart().await;
    assert_eq!(bench.decided(waiting).await, THROTTLED, "it came before");
    assert_eq!((bench.decided(after).await, bench.decided(again).await), (Decision::Go(0), THROTTLED));
    bench.recorded(first, 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.due("crm").await, [after], "the old window is over for good");
}

pub(crate) async fn a_later_event_cancels_what_waits_for_its_key(bench: Bench) {
    let heard = Arc::new(Heard::default());
    bench.store.on_commit(heard.clone());
    let cancels = |keys: &[Key]| Handling { cancels: keys.to_vec(), ..Handling::default() };
    let waiting = bench.handled("evt_1", cancels(&[NAMED])).await;
    let retrying = bench.handled("evt_2", cancels(&[NAMED])).await;
    let both = bench.handled("evt_3", cancels(&[NAMED, OTHER])).await;
    let done = bench.handled("evt_4", cancels(&[NAMED])).await;
    bench.recorded(retrying, 1, Next::Retry(until(&bench, 60))).await;
    bench.recorded(done, 1, Next::Delivered).await;
    heard.events.lock().unwrap().clear();
    let bench = bench.restart().await;
    bench.store.on_commit(heard.clone());
    let named = NewEvent { endings: Endings { cancels: vec![NAMED], ..Endings::default() }, ..bench.event("evt_5") };
    let uid = bench.accept(named.clone()).await;
    assert_eq!(repeat_of(bench.store.accept(named).await.unwrap()), ("evt_5".into(), false));
    let told = heard.events.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told with the commit of the event, though it is for nobody");
    assert_eq!(told[0].cancelled, [("crm".into(), waiting), ("crm".into(), retrying)]);
    for id in [waiting, retrying] {
        let row = bench.delivery(id).await.unwrap();
        assert_eq!((row.state, row.cause, row.due_at), (State::Cancelled, Some(Cause::CancelOn), None));
        assert_eq!(row.reason, Some(format!("credential.expired {uid} came")));
    }
    assert_eq!((bench.stands(both).await, bench.stands(done).await), ("pending".into(), "delivered".into()));
    bench.ends("evt_6", &[], &[OTHER]).await;
    assert_eq!(bench.stands(both).await, "cancelled cancel_on", "every rule's key was named");
    let later = bench.handled("evt_7", cancels(&[NAMED])).await;
    assert_eq!(bench.stands(later).await, "pending", "it came afterwards");
}

pub(crate) async fn what_arrives_though_it_was_cancelled_meanwhile_is_delivered(bench: Bench) {
    let named = || Handling { cancels: vec![NAMED], ..Handling::default() };
    let [arrives, fails] = [bench.handled("evt_1", named()).await, bench.handled("evt_2", named()).await];
    bench.ends("evt_3", &[], &[NAMED]).await;
    bench.recorded(arrives, 1, Next::Delivered).await;
    bench.recorded(fails, 1, Next::Retry(until(&bench, 60))).await;
    let row = bench.delivery(arrives).await.unwrap();
    assert_eq!((row.state, row.cause, row.attempts, row.reason), (State::Delivered, None, 1, None));
    assert_eq!(bench.stands(fails).await, "cancelled cancel_on");
    assert_eq!(bench.due("crm").await, []);
}

pub(crate) async fn what_was_called_off_takes_nobodys_place(bench: Bench) {
    let handling = || Handling { cancels: vec![NAMED], ..throttled(KEY) };
    let [first, second] = [bench.handled("evt_1", handling()).await, bench.handled("evt_2", handling()).await];
    bench.asked(&[(first, Wish::Decide(Hush::None)), (second, Wish::Decide(Hush::None))]).await;
    assert_eq!(bench.stands(second).await, "suppressed throttle");
    bench.ends("evt_3", &[], &[NAMED]).await;
    bench.recorded(first, 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.stands(second).await, "suppressed throttle");
}

pub(crate) async fn a_digest_gathers_until_its_window_ends(bench: Bench) {
    let first = bench.handled("evt_1", digested(KEY)).await;
    let ends = until(&bench, 600);
    assert_eq!(bench.decided(first).await, Decision::Waits(ends));
    bench.clock.advance(seconds(300));
    let [second, other] = [bench.handled("evt_2", digested(KEY)).await, bench.handled("evt_3", digested(OTHER)).await];
    assert_eq!(bench.decided(second).await, Decision::Waits(ends));
    assert_eq!(bench.decided(other).await, Decision::Waits(until(&bench, 600)));
    assert_eq!((bench.stands(first).await, bench.stands(second).await), ("pending".into(), "pending".into()));
    // In the middle of its window: nothing is due, and a new run goes on with it.
    let bench = bench.restart().await;
    let third = bench.handled("evt_4", digested(KEY)).await;
    assert_eq!(bench.decided(third).await, Decision::Waits(ends));
    assert_eq!(bench.due("crm").await, []);
    bench.clock.advance(seconds(300));
    assert_eq!(bench.due("crm").await, [first], "it carries the others");
    assert_eq!(bench.decided(first).await, Decision::Go(2));
    let bench = bench.restart().await;
    assert_eq!(bench.decided(first).await, Decision::Go(2), "tried again, it carries the same");
    assert_eq!(bench.inside(first).await, ["evt_2", "evt_4"]);
    let row = bench.delivery(second).await.unwrap();
    assert_eq!((row.state, row.carrier, row.due_at), (State::Digested, Some(first), None));
    let next = bench.handled("evt_5", digested(KEY)).await;
    assert_eq!(bench.decided(next).await, Decision::Waits(until(&bench, 600)), "another digest");
    bench.recorded(first, 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!((bench.stands(second).await, bench.stands(third).await), ("digested".into(), "digested".into()));
    let dead = Filter { state: Some(State::Dead), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(dead).await.unwrap(), 1, "one dead letter");
    let carried = Filter { carrier: Some(first), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(carried).await.unwrap(), 2);
}

pub(crate) async fn a_full_digest_goes_out_at_once(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(bench.handled(&format!("evt_{n}"), digested(KEY)).await);
    }
    let now = bench.clock.now();
    let asks: Vec<_> = ids.iter().map(|id| (*id, Wish::Decide(Hush::None))).collect();
    let decided = bench.asked(&asks[..5]).await;
    assert_eq!(decided[4], Decision::Waits(now));
    assert_eq!(bench.decided(ids[0]).await, Decision::Go(4));
    assert_eq!(bench.asked(&asks[5..]).await, [Decision::Waits(until(&bench, 600)); 2], "the rest begin anew");
    bench.clock.advance(seconds(600));
    assert_eq!(bench.decided(ids[5]).await, Decision::Go(1));
}

pub(crate) async fn a_digest_of_one_is_a_delivery_like_any_other(bench: Bench) {
    let id = bench.handled("evt_1", digested(KEY)).await;
    bench.decided(id).await;
    bench.clock.advance(seconds(600));
    assert_eq!(bench.decided(id).await, Decision::Go(0));
    assert_eq!(bench.delivery(id).await.unwrap().stage, Stage::Passed);
}

pub(crate) async fn a_digest_is_as_grave_as_the_gravest_in_it(bench: Bench) {
    let first = bench.handled("evt_1", digested(KEY)).await;
    let planned =
        NewDelivery { handling: Some(Box::new(digested(KEY))), severity: Severity::Critical, ..NewDelivery::to("crm".into()) };
    let grave = bench.accept(NewEvent { deliveries: vec![planned], ..bench.event("evt_2") }).await;
    bench.decided(first).await;
    bench.decided(DeliveryId { event: grave, n: 1 }).await;
    assert_eq!(bench.delivery(first).await.unwrap().severity, Severity::Critical);
}

pub(crate) async fn who_leaves_a_digest_is_followed_by_the_next(bench: Bench) {
    let handling = |n: u8| Handling { cancels: vec![[n; 16]], ..digested(KEY) };
    let mut ids = Vec::new();
    for n in 0..5_u8 {
        ids.push(bench.handled(&format!("evt_{n}"), handling(50 + n)).await);
        if n < 4 {
            bench.decided(ids[usize::from(n)]).await;
        }
    }
    let ends = until(&bench, 600);
    // The carrier and the last one are called off; a person cancels another.
    bench.ends("evt_a", &[], &[[50; 16]]).await;
    bench.ends("evt_b", &[], &[[53; 16]]).await;
    assert_eq!(bench.store.cancel(vec![ids[1]], "", bench.clock.now()).await.unwrap(), [ids[1]]);
    let bench = bench.restart().await;
    assert_eq!(bench.decided(ids[4]).await, Decision::Waits(ends), "it is the same digest");
    bench.clock.advance(seconds(600));
    assert_eq!(bench.due("crm").await, [ids[2]]);
    assert_eq!(bench.decided(ids[2]).await, Decision::Go(1));
    assert_eq!(bench.inside(ids[2]).await, ["evt_4"]);
    // Once it is on its way it takes along what it carries.
    bench.ends("evt_c", &[], &[[52; 16], [54; 16]]).await;
    assert_eq!((bench.stands(ids[2]).await, bench.stands(ids[4]).await), ("pending".into(), "digested".into()));
}

pub(crate) async fn a_digest_whose_last_one_leaves_is_no_more(bench: Bench) {
    let [first, second] = [bench.handled("evt_1", digested(KEY)).await, bench.handled("evt_2", digested(KEY)).await];
    bench.decided(first).await;
    bench.store.cancel(vec![first], "", bench.clock.now()).await.unwrap();
    bench.clock.advance(seconds(60));
    assert_eq!(bench.decided(second).await, Decision::Waits(until(&bench, 600)));
}

pub(crate) async fn what_quiet_hours_hold_goes_when_they_end(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let morning = until(&bench, 3600);
    assert_eq!(bench.hushed(id, Hush::Hold(morning)).await, Decision::Waits(morning));
    assert_eq!((bench.stands(id).await, bench.due("crm").await), ("pending quiet".into(), vec![]));
    let held = Filter { targets: Some(Targets::Held(vec!["crm".into()])), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(held.clone()).await.unwrap(), 1);
    let flowing = Filter { targets: Some(Targets::Flowing(vec!["crm".into()])), ..Filter::default() };
    assert_eq!(bench.store.count_deliveries(flowing.clone()).await.unwrap(), 0);
    // In the middle of them: a new run finds it where it was.
    let bench = bench.restart().await;
    assert_eq!(bench.store.next_due(&"crm".into(), Vec::new()).await.unwrap(), Some(morning));
    bench.clock.advance(seconds(3600));
    assert_eq!(bench.due("crm").await, [id]);
    assert_eq!(bench.decided(id).await, Decision::Go(0));
    assert_eq!(bench.stands(id).await, "pending");
    assert_eq!(bench.store.count_deliveries(flowing).await.unwrap(), 1);
}

pub(crate) async fn what_quiet_hours_held_is_cancelled_by_a_person_and_not_by_them(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    bench.hushed(id, Hush::Hold(until(&bench, 3600))).await;
    bench.store.cancel(vec![id], "", bench.clock.now()).await.unwrap();
    assert_eq!(bench.stands(id).await, "cancelled");
}

pub(crate) async fn what_is_held_is_roused_when_the_hours_change(bench: Bench) {
    let [held, retrying] = [bench.planned("evt_1", "crm").await, bench.planned("evt_2", "crm").await];
    bench.hushed(held, Hush::Hold(until(&bench, 3600))).await;
    bench.recorded(retrying, 1, Next::Retry(until(&bench, 60))).await;
    bench.store.rouse(&"crm".into(), bench.clock.now()).await.unwrap();
    assert_eq!((bench.due("crm").await, bench.stands(held).await), (vec![held], "pending".into()));
}

pub(crate) async fn quiet_hours_drop_or_gather(bench: Bench) {
    let [dropped, first, second] =
        [bench.planned("evt_1", "crm").await, bench.handled("evt_2", throttled(KEY)).await, bench.planned("evt_3", "crm").await];
    assert_eq!(bench.hushed(dropped, Hush::Drop("quiet hours `nights`".into())).await, dropped_by_hours(0));
    assert_eq!(bench.stands(dropped).await, "suppressed quiet");
    assert_eq!(bench.delivery(dropped).await.unwrap().reason.as_deref(), Some("quiet hours `nights`"));
    let morning = until(&bench, 3600);
    for id in [first, second] {
        assert_eq!(bench.hushed(id, Hush::Gather(OTHER, morning)).await, Decision::Waits(morning));
    }
    let bench = bench.restart().await;
    bench.clock.advance(seconds(3600));
    assert_eq!(bench.due("crm").await, [first]);
    assert_eq!(bench.decided(first).await, Decision::Go(1));
    assert_eq!(bench.stands(second).await, "digested");
}

pub(crate) async fn a_digest_that_ends_in_quiet_hours_waits_and_gathers_on(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(bench.handled(&format!("evt_{n}"), digested(KEY)).await);
    }
    bench.decided(ids[0]).await;
    bench.clock.advance(seconds(600));
    let morning = until(&bench, 3600);
    assert_eq!(bench.hushed(ids[0], Hush::Hold(morning)).await, Decision::Waits(morning));
    assert_eq!(bench.hushed(ids[1], Hush::Hold(morning)).await, Decision::Waits(morning));
    assert_eq!(bench.stands(ids[0]).await, "pending quiet");
    bench.clock.advance(seconds(3600));
    assert_eq!(bench.decided(ids[0]).await, Decision::Go(1));
    // Dropped, it takes what it gathered with it.
    bench.decided(ids[2]).await;
    bench.decided(ids[3]).await;
    bench.clock.advance(seconds(600));
    assert_eq!(bench.hushed(ids[2], Hush::Drop("night".into())).await, dropped_by_hours(1));
    assert_eq!((bench.stands(ids[2]).await, bench.stands(ids[3]).await), ("suppressed quiet".into(), "suppressed quiet".into()));
}

pub(crate) async fn what_is_older_than_its_ttl_expires(bench: Bench) {
    let [old, sent, retried] =
        [bench.planned("evt_1", "crm").await, bench.planned("evt_2", "crm").await, bench.planned("evt_3", "crm").await];
    let digest = bench.handled("evt_4", digested(KEY)).await;
    bench.decided(digest).await;
    bench.recorded(retried, 1, Next::Dead(Cause::Receiver)).await;
    bench.clock.advance(seconds(60));
    let cutoff = bench.clock.now();
    bench.store.retry(vec![retried], until(&bench, 1)).await.unwrap();
    let young = bench.handled("evt_5", digested(KEY)).await;
    bench.clock.advance(seconds(1));
    let late = bench.planned("evt_6", "crm").await;
    let expire = async |cutoff| {
        let now = bench.clock.now();
        bench.store.expire(&"crm".into(), cutoff, "older than its ttl of 1m", vec![sent], now).await.unwrap()
    };
    bench.decided(young).await;
    assert_eq!(expire(crate::clock::earlier(cutoff, seconds(1))).await, [old, digest]);
    let row = bench.delivery(old).await.unwrap();
    assert_eq!((row.state, row.cause, row.reason.as_deref()), (State::Expired, None, Some("older than its ttl of 1m")));
    assert_eq!(bench.stands(retried).await, "pending", "its clock began anew");
    assert_eq!(bench.due("crm").await, [sent, retried, late]);
    bench.clock.advance(seconds(600));
    assert_eq!(bench.decided(young).await, Decision::Go(0), "the digest went on without the first");
}

pub(crate) async fn a_former_owner_decides_nothing(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let lease = async |owner| bench.store.own_shards(OwnerId(owner), bench.clock.now(), seconds(15)).await.unwrap()[0].epoch;
    let former = lease(1).await;
    bench.store.release_shards(OwnerId(1)).await.unwrap();
    let epoch = lease(2).await;
    let asks = || vec![Ask { delivery: id, wish: Wish::Expire("old".into()) }];
    assert_eq!(bench.store.decide(&"crm".into(), asks(), former, bench.clock.now()).await.unwrap(), [Decision::Over]);
    assert_eq!(bench.stands(id).await, "pending");
    bench.store.decide(&"crm".into(), asks(), epoch, bench.clock.now()).await.unwrap();
    assert_eq!(bench.stands(id).await, "expired");
    // Nor does anybody about another lane's.
    let other = bench.planned("evt_2", "n8n").await;
    assert_eq!(bench.decided(other).await, Decision::Over);
}

pub(crate) async fn windows_go_on_under_a_new_name(bench: Bench) {
    let [first, digest] = [bench.handled("evt_1", throttled(KEY)).await, bench.handled("evt_2", digested(OTHER)).await];
    bench.asked(&[(first, Wish::Decide(Hush::None)), (digest, Wish::Decide(Hush::None))]).await;
    let [second, joins] = [bench.handled("evt_3", throttled(KEY)).await, bench.handled("evt_4", digested(OTHER)).await];
    while bench.store.adopt(&"crm".into(), &"ops".into()).await.unwrap() != 0 {}
    let ask = |delivery| Ask { delivery, wish: Wish::Decide(Hush::None) };
    let decided = bench.store.decide(&"ops".into(), vec![ask(second), ask(joins)], 0, bench.clock.now()).await.unwrap();
    assert_eq!(decided, [THROTTLED, Decision::Waits(until(&bench, 600))]);
    bench.clock.advance(seconds(600));
    assert_eq!(bench.store.decide(&"ops".into(), vec![ask(digest)], 0, bench.clock.now()).await.unwrap(), [Decision::Go(1)]);
}

pub(crate) async fn events_inside_a_delivery_stay_as_long_as_it_does(bench: Bench) {
    let keep = Retention { events: days(1), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    let [carrier, inside] = [bench.handled("evt_1", digested(KEY)).await, bench.handled("evt_2", digested(KEY)).await];
    bench.decided(carrier).await;
    bench.decided(inside).await;
    bench.clock.advance(seconds(600));
    bench.decided(carrier).await;
    bench.recorded(carrier, 1, Next::Dead(Cause::Receiver)).await;
    bench.clock.advance(days(2));
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    assert!(bench.holds(inside.event).await, "a dead letter lists it");
    let resolution = Resolution { at: bench.clock.now(), note: "seen".into() };
    assert!(bench.store.resolve(carrier, resolution).await.unwrap());
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    assert!(!bench.holds(inside.event).await && !bench.holds(carrier.event).await);
}

pub(crate) async fn a_digest_held_for_too_long_is_one_dead_letter(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(bench.handled(&format!("evt_{n}"), digested(KEY)).await);
        bench.decided(ids[n]).await;
    }
    let held_since = bench.clock.now();
    bench.clock.advance(days(31));
    let keep = Retention { events: days(30), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    let pruned = bench.store.prune(bench.clock.now(), keep, vec![("crm".into(), held_since)]).await.unwrap();
    assert_eq!(pruned.given_up, 1);
    assert_eq!(bench.stands(ids[0]).await, "dead config");
    assert_eq!((bench.stands(ids[1]).await, bench.stands(ids[2]).await), ("digested".into(), "digested".into()));
    assert_eq!(bench.inside(ids[0]).await, ["evt_1", "evt_2"]);
    // Retried, it takes them along.
    let retried = bench.store.retry(ids.clone(), bench.clock.now()).await.unwrap();
    assert_eq!((retried, bench.due("crm").await), (vec![ids[0]], vec![ids[0]]));
    assert_eq!(bench.decided(ids[0]).await, Decision::Go(2));
}

pub(crate) async fn a_window_outlives_the_events_it_counts(bench: Bench) {
    let keep = Retention { events: seconds(60), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    let first = bench.handled("evt_1", throttled(KEY)).await;
    bench.decided(first).await;
    bench.recorded(first, 1, Next::Delivered).await;
    bench.clock.advance(seconds(3600));
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    assert!(!bench.holds(first.event).await);
    let second = bench.handled("evt_2", throttled(KEY)).await;
    assert_eq!(bench.decided(second).await, THROTTLED);
}

pub(crate) async fn what_is_foreseen_is_what_would_be_decided_and_changes_nothing(bench: Bench) {
    let crm: Name = "crm".into();
    let foreseen = async |handling: Handling| bench.store.foresee(&crm, handling, bench.clock.now()).await.unwrap();
    let twice = || Handling { throttles: vec![throttle(KEY, 2)], ..Handling::default() };
    // Nobody has heard of the target yet.
    assert_eq!(foreseen(twice()).await, Foreseen::default());
    let began = bench.clock.now();
    for n in 0..2 {
        let id = bench.handled(&format!("evt_{n}"), twice()).await;
        assert_eq!(foreseen(twice()).await.throttled, None, "so many went: {n}");
        assert_eq!(bench.decided(id).await, Decision::Go(0));
        bench.clock.advance(seconds(60));
    }
    for _ in 0..3 {
        let full = foreseen(twice()).await.throttled.unwrap();
        assert_eq!((full.until, full.reason.as_str()), (crate::clock::later(began, days(1)), "2 of the same key went within 1d"));
    }
    // Two rules: it is suppressed while both are full, and the first of them that opens lets it go.
    let both = Handling { throttles: vec![throttle(KEY, 2), throttle(OTHER, 1)], ..Handling::default() };
    assert_eq!(foreseen(both).await, Foreseen::default());
    let id = bench.handled("evt_full", twice()).await;
    assert_eq!(bench.decided(id).await, THROTTLED);
    bench.ends("evt_reset", &[KEY], &[]).await;
    assert_eq!(foreseen(twice()).await, Foreseen::default(), "its window was ended");

    let now = bench.clock.now();
    let ends_at = crate::clock::later(now, seconds(600));
    assert_eq!(foreseen(digested(KEY)).await.gathered, Some(Gathered { until: ends_at, others: 0 }));
    for n in 0..4 {
        let id = bench.handled(&format!("evt_d{n}"), digested(KEY)).await;
        assert_eq!(bench.decided(id).await, Decision::Waits(ends_at));
        bench.clock.advance(seconds(10));
        let until = if n < 3 { ends_at } else { bench.clock.now() };
        assert_eq!(foreseen(digested(KEY)).await.gathered, Some(Gathered { until, others: n + 1 }));
    }
}

pub(crate) async fn one_that_dies_of_being_held_gives_its_place_to_the_newest(bench: Bench) {
    let [first, second] = [bench.handled("evt_1", throttled(KEY)).await, bench.handled("evt_2", throttled(KEY)).await];
    bench.decided(first).await;
    bench.decided(second).await;
    let held_since = bench.clock.now();
    bench.clock.advance(days(31));
    let keep = Retention { events: days(30), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    let pruned = bench.store.prune(bench.clock.now(), keep, vec![("crm".into(), held_since)]).await.unwrap();
    assert_eq!(pruned.given_up, 1);
    assert_eq!((bench.stands(first).await, bench.stands(second).await), ("dead config".into(), "pending".into()));
}

pub(crate) async fn what_a_clock_that_was_ahead_put_off_is_decided_anew(bench: Bench) {
    let keep = Retention { events: days(30), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    let [quiet, carrier] = [bench.handled("evt_1", throttled(OTHER)).await, bench.handled("evt_2", digested(KEY)).await];
    let [gathered, by_hours] = [bench.handled("evt_3", digested(KEY)).await, bench.handled("evt_4", throttled(NAMED)).await];
    bench.clock.advance(days(400));
    let morning = until(&bench, 8 * 3600);
    assert_eq!(bench.hushed(quiet, Hush::Hold(morning)).await, Decision::Waits(morning));
    assert_eq!(bench.hushed(by_hours, Hush::Gather([9; 16], morning)).await, Decision::Waits(morning));
    for id in [carrier, gathered] {
        assert_eq!(bench.decided(id).await, Decision::Waits(until(&bench, 600)));
    }
    bench.clock.set_back(days(400));
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    let mut due = bench.due("crm").await;
    due.sort_unstable();
    assert_eq!(due, [quiet, carrier, by_hours]);
    // It may be quiet still, and a digest takes along what it gathered.
    let tonight = until(&bench, 3600);
    assert_eq!(bench.hushed(quiet, Hush::Hold(tonight)).await, Decision::Waits(tonight));
    assert_eq!(bench.hushed(by_hours, Hush::Gather([9; 16], tonight)).await, Decision::Waits(tonight));
    assert_eq!(bench.decided(carrier).await, Decision::Go(1));
    // What waits as it should is left alone.
    let later = bench.handled("evt_5", digested(OTHER)).await;
    bench.decided(later).await;
    bench.clock.set_back(seconds(1));
    bench.store.prune(bench.clock.now(), keep, Vec::new()).await.unwrap();
    assert_eq!(bench.delivery(later).await.unwrap().due_at, Some(until(&bench, 601)));
}
