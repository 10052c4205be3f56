//! Source kind `trigger`: product.md, "Inbound contracts", and the seed's "Trigger Forwarding".

use serde_json::json;

use crate::support::{
    Receiver, Relay, Request, Routes, routes,
    seeds::bodies,
    signed::{FORWARDING, hash_id, trigger},
};

const PLAIN: &str = r#"{"anything":1}"#;

fn source(fields: &str) -> Routes {
    routes().source("connectors", &format!("kind: trigger, path: /triggers/connectors, {fields}"))
}

#[tokio::test]
async fn the_seeds_trigger_takes_the_case_that_fits() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().trigger().webhook("crm", &crm)).await;
    let body = bodies("trigger").remove(0);
    assert_eq!(relay.accepts(&trigger(&body)).await, "msg_18d2f0");
    let request = crm.first().await;
    let envelope = request.json();
    assert_eq!(envelope["type"], "connector.gmail.email_sent");
    assert_eq!((&envelope["namespace"], &envelope["subject"]), (&json!("user_123"), &json!("thr_77")));
    assert_eq!((&envelope["time"], &envelope["sourcekind"]), (&json!("2026-01-20T12:00:00Z"), &json!("trigger")));
    assert!(request.text().ends_with(&format!("\"data\":{}}}", String::from_utf8(body).unwrap())), "the whole body is the data");
}

#[tokio::test]
async fn what_no_case_takes_is_unmapped() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().trigger().webhook("crm", &crm)).await;
    assert_eq!(relay.accepts(&trigger(PLAIN)).await, hash_id(PLAIN.as_bytes()));
    let envelope = crm.first().await.json();
    assert_eq!((&envelope["type"], &envelope["data"]), (&json!("trigger.unmapped"), &json!({"anything": 1})));
}

#[tokio::test]
async fn the_first_case_that_fits_wins() {
    let cases =
        "cases: [{when: [{path: $.n, gt: 10}], map: {type: big}}, {when: [{path: $.n, exists: true}], map: {type: small}}]";
    let crm = Receiver::ok().await;
    let relay = Relay::start(&source(&format!("header: {{name: X-Key, value: k1}}, {cases}")).webhook("crm", &crm)).await;
    for n in [50, 5] {
        relay.accepts(&Request::json("/triggers/connectors", format!("{{\"n\":{n}}}")).header("X-Key", "k1")).await;
    }
    let types: Vec<_> = crm
        .wait_for(2)
        .await
        .iter()
        .map(|request| (request.json()["data"]["n"].clone(), request.json()["type"].clone()))
        .collect();
    assert!(types.contains(&(json!(50), json!("big"))) && types.contains(&(json!(5), json!("small"))), "{types:?}");
}

#[tokio::test]
async fn the_header_is_exact() {
    let relay = Relay::start(&routes().trigger()).await;
    relay.send(&trigger(PLAIN).without("X-Forwarding-Key")).await.refused(401, "invalid_header");
    let longer = format!("{FORWARDING}x");
    for bad in ["", "wrong", &longer, &FORWARDING[1..], &FORWARDING.to_uppercase()] {
        relay.send(&trigger(PLAIN).header("X-Forwarding-Key", bad)).await.refused(401, "invalid_header");
    }
    relay.accepts(&trigger(PLAIN)).await;
}

#[tokio::test]
async fn any_of_its_values_will_do_and_an_empty_one_never() {
    let relay = Relay::start(&source("header: {name: X-Key, values: [k1, k2, \"\"]}, map: {type: t}")).await;
    let with = |key: &str, n: u8| Request::json("/triggers/connectors", format!("{{\"n\":{n}}}")).header("X-Key", key);
    relay.accepts(&with("k1", 1)).await;
    relay.accepts(&with("k2", 2)).await;
    relay.send(&with("", 3)).await.refused(401, "invalid_header");
}

#[tokio::test]
async fn a_secret_path_is_all_or_nothing() {
    let relay = Relay::start(&source("path_secret: s3cr3t-seg, map: {type: t}")).await;
    let to = |path: &str| Request::json(path, PLAIN);
    for bad in ["", "/", "/wrong", "/s3cr3t-seg/more", "/S3CR3T-SEG", "/s3cr3t-se"] {
        relay.send(&to(&format!("/triggers/connectors{bad}"))).await.refused(404, "not_found");
    }
    relay.accepts(&to("/triggers/connectors/s3cr3t-seg")).await;
}

#[tokio::test]
async fn header_and_path_secret_are_both_asked_for() {
    let relay = Relay::start(&source("header: {name: X-Key, value: k1}, path_secret: seg-1, map: {type: t}")).await;
    let to = |path: &str| Request::json(path, PLAIN);
    relay.send(&to("/triggers/connectors/seg-1")).await.refused(401, "invalid_header");
    relay.send(&to("/triggers/connectors/other").header("X-Key", "k1")).await.refused(404, "not_found");
    relay.accepts(&to("/triggers/connectors/seg-1").header("X-Key", "k1")).await;
}

#[tokio::test]
async fn without_proof_only_when_it_says_so() {
    let relay = Relay::start(&source("allow_unauthenticated: true, map: {type: t}")).await;
    relay.accepts(&Request::json("/triggers/connectors", PLAIN)).await;
    let home = crate::support::Home::new();
    home.write("routes.yaml", &source("map: {type: t}").text());
    let output = home.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(1), "neither proof nor allow_unauthenticated");
}

#[tokio::test]
async fn ids_are_text_or_numbers_else_the_hash() {
    let relay = Relay::start(&source("allow_unauthenticated: true, map: {type: t, id: $.id}")).await;
    let send = |body: &str| Request::json("/triggers/connectors", body);
    assert_eq!(relay.accepts(&send(r#"{"id":"a1"}"#)).await, "a1");
    assert_eq!(relay.accepts(&send(r#"{"id":42}"#)).await, "42");
    for body in [r#"{"id":null}"#, r#"{"id":[1]}"#, r#"{"id":{"a":1}}"#, r#"{"id":true}"#, r#"{"id":""}"#, r#"{"other":1}"#] {
        let known = relay.send(&send(body)).await.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(known, hash_id(body.as_bytes()), "{body}");
    }
}

#[tokio::test]
async fn types_come_from_a_path_too() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&source("allow_unauthenticated: true, map: {type: $.kind}").webhook("crm", &crm)).await;
    relay.accepts(&Request::json("/triggers/connectors", r#"{"kind":"order.paid"}"#)).await;
    assert_eq!(crm.first().await.json()["type"], "order.paid");
}

#[tokio::test]
async fn bad_json_is_refused_after_the_proof() {
    let relay = Relay::start(&routes().trigger()).await;
    relay.send(&trigger("{")).await.refused(400, "invalid_json");
    relay.send(&trigger("{").without("X-Forwarding-Key")).await.refused(401, "invalid_header");
    for body in ["[1]", "\"text\"", "7", "null"] {
        relay.send(&trigger(body)).await.refused(400, "invalid_event");
    }
}
