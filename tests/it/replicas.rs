//! Several relays on one PostgreSQL: what holds on all of them, what a killed one leaves behind, and a database that is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hookyard::{clock::Clock, deliver::UNRECORDED_MAX};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::spec_lanes::{opened, planned_for};
use crate::support::{
    Home, Receiver, Relay, Reply, Routes, SOON, TestApp,
    app::START,
    fleet::{Delays, Fleet, HELD_WITHIN, send_until_taken},
    postgres, relay, routes, seconds,
    signed::{event, interactor},
    subscribed::open_routes,
    throughout, until,
};

/// Two relays in this process that share a store.
async fn two(file: &Routes) -> [TestApp; 2] {
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let one = TestApp::start(home.clone(), clock.clone(), file.clone()).await;
    [one, TestApp::start(home, clock, file.clone()).await]
}

#[tokio::test]
async fn what_people_change_on_one_replica_holds_on_all_within_two_seconds() {
    let crm = Receiver::ok().await;
    let [one, two] = two(&open_routes()).await;
    let mut delays = Delays::default();
    for n in 1..=3 {
        let made = one.posts("/api/v1/tokens", &json!({"name": "CI", "scopes": ["events:read"]})).await;
        let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
        let answers = async |status: u16| (two.get_as("/api/v1/events", Some(token)).await.status == status).then_some(());
        delays.until("a token to be taken", async || answers(200).await).await;
        assert_eq!(one.ask_as(relay::TOKEN, "DELETE", &format!("/api/v1/tokens/{id}"), None).await.status, 200);
        delays.until("a token to be refused", async || answers(401).await).await;

        let wanted = json!({"type": ["x.muted"], "reason": "maintenance", "author": "ana", "for": "1h"});
        let mute = one.posts("/api/v1/mutes", &wanted).await["id"].as_str().unwrap().to_owned();
        let muted = async || two.data("/api/v1/mutes").await.as_array().unwrap().iter().any(|it| it["id"] == mute.as_str());
        delays.until("a mute to begin", async || muted().await.then_some(())).await;
        assert_eq!(one.ask_as(relay::TOKEN, "DELETE", &format!("/api/v1/mutes/{mute}"), None).await.status, 200);
        delays.until("a mute to end", async || (!muted().await).then_some(())).await;

        let made = one.subscribes(&crm).await.subscription;
        let id = made.id.to_string();
        let keeps = async |it: &TestApp| it.handles.subscriptions.keeps(&made.id).then_some(());
        delays.until("a subscription to be known", async || keeps(&two).await).await;
        // Planned where it was not made, sent by whoever owns its lane.
        two.takes(&format!("evt_{n}")).await;
        two.reaches(&format!("target={id}"), "delivered").await;
        two.disables(&id).await;
        let off = async || one.subscription(&id).disabled.is_some().then_some(());
        delays.until("a subscription to be off", off).await;
        one.takes(&format!("evt_off_{n}")).await;
        one.counts(&format!("target={id}&state=held"), 1).await;
        let sent = crm.count();
        throughout("nothing to be sent", Duration::from_millis(500), async || crm.count() == sent).await;
        one.enables(&id).await;
        two.counts(&format!("target={id}&state=delivered"), 2).await;
        two.deletes(&id).await;
        let gone = async || one.handles.subscriptions.list(&hookyard::access::Caller::bootstrap()).is_empty().then_some(());
        delays.until("a subscription to be gone", gone).await;
    }
    delays.are_within(HELD_WITHIN);
}

#[tokio::test]
async fn what_a_replica_plans_that_is_behind_goes_to_whoever_took_the_place_of_the_one_that_is_gone() {
    let (home, clock, crm) = (Home::in_postgres(), Clock::manual(START), Receiver::ok().await);
    let one = TestApp::start(home.clone(), clock.clone(), open_routes()).await;
    let _two = TestApp::start(home.clone(), clock.clone(), open_routes()).await;
    let old = one.subscribes(&crm).await.subscription.id.to_string();
    one.deletes(&old).await;
    assert_eq!(one.subscribes(&crm).await.adopted.len(), 1);
    let behind = opened(&home, &clock).await;
    // The first may come while what waited before is being handed over; the others do not.
    for n in 1..=3 {
        behind.accept(planned_for(&format!("evt_{n}"), &old, &clock)).await.unwrap();
        crm.wait_for(n).await;
    }
    behind.close().await;
}

#[tokio::test]
async fn a_lane_goes_on_where_it_stood_when_its_owner_leaves() {
    let crm = Receiver::start([401]).await;
    let file = routes().interactor().webhook_with("crm", &crm, crate::support::app::MINUTELY);
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let one = TestApp::start(home.clone(), clock.clone(), file.clone()).await;
    one.takes("evt_1").await;
    one.target_is("crm", "broken").await;
    let two = TestApp::start(home, clock, file.clone()).await;
    two.takes("evt_2").await;
    assert_eq!(crm.count(), 1, "one owner, one breaker");
    one.stops().await;
    two.target_is("crm", "broken").await;
    throughout("the breaker to stay open", Duration::from_millis(500), async || crm.count() == 1).await;
    // It probes when it would have, wherever its owner is.
    two.clock.advance(seconds(30));
    crm.wait_for(2).await;
}

/// Events that are sent through replicas that are killed.
const EVENTS: usize = 20_000;
/// Times one of them is.
const KILLS: usize = 6;
/// Requests under way at once.
const SENDERS: usize = 16;
/// Attempts that one lane may have under way (its `concurrency`), or sent and not yet recorded.
const IN_FLIGHT: usize = 8 + UNRECORDED_MAX;
/// How long what was acknowledged may take to arrive: takeovers wait for leases to end.
const LONG: Duration = Duration::from_secs(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_of_three_replicas_acknowledged_is_delivered_though_they_are_killed() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let file = routes().interactor().webhook_with("crm", &crm, endless).webhook_with("audit", &audit, endless);
    let mut fleet = Fleet::start(Home::in_postgres(), file, 3).await;
    let (next, acknowledged) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (next, acknowledged, addrs) = (next.clone(), acknowledged.clone(), fleet.addrs.clone());
        senders.spawn(async move {
            let client = relay::client();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if EVENTS <= n {
                    return;
                }
                send_until_taken(&client, &addrs, &event(&format!("evt_{n}"))).await;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for kill in 1..=KILLS {
        let goal = EVENTS * kill / (KILLS + 1);
        until("events to be sent", LONG, async || (goal <= next.load(Ordering::Relaxed)).then_some(())).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..100_000))).await;
        fleet.replace(fastrand::usize(..3), true).await;
    }
    senders.join_all().await;
    assert_eq!(acknowledged.load(Ordering::Relaxed), EVENTS);
    let mut repeated = 0;
    for receiver in [&crm, &audit] {
        until("all of them to arrive", LONG, async || (EVENTS <= receiver.distinct("webhook-id").len()).then_some(())).await;
        assert_eq!(receiver.distinct("idempotency-key").len(), EVENTS, "one delivery of each");
        repeated += receiver.count() - EVENTS;
    }
    let most = KILLS * 2 * IN_FLIGHT;
    let _ = writeln!(
        std::io::stderr(),
        "replicas: {EVENTS} acknowledged and delivered to both, {repeated} sent twice; {KILLS} kills of two lanes with at most {IN_FLIGHT} \
         in flight allow {most}"
    );
    assert!(repeated <= most, "{repeated} of at most {most}");
    let any = fleet.any();
    until("the backlog to be gone", SOON, async || any.all("/api/v1/deliveries?state=pending").await.is_empty().then_some(()))
        .await;
}

/// Keys whose events are delivered in order.
const KEYS: usize = 8;
/// What the target takes in a second.
const RATE: usize = 50;
/// How long events are sent.
const WHILE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_and_rate_hold_while_replicas_come_and_go() {
    let crm = Receiver::ok().await;
    let fields = format!(
        "order_by: $.data.key, rate_limit: {{rate: {RATE}/s, burst: 5}}, concurrency: 32, \
         retry: {{initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}}"
    );
    let file = routes().interactor().webhook_with("crm", &crm, &fields);
    let mut fleet = Fleet::start(Home::in_postgres(), file, 3).await;
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for key in 0..KEYS {
        let (over, sent, addrs) = (over.clone(), sent.clone(), fleet.addrs.clone());
        senders.spawn(async move {
            let client = relay::client();
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let body = json!({"id": format!("evt_{key}_{n}"), "type": "x.y", "data": {"key": format!("k{key}"), "n": n}});
                send_until_taken(&client, &addrs, &body.to_string()).await;
                sent.fetch_add(1, Ordering::Relaxed);
                // Twice what the target takes, all together.
                tokio::time::sleep(Duration::from_millis((1000 * KEYS / (2 * RATE)) as u64)).await;
            }
        });
    }
    let began = Instant::now();
    for round in 0.. {
        tokio::time::sleep(WHILE / 4).await;
        if WHILE <= began.elapsed() {
            break;
        }
        fleet.replace(round % 3, round % 2 == 0).await;
    }
    over.store(true, Ordering::Relaxed);
    senders.join_all().await;
    let sent = sent.load(Ordering::Relaxed);
    until("all of them to arrive", LONG, async || (sent <= crm.distinct("webhook-id").len()).then_some(())).await;

    let seen = crm.seen();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for request in &seen {
        let data = request.json()["data"].take();
        let (key, n) = (data["key"].as_str().unwrap().to_owned(), data["n"].as_i64().unwrap());
        let before = last.insert(key.clone(), n).unwrap_or(-1);
        // One that was sent by a killed replica comes again; nothing behind it has gone before.
        assert!(before == n || before + 1 == n, "{key}: {n} after {before}");
    }
    let window = Duration::from_secs(10);
    let times: Vec<Instant> = seen.iter().map(|request| request.at).collect();
    let most = (0..times.len()).map(|n| times[n..].iter().take_while(|at| **at < times[n] + window).count()).max().unwrap();
    let _ = writeln!(std::io::stderr(), "replicas: {sent} in order, {} twice, at most {most} in 10 s", seen.len() - sent);
    assert!(most <= RATE * 11, "{most} in {window:?}");
}

/// A PostgreSQL of one test's own.
struct Server {
    folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = folder.path().join("server");
        let parent = folder.path().to_owned();
        tokio::task::spawn_blocking(move || {
            // Whoever runs the server is somebody else.
            assert!(Command::new("chmod").arg("755").arg(parent).status().unwrap().success());
            postgres::start(&place, port);
        })
        .await
        .unwrap();
        Self { folder, port }
    }

    fn place(&self) -> std::path::PathBuf {
        self.folder.path().join("server")
    }

    fn url(&self) -> String {
        format!("postgres://hookyard@127.0.0.1:{}/postgres", self.port)
    }

    /// SIGKILL of all of it: the server, and every process that it has begun.
    fn kill(&self) {
        let text = std::fs::read_to_string(self.place().join("data/postmaster.pid")).unwrap();
        let main = text.lines().next().unwrap().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        let mut kill = Command::new("kill");
        kill.arg("-9").arg(&main).args(children.split_whitespace());
        // One of the children may be gone already.
        let _ = kill.output().unwrap();
    }

    /// Starts it again on what it left on disk.
    async fn resume(&self) {
        let place = self.place();
        tokio::task::spawn_blocking(move || postgres::serve(&place)).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.place().join("data/postmaster.pid").exists() {
            self.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_and_comes_back_costs_nothing_that_was_acknowledged() {
    let server = Server::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let (crm, slow) = (Receiver::ok().await, Receiver::start([Reply::Gated(gate.clone())]).await);
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let file = routes()
        .interactor()
        .webhook_with("crm", &crm, endless)
        .webhook_with("slow", &slow, &format!("concurrency: 4, timeout: 300s, {endless}"))
        .rule("name: all, match: {type: \"**\"}, to: [crm]")
        .rule("name: few, match: {type: x.slow}, to: [slow]");
    let fleet = Fleet::start(Home::with_store(&server.url()), file, 2).await;
    let processes: Vec<u32> = fleet.relays.iter().flatten().map(Relay::pid).collect();
    let client = relay::client();
    for n in 0..4 {
        send_until_taken(&client, &fleet.addrs, &json!({"id": format!("evt_slow_{n}"), "type": "x.slow"}).to_string()).await;
    }
    slow.wait_for(4).await;

    let (over, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut senders = JoinSet::new();
    for _ in 0..8 {
        let (over, next, addrs, acknowledged) = (over.clone(), next.clone(), fleet.addrs.clone(), acknowledged.clone());
        senders.spawn(async move {
            let client = relay::client();
            while !over.load(Ordering::Relaxed) {
                let id = format!("evt_{}", next.fetch_add(1, Ordering::Relaxed));
                send_until_taken(&client, &addrs, &event(&id)).await;
                acknowledged.lock().unwrap().insert(id);
            }
        });
    }
    let reached = async |count: usize| {
        until("events to be taken", SOON, async || (count <= acknowledged.lock().unwrap().len()).then_some(())).await;
    };
    reached(200).await;
    server.kill();
    let relay = fleet.any();
    let refused = until("it to be said", SOON, async || {
        let answer = relay.try_send(&interactor(event("evt_refused"))).await.ok()?;
        (answer.status == 503).then_some(answer)
    })
    .await;
    refused.refused(503, "unavailable");
    assert!(1 <= refused.header("retry-after").parse::<u32>().unwrap());
    let unready = until("readiness to end", SOON, async || Some(relay.get("/readyz").await).filter(|it| it.status == 503)).await;
    assert!(unready.json()["message"].as_str().unwrap().contains("database"), "{}", unready.text());
    assert_eq!(relay.get("/healthz").await.status, 200, "the relay itself is well");
    // What is under way ends while nothing can be recorded.
    gate.add_permits(1000);
    server.resume().await;
    until("readiness to come back", SOON, async || (relay.get("/readyz").await.status == 200).then_some(())).await;
    let before = acknowledged.lock().unwrap().len();
    reached(before + 200).await;
    over.store(true, Ordering::Relaxed);
    senders.join_all().await;

    let acknowledged = acknowledged.lock().unwrap().clone();
    until("all that was acknowledged to arrive", LONG, async || {
        acknowledged.is_subset(&crm.distinct("webhook-id")).then_some(())
    })
    .await;
    let any = fleet.any();
    until("all to be settled", LONG, async || any.all("/api/v1/deliveries?state=pending").await.is_empty().then_some(())).await;
    let in_flight: Vec<Value> = any.all("/api/v1/deliveries?target=slow").await;
    assert!(in_flight.iter().all(|row| row["state"] == "delivered" && row["attempts"] == 1), "{in_flight:?}");
    assert_eq!((slow.count(), in_flight.len()), (4, 4), "what was under way was recorded, and not sent again");
    let now: Vec<u32> = fleet.relays.iter().flatten().map(Relay::pid).collect();
    assert!(processes == now && now.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()), "no relay was restarted");
    let _ =
        writeln!(std::io::stderr(), "replicas: {} acknowledged around a kill of the database, all delivered", acknowledged.len());
}
