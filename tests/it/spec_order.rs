//! delivery.md, "Order": one delivery per key at a time, in the order of acceptance.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{Receiver, Reply, TestApp, app::MINUTELY, minutes, routes, seconds, spawn_app};

/// Ordered by `$.data.key`, tried once a minute.
fn ordered(to: &Receiver) -> crate::support::Routes {
    routes().interactor().webhook_with("crm", to, &format!("order_by: $.data.key, {MINUTELY}"))
}

/// Takes in `id` with order key `key`.
async fn takes(app: &TestApp, id: &str, key: &str) {
    app.takes_of(id, "x.y", json!({"key": key})).await;
}

fn ids(crm: &Receiver) -> Vec<String> {
    crm.seen().iter().map(|request| request.json()["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
pub(crate) async fn each_key_keeps_the_order_of_acceptance() {
    let crm = Receiver::ok().await;
    let app = spawn_app(ordered(&crm)).await;
    app.tells("crm", "pause").await;
    for n in 0..60 {
        takes(&app, &format!("evt_{n:02}"), &format!("key_{}", n % 3)).await;
    }
    app.tells("crm", "resume").await;
    crm.wait_for(60).await;
    let mut by_key: HashMap<Value, Vec<String>> = HashMap::new();
    for request in crm.seen() {
        let json = request.json();
        by_key.entry(json["data"]["key"].clone()).or_default().push(json["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(by_key.len(), 3);
    assert!(by_key.values().all(|ids| ids.is_sorted()), "{by_key:?}");
}

#[tokio::test]
pub(crate) async fn one_delivery_per_key_is_in_flight() {
    let crm = Receiver::silent().await;
    let app = spawn_app(ordered(&crm)).await;
    for (id, key) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("a3", "a")] {
        takes(&app, id, key).await;
    }
    crm.wait_for(2).await;
    app.nothing_comes(&crm, 2, seconds(0)).await;
    let mut seen = ids(&crm);
    seen.sort();
    assert_eq!(seen, ["a1", "b1"]);
}

#[tokio::test]
pub(crate) async fn without_a_key_nothing_is_ordered() {
    let crm = Receiver::silent().await;
    let app = spawn_app(ordered(&crm)).await;
    for n in 0..4 {
        app.takes_of(&format!("evt_{n}"), "x.y", json!({})).await;
    }
    crm.wait_for(4).await;
}

#[tokio::test]
pub(crate) async fn a_retrying_head_holds_its_key_and_no_other() {
    let crm = Receiver::answering(|request, _| match (request.json()["id"].as_str(), request.header("x-hookyard-attempt")) {
        (Some("a1"), "1") => 503.into(),
        _ => 200.into(),
    })
    .await;
    let app = spawn_app(ordered(&crm)).await;
    takes(&app, "a1", "a").await;
    crm.wait_for(1).await;
    takes(&app, "a2", "a").await;
    takes(&app, "b1", "b").await;
    crm.wait_for(2).await;
    app.nothing_comes(&crm, 2, seconds(59)).await;
    app.clock.advance(seconds(1));
    crm.wait_for(4).await;
    assert_eq!(ids(&crm), ["a1", "b1", "a1", "a2"]);
}

#[tokio::test]
pub(crate) async fn order_holds_over_a_restart() {
    let crm = Receiver::start([503, 200]).await;
    let app = spawn_app(ordered(&crm)).await;
    takes(&app, "a1", "a").await;
    app.tried("", 1).await;
    takes(&app, "a2", "a").await;
    let app = app.restart(ordered(&crm)).await;
    takes(&app, "a3", "a").await;
    app.nothing_comes(&crm, 1, seconds(59)).await;
    app.clock.advance(minutes(1));
    crm.wait_for(4).await;
    assert_eq!(ids(&crm), ["a1", "a1", "a2", "a3"]);
}

#[tokio::test]
pub(crate) async fn a_dead_head_releases_its_key() {
    let crm = Receiver::answering(|request, _| if request.json()["id"] == "a1" { 400.into() } else { 200.into() }).await;
    let app = spawn_app(ordered(&crm)).await;
    takes(&app, "a1", "a").await;
    takes(&app, "a2", "a").await;
    crm.wait_for(2).await;
    assert_eq!(ids(&crm), ["a1", "a2"]);
    app.counts("state=dead", 1).await;
}

#[tokio::test]
pub(crate) async fn a_later_retry_goes_out_of_order_and_says_so() {
    let good = Arc::new(AtomicUsize::new(0));
    let now = good.clone();
    let crm = Receiver::answering(move |request, _| match (request.json()["id"].as_str(), now.load(Ordering::Relaxed)) {
        (Some("a1"), 0) => 400.into(),
        (Some("a2"), _) => Reply::from(503),
        _ => 200.into(),
    })
    .await;
    let app = spawn_app(ordered(&crm)).await;
    takes(&app, "a1", "a").await;
    let dead = app.reaches("", "dead").await;
    assert_eq!(dead["out_of_order"], false);
    takes(&app, "a2", "a").await;
    crm.wait_for(2).await;
    good.store(1, Ordering::Relaxed);
    // The key waits for its head, a2; what a person retries does not wait for it.
    app.posts(&format!("/api/v1/deliveries/{}/retry", dead["id"].as_str().unwrap()), &json!({})).await;
    crm.wait_for(3).await;
    assert_eq!(ids(&crm)[2], "a1");
    let row = app.counts("state=delivered", 1).await.remove(0);
    assert_eq!((&row["id"], &row["out_of_order"]), (&dead["id"], &json!(true)), "{row}");
}
