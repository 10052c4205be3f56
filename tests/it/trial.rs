//! `POST /api/v1/targets/{name}/test` and `hookyard target test`: a sample goes to a target once, beside lane and store.

use serde_json::{Value, json};

use crate::support::{Receiver, Relay, Reply, app::MINUTELY, routes, spawn_app};

#[tokio::test]
async fn a_sample_says_that_it_is_a_test_and_leaves_nothing_behind() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.tells("crm", "pause").await;
    let found = app.posts("/api/v1/targets/crm/test", &json!({"event": "credential.expired"})).await;
    assert_eq!(
        (&found["outcome"], &found["status"], &found["event"]),
        (&json!("delivered"), &json!(200), &json!("credential.expired"))
    );
    assert!(found["url"].as_str().unwrap().ends_with("/***") && found["duration_ms"].is_u64(), "{found}");
    let request = crm.first().await;
    let sent = request.json();
    assert!(sent["id"].as_str().unwrap().starts_with("test_"), "{sent}");
    assert_eq!((&sent["type"], &sent["data"]["test"]), (&json!("credential.expired"), &json!(true)));
    assert!(sent["data"]["service_name"].is_string(), "the seeds' own sample: {sent}");
    assert_ne!(request.header("webhook-signature"), "");
    assert!(app.rows("").await.is_empty() && app.all("/api/v1/events?source=hookyard&type=credential.expired").await.is_empty());
    assert_eq!(app.target("crm").await["state"], "paused");
}

#[tokio::test]
async fn the_answer_is_told_and_breaks_nothing() {
    let crm = Receiver::start([Reply::Full(503, Vec::new(), "come back later".into())]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    for _ in 0..6 {
        let found = app.posts("/api/v1/targets/crm/test", &json!({})).await;
        let told = (&found["outcome"], &found["status"], &found["error"], &found["response"]);
        assert_eq!(told, (&json!("transient"), &json!(503), &json!("http_503"), &json!("come back later")));
    }
    assert_eq!(app.target("crm").await["state"], "ok");
}

#[tokio::test]
async fn addresses_are_vetted() {
    let crm = Receiver::ok().await;
    let url = format!("https://localhost:{}/hook", crm.addr.port());
    let file = routes().interactor().security("allow_targets: []").destination("crm", &format!("kind: webhook, url: \"{url}\""));
    let app = spawn_app(file).await;
    let found = app.posts("/api/v1/targets/crm/test", &json!({})).await;
    assert_eq!((&found["outcome"], &found["error"]), (&json!("permanent"), &json!("address_forbidden")));
    assert_eq!(crm.connections(), 0);
}

#[tokio::test]
async fn messages_to_people_say_it_first() {
    let slack = Receiver::start([Reply::Full(200, Vec::new(), r#"{"ok":true,"ts":"1700000000.000100"}"#.into())]).await;
    let twilio = Receiver::start([201]).await;
    let bot = format!(
        "kind: slack, bot_token: xoxb-1, channel: C1, base_url: \"http://{}\", thread_by: $.data.credential_id",
        slack.addr
    );
    let wa = format!(
        "kind: whatsapp, account_sid: AC1, auth_token: t, base_url: \"http://{}\", from: \"+14155238886\", to: [\"+15550100\", \"+15550101\"]",
        twilio.addr
    );
    let file =
        routes().interactor().destination("ops", &bot).destination("wa", &wa).server("public_url: https://relay.example.com");
    let app = spawn_app(file).await;
    for _ in 0..2 {
        let found = app.posts("/api/v1/targets/ops/test", &json!({"event": "credential.expired"})).await;
        assert_eq!(found["outcome"], "delivered", "{found}");
    }
    for request in slack.wait_for(2).await {
        let sent = request.json();
        assert!(sent["text"].as_str().unwrap().starts_with("[test]") && sent.get("thread_ts").is_none(), "{sent}");
    }
    let found = app.posts("/api/v1/targets/wa/test", &json!({})).await;
    assert_eq!(found["outcome"], "delivered", "{found}");
    let form: std::collections::BTreeMap<_, _> = url::form_urlencoded::parse(&twilio.first().await.body).into_owned().collect();
    assert!(form["Body"].starts_with("[test]") && !form.contains_key("StatusCallback"), "{form:?}");
    assert_eq!(twilio.count(), 1, "one of the recipients is enough");
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    assert_eq!(app.post("/api/v1/targets/nobody/test", &json!({})).await.status, 404);
    assert_eq!(app.post("/api/v1/targets/crm/test", &json!({"event": "a b"})).await.status, 400);
    assert_eq!(app.post("/api/v1/targets/crm/test", &json!({"evnt": "a"})).await.status, 400);
    assert_eq!(crm.count(), 0);
}

#[tokio::test]
async fn from_the_command_line() {
    let crm = Receiver::start([200, 500]).await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    let out = relay.cli_ok(&["target", "test", "crm", "--event", "credential.expired", "--json"]).await;
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&found["data"]["outcome"], &found["data"]["event"]), (&json!("delivered"), &json!("credential.expired")));
    let refused = relay.cli(&["target", "test", "crm"]).await;
    let said = String::from_utf8(refused.stdout).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("http_500"), "{said}");
}
