//! `hookyard store copy`: a store that relays made, copied from SQLite to PostgreSQL and back; relays go on from both copies as from the
//! first.

use std::{
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hookyard::clock::Clock;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{
    Home, Receiver, Relay, Request, Routes, SOON, TestApp,
    app::{MINUTELY, START},
    minutes,
    relay::finish,
    routes,
    signed::{event, interactor},
    store::tries,
    subscribed::is_signed_by,
    until,
};

/// Seals in every place that the store is in.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAM=";

/// Whom the relays of these tests deliver to.
struct Receivers {
    crm: Receiver,
    /// Answers 503 until all are well.
    down: Receiver,
    /// Refuses what comes until then.
    picky: Receiver,
    ops: Receiver,
    subscriber: Receiver,
    well: Arc<AtomicBool>,
}

impl Receivers {
    async fn start() -> Self {
        let well = Arc::new(AtomicBool::new(false));
        let until_well = async |status: u16| {
            let well = well.clone();
            Receiver::answering(move |_, _| if well.load(Ordering::Relaxed) { 200.into() } else { status.into() }).await
        };
        let (down, picky) = (until_well(503).await, until_well(400).await);
        let (crm, ops, subscriber) = (Receiver::ok().await, Receiver::ok().await, Receiver::ok().await);
        Self { crm, down, picky, ops, subscriber, well }
    }

    /// A file with everything in it that leaves something in the store; `secret` is that of the trigger.
    fn file(&self, secret: &str) -> Routes {
        let slack = |name: &str| format!("kind: slack, url: \"http://{}/services/T0/B0/{name}\", {MINUTELY}", self.ops.addr);
        let trigger = format!("kind: trigger, path: /t, header: {{name: X-Key, values: [\"{secret}\"]}}, map: {{type: t}}");
        routes()
            .interactor()
            .source("t", &trigger)
            .security(&format!("allow_targets: [127.0.0.1], encryption_key: {KEY}"))
            .section("subscriptions: {allow_targets: [127.0.0.1]}")
            .webhook("crm", &self.crm)
            .webhook_with("down", &self.down, MINUTELY)
            .webhook_with("picky", &self.picky, MINUTELY)
            .webhook_with("paused", &self.crm, MINUTELY)
            .destination("digests", &slack("digests"))
            .destination("throttled", &slack("throttled"))
            .rule("name: all, match: {type: \"**\"}, to: [crm]")
            .rule("name: bad, match: {type: x.bad}, to: [down, picky, paused]")
            .rule("name: often, match: {type: credential.expired}, to: [throttled], throttle: {key: $.data.credential_id, per: 24h}")
            .rule("name: many, match: {type: x.many}, to: [digests], digest: {key: $.namespace, window: 10m, max: 50}")
    }
}

/// What people see of a relay; times of reading left out.
async fn seen(app: &TestApp) -> Value {
    let mut all = json!({});
    for path in ["events", "deliveries", "dead-letters", "rejections", "audit", "replays", "jobs"] {
        all[path] = app.all(&format!("/api/v1/{path}")).await.into();
    }
    for path in ["tokens", "mutes"] {
        all[path] = app.data(&format!("/api/v1/{path}")).await;
    }
    let rows = app.data("/api/v1/targets").await;
    let states =
        rows.as_array().unwrap().iter().map(|row| json!([row["name"], row["state"], row["backlog"]])).collect::<Vec<_>>();
    all["targets"] = states.into();
    all["hooks"] = app.data("/api/v1/webhooks").await;
    for row in all["tokens"].as_array_mut().unwrap() {
        // It has been used to look.
        row["last_used_at"].take();
    }
    all
}

/// What a subscriber is told once.
struct Made {
    secret: String,
    token: String,
}

/// A relay that takes in everything; yields what it shows, once it has stopped.
async fn fill(home: &Home, clock: &Clock, to: &Receivers) -> (Value, Made) {
    let app = TestApp::start(home.clone(), clock.clone(), to.file("another")).await;
    let secret = app.subscribes(&to.subscriber).await.secret.reveal().to_owned();
    let token = app.token(&["events:read"], &[]).await;
    app.posts("/api/v1/mutes", &json!({"type": ["x.muted"], "reason": "maintenance", "author": "ana", "for": "48h"})).await;
    app.tells("paused", "pause").await;
    // Hostile text: what one of the two stores has no room for.
    app.takes_of("evt_nul", "x.bad", json!({"namespace": "a\u{0}b\u{1a}0"})).await;
    app.takes_of("evt_muted", "x.muted", json!({})).await;
    app.takes_many(3).await;
    for n in 0..3 {
        app.takes_of(&format!("evt_many_{n}"), "x.many", json!({"namespace": "user_123"})).await;
    }
    app.send(&Request::json("/t", r#"{"n": 1}"#).header("X-Key", "value-5b1c")).await.refused(401, "invalid_header");
    app.tried("target=down", 1).await;
    app.reaches("target=picky", "dead").await;
    app.counts("state=suppressed&target=throttled", 2).await;
    app.counts("state=delivered&target=crm", 7).await;
    app.counts("state=pending&target=digests", 3).await;
    let kept = async || app.all("/api/v1/rejections").await.iter().any(|row| row["kept"] == true).then_some(());
    until("the request to be kept", SOON, kept).await;
    let jobs = app.posts("/api/v1/replays", &json!({"source": "interactor", "target": "crm", "type": "x.bad"})).await;
    let job = format!("/api/v1/jobs/{}", jobs["id"].as_str().unwrap());
    until("the replay to end", SOON, async || (!app.data(&job).await["finished_at"].is_null()).then_some(())).await;
    app.counts("state=delivered&target=crm", 8).await;
    let shown = seen(&app).await;
    app.stops().await;
    (shown, Made { secret, token })
}

/// Runs `hookyard store copy`, which must succeed; yields what it says.
async fn copy(home: &Home, from: &str, to: &str) -> Value {
    let done = home.run(&["store", "copy", "--from", from, "--to", to, "--json"]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    said["data"].clone()
}

/// Every row of every table of a file, but for what belongs to the place that it is in.
fn tables(path: &Path) -> Vec<(String, Vec<String>)> {
    let conn = Connection::open(path).unwrap();
    let mut names = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let rows = |name: &String| {
        let sql = match name.as_str() {
            "settings" => "SELECT * FROM settings WHERE key <> 'store.copy'".to_owned(),
            // The probe is the place's.
            "identity" => "SELECT salt, max(last_seq, (SELECT max(seq) FROM events)), epoch FROM identity".to_owned(),
            name => format!("SELECT * FROM {name}"),
        };
        let mut statement = conn.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            Ok((0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect::<Vec<_>>().join(" "))
        };
        let mut rows: Vec<String> = statement.query_map([], row).unwrap().map(Result::unwrap).collect();
        rows.sort();
        rows
    };
    let rows: Vec<_> = names.iter().map(|name| (name.clone(), rows(name))).collect();
    // Numbers that were given to rows which are gone again count from the first of them.
    rows.into_iter().filter(|(name, rows)| name != "sqlite_sequence" || !rows.is_empty()).collect()
}

/// A relay on a copy: it shows the same, and goes on with what was under way.
async fn goes_on(home: &Home, clock: &Clock, shown: &Value, made: &Made, to: &Receivers) {
    let told = to.subscriber.count();
    let app = TestApp::start(home.clone(), clock.clone(), to.file("value-5b1c")).await;
    let mut last = Value::Null;
    until("the same to be shown", SOON, async || {
        last = seen(&app).await;
        (last == *shown).then_some(())
    })
    .await;
    assert_eq!(app.get_as("/api/v1/events", Some(&made.token)).await.status, 200);
    // What was known is known, and is one of those to which a throttle holds.
    let again = app.send(&app.signed(&event("evt_1"))).await.json();
    assert_eq!(again, json!({"received": true, "id": "evt_1", "duplicate": true}));
    app.takes("evt_new").await;
    app.counts("state=suppressed&target=throttled", 3).await;
    app.counts("state=delivered&target=crm", 9).await;
    let signed = until("the subscriber to be told", SOON, async || {
        to.subscriber.seen().into_iter().skip(told).find(|request| request.header("webhook-id") == "evt_new")
    })
    .await;
    assert!(is_signed_by(&signed, &made.secret));
    // What was pending, dead, held or gathered.
    app.clock.advance(minutes(1));
    let pending = app.rows("target=down").await.remove(0);
    let dead = app.rows("target=picky").await.remove(0);
    app.posts(&format!("/api/v1/deliveries/{}/retry", dead["id"].as_str().unwrap()), &json!({})).await;
    app.reaches("target=picky", "delivered").await;
    assert_eq!(to.picky.seen().last().unwrap().header("idempotency-key"), dead["id"]);
    app.tells("paused", "resume").await;
    app.reaches("target=paused", "delivered").await;
    app.clock.advance(minutes(10));
    app.counts("state=digested&target=digests", 2).await;
    until("the pending one to be delivered", SOON, async || {
        app.clock.advance(minutes(1));
        let row = app.rows("target=down").await.remove(0);
        (row["id"] == pending["id"] && row["state"] == "delivered").then_some(())
    })
    .await;
    let retried = app.post("/api/v1/rejections/retry", &json!({"source": "t"})).await.json();
    assert_eq!(retried["data"], json!({"tried": 1, "accepted": 1, "duplicates": 0, "failed": 0}));
    app.stops().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_and_back_again_and_relays_go_on_from_it() {
    let (home, shared, back) = (Home::new(), Home::in_postgres(), Home::new());
    let to = Receivers::start().await;
    let clock = Clock::manual(START);
    let (shown, made) = fill(&home, &clock, &to).await;
    let done = copy(&home, &home.store_url(), &shared.store_url()).await;
    assert_eq!((&done["rows_before"], &done["already"]), (&Value::Null, &json!(false)));
    // Beside the relay's own.
    assert!(8 <= done["tables"]["events"].as_u64().unwrap(), "{done}");
    let again = copy(&home, &home.store_url(), &shared.store_url()).await;
    assert_eq!((&again["already"], &again["finished_at"]), (&json!(true), &done["finished_at"]));
    copy(&home, &shared.store_url(), &back.store_url()).await;
    let said = home.run(&["store", "copy", "--from", &home.store_url(), "--to", &shared.store_url()]).await;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("was not counted") && !said.contains("counted on both sides"), "{said}");
    let [was, is] = [&home, &back].map(|home| tables(&home.path().join("hookyard.db")));
    for ((name, was), (other, is)) in was.iter().zip(&is) {
        assert_eq!((name, was), (other, is), "{name}");
    }
    assert!(20 < was.len() && was.len() == is.len(), "{}", was.len());
    to.well.store(true, Ordering::Relaxed);
    for home in [&shared, &back] {
        goes_on(home, &Clock::manual(START), &shown, &made, &to).await;
    }
}

/// A store of one relay with `count` events and as many deliveries.
async fn many(home: &Home, count: usize) {
    let crm = Receiver::ok().await;
    let app = TestApp::start(home.clone(), Clock::manual(START), sealed(routes().interactor().webhook("crm", &crm))).await;
    app.takes_many(count).await;
    app.counts("state=delivered", count).await;
    app.stops().await;
}

fn sealed(file: Routes) -> Routes {
    file.security(&format!("allow_targets: [127.0.0.1], encryption_key: {KEY}"))
}

/// The rows that a copy into the store of `home` has come to, once there is one.
fn rows_of_copy(home: &Home) -> Option<u64> {
    let sql = "SELECT value FROM settings WHERE key = 'store.copy'";
    let url = home.store_url();
    let text = match url.strip_prefix("sqlite://") {
        Some(path) => {
            let conn = Connection::open(path).ok()?;
            conn.busy_timeout(SOON).ok()?;
            conn.query_row(sql, [], |row| row.get::<_, String>(0)).ok()?
        }
        None => tries(&url, sql)?,
    };
    serde_json::from_str::<Value>(&text).ok()?["rows"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_killed_is_gone_on_with_and_a_relay_refuses_it_meanwhile() {
    let (home, shared, back) = (Home::new(), Home::in_postgres(), Home::new());
    many(&home, 120).await;
    for (from, to) in [(&home, &shared), (&shared, &back)] {
        let (source, destination) = (from.store_url(), to.store_url());
        let arguments = ["store", "copy", "--from", &source, "--to", &destination];
        let mut slow = home.command(&[&arguments[..], &["--rate", "60"]].concat());
        let mut slow = slow.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        until("some of it to be there", SOON, async || rows_of_copy(to).filter(|rows| 100 < *rows)).await;
        slow.kill().unwrap();
        slow.wait().unwrap();
        // The server notices a little later that the connection is gone.
        to.write("routes.yaml", &to.of(sealed(routes().interactor())).text());
        let said = until("the relay to say what is wrong", SOON, async || {
            let refused = to.run(&["serve", "--config", "routes.yaml"]).await;
            assert_eq!(refused.status.code(), Some(3));
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            (!said.contains("in use")).then_some(said)
        })
        .await;
        assert!(said.contains("unfinished copy") && said.contains("hookyard store copy"), "{said}");
        let done = until("the former one to be gone", SOON, async || {
            let done = home.run(&arguments).await;
            (done.status.code() != Some(3)).then_some(done)
        })
        .await;
        let (out, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && said.contains("going on where an earlier run stopped: "), "{said}");
        assert!(out.contains("TABLE") && out.contains("deliveries"), "{out}");
        let again = copy(&home, &source, &destination).await;
        assert_eq!((&again["already"], &again["tables"]["attempts"]), (&json!(true), &json!(120)));
        assert!(120 <= again["tables"]["dedupe"].as_u64().unwrap(), "{again}");
    }
    let [was, is] = [&home, &back].map(|home| tables(&home.path().join("hookyard.db")));
    assert!(was == is);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_that_names_the_copy_runs_on_the_copy_and_not_on_what_was_copied() {
    let (home, shared) = (Home::new(), Home::in_postgres());
    let file = || sealed(routes().interactor());
    assert!(Relay::start_in(&home, &file()).await.stop().await.success());
    copy(&home, &home.store_url(), &shared.store_url()).await;
    let events = || tries(&shared.store_url(), "SELECT count(*) FROM dedupe").unwrap().parse::<u64>().unwrap();
    let (was, before) = (tables(&home.path().join("hookyard.db")), events());
    home.write("routes.yaml", &shared.of(file().section("tolerence: 5m")).text());
    let relay = Relay::from(&home, home.command(&["serve", "--config", "routes.yaml"])).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let log = relay.log_text();
    assert!(log.contains("it was found in postgres://") && log.contains("tolerence"), "{log}");
    // That is the store of the file, too, once the rest of it is good.
    home.write("routes.yaml", &shared.of(file()).text());
    until("the file to be gone by", SOON, async || relay.data("/api/v1/config").await["error"].is_null().then_some(())).await;
    assert!(relay.stop().await.success());
    assert!(before < events());
    assert!(was == tables(&home.path().join("hookyard.db")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_use_is_not_copied_and_no_password_is_told() {
    let (home, shared, empty) = (Home::new(), Home::in_postgres(), Home::new());
    let file = || sealed(routes().interactor());
    let (one, two) = (Relay::start_in(&home, &file()).await, Relay::start_in(&shared, &file()).await);
    let code = async |from: &str, to: &str| {
        let done = empty.run(&["store", "copy", "--from", from, "--to", to]).await;
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let new = empty.store_url();
    let (status, said) = code(&home.store_url(), &new).await;
    assert!(status == Some(3) && said.contains("the source: the store is in use") && said.contains("held by process"), "{said}");
    let (status, said) = code(&shared.store_url(), &new).await;
    assert!(status == Some(3) && said.contains("the source: the store is in use: a relay works on it"), "{said}");
    let (status, said) = code(&new, &shared.store_url()).await;
    assert!(status == Some(3) && said.contains("there is no file"), "{said}");
    assert!(!empty.path().join("hookyard.db").exists());
    for relay in [one, two] {
        assert!(relay.stop().await.success());
    }
    // Both hold something now.
    let (status, said) = code(&home.store_url(), &shared.store_url()).await;
    assert!(status == Some(1) && said.contains("the destination is not empty"), "{said}");
    // The configuration says from where; variables are the relay's to read, and are not told.
    let hush = "postgres://me:${HUSH}@127.0.0.1:1/db";
    let mut command = home.command(&["store", "copy", "--to", hush]);
    command.env("HUSH", "hush-hush");
    let done = finish(command).await;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(3) && said.contains("the destination: ") && said.contains("cannot be reached"), "{said}");
    for (to, status) in
        [("mysql://me:hush-hush@host/db", 2), (hush, 2), ("postgres://me:hush-hush@127.0.0.1:1/db?sslmode=hush", 2)]
    {
        let done = home.run(&["store", "copy", "--to", to]).await;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(status) && !said.contains("hush-hush") && said.contains("--to"), "{to}: {said}");
    }
    assert_eq!(home.run(&["store", "copy"]).await.status.code(), Some(2));
}
