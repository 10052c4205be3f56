//! `hookyard test`: `tests:` of routes.yaml run by the binary, with nothing but the file.

use std::{path::Path, process::Output};

use serde_json::{Value, json};

use crate::support::{Home, Receiver, relay::finish};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the shared example says.
fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/good/example.yaml")).unwrap()
}

/// Runs `hookyard test` on a file that says `text`, in a folder for temporary things that must be empty afterwards.
async fn rehearsed(home: &Home, text: &str, more: &[&str]) -> Output {
    home.write("routes.yaml", text);
    let temporary = home.path().join("tmp");
    std::fs::create_dir_all(&temporary).unwrap();
    let mut command = home.command(&[&["test"], more].concat());
    command.env("TMPDIR", &temporary);
    let output = finish(command).await;
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left behind");
    assert!(!home.path().join("hookyard.db").exists(), "the relay's own store is not touched");
    output
}

#[tokio::test]
async fn the_example_passes_its_own_tests_without_any_of_its_variables() {
    let output = rehearsed(&Home::new(), &example(), &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    insta::assert_snapshot!(out(&output), @r"
    ok    expired credential reaches its owner and ops
    ok    at night Slack waits, and the second mail of the day is suppressed
    ok    small approvals stay out of the CRM rule
    routes.yaml: 3 tests, all as expected
    ");
    assert!(err(&output).contains("stood in for it: AGENT_WEBHOOK_SECRET, CRM_SECRET,"), "{}", err(&output));
}

#[tokio::test]
async fn what_fails_is_told_with_its_line_as_text_json_and_junit() {
    let home = Home::new();
    let text = example().replace("ops-slack: held", "ops-slack: delivered").replace("[Google Calendar]}}", "[Google Calender]}}");
    let output = rehearsed(&home, &text, &["--junit", "junit.xml"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let told = out(&output);
    let line = 1 + text.lines().position(|line| line.contains("Google Calender")).unwrap();
    for wanted in [
        "FAIL  at night Slack waits".to_owned(),
        format!("states.ops-slack --> routes.yaml:{line}:"),
        "- delivered".to_owned(),
        "+ held until 2026-01-21T06:00:00Z (quiet)".to_owned(),
        "- contains \"Google Calender\"".to_owned(),
        "| Google Calendar connection expired".to_owned(),
        "3 tests, 1 failed".to_owned(),
    ] {
        assert!(told.contains(&wanted), "{wanted}:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "colours are for terminals");

    let xml = std::fs::read_to_string(home.path().join("junit.xml")).unwrap();
    let read = roxmltree::Document::parse(&xml).unwrap();
    let suite = read.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
    assert_eq!((suite.attribute("tests"), suite.attribute("failures")), (Some("3"), Some("1")));
    let failure = read.descendants().find(|node| node.has_tag_name("failure")).unwrap();
    assert!(failure.text().unwrap().contains("+ held until"), "{xml}");

    let output = rehearsed(&home, &text, &["--json"]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &json["ok"], &json["failed"]), (Some(1), &json!(false), &json!(1)));
    let failed = &json["tests"][1]["failed"][0];
    assert_eq!((&failed["what"], &failed["line"]), (&json!("states.ops-slack"), &json!(line)));
    assert_eq!(failed["unexpected"], json!(["held until 2026-01-21T06:00:00Z (quiet)"]));
}

#[tokio::test]
async fn times_n_is_n_events_with_fresh_ids_and_states_speak_of_the_first() {
    let home = Home::new();
    let times = |state: &str| {
        let event = "{source: interactor, type: credential.expired, namespace: user_123, data: {credential_id: cred_abc}}";
        let expect = format!("{{states: {{reconnect-mail: {state}}}, suppressed: 4}}");
        let (head, _) = example().split_once("\ntests:").map(|(head, tests)| (head.to_owned(), tests.to_owned())).unwrap();
        format!("{head}\ntests: [{{name: three, times: 3, event: {event}, expect: {expect}}}]\n")
    };
    let output = rehearsed(&home, &times("delivered"), &["--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = json["tests"][0]["events"].as_array().unwrap();
    let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["evt_test", "evt_test-2", "evt_test-3"]);
    let states: Vec<_> = events.iter().map(|event| event["deliveries"][0]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["delivered", "suppressed", "suppressed"]);
    // It is the first that is spoken of, not the last.
    let output = rehearsed(&home, &times("suppressed"), &[]).await;
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
}

#[tokio::test]
async fn names_bad_files_and_files_without_tests() {
    let home = Home::new();
    let output = rehearsed(&home, &example(), &["small approvals stay out of the CRM rule"]).await;
    assert_eq!((output.status.code(), out(&output).matches("ok  ").count()), (Some(0), 1), "{}", err(&output));
    let output = rehearsed(&home, &example(), &["small approvals stay out of the CRM rules"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("did you mean \"small approvals stay out of the CRM rule\"?"), "{}", err(&output));

    let output = rehearsed(&home, &example().replace("to: [crm]", "to: [crn]"), &[]).await;
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{}", out(&output));
    assert!(err(&output).contains("unknown-destination") && err(&output).contains("did you mean `crm`"), "{}", err(&output));

    let output = rehearsed(&home, "version: 1\n", &[]).await;
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(0), true));
    assert!(err(&output).contains("warning: routes.yaml has no `tests`"), "{}", err(&output));
}

#[tokio::test]
async fn each_test_has_an_environment_of_its_own() {
    let file = "version: 1
sources: {shop: {kind: hmac, preset: github, path: /in, secrets: ['${SECRET}'], map: {type: $.t}}}
destinations: {crm: {kind: n8n, url: 'https://${HOST}/abc', template: '{{ event.data.word }}'}}
rules: [{name: plain, match: {type: '${TYPE:-a}'}, to: crm}]
tests:
  - {name: as it is, event: {source: shop, data: {t: a}}, expect: {rules: plain}}
  - {name: of the test, env: {TYPE: b, WORD: hush}, event: {source: shop, data: {t: b, word: '${WORD:-none}'}}, expect: {rules: plain, renders: {crm: {contains: hush}}}}
  - {name: bad there, env: {HOST: 'a b'}, event: {source: shop, data: {t: a}}, expect: {to: crm}}
";
    let output = rehearsed(&Home::new(), file, &[]).await;
    insta::assert_snapshot!(out(&output), @r"
    ok    as it is
    ok    of the test
    FAIL  bad there
          env --> routes.yaml:8:6
            - a good file
            + routes.yaml:3:38: expected a URL such as https://example.com/hooks
    routes.yaml: 3 tests, 1 failed (- was expected, + came instead)
    ");
}

#[tokio::test]
async fn nothing_leaves_the_machine_though_everything_could_be_reached() {
    let receiver = Receiver::ok().await;
    let (url, port) = (receiver.url(), receiver.addr.port());
    let file = format!(
        "version: 1
server: {{public_url: 'https://relay.example.com'}}
security: {{allow_targets: [127.0.0.1]}}
sources: {{interactor: {{kind: interactor, path: /in, secrets: [x]}}}}
reconnect: {{connector_api: '{url}', api_key: x, connectors: {{google_calendar: google-calendar}}}}
contacts_lookup: {{url: '{url}/{{namespace}}'}}
destinations:
  hook: {{kind: webhook, url: '{url}'}}
  flow: {{kind: n8n, url: '{url}'}}
  chat: {{kind: slack, bot_token: x, channel: C1, base_url: '{url}', thread_by: $.namespace}}
  mail: {{kind: email, smtp: {{host: 127.0.0.1, port: {port}, tls: none}}, from: a@example.com, to: contact}}
  phone: {{kind: whatsapp, account_sid: AC00112233445566778899aabbccddeeff, auth_token: x, base_url: '{url}', from: '+15550100', to: contact}}
rules: [{{name: all, match: {{type: '**'}}, to: [hook, flow, chat, mail, phone]}}]
tests:
  - name: all
    event: {{sample: credential.expired}}
    expect:
      states: {{hook: delivered, flow: delivered, chat: delivered, mail: delivered, phone: delivered}}
      renders: {{mail: {{contains: ['https://relay.example.com/reconnect/']}}, phone: {{contains: Google Calendar}}}}
"
    );
    let output = rehearsed(&Home::new(), &file, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    assert!(err(&output).contains("contacts_lookup was not asked"), "{}", err(&output));
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn the_starter_with_all_of_its_examples_switched_on_passes_its_tests() {
    let starter = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("routes.yaml")).unwrap();
    let (head, rest) = starter.split_once("\nversion: 1\n").unwrap();
    let on = |line: &str| line.strip_prefix("#  ").map_or(line.to_owned(), |it| format!("  {it}"));
    let switched_on = format!("{head}\nversion: 1\n{}", rest.lines().map(on).collect::<Vec<_>>().join("\n"));
    let output = rehearsed(&Home::new(), &switched_on, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    assert_eq!(out(&output).matches("ok  ").count(), 3, "{}", out(&output));
}
