//! Replicas that differ: of another version, or with another file. What one does not know it leaves alone, what only another knows that
//! one works on, and a difference is shown and told of.

use std::time::Duration;

use hookyard::{access::Caller, clock::Clock, envelope::Name};
use serde_json::{Value, json};

use crate::support::{
    Api, Home, Receiver, Routes, SOON, TestApp,
    app::{MINUTELY, START},
    hours, minutes, routes, seconds,
    signed::{event, interactor},
    spawn_app,
    store::asks,
    throughout, until,
};

/// What a version after this one may have done to the tables.
const LATER: &str = "
    ALTER TABLE events ADD COLUMN mood TEXT;
    ALTER TABLE deliveries ADD COLUMN mood TEXT, ADD COLUMN weight BIGINT DEFAULT 7;
    ALTER TABLE attempts ADD COLUMN mood TEXT;
    ALTER TABLE settings ADD COLUMN mood TEXT;
    ALTER TABLE records ADD COLUMN mood TEXT;
    ALTER TABLE owners ADD COLUMN mood TEXT;
    ALTER TABLE shards ADD COLUMN mood TEXT;
    CREATE TABLE moods (name TEXT PRIMARY KEY);
    INSERT INTO settings (key, value) VALUES ('mood.of.the.store', 'good'), ('job.job_later', '{\"kind\": \"dance\", \"state\": \"running\"}');
    INSERT INTO records (kind, id, owner, revision, doc) VALUES ('mood', 'm1', 'x', 900, '{}'),
        ('job', 'job_later', 'x', 901, '{\"kind\": \"dance\", \"state\": \"running\"}'),
        ('subscription', 'wh_later', 'x', 902, '{\"dialect\": \"esperanto\"}'), ('token', 'tok_later', 'x', 903, '{\"scopes\": [\"sorcery\"]}');
    UPDATE hookyard SET version = version + 1";

/// The rows of a delivery's table that a later version has made its own.
fn theirs(home: &Home) -> String {
    asks(&home.store_url(), "SELECT count(*) || ' ' || min(state) || ' ' || min(cause) FROM deliveries WHERE state = 9")
}

#[tokio::test]
async fn what_a_later_version_has_added_is_left_alone_and_everything_else_goes_on() {
    let crm = Receiver::ok().await;
    let file = routes().interactor().webhook_with("crm", &crm, MINUTELY).store("retention: {events: 1h}");
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let first = TestApp::start(home.clone(), clock.clone(), file.clone()).await;
    first.tells("crm", "pause").await;
    first.takes("evt_theirs").await;
    let theirs_id = first.counts("", 1).await[0]["id"].as_str().unwrap().to_owned();
    first.stops().await;
    asks(&home.store_url(), LATER);
    asks(&home.store_url(), "UPDATE deliveries SET state = 9, cause = 42");

    let one = TestApp::start(home.clone(), clock.clone(), file.clone()).await;
    let two = TestApp::start(home.clone(), clock.clone(), file.clone()).await;
    one.tells("crm", "resume").await;
    one.takes("evt_1").await;
    two.takes("evt_2").await;
    let story = format!("/api/v1/deliveries/{theirs_id}");
    until("theirs not to hold up ours", SOON, async || (crm.distinct("webhook-id").len() == 2).then_some(())).await;
    assert!(!crm.distinct("webhook-id").contains("evt_theirs"));
    // It is shown as what it is here: unknown.
    let shown = two.data(&story).await;
    assert_eq!((&shown["state"], &shown["cause"]), (&json!("unknown"), &json!("unknown")));
    assert_eq!(one.rows("state=unknown").await.len(), 1);
    assert_eq!(one.rows("state=pending").await.len() + one.rows("state=held").await.len(), 0);
    for verb in ["cancel", "retry"] {
        assert_eq!(one.post(&format!("{story}/{verb}"), &json!({})).await.status, 409, "{verb}");
    }
    // Nor does it go with what is old.
    clock.advance(hours(2));
    until("what is finished to go", SOON, async || one.rows("state=delivered").await.is_empty().then_some(())).await;
    assert_eq!(theirs(&home), "1 9 42");
    assert_eq!(one.data(&story).await["state"], "unknown");
    let left = "SELECT (SELECT count(*) FROM settings WHERE key LIKE 'mood.%' AND value = 'good')
        + (SELECT count(*) FROM records WHERE revision BETWEEN 900 AND 903 AND doc IS NOT NULL)";
    assert_eq!(asks(&home.store_url(), left), "5");
    assert_eq!(one.handles.subscriptions.list(&Caller::bootstrap()).len(), 0);
}

#[tokio::test]
async fn a_database_that_needs_a_later_version_is_refused_and_left_as_it_is() {
    let home = Home::in_postgres();
    TestApp::start(home.clone(), Clock::manual(START), routes().interactor()).await.stops().await;
    asks(&home.store_url(), "UPDATE hookyard SET version = 7, works_since = 7");
    home.write("routes.yaml", &home.of(routes().interactor()).text());
    let output = home.run(&["serve", "--config", "routes.yaml"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("its schema has version 7, which needs a hookyard that knows version 7"), "{error}");
    assert!(error.contains("start the newer hookyard"), "it says what to do: {error}");
    assert_eq!(asks(&home.store_url(), "SELECT version || ' ' || works_since FROM hookyard"), "7 7");
}

#[tokio::test]
async fn a_file_that_a_later_version_has_only_added_to_is_worked_with() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes("evt_1").await;
    app.counts("state=delivered", 1).await;
    let file = app.folder().join("hookyard.db");
    let routes = routes().interactor().webhook("crm", &crm);
    // The folder is the relay's: it is stopped, and started again behind this.
    let app = app
        .restart_between(routes, move || {
            let db = rusqlite::Connection::open(&file).unwrap();
            db.execute_batch(
                "ALTER TABLE deliveries ADD COLUMN mood TEXT; ALTER TABLE events ADD COLUMN mood TEXT; CREATE TABLE moods (name TEXT);
                UPDATE deliveries SET state = 9",
            )
            .unwrap();
            let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
            let says = "INSERT OR REPLACE INTO settings (key, value) VALUES ('schema.works_since', ?)";
            db.execute(says, [version.to_string()]).unwrap();
            db.pragma_update(None, "user_version", version + 1).unwrap();
        })
        .await;
    app.takes("evt_2").await;
    app.counts("state=delivered", 1).await;
    assert_eq!((crm.count(), app.rows("state=unknown").await.len()), (2, 1));
}

/// A replica with a file of its own on the store of `home`.
async fn replica(home: &Home, clock: &Clock, file: &Routes) -> TestApp {
    TestApp::start(Home::with_store(&home.store_url()), clock.clone(), file.clone()).await
}

/// The replicas, as `relay` lists them: all at once, without pages.
async fn listed(relay: &Api) -> Vec<Value> {
    relay.data("/api/v1/replicas").await.as_array().unwrap().clone()
}

/// Which generation `relay` goes by, and which is the newest.
async fn standing(relay: &Api) -> (Value, Value) {
    let config = relay.data("/api/v1/config").await;
    (config["generation"].clone(), config["newest"]["generation"].clone())
}

/// The same, once it is so.
async fn stands(relay: &Api, own: u64, newest: u64) {
    let what = format!("it to go by {own}, and the newest to be {newest}");
    until(&what, SOON, async || (standing(relay).await == (json!(own), json!(newest))).then_some(())).await;
}

#[tokio::test]
async fn an_old_file_becomes_the_newest_only_when_somebody_goes_back_to_it() {
    let crm = Receiver::ok().await;
    let old = routes().interactor().webhook("crm", &crm);
    let new = old.clone().webhook("audit", &crm);
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let one = replica(&home, &clock, &old).await;
    stands(&one, 1, 1).await;
    // Another file that says the same is the same.
    let two = replica(&home, &clock, &old.clone().section("# written elsewhere")).await;
    stands(&two, 1, 1).await;
    two.reload(new.clone()).await;
    stands(&two, 2, 2).await;
    stands(&one, 1, 2).await;
    assert_eq!(one.get("/readyz").await.status, 200, "an older file is a good one");
    assert_eq!(
        (one.metric("hookyard_config_generation", &[]).await, two.metric("hookyard_config_generation", &[]).await),
        (1.0, 2.0)
    );
    // Neither a start nor a look at the same file makes it the newest.
    let one = one.restart(old.clone()).await;
    stands(&one, 1, 2).await;
    one.reload(old.clone().section("# touched")).await;
    stands(&one, 1, 2).await;
    one.reload(new.clone()).await;
    stands(&one, 2, 2).await;
    // Whoever goes back means it.
    one.reload(old.clone()).await;
    stands(&one, 3, 3).await;
    stands(&two, 2, 3).await;
    let two = two.restart(new.clone()).await;
    stands(&two, 2, 3).await;
    // And whoever says so.
    two.posts("/api/v1/config/reload?newest=true", &json!({})).await;
    stands(&two, 4, 4).await;
    stands(&one, 3, 4).await;
    let rows = until("both to be listed", SOON, async || {
        Some(listed(&one).await).filter(|rows| rows.len() == 2 && rows.iter().all(|row| row["generation"] != json!(2)))
    })
    .await;
    let asked = rows.iter().find(|row| row["asked"] == true).unwrap();
    let other = rows.iter().find(|row| row["asked"] == false).unwrap();
    assert_eq!((&asked["generation"], &asked["newest"]), (&json!(3), &json!(false)));
    assert_eq!(
        (&other["generation"], &other["newest"], &other["version"]),
        (&json!(4), &json!(true), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert!(asked["digest"] != other["digest"] && asked["name"].as_str().unwrap().ends_with(&format!("/{}", std::process::id())));
    assert_eq!(one.post("/api/v1/config/reload?newest=perhaps", &json!({})).await.status, 400);
}

#[tokio::test]
async fn a_relay_that_shares_its_store_with_nobody_goes_by_the_newest() {
    let crm = Receiver::ok().await;
    let (old, new) = (routes().interactor(), routes().interactor().webhook("crm", &crm));
    let app = spawn_app(old.clone()).await;
    stands(&app, 1, 1).await;
    let app = app.restart(new).await;
    stands(&app, 2, 2).await;
    let app = app.restart(old).await;
    stands(&app, 3, 3).await;
    until("it to be listed", SOON, async || (listed(&app).await.len() == 1).then_some(())).await;
}

#[tokio::test]
async fn an_older_replica_neither_holds_nor_gives_up_what_it_does_not_know() {
    let (crm, audit) = (Receiver::ok().await, Receiver::start([503, 200]).await);
    let old = routes().interactor().webhook("crm", &crm).store("retention: {events: 3m}");
    let new = old.clone().webhook_with("audit", &audit, MINUTELY);
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let one = replica(&home, &clock, &old).await;
    let two = replica(&home, &clock, &new).await;
    stands(&one, 1, 2).await;
    two.takes("evt_1").await;
    // The lane was the other's, who leaves it when its lease ends.
    pass(&clock, &[&one, &two], 2 * STEP).await;
    two.tried("target=audit", 1).await;
    two.stops().await;
    // Nobody knows the target now; whoever is left knows that somebody did.
    let row = one.counts("target=audit", 1).await.remove(0);
    assert_eq!(row["state"], "pending", "{row}");
    // Longer than such a delivery is kept for a target that is gone, and less than it takes until the old file is the newest.
    for _ in 0..3 {
        clock.advance(minutes(2));
        let rounds = Duration::from_millis(1500);
        throughout("it to be left alone", rounds, async || one.counts("target=audit", 1).await[0]["state"] == "pending").await;
    }
    stands(&one, 1, 2).await;
    let three = replica(&home, &clock, &new).await;
    pass(&clock, &[&one, &three], 2 * STEP).await;
    three.reaches("target=audit", "delivered").await;
    assert_eq!((audit.count(), audit.distinct("idempotency-key").len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_target_is_worked_on_by_those_that_know_it_while_files_roll_out() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let old = routes().interactor().webhook("crm", &crm);
    let new = old.clone().webhook("audit", &audit);
    let (home, clock, target) = (Home::in_postgres(), Clock::system(), Name::from("audit"));
    let mut fleet = Vec::new();
    for _ in 0..3 {
        fleet.push(replica(&home, &clock, &old).await);
    }
    let owns = |it: &TestApp| it.handles.deliver.ownership().owns(&target);
    let spread = Duration::from_secs(120);
    until("each to own some lanes", spread, async || {
        let rows = listed(&fleet[0]).await;
        let fair = rows.len() == 3 && rows.iter().all(|row| 80 < row["shards"].as_u64().unwrap());
        (fair && fleet.iter().any(owns)).then_some(())
    })
    .await;
    // One that does not own the lane's shard gets the new file first.
    fleet.sort_by_key(owns);
    let mut sent = 0;
    let mut send = async |fleet: &[TestApp]| {
        for relay in fleet {
            sent += 1;
            relay.accepts(&interactor(event(&format!("evt_{sent}")))).await;
        }
        sent
    };
    let (mut planned, mut all) = (0, send(&fleet).await);
    for step in 0..3 {
        fleet[step].reload(new.clone()).await;
        for _ in 0..5 {
            all = send(&fleet).await;
            planned += step + 1;
        }
        until("what was planned for it to arrive", spread, async || {
            // Whoever may begin an attempt there knows it: but for the first seconds, in which the former owner's lease runs out.
            let knows = fleet.iter().position(owns).is_none_or(|owner| owner <= step);
            (knows && planned <= audit.distinct("webhook-id").len()).then_some(())
        })
        .await;
        for relay in &fleet {
            assert_eq!(relay.rows("state=held").await.len() + relay.rows("state=dead").await.len(), 0);
        }
    }
    until("everything to arrive", SOON, async || (crm.distinct("webhook-id").len() == all).then_some(())).await;
    assert_eq!((audit.distinct("webhook-id").len(), audit.distinct("idempotency-key").len()), (planned, planned));
    stands(&fleet[0], 2, 2).await;
}

#[tokio::test]
async fn a_file_that_came_while_the_database_was_away_is_the_newest_once_it_is_back() {
    let crm = Receiver::ok().await;
    let old = routes().interactor().webhook("crm", &crm);
    let new = old.clone().webhook("audit", &crm);
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let (one, two) = (replica(&home, &clock, &old).await, replica(&home, &clock, &old).await);
    stands(&one, 1, 1).await;
    // What is away is where the newest is kept.
    asks(&home.store_url(), "ALTER TABLE records RENAME TO away");
    one.reload(new).await;
    assert_eq!(standing(&one).await, (Value::Null, json!(1)));
    asks(&home.store_url(), "ALTER TABLE away RENAME TO records");
    stands(&one, 2, 2).await;
    stands(&two, 1, 2).await;
    // Two of them, of which neither was decided on; and back again to where it was.
    asks(&home.store_url(), "ALTER TABLE records RENAME TO away");
    one.reload(old.clone().webhook("other", &crm)).await;
    one.reload(old).await;
    asks(&home.store_url(), "ALTER TABLE away RENAME TO records");
    stands(&one, 3, 3).await;
    stands(&two, 3, 3).await;
}

/// Less than a lease.
const STEP: Duration = seconds(14);

/// Lets the time of these replicas pass, in steps in which each renews what it owns.
async fn pass(clock: &Clock, fleet: &[&TestApp], time: Duration) {
    for _ in 0..time.as_secs().div_ceil(STEP.as_secs()) {
        clock.advance(STEP);
        let now = hookyard::clock::rfc3339_ms(clock.now());
        until("all to renew what they own", SOON, async || {
            let rows = listed(fleet[0]).await;
            (rows.len() == fleet.len() && rows.iter().all(|row| row["seen_at"] == now.as_str())).then_some(())
        })
        .await;
        // A round of each.
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
}

#[tokio::test]
async fn a_difference_that_lasts_is_told_once_and_so_is_its_end() {
    let crm = Receiver::ok().await;
    let old = routes().interactor().webhook("crm", &crm);
    let new = old.clone().webhook("audit", &crm);
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let one = replica(&home, &clock, &old).await;
    let two = replica(&home, &clock, &old).await;
    two.reload(new.clone()).await;
    let told = async |what: &str| one.all(&format!("/api/v1/events?source=hookyard&type=relay.replicas.{what}")).await;
    pass(&clock, &[&one, &two], 3 * STEP).await;
    assert_eq!(told("differ").await.len(), 0, "one comes after the other");
    let mut differ = Vec::new();
    for _ in 0..8 {
        pass(&clock, &[&one, &two], STEP).await;
        differ = told("differ").await;
        if !differ.is_empty() {
            break;
        }
    }
    assert_eq!(differ.len(), 1, "{differ:?}");
    let uid = differ[0]["uid"].as_str().unwrap();
    let data = one.data(&format!("/api/v1/events/{uid}")).await["envelope"]["data"].take();
    let generations: Vec<_> = data["replicas"].as_array().unwrap().iter().map(|it| it["generation"].clone()).collect();
    assert_eq!((&data["newest"], generations.len()), (&json!(2), 2), "{data}");
    assert!(generations.contains(&json!(1)) && generations.contains(&json!(2)), "{data}");
    one.reload(new).await;
    let mut agree = Vec::new();
    for _ in 0..10 {
        pass(&clock, &[&one, &two], STEP).await;
        agree = told("agree").await;
        if !agree.is_empty() {
            break;
        }
    }
    assert_eq!((agree.len(), told("differ").await.len()), (1, 1), "once each");
    assert_eq!((one.metric("hookyard_replicas", &[]).await, one.metric("hookyard_replicas_on_newest", &[]).await), (2.0, 2.0));
}
