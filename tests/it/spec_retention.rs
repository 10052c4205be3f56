//! delivery.md, "Retention": what is deleted when, and what never is.

use serde_json::json;

use crate::support::{Receiver, SOON, TestApp, app::MINUTELY, hours, minutes, routes, seconds, spawn_app, until};

/// Keeps everything for a day, dead letters for three.
const DAY: &str = "retention: {events: 1d, dead_letters: 3d, rejections: 1d}";

/// Waits until exactly these events are kept.
async fn kept(app: &TestApp, ids: &[&str]) {
    let what = format!("only {ids:?} to be kept");
    until(&what, SOON, async || {
        // The store is tidied every few seconds of the relay's clock, which stands still: a round that had just begun when it was
        // moved has looked at the time before.
        app.clock.advance(seconds(5));
        let rows = app.all("/api/v1/events").await;
        let mut found: Vec<_> =
            rows.iter().filter(|row| row["source"] != "hookyard").map(|row| row["id"].as_str().unwrap()).collect();
        found.sort_unstable();
        (found == ids).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_with_a_delivery_that_is_not_final_is_never_deleted() {
    let (crm, other) = (Receiver::start([503]).await, Receiver::ok().await);
    let file = routes().interactor().store(DAY).webhook_with(
        "crm",
        &crm,
        "retry: {initial: 1h, factor: 1, max: 1h, jitter: none, give_up_after: 30d}",
    );
    let file = file
        .webhook("other", &other)
        .rule("name: a, match: {type: credential.expired}, to: [crm]")
        .rule("name: b, match: {type: x.y}, to: [other]");
    let app = spawn_app(file).await;
    app.takes("evt_waits").await;
    app.takes_of("evt_done", "x.y", json!({})).await;
    app.reaches("target=other", "delivered").await;
    app.tried("target=crm", 1).await;
    app.clock.advance(hours(25));
    kept(&app, &["evt_waits"]).await;
    app.clock.advance(hours(100));
    kept(&app, &["evt_waits"]).await;
}

#[tokio::test]
async fn an_event_with_an_unresolved_dead_letter_stays_and_goes_once_it_is_resolved() {
    let crm = Receiver::start([400]).await;
    let app =
        spawn_app(routes().interactor().store("retention: {events: 1d, dead_letters: 30d, rejections: 1d}").webhook("crm", &crm))
            .await;
    app.takes("evt_1").await;
    let dead = app.reaches("", "dead").await;
    app.clock.advance(hours(72));
    kept(&app, &["evt_1"]).await;
    app.posts(&format!("/api/v1/dead-letters/{}/resolve", dead["id"].as_str().unwrap()), &json!({"note": "done"})).await;
    app.clock.advance(minutes(1));
    kept(&app, &[]).await;
}

#[tokio::test]
async fn dead_letters_go_at_their_time_after_death_counted_and_announced() {
    let (crm, ops) = (Receiver::start([503]).await, Receiver::ok().await);
    let policy = "retry: {initial: 1h, factor: 1, max: 1h, jitter: none, give_up_after: 2d}";
    let file = routes().interactor().store(DAY).webhook_with("crm", &crm, policy).webhook("ops", &ops);
    let file = file
        .rule("name: a, match: {source: interactor}, to: [crm]")
        .rule("name: b, match: {source: hookyard, type: relay.**}, to: [ops]");
    let app = spawn_app(file).await;
    app.takes("evt_1").await;
    app.tried("target=crm", 1).await;
    app.clock.advance(hours(48));
    app.reaches("target=crm", "dead").await;
    // Three days after its acceptance, but only one after its death.
    app.clock.advance(hours(25));
    kept(&app, &["evt_1"]).await;
    app.clock.advance(hours(48));
    kept(&app, &[]).await;
    until("the announcement", SOON, async || {
        app.clock.advance(seconds(5));
        // Its death was told of too.
        let told: Vec<_> = ops.seen().iter().map(|request| request.json()).collect();
        let data = |event: &serde_json::Value| event["data"].clone();
        let removed = told.iter().map(data).find(|data| data["removed"] == 1)?;
        assert_eq!((&removed["count"], &removed["reason"], &removed["cause"]), (&json!(1), &json!("retention"), &json!(null)));
        Some(())
    })
    .await;
}

#[tokio::test]
async fn dead_letters_that_go_at_a_start_are_announced_too() {
    let (crm, ops) = (Receiver::start([400]).await, Receiver::ok().await);
    let file = routes().interactor().store(DAY).webhook("crm", &crm).webhook("ops", &ops);
    let file = file
        .rule("name: a, match: {source: interactor}, to: [crm]")
        .rule("name: b, match: {source: hookyard, type: relay.**}, to: [ops]");
    let app = spawn_app(file.clone()).await;
    app.takes("evt_1").await;
    app.reaches("target=crm", "dead").await;
    let app = app.restart_after(hours(100), file).await;
    until("the announcement", SOON, async || {
        app.clock.advance(seconds(5));
        ops.seen().iter().find(|request| request.json()["data"]["removed"] == 1).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn max_bytes_prunes_old_finished_events_first_and_refuses_only_when_nothing_finished_is_left() {
    let (done, down) = (Receiver::ok().await, Receiver::start([401]).await);
    let file = routes().interactor().store("max_bytes: 16MiB").webhook("done", &done).webhook("down", &down);
    let file = file.rule("name: a, match: {type: x.done}, to: [done]").rule("name: b, match: {type: x.waits}, to: [down]");
    let app = spawn_app(file).await;
    let padding = "p".repeat(512 * 1024);
    let body = |n: usize, kind: &str| json!({"id": format!("evt_{n}"), "type": kind, "data": {"p": padding, "n": n}}).to_string();
    // Far more than fits in all: finished events make room.
    for n in 0..60 {
        until("room to be made", SOON, async || {
            let status = app.send(&app.signed(&body(n, "x.done"))).await.status;
            app.clock.advance(seconds(5));
            (status == 200).then_some(())
        })
        .await;
        done.wait_for(n + 1).await;
    }
    assert!(app.all("/api/v1/events").await.len() < 40, "old ones went");
    // What is not finished makes no room.
    let mut taken = 0;
    for n in 100..160 {
        let answer = app.send(&app.signed(&body(n, "x.waits"))).await;
        app.clock.advance(seconds(5));
        match answer.status {
            200 => taken += 1,
            _ => answer.refused(503, "unavailable"),
        }
    }
    assert!((1..60).contains(&taken), "{taken} were taken");
    assert_eq!(app.rows("target=down").await.len(), taken, "none of what was promised is gone");
}

#[tokio::test]
async fn a_store_four_fifths_full_is_told_of_by_event() {
    let (down, ops) = (Receiver::start([401]).await, Receiver::ok().await);
    let file = routes().interactor().store("max_bytes: 16MiB").webhook("down", &down).webhook("ops", &ops);
    let file = file
        .rule("name: a, match: {source: interactor}, to: [down]")
        .rule("name: b, match: {source: hookyard, type: relay.store.filling}, to: [ops]");
    let app = spawn_app(file).await;
    let padding = "p".repeat(512 * 1024);
    let mut n = 0;
    until("relay.store.filling", SOON, async || {
        n += 1;
        let body = json!({"id": format!("evt_{n}"), "type": "x.y", "data": {"p": padding, "n": n}}).to_string();
        app.send(&app.signed(&body)).await;
        app.clock.advance(seconds(10));
        ops.seen().iter().any(|request| request.json()["type"] == "relay.store.filling").then_some(())
    })
    .await;
}

#[tokio::test]
async fn dedupe_keys_live_on_their_own_clock() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().store(DAY).webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_1").await;
    app.reaches("", "delivered").await;
    app.clock.advance(hours(25));
    kept(&app, &[]).await;
    let body = crate::support::signed::event("evt_1");
    app.clock.advance(hours(24 * 5));
    let again = app.send(&app.signed(&body)).await.json();
    assert_eq!(
        (&again["id"], &again["duplicate"]),
        (&json!("evt_1"), &json!(true)),
        "known for 7 days, though its event is gone"
    );
    app.clock.advance(hours(24 * 8));
    until("the key to go", SOON, async || {
        app.clock.advance(seconds(5));
        (app.send(&app.signed(&body)).await.json()["duplicate"] != true).then_some(())
    })
    .await;
    crm.wait_for(2).await;
}
