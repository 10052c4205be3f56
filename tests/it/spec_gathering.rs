//! delivery.md, "Throttle", "Digest", `cancel_on`, "Quiet" and `ttl`: what is decided about a delivery before it is tried.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    Home, Receiver, Relay, Reply, Routes, SOON, TestApp,
    app::MINUTELY,
    hours, minutes, routes, seconds,
    smtp::{MailServer, through},
    spawn_app, throughout, until,
};

/// One in a day for each credential, until it is refreshed.
const THROTTLE: &str = "throttle: {key: $.data.credential_id, limit: 1, per: 24h, reset_on: [credential.refreshed]}";
/// Ten minutes for each namespace.
const DIGEST: &str = "digest: {key: $.namespace, window: 10m, max: 50}";
/// Called off when the credential is refreshed.
const CANCEL: &str = "cancel_on: {type: [credential.refreshed], key: $.data.credential_id}";
/// From an hour after a test begins, for nine hours. (It begins at noon.)
const NIGHTS: &str = "schedules: {nights: {tz: UTC, windows: [{from: \"13:00\", to: \"22:00\"}]}}";

/// A rule for `credential.expired` to these targets, which says this.
fn expired(routes: Routes, to: &str, says: &str) -> Routes {
    routes.rule(&format!("name: expired, match: {{type: credential.expired}}, to: [{to}], {says}"))
}

fn slack(routes: Routes, name: &str, to: &Receiver, more: &str) -> Routes {
    routes.destination(name, &format!("kind: slack, url: \"http://{}/services/T0/B0/hush\", {MINUTELY}{more}", to.addr))
}

async fn refreshed(app: &TestApp, id: &str) {
    app.takes_of(id, "credential.refreshed", json!({"credential_id": "cred_abc", "namespace": "user_123"})).await;
}

/// How many deliveries are in each state: `1 delivered, 2 suppressed throttle`.
async fn states(app: &TestApp, query: &str) -> String {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for row in app.rows(query).await {
        let cause = row["cause"].as_str().map_or_else(String::new, |cause| format!(" {cause}"));
        *counts.entry(format!("{}{cause}", row["state"].as_str().unwrap())).or_default() += 1;
    }
    counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

async fn come_to(app: &TestApp, query: &str, wanted: &str) {
    let last = std::cell::RefCell::new(String::new());
    let check = async || {
        let now = states(app, query).await;
        let there = now == wanted;
        *last.borrow_mut() = now;
        there.then_some(())
    };
    let what = format!("deliveries ({query}) to be: {wanted}");
    until(&what, SOON, check).await;
}

#[tokio::test]
pub(crate) async fn forty_for_one_credential_make_one_message_each_and_another_takes_the_place_of_one_that_dies() {
    let mail = MailServer::answering(|line, before| {
        let answers = ["450 4.2.0 not now", "550 5.1.1 nobody of this name"];
        line.starts_with("RCPT").then(|| answers.get(before).map(ToString::to_string)).flatten()
    });
    let (mail, ops) = (mail.await, Receiver::ok().await);
    let file = slack(through(routes().interactor(), "mail", &mail, "[dana@example.com]", ""), "ops", &ops, "");
    let app = spawn_app(expired(file, "mail, ops", THROTTLE)).await;
    app.takes_many(40).await;
    come_to(&app, "target=ops", "1 delivered, 39 suppressed throttle").await;
    come_to(&app, "target=mail", "1 pending, 39 suppressed throttle").await;
    assert_eq!((mail.count("RCPT"), mail.mails().len(), ops.count()), (1, 0, 1));
    let suppressed = app.rows("state=suppressed&cause=throttle").await;
    assert_eq!(suppressed.len(), 78);
    assert_eq!(suppressed[0]["reason"], "one of the same key went within 1d");
    // The one that waits for its retry counts; when it dies, the newest suppressed one takes its place.
    app.clock.advance(minutes(1));
    come_to(&app, "target=mail", "1 dead receiver, 1 delivered, 38 suppressed throttle").await;
    let row = app.rows("target=mail&state=delivered").await.remove(0);
    assert_eq!((&row["event_id"], mail.count("RCPT"), mail.mails().len()), (&json!("evt_40"), 3, 1));
    // Why is told with the event's story.
    let uid = suppressed[5]["event"].as_str().unwrap();
    let story = app.data(&format!("/api/v1/events/{uid}")).await;
    assert_eq!(story["deliveries"][1]["cause"], "throttle", "{story}");
}

#[tokio::test]
pub(crate) async fn waiting_and_held_ones_count_and_an_absent_key_is_not_throttled() {
    let crm = Receiver::ok().await;
    let app = spawn_app(expired(routes().interactor().webhook("crm", &crm), "crm", THROTTLE)).await;
    app.tells("crm", "pause").await;
    app.takes_many(3).await;
    come_to(&app, "", "3 held paused").await;
    app.tells("crm", "resume").await;
    come_to(&app, "", "1 delivered, 2 suppressed throttle").await;
    for id in ["bare_1", "bare_2"] {
        app.takes_of(id, "credential.expired", json!({"namespace": "user_123"})).await;
    }
    come_to(&app, "", "3 delivered, 2 suppressed throttle").await;
    // The next day is another window, over a restart too.
    app.clock.advance(hours(25));
    app.takes("evt_4").await;
    come_to(&app, "", "4 delivered, 2 suppressed throttle").await;
}

#[tokio::test]
pub(crate) async fn reset_on_ends_the_window_though_no_rule_takes_the_event() {
    let crm = Receiver::ok().await;
    let file = expired(routes().interactor().webhook("crm", &crm), "crm", THROTTLE);
    let app = spawn_app(file.clone()).await;
    app.takes_many(2).await;
    come_to(&app, "", "1 delivered, 1 suppressed throttle").await;
    refreshed(&app, "evt_r").await;
    let app = app.restart(file).await;
    app.takes("evt_3").await;
    app.takes("evt_4").await;
    come_to(&app, "", "2 delivered, 2 suppressed throttle").await;
}

#[tokio::test]
pub(crate) async fn a_digest_goes_out_when_its_window_ends_over_a_restart_too() {
    let ops = Receiver::ok().await;
    let file = expired(slack(routes().interactor(), "ops", &ops, ""), "ops", DIGEST);
    let app = spawn_app(file.clone()).await;
    app.takes_many(2).await;
    let rows = app.counts("state=pending", 2).await;
    until("both to wait for the window", SOON, async || {
        app.rows("state=pending").await.iter().all(|row| app.due_in(row) == 600.0).then_some(())
    })
    .await;
    app.clock.advance(minutes(5));
    let app = app.restart(file).await;
    app.takes("evt_3").await;
    until("the third to join", SOON, async || app.rows("").await.iter().all(|row| app.due_in(row) == 300.0).then_some(())).await;
    assert_eq!(ops.count(), 0);
    app.clock.advance(minutes(5));
    come_to(&app, "", "1 delivered, 2 digested").await;
    assert_eq!(ops.count(), 1);
    let text = ops.seen()[0].text();
    assert_eq!(text.matches("cred_abc").count().max(3), text.matches("cred_abc").count(), "it tells of all three: {text}");
    let carrier = app.rows("state=delivered").await.remove(0);
    assert_eq!(carrier["event_id"], "evt_1");
    for row in app.rows("state=digested").await {
        assert_eq!(row["carrier"], carrier["id"], "{row}");
    }
    let story = app.data(&format!("/api/v1/deliveries/{}", carrier["id"].as_str().unwrap())).await;
    let carries: Vec<_> = story["carries"].as_array().unwrap().iter().map(|it| it["event_id"].as_str().unwrap()).collect();
    assert_eq!((carries, rows.len()), (vec!["evt_2", "evt_3"], 2));
}

#[tokio::test]
pub(crate) async fn a_digest_goes_out_at_max() {
    let ops = Receiver::ok().await;
    let file = expired(slack(routes().interactor(), "ops", &ops, ""), "ops", "digest: {key: $.namespace, window: 1h, max: 3}");
    let app = spawn_app(file).await;
    app.takes_many(3).await;
    come_to(&app, "", "1 delivered, 2 digested").await;
    assert_eq!(ops.count(), 1);
}

#[tokio::test]
pub(crate) async fn a_dead_digest_is_one_dead_letter_that_lists_its_events() {
    let ops = Receiver::start([Reply::Full(400, Vec::new(), "invalid_blocks".into())]).await;
    let app = spawn_app(expired(slack(routes().interactor(), "ops", &ops, ""), "ops", DIGEST)).await;
    app.takes_many(3).await;
    until("all to be gathered", SOON, async || app.rows("").await.iter().all(|row| app.due_in(row) == 600.0).then_some(())).await;
    app.clock.advance(minutes(10));
    come_to(&app, "", "1 dead receiver, 2 digested").await;
    let letters = app.all("/api/v1/dead-letters").await;
    assert_eq!(letters.len(), 1);
    let letter = app.data(&format!("/api/v1/dead-letters/{}", letters[0]["id"].as_str().unwrap())).await;
    assert_eq!(letter["carries"].as_array().unwrap().len(), 2, "{letter}");
}

#[tokio::test]
pub(crate) async fn cancel_on_cancels_what_waits_and_not_what_is_under_way() {
    let gate = Arc::new(Semaphore::new(0));
    let (down, slow) = (Receiver::start([503]).await, Receiver::start([Reply::Gated(gate.clone())]).await);
    let file = routes().interactor().webhook_with("down", &down, MINUTELY).webhook("slow", &slow);
    let app = spawn_app(expired(file, "down, slow", CANCEL)).await;
    app.takes("evt_1").await;
    app.tried("target=down", 1).await;
    slow.first().await;
    app.takes_of("evt_2", "credential.expired", json!({"credential_id": "another"})).await;
    refreshed(&app, "evt_3").await;
    let row = until("the cancellation", SOON, async || app.rows("target=down&state=cancelled").await.pop()).await;
    assert_eq!((&row["event_id"], &row["cause"]), (&json!("evt_1"), &json!("cancel_on")));
    let events = app.all("/api/v1/events").await;
    let event = events.iter().find(|event| event["id"] == "evt_3").unwrap();
    assert_eq!(row["reason"], format!("credential.refreshed {} came", event["uid"].as_str().unwrap()));
    gate.add_permits(10);
    come_to(&app, "target=slow", "2 delivered").await;
    app.clock.advance(minutes(1));
    until("only the other one to be tried again", SOON, async || (down.count() == 3).then_some(())).await;
    come_to(&app, "target=down", "1 cancelled cancel_on, 1 pending").await;
}

#[tokio::test]
pub(crate) async fn quiet_holds_until_the_window_ends_but_for_exceptions_and_over_a_restart() {
    let crm = Receiver::ok().await;
    let quiet = format!("{MINUTELY}, quiet: {{schedule: nights, then: hold, except: [critical]}}");
    let file = routes().interactor().webhook_with("crm", &crm, &quiet).section(NIGHTS);
    let file = file
        .rule("name: grave, match: {type: grave}, severity: critical, to: [crm]")
        .rule("name: both, match: {type: \"*\"}, severity: warning, to: [crm]")
        .rule("name: rest, match: {type: \"**\"}, to: [crm]");
    let app = spawn_app(file.clone()).await;
    app.clock.advance(hours(2));
    app.takes("evt_1").await;
    // Two rules, one target: its severity is the highest, and that is excepted.
    app.takes_of("evt_2", "grave", json!({})).await;
    come_to(&app, "", "1 delivered, 1 held quiet").await;
    let row = app.rows("state=held").await.remove(0);
    assert_eq!((app.rows("state=pending").await.len(), app.due_in(&row)), (0, 8.0 * 3600.0));
    let app = app.restart(file).await;
    app.takes("evt_3").await;
    come_to(&app, "", "1 delivered, 2 held quiet").await;
    app.nothing_comes(&crm, 1, hours(7)).await;
    app.clock.advance(hours(1));
    come_to(&app, "", "3 delivered").await;
    assert_eq!((crm.count(), crm.distinct("idempotency-key").len()), (3, 3));
}

#[tokio::test]
pub(crate) async fn quiet_drops_or_gathers() {
    let (crm, ops) = (Receiver::ok().await, Receiver::ok().await);
    let drop = format!("{MINUTELY}, quiet: {{schedule: nights, then: drop}}");
    let file = routes().interactor().webhook_with("crm", &crm, &drop).section(NIGHTS);
    let file = slack(file, "ops", &ops, ", quiet: {schedule: nights, then: digest}");
    let app = spawn_app(expired(file.clone(), "crm, ops", "stop: false")).await;
    app.clock.advance(hours(2));
    app.takes_many(2).await;
    come_to(&app, "target=crm", "2 suppressed quiet").await;
    assert_eq!(app.rows("target=crm").await[0]["reason"], "quiet hours `nights`");
    let gather = async |app: &TestApp, count: usize| {
        until(&format!("{count} to gather"), SOON, async || {
            let rows = app.rows("target=ops").await;
            (rows.len() == count && rows.iter().all(|row| app.due_in(row) == 8.0 * 3600.0)).then_some(())
        })
        .await;
    };
    gather(&app, 2).await;
    let app = app.restart(expired(file, "crm, ops", "stop: false")).await;
    app.takes("evt_3").await;
    come_to(&app, "target=crm", "3 suppressed quiet").await;
    gather(&app, 3).await;
    app.clock.advance(hours(8));
    come_to(&app, "target=ops", "1 delivered, 2 digested").await;
    assert_eq!((crm.count(), ops.count()), (0, 1));
}

#[tokio::test]
pub(crate) async fn give_up_stands_still_while_quiet() {
    let crm = Receiver::start([503]).await;
    let hour = "retry: {initial: 10m, factor: 1, max: 10m, jitter: none, give_up_after: 1h}, quiet: {schedule: nights}";
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, hour).section(NIGHTS)).await;
    app.clock.advance(minutes(50));
    app.takes("evt_1").await;
    app.tried("", 1).await;
    // Ten minutes later the night begins: it waits nine hours, of which none counts.
    app.clock.advance(minutes(10));
    come_to(&app, "", "1 held quiet").await;
    app.clock.advance(hours(9));
    for n in 2..=6 {
        let row = app.tried("", n).await;
        assert_eq!(row["state"], "pending", "attempt {n}: {row}");
        app.clock.advance(minutes(10));
    }
    assert_eq!(app.reaches("", "dead").await["attempts"], 7, "an hour of its own");
}

#[tokio::test]
pub(crate) async fn ttl_runs_from_acceptance_wherever_it_waits() {
    let (crm, down) = (Receiver::ok().await, Receiver::start([503]).await);
    let file = routes().interactor().webhook_with("crm", &crm, &format!("{MINUTELY}, ttl: 1h"));
    let app =
        spawn_app(file.webhook_with("down", &down, "retry: {initial: 20m, factor: 1, max: 20m, jitter: none}, ttl: 1h")).await;
    app.tells("crm", "pause").await;
    app.takes("evt_1").await;
    app.tried("target=down", 1).await;
    app.clock.advance(minutes(59));
    app.takes("evt_2").await;
    app.tells("down", "pause").await;
    app.clock.advance(minutes(1));
    // Every five seconds is looked for what is too old.
    let gone = async |target: &str| {
        app.clock.advance(seconds(5));
        app.rows(&format!("target={target}&state=expired")).await.pop()
    };
    let row = until("the first to expire", SOON, async || gone("crm").await).await;
    assert_eq!((&row["event_id"], &row["reason"]), (&json!("evt_1"), &json!("older than its ttl of 1h")));
    until("the one that was tried to expire", SOON, async || gone("down").await).await;
    app.tells("crm", "resume").await;
    come_to(&app, "target=crm", "1 delivered, 1 expired").await;
    assert_eq!(crm.count(), 1);
}

#[tokio::test]
pub(crate) async fn two_rules_suppress_only_what_both_would() {
    let crm = Receiver::ok().await;
    let file = expired(routes().interactor().webhook("crm", &crm), "crm", &format!("{THROTTLE}, {CANCEL}"));
    let app = spawn_app(file.rule("name: audit, match: {type: \"credential.expired\", namespace: \"user_*\"}, to: [crm]")).await;
    app.takes_many(2).await;
    come_to(&app, "", "2 delivered").await;
    // Of another namespace only the first rule takes it.
    for id in ["evt_3", "evt_4"] {
        app.takes_of(id, "credential.expired", json!({"credential_id": "cred_abc", "namespace": "x"})).await;
    }
    come_to(&app, "", "3 delivered, 1 suppressed throttle").await;
    app.tells("crm", "pause").await;
    app.takes("evt_5").await;
    refreshed(&app, "evt_r").await;
    come_to(&app, "state=held", "1 held paused").await;
}

#[tokio::test]
pub(crate) async fn a_replay_skips_throttle_digest_and_cancel_on_and_respects_quiet() {
    let (crm, ops) = (Receiver::ok().await, Receiver::ok().await);
    let file = slack(
        routes().interactor().webhook_with("crm", &crm, &format!("{MINUTELY}, quiet: {{schedule: nights}}")),
        "ops",
        &ops,
        "",
    );
    let file = expired(file, "crm", &format!("{THROTTLE}, {CANCEL}")).section(NIGHTS);
    let app = spawn_app(file.rule(&format!("name: digest, match: {{type: credential.expired}}, to: [ops], {DIGEST}"))).await;
    app.takes_many(2).await;
    come_to(&app, "target=crm", "1 delivered, 1 suppressed throttle").await;
    app.posts("/api/v1/replays", &json!({})).await;
    come_to(&app, "target=crm", "3 delivered, 1 suppressed throttle").await;
    until("the replays to go out one by one", SOON, async || {
        app.clock.advance(seconds(1));
        (app.rows("target=ops&state=delivered").await.len() == 2).then_some(())
    })
    .await;
    app.clock.advance(hours(2));
    app.posts("/api/v1/replays", &json!({"target": "crm"})).await;
    until("the night to hold them", SOON, async || (!app.rows("target=crm&state=held").await.is_empty()).then_some(())).await;
    refreshed(&app, "evt_r").await;
    assert!(app.rows("target=crm&state=cancelled").await.is_empty());
    assert!(app.rows("target=crm&state=held").await.iter().all(|row| row["cause"] == "quiet" && row["replayed"] == true));
}

#[tokio::test]
pub(crate) async fn a_mute_suppresses_with_its_reason_until_its_end() {
    let crm = Receiver::ok().await;
    let file = routes().interactor().webhook("crm", &crm);
    let app = spawn_app(file.clone()).await;
    let mute = json!({"type": "credential.*", "target": "crm", "reason": "moving house", "author": "ana", "for": "1h"});
    let made = app.posts("/api/v1/mutes", &mute).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "suppressed").await;
    let reason = row["reason"].as_str().unwrap();
    assert_eq!(row["cause"], "mute");
    assert!(reason.starts_with("moving house (ana, mute_") && reason.ends_with("until 2026-01-20T13:00:00Z)"), "{reason}");
    app.takes_of("evt_2", "workflow.done", json!({})).await;
    come_to(&app, "", "1 delivered, 1 suppressed mute").await;
    // It outlives a restart, and ends by itself.
    let app = app.restart(file).await;
    assert_eq!(app.data("/api/v1/mutes").await, json!([made]));
    app.takes("evt_3").await;
    come_to(&app, "", "1 delivered, 2 suppressed mute").await;
    app.clock.advance(hours(1));
    assert_eq!(app.data("/api/v1/mutes").await, json!([]));
    app.takes("evt_4").await;
    come_to(&app, "", "2 delivered, 2 suppressed mute").await;
    // As lists show it, and as rules match.
    for matches in [json!({"type": ["a.*", "b"], "target": "crm"}), json!({"match": {"type": ["a.*", "b"]}, "target": ["crm"]})] {
        let mut mute = matches;
        (mute["reason"], mute["for"]) = (json!("x"), json!("1h"));
        let made = app.posts("/api/v1/mutes", &mute).await;
        assert_eq!((&made["type"], &made["target"]), (&json!(["a.*", "b"]), &json!(["crm"])), "{made}");
    }
    for (bad, says) in [
        (json!({"match": "a.*", "reason": "x", "for": "1h"}), "is an object"),
        (json!({"match": {"when": "x"}, "reason": "x", "for": "1h"}), "nothing that is matched"),
        (json!({"type": [7], "reason": "x", "for": "1h"}), "a list of texts"),
        (json!({"reason": "x", "for": "1h"}), "names a source"),
        (json!({"type": "x", "for": "1h"}), "has a reason"),
        (json!({"type": "x", "reason": "x"}), "has an end"),
        (json!({"type": "x", "reason": "x", "until": "2020-01-01T00:00:00Z"}), "ends in the future"),
        (json!({"type": "x", "reason": "x\u{7}", "for": "1h"}), "one line"),
    ] {
        let answer = app.post("/api/v1/mutes", &bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.text().contains(says), "{bad}: {}", answer.text());
    }
}

#[tokio::test]
pub(crate) async fn twelve_hundred_credentials_make_one_mail_each_none_for_the_refreshed_and_one_slack_message() {
    const COUNT: usize = 1200;
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answers = open.clone();
    let closed = move || !answers.load(std::sync::atomic::Ordering::SeqCst);
    let mail = MailServer::answering(move |line, _| {
        (line.starts_with("MAIL") && closed()).then(|| "421 4.3.2 too much at once".to_owned())
    });
    let (mail, ops) = (mail.await, Receiver::ok().await);
    let file = slack(through(routes().interactor(), "mail", &mail, "[dana@example.com]", ""), "ops", &ops, "");
    let file = expired(file, "mail", &format!("{THROTTLE}, {CANCEL}"));
    let says = format!("{CANCEL}, digest: {{key: $.type, window: 15m}}");
    let app = spawn_app(file.rule(&format!("name: tell-ops, match: {{type: credential.expired}}, to: [ops], {says}"))).await;
    let of = |n: usize| json!({"credential_id": format!("cred_{n}"), "namespace": format!("user_{n}")});
    for n in 0..COUNT {
        app.takes_of(&format!("evt_{n}"), "credential.expired", of(n)).await;
        if n % 100 == 99 {
            app.clock.advance(seconds(15));
        }
    }
    app.clock.advance(minutes(4));
    for n in (0..COUNT).step_by(2) {
        app.takes_of(&format!("fresh_{n}"), "credential.refreshed", of(n)).await;
    }
    let half = COUNT / 2;
    come_to(&app, "target=mail&state=cancelled", &format!("{half} cancelled cancel_on")).await;
    assert!(mail.count("MAIL") < 40, "the breaker keeps the rest from being tried: {}", mail.count("MAIL"));
    mail_again(&open);
    app.clock.advance(minutes(15));
    // Twelve hundred on a busy machine.
    until("all mails that are left", 4 * SOON, async || {
        app.clock.advance(seconds(30));
        (app.rows("target=mail&state=delivered").await.len() == half).then_some(())
    })
    .await;
    assert_eq!(states(&app, "target=mail").await, format!("{half} cancelled cancel_on, {half} delivered"));
    come_to(&app, "target=ops", &format!("{half} cancelled cancel_on, 1 delivered, {} digested", half - 1)).await;
    assert_eq!(ops.count(), 1);
    let ids: std::collections::BTreeSet<_> = mail.mails().iter().map(|mail| mail.header("Message-ID")).collect();
    assert_eq!((mail.mails().len(), ids.len()), (half, half), "a mail each, and no second one");
    throughout("more than one message to ops", std::time::Duration::from_millis(100), async || ops.count() == 1).await;
}

fn mail_again(open: &std::sync::atomic::AtomicBool) {
    open.store(true, std::sync::atomic::Ordering::SeqCst);
}

#[tokio::test]
pub(crate) async fn only_what_people_read_is_gathered() {
    let home = Home::new();
    let bad = r#"
version: 1
sources: {in: {kind: trigger, path: /in, allow_unauthenticated: true}}
schedules:
  nights: {tz: Europe/Berlin, windows: [{from: "22:00", to: "07:00"}]}
  never: {tz: Europe/Berlin, windows: [{from: "22:00", to: "22:00"}]}
destinations:
  crm: {kind: webhook, url: "https://crm.example.com/x", quiet: {schedule: nights, then: digest}}
  n8n: {kind: n8n, url: "https://n8n.example.com/x", quiet: {schedule: night}, ttl: 0s}
rules:
  - {name: a, match: {type: x}, to: [crm], digest: {key: $.namespace, window: 10m}}
  - {name: b, match: {type: x}, to: [n8n], throttle: {per: 24h}}
  - {name: c, match: {type: x}, to: [n8n], throttle: {key: $.id, per: 0s, limit: 0}}
  - {name: d, match: {type: x}, to: [n8n], cancel_on: {key: $.id}}
"#;
    home.write("routes.yaml", bad);
    let output = home.run(&["check"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    for words in [
        "only Slack, email and WhatsApp take digests",
        "`crm` is of kind `webhook`",
        "there is no schedule `night`",
        "did you mean `nights`?",
        "this window is empty",
        "a `ttl` of 0",
        "`throttle` needs `key`",
        "`per` is longer than nothing",
        "`limit` is at least 1",
        "`cancel_on` needs `type`",
    ] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
}

#[tokio::test]
pub(crate) async fn mutes_are_added_listed_and_removed_by_the_command_line() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    let added = relay
        .cli_ok(&["mute", "add", "--type", "credential.*", "--reason", "a drill", "--author", "ben", "--for", "2h", "--json"])
        .await;
    let id = serde_json::from_str::<Value>(&added).unwrap()["data"]["id"].as_str().unwrap().to_owned();
    let listed = relay.cli_ok(&["mute"]).await;
    assert!(listed.contains("a drill") && listed.contains("ben") && listed.contains(&id), "{listed}");
    assert!(relay.cli_ok(&["mute", "remove", &id]).await.contains("a drill"));
    assert!(!relay.cli_ok(&["mute", "list"]).await.contains("a drill"));
    assert_eq!(relay.cli(&["mute", "remove", &id]).await.status.code(), Some(1));
    assert_eq!(relay.cli(&["mute", "add", "--type", "x", "--reason", "x"]).await.status.code(), Some(2), "it has an end");
}
