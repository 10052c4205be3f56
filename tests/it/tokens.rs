//! Tokens of the API: what they may do, how they begin and end, how much they may ask, and who is told of every change.

use serde_json::{Value, json};

use crate::support::{Receiver, Relay, SOON, TestApp, hours, minutes, relay::TOKEN, routes, seconds, spawn_app, until};

const TOKENS: &str = "/api/v1/tokens";

/// A relay without destinations.
async fn plain() -> TestApp {
    spawn_app(routes().interactor()).await
}

/// What the audit says was done, oldest first: `who what subject`.
async fn done(app: &TestApp) -> Vec<String> {
    let rows = app.all("/api/v1/audit").await;
    let text = |row: &Value| {
        let said = |name: &str| row[name].as_str().unwrap().to_owned();
        format!("{} {} {}", said("who"), said("what"), said("subject"))
    };
    rows.iter().rev().map(text).collect()
}

#[tokio::test]
pub(crate) async fn a_token_does_what_its_scopes_say_until_it_is_revoked() {
    let app = plain().await;
    let wanted = json!({"name": "Webhook Manager", "scopes": ["events:read"], "expires_in": "1h"});
    let answer = app.post(TOKENS, &wanted).await;
    assert_eq!(answer.status, 201);
    let made = answer.json()["data"].take();
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("hy_") && token.len() == 3 + 64, "{token}");
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        (&made["namespaces"], &made["last_used_at"], made["state"].as_str()),
        (&Value::Null, &Value::Null, Some("active"))
    );

    assert_eq!(app.get_as("/api/v1/events", Some(token)).await.status, 200);
    for path in ["/api/v1/deliveries", "/api/v1/config", TOKENS, "/api/v1/audit", "/api/v1/targets"] {
        app.get_as(path, Some(token)).await.refused(403, "forbidden");
    }
    app.ask_as(token, "POST", "/api/v1/config/reload", None).await.refused(403, "forbidden");
    assert_eq!(app.get_as("/api/v1/nothing", Some(token)).await.status, 404);

    let path = format!("{TOKENS}/{id}");
    let shown = app.data(&path).await;
    assert_eq!((shown.get("token"), shown["last_used_at"].as_str()), (None, Some("2026-01-20T12:00:00.000Z")));
    assert!(!app.get(TOKENS).await.text().contains(token));
    let revoked = app.ask_as(TOKEN, "DELETE", &path, None).await;
    assert_eq!((revoked.status, revoked.json()["data"]["state"].as_str()), (200, Some("revoked")));
    app.get_as("/api/v1/events", Some(token)).await.refused(401, "unauthorized");
    // It is shown, ended once, and ending it again says so.
    assert_eq!(app.data(TOKENS).await[0]["state"], "revoked");
    assert_eq!(app.ask_as(TOKEN, "DELETE", &path, None).await.status, 200);
    app.ask_as(TOKEN, "DELETE", &format!("{TOKENS}/tok_none"), None).await.refused(404, "not_found");
    let entry = |what: &str| format!("bootstrap token.{what} {id}");
    assert_eq!(done(&app).await, [entry("created"), entry("revoked")]);
}

#[tokio::test]
pub(crate) async fn a_token_ends_by_itself_and_outlives_a_restart() {
    let app = plain().await;
    let made = app.posts(TOKENS, &json!({"name": "CI", "scopes": ["events:read"], "expires_in": "1h"})).await;
    let token = made["token"].as_str().unwrap();
    let app = app.restart_after(minutes(59), routes().interactor()).await;
    assert_eq!(app.get_as("/api/v1/events", Some(token)).await.status, 200);
    app.clock.advance(minutes(1));
    app.get_as("/api/v1/events", Some(token)).await.refused(401, "unauthorized");
    assert_eq!(app.data(TOKENS).await[0]["state"], "expired");
    // Those that are over are forgotten in the end.
    app.clock.advance(hours(30 * 24));
    until("the token to be forgotten", SOON, async || {
        app.clock.advance(seconds(5));
        (app.data(TOKENS).await == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
pub(crate) async fn a_token_cannot_be_more_than_it_may() {
    let app = plain().await;
    for (wanted, names) in [
        (json!({}), "name"),
        (json!({"name": "a", "scopes": []}), "scopes"),
        (json!({"name": "a", "scopes": ["everything"]}), "scopes"),
        (json!({"name": "a", "scopes": ["admin"], "namespaces": ["a"]}), "namespaces"),
        (json!({"name": "a", "scopes": ["config:read"], "namespaces": ["a"]}), "config:read"),
        (json!({"name": "a", "scopes": ["webhooks"], "namespaces": []}), "namespaces"),
        (json!({"name": "a", "scopes": ["webhooks"], "expires_at": "2026-01-20T11:59:59Z"}), "expires_at"),
        (json!({"name": "a", "scopes": ["webhooks"], "owner": "me"}), "owner"),
    ] {
        let answer = app.post(TOKENS, &wanted).await;
        answer.refused(400, "invalid_request");
        assert!(answer.text().contains(names), "{wanted}: {}", answer.text());
    }
    assert_eq!(app.data(TOKENS).await, json!([]));
    let other = app.token(&["webhooks", "config:write", "deliveries:write"], &[]).await;
    let wanted = json!({"name": "a", "scopes": ["webhooks"]});
    app.ask_as(&other, "POST", TOKENS, Some(&wanted)).await.refused(403, "forbidden");
    // One admin makes another.
    let admin = app.token(&["admin"], &[]).await;
    assert_eq!(app.ask_as(&admin, "POST", TOKENS, Some(&json!({"name": "a", "scopes": ["admin"]}))).await.status, 201);
}

#[tokio::test]
pub(crate) async fn a_created_token_has_a_rate_and_is_told_of_it_on_every_answer() {
    let app = spawn_app(routes().interactor().server("api_rate_limit: {rate: 2/s, burst: 3}")).await;
    let (token, other) = (app.token(&["events:read"], &[]).await, app.token(&["events:read"], &[]).await);
    let told = |answer: &crate::support::Answer| {
        ["limit", "remaining", "reset"].map(|name| answer.header(&format!("x-ratelimit-{name}")).to_owned())
    };
    let now = app.clock.now().as_second();
    assert_eq!(told(&app.get_as("/api/v1/events", Some(&token)).await), ["3", "2", &(now + 1).to_string()]);
    // What is refused counts and tells as well.
    assert_eq!(told(&app.get_as("/api/v1/config", Some(&token)).await), ["3", "1", &(now + 1).to_string()]);
    assert_eq!(told(&app.get_as("/api/v1/events?nonsense=1", Some(&token)).await), ["3", "0", &(now + 2).to_string()]);
    let limited = app.get_as("/api/v1/events", Some(&token)).await;
    limited.refused(429, "rate_limited");
    assert_eq!(told(&limited), ["3", "0", &(now + 2).to_string()]);
    assert_eq!((limited.header("retry-after"), &limited.json()["retry_after"]), ("1", &json!(1)));
    assert_eq!(app.get_as("/api/v1/events", Some(&other)).await.status, 200);
    app.clock.advance(seconds(1));
    assert_eq!(app.get_as("/api/v1/events", Some(&token)).await.status, 200);
    // The token of the start has none, and another file another rate.
    let own = app.get("/api/v1/events").await;
    assert_eq!((own.status, told(&own)), (200, [String::new(), String::new(), String::new()]));
    app.reload(routes().interactor().server("api_rate_limit: {rate: 1/s, burst: 50}")).await;
    assert_eq!(told(&app.get_as("/api/v1/events", Some(&token)).await)[..2], ["50", "49"]);
}

#[tokio::test]
pub(crate) async fn tokens_cannot_be_guessed_at_speed() {
    let app = plain().await;
    let token = app.token(&["events:read"], &[]).await;
    let guess = format!("hy_{}", "0".repeat(64));
    // The token of the start was a guess too, until it was right.
    for _ in 0..98 {
        app.get_as("/api/v1/events", Some(&guess)).await.refused(401, "unauthorized");
    }
    app.get_as("/api/v1/events", Some("admin")).await.refused(401, "unauthorized");
    let limited = app.get_as("/api/v1/events", Some(&guess)).await;
    limited.refused(429, "rate_limited");
    assert_eq!(limited.header("retry-after"), "1");
    // No token is no guess, and what is right goes on.
    app.get_as("/api/v1/events", None).await.refused(401, "unauthorized");
    assert_eq!((app.get_as("/api/v1/events", Some(&token)).await.status, app.get("/api/v1/events").await.status), (200, 200));
    app.clock.advance(seconds(1));
    app.get_as("/api/v1/events", Some(&guess)).await.refused(401, "unauthorized");
}

#[tokio::test]
pub(crate) async fn every_change_tells_who_what_before_and_after() {
    let crm = Receiver::answering(|_, _| 400.into()).await;
    let file = || routes().interactor().webhook("crm", &crm);
    let app = spawn_app(file()).await;
    app.takes_many(2).await;
    let dead = app.counts("state=dead", 2).await;
    let id = |at: usize| dead[at]["id"].as_str().unwrap().to_owned();
    let person = app.posts(TOKENS, &json!({"name": "Dana", "scopes": ["admin"]})).await;
    let (token, who) = (person["token"].as_str().unwrap(), person["id"].as_str().unwrap().to_owned());
    let post = async |path: String, body: Value| {
        let answer = app.ask_as(token, "POST", &path, Some(&body)).await;
        assert!(answer.status < 300, "{path}: {}", answer.text());
        answer.json()["data"].take()
    };
    for verb in ["pause", "resume", "close", "test"] {
        post(format!("/api/v1/targets/crm/{verb}"), json!({})).await;
    }
    post(format!("/api/v1/dead-letters/{}/resolve", id(0)), json!({"note": "by hand"})).await;
    post("/api/v1/targets/crm/pause".into(), json!({})).await;
    post(format!("/api/v1/deliveries/{}/retry", id(1)), json!({})).await;
    post(format!("/api/v1/deliveries/{}/cancel", id(1)), json!({})).await;
    let mute = post("/api/v1/mutes".into(), json!({"target": "crm", "for": "1h", "reason": "move"})).await;
    let mute = mute["id"].as_str().unwrap().to_owned();
    assert_eq!(app.ask_as(token, "DELETE", &format!("/api/v1/mutes/{mute}"), None).await.status, 200);
    let job = post("/api/v1/replays".into(), json!({"target": "crm"})).await["id"].as_str().unwrap().to_owned();
    // Only counted: nothing is changed.
    post("/api/v1/replays".into(), json!({"target": "crm", "dry_run": true})).await;
    post("/api/v1/rejections/retry".into(), json!({"source": "interactor"})).await;
    app.writes(file().webhook("more", &crm));
    post("/api/v1/config/reload".into(), json!({})).await;

    let entries = app.all(&format!("/api/v1/audit?who={who}")).await;
    let what: Vec<_> = entries
        .iter()
        .rev()
        .map(|row| format!("{} {}", row["what"].as_str().unwrap(), row["subject"].as_str().unwrap()))
        .collect();
    let file = entries[0]["subject"].as_str().unwrap();
    assert!(file.ends_with("routes.yaml"), "{file}");
    assert_eq!(
        what,
        [
            "target.paused crm".to_owned(),
            "target.resumed crm".into(),
            "target.closed crm".into(),
            "target.tested crm".into(),
            format!("dead_letter.resolved {}", id(0)),
            "target.paused crm".into(),
            format!("delivery.retried {}", id(1)),
            format!("delivery.cancelled {}", id(1)),
            format!("mute.added {mute}"),
            format!("mute.removed {mute}"),
            format!("job.begun {job}"),
            "rejections.retried interactor".into(),
            format!("config.reloaded {file}"),
        ]
    );
    assert!(entries.iter().all(|row| row["name"] == "Dana"));
    let of = |what: &str| entries.iter().find(|row| row["what"] == what).unwrap();
    let paused = of("target.paused");
    assert_eq!((paused["before"]["state"].as_str(), paused["after"]["state"].as_str()), (Some("ok"), Some("paused")));
    let resolved = of("dead_letter.resolved");
    assert_eq!((&resolved["before"]["state"], &resolved["after"]["note"]), (&json!("dead"), &json!("by hand")));
    assert_eq!((&of("mute.added")["before"], &of("mute.added")["after"]["reason"]), (&Value::Null, &json!("move")));
    assert_ne!(of("config.reloaded")["before"], of("config.reloaded")["after"]);
    assert_eq!(app.data("/api/v1/targets/crm").await["paused_by"], "Dana");

    // Filters and pages.
    assert_eq!(app.all("/api/v1/audit?what=target.").await.len(), 5);
    assert_eq!(app.all(&format!("/api/v1/audit?subject={}", id(1))).await.len(), 2);
    assert_eq!(app.all("/api/v1/audit?until=2026-01-20T12:00:00Z").await.len(), 0);
    let all = app.all("/api/v1/audit").await;
    let page = app.get("/api/v1/audit?limit=4").await.json();
    assert_eq!(page["data"].as_array().unwrap()[..], all[..4]);
    let next = page["next"].as_str().unwrap();
    assert_eq!(app.data(&format!("/api/v1/audit?limit=4&after={next}")).await.as_array().unwrap()[..], all[4..8]);
}

#[tokio::test]
pub(crate) async fn the_audit_is_kept_as_long_as_the_file_says() {
    let app = spawn_app(routes().interactor().store("retention: {audit: 1h}")).await;
    app.token(&["admin"], &[]).await;
    assert_eq!(done(&app).await.len(), 1);
    app.clock.advance(hours(2));
    until("the entry to go", SOON, async || {
        app.clock.advance(seconds(5));
        done(&app).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
pub(crate) async fn the_command_line_makes_lists_and_revokes_tokens() {
    let relay = Relay::start(&routes().interactor()).await;
    let made = relay
        .cli(&[
            "token",
            "create",
            "--name",
            "zapier",
            "--scopes",
            "webhooks,events:read",
            "--namespace",
            "a,b",
            "--expires-in",
            "90d",
        ])
        .await;
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    // The token alone is data; what it is goes beside it.
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(token.starts_with("hy_") && token.len() == 67 && !String::from_utf8_lossy(&made.stderr).contains(&token), "{token}");
    assert_eq!(relay.get_as("/api/v1/events", Some(&token)).await.status, 200);
    let listed: Value = serde_json::from_slice(&relay.cli(&["token", "list", "--json"]).await.stdout).unwrap();
    let row = &listed["data"][0];
    assert_eq!(
        (row["name"].as_str(), &row["scopes"], &row["namespaces"]),
        (Some("zapier"), &json!(["webhooks", "events:read"]), &json!(["a,b"]))
    );
    let id = row["id"].as_str().unwrap();
    let table = String::from_utf8(relay.cli(&["token"]).await.stdout).unwrap();
    assert!(table.contains(id) && !table.contains(&token), "{table}");
    let revoked = relay.cli(&["token", "revoke", id]).await;
    assert!(revoked.status.success() && String::from_utf8_lossy(&revoked.stdout).contains("revoked"));
    relay.get_as("/api/v1/events", Some(&token)).await.refused(401, "unauthorized");
    assert_eq!(relay.cli(&["token", "create", "--name", "a", "--scopes", "sorcery"]).await.status.code(), Some(2));
    assert_eq!(relay.cli(&["token", "revoke", "tok_none"]).await.status.code(), Some(1));
}
