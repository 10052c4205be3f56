//! What a target receives: product.md, "Outbound contracts"; signatures checked by independent implementations.

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::{
    Received, Receiver, Relay, Reply, referee, routes,
    routes::{FAST, OUT},
    signed::{event, hex_mac, interactor, mac, standard, trigger},
    unix_now,
};

const PREVIOUS: &str = "whsec_cHJldmlvdXNwcmV2aW91c3ByZXZpb3Vz";

/// A relay with one destination `crm`, and what it sent for one event.
async fn deliver(fields: &str) -> (Received, Relay) {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, fields)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    (crm.first().await, relay)
}

#[tokio::test]
async fn every_delivery_carries_its_headers() {
    let (request, relay) = deliver(FAST).await;
    assert!(request.line.starts_with("POST /hook HTTP/1.1"), "{}", request.line);
    assert_eq!(request.header("user-agent"), format!("hookyard/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(request.header("x-hookyard-attempt"), "1");
    assert_eq!(request.header("idempotency-key"), request.header("x-hookyard-delivery"));
    let rows = relay.settled("", 1).await;
    assert_eq!(rows[0]["id"], request.header("idempotency-key"));
    for name in [
        "user-agent",
        "content-type",
        "idempotency-key",
        "x-hookyard-delivery",
        "x-hookyard-attempt",
        "traceparent",
        "content-length",
        "host",
    ] {
        assert_eq!(request.count(name), 1, "{name}");
    }
    assert_eq!(request.count("x-hookyard-replayed"), 0);
}

#[tokio::test]
async fn attempts_count_and_the_delivery_stays_the_same() {
    let crm = Receiver::start([503, 500, 200]).await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let seen = crm.wait_for(3).await;
    let numbers: Vec<_> = seen.iter().map(|request| request.header("x-hookyard-attempt")).collect();
    assert_eq!(numbers, ["1", "2", "3"]);
    assert_eq!(
        (crm.distinct("idempotency-key").len(), crm.distinct("x-hookyard-delivery").len(), crm.distinct("webhook-id").len()),
        (1, 1, 1)
    );
    assert!(seen.iter().all(|request| request.body == seen[0].body), "the same bytes on every attempt");
    relay.settled("state=delivered", 1).await;
}

#[tokio::test]
async fn two_independent_libraries_accept_the_standard_signature_of_every_secret() {
    let crm = Receiver::start([500, 200]).await;
    let signing = format!("signing: {{schemes: [standard], secrets: [\"{OUT}\", \"{PREVIOUS}\"]}}, {FAST}");
    let relay = Relay::start(&routes().seeds().webhook_with("crm", &crm, &signing)).await;
    for request in crate::support::seeds::signed() {
        relay.accepts(&request).await;
    }
    let seen = crm.wait_for(15).await;
    for script in ["standard.py", "standard.cjs"] {
        for secret in [OUT, PREVIOUS] {
            let verdicts = referee::judge(script, seen.iter().map(|request| referee::request(request, secret)).collect()).await;
            assert!(verdicts.iter().all(Value::is_null), "{script}: {verdicts:?}");
        }
        let mut forged = seen[0].clone();
        forged.body.push(b' ');
        let stranger = referee::request(&seen[0], "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
        let verdicts = referee::judge(script, vec![referee::request(&forged, OUT), stranger]).await;
        assert!(verdicts.iter().all(Value::is_string), "{script} accepts what it must not: {verdicts:?}");
    }
}

#[tokio::test]
async fn the_webhook_id_is_the_events_or_a_hash() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().standard().webhook("crm", &crm)).await;
    for id in ["evt_1:a-B", "a.b", "with space"] {
        relay.accepts(&standard(id, r#"{"type":"t"}"#)).await;
    }
    for request in crm.wait_for(3).await {
        let (id, webhook_id) = (request.json()["id"].as_str().unwrap().to_owned(), request.header("webhook-id").to_owned());
        let expected = if id == "evt_1:a-B" {
            id.clone()
        } else {
            let digest = ring::digest::digest(&ring::digest::SHA256, format!("standard\0{id}").as_bytes());
            let hex = data_encoding::HEXLOWER.encode(digest.as_ref());
            assert!(webhook_id.starts_with("evt_") && webhook_id.len() == 36, "{webhook_id}");
            format!("evt_{}", &hex[..32])
        };
        assert_eq!(webhook_id, expected, "{id}");
    }
}

#[tokio::test]
async fn schemes_sign_side_by_side() {
    let custom = "header: X-Sig, prefix: \"v0=\", encoding: base64, content: timestamp.body, timestamp_header: X-Sig-Time";
    let fields =
        format!("signing: {{schemes: [standard, interactor, agent, honeyframe, custom], secrets: [\"{OUT}\"], {custom}}}");
    let (request, _relay) = deliver(&fields).await;
    let hex = hex_mac(OUT, &[&request.body]);
    assert_eq!(request.header("x-interactor-signature"), format!("sha256={hex}"));
    assert_eq!(request.header("x-webhook-signature"), hex);
    assert_eq!(request.header("x-honeyframe-signature"), format!("sha256={hex}"));
    let at = request.header("x-interactor-timestamp");
    let time: jiff::Timestamp = at.parse().unwrap();
    assert!(at.len() == 20 && at.ends_with('Z') && (unix_now() - time.as_second()).abs() < 60, "{at}");
    let at = request.header("x-sig-time");
    let tag = mac(OUT.as_bytes(), &[at.as_bytes(), b".", &request.body]);
    assert_eq!(request.header("x-sig"), format!("v0={}", BASE64.encode(&tag)));
    assert!(request.header("webhook-signature").starts_with("v1,"));
}

#[tokio::test]
async fn a_refused_signature_is_tried_with_the_previous_secret_within_the_attempt() {
    let crm = Receiver::answering(|request, _| {
        let good = format!("sha256={}", hex_mac("previous-secret", &[&request.body]));
        if request.header("x-interactor-signature") == good { 200.into() } else { 401.into() }
    })
    .await;
    let fields = format!("signing: {{schemes: [interactor], secrets: [current-secret, previous-secret]}}, {FAST}");
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, &fields)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let rows = relay.settled("", 1).await;
    assert_eq!((&rows[0]["state"], &rows[0]["attempts"]), (&json!("delivered"), &json!(1)));
    let numbers: Vec<_> = crm.seen().iter().map(|request| request.header("x-hookyard-attempt").to_owned()).collect();
    assert_eq!(numbers, ["1", "1"], "both within the first attempt");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Receiver::ok().await;
    let to = elsewhere.url();
    for status in [301, 302, 303, 307, 308] {
        let to = to.clone();
        let crm = Receiver::answering(move |_, _| Reply::with(status, "location", &to)).await;
        let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
        relay.accepts(&interactor(event("evt_1"))).await;
        let rows = relay.settled("", 1).await;
        assert_eq!(
            (&rows[0]["state"], &rows[0]["cause"], &rows[0]["attempts"]),
            (&json!("dead"), &json!("config"), &json!(1)),
            "{status}"
        );
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn custom_headers_add_and_never_override() {
    let headers = "headers: {X-Team: billing, User-Agent: mine, Idempotency-Key: mine, X-Hookyard-Attempt: \"9\", Webhook-Signature: mine, traceparent: mine}";
    let crm = Receiver::ok().await;
    let routes = routes().interactor().webhook_with("crm", &crm, headers);
    let home = crate::support::Home::new();
    home.write("routes.yaml", &routes.text());
    if home.run(&["check"]).await.status.success() {
        let relay = Relay::start(&routes).await;
        relay.accepts(&interactor(event("evt_1"))).await;
        let request = crm.first().await;
        assert_eq!(request.header("x-team"), "billing");
        for name in ["user-agent", "idempotency-key", "x-hookyard-attempt", "webhook-signature", "traceparent"] {
            assert_eq!((request.count(name), request.header(name).contains("mine")), (1, false), "{name}");
        }
    }
    let (request, _relay) = deliver("headers: {X-Team: billing, X-Other: \"2\"}").await;
    assert_eq!((request.header("x-team"), request.header("x-other")), ("billing", "2"));
}

#[tokio::test]
async fn without_signing_nothing_is_signed() {
    let crm = Receiver::ok().await;
    let fields = format!("kind: webhook, url: \"{}\"", crm.url());
    let relay = Relay::start(&routes().interactor().destination("crm", &fields)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let request = crm.first().await;
    assert!(request.headers.iter().all(|(name, _)| !name.to_lowercase().contains("signature")), "{:?}", request.headers);
}

#[tokio::test]
async fn n8n_gets_message_and_metadata() {
    let (envelope, data) =
        (Receiver::start([Reply::Full(200, vec![], r#"{"message":"Workflow was started"}"#.into())]).await, Receiver::ok().await);
    let auth = "auth: {header: {name: X-N8N-Key, value: n8n-key-1}}";
    let routes = routes()
        .interactor()
        .destination("flow", &format!("kind: n8n, url: \"{}\", {FAST}", envelope.url()))
        .destination("slim", &format!("kind: n8n, url: \"{}\", metadata: data, {auth}, {FAST}", data.url()));
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let full = envelope.first().await;
    let keys: Vec<_> = full.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!((keys, full.header("content-type")), (vec!["message".to_owned(), "metadata".to_owned()], "application/json"));
    assert!(full.json()["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!((&full.json()["metadata"]["id"], &full.json()["metadata"]["specversion"]), (&json!("evt_1"), &json!("1.0")));
    let slim = data.first().await;
    assert_eq!(slim.json()["metadata"], json!({"credential_id": "cred_abc", "namespace": "user_123"}));
    assert_eq!(slim.header("x-n8n-key"), "n8n-key-1");
    let rows = relay.settled("target=flow", 1).await;
    let story = relay.data(&format!("/api/v1/deliveries/{}", rows[0]["id"].as_str().unwrap())).await;
    assert!(story.to_string().contains("Workflow was started"), "n8n's answer is kept in the attempt: {story}");
}

#[tokio::test]
async fn n8ns_404_is_transient() {
    let flow = Receiver::start([404, 200]).await;
    let relay =
        Relay::start(&routes().interactor().destination("flow", &format!("kind: n8n, url: \"{}\", {FAST}", flow.url()))).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    relay.settled("state=delivered", 1).await;
    assert_eq!(flow.count(), 2);
}

#[tokio::test]
async fn templates_shape_the_body() {
    let (crm, flow) = (Receiver::ok().await, Receiver::ok().await);
    let routes = routes()
        .interactor()
        .webhook_with("crm", &crm, "payload: template, template: line")
        .destination("flow", &format!("kind: n8n, url: \"{}\", template: line", flow.url()))
        .section("templates:\n  line: \"{{ event.type }} of {{ event.data.credential_id }} ({{ event.namespace }})\"");
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    assert_eq!(crm.first().await.text(), "credential.expired of cred_abc (user_123)");
    assert_eq!(flow.first().await.json()["message"], "credential.expired of cred_abc (user_123)");
}

#[tokio::test]
async fn a_template_that_fails_falls_back_says_so_and_is_counted() {
    let flow = Receiver::ok().await;
    let routes = routes()
        .interactor()
        .destination("flow", &format!("kind: n8n, url: \"{}\", template: broken", flow.url()))
        .section("templates:\n  broken: \"{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}\"");
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let message = flow.first().await.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("template") && message.len() < 2000, "says so: {message}");
    assert_eq!(relay.metric("hookyard_template_failures_total", &["target=\"flow\""]).await, 1.0);
}

#[tokio::test]
async fn text_from_events_forges_no_header() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().trigger().webhook("crm", &crm)).await;
    let body = r#"{"connector":"gmail","message":{"id":"a\r\nX-Forged: 1","thread_id":"t\r\n\r\n{}"},"account":"n\u0000"}"#;
    relay.send(&trigger(body)).await;
    let request = crm.first().await;
    assert_eq!(request.count("x-forged"), 0);
    assert_eq!(request.json()["data"]["connector"], "gmail");
}

#[tokio::test]
async fn a_certificate_is_checked_unless_the_file_says_otherwise() {
    let server = referee::Server::start("tls.py", "UNUSED", "").await;
    let ca = crate::support::seeds::tests_folder().join("fixtures/tls/ca.pem");
    let fields = |name: &str, tls: &str| {
        format!(
            "kind: webhook, url: \"https://127.0.0.1:{}/{name}\", signing: {{secrets: [\"{OUT}\"]}}, {FAST}{tls}",
            server.port
        )
    };
    let routes = routes()
        .interactor()
        .destination("strict", &fields("strict", ""))
        .destination("trusted", &fields("trusted", &format!(", tls: {{ca_file: \"{}\"}}", ca.display())))
        .destination("blind", &fields("blind", ", tls: {verify: false}"));
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let state = |rows: &[Value], target: &str| rows.iter().find(|row| row["target"] == target).unwrap()["state"].clone();
    let rows = relay.settled("", 3).await;
    assert_eq!(
        (state(&rows, "strict"), state(&rows, "trusted"), state(&rows, "blind")),
        (json!("dead"), json!("delivered"), json!("delivered"))
    );
    let strict = rows.iter().find(|row| row["target"] == "strict").unwrap();
    assert_eq!((&strict["error"], &strict["attempts"]), (&json!("tls"), &json!(3)), "transient: {strict}");
    assert!(!server.printed().contains("/strict"), "nothing was sent to whom nobody knows");
}
