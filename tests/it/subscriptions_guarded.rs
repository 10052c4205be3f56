//! Subscriptions that would take more than is theirs, or lose what is: secrets that a changed URL must not carry away, room that deleted
//! ones take, caps that outlive what they were for, receivers that are gone and were replaced.

use std::sync::Arc;

use hookyard::{
    access::Caller,
    subscriptions::{Dialect, Refused, Updated, Wanted, Why},
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    Receiver, Reply, SOON, TestApp, minutes,
    relay::TOKEN,
    seconds, spawn_app,
    subscribed::{is_signed_by, open_routes, open_routes_with, token},
    until,
};

async fn update(app: &TestApp, id: &str, body: Value) -> Result<Updated, Refused> {
    let wanted = Wanted::read(&body, Dialect::Interactor)?;
    app.handles.subscriptions.update(&Caller::bootstrap(), id, wanted).await
}

#[tokio::test]
async fn secret_headers_never_go_to_another_host_that_their_giver_did_not_name() {
    let (old, new) = (Receiver::ok().await, Receiver::ok().await);
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": old.url(), "events": ["**"], "headers": {"Authorization": "Bearer psst", "X-Key": "hush"}});
    let made = app.subscribes_as(&Caller::bootstrap(), body).await;
    let id = made.subscription.id.as_str();
    for headers in [json!({}), json!({"headers": {"Authorization": "***", "X-Key": "new"}})] {
        let mut body = headers.clone();
        body["url"] = json!(new.url());
        let refused = update(&app, id, body).await.unwrap_err();
        assert_eq!((refused.code(), refused.field()), ("invalid_request", Some("headers")), "{headers}");
        assert!(refused.to_string().contains("give `headers` again with another URL"), "{refused}");
    }
    let other_scheme = old.url().replace("http://", "https://");
    assert_eq!(update(&app, id, json!({"url": other_scheme})).await.unwrap_err().field(), Some("headers"));
    assert_eq!(app.subscription(id).url.as_str(), old.url(), "nothing has changed");
    // Another path of the same host is its business.
    update(&app, id, json!({"url": format!("{}/more", old.url())})).await.unwrap();
    // Given again they go along; taken away they do not.
    update(&app, id, json!({"url": new.url(), "headers": {"X-Key": "again"}})).await.unwrap();
    app.takes("evt_1").await;
    let request = new.first().await;
    assert_eq!((request.header("x-key"), request.header("authorization")), ("again", ""));
    update(&app, id, json!({"url": old.url(), "headers": null})).await.unwrap();
    app.takes("evt_2").await;
    assert_eq!(old.first().await.header("x-key"), "");
}

#[tokio::test]
async fn the_cap_of_a_release_goes_once_all_of_it_was_tried() {
    let receiver = Receiver::answering(|request, _| match request.header("webhook-id") {
        "evt_1" => Reply::from(500),
        _ => Reply::from(200),
    })
    .await;
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    let id = made.subscription.id.as_str();
    app.disables(id).await;
    app.takes("evt_1").await;
    let job = app.enables(id).await.job.unwrap();
    app.tried("", 1).await;
    let path = format!("/api/v1/jobs/{}", job.id);
    let done = until("the release to be over", SOON, async || Some(app.data(&path).await).filter(|job| job["state"] == "done"));
    assert_eq!(done.await["done"], 1, "what fails is tried again as anything else");
    until("the cap to go", SOON, async || app.subscription(id).release.is_none().then_some(())).await;
    for n in 2..12 {
        app.takes(&format!("evt_{n}")).await;
    }
    // Under the cap, ten a second, the clock would have to move on for that.
    receiver.wait_for(11).await;
}

#[tokio::test]
async fn deleted_ones_take_no_more_room_than_living_ones() {
    let app = spawn_app(open_routes_with("limit: 2")).await;
    let caller = token("tok_a", &[]);
    for n in 0..12 {
        let body = json!({"url": format!("https://a.example/{n}"), "events": ["**"]});
        let made = app.subscribes_as(&caller, body).await;
        if n < 10 {
            app.handles.subscriptions.delete(&caller, made.subscription.id.as_str()).await.unwrap();
        }
    }
    let mut number = 0;
    until("the oldest to be over", SOON, async || {
        number += 1;
        let id = format!("evt_{number}");
        app.takes(&id).await;
        let rows = app.rows("").await.into_iter().filter(|row| row["event_id"] == id.as_str() && row["state"] != "cancelled");
        (rows.count() == 4).then_some(())
    })
    .await;
    // The youngest two are there for whoever comes back.
    let body = json!({"url": "https://a.example/9", "events": ["**"]});
    app.handles.subscriptions.delete(&caller, app.handles.subscriptions.list(&caller)[0].id.as_str()).await.unwrap();
    assert_eq!(app.subscribes_as(&caller, body).await.adopted.len(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_gone_says_nothing_of_the_one_that_took_its_place() {
    let (gate, new) = (Arc::new(Semaphore::new(0)), Receiver::ok().await);
    let old = Receiver::start([Reply::Late(410, gate.clone())]).await;
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&old).await;
    let id = made.subscription.id.as_str();
    app.takes("evt_1").await;
    old.first().await;
    update(&app, id, json!({"url": new.url()})).await.unwrap();
    gate.add_permits(1);
    app.reaches("state=dead", "dead").await;
    app.takes("evt_2").await;
    new.first().await;
    assert!(app.subscription(id).is_enabled(), "{:?}", app.subscription(id).disabled);
}

#[tokio::test]
async fn with_another_url_it_begins_as_if_it_had_never_failed() {
    let (old, new) = (Receiver::start([503]).await, Receiver::start([503, 200]).await);
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": old.url(), "events": ["**"], "max_retries": 0});
    let id = app.subscribes_as(&Caller::bootstrap(), body).await.subscription.id.to_string();
    for n in 1..=4 {
        app.takes(&format!("evt_{n}")).await;
        app.counts("state=dead", n).await;
    }
    update(&app, &id, json!({"url": new.url()})).await.unwrap();
    app.takes("evt_5").await;
    app.counts("state=dead", 5).await;
    app.takes("evt_6").await;
    app.counts("state=delivered", 1).await;
    assert!(app.subscription(&id).is_enabled(), "four of them were another's");
}

#[tokio::test]
async fn a_broken_receiver_that_is_replaced_is_not_waited_for() {
    let (old, new) = (Receiver::start([503]).await, Receiver::ok().await);
    let app = spawn_app(open_routes()).await;
    let id = app.subscribes(&old).await.subscription.id.to_string();
    app.takes_many(8).await;
    app.target_is(&id, "broken").await;
    update(&app, &id, json!({"url": new.url()})).await.unwrap();
    app.target_is(&id, "ok").await;
    app.clock.advance(minutes(1));
    new.wait_for(8).await;
    app.clock.advance(seconds(24 * 3600));
    app.takes("evt_last").await;
    new.wait_for(9).await;
    assert_eq!(app.subscription(&id).disabled.as_ref().map(|it| it.why), None::<Why>);
}

#[tokio::test]
async fn a_sixth_secret_is_refused_while_five_sign_still() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    let path = format!("/api/v1/webhooks/{}/regenerate-secret", made.subscription.id);
    for _ in 0..4 {
        app.says_ok(&path).await;
        app.clock.advance(minutes(60));
    }
    let answer = app.ask_as(TOKEN, "POST", &path, None).await;
    assert_eq!((answer.status, answer.error().as_str()), (429, "rate_limited"), "{}", answer.text());
    let wait = answer.json()["retry_after"].as_u64().unwrap();
    assert_eq!((wait, answer.header("retry-after")), (44 * 3600, "158400"), "until the oldest ends");
    app.takes("evt_1").await;
    assert!(is_signed_by(&receiver.first().await, made.secret.reveal()), "the first signs for its 48 h");
    app.clock.advance(seconds(wait));
    app.says_ok(&path).await;
}

#[tokio::test]
async fn what_an_answer_showed_may_be_sent_back() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": receiver.url(), "events": ["credential.*"], "name": "CRM", "headers": {"X-Key": "psst"}});
    let answer = app.ask_as(TOKEN, "POST", "/api/v1/webhooks", Some(&body)).await.json();
    let shown = &answer["data"];
    let path = format!("/api/v1/webhooks/{}", shown["id"].as_str().unwrap());
    let put = async |body: Value| app.ask_as(TOKEN, "PUT", &path, Some(&body)).await;
    for body in [
        shown.clone(),
        json!({"url": null, "events": null, "event_types": null, "name": "new"}),
        json!({"events": ["workflow.**"], "event_types": null, "active": true}),
    ] {
        let answer = put(body.clone()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    }
    assert_eq!(put(json!({"active": false})).await.json()["data"]["enabled"], false);
    assert_eq!(put(json!({"active": true, "enabled": false})).await.status, 400);
    assert_eq!(put(json!({"secret": "mine-of-all-things"})).await.json()["error"], "invalid_request");
    let after = app.ask_as(TOKEN, "GET", &path, None).await.json();
    assert_eq!((&after["data"]["name"], &after["data"]["events"]), (&json!("new"), &json!(["workflow.**"])));
    // A new one may say so too; it needs a URL and events all the same.
    let body = json!({"url": receiver.url(), "event_types": null, "events": ["**"], "active": false});
    let made = app.ask_as(TOKEN, "POST", "/api/v1/webhooks", Some(&body)).await;
    assert_eq!((made.status, &made.json()["data"]["enabled"]), (201, &json!(false)));
    let body = json!({"url": receiver.url(), "events": null});
    assert_eq!(app.ask_as(TOKEN, "POST", "/api/v1/webhooks", Some(&body)).await.json()["error"], "invalid_events");
}

#[tokio::test]
async fn whoever_sees_all_sees_who_made_which_and_who_tried_it_out() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let bound = app.token(&["webhooks"], &["acme"]).await;
    let body = json!({"url": receiver.url(), "events": ["**"]});
    let made = app.ask_as(&bound, "POST", "/api/v1/webhooks", Some(&body)).await.json();
    assert_eq!(made["data"].get("made_by"), None, "a bound one is not told of tokens");
    let path = format!("/api/v1/webhooks/{}", made["data"]["id"].as_str().unwrap());
    let seen = app.ask_as(TOKEN, "GET", &path, None).await.json();
    let by = seen["data"]["made_by"].as_str().unwrap().to_owned();
    let listed = app.ask_as(TOKEN, "GET", "/api/v1/webhooks", None).await.json();
    assert_eq!(listed["data"]["webhooks"][0]["made_by"], by.as_str());
    assert_eq!(app.ask_as(&bound, "POST", &format!("{path}/test"), Some(&json!({}))).await.status, 200);
    let audit = app.data("/api/v1/audit").await;
    let entry = audit.as_array().unwrap().iter().find(|entry| entry["what"] == "subscription.tested").unwrap();
    assert_eq!((&entry["subject"], &entry["who"]), (&made["data"]["id"], &json!(by)), "{entry}");
}

impl TestApp {
    async fn says_ok(&self, path: &str) {
        let answer = self.ask_as(TOKEN, "POST", path, None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn what_a_slow_receiver_leaves_waiting_is_bounded_too_and_does_not_age() {
    let gate = Arc::new(Semaphore::new(0));
    let receiver = Receiver::start([Reply::Gated(gate.clone())]).await;
    let app = spawn_app(open_routes_with("held_max: {age: 1d, bytes: 1MiB}")).await;
    let id = app.subscribes(&receiver).await.subscription.id.to_string();
    // As many as are sent at once; they are under way, and stay.
    for n in 0..8 {
        app.takes(&format!("early_{n}")).await;
    }
    receiver.wait_for(8).await;
    let large = "x".repeat(300 * 1024);
    for n in 1..=8 {
        app.takes_of(&format!("evt_{n}"), "credential.expired", json!({"text": large})).await;
    }
    let expired = until("what is too much to expire", SOON, async || {
        app.clock.advance(seconds(1));
        let rows = app.rows(&format!("target={id}&state=expired")).await;
        (5 <= rows.iter().filter(|row| row["event_id"].as_str().unwrap().starts_with("evt_")).count()).then_some(rows)
    })
    .await;
    assert!(!expired.iter().any(|row| row["event_id"] == "evt_8" || row["event_id"] == "evt_7"), "the oldest go: {expired:?}");
    assert_eq!(app.target(&id).await["state"], "ok");
    app.clock.advance(seconds(3 * 86_400));
    app.takes("evt_9").await;
    app.clock.advance(seconds(10));
    gate.add_permits(1000);
    let came = receiver.wait_for(8 + 3).await;
    assert!(came.iter().any(|request| request.header("webhook-id") == "evt_7"), "three days later");
}
