//! The relay reports on itself as events of source `hookyard` (product.md, "Outbound contracts").

use serde_json::{Value, json};

use crate::support::{
    Receiver, Relay, SOON, routes,
    routes::FAST,
    signed::{event, interactor, interactor_by},
    until,
};

const TELL_OPS: &str = "name: tell-ops, match: {source: hookyard, type: relay.**}, to: [ops]";
const EVERYTHING: &str = "name: everything, match: {type: \"**\"}, to: [crm]";

/// What `ops` is told of type `wanted`: the envelope.
async fn told(ops: &Receiver, wanted: &str) -> Value {
    for count in 1..20 {
        let seen = ops.wait_for(count).await;
        if let Some(envelope) = seen.iter().map(|received| received.json()).find(|envelope| envelope["type"] == wanted) {
            return envelope;
        }
    }
    panic!("{wanted} was not told");
}

#[tokio::test]
async fn a_dead_letter_is_told_with_its_event_and_cause() {
    let (ops, crm) = (Receiver::ok().await, Receiver::start([400]).await);
    let routes = routes().interactor().webhook("ops", &ops).webhook_with("crm", &crm, FAST).rule(EVERYTHING).rule(TELL_OPS);
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let envelope = told(&ops, "relay.delivery.dead").await;
    assert_eq!((&envelope["source"], &envelope["sourcekind"]), (&json!("/sources/hookyard"), &json!("hookyard")));
    let data = &envelope["data"];
    assert_eq!((&data["target"], &data["cause"], &data["error"]), (&json!("crm"), &json!("receiver"), &json!("http_400")));
    assert_eq!((&data["event"]["id"], &data["count"]), (&json!("evt_1"), &json!(1)));
    assert_eq!(crm.count(), 1, "`**` alone does not match the relay's own events");
}

#[tokio::test]
async fn own_events_are_listed_only_where_they_are_asked_for() {
    let ops = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("ops", &ops).rule(TELL_OPS)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    told(&ops, "relay.config.loaded").await;
    let listed = relay.all("/api/v1/events").await;
    assert_eq!(listed.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>(), ["evt_1"]);
    let own = relay.all("/api/v1/events?source=hookyard").await;
    assert_eq!(own.iter().map(|row| row["type"].as_str().unwrap()).collect::<Vec<_>>(), ["relay.config.loaded"]);
}

#[tokio::test]
async fn own_events_that_nobody_asked_for_are_not_called_unmatched() {
    let relay = Relay::start(&routes().interactor()).await;
    let loaded = until("the start to be told of", SOON, async || {
        relay.all("/api/v1/events?source=hookyard").await.into_iter().find(|row| row["type"] == "relay.config.loaded")
    });
    assert_eq!(loaded.await["verdict"], "accepted");
}

#[tokio::test]
async fn a_target_that_broke_on_an_own_event_is_told_of_once_it_keeps_others() {
    let (ops, shared) = (Receiver::ok().await, Receiver::start([401]).await);
    let rule = "name: all, match: {source: interactor}, to: [shared]";
    let both = "name: tell, match: {source: hookyard, type: relay.**}, to: [ops, shared]";
    let relay = Relay::start(&routes().interactor().webhook("ops", &ops).webhook("shared", &shared).rule(rule).rule(both)).await;
    told(&ops, "relay.config.loaded").await;
    shared.wait_for(1).await;
    until("it to be broken", SOON, async || (relay.data("/api/v1/targets/shared").await["state"] == "broken").then_some(()))
        .await;
    // So far only what the relay says of itself waits there: telling of that would make more of it.
    relay.accepts(&interactor(event("evt_1"))).await;
    let data = told(&ops, "relay.target.broken").await["data"].clone();
    assert_eq!((&data["target"], &data["error"]), (&json!("shared"), &json!("http_401")));
    relay.accepts(&interactor(event("evt_2"))).await;
    let own = relay.all("/api/v1/events?source=hookyard&type=relay.target.broken").await;
    assert_eq!(own.len(), 1, "{own:?}");
}

#[tokio::test]
async fn a_source_that_only_refuses_is_told_of() {
    let ops = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("ops", &ops).rule(TELL_OPS)).await;
    for n in 0..12 {
        relay.send(&interactor_by("whsec_wrong", event(&format!("evt_{n}")))).await.refused(401, "invalid_signature");
    }
    let data = told(&ops, "relay.source.rejecting").await["data"].clone();
    assert_eq!((&data["source"], &data["reason"]), (&json!("interactor"), &json!("invalid_signature")));
    assert!(10 <= data["rejected"].as_u64().unwrap(), "{data}");
}

#[tokio::test]
async fn check_warns_when_nobody_would_be_told() {
    let ops = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("ops", &ops).rule(TELL_OPS)).await;
    let said = relay.home.run(&["check"]).await;
    let warned = String::from_utf8_lossy(&said.stderr).contains("untold");
    assert!(said.status.success() && !warned, "{}", String::from_utf8_lossy(&said.stderr));
    relay.home.write("routes.yaml", &routes().interactor().webhook("ops", &ops).text());
    let said = relay.home.run(&["check"]).await;
    let warned = String::from_utf8_lossy(&said.stderr).contains("warning[untold]");
    assert!(said.status.success() && warned, "{}", String::from_utf8_lossy(&said.stderr));
}
