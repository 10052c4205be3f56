//! `handshake: true`, CloudEvents' abuse protection ("HTTP 1.1 Web Hooks for Event Delivery", section 4): of sources, destinations and
//! subscriptions.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;

use crate::support::{
    Answer, Receiver, Relay, Reply, Routes,
    app::MINUTELY,
    hours,
    relay::{TOKEN, client},
    routes, seconds,
    signed::{INTERACTOR, event, interactor},
    spawn_app,
    subscribed::open_routes,
};

/// A relay with one source that says `fields` besides.
async fn source(fields: &str) -> Relay {
    let source = format!("kind: interactor, path: /webhooks/interactor, secrets: [\"{INTERACTOR}\"]{fields}");
    Relay::start(&routes().source("interactor", &source)).await
}

/// What its path answers to OPTIONS with these headers.
async fn asked(relay: &Relay, headers: &[(&str, &str)]) -> Answer {
    let url = format!("http://{}/webhooks/interactor", relay.public);
    let request = client().request("OPTIONS".parse().unwrap(), url);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::read(request.send().await.unwrap()).await
}

/// A receiver that consents to `origin` for as long as that is `willing`, and takes what it is sent.
async fn choosy(origin: &'static str, willing: &Arc<AtomicBool>) -> Receiver {
    let willing = willing.clone();
    Receiver::answering(move |request, _| {
        let asks = request.line.starts_with("OPTIONS ");
        let consents = asks && willing.load(Ordering::SeqCst);
        if consents { Reply::with(200, "WebHook-Allowed-Origin", origin) } else { 200.into() }
    })
    .await
}

fn methods(receiver: &Receiver) -> Vec<String> {
    receiver.seen().iter().map(|request| request.line.split(' ').next().unwrap().to_owned()).collect()
}

/// A relay that sends what Interactor sends to `receiver`, whom it asks first.
fn to(receiver: &Receiver) -> Routes {
    routes().interactor().webhook_with("crm", receiver, &format!("handshake: true, concurrency: 1, {MINUTELY}"))
}

#[tokio::test]
async fn a_source_consents_to_whoever_asks_it() {
    let relay = source(", handshake: true, rate_limit: 2/s").await;
    let origin = ("WebHook-Request-Origin", "events.example.com");
    let answer =
        asked(&relay, &[origin, ("WebHook-Request-Rate", "500"), ("WebHook-Request-Callback", "http://127.0.0.1:1/")]).await;
    assert_eq!((answer.status, answer.header("allow")), (200, "POST, OPTIONS"));
    assert_eq!((answer.header("webhook-allowed-origin"), answer.header("webhook-allowed-rate")), ("events.example.com", "120"));
    for bad in [&[][..], &[("WebHook-Request-Origin", "<script>")], &[origin, origin]] {
        let answer = asked(&relay, bad).await;
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("webhook-allowed-origin"), "", "{bad:?}");
    }
    relay.accepts(&interactor(event("evt_1"))).await;
    let unlimited = source(", handshake: true").await;
    assert_eq!(asked(&unlimited, &[origin]).await.header("webhook-allowed-rate"), "*");
}

#[tokio::test]
async fn a_source_without_it_answers_as_to_any_other_method() {
    let relay = source("").await;
    let answer = asked(&relay, &[("WebHook-Request-Origin", "events.example.com")]).await;
    answer.refused(405, "method_not_allowed");
    assert_eq!((answer.header("allow"), answer.header("webhook-allowed-origin")), ("POST", ""));
}

#[tokio::test]
async fn who_consents_is_asked_once_a_day_and_told_the_origin_each_time() {
    let crm = choosy("relay.example.com", &Arc::new(AtomicBool::new(true))).await;
    let app = spawn_app(to(&crm).server("public_url: https://relay.example.com")).await;
    app.takes_many(2).await;
    app.counts("state=delivered", 2).await;
    assert_eq!(methods(&crm), ["OPTIONS", "POST", "POST"]);
    let seen = crm.seen();
    assert_eq!(crm.distinct("webhook-request-origin"), ["relay.example.com".to_owned()].into());
    let question = &seen[0];
    assert!(question.body.is_empty() && question.line.starts_with("OPTIONS /hook "), "{question:?}");
    assert_eq!(["webhook-signature", "webhook-request-rate", "x-hookyard-delivery"].map(|name| question.count(name)), [0, 0, 0]);
    app.clock.advance(hours(24));
    app.takes("evt_3").await;
    app.counts("state=delivered", 3).await;
    assert_eq!(methods(&crm)[3..], ["OPTIONS", "POST"]);
}

#[tokio::test]
async fn without_consent_nothing_is_sent_and_nothing_is_burnt() {
    let willing = Arc::new(AtomicBool::new(false));
    let crm = choosy("*", &willing).await;
    let app = spawn_app(to(&crm)).await;
    app.takes_many(2).await;
    let target = app.target_is("crm", "broken").await;
    assert_eq!((&target["cause"], &target["last_error"]), (&json!("config"), &json!("handshake_refused")), "{target}");
    let held = app.counts("state=held", 2).await;
    assert!(held.iter().all(|row| row["cause"] == "broken"), "{held:?}");
    // A probe asks again.
    app.clock.advance(seconds(30));
    crm.wait_for(2).await;
    app.counts("state=held", 2).await;
    assert_eq!(methods(&crm), ["OPTIONS", "OPTIONS"]);
    willing.store(true, Ordering::SeqCst);
    app.clock.advance(seconds(60));
    let rows = app.counts("state=delivered", 2).await;
    assert_eq!(methods(&crm), ["OPTIONS", "OPTIONS", "OPTIONS", "POST", "POST"]);
    assert_eq!(app.story(&rows[1]).await, "1 retry handshake_refused, 2 retry handshake_refused, 3 delivered 200");
    assert_eq!(crm.distinct("webhook-request-origin"), ["hookyard".to_owned()].into(), "no `public_url`");
}

#[tokio::test]
async fn a_redirect_is_no_consent_and_is_not_followed() {
    let elsewhere = Receiver::ok().await;
    let headers = vec![("location".into(), elsewhere.url()), ("WebHook-Allowed-Origin".into(), "*".into())];
    let crm = Receiver::start([Reply::Full(307, headers, String::new())]).await;
    let app = spawn_app(to(&crm)).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "held").await;
    assert_eq!((&row["error"], elsewhere.count()), (&json!("handshake_refused"), 0), "{row}");
    assert_eq!(methods(&crm), ["OPTIONS"]);
}

#[tokio::test]
async fn a_question_without_an_answer_is_a_transient_failure() {
    let crm = Receiver::start([Reply::Close]).await;
    let app = spawn_app(to(&crm)).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    assert_eq!((&row["state"], &row["error"], app.due_in(&row)), (&json!("pending"), &json!("closed"), 60.0), "{row}");
}

#[tokio::test]
async fn a_target_that_cannot_answer_now_has_not_refused() {
    let yes = || Reply::with(200, "WebHook-Allowed-Origin", "*");
    let crm = Receiver::start([Reply::with(503, "Retry-After", 120), Reply::from(429), yes(), 200.into()]).await;
    let app = spawn_app(to(&crm)).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    assert_eq!((&row["state"], &row["error"], app.due_in(&row)), (&json!("pending"), &json!("http_503"), 120.0), "{row}");
    app.clock.advance(seconds(120));
    app.tried("", 2).await;
    assert_eq!(app.target("crm").await["state"], "ok");
    app.clock.advance(seconds(60));
    let row = app.reaches("", "delivered").await;
    assert_eq!(app.story(&row).await, "1 retry http_503, 2 retry http_429, 3 delivered 200");
    assert_eq!(methods(&crm), ["OPTIONS", "OPTIONS", "OPTIONS", "POST"]);
}

#[tokio::test]
async fn a_target_that_is_gone_says_so_to_the_question_too() {
    let crm = Receiver::start([Reply::from(410)]).await;
    let app = spawn_app(to(&crm)).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "dead").await;
    assert_eq!((&row["cause"], &row["error"]), (&json!("receiver"), &json!("http_410")), "{row}");
    assert_eq!(methods(&crm), ["OPTIONS"]);
}

#[tokio::test]
async fn consent_outlives_another_file_that_names_the_same_url_and_sender() {
    let crm = choosy("*", &Arc::new(AtomicBool::new(true))).await;
    let app = spawn_app(to(&crm)).await;
    app.takes("evt_1").await;
    app.counts("state=delivered", 1).await;
    app.reload(to(&crm).rule("name: nothing, match: {type: nothing.at.all}, to: [crm]").rule("name: all, match: {}, to: [crm]"))
        .await;
    app.takes("evt_2").await;
    app.counts("state=delivered", 2).await;
    assert_eq!(methods(&crm), ["OPTIONS", "POST", "POST"]);
}

#[tokio::test]
async fn nobody_is_asked_by_default() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes("evt_1").await;
    app.reaches("", "delivered").await;
    assert_eq!((methods(&crm), crm.first().await.count("webhook-request-origin")), (vec!["POST".to_owned()], 0));
}

#[tokio::test]
async fn a_subscription_says_whether_its_receiver_is_asked() {
    let crm = choosy("hookyard", &Arc::new(AtomicBool::new(true))).await;
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": crm.url(), "events": ["**"], "handshake": true});
    let made = app.ask_as(TOKEN, "POST", "/api/v1/webhooks", Some(&body)).await.json();
    assert_eq!(made["data"]["handshake"], true, "{made}");
    app.takes("evt_1").await;
    app.counts("state=delivered", 1).await;
    let app = app.restart(open_routes()).await;
    app.takes("evt_2").await;
    app.counts("state=delivered", 2).await;
    assert_eq!(methods(&crm), ["OPTIONS", "POST", "OPTIONS", "POST"], "kept, and asked anew after a start");
    let one = format!("/api/v1/webhooks/{}", made["data"]["id"].as_str().unwrap());
    let after = app.ask_as(TOKEN, "PATCH", &one, Some(&json!({"handshake": false}))).await.json();
    assert_eq!(after["data"].get("handshake"), None, "{after}");
    app.takes("evt_3").await;
    app.counts("state=delivered", 3).await;
    assert_eq!(crm.seen()[4].count("webhook-request-origin"), 0);
    let refused = app.ask_as(TOKEN, "PATCH", &one, Some(&json!({"handshake": "yes"}))).await;
    refused.refused(400, "invalid_request");
}
