//! What is old goes with its partition: what has to stay goes on as before, and nobody misses anything meanwhile.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::{
    super::{
        partitions::{SHIFT, Sizes},
        *,
    },
    client, opened, url_of,
};
use crate::store::{Cause, Next, State, contract::Bench};

/// How long events are kept here: a period is as long.
const HOUR: Duration = Duration::from_hours(1);
const KEEP: Retention =
    Retention { events: HOUR, dead_letters: Duration::from_hours(24 * 90), rejections: HOUR, audit: HOUR, max_bytes: None };
/// Few events make a difference here.
const SIZES: Sizes = Sizes { taken: 20, moved: 8, left: 3 };
/// How often is asked again what the machine may be too slow for.
const PATIENCE: usize = 400;

/// A store, with two replicas that know of few events as much.
struct Bed {
    bench: Bench,
    replicas: [Arc<Postgres>; 2],
    db: tokio_postgres::Client,
}

impl Bed {
    async fn new() -> Self {
        let bench = Bench::new(opened).await;
        let url = url_of(&bench.folder.path().join("store")).await;
        let replicas = [open(&url, bench.clock.clone()).await.unwrap(), open(&url, bench.clock.clone()).await.unwrap()];
        for replica in &replicas {
            replica.shared.room.lock().unwrap().pace.sizes = SIZES;
        }
        let db = client(&bench.folder.path().join("store")).await;
        Self { bench, replicas, db }
    }

    /// Takes in `count` events that `crm` gets at once.
    async fn delivered(&self, name: &str, count: usize) -> Vec<DeliveryId> {
        let mut ids = Vec::new();
        for n in 0..count {
            ids.push(self.bench.planned(&format!("{name}_{n}"), "crm").await);
        }
        let attempts = ids.iter().map(|id| self.bench.attempt(*id, 1, Next::Delivered)).collect();
        self.bench.store.record(attempts).await.unwrap();
        ids
    }

    /// One call to prune, by the replica with this number, whatever was in its way before.
    async fn prune_by(&self, replica: usize) -> Result<Pruned> {
        {
            let pace = &mut self.replicas[replica].shared.room.lock().unwrap().pace;
            (pace.again, pace.sliced) = (None, None);
        }
        self.replicas[replica].prune(self.bench.clock.now(), KEEP, Vec::new()).await
    }

    /// Prunes until nothing is left to do; how many events went.
    async fn prune(&self) -> u64 {
        let mut events = 0;
        loop {
            let pruned = self.prune_by(0).await.unwrap();
            events += pruned.events;
            if !pruned.more {
                return events;
            }
        }
    }

    /// Lets the last partition end: what comes goes into the next.
    async fn turn(&self) -> i64 {
        let before = self.last().await;
        self.bench.clock.advance(HOUR);
        for _ in 0..PATIENCE {
            self.prune_by(0).await.unwrap();
            if self.last().await != before {
                return self.last().await;
            }
        }
        panic!("partition {before} does not end");
    }

    /// Prunes until the tables of a partition are gone; how many events went.
    async fn until_gone(&self, number: i64) -> u64 {
        let mut events = 0;
        for _ in 0..PATIENCE {
            events += self.prune_by(0).await.unwrap().events;
            if !self.is_there(number).await {
                return events;
            }
        }
        panic!("partition {number} stays");
    }

    async fn number(&self, sql: &str) -> i64 {
        self.db.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    async fn last(&self) -> i64 {
        self.number("SELECT number FROM partitions WHERE begun_at IS NOT NULL AND ended_at IS NULL").await
    }

    async fn is_there(&self, number: i64) -> bool {
        let tables = self
            .number(&format!(
                "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace
            AND relkind = 'r' AND relname LIKE '%\\_p{number}'"
            ))
            .await;
        assert!(tables == 0 || tables == 6, "{tables} tables of partition {number} are left");
        tables != 0
    }

    /// From now on no row of a partitioned table can be deleted.
    async fn forbid_deleting(&self) {
        let sql = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'a row of % is deleted', TG_TABLE_NAME; END $$;
            CREATE TRIGGER refused BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse();
            CREATE TRIGGER refused BEFORE DELETE ON deliveries FOR EACH ROW EXECUTE FUNCTION refuse();
            CREATE TRIGGER refused BEFORE DELETE ON attempts FOR EACH ROW EXECUTE FUNCTION refuse();";
        self.db.batch_execute(sql).await.unwrap();
    }

    /// What is counted is what there is: in all, and in each partition that has ended.
    async fn counts_are_right(&self) {
        let used = self.number("SELECT used FROM identity").await;
        assert_eq!(used, self.number("SELECT coalesce(sum(size), 0)::bigint FROM events").await, "events");
        let made = self.number("SELECT sum(bytes)::bigint FROM usage").await;
        let sql = "SELECT (SELECT coalesce(sum(octet_length(response)), 0)::bigint FROM attempts)
            + (SELECT coalesce(sum(octet_length(body) + coalesce(octet_length(progress), 0)), 0)::bigint FROM bodies)";
        assert_eq!(made, self.number(sql).await, "bodies and answers");
        let ended = self.db.query("SELECT number, bytes FROM partitions WHERE ended_at IS NOT NULL", &[]).await.unwrap();
        for row in ended {
            let (number, bytes): (i64, i64) = (row.get(0), row.get(1));
            let name = if number < 0 { "rest".to_owned() } else { format!("p{number}") };
            let held = self.number(&format!("SELECT coalesce(sum(size), 0)::bigint FROM events_{name}")).await;
            assert_eq!(bytes, held, "partition {name}");
        }
        let lost = "SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.seq = d.place >> 16)";
        assert_eq!(self.number(lost).await, 0, "deliveries without their events");
    }

    /// Ids of the events that are held.
    async fn held(&self) -> Vec<String> {
        let rows = self.bench.store.events(Filter { limit: 1000, ..Filter::default() }).await.unwrap();
        rows.into_iter().map(|row| row.envelope.id).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_is_dropped_and_not_deleted_row_by_row() {
    let bed = Bed::new().await;
    let old = bed.delivered("old", 30).await;
    bed.forbid_deleting().await;
    assert_eq!(bed.turn().await, 1);
    let young = bed.delivered("young", 25).await;
    assert_eq!(young[0].event.seq, (1 << SHIFT) + 1, "numbers go on at its beginning");
    assert_eq!(bed.prune().await, 0, "none is old");
    bed.counts_are_right().await;
    let before = bed.replicas[0].prune(bed.bench.clock.now(), KEEP, Vec::new()).await.unwrap().used;
    bed.bench.clock.advance(HOUR + Duration::from_millis(1));
    assert_eq!(bed.until_gone(0).await, 30);
    bed.counts_are_right().await;
    let after = bed.prune_by(1).await.unwrap();
    assert!(after.used < before / 2, "{} of {before}", after.used);
    assert!(!bed.bench.holds(old[0].event).await && bed.bench.holds(young[0].event).await);
    assert_eq!((bed.bench.delivery(old[29]).await, bed.held().await.len()), (None, 25));
    assert_eq!(bed.bench.store.attempts(old[0].event).await.unwrap(), []);
    // It is known again all the same, and no number is given out twice.
    let again = bed.bench.store.accept(bed.bench.event("old_7")).await.unwrap();
    assert!(matches!(again, Accepted::Duplicate { .. }), "{again:?}");
    let next = bed.bench.planned("next", "crm").await;
    assert!(young[24].event < next.event, "{next}");
    assert_eq!(
        bed.bench.store.walk(walk_after(old[0].event.seq - 1)).await.unwrap().events.len(),
        26,
        "who follows skips the gap"
    );
}

fn walk_after(seq: i64) -> Walk {
    let filter = Filter { page: crate::store::Page::After(seq), limit: 100, ..Filter::default() };
    Walk { filter, bodies: true, bytes: usize::MAX, types: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_to_stay_is_moved_and_goes_on() {
    let bed = Bed::new().await;
    let bench = &bed.bench;
    bed.delivered("old", 30).await;
    let [carrier, second, third] = bench.digest().await;
    bench.failed_with(carrier, "one, two, three").await;
    let waiting = bench.planned("waiting", "n8n").await;
    bench.recorded(waiting, 1, Next::Retry(bench.clock.now())).await;
    let [dead, settled, arrived] =
        [bench.planned("d", "n8n").await, bench.planned("s", "n8n").await, bench.planned("a", "n8n").await];
    for id in [dead, settled] {
        bench.recorded(id, 1, Next::Dead(Cause::Receiver)).await;
    }
    let resolution = Resolution { at: bench.clock.now(), note: "seen".into() };
    assert!(bench.store.resolve(settled, resolution).await.unwrap());
    bench.recorded(arrived, 1, Next::Delivered).await;
    bed.turn().await;
    bed.delivered("young", 25).await;
    bed.forbid_deleting().await;
    bench.clock.advance(HOUR + Duration::from_millis(1));
    assert_eq!(bed.until_gone(0).await, 32, "the digest, what waits and the dead letter stay");
    bed.counts_are_right().await;

    // As it was: what is due, made, tried, carried, listed.
    let due = bench.store.due(&"crm".into(), bench.clock.now(), 10, Vec::new()).await.unwrap();
    assert_eq!(due.iter().map(|due| due.delivery.id).collect::<Vec<_>>(), [carrier]);
    assert_eq!(due[0].delivery.body.as_ref().unwrap().body, "one, two, three");
    assert_eq!(bench.inside(carrier).await, ["evt_2", "evt_3"]);
    assert_eq!(bench.due("n8n").await, [waiting]);
    assert_eq!(bench.store.attempts(waiting.event).await.unwrap().len(), 1);
    assert!(!bench.holds(arrived.event).await && !bench.holds(settled.event).await && bench.holds(third.event).await);
    let backlog = bench.store.backlog(None).await.unwrap();
    assert_eq!(backlog.iter().map(|row| (row.waiting, row.dead)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
    // And it goes on: delivered, retried, replayed, erased.
    bench.recorded(waiting, 2, Next::Delivered).await;
    assert_eq!(bench.delivery(waiting).await.unwrap().state, State::Delivered);
    assert_eq!(bench.store.retry(vec![dead], bench.clock.now()).await.unwrap(), [dead]);
    let replayed = bench.replay(dead.event, &["crm"], "job 1").await;
    assert_eq!(bench.due("crm").await, [carrier, replayed[0]]);
    assert_eq!(bench.due("n8n").await, [dead]);
    bed.db.batch_execute("DROP FUNCTION refuse CASCADE").await.unwrap();
    assert_eq!(bench.erased(&[second.event]).await.events, 1);
    assert_eq!(bench.inside(carrier).await, ["evt_3"]);
    bed.counts_are_right().await;
    // What nothing keeps any more is removed from the rest.
    let attempts = [(carrier, 2), (replayed[0], 1), (dead, 2)].map(|(id, number)| bench.attempt(id, number, Next::Delivered));
    bench.store.record(attempts.to_vec()).await.unwrap();
    assert_eq!(bed.prune().await, 4, "two of the digest, what waited and the dead letter");
    assert_eq!(bed.number("SELECT count(*) FROM deliveries_rest").await, 0);
    bed.counts_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_partition_of_which_much_has_to_stay_the_rest_goes_row_by_row() {
    let bed = Bed::new().await;
    let bench = &bed.bench;
    bed.delivered("old", 20).await;
    let mut waiting = Vec::new();
    for n in 0..9 {
        waiting.push(bench.planned(&format!("waiting_{n}"), "crm").await);
    }
    bed.turn().await;
    bed.delivered("young", 25).await;
    bench.clock.advance(HOUR + Duration::from_millis(1));
    assert_eq!(bed.prune().await, 20);
    assert!(bed.is_there(0).await);
    bed.counts_are_right().await;
    assert_eq!(bench.due("crm").await, waiting);
    // What stays is few now.
    bench.recorded(waiting[0], 1, Next::Delivered).await;
    assert_eq!(bed.until_gone(0).await, 1);
    assert_eq!(bench.due("crm").await, waiting[1..]);
    bed.counts_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_in_the_middle_leaves_all_or_nothing() {
    let bed = Bed::new().await;
    let bench = &bed.bench;
    // Killed between making a partition and beginning it.
    bed.db.batch_execute(&partitions::make(1)).await.unwrap();
    bed.db.batch_execute("INSERT INTO partitions (number) VALUES (1)").await.unwrap();
    bed.delivered("old", 30).await;
    let waiting = bench.planned("waiting", "crm").await;
    assert_eq!(bed.turn().await, 1);
    bed.delivered("young", 25).await;
    bench.clock.advance(HOUR + Duration::from_millis(1));
    // Killed anywhere in dropping one: what a connection leaves is undone.
    let mut all = 0;
    for n in 0..60_u64 {
        let killed =
            tokio::time::timeout(Duration::from_micros(fastrand::u64(..1000 * (n + 1))), bed.prune_by(n as usize % 2)).await;
        all += usize::from(killed.is_ok());
        let found = bed.held().await.len();
        assert!(found == 56 || found == 26, "{found} events are held");
        assert_eq!(bench.due("crm").await, [waiting]);
    }
    println!("{all} of 60 came to their end");
    bed.until_gone(0).await;
    bed.counts_are_right().await;
    assert_eq!(bench.due("crm").await, [waiting]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_somebody_reads_for_long_nothing_is_dropped_and_nobody_waits_for_that() {
    let bed = Bed::new().await;
    bed.delivered("old", 30).await;
    bed.turn().await;
    bed.bench.clock.advance(HOUR + Duration::from_millis(1));
    let mut reader = client(&bed.bench.folder.path().join("store")).await;
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT count(*) FROM deliveries", &[]).await.unwrap();
    bed.prune_by(0).await.unwrap();
    assert!(bed.is_there(0).await);
    let began = Instant::now();
    bed.replicas[0].prune(bed.bench.clock.now(), KEEP, Vec::new()).await.unwrap();
    let pace = bed.replicas[0].shared.room.lock().unwrap().pace;
    assert!(pace.again.is_some_and(|again| began < again), "it is not tried all the time");
    bed.delivered("young", 3).await;
    reading.rollback().await.unwrap();
    assert_eq!(bed.until_gone(0).await, 30);
    bed.counts_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_a_copy_brought_along_are_followed() {
    let bed = Bed::new().await;
    bed.delivered("old", 5).await;
    bed.db.execute("UPDATE identity SET last_seq = $1", &[&(7_i64 << SHIFT)]).await.unwrap();
    let copied = bed.delivered("copied", 25).await;
    assert_eq!(bed.number("SELECT count(*) FROM events_rest").await, 25);
    assert_eq!(bed.turn().await, 8);
    bed.counts_are_right().await;
    bed.delivered("young", 5).await;
    bed.bench.clock.advance(HOUR + Duration::from_millis(1));
    bed.until_gone(0).await;
    bed.prune().await;
    assert!(!bed.bench.holds(copied[0].event).await);
    bed.counts_are_right().await;
}

/// What each partition of the busy test takes in, by `turns`.
const BATCH: usize = 40;
const TURNS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_two_replicas_prune_at_once_nothing_is_lost_and_nobody_waits_for_long() {
    let bed = Bed::new().await;
    let bench = &bed.bench;
    bed.forbid_deleting().await;
    let (stop, slowest, reads) = (AtomicBool::new(false), std::sync::Mutex::new(Duration::ZERO), AtomicUsize::new(0));
    // Lanes, lists and ingest go on all the time.
    let lanes = async {
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let due = bed.replicas[1].due(&"n8n".into(), bench.clock.now(), 20, Vec::new()).await.unwrap();
            let next = bed.replicas[1].next_due(&"n8n".into(), Vec::new()).await.unwrap();
            assert!(due.is_empty() || next.is_some());
            bench.store.deliveries(Filter { limit: 50, ..Filter::default() }).await.unwrap();
            bench.store.walk(walk_after(0)).await.unwrap();
            let mut slowest = slowest.lock().unwrap();
            *slowest = (*slowest).max(began.elapsed());
            reads.fetch_add(1, Ordering::Relaxed);
        }
    };
    let both = async {
        let (mut waiting, mut gone) = (Vec::new(), 0);
        for turn in 0..TURNS {
            bed.delivered(&format!("turn_{turn}"), BATCH).await;
            waiting.push(bench.planned(&format!("waiting_{turn}"), "n8n").await);
            bench.clock.advance(HOUR + Duration::from_millis(1));
            // What ended before the last turn has had its time.
            for _ in 0..PATIENCE {
                let (one, other) = tokio::join!(bed.prune_by(0), bed.prune_by(1));
                gone += one.unwrap().events + other.unwrap().events;
                if bed.number("SELECT count(*) FROM partitions WHERE number >= 0").await <= 2
                    && bed.last().await == turn as i64 + 1
                {
                    break;
                }
            }
            assert_eq!(bed.last().await, turn as i64 + 1);
            assert_eq!(bench.due("n8n").await, waiting, "turn {turn}");
        }
        stop.store(true, Ordering::Relaxed);
        (waiting, gone)
    };
    let ((), (waiting, gone)) = tokio::join!(lanes, both);
    println!("{reads:?} rounds of reading meanwhile, the slowest took {:?}", slowest.lock().unwrap());
    assert_eq!(gone as usize, (TURNS - 1) * BATCH, "each is counted once");
    let attempts = waiting.iter().map(|id| bench.attempt(*id, 1, Next::Delivered)).collect();
    bench.store.record(attempts).await.unwrap();
    assert_eq!(bench.due("n8n").await, []);
    bed.counts_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_as_many_events_as_can_come_in_through_two_replicas_what_is_old_is_dropped_without_many_tries() {
    let bed = Bed::new().await;
    bed.delivered("old", 30).await;
    bed.turn().await;
    bed.bench.clock.advance(HOUR + Duration::from_millis(1));
    let (stop, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    let sends = async |replica: usize| {
        while !stop.load(Ordering::Relaxed) {
            let name = format!("young_{}", taken.fetch_add(1, Ordering::Relaxed));
            bed.replicas[replica].accept(bed.bench.event(&name).to(&["crm"])).await.unwrap();
        }
    };
    let senders = async { tokio::join!(sends(0), sends(1), sends(0), sends(1), sends(0), sends(1)) };
    let drops = async {
        until_sent(&taken, 200).await;
        let mut tries = 0;
        while bed.is_there(0).await && tries < PATIENCE {
            tries += 1;
            bed.prune_by(0).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        tries
    };
    let (_, tries) = tokio::join!(senders, drops);
    println!("{tries} tries, {taken:?} events meanwhile");
    assert!(tries <= 10, "{tries} tries");
    bed.counts_are_right().await;
}

async fn until_sent(taken: &AtomicUsize, count: usize) {
    let began = Instant::now();
    while taken.load(Ordering::Relaxed) < count {
        assert!(began.elapsed() < Duration::from_mins(2), "nothing comes in");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
