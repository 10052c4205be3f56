//! `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeSet;

use crate::support::{
    Receiver, Relay, SOON, routes,
    signed::{event, interactor, interactor_by},
    spawn_app, until,
};

#[tokio::test]
async fn health_is_told_on_both_listeners_without_a_token() {
    let relay = Relay::start(&routes().interactor()).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!((relay.get_public(path).await.status, relay.get_as(path, None).await.status), (200, 200), "{path}");
    }
    let public = relay.get_public("/readyz").await.text();
    assert!(public.len() < 60, "without details: {public}");
}

#[tokio::test]
async fn requests_are_counted_by_source_type_and_what_became_of_them() {
    let relay = Relay::start(&routes().interactor()).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    relay.send(&interactor(event("evt_1"))).await;
    relay.send(&interactor(event("evt_1").replace("cred_abc", "x"))).await;
    relay.send(&interactor_by("whsec_wrong", "{}")).await;
    relay.send(&interactor("{}").header("X-Interactor-Timestamp", "never")).await;
    relay.send(&interactor("{")).await;
    relay.send(&interactor("{}")).await;
    relay.send(&interactor("{}").header("content-type", "text/plain")).await;
    for status in [
        "success",
        "duplicate",
        "duplicate_mismatch",
        "invalid_signature",
        "invalid_timestamp",
        "invalid_json",
        "invalid_event",
        "unsupported_media_type",
    ] {
        let labels = ["source=\"interactor\"", &format!("status=\"{status}\"")];
        assert_eq!(relay.metric("webhook_received_total", &labels).await, 1.0, "{status}");
    }
    assert_eq!(relay.metric("webhook_received_total", &["event_type=\"credential.expired\"", "status=\"success\""]).await, 1.0);
}

#[tokio::test]
async fn it_is_classic_prometheus_text() {
    let crm = Receiver::start([500, 200, 400]).await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    relay.settled("", 1).await;
    relay.accepts(&interactor(event("evt_2"))).await;
    relay.settled("", 2).await;
    until("the dead letter to be counted", SOON, async || (relay.metric("webhook_dlq_size", &[]).await == 1.0).then_some(()))
        .await;
    let answer = relay.get_as("/metrics", None).await;
    assert!(answer.header("content-type").starts_with("text/plain"), "{}", answer.header("content-type"));
    let text = answer.text();
    let mut described = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            described.insert(rest.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(described.contains(base) || described.contains(name), "{line} has no type");
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap_or_else(|_| panic!("{line} has no number"));
        }
    }
    for name in [
        "webhook_received_total",
        "webhook_processing_duration_seconds",
        "webhook_dlq_size",
        "hookyard_delivery_attempts_total",
        "hookyard_delivery_lag_seconds",
        "hookyard_commit_batch_size",
        "hookyard_build_info",
    ] {
        assert!(described.contains(name), "{name}: {described:?}");
    }
    for (outcome, count) in [("delivered", 1.0), ("retry", 1.0), ("dead", 1.0)] {
        let labels = ["target=\"crm\"", &format!("outcome=\"{outcome}\"")];
        assert_eq!(relay.metric("hookyard_delivery_attempts_total", &labels).await, count, "{outcome}");
    }
    assert_eq!(relay.metric("hookyard_delivery_lag_seconds_count", &["target=\"crm\""]).await, 1.0);
    assert!(0.0 < relay.metric("webhook_processing_duration_seconds_count", &["source=\"interactor\""]).await);
}

#[tokio::test]
async fn what_waits_is_shown_by_target() {
    let crm = Receiver::silent().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    for n in 0..12 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    until("the backlog to be shown", SOON, async || {
        let text = relay.metrics().await;
        let value = |name| crate::support::relay::sample(&text, name, &["target=\"crm\""]);
        (value("hookyard_backlog") == 12.0 && 0.0 < value("hookyard_oldest_seconds")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn event_types_from_outside_are_capped_as_labels() {
    let relay = Relay::start(&routes().interactor()).await;
    let strange = "x\\\"} 1 forged_metric{a=\\\"b\\\"} 7";
    relay.accepts(&interactor(format!(r#"{{"id":"evt_s","type":"{strange}"}}"#))).await;
    for n in 0..1200 {
        relay.accepts(&interactor(format!(r#"{{"id":"evt_{n}","type":"type.number{n}"}}"#))).await;
    }
    let text = relay.metrics().await;
    assert!(!text.lines().any(|line| line.starts_with("forged_metric")));
    let types: BTreeSet<_> = text.lines().filter_map(|line| line.split("event_type=\"").nth(1)?.split('"').next()).collect();
    assert!(types.len() <= 1001, "{} types", types.len());
    let total = relay.metric("webhook_received_total", &["status=\"success\""]).await;
    assert_eq!(total, 1201.0, "what is beyond the cap is counted all the same");
}

#[tokio::test]
async fn what_ends_without_being_sent_on_its_own_is_counted_by_how_and_why() {
    let (crm, ops, late) = (Receiver::ok().await, Receiver::ok().await, Receiver::ok().await);
    let file = routes()
        .interactor()
        .webhook("crm", &crm)
        .webhook_with("late", &late, "ttl: 1h")
        .destination("ops", &format!("kind: slack, url: \"http://{}/services/x\"", ops.addr))
        .rule("name: once, match: {type: credential.expired}, to: [crm], throttle: {key: $.data.credential_id, per: 24h}")
        .rule("name: list, match: {type: credential.expired}, to: [ops], digest: {key: $.namespace, window: 10m}")
        .rule(
            "name: wait, match: {type: credential.expired}, to: [late], \
            cancel_on: {type: [credential.refreshed], key: $.data.credential_id}",
        );
    let app = spawn_app(file).await;
    app.tells("late", "pause").await;
    app.takes_many(3).await;
    let refreshed = serde_json::json!({"credential_id": "cred_abc", "namespace": "user_123"});
    app.takes_of("evt_r", "credential.refreshed", refreshed).await;
    app.counts("state=cancelled", 3).await;
    app.takes("evt_4").await;
    app.counts("target=crm&state=suppressed", 3).await;
    until("all to be gathered", SOON, async || {
        app.rows("target=ops").await.iter().all(|row| app.due_in(row) == 600.0).then_some(())
    })
    .await;
    app.clock.advance(crate::support::minutes(61));
    app.counts("state=expired", 1).await;
    app.counts("state=digested", 3).await;
    let wanted = [
        ("crm", "suppressed", "throttle", 3.0),
        ("ops", "digested", "", 3.0),
        ("late", "cancelled", "cancel_on", 3.0),
        ("late", "expired", "", 1.0),
    ];
    for (target, state, cause, count) in wanted {
        let labels = [format!("target=\"{target}\""), format!("state=\"{state}\""), format!("cause=\"{cause}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        until(&format!("{count} {state}"), SOON, async || {
            (app.metric("hookyard_unsent_total", &labels).await == count).then_some(())
        })
        .await;
    }
}
