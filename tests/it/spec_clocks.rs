//! delivery.md, "Clocks": from when a delivery ages, and what makes its clock stand still.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Receiver, Reply, SOON, app::MINUTELY, hours, minutes, routes, seconds, spawn_app, until};

/// Given up an hour after the first attempt, tried every ten minutes.
const HOUR: &str = "retry: {initial: 10m, factor: 1, max: 10m, jitter: none, give_up_after: 1h}";

#[tokio::test]
async fn give_up_runs_from_the_first_attempt() {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, HOUR)).await;
    app.tells("crm", "pause").await;
    app.takes("evt_1").await;
    app.clock.advance(hours(2));
    app.tells("crm", "resume").await;
    for n in 1..=6 {
        app.tried("", n).await;
        app.clock.advance(minutes(10));
    }
    let row = app.reaches("", "dead").await;
    assert_eq!(row["attempts"], 7, "at 0, 10, … 60 minutes after the first");
}

#[tokio::test]
async fn give_up_stands_still_while_the_lane_is_paused() {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, HOUR)).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.tells("crm", "pause").await;
    app.target_is("crm", "paused").await;
    app.nothing_comes(&crm, 1, hours(10)).await;
    app.tells("crm", "resume").await;
    let row = app.tried("", 2).await;
    assert_eq!(row["state"], "pending", "an hour of its clock has not passed: {row}");
    for n in 3..=7 {
        app.clock.advance(minutes(10));
        app.tried("", n).await;
    }
    // Paused at once after the first attempt: an hour of its own is full after six more.
    app.clock.advance(minutes(10));
    app.reaches("", "dead").await;
}

#[tokio::test]
async fn a_pause_that_a_restart_falls_into_counts_whole() {
    let crm = Receiver::start([503]).await;
    let file = routes().interactor().webhook_with("crm", &crm, HOUR);
    let app = spawn_app(file.clone()).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.tells("crm", "pause").await;
    app.clock.advance(hours(5));
    let app = app.restart(file).await;
    app.clock.advance(hours(5));
    app.tells("crm", "resume").await;
    assert_eq!(app.tried("", 2).await["state"], "pending");
}

#[tokio::test]
async fn give_up_runs_on_while_the_target_is_broken() {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("concurrency: 1, {HOUR}"))).await;
    app.takes_many(5).await;
    app.target_is("crm", "broken").await;
    app.clock.advance(hours(1));
    let rows = app.counts("state=dead", 5).await;
    assert!(rows.iter().all(|row| row["cause"] == "receiver"), "{rows:?}");
}

#[tokio::test]
async fn a_delivery_never_tried_does_not_age() {
    let crm = Receiver::start([401, 401, 200]).await;
    let file = format!("concurrency: 1, {HOUR}");
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &file)).await;
    app.takes("evt_1").await;
    app.target_is("crm", "broken").await;
    app.takes("evt_2").await;
    // The breaker is open for far longer than give-up; what was not tried is as young as ever.
    app.clock.advance(seconds(30));
    crm.wait_for(2).await;
    app.clock.advance(hours(5));
    app.counts("state=delivered", 2).await;
}

#[tokio::test]
async fn what_is_held_for_longer_than_events_are_kept_is_dead_of_the_config() {
    let (gone, paused) = (Receiver::start([503]).await, Receiver::ok().await);
    let kept = routes().interactor().store("retention: {events: 2d, dead_letters: 90d, rejections: 7d}");
    let kept = kept.webhook("paused", &paused);
    let app = spawn_app(kept.clone().webhook_with("gone", &gone, MINUTELY)).await;
    app.tells("paused", "pause").await;
    app.takes("evt_1").await;
    app.tried("target=gone", 1).await;
    let app = app.restart(kept).await;
    let began = app.clock.now();
    for target in ["gone", "paused"] {
        let query = format!("target={target}");
        let row = until("the end of its time", SOON, async || {
            app.clock.advance(hours(1));
            Some(app.rows(&query).await.remove(0)).filter(|row| row["state"] != "held")
        })
        .await;
        assert_eq!((&row["state"], &row["cause"]), (&json!("dead"), &json!("config")), "{row}");
        assert!(hours(48) <= Duration::try_from(app.clock.now().duration_since(began)).unwrap(), "not before");
    }
    assert_eq!(app.all("/api/v1/dead-letters").await.len(), 2);
}

#[tokio::test]
async fn what_is_just_being_tried_is_not_given_up_for_being_held() {
    let gate = Arc::new(Semaphore::new(0));
    let opens = gate.clone();
    let crm = Receiver::answering(move |_, place| match place {
        0 => Reply::from(401),
        _ => Reply::Gated(opens.clone()),
    })
    .await;
    let paused = Receiver::ok().await;
    let kept = routes().interactor().store("retention: {events: 2d, dead_letters: 90d, rejections: 7d}");
    let app = spawn_app(kept.webhook("crm", &crm).webhook("paused", &paused)).await;
    app.tells("paused", "pause").await;
    app.takes("evt_1").await;
    app.target_is("crm", "broken").await;
    app.clock.advance(seconds(30));
    crm.wait_for(2).await;
    until("what is paused to be given up", SOON, async || {
        app.clock.advance(hours(6));
        (app.rows("target=paused").await[0]["state"] == "dead").then_some(())
    })
    .await;
    gate.add_permits(1);
    app.reaches("target=crm", "delivered").await;
}

#[tokio::test]
async fn what_comes_late_to_a_held_lane_is_held_as_long() {
    let crm = Receiver::ok().await;
    let kept = routes().interactor().store("retention: {events: 2d, dead_letters: 90d, rejections: 7d}");
    let app = spawn_app(kept.webhook("crm", &crm)).await;
    app.tells("crm", "pause").await;
    app.clock.advance(hours(40));
    app.takes("evt_1").await;
    app.clock.advance(hours(40));
    app.tells("crm", "resume").await;
    app.reaches("", "delivered").await;
}
