//! delivery.md, "Lanes": who owns them, what they keep to themselves, and how the store feeds them.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use hookyard::{
    clock::{Clock, later},
    envelope::{DeliveryId, Envelope},
    secret::Secret,
    store::{
        self, Accepted, Attempt, DedupeKey, Endings, Filter, NewDelivery, NewEvent, Next, OwnerId, Remember, SHARDS, State,
        Store, shard_of,
    },
};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{
    Home, Receiver, Reply, SOON, TestApp,
    app::{MINUTELY, START},
    minutes, routes, seconds, spawn_app, throughout, until,
};

#[tokio::test]
pub(crate) async fn what_befalls_one_lane_befalls_no_other() {
    let (down, silent, fine) = (Receiver::start([401]).await, Receiver::silent().await, Receiver::ok().await);
    let file =
        routes().interactor().webhook("down", &down).webhook("silent", &silent).webhook("paused", &fine).webhook("fine", &fine);
    let app = spawn_app(file).await;
    app.tells("paused", "pause").await;
    app.takes_many(20).await;
    app.counts("target=fine&state=delivered", 20).await;
    assert_eq!((fine.count(), silent.count()), (20, 8), "no more than its concurrency at once");
    assert_eq!(app.rows("target=down&state=held").await.len(), 20);
}

/// A store of its own in `home`.
pub(crate) async fn opened(home: &Home, clock: &Clock) -> Arc<dyn Store> {
    store::open(&Secret::new(home.store_url()), home.path(), clock.clone()).await.unwrap()
}

#[tokio::test]
pub(crate) async fn the_one_process_owns_all_256_shards_under_an_epoch() {
    let (home, clock) = (Home::new(), Clock::manual(START));
    let lease = seconds(15);
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let store = opened(&home, &clock).await;
        let owned = store.own_shards(OwnerId(7), clock.now(), lease).await.unwrap();
        let shards: BTreeSet<_> = owned.iter().map(|owned| owned.shard).collect();
        assert_eq!((shards.len(), shards.first(), shards.last(), SHARDS), (256, Some(&0), Some(&255), 256));
        assert!(owned.iter().all(|owned| later(clock.now(), lease) <= owned.until), "for the lease at least");
        assert!((0..50).all(|n| shards.contains(&shard_of(&format!("target-{n}").as_str().into()))));
        epochs.push(owned[0].epoch);
        store.release_shards(OwnerId(7)).await.unwrap();
        store.close().await;
    }
    assert!(epochs[0] < epochs[1], "a new owner fences off the one before: {epochs:?}");
}

/// An event with one delivery to `crm`.
fn planned(id: &str, clock: &Clock) -> NewEvent {
    planned_for(id, "crm", clock)
}

/// An event with one delivery to `target`.
pub(crate) fn planned_for(id: &str, target: &str, clock: &Clock) -> NewEvent {
    let body = format!(r#"{{"id":"{id}","type":"x.y"}}"#);
    let mut key = [0; 16];
    key.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
    NewEvent {
        envelope: envelope(id, body, clock),
        dedupe: DedupeKey { key, body: key, remember: Remember::Id(Duration::from_secs(60)) },
        deliveries: vec![NewDelivery::to(target.into())],
        rules: Vec::new(),
        endings: Endings::default(),
        setting: None,
    }
}

fn envelope(id: &str, body: String, clock: &Clock) -> Envelope {
    Envelope {
        id: id.into(),
        source: "interactor".into(),
        kind: "interactor",
        r#type: "x.y".into(),
        subject: None,
        namespace: None,
        time: clock.now().to_string(),
        timestamp: clock.now().to_string(),
        received_at: clock.now(),
        traceparent: None,
        replayed: false,
        body: body.into(),
        content_type: None,
        data: None,
    }
}

pub(crate) fn attempt(delivery: DeliveryId, number: u32, epoch: i64, next: Next, clock: &Clock) -> Attempt {
    Attempt {
        delivery,
        number,
        started_at: clock.now(),
        duration: Duration::from_millis(5),
        status: Some(if next == Next::Delivered { 200 } else { 503 }),
        error: (next != Next::Delivered).then(|| "http_503".into()),
        detail: None,
        response: bytes::Bytes::new(),
        next,
        rendered: None,
        counts: true,
        stood_still_ms: 0,
        epoch,
        unmade: None,
        ordered: false,
    }
}

#[tokio::test]
pub(crate) async fn a_former_owners_success_settles_and_its_failure_changes_nothing() {
    let (home, clock) = (Home::new(), Clock::manual(START));
    let store = opened(&home, &clock).await;
    let former = store.own_shards(OwnerId(1), clock.now(), seconds(15)).await.unwrap()[0].epoch;
    let Accepted::New { uid, .. } = store.accept(planned("evt_1", &clock)).await.unwrap() else { panic!("it is new") };
    store.release_shards(OwnerId(1)).await.unwrap();
    store.close().await;
    let store = opened(&home, &clock).await;
    let now = store.own_shards(OwnerId(2), clock.now(), seconds(15)).await.unwrap()[0].epoch;
    let id = DeliveryId { event: uid, n: 1 };
    let row = async || store.deliveries(Filter::default()).await.unwrap().remove(0).delivery;
    let before = row().await;

    clock.advance(seconds(1));
    let retry = Next::Retry(later(clock.now(), minutes(60)));
    store.record(vec![attempt(id, 1, former, retry, &clock)]).await.unwrap();
    let after = row().await;
    assert_eq!((after.state, after.due_at, after.first_attempt_at), (State::Pending, before.due_at, before.first_attempt_at));
    assert_eq!(store.attempts(uid).await.unwrap().len(), 1, "but it is on record");

    clock.advance(seconds(1));
    store.record(vec![attempt(id, 2, former, Next::Dead(store::Cause::Receiver), &clock)]).await.unwrap();
    assert_eq!(row().await.state, State::Pending, "nor can it kill");

    clock.advance(seconds(1));
    store.record(vec![attempt(id, 3, now, retry, &clock)]).await.unwrap();
    assert_eq!(row().await.due_at, Some(later(START.parse().unwrap(), minutes(60) + seconds(1))), "today's owner can");

    clock.advance(seconds(1));
    store.record(vec![attempt(id, 4, former, Next::Delivered, &clock)]).await.unwrap();
    assert_eq!(row().await.state, State::Delivered, "the target has it: that is so whoever says it");
    store.close().await;
}

#[tokio::test]
pub(crate) async fn a_breaker_goes_on_where_it_stopped() {
    let crm = Receiver::start([401]).await;
    let file = routes().interactor().webhook_with("crm", &crm, MINUTELY);
    let app = spawn_app(file.clone()).await;
    app.takes("evt_1").await;
    app.target_is("crm", "broken").await;
    app.clock.advance(seconds(30));
    crm.wait_for(2).await;
    until("the probe to be over", SOON, async || app.rows("state=sending").await.is_empty().then_some(())).await;
    app.clock.advance(seconds(10));
    let app = app.restart(file).await;
    app.target_is("crm", "broken").await;
    // The second wait is of 60 s, 10 of which are over.
    app.nothing_comes(&crm, 2, seconds(49)).await;
    app.clock.advance(seconds(1));
    crm.wait_for(3).await;
}

#[tokio::test]
pub(crate) async fn a_pause_outlives_a_restart() {
    let crm = Receiver::ok().await;
    let file = routes().interactor().webhook("crm", &crm);
    let app = spawn_app(file.clone()).await;
    app.tells("crm", "pause").await;
    app.takes("evt_1").await;
    let app = app.restart(file).await;
    assert_eq!(app.target("crm").await["state"], "paused", "as soon as the API answers");
    app.nothing_comes(&crm, 0, minutes(10)).await;
    assert_eq!(app.reaches("", "held").await["cause"], "paused");
    app.tells("crm", "resume").await;
    app.reaches("", "delivered").await;
}

#[tokio::test]
pub(crate) async fn the_store_is_the_queue() {
    let crm = Receiver::ok().await;
    let file = routes().interactor().webhook("crm", &crm);
    let app = spawn_app(file.clone()).await;
    app.tells("crm", "pause").await;
    app.takes_many(50).await;
    let app = app.restart(file).await;
    app.tells("crm", "resume").await;
    app.counts("state=delivered", 50).await;
    assert_eq!((crm.count(), crm.distinct("idempotency-key").len()), (50, 50));
}

#[tokio::test]
pub(crate) async fn a_commit_wakes_its_lane() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    for n in 1..=10 {
        app.takes(&format!("evt_{n}")).await;
        // The clock stands still: nothing but the commit can have woken it.
        crm.wait_for(n).await;
    }
}

#[tokio::test]
pub(crate) async fn what_does_not_fit_the_buffer_comes_from_the_store() {
    let gate = Arc::new(Semaphore::new(0));
    let crm = Receiver::start([Reply::Gated(gate.clone())]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, "concurrency: 4, timeout: 300s")).await;
    // With bodies this large, no buffer that is bounded holds them all.
    let padding = "p".repeat(256 * 1024);
    for n in 0..120 {
        app.takes_of(&format!("evt_{n}"), "x.y", json!({"p": padding})).await;
    }
    gate.add_permits(1000);
    crm.wait_for(120).await;
    assert_eq!(crm.distinct("idempotency-key").len(), 120);
    app.counts("state=delivered", 120).await;
    assert_eq!(crm.count(), 120, "each once");
}

#[tokio::test]
pub(crate) async fn each_retry_has_a_wake_up_of_its_own() {
    let crm = Receiver::start([503]).await;
    let policy = "retry: {initial: 10m, factor: 1, max: 10m, jitter: none}";
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, policy)).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.clock.advance(minutes(4));
    app.takes("evt_2").await;
    crm.wait_for(2).await;
    until("its attempt to be recorded", SOON, async || app.rows("").await.iter().all(|row| row["attempts"] == 1).then_some(()))
        .await;
    app.clock.advance(minutes(6));
    assert_eq!(crm.wait_for(3).await[2].header("webhook-id"), "evt_1");
    app.nothing_comes(&crm, 3, minutes(3)).await;
    app.clock.advance(minutes(1));
    assert_eq!(crm.wait_for(4).await[3].header("webhook-id"), "evt_2");
}

#[tokio::test]
pub(crate) async fn critical_goes_before_the_rest_but_not_before_its_own_key() {
    let crm = Receiver::ok().await;
    let file = routes()
        .interactor()
        .webhook_with("crm", &crm, &format!("order_by: $.data.key, concurrency: 1, {MINUTELY}"))
        .rule("name: grave, match: {type: alarm.*}, severity: critical, to: [crm]")
        .rule("name: rest, match: {type: note.*}, to: [crm]");
    let app = spawn_app(file).await;
    app.tells("crm", "pause").await;
    for (id, kind, key) in [
        ("note_1", "note.written", "k1"),
        ("note_2", "note.written", "k2"),
        ("alarm_2", "alarm.raised", "k2"),
        ("alarm_3", "alarm.raised", "k3"),
        ("note_4", "note.written", "k4"),
    ] {
        app.takes_of(id, kind, json!({"key": key})).await;
    }
    app.tells("crm", "resume").await;
    let seen: Vec<_> = crm.wait_for(5).await.iter().map(|request| request.json()["id"].as_str().unwrap().to_owned()).collect();
    let place = |id: &str| seen.iter().position(|known| known == id).unwrap();
    assert_eq!(place("alarm_3"), 0, "critical first: {seen:?}");
    assert!(place("note_2") < place("alarm_2"), "never before an earlier one of its key: {seen:?}");
    assert!(place("note_1") < place("note_4"), "the rest by due time: {seen:?}");
}

#[tokio::test]
pub(crate) async fn critical_overtakes_what_is_buffered() {
    let gate = Arc::new(Semaphore::new(0));
    let crm = Receiver::start([Reply::Gated(gate.clone())]).await;
    let file = routes()
        .interactor()
        .webhook_with("crm", &crm, "concurrency: 1, timeout: 300s")
        .rule("name: grave, match: {type: alarm.*}, severity: critical, to: [crm]")
        .rule("name: rest, match: {type: credential.*}, to: [crm]");
    let app = spawn_app(file).await;
    app.takes_many(10).await;
    crm.wait_for(1).await;
    app.takes_of("alarm", "alarm.raised", json!({})).await;
    gate.add_permits(1000);
    assert_eq!(crm.wait_for(11).await[1].header("webhook-id"), "alarm", "the next after what was under way");
}

#[tokio::test]
pub(crate) async fn nothing_is_sent_while_the_store_refuses_writes() {
    let home = Home::new();
    let gate = Arc::new(Semaphore::new(0));
    let crm = Receiver::start([Reply::Gated(gate.clone())]).await;
    let file = routes().interactor().webhook_with("crm", &crm, "concurrency: 1, timeout: 300s");
    let app = TestApp::start(home.clone(), Clock::manual(START), file).await;
    app.takes_many(200).await;
    crm.first().await;
    let other = locked(&home.path().join("hookyard.db"));
    gate.add_permits(20);
    // Until the store has said no, a bounded number may go out and wait to be recorded. It says so after 5 s to whom it took up
    // together; by the third refusal of an event, which waits 4.5 s, that was said of the first attempts too.
    for id in ["evt_refused_1", "evt_refused_2", "evt_refused_3"] {
        let body = json!({"id": id, "type": "x.refused"}).to_string();
        app.send(&app.signed(&body)).await.refused(503, "unavailable");
    }
    let sent = crm.count();
    assert!(sent <= 21, "{sent}");
    gate.add_permits(1000);
    throughout("nothing more", seconds(1), async || crm.count() == sent).await;
    drop(other);
    app.counts("type=credential.expired&state=delivered", 200).await;
    // All were recorded; but for the one that was under way when the lease ended, which could not be renewed meanwhile, none was
    // repeated.
    let repeated = crm.count() - crm.distinct("idempotency-key").len();
    assert!(repeated <= 1, "{repeated} were repeated");
}

/// Holds the write lock of the database at `path` until it is dropped.
fn locked(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

/// A relay whose `crm` takes 20 a second, 5 at once.
const RATED: &str = "rate_limit: {rate: 20/s, burst: 5}, concurrency: 64";

#[tokio::test]
pub(crate) async fn the_rate_limit_is_kept_when_a_backlog_flows() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, RATED)).await;
    app.tells("crm", "pause").await;
    app.takes_many(60).await;
    app.tells("crm", "resume").await;
    crm.wait_for(5).await;
    app.nothing_comes(&crm, 5, Duration::ZERO).await;
    for n in 1..=20 {
        app.clock.advance(Duration::from_millis(50));
        until("the next", SOON, async || (5 + n <= crm.count()).then_some(())).await;
        assert!(crm.count() <= 6 + n, "{} after {n} twentieths of a second", crm.count());
    }
    until("the rest", SOON, async || {
        app.clock.advance(Duration::from_millis(50));
        (crm.count() == 60).then_some(())
    })
    .await;
}
