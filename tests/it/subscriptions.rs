//! Ways out registered by API: made, changed, delivered to and kept, by the service that both dialects speak to.

use hookyard::{
    access::Caller,
    subscriptions::{Dialect, Refused, Wanted},
};
use serde_json::{Value, json};

use crate::support::{
    Receiver, hours, seconds, spawn_app,
    subscribed::{is_signed_by, open_routes, open_routes_with, token},
};

async fn refused(app: &crate::support::TestApp, caller: &Caller, dialect: Dialect, body: Value) -> Refused {
    match Wanted::read(&body, dialect) {
        Err(refused) => refused,
        Ok(wanted) => app.handles.subscriptions.create(caller, dialect, wanted).await.unwrap_err(),
    }
}

#[tokio::test]
pub(crate) async fn an_event_reaches_a_subscription_signed_and_in_its_envelope() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": receiver.url(), "events": ["credential.*"], "headers": {"X-Key": "psst"}});
    let made = app.subscribes_as(&Caller::bootstrap(), body).await;
    app.takes("evt_1").await;
    let request = receiver.first().await;
    assert_eq!(request.json()["id"], "evt_1");
    assert_eq!(request.header("x-key"), "psst");
    assert!(request.header("x-interactor-signature").starts_with("sha256="), "{:?}", request.headers);
    assert!(is_signed_by(&request, made.secret.reveal()));
    let row = app.reaches(&format!("target={}", made.subscription.id), "delivered").await;
    assert_eq!(row["rule"], made.subscription.id.as_str());
    let target = app.target(made.subscription.id.as_str()).await;
    assert_eq!((&target["kind"], &target["state"]), (&json!("subscription"), &json!("ok")));
    assert!(!target["url"].as_str().unwrap().contains("hook"), "{target}");
}

#[tokio::test]
pub(crate) async fn all_of_it_is_there_after_a_restart() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": receiver.url(), "events": ["credential.*"], "name": "CRM", "timeout": 7, "max_retries": 2, "verify_tls": false,
        "metadata": {"team": "a"}, "filter": {"path": "$.data.n", "eq": 1}, "headers": {"X-Key": "psst"}, "description": "d"});
    let made = app.subscribes_as(&token("tok_a", &["acme"]), body).await;
    let before = format!("{:?}", app.subscription(made.subscription.id.as_str()));
    let app = app.restart(open_routes()).await;
    let after = app.subscription(made.subscription.id.as_str());
    assert_eq!(format!("{after:?}"), before);
    assert_eq!((after.name.as_deref(), after.max_retries, after.verify_tls), (Some("CRM"), Some(2), false));
    assert_eq!((after.metadata.clone(), after.made_by.as_str()), (Some(json!({"team": "a"})), "tok_a"));
    app.takes_of("evt_1", "credential.expired", json!({"n": 1, "namespace": "acme"})).await;
    app.takes_of("evt_2", "credential.expired", json!({"n": 1, "namespace": "other"})).await;
    app.takes_of("evt_3", "credential.expired", json!({"n": 2, "namespace": "acme"})).await;
    assert_eq!(receiver.first().await.header("x-key"), "psst");
    app.counts("state=delivered", 1).await;
    assert_eq!(app.rows("").await.len(), 1, "the namespace and the filter hold");
}

#[tokio::test]
pub(crate) async fn what_cannot_be_is_refused_with_its_field_and_reason() {
    let app = spawn_app(open_routes()).await;
    let caller = Caller::bootstrap();
    for (body, told) in [
        (json!({"events": ["**"]}), "invalid_url `url` is required"),
        (json!({"url": "https://a.example/h"}), "invalid_events `events` is required"),
        (json!({"url": "http://a.example/h", "events": ["**"]}), "invalid_url `url` must be https"),
        (json!({"url": "https://10.0.0.1/h", "events": ["**"]}), "invalid_url `url` names an address that is not public"),
        (
            json!({"url": "https://[::ffff:192.168.0.1]/h", "events": ["**"]}),
            "invalid_url `url` names an address that is not public",
        ),
        (json!({"url": "https://0x7f000002/h", "events": ["**"]}), "invalid_url `url` names an address that is not public"),
        (
            json!({"url": "https://a.example/h", "events": ["credential.expired", "credential.expird"]}),
            "invalid_events `events[1]` is `credential.expird`, which no known event type fits: did you mean `credential.expired`?",
        ),
        (
            json!({"url": "https://a.example/h", "events": ["relay.**"]}),
            "invalid_events `events[0]` is `relay.**`, which no known event type fits",
        ),
        (
            json!({"url": "https://a.example/h", "events": ["**"], "headers": {"X-A": "***"}}),
            "invalid_request `headers` gives `X-A` no value",
        ),
    ] {
        let refused = refused(&app, &caller, Dialect::Interactor, body.clone()).await;
        assert_eq!(format!("{} {refused}", refused.code()), told, "{body}");
    }
    let no_secret = json!({"event_type": "dataset.updated", "target_url": "https://a.example/h"});
    assert_eq!(refused(&app, &caller, Dialect::Honeyframe, no_secret).await.to_string(), "`secret` is required");
    let unknown = json!({"event_type": "dataset.updatd", "target_url": "https://a.example/h", "secret": "12345678"});
    assert!(
        refused(&app, &caller, Dialect::Honeyframe, unknown).await.to_string().starts_with("`event_type` is `dataset.updatd`")
    );
    assert_eq!(app.handles.subscriptions.list(&caller).len(), 0);
}

#[tokio::test]
pub(crate) async fn types_of_the_file_and_those_that_came_are_known() {
    let app = spawn_app(open_routes().section("event_types: [invoice.paid]")).await;
    let wants = |kind: &str| json!({"url": "https://a.example/h", "events": [kind]});
    app.subscribes_as(&Caller::bootstrap(), wants("invoice.paid")).await;
    refused(&app, &Caller::bootstrap(), Dialect::Interactor, wants("order.shipped")).await;
    app.takes_of("evt_1", "order.shipped", json!({})).await;
    app.subscribes_as(&Caller::bootstrap(), wants("order.*")).await;
    refused(&app, &token("tok_a", &["acme"]), Dialect::Interactor, wants("order.shipped")).await;
    app.reload(open_routes()).await;
    refused(&app, &Caller::bootstrap(), Dialect::Interactor, wants("invoice.paid")).await;
}

#[tokio::test]
pub(crate) async fn each_set_of_namespaces_has_its_limit_and_sees_its_own() {
    let app = spawn_app(open_routes_with("limit: 2")).await;
    let body = || json!({"url": "https://a.example/h", "events": ["**"]});
    let (one, other, both) = (token("tok_a", &["a"]), token("tok_b", &["b"]), token("tok_ab", &["a", "b"]));
    for caller in [&one, &one, &both, &both, &other] {
        app.subscribes_as(caller, body()).await;
    }
    for _ in 0..4 {
        app.subscribes_as(&Caller::bootstrap(), body()).await;
    }
    let refused = refused(&app, &token("tok_a2", &["a"]), Dialect::Interactor, body()).await;
    assert!(matches!(refused, Refused::TooMany(2)), "{refused}");
    let subscriptions = &app.handles.subscriptions;
    let seen = [&one, &other, &both, &Caller::bootstrap()].map(|caller| subscriptions.list(caller).len());
    assert_eq!(seen, [2, 1, 5, 9]);
    let theirs = subscriptions.list(&other)[0].id.clone();
    assert!(matches!(subscriptions.get(&one, theirs.as_str()), Err(Refused::NotFound)));
    assert!(matches!(subscriptions.delete(&one, theirs.as_str()).await, Err(Refused::NotFound)));
    // One that is deleted makes room, also while what it holds waits.
    let own = subscriptions.list(&one)[0].id.clone();
    subscriptions.delete(&one, own.as_str()).await.unwrap();
    app.subscribes_as(&one, body()).await;
}

#[tokio::test]
pub(crate) async fn many_at_once_never_exceed_the_limit() {
    let app = spawn_app(open_routes_with("limit: 7")).await;
    let caller = token("tok_a", &["a"]);
    let makes = (0..20).map(|n| {
        let (subscriptions, caller) = (app.handles.subscriptions.clone(), caller.clone());
        let body = json!({"url": format!("https://a.example/{n}"), "events": ["**"]});
        tokio::spawn(async move {
            let wanted = Wanted::read(&body, Dialect::Interactor).unwrap();
            subscriptions.create(&caller, Dialect::Interactor, wanted).await.is_ok()
        })
    });
    let mut made = 0;
    for task in makes.collect::<Vec<_>>() {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!((made, app.handles.subscriptions.list(&caller).len()), (7, 7));
}

#[tokio::test]
pub(crate) async fn a_change_holds_from_the_next_attempt_on() {
    let (old, new) = (Receiver::start([503]).await, Receiver::ok().await);
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&old).await;
    let id = made.subscription.id.as_str();
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let body = json!({"url": new.url(), "events": ["workflow.**"], "headers": {"X-Key": "psst"}, "name": "moved"});
    let update = async |body: Value| {
        let wanted = Wanted::read(&body, Dialect::Interactor).unwrap();
        app.handles.subscriptions.update(&Caller::bootstrap(), id, wanted).await
    };
    let updated = update(body).await.unwrap().subscription;
    assert_eq!((updated.name.as_deref(), updated.event_texts()), (Some("moved"), vec!["workflow.**"]));
    update(json!({"headers": {"X-Key": "***", "X-More": "1"}})).await.unwrap();
    assert_eq!(update(json!({"headers": {"X-New": "***"}})).await.unwrap_err().code(), "invalid_request");
    app.clock.advance(seconds(60));
    let request = new.first().await;
    assert_eq!((request.header("x-key"), request.header("x-more")), ("psst", "1"));
    assert_eq!(old.count(), 1);
    app.takes("evt_2").await;
    assert_eq!(app.rows("").await.len(), 1, "it wants other types now");
}

#[tokio::test]
pub(crate) async fn old_and_new_secret_sign_for_48_hours_over_a_restart_too() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    let id = made.subscription.id.as_str();
    let fresh = app.handles.subscriptions.regenerate(&Caller::bootstrap(), id).await.unwrap();
    assert_ne!(fresh.secret, made.secret);
    app.takes("evt_1").await;
    let request = receiver.first().await;
    assert_eq!(request.header("webhook-signature").split(' ').count(), 2);
    for secret in [&made.secret, &fresh.secret] {
        assert!(is_signed_by(&request, secret.reveal()));
    }
    app.clock.advance(hours(47));
    let app = app.restart(open_routes()).await;
    app.takes("evt_2").await;
    assert_eq!(receiver.wait_for(2).await[1].header("webhook-signature").split(' ').count(), 2);
    app.clock.advance(hours(1));
    app.takes("evt_3").await;
    let request = receiver.wait_for(3).await.remove(2);
    assert_eq!(request.header("webhook-signature").split(' ').count(), 1, "its end is by the clock");
    assert!(is_signed_by(&request, fresh.secret.reveal()));
}

#[tokio::test]
pub(crate) async fn honeyframes_are_signed_by_their_secret_and_standard_where_it_fits() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    for (secret, standard) in [("plain-secret", false), ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", true)] {
        let body = json!({"event_type": "credential.expired", "target_url": receiver.url(), "secret": secret});
        let wanted = Wanted::read(&body, Dialect::Honeyframe).unwrap();
        let made = app.handles.subscriptions.create(&Caller::bootstrap(), Dialect::Honeyframe, wanted).await.unwrap();
        assert_eq!(made.subscription.standard, standard);
        let before = receiver.count();
        app.takes(&format!("evt_{before}")).await;
        let request = receiver.wait_for(before + 1).await.pop().unwrap();
        assert!(request.header("x-honeyframe-signature").starts_with("sha256="));
        assert_eq!(!request.header("webhook-signature").is_empty(), standard);
        app.deletes(made.subscription.id.as_str()).await;
    }
}

#[tokio::test]
pub(crate) async fn destinations_that_may_be_reached_open_nothing_to_subscriptions() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(crate::support::routes().interactor()).await;
    let body = json!({"url": receiver.url(), "events": ["**"]});
    assert_eq!(refused(&app, &Caller::bootstrap(), Dialect::Interactor, body).await.code(), "invalid_url");
    // What was let through once is held to today's list at every attempt.
    app.reload(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    app.takes("evt_1").await;
    receiver.first().await;
    app.reload(crate::support::routes().interactor()).await;
    app.takes("evt_2").await;
    let row = app.reaches(&format!("target={}&state=dead", made.subscription.id), "dead").await;
    assert_eq!((&row["error"], &row["cause"]), (&json!("address_forbidden"), &json!("config")));
    let story = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    let detail = story["log"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("`subscriptions.allow_targets`"), "it names the setting that would do: {detail}");
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
pub(crate) async fn every_change_is_audited_without_a_secret() {
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": "https://a.example/path-secret", "events": ["**"], "headers": {"X-Key": "psst"}, "name": "one"});
    let made = app.subscribes_as(&token("tok_a", &[]), body).await;
    let id = made.subscription.id.as_str();
    app.disables(id).await;
    app.enables(id).await;
    app.handles.subscriptions.regenerate(&Caller::bootstrap(), id).await.unwrap();
    app.deletes(id).await;
    let filter = hookyard::store::AuditFilter { subject: Some(id.to_owned()), ..Default::default() };
    let rows = app.handles.store.audit(filter).await.unwrap();
    let told: Vec<_> = rows.iter().rev().map(|row| (row.entry.action.as_str(), row.entry.who.as_str())).collect();
    assert_eq!(
        told,
        [
            ("subscription.created", "tok_a"),
            ("subscription.disabled", "bootstrap"),
            ("subscription.enabled", "bootstrap"),
            ("subscription.secret_regenerated", "bootstrap"),
            ("subscription.deleted", "bootstrap"),
        ]
    );
    let all = format!("{rows:?}");
    assert!(all.contains("https://a.example/***") && all.contains("X-Key"));
    for secret in ["psst", "path-secret", made.secret.reveal()] {
        assert!(!all.contains(secret), "{secret}");
    }
    assert!(rows.iter().all(|row| row.entry.before.is_some() || row.entry.action == "subscription.created"));
}

#[tokio::test]
pub(crate) async fn a_reload_leaves_subscriptions_alone() {
    let (receiver, crm) = (Receiver::start([503, 200]).await, Receiver::ok().await);
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let said = app.reload(open_routes().webhook("crm", &crm)).await;
    assert!(!said.to_string().contains("wh_"), "{said}");
    app.clock.advance(seconds(60));
    let row = app.reaches(&format!("target={}", made.subscription.id), "delivered").await;
    assert_eq!(app.story(&row).await, "1 retry http_503, 2 delivered 200");
    assert_eq!(app.data("/api/v1/targets").await.as_array().unwrap().len(), 2);
}

#[tokio::test]
pub(crate) async fn those_that_are_idle_have_no_lane_that_works() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    for n in 0..300 {
        let events = if n == 7 { "credential.*" } else { "workflow.**" };
        app.subscribes_as(&Caller::bootstrap(), json!({"url": receiver.url(), "events": [events]})).await;
    }
    assert_eq!(app.handles.deliver.lanes_of_subscriptions(), 0);
    let app = app.restart(open_routes()).await;
    assert_eq!(
        (app.handles.deliver.lanes_of_subscriptions(), app.data("/api/v1/targets").await.as_array().unwrap().len()),
        (0, 300)
    );
    app.takes("evt_1").await;
    receiver.first().await;
    assert_eq!(app.handles.deliver.lanes_of_subscriptions(), 1);
    // What waits is begun with at the next start, and nothing else is.
    let id = app.rows("").await[0]["target"].as_str().unwrap().to_owned();
    app.tells(&id, "pause").await;
    app.takes("evt_2").await;
    let app = app.restart(open_routes()).await;
    app.target_is(&id, "paused").await;
    app.tells(&id, "resume").await;
    receiver.wait_for(2).await;
    assert_eq!(app.handles.deliver.lanes_of_subscriptions(), 1);
}
