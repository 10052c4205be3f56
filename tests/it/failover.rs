//! Two servers, one of which follows the other: the first is killed, or stands still, the second takes its place, and relays go on by
//! themselves.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::support::{
    Home, Receiver, Relay, minutes, relay, routes,
    servers::Server,
    signed::{event, interactor},
    until,
};

/// How long all of it may take on a busy machine.
const LONG: Duration = minutes(2);
/// How long a sender waits before it sends again.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_has_all_that_was_acknowledged_and_no_relay_is_restarted() {
    let primary = Server::start().await;
    let standby = Server::synchronous_standby_of(&primary).await;
    let url = format!("postgres://hookyard@127.0.0.1:{},127.0.0.1:{}/postgres", primary.port, standby.port);
    let crm = Receiver::ok().await;
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let file = routes().interactor().webhook_with("crm", &crm, endless);
    let home = Home::with_store(&url);
    let relay = Relay::start_in(&home, &file).await;

    let (over, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut senders = JoinSet::new();
    for _ in 0..6 {
        let (over, next, addr, acknowledged) = (over.clone(), next.clone(), relay.public, acknowledged.clone());
        senders.spawn(async move {
            let client = relay::client();
            while !over.load(Ordering::Relaxed) {
                let id = format!("evt_{}", next.fetch_add(1, Ordering::Relaxed));
                // Sent until it is taken, as senders do.
                while !relay::send(&client, addr, &interactor(event(&id))).await.is_ok_and(|answer| answer.status == 200) {
                    tokio::time::sleep(PAUSE).await;
                }
                acknowledged.lock().unwrap().insert(id);
            }
        });
    }
    let reached = async |count: usize| {
        until("events to be taken", LONG, async || (count <= acknowledged.lock().unwrap().len()).then_some(())).await;
    };
    reached(150).await;
    primary.kill();
    let unready = until("readiness to end", LONG, async || Some(relay.get("/readyz").await).filter(|it| it.status == 503)).await;
    assert!(unready.json()["message"].as_str().is_some_and(|said| !said.is_empty()), "{}", unready.text());
    assert_eq!(standby.asks("SELECT pg_promote(wait_seconds => 120)"), "t");
    until("readiness to come back", LONG, async || (relay.get("/readyz").await.status == 200).then_some(())).await;
    let before = acknowledged.lock().unwrap().len();
    reached(before + 150).await;
    over.store(true, Ordering::Relaxed);
    senders.join_all().await;

    let acknowledged = acknowledged.lock().unwrap().clone();
    until("all that was acknowledged to arrive", LONG, async || {
        acknowledged.is_subset(&crm.distinct("webhook-id")).then_some(())
    })
    .await;
    let kept: usize = standby.asks("SELECT count(*) FROM events WHERE source = 'interactor'").parse().unwrap();
    assert_eq!(kept, acknowledged.len(), "all of them are in the server that took its place");
    assert!(Path::new(&format!("/proc/{}", relay.pid())).exists(), "the relay was not restarted");
}

/// How long a relay may take to leave a server that stands still: 15 s, and what a busy machine takes besides. Left to themselves,
/// connections are held for ever.
const LEFT: Duration = minutes(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_left_for_the_one_that_was_promoted() {
    let primary = Server::start().await;
    let standby = Server::synchronous_standby_of(&primary).await;
    let url = format!("postgres://hookyard@127.0.0.1:{},127.0.0.1:{}/postgres", primary.port, standby.port);
    let crm = Receiver::ok().await;
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let home = Home::with_store(&url);
    let relay = Relay::start_in(&home, &routes().interactor().webhook_with("crm", &crm, endless)).await;
    let client = relay::client();
    let sent = async |id: &str| relay::send(&client, relay.public, &interactor(event(id))).await.is_ok_and(|it| it.status == 200);
    until("an event to be taken", LONG, async || sent("evt_before").await.then_some(())).await;
    until("it to arrive", LONG, async || crm.distinct("webhook-id").contains("evt_before").then_some(())).await;

    primary.halt();
    assert_eq!(standby.asks("SELECT pg_promote(wait_seconds => 120)"), "t");
    until("an event to be taken by the other", LEFT, async || {
        let taken = sent("evt_after").await;
        tokio::time::sleep(PAUSE).await;
        taken.then_some(())
    })
    .await;
    until("it to arrive", LEFT, async || crm.distinct("webhook-id").contains("evt_after").then_some(())).await;
    until("readiness to come back", LEFT, async || (relay.get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(standby.asks("SELECT count(*) FROM events WHERE source = 'interactor'"), "2");
    assert!(relay.log_text().contains("gives no answer any more"), "{}", relay.log_text());
    // What listens has left it too.
    let listening = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'LISTEN %'";
    until("it to listen at the other", LEFT, async || (standby.asks(listening) == "t").then_some(())).await;
    assert!(relay.stop().await.success());
    primary.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_server_stands_still_stops_within_its_grace() {
    let server = Server::start().await;
    let crm = Receiver::ok().await;
    let home = Home::with_store(&server.url());
    let file = routes().interactor().server("shutdown_grace: 2s").webhook("crm", &crm);
    let mut relay = Relay::start_in(&home, &file).await;
    let client = relay::client();
    let answer = relay::send(&client, relay.public, &interactor(event("evt_1"))).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    until("it to arrive", LONG, async || crm.distinct("webhook-id").contains("evt_1").then_some(())).await;

    server.halt();
    // One is under way, and is never answered.
    let (addr, lost) = (relay.public, interactor(event("evt_2")));
    tokio::spawn(async move { relay::send(&client, addr, &lost).await });
    until("it to be under way", LONG, async || (relay.get("/healthz").await.status == 200).then_some(())).await;
    let began = Instant::now();
    relay.terminate().await;
    let status = relay.ended().await;
    let took = began.elapsed();
    assert!(status.success(), "{status}: {}", relay.log_text());
    assert!(took < Duration::from_secs(14), "within 2 s and 5 s, and not when its statements are given up: {took:?}");
    assert!(relay.log_text().contains("the store gave no answer until the end of server.shutdown_grace"), "{}", relay.log_text());
}
