//! Partitions of events and of all that belongs to them, by their place in commit order: what is old goes with its partition, in one
//! step, and not row by row.
//!
//! New events come into the last one. When its period is over, the next is made and the numbers of events go on where that begins. One
//! that ended before what is kept is dropped; the little of it that has to stay is moved to the *rest*, which takes what no other does and
//! is pruned by slices (`prune.rs`), as is a partition of which much has to stay. Times are the database's: a replica whose clock is
//! wrong drops nothing.
//!
//! Statements name a place or a `seq` for each row of a partitioned table that they want, where they can: then only the partition that
//! has it is looked into. They do so by `unnest` rather than `ANY`, and not by a join with a slice of unknown length: PostgreSQL believes
//! that every row costs a look into every partition, and would rather walk through all of them.

use std::{
    collections::HashSet,
    future::Future,
    time::{Duration, Instant},
};

use tokio_postgres::error::SqlState;

use self::going::Came;
use super::{
    connect::{Db, Pg, is_lost},
    rows::Cells,
    session::Shared,
};
use crate::{
    clock::{Timestamp, to_ms},
    store::SEQ_MAX,
};

mod going;
#[cfg(test)]
mod tests;

/// Binary digits of a `seq` behind the number of its partition: one has room for 2^30 events, and there are numbers for 2^17.
pub(super) const SHIFT: u32 = 30;
/// The number of the rest.
const REST: i64 = -1;
/// What is partitioned, and by what: a `seq`, or places, which have 16 digits more. In the order in which most statements lock them.
const TABLES: [(&str, u32); 6] =
    [("events", 0), ("attempts", 16), ("deliveries", 16), ("bodies", 16), ("handling", 16), ("awaited", 16)];

/// Periods within the time that events are kept: who looks for what is due looks into every partition, so there are few.
const PERIODS: u32 = 6;
/// The shortest period.
const PERIOD_MIN: Duration = Duration::from_hours(1);
/// Partitions that have ended at most: with as many, the last goes on until one is dropped.
const ENDED_MAX: usize = 10;
/// How much later than a period after its time goes by slices what should have gone with its partition.
const SLACK: Duration = Duration::from_hours(1);
/// How long all are kept waiting for those that still use the tables.
const WAIT_MS: u32 = 200;
/// How long nothing is tried again after that was not long enough; doubled each time,
const AGAIN_FIRST: Duration = Duration::from_secs(30);
/// up to this. As often is looked whether less has to stay of a partition of which too much did.
const AGAIN_MAX: Duration = Duration::from_mins(10);

/// How many events make a difference.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// A partition has taken in as many before it ends: fewer go row by row.
    pub(super) taken: i64,
    /// As many are moved at most.
    pub(super) moved: i64,
    /// What is left of a partition, whether or not it may go, is moved when it is no more than this.
    pub(super) left: i64,
}

/// What a process remembers from one [`tidy`] to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) sizes: Sizes,
    /// Nothing is tried before.
    pub(super) again: Option<Instant>,
    pause: Duration,
    /// Partitions of which too much had to stay are not looked at before.
    pub(super) sliced: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        let sizes = Sizes { taken: 10_000, moved: 5_000, left: 1_000 };
        Self { sizes, again: None, pause: AGAIN_FIRST, sliced: None }
    }
}

/// The database's time, in ms.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Makes what a new store begins with: the rest and the first partition.
pub(super) fn first() -> String {
    let rest = TABLES.map(|(table, _)| format!("CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT;"));
    let rows = format!("INSERT INTO partitions (number, begun_at, ended_at) VALUES ({REST}, 0, 0), (0, {NOW}, NULL);");
    rest.concat() + &make(0) + &rows
}

/// Makes the partition with this number.
pub(super) fn make(number: i64) -> String {
    tables(number) + &attach(number)
}

/// Makes its tables, which nobody sees yet.
fn tables(number: i64) -> String {
    TABLES.map(|(table, _)| format!("CREATE TABLE {table}_p{number} (LIKE {table} INCLUDING ALL);")).concat()
}

/// Shows them.
fn attach(number: i64) -> String {
    let shown = TABLES.map(|(table, digits)| {
        let from = number << (SHIFT + digits);
        let to = from.checked_add(1 << (SHIFT + digits)).map_or("MAXVALUE".to_owned(), |to| to.to_string());
        format!("ALTER TABLE {table} ATTACH PARTITION {table}_p{number} FOR VALUES FROM ({from}) TO ({to});")
    });
    shown.concat()
}

/// Makes the partition that events behind `last_seq` come into, where a store that has come so far is copied into a new one.
pub(super) fn reaching(last_seq: i64) -> Option<String> {
    let number = last_seq.max(0) >> SHIFT;
    let rows = format!(
        "UPDATE partitions SET ended_at = {NOW} WHERE number = 0; INSERT INTO partitions (number, begun_at) VALUES ({number}, {NOW});"
    );
    (number != 0).then(|| make(number) + &rows)
}

/// Counts what a copy has brought into what has ended: there it is counted once.
pub(super) const COUNT_ENDED: &str = "UPDATE partitions p SET bytes = e.bytes FROM (
        SELECT CASE WHEN tableoid = 'events_rest'::regclass THEN -1 ELSE seq >> 30 END AS number, sum(size)::bigint AS bytes
        FROM events GROUP BY 1) AS e
    WHERE p.number = e.number AND p.ended_at IS NOT NULL";

#[derive(Debug, Clone, Copy)]
struct Partition {
    number: i64,
    begun_at: Option<i64>,
    ended_at: Option<i64>,
    bytes: i64,
    sliced: bool,
}

/// The partitions there are, and when that was.
#[derive(Debug)]
pub(super) struct Layout {
    /// By number; without the rest.
    partitions: Vec<Partition>,
    /// Bytes of what has ended, the rest included.
    ended_bytes: i64,
    last_seq: i64,
    now: i64,
}

/// The partitions with how far the store has come, and the database's time.
const LAYOUT: &str = "SELECT p.number, p.begun_at, p.ended_at, p.bytes, p.sliced, i.last_seq,
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM partitions p CROSS JOIN identity i ORDER BY p.number";

impl Layout {
    /// What there is; `now` counts where tests move the clock.
    pub(super) async fn read(db: &Db, shared: &Shared, now: Timestamp) -> Pg<Self> {
        let mut layout = Self { partitions: Vec::new(), ended_bytes: 0, last_seq: 0, now: to_ms(now) };
        for row in db.rows(LAYOUT, &[]).await? {
            let mut cells = Cells::of(&row);
            let number = cells.int()?;
            let (begun_at, ended_at) = (cells.some_int()?, cells.some_int()?);
            let it = Partition { number, begun_at, ended_at, bytes: cells.int()?, sliced: cells.take()? };
            layout.last_seq = cells.int()?;
            if shared.clock.is_system() {
                layout.now = cells.int()?;
            }
            layout.ended_bytes += ended_at.map_or(0, |_| it.bytes);
            if number != REST {
                layout.partitions.push(it);
            }
        }
        Ok(layout)
    }

    /// The one that new events come into.
    fn last(&self) -> Option<&Partition> {
        self.partitions.iter().find(|it| it.begun_at.is_some() && it.ended_at.is_none())
    }

    /// How many events came into the last one: numbers follow each other within it.
    fn taken(&self) -> i64 {
        self.last().map_or(0, |last| self.last_seq - (last.number << SHIFT))
    }

    /// The number of the next one, when it is time for that.
    fn next(&self, period: i64, sizes: Sizes) -> Option<i64> {
        let (last, taken) = (self.last()?, self.taken());
        let ended = self.partitions.iter().filter(|it| it.ended_at.is_some()).count();
        // A clock that was ahead began it.
        let over = last.begun_at.is_some_and(|begun_at| self.now < begun_at || period <= self.now - begun_at);
        let full = 1 << (SHIFT - 1) <= taken;
        let next = (self.last_seq >> SHIFT).max(last.number) + 1;
        let may = next << SHIFT < SEQ_MAX && (full || over && sizes.taken <= taken && ended < ENDED_MAX);
        may.then_some(next)
    }

    /// Those that may go, the oldest first, and whether only because little is left of them.
    fn candidates(&self, cutoff: i64, sliced: bool) -> impl Iterator<Item = (&Partition, bool)> {
        let ended = self.partitions.iter().filter(move |it| sliced || !it.sliced);
        ended.filter_map(move |it| match it.ended_at? {
            ended_at if ended_at < cutoff => Some((it, false)),
            _ if it.bytes <= going::MOVED_BYTES => Some((it, true)),
            _ => None,
        })
    }

    /// From before when what is finished is removed row by row, where `cutoff` is when it may go.
    pub(super) fn cutoffs(&self, cutoff: i64, kept: Duration, sizes: Sizes) -> Cutoffs {
        let goes_whole = |it: &&Partition| !it.sliced && (it.ended_at.is_some() || sizes.taken <= self.taken());
        let whole = self.partitions.iter().filter(goes_whole).map(|it| it.number).collect();
        Cutoffs { cutoff, late: cutoff.saturating_sub(period(kept)).saturating_sub(ms(SLACK)), whole }
    }
}

/// From before when what is finished is removed row by row.
pub(super) struct Cutoffs {
    cutoff: i64,
    late: i64,
    /// Numbers of partitions that go as a whole.
    whole: HashSet<i64>,
}

impl Cutoffs {
    /// For none.
    pub(super) fn none() -> Self {
        Self { cutoff: i64::MIN, late: i64::MIN, whole: HashSet::new() }
    }

    /// For the event `seq`.
    pub(super) fn of(&self, seq: i64) -> i64 {
        if self.whole.contains(&(seq >> SHIFT)) { self.late } else { self.cutoff }
    }
}

fn period(kept: Duration) -> i64 {
    ms((kept / PERIODS).max(PERIOD_MIN))
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What one call of [`tidy`] did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tidied {
    /// Events that went with their partition.
    pub(super) events: u64,
    /// There may be more to do.
    pub(super) more: bool,
}

/// Begins the next partition when it is time for that, and drops one of those that may go where events are kept for `kept`.
///
/// # Errors
/// Only when the connection is lost: what the database refuses is said, and tried again later.
pub(super) async fn tidy(db: &Db, shared: &Shared, now: Timestamp, kept: Duration) -> Pg<Tidied> {
    let layout = Layout::read(db, shared, now).await?;
    let pace = pace(shared, |pace| *pace);
    if pace.again.is_some_and(|again| Instant::now() < again) {
        return Ok(Tidied::default());
    }
    match work(db, shared, &layout, now, kept, pace).await {
        Ok(tidied) => Ok(tidied),
        Err(error) if is_lost(&error) => Err(error),
        Err(error) => {
            let pause = later(shared);
            match error.code() {
                Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED | &SqlState::T_R_DEADLOCK_DETECTED) => {
                    tracing::debug!("partitions are in use: they are tidied in {}s", pause.as_secs());
                }
                _ => tracing::warn!(%error, "partitions of the store cannot be tidied; trying again in {}s", pause.as_secs()),
            }
            Ok(Tidied::default())
        }
    }
}

fn pace<T>(shared: &Shared, with: impl FnOnce(&mut Pace) -> T) -> T {
    with(&mut shared.room.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pace)
}

fn later(shared: &Shared) -> Duration {
    pace(shared, |pace| {
        let pause = pace.pause;
        (pace.again, pace.pause) = (Some(Instant::now() + pause), (pause * 2).min(AGAIN_MAX));
        pause
    })
}

async fn work(db: &Db, shared: &Shared, layout: &Layout, now: Timestamp, kept: Duration, with: Pace) -> Pg<Tidied> {
    if let Some(next) = layout.next(period(kept), with.sizes) {
        begin(db, shared, layout, next, now).await?;
    }
    let cutoff = layout.now.saturating_sub(ms(kept));
    let sliced = with.sliced.is_none_or(|again| again <= Instant::now());
    for (it, left) in layout.candidates(cutoff, sliced) {
        match going::drop_one(db, it, left, with.sizes).await? {
            Came::Gone(events) => {
                pace(shared, |pace| pace.pause = AGAIN_FIRST);
                return Ok(Tidied { events, more: true });
            }
            Came::TooMuch if it.sliced => pace(shared, |pace| pace.sliced = Some(Instant::now() + AGAIN_MAX)),
            Came::TooMuch | Came::NotNow => {}
        }
    }
    Ok(Tidied::default())
}

/// `work` in a transaction.
pub(super) async fn within<T>(db: &Db, work: impl Future<Output = Pg<T>>) -> Pg<T> {
    db.begin().await?;
    match work.await {
        Ok(done) => db.commit().await.map(|()| done),
        Err(error) => {
            if !is_lost(&error) {
                db.roll_back().await;
            }
            Err(error)
        }
    }
}

/// Second number: the schema's own, as for migrating. `HkYp`.
const ALONE: &str = "SELECT pg_try_advisory_xact_lock(1214994800, to_regnamespace(quote_ident(current_schema()))::oid::int)";

/// Whether nobody else tidies partitions until this transaction ends.
pub(super) async fn is_alone(db: &Db) -> Pg<bool> {
    db.first(ALONE, &[]).await?.map_or(Ok(false), |row| row.try_get(0))
}

/// Has `tables` for this transaction alone (`EXCLUSIVE`: others may read them), or fails: for as long as it waits for those who use them,
/// everybody else waits too.
async fn alone_with(db: &Db, tables: &str, mode: &str) -> Pg<()> {
    db.script(&format!("SET LOCAL lock_timeout = {WAIT_MS}; SET LOCAL statement_timeout = {WAIT_MS}")).await?;
    db.script(&format!("LOCK TABLE {tables} IN {mode} MODE")).await?;
    db.script("SET LOCAL statement_timeout = 0").await
}

/// Takes the lock of the store until the commit; gives what is in use.
const IDENTITY: &str = "SELECT used FROM identity FOR UPDATE";

/// Begins the partition with number `next` in place of the last of `layout`. A process that is killed in between leaves a partition that
/// nothing comes into yet.
async fn begin(db: &Db, shared: &Shared, layout: &Layout, next: i64, now: Timestamp) -> Pg<()> {
    let ready = within(db, async {
        if !is_alone(db).await? {
            return Ok(false);
        }
        if db.run("INSERT INTO partitions (number) VALUES ($1) ON CONFLICT DO NOTHING", &[&next]).await? != 0 {
            db.script(&tables(next)).await?;
            // PostgreSQL looks whether the rest holds what belongs into it.
            alone_with(db, &TABLES.map(|(table, _)| format!("{table}_rest")).join(", "), "ACCESS EXCLUSIVE").await?;
            db.script(&attach(next)).await?;
        }
        Ok(true)
    });
    if !ready.await? {
        return Ok(());
    }
    let expected = layout.last().map(|last| last.number);
    within(db, async {
        let used: i64 = db.first(IDENTITY, &[]).await?.map_or(Ok(0), |row| row.try_get(0))?;
        let layout = Layout::read(db, shared, now).await?;
        let Some(last) = layout.last().filter(|last| Some(last.number) == expected && last.number < next) else { return Ok(()) };
        let mut bytes = used - layout.ended_bytes;
        // Numbers that a copy brought along, or that ran on: those events are in the rest.
        if last.number < layout.last_seq >> SHIFT {
            let all = bytes;
            let sql = format!("SELECT coalesce(sum(size), 0)::bigint FROM events_p{}", last.number);
            bytes = number_of(db, &sql).await?;
            let sql = "UPDATE partitions SET bytes = bytes + $2 WHERE number = $1";
            db.run(sql, &[&REST, &(all - bytes)]).await?;
        }
        // What a clock that was ahead has ended, ended now at the latest.
        db.run("UPDATE partitions SET ended_at = $1 WHERE $1 < ended_at", &[&layout.now]).await?;
        let sql = "UPDATE partitions SET ended_at = $2, bytes = $3 WHERE number = $1";
        db.run(sql, &[&last.number, &layout.now, &bytes]).await?;
        db.run("UPDATE partitions SET begun_at = $2 WHERE number = $1", &[&next, &layout.now]).await?;
        db.run("UPDATE identity SET last_seq = $1 WHERE last_seq < $1", &[&(next << SHIFT)]).await?;
        tracing::info!(partition = next, "events go into the next partition");
        Ok(())
    })
    .await
}

pub(super) async fn number_of(db: &Db, sql: &str) -> Pg<i64> {
    db.rows_once(sql, &[]).await?.first().map_or(Ok(0), |row| row.try_get(0))
}

/// Removes events, and counts what is in use in the partitions they were in; answers how many bytes they were.
pub(super) async fn remove_rows(db: &Db, seqs: &[i64]) -> Pg<i64> {
    db.first(&remove_rows_sql(), &[&seqs]).await?.map_or(Ok(0), |row| row.try_get(0))
}

pub(super) fn remove_rows_sql() -> String {
    format!(
        "WITH gone AS (DELETE FROM events e USING unnest($1::bigint[]) AS u (at) WHERE e.seq = u.at RETURNING e.seq, e.size),
            less AS (UPDATE identity SET used = used - (SELECT coalesce(sum(size), 0)::bigint FROM gone)),
            ended AS (UPDATE partitions p SET bytes = p.bytes - g.size FROM (
                SELECT coalesce(q.number, {REST}) AS number, sum(size)::bigint AS size
                FROM gone LEFT JOIN partitions q ON q.number = gone.seq >> {SHIFT} GROUP BY 1) AS g
                WHERE p.number = g.number AND p.ended_at IS NOT NULL)
        SELECT coalesce(sum(size), 0)::bigint FROM gone"
    )
}
