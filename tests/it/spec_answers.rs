//! delivery.md, "What answers mean": both tables, row by row, and what a target may override.

use serde_json::{Value, json};

use crate::support::{Receiver, Reply, Routes, SOON, TestApp, app::MINUTELY, hours, minutes, routes, seconds, spawn_app, until};

/// Every row that says the same in both tables, and what it says.
const TRANSIENT: [u16; 10] = [408, 425, 429, 500, 502, 503, 504, 507, 521, 599];
const PERMANENT: [u16; 21] =
    [400, 402, 405, 406, 411, 412, 413, 414, 415, 416, 417, 418, 422, 426, 431, 451, 501, 505, 420, 444, 499];

/// What one answer of each of `statuses` makes of the delivery to a target of its own.
async fn fates(statuses: &[u16], fields: &str) -> Vec<(u16, Value)> {
    let mut file = routes().interactor();
    let mut receivers = Vec::new();
    for status in statuses {
        let receiver = Receiver::start([*status]).await;
        file = file.webhook_with(&format!("t{status}"), &receiver, &format!("{MINUTELY}{fields}"));
        receivers.push(receiver);
    }
    let app = spawn_app(file).await;
    app.takes("evt_1").await;
    let mut rows = Vec::new();
    for status in statuses {
        rows.push((*status, app.tried(&format!("target=t{status}"), 1).await));
    }
    rows
}

/// Fails unless all `statuses` leave their delivery in `state` with `cause`.
async fn all(statuses: &[u16], fields: &str, state: &str, cause: Value) {
    for (status, row) in fates(statuses, fields).await {
        assert_eq!((&row["state"], &row["cause"]), (&json!(state), &cause), "{status}: {row}");
    }
}

#[tokio::test]
async fn every_2xx_is_delivered_in_both_tables() {
    for fields in ["", ", answers: interactor"] {
        all(&[200, 201, 202, 204, 206, 299], fields, "delivered", Value::Null).await;
    }
}

#[tokio::test]
async fn trouble_that_passes_is_transient_in_both_tables() {
    for fields in ["", ", answers: interactor"] {
        all(&TRANSIENT, fields, "pending", Value::Null).await;
    }
}

#[tokio::test]
async fn no_answer_is_transient_in_both_tables() {
    let closing = Receiver::start([Reply::Close]).await;
    let silent = Receiver::silent().await;
    let gone = {
        let receiver = Receiver::ok().await;
        receiver.url()
    };
    for fields in ["", ", answers: interactor"] {
        let at = |url: &str| format!("kind: webhook, url: \"{url}\", timeout: 500ms, {MINUTELY}{fields}");
        let file = routes()
            .interactor()
            .security("allow_targets: [127.0.0.1, no-such-host.invalid]")
            .destination("closed", &at(&closing.url()))
            .destination("timeout", &at(&silent.url()))
            .destination("refused", &at(&gone))
            .destination("dns", &at("http://no-such-host.invalid/x"))
            .destination("tls", &at(&closing.url().replace("http:", "https:")));
        let app = spawn_app(file).await;
        app.takes("evt_1").await;
        for target in ["closed", "timeout", "refused", "dns", "tls"] {
            let row = app.tried(&format!("target={target}"), 1).await;
            assert_eq!((&row["state"], app.due_in(&row)), (&json!("pending"), 60.0), "{row}");
        }
    }
}

#[tokio::test]
async fn endpoints_that_vanish_for_a_while_are_transient_by_default() {
    all(&[404, 409, 421, 423, 424], "", "pending", Value::Null).await;
}

#[tokio::test]
async fn endpoints_that_vanish_are_permanent_for_interactor() {
    all(&[404, 409, 421, 423, 424], ", answers: interactor", "dead", json!("receiver")).await;
}

#[tokio::test]
async fn what_cannot_pass_is_permanent_in_both_tables() {
    for fields in ["", ", answers: interactor"] {
        all(&PERMANENT, fields, "dead", json!("receiver")).await;
    }
}

#[tokio::test]
async fn gone_is_permanent_in_both_tables() {
    for fields in ["", ", answers: interactor"] {
        all(&[410], fields, "dead", json!("receiver")).await;
    }
}

#[tokio::test]
async fn a_redirect_is_permanent_and_not_followed_in_both_tables() {
    let elsewhere = Receiver::ok().await;
    for fields in ["", ", answers: interactor"] {
        for status in [301, 302, 303, 307, 308] {
            let crm = Receiver::start([Reply::with(status, "location", elsewhere.url())]).await;
            let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("{MINUTELY}{fields}"))).await;
            app.takes("evt_1").await;
            assert_eq!(app.reaches("", "dead").await["cause"], "config", "{status}");
        }
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn refused_credentials_are_permanent_for_interactor() {
    all(&[401, 403, 407], ", answers: interactor", "dead", json!("receiver")).await;
}

#[tokio::test]
async fn the_first_refusal_of_credentials_without_a_success_that_day_is_target_level() {
    for status in [401, 403, 407] {
        let crm = Receiver::start([status]).await;
        let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
        app.takes("evt_1").await;
        let row = app.reaches("", "held").await;
        assert_eq!((&row["cause"], &row["error"]), (&json!("broken"), &json!(format!("http_{status}"))), "{row}");
        assert_eq!(app.target("crm").await["state"], "broken");
    }
}

#[tokio::test]
async fn refusals_of_credentials_after_a_success_are_transient_until_the_third_event() {
    let crm = Receiver::start([200, 401]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_ok").await;
    app.reaches("", "delivered").await;
    for n in 1..=2 {
        app.takes(&format!("evt_{n}")).await;
        crm.wait_for(1 + n).await;
        let rows = app.counts("state=pending", n).await;
        assert!(rows.iter().all(|row| row["event_id"] != "evt_ok"), "{rows:?}");
    }
    assert_eq!(app.target("crm").await["state"], "ok");
    app.takes("evt_3").await;
    app.target_is("crm", "broken").await;
    app.nothing_comes(&crm, 4, seconds(29)).await;
}

#[tokio::test]
async fn one_event_refused_three_times_is_not_three_events() {
    let crm = Receiver::start([200, 401]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_ok").await;
    app.reaches("", "delivered").await;
    app.takes("evt_1").await;
    for n in 2..=4 {
        crm.wait_for(n).await;
        app.counts("state=pending", 1).await;
        app.clock.advance(minutes(1));
    }
    crm.wait_for(5).await;
    assert_eq!(app.target("crm").await["state"], "ok");
}

#[tokio::test]
async fn a_success_of_yesterday_does_not_count() {
    let crm = Receiver::start([200, 401]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_ok").await;
    app.reaches("", "delivered").await;
    app.clock.advance(hours(25));
    app.takes("evt_1").await;
    app.target_is("crm", "broken").await;
}

#[tokio::test]
async fn a_forbidden_address_is_dead_of_the_config() {
    for fields in ["", ", answers: interactor"] {
        let crm = Receiver::ok().await;
        let url = format!("https://localhost:{}/hook", crm.addr.port());
        let file = routes()
            .interactor()
            .security("allow_targets: []")
            .destination("crm", &format!("kind: webhook, url: \"{url}\"{fields}"));
        let app = spawn_app(file).await;
        app.takes("evt_1").await;
        let row = app.reaches("", "dead").await;
        assert_eq!((&row["cause"], &row["error"]), (&json!("config"), &json!("address_forbidden")), "{row}");
        assert_eq!(crm.connections(), 0);
    }
}

#[tokio::test]
async fn the_status_decides_once_the_header_has_come() {
    let endless = Reply::Full(200, vec![("content-length".into(), "1000000".into())], "cut".into());
    let crm = Receiver::start([endless]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("timeout: 500ms, {MINUTELY}"))).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "delivered").await;
    assert_eq!(row["attempts"], 1);
    let story = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    assert_eq!(story["log"][0]["response"], "cut", "its body cut");
}

#[tokio::test]
async fn at_target_level_nothing_is_burnt() {
    let policy = "concurrency: 1, retry: {initial: 1m, factor: 1, max: 1m, jitter: none, max_attempts: 1, give_up_after: 1h}";
    let crm = Receiver::answering(|_, place| if place < 4 { 401.into() } else { 200.into() }).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, policy)).await;
    app.takes("evt_1").await;
    app.target_is("crm", "broken").await;
    // Its policy allows one attempt and an hour: it survives four failures and a day.
    for (n, wait) in [(2, 30), (3, 60), (4, 120)] {
        app.clock.advance(seconds(wait));
        crm.wait_for(n).await;
        app.reaches("", "held").await;
    }
    app.clock.advance(hours(24));
    let row = app.reaches("", "delivered").await;
    assert_eq!(crm.distinct("idempotency-key").len(), 1, "{row}");
}

#[tokio::test]
async fn target_level_opens_the_breaker_at_once_with_cause_config() {
    let crm = Receiver::start([403]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("concurrency: 1, {MINUTELY}"))).await;
    app.takes_many(3).await;
    let target = app.target_is("crm", "broken").await;
    assert_eq!(target["cause"], "config", "{target}");
    app.nothing_comes(&crm, 1, seconds(29)).await;
}

#[tokio::test]
async fn three_permanent_answers_3xx_or_410_in_a_row_are_target_level() {
    let crm = Receiver::start([301, 410, 302]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("concurrency: 1, {MINUTELY}"))).await;
    app.takes_many(5).await;
    let target = app.target_is("crm", "broken").await;
    assert_eq!(target["cause"], "config", "{target}");
    app.nothing_comes(&crm, 3, seconds(29)).await;
    app.counts("state=dead", 2).await;
    app.counts("state=held", 3).await;
}

#[tokio::test]
async fn another_answer_between_them_breaks_the_row() {
    let crm = Receiver::start([301, 410, 200, 301, 410, 200]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("concurrency: 1, {MINUTELY}"))).await;
    app.takes_many(6).await;
    crm.wait_for(6).await;
    app.counts("state=dead", 4).await;
    assert_eq!(app.target("crm").await["state"], "ok");
}

fn ruled(file: Routes, name: &str, to: &Receiver, rules: &str) -> Routes {
    file.webhook_with(name, to, &format!("{MINUTELY}, status_rules: {{{rules}}}"))
}

#[tokio::test]
async fn status_rules_override_per_target() {
    let (gone, there, plain) = (Receiver::start([404]).await, Receiver::start([409]).await, Receiver::start([404]).await);
    let busy = Receiver::start([400]).await;
    let file = ruled(routes().interactor(), "gone", &gone, "404: permanent");
    let file = ruled(file, "there", &there, "409: delivered");
    let file = ruled(file, "busy", &busy, "400: transient").webhook_with("plain", &plain, MINUTELY);
    let app = spawn_app(file).await;
    app.takes("evt_1").await;
    for (target, state) in [("gone", "dead"), ("there", "delivered"), ("busy", "pending"), ("plain", "pending")] {
        let row = app.tried(&format!("target={target}"), 1).await;
        assert_eq!(row["state"], state, "{row}");
    }
}

/// An n8n destination with `fields`, one event tried.
async fn n8n(fields: &str) -> (Receiver, TestApp) {
    let n8n = Receiver::start([404]).await;
    let app =
        spawn_app(routes().interactor().destination("n8n", &format!("kind: n8n, url: \"{}\", {MINUTELY}{fields}", n8n.url())))
            .await;
    app.takes("evt_1").await;
    (n8n, app)
}

#[tokio::test]
async fn n8ns_404_is_always_transient() {
    for fields in ["", ", answers: interactor"] {
        let (_n8n, app) = n8n(fields).await;
        assert_eq!(app.tried("", 1).await["state"], "pending", "{fields}");
        until("its retry", SOON, async || {
            app.clock.advance(minutes(1));
            (app.rows("").await[0]["attempts"].as_u64() >= Some(2)).then_some(())
        })
        .await;
    }
}
