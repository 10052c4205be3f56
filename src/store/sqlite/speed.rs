//! What the writer costs, as figures: `cargo test --release --lib sqlite::speed -- --ignored --nocapture`.

use std::{fs, time::Instant};

use super::{tests::event, *};
use crate::{envelope::EventUid, store::Next};

/// Calls in flight at once.
const IN_FLIGHT: usize = 64;
/// Events stored before anything is measured.
const STORED: usize = 200_000;
/// Events that are measured.
const MEASURED: usize = 100_000;
/// Rounds of asking for what is due.
const ASKED: u32 = 1000;
/// Bytes of a body.
const BODY: usize = 600;

/// Nanoseconds of processor time that the writer's thread has used.
fn writer_ns() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let writer = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "store-writer");
    let stat = fs::read_to_string(tasks.into_iter().find(writer).unwrap().join("schedstat")).unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Runs `call` for each of `n` numbers, [`IN_FLIGHT`] at once; prints what one took.
async fn measure<F: Future<Output = ()> + Send + 'static>(what: &str, n: usize, call: impl Fn(usize) -> F) {
    let (began, cpu) = (Instant::now(), writer_ns());
    let mut running = tokio::task::JoinSet::new();
    for n in 0..n {
        if IN_FLIGHT <= running.len() {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(call(n));
    }
    running.join_all().await;
    let each = |ns: u128| ns as f64 / 1000.0 / n as f64;
    let cpu = u128::from(writer_ns() - cpu);
    println!("{what}: {:.2} us each, of them {:.2} us of the writer's", each(began.elapsed().as_nanos()), each(cpu));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn accepting_and_recording() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = open(&folder.path().join("hookyard.db"), Clock::system()).await.unwrap();
    store.ready().await.unwrap();
    let mut salt = 0;
    let accept = |n: usize| {
        let store = store.clone();
        async move {
            store.accept(event(&format!("evt_{n}"), BODY)).await.unwrap();
        }
    };
    measure("filling", STORED, accept).await;
    measure("accept", MEASURED, |n| accept(STORED + n)).await;
    for row in store.events(Filter { limit: 1, ..Filter::default() }).await.unwrap() {
        salt = row.uid.salt;
    }
    let attempt = |n: usize| {
        let store = store.clone();
        let id = DeliveryId { event: EventUid { salt, seq: n as i64 + 1 }, n: 1 };
        async move { store.record(vec![super::tests::attempt(id, Next::Delivered)]).await.unwrap() }
    };
    measure("record", MEASURED, attempt).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn one_long_order_key() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = open(&folder.path().join("hookyard.db"), Clock::system()).await.unwrap();
    store.ready().await.unwrap();
    let accept = |n: usize| {
        let store = store.clone();
        let mut event = event(&format!("evt_{n}"), BODY);
        event.deliveries[0].order_key = Some([7; 16]);
        async move {
            store.accept(event).await.unwrap();
        }
    };
    measure("accept behind one key", MEASURED, accept).await;
    let (began, crm) = (Instant::now(), Name::from("crm"));
    for _ in 0..ASKED {
        let due = store.due(&crm, Timestamp::MAX, 64, Vec::new()).await.unwrap();
        assert_eq!(due.len(), 1);
        store.record(vec![super::tests::attempt(due[0].delivery.id, Next::Delivered)]).await.unwrap();
        assert!(store.next_due(&crm, Vec::new()).await.unwrap().is_some());
    }
    println!("due, record, next_due: {:.0} us each round", began.elapsed().as_micros() as f64 / f64::from(ASKED));
    let began = Instant::now();
    while store.adopt(&crm, &"new".into()).await.unwrap() != 0 {}
    println!("adopting the rest: {} ms", began.elapsed().as_millis());
    store.close().await;
}
