//! Dedupe by source and id: product.md, "Inbound contracts".

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Receiver, Relay, Request, SOON, routes,
    signed::{AGENT, HMAC, agent, event, hash_id, interactor, prefixed},
    throughout, until,
};

const HASHED: &str = r#"{"event":"agent.message","data":{"content":"hi"}}"#;

#[tokio::test]
async fn a_repeat_is_received_and_delivered_once() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    for _ in 0..3 {
        let answer = relay.send(&interactor(event("evt_1"))).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"received": true, "id": "evt_1", "duplicate": true})));
    }
    crm.first().await;
    throughout("a repeat is not delivered", Duration::from_millis(500), async || crm.count() == 1).await;
    assert_eq!(relay.metric("webhook_received_total", &["status=\"duplicate\""]).await, 3.0);
    assert_eq!(relay.all("/api/v1/events").await.len(), 1);
}

#[tokio::test]
async fn the_same_id_with_other_bytes_is_a_mismatch() {
    let relay = Relay::start(&routes().interactor()).await;
    relay.accepts(&interactor(event("evt_2"))).await;
    let answer = relay.send(&interactor(event("evt_2").replace("cred_abc", "cred_xyz"))).await;
    assert_eq!(answer.json(), json!({"received": true, "id": "evt_2", "duplicate": true}));
    assert_eq!(relay.metric("webhook_received_total", &["status=\"duplicate_mismatch\""]).await, 1.0);
    let rows = relay.all("/api/v1/events").await;
    assert_eq!((rows.len(), &rows[0]["duplicate_mismatch"]), (1, &json!(1)), "{rows:?}");
}

#[tokio::test]
async fn ids_belong_to_their_source() {
    let secret = crate::support::signed::INTERACTOR;
    let second = format!("kind: interactor, path: /webhooks/second, secrets: [\"{secret}\"]");
    let relay = Relay::start(&routes().interactor().source("second", &second)).await;
    relay.accepts(&interactor(event("evt_3"))).await;
    relay.accepts(&interactor(event("evt_3")).to("/webhooks/second")).await;
}

#[tokio::test]
async fn without_an_id_the_bytes_are_the_id() {
    let relay = Relay::start(&routes().agent()).await;
    assert_eq!(relay.accepts(&agent(HASHED)).await, hash_id(HASHED.as_bytes()));
    assert_eq!(relay.send(&agent(HASHED)).await.json()["duplicate"], true);
    let spaced = HASHED.replace(':', ": ");
    assert_eq!(relay.accepts(&agent(&spaced)).await, hash_id(spaced.as_bytes()));
}

#[tokio::test]
async fn after_the_window_the_same_bytes_are_a_new_event() {
    let fields = format!("kind: agent, path: /webhooks/agent, secrets: [\"{AGENT}\"], dedupe: {{window: 1s}}");
    let relay = Relay::start(&routes().source("agents", &fields)).await;
    let first = relay.accepts(&agent(HASHED)).await;
    let later = until("the window to pass", SOON, async || {
        let json = relay.send(&agent(HASHED)).await.json();
        json.get("duplicate").is_none().then(|| json["id"].as_str().unwrap().to_owned())
    })
    .await;
    let seconds = later.strip_prefix(&format!("{first}-")).unwrap_or_else(|| panic!("{later}"));
    let seconds: i64 = seconds.parse().unwrap();
    assert!((crate::support::unix_now() - seconds).abs() < 60, "{later}");
}

#[tokio::test]
async fn the_window_may_be_off() {
    let fields = format!("kind: agent, path: /webhooks/agent, secrets: [\"{AGENT}\"], dedupe: {{window: off}}");
    let relay = Relay::start(&routes().source("agents", &fields)).await;
    relay.accepts(&agent(HASHED)).await;
    relay.accepts(&agent(HASHED)).await;
    assert_eq!(relay.all("/api/v1/events").await.len(), 2);
}

#[tokio::test]
async fn the_window_says_nothing_of_senders_ids() {
    let fields = format!(
        "kind: hmac, preset: honeyframe, path: /webhooks/reports, secrets: [\"{HMAC}\"], map: {{id: $.id, type: t}}, dedupe: {{window: 1s}}"
    );
    let relay = Relay::start(&routes().source("reports", &fields)).await;
    let request: Request = prefixed("X-Honeyframe-Signature", r#"{"id":"r1"}"#);
    relay.accepts(&request).await;
    throughout("an id is remembered longer", Duration::from_secs(3), async || {
        relay.send(&request).await.json()["duplicate"] == true
    })
    .await;
}

#[tokio::test]
async fn repeats_are_known_after_a_restart() {
    let routes = routes().interactor();
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_4"))).await;
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    let relay = Relay::start_in(&home, &routes).await;
    assert_eq!(relay.send(&interactor(event("evt_4"))).await.json()["duplicate"], true);
}

#[tokio::test]
async fn fifty_copies_at_once_make_one_delivery_per_target() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm).webhook("audit", &audit)).await;
    let request = interactor(event("evt_50"));
    let answers = futures(&relay, &request, 50).await;
    assert_eq!(answers.iter().filter(|answer| answer.get("duplicate").is_none()).count(), 1);
    assert!(answers.iter().all(|answer| answer["id"] == "evt_50"));
    relay.settled("", 2).await;
    throughout("one delivery per target", Duration::from_millis(500), async || (crm.count(), audit.count()) == (1, 1)).await;
}

/// The answers to `count` copies of `request`, all under way at once.
async fn futures(relay: &Relay, request: &Request, count: usize) -> Vec<serde_json::Value> {
    let client = crate::support::relay::client();
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (client, addr, request) = (client.clone(), relay.public, request.clone());
        sending.spawn(async move { crate::support::relay::send(&client, addr, &request).await.unwrap().json() });
    }
    sending.join_all().await
}
