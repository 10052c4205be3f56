//! `check --against 24h`: what a file would change of what came in, against what the relay runs on.

use serde_json::{Value, json};

use crate::support::{Home, Receiver, Relay, Routes, relay::finish, routes, signed};

fn sources() -> Routes {
    routes().interactor()
}

/// One rule for expired credentials, one for large amounts.
fn today(crm: &Receiver) -> Routes {
    let file = sources().webhook("crm", crm).webhook("audit", crm);
    file.rule("name: expired, match: {type: credential.expired}, to: [crm]")
        .rule("name: large, match: {type: workflow.**}, when: [{path: $.data.amount, gt: 1000}], to: [crm, audit]")
}

/// The amount is lower, who expires is mailed about, and a rule is gone.
fn tomorrow(crm: &Receiver) -> Routes {
    let mail = "kind: email, smtp: {host: 127.0.0.1, port: 1, tls: none}, from: relay@example.com, to: contact";
    let file = sources().webhook("crm", crm).webhook("audit", crm).destination("mail", mail);
    file.rule(
        "name: large, match: {type: workflow.**}, when: [{path: $.data.amount, gt: 100}], to: [crm, audit], severity: critical",
    )
    .rule("name: mails, match: {type: credential.expired}, to: [mail]")
    .section("contacts: [{namespace: user_1, email: [dana@example.com]}]")
}

async fn takes(relay: &Relay, id: &str, kind: &str, data: Value) {
    relay.accepts(&signed::interactor(json!({"id": id, "type": kind, "data": data}).to_string())).await;
}

/// A relay on today's file that took in seven events, and tomorrow's file beside it.
async fn seven(crm: &Receiver) -> Relay {
    let relay = Relay::start(&today(crm)).await;
    takes(&relay, "evt_1", "credential.expired", json!({"namespace": "user_1"})).await;
    takes(&relay, "evt_2", "credential.expired", json!({"namespace": "stranger"})).await;
    for (n, amount) in [10, 500, 500, 2000].into_iter().enumerate() {
        takes(&relay, &format!("evt_w{n}"), "workflow.instance.completed", json!({"amount": amount})).await;
    }
    takes(&relay, "evt_o", "a.b", json!({})).await;
    relay.home.write("new.yaml", &tomorrow(crm).text());
    relay
}

/// Runs `check --against` in `home`; exit status, stdout and stderr.
async fn against(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = finish(home.command(&[&["check"], arguments].concat())).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Before, after, gained, lost and changed.
fn counts(it: &Value) -> [u64; 5] {
    ["before", "after", "gained", "lost", "changed"].map(|name| it[name].as_u64().unwrap())
}

fn hold_up(answer: &str) -> Value {
    let data = serde_json::from_str::<Value>(answer).unwrap()["data"].take();
    let of = |kind: &str, name: &str| counts(&data[kind][name]);
    assert_eq!(of("rules", "expired"), [2, 0, 0, 2, 0], "{data:#}");
    assert_eq!(of("rules", "large"), [1, 3, 2, 0, 0]);
    assert_eq!(of("rules", "mails"), [0, 2, 2, 0, 0]);
    assert_eq!(of("targets", "crm"), [3, 3, 2, 2, 1], "the severity of one is another");
    assert_eq!(of("targets", "mail"), [0, 2, 2, 0, 0]);
    let nobody = &data["unaddressed"]["mail"];
    assert_eq!((&nobody["events"], &nobody["namespaces"]), (&json!(1), &json!(["stranger"])), "{data:#}");
    assert_eq!(data["cut"], false);
    data
}

#[tokio::test]
async fn the_running_relays_events_are_planned_by_both_files() {
    let crm = Receiver::ok().await;
    let relay = seven(&crm).await;
    let url = format!("http://{}", relay.admin);
    let base = ["--config", "new.yaml", "--url", &url, "--against"];
    let (status, out, err) = against(&relay.home, &[&base[..], &["24h", "--json"]].concat()).await;
    assert_eq!(status, Some(0), "{out}{err}");
    let data = hold_up(&out);
    // The relay's own events (`relay.config.loaded`) are planned too.
    assert!(7 <= data["events"].as_u64().unwrap(), "{data:#}");
    let running = relay.data("/api/v1/config").await["hash"].take();
    assert!(data["running_hash"] == running && data["file_hash"] != running);
    let uids: Vec<_> = relay.all("/api/v1/events?type=credential.expired").await.iter().map(|it| it["uid"].clone()).collect();
    assert_eq!(data["rules"]["mails"]["gained_examples"], json!(uids), "the newest first");

    let (status, out, _) = against(&relay.home, &[&base[..], &["24h"]].concat()).await;
    assert_eq!(status, Some(0));
    for part in ["events of the last 1d", "expired", "mails", "+2", "-2", "stranger", "no contact"] {
        assert!(out.contains(part), "{part}:\n{out}");
    }
    let (_, out, _) = against(&relay.home, &["--config", "routes.yaml", "--url", &url, "--against", "1h"]).await;
    assert!(out.contains("nothing changes"), "{out}");
    let deliveries = relay.all("/api/v1/deliveries").await.len();
    assert_eq!(deliveries, 4, "nothing is planned but once");
}

#[tokio::test]
async fn without_a_relay_its_store_is_read() {
    let crm = Receiver::ok().await;
    let relay = seven(&crm).await;
    relay.settled("", 4).await;
    let (home, dead) = (relay.home.clone(), format!("http://{}", relay.admin));
    // The file says where the relay would be: nobody is there any more.
    let text = std::fs::read_to_string(home.path().join("new.yaml")).unwrap();
    home.write("new.yaml", &text.replace("admin_listen: 127.0.0.1:0", &format!("admin_listen: {}", relay.admin)));
    relay.stop().await;
    let (status, out, err) = against(&home, &["--config", "new.yaml", "--against", "24h", "--json"]).await;
    assert_eq!(status, Some(0), "{out}{err}");
    hold_up(&out);
    let (status, _, err) = against(&home, &["--config", "new.yaml", "--against", "24h", "--url", &dead]).await;
    assert_eq!(status, Some(3), "that relay was asked for: {err}");
    let empty = Home::new();
    empty.write("routes.yaml", &text.replace("admin_listen: 127.0.0.1:0", "admin_listen: 127.0.0.1:9"));
    let (status, _, err) = against(&empty, &["--against", "24h"]).await;
    assert!(status == Some(3) && !empty.path().join("hookyard.db").exists(), "{err}");
}

#[tokio::test]
async fn a_bad_file_is_compared_with_nothing() {
    let home = Home::new();
    home.write("routes.yaml", "version: 1\nrulse: []\n");
    let (status, out, err) = against(&home, &["--against", "24h"]).await;
    assert!(status == Some(1) && out.is_empty() && err.contains("routes.yaml:2:1"), "{status:?} {err}");
    let (status, out, _) = against(&home, &["--against", "24h", "--json"]).await;
    assert!(status == Some(1) && out.contains("\"ok\": false"), "{out}");
    assert_eq!(against(&home, &["--against", "soon"]).await.0, Some(2));
}

#[tokio::test]
async fn the_relay_hands_its_events_out_in_pages() {
    let crm = Receiver::ok().await;
    let relay = seven(&crm).await;
    let mut path = "/api/v1/config/backtest?limit=2".to_owned();
    let mut ids = Vec::new();
    loop {
        let answer = relay.get(&path).await.json();
        let rows = answer["data"].as_array().unwrap().clone();
        assert!(rows.len() <= 2);
        ids.extend(rows.iter().filter(|it| it["plan"]["rules"] == json!(["large"])).map(|it| it["envelope"]["id"].clone()));
        match answer["next"].as_str() {
            Some(next) => path = format!("/api/v1/config/backtest?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids, [json!("evt_w3")]);
    let none = relay.get("/api/v1/config/backtest?since=2100-01-01T00:00:00Z").await.json();
    assert_eq!((&none["data"], &none["next"]), (&json!([]), &Value::Null));
    for bad in ["after=a3", "after=x", "source=a", "limit=0"] {
        assert_eq!(relay.get(&format!("/api/v1/config/backtest?{bad}")).await.status, 400, "{bad}");
    }
}
