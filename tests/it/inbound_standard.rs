//! Source kind `standard`: product.md, "Inbound contracts", and Standard Webhooks 1.0.0.

use serde_json::json;

use crate::support::{
    Receiver, Relay, Request, routes,
    signed::{STANDARD, standard, standard_at, standard_item},
    unix_now,
};

const BODY: &str = r#"{"type":"invoice.paid","timestamp":"2026-01-20T12:00:00Z","data":{"invoice":"in_1"}}"#;

#[tokio::test]
async fn the_id_is_in_the_header() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().standard().webhook("crm", &crm)).await;
    assert_eq!(relay.accepts(&standard("msg_1", BODY)).await, "msg_1");
    let envelope = crm.first().await.json();
    assert_eq!(
        (&envelope["id"], &envelope["type"], &envelope["sourcekind"]),
        (&json!("msg_1"), &json!("invoice.paid"), &json!("standard"))
    );
    assert_eq!((&envelope["time"], &envelope["data"]), (&json!("2026-01-20T12:00:00Z"), &json!({"invoice": "in_1"})));
}

#[tokio::test]
async fn svix_names_are_the_same() {
    let relay = Relay::start(&routes().standard()).await;
    let mut request = standard("msg_2", BODY);
    for (name, _) in &mut request.headers {
        *name = name.replace("webhook-", "svix-");
    }
    assert_eq!(relay.accepts(&request).await, "msg_2");
}

#[tokio::test]
async fn the_timestamp_is_held_to_five_minutes() {
    let relay = Relay::start(&routes().standard()).await;
    for at in [unix_now() - 330, unix_now() + 330, 0, 1_649_367_553] {
        relay.send(&standard_at("msg_3", at, BODY)).await.refused(401, "invalid_timestamp");
    }
    relay.send(&standard("msg_3", BODY).without("webhook-timestamp")).await.refused(401, "invalid_timestamp");
    relay.send(&standard("msg_3", BODY).header("webhook-timestamp", "soon")).await.refused(401, "invalid_timestamp");
    relay.accepts(&standard_at("msg_3", unix_now() - 270, BODY)).await;
}

#[tokio::test]
async fn any_item_that_fits_will_do() {
    let relay = Relay::start(&routes().standard()).await;
    let now = unix_now();
    let good = standard_item(STANDARD, "msg_4", now, BODY.as_bytes());
    let other = standard_item("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_4", now, BODY.as_bytes());
    let with = |items: String| standard_at("msg_4", now, BODY).header("webhook-signature", items);
    let bad = [
        String::new(),
        other.clone(),
        good.replace("v1,", "v2,"),
        good.replace("v1,", "v1a,"),
        good.replace("v1,", ""),
        format!("{good}x"),
    ];
    for items in bad {
        relay.send(&with(items)).await.refused(401, "invalid_signature");
    }
    relay.send(&with(good.clone()).without("webhook-signature")).await.refused(401, "invalid_signature");
    relay.accepts(&with(format!("v1a,abc {other} {good}"))).await;
}

#[tokio::test]
async fn the_id_is_signed_and_asked_for() {
    let relay = Relay::start(&routes().standard()).await;
    relay.send(&standard("msg_5", BODY).header("webhook-id", "msg_6")).await.refused(401, "invalid_signature");
    let nameless = relay.send(&standard("msg_5", BODY).without("webhook-id")).await;
    assert_eq!(nameless.status, 401, "{}", nameless.text());
}

#[tokio::test]
async fn previous_secrets_verify_too() {
    let secrets = format!("secrets: [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\", \"{STANDARD}\"]");
    let relay = Relay::start(&routes().source("standard", &format!("kind: standard, path: /webhooks/standard, {secrets}"))).await;
    relay.accepts(&standard("msg_7", BODY)).await;
}

#[tokio::test]
async fn a_body_without_type_needs_a_mapped_one_and_without_data_is_the_data() {
    let relay = Relay::start(&routes().standard()).await;
    relay.send(&standard("msg_8", r#"{"event":"a"}"#)).await.refused(400, "invalid_event");
    relay.send(&standard("msg_8", "[1]")).await.refused(400, "invalid_event");
    relay.send(&standard("msg_8", "{")).await.refused(400, "invalid_json");

    let crm = Receiver::ok().await;
    let fields = format!("kind: standard, path: /webhooks/standard, secrets: [\"{STANDARD}\"], map: {{type: $.event}}");
    let mapped = Relay::start(&routes().source("standard", &fields).webhook("crm", &crm)).await;
    mapped.accepts(&standard("msg_9", r#"{"event":"order.paid", "n": 1.50}"#)).await;
    let request = crm.first().await;
    assert_eq!(request.json()["type"], "order.paid");
    assert!(request.text().ends_with(r#""data":{"event":"order.paid", "n": 1.50}}"#), "{}", request.text());
}

#[tokio::test]
async fn an_unsigned_request_is_refused() {
    let relay = Relay::start(&routes().standard()).await;
    let answer = relay.send(&Request::json("/webhooks/standard", BODY)).await;
    answer.refused(401, "invalid_timestamp");
}
