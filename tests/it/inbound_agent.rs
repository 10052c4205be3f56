//! Source kind `agent`: product.md, "Inbound contracts", and the agent platform's "Signature Verification".

use serde_json::json;

use crate::support::{
    Receiver, Relay, Request, iso, routes,
    seeds::bodies,
    signed::{AGENT, agent, hash_id, hex_mac},
};

const MESSAGE: &str =
    r#"{"event":"agent.message","timestamp":"2024-01-15T11:45:00.000000Z","data":{"room":"room-1","content":"hi"}}"#;

#[tokio::test]
async fn the_seeds_events_are_taken_by_their_hash() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().agent().webhook("crm", &crm)).await;
    for body in bodies("agent") {
        assert_eq!(relay.accepts(&agent(&body)).await, hash_id(&body));
    }
    for request in crm.wait_for(3).await {
        let envelope = request.json();
        assert_eq!(envelope["subject"], "room-hashid", "room as text or room.id: {envelope}");
        assert_eq!((&envelope["sourcekind"], &envelope["timestamp"]), (&json!("agent"), &json!("2024-01-15T11:45:00.000000Z")));
        assert!(envelope["time"].as_str().unwrap().starts_with("2024-01-15T11:45:00"));
        assert!(envelope.get("namespace").is_none(), "agents have none");
    }
}

#[tokio::test]
async fn the_signature_is_64_hex_with_or_without_prefix() {
    let relay = Relay::start(&routes().agent()).await;
    let hex = hex_mac(AGENT, &[MESSAGE.as_bytes()]);
    relay.send(&agent(MESSAGE).without("X-Webhook-Signature")).await.refused(401, "invalid_signature");
    for bad in
        ["", "sha256=", &hex[..62], &format!("{hex}00"), &format!("sha1={hex}"), &"0".repeat(64), &format!("sha256=sha256={hex}")]
    {
        relay.send(&agent(MESSAGE).header("X-Webhook-Signature", bad)).await.refused(401, "invalid_signature");
    }
    relay.accepts(&agent(MESSAGE)).await;
    let prefixed = agent(MESSAGE).header("X-Webhook-Signature", format!("sha256={hex}"));
    assert_eq!(relay.send(&prefixed).await.json()["duplicate"], true);
}

#[tokio::test]
async fn any_secret_verifies() {
    let fields = format!("kind: agent, path: /webhooks/agent, secrets: [brand-new, \"{AGENT}\"]");
    let relay = Relay::start(&routes().source("agents", &fields)).await;
    relay.accepts(&agent(MESSAGE)).await;
    let body = MESSAGE.replace("hi", "ho");
    relay
        .accepts(
            &Request::json("/webhooks/agent", body.clone())
                .header("X-Webhook-Signature", hex_mac("brand-new", &[body.as_bytes()])),
        )
        .await;
}

#[tokio::test]
async fn with_a_tolerance_the_bodys_timestamp_is_held_to_it() {
    let fields = format!("kind: agent, path: /webhooks/agent, tolerance: 5m, secrets: [\"{AGENT}\"]");
    let relay = Relay::start(&routes().source("agents", &fields)).await;
    relay.send(&agent(MESSAGE)).await.refused(401, "invalid_timestamp");
    relay.send(&agent(r#"{"event":"agent.message","data":{}}"#)).await.refused(401, "invalid_timestamp");
    relay.accepts(&agent(format!(r#"{{"event":"agent.message","timestamp":"{}","data":{{}}}}"#, iso(-60)))).await;
}

#[tokio::test]
async fn bad_shapes_are_refused_and_missing_data_is_not() {
    let relay = Relay::start(&routes().agent()).await;
    relay.send(&agent("{")).await.refused(400, "invalid_json");
    for body in ["[]", "{}", r#"{"event":""}"#, r#"{"event":1}"#, r#"{"type":"agent.message"}"#] {
        relay.send(&agent(body)).await.refused(400, "invalid_event");
    }
    relay.accepts(&agent(r#"{"event":"agent.unheard_of"}"#)).await;
}
