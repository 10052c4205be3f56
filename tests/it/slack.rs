//! `kind: slack`: what it sends by webhook and by bot, how Slack's words are read, threads, and its rate.

use serde_json::{Value, json};

use crate::support::{Receiver, Reply, Routes, SOON, TestApp, app::MINUTELY, hours, minutes, routes, seconds, spawn_app, until};

/// A reply with this body.
fn says(status: u16, body: &str) -> Reply {
    Reply::Full(status, Vec::new(), body.into())
}

/// An incoming webhook at `to`.
fn hook(file: Routes, name: &str, to: &Receiver, more: &str) -> Routes {
    file.destination(name, &format!("kind: slack, url: \"http://{}/services/T0/B0/hush\", {MINUTELY}{more}", to.addr))
}

/// A bot that posts to `to`.
fn bot(file: Routes, name: &str, to: &Receiver, more: &str) -> Routes {
    let way = format!("kind: slack, bot_token: xoxb-hush, channel: C0123, base_url: \"http://{}/api\", {MINUTELY}", to.addr);
    file.destination(name, &format!("{way}{more}"))
}

/// Takes everything that bots post, each as a message of its own.
async fn taking() -> Receiver {
    Receiver::answering(|_, place| says(200, &format!(r#"{{"ok":true,"channel":"C0123","ts":"17000000{place:02}.000100"}}"#)))
        .await
}

#[tokio::test]
async fn a_message_has_a_fallback_blocks_a_colour_and_a_link() {
    let slack = Receiver::start([says(200, "ok")]).await;
    let file = hook(routes().interactor(), "ops", &slack, "")
        .server("admin_url: https://relay-admin.example.com")
        .rule("name: a, match: {type: \"**\"}, severity: critical, to: [ops]");
    let app = spawn_app(file).await;
    let data = json!({"service_name": "<!channel> & Co", "credential_id": "cred_1"});
    app.takes_of("evt_1", "credential.expired", data).await;
    let request = slack.first().await;
    assert_eq!(request.line, "POST /services/T0/B0/hush HTTP/1.1");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!((request.header("authorization"), request.header("x-hookyard-attempt")), ("", "1"));
    let sent = request.json();
    let text = sent["text"].as_str().unwrap();
    assert!(text.contains("&lt;!channel&gt; &amp; Co"), "{text}");
    assert_eq!(sent["blocks"][0]["type"], "header");
    assert!(sent["attachments"][0]["color"].as_str().unwrap().starts_with('#'), "{sent}");
    assert_eq!((&sent["unfurl_links"], sent.get("channel")), (&json!(false), None));
    assert!(!request.text().contains("<!channel>"), "{}", request.text());
    let row = app.reaches("", "delivered").await;
    assert!(request.text().contains(&format!("https://relay-admin.example.com/events/{}", row["event"].as_str().unwrap())));
}

#[tokio::test]
async fn a_message_of_no_severity_has_no_bar() {
    let slack = Receiver::start([says(200, "ok")]).await;
    let app = spawn_app(hook(routes().interactor(), "ops", &slack, "")).await;
    app.takes("evt_1").await;
    let sent = slack.first().await.json();
    assert!(sent.get("attachments").is_none() && 1 < sent["blocks"].as_array().unwrap().len(), "{sent}");
}

/// Tries one event at a webhook and at a bot which both answer with `status` and `word`, and yields their deliveries.
async fn fates(status: u16, word: &str) -> (TestApp, Value, Value) {
    let hooked = Receiver::start([says(status, word)]).await;
    let error = json!({"ok": false, "error": word}).to_string();
    let posted = Receiver::start([says(if status == 429 { 429 } else { 200 }, &error)]).await;
    let app = spawn_app(bot(hook(routes().interactor(), "hook", &hooked, ""), "bot", &posted, "")).await;
    app.takes("evt_1").await;
    let rows = (app.tried("target=hook", 1).await, app.tried("target=bot", 1).await);
    (app, rows.0, rows.1)
}

#[tokio::test]
async fn words_that_would_come_again_are_permanent() {
    for (status, word) in [(400, "invalid_blocks"), (400, "no_text"), (400, "invalid_payload"), (403, "too_many_attachments")] {
        let (_app, hook, bot) = fates(status, word).await;
        for row in [hook, bot] {
            assert_eq!((&row["state"], &row["cause"]), (&json!("dead"), &json!("receiver")), "{word}: {row}");
            assert_eq!(row["error"], format!("slack_{word}"));
        }
    }
}

#[tokio::test]
async fn words_that_pass_are_transient() {
    for (status, word) in [(429, "rate_limited"), (500, "rollup_error"), (503, "service_unavailable")] {
        let (app, hook, bot) = fates(status, word).await;
        for row in [hook, bot] {
            assert_eq!((&row["state"], app.due_in(&row)), (&json!("pending"), 60.0), "{word}: {row}");
        }
    }
}

#[tokio::test]
async fn words_about_the_destination_open_its_breaker_and_burn_nothing() {
    let words = [
        (403, "invalid_token"),
        (403, "invalid_auth"),
        (403, "token_revoked"),
        (403, "account_inactive"),
        (404, "channel_not_found"),
        (410, "channel_is_archived"),
        (410, "is_archived"),
        (404, "not_in_channel"),
        (404, "no_service"),
        (404, "no_active_hooks"),
        (404, "no_team"),
        (403, "team_disabled"),
        (403, "action_prohibited"),
    ];
    for (status, word) in words {
        let (app, hook, bot) = fates(status, word).await;
        for (target, row) in [("hook", hook), ("bot", bot)] {
            let found = (&row["state"], &row["cause"], &row["error"]);
            assert_eq!(found, (&json!("held"), &json!("broken"), &json!(format!("slack_{word}"))), "{row}");
            let lane = app.target(target).await;
            assert_eq!((&lane["state"], &lane["cause"]), (&json!("broken"), &json!("config")), "{lane}");
            let story = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
            assert_eq!(story["log"][0]["counts"], false, "{story}");
        }
    }
}

#[tokio::test]
async fn a_refusal_that_drips_is_read_as_far_as_it_came() {
    let cut = |body: &str| Reply::Full(200, vec![("content-length".into(), "100000".into())], body.into());
    let (refusing, taking) = (
        Receiver::start([cut(r#"{"ok":false,"error":"channel_not_found","#)]).await,
        Receiver::start([cut(r#"{"ok":true,"ts":"1700000000.000100","mess"#)]).await,
    );
    let file = bot(routes().interactor(), "refusing", &refusing, ", timeout: 500ms");
    let app = spawn_app(bot(file, "taking", &taking, ", timeout: 500ms")).await;
    app.takes("evt_1").await;
    assert_eq!(app.tried("target=refusing", 1).await["error"], "slack_channel_not_found");
    assert_eq!(app.tried("target=taking", 1).await["state"], "delivered");
}

#[tokio::test]
async fn a_bot_posts_to_its_channel_with_its_token() {
    let slack = taking().await;
    let app = spawn_app(bot(routes().interactor(), "ops", &slack, "")).await;
    app.takes("evt_1").await;
    let request = slack.first().await;
    assert_eq!(request.line, "POST /api/chat.postMessage HTTP/1.1");
    assert_eq!((request.header("authorization"), request.count("authorization")), ("Bearer xoxb-hush", 1));
    let sent = request.json();
    assert_eq!((&sent["channel"], sent.get("thread_ts")), (&json!("C0123"), None));
    assert!(sent["text"].is_string() && sent["blocks"].is_array(), "{sent}");
    app.reaches("", "delivered").await;
}

const PEOPLE: &str =
    "contacts: [{namespace: user_123, slack: U0DANA, email: dana@example.com}, {namespace: user_9, slack: U0GONE}]";

async fn of(app: &TestApp, id: &str, namespace: &str) {
    app.takes_of(id, "credential.expired", json!({"namespace": namespace, "credential_id": "cred_a"})).await;
}

#[tokio::test]
async fn a_bot_writes_to_the_member_who_stands_behind_the_namespace() {
    let slack = Receiver::answering(|request, _| match request.json()["channel"].as_str() {
        Some("U0GONE") => says(200, r#"{"ok":false,"error":"channel_not_found"}"#),
        _ => says(200, r#"{"ok":true,"channel":"D01","ts":"1700000000.000100"}"#),
    })
    .await;
    let way = "kind: slack, bot_token: xoxb-hush, channel: contact, rate_limit: 100/s, thread_by: $.data.credential_id";
    let way = format!("{way}, base_url: \"http://{}/api\", {MINUTELY}", slack.addr);
    let app = spawn_app(routes().interactor().destination("dm", &way).section(PEOPLE)).await;
    of(&app, "evt_1", "user_123").await;
    assert_eq!(slack.first().await.json()["channel"], "U0DANA");
    app.counts("state=delivered", 1).await;
    // A member who is gone says nothing of the others.
    of(&app, "evt_2", "user_9").await;
    let gone = app.counts("state=dead", 1).await.remove(0);
    assert_eq!((&gone["cause"], &gone["error"]), (&json!("receiver"), &json!("slack_channel_not_found")));
    of(&app, "evt_3", "user_nobody").await;
    let nobody = app.counts("state=dead", 2).await.remove(0);
    assert_eq!((&nobody["cause"], &nobody["error"]), (&json!("config"), &json!("no_recipients")));
    of(&app, "evt_4", "user_123").await;
    app.counts("state=delivered", 2).await;
    assert_eq!(app.target("dm").await["state"], "ok");
    let roots: Vec<Value> = slack.seen().iter().map(|request| request.json()["thread_ts"].clone()).collect();
    assert_eq!(roots, [Value::Null, Value::Null, json!("1700000000.000100")], "each member has threads of their own");
}

#[tokio::test]
async fn a_retry_sends_the_same_message() {
    let slack = Receiver::start([says(500, "rollup_error"), says(200, "ok")]).await;
    let app = spawn_app(hook(routes().interactor(), "ops", &slack, "")).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.clock.advance(minutes(1));
    let seen = slack.wait_for(2).await;
    assert_eq!(seen[0].body, seen[1].body);
    app.reaches("", "delivered").await;
}

#[tokio::test]
async fn too_many_holds_the_lane_until_retry_after() {
    let slack = Receiver::start([
        Reply::Full(429, vec![("retry-after".into(), "90".into())], r#"{"ok":false,"error":"ratelimited"}"#.into()),
        says(200, r#"{"ok":true,"ts":"1700000000.000100"}"#),
    ])
    .await;
    let app = spawn_app(bot(routes().interactor(), "ops", &slack, "")).await;
    app.takes("evt_1").await;
    assert_eq!(app.due_in(&app.tried("", 1).await), 90.0);
    app.takes("evt_2").await;
    app.nothing_comes(&slack, 1, seconds(89)).await;
    app.clock.advance(seconds(1));
    slack.wait_for(2).await;
}

#[tokio::test]
async fn one_message_a_second_unless_the_file_says_otherwise() {
    let (slow, fast) = (Receiver::start([says(200, "ok")]).await, Receiver::start([says(200, "ok")]).await);
    let file = hook(hook(routes().interactor(), "slow", &slow, ""), "fast", &fast, ", rate_limit: 100/s");
    let app = spawn_app(file).await;
    app.takes_many(5).await;
    fast.wait_for(5).await;
    slow.wait_for(1).await;
    for sent in 1..=3 {
        app.nothing_comes(&slow, sent, std::time::Duration::from_millis(999)).await;
        app.clock.advance(std::time::Duration::from_millis(1));
        slow.wait_for(sent + 1).await;
    }
}

fn threaded(slack: &Receiver) -> Routes {
    bot(routes().interactor(), "ops", slack, ", thread_by: $.data.credential_id, rate_limit: 100/s")
}

async fn about(app: &TestApp, id: &str, credential: &str) {
    app.takes_of(id, "credential.expired", json!({"credential_id": credential})).await;
}

#[tokio::test]
async fn later_messages_answer_the_first_of_their_thread_over_a_restart() {
    let slack = taking().await;
    let app = spawn_app(threaded(&slack)).await;
    about(&app, "evt_1", "cred_a").await;
    slack.wait_for(1).await;
    about(&app, "evt_2", "cred_b").await;
    slack.wait_for(2).await;
    about(&app, "evt_3", "cred_a").await;
    slack.wait_for(3).await;
    app.counts("state=delivered", 3).await;
    let app = app.restart(threaded(&slack)).await;
    about(&app, "evt_4", "cred_b").await;
    app.takes_of("evt_5", "credential.expired", json!({})).await;
    let seen = slack.wait_for(5).await;
    let roots: Vec<Value> = seen.iter().map(|request| request.json()["thread_ts"].clone()).collect();
    assert_eq!(roots[..3], [Value::Null, Value::Null, json!("1700000000.000100")]);
    let mut last = roots[3..].to_vec();
    last.sort_by_key(Value::is_null);
    assert_eq!(last, [json!("1700000001.000100"), Value::Null], "an event without a key stands alone");
}

#[tokio::test]
async fn several_at_once_begin_one_thread() {
    let slack = taking().await;
    let app = spawn_app(threaded(&slack)).await;
    // Held back, so that they are begun together.
    app.tells("ops", "pause").await;
    for n in 1..=6 {
        about(&app, &format!("evt_{n}"), "cred_a").await;
    }
    app.tells("ops", "resume").await;
    let seen = slack.wait_for(6).await;
    assert_eq!(seen.iter().filter(|request| request.json().get("thread_ts").is_none()).count(), 1);
    app.counts("state=delivered", 6).await;
}

#[tokio::test]
async fn a_thread_whose_first_message_is_gone_begins_anew() {
    let slack = Receiver::answering(|request, place| match request.json().get("thread_ts").and_then(Value::as_str) {
        Some("1700000000.000100") => says(200, r#"{"ok":false,"error":"thread_not_found"}"#),
        _ => says(200, &format!(r#"{{"ok":true,"ts":"170000000{place}.000100"}}"#)),
    })
    .await;
    let app = spawn_app(threaded(&slack)).await;
    for (event, requests) in [("evt_1", 1), ("evt_2", 3), ("evt_3", 4)] {
        about(&app, event, "cred_a").await;
        slack.wait_for(requests).await;
    }
    app.counts("state=delivered", 3).await;
    let roots: Vec<Value> = slack.seen().iter().map(|request| request.json()["thread_ts"].clone()).collect();
    assert_eq!(roots, [Value::Null, json!("1700000000.000100"), Value::Null, json!("1700000002.000100")]);
}

#[tokio::test]
async fn neither_the_path_nor_the_token_is_shown() {
    let slack = Receiver::start([says(500, "rollup_error")]).await;
    let app = spawn_app(bot(hook(routes().interactor(), "hook", &slack, ""), "bot", &slack, "")).await;
    app.takes("evt_1").await;
    let mut shown = String::new();
    for target in ["hook", "bot"] {
        let row = app.tried(&format!("target={target}"), 1).await;
        shown += &app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await.to_string();
    }
    shown += &app.data("/api/v1/targets").await.to_string();
    assert!(!shown.contains("hush") && shown.contains("/***"), "{shown}");
}

#[tokio::test]
async fn a_template_makes_the_message_and_one_that_fails_is_told_of() {
    let slack = Receiver::start([says(200, "ok")]).await;
    let file = hook(routes().interactor(), "own", &slack, ", template: \"gone: {{ event.data.credential_id }}\"");
    let file = hook(file, "broken", &slack, ", template: \"{{ event.data.a.b.c }}\"");
    let app = spawn_app(file).await;
    about(&app, "evt_1", "<cred>").await;
    let texts: Vec<String> = slack.wait_for(2).await.iter().map(|request| request.text()).collect();
    assert!(texts.iter().any(|text| text.contains("gone: &lt;cred&gt;")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("failed")), "{texts:?}");
    until("the failure to be counted", SOON, async || {
        (app.metric("hookyard_template_failures_total", &[]).await == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_destination_is_probed_and_heals() {
    let slack = Receiver::start([says(404, "channel_not_found"), says(200, "ok")]).await;
    let app = spawn_app(hook(routes().interactor(), "ops", &slack, "")).await;
    app.takes_many(3).await;
    app.target_is("ops", "broken").await;
    app.clock.advance(seconds(30));
    slack.wait_for(2).await;
    app.target_is("ops", "ok").await;
    until("the rest", SOON, async || {
        app.clock.advance(seconds(1));
        (app.rows("state=delivered").await.len() == 3).then_some(())
    })
    .await;
    app.clock.advance(hours(1));
    assert_eq!(slack.count(), 4);
}
