//! `kind: whatsapp`: what Twilio is sent, what its answers mean, one delivery for each recipient, and reports.

use std::time::Duration;

use hookyard::sign::{Algorithm, Key, base64};
use serde_json::{Value, json};

use crate::support::{
    Answer, Receiver, Reply, Request, Routes, SOON, TestApp, app::MINUTELY, minutes, routes, seconds, spawn_app, until,
};

/// Where Twilio is told to report; its tests send reports to the relay's own address.
const PUBLIC: &str = "https://relay.example.com";
const TOKEN: &str = "twilio-hush";

fn says(status: u16, body: &str) -> Reply {
    Reply::Full(status, Vec::new(), body.into())
}

fn taken() -> Reply {
    says(201, r#"{"sid":"SM0123","status":"queued"}"#)
}

/// Destination `name` at `twilio`, to one number unless `more` says otherwise.
fn wa(file: Routes, name: &str, twilio: &Receiver, more: &str) -> Routes {
    let to = if more.contains("to:") { "" } else { ", to: [\"whatsapp:+15550100\"]" };
    let way = format!("kind: whatsapp, account_sid: AC0123, auth_token: {TOKEN}, base_url: \"http://{}\"", twilio.addr);
    file.destination(name, &format!("{way}, from: \"whatsapp:+14155238886\"{to}, {MINUTELY}{more}"))
}

fn reported(file: Routes) -> Routes {
    file.server(&format!("public_url: {PUBLIC}"))
}

/// The form of a request, by name.
fn form(body: &[u8]) -> std::collections::BTreeMap<String, String> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

/// Reports `status` as Twilio does, about the message of which `callback` was its address, signed with `token`.
async fn reports(app: &TestApp, callback: &str, params: &[(&str, &str)], token: &str) -> Answer {
    let mut sorted = params.to_vec();
    sorted.sort_unstable();
    let signed: String = sorted.iter().flat_map(|(name, value)| [*name, *value]).collect();
    let tag = Key::new(Algorithm::Sha1, token.as_bytes()).sign(&[callback.as_bytes(), signed.as_bytes()]);
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    let request = Request::json(callback.strip_prefix(PUBLIC).unwrap(), body);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    app.send(&request.header("X-Twilio-Signature", base64(tag.as_ref()))).await
}

const DELIVERED: &[(&str, &str)] = &[("MessageSid", "SM0123"), ("MessageStatus", "delivered"), ("To", "whatsapp:+15550100")];

fn failed(code: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![("MessageSid", "SM0123"), ("MessageStatus", "undelivered"), ("ErrorCode", code)]
}

/// Waits until the one delivery is sent and waits for its report; yields the callback's address.
async fn awaiting(app: &TestApp, twilio: &Receiver, requests: usize) -> String {
    let seen = twilio.wait_for(requests).await;
    until("the attempt to be recorded", SOON, async || {
        let row = app.rows("").await.pop()?;
        let log = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
        (log["log"].as_array().unwrap().last()?["outcome"] == "awaiting").then_some(())
    })
    .await;
    form(&seen[requests - 1].body)["StatusCallback"].clone()
}

#[tokio::test]
async fn a_message_goes_out_as_a_form_with_basic_credentials() {
    let twilio = Receiver::start([taken()]).await;
    let app = spawn_app(wa(routes().interactor(), "wa", &twilio, "")).await;
    app.takes_of("evt_1", "credential.expired", json!({"service_name": "Google & Co"})).await;
    let request = twilio.first().await;
    assert_eq!(request.line, "POST /2010-04-01/Accounts/AC0123/Messages.json HTTP/1.1");
    assert_eq!(request.header("authorization"), format!("Basic {}", base64(format!("AC0123:{TOKEN}").as_bytes())));
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    let form = form(&request.body);
    assert_eq!((form["To"].as_str(), form["From"].as_str()), ("whatsapp:+15550100", "whatsapp:+14155238886"));
    assert!(form["Body"].contains("Google & Co"), "{form:?}");
    assert!(!form.contains_key("StatusCallback"), "nobody could report to it");
    let row = app.reaches("", "delivered").await;
    assert_eq!(row["unconfirmed"], false);
}

#[tokio::test]
async fn a_content_template_is_filled_with_what_templates_make() {
    let twilio = Receiver::start([taken()]).await;
    let more = r#", content_sid: HX0123, content_variables: {"1": "{{ event.data.service_name }}", "2": "{{ event.data.nothing }}", "3": "{{ event.data.a.b.c }}"}"#;
    let app = spawn_app(wa(routes().interactor(), "wa", &twilio, more)).await;
    app.takes_of("evt_1", "credential.expired", json!({"service_name": "Google\n\n Calendar"})).await;
    let form = form(&twilio.first().await.body);
    assert_eq!((form["ContentSid"].as_str(), form.get("Body")), ("HX0123", None));
    let variables: Value = serde_json::from_str(&form["ContentVariables"]).unwrap();
    assert_eq!((&variables["1"], &variables["2"]), (&json!("Google Calendar"), &json!("-")));
    assert!(variables["3"].as_str().unwrap().contains("failed"), "{variables}");
    // What turns text around or shows nothing does harm here as anywhere.
    app.takes_of("evt_2", "credential.expired", json!({"service_name": "a\u{202e}b\u{2066}c\u{200b}\u{feff}d"})).await;
    let form = self::form(&twilio.wait_for(2).await[1].body);
    assert_eq!(serde_json::from_str::<Value>(&form["ContentVariables"]).unwrap()["1"], "abcd");
}

#[tokio::test]
async fn an_approved_message_says_of_how_many_events_it_tells() {
    let twilio = Receiver::start([taken()]).await;
    let more = r#", content_sid: HX0123, content_variables: {"1": "{{ digest.count }} since {{ event.id }}"}"#;
    let rule = "name: all, match: {type: credential.expired}, to: [wa], digest: {key: $.namespace, window: 10m, max: 3}";
    let app = spawn_app(wa(routes().interactor(), "wa", &twilio, more).rule(rule)).await;
    app.takes_many(3).await;
    let form = form(&twilio.first().await.body);
    assert_eq!(serde_json::from_str::<Value>(&form["ContentVariables"]).unwrap()["1"], "3 since evt_1");
    app.counts("state=digested", 2).await;
}

#[tokio::test]
async fn what_people_are_sent_is_never_empty_nor_longer_than_twilio_takes() {
    let twilio = Receiver::start([taken()]).await;
    let file = wa(routes().interactor(), "wa", &twilio, r#", body: "{{ event.data.nothing }}""#);
    let app = spawn_app(file).await;
    app.takes_of("evt_1", "credential.expired", json!({"service_name": "Google"})).await;
    assert!(form(&twilio.first().await.body)["Body"].contains("Google"), "the built-in line stands for nothing");
    let url = format!("https://form.example/{}", "x".repeat(1900));
    let halted = json!({"workflow_name": "approval", "halting_presentation": {"title": "Approve", "url": url}});
    let other = wa(routes().interactor(), "wa", &twilio, "");
    let app = app.restart(other).await;
    app.takes_of("evt_2", "workflow.instance.halted", halted).await;
    let body = form(&twilio.wait_for(2).await[1].body)["Body"].clone();
    assert!(body.contains("approval") && !body.contains("https://form.example"), "half a link leads nowhere: {body}");
}

/// Tries one event at a Twilio that answers so, and yields its delivery.
async fn fate(status: u16, code: u32) -> (TestApp, Value) {
    let twilio = Receiver::start([says(status, &format!(r#"{{"code":{code},"message":"said","status":{status}}}"#))]).await;
    let app = spawn_app(wa(routes().interactor(), "wa", &twilio, "")).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    (app, row)
}

#[tokio::test]
async fn answers_that_pass_are_transient() {
    for (status, code) in [(429, 20429), (400, 63018), (500, 20500), (503, 0), (429, 1)] {
        let (app, row) = fate(status, code).await;
        assert_eq!((&row["state"], app.due_in(&row)), (&json!("pending"), 60.0), "{status} {code}: {row}");
    }
}

#[tokio::test]
async fn answers_about_the_account_open_the_breaker_and_burn_nothing() {
    for (status, code) in [(401, 20003), (400, 20003), (401, 1), (403, 1), (400, 21606), (400, 63007)] {
        let (app, row) = fate(status, code).await;
        assert_eq!((&row["state"], &row["cause"]), (&json!("held"), &json!("broken")), "{status} {code}: {row}");
        assert_eq!(app.target("wa").await["cause"], "config", "{status} {code}");
    }
}

#[tokio::test]
async fn other_refusals_are_permanent() {
    for (status, code) in [(400, 21211), (400, 63016), (404, 20404), (400, 21610), (410, 1)] {
        let (_app, row) = fate(status, code).await;
        assert_eq!((&row["state"], &row["cause"]), (&json!("dead"), &json!("receiver")), "{status} {code}: {row}");
        assert_eq!(row["error"], format!("twilio_{code}"));
    }
}

#[tokio::test]
async fn what_may_have_been_taken_is_said() {
    let twilio = Receiver::start([Reply::Close]).await;
    let app = spawn_app(wa(routes().interactor(), "wa", &twilio, "")).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    let story = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    assert!(story["log"][0]["detail"].as_str().unwrap().contains("may send it twice"), "{story}");
}

#[tokio::test]
async fn what_is_taken_stays_sending_until_it_is_reported_over_a_restart_too() {
    let twilio = Receiver::start([taken()]).await;
    let file = || reported(wa(routes().interactor(), "wa", &twilio, ""));
    let app = spawn_app(file()).await;
    app.takes("evt_1").await;
    let callback = awaiting(&app, &twilio, 1).await;
    assert!(callback.starts_with(&format!("{PUBLIC}/callbacks/twilio/wa?delivery=dl_")), "{callback}");
    let app = app.restart(file()).await;
    let row = app.rows("").await.remove(0);
    assert_eq!((&row["state"], &row["next_attempt_at"]), (&json!("sending"), &Value::Null), "{row}");
    assert_eq!(app.rows("state=sending").await.len(), 1);
    assert_eq!(app.rows("state=pending").await.len(), 0);
    app.nothing_comes(&twilio, 1, minutes(9)).await;
    let answer = reports(&app, &callback, DELIVERED, TOKEN).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let row = app.reaches("", "delivered").await;
    assert_eq!((&row["unconfirmed"], app.story(&row).await.as_str()), (&json!(false), "1 delivered 201"));
    // Told twice, and of something else: it is final.
    assert_eq!(reports(&app, &callback, DELIVERED, TOKEN).await.status, 204);
    assert_eq!(reports(&app, &callback, &failed("63016"), TOKEN).await.status, 204);
    assert_eq!(app.rows("state=delivered").await.len(), 1);
    assert_eq!(twilio.count(), 1);
}

#[tokio::test]
async fn only_twilios_signature_decides() {
    let twilio = Receiver::start([taken()]).await;
    let app = spawn_app(reported(wa(routes().interactor(), "wa", &twilio, ""))).await;
    app.takes("evt_1").await;
    let callback = awaiting(&app, &twilio, 1).await;
    assert_eq!(reports(&app, &callback, &failed("63016"), "another token").await.status, 403);
    let unsigned = Request::json(callback.strip_prefix(PUBLIC).unwrap(), "MessageStatus=undelivered");
    assert_eq!(app.send(&unsigned).await.status, 403);
    let elsewhere = callback.replace("/wa?", "/nobody?");
    assert_eq!(reports(&app, &elsewhere, DELIVERED, TOKEN).await.status, 404);
    // Signed, and of an attempt that was never made.
    assert_eq!(reports(&app, &callback.replace("attempt=1", "attempt=x"), DELIVERED, TOKEN).await.status, 400);
    // On its way is no news.
    assert_eq!(reports(&app, &callback, &[("MessageStatus", "sent")], TOKEN).await.status, 204);
    assert_eq!(app.rows("").await[0]["state"], "sending");
}

#[tokio::test]
async fn a_failure_that_is_reported_counts_by_its_code() {
    for (code, state, cause, requests) in
        [("63016", "dead", json!("receiver"), 1), ("63018", "pending", Value::Null, 1), ("63007", "held", json!("broken"), 1)]
    {
        let twilio = Receiver::start([taken()]).await;
        let app = spawn_app(reported(wa(routes().interactor(), "wa", &twilio, ""))).await;
        app.takes("evt_1").await;
        let callback = awaiting(&app, &twilio, 1).await;
        assert_eq!(reports(&app, &callback, &failed(code), TOKEN).await.status, 204);
        let row = app.reaches("", state).await;
        assert_eq!((&row["cause"], &row["error"], twilio.count()), (&cause, &json!(format!("twilio_{code}")), requests), "{row}");
        if state == "dead" {
            continue;
        }
        // It is sent again, and what is reported of the first message touches it no more.
        app.clock.advance(minutes(1));
        let second = awaiting(&app, &twilio, 2).await;
        assert!(second.ends_with("attempt=2"), "{second}");
        assert_eq!(reports(&app, &callback, &failed("63016"), TOKEN).await.status, 204);
        assert_eq!(app.rows("").await[0]["state"], "sending", "{code}");
        assert_eq!(reports(&app, &second, DELIVERED, TOKEN).await.status, 204);
        app.reaches("", "delivered").await;
        assert_eq!(app.target("wa").await["state"], "ok");
    }
}

#[tokio::test]
async fn without_a_report_it_is_delivered_after_ten_minutes_and_marked() {
    let twilio = Receiver::start([taken()]).await;
    let file = || reported(wa(routes().interactor(), "wa", &twilio, ""));
    let app = spawn_app(file()).await;
    app.takes("evt_1").await;
    awaiting(&app, &twilio, 1).await;
    app.nothing_comes(&twilio, 1, seconds(599)).await;
    assert_eq!(app.rows("").await[0]["state"], "sending");
    let app = app.restart(file()).await;
    assert_eq!(app.rows("").await[0]["state"], "sending");
    app.clock.advance(seconds(1));
    let row = app.reaches("", "delivered").await;
    assert_eq!(row["unconfirmed"], true, "{row}");
    let story = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    assert!(story["log"][0]["detail"].as_str().unwrap().contains("unconfirmed"), "{story}");
    assert_eq!(twilio.count(), 1);
}

#[tokio::test]
async fn each_recipient_has_a_delivery_of_their_own() {
    let twilio = Receiver::answering(|request, _| match form(&request.body)["To"].as_str() {
        "whatsapp:+15550102" => says(400, r#"{"code":21211,"message":"not a number"}"#),
        _ => taken(),
    })
    .await;
    let to = r#", to: ["+15550100", "whatsapp:+15550101", "+1 555 0102"]"#;
    let app = spawn_app(wa(routes().interactor(), "wa", &twilio, to)).await;
    app.takes("evt_1").await;
    let rows = app.settled("target=wa", 3).await;
    let mut found: Vec<_> = rows.iter().map(|row| (row["recipient"].as_str().unwrap(), row["state"].as_str().unwrap())).collect();
    found.sort_unstable();
    assert_eq!(found, [("+15550100", "delivered"), ("+15550101", "delivered"), ("+15550102", "dead")]);
    assert_eq!(twilio.distinct("idempotency-key").len(), 3);
    let bodies: std::collections::BTreeSet<_> = twilio.seen().iter().map(|request| form(&request.body)["Body"].clone()).collect();
    assert_eq!((twilio.count(), bodies.len()), (3, 1));
}

#[tokio::test]
async fn recipients_come_from_contacts_or_from_the_event() {
    let twilio = Receiver::start([taken()]).await;
    let file = wa(routes().interactor(), "contact", &twilio, ", to: contact")
        .section("contacts: [{namespace: user_1, whatsapp: [\"+15550111\"]}, {namespace: \"*\", whatsapp: [\"+15550999\"]}]");
    let file = wa(file, "path", &twilio, ", to: {path: $.data.phone}, allow_recipients: [\"+1555*\"]");
    let app = spawn_app(file).await;
    app.takes_of("evt_1", "credential.expired", json!({"phone": "+15550122"})).await;
    app.takes_of("evt_2", "credential.expired", json!({"phone": "+49301234567"})).await;
    let row = until("the second one to die", SOON, async || app.rows("target=path&state=dead").await.pop()).await;
    assert_eq!((&row["event_id"], &row["error"], &row["cause"]), (&json!("evt_2"), &json!("no_recipient"), &json!("config")));
    let seen = twilio.wait_for(3).await;
    let to: std::collections::BTreeSet<_> = seen.iter().map(|request| form(&request.body)["To"].clone()).collect();
    assert_eq!(to, ["whatsapp:+15550122".to_owned(), "whatsapp:+15550999".to_owned()].into());
}

#[tokio::test]
async fn an_ordered_message_waits_for_the_report_on_the_one_before() {
    let twilio = Receiver::start([taken()]).await;
    let app = spawn_app(reported(wa(routes().interactor(), "wa", &twilio, ", order_by: $.data.credential_id"))).await;
    let about = json!({"credential_id": "cred_1"});
    app.takes_of("evt_1", "credential.expired", about.clone()).await;
    let callback = awaiting(&app, &twilio, 1).await;
    app.takes_of("evt_2", "credential.expired", about).await;
    app.nothing_comes(&twilio, 1, Duration::ZERO).await;
    assert_eq!(reports(&app, &callback, DELIVERED, TOKEN).await.status, 204);
    twilio.wait_for(2).await;
}

#[tokio::test]
async fn the_token_is_shown_nowhere() {
    let twilio = Receiver::start([says(500, "{}")]).await;
    let app = spawn_app(reported(wa(routes().interactor(), "wa", &twilio, ""))).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    let story = app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    let shown = format!("{story}{}", app.data("/api/v1/targets").await);
    assert!(!shown.contains("hush") && !shown.contains(&base64(format!("AC0123:{TOKEN}").as_bytes())), "{shown}");
}
