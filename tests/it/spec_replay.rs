//! delivery.md, "Replay": new deliveries of stored events, by today's rules or for one target.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Receiver, Reply, SOON, TestApp, app::MINUTELY, minutes, routes, seconds, spawn_app, throughout, until};

/// Waits until a replay has ended.
async fn ended(app: &TestApp, job: &Value) -> Value {
    let path = format!("/api/v1/replays/{}", job["id"].as_str().unwrap_or_else(|| panic!("no id: {job}")));
    until("the replay to end", SOON, async || {
        // A cap is kept by the relay's clock.
        app.clock.advance(seconds(1));
        Some(app.data(&path).await).filter(|job| !job["finished_at"].is_null())
    })
    .await
}

#[tokio::test]
pub(crate) async fn it_makes_new_deliveries_of_the_same_event_marked() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes("evt_1").await;
    let old = app.reaches("", "delivered").await;
    app.posts("/api/v1/replays", &json!({"source": "interactor"})).await;
    crm.wait_for(2).await;
    let rows = app.counts("state=delivered", 2).await;
    let new = rows.iter().find(|row| row["id"] != old["id"]).unwrap();
    assert_eq!((&new["event"], &new["event_id"], &new["replayed"]), (&old["event"], &old["event_id"], &json!(true)), "{new}");
    let seen = crm.seen();
    assert_eq!((seen[0].header("x-hookyard-replayed"), seen[1].header("x-hookyard-replayed")), ("", "true"));
    let (first, again) = (seen[0].json(), seen[1].json());
    assert_eq!((&first["id"], &first["time"], &first["data"]), (&again["id"], &again["time"], &again["data"]));
    assert_eq!((&first["replayed"], &again["replayed"]), (&Value::Null, &json!(true)));
    assert_ne!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
}

#[tokio::test]
pub(crate) async fn it_goes_by_todays_rules() {
    let (old, new) = (Receiver::ok().await, Receiver::ok().await);
    let file = routes().interactor().webhook("old", &old).webhook("new", &new);
    let app = spawn_app(file.clone().rule("name: a, match: {type: \"**\"}, to: [old]")).await;
    app.takes("evt_1").await;
    app.reaches("", "delivered").await;
    let app = app.restart(file.rule("name: b, match: {type: \"**\"}, to: [new]")).await;
    app.posts("/api/v1/replays", &json!({})).await;
    new.wait_for(1).await;
    assert_eq!((old.count(), &app.reaches("target=new", "delivered").await["rule"]), (1, &json!("b")));
}

#[tokio::test]
pub(crate) async fn it_may_be_for_one_named_target_only() {
    let (crm, audit, third) = (Receiver::ok().await, Receiver::ok().await, Receiver::ok().await);
    let file = routes().interactor().webhook("crm", &crm).webhook("audit", &audit).webhook("third", &third);
    let app = spawn_app(file.rule("name: a, match: {type: \"**\"}, to: [crm, audit]")).await;
    app.takes("evt_1").await;
    app.counts("state=delivered", 2).await;
    let job = app.posts("/api/v1/replays", &json!({"target": "third"})).await;
    third.wait_for(1).await;
    ended(&app, &job).await;
    app.counts("state=delivered", 3).await;
    assert_eq!((crm.count(), audit.count(), third.count()), (1, 1, 1));
}

#[tokio::test]
pub(crate) async fn it_never_touches_old_deliveries() {
    let crm = Receiver::start([400, 200]).await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes("evt_1").await;
    let dead = app.reaches("", "dead").await;
    app.posts("/api/v1/replays", &json!({"state": "dead"})).await;
    app.reaches("state=delivered", "delivered").await;
    assert_eq!(app.reaches("state=dead", "dead").await, dead, "as it was");
}

#[tokio::test]
pub(crate) async fn it_selects_by_time_source_type_and_state() {
    let crm = Receiver::answering(|request, _| if request.json()["id"] == "evt_bad" { 400.into() } else { 200.into() }).await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes("evt_old").await;
    app.clock.advance(minutes(10));
    let between = app.clock.now().to_string();
    app.clock.advance(minutes(10));
    app.takes("evt_new").await;
    app.takes("evt_bad").await;
    app.takes_of("evt_other", "order.paid", json!({})).await;
    crm.wait_for(4).await;
    app.counts("state=delivered", 3).await;
    app.counts("state=dead", 1).await;
    let counted = async |filter: Value| {
        let mut filter = filter;
        filter["dry_run"] = json!(true);
        app.posts("/api/v1/replays", &filter).await["count"].clone()
    };
    for (filter, count) in [
        (json!({}), 4),
        (json!({"since": between}), 3),
        (json!({"until": between}), 1),
        (json!({"source": "elsewhere"}), 0),
        (json!({"type": "order.paid"}), 1),
        (json!({"type": "order.*"}), 1),
        (json!({"type": "**"}), 4),
        (json!({"type": "order.paid,credential.*"}), 4),
        (json!({"type": "order.paid,no.such"}), 1),
        (json!({"state": "dead"}), 1),
        (json!({"state": "delivered", "type": "credential.expired"}), 2),
        (json!({"state": "delivered", "type": "credential.*"}), 2),
    ] {
        assert_eq!(counted(filter.clone()).await, count, "{filter}");
    }
    assert_eq!(crm.count(), 4, "counting makes nothing");
    let job = app.posts("/api/v1/replays", &json!({"type": "order.*"})).await;
    let done = ended(&app, &job).await;
    assert_eq!((&done["made"], &done["filter"]["type"]), (&json!(1), &json!(["order.*"])), "{done}");
    app.counts("replayed=true&type=order.*", 1).await;
}

#[tokio::test]
pub(crate) async fn it_respects_a_pause() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes_many(3).await;
    app.counts("state=delivered", 3).await;
    app.tells("crm", "pause").await;
    let job = app.posts("/api/v1/replays", &json!({})).await;
    ended(&app, &job).await;
    app.counts("state=held", 3).await;
    app.nothing_comes(&crm, 3, minutes(1)).await;
    app.tells("crm", "resume").await;
    crm.wait_for(6).await;
}

#[tokio::test]
pub(crate) async fn it_respects_the_rate_of_its_target() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, "rate_limit: {rate: 1/s, burst: 3}")).await;
    app.takes_many(3).await;
    app.counts("state=delivered", 3).await;
    app.posts("/api/v1/replays", &json!({})).await;
    app.counts("", 6).await;
    app.nothing_comes(&crm, 3, seconds(0)).await;
    for n in 4..=6 {
        app.clock.advance(seconds(1));
        crm.wait_for(n).await;
        app.nothing_comes(&crm, n, seconds(0)).await;
    }
}

#[tokio::test]
pub(crate) async fn it_respects_the_breaker() {
    let crm = Receiver::answering(|_, place| if place < 1 { 200.into() } else { Reply::from(503) }).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("concurrency: 1, {MINUTELY}"))).await;
    app.takes("evt_1").await;
    app.reaches("", "delivered").await;
    for n in 2..=6 {
        app.takes(&format!("evt_{n}")).await;
    }
    app.target_is("crm", "broken").await;
    let job = app.posts("/api/v1/replays", &json!({"target": "crm", "rate": 1000})).await;
    let path = format!("/api/v1/replays/{}", job["id"].as_str().unwrap());
    until("the replay to end", SOON, async || (app.rows("").await.len() == 12).then_some(())).await;
    assert_eq!(app.data(&path).await["failed"], 0);
    app.nothing_comes(&crm, 6, seconds(20)).await;
}

#[tokio::test]
pub(crate) async fn it_is_capped_and_can_be_cancelled() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes_many(20).await;
    app.counts("state=delivered", 20).await;
    let job = app.posts("/api/v1/replays", &json!({"rate": 2})).await;
    let path = format!("/api/v1/replays/{}", job["id"].as_str().unwrap());
    assert_eq!(job["total"], 20, "counted first: {job}");
    crm.wait_for(21).await;
    let began = app.clock.now();
    until("some progress", SOON, async || {
        app.clock.advance(Duration::from_millis(500));
        (app.data(&path).await["done"].as_u64() >= Some(4)).then_some(())
    })
    .await;
    let passed = app.clock.now().duration_since(began).as_secs_f64();
    let after = crm.count() - 20;
    assert!(1.0 <= passed && f64::from(u32::try_from(after).unwrap()) <= 2.0 * passed + 2.0, "{after} in {passed} s");
    app.posts(&format!("{path}/cancel"), &json!({})).await;
    let stopped = ended(&app, &job).await;
    assert_eq!(stopped["state"], "cancelled", "{stopped}");
    // A step may have been under way: it is finished, and told of too. None comes after it.
    let made = usize::try_from(stopped["made"].as_u64().unwrap()).unwrap();
    app.clock.advance(minutes(1));
    throughout("a step after the last", Duration::from_millis(500), async || crm.count() <= 20 + made + 1).await;
    let job = app.data(&path).await;
    assert_eq!(job["made"], crm.count() - 20, "{job}");
    assert!(made < 19, "{stopped}");
}
