//! Two servers, one of which follows the other: the first is killed, the second takes its place, and relays go on by themselves.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
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
