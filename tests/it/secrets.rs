//! Promise 5: a secret is never printed: not in logs, errors, API, metrics, or by the command line.

use crate::support::{
    Home, Receiver, Relay, Reply, Request, SOON, iso,
    relay::{TOKEN, finish},
    routes,
    routes::{FAST, OUT},
    seeds,
    signed::{self, event, interactor, interactor_by},
    until,
};

const PATH_SECRET: &str = "path-secret-V3ryPrivate";
const N8N_PATH: &str = "n8n-path-secret-9f8e7d";
const N8N_KEY: &str = "n8n-header-key-5a5a5a";
const PREVIOUS: &str = "whsec_cHJldmlvdXNwcmV2aW91c3ByZXZpb3Vz";
const USERINFO: &str = "basic-password-77abc";

/// Every text that must not be seen.
fn secrets() -> Vec<&'static str> {
    let bare = OUT.strip_prefix("whsec_").unwrap();
    vec![
        TOKEN,
        signed::INTERACTOR,
        signed::AGENT,
        signed::FORWARDING,
        signed::STANDARD,
        OUT,
        bare,
        PREVIOUS,
        PATH_SECRET,
        N8N_PATH,
        N8N_KEY,
        USERINFO,
    ]
}

#[track_caller]
fn clean(place: &str, text: &str) {
    for secret in secrets() {
        assert!(!text.contains(secret), "{secret} in {place}:\n{text}");
    }
}

#[tokio::test]
async fn nothing_that_can_be_read_shows_a_secret() {
    // A target that throws what it was sent back at the relay.
    let crm = Receiver::answering(|request, place| match place % 4 {
        0 => 200.into(),
        1 => Reply::with(302, "location", format!("https://example.com/{N8N_PATH}")),
        2 => 401.into(),
        _ => {
            let _ = request;
            Reply::Close
        }
    })
    .await;
    let gone = { Receiver::ok().await.addr };
    let routes = routes()
        .seeds()
        .standard()
        .source("hidden", &format!("kind: trigger, path: /triggers/hidden, path_secret: \"{PATH_SECRET}\", map: {{type: t}}"))
        .webhook_with("crm", &crm, &format!("signing: {{schemes: [standard, interactor], secrets: [\"{OUT}\", \"{PREVIOUS}\"]}}, {FAST}"))
        .destination("flow", &format!("kind: n8n, url: \"http://{gone}/webhook/{N8N_PATH}\", auth: {{header: {{name: X-Key, value: \"{N8N_KEY}\"}}}}, {FAST}"))
        .destination("basic", &format!("kind: n8n, url: \"http://{gone}/webhook/{N8N_PATH}\", auth: {{basic: {{username: u, password: \"{USERINFO}\"}}}}, {FAST}"))
        .destination("blocked", &format!("kind: webhook, url: \"https://10.0.0.1/{N8N_PATH}\""));
    let home = Home::new();
    home.write("routes.yaml", &routes.text());
    let mut command = home.command(&["serve", "--config", "routes.yaml"]);
    command.env("HOOKYARD_LOG", "trace");
    let relay = Relay::from(&home, command).await;

    let mut answers = String::new();
    for request in seeds::signed() {
        answers += &relay.send(&request).await.text();
    }
    let bad = [
        interactor_by("whsec_wrong", event("evt_x")),
        interactor(event("evt_x")).header("X-Interactor-Timestamp", iso(-9999)),
        interactor("{").to("/webhooks/renamed"),
        Request::json(&format!("/triggers/hidden/{PATH_SECRET}/more"), "{}"),
        Request::json(&format!("/triggers/hidden/{PATH_SECRET}"), "{"),
        Request::json(&format!("/triggers/gone/{PATH_SECRET}"), "{}"),
        Request::json(&format!("/triggers/hidden/{PATH_SECRET}"), r#"{"good":1}"#),
        Request::json(&format!("/triggers/hidden?key={PATH_SECRET}"), "{}"),
        signed::trigger("{").header("content-type", "text/plain"),
    ];
    for request in &bad {
        answers += &relay.send(request).await.text();
    }
    clean("answers to senders", &answers);
    until("everything to be settled", SOON, async || {
        let rows = relay.all("/api/v1/deliveries").await;
        let done = rows.iter().all(|row| matches!(row["state"].as_str(), Some("delivered" | "dead")));
        (rows.len() == 15 * 4 && done).then_some(())
    })
    .await;

    for path in [
        "/api/v1/events",
        "/api/v1/deliveries",
        "/api/v1/dead-letters",
        "/api/v1/rejections",
        "/api/v1/config",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/nothing-here",
    ] {
        clean(path, &relay.get(path).await.text());
    }
    for row in relay.all("/api/v1/events").await {
        let path = format!("/api/v1/events/{}", row["uid"].as_str().unwrap());
        clean(&path, &relay.get(&path).await.text());
    }
    for arguments in
        [&["events"][..], &["deliveries"], &["rejections"], &["rejections", "retry"], &["check"], &["check", "--json"]]
    {
        let output = relay.cli(arguments).await;
        clean(
            &format!("{arguments:?}"),
            &format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        );
    }
    clean("the log at its most talkative", &relay.log_text());
}

#[tokio::test]
async fn mistakes_in_the_file_show_no_secret() {
    let home = Home::new();
    let broken = [
        ("secrets: ${SECRET}", "kind: interactor, path: /a"),
        ("secrets: [\"${SECRET}\"]", "kind: interactor, path: /a, tolerance: \"${SECRET}\""),
        ("secrets: [\"${SECRET}\"]", "kind: \"${SECRET}\", path: /a"),
        ("secrets: [\"${SECRET}\"]", "kind: standard, path: /a"),
        ("secrets: {a: \"${SECRET}\"}", "kind: interactor, path: /a"),
        ("secrets: [\"${SECRET}\"]", "kind: interactor, path: \"${SECRET}\""),
    ];
    for (secrets, fields) in broken {
        home.write("routes.yaml", &format!("version: 1\nsources:\n  a: {{{fields}, {secrets}}}\nnonsense: 1\n"));
        for arguments in [&["check"][..], &["check", "--json"], &["serve", "--config", "routes.yaml"]] {
            let mut command = home.command(arguments);
            command.env("SECRET", PATH_SECRET);
            let output = finish(command).await;
            assert_eq!(output.status.code(), Some(1), "{fields}");
            clean(fields, &format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)));
        }
    }
}
