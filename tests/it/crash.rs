//! Promise 1: no event that got 2xx is ever lost, however often the relay is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use crate::support::{
    Answer, Home, Receiver, Relay, Routes, SOON, relay, routes,
    signed::{event, interactor},
    stream::Stream,
    until,
};

/// Signed events that are sent.
const EVENTS: usize = 5_000;
/// Times the relay is killed at the least.
const KILLS: usize = 10;
/// Requests under way at once.
const SENDERS: usize = 16;

/// What is sent, and how often the relay is killed meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) events: usize,
    pub(crate) kills: usize,
    /// The event of this id and number.
    pub(crate) event: fn(&str, usize) -> String,
}

const PLAN: Plan = Plan { events: EVENTS, kills: KILLS, event: |id, _| event(id) };

/// What the senders share.
pub(crate) struct Sending {
    plan: Plan,
    next: AtomicUsize,
    sent: AtomicUsize,
    /// The ids of those that were answered with 200.
    pub(crate) acknowledged: Mutex<BTreeSet<String>>,
    /// Where the relay is, public and admin; `None` while it is down.
    pub(crate) addr: watch::Sender<Option<(SocketAddr, SocketAddr)>>,
    /// Each time it was: from when it was killed until it was there again.
    pub(crate) down: Mutex<Vec<(Instant, Instant)>>,
    /// All was sent, and the relay is killed no more.
    pub(crate) over: AtomicBool,
    sent_all: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn whatever_was_acknowledged_is_delivered_though_the_relay_is_killed() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let routes = routes().interactor().webhook_with("crm", &crm, endless).webhook_with("audit", &audit, endless);
    let home = Home::new();
    let relay = Relay::start_in(&home, &routes).await;
    let routes = routes.on(&relay.public.to_string(), &relay.admin.to_string());

    let sending = Sending::to(&relay, PLAN);
    let (relay, kills) = send_through_kills(&home, relay, &routes, &sending).await;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn whoever_follows_sees_each_acknowledged_event_once_and_in_order_though_the_relay_is_killed() {
    let home = Home::new();
    let relay = Relay::start_in(&home, &routes().interactor()).await;
    let routes = routes().interactor().on(&relay.public.to_string(), &relay.admin.to_string());
    let admin = relay.admin;
    let readers = [
        tokio::spawn(poll(admin, "wait=5s&limit=37&type=credential.*")),
        tokio::spawn(poll(admin, "wait=30s&limit=1000&envelope=false")),
        tokio::spawn(listen(admin, "?type=credential.*&after=0")),
    ];
    let sending = Sending::to(&relay, PLAN);
    let (relay, kills) = send_through_kills(&home, relay, &routes, &sending).await;

    let acknowledged = sending.acknowledged.lock().unwrap().clone();
    assert_eq!((acknowledged.len(), kills), (EVENTS, KILLS));
    for reader in readers {
        let followed = tokio::time::timeout(Duration::from_secs(120), reader).await.expect("all of them in time").unwrap();
        assert!(followed.uids.is_sorted_by(|a, b| a < b), "in the order of commits, none twice");
        assert_eq!(followed.ids.iter().cloned().collect::<BTreeSet<_>>(), acknowledged);
        assert_eq!(followed.ids.len(), EVENTS, "none that was not acknowledged, and none under two uids");
        let _ = writeln!(std::io::stderr(), "crash: followed {EVENTS} by {}, came back {}", followed.how, followed.came_back);
    }
    // What is in the store, and nothing else.
    let mut kept: Vec<_> = relay.all("/api/v1/events").await.iter().map(|row| row["uid"].as_str().unwrap().to_owned()).collect();
    kept.reverse();
    assert_eq!(kept.len(), EVENTS);
}

/// What one who followed has seen.
struct Followed {
    how: &'static str,
    uids: Vec<String>,
    ids: Vec<String>,
    /// How often the connection broke.
    came_back: usize,
}

impl Followed {
    fn nothing(how: &'static str) -> Self {
        Self { how, uids: Vec::new(), ids: Vec::new(), came_back: 0 }
    }
}

/// Asks for what is new, page by page, by the cursor of the last page that came whole.
async fn poll(addr: SocketAddr, query: &str) -> Followed {
    let (client, mut after) = (relay::client(), "0".to_owned());
    let mut followed = Followed::nothing("long poll");
    while followed.ids.len() < EVENTS {
        let url = format!("http://{addr}/api/v1/events?{query}&after={after}");
        let page = async { Answer::try_read(client.get(url).bearer_auth(relay::TOKEN).timeout(SOON * 4).send().await?).await };
        match page.await {
            Ok(answer) if answer.status == 200 => {
                let page = answer.json();
                for event in page["data"].as_array().unwrap() {
                    followed.uids.push(event["uid"].as_str().unwrap().to_owned());
                    followed.ids.push(event["id"].as_str().unwrap().to_owned());
                }
                after = page["next"].as_str().unwrap().to_owned();
            }
            // The relay stops, or is away.
            Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
            Err(_) => {
                followed.came_back += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    followed
}

/// Follows a stream as a browser does: whenever it breaks, again from behind the last frame that came whole.
async fn listen(addr: SocketAddr, query: &str) -> Followed {
    let (bearer, mut last) = (format!("Bearer {}", relay::TOKEN), String::new());
    let mut followed = Followed::nothing("stream");
    while followed.ids.len() < EVENTS {
        let headers = [("authorization", &*bearer), ("last-event-id", &*last)];
        match Stream::try_open(addr, query, &headers).await {
            Ok(Ok(mut stream)) => {
                while followed.ids.len() < EVENTS
                    && let Some(said) = stream.read().await
                {
                    if said.name == "credential.expired" {
                        followed.ids.push(said.json()["id"].as_str().unwrap().to_owned());
                        followed.uids.push(said.id);
                    }
                }
                if !stream.last_id.is_empty() {
                    last = stream.last_id;
                }
            }
            Ok(Err(answer)) => assert_eq!(answer.status, 503, "{}", answer.text()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        followed.came_back += 1;
    }
    followed
}

/// Sends all events while the relay is killed again and again, until each is acknowledged; answers how often it was killed.
pub(crate) async fn send_through_kills(home: &Home, mut relay: Relay, routes: &Routes, sending: &Arc<Sending>) -> (Relay, usize) {
    let Plan { events, kills: least, .. } = sending.plan;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        senders.spawn(send(Arc::clone(sending)));
    }

    let sent_all = || sending.sent_all.load(Ordering::Relaxed);
    let mut kills = 0;
    while kills < least || !sent_all() {
        if kills < least {
            // Spread over the events, with a random moment each: some kills hit a commit, some a delivery.
            let goal = events * kills / (least + 1) + usize::from(random() % 200);
            until("events to be sent", Duration::from_secs(120), async || {
                (goal <= sending.next.load(Ordering::Relaxed) || sent_all()).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_micros(random().into())).await;
            sending.addr.send_replace(None);
            let killed = Instant::now();
            relay.kill();
            kills += 1;
            relay = Relay::start_in(home, routes).await;
            sending.down.lock().unwrap().push((killed, Instant::now()));
            sending.addr.send_replace(Some((relay.public, relay.admin)));
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    senders.join_all().await;
    sending.over.store(true, Ordering::Relaxed);
    (relay, kills)
}

impl Sending {
    pub(crate) fn to(relay: &Relay, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            plan,
            next: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            acknowledged: Mutex::default(),
            addr: watch::Sender::new(Some((relay.public, relay.admin))),
            down: Mutex::default(),
            over: AtomicBool::new(false),
            sent_all: AtomicBool::new(false),
        })
    }

    /// Where the relay is, once it is there.
    pub(crate) async fn addr(&self) -> (SocketAddr, SocketAddr) {
        self.addr.subscribe().wait_for(Option::is_some).await.unwrap().unwrap()
    }
}

/// Any number up to 65,535.
pub(crate) fn random() -> u16 {
    let mut bytes = [0; 2];
    SystemRandom::new().fill(&mut bytes).unwrap();
    u16::from_be_bytes(bytes)
}

/// Sends events until there are none left; each again until it is acknowledged, as a platform that retries does.
async fn send(sending: Arc<Sending>) {
    let client = relay::client();
    loop {
        let n = sending.next.fetch_add(1, Ordering::Relaxed);
        if sending.plan.events <= n {
            sending.sent_all.store(true, Ordering::Relaxed);
            return;
        }
        let id = format!("evt_{n}");
        let request = interactor((sending.plan.event)(&id, n));
        loop {
            let (addr, _) = sending.addr().await;
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
