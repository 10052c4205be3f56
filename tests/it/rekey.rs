//! Secrets at rest: what one encryption key sealed outlives it, and a start under a wrong one says so instead of sending unsigned.

use serde_json::{Value, json};

use crate::support::{
    Home, Receiver, Relay, Request, Routes, SOON, routes,
    signed::{event, interactor},
    subscribed::is_signed_by,
    until,
};

const FIRST: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
const SECOND: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=";
const KEY: &str = "forwarding-value-5b1c";

/// A relay under `key`, which opens what `former` sealed; `value` is that of a trigger's static header.
fn file(key: &str, former: &[&str], value: &str) -> Routes {
    let trigger = format!("kind: trigger, path: /t, header: {{name: X-Key, values: [\"{value}\"]}}, map: {{type: t}}");
    routes()
        .interactor()
        .source("t", &trigger)
        .security(&format!("encryption_key: {key}, previous_encryption_keys: {}", json!(former)))
        .section("subscriptions: {allow_targets: [127.0.0.1]}")
}

/// Registers `receiver`; the secret it is told.
async fn subscribe(relay: &Relay, receiver: &Receiver) -> String {
    let made = relay.posts("/api/v1/webhooks", &json!({"url": receiver.url(), "events": ["credential.*"]})).await;
    made["secret"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

async fn rekey(relay: &Relay) -> Value {
    serde_json::from_str(&relay.cli_ok(&["secrets", "rekey", "--json"]).await).unwrap()
}

/// A relay under the first key with three subscriptions of `receiver` and a request in quarantine; stopped. The newest secret.
async fn sealed_under_the_first(home: &Home, receiver: &Receiver) -> String {
    let relay = Relay::start_in(home, &file(FIRST, &[], "another")).await;
    let mut secret = String::new();
    for _ in 0..3 {
        secret = subscribe(&relay, receiver).await;
    }
    relay.send(&Request::json("/t", r#"{"n": 1}"#).header("X-Key", KEY)).await.refused(401, "invalid_header");
    until("the request to be kept", SOON, async || {
        relay.all("/api/v1/rejections").await.iter().any(|row| row["kept"] == true).then_some(())
    })
    .await;
    assert!(relay.stop().await.success());
    secret
}

#[tokio::test]
async fn a_changed_key_loses_nothing_and_signs_as_before() {
    let (home, receiver) = (Home::new(), Receiver::ok().await);
    let secret = sealed_under_the_first(&home, &receiver).await;

    // Under another key alone nothing could be signed: it says so, and does not start.
    home.write("routes.yaml", &file(SECOND, &[], KEY).text());
    let refused = home.run(&["serve", "--config", "routes.yaml"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("none of the 3 subscriptions") && said.contains("previous_encryption_keys"), "{said}");
    assert!(!said.contains(FIRST) && !said.contains(SECOND), "{said}");

    let relay = Relay::start_in(&home, &file(SECOND, &[FIRST], "another")).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    receiver.wait_for(3).await;
    let done = rekey(&relay).await;
    assert_eq!(done["data"]["subscriptions"], json!({"sealed": 3, "current": 0, "closed": 0}));
    assert_eq!(done["data"]["rejections"], json!({"sealed": 1, "current": 0, "closed": 0}));
    assert_eq!(rekey(&relay).await["data"]["subscriptions"], json!({"sealed": 0, "current": 3, "closed": 0}));
    let audit = relay.all("/api/v1/audit?what=secrets.").await;
    assert!(audit.iter().any(|row| row["after"]["subscriptions"]["sealed"] == 3), "{audit:?}");
    // What was sealed anew is changed as before.
    let hooks = relay.data("/api/v1/webhooks").await;
    let id = hooks["webhooks"][0]["id"].as_str().unwrap();
    let changed =
        relay.ask_as(crate::support::relay::TOKEN, "PUT", &format!("/api/v1/webhooks/{id}"), Some(&json!({"name": "CRM"}))).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert!(relay.stop().await.success());

    // The former key is needed no more, not even by what is kept as hashes.
    let relay = Relay::start_in(&home, &file(SECOND, &[], KEY)).await;
    relay.accepts(&interactor(event("evt_2"))).await;
    receiver.wait_for(6).await;
    let signed =
        |id: &str| receiver.seen().iter().any(|request| request.header("webhook-id") == id && is_signed_by(request, &secret));
    assert!(signed("evt_1") && signed("evt_2"));
    let retried = relay.post("/api/v1/rejections/retry", &json!({"source": "t"})).await.json();
    assert_eq!(retried["data"], json!({"tried": 1, "accepted": 1, "duplicates": 0, "failed": 0}));
}

#[tokio::test]
async fn where_no_relay_runs_the_store_itself_is_worked_on() {
    for home in [Home::new(), Home::in_postgres()] {
        the_store_itself(&home).await;
    }
    // No store is made where there is none.
    let empty = Home::new();
    empty.write("routes.yaml", &file(SECOND, &[], KEY).on("127.0.0.1:0", "127.0.0.1:9").text());
    assert_eq!(empty.run(&["secrets", "rekey"]).await.status.code(), Some(3));
    assert!(!empty.path().join("hookyard.db").exists());
}

/// The secrets in the store of `home`, on which nobody works, are sealed anew.
async fn the_store_itself(home: &Home) {
    let receiver = Receiver::ok().await;
    let secret = sealed_under_the_first(home, &receiver).await;
    let rekey = async |key: &str, former: &[&str]| {
        // A port on which nobody answers.
        home.write("routes.yaml", &home.of(file(key, former, KEY).on("127.0.0.1:0", "127.0.0.1:9")).text());
        home.run(&["secrets", "rekey", "--json"]).await
    };
    let unknown = rekey(SECOND, &[]).await;
    assert_eq!(unknown.status.code(), Some(1));
    let counts: Value = serde_json::from_slice(&unknown.stdout).unwrap();
    assert_eq!((&counts["data"]["subscriptions"]["closed"], &counts["data"]["rejections"]["closed"]), (&json!(3), &json!(1)));
    let done = rekey(SECOND, &[FIRST]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let counts: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&counts["data"]["subscriptions"]["sealed"], &counts["data"]["rejections"]["sealed"]), (&json!(3), &json!(1)));
    let relay = Relay::start_in(home, &file(SECOND, &[], KEY)).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    receiver.wait_for(3).await;
    assert!(receiver.seen().iter().any(|request| is_signed_by(request, &secret)));
    let audit = relay.all("/api/v1/audit?what=secrets.rekeyed").await;
    assert_eq!((audit.len(), audit[0]["who"].as_str()), (1, Some("command line")));
}
