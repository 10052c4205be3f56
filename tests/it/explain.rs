//! `hookyard explain` and `POST /api/v1/explain`: which rules fire and why not, and what each target would get and when.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Home, Receiver, Relay, Routes, TestApp, app::MINUTELY, relay::TOKEN, routes, signed, spawn_app};

const HOUR: Duration = Duration::from_secs(3600);

/// An event that nothing else was said of.
fn expired(credential: &str) -> Value {
    json!({"event": {"source": "interactor", "type": "credential.expired", "namespace": "user_123",
        "data": {"credential_id": credential, "service_name": "Google Calendar"}}})
}

/// What is answered about the target `name`.
fn of<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let found = answer["targets"].as_array().unwrap().iter().find(|it| it["target"] == name);
    found.unwrap_or_else(|| panic!("{name} is not reached: {answer:#}"))
}

/// State, cause and end: `held quiet 2026-01-21T06:00:00.000Z`.
fn fate(it: &Value) -> String {
    ["state", "cause", "until"].iter().filter_map(|name| it[*name].as_str()).collect::<Vec<_>>().join(" ")
}

fn two_rules(crm: &Receiver) -> Routes {
    let file = routes().interactor().webhook_with("crm", crm, &format!("order_by: $.data.credential_id, {MINUTELY}"));
    let file = file.rule("name: expired, match: {type: credential.expired}, to: [crm]");
    let file = file.rule(
        "name: large, match: {namespace: \"user_*\"}, when: [{path: $.data.amount, gt: 1000}], to: [crm], severity: critical",
    );
    file.rule("name: audit, match: {type: \"**\"}, to: [crm], severity: warning")
}

#[tokio::test]
async fn every_rule_says_why_and_every_target_what_it_would_get() {
    let crm = Receiver::ok().await;
    let app = spawn_app(two_rules(&crm)).await;
    let answer = app.posts("/api/v1/explain", &expired("cred_abc")).await;
    let rules: Vec<_> = answer["rules"].as_array().unwrap().iter().map(|it| it["reason"].as_str().unwrap_or("fires")).collect();
    assert_eq!(rules, ["fires", "when[0]: $.data.amount is absent, wanted > 1000", "fires"], "{answer:#}");
    assert_eq!((&answer["verdict"], &answer["at"]), (&json!("matched"), &json!("2026-01-20T12:00:00.000Z")));
    let crm_now = of(&answer, "crm");
    assert_eq!(fate(crm_now), "now");
    assert_eq!((&crm_now["rules"], &crm_now["severity"]), (&json!(["expired", "audit"]), &json!("warning")));
    assert_eq!((&crm_now["severity_by"], &crm_now["order_key"]), (&json!("audit"), &json!("cred_abc")));
    assert!(crm_now["url"].as_str().unwrap().ends_with("/***"));
    let body: Value = serde_json::from_str(crm_now["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["data"]["service_name"], "Google Calendar");
    let headers = crm_now["headers"].as_array().unwrap();
    let header = |name: &str| headers.iter().find(|it| it["name"] == name).map(|it| it["value"].as_str().unwrap());
    assert_eq!((header("webhook-signature"), header("content-type")), (Some("***"), Some("application/json")));
    assert_eq!(crm.count(), 0, "nothing is sent");
    assert!(app.all("/api/v1/events").await.is_empty(), "nothing is kept");
}

#[tokio::test]
async fn what_is_told_is_what_comes() {
    let crm = Receiver::ok().await;
    let throttle = "throttle: {key: $.data.credential_id, limit: 1, per: 24h, reset_on: [credential.refreshed]}";
    let app = spawn_app(
        routes()
            .interactor()
            .webhook_with("crm", &crm, MINUTELY)
            .rule(&format!("name: expired, match: {{type: credential.*}}, to: [crm], {throttle}")),
    )
    .await;
    let ask = async || app.posts("/api/v1/explain", &expired("c1")).await;
    // Asking counts for nothing: however often, the first one may go.
    for _ in 0..3 {
        assert_eq!(fate(of(&ask().await, "crm")), "now");
    }
    app.takes_of("evt_1", "credential.expired", json!({"credential_id": "c1"})).await;
    app.reaches("target=crm", "delivered").await;
    for _ in 0..3 {
        assert_eq!(fate(of(&ask().await, "crm")), "suppressed throttle 2026-01-21T12:00:00.000Z");
    }
    assert_eq!(fate(of(&app.posts("/api/v1/explain", &expired("c2")).await, "crm")), "now", "another key");
    app.takes_of("evt_2", "credential.expired", json!({"credential_id": "c1"})).await;
    app.counts("state=suppressed", 1).await;
    // One that ends the window is not held back by it, and says what it ends.
    let refreshed = json!({"event": {"source": "interactor", "type": "credential.refreshed", "data": {"credential_id": "c1"}}});
    let answer = app.posts("/api/v1/explain", &refreshed).await;
    assert_eq!(fate(of(&answer, "crm")), "now");
    assert_eq!(answer["ends"], json!([{"rule": "expired", "what": "throttle"}]));
    assert_eq!(fate(of(&ask().await, "crm")), "suppressed throttle 2026-01-21T12:00:00.000Z", "it was only asked about");
    app.clock.advance(24 * HOUR);
    assert_eq!(fate(of(&ask().await, "crm")), "now");
}

#[tokio::test]
async fn lanes_and_mutes_are_known() {
    let crm = Receiver::start([503; 40]).await;
    let file = two_rules(&crm).webhook_with("other", &crm, MINUTELY);
    let app = spawn_app(file.rule("name: other, match: {type: credential.expired}, to: [other]")).await;
    let ask = async || app.posts("/api/v1/explain", &expired("c1")).await;
    app.tells("other", "pause").await;
    let answer = ask().await;
    let other = of(&answer, "other");
    assert_eq!((fate(other), &other["then"]), ("held paused".to_owned(), &Value::Null));
    assert!(other["reason"].as_str().unwrap().starts_with("by admin since 2026-01-20T12:00:00Z"), "{other}");
    let mute = json!({"type": "credential.*", "target": "*", "reason": "we know", "author": "dana", "for": "2h"});
    app.posts("/api/v1/mutes", &mute).await;
    let answer = ask().await;
    assert_eq!(fate(of(&answer, "crm")), "suppressed mute 2026-01-20T14:00:00.000Z");
    assert!(of(&answer, "crm")["reason"].as_str().unwrap().starts_with("we know (dana, mute_"), "{answer:#}");
    let other = of(&answer, "other");
    assert_eq!((fate(other), fate(&other["then"])), ("held paused".into(), "suppressed mute 2026-01-20T14:00:00.000Z".into()));
    app.clock.advance(2 * HOUR);
    assert_eq!(fate(of(&ask().await, "crm")), "now");
    for n in 0..5 {
        app.takes_of(&format!("evt_{n}"), "a.b", json!({"credential_id": n})).await;
    }
    app.target_is("crm", "broken").await;
    let answer = ask().await;
    let held = of(&answer, "crm");
    assert!(fate(held).starts_with("held broken 2026-01-20T14:00:"), "{held}");
    assert!(held["reason"].as_str().unwrap().contains("http_503"), "{held}");
}

#[tokio::test]
async fn digests_quiet_hours_and_ttl_are_told_with_their_ends() {
    let slack = Receiver::ok().await;
    let kind = format!("kind: slack, url: \"{}\"", slack.url());
    let file = routes()
        .interactor()
        .destination("day", &kind)
        .destination("hold", &format!("{kind}, quiet: {{schedule: now, then: hold, except: [critical]}}"))
        .destination("gather", &format!("{kind}, quiet: {{schedule: now, then: digest}}"))
        .destination("drop", &format!("{kind}, quiet: {{schedule: now, then: drop}}"))
        .destination("stale", &format!("{kind}, ttl: 1h, quiet: {{schedule: now}}"))
        .rule("name: digest, match: {type: a.b}, to: [day], digest: {key: $.namespace, window: 10m, max: 3}")
        .rule("name: all, match: {type: \"credential.*\"}, to: [hold, gather, drop, stale]")
        .rule("name: grave, match: {type: credential.expired}, when: [{path: $.data.grave, exists: true}], to: [hold], severity: critical")
        .section("schedules: {now: {tz: UTC, windows: [{days: mon-sun, from: \"11:00\", to: \"15:00\"}]}}");
    let app = spawn_app(file).await;
    let answer = app.posts("/api/v1/explain", &expired("c1")).await;
    let end = "2026-01-20T15:00:00.000Z";
    assert_eq!(fate(of(&answer, "hold")), format!("held quiet {end}"));
    assert_eq!(fate(of(&answer, "gather")), format!("digested quiet {end}"));
    assert_eq!(fate(of(&answer, "drop")), format!("suppressed quiet {end}"));
    assert_eq!(fate(of(&answer, "stale")), "expired 2026-01-20T13:00:00.000Z");
    let mut grave = expired("c1");
    grave["event"]["data"]["grave"] = true.into();
    assert_eq!(fate(of(&app.posts("/api/v1/explain", &grave).await, "hold")), "now", "critical ones are let through");

    let gathered = json!({"event": {"source": "interactor", "type": "a.b", "namespace": "n", "data": {"namespace": "n"}}});
    let ask = async || of(&app.posts("/api/v1/explain", &gathered).await, "day").clone();
    assert_eq!(fate(&ask().await), "digested 2026-01-20T12:10:00.000Z");
    app.takes_of("evt_1", "a.b", json!({"namespace": "n"})).await;
    crate::support::until("the digest to begin", crate::support::SOON, async || {
        ask().await["reason"].as_str().unwrap().starts_with("1 gathered").then_some(())
    })
    .await;
    app.clock.advance(Duration::from_secs(60));
    assert_eq!(fate(&ask().await), "digested 2026-01-20T12:10:00.000Z", "the window of the first one");
}

#[tokio::test]
async fn messages_to_people_show_their_text_and_whom_they_reach() {
    let file = routes()
        .interactor()
        .destination("mail", "kind: email, smtp: {host: 127.0.0.1, port: 1, tls: none}, from: relay@example.com, to: contact")
        .destination("wa", "kind: whatsapp, account_sid: AC1, auth_token: hush-token, from: \"+14155238886\", to: [\"+15550100\"], body: \"{{ event.data.service_name }} is out\"")
        .section("contacts: [{namespace: user_123, email: [dana@example.com]}]");
    let app = spawn_app(file).await;
    let answer = app.posts("/api/v1/explain", &expired("c1")).await;
    let mail = of(&answer, "mail");
    assert_eq!((&mail["recipients"], &mail["headers"]), (&json!(["dana@example.com"]), &json!([])));
    let body = mail["body"].as_str().unwrap();
    assert!(body.starts_with("Subject: ") && body.contains("Google Calendar"), "{body}");
    let wa = of(&answer, "wa");
    assert_eq!((&wa["recipients"], &wa["body"]), (&json!(["+15550100"]), &json!("Body: Google Calendar is out")));
    let nobody = json!({"event": {"source": "interactor", "type": "credential.expired", "namespace": "x", "data": {}}});
    let answer = app.posts("/api/v1/explain", &nobody).await;
    assert!(of(&answer, "mail")["unaddressed"].as_str().unwrap().contains("no contact"), "{answer:#}");
    assert!(!answer.to_string().contains("hush-token"));
}

#[tokio::test]
async fn a_preview_acts_for_nobody_and_asks_nobody() {
    let (slack, api) = (Receiver::ok().await, Receiver::ok().await);
    let reconnect = format!(
        "reconnect: {{connector_api: \"http://{}/\", api_key: hush-key, connectors: {{google_calendar: google-calendar}}}}",
        api.addr
    );
    let file = routes()
        .interactor()
        .server("public_url: https://relay.example.com")
        .destination("ops", &format!("kind: slack, url: \"{}\"", slack.url()))
        .destination("mail", "kind: email, smtp: {host: 127.0.0.1, port: 1, tls: none}, from: relay@example.com, to: contact")
        .section(&reconnect)
        .section(&format!("contacts_lookup: {{url: \"http://{}/people/{{namespace}}\"}}", api.addr));
    let app = spawn_app(file.clone()).await;
    let mut question = expired("c1");
    question["event"]["data"]["service_id"] = "google_calendar".into();
    let answer = app.posts("/api/v1/explain", &question).await;
    let (ops, mail) = (of(&answer, "ops"), of(&answer, "mail"));
    for body in [&ops["body"], &mail["body"]] {
        let body = body.as_str().unwrap();
        let (_, link) = body.split_once("https://relay.example.com/reconnect/").unwrap_or_else(|| panic!("{body}"));
        assert!(link.starts_with("***"), "a link that works is a person's alone: {body}");
    }
    assert!(mail["unaddressed"].as_str().unwrap().contains("has not been asked"), "{mail}");
    let home = Home::new();
    home.write("routes.yaml", &file.text());
    home.write("event.json", &question["event"].to_string());
    let (status, out, err) = offline(&home, &["event.json", "--full"]).await;
    assert!(status == Some(0) && out.contains("/reconnect/***") && out.contains("has not been asked"), "{out}{err}");
    assert!(!format!("{answer}{out}").contains("hush-key"));
    assert_eq!((slack.count(), api.count()), (0, 0));
}

#[tokio::test]
async fn an_event_is_stored_written_down_or_as_its_sender_sends_it() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().seeds().webhook("crm", &crm)).await;
    app.takes("evt_stored").await;
    let uid = app.all("/api/v1/events").await.remove(0)["uid"].clone();
    for question in [
        json!({"uid": uid}),
        json!({"id": uid}),
        json!({"id": "evt_stored"}),
        json!({"id": "evt_stored", "source": "interactor"}),
    ] {
        let answer = app.posts("/api/v1/explain", &question).await;
        assert_eq!((&answer["event"]["id"], &answer["event"]["type"]), (&json!("evt_stored"), &json!("credential.expired")));
    }
    let envelope = app.data(&format!("/api/v1/events/{}", uid.as_str().unwrap())).await["envelope"].take();
    assert_eq!(app.posts("/api/v1/explain", &json!({"event": envelope})).await["event"]["id"], "evt_stored");
    let gmail = json!({"connector": "gmail", "account": "user_9", "message": {"id": "m1", "thread_id": "t1"}});
    let answer = app.posts("/api/v1/explain", &json!({"source": "connectors", "body": gmail})).await;
    let event = &answer["event"];
    assert_eq!((&event["type"], &event["namespace"]), (&json!("connector.gmail.email_sent"), &json!("user_9")), "{event}");
    let unmapped = app.posts("/api/v1/explain", &json!({"source": "connectors", "body": {"x": 1}})).await;
    assert_eq!(unmapped["event"]["type"], "trigger.unmapped");

    for (question, status, word) in [
        (json!({}), 400, "give one of"),
        (json!({"event": {"type": "a"}}), 400, "names no `source`"),
        (json!({"event": {"source": "nobody", "type": "a"}}), 400, "there is no source `nobody`"),
        (json!({"event": {"source": "interactor"}}), 400, "`type`"),
        (json!({"event": {"source": "interactor", "type": "a", "nmaespace": "x"}}), 400, "nmaespace"),
        (json!({"source": "interactor", "body": {"type": "a"}}), 400, "`id`"),
        (json!({"evnt": {}}), 400, "evnt"),
        (json!({"id": "evt_unknown"}), 404, "no event is here"),
        (json!({"uid": "ev_00"}), 404, "no event is here"),
    ] {
        let answer = app.post("/api/v1/explain", &question).await;
        assert!(answer.status == status && answer.text().contains(word), "{question}: {} {}", answer.status, answer.text());
    }
    assert_eq!(app.get_as("/api/v1/explain", None).await.status, 401);
}

/// Runs `explain` on the file in `home`, which no relay runs on.
async fn offline(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = home.run(&[&["explain"], arguments].concat()).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_file_alone_is_asked_by_default() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    home.write("routes.yaml", &two_rules(&crm).text());
    home.write("event.json", &expired("c1")["event"].to_string());
    home.write("sent.json", &signed::event("evt_sent"));
    let (status, out, err) = offline(&home, &["event.json"]).await;
    assert_eq!(status, Some(0), "{out}{err}");
    for part in
        ["✓ expired → crm", "✗ large: when[0]: $.data.amount is absent, wanted > 1000", "crm  now", "webhook-signature", "--live"]
    {
        assert!(out.contains(part), "{part}:\n{out}");
    }
    assert!(!out.contains('\u{1b}'), "colours are for terminals: {out}");
    let (status, out, err) = offline(&home, &["sent.json", "--source", "interactor", "--json"]).await;
    assert_eq!(status, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["data"]["event"]["id"], "evt_sent");
    let made = ["--type", "a.b", "--namespace", "user_1", "--data", "amount=2000", "--data", "credential_id=c9"];
    let (_, out, _) = offline(&home, &made).await;
    assert!(out.contains("✓ large → crm") && out.contains("critical of rule large") && out.contains("ordered by c9"), "{out}");
    let (_, out, err) = offline(&home, &["--type", "credential.expired", "--full"]).await;
    assert!(out.contains("Google Calendar") && err.contains("sample"), "the seeds' data: {out}{err}");
    assert_eq!(crm.count(), 0);
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "it leaves nothing behind: {left:?}");
}

#[tokio::test]
async fn scripts_hold_it_to_what_they_expect() {
    let crm = Receiver::ok().await;
    let home = Home::new();
    home.write("routes.yaml", &two_rules(&crm).text());
    let base = ["--type", "a.b"];
    let with = async |more: &[&str]| offline(&home, &[&base, more].concat()).await;
    assert_eq!(with(&["--expect", "to=crm", "--expect", "rules=audit"]).await.0, Some(0));
    let (status, _, err) = with(&["--expect", "to=crm,mail"]).await;
    assert!(status == Some(1) && err.contains("missing: mail"), "{err}");
    assert_eq!(with(&["--expect", "rules=", "--json"]).await.0, Some(1));
    for usage in [&["--expect", "nonsense"][..], &["--id", "evt_1"], &["--source", "nobody"], &["no-such.json"], &["--data", "x"]]
    {
        let (status, out, err) = with(usage).await;
        assert!(status == Some(2) && out.is_empty() && !err.is_empty(), "{usage:?}: {status:?} {err}");
    }
    assert_eq!(offline(&home, &[]).await.0, Some(2));
    assert_eq!(offline(&home, &["--id", "evt_1", "--url", "http://127.0.0.1:9"]).await.0, Some(3));
    home.write("routes.yaml", "version: 1\nrulse: []\n");
    let (status, _, err) = with(&[]).await;
    assert!(status == Some(1) && err.contains("routes.yaml:2:1"), "{err}");
}

#[tokio::test]
async fn the_running_relay_is_asked_about_what_it_holds() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&two_rules(&crm)).await;
    relay.accepts(&signed::interactor(signed::event("evt_held"))).await;
    relay.settled("", 1).await;
    relay.post("/api/v1/targets/crm/pause", &json!({})).await;
    let out = relay.cli_ok(&["explain", "--id", "evt_held"]).await;
    assert!(out.contains("evt_held from interactor") && out.contains("crm  held (paused): by admin"), "{out}");
    relay.home.write("event.json", &expired("c1")["event"].to_string());
    for live in [
        &["explain", "event.json", "--live"][..],
        &["explain", "--live", "--type", "a.b", "--source", "interactor", "--data", "a=1"],
    ] {
        assert!(relay.cli_ok(live).await.contains("held (paused)"), "{live:?}");
    }
    assert_eq!(relay.cli(&["explain", "--id", "evt_none"]).await.status.code(), Some(1));
    assert!(!out.contains(TOKEN));
}

/// Everything that a question could have changed.
async fn all_of(app: &TestApp) -> Value {
    json!([
        app.rows("").await,
        app.data("/api/v1/targets").await,
        app.data("/api/v1/mutes").await,
        app.all("/api/v1/events").await
    ])
}

#[tokio::test]
async fn asking_changes_nothing() {
    let crm = Receiver::ok().await;
    let app = spawn_app(two_rules(&crm)).await;
    app.takes_many(3).await;
    app.counts("state=delivered", 3).await;
    let before = all_of(&app).await;
    for n in 0..20 {
        app.posts("/api/v1/explain", &expired(&format!("c{n}"))).await;
    }
    assert_eq!(all_of(&app).await, before);
    assert_eq!(crm.count(), 3);
}
