//! delivery.md, "What moves a delivery": each row of its table.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Home, Receiver, Relay, Reply, SOON, TestApp,
    app::MINUTELY,
    hours, minutes, routes, seconds,
    signed::{event, interactor},
    spawn_app, until,
};

/// A relay with one destination `crm`, one event on its way to it.
async fn one<R: Into<Reply>>(replies: impl IntoIterator<Item = R>, fields: &str) -> (Receiver, TestApp) {
    let crm = Receiver::start(replies).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, fields)).await;
    app.takes("evt_1").await;
    (crm, app)
}

#[tokio::test]
async fn an_answer_of_2xx_delivers() {
    let (crm, app) = one([204], MINUTELY).await;
    let row = app.reaches("", "delivered").await;
    assert_eq!(app.story(&row).await, "1 delivered 204");
    app.nothing_comes(&crm, 1, hours(1)).await;
}

#[tokio::test]
async fn a_transient_answer_waits_for_the_policys_next_time() {
    let (crm, app) = one([503, 200], MINUTELY).await;
    app.tried("", 1).await;
    app.nothing_comes(&crm, 1, seconds(59)).await;
    app.clock.advance(seconds(1));
    let row = app.reaches("", "delivered").await;
    assert_eq!(app.story(&row).await, "1 retry http_503, 2 delivered 200");
    assert_eq!(crm.distinct("idempotency-key").len(), 1, "the same delivery again");
    assert_eq!(crm.seen()[1].header("x-hookyard-attempt"), "2");
}

#[tokio::test]
async fn retry_after_counts_if_it_is_later() {
    for (asked, due) in [(300, 300.0), (5, 60.0)] {
        let (_crm, app) = one([Reply::with(502, "retry-after", asked)], MINUTELY).await;
        let row = app.tried("", 1).await;
        assert_eq!(app.due_in(&row), due, "asked for {asked} s");
    }
}

#[tokio::test]
async fn retry_after_is_capped() {
    for (fields, due) in [("", 3600.0), (", retry_after_max: 10m", 600.0)] {
        let (_crm, app) = one([Reply::with(502, "retry-after", 86_400)], &format!("{MINUTELY}{fields}")).await;
        let row = app.tried("", 1).await;
        assert_eq!(app.due_in(&row), due, "{fields}");
    }
}

#[tokio::test]
async fn retry_after_with_429_or_503_holds_the_whole_lane() {
    for status in [429, 503] {
        let replies = [Reply::with(status, "retry-after", 120), 200.into()];
        let (crm, other) = (Receiver::start(replies).await, Receiver::ok().await);
        let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY).webhook("other", &other)).await;
        app.takes("evt_1").await;
        app.tried("target=crm", 1).await;
        app.takes("evt_2").await;
        other.wait_for(2).await;
        app.nothing_comes(&crm, 1, seconds(119)).await;
        app.clock.advance(seconds(1));
        crm.wait_for(3).await;
    }
}

#[tokio::test]
async fn retry_after_with_another_status_holds_only_its_delivery() {
    let (crm, app) = one([Reply::with(502, "retry-after", 120), 200.into()], MINUTELY).await;
    app.tried("", 1).await;
    app.takes("evt_2").await;
    crm.wait_for(2).await;
    assert_eq!(crm.distinct("webhook-id").len(), 2);
}

#[tokio::test]
async fn a_permanent_answer_is_dead_of_its_receiver() {
    let (crm, app) = one([422], MINUTELY).await;
    let row = app.reaches("", "dead").await;
    assert_eq!((&row["cause"], &row["error"]), (&json!("receiver"), &json!("http_422")));
    app.nothing_comes(&crm, 1, hours(1)).await;
}

#[tokio::test]
async fn a_moved_url_is_dead_of_the_config() {
    let (crm, app) = one([Reply::with(301, "location", "http://127.0.0.1:1/elsewhere")], MINUTELY).await;
    let row = app.reaches("", "dead").await;
    assert_eq!((&row["cause"], &row["error"]), (&json!("config"), &json!("http_301")));
    app.nothing_comes(&crm, 1, hours(1)).await;
}

#[tokio::test]
async fn out_of_attempts_is_dead_of_its_receiver() {
    let (crm, app) = one([503], "retry: {initial: 1m, factor: 1, max: 1m, jitter: none, max_attempts: 3}").await;
    for n in 1..3 {
        app.tried("", n).await;
        app.clock.advance(minutes(1));
    }
    let row = app.reaches("", "dead").await;
    assert_eq!((&row["cause"], &row["attempts"]), (&json!("receiver"), &json!(3)));
    assert_eq!(app.story(&row).await, "1 retry http_503, 2 retry http_503, 3 dead http_503");
    app.nothing_comes(&crm, 3, hours(2)).await;
}

#[tokio::test]
async fn one_last_attempt_at_give_up_time() {
    let (crm, app) = one([503], "retry: {initial: 40m, factor: 1, max: 40m, jitter: none, give_up_after: 1h}").await;
    app.tried("", 1).await;
    app.clock.advance(minutes(40));
    let row = app.tried("", 2).await;
    assert_eq!(app.due_in(&row), 1200.0, "give-up time, not 40 minutes later");
    app.clock.advance(minutes(20));
    let row = app.reaches("", "dead").await;
    assert_eq!((&row["cause"], crm.count()), (&json!("receiver"), 3));
}

#[tokio::test]
async fn with_the_breaker_open_at_give_up_time_it_is_dead_without_an_attempt() {
    let crm = Receiver::start([503]).await;
    let policy = "concurrency: 1, retry: {initial: 10m, factor: 1, max: 10m, jitter: none, give_up_after: 15m}";
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, policy)).await;
    app.takes_many(5).await;
    app.target_is("crm", "broken").await;
    crm.wait_for(5).await;
    app.clock.advance(seconds(15 * 60 - 1));
    crm.wait_for(6).await;
    app.counts("state=held", 5).await;
    // The next probe is due a minute later.
    app.clock.advance(seconds(1));
    let rows = app.counts("state=dead", 5).await;
    assert!(rows.iter().all(|row| row["cause"] == "receiver" && row["error"] == "http_503"), "{rows:?}");
    let attempts: u64 = rows.iter().map(|row| row["attempts"].as_u64().unwrap()).sum();
    assert_eq!((crm.count(), attempts), (6, 6), "the probe, and no other");
}

#[tokio::test]
async fn a_failing_template_gives_way_to_the_built_in_line() {
    let n8n = Receiver::ok().await;
    let fields = format!("kind: n8n, url: \"{}\", template: broken", n8n.url());
    let templates = "templates:\n  broken: \"{{ event.data.missing.deeper }}\"";
    let app = spawn_app(routes().interactor().destination("n8n", &fields).section(templates)).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "delivered").await;
    let message = n8n.first().await.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("template `broken` failed"), "{message}");
    assert_eq!(row["attempts"], 1, "no attempt is lost on it");
    assert_eq!(app.metric("hookyard_template_failures_total", &[]).await, 1.0, "{}", app.metrics().await);
}

#[tokio::test]
async fn killed_between_sending_and_recording_the_same_id_goes_out_again() {
    let crm = Receiver::answering(|_, place| if place == 0 { Reply::Never } else { 200.into() }).await;
    let routes = routes().interactor().webhook("crm", &crm);
    let home = Home::new();
    let relay = Relay::start_in(&home, &routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    crm.first().await;
    relay.kill();
    let relay = Relay::start_in(&home, &routes).await;
    relay.settled("state=delivered", 1).await;
    assert_eq!((crm.count(), crm.distinct("idempotency-key").len()), (2, 1), "the consumer can drop it");
}

#[tokio::test]
async fn a_removed_targets_deliveries_are_held_and_go_out_when_it_is_back() {
    let crm = Receiver::start([503, 200]).await;
    let with = routes().interactor().webhook_with("crm", &crm, MINUTELY);
    let app = spawn_app(with.clone()).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let app = app.restart(routes().interactor()).await;
    assert_eq!(app.reaches("", "held").await["cause"], "config");
    app.nothing_comes(&crm, 1, hours(1)).await;
    let app = app.restart(with).await;
    app.reaches("", "delivered").await;
    assert_eq!((crm.count(), crm.distinct("idempotency-key").len()), (2, 1));
}

#[tokio::test]
async fn renamed_from_adopts_what_waits_for_the_old_name() {
    let crm = Receiver::start([503, 200]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_1").await;
    let old = app.tried("", 1).await;
    let app = app.restart(routes().interactor().webhook_with("sales", &crm, &format!("renamed_from: crm, {MINUTELY}"))).await;
    app.clock.advance(minutes(1));
    let row = app.reaches("target=sales", "delivered").await;
    assert_eq!(row["id"], old["id"], "the same delivery");
    assert_eq!(app.rows("target=crm").await.len(), 0);
}

#[tokio::test]
async fn a_person_cancels_what_waits_for_a_removed_target() {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes_many(3).await;
    crm.wait_for(3).await;
    let app = app.restart(routes().interactor()).await;
    app.counts("state=held", 3).await;
    app.tells("crm", "cancel").await;
    app.counts("state=cancelled", 3).await;
}

#[tokio::test]
async fn the_next_attempt_uses_todays_url_and_policy() {
    let (old, new) = (Receiver::start([503]).await, Receiver::start([503]).await);
    let app = spawn_app(routes().interactor().webhook_with("crm", &old, MINUTELY)).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let policy = "retry: {initial: 7m, factor: 1, max: 7m, jitter: none}";
    let app = app.restart(routes().interactor().webhook_with("crm", &new, policy)).await;
    app.clock.advance(minutes(1));
    let row = app.tried("", 2).await;
    assert_eq!((old.count(), new.count(), app.due_in(&row)), (1, 1, 420.0));
}

#[tokio::test]
async fn the_next_attempt_uses_todays_secret_and_the_body_made_before() {
    let n8n = Receiver::start([503, 200]).await;
    let destination = |text: &str, secret: &str| {
        let signing = format!("signing: {{schemes: [agent], secrets: [{secret}]}}");
        let fields = format!("kind: n8n, url: \"{}\", template: line, {signing}, {MINUTELY}", n8n.url());
        routes().interactor().destination("n8n", &fields).section(&format!("templates:\n  line: \"{text}\""))
    };
    let app = spawn_app(destination("before", "old-secret-of-n8n")).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let app = app.restart(destination("after", "new-secret-of-n8n")).await;
    app.clock.advance(minutes(1));
    app.reaches("", "delivered").await;
    let seen = n8n.seen();
    assert_eq!(seen[0].json()["message"], "before");
    assert_eq!(seen[1].body, seen[0].body, "a body already made stays");
    for (request, secret) in seen.iter().zip(["old-secret-of-n8n", "new-secret-of-n8n"]) {
        let expected = crate::support::signed::hex_mac(secret, &[&request.body]);
        assert_eq!(request.header("x-webhook-signature"), expected, "{secret}");
    }
}

#[tokio::test]
async fn what_was_planned_stays_planned_when_its_rule_goes() {
    let (crm, other) = (Receiver::start([503, 200]).await, Receiver::ok().await);
    let both = routes().interactor().webhook_with("crm", &crm, MINUTELY).webhook("other", &other);
    let app = spawn_app(both.clone().rule("name: first, match: {type: \"**\"}, to: [crm]")).await;
    app.takes("evt_1").await;
    app.tried("target=crm", 1).await;
    let app = app.restart(both.rule("name: second, match: {type: \"**\"}, to: [other]")).await;
    app.clock.advance(minutes(1));
    let row = app.reaches("target=crm", "delivered").await;
    assert_eq!(row["rule"], "first");
    assert_eq!(other.count(), 0, "nothing is planned anew");
}

#[tokio::test]
async fn a_retried_dead_letter_goes_on_under_its_id_with_count_and_clocks_anew() {
    let policy = "retry: {initial: 1m, factor: 1, max: 1m, jitter: none, max_attempts: 2, give_up_after: 1h}";
    let (crm, app) = one([503], policy).await;
    app.tried("", 1).await;
    app.clock.advance(minutes(1));
    let dead = app.reaches("", "dead").await;
    app.clock.advance(hours(5));
    app.posts(&format!("/api/v1/deliveries/{}/retry", dead["id"].as_str().unwrap()), &json!({})).await;
    let row = app.tried("", 3).await;
    assert_eq!(
        (&row["id"], &row["state"], app.due_in(&row)),
        (&dead["id"], &json!("pending"), 60.0),
        "at once, then by its policy"
    );
    app.clock.advance(minutes(1));
    app.tried("", 4).await;
    let row = app.reaches("", "dead").await;
    assert_eq!(row["attempts"], 4, "two more, as its policy says");
    let numbers: Vec<_> = crm.seen().iter().map(|request| request.header("x-hookyard-attempt").to_owned()).collect();
    assert_eq!(numbers, ["1", "2", "3", "4"]);
    assert_eq!((crm.distinct("idempotency-key").len(), crm.seen()[3].body == crm.seen()[0].body), (1, true));
}

#[tokio::test]
async fn a_retried_dead_letter_keeps_the_body_it_had() {
    let n8n = Receiver::start([400, 200]).await;
    let file = |text: &str| {
        let fields = format!("kind: n8n, url: \"{}\", template: line", n8n.url());
        routes().interactor().destination("n8n", &fields).section(&format!("templates:\n  line: \"{text}\""))
    };
    let app = spawn_app(file("before")).await;
    app.takes("evt_1").await;
    let dead = app.reaches("", "dead").await;
    let app = app.restart(file("after")).await;
    app.posts(&format!("/api/v1/deliveries/{}/retry", dead["id"].as_str().unwrap()), &json!({})).await;
    app.reaches("", "delivered").await;
    assert_eq!(n8n.seen()[1].body, n8n.seen()[0].body);
}

#[tokio::test]
async fn dead_letters_are_retried_by_filter_as_a_job() {
    let crm = Receiver::answering(|_, place| if place < 6 { 400.into() } else { 200.into() }).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes_many(5).await;
    app.takes_of("evt_other", "order.paid", json!({})).await;
    app.counts("state=dead", 6).await;
    app.posts("/api/v1/dead-letters/retry", &json!({"type": "credential.expired"})).await;
    app.counts("state=delivered", 5).await;
    let left = app.counts("state=dead", 1).await;
    assert_eq!(left[0]["event_id"], "evt_other");
    until("the requests", SOON, async || (crm.count() == 11).then_some(())).await;
    assert_eq!(crm.distinct("idempotency-key").len(), 6);
    app.nothing_comes(&crm, 11, Duration::from_secs(60)).await;
}
