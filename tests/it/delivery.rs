//! The life of a delivery (delivery.md): retries, answers, dead letters, isolation, drain and resume.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Receiver, Relay, Reply, SOON, routes,
    routes::FAST,
    signed::{event, interactor},
    throughout, until,
};

/// A relay with one destination `crm` that answers with `replies`, one event on its way to it.
async fn one<R: Into<Reply>>(replies: impl IntoIterator<Item = R>, fields: &str) -> (Receiver, Relay) {
    let crm = Receiver::start(replies).await;
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, fields)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    (crm, relay)
}

/// What each of `statuses`, answered by a target of its own, makes of a delivery that may be tried twice: the delivery's
/// row and the number of requests.
async fn fates(statuses: &[u16], fields: &str) -> Vec<(u16, Value, usize)> {
    let policy = "retry: {initial: 20ms, factor: 1, max: 20ms, jitter: none, max_attempts: 2}";
    let mut targets = Vec::new();
    let mut routes = routes().interactor();
    for status in statuses {
        let receiver = Receiver::start([*status]).await;
        routes = routes.webhook_with(&format!("t{status}"), &receiver, &format!("{policy}{fields}"));
        targets.push((*status, receiver));
    }
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let rows = relay.settled("", statuses.len()).await;
    let row = |status: u16| rows.iter().find(|row| row["target"] == format!("t{status}")).unwrap().clone();
    targets.iter().map(|(status, receiver)| (*status, row(*status), receiver.count())).collect()
}

#[tokio::test]
pub(crate) async fn transient_answers_are_tried_again() {
    for (status, row, count) in fates(&[408, 425, 429, 500, 502, 503, 504, 507, 404, 409, 421, 423, 424], "").await {
        assert_eq!((&row["state"], &row["cause"], count), (&json!("dead"), &json!("receiver"), 2), "{status}: {row}");
        assert_eq!((&row["error"], &row["attempts"]), (&json!(format!("http_{status}")), &json!(2)));
    }
}

#[tokio::test]
pub(crate) async fn permanent_answers_are_dead_at_once() {
    let statuses = [400, 402, 405, 406, 410, 411, 413, 414, 415, 416, 417, 418, 422, 426, 431, 451, 499, 501, 505];
    for (status, row, count) in fates(&statuses, "").await {
        assert_eq!((&row["state"], &row["cause"], count), (&json!("dead"), &json!("receiver"), 1), "{status}: {row}");
        assert_eq!(row["error"], format!("http_{status}"));
    }
}

#[tokio::test]
pub(crate) async fn every_2xx_is_delivered() {
    for (status, row, count) in fates(&[200, 201, 202, 206, 299], "").await {
        assert_eq!((&row["state"], &row["attempts"], count), (&json!("delivered"), &json!(1), 1), "{status}: {row}");
    }
}

#[tokio::test]
pub(crate) async fn the_seeds_table_of_answers_is_stricter() {
    for (status, row, count) in fates(&[404, 409, 421, 401, 403, 407, 503], ", answers: interactor").await {
        let expected = if status == 503 { 2 } else { 1 };
        assert_eq!((&row["state"], count), (&json!("dead"), expected), "{status}: {row}");
    }
}

#[tokio::test]
pub(crate) async fn what_cannot_be_reached_is_tried_again() {
    let gone = {
        let receiver = Receiver::ok().await;
        receiver.url()
    };
    let fields = |url: &str| format!("kind: webhook, url: \"{url}\", timeout: 2s, {FAST}");
    let closing = Receiver::start([Reply::Close]).await;
    let routes = routes()
        .interactor()
        .security("allow_targets: [127.0.0.1, no-such-host.invalid]")
        .destination("refused", &fields(&gone))
        .destination("closed", &fields(&closing.url()))
        .destination("unknown", &fields("http://no-such-host.invalid/x"))
        .destination("no-tls", &fields(&closing.url().replace("http:", "https:")));
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    for row in relay.settled("", 4).await {
        assert_eq!((&row["state"], &row["attempts"], &row["cause"]), (&json!("dead"), &json!(3), &json!("receiver")), "{row}");
        assert!(row["error"].as_str().is_some_and(|error| !error.is_empty() && error != "address_forbidden"), "{row}");
    }
}

#[tokio::test]
pub(crate) async fn a_target_that_never_answers_times_out() {
    let (_crm, relay) = one([Reply::Never], &format!("timeout: 200ms, {FAST}")).await;
    let row = relay.settled("", 1).await.remove(0);
    assert_eq!((&row["state"], &row["error"], &row["attempts"]), (&json!("dead"), &json!("timeout"), &json!(3)));
}

#[tokio::test]
pub(crate) async fn retry_after_is_waited_for() {
    let crm = Receiver::start([Reply::with(503, "retry-after", 2), 200.into()]).await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let seen = crm.wait_for(2).await;
    let waited = seen[1].at - seen[0].at;
    assert!(Duration::from_millis(1500) < waited && waited < Duration::from_secs(8), "{waited:?}");
    relay.settled("state=delivered", 1).await;
}

#[tokio::test]
pub(crate) async fn retry_after_with_503_holds_the_whole_lane_and_no_other() {
    let (crm, other) = (Receiver::start([Reply::with(429, "retry-after", 3), 200.into()]).await, Receiver::ok().await);
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm).webhook("other", &other)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let held = crm.first().await.at;
    // The answer is read after the request was seen; what is accepted from now on must wait.
    until("the attempt to be recorded", SOON, async || {
        (relay.all("/api/v1/deliveries?target=crm").await[0]["attempts"] == 1).then_some(())
    })
    .await;
    relay.accepts(&interactor(event("evt_2"))).await;
    other.wait_within(2, Duration::from_secs(2)).await;
    let seen = crm.wait_for(3).await;
    assert!(seen[1..].iter().all(|request| Duration::from_millis(2500) < request.at - held), "the lane waits");
}

#[tokio::test]
pub(crate) async fn an_absurd_retry_after_is_capped_or_ignored() {
    for value in ["-5", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", ""] {
        let crm = Receiver::start([Reply::with(503, "retry-after", value), 200.into()]).await;
        let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
        relay.accepts(&interactor(event("evt_1"))).await;
        relay.settled("state=delivered", 1).await;
    }
    let (_crm, relay) =
        one([Reply::with(503, "retry-after", "99999999999999999999")], &format!("{FAST}, retry_after_max: 1s")).await;
    relay.settled("state=dead", 1).await;
}

#[tokio::test]
pub(crate) async fn the_interactor_policy_waits_a_minute_after_its_first_attempt() {
    let (crm, relay) = one([503], "retry: {preset: interactor}").await;
    crm.first().await;
    let row = until("the retry to be planned", SOON, async || {
        let row = relay.all("/api/v1/deliveries").await.remove(0);
        (row["attempts"] == 1 && row["state"] == "pending").then_some(row)
    })
    .await;
    let next: jiff::Timestamp = row["next_attempt_at"].as_str().unwrap().parse().unwrap();
    let left = next.as_second() - crate::support::unix_now();
    assert!((40..=61).contains(&left), "{left} s");
    assert_eq!(row["error"], "http_503");
}

#[tokio::test]
pub(crate) async fn give_up_makes_one_last_attempt_at_its_time() {
    let began = Instant::now();
    let (crm, relay) = one([503], "retry: {initial: 500ms, factor: 4, max: 1h, jitter: none, give_up_after: 3s}").await;
    let row = relay.settled("", 1).await.remove(0);
    assert_eq!((&row["state"], &row["cause"]), (&json!("dead"), &json!("receiver")));
    // At 0 and 0.5 s; 2.5 s; the next, at 10.5 s, lies past give-up, so the last is at 3 s.
    assert_eq!(crm.count(), 4);
    assert!(Duration::from_millis(2900) < began.elapsed());
}

#[tokio::test]
pub(crate) async fn dead_letters_are_listed_under_their_deliverys_id() {
    let (crm, relay) = one([400], FAST).await;
    relay.settled("", 1).await;
    let rows = relay.all("/api/v1/dead-letters").await;
    assert_eq!((rows.len(), rows[0]["id"].as_str().unwrap()), (1, crm.first().await.header("idempotency-key")));
    until("the count of dead letters", SOON, async || (relay.metric("webhook_dlq_size", &[]).await == 1.0).then_some(())).await;
}

#[tokio::test]
pub(crate) async fn a_2xx_whose_body_drips_past_the_timeout_is_delivered() {
    let crm = Receiver::start([Reply::Full(200, vec![("content-length".into(), "1000000".into())], String::new())]).await;
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, &format!("timeout: 500ms, {FAST}"))).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let row = relay.settled("", 1).await.remove(0);
    assert_eq!(
        (&row["state"], &row["attempts"]),
        (&json!("delivered"), &json!(1)),
        "the status decides once the header has come"
    );
}

#[tokio::test]
pub(crate) async fn a_huge_answer_is_read_to_a_bound() {
    let (_crm, relay) = one([Reply::Full(200, Vec::new(), "y".repeat(8 << 20))], FAST).await;
    let row = relay.settled("", 1).await.remove(0);
    assert_eq!(row["state"], "delivered");
    let story = relay.get(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    assert!(story.body.len() < 1 << 20, "{} bytes", story.body.len());
}

#[tokio::test]
pub(crate) async fn one_that_never_answers_delays_nobody_else() {
    let (dead, alive) = (Receiver::silent().await, Receiver::ok().await);
    let relay = Relay::start(&routes().interactor().webhook("dead", &dead).webhook("alive", &alive)).await;
    let began = Instant::now();
    for n in 0..100 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    alive.wait_within(100, Duration::from_secs(10).saturating_sub(began.elapsed())).await;
    assert!(dead.count() <= 8, "no more than its concurrency at once: {}", dead.count());
}

#[tokio::test]
pub(crate) async fn concurrency_is_the_destinations() {
    let crm = Receiver::silent().await;
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, "concurrency: 3")).await;
    for n in 0..10 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    crm.wait_for(3).await;
    throughout("three at once", Duration::from_secs(1), async || crm.count() == 3).await;
    assert_eq!(relay.all("/api/v1/deliveries?state=sending").await.len(), 3);
}

#[tokio::test]
pub(crate) async fn one_event_reaches_one_target_once_and_stop_ends_the_walk() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let routes = routes()
        .interactor()
        .webhook("crm", &crm)
        .webhook("audit", &audit)
        .rule("name: first, match: {type: credential.*}, to: [crm]")
        .rule("name: second, match: {namespace: \"user_*\"}, to: [crm], stop: true")
        .rule("name: third, match: {type: \"**\"}, to: [audit]");
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let rows = relay.settled("", 1).await;
    assert_eq!((&rows[0]["target"], &rows[0]["rule"]), (&json!("crm"), &json!("first")));
    assert_eq!((crm.count(), audit.count()), (1, 0));
}

#[tokio::test]
pub(crate) async fn rules_match_by_source_type_namespace_and_when() {
    let (rich, other) = (Receiver::ok().await, Receiver::ok().await);
    let routes = routes()
        .interactor()
        .webhook("rich", &rich)
        .webhook("other", &other)
        .rule("name: a, match: {source: interactor, type: \"order.*\"}, when: [{path: $.data.amount, gt: 1000}, {not: {path: $.data.test, eq: true}}], to: [rich]")
        .rule("name: b, match: {type: \"order.*\"}, when: [{any: [{path: $.data.amount, lte: 1000}, {path: $.data.test, exists: true}]}], to: [other]");
    let relay = Relay::start(&routes).await;
    for (id, kind, data) in [
        ("e1", "order.paid", r#"{"amount":1001}"#),
        ("e2", "order.paid", r#"{"amount":1000}"#),
        ("e3", "order.paid", r#"{"amount":5000,"test":true}"#),
        ("e4", "order.item.paid", r#"{"amount":5000}"#),
        ("e5", "order.paid", r#"{"amount":"5000"}"#),
    ] {
        relay.accepts(&interactor(format!(r#"{{"id":"{id}","type":"{kind}","data":{data}}}"#))).await;
    }
    let ids = |seen: Vec<crate::support::Received>| {
        let mut ids: Vec<_> = seen.iter().map(|request| request.json()["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    relay.settled("", 3).await;
    assert_eq!((ids(rich.seen()), ids(other.seen())), (vec!["e1".into()], vec!["e2".into(), "e3".into()]));
    let unmatched: Vec<_> = relay.all("/api/v1/events").await.into_iter().filter(|row| row["verdict"] == "unmatched").collect();
    assert_eq!(unmatched.len(), 2, "kept and shown: {unmatched:?}");
}

#[tokio::test]
pub(crate) async fn unmatched_events_may_have_a_destination() {
    let (crm, rest) = (Receiver::ok().await, Receiver::ok().await);
    let routes = routes()
        .interactor()
        .webhook("crm", &crm)
        .webhook("rest", &rest)
        .rule("name: a, match: {type: order.paid}, to: [crm]")
        .section("unmatched: [rest]");
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    rest.first().await;
    assert_eq!(crm.count(), 0);
    assert_eq!(relay.all("/api/v1/events").await[0]["verdict"], "unmatched");
}

#[tokio::test]
pub(crate) async fn shutdown_drains_and_start_up_resumes() {
    let slow = Receiver::answering(|_, place| if place == 0 { Reply::Never } else { 200.into() }).await;
    let routes = routes().interactor().server("shutdown_grace: 2s").webhook_with(
        "crm",
        &slow,
        &format!("concurrency: 1, timeout: 60s, {FAST}"),
    );
    let relay = Relay::start(&routes).await;
    for n in 0..5 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    slow.first().await;
    let home = relay.home.clone();
    let began = Instant::now();
    assert!(relay.stop().await.success());
    assert!(began.elapsed() < Duration::from_secs(10), "within the grace: {:?}", began.elapsed());
    assert_eq!(slow.count(), 1, "no new attempt begins");
    let relay = Relay::start_in(&home, &routes).await;
    relay.settled("state=delivered", 5).await;
    assert_eq!(slow.distinct("idempotency-key").len(), 5);
    let again: Vec<_> = slow.seen().iter().take(2).map(|request| request.header("x-hookyard-attempt").to_owned()).collect();
    assert_eq!(again, ["1", "2"], "no number is given out twice");
    let first = slow.seen()[0].header("x-hookyard-delivery").to_owned();
    let log = relay.data(&format!("/api/v1/deliveries/{first}")).await["log"].take();
    let told = |n: usize| (log[n]["outcome"].clone(), log[n]["error"].clone(), log[n]["counts"].clone());
    assert_eq!(told(0), (json!("retry"), json!("shutdown"), json!(false)), "{log}");
    assert_eq!(told(1), (json!("delivered"), json!(null), json!(true)), "{log}");
}

#[tokio::test]
pub(crate) async fn shutdown_waits_for_what_is_under_way() {
    let crm = Receiver::answering(|_, _| {
        std::thread::yield_now();
        Reply::Full(200, Vec::new(), "done".into())
    })
    .await;
    let routes = routes().interactor().webhook("crm", &crm);
    let relay = Relay::start(&routes).await;
    for n in 0..50 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    let before = crm.count();
    let relay = Relay::start_in(&home, &routes).await;
    relay.settled("state=delivered", 50).await;
    assert_eq!((crm.distinct("idempotency-key").len(), crm.count()), (50, 50), "drained attempts are recorded ({before} before)");
}

#[tokio::test]
pub(crate) async fn a_stopping_relay_takes_nothing_new() {
    let relay = Relay::start(&routes().interactor()).await;
    relay.terminate().await;
    until("the listener to close", SOON, async || match relay.try_send(&interactor(event("evt_1"))).await {
        Ok(answer) if answer.status == 200 => None,
        _ => Some(()),
    })
    .await;
}

#[tokio::test]
pub(crate) async fn deliveries_of_a_destination_that_is_gone_are_held() {
    let crm = Receiver::start([503]).await;
    let with = routes().interactor().webhook_with("crm", &crm, "retry: {initial: 1h, factor: 1, max: 1h, jitter: none}");
    let relay = Relay::start(&with).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    crm.first().await;
    until("the attempt to be recorded", SOON, async || (relay.all("/api/v1/deliveries").await[0]["attempts"] == 1).then_some(()))
        .await;
    let home = relay.home.clone();
    relay.stop().await;
    let relay = Relay::start_in(&home, &routes().interactor()).await;
    let row = relay.all("/api/v1/deliveries").await.remove(0);
    assert_eq!((&row["state"], &row["cause"]), (&json!("held"), &json!("config")));
}
