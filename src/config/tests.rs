//! Whole files: what they say, and what one reads when they are bad.

use std::{fs, path::PathBuf, time::Instant};

use proptest::prelude::*;

use super::*;

/// The environment of the files in `tests/fixtures/config`.
fn env(name: &str) -> Option<String> {
    match name {
        "AGENT_WEBHOOK_SECRET" | "INTERACTOR_WEBHOOK_SECRET" | "FORWARDING_KEY" | "HONEYFRAME_SECRET" => {
            Some("hush-hush-hush".into())
        }
        "CRM_SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
        "WORD" => Some("swordfish".into()),
        _ => None,
    }
}

fn nothing(_: &str) -> Option<String> {
    None
}

fn parsed(text: &str) -> Loaded {
    parse(File { path: "routes.yaml".into(), text: text.to_owned() }, &env)
}

fn good(text: &str) -> Config {
    let loaded = parsed(text);
    loaded.config.clone().unwrap_or_else(|| panic!("{}", report::text(&loaded, false)))
}

/// What comes of a file of these bytes.
fn of_bytes(bytes: &[u8]) -> Loaded {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    load(file.path(), &env)
}

fn files(text: &str) -> Files {
    Files::new(File { path: "routes.yaml".into(), text: text.to_owned() })
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

#[test]
fn a_file_says_what_is_wrong_with_it() {
    let mut files: Vec<PathBuf> = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let file = File { path: format!("{name}.yaml").into(), text: fs::read_to_string(&path).unwrap() };
        let loaded = parse(file, &env);
        assert!(loaded.config.is_none(), "{name} is good");
        let said = report::text(&loaded, false);
        let json = serde_json::to_string(&report::diagnostics(&loaded)).unwrap();
        for secret in ["hunter2", "swordfish", "12345678", "hush"] {
            assert!(!said.contains(secret) && !json.contains(secret), "{name} shows {secret}: {said}{json}");
        }
        insta::with_settings!({ snapshot_path => fixtures().join("expected"), prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, said);
        });
    }
}

#[test]
fn the_example_loads_as_it_is_with_its_variables_set() {
    let env = |name: &str| match name {
        "SLACK_WEBHOOK_URL" => Some("https://hooks.slack.com/services/T/B/x".to_owned()),
        "TWILIO_ACCOUNT_SID" => Some("AC00112233445566778899aabbccddeeff".to_owned()),
        "INTERACTOR_API_KEY" | "SMTP_PASSWORD" | "TWILIO_AUTH_TOKEN" => Some("hush".to_owned()),
        name => env(name),
    };
    let loaded = load(&fixtures().join("good/example.yaml"), &env);
    let config = loaded.config.clone().unwrap_or_else(|| panic!("{}", report::text(&loaded, false)));
    assert_eq!((loaded.problems.len(), config.tests.len()), (0, 3), "{}", report::text(&loaded, false));
}

#[test]
fn a_destination_adopts_only_what_is_gone_and_nobody_else_adopts() {
    let file = |crm: &str, erp: &str| {
        let one = |name, old| format!("  {name}: {{kind: webhook, url: 'https://a.example', renamed_from: {old}}}\n");
        format!("version: 1\ndestinations:\n{}{}rules: [{{to: [crm, erp]}}]\n", one("crm", crm), one("erp", erp))
    };
    let errors = |crm, erp| {
        let problems = parsed(&file(crm, erp)).problems;
        let errors = problems.into_iter().filter(|problem| problem.severity == decode::Severity::Error);
        errors.map(|problem| problem.message).collect::<Vec<_>>()
    };
    assert_eq!(errors("old", "older"), Vec::<String>::new());
    assert_eq!(errors("erp", "old"), ["`erp` is still declared: only what is gone can be adopted"]);
    assert_eq!(errors("old", "old"), ["two destinations adopt `old`"]);
    let crm = &good(&file("old", "older")).destinations[0];
    assert_eq!(crm.renamed_from, Some("old".into()));
}

#[test]
fn the_examples_destination_loads_as_it_is_written() {
    let config = good(
        "version: 1
destinations:
  crm:
    kind: webhook
    url: https://crm.example.com/hooks/relay
    payload: envelope
    content_type: json
    signing: {schemes: [standard, interactor], secrets: ['${CRM_SECRET}']}
    headers: {X-Team: billing}
    rate_limit: {rate: 20/s, burst: 40}
    retry: {initial: 5s, factor: 3, max: 1h, jitter: full, give_up_after: 24h}
    order_by: $.data.instance_id
    status_rules: {404: permanent, 409: delivered}
rules: [{to: crm, severity: critical}]
",
    );
    let crm = &config.destinations[0];
    assert_eq!(crm.rate_limit, Some(decode::Rate::per_second(20, 40)));
    assert_eq!(crm.order_by.as_ref().map(|path| path.text()), Some("$.data.instance_id"));
    assert!(crm.answers.rules.names(404) && !crm.answers.rules.names(400));
    assert_eq!(config.rules[0].severity, crate::store::Severity::Critical);
}

#[test]
fn a_problem_as_json_has_its_place_its_path_and_a_fix() {
    let loaded = parsed(
        "version: 1
rules:
  - {match: {namespace: \"é*\"}, name: all, to: [crn]}
destinations:
  crm: {kind: webhook, url: \"https://crm.example.com/in\", signing: {schemes: [interactor], secrets: [\"${CRM_SECRET}\"]}}
servr: {}
",
    );
    let problems = report::diagnostics(&loaded);
    let json = |code: &str| serde_json::to_string(problems.iter().find(|problem| problem.code == code).unwrap()).unwrap();
    insta::assert_snapshot!(json("unknown-destination"), @r##"{"code":"unknown-destination","severity":"error","file":"routes.yaml","line":3,"col":48,"end_col":51,"path":"rules[0].to[0]","message":"rule \"all\" sends to `crn`, which is not declared","help":"did you mean `crm` (line 5)?","note":"declared: crm","fix":"crm"}"##);
    insta::assert_snapshot!(json("unknown-key"), @r##"{"code":"unknown-key","severity":"error","file":"routes.yaml","line":6,"col":1,"end_col":6,"path":"servr","message":"the file has no key `servr`","help":"did you mean `server`?","note":"keys here: contacts contacts_file contacts_lookup defaults destinations event_types include reconnect reconnect_url rules schedules security server sources store subscriptions templates tests unmatched version","fix":"server"}"##);
    insta::assert_snapshot!(report::headline(&loaded).unwrap(), @r##"routes.yaml:3:48: rule "all" sends to `crn`, which is not declared (and 1 more)"##);
}

#[test]
fn secrets_in_what_is_dropped_are_not_shown() {
    for text in [
        "version: 1\nserver: {password: a, password: hunter2}",
        "version: 1\nserver: {true: {secrets: [hunter2]}, x: 1}",
        "version: 1\nserver: {1: {secrets: [hunter2]}, 1: {secrets: [hunter2]}}",
        "version: 1\nserver:\n  password: #hunter2",
        "version: 1\nserver: {password: hunter2",
        "version: 1\nserver: {encryption_key: 5, encryption_key: \"hunter2",
    ] {
        let loaded = parsed(text);
        let said = report::text(&loaded, false);
        assert!(!loaded.problems.is_empty() && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn colour_is_for_terminals() {
    let loaded = parsed("version: 2");
    assert!(report::text(&loaded, true).contains("\u{1b}["));
    assert!(!report::text(&loaded, false).contains('\u{1b}'));
}

#[test]
fn what_the_file_leaves_out_has_a_default() {
    let config = good("version: 1");
    insta::assert_debug_snapshot!((&config.hash, &config.server, &config.store, &config.security, &config.unmatched), @r##"
    (
        "1a6ddd3533d9",
        Server {
            listen: "0.0.0.0:8080",
            admin_listen: "127.0.0.1:9080",
            public_url: None,
            admin_url: None,
            public_api: false,
            api_rate_limit: Rate {
                count: 20,
                per: 1s,
                burst: 100,
            },
            cors: Cors {
                any: false,
                origins: [],
            },
            max_body: 1048576,
            shutdown_grace: 30s,
            watch: true,
        },
        StoreSettings {
            url: ***,
            retention: Retention {
                events: 2592000s,
                dead_letters: 7776000s,
                rejections: 604800s,
                audit: 31536000s,
                max_bytes: None,
            },
        },
        Security {
            allow_targets: [],
            require_https: true,
            encryption_key: None,
            previous_encryption_keys: [],
        },
        [],
    )
    "##);
    assert_eq!(config.store.url.reveal(), "sqlite://hookyard.db");
}

#[test]
fn what_the_file_says_is_what_one_gets() {
    let text = "version: 1
server: {listen: '[::1]:0', admin_listen: 'localhost:9', public_url: 'https://r.example.com', public_api: true, cors: {origins: ['*', 'https://App.example.com:443']}, max_body: 64KiB, shutdown_grace: 0s, watch: false, api_rate_limit: {rate: 5/s, burst: 7}}
store: {url: 'sqlite:///var/x.db', retention: {events: 1d}, max_bytes: 1GiB}
security: {allow_targets: [10.1.2.3/8, '::1', LocalHost.], require_https: false, encryption_key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=, previous_encryption_keys: ['', BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=]}
templates: {t: '{{ event.type }}'}
";
    let config = good(text);
    assert_eq!(config.store.url.reveal(), "sqlite:///var/x.db");
    assert!(config.security.encryption_key.is_some());
    insta::assert_debug_snapshot!((&config.server, &config.store, &config.security, &config.templates), @r##"
    (
        Server {
            listen: "[::1]:0",
            admin_listen: "localhost:9",
            public_url: Some(
                Url {
                    scheme: "https",
                    cannot_be_a_base: false,
                    username: "",
                    password: None,
                    host: Some(
                        Domain(
                            "r.example.com",
                        ),
                    ),
                    port: None,
                    path: "/",
                    query: None,
                    fragment: None,
                },
            ),
            admin_url: None,
            public_api: true,
            api_rate_limit: Rate {
                count: 5,
                per: 1s,
                burst: 7,
            },
            cors: Cors {
                any: true,
                origins: [
                    "https://app.example.com",
                ],
            },
            max_body: 65536,
            shutdown_grace: 0ns,
            watch: false,
        },
        StoreSettings {
            url: ***,
            retention: Retention {
                events: 86400s,
                dead_letters: 7776000s,
                rejections: 604800s,
                audit: 31536000s,
                max_bytes: Some(
                    1073741824,
                ),
            },
        },
        Security {
            allow_targets: [
                Net(
                    10.0.0.0/8,
                ),
                Net(
                    ::1/128,
                ),
                Host(
                    "localhost",
                ),
            ],
            require_https: false,
            encryption_key: Some(
                ***,
            ),
            previous_encryption_keys: [
                ***,
            ],
        },
        {
            "t": Source(
                {
                    Text: "{{ event.type }}",
                },
            ),
        },
    )
    "##);
}

#[test]
fn the_key_may_come_from_the_environment() {
    let key = |text: &str, value: &'static str| {
        let env = move |name: &str| (name == "HOOKYARD_ENCRYPTION_KEY").then(|| value.to_owned());
        let loaded = parse(File { path: "routes.yaml".into(), text: text.to_owned() }, &env);
        loaded.config.map(|config| config.security.encryption_key.is_some())
    };
    let fits = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert_eq!(key("version: 1", fits), Some(true));
    assert_eq!(key("version: 1\nsecurity: {encryption_key: ''}", fits), Some(false));
    assert_eq!(key("version: 1", ""), Some(false));
    assert_eq!(key("version: 1", "short"), None);
}

#[test]
fn the_starter_is_good_in_an_empty_environment() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("routes.yaml")).unwrap();
    let loaded = parse(File { path: "routes.yaml".into(), text: text.clone() }, &nothing);
    assert!(loaded.config.is_some() && loaded.problems.is_empty(), "{}", report::text(&loaded, false));
    let examples: String = text
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#  ").map_or(line.to_owned(), |on| format!("  {on}"))))
        .collect();
    let examples = examples.replace("  ${", "# ${").replace("  $$", "# $$");
    let loaded = parsed(&examples);
    assert!(loaded.config.is_some() && loaded.problems.is_empty(), "{}", report::text(&loaded, false));
}

#[test]
fn a_destination_nobody_uses_is_a_warning_only() {
    let loaded = parsed("version: 1\ndestinations: {n8n: {kind: n8n, url: 'https://n8n.example.com/webhook/abc'}}");
    assert!(loaded.config.is_some());
    assert_eq!(loaded.problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["unused-destination"]);
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let said = |name: &str, bytes: Option<&[u8]>| {
        let path = folder.path().join(name);
        bytes.inspect(|bytes| fs::write(&path, bytes).unwrap());
        let loaded = load(&path, &nothing);
        assert!(loaded.config.is_none());
        (loaded.problems[0].message.replace(folder.path().to_str().unwrap(), ""), loaded.problems[0].place.start)
    };
    assert_eq!(said("none.yaml", None), ("/none.yaml cannot be read: No such file or directory (os error 2)".into(), 0));
    assert_eq!(said("latin.yaml", Some(b"a: b\nc: \xe9\n")), ("this is not UTF-8".into(), 8));
    assert_eq!(said("large.yaml", Some(&vec![0xff; 5 << 20])), ("the file is larger than 4 MiB".into(), 0));
    fs::write(folder.path().join("bom.yaml"), "\u{feff}version: 1\n").unwrap();
    assert!(load(&folder.path().join("bom.yaml"), &nothing).config.is_some());
}

#[test]
fn many_problems_are_cut_errors_first() {
    let mut text = "version: 1\ndestinations:\n".to_owned();
    (0..60).for_each(|n| text.push_str(&format!("  d{n}: {{kind: n8n, url: 'https://n8n.example.com/{n}'}}\n")));
    text.push_str("nope: 1\n");
    let loaded = parsed(&text);
    assert_eq!((loaded.problems.len(), loaded.left_off), (PROBLEMS_MAX, 11));
    assert_eq!(loaded.problems.last().unwrap().code, "unknown-key");
    assert!(report::text(&loaded, false).contains("… and 11 more"));
}

#[test]
fn large_bad_files_are_answered_soon() {
    let begun = Instant::now();
    let mut unknown = "version: 1\n".to_owned();
    (0..20_000).for_each(|n| unknown.push_str(&format!("k{n}: [x]\n")));
    let mut links = "version: 1\ndestinations:\n".to_owned();
    (0..10_000).for_each(|n| links.push_str(&format!("  d{n}: {{}}\n")));
    links.push_str("rules:\n");
    (0..10_000).for_each(|n| links.push_str(&format!("  - to: [e{n}]\n")));
    let secrets = format!("version: 1\ntemplates: {{token: [{}]}}\n", "hushhush, ".repeat(30_000));
    for text in [unknown, links, secrets] {
        let loaded = parsed(&text);
        assert!(loaded.config.is_none() && !report::text(&loaded, false).is_empty());
        report::diagnostics(&loaded);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn the_store_of_a_bad_file_is_found() {
    let url = |text: &str| store_url(&files(text), &env).map(|url| url.reveal().to_owned());
    let default = Some("sqlite://hookyard.db".to_owned());
    assert_eq!(url("version: 7\nstore: {url: 'sqlite://a.db'}"), Some("sqlite://a.db".into()));
    assert_eq!(
        url("a: [\nstore:\n  # here\n  url: sqlite://${WORD}.db\n\n  max_bytes: 1\nb: 1"),
        Some("sqlite://swordfish.db".into())
    );
    assert_eq!(url("store: {max_bytes: 1}"), default);
    assert_eq!(url("a: [\nb: @x"), default);
    assert_eq!(url(""), default);
    assert_eq!(url("store: {url: '${NOT_SET}'}"), None);
    assert_eq!(url("store: {url: 'postgres://x'}"), Some("postgres://x".into()));
    assert_eq!(url("store: {url: 'mysql://x'}"), None);
    assert_eq!(url("store: {url: [\n"), None);
}

#[test]
fn what_is_a_replicas_own_is_taken_from_its_bad_file() {
    let kept = |bad: &str| {
        let mut config =
            good("version: 1\nserver: {listen: 'a:1', admin_listen: 'a:2', watch: false, shutdown_grace: 9s, max_body: 2KiB}\n");
        keep_own(&mut config, &files(bad), &env);
        let server = config.server;
        let url = server.admin_url.map(String::from);
        (server.listen, server.admin_listen, url, server.watch, server.shutdown_grace.as_secs(), server.max_body)
    };
    let theirs = || ("a:1".to_owned(), "a:2".to_owned(), None, false, 9, 2048);
    let own = "server:\n  listen: b:${PORT:-1}\n  admin_listen: b:2\n  admin_url: http://b/\n  watch: true\n  shutdown_grace: 3s\n  max_body: 4KiB\n";
    let ours = ("b:1".to_owned(), "b:2".to_owned(), Some("http://b/".to_owned()), true, 3, 2048);
    assert_eq!(kept(&format!("version: 1\nruels: []\n{own}")), ours);
    assert_eq!(kept(&format!("a: [\n{own}")), ours);
    for nothing in
        ["", "a: [", "server: {listen: nowhere, admin_listen: '${NOT_SET}', watch: 7, shutdown_grace: 2h, admin_url: b}"]
    {
        assert_eq!(kept(nothing), theirs(), "{nothing}");
    }
    assert_eq!(kept("ruels: []\nserver: {listen: 'b:1'}"), ("b:1".to_owned(), "a:2".to_owned(), None, false, 9, 2048));
}

#[test]
fn the_keys_of_a_bad_file_are_found() {
    let keys = |text: &str| encryption_keys(&files(text), &env).iter().map(|key| key.reveal().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys("version: 7\nsecurity: {encryption_key: '${WORD}'}"), ["swordfish"]);
    assert_eq!(keys("a: [\nsecurity:\n  encryption_key: literal\n"), ["literal"]);
    assert!(keys("a: [").is_empty() && keys("security: {encryption_key: '${NOT_SET}'}").is_empty());
}

fn line() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        "version",
        "server",
        "store",
        "security",
        "sources",
        "destinations",
        "rules",
        "templates",
        "unmatched",
        "url",
        "secrets",
        "to",
        "name",
        "listen",
        "encryption_key",
        "allow_targets",
        "max_body",
        "[a-z]{1,3}"
    ];
    let value = prop_oneof![
        "1",
        "",
        "\\{",
        "\\[",
        "x",
        "'\\$\\{A\\}'",
        "\\$\\{WORD\\}",
        "\\[a, b\\]",
        "\\{a: 1\\}",
        "é🞄",
        "- a",
        "\"",
        "#x",
        "sqlite://x"
    ];
    (0_usize..4, any::<bool>(), key, value)
        .prop_map(|(indent, dash, key, value)| format!("{}{}{key}: {value}\n", "  ".repeat(indent), if dash { "- " } else { "" }))
}

proptest! {
    #[test]
    fn no_file_breaks_it(lines in proptest::collection::vec(line(), 0..12), bytes: Vec<u8>) {
        for loaded in [parsed(&lines.concat()), of_bytes(&bytes)] {
            let said = report::text(&loaded, false);
            prop_assert!(!said.contains("swordfish"), "{}", said);
            prop_assert!(loaded.config.is_some() || !loaded.problems.is_empty());
            for problem in report::diagnostics(&loaded) {
                prop_assert!(1 <= problem.line && 1 <= problem.col && problem.col <= problem.end_col);
            }
            store_url(&loaded.files, &env);
        }
    }
}

#[test]
fn what_the_project_shows_of_mail_contacts_and_reconnect_links_loads() {
    let loaded = parsed(
        r#"version: 1
server: {public_url: https://relay.example.com}
reconnect:
  connector_api: https://console.interactor.com
  api_key: ${CRM_SECRET}
  connectors: {google_calendar: google-calendar}
contacts:
  - {namespace: user_123, email: [dana@example.com]}
  - {namespace: "acme-*", email: [integrations@acme.example]}
  - {namespace: "*", email: [ops@example.com]}
destinations:
  reconnect-mail:
    kind: email
    smtp: {host: smtp.example.com, port: 465, tls: implicit, username: relay, password: "${CRM_SECRET}"}
    from: Integrations <integrations@example.com>
    to: contact
    thread_by: $.data.credential_id
    ttl: 7d
rules:
  - {name: all, match: {type: credential.*}, to: [reconnect-mail]}
  - {name: own, match: {source: hookyard, type: relay.**}, to: [reconnect-mail]}
"#,
    );
    assert_eq!(loaded.problems, []);
    let config = loaded.config.unwrap();
    assert_eq!((config.contacts.list.len(), config.destinations[0].kind.word()), (3, "email"));
    assert!(!format!("{config:?}").contains("MfKQ"));
}

#[test]
fn mail_that_would_reach_nobody_or_go_unprotected_is_told_of() {
    let said = |more: &str, fields: &str| {
        let loaded = parsed(&format!(
            "version: 1\ndestinations:\n  m: {{kind: email, from: a@x.example, {fields}}}\nrules:\n  - {{name: r, match: {{source: hookyard}}, to: [m]}}\n{more}"
        ));
        loaded.problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let smtp = "smtp: {host: smtp.example.com}";
    insta::assert_snapshot!(said("", &format!("{smtp}, to: contact")), @"there are no contacts");
    insta::assert_snapshot!(said("contacts: [{namespace: u, email: u@x.example}]", &format!("{smtp}, to: contact")), @"a message for a namespace without a contact would reach nobody");
    insta::assert_snapshot!(said("", "smtp: {host: smtp.example.com, tls: none}, to: u@x.example"), @"mail goes without TLS only to hosts in `allow_targets`");
    insta::assert_snapshot!(said("", "smtp: {host: smtp.example.com, port: 0}, to: u@x.example"), @"a port is between 1 and 65535");
    insta::assert_snapshot!(said("", "smtp: {host: 'smtp.example.com:25', username: u}, to: u@x.example, answers: default"), @"`username` and `password` go together; expected the name of a mail server such as smtp.example.com, without a port; `answers` says how answers over HTTP are read; mail has its own");
    insta::assert_snapshot!(said("reconnect: {connector_api: 'https://c.example.com', api_key: k, connectors: {a: b}}", &format!("{smtp}, to: u@x.example")), @"links need `server.public_url`; this secret stands in the file itself, for whoever reads it");
    insta::assert_snapshot!(said("reconnect_url: nonsense", &format!("{smtp}, to: u@x.example")), @"expected a template of a URL such as https://app.example.com/connect?account={{ event.namespace | urlencode }}, found `nonsense`");
}
