//! `hookyard sources propose`: a case for bodies that none takes, pasted, loaded, and met by the same bodies again.

use serde_json::{Value, json};

use crate::support::{Home, Receiver, Relay, relay::finish, routes, signed};

/// The source's file, with what stands under `cases`.
fn file(cases: &str) -> String {
    let source = format!(
        "  connectors:\n    kind: trigger\n    path: /triggers/connectors\n    dedupe: {{window: off}}\n    header: {{name: X-Forwarding-Key, values: [\"{}\"]}}\n    cases:\n",
        signed::FORWARDING
    );
    let gmail =
        "      - when: [{path: $.connector, eq: gmail}]\n        map: {type: connector.gmail.email_sent, id: $.message.id}\n";
    routes().text().replace("sources:\n", &format!("sources:\n{source}{gmail}{cases}"))
}

fn jira(n: u32) -> Value {
    json!({"connector": "jira", "event": "jira:issue_updated", "account": "acme-7", "issue": {"id": "10002", "key": "OPS-1"},
        "updated_at": format!("2026-01-20T12:00:0{n}Z"), "api_token": "tok_hush_91", "text": "a: # ${X} \u{1b}[2J"})
}

fn bodies() -> Vec<Value> {
    let crm = json!({"event_id": "e1", "subscription": {"type": "contact.created"}, "portal id": 62, "occurredAt": 1_768_910_400_000_u64});
    vec![jira(1), crm, json!({"connector": "gmail", "message": {"id": "m1"}}), jira(2)]
}

async fn typed(relay: &Relay) -> Vec<String> {
    let rows = relay.all("/api/v1/events?source=connectors").await;
    rows.iter().rev().map(|it| it["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_proposed_is_pasted_loads_and_maps() {
    let home = Home::new();
    home.write("routes.yaml", &file(""));
    let relay = Relay::resume(&home).await;
    for body in bodies() {
        relay.accepts(&signed::trigger(body.to_string())).await;
    }
    assert_eq!(typed(&relay).await, ["trigger.unmapped", "trigger.unmapped", "connector.gmail.email_sent", "trigger.unmapped"]);
    let proposed = relay.cli_ok(&["sources", "propose", "connectors"]).await;
    assert!(!proposed.contains("hush") && !proposed.contains('\u{1b}'), "{proposed}");
    for part in [
        "2 bodies of this shape",
        "eq: jira",
        "type: connector.jira.issue_updated",
        "time: $.updated_at",
        "namespace: $.account",
        "subject: $.issue.key",
    ] {
        assert!(proposed.contains(part), "{part}:\n{proposed}");
    }
    let json: Value = serde_json::from_str(&relay.cli_ok(&["sources", "propose", "connectors", "--json"]).await).unwrap();
    assert_eq!((json["data"].as_array().unwrap().len(), &json["data"][0]["bodies"]), (2, &json!(2)), "{json:#}");
    assert_eq!(json["data"][0]["sample"]["api_token"], "***");
    relay.stop().await;

    let cases = proposed.strip_prefix("    cases:\n").unwrap_or_else(|| panic!("{proposed}"));
    home.write("routes.yaml", &file(cases));
    let output = finish(home.command(&["check"])).await;
    assert!(output.status.success(), "{}\n{proposed}", String::from_utf8_lossy(&output.stderr));
    let relay = Relay::resume(&home).await;
    for body in bodies() {
        let accepted = relay.send(&signed::trigger(body.to_string())).await;
        assert_eq!(accepted.status, 200, "{}", accepted.text());
    }
    let types = typed(&relay).await;
    assert_eq!(
        (types[4].as_str(), types.last().unwrap().as_str()),
        ("connector.jira.issue_updated", "connector.jira.issue_updated")
    );
    assert!(types[4..].iter().all(|it| it != "trigger.unmapped"), "{types:?}");
    let events = relay.all("/api/v1/events?type=connector.jira.issue_updated").await;
    assert_eq!((&events[0]["namespace"], &events[0]["subject"]), (&json!("acme-7"), &json!("OPS-1")));
    assert!(events[0]["time"].as_str().unwrap().starts_with("2026-01-20T12:00:0"), "{}", events[0]);
}

#[tokio::test]
async fn who_has_nothing_to_propose_says_so() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().seeds().webhook("crm", &crm)).await;
    let output = relay.cli(&["sources", "propose", "connectors"]).await;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && output.stdout.is_empty() && err.contains("trigger.unmapped"), "{err}");
    for (name, status) in [("interactor", 1), ("nobody", 1), ("a b", 2)] {
        let output = relay.cli(&["sources", "propose", name]).await;
        assert_eq!(output.status.code(), Some(status), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
