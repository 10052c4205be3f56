//! What is in use is what there is, whatever is recorded in whatever order, and is counted anew where it is not.

use std::time::{Duration, Instant};

use super::{super::*, client, opened, url_of};
use crate::store::{Accepted, Next, Rendered, State, contract::Bench};

/// How long the machine may take for what takes a moment.
const SOON: Duration = Duration::from_secs(60);

/// A store, and a connection to its database.
struct Bed {
    bench: Bench,
    db: tokio_postgres::Client,
}

impl Bed {
    async fn new() -> Self {
        let bench = Bench::new(opened).await;
        let db = client(&bench.folder.path().join("store")).await;
        Self { bench, db }
    }

    async fn number(&self, sql: &str) -> i64 {
        self.db.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Bytes of bodies and answers that are counted, which are those that there are.
    async fn counted(&self, when: &str) -> i64 {
        let counted = self.number("SELECT sum(bytes)::bigint FROM usage").await;
        let sql = "SELECT (SELECT coalesce(sum(octet_length(response)), 0)::bigint FROM attempts)
            + (SELECT coalesce(sum(octet_length(body) + coalesce(octet_length(progress), 0)), 0)::bigint FROM bodies)";
        assert_eq!(counted, self.number(sql).await, "{when}");
        counted
    }

    async fn record(&self, attempts: &[Attempt]) {
        self.bench.store.record(attempts.to_vec()).await.unwrap();
    }
}

/// A body of so many bytes; `left`: how many it takes to say what is left to be done of it.
fn made(bytes: usize, left: Option<usize>) -> Option<Rendered> {
    let filled = |bytes| vec![b'x'; bytes].into();
    Some(Rendered { content_type: "text/plain".into(), body: filled(bytes), progress: left.map(filled), reached: false })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_attempts_leave_is_counted_once_and_goes_with_their_events() {
    let bed = Bed::new().await;
    let (mail, hook) = (bed.bench.planned("mail", "mail").await, bed.bench.planned("hook", "crm").await);
    assert_eq!(bed.counted("nothing was tried").await, 0);
    let again = Next::Retry(bed.bench.clock.now());
    // What is left to be done of a message is made anew at every attempt: longer, shorter, and as long as before.
    let mut last = 0;
    for number in 1..=12 {
        let left = 100 * [7, 3, 3, 9][number as usize % 4];
        let attempt = Attempt { rendered: made(5000 + left, Some(left)), ..bed.bench.attempt(mail, number, again) };
        bed.record(&[attempt]).await;
        let now = bed.counted(&format!("attempt {number} of a message to several")).await;
        assert!(now < 7000 + 100 * i64::from(number), "{now}");
        last = now;
    }
    let twice = Attempt { rendered: made(5300, Some(300)), ..bed.bench.attempt(mail, 12, again) };
    bed.record(&[twice.clone(), twice]).await;
    assert_eq!(bed.counted("one that was recorded before").await, last);
    // One that is made once is kept once, by whichever way attempts are recorded.
    let first = Attempt { rendered: made(2000, None), ..bed.bench.attempt(hook, 1, again) };
    bed.record(std::slice::from_ref(&first)).await;
    bed.record(std::slice::from_ref(&first)).await;
    bed.record(&[Attempt { rendered: made(2000, None), ..bed.bench.attempt(hook, 2, again) }]).await;
    assert_eq!(bed.counted("a body that was made twice").await, last + 2000 + 2 * "answer".len() as i64);
    let strange = crate::envelope::DeliveryId { n: 9, ..hook };
    let late = bed.bench.attempt(hook, 3, Next::Dead(crate::store::Cause::Receiver));
    bed.record(&[
        bed.bench.attempt(strange, 1, Next::Delivered),
        bed.bench.attempt(hook, 3, Next::Delivered),
        Attempt { started_at: crate::clock::later(late.started_at, Duration::from_secs(1)), rendered: made(2000, None), ..late },
        Attempt { rendered: made(100, Some(1)), ..bed.bench.attempt(mail, 13, Next::Delivered) },
    ])
    .await;
    bed.counted("some of nothing, late, and twice in one breath").await;
    assert_eq!(bed.bench.delivery(hook).await.unwrap().state, State::Delivered);
    bed.bench.store.erase(vec![mail.event, hook.event], bed.bench.clock.now()).await.unwrap();
    assert_eq!(bed.counted("they are gone").await, 0);
    bed.record(&[
        bed.bench.attempt(hook, 4, Next::Delivered),
        Attempt { rendered: made(9, Some(9)), ..bed.bench.attempt(mail, 14, again) },
    ])
    .await;
    assert_eq!(bed.counted("what is recorded of them afterwards").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_counts_at_the_same_moment_is_counted_too() {
    let mut bed = Bed::new().await;
    let id = bed.bench.planned("hook", "crm").await;
    let other = bed.db.transaction().await.unwrap();
    other.batch_execute("UPDATE usage SET bytes = bytes + 5").await.unwrap();
    let attempt = Attempt { rendered: made(2000, None), ..bed.bench.attempt(id, 1, Next::Delivered) };
    let store = bed.bench.store.clone();
    let recording = tokio::spawn(async move { store.record(vec![attempt]).await });
    let (began, look) = (Instant::now(), client(&bed.bench.folder.path().join("store")).await);
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND pg_blocking_pids(pid) && ARRAY(SELECT pid FROM pg_locks WHERE relation = 'usage'::regclass)";
    while look.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(began.elapsed() < SOON, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.commit().await.unwrap();
    recording.await.unwrap().unwrap();
    let slots = bed.number("SELECT count(*) FROM usage").await;
    bed.db.batch_execute("UPDATE usage SET bytes = bytes - 5").await.unwrap();
    assert_eq!((slots, bed.counted("both").await), (64, 2000 + "answer".len() as i64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_counted_wrong_takes_events_again() {
    let bed = Bed::new().await;
    let bench = &bed.bench;
    let path = bench.folder.path().join("store");
    let other = open(&url_of(&path).await, bench.clock.clone()).await.unwrap();
    let id = bench.planned("evt_1", "crm").await;
    bed.record(&[bench.attempt(id, 1, Next::Retry(bench.clock.now()))]).await;
    bed.db.batch_execute("UPDATE usage SET bytes = bytes + 2000000 WHERE slot = 7").await.unwrap();
    let (long, max_bytes) = (Duration::from_hours(24 * 30), Some(1024 * 1024));
    let kept = Retention { events: long, dead_letters: long, rejections: long, audit: long, max_bytes };
    let prune = async |store: &dyn Store| store.prune(bench.clock.now(), kept, Vec::new()).await.unwrap();
    for store in [&*bench.store, &*other as &dyn Store] {
        assert!(1024 * 1024 < prune(store).await.used);
    }
    let refused = bench.store.accept(bench.event("evt_2").to(&["crm"])).await;
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    // Of two that see it, one puts it right, and not both.
    tokio::join!(prune(&*bench.store), prune(&*other));
    bed.counted("it was counted anew").await;
    assert!(matches!(bench.store.accept(bench.event("evt_2").to(&["crm"])).await, Ok(Accepted::New { .. })));
    assert!(matches!(other.accept(bench.event("evt_3").to(&["crm"])).await, Ok(Accepted::New { .. })));
    other.close().await;
}
