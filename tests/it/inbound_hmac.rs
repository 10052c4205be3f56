//! Source kind `hmac` and its presets: product.md, "Inbound contracts".

use data_encoding::BASE64;
use serde_json::json;

use crate::support::{
    Receiver, Relay, Request, Routes, routes,
    signed::{HMAC, hash_id, hex_mac, mac, prefixed, stripe},
    unix_now,
};

const BODY: &str = r#"{"id":"rep_1","type":"recipe.run.failed","timestamp":"2026-01-20T12:00:00Z","run":7}"#;

fn source(fields: &str) -> Routes {
    routes().source("reports", &format!("kind: hmac, path: /webhooks/reports, secrets: [\"{HMAC}\"], {fields}"))
}

#[tokio::test]
async fn honeyframe_signs_the_body() {
    let crm = Receiver::ok().await;
    let relay =
        Relay::start(&source("preset: honeyframe, map: {id: $.id, type: $.type, time: $.timestamp}").webhook("crm", &crm)).await;
    let good = || prefixed("X-Honeyframe-Signature", BODY);
    relay.send(&good().without("X-Honeyframe-Signature")).await.refused(401, "invalid_signature");
    relay.send(&good().with_body(format!("{BODY} "))).await.refused(401, "invalid_signature");
    assert_eq!(relay.accepts(&good()).await, "rep_1");
    let request = crm.first().await;
    let envelope = request.json();
    assert_eq!(
        (&envelope["type"], &envelope["time"], &envelope["sourcekind"]),
        (&json!("recipe.run.failed"), &json!("2026-01-20T12:00:00Z"), &json!("hmac"))
    );
    assert!(request.text().ends_with(&format!("\"data\":{BODY}}}")), "the whole body is the data");
}

#[tokio::test]
async fn github_names_its_delivery_in_a_header() {
    let relay = Relay::start(&source("preset: github, map: {id: \"header:X-GitHub-Delivery\", type: push}")).await;
    let good = prefixed("X-Hub-Signature-256", BODY).header("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958");
    assert_eq!(relay.accepts(&good).await, "72d3162e-cc78-11e3-81ab-4c9367dc0958");
    let nameless = prefixed("X-Hub-Signature-256", r#"{"zen":1}"#);
    assert_eq!(relay.accepts(&nameless).await, hash_id(br#"{"zen":1}"#));
    relay.send(&prefixed("X-Hub-Signature", BODY)).await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn githubs_own_example_verifies() {
    // GitHub's "Validating webhook deliveries", "Testing the webhook payload validation".
    let fields =
        "kind: hmac, preset: github, path: /webhooks/reports, secrets: [\"It's a Secret to Everybody\"], map: {type: ping}";
    let relay = Relay::start(&routes().source("reports", fields)).await;
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let request = Request::json("/webhooks/reports", "Hello, World!").header("X-Hub-Signature-256", signature);
    // The signature holds, so that what is wrong is only that this is no JSON.
    relay.send(&request).await.refused(400, "invalid_json");
}

#[tokio::test]
async fn stripe_signs_its_timestamp() {
    let relay = Relay::start(&source("preset: stripe, map: {id: $.id, type: $.type}")).await;
    relay.accepts(&stripe(BODY, unix_now())).await;
    relay.send(&stripe(BODY, unix_now() - 330)).await.refused(401, "invalid_timestamp");
    relay.send(&stripe(BODY, unix_now() + 330)).await.refused(401, "invalid_timestamp");
    relay.send(&stripe(BODY, unix_now()).without("Stripe-Signature")).await.refused(401, "invalid_timestamp");
    let hex = |at: i64| hex_mac(HMAC, &[at.to_string().as_bytes(), b".", BODY.as_bytes()]);
    let now = unix_now();
    let signed = |value: String| Request::json("/webhooks/reports", BODY).header("Stripe-Signature", value);
    relay.send(&signed(format!("t={now},v1={}", hex(now - 1)))).await.refused(401, "invalid_signature");
    relay.send(&signed(format!("t={now}"))).await.refused(401, "invalid_signature");
    relay.send(&signed(format!("t={now},v0={}", hex(now)))).await.refused(401, "invalid_signature");
    let several = signed(format!("t={now},v1={},v1={},v0=00", "0".repeat(64), hex(now)));
    assert_eq!(relay.send(&several).await.json()["duplicate"], true, "any v1 item will do");
}

#[tokio::test]
async fn a_sender_of_its_own_kind_is_spelt_out() {
    let fields = "header: X-Sig, prefix: \"v0=\", encoding: base64, algorithm: sha256, content: timestamp.body, timestamp_header: X-Time, tolerance: 1m, map: {type: $.type}";
    let relay = Relay::start(&source(fields)).await;
    let at = |at: i64| {
        let tag = BASE64.encode(&mac(HMAC.as_bytes(), &[at.to_string().as_bytes(), b".", BODY.as_bytes()]));
        Request::json("/webhooks/reports", BODY).header("X-Time", at.to_string()).header("X-Sig", format!("v0={tag}"))
    };
    relay.send(&at(unix_now() - 90)).await.refused(401, "invalid_timestamp");
    relay.send(&at(unix_now()).without("X-Time")).await.refused(401, "invalid_timestamp");
    relay.send(&at(unix_now()).header("X-Time", (unix_now() - 5).to_string())).await.refused(401, "invalid_signature");
    let bare = at(unix_now()).value("X-Sig").replace("v0=", "");
    relay.send(&at(unix_now()).header("X-Sig", bare)).await.refused(401, "invalid_signature");
    assert_eq!(relay.accepts(&at(unix_now())).await, hash_id(BODY.as_bytes()));
}

#[tokio::test]
async fn other_algorithms_are_spoken() {
    for (name, algorithm) in [("sha512", ring::hmac::HMAC_SHA512), ("sha1", ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY)] {
        let relay =
            Relay::start(&source(&format!("header: X-Sig, encoding: hex, algorithm: {name}, content: body, map: {{type: t}}")))
                .await;
        let tag = ring::hmac::sign(&ring::hmac::Key::new(algorithm, HMAC.as_bytes()), BODY.as_bytes());
        let hex = data_encoding::HEXLOWER.encode(tag.as_ref());
        relay.accepts(&Request::json("/webhooks/reports", BODY).header("X-Sig", hex)).await;
        relay
            .send(&Request::json("/webhooks/reports", BODY).header("X-Sig", hex_mac(HMAC, &[BODY.as_bytes()])))
            .await
            .refused(401, "invalid_signature");
    }
}

#[tokio::test]
async fn previous_secrets_verify_too() {
    let fields =
        format!("kind: hmac, preset: honeyframe, path: /webhooks/reports, secrets: [fresh-secret, \"{HMAC}\"], map: {{type: t}}");
    let relay = Relay::start(&routes().source("reports", &fields)).await;
    relay.accepts(&prefixed("X-Honeyframe-Signature", BODY)).await;
}
