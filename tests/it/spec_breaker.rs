//! delivery.md, "Breaker": when a lane leaves its target alone, how it finds out that it may go on, and how it does.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Receiver, Reply, SOON, TestApp, app::MINUTELY, hours, minutes, routes, seconds, spawn_app, until};

/// One attempt at a time, each delivery tried again after a second.
const SECONDLY: &str = "concurrency: 1, retry: {initial: 1s, factor: 1, max: 1s, jitter: none, give_up_after: 7d}";

/// A relay with one destination `crm`, `events` on their way to it.
async fn with<R: Into<Reply>>(replies: impl IntoIterator<Item = R>, fields: &str, events: usize) -> (Receiver, TestApp) {
    let crm = Receiver::start(replies).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, fields)).await;
    app.takes_many(events).await;
    (crm, app)
}

/// The ids of the events that came, in order.
fn ids(crm: &Receiver) -> Vec<String> {
    crm.seen().iter().map(|request| request.header("webhook-id").to_owned()).collect()
}

#[tokio::test]
async fn five_transient_failures_in_a_row_open_it() {
    let (crm, app) = with([503], &format!("concurrency: 1, {MINUTELY}"), 8).await;
    let target = app.target_is("crm", "broken").await;
    assert_eq!((&target["cause"], &target["last_error"]), (&json!("receiver"), &json!("http_503")), "{target}");
    app.nothing_comes(&crm, 5, seconds(29)).await;
    let rows = app.counts("state=held", 8).await;
    assert!(rows.iter().all(|row| row["cause"] == "broken"), "{rows:?}");
}

#[tokio::test]
async fn failures_of_two_deliveries_do_not_open_it() {
    let (crm, app) = with([503], SECONDLY, 2).await;
    for n in 1..=6 {
        crm.wait_for(2 * n).await;
        let all = |rows: Vec<Value>| rows.iter().all(|row| row["attempts"] == n && row["state"] == "pending");
        until("both to be recorded", SOON, async || all(app.rows("").await).then_some(())).await;
        app.clock.advance(seconds(1));
    }
    assert_eq!(app.target("crm").await["state"], "ok", "twelve failures, two deliveries");
}

#[tokio::test]
async fn a_success_among_them_resets_the_count() {
    let (crm, app) = with([503, 503, 503, 503, 200, 503, 503, 503, 503, 200], &format!("concurrency: 1, {MINUTELY}"), 10).await;
    crm.wait_for(10).await;
    app.counts("state=delivered", 2).await;
    assert_eq!(app.target("crm").await["state"], "ok");
}

#[tokio::test]
async fn a_permanent_answer_neither_counts_nor_resets() {
    let (crm, app) = with([503, 503, 400, 503, 503, 400, 503], &format!("concurrency: 1, {MINUTELY}"), 9).await;
    app.target_is("crm", "broken").await;
    app.nothing_comes(&crm, 7, seconds(29)).await;
}

#[tokio::test]
async fn permanent_answers_alone_never_open_it() {
    let (crm, app) = with([400], &format!("concurrency: 1, {MINUTELY}"), 12).await;
    crm.wait_for(12).await;
    app.counts("state=dead", 12).await;
    assert_eq!(app.target("crm").await["state"], "ok");
}

#[tokio::test]
async fn open_it_sends_one_probe_after_30_s_and_waits_twice_as_long_up_to_10_min() {
    let (crm, app) = with([503], SECONDLY, 5).await;
    app.target_is("crm", "broken").await;
    for (n, wait) in (5..).zip([30, 60, 120, 240, 480, 600, 600]) {
        app.nothing_comes(&crm, n, seconds(wait - 1)).await;
        app.clock.advance(seconds(1));
        crm.wait_for(n + 1).await;
        until("the probe to be over", SOON, async || app.rows("state=sending").await.is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn the_probe_is_the_oldest_waiting_delivery_and_counts_as_its_attempt() {
    let (crm, app) = with([503], SECONDLY, 6).await;
    app.target_is("crm", "broken").await;
    app.clock.advance(seconds(30));
    crm.wait_for(6).await;
    assert_eq!(ids(&crm)[5], "evt_1");
    until("its attempt to count", SOON, async || {
        let rows = app.rows("").await;
        rows.iter().any(|row| row["event_id"] == "evt_1" && row["attempts"] == 2 && row["state"] == "held").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_success_of_the_probe_closes_it() {
    let (crm, app) = with([503, 503, 503, 503, 503, 200], SECONDLY, 8).await;
    app.target_is("crm", "broken").await;
    app.clock.advance(seconds(30));
    app.target_is("crm", "ok").await;
    app.counts("state=delivered", 8).await;
    assert_eq!(crm.distinct("idempotency-key").len(), 8);
}

#[tokio::test]
async fn a_permanent_answer_to_the_probe_closes_it_like_a_success() {
    let (_crm, app) = with([503, 503, 503, 503, 503, 400, 200], SECONDLY, 8).await;
    app.target_is("crm", "broken").await;
    app.clock.advance(seconds(30));
    app.target_is("crm", "ok").await;
    app.counts("state=delivered", 7).await;
    app.counts("state=dead", 1).await;
}

#[tokio::test]
async fn a_moved_or_gone_answer_to_the_probe_does_not_close_it() {
    for status in [301, 410] {
        let (crm, app) = with([503, 503, 503, 503, 503, status], SECONDLY, 8).await;
        app.target_is("crm", "broken").await;
        app.clock.advance(seconds(30));
        crm.wait_for(6).await;
        app.nothing_comes(&crm, 6, seconds(20)).await;
        assert_eq!(app.target("crm").await["state"], "broken", "{status}");
    }
}

#[tokio::test]
async fn closed_again_concurrency_ramps_up_by_doubling() {
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    let crm = Receiver::answering(move |_, place| if place < 5 { 503.into() } else { Reply::Gated(open.clone()) }).await;
    let policy = "concurrency: 8, retry: {initial: 1s, factor: 1, max: 1s, jitter: none}";
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, policy)).await;
    // One after the other, so that exactly five attempts open it.
    for n in 1..=5 {
        app.takes(&format!("evt_{n}")).await;
        crm.wait_for(n).await;
        app.counts(if n < 5 { "state=pending" } else { "state=held" }, n).await;
    }
    for n in 6..=40 {
        app.takes(&format!("evt_{n}")).await;
    }
    app.clock.advance(seconds(30));
    crm.wait_for(6).await;
    let mut done = 5;
    let mut waves = Vec::new();
    for wave in [1, 1, 2, 4, 8, 8] {
        crm.wait_for(done + wave).await;
        app.nothing_comes(&crm, done + wave, seconds(0)).await;
        gate.add_permits(wave);
        done += wave;
        waves.push(wave);
    }
    assert_eq!(waves, [1, 1, 2, 4, 8, 8], "the probe, then 1, 2, 4, 8 at once and no more");
}

#[tokio::test]
async fn a_person_closes_it() {
    let (crm, app) = with([503, 503, 503, 503, 503, 200], SECONDLY, 5).await;
    app.target_is("crm", "broken").await;
    app.clock.advance(seconds(5));
    app.tells("crm", "close").await;
    app.counts("state=delivered", 5).await;
    assert_eq!((crm.count(), &app.target("crm").await["state"]), (10, &json!("ok")));
}

#[tokio::test]
async fn a_person_pauses_and_resumes() {
    let (crm, app) = with([200], MINUTELY, 0).await;
    app.tells("crm", "pause").await;
    assert_eq!(app.target_is("crm", "paused").await["state"], "paused");
    app.takes_many(3).await;
    app.nothing_comes(&crm, 0, hours(1)).await;
    assert_eq!(app.target("crm").await["backlog"], 3);
    app.tells("crm", "resume").await;
    app.counts("state=delivered", 3).await;
}

#[tokio::test]
async fn a_destination_stays_broken_until_it_heals() {
    let healthy = Arc::new(AtomicUsize::new(0));
    let health = healthy.clone();
    let crm = Receiver::answering(move |_, _| if health.load(Ordering::Relaxed) == 0 { 401.into() } else { 200.into() }).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_1").await;
    app.target_is("crm", "broken").await;
    for n in 2..=8 {
        app.clock.advance(hours(12));
        crm.wait_for(n).await;
        until("the probe to be over", SOON, async || app.rows("state=sending").await.is_empty().then_some(())).await;
        assert_eq!(app.target("crm").await["state"], "broken", "never disabled");
    }
    healthy.store(1, Ordering::Relaxed);
    app.clock.advance(minutes(10));
    app.reaches("", "delivered").await;
    assert_eq!(app.target("crm").await["state"], "ok");
}
