//! Whole tests of whole files.

use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::config::{self, File, report};

fn config(text: &str) -> Config {
    let nothing = |_: &str| None;
    let env = StandIns::new(BTreeMap::new(), &nothing);
    let loaded = config::parse(File { path: "routes.yaml".into(), text: text.to_owned() }, &env);
    loaded.config.clone().unwrap_or_else(|| panic!("{}", report::text(&loaded, false)))
}

async fn performed(config: &Config) -> Vec<Performed> {
    let rehearsal = Rehearsal::new(config);
    let mut all = Vec::new();
    for test in &config.tests {
        all.push(perform(&rehearsal, test).await.unwrap());
    }
    all
}

/// What failed, as plain lines.
fn told(all: &[Performed]) -> String {
    let mut out = String::new();
    for performed in all {
        out.push_str(&format!("{}: {}\n", performed.name, if performed.failed.is_empty() { "passes" } else { "fails" }));
        for failed in &performed.failed {
            out.push_str(&format!("  {}\n", failed.what));
            for (mark, item) in &failed.items {
                let mark = match mark {
                    Mark::Both => ' ',
                    Mark::Expected => '-',
                    Mark::Got => '+',
                };
                out.push_str(&format!("    {mark} {item}\n"));
            }
            failed.beside.iter().for_each(|line| out.push_str(&format!("    | {line}\n")));
        }
    }
    out
}

#[tokio::test]
async fn the_example_passes_its_own_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/good/example.yaml");
    let config = config(&std::fs::read_to_string(path).unwrap());
    let all = performed(&config).await;
    assert_eq!((all.len(), told(&all).matches("passes").count()), (3, 3), "{}", told(&all));
    // The second event is suppressed for both, and crm, which nothing throttles, gets both.
    let states: Vec<_> = all[1].played[1].deliveries.iter().map(|it| (it.target.as_str(), it.state.word())).collect();
    assert_eq!(states, [("reconnect-mail", "suppressed"), ("ops-slack", "suppressed"), ("crm", "delivered")]);
    let slack = &all[1].played[0].deliveries[1];
    assert_eq!((slack.until, slack.cause), ("2026-01-21T06:00:00Z".parse().ok(), Some(Cause::Quiet)));
    assert!(slack.sent.is_some(), "it is seen as it will go out");
}

/// A file with a destination of each kind, a rule that wants all that rules may want, and `tests`.
fn every_kind(tests: &str) -> String {
    format!(
        "version: 1
server: {{public_url: https://relay.example.com}}
sources:
  interactor: {{kind: interactor, path: /in, secrets: ['${{S}}']}}
  connectors:
    kind: trigger
    path: /triggers
    header: {{name: X-Key, values: ['${{KEY}}']}}
    cases: [{{when: [{{path: $.connector, eq: gmail}}], map: {{type: connector.gmail.email_sent, namespace: $.account, id: $.id}}}}]
contacts_lookup: {{url: 'https://people.example.com/{{namespace}}'}}
contacts: [{{namespace: u1, email: [dana@example.com]}}]
schedules: {{nights: {{tz: Europe/Berlin, windows: [{{from: '22:00', to: '07:00'}}]}}}}
templates: {{short: 'Hello {{{{ event.data.name }}}}', broken: '{{{{ event.data.a.b.c }}}}'}}
destinations:
  crm: {{kind: webhook, url: https://crm.example.com/in, headers: {{X-Key: '${{CRM_KEY}}'}}, signing: {{secrets: ['${{CRM}}']}}, order_by: $.data.id}}
  n8n: {{kind: n8n, url: https://n8n.example.com/x, template: short}}
  slack: {{kind: slack, url: '${{SLACK}}', quiet: {{schedule: nights, then: digest}}}}
  bot: {{kind: slack, bot_token: '${{BOT}}', channel: C1, thread_by: $.data.id, quiet: {{schedule: nights, then: drop}}}}
  mail: {{kind: email, smtp: {{host: smtp.example.com, port: 465, tls: implicit}}, from: a@example.com, to: contact, ttl: 1h}}
  phone: {{kind: whatsapp, account_sid: '${{SID}}', auth_token: '${{T}}', from: '${{FROM}}', to: ['+15550101', '+15550102']}}
  forbidden: {{kind: webhook, url: 'https://10.0.0.1/x'}}
rules:
  - {{name: all, match: {{type: 'a.**'}}, to: [crm, n8n, slack, bot, mail, phone]}}
  - {{name: digested, match: {{type: d}}, to: [mail, slack], digest: {{key: $.namespace, window: 10m}}}}
  - {{name: long-digest, match: {{type: dd}}, to: [mail], digest: {{key: $.namespace, window: 2h}}}}
  - {{name: templated, match: {{type: t}}, to: [{{destination: mail, template: short}}, {{destination: slack, template: broken}}], severity: critical}}
  - {{name: forbidden, match: {{type: f}}, to: [forbidden]}}
  - {{name: gmail, match: {{type: 'connector.gmail.*', namespace: acme}}, to: [crm]}}
tests:
{tests}"
    )
}

#[tokio::test]
async fn every_kind_makes_what_it_would_send() {
    let config = config(&every_kind(
        "  - name: all
    event: {source: interactor, type: a.b, namespace: u1, data: {id: 1.50, name: R&D}}
    expect:
      to: [phone, mail, bot, slack, n8n, crm]
      states: {crm: delivered, n8n: delivered, slack: delivered, bot: delivered, mail: delivered, phone: delivered}
      suppressed: 0
      renders:
        crm: {contains: ['\"id\":1.50', R&D]}
        n8n: {contains: Hello R&D}
        slack: {contains: [a.b], not_contains: Hello}
        bot: {contains: [a.b, C1]}
        mail: {contains: [a.b, '<!DOCTYPE html>']}
        phone: {contains: 'whatsapp:+15550101'}
  - name: the look-up is not asked
    event: {source: interactor, type: a.b, namespace: nobody}
    expect: {states: {mail: delivered}}
",
    ));
    let all = performed(&config).await;
    assert_eq!(told(&all), "all: passes\nthe look-up is not asked: passes\n");
    let sent =
        |target: &str| all[0].played[0].deliveries.iter().find(|it| it.target.as_str() == target).unwrap().sent.clone().unwrap();
    assert_eq!(sent("mail").to, ["dana@example.com"]);
    let header = |name: &str| sent("crm").headers.into_iter().find(|(known, _)| known == name).unwrap().1;
    assert!(header("webhook-signature").starts_with("v1,"));
    assert_eq!((header("x-key").as_str(), header("x-hookyard-attempt").as_str()), ("***", "1"));
    let by_lookup = all[1].played[0].deliveries.iter().find(|it| it.target.as_str() == "mail").unwrap();
    assert_eq!(by_lookup.sent.as_ref().unwrap().to, ["stand-in@contacts-lookup.invalid"]);
}

#[tokio::test]
async fn time_is_the_tests_and_what_waits_is_seen_as_it_will_go_out() {
    let config = config(&every_kind(
        "  - name: at night
    now: 2026-01-20T23:30:00+01:00
    times: 3
    event: {source: interactor, type: a.b, namespace: u1, data: {id: x, name: Ann}}
    expect:
      states: {slack: pending, bot: suppressed, mail: delivered, crm: delivered}
      suppressed: 3
      renders: {slack: {contains: ['3']}}
  - name: a digest goes out when its window ends
    times: 4
    event: {source: interactor, type: d, namespace: u1}
    expect: {states: {mail: pending, slack: pending}, renders: {mail: {contains: ['4']}}}
  - name: and expires where it lasts longer than the mail is worth
    event: {source: interactor, type: dd, namespace: u1}
    expect: {states: {mail: pending}, renders: {mail: {contains: [dd]}}}
",
    ));
    let all = performed(&config).await;
    insta::assert_snapshot!(told(&all), @r#"
    at night: passes
    a digest goes out when its window ends: passes
    and expires where it lasts longer than the mail is worth: fails
      renders.mail
        - a message
        + nothing is sent: pending until 2026-01-20T14:00:00Z, then expired: older than its ttl of 1h
    "#);
    assert_eq!(
        all[0].played.iter().map(|played| played.event.id.as_str()).collect::<Vec<_>>(),
        ["evt_test", "evt_test-2", "evt_test-3"]
    );
}

#[tokio::test]
async fn what_differs_is_said_with_the_reason() {
    let config = config(&every_kind(
        "  - name: rules
    event: {source: interactor, type: t, data: {name: x}}
    expect: {rules: [all, gmail], to: [crm], states: {crm: delivered, mail: held}, suppressed: 2}
  - name: order
    event: {source: interactor, type: a.b}
    expect: {rules: [all, all]}
  - name: messages
    event: {source: interactor, type: t, namespace: u1, data: {name: \"x\\u001b[31m\"}}
    expect: {renders: {mail: {contains: [nonsense], not_contains: [Hello], subject: Hi}, slack: {contains: ['template `broken` failed']}, crm: {contains: [x]}}}
  - name: forbidden addresses are forbidden here too
    event: {source: interactor, type: f}
    expect: {states: {forbidden: delivered}}
  - name: nothing matches
    event: {source: interactor, type: nothing}
    expect: {rules: [], to: [], states: {crm: delivered}}
",
    ));
    insta::assert_snapshot!(told(&performed(&config).await), @r#"
    rules: fails
      rules
        - all: type is t, wanted a.**
        - gmail: type is t, wanted connector.gmail.*
        + templated
      to
        - crm
        + mail: by rule templated
        + slack: by rule templated
      states.crm
        - delivered
        + no delivery to crm: none of these rules sends there: templated
      states.mail
        - held
        + dead (config): no contact has a mail address for this namespace, nor has `*`
      suppressed
        - 2
        + 0
    order: fails
      rules
        - all, all
        + all
        | rules match in the order of the file, each once
    messages: fails
      renders.mail
        - contains "nonsense"
        | [critical] t for u1
        | Hello x[31m
      renders.mail
        + contains "Hello"
        | [critical] t for u1
        | Hello x[31m
      renders.mail
        - subject "Hi"
        + subject "[critical] t for u1"
      renders.crm
        - a message
        + nothing is sent: no delivery to crm: none of these rules sends there: templated
    forbidden addresses are forbidden here too: fails
      states.forbidden
        - delivered
        + dead (config): the address policy forbids every address of this target; `security.allow_targets` lets private ones through
    nothing matches: fails
      states.crm
        - delivered
        + no delivery to crm: no rule matches
    "#);
}

#[tokio::test]
async fn a_source_reads_its_events_as_it_does_those_of_senders() {
    let config = config(&every_kind(
        "  - name: a case gives type and namespace
    event: {source: connectors, data: {connector: gmail, account: acme, id: 7}}
    expect: {rules: [gmail], to: [crm], renders: {crm: {contains: ['\"namespace\":\"acme\"']}}}
  - name: no case fits
    event: {source: connectors, data: {connector: jira}}
    expect: {rules: []}
  - name: the namespace of the data
    event: {source: interactor, type: a.b, data: {namespace: u1, credential_id: c1}}
    expect: {renders: {crm: {contains: ['\"namespace\":\"u1\"', '\"subject\":\"c1\"']}}}
  - name: a sample
    event: {sample: credential.expired}
    expect: {rules: []}
  - name: the relay's own
    event: {source: hookyard, type: a.b}
    expect: {rules: []}
  - name: no object
    event: {source: connectors, data: [1]}
    expect: {rules: []}
",
    ));
    let all = performed(&config).await;
    insta::assert_snapshot!(told(&all), @r#"
    a case gives type and namespace: passes
    no case fits: passes
    the namespace of the data: passes
    a sample: passes
    the relay's own: passes
    no object: fails
      event
        - an event
        + its source takes no such thing: the body is JSON, but not an object
    "#);
    assert_eq!(all[3].played[0].event.id, "evt_003");
}

#[test]
fn the_time_of_tests_that_say_none_is_one() {
    assert!(NOW.parse::<Timestamp>().is_ok());
}
