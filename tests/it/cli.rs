//! The command line: exit statuses, diagnostics with their place, and every verb against a running relay.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    Home, Receiver, Relay, Request, routes,
    seeds::bodies,
    signed::{INTERACTOR, event, hex_mac, interactor},
};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn wrong_usage_is_2_and_help_is_0() {
    let home = Home::new();
    for arguments in [&["nonsense"][..], &["check", "--nonsense"], &["events", "--limit", "many"], &[]] {
        let output = home.run(arguments).await;
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{arguments:?}");
    }
    for verb in ["serve", "check", "sign", "send", "demo", "events", "deliveries", "rejections"] {
        let output = home.run(&[verb, "--help"]).await;
        assert!(output.status.success() && out(&output).contains("Usage"), "{verb}");
    }
    assert!(out(&home.run(&["--version"]).await).contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn the_help_teaches() {
    let home = Home::new();
    let help = out(&home.run(&["--help"]).await);
    for word in ["Run:", "Check:", "Look:", "Act:", "Exit status:", "NO_COLOR", "HOOKYARD_ADMIN_TOKEN"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let nothing = err(&home.run(&[]).await);
    assert!(nothing.contains("Run:") && nothing.contains("hookyard demo"), "what there is, though nothing was asked: {nothing}");
    for arguments in [&["check", "--help"][..], &["help", "check"]] {
        assert!(out(&home.run(arguments).await).contains("Examples:\n  hookyard check\n"), "{arguments:?}");
    }
}

/// Each shell reads its script without a word, where the shell is at hand.
#[tokio::test]
async fn the_completions_of_each_shell_parse() {
    let home = Home::new();
    let mut parsed = Vec::new();
    for (shell, option) in [("bash", "-n"), ("zsh", "-n"), ("fish", "-n"), ("elvish", "-compileonly"), ("powershell", "")] {
        let output = home.run(&["completions", shell]).await;
        let script = out(&output);
        assert!(output.status.success() && script.contains("dead-letters") && script.contains("token-file"), "{shell}");
        let file = home.write(&format!("completions.{shell}"), &script);
        let Ok(read) = std::process::Command::new(shell).arg(option).arg(file).output() else { continue };
        assert!(read.status.success() && read.stderr.is_empty(), "{shell}: {}", err(&read));
        parsed.push(shell);
    }
    assert!(parsed.contains(&"bash"), "{parsed:?}");
    assert_eq!(home.run(&["completions", "nonsense"]).await.status.code(), Some(2));
}

/// Colours are for terminals only, and for those who did not say that they want none.
#[tokio::test]
async fn nothing_has_colours_where_none_are_wanted() {
    let home = Home::new();
    home.write("routes.yaml", "version: 1\nservr: {}\n");
    let lines =
        [&["check"][..], &["check", "--nonsense"], &["--help"], &["help", "check"], &["serve"], &["demo", "--nonsense"], &[]];
    for arguments in lines {
        let mut command = home.command(arguments);
        command.env("CLICOLOR_FORCE", "1");
        let output = crate::support::relay::finish(command).await;
        assert!(
            !out(&output).contains('\u{1b}') && !err(&output).contains('\u{1b}'),
            "{arguments:?}: no terminal: {}",
            err(&output)
        );
        let plain = on_a_terminal(&home, arguments, Some("1")).await;
        assert!(!plain.contains('\u{1b}'), "{arguments:?}: NO_COLOR: {plain}");
    }
    // What is tested above could have colours.
    for arguments in [&["check"][..], &["check", "--nonsense"], &["--help"]] {
        let coloured = on_a_terminal(&home, arguments, None).await;
        assert!(coloured.contains("\u{1b}["), "{arguments:?}: {coloured}");
    }
}

/// What `arguments` print on a terminal: Python opens one, and runs the binary on it.
async fn on_a_terminal(home: &Home, arguments: &[&str], no_color: Option<&str>) -> String {
    const SCRIPT: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
    let inner = home.command(arguments);
    let mut command = std::process::Command::new("python3");
    command.args(["-c", SCRIPT]).arg(inner.get_program()).args(inner.get_args()).current_dir(home.path());
    command.env("TERM", "xterm").env_remove("NO_COLOR").envs(no_color.map(|value| ("NO_COLOR", value)));
    out(&crate::support::relay::finish(command).await)
}

#[tokio::test]
async fn without_a_relay_it_is_3() {
    let home = Home::new();
    let gone = { Receiver::ok().await.addr };
    home.write("routes.yaml", &routes().interactor().on("127.0.0.1:0", &gone.to_string()).text());
    for arguments in [&["events"][..], &["deliveries"], &["rejections"], &["rejections", "retry"]] {
        let output = home.run(arguments).await;
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", err(&output));
        assert!(output.stdout.is_empty() && err(&output).contains("hookyard serve"), "it says what to do: {}", err(&output));
    }
    let mut command = home.command(&["events"]);
    command.env("HOOKYARD_ADMIN_TOKEN", "two\nlines");
    let output = crate::support::relay::finish(command).await;
    assert_eq!(output.status.code(), Some(2), "no relay could take this token: {}", err(&output));
    assert_eq!(home.run(&["events", "--url", "ftp://127.0.0.1"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_good_file_is_good_and_the_starter_is_one() {
    let home = Home::new();
    home.write("routes.yaml", &routes().seeds().text());
    let output = home.run(&["check"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));

    let starter = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("routes.yaml");
    let output = home.run(&["check", "--config", starter.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
}

#[tokio::test]
async fn one_run_shows_every_mistake_with_file_line_column_and_the_line() {
    let home = Home::new();
    let text = "\
version: 1
sources:
  interactor:
    kind: interactor
    path: /webhooks/interactor
    secrets: [\"${NO_SUCH_VARIABLE_AT_ALL}\"]
    tolerence: 5m
destinations:
  crm:
    kind: webhook
    url: ftp://crm.example.com
    timeout: soon
rules:
  - name: a
    match: {type: \"**\"}
    to: [crm, nowhere]
    when: [{path: \"$.[\", eq: 1}]
";
    home.write("routes.yaml", text);
    let output = home.run(&["check"]).await;
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{}", err(&output));
    let diagnostics = err(&output);
    let expected = [
        ("6:", "NO_SUCH_VARIABLE_AT_ALL"),
        ("7:", "tolerence"),
        ("11:", "ftp"),
        ("12:", "soon"),
        ("16:", "nowhere"),
        ("17:", "$.["),
    ];
    for (line, word) in expected {
        assert!(diagnostics.contains(&format!("routes.yaml:{line}")), "line {line} for {word}:\n{diagnostics}");
        assert!(diagnostics.contains(word), "{word}:\n{diagnostics}");
    }
    assert!(diagnostics.contains("did you mean `tolerance`?"), "{diagnostics}");
    assert!(diagnostics.contains("    tolerence: 5m"), "the offending line is shown:\n{diagnostics}");

    let output = home.run(&["check", "--json"]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["ok"]), (Some(1), &json!(false)));
    assert!(6 <= json["problems"].as_array().unwrap().len(), "{json}");
}

#[tokio::test]
async fn repeated_keys_and_keys_of_later_parts_are_errors() {
    let home = Home::new();
    let good = routes().interactor().text();
    for (text, word) in [
        (format!("{good}\nversion: 1\n"), "version"),
        (format!("{good}\nreconnect: {{}}\n"), "reconnect"),
        (good.replace("version: 1", "version: 7"), "version"),
        (good.replace("kind: interactor", "kind: carrier-pigeon"), "carrier-pigeon"),
    ] {
        home.write("routes.yaml", &text);
        let output = home.run(&["check"]).await;
        assert_eq!(output.status.code(), Some(1), "{word}");
        assert!(err(&output).contains(word), "{word}: {}", err(&output));
    }
    let output = home.run(&["check", "--config", "no-such-file.yaml"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(err(&output).contains("no-such-file.yaml"));
}

#[tokio::test]
async fn variables_and_files_are_read_and_never_shown() {
    let home = Home::new();
    let secret = home.write("secret.txt", "whsec_from_a_file\n");
    let text = routes()
        .source(
            "a",
            &format!("kind: interactor, path: /a, secrets: [\"${{file:{}}}\", \"${{NOT_SET_HERE:-}}\"]", secret.display()),
        )
        .source("b", "kind: agent, path: /b, secrets: [\"${FROM_ENV}\"]")
        .text();
    home.write("routes.yaml", &text);
    let mut command = home.command(&["serve", "--config", "routes.yaml"]);
    command.env("FROM_ENV", "agent-secret-of-the-environment");
    let relay = Relay::from(&home, command).await;
    relay.accepts(&crate::support::signed::interactor_by("whsec_from_a_file", event("evt_1")).to("/a")).await;
    let body = r#"{"event":"e"}"#;
    let signed =
        Request::json("/b", body).header("X-Webhook-Signature", hex_mac("agent-secret-of-the-environment", &[body.as_bytes()]));
    relay.accepts(&signed).await;
}

#[tokio::test]
async fn the_demo_shows_every_event_delivered_to_every_receiver_and_what_people_mend_mailed() {
    let home = Home::new();
    let output = home.run(&["demo", "--exit"]).await;
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", err(&output));
    for body in ["interactor", "agent", "trigger"].into_iter().flat_map(bodies) {
        let event: Value = serde_json::from_slice(&body).unwrap();
        let kind = event["type"].as_str().or(event["event"].as_str()).unwrap_or("connector.gmail.email_sent");
        assert!(text.contains(kind), "{kind}:\n{text}");
    }
    assert!(46 <= text.matches("delivered").count(), "14 events to 3 receivers, 4 of them by mail:\n{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("slack got")).count(), 14, "{text}");
    let subjects: Vec<_> = text.lines().filter(|line| line.starts_with("mail  got")).collect();
    assert!(subjects.len() == 4 && subjects.iter().any(|line| line.contains("Google Calendar")), "{text}");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "it needs nothing and leaves nothing: {left:?}");
}

#[tokio::test]
async fn sign_prints_headers_that_verify() {
    let relay = Relay::start(&routes().interactor()).await;
    let body = event("evt_signed");
    relay.home.write("body.json", &body);
    let mut command =
        relay.home.command(&["sign", "--scheme", "interactor", "--secret-env", "SECRET", "--body", "body.json", "--json"]);
    command.env("SECRET", INTERACTOR);
    let output = crate::support::relay::finish(command).await;
    assert!(output.status.success(), "{}", err(&output));
    let headers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut request = Request::json("/webhooks/interactor", body);
    for (name, value) in headers.as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    relay.accepts(&request).await;
    assert!(!out(&output).contains(INTERACTOR));
}

#[tokio::test]
async fn sign_takes_scheme_and_secret_of_a_source() {
    let relay = Relay::start(&routes().seeds().standard()).await;
    let agent = bodies("agent").remove(0);
    relay.home.write("body.json", std::str::from_utf8(&agent).unwrap());
    let sign = async |arguments: &[&str]| {
        let common = ["sign", "--body", "body.json", "--json"];
        let mut command = relay.home.command(&[&common, arguments].concat());
        command.env("OTHER", "whsec_another");
        crate::support::relay::finish(command).await
    };
    let signed = async |arguments: &[&str]| -> Request {
        let output = sign(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", err(&output));
        let headers: Value = serde_json::from_slice(&output.stdout).unwrap();
        let request = Request::json("/webhooks/agent", agent.clone());
        headers.as_object().unwrap().iter().fold(request, |request, (name, value)| request.header(name, value.as_str().unwrap()))
    };
    relay.accepts(&signed(&["--source", "agents"]).await).await;
    for wins in [&["--secret-env", "OTHER"][..], &["--scheme", "interactor"]] {
        let request = signed(&[&["--source", "agents"], wins].concat()).await;
        relay.send(&request).await.refused(401, "invalid_signature");
    }
    for (refused, status) in [
        (&["--source", "nobody"][..], 2),
        (&["--source", "connectors"], 2),
        (&["--source", "agents", "--config", "gone.yaml"], 1),
        (&["--scheme", "agent"], 2),
        (&["--secret-env", "OTHER"], 2),
    ] {
        let output = sign(refused).await;
        let (out, err) = (out(&output), err(&output));
        assert_eq!(output.status.code(), Some(status), "{refused:?}: {out}{err}");
        assert!(out.is_empty() && !err.is_empty() && !err.contains("whsec_"), "{refused:?}: {err}");
    }
}

#[tokio::test]
async fn sign_agrees_with_the_vectors_of_standard_webhooks() {
    let home = Home::new();
    for (secret, id, at, body, signature) in [
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ] {
        home.write("body.json", body);
        let mut command = home.command(&[
            "sign",
            "--scheme",
            "standard",
            "--secret-env",
            "SECRET",
            "--id",
            id,
            "--timestamp",
            at,
            "--body",
            "body.json",
        ]);
        command.env("SECRET", secret);
        let output = crate::support::relay::finish(command).await;
        assert!(output.status.success() && out(&output).contains(signature), "{}{}", out(&output), err(&output));
    }
}

#[tokio::test]
async fn send_signs_as_the_sources_sender_does() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().seeds().standard().webhook("crm", &crm)).await;
    relay.cli_ok(&["send", "--source", "interactor", "--sample", "credential.expired"]).await;
    relay.cli_ok(&["send", "--source", "agents", "--type", "agent.message", "--data", r#"{"room":"r1"}"#]).await;
    relay.cli_ok(&["send", "--source", "standard", "--type", "a.b", "--count", "3"]).await;
    relay.home.write("gmail.json", std::str::from_utf8(&bodies("trigger")[0]).unwrap());
    relay.cli_ok(&["send", "--source", "connectors", "--body", "gmail.json"]).await;
    crm.wait_for(6).await;
    assert_eq!(relay.cli(&["send", "--source", "nobody", "--type", "a"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn lists_are_tables_for_people_and_json_for_machines() {
    let crm = Receiver::start([400]).await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_listed"))).await;
    relay.send(&interactor(event("evt_bad")).header("X-Interactor-Signature", "sha256=0")).await;
    relay.settled("state=dead", 1).await;
    let table = relay.cli_ok(&["events"]).await;
    assert!(table.contains("evt_listed") && table.contains("credential.expired"), "{table}");
    let table = relay.cli_ok(&["deliveries", "--state", "dead"]).await;
    assert!(table.contains("crm") && table.contains("http_400"), "{table}");
    for verb in ["events", "deliveries", "rejections"] {
        let json: Value = serde_json::from_str(&relay.cli_ok(&[verb, "--json"]).await).unwrap();
        assert!(json["data"].is_array(), "{verb}: {json}");
    }
    crate::support::until("the rejection to be listed", crate::support::SOON, async || {
        relay.cli_ok(&["rejections"]).await.contains("invalid_signature").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_token_is_said() {
    let relay = Relay::start(&routes().interactor()).await;
    let mut command = relay.home.command(&["events", "--config", "cli.yaml"]);
    command.env("HOOKYARD_ADMIN_TOKEN", "hy_wrong");
    let output = crate::support::relay::finish(command).await;
    assert!(matches!(output.status.code(), Some(1..=3)), "{}", output.status);
    assert!(err(&output).contains("token") && !err(&output).contains("hy_wrong"), "{}", err(&output));
}

#[tokio::test]
async fn one_event_tells_what_todays_rules_make_of_it() {
    let crm = Receiver::ok().await;
    let rules = routes().interactor().webhook("crm", &crm);
    let rules = rules.rule("name: expired, match: {type: credential.expired}, to: [crm]");
    let relay = Relay::start(&rules.rule("name: workflows, match: {type: workflow.**}, to: [crm]")).await;
    relay.accepts(&interactor(event("evt_told"))).await;
    let uid = relay.all("/api/v1/events").await.remove(0)["uid"].as_str().unwrap().to_owned();
    let why = relay.data(&format!("/api/v1/events/{uid}")).await["why"].take();
    assert_eq!(why[0], json!({"rule": "expired", "matched": true, "reason": null}), "{why}");
    assert_eq!((&why[1]["rule"], &why[1]["matched"]), (&json!("workflows"), &json!(false)), "{why}");
    let reason = why[1]["reason"].as_str().unwrap();
    assert!(reason.contains("credential.expired") && reason.contains("workflow.**"), "{reason}");
    assert!(relay.cli_ok(&["events", &uid]).await.contains(reason));
}

#[tokio::test]
async fn a_bad_file_goes_on_with_the_last_good_one_wherever_its_store_is() {
    let home = Home::new();
    home.write("routes.yaml", &routes().interactor().store_at("sqlite://${STORE_FILE}").text());
    let serve = || {
        let mut command = home.command(&["serve", "--config", "routes.yaml"]);
        command.env("STORE_FILE", "elsewhere.db");
        command
    };
    Relay::from(&home, serve()).await.stop().await;
    let bad = routes().interactor().store_at("sqlite://${STORE_FILE}").section("tolerence: 5m").text();
    home.write("routes.yaml", &format!("# once sqlite://hookyard.db\n{bad}"));
    let relay = Relay::from(&home, serve()).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let error = relay.data("/api/v1/config").await["error"].take();
    assert!(error.as_str().is_some_and(|error| error.contains("tolerence")), "{error}");
}

#[tokio::test]
async fn a_bad_file_while_the_store_is_away_ends_as_any_start_without_its_store() {
    let home = Home::new();
    let bad = routes().interactor().store_at("postgres://me:hush@127.0.0.1:1/db?connect_timeout=1").section("tolerence: 5m");
    home.write("routes.yaml", &bad.text());
    let ended = home.run(&["serve", "--config", "routes.yaml"]).await;
    let said = err(&ended);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("tolerence") && said.contains("cannot be told") && !said.contains("hush"), "{said}");
}

#[tokio::test]
async fn a_refused_request_is_a_line_in_the_log() {
    let relay = Relay::start(&routes().interactor()).await;
    for _ in 0..3 {
        relay
            .send(&interactor(event("evt_bad")).header("X-Interactor-Signature", "sha256=0"))
            .await
            .refused(401, "invalid_signature");
    }
    let told = || relay.log_text().lines().filter(|line| line.contains("rejected: ")).map(str::to_owned).collect::<Vec<_>>();
    let lines =
        crate::support::until("the log to tell", crate::support::SOON, async || Some(told()).filter(|lines| !lines.is_empty()))
            .await;
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (&line["source.name"], &line["code"], &line["level"]),
        (&json!("interactor"), &json!("invalid_signature"), &json!("WARN"))
    );
    assert_eq!(told().len(), 1, "at most one line a minute");
}
