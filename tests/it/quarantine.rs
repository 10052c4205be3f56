//! Rejections, the signature doctor, and the quarantine: product.md, "Quarantine".

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Home, Receiver, Relay, Request, Routes, SOON, iso, routes,
    signed::{self, AGENT, INTERACTOR, agent, event, hex_mac, interactor, interactor_by, timestamped, trigger},
    throughout, unix_now, until,
};

fn with_secret(secret: &str, crm: &Receiver) -> Routes {
    let fields = format!("kind: interactor, path: /webhooks/interactor, secrets: [\"{secret}\"]");
    routes().source("interactor", &fields).webhook("crm", crm)
}

/// Waits until the log of rejections has `count` rows.
async fn rejections(relay: &Relay, count: usize) -> Vec<serde_json::Value> {
    until(&format!("{count} rejections"), SOON, async || {
        let rows = relay.all("/api/v1/rejections").await;
        (rows.len() == count).then_some(rows)
    })
    .await
}

#[tokio::test]
async fn a_wrong_secret_for_500_events_costs_nothing() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    let relay = Relay::start_in(&home, &with_secret("whsec_mistyped", &crm)).await;
    for n in 0..500 {
        relay.send(&interactor(event(&format!("evt_{n}")))).await.refused(401, "invalid_signature");
    }
    rejections(&relay, 500).await;
    assert!(relay.cli_ok(&["rejections", "retry"]).await.contains("500"), "all fail again, and that is said");
    throughout("none before the secret is right", Duration::from_millis(500), async || crm.count() == 0).await;
    assert!(relay.all("/api/v1/events").await.is_empty());
    relay.stop().await;

    let relay = Relay::start_in(&home, &with_secret(INTERACTOR, &crm)).await;
    throughout("starting with the right one retries nothing by itself", Duration::from_millis(300), async || crm.count() == 0)
        .await;
    relay.cli_ok(&["rejections", "retry"]).await;
    crm.wait_for(500).await;
    assert_eq!((crm.distinct("webhook-id").len(), crm.distinct("idempotency-key").len()), (500, 500));
    relay.settled("state=delivered", 500).await;
    relay.cli_ok(&["rejections", "retry"]).await;
    throughout("a second retry finds nothing", Duration::from_millis(300), async || crm.count() == 500).await;
}

#[tokio::test]
async fn the_retry_of_the_api_takes_filters_and_counts() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    let relay = Relay::start_in(&home, &with_secret("whsec_mistyped", &crm)).await;
    for n in 0..3 {
        relay.send(&interactor(event(&format!("evt_{n}")))).await.refused(401, "invalid_signature");
    }
    rejections(&relay, 3).await;
    relay.stop().await;
    let relay = Relay::start_in(&home, &with_secret(INTERACTOR, &crm)).await;
    relay.accepts(&interactor(event("evt_2"))).await;
    let other = relay.post("/api/v1/rejections/retry?source=somebody-else", &json!({})).await;
    assert_eq!((other.status, &other.json()["data"]["tried"]), (200, &json!(0)));
    let answer = relay.post("/api/v1/rejections/retry", &json!({"source": "interactor"})).await.json();
    assert_eq!(answer["data"], json!({"tried": 3, "accepted": 2, "duplicates": 1, "failed": 0}));
    assert_eq!(relay.get_as("/api/v1/rejections", None).await.status, 401);
}

#[tokio::test]
async fn timestamps_are_held_to_the_time_of_arrival() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    let tight = |secret: &str| {
        let fields = format!("kind: interactor, path: /webhooks/interactor, tolerance: 2s, secrets: [\"{secret}\"]");
        routes().source("interactor", &fields).webhook("crm", &crm)
    };
    let relay = Relay::start_in(&home, &tight("whsec_mistyped")).await;
    relay.send(&interactor(event("evt_in_time"))).await.refused(401, "invalid_signature");
    relay
        .send(&interactor(event("evt_late")).header("X-Interactor-Timestamp", iso(-600)))
        .await
        .refused(401, "invalid_timestamp");
    rejections(&relay, 2).await;
    relay.stop().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let relay = Relay::start_in(&home, &tight(INTERACTOR)).await;
    relay.cli_ok(&["rejections", "retry"]).await;
    assert_eq!(crm.first().await.header("webhook-id"), "evt_in_time");
    throughout("what came late stays out", Duration::from_millis(300), async || crm.count() == 1).await;
    relay.cli_ok(&["rejections", "retry", "--clock-offset=-600s"]).await;
    crm.wait_for(2).await;
    assert!(crm.distinct("webhook-id").contains("evt_late"), "our clock was ten minutes fast");
}

#[tokio::test]
async fn a_renamed_path_costs_nothing() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    let relay = Relay::start_in(&home, &with_secret(INTERACTOR, &crm)).await;
    relay.send(&interactor(event("evt_moved")).to("/webhooks/renamed")).await.refused(404, "not_found");
    relay.send(&Request::json("/favicon.ico", "")).await.refused(404, "not_found");
    until("the request with proof to be kept", SOON, async || {
        relay.all("/api/v1/rejections").await.iter().any(|row| row["kept"] == true).then_some(())
    })
    .await;
    relay.stop().await;
    let fields = format!("kind: interactor, path: /webhooks/renamed, secrets: [\"{INTERACTOR}\"]");
    let relay = Relay::start_in(&home, &routes().source("interactor", &fields).webhook("crm", &crm)).await;
    relay.cli_ok(&["rejections", "retry"]).await;
    assert_eq!(crm.first().await.header("webhook-id"), "evt_moved");
}

#[tokio::test]
async fn a_static_header_is_kept_as_a_keyed_hash_and_retried() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    let file = |value: &str| {
        let fields = format!(
            "kind: trigger, path: /triggers/connectors, header: {{name: X-Forwarding-Key, value: \"{value}\"}}, map: {{type: t, id: $.id}}"
        );
        routes().source("connectors", &fields).webhook("crm", &crm)
    };
    let relay = Relay::start_in(&home, &file("mistyped")).await;
    relay.send(&trigger(r#"{"id":"t1"}"#)).await.refused(401, "invalid_header");
    rejections(&relay, 1).await;
    relay.stop().await;
    let relay = Relay::start_in(&home, &file(signed::FORWARDING)).await;
    relay.cli_ok(&["rejections", "retry"]).await;
    assert_eq!(crm.first().await.json()["id"], "t1");
}

#[tokio::test]
async fn requests_without_proof_are_counted_and_sampled_not_kept() {
    let relay = Relay::start(&routes().interactor()).await;
    for n in 0..30 {
        relay
            .send(&Request::json("/webhooks/interactor", event(&format!("evt_{n}"))).header("X-Interactor-Timestamp", iso(0)))
            .await
            .refused(401, "invalid_signature");
    }
    assert_eq!(relay.metric("webhook_received_total", &["status=\"invalid_signature\""]).await, 30.0);
    throughout("none is kept", Duration::from_millis(500), async || {
        relay.all("/api/v1/rejections").await.iter().all(|row| row["kept"] == false)
    })
    .await;
}

#[tokio::test]
async fn the_doctor_says_the_likely_cause() {
    let fields = format!("kind: interactor, path: /webhooks/interactor, secrets: [\"{INTERACTOR}\", whsec_previous_one]");
    let relay = Relay::start(&routes().source("interactor", &fields).agent()).await;
    let good = || interactor(event("evt_1"));
    let base64 = data_encoding::BASE64.encode(&signed::mac(INTERACTOR.as_bytes(), &[event("evt_1").as_bytes()]));
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&event("evt_1")).unwrap()).unwrap();
    let cases = [
        (good().without("X-Interactor-Signature"), "missing"),
        (good().header("X-Interactor-Signature", format!("sha256={base64}")), "hex"),
        (good().header("X-Interactor-Timestamp", iso(-7200)), "clock"),
        (timestamped(event("evt_1"), unix_now()), "dialect"),
        (good().with_body(pretty), "serialised"),
    ];
    for (n, (request, word)) in cases.into_iter().enumerate() {
        assert_eq!(relay.send(&request).await.status, 401, "{word}");
        let rows = rejections(&relay, n + 1).await;
        let reason = rows[0]["reason"].as_str().unwrap();
        assert!(reason.to_lowercase().contains(word), "expected {word:?}: {reason}");
    }
    let shouted = agent(r#"{"event":"e"}"#).header("X-Webhook-Signature", hex_mac(AGENT, &[br#"{"event":"e"}"#]).to_uppercase());
    relay.send(&shouted).await;
}

#[tokio::test]
async fn the_log_of_rejections_tells_no_secret_and_no_body() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&with_secret(INTERACTOR, &crm)).await;
    let body = event("evt_1").replace("cred_abc", "PRIVATE-CONTENT");
    let bad = interactor_by("whsec_wrong", body);
    relay.send(&bad).await.refused(401, "invalid_signature");
    rejections(&relay, 1).await;
    let text = relay.get("/api/v1/rejections").await.text() + &relay.cli_ok(&["rejections"]).await + &relay.log_text();
    for secret in ["PRIVATE-CONTENT", INTERACTOR, bad.value("X-Interactor-Signature")] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn what_is_kept_is_encrypted_on_disk() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&with_secret(INTERACTOR, &crm)).await;
    relay
        .send(&interactor_by("whsec_wrong", event("evt_1").replace("cred_abc", "PRIVATE-CONTENT")))
        .await
        .refused(401, "invalid_signature");
    let rows = rejections(&relay, 1).await;
    assert_eq!(rows[0]["kept"], true);
    let home = relay.home.clone();
    relay.stop().await;
    for file in std::fs::read_dir(home.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(15).any(|part| part == b"PRIVATE-CONTENT"), "{}", path.display());
    }
}
