//! `routes.yaml` as a file among files: other teams' fragments, files nobody would write on purpose, `check` where no secret is.

use std::{
    fmt::Write,
    fs,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Home, Relay,
    relay::{BINARY, finish},
    routes,
    signed::{event, interactor},
};

/// All memory that a check may have for its own, in KiB: the limit of private writable memory, which the kernel enforces.
const MEMORY_MAX_KIB: u64 = 100 * 1024;
/// How long a check may take on a machine that does nothing else. Here other tests run beside it, on an unoptimised binary.
const PATIENCE: Duration = Duration::from_secs(20);

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `hookyard check` of `file` with no more memory than it may have.
async fn check_within_bounds(home: &Home, file: &str) -> (Option<i32>, String, Duration) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -d {MEMORY_MAX_KIB} && exec {BINARY} check --config {file}")]);
    command.current_dir(home.path());
    let begun = Instant::now();
    let output = finish(command).await;
    (output.status.code(), err(&output), begun.elapsed())
}

/// Bombs and rubbish, with what is said of each.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    const MIB: usize = 1024 * 1024;
    let padded = |mut text: String| {
        text.push('#');
        text.push_str(&"x".repeat(MIB - text.len()));
        text.into_bytes()
    };
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..90 {
        writeln!(laughs, "a{n}: &a{n} [{}]", [format!("*a{}", n - 1).as_str(); 9].join(", ")).unwrap();
    }
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(30_000), "*a, ".repeat(90));
    let nested = format!("version: 1\nrules: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        ("laughs", padded(laughs), "the aliases of the file stand for too much"),
        ("aliases", padded(wide), "stand for too much"),
        ("brackets", "[".repeat(100_000).into_bytes(), "nest more than 32 deep"),
        ("nested", nested.into_bytes(), "nest more than 32 deep"),
        ("large", "version: 1 # x\n".repeat(50 * MIB / 15).into_bytes(), "the file is larger than"),
        ("latin", b"version: 1\nname: \xe9\xff\n".to_vec(), "latin.yaml:2:7"),
        ("bytes", vec![0xff; MIB], "this is not UTF-8"),
        ("commas", format!("rules: [{}]", "a,".repeat(520_000)).into_bytes(), "keys and values"),
        ("rules", format!("version: 1\nrules:\n{}", "- {to: [x]}\n".repeat(20_000)).into_bytes(), ""),
        ("templates", format!("version: 1\ntemplates: {{a: \"{}\"}}", "{{ x }}".repeat(140_000)).into_bytes(), ""),
        ("references", format!("version: 1\nx: [{}]", "\"${NO}\",".repeat(45_000)).into_bytes(), "`x`"),
    ]
}

#[tokio::test]
async fn hostile_files_are_clear_errors_soon_and_in_little_memory() {
    let home = Home::new();
    for (name, bytes, wanted) in hostile() {
        let file = format!("{name}.yaml");
        fs::write(home.path().join(&file), bytes).unwrap();
        let (status, said, took) = check_within_bounds(&home, &file).await;
        assert!(matches!(status, Some(0 | 1)), "{name} ends with {status:?}: {said}");
        assert!(wanted.is_empty() || status == Some(1), "{name} is no good file");
        assert!(said.contains(wanted), "{name}: {said}");
        assert!(said.len() < 200_000, "{name} is told at length: {} bytes", said.len());
        assert!(took < PATIENCE, "{name} took {took:?}");
    }
}

#[tokio::test]
async fn what_is_no_file_is_said_and_not_waited_for() {
    let home = Home::new();
    fs::create_dir(home.path().join("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("gone", home.path().join("link.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(home.path().join("pipe.yaml")).status().unwrap().success());
    for (file, wanted) in [
        ("folder.yaml", "it is a folder, not a file"),
        ("link.yaml", "it is a link to a file that does not exist"),
        ("pipe.yaml", "it is a pipe, not a file"),
        ("/dev/zero", "it is a device, not a file"),
        ("none.yaml", "No such file"),
    ] {
        let (status, said, _) = check_within_bounds(&home, file).await;
        assert_eq!(status, Some(1), "{file}: {said}");
        assert!(said.contains(&format!("{file} cannot be read: {wanted}")), "{said}");
        home.write("routes.yaml", &format!("version: 1\ninclude: [{file}]\n"));
        let (status, said, _) = check_within_bounds(&home, "routes.yaml").await;
        assert!(status == Some(1) && said.contains(file), "{said}");
    }
}

#[tokio::test]
async fn a_relay_runs_on_fragments_and_on_the_last_good_ones_without_any_on_disk() {
    let home = Home::new();
    let main = format!("{}include: [routes.d/*.yaml]\n", routes().interactor().text());
    fs::create_dir(home.path().join("routes.d")).unwrap();
    let fragment = "destinations: {theirs: {kind: webhook, url: 'https://127.0.0.1:1/x', signing: {schemes: [interactor], secrets: [hush-hush]}}}
rules: [{name: theirs, match: {type: credential.expired}, to: [theirs]}]
";
    home.write("routes.yaml", &main);
    home.write("routes.d/a.yaml", fragment);
    let relay = Relay::resume(&home).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let targets = async |relay: &Relay| {
        let listed = relay.all("/api/v1/deliveries").await;
        listed.iter().map(|it| it["target"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(targets(&relay).await, [json!("theirs")]);
    let hash = relay.data("/api/v1/config").await["hash"].take();
    relay.stop().await;

    home.write("routes.d/a.yaml", "rules: [{name: x, to: nowhere}]");
    home.write("routes.d/b.yaml", "rules: @");
    let relay = Relay::resume(&home).await;
    let config = relay.data("/api/v1/config").await;
    assert_eq!(config["hash"], hash);
    let error = config["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("routes.d/b.yaml:1:8: "), "{error}");
    relay.accepts(&interactor(event("evt_2"))).await;
    assert_eq!(targets(&relay).await, [json!("theirs"), json!("theirs")]);
    relay.stop().await;

    fs::remove_dir_all(home.path().join("routes.d")).unwrap();
    home.write("routes.yaml", &format!("{main}nonsense: 1\n"));
    let relay = Relay::resume(&home).await;
    assert_eq!(relay.data("/api/v1/config").await["hash"], hash, "no file is needed");
}

#[tokio::test]
async fn check_prints_the_file_as_it_works_without_a_secret() {
    let home = Home::new();
    fs::create_dir(home.path().join("routes.d")).unwrap();
    home.write(
        "routes.yaml",
        "version: 1
include: [routes.d/*.yaml]
server: {listen: '127.0.0.1:${PORT:-8080}', public_url: 'https://${HOST}/x'}
store: {url: 'sqlite://x.db'}
defaults: {destination: {timeout: 7s, retry: {preset: agent, max_attempts: 4}}}
sources:
  a: {kind: agent, path: /a, secrets: ['${ONE}', 'literal-hush', '${file:two}']}
  t: {kind: trigger, path: /t, path_secret: hush-hush-hush-hush, map: {type: x.y}}
destinations:
  slow: {kind: webhook, url: 'https://w.example.com/in?k=hush', timeout: 20s, headers: {Authorization: Bearer hush}}
  n8n: {kind: n8n, url: 'https://n8n.example.com/webhook/hush', retry: {preset: honeyframe}}
  chat: {kind: slack, url: '${CHAT_URL}'}
rules:
  - {name: all, to: [slow, n8n, chat]}
  - {name: own, match: {source: hookyard}, to: [chat]}
",
    );
    home.write(
        "routes.d/a.yaml",
        "rules: [{name: theirs, match: {type: [a.b, '*.c']}, to: [n8n]}]\ntemplates: {line: \"a: #b\\n\"}\n",
    );
    home.write("two", "file-hush\n");
    let run = async |more: &[&str]| {
        let mut command = home.command(&["check", "--print"]);
        command.args(more).env("HOST", "relay.example.com").env("ONE", "env-hush");
        command.env("CHAT_URL", "https://hooks.slack.com/services/T/B/hush");
        finish(command).await
    };
    let output = run(&[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!out(&output).contains("hush") && !err(&output).contains("hush"), "{}{}", out(&output), err(&output));
    assert!(err(&output).contains("good: 2 sources, 3 destinations, 3 rules"));
    insta::assert_snapshot!(out(&output), @r##"
    version: 1
    server: {listen: "127.0.0.1:<env PORT>", public_url: "https://<env HOST>/x"}
    store: {url: "sqlite://x.db"}
    sources:
      a:
        kind: agent
        path: /a
        secrets: ["<secret env:ONE>", "<secret>", "<secret file:two>"]
      t:
        kind: trigger
        path: /t
        path_secret: "<secret>"
        map: {type: x.y}
    destinations:
      slow:
        kind: webhook
        url: "https://w.example.com/<secret>"
        timeout: "20s"
        headers: {Authorization: "<secret>"}
        retry: {preset: agent, max_attempts: 4}
        concurrency: 8
        answers: default
        retry_after_max: "1h"
      n8n:
        kind: n8n
        url: "https://n8n.example.com/<secret>"
        retry: {preset: honeyframe}
        timeout: "7s"
        concurrency: 8
        answers: default
        retry_after_max: "1h"
      chat:
        kind: slack
        url: "<secret env:CHAT_URL>"
        timeout: "7s"
        retry: {preset: agent, max_attempts: 4}
        concurrency: 8
        answers: default
        retry_after_max: "1h"
    rules:
      - name: all
        to: [slow, n8n, chat]
      - name: own
        match: {source: hookyard}
        to: [chat]
      - name: theirs
        match:
          type: [a.b, "*.c"]
        to: [n8n]
    templates: {line: "a: #b\n"}
    "##);

    let json: Value = serde_json::from_slice(&run(&["--json"]).await.stdout).unwrap();
    assert_eq!((&json["ok"], &json["effective"]["destinations"]["chat"]["timeout"]), (&json!(true), &json!("7s")));
    assert_eq!(json["effective"]["rules"][2]["name"], "theirs");
    assert_eq!(json["effective"].get("include"), None);
    assert!(!json.to_string().contains("hush"));

    home.write("routes.d/a.yaml", "rules: 7");
    let output = run(&[]).await;
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""), "a bad file is not printed");
}

#[tokio::test]
async fn check_needs_no_secret_where_it_is_told_so() {
    let home = Home::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/config/good/example.yaml");
    let output = home.run(&["check", "--config", example]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("unset-env"));
    let output = home.run(&["check", "--no-secrets", "--config", example]).await;
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
    assert!(out(&output).ends_with("4 sources, 5 destinations, 7 rules; 10 references were not looked at\n"), "{}", out(&output));

    home.write(
        "routes.yaml",
        "version: 1
server: {public_url: '${A}', max_body: '${B}', public_api: '${C}', listen: 'x:${D}'}
security: {encryption_key: '${E}', allow_targets: ['${F}']}
sources: {s: {kind: standard, path: '/${G}', secrets: ['${file:/nope}'], rate_limit: {rate: '${H}', burst: '${I}'}}}
destinations:
  w: {kind: webhook, url: 'http://${J}', timeout: '${K}', signing: {schemes: [standard], secrets: ['${L}']}, retri: '${M}'}
  m: {kind: email, smtp: {host: '${N}', port: '${O}'}, from: '${P}', to: '${Q}'}
  p: {kind: whatsapp, account_sid: '${R}', auth_token: '${S}', from: '${T}', to: ['${U}']}
rules: [{name: own, match: {source: hookyard}, to: [w, m, p, nobody]}]
",
    );
    let output = home.run(&["check", "--no-secrets", "--json"]).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let codes: Vec<_> = json["problems"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
    assert_eq!(codes, ["unknown-key", "unknown-destination"], "only what is wrong whatever they hold: {json:#}");
    assert_eq!(json["not_looked_at"], 22);
}
