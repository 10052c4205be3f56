//! Promise 1: no event that got 2xx is ever lost, however often the relay is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use crate::support::{
    Home, Receiver, Relay, SOON, relay, routes,
    signed::{event, interactor},
    until,
};

/// Signed events that are sent.
const EVENTS: usize = 5_000;
/// Times the relay is killed at the least.
const KILLS: usize = 10;
/// Requests under way at once.
const SENDERS: usize = 16;

/// What the senders share.
struct Sending {
    next: AtomicUsize,
    sent: AtomicUsize,
    acknowledged: Mutex<BTreeSet<String>>,
    /// Where the relay is; `None` while it is down.
    addr: watch::Sender<Option<std::net::SocketAddr>>,
    over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_is_delivered_though_the_relay_is_killed() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let routes = routes().interactor().webhook_with("crm", &crm, endless).webhook_with("audit", &audit, endless);
    let home = Home::new();
    let mut relay = Relay::start_in(&home, &routes).await;
    let routes = routes.on(&relay.public.to_string(), &relay.admin.to_string());

    let sending = Arc::new(Sending {
        next: AtomicUsize::new(0),
        sent: AtomicUsize::new(0),
        acknowledged: Mutex::default(),
        addr: watch::Sender::new(Some(relay.public)),
        over: AtomicBool::new(false),
    });
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        senders.spawn(send(Arc::clone(&sending)));
    }

    let mut kills = 0;
    while kills < KILLS || !sending.over.load(Ordering::Relaxed) {
        if kills < KILLS {
            // Spread over the events, with a random moment each: some kills hit a commit, some a delivery.
            let goal = EVENTS * kills / (KILLS + 1) + usize::from(random() % 200);
            until("events to be sent", Duration::from_secs(120), async || {
                (goal <= sending.next.load(Ordering::Relaxed) || sending.over.load(Ordering::Relaxed)).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_micros(random().into())).await;
            sending.addr.send_replace(None);
            relay.kill();
            kills += 1;
            relay = Relay::start_in(&home, &routes).await;
            sending.addr.send_replace(Some(relay.public));
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    senders.join_all().await;

    let acknowledged = sending.acknowledged.lock().unwrap().clone();
    for receiver in [&crm, &audit] {
        let what = format!("all {} acknowledged events", acknowledged.len());
        until(&what, Duration::from_secs(120), async || {
            (acknowledged.len() <= receiver.distinct("webhook-id").len()).then_some(())
        })
        .await;
    }
    let (mut delivered, mut repeated) = (BTreeSet::new(), 0);
    for receiver in [&crm, &audit] {
        let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let seen = receiver.seen();
        for request in &seen {
            ids.entry(request.header("webhook-id").into()).or_default().insert(request.header("idempotency-key").into());
        }
        repeated += seen.len() - ids.values().map(BTreeSet::len).sum::<usize>();
        let twice: Vec<_> = ids.iter().filter(|(_, deliveries)| deliveries.len() != 1).collect();
        assert!(twice.is_empty(), "events with two delivery ids for one target: {twice:?}");
        let lost: Vec<_> = acknowledged.iter().filter(|id| !ids.contains_key(*id)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        delivered.extend(ids.into_keys());
    }
    let sent = sending.sent.load(Ordering::Relaxed);
    // Past the capture of passing tests: this line is for the reader.
    let _ = writeln!(
        std::io::stderr(),
        "crash: sent {sent}, acknowledged {}, delivered {}, repeated {repeated}, kills {kills}",
        acknowledged.len(),
        delivered.len()
    );
    assert_eq!((acknowledged.len(), delivered.len()), (EVENTS, EVENTS));
    until("the backlog to be gone", SOON, async || relay.all("/api/v1/deliveries?state=pending").await.is_empty().then_some(()))
        .await;
}

/// Any number up to 65,535.
fn random() -> u16 {
    let mut bytes = [0; 2];
    SystemRandom::new().fill(&mut bytes).unwrap();
    u16::from_be_bytes(bytes)
}

/// Sends events until there are none left; each again until it is acknowledged, as a platform that retries does.
async fn send(sending: Arc<Sending>) {
    let client = relay::client();
    loop {
        let n = sending.next.fetch_add(1, Ordering::Relaxed);
        if EVENTS <= n {
            sending.over.store(true, Ordering::Relaxed);
            return;
        }
        let id = format!("evt_{n}");
        let request = interactor(event(&id));
        loop {
            let addr = sending.addr.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
            sending.sent.fetch_add(1, Ordering::Relaxed);
            let answer = relay::send(&client, addr, &request).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sending.acknowledged.lock().unwrap().insert(id);
    }
}
