//! `delivery.md`, sentence by sentence, as far as lanes decide: breaker, pause, clocks, rate, order, severity, names, ownership.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use super::{
    TargetState,
    quiet::{Quiet, Then},
    testing::{MemoryStore, Received, Receiver, Relay, Says, context, destination, eventually, node},
};
use crate::{
    announce::Notice,
    clock::{Timestamp, later},
    envelope::{Envelope, Name, tests::sample},
    schedule::Schedule,
    store::{Attempt, Cause, NewDelivery, Next, Severity, State},
};

fn webhook(receiver: &Receiver, more: &str) -> super::Destination {
    destination("crm", &format!("{{kind: webhook, url: '{}', {more}}}", receiver.url())).unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn attempts(store: &MemoryStore) -> Vec<Attempt> {
    store.attempts.lock().unwrap().clone()
}

async fn recorded(relay: &Relay, count: usize) {
    relay.settled(&format!("{count} attempts are recorded"), |store| store.attempts.lock().unwrap().len() == count).await;
}

/// Long enough for a lane to do what it must not.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn state(relay: &Relay) -> TargetState {
    relay.deliver.targets()[0].state
}

/// Commits an event called `id` with this order key and severity; its place.
fn commit(relay: &Relay, id: &str, key: Option<u8>, severity: Severity) -> i64 {
    let planned = NewDelivery { order_key: key.map(|key| [key; 16]), severity, ..NewDelivery::to("crm".into()) };
    relay.store.commit_planned(Envelope { id: id.into(), ..sample() }, vec![planned], relay.clock.now())
}

fn ids(received: &[Received]) -> Vec<String> {
    let id = |it: &Received| serde_json::from_slice::<serde_json::Value>(&it.body).unwrap()["id"].as_str().unwrap().to_owned();
    received.iter().map(id).collect()
}

/// A relay whose target is broken since the clock's start: five deliveries have failed once.
async fn broken(crm: &Receiver, more: &str) -> Relay {
    let relay = Relay::start(vec![webhook(crm, &format!("concurrency: 1, {more}"))]);
    (0..5).for_each(|_| relay.accept(&["crm"]));
    recorded(&relay, 5).await;
    eventually("it is broken", || state(&relay) == TargetState::Broken).await;
    relay
}

#[tokio::test]
async fn a_broken_target_gets_one_probe_after_30_s_and_the_wait_doubles() {
    let crm = Receiver::start([500]).await;
    let mut relay = broken(&crm, "retry: {initial: 1s, max: 1s}").await;
    (0..1000).for_each(|_| relay.accept(&["crm"]));
    for (probes, wait) in [30, 60, 120, 240, 480, 600].into_iter().enumerate() {
        relay.clock.advance(secs(wait - 1));
        a_while().await;
        assert_eq!(crm.received().len(), 5 + probes);
        relay.clock.advance(secs(1));
        recorded(&relay, 6 + probes).await;
    }
    assert!(relay.store.reads.load(Ordering::SeqCst) < 30, "{:?}", relay.store.reads);
    let status = &relay.deliver.targets()[0];
    assert_eq!((status.cause, status.last_error.as_deref()), (Some(Cause::Receiver), Some("http_500")));
    assert_eq!(relay.deliver.held(), [("crm".into(), status.since.unwrap())]);
    let notice = Notice::Broken { target: "crm".into(), cause: Cause::Receiver, error: Some("http_500".into()) };
    assert_eq!(relay.notices.try_recv().ok(), Some(notice));
    assert!(relay.notices.try_recv().is_err());
}

#[tokio::test]
async fn a_success_closes_it_and_what_waited_flows() {
    let crm = Receiver::start([500, 500, 500, 500, 500, 200]).await;
    let mut relay = broken(&crm, "").await;
    let since = relay.clock.now();
    (0..200).for_each(|_| relay.accept(&["crm"]));
    relay.clock.advance(secs(30));
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 205).await;
    assert_eq!(state(&relay), TargetState::Ok);
    relay.notices.recv().await.unwrap();
    assert_eq!(relay.notices.try_recv().ok(), Some(Notice::Recovered { target: "crm".into(), broken_since: since }));
}

#[tokio::test]
async fn concurrency_ramps_up_by_doubling_after_a_break() {
    let slow = Says(200, None, Duration::from_millis(100));
    let crm = Receiver::start([500.into(), 500.into(), 500.into(), 500.into(), 500.into(), slow]).await;
    let relay = broken(&crm, "").await;
    drop(relay);
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 8")]);
    (0..40).for_each(|_| relay.accept(&["crm"]));
    eventually("all slots are used", || crm.most() == 8).await;
}

#[tokio::test]
async fn failures_at_target_level_burn_nothing() {
    let crm = Receiver::start([401, 401, 200]).await;
    let mut relay = Relay::start(vec![webhook(&crm, "concurrency: 1, retry: {max_attempts: 1}")]);
    relay.accept(&["crm"]);
    recorded(&relay, 1).await;
    eventually("it is broken", || state(&relay) == TargetState::Broken).await;
    assert_eq!(relay.deliver.targets()[0].cause, Some(Cause::Config));
    let delivery = relay.store.delivery(1);
    assert_eq!((delivery.state, delivery.uncounted, delivery.first_attempt_at), (State::Pending, 1, None));
    relay.clock.advance(secs(30));
    recorded(&relay, 2).await;
    relay.clock.advance(secs(60));
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    assert_eq!(attempts(&relay.store).iter().map(|it| it.counts).collect::<Vec<_>>(), [false, false, true]);
    assert!(matches!(relay.notices.recv().await, Some(Notice::Broken { cause: Cause::Config, .. })));
}

#[tokio::test]
async fn a_denial_of_a_trusted_target_counts_until_three_events_were_denied() {
    let crm = Receiver::start([200, 403]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    relay.accept(&["crm"]);
    recorded(&relay, 1).await;
    (0..3).for_each(|_| relay.accept(&["crm"]));
    recorded(&relay, 4).await;
    assert_eq!(attempts(&relay.store).iter().map(|it| it.counts).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!((state(&relay), relay.deliver.targets()[0].cause), (TargetState::Broken, Some(Cause::Config)));
}

#[tokio::test]
async fn three_moved_in_a_row_are_target_level() {
    let crm = Receiver::start([302]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    (0..20).for_each(|_| relay.accept(&["crm"]));
    eventually("it is broken", || state(&relay) == TargetState::Broken).await;
    recorded(&relay, 3).await;
    assert_eq!((relay.store.states(State::Dead), relay.store.states(State::Pending)), (2, 18));
}

#[tokio::test]
async fn with_the_breaker_open_at_give_up_time_it_dies_then_and_without_an_attempt() {
    let crm = Receiver::start([500]).await;
    let mut relay = broken(&crm, "retry: {initial: 10s, max: 10s, jitter: none, give_up_after: 2m}").await;
    relay.accept(&["crm"]);
    for (probes, wait) in [(1, 30), (2, 60)] {
        relay.clock.advance(secs(wait));
        recorded(&relay, 5 + probes).await;
    }
    // The next probe is due 90 s later than they are given up.
    relay.clock.advance(secs(29));
    a_while().await;
    assert_eq!(relay.store.states(State::Dead), 0);
    relay.clock.advance(secs(1));
    relay.settled("all that were tried are dead", |store| store.states(State::Dead) == 5).await;
    assert_eq!((crm.received().len(), attempts(&relay.store).len(), relay.store.states(State::Pending)), (7, 7, 1));
    let dead = relay.store.delivery(1);
    assert_eq!((dead.cause, dead.attempts, dead.error.as_deref()), (Some(Cause::Receiver), 3, Some("http_500")));
    assert!(matches!(relay.notices.recv().await, Some(Notice::Broken { .. })));
    for _ in 0..5 {
        let notice = relay.notices.recv().await;
        assert!(matches!(&notice, Some(Notice::Dead { cause: Cause::Receiver, .. })), "{notice:?}");
    }
    assert!(relay.metrics.export().contains("hookyard_given_up_total{target=\"crm\"} 5"));
    // The one that was never tried does not age.
    relay.clock.advance(secs(90));
    recorded(&relay, 8).await;
}

#[tokio::test]
async fn a_leap_past_give_up_and_probe_time_makes_no_attempt() {
    let crm = Receiver::start([500]).await;
    let relay = broken(&crm, "retry: {initial: 1m, max: 1m, jitter: none, give_up_after: 2m}").await;
    relay.clock.advance(secs(3600));
    relay.settled("all that were tried are dead", |store| store.states(State::Dead) == 5).await;
    a_while().await;
    assert_eq!(crm.received().len(), 5);
}

#[tokio::test]
async fn nothing_is_given_up_while_a_broken_target_is_paused() {
    let crm = Receiver::start([500]).await;
    let relay = broken(&crm, "retry: {initial: 1m, max: 1m, jitter: none, give_up_after: 2m}").await;
    relay.clock.advance(secs(20));
    relay.deliver.pause(&"crm".into(), "ana").await.unwrap();
    relay.clock.advance(secs(3600));
    a_while().await;
    assert_eq!(relay.store.states(State::Dead), 0);
    relay.deliver.resume(&"crm".into()).await.unwrap();
    // The probe that was due long ago; 20 s of the 120 had passed when it was paused.
    recorded(&relay, 6).await;
    relay.clock.advance(secs(99));
    recorded(&relay, 7).await;
    a_while().await;
    assert_eq!(relay.store.states(State::Dead), 0);
    relay.clock.advance(secs(1));
    relay.settled("all that were tried are dead", |store| store.states(State::Dead) == 5).await;
    assert_eq!(crm.received().len(), 7);
}

#[tokio::test]
async fn what_passed_its_give_up_time_while_the_relay_was_down_dies_at_the_start() {
    let crm = Receiver::start([500]).await;
    let policy = "retry: {initial: 1m, max: 1m, jitter: none, give_up_after: 2m}";
    let relay = broken(&crm, policy).await;
    relay.deliver.drain(secs(5)).await;
    let (store, start) = (relay.store.clone(), relay.clock.now());
    drop(relay);
    let relay = Relay::at(store, vec![webhook(&crm, &format!("concurrency: 1, {policy}"))], later(start, secs(125)));
    relay.settled("all that were tried are dead", |store| store.states(State::Dead) == 5).await;
    assert_eq!(crm.received().len(), 5);
}

#[tokio::test]
async fn a_probe_is_made_with_the_oldest_of_the_whole_backlog() {
    let crm = Receiver::start([500]).await;
    let relay = broken(&crm, "retry: {initial: 20s, max: 20s, jitter: none}").await;
    for n in 0..600 {
        commit(&relay, &format!("{n:03}"), None, Severity::Critical);
    }
    // All of these are due before the first one is again, and go before it.
    relay.clock.advance(secs(30));
    recorded(&relay, 6).await;
    assert_eq!(attempts(&relay.store)[5].delivery.event.seq, 1);
}

#[tokio::test]
async fn a_person_pauses_resumes_and_closes_and_a_pause_outlives_a_restart() {
    let crm = Receiver::start([200]).await;
    let store = Arc::new(MemoryStore::default());
    let mut relay = Relay::on(store.clone(), vec![webhook(&crm, "")]);
    let crm_name: Name = "crm".into();
    assert!(relay.deliver.pause(&crm_name, "ana").await.unwrap());
    assert!(!relay.deliver.pause(&"nobody".into(), "ana").await.unwrap());
    assert_eq!(relay.notices.try_recv().ok(), Some(Notice::Paused { target: crm_name.clone(), by: "ana".into() }));
    relay.accept(&["crm"]);
    a_while().await;
    relay.deliver.drain(secs(5)).await;
    assert!(!store.released.load(Ordering::SeqCst), "jobs may still work");
    relay.deliver.leave().await;
    assert!(store.released.load(Ordering::SeqCst));

    let relay = Relay::on(store, vec![webhook(&crm, "")]);
    eventually("it is paused still", || state(&relay) == TargetState::Paused).await;
    assert_eq!(relay.deliver.targets()[0].paused_by.as_deref(), Some("ana"));
    assert_eq!(relay.deliver.held().len(), 1);
    a_while().await;
    assert!(crm.received().is_empty());
    assert!(relay.deliver.resume(&crm_name).await.unwrap());
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    assert!(relay.deliver.held().is_empty());
}

#[tokio::test]
async fn a_person_closes_the_breaker() {
    let crm = Receiver::start([500, 500, 500, 500, 500, 200]).await;
    let mut relay = broken(&crm, "").await;
    relay.accept(&["crm"]);
    assert!(relay.deliver.close(&"crm".into()).await.unwrap());
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    relay.notices.recv().await.unwrap();
    assert!(matches!(relay.notices.try_recv(), Ok(Notice::Recovered { .. })));
}

#[tokio::test]
async fn a_broken_target_is_still_broken_after_a_restart() {
    let crm = Receiver::start([500]).await;
    let relay = broken(&crm, "").await;
    relay.deliver.drain(secs(5)).await;
    let relay = Relay::on(relay.store.clone(), vec![webhook(&crm, "")]);
    eventually("it is broken", || state(&relay) == TargetState::Broken).await;
    relay.accept(&["crm"]);
    a_while().await;
    assert_eq!(crm.received().len(), 5);
    relay.clock.advance(secs(30));
    recorded(&relay, 6).await;
}

#[tokio::test]
async fn a_hold_outlives_a_restart_and_is_known_before_anybody_asks() {
    let crm = Receiver::start([Says(429, Some(("retry-after", "120")), Duration::ZERO), 200.into()]).await;
    let relay = Relay::start(vec![webhook(&crm, "")]);
    relay.accept(&["crm"]);
    recorded(&relay, 1).await;
    relay.clock.advance(secs(60));
    relay.deliver.drain(secs(5)).await;
    let relay = Relay::at(relay.store.clone(), vec![webhook(&crm, "")], relay.clock.now());
    relay.accept(&["crm"]);
    relay.clock.advance(secs(59));
    a_while().await;
    assert_eq!(crm.received().len(), 1);
    relay.clock.advance(secs(1));
    relay.settled("both are delivered", |store| store.states(State::Delivered) == 2).await;
}

#[tokio::test]
async fn how_lanes_stand_is_known_once_it_was_read() {
    let crm = Receiver::start([200]).await;
    let store = Arc::new(MemoryStore::default());
    let paused = r#"{"paused":{"since_ms":5,"by":"ana"},"broken":null,"last_error":null,"last_success_ms":null,"still_ms":0}"#;
    store.kept.lock().unwrap().insert("lane.crm".into(), paused.into());
    let relay = Relay::on(store, vec![webhook(&crm, "")]);
    relay.deliver.load().await.unwrap();
    assert_eq!(state(&relay), TargetState::Paused);
}

#[tokio::test]
async fn give_up_stands_still_while_paused() {
    let crm = Receiver::start([500]).await;
    let relay = Relay::start(vec![webhook(&crm, "retry: {initial: 40s, max: 40s, jitter: none, give_up_after: 60s}")]);
    relay.accept(&["crm"]);
    recorded(&relay, 1).await;
    relay.deliver.pause(&"crm".into(), "ana").await.unwrap();
    relay.clock.advance(secs(3600));
    relay.deliver.resume(&"crm".into()).await.unwrap();
    recorded(&relay, 2).await;
    assert_eq!(attempts(&relay.store)[1].next, Next::Retry(later(relay.clock.now(), secs(40))));
    relay.clock.advance(secs(40));
    recorded(&relay, 3).await;
    relay.clock.advance(secs(20));
    recorded(&relay, 4).await;
    assert_eq!(attempts(&relay.store)[3].next, Next::Dead(Cause::Receiver));
}

#[tokio::test]
async fn a_retried_dead_letter_starts_its_count_and_clocks_anew() {
    let crm = Receiver::start([500]).await;
    let relay = Relay::start(vec![webhook(&crm, "retry: {initial: 1s, max: 1s, max_attempts: 2, give_up_after: 1m}")]);
    relay.accept(&["crm"]);
    recorded(&relay, 1).await;
    relay.clock.advance(secs(1));
    recorded(&relay, 2).await;
    relay.clock.advance(secs(600));
    relay.settled("it is dead", |store| store.states(State::Dead) == 1).await;
    relay.store.retry_by_hand(1, relay.clock.now());
    relay.deliver.wake(&["crm".into()]);
    recorded(&relay, 3).await;
    relay.clock.advance(secs(1));
    recorded(&relay, 4).await;
    let made: Vec<_> = attempts(&relay.store).iter().map(|it| (it.number, matches!(it.next, Next::Dead(_)))).collect();
    assert_eq!(made, [(1, false), (2, true), (3, false), (4, true)]);
}

#[tokio::test]
async fn deaths_are_announced_but_not_of_the_relays_own_events() {
    let crm = Receiver::start([400]).await;
    let mut relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    relay.store.commit(Envelope { source: "hookyard".into(), ..sample() }, &["crm"], None, relay.clock.now());
    relay.accept(&["crm"]);
    let notice = relay.notices.recv().await.unwrap();
    let Notice::Dead { delivery, event_id, cause, error, .. } = notice else { panic!("{notice:?}") };
    assert_eq!(
        (delivery.event.seq, event_id.as_str(), cause, error.as_deref()),
        (2, "evt_003", Cause::Receiver, Some("http_400"))
    );
    assert!(relay.notices.try_recv().is_err());
}

#[tokio::test]
async fn a_backlog_flows_at_the_rate_and_no_faster() {
    let crm = Receiver::start([200]).await;
    let store = Arc::new(MemoryStore::default());
    for _ in 0..100 {
        store.commit(sample(), &["crm"], None, "2026-01-20T11:00:00Z".parse().unwrap());
    }
    let relay = Relay::on(store, vec![webhook(&crm, "rate_limit: {rate: 10/s, burst: 20}")]);
    for delivered in [20, 30, 40, 50] {
        relay.settled("the rate is used", |store| store.states(State::Delivered) == delivered).await;
        a_while().await;
        assert_eq!(crm.received().len(), delivered);
        relay.clock.advance(secs(1));
    }
}

#[tokio::test]
async fn with_order_by_one_delivery_per_key_is_in_flight_by_acceptance_order() {
    let crm = Receiver::start([Says(200, None, Duration::from_millis(5))]).await;
    let relay = Relay::start(vec![webhook(&crm, "")]);
    for n in 0..30 {
        commit(&relay, &format!("{}-{n:02}", n % 3), Some(n % 3), Severity::Info);
    }
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 30).await;
    assert!(crm.most() <= 3, "{}", crm.most());
    let got = ids(&crm.received());
    for key in ["0-", "1-", "2-"] {
        let of_key: Vec<_> = got.iter().filter(|id| id.starts_with(key)).collect();
        assert!(of_key.len() == 10 && of_key.is_sorted(), "{of_key:?}");
    }
}

#[tokio::test]
async fn a_retrying_head_holds_its_key_and_a_dead_one_releases_it() {
    let crm = Receiver::start([500, 200, 400, 200]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1, retry: interactor")]);
    commit(&relay, "a1", Some(1), Severity::Info);
    recorded(&relay, 1).await;
    commit(&relay, "a2", Some(1), Severity::Info);
    commit(&relay, "b1", Some(2), Severity::Info);
    recorded(&relay, 2).await;
    a_while().await;
    assert_eq!(ids(&crm.received()), ["a1", "b1"]);
    relay.clock.advance(secs(60));
    relay.settled("the head is dead and its key goes on", |store| store.states(State::Delivered) == 2).await;
    assert_eq!(ids(&crm.received()), ["a1", "b1", "a1", "a2"]);
    relay.store.retry_by_hand(1, relay.clock.now());
    relay.deliver.wake(&["crm".into()]);
    recorded(&relay, 5).await;
    insta::assert_snapshot!(attempts(&relay.store)[4].detail.as_deref().unwrap(), @"retried by a person, out of the order of its key");
}

#[tokio::test]
async fn critical_goes_first_also_when_the_lane_is_behind_but_never_before_its_own_key() {
    let crm = Receiver::start([Says(200, None, Duration::from_millis(20)), 200.into()]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    let at = |id: &str, key, severity| commit(&relay, id, key, severity);
    at("first", None, Severity::Info);
    eventually("it is sent", || crm.received().len() == 1).await;
    for n in 0..700 {
        at(&format!("{n:03}"), None, Severity::Info);
    }
    at("k1", Some(1), Severity::Warning);
    at("k2", Some(1), Severity::Critical);
    at("critical", None, Severity::Critical);
    at("key-critical", Some(2), Severity::Critical);
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 705).await;
    let got = ids(&crm.received());
    let place = |id: &str| got.iter().position(|it| it == id).unwrap();
    assert!(place("critical") <= 3 && place("key-critical") <= 3, "{} {}", place("critical"), place("key-critical"));
    assert!(place("k1") < place("k2"));
}

#[tokio::test]
async fn status_rules_decide_for_their_target() {
    let crm = Receiver::start([404, 409, 400]).await;
    let relay =
        Relay::start(vec![webhook(&crm, "concurrency: 1, status_rules: {404: permanent, 409: delivered, 400: transient}")]);
    (0..3).for_each(|_| relay.accept(&["crm"]));
    recorded(&relay, 3).await;
    insta::assert_snapshot!(relay.store.log(), @"1 dead (receiver) http_404, 1 delivered 409, 1 retry http_400");
}

#[tokio::test]
async fn renamed_from_adopts_what_waits_for_the_old_name() {
    let crm = Receiver::start([200]).await;
    let store = Arc::new(MemoryStore::default());
    store
        .kept
        .lock()
        .unwrap()
        .insert("lane.old".into(), r#"{"paused":null,"broken":null,"last_error":"x","last_success_ms":5,"still_ms":7}"#.into());
    for _ in 0..250 {
        store.commit(sample(), &["old"], None, "2026-01-20T11:00:00Z".parse().unwrap());
    }
    let relay = Relay::on(store, vec![webhook(&crm, "renamed_from: old")]);
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 250).await;
    assert_eq!(relay.deliver.targets()[0].last_error.as_deref(), Some("x"));
}

#[tokio::test]
async fn an_owner_that_cannot_renew_breaks_off_what_is_under_way_and_begins_nothing() {
    let crm = Receiver::start([Says(200, None, secs(600)), 200.into()]).await;
    let store = Arc::new(MemoryStore::default());
    *store.lease.lock().unwrap() = Some(Duration::from_millis(5_300));
    let relay = Relay::on(store.clone(), vec![webhook(&crm, "")]);
    relay.accept(&["crm"]);
    eventually("it is sent", || crm.received().len() == 1).await;
    *store.lease.lock().unwrap() = Some(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(400)).await;
    relay.accept(&["crm"]);
    a_while().await;
    assert_eq!((crm.received().len(), relay.deliver.in_flight().len()), (1, 1));
    eventually("it is broken off", || relay.deliver.in_flight().is_empty()).await;
    assert_eq!(store.log(), "");
    *store.lease.lock().unwrap() = None;
    relay.settled("both are delivered", |store| store.states(State::Delivered) == 2).await;
    assert!(attempts(&store).iter().all(|it| it.epoch == 3));
}

/// A relay one of whose attempts goes on for longer than its lease, which is renewed no more.
async fn losing(crm: &Receiver) -> Relay {
    let store = Arc::new(MemoryStore::default());
    *store.lease.lock().unwrap() = Some(Duration::from_millis(5_300));
    let relay = Relay::on(store.clone(), vec![webhook(crm, "")]);
    relay.accept(&["crm"]);
    eventually("it is sent", || crm.received().len() == 1).await;
    *store.lease.lock().unwrap() = Some(Duration::ZERO);
    relay
}

#[tokio::test]
async fn a_lease_that_ends_while_the_relay_drains_breaks_off_what_is_under_way() {
    let crm = Receiver::start([Says(200, None, secs(600))]).await;
    let relay = losing(&crm).await;
    let drained = tokio::time::timeout(secs(60), relay.deliver.drain(secs(600))).await;
    assert!(drained.is_ok(), "the attempt went on past the lease");
    assert_eq!((crm.received().len(), relay.store.log().as_str()), (1, ""));
    assert_eq!(relay.store.states(State::Pending), 1);
    eventually("its receiver sees that", || crm.open() == 0).await;
}

#[tokio::test]
async fn a_lease_that_ends_while_the_store_does_not_answer_breaks_off_what_is_under_way() {
    let crm = Receiver::start([Says(200, None, secs(600)), 200.into()]).await;
    let relay = losing(&crm).await;
    relay.store.silent.store(true, Ordering::SeqCst);
    // The lane asks for more, and waits.
    relay.deliver.wake(&["crm".into()]);
    eventually("it is broken off", || crm.open() == 0).await;
    assert_eq!(relay.store.log(), "");
    *relay.store.lease.lock().unwrap() = None;
    relay.store.silent.store(false, Ordering::SeqCst);
    relay.settled("it is sent again", |store| store.states(State::Delivered) == 1).await;
    assert_eq!(crm.received().len(), 2);
}

#[tokio::test]
async fn a_rate_goes_on_though_the_clock_was_set_back() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(&crm, "rate_limit: {rate: 1/s, burst: 1}")]);
    (0..2).for_each(|_| relay.accept(&["crm"]));
    recorded(&relay, 1).await;
    a_while().await;
    relay.clock.set_back(secs(86_400));
    // The system's clock is looked at again now and then.
    relay.deliver.wake(&["crm".into()]);
    a_while().await;
    assert_eq!(crm.received().len(), 1);
    relay.clock.advance(secs(1));
    recorded(&relay, 2).await;
}

#[tokio::test]
async fn how_a_lane_with_quiet_hours_stands_is_kept_when_it_changes_and_not_at_every_turn() {
    let crm = Receiver::start([200]).await;
    let nights = node("{tz: UTC, windows: [{days: mon-sun, from: '22:00', to: '23:00'}]}");
    let schedule = Schedule::decode("nights".into(), &nights, &mut context()).unwrap();
    let quiet = Some(Quiet { schedule: Arc::new(schedule), then: Then::Hold, except: Vec::new() });
    let relay = Relay::start(vec![super::Destination { quiet, ..webhook(&crm, "") }]);
    for count in 1..=30 {
        relay.accept(&["crm"]);
        relay.settled("it is delivered", |store| store.states(State::Delivered) == count).await;
    }
    let keeps = relay.store.keeps.load(Ordering::SeqCst);
    assert!((1..=3).contains(&keeps), "kept {keeps} times");
}

#[tokio::test]
async fn what_is_cancelled_while_it_waits_in_hand_is_not_sent() {
    let crm = Receiver::start([Says(200, None, Duration::from_millis(100)), 200.into()]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    relay.accept(&["crm"]);
    eventually("it is sent", || crm.received().len() == 1).await;
    let seq = commit(&relay, "cancelled", None, Severity::Info);
    commit(&relay, "kept", None, Severity::Info);
    relay.deliver.forget(&[relay.store.delivery(seq).id]);
    relay.settled("the rest is delivered", |store| store.states(State::Delivered) == 2).await;
    assert!(!ids(&crm.received()).contains(&"cancelled".to_owned()));
}

#[tokio::test]
async fn a_hundred_thousand_that_wait_for_a_broken_target_are_left_in_the_store() {
    let crm = Receiver::start([500]).await;
    let relay = broken(&crm, "retry: {initial: 1s, max: 1s}").await;
    let reads = relay.store.reads.load(Ordering::SeqCst);
    let start: Timestamp = relay.clock.now();
    for _ in 0..2_000 {
        relay.store.commit(sample(), &["crm"], None, start);
    }
    a_while().await;
    assert_eq!((crm.received().len(), relay.store.reads.load(Ordering::SeqCst)), (5, reads));
    assert!(relay.deliver.inboxes_are_empty());
}

/// The attempts that came to a receiver.
fn count(receiver: &Receiver) -> usize {
    receiver.received().len()
}

#[tokio::test]
async fn the_next_attempt_goes_by_the_next_file_and_the_one_under_way_ends_as_it_began() {
    let old = Receiver::start([Says(503, None, Duration::from_millis(300))]).await;
    let new = Receiver::start([200]).await;
    let minutely = "retry: {initial: 1m, factor: 1, max: 1m, jitter: none}";
    let relay = Relay::start(vec![webhook(&old, minutely)]);
    relay.accept(&["crm"]);
    eventually("it is sent", || count(&old) == 1).await;
    relay.switch(vec![webhook(&new, "retry: {initial: 1h, factor: 1, max: 1h, jitter: none}")]);
    recorded(&relay, 1).await;
    assert!(relay.store.log().contains("503"), "{}", relay.store.log());
    assert_eq!(count(&new), 0, "it was not begun anew");
    relay.clock.advance(secs(60));
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    assert_eq!((count(&old), count(&new)), (1, 1), "due by the policy it began with");
}

#[tokio::test]
async fn a_breaker_a_pause_and_a_hold_outlast_another_file_and_so_do_tokens() {
    let crm = Receiver::start([200]).await;
    let limited = |more: &str| vec![webhook(&crm, &format!("rate_limit: {{rate: 1/m, burst: 2}}{more}"))];
    let relay = Relay::start(limited(""));
    (0..4).for_each(|_| relay.accept(&["crm"]));
    recorded(&relay, 2).await;
    relay.switch(limited(", concurrency: 3"));
    a_while().await;
    assert_eq!(count(&crm), 2, "the rate has not changed: its tokens are used up");
    relay.deliver.pause(&"crm".into(), "ana").await.unwrap();
    relay.switch(vec![webhook(&crm, "rate_limit: {rate: 60/m, burst: 60}")]);
    a_while().await;
    assert_eq!((count(&crm), relay.deliver.targets()[0].paused_by.as_deref()), (2, Some("ana")));
    relay.deliver.resume(&"crm".into()).await.unwrap();
    recorded(&relay, 4).await;
}

#[tokio::test]
async fn a_destination_that_comes_gets_a_lane_and_one_that_goes_is_left_alone() {
    let (crm, other) = (Receiver::start([200]).await, Receiver::start([200]).await);
    let second = || destination("other", &format!("{{kind: webhook, url: '{}'}}", other.url())).unwrap();
    let relay = Relay::start(vec![webhook(&crm, "")]);
    relay.accept(&["other"]);
    relay.switch(vec![webhook(&crm, ""), second()]);
    recorded(&relay, 1).await;
    assert_eq!((count(&crm), count(&other)), (0, 1), "what waited for it goes out");
    relay.switch(vec![second()]);
    relay.accept(&["crm", "other"]);
    recorded(&relay, 2).await;
    a_while().await;
    let names: Vec<_> = relay.deliver.targets().iter().map(|it| it.name.to_string()).collect();
    assert_eq!((count(&crm), count(&other), names), (0, 2, vec!["other".to_owned()]));
    relay.switch(vec![webhook(&crm, ""), second()]);
    recorded(&relay, 3).await;
    assert_eq!(count(&crm), 1, "it is back");
}

#[tokio::test]
async fn one_that_comes_back_while_an_attempt_is_under_way_makes_no_second_one() {
    let crm = Receiver::start([Says(200, None, Duration::from_millis(500))]).await;
    let relay = Relay::start(vec![webhook(&crm, "")]);
    relay.accept(&["crm"]);
    eventually("it is sent", || count(&crm) == 1).await;
    relay.switch(Vec::new());
    assert_eq!(relay.deliver.in_flight().len(), 1, "it ends as it began");
    relay.switch(vec![webhook(&crm, "")]);
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    a_while().await;
    assert_eq!((count(&crm), relay.deliver.in_flight().len()), (1, 0));
}

#[tokio::test]
async fn a_rename_goes_on_as_the_former_lane_stood_and_sends_nothing_twice() {
    let crm = Receiver::start([Says(200, None, Duration::from_millis(300)), 200.into()]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    (0..3).for_each(|_| relay.accept(&["crm"]));
    eventually("the first is sent", || count(&crm) == 1).await;
    relay.deliver.pause(&"crm".into(), "ana").await.unwrap();
    let sales = || destination("sales", &format!("{{kind: webhook, url: '{}', renamed_from: crm}}", crm.url())).unwrap();
    relay.switch(vec![sales()]);
    recorded(&relay, 1).await;
    assert_eq!(relay.deliver.targets()[0].paused_by.as_deref(), Some("ana"));
    a_while().await;
    assert_eq!(count(&crm), 1);
    relay.deliver.resume(&"sales".into()).await.unwrap();
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 3).await;
    // Planned by a request that had begun with the former file.
    relay.accept(&["crm"]);
    relay.settled("it is taken over too", |store| store.states(State::Delivered) == 4).await;
    assert_eq!(count(&crm), 4);
}
