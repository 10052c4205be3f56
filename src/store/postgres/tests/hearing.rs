//! What one process says, another hears: though much is said at once, though the database fails meanwhile, and once for each commit.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::AsyncMessage;

use super::{
    super::{batch::Work, *},
    client, opened, url_of,
};
use crate::store::{Endings, contract::Bench};

/// How long the other process may take to hear of something, on a slow machine.
const SOON: Duration = Duration::from_secs(30);
/// The voice of nobody who is there.
const STRANGER: &str = "00000000000000ff";

/// Hears, and is slow of understanding while it is told to be.
#[derive(Default)]
struct Ears {
    ended: Mutex<Vec<Option<Vec<Name>>>>,
    freed: AtomicUsize,
    is_slow: watch::Sender<bool>,
}

impl OnCommit for Ears {
    fn committed(&self, _: Vec<Committed>) {}

    fn elsewhere(&self, _: Option<&[Name]>) {}

    fn ended_elsewhere(&self, targets: Option<&[Name]>) {
        self.ended.lock().unwrap().push(targets.map(<[Name]>::to_vec));
    }

    fn freed(&self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
        let mut slow = self.is_slow.subscribe();
        let understood = async move { slow.wait_for(|slow| !slow).await.map(|_| ()) };
        let _ = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(understood));
    }

    fn batch(&self, _: usize, _: Duration) {}
}

impl Ears {
    fn ended(&self) -> usize {
        self.ended.lock().unwrap().len()
    }

    fn freed_so_often(&self) -> usize {
        self.freed.load(Ordering::SeqCst)
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < SOON, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A store, another process that works on it and hears, and a connection to its database.
struct Bed {
    bench: Bench,
    other: Arc<Postgres>,
    ears: Arc<Ears>,
    db: tokio_postgres::Client,
}

impl Bed {
    /// All shards are owned, and what may have been said before is passed on.
    async fn new() -> Self {
        let bench = Bench::new(opened).await;
        let path = bench.folder.path().join("store");
        bench.store.own_shards(OwnerId(1), bench.clock.now(), Duration::from_secs(600)).await.unwrap();
        let other = open(&url_of(&path).await, bench.clock.clone()).await.unwrap();
        let ears = Arc::new(Ears::default());
        other.on_commit(ears.clone());
        until("it listens", || ears.ended() != 0).await;
        Self { db: client(&path).await, bench, other, ears }
    }

    fn channel(&self) -> String {
        news::channel(self.other.shared.reading.salt)
    }

    async fn says(&self, what: &str) {
        let said = format!("{STRANGER} {what}");
        self.db.execute("SELECT pg_notify($1, $2)", &[&self.channel(), &said]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn of_more_than_there_is_room_for_anything_may_have_been_said() {
    let bed = Bed::new().await;
    let id = bed.bench.planned("evt_1", "crm").await;
    bed.ears.is_slow.send_replace(true);
    let (freed, ended) = (bed.ears.freed_so_often(), bed.ears.ended());
    bed.says("shards").await;
    until("it is busy", || freed < bed.ears.freed_so_often()).await;
    let many = format!("SELECT pg_notify($1, '{STRANGER} ' || n) FROM generate_series(1000000, 1001000) n");
    bed.db.execute(&many, &[&bed.channel()]).await.unwrap();
    bed.bench.store.cancel(vec![id], "", bed.bench.clock.now()).await.unwrap();
    // Time for all of it to come, without which this shows nothing.
    tokio::time::sleep(Duration::from_millis(500)).await;
    bed.ears.is_slow.send_replace(false);
    until("it hears that something ended", || ended < bed.ears.ended()).await;
    bed.other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_passed_on_at_once_is_passed_on_later() {
    let bed = Bed::new().await;
    bed.bench.planned("evt_1", "crm").await;
    let crm: i64 = bed.db.query_one("SELECT id FROM targets WHERE name = 'crm'", &[]).await.unwrap().get(0);
    let (freed, ended) = (bed.ears.freed_so_often(), bed.ears.ended());
    bed.db.batch_execute("ALTER TABLE targets RENAME TO away").await.unwrap();
    bed.says(&format!("!{crm} shards")).await;
    until("it looks", || freed < bed.ears.freed_so_often()).await;
    bed.says("shards").await;
    until("it looks again", || freed + 1 < bed.ears.freed_so_often()).await;
    assert_eq!(bed.ears.ended(), ended, "whose target that is, it could not read");
    bed.db.batch_execute("ALTER TABLE away RENAME TO targets").await.unwrap();
    until("it hears what ended", || bed.ears.ended.lock().unwrap()[ended..].contains(&Some(vec!["crm".into()]))).await;
    bed.other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_is_told_of_like_whatever_ends() {
    let bed = Bed::new().await;
    let (held, old) = (bed.bench.planned("evt_1", "wh_a").await, bed.bench.planned("evt_2", "crm").await);
    let (store, now) = (&bed.bench.store, bed.bench.clock.now());
    let bound = HeldBound { cutoff: None, bytes: 0, reason: "too much".into() };
    assert_eq!(store.bound_held(&"wh_a".into(), bound, Vec::new(), now).await.unwrap(), [held]);
    assert_eq!(store.expire(&"crm".into(), now, "too old", Vec::new(), now).await.unwrap(), [old]);
    let heard = |name: &str| bed.ears.ended.lock().unwrap().iter().flatten().any(|names| names.contains(&name.into()));
    until("it hears of both", || heard("wh_a") && heard("crm")).await;
    bed.other.close().await;
}

/// What is said on `channel` from now on.
async fn overheard(path: &std::path::Path, channel: &str) -> mpsc::UnboundedReceiver<String> {
    let url = url_of(path).await;
    let (client, mut connection) = tokio_postgres::connect(url.reveal(), tokio_postgres::NoTls).await.unwrap();
    let (tx, rx) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(it) = message {
                let _ = tx.send(it.payload().to_owned());
            }
        }
    });
    client.batch_execute(&format!("LISTEN {channel}")).await.unwrap();
    // It listens for as long as it is connected.
    tokio::spawn(async move {
        let _client = client;
        std::future::pending::<()>().await
    });
    rx
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_batch_is_told_of_once_whatever_it_ends() {
    let bed = Bed::new().await;
    let key = |n: u8| [n; 16];
    for n in 0..3 {
        let handling = Handling { cancels: vec![key(n)], ..Handling::default() };
        let waits = NewDelivery { handling: Some(Box::new(handling)), ..NewDelivery::to("crm".into()) };
        bed.bench.accept(NewEvent { deliveries: vec![waits], ..bed.bench.event(&format!("evt_waits_{n}")) }).await;
    }
    let mut said = overheard(&bed.bench.folder.path().join("store"), &bed.channel()).await;
    let mut batch = Vec::new();
    for n in 0..3 {
        let endings = Endings { cancels: vec![key(n)], ..Endings::default() };
        let ends = NewEvent { endings, ..bed.bench.event(&format!("evt_ends_{n}")) };
        let plain = bed.bench.event(&format!("evt_{n}")).to(&["slack"]);
        batch.extend([ends, plain].map(|event| Accept::new(event, oneshot::channel().0)));
    }
    let shared = bed.other.shared.clone();
    shared.heard();
    let mut ingest = Ingest { connection: Kept::of(bed.other.batches.clone()), shared };
    ingest.commit(&mut batch).await.unwrap();
    assert_eq!(batch.iter().map(|job| job.cancelled.len()).sum::<usize>(), 3);
    bed.says("here").await;
    let (ours, mut heard) = (format!("{:016x} ", bed.other.shared.voice), Vec::new());
    while let Ok(Some(text)) = tokio::time::timeout(SOON, said.recv()).await {
        if text.starts_with(STRANGER) {
            break;
        }
        heard.extend(text.strip_prefix(&ours).map(str::to_owned));
    }
    let [slack, crm] = ["slack", "crm"].map(|name| bed.other.shared.known(&name.into()));
    let crm = match crm {
        Some(crm) => crm,
        None => bed.db.query_one("SELECT id FROM targets WHERE name = 'crm'", &[]).await.unwrap().get(0),
    };
    assert_eq!(heard, [format!("{} !{crm}", slack.unwrap())]);
    bed.other.close().await;
}
