//! Source kind `interactor`, both dialects: product.md, "Inbound contracts", and the seed's "Verifying Webhook Signatures".

use serde_json::json;

use crate::support::{
    Receiver, Relay, Request, Routes, iso, routes,
    signed::{self, INTERACTOR, event, hex_mac, interactor, interactor_by, timestamped},
    unix_now,
};

fn plain() -> Routes {
    routes().interactor()
}

fn dialect() -> Routes {
    let fields = "kind: interactor, dialect: timestamped, path: /webhooks/interactor";
    routes().source("interactor", &format!("{fields}, secrets: [\"{INTERACTOR}\"]"))
}

#[tokio::test]
async fn a_signed_event_is_received_under_its_own_id() {
    let relay = Relay::start(&plain()).await;
    let answer = relay.send(&interactor(event("evt_1"))).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"received": true, "id": "evt_1"})));
    assert!(answer.header("content-type").starts_with("application/json"));
}

#[tokio::test]
async fn what_the_envelope_holds_comes_from_the_body() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&plain().webhook("crm", &crm)).await;
    for body in crate::support::seeds::bodies("interactor") {
        relay.accepts(&interactor(&body)).await;
    }
    let seen = crm.wait_for(10).await;
    for request in &seen {
        let envelope = request.json();
        let data = &envelope["data"];
        let subject = ["credential_id", "instance_id", "room_id"].iter().find_map(|key| data[*key].as_str());
        assert_eq!(envelope["subject"].as_str(), subject, "{envelope}");
        assert_eq!(envelope["namespace"], "user_123");
        assert_eq!(envelope["sourcekind"], "interactor");
        assert_eq!(envelope["source"], "/sources/interactor");
        assert_eq!((&envelope["time"], &envelope["timestamp"]), (&json!("2026-01-20T12:00:00Z"), &json!("2026-01-20T12:00:00Z")));
    }
}

#[tokio::test]
async fn the_timestamp_is_checked_first() {
    let relay = Relay::start(&plain()).await;
    let good = || interactor(event("evt_2"));
    let unsigned = || good().header("X-Interactor-Signature", "sha256=00");
    relay.send(&unsigned().without("X-Interactor-Timestamp")).await.refused(401, "invalid_timestamp");
    for bad in ["", "yesterday", "1768910400", "2026-13-45T12:00:00Z", "2026-01-20", &"9".repeat(4000)] {
        relay.send(&unsigned().header("X-Interactor-Timestamp", bad)).await.refused(401, "invalid_timestamp");
    }
    for offset in [-330, 330, -86_400, 86_400] {
        relay.send(&good().header("X-Interactor-Timestamp", iso(offset))).await.refused(401, "invalid_timestamp");
    }
    relay.send(&unsigned()).await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn any_time_within_five_minutes_and_any_offset_will_do() {
    let relay = Relay::start(&plain()).await;
    let shifted = |hours: i64| iso(hours * 3600).replace('Z', if hours < 0 { "-05:00" } else { "+02:00" });
    let times = [iso(-270), iso(270), iso(0).replace('Z', ".123Z"), iso(0).replace('Z', ".123456Z"), shifted(2), shifted(-5)];
    for (n, time) in times.iter().enumerate() {
        let request = interactor(event(&format!("evt_t{n}"))).header("X-Interactor-Timestamp", time.clone());
        let answer = relay.send(&request).await;
        assert_eq!(answer.status, 200, "{time}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_tolerance_is_the_sources() {
    let fields = format!("kind: interactor, path: /webhooks/interactor, tolerance: 30s, secrets: [\"{INTERACTOR}\"]");
    let relay = Relay::start(&routes().source("interactor", &fields)).await;
    relay.send(&interactor(event("evt_a")).header("X-Interactor-Timestamp", iso(-60))).await.refused(401, "invalid_timestamp");
    relay.accepts(&interactor(event("evt_b")).header("X-Interactor-Timestamp", iso(-5))).await;
}

#[tokio::test]
async fn the_signature_is_exact() {
    let relay = Relay::start(&plain()).await;
    let body = event("evt_3");
    let hex = hex_mac(INTERACTOR, &[body.as_bytes()]);
    let good = || interactor(&body);
    relay.send(&good().without("X-Interactor-Signature")).await.refused(401, "invalid_signature");
    let bad = [
        hex.clone(),
        format!("sha256={}", hex.to_uppercase()),
        format!("SHA256={hex}"),
        format!("sha256={}", &hex[..63]),
        format!("sha256={hex}0"),
        format!("sha256= {hex}"),
        format!("sha256={hex},sha256={hex}"),
        format!("sha256={}", "0".repeat(64)),
        format!("sha1={hex}"),
        String::new(),
    ];
    for signature in bad {
        relay.send(&good().header("X-Interactor-Signature", signature)).await.refused(401, "invalid_signature");
    }
    let wrong = interactor_by("whsec_somebody_elses", &body);
    relay.send(&wrong).await.refused(401, "invalid_signature");
    relay.send(&good().with_body(body.replace("cred_abc", "cred_abd"))).await.refused(401, "invalid_signature");
    relay.send(&good().with_body(format!("{body}\n"))).await.refused(401, "invalid_signature");
    relay.accepts(&good()).await;
}

#[tokio::test]
async fn the_secret_is_its_literal_bytes() {
    let relay = Relay::start(&plain()).await;
    let without_prefix = INTERACTOR.strip_prefix("whsec_").unwrap();
    relay.send(&interactor_by(without_prefix, event("evt_4"))).await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn every_listed_secret_verifies_and_empty_ones_never() {
    let secrets = "secrets: [\"whsec_new\", \"whsec_old\", \"\"]";
    let relay =
        Relay::start(&routes().source("interactor", &format!("kind: interactor, path: /webhooks/interactor, {secrets}"))).await;
    relay.accepts(&interactor_by("whsec_new", event("evt_5"))).await;
    relay.accepts(&interactor_by("whsec_old", event("evt_6"))).await;
    relay.send(&interactor_by("", event("evt_7"))).await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn the_raw_bytes_are_what_is_verified() {
    let relay = Relay::start(&plain()).await;
    let bodies = [
        "{ \"id\" : \"evt_8\" ,\r\n\t\"type\":\"x.y\", \"data\": { } }\n",
        "{\"id\":\"evt_9\",\"type\":\"x.y\",\"data\":{\"n\":1.50,\"big\":123456789012345678901234567890,\"s\":\"\\u00e9\\ud83d\\ude00é\"}}",
        "{\"data\":{},\"type\":\"x.y\",\"id\":\"evt_10\"}",
    ];
    for body in bodies {
        relay.accepts(&interactor(body)).await;
    }
}

#[tokio::test]
async fn bad_json_and_bad_shapes_are_told_apart() {
    let relay = Relay::start(&plain()).await;
    let deep = format!(r#"{{"id":"e","type":"t","data":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let not_json: [&[u8]; 8] =
        [b"", b"{", b"{\"id\":\"evt_1\",}", b"nonsense", b"{} {}", b"{\"id\":\"\xff\"}", b"{'id':'a'}", deep.as_bytes()];
    for body in not_json {
        let answer = relay.send(&interactor(body)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (400, "invalid_json"),
            "{}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
    }
    let bad_shapes = [
        "[]",
        "null",
        "\"text\"",
        "1",
        "{}",
        r#"{"id":"evt_1"}"#,
        r#"{"type":"x.y"}"#,
        r#"{"id":"","type":"x.y"}"#,
        r#"{"id":"evt_1","type":""}"#,
        r#"{"id":1,"type":"x.y"}"#,
        r#"{"id":"evt_1","type":null}"#,
        r#"{"id":{"a":1},"type":"x.y"}"#,
        r#"[{"id":"evt_1","type":"x.y"}]"#,
    ];
    for body in bad_shapes {
        let answer = relay.send(&interactor(body)).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_event"), "{body}");
    }
}

#[tokio::test]
async fn unverified_bytes_are_never_parsed() {
    let relay = Relay::start(&plain()).await;
    relay.send(&interactor_by("whsec_wrong", "{")).await.refused(401, "invalid_signature");
    relay.send(&interactor_by("whsec_wrong", "{").header("content-type", "text/plain")).await.refused(401, "invalid_signature");
}

#[tokio::test]
async fn unknown_types_and_fields_and_missing_data_are_taken() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&plain().webhook("crm", &crm)).await;
    relay.accepts(&interactor(r#"{"id":"evt_u","type":"brand.new.thing","extra":{"a":1},"_odd":true}"#)).await;
    let envelope = crm.first().await.json();
    assert_eq!((&envelope["type"], &envelope["data"]), (&json!("brand.new.thing"), &json!({})));
    assert!(envelope.get("extra").is_none() && envelope.get("_odd").is_none(), "{envelope}");
    assert!(envelope.get("namespace").is_none() && envelope.get("subject").is_none(), "absent attributes are left out");
    assert_eq!((&envelope["time"], &envelope["timestamp"]), (&envelope["receivedat"], &envelope["receivedat"]));
}

#[tokio::test]
async fn an_unreadable_time_is_the_time_of_arrival() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&plain().webhook("crm", &crm)).await;
    relay.accepts(&interactor(r#"{"id":"evt_w","type":"x.y","timestamp":"soon","data":{}}"#)).await;
    let envelope = crm.first().await.json();
    assert_eq!((&envelope["time"], &envelope["timestamp"]), (&envelope["receivedat"], &envelope["receivedat"]));
}

#[tokio::test]
async fn ids_no_header_or_log_could_bear_are_replaced_by_their_hash() {
    let relay = Relay::start(&plain()).await;
    let long = "x".repeat(257);
    for id in [long.as_str(), "a\\u0000b", "a\\nb"] {
        let known = relay.accepts(&interactor(event(id))).await;
        assert!(known.starts_with("sha256:") && known.len() == 71, "{known}");
    }
    let fits = "y".repeat(256);
    assert_eq!(relay.accepts(&interactor(event(&fits))).await, fits);
}

#[tokio::test]
async fn a_map_overrides_namespace_subject_type_and_time() {
    let map = "map: {namespace: $.data.tenant, subject: $.data.what, type: mapped.type, time: $.data.when}";
    let fields = format!("kind: interactor, path: /webhooks/interactor, secrets: [\"{INTERACTOR}\"], {map}");
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().source("interactor", &fields).webhook("crm", &crm)).await;
    relay.accepts(&interactor(r#"{"id":"evt_m","type":"x.y","timestamp":"2026-01-20T12:00:00Z","data":{"tenant":"t1","what":"s1","when":"2026-01-21T13:00:00+01:00"}}"#)).await;
    let envelope = crm.first().await.json();
    assert_eq!(
        (&envelope["namespace"], &envelope["subject"], &envelope["type"]),
        (&json!("t1"), &json!("s1"), &json!("mapped.type"))
    );
    let time: jiff::Timestamp = envelope["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(time, "2026-01-21T12:00:00Z".parse().unwrap());
}

#[tokio::test]
async fn the_timestamped_dialect_is_the_guides() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&dialect().webhook("crm", &crm)).await;
    let body = r#"{"id":"evt_g","type":"credential.ready","created_at":"2026-01-20T12:00:00Z","data":{"external_user_id":"u_9","credential_id":"cred_1"}}"#;
    assert_eq!(relay.accepts(&timestamped(body, unix_now())).await, "evt_g");
    let envelope = crm.first().await.json();
    assert_eq!((&envelope["namespace"], &envelope["time"]), (&json!("u_9"), &json!("2026-01-20T12:00:00Z")));
    assert_eq!(envelope["type"], "credential.ready");
}

#[tokio::test]
async fn the_timestamped_dialect_signs_its_timestamp() {
    let relay = Relay::start(&dialect()).await;
    let body = event("evt_h");
    let good = || timestamped(&body, unix_now());
    relay.send(&good().without("X-Interactor-Timestamp")).await.refused(401, "invalid_timestamp");
    for bad in
        [iso(0), (unix_now() - 330).to_string(), (unix_now() + 330).to_string(), "99999999999999999999".into(), "-1".into()]
    {
        relay.send(&good().header("X-Interactor-Timestamp", bad)).await.refused(401, "invalid_timestamp");
    }
    relay.send(&good().header("X-Interactor-Timestamp", (unix_now() - 7).to_string())).await.refused(401, "invalid_signature");
    let prefixed = format!("sha256={}", good().value("X-Interactor-Signature"));
    relay.send(&good().header("X-Interactor-Signature", prefixed)).await.refused(401, "invalid_signature");
    relay
        .send(&interactor(&body).header("X-Interactor-Timestamp", unix_now().to_string()))
        .await
        .refused(401, "invalid_signature");
    relay.accepts(&good()).await;
}

#[tokio::test]
async fn neither_dialect_takes_the_other() {
    let seed = Relay::start(&plain()).await;
    seed.send(&timestamped(event("evt_i"), unix_now())).await.refused(401, "invalid_timestamp");
    let guide = Relay::start(&dialect()).await;
    guide.send(&interactor(event("evt_j"))).await.refused(401, "invalid_timestamp");
}

#[tokio::test]
async fn a_replay_asked_for_by_the_sender_stands_beside_its_first_self() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&plain().webhook("crm", &crm)).await;
    let first = event("evt_r");
    let replay = first.replacen('{', r#"{"_replayed":true,"#, 1);
    assert_eq!(relay.accepts(&interactor(&first)).await, "evt_r");
    assert_eq!(relay.accepts(&interactor(&replay)).await, "evt_r");
    let again = relay.send(&interactor(&replay)).await.json();
    assert_eq!(again["duplicate"], true, "deduplicated against its own bytes: {again}");
    let seen = crm.wait_for(2).await;
    let replayed: Vec<_> = seen.iter().filter(|request| request.json()["replayed"] == true).collect();
    assert_eq!(replayed.len(), 1);
    assert_eq!(replayed[0].header("X-Hookyard-Replayed"), "true");
    assert_eq!(replayed[0].json()["id"], "evt_r");
    let plain: Vec<_> = seen.iter().filter(|request| request.json().get("replayed").is_none()).collect();
    assert_eq!((plain.len(), plain[0].count("X-Hookyard-Replayed")), (1, 0));
    assert_eq!(crm.distinct("Idempotency-Key").len(), 2);
}

#[tokio::test]
async fn an_unsigned_request_is_refused_whatever_it_holds() {
    let relay = Relay::start(&plain()).await;
    relay.send(&Request::json("/webhooks/interactor", event("evt_k"))).await.refused(401, "invalid_timestamp");
    let timed = Request::json("/webhooks/interactor", event("evt_k")).header("X-Interactor-Timestamp", iso(0));
    relay.send(&timed).await.refused(401, "invalid_signature");
    let other = signed::agent(event("evt_k")).to("/webhooks/interactor").header("X-Interactor-Timestamp", iso(0));
    relay.send(&other).await.refused(401, "invalid_signature");
}
