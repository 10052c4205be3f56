//! Clients that others wrote subscribe and unsubscribe by themselves: a REST-hook app under Zapier's own runtime, and a trigger node as
//! n8n runs it. Both do so again at every edit, and nothing that happens meanwhile may be lost.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Receiver, Relay, SOON, referee, signed,
    subscribed::{is_signed_by, open_routes},
    until,
};

/// How often a client subscribes anew,
const ROUNDS: usize = 10;
/// and how long it waits before, so that events come between.
const PAUSE_MS: u64 = 400;
/// Ten events in a second.
const BETWEEN_EVENTS: Duration = Duration::from_millis(100);

/// What a client did while events came, and what they were.
struct Played {
    verdict: Value,
    sent: BTreeSet<String>,
    receiver: Receiver,
    relay: Relay,
}

/// Lets `script` subscribe and subscribe again while ten events come in each second; then all of them must have been delivered.
async fn play(script: &str, order: &str) -> Played {
    let receiver = Receiver::ok().await;
    let relay = Relay::start(&open_routes()).await;
    let token = relay.token(&["webhooks"], &[]).await;
    let asked = json!({
        "api": format!("http://{}", relay.admin), "token": token, "target": receiver.url(), "event": "credential.expired",
        "rounds": ROUNDS, "pause_ms": PAUSE_MS, "order": order,
    });
    let over = AtomicBool::new(false);
    let client = async {
        let verdict = referee::judge(script, vec![asked]).await.remove(0);
        over.store(true, Ordering::Relaxed);
        verdict
    };
    let sender = async {
        until("the first subscription", SOON, async || {
            let list = relay.data("/api/v1/webhooks").await;
            list["webhooks"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
        })
        .await;
        let mut sent = BTreeSet::new();
        while !over.load(Ordering::Relaxed) {
            let id = format!("evt_{}", sent.len());
            relay.accepts(&signed::interactor(signed::event(&id))).await;
            sent.insert(id);
            tokio::time::sleep(BETWEEN_EVENTS).await;
        }
        sent
    };
    let (verdict, sent) = tokio::join!(client, sender);
    until("every event to be delivered", SOON, async || {
        let all = receiver.seen();
        let seen: BTreeSet<String> = all.iter().map(|it| it.json()["id"].as_str().unwrap().to_owned()).collect();
        sent.is_subset(&seen).then_some(())
    })
    .await;
    Played { verdict, sent, receiver, relay }
}

/// One subscription is left; what the others were to get went to it, and nothing of theirs waits or was given up.
async fn nothing_is_left_over(played: &Played, last: &str) {
    let list = played.relay.data("/api/v1/webhooks").await;
    let ids: Vec<_> = list["webhooks"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [last]);
    until("nothing to wait", SOON, async || {
        let rows = played.relay.all("/api/v1/deliveries").await;
        rows.iter().all(|row| ["delivered", "cancelled"].contains(&row["state"].as_str().unwrap())).then_some(())
    })
    .await;
    // About as many events as seconds make came while it went on.
    assert!(ROUNDS < played.sent.len(), "{} events only", played.sent.len());
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect()
}

async fn zapier(order: &str) {
    let played = play("zapier.cjs", order).await;
    let subscribed = played.verdict["subscribed"].as_array().unwrap();
    let ids: BTreeSet<_> = subscribed.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!((subscribed.len(), ids.len()), (ROUNDS + 1, ROUNDS + 1), "each is a new one");
    let gone: Vec<_> = played.verdict["unsubscribed"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(gone, subscribed[..ROUNDS].iter().map(|it| it["id"].as_str().unwrap()).collect::<Vec<_>>());
    // What the editor of a Zap shows is what it will get.
    let list = played.verdict["list"].as_array().unwrap();
    assert_eq!((list.len(), &list[0]["id"], &played.verdict["received"][0]), (1, &json!("evt_003"), &list[0]));
    let secrets: Vec<_> = subscribed.iter().map(|it| it["secret"].as_str().unwrap()).collect();
    for request in played.receiver.seen() {
        let event = request.json();
        let unknown: Vec<_> = event.as_object().unwrap().keys().filter(|key| list[0].get(key.as_str()).is_none()).collect();
        assert!(unknown.is_empty() || unknown == ["traceparent"], "{unknown:?}");
        assert!(secrets.iter().any(|secret| is_signed_by(&request, secret)));
    }
    nothing_is_left_over(&played, subscribed[ROUNDS]["id"].as_str().unwrap()).await;
}

#[tokio::test]
async fn zapier_may_unsubscribe_and_subscribe_again_and_loses_nothing() {
    zapier("delete-first").await;
}

#[tokio::test]
async fn zapier_may_subscribe_before_it_unsubscribes_and_loses_nothing() {
    zapier("create-first").await;
}

#[tokio::test]
async fn an_n8n_trigger_may_be_edited_again_and_again_and_loses_nothing() {
    let played = play("n8n.cjs", "delete-first").await;
    let created = texts(&played.verdict["created"]);
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), ROUNDS + 1, "each is a new one");
    assert!(played.verdict["deleted"].as_array().unwrap().iter().all(|it| *it == true), "{}", played.verdict["deleted"]);
    let checks = played.verdict["checks"].as_array().unwrap();
    let (last, before) = checks.split_last().unwrap();
    assert!(*last == true && before.iter().all(|it| *it == false), "it finds its own, and none that was deleted: {checks:?}");
    nothing_is_left_over(&played, created[ROUNDS]).await;
}
