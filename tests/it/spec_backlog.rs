//! Backlogs: what waits for a target survives whatever is done to it, costs little memory, and flows within its rate.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    Home, Receiver, Relay, Reply, Routes, TestApp,
    app::START,
    relay, routes,
    signed::{event, interactor},
    spawn_app, until,
};

/// Deliveries that must survive.
const BACKLOG: usize = 40_000;
/// Accepted events that wait for a target that is down.
const WAITING: usize = 100_000;
/// Resident memory that these may cost, in KiB.
const MEMORY_MAX: u64 = 150 * 1024;
/// Requests under way at once.
const SENDERS: usize = 32;
/// How long all of them may take: a debug build signs, verifies and writes here, beside other tests.
const LONG: Duration = Duration::from_secs(600);

/// Sends `count` events to the public listener at `addr`, each of which must be taken.
async fn fill(addr: std::net::SocketAddr, count: usize, stamp: Option<String>) {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let stamp = stamp.clone();
        senders.spawn(async move {
            let client = relay::client();
            for n in (sender..count).step_by(SENDERS) {
                let mut request = interactor(event(&format!("evt_{n}")));
                if let Some(stamp) = &stamp {
                    request = request.header("X-Interactor-Timestamp", stamp.clone());
                }
                let answer = relay::send(&client, addr, &request).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    while let Some(done) = senders.join_next().await {
        done.unwrap();
    }
}

/// Waits until `target` has `count` deliveries that are not final.
async fn waits(app: &TestApp, target: &str, count: usize) {
    let what = format!("{count} deliveries to wait for {target}");
    until(&what, LONG, async || (app.target(target).await["backlog"] == count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn forty_thousand_survive_rename_removal_return_and_restart() {
    let crm = Receiver::ok().await;
    let none = routes().interactor();
    let named = |name: &str, more: &str| none.clone().webhook_with(name, &crm, &format!("concurrency: 64{more}"));
    let app = spawn_app(named("crm", "")).await;
    app.tells("crm", "pause").await;
    fill(app.public, BACKLOG, Some(START.into())).await;
    waits(&app, "crm", BACKLOG).await;

    let app = app.restart(named("sales", ", renamed_from: crm")).await;
    app.tells("sales", "pause").await;
    until("the old name to be forgotten", LONG, async || {
        let gone = app.get("/api/v1/targets/crm").await.status == 404;
        let left = usize::try_from(app.target("sales").await["backlog"].as_u64().unwrap()).unwrap();
        (gone && left + crm.count() >= BACKLOG).then_some(())
    })
    .await;
    let sent = crm.count();
    until("what was under way to end", LONG, async || app.rows("state=sending").await.is_empty().then_some(())).await;

    let app = app.restart(none.clone()).await;
    let held = app.data("/api/v1/targets/sales").await;
    assert_eq!((&held["state"], &held["cause"]), (&json!("disabled"), &json!("config")), "{held}");
    assert!(BACKLOG - crm.count() <= usize::try_from(held["backlog"].as_u64().unwrap()).unwrap(), "{held}, {sent} sent");

    let app = app.restart(named("sales", "")).await;
    let app = app.restart(named("sales", "")).await;
    app.tells("sales", "resume").await;
    let client = format!("all {BACKLOG} to arrive");
    until(&client, LONG, async || (crm.count() >= BACKLOG).then_some(())).await;
    waits(&app, "sales", 0).await;
    assert_eq!(crm.distinct("webhook-id").len(), BACKLOG, "every event");
    assert_eq!(crm.distinct("idempotency-key").len(), BACKLOG, "under the one delivery id it had");
    assert_eq!(crm.count(), BACKLOG, "once");
}

/// Resident memory of a process, in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn down(crm: &Receiver) -> Routes {
    routes().interactor().webhook_with("crm", crm, "rate_limit: {rate: 500/s, burst: 500}, concurrency: 64")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn a_hundred_thousand_for_a_target_that_is_down_cost_little_and_flow_within_its_rate() {
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let health = Arc::clone(&well);
    let answer = move |_: &_, _| if health.load(std::sync::atomic::Ordering::Relaxed) { 200.into() } else { Reply::from(401) };
    let crm = Receiver::answering(answer).await;
    let relay = Relay::start_in(&Home::new(), &down(&crm)).await;
    let began = std::time::Instant::now();
    let before = resident(relay.process());
    fill(relay.public, WAITING, None).await;
    let filled = began.elapsed();
    assert_eq!(relay.data("/api/v1/targets/crm").await["backlog"], WAITING);
    let cost = resident(relay.process()).saturating_sub(before);
    assert!(cost < MEMORY_MAX, "{WAITING} waiting cost {cost} KiB");
    // The first eight may be under way when the first answer comes; then one a probe, after 30 s, 60 s, …
    let probes = 8 + 1 + usize::try_from(filled.as_secs() / 30).unwrap();
    assert!(crm.count() <= 64 + probes, "{} attempts in {filled:?}", crm.count());

    well.store(true, std::sync::atomic::Ordering::Relaxed);
    let tried = crm.count();
    relay.posts("/api/v1/targets/crm/close", &json!({})).await;
    crm.wait_within(tried + 2000, LONG).await;
    let seen = crm.seen();
    let flow: Vec<_> = seen[tried..].iter().map(|request| request.at).collect();
    for (n, at) in flow.iter().enumerate() {
        // Never more than the burst and what its rate allows since; a fifth more for how late a request is seen.
        let within = flow[n..].iter().take_while(|other| **other < *at + Duration::from_secs(1)).count();
        assert!(within <= 1200, "{within} in one second");
    }
    assert!(resident(relay.process()).saturating_sub(before) < MEMORY_MAX, "nor while they flow");
    println!("backlog: {WAITING} events in {filled:?}, {cost} KiB");
}
