//! Promise 5: a secret is never printed: not in logs, errors, API, metrics, or by the command line.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use serde_json::{Value, json};

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
        // The two that nobody answers for are broken by then, and what is left of theirs waits.
        let waits = |row: &Value| row["target"] == "flow" || row["target"] == "basic";
        let done = rows.iter().all(|row| waits(row) || matches!(row["state"].as_str(), Some("delivered" | "dead")));
        (rows.len() == 15 * 4 && done).then_some(())
    })
    .await;

    for path in [
        "/api/v1/events",
        "/api/v1/deliveries",
        "/api/v1/dead-letters",
        "/api/v1/rejections",
        "/api/v1/targets",
        "/api/v1/sources",
        "/api/v1/jobs",
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
    for arguments in [
        &["events"][..],
        &["deliveries"],
        &["rejections"],
        &["rejections", "retry"],
        &["target"],
        &["target", "show", "flow"],
        &["sources", "--json"],
        &["check"],
        &["check", "--json"],
    ] {
        let output = relay.cli(arguments).await;
        clean(
            &format!("{arguments:?}"),
            &format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        );
    }
    clean("the log at its most talkative", &relay.log_text());
}

/// The forms in which a secret could lie around: as it is, what it is base64 or hex of, and in both itself.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let bare = secret.trim_start_matches("whsec_").trim_start_matches("hy_");
    let decoded = [BASE64.decode(bare.as_bytes()), HEXLOWER.decode(bare.as_bytes())].into_iter().flatten();
    let bytes: Vec<Vec<u8>> = [secret.as_bytes().to_vec(), bare.as_bytes().to_vec()].into_iter().chain(decoded).collect();
    let written = |bytes: &[u8]| {
        let texts = [BASE64_NOPAD.encode(bytes), BASE64URL_NOPAD.encode(bytes), HEXLOWER.encode(bytes), HEXUPPER.encode(bytes)];
        // The last letter of base64 depends on what follows.
        texts.map(|text| text.as_bytes()[..text.len() - 1].to_vec())
    };
    let texts: Vec<_> = bytes.iter().flat_map(|bytes| written(bytes)).collect();
    bytes.into_iter().chain(texts).collect()
}

/// Fails where one of `secrets` is in `bytes` in any form.
#[track_caller]
fn hides(place: &str, bytes: &[u8], secrets: &[String]) {
    // A letter for each byte: texts are searched faster than bytes by far.
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let hay = text(bytes);
    for secret in secrets {
        let found = forms(secret).into_iter().find(|form| hay.contains(&text(form)));
        assert_eq!(found.map(|form| text(&form)), None, "{secret} in {place}");
    }
}

/// Fails where one of `secrets` is in any file of `home` that the relay wrote.
fn hides_in_files(home: &Home, secrets: &[String]) {
    let mut seen = 0;
    for entry in std::fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            continue;
        }
        seen += 1;
        hides(&path.display().to_string(), &std::fs::read(&path).unwrap(), secrets);
    }
    assert!(0 < seen, "the relay wrote no file");
}

#[tokio::test]
async fn no_secret_of_subscriptions_and_tokens_lies_anywhere() {
    const KEYS: [&str; 2] = ["q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=", "mrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4k="];
    const HEADER: &str = "header-value-of-a-subscription-81c2";
    const CHOSEN: &str = "secret-chosen-by-honeyframe-6e0d";
    let receiver = Receiver::start([401, 200]).await;
    let file = |key: &str, former: &[&str]| {
        let security = format!("allow_targets: [127.0.0.1], encryption_key: {key}, previous_encryption_keys: {}", json!(former));
        routes().interactor().webhook("crm", &receiver).security(&security).section("subscriptions: {allow_targets: [127.0.0.1]}")
    };
    let start = async |home: &Home, file: crate::support::Routes| {
        home.write("routes.yaml", &file.text());
        let mut command = home.command(&["serve", "--config", "routes.yaml"]);
        command.env("HOOKYARD_LOG", "trace");
        Relay::from(home, command).await
    };
    let home = Home::new();
    let relay = start(&home, file(KEYS[0], &[])).await;
    let mut secrets: Vec<String> = [TOKEN, HEADER, CHOSEN, OUT, signed::INTERACTOR, KEYS[0], KEYS[1]].map(str::to_owned).into();
    // Tokens by API and command line, one of them bound, one revoked, one that never was.
    for namespaces in [&[][..], &["user_123"]] {
        secrets.push(relay.token(&["webhooks", "events:read", "deliveries:read"], namespaces).await);
    }
    let made = relay.cli(&["token", "create", "--name", "CI", "--scopes", "admin"]).await;
    secrets.push(String::from_utf8(made.stdout).unwrap().trim().to_owned());
    hides("what stands beside a token", &made.stderr, &secrets);
    let wrong = format!("hy_{}", "5a".repeat(32));
    relay.get_as("/api/v1/events", Some(&wrong)).await.refused(401, "unauthorized");
    secrets.push(wrong);
    let tokens = relay.data("/api/v1/tokens").await;
    relay.cli_ok(&["token", "revoke", tokens[0]["id"].as_str().unwrap()]).await;
    // Subscriptions in both dialects, a secret made anew, and deliveries that fail and succeed.
    let wanted = json!({"url": receiver.url(), "events": ["credential.*"], "headers": {"Authorization": HEADER}});
    let hook = relay.posts("/api/v1/webhooks", &wanted).await;
    secrets.push(hook["secret"].as_str().unwrap().to_owned());
    let wanted = json!({"event_type": "credential.expired", "target_url": receiver.url(), "secret": CHOSEN});
    let other = relay.post("/api/webhooks", &wanted).await;
    assert_eq!(other.status, 201, "{}", other.text());
    hides("what Honeyframe's dialect answers", &other.body, &secrets);
    let id = hook["id"].as_str().unwrap();
    let anew = relay.posts(&format!("/api/v1/webhooks/{id}/regenerate-secret"), &json!({})).await;
    secrets.push(anew["secret"].as_str().unwrap().to_owned());
    for n in 1..=3 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    relay.post(&format!("/api/v1/webhooks/{id}/test"), &json!({})).await;
    if hookyard::api::routes().any(|(_, path)| path == "/api/sse-token") {
        let bound = secrets[7].clone();
        let answer = relay.ask_as(&bound, "POST", "/api/sse-token", Some(&json!({}))).await;
        assert!(answer.status < 300, "{}", answer.text());
        let json = answer.json();
        secrets.push(json["data"]["token"].as_str().or_else(|| json["token"].as_str()).unwrap().to_owned());
    }
    receiver.wait_for(9).await;
    hides_in_files(&home, &secrets);
    let log = relay.log_text();
    assert!(relay.stop().await.success());
    let relay = start(&home, file(KEYS[1], &[KEYS[0]])).await;
    relay.cli_ok(&["secrets", "rekey"]).await;

    // All that can be read.
    for (_, path) in hookyard::api::routes().filter(|(method, path)| *method == "GET" && !path.contains("stream")) {
        let ids = [id.to_owned(), tokens[0]["id"].as_str().unwrap().to_owned()];
        let things = relay.all("/api/v1/deliveries").await;
        let ids = ids.into_iter().chain(
            things.iter().flat_map(|row| [row["id"].clone(), row["event"].clone()]).map(|id| id.as_str().unwrap().to_owned()),
        );
        let paths: Vec<String> = match path.split_once('{') {
            None => vec![path.to_owned()],
            Some((before, rest)) => ids.map(|id| format!("{before}{id}{}", rest.split_once('}').unwrap().1)).collect(),
        };
        for path in paths {
            hides(&path, &relay.get(&path).await.body, &secrets);
        }
    }
    for arguments in
        [&["token"][..], &["token", "--json"], &["target", "--json"], &["deliveries", "--json"], &["check", "--print"]]
    {
        let output = relay.cli(arguments).await;
        hides(&format!("{arguments:?}"), &[output.stdout, output.stderr].concat(), &secrets);
    }
    hides("the log at its most talkative", (log + &relay.log_text()).as_bytes(), &secrets);
    hides_in_files(&home, &secrets);
    assert!(relay.stop().await.success());
    hides_in_files(&home, &secrets);
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
