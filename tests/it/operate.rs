//! A person operates the relay, mostly from the command line: dead letters, replays, targets, jobs, and watching it all.

use std::{
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Home, Receiver, Relay, Reply, SOON,
    relay::{Log, collect},
    routes,
    signed::{INTERACTOR, event, interactor, interactor_by},
    until,
};

/// A policy that tries nothing again soon.
const SLOW: &str = "retry: {initial: 1h, factor: 1, max: 1h, jitter: none}";

/// What a verb printed with `--json`.
async fn json_of(relay: &Relay, arguments: &[&str]) -> Value {
    let out = relay.cli_ok(&[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The exit status of a verb, and what it said.
async fn refused(relay: &Relay, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = relay.cli(arguments).await;
    assert!(stdout.is_empty(), "{arguments:?}: {}", text(&stdout));
    (status.code(), text(&stderr))
}

/// A relay whose `crm` answers as told and got `count` events.
async fn with_events<R: Into<Reply>>(replies: impl IntoIterator<Item = R>, fields: &str, count: usize) -> (Receiver, Relay) {
    let crm = Receiver::start(replies).await;
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, fields)).await;
    for n in 0..count {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    (crm, relay)
}

/// The one delivery that fits `query`, once there is one.
async fn row(relay: &Relay, query: &str) -> Value {
    let path = format!("/api/v1/deliveries?{query}");
    until(&format!("a delivery ({query})"), SOON, async || relay.all(&path).await.into_iter().next()).await
}

fn id(row: &Value) -> String {
    row["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn dead_letters_are_listed_counted_and_retried() {
    let (crm, relay) = with_events([400, 400, 400, 200], SLOW, 3).await;
    relay.settled("state=dead", 3).await;
    let list = json_of(&relay, &["dead-letters", "list"]).await;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["cause"]), (3, &json!("receiver")));
    assert_eq!(json_of(&relay, &["dead-letters", "--cause", "config"]).await["data"], json!([]));

    assert!(relay.cli_ok(&["dead-letters", "retry", "--target", "crm", "--dry-run"]).await.contains('3'));
    assert_eq!(
        (json_of(&relay, &["dead-letters", "retry", "--dry-run"]).await["data"]["count"].clone(), crm.count()),
        (json!(3), 3)
    );

    let one = id(&list["data"][0]);
    let story = relay.cli_ok(&["dead-letters", "retry", &one]).await;
    assert!(story.contains(&one), "{story}");
    relay.settled("state=delivered", 1).await;
    let job = json_of(&relay, &["dead-letters", "retry", "--target", "crm", "--rate", "1000/s"]).await;
    assert_eq!((&job["data"]["state"], &job["data"]["made"]), (&json!("done"), &json!(2)), "{job}");
    relay.settled("state=delivered", 3).await;
    assert_eq!(crm.distinct("idempotency-key").len(), 3, "the same deliveries");
    assert_eq!(json_of(&relay, &["dead-letters"]).await["data"], json!([]));
}

#[tokio::test]
async fn a_dead_letter_is_resolved_with_a_note() {
    let (_crm, relay) = with_events([400], SLOW, 1).await;
    let dead = id(&relay.settled("state=dead", 1).await[0]);
    assert_eq!(refused(&relay, &["dead-letters", "resolve", &dead]).await.0, Some(2), "a note is needed");
    assert!(
        relay.cli_ok(&["dead-letters", "resolve", &dead, "--note", "told them by phone"]).await.contains("told them by phone")
    );
    assert_eq!(json_of(&relay, &["dead-letters"]).await["data"], json!([]));
    let resolved = json_of(&relay, &["dead-letters", "--resolved"]).await;
    assert_eq!(
        (id(&resolved["data"][0]), &resolved["data"][0]["resolved"]["note"]),
        (dead.clone(), &json!("told them by phone"))
    );
    let (status, said) = refused(&relay, &["dead-letters", "retry", &dead]).await;
    assert_eq!((status, said.contains("resolved")), (Some(1), true), "{said}");
}

#[tokio::test]
async fn a_target_is_paused_and_resumed() {
    let (crm, relay) = with_events([200], SLOW, 0).await;
    assert!(relay.cli_ok(&["target", "pause", "crm"]).await.contains("paused"));
    relay.accepts(&interactor(event("evt_1"))).await;
    let held = row(&relay, "state=held").await;
    assert_eq!((&held["cause"], &held["next_attempt_at"]), (&json!("paused"), &Value::Null));
    let list = json_of(&relay, &["target", "list"]).await;
    let target = &list["data"][0];
    assert_eq!(
        (&target["name"], &target["kind"], &target["state"], &target["backlog"]),
        (&json!("crm"), &json!("webhook"), &json!("paused"), &json!(1))
    );
    assert_eq!((&target["oldest_at"], &target["url"]), (&held["created_at"], &json!(format!("http://{}/***", crm.addr))));
    for (kind, count) in [("credential.*", 1), ("**", 1), ("workflow.*", 0), ("no.such,credential.expired", 1)] {
        let found = json_of(&relay, &["deliveries", "--type", kind]).await;
        assert_eq!(found["data"].as_array().unwrap().len(), count, "{kind}: {found}");
    }
    let table = relay.cli_ok(&["target"]).await;
    assert!(table.contains("crm") && table.contains("paused"), "{table}");
    assert_eq!(crm.count(), 0);
    assert!(relay.cli_ok(&["target", "resume", "crm"]).await.contains("ok"));
    crm.first().await;
    assert_eq!(relay.settled("", 1).await[0]["state"], "delivered");
    assert_eq!(json_of(&relay, &["target", "show", "crm"]).await["data"]["backlog"], 0);
    assert_eq!(refused(&relay, &["target", "pause", "nobody"]).await.0, Some(1));
}

#[tokio::test]
async fn what_waits_for_a_target_is_cancelled_as_a_job() {
    let (crm, relay) = with_events([200], SLOW, 0).await;
    relay.cli_ok(&["target", "pause", "crm"]).await;
    for n in 0..3 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    let one = id(&row(&relay, "state=held").await);
    assert!(relay.cli_ok(&["deliveries", "cancel", &one]).await.contains("cancelled"));
    assert_eq!(json_of(&relay, &["target", "cancel", "crm", "--dry-run"]).await["data"]["count"], 2);
    let job = json_of(&relay, &["target", "cancel", "crm"]).await;
    assert_eq!((&job["data"]["kind"], &job["data"]["made"]), (&json!("cancel"), &json!(2)), "{job}");
    assert_eq!(relay.all("/api/v1/deliveries?state=cancelled").await.len(), 3);
    relay.cli_ok(&["target", "resume", "crm"]).await;
    relay.accepts(&interactor(event("evt_last"))).await;
    relay.settled("state=delivered", 1).await;
    assert_eq!(crm.count(), 1, "what was cancelled is not sent");
    let (status, said) = refused(&relay, &["deliveries", "cancel", &one]).await;
    assert_eq!((status, said.contains("cancelled")), (Some(1), true), "{said}");
}

#[tokio::test]
async fn events_are_replayed_to_one_target_and_jobs_tell_of_it() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let file = routes().interactor().webhook("crm", &crm).webhook("audit", &audit);
    let relay = Relay::start(&file.rule("name: a, match: {type: \"**\"}, to: [crm]")).await;
    for n in 0..3 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    relay.settled("state=delivered", 3).await;
    assert_eq!(json_of(&relay, &["replay", "--target", "audit", "--since", "1h", "--dry-run"]).await["data"]["count"], 3);
    assert_eq!((audit.count(), relay.all("/api/v1/replays").await.len()), (0, 0), "counting makes nothing");
    let job = json_of(&relay, &["replay", "--target", "audit", "--source", "interactor", "--rate", "100"]).await;
    assert_eq!(
        (&job["data"]["kind"], &job["data"]["made"], &job["data"]["total"]),
        (&json!("replay"), &json!(3), &json!(3)),
        "{job}"
    );
    audit.wait_for(3).await;
    assert_eq!(crm.count(), 3, "for the named target only");
    let id = id(&job["data"]);
    assert_eq!(json_of(&relay, &["jobs"]).await["data"][0]["id"], id.as_str());
    assert_eq!(json_of(&relay, &["jobs", "show", &id]).await["data"]["state"], "done");
    assert_eq!(refused(&relay, &["jobs", "cancel", &id]).await.0, Some(1), "it has ended");
    assert_eq!(refused(&relay, &["replay", "--target", "nobody"]).await.0, Some(2));
    assert_eq!(refused(&relay, &["replay"]).await.0, Some(2), "everything is not replayed by mistake");
    let event = relay.all("/api/v1/events").await[0]["uid"].as_str().unwrap().to_owned();
    let one = json_of(&relay, &["replay", &event]).await;
    assert_eq!(one["data"]["made"], 1, "by today's rules: {one}");
    crm.wait_for(4).await;
}

#[tokio::test]
async fn a_long_job_is_cancelled() {
    let (_crm, relay) = with_events([200], SLOW, 30).await;
    relay.settled("state=delivered", 30).await;
    let job = json_of(&relay, &["replay", "--all", "--rate", "1/s", "--no-wait"]).await;
    let id = id(&job["data"]);
    assert_eq!((&job["data"]["state"], &job["data"]["total"]), (&json!("running"), &json!(30)), "{job}");
    assert!(relay.cli_ok(&["jobs", "cancel", &id]).await.contains("cancelled"));
    let ended = relay.data(&format!("/api/v1/jobs/{id}")).await;
    assert!(ended["made"].as_u64().unwrap() < 30 && !ended["finished_at"].is_null(), "{ended}");
}

#[tokio::test]
async fn what_became_of_an_event_is_one_command() {
    let crm = Receiver::start([Reply::Full(503, vec![], "busy: try later".into()), Reply::from(200)]).await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_told"))).await;
    relay.settled("state=delivered", 1).await;
    let uid = relay.all("/api/v1/events").await[0]["uid"].as_str().unwrap().to_owned();
    let story = relay.cli_ok(&["events", &uid]).await;
    for word in ["interactor", "accepted", "everything", "crm", "delivered", "503", "200", "busy: try later"] {
        assert!(story.contains(word), "{word} in {story}");
    }
    let log = json_of(&relay, &["events", &uid]).await["data"]["deliveries"][0]["log"].take();
    let (first, second) = (&log[0], &log[1]);
    assert_eq!((&first["outcome"], &second["outcome"]), (&json!("retry"), &json!("delivered")));
    let got = crm.seen();
    for (attempt, got) in [first, second].into_iter().zip(&got) {
        assert!(attempt["latency_ms"].is_u64() && attempt["started_at"].is_string(), "{attempt}");
        let headers = attempt["request_headers"].as_object().unwrap();
        for (name, value) in headers {
            let value = value.as_str().unwrap();
            assert!(value == "***" || value == got.header(name), "{name}: {value} was {}", got.header(name));
        }
        assert_eq!((&headers["webhook-signature"], &headers["webhook-id"]), (&json!("***"), &json!("evt_told")));
        assert_eq!(headers["x-hookyard-attempt"], got.header("x-hookyard-attempt"));
    }
}

#[tokio::test]
async fn sources_tell_what_came_in_by_them() {
    let (_crm, relay) = with_events([200], SLOW, 2).await;
    relay.send(&interactor(event("evt_0"))).await;
    relay.send(&interactor_by("wrong", event("evt_9"))).await;
    let source = json_of(&relay, &["sources"]).await["data"][0].take();
    assert_eq!(
        (&source["name"], &source["kind"], &source["path"]),
        (&json!("interactor"), &json!("interactor"), &json!("/webhooks/interactor"))
    );
    assert_eq!(source["counts"], json!({"success": 2, "duplicate": 1, "invalid_signature": 1}));
    assert!(source["last_received_at"].is_string() && source["secrets"][0]["last_used_at"].is_string(), "{source}");
    assert!(relay.cli_ok(&["sources"]).await.contains("invalid_signature 1"));
}

/// `hookyard tail`, ended with the test.
struct Tail(Child, Log);

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tail {
    /// Begins to watch; returns once it does.
    async fn start(relay: &Relay, arguments: &[&str]) -> Self {
        let mut command: Command = relay.home.command(&[&["tail", "--config", "cli.yaml"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (Log::default(), Log::default());
        collect(child.stdout.take().unwrap(), &out);
        collect(child.stderr.take().unwrap(), &err);
        until("the tail to watch", SOON, async || err.lock().unwrap().iter().any(|line| line.contains("waiting")).then_some(()))
            .await;
        Self(child, out)
    }

    /// Waits for a line with all of `words`.
    async fn shows(&self, words: &[&str]) -> String {
        let fits = |line: &String| words.iter().all(|word| line.contains(word));
        until(&format!("{words:?}"), SOON, async || self.1.lock().unwrap().iter().find(|line| fits(line)).cloned()).await
    }
}

#[tokio::test]
async fn tail_follows_events_and_what_becomes_of_their_deliveries() {
    let (_crm, relay) = with_events([503, 200], "retry: {initial: 2s, factor: 1, max: 2s, jitter: none}", 0).await;
    let (all, dead) = (Tail::start(&relay, &[]).await, Tail::start(&relay, &["--state", "dead"]).await);
    relay.accepts(&interactor(event("evt_seen"))).await;
    all.shows(&["event ", "interactor", "credential.expired", "evt_seen", "accepted"]).await;
    all.shows(&["delivery", "crm", "pending", "http_503", "evt_seen"]).await;
    all.shows(&["delivery", "crm", "delivered", "evt_seen"]).await;
    assert!(!all.1.lock().unwrap().join("\n").contains("credential_id"), "what is in an event is not shown");
    assert_eq!(*dead.1.lock().unwrap(), [] as [String; 0]);
}

#[tokio::test]
async fn tail_sees_what_a_replay_makes_of_old_events() {
    let (_crm, relay) = with_events([200], SLOW, 3).await;
    relay.settled("state=delivered", 3).await;
    let (all, other) = (Tail::start(&relay, &[]).await, Tail::start(&relay, &["--target", "nobody"]).await);
    let deliveries = |tail: &Tail| tail.1.lock().unwrap().iter().filter(|line| line.starts_with("delivery")).count();
    // The newest first, then an older one: the second stands behind the first in any order by event.
    for (event, n) in relay.all("/api/v1/events").await.iter().zip([2, 1]) {
        assert_eq!(event["id"], format!("evt_{n}"));
        relay.cli_ok(&["replay", event["uid"].as_str().unwrap()]).await;
        all.shows(&["delivery", "crm", "delivered", &format!("evt_{n}")]).await;
    }
    let seen = deliveries(&all);
    relay.accepts(&interactor(event("evt_new"))).await;
    all.shows(&["delivery", "crm", "delivered", "evt_new"]).await;
    let told = all.1.lock().unwrap().join("\n");
    assert!(!told.contains("evt_0"), "what nobody replayed is not shown: {told}");
    assert!(deliveries(&all) <= seen + 3, "nothing is shown again: {told}");
    assert_eq!(deliveries(&other), 0);
}

#[tokio::test]
async fn wrong_usage_and_unknown_things_have_their_status() {
    let (_crm, relay) = with_events([200], SLOW, 0).await;
    let unknown = "dl_00000000000000000000000000000001_1";
    for (arguments, expected) in [
        (&["deliveries", "retry", unknown][..], 1),
        (&["deliveries", "retry", "../config"], 2),
        (&["dead-letters", "resolve", unknown, "--note", "x"], 1),
        (&["dead-letters", "retry", unknown, "--dry-run"], 2),
        (&["dead-letters", "retry", "--rate", "fast"], 2),
        (&["jobs", "show", "job_1"], 1),
        (&["target", "show", "no body"], 2),
        (&["tail", "--state", "lost"], 2),
    ] {
        let (status, said) = refused(&relay, arguments).await;
        assert_eq!(status, Some(expected), "{arguments:?}: {said}");
        assert!(!said.is_empty() && !said.contains(INTERACTOR), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn without_a_relay_it_is_3() {
    let home = Home::new();
    let gone = { Receiver::ok().await.addr };
    home.write("routes.yaml", &routes().interactor().on("127.0.0.1:0", &gone.to_string()).text());
    for verb in [&["target"][..], &["jobs"], &["sources"], &["tail"], &["dead-letters"], &["replay", "--all"]] {
        let output = home.run(verb).await;
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(3), true), "{verb:?}");
    }
}

#[tokio::test]
async fn what_was_done_outlives_a_restart() {
    let (crm, relay) = with_events([400, 200], SLOW, 1).await;
    relay.settled("state=dead", 1).await;
    relay.cli_ok(&["target", "pause", "crm"]).await;
    let job = json_of(&relay, &["dead-letters", "retry"]).await;
    assert_eq!(job["data"]["made"], 1, "{job}");
    let home = relay.home.clone();
    relay.stop().await;
    let relay = Relay::resume(&home).await;
    assert_eq!(row(&relay, "state=held").await["cause"], "paused");
    assert_eq!(relay.all("/api/v1/jobs").await[0]["id"], job["data"]["id"]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(crm.count(), 1, "still paused");
    relay.cli_ok(&["target", "resume", "crm"]).await;
    crm.wait_for(2).await;
}
