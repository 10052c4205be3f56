//! Keeping attempts, and moving their deliveries to what the attempts left them as.
//!
//! Nearly all attempts are of deliveries that are in nobody's way: a batch of them is one statement, and waits for nobody ([`freely`]).
//! Where one is ordered, or has died of which a throttle knows, or was recorded before, the batch is made under the lock of the store.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;

use super::{
    batch::{Job, Kept, Sent, Work},
    bodies::{self, keep_bodies, keep_body},
    connect::{Db, Pg},
    freely,
    insert::small,
    lanes,
    rows::Cells,
    session::{self, Session, Shared},
    text::Text,
    throttle,
};
use crate::{
    clock::to_ms,
    store::{
        Attempt, Next, Result,
        codes::{AWAITS, DEAD, DELIVERED, PENDING, cause_code},
    },
};

/// How long attempts wait for more of them at most.
const REST_MAX: Duration = Duration::from_millis(20);

/// The job of one [`crate::store::Store::record`].
pub(super) struct Record {
    pub(super) attempts: Vec<Attempt>,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

impl Job for Record {
    fn bytes(&self) -> usize {
        self.attempts.iter().map(bytes).sum()
    }

    fn answer(self, outcome: Result<()>) {
        let _ = self.reply.send(outcome);
    }

    fn rows(&self) -> usize {
        self.attempts.len()
    }

    /// The next of its order key waits for it.
    fn is_urgent(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.ordered)
    }
}

fn bytes(attempt: &Attempt) -> usize {
    let made = |made: &crate::store::Rendered| made.body.len() + made.progress.as_ref().map_or(0, bytes::Bytes::len);
    attempt.response.len() + attempt.rendered.as_ref().map_or(0, made)
}

/// What an attempt leaves behind, as the tables hold it.
pub(super) struct After {
    pub(super) state: i64,
    pub(super) cause: Option<i64>,
    pub(super) due_at: Option<i64>,
    pub(super) settled_at: Option<i64>,
    /// What the attempt's own row says: the state, or that a report is waited for.
    pub(super) outcome: i64,
}

impl After {
    pub(super) fn of(next: Next, now: i64) -> Self {
        let waits = |at, outcome| Self { state: PENDING, cause: None, due_at: Some(to_ms(at)), settled_at: None, outcome };
        match next {
            Next::Delivered => Self { state: DELIVERED, cause: None, due_at: None, settled_at: Some(now), outcome: DELIVERED },
            Next::Retry(at) => waits(at, PENDING),
            Next::Awaits(at) => waits(at, AWAITS),
            Next::Dead(cause) => {
                Self { state: DEAD, cause: Some(cause_code(cause)), due_at: None, settled_at: Some(now), outcome: DEAD }
            }
        }
    }
}

/// Records batches of attempts.
pub(super) struct Recorder {
    pub(super) connection: Kept,
    pub(super) shared: Arc<Shared>,
}

impl Work<Record> for Recorder {
    /// Nobody waits for it, and what is tried next is not held up: four targets get half as much again as with 16.
    const WORTH_WHILE: usize = 64;

    /// A batch costs the server as much as ten attempts, and where others share it, each relay has that many fewer in one: with two of
    /// them three times as many batches are written as with one, unless they leave it to itself for a while.
    fn rest(&self, took: Duration) -> Duration {
        if self.shared.has_company() { (3 * took).min(REST_MAX) } else { Duration::ZERO }
    }

    async fn send(&mut self, batch: Vec<Record>) -> std::result::Result<Sent<Record>, Vec<Record>> {
        let attempts = of(&batch, self.shared.reading.salt);
        let (first, rest) = rounds(&attempts);
        let careful = |attempt: &&Attempt| bodies::progresses(attempt) || attempt.unmade.is_some();
        let plain = !first.is_empty() && rest.is_empty() && !first.iter().any(careful);
        drop((attempts, first, rest));
        if !plain {
            return Err(batch);
        }
        // Why there is no connection, the other way says.
        let Ok(db) = self.connection.get().await else { return Err(batch) };
        match freely::prepare(&db).await {
            Ok(()) => Ok(Box::pin(freely::record(db, self.shared.clone(), batch))),
            Err(_) => Err(batch),
        }
    }

    async fn commit(&mut self, batch: &mut [Record]) -> Result<()> {
        let attempts = of(batch, self.shared.reading.salt);
        if attempts.is_empty() {
            return Ok(());
        }
        let mut left = session::AGAIN;
        loop {
            let db = self.connection.get().await?;
            let mark = db.mark();
            match under_lock(&db, &self.shared, &attempts).await {
                Ok(()) => return session::waited(&db, &self.shared, mark),
                Err(error) if session::again(&db, &error, &mut left).await => {}
                Err(error) => return Err(session::broken(&db, &error)),
            }
        }
    }

    fn committed(&mut self, batch: &mut [Record], began: Instant) {
        if let Some(listener) = self.shared.listener.get() {
            listener.batch(batch.len(), began.elapsed());
        }
    }
}

/// The attempts of `batch` at deliveries of the store with this salt.
pub(super) fn of(batch: &[Record], salt: u64) -> Vec<&Attempt> {
    batch.iter().flat_map(|job| &job.attempts).filter(|attempt| attempt.delivery.event.salt == salt).collect()
}

async fn under_lock(db: &Db, shared: &Shared, attempts: &[&Attempt]) -> Pg<()> {
    let session = Session::begin(db, shared).await?;
    let timely = timely(db, attempts).await?;
    let attempts: &[&Attempt] = &timely.iter().map(|attempt| &**attempt).collect::<Vec<_>>();
    let (first, rest) = rounds(attempts);
    let settled = write(db, &Rows::of(&first, session.now)).await?;
    let mut moved = Vec::new();
    let mut more: i64 = settled.iter().map(|it| it.answered).sum();
    for attempt in &first {
        more += match settled.iter().find(|it| it.place == attempt.delivery.place()) {
            Some(it) if it.moved => {
                moved.push(*attempt);
                0
            }
            Some(_) => slowly(&session, attempt, attempt.number).await?,
            None => renumbered(&session, attempt).await?,
        };
    }
    more += keep_bodies(db, &moved).await?;
    let left = settled.iter().filter(|it| it.moved && it.ended);
    lanes::move_up(&session, left.filter_map(|it| it.order)).await?;
    for dead in settled.iter().filter(|it| it.moved && it.died) {
        throttle::died(&session, dead.place, session.now).await?;
    }
    for attempt in rest {
        more += one(&session, attempt).await?;
    }
    count(db, shared, more).await?;
    session.speak().await?;
    db.commit().await
}

/// How often something was taken out of digests.
pub(super) const UNMADE: &str = "SELECT place, unmade FROM deliveries WHERE place = ANY($1)";

/// `attempts`, those of digests out of which something was taken since they were read without what tells of that.
async fn timely<'a>(db: &Db, attempts: &[&'a Attempt]) -> Pg<Vec<Cow<'a, Attempt>>> {
    let of_digests = attempts.iter().filter(|attempt| attempt.unmade.is_some());
    let places: Vec<i64> = of_digests.map(|attempt| attempt.delivery.place()).collect();
    let mut now = HashMap::new();
    if !places.is_empty() {
        for row in db.rows(UNMADE, &[&places]).await? {
            let mut cells = Cells::of(&row);
            now.insert(cells.int()?, cells.count()?);
        }
    }
    let is_late = |attempt: &Attempt| {
        let now = now.get(&attempt.delivery.place());
        attempt.unmade.zip(now).is_some_and(|(read, now)| read != *now)
    };
    let timely = |attempt: &&'a Attempt| if is_late(attempt) { Cow::Owned(attempt.bare()) } else { Cow::Borrowed(*attempt) };
    Ok(attempts.iter().map(timely).collect())
}

/// The first attempt of each delivery, in the order of deliveries, and the others as they came.
pub(super) fn rounds<'a>(attempts: &[&'a Attempt]) -> (Vec<&'a Attempt>, Vec<&'a Attempt>) {
    let mut seen = HashSet::new();
    let (mut first, rest): (Vec<&Attempt>, Vec<&Attempt>) =
        attempts.iter().copied().partition(|attempt| seen.insert(attempt.delivery.place()));
    first.sort_unstable_by_key(|attempt| attempt.delivery.place());
    (first, rest)
}

/// What an attempt leaves its delivery as: `d` of table `deliveries`, `a` the attempt; `$15` is the time of the transaction.
macro_rules! left {
    () => {
        "UPDATE deliveries d SET state = CASE a.outcome WHEN 100 THEN 0 ELSE a.outcome END, cause = a.cause, due_at = a.due_at,
            settled_at = CASE WHEN a.outcome IN (1, 2) THEN $15::bigint END, attempts = greatest(d.attempts, a.number),
            error = a.error, uncounted = d.uncounted + CASE WHEN a.counts THEN 0 ELSE 1 END,
            first_attempt_at = coalesce(d.first_attempt_at, CASE WHEN a.counts THEN a.started_at END),
            stood_still_ms = CASE WHEN d.first_attempt_at IS NULL AND a.counts THEN a.still ELSE d.stood_still_ms END,
            turn = CASE a.outcome WHEN 100 THEN 4 ELSE d.turn END"
    };
}
pub(super) use left;

/// Attempts as a table: values $1 to $14.
macro_rules! given {
    () => {
        "a AS (SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::text[], $7::text[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[], $12::bool[], $13::bigint[], $14::bigint[])
            AS u (place, number, started_at, duration_us, status, error, detail, outcome, cause, due_at, response, counts, epoch, still))"
    };
}
pub(super) use given;

/// Whether the owner that began the attempt is today's. What was delivered is, whoever sent it.
macro_rules! todays {
    () => {
        "(a.outcome = 1 OR EXISTS (SELECT FROM targets t JOIN shards s ON s.shard = t.shard
            WHERE t.id = d.target_id AND s.epoch <= a.epoch))"
    };
}
pub(super) use todays;

/// Writes attempts, and moves their deliveries, one attempt of each. Attempts of deliveries that are not held, or that were recorded
/// under their number, are left out. A former owner's failures change nothing.
pub(super) const RECORD: &str = concat!(
    "WITH ",
    given!(),
    ",
        kept AS (INSERT INTO attempts (place, number, started_at, duration_us, status, error, detail, outcome, cause, retry_at,
                response, counts, epoch)
            SELECT a.place, a.number, a.started_at, a.duration_us, a.status, a.error, a.detail, a.outcome, a.cause, a.due_at,
                a.response, a.counts, a.epoch
            FROM a JOIN deliveries d ON d.place = a.place ON CONFLICT DO NOTHING RETURNING place, octet_length(response) AS answered),
        moved AS (",
    left!(),
    " FROM a, kept WHERE d.place = a.place AND kept.place = a.place AND d.state::int = 0 AND ",
    todays!(),
    "
            RETURNING d.place, d.target_id, d.order_key, d.stage, a.outcome)
    SELECT kept.place, m.place IS NOT NULL, m.target_id, m.order_key, m.outcome IN (1, 2), m.outcome = 2 AND m.stage <> 0,
        kept.answered
    FROM kept LEFT JOIN moved m ON m.place = kept.place"
);

/// What became of an attempt's delivery.
struct Settled {
    place: i64,
    /// It is what the attempt left it as.
    moved: bool,
    /// What others wait behind.
    order: Option<lanes::Head>,
    /// It is final.
    ended: bool,
    /// It died, and throttles may know of it.
    died: bool,
    /// How many bytes of what was answered were kept.
    answered: i64,
}

/// Attempts by column, as values of a statement.
pub(super) struct Rows<'a> {
    place: Vec<i64>,
    number: Vec<i32>,
    started_at: Vec<i64>,
    duration_us: Vec<i64>,
    status: Vec<Option<i32>>,
    error: Vec<Option<Text<'a>>>,
    detail: Vec<Option<Text<'a>>>,
    outcome: Vec<i64>,
    cause: Vec<Option<i64>>,
    due_at: Vec<Option<i64>>,
    response: Vec<&'a [u8]>,
    counts: Vec<bool>,
    epoch: Vec<i64>,
    still: Vec<i64>,
    now: i64,
}

impl<'a> Rows<'a> {
    pub(super) fn of(attempts: &[&'a Attempt], now: i64) -> Self {
        fn column<'a, T>(attempts: &[&'a Attempt], cell: impl Fn(&'a Attempt) -> T) -> Vec<T> {
            attempts.iter().map(|attempt| cell(attempt)).collect()
        }
        let after: Vec<After> = attempts.iter().map(|attempt| After::of(attempt.next, now)).collect();
        Self {
            place: column(attempts, |it| it.delivery.place()),
            number: column(attempts, |it| i32::try_from(it.number).unwrap_or(i32::MAX)),
            started_at: column(attempts, |it| to_ms(it.started_at)),
            duration_us: column(attempts, |it| i64::try_from(it.duration.as_micros()).unwrap_or(i64::MAX)),
            status: column(attempts, |it| it.status.map(i32::from)),
            error: column(attempts, |it| Text::of_some(it.error.as_deref())),
            detail: column(attempts, |it| Text::of_some(it.detail.as_deref())),
            outcome: after.iter().map(|after| after.outcome).collect(),
            cause: after.iter().map(|after| after.cause).collect(),
            due_at: after.iter().map(|after| after.due_at).collect(),
            response: column(attempts, |it| &*it.response),
            counts: column(attempts, |it| it.counts),
            epoch: column(attempts, |it| it.epoch),
            still: column(attempts, |it| it.stood_still_ms),
            now,
        }
    }

    /// Values $1 to $15.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 15] {
        [
            &self.place,
            &self.number,
            &self.started_at,
            &self.duration_us,
            &self.status,
            &self.error,
            &self.detail,
            &self.outcome,
            &self.cause,
            &self.due_at,
            &self.response,
            &self.counts,
            &self.epoch,
            &self.still,
            &self.now,
        ]
    }
}

async fn write(db: &Db, rows: &Rows<'_>) -> Pg<Vec<Settled>> {
    db.rows(RECORD, &rows.params()).await?.iter().map(settled).collect()
}

fn settled(row: &tokio_postgres::Row) -> Pg<Settled> {
    let mut cells = Cells::of(row);
    let (place, moved) = (cells.int()?, cells.take()?);
    let order = cells.some_int()?.zip(cells.some_key()?);
    let ended = cells.take::<Option<bool>>()?.unwrap_or_default();
    let died = cells.take::<Option<bool>>()?.unwrap_or_default();
    Ok(Settled { place, moved, order, ended, died, answered: cells.int()? })
}

/// Records one attempt of a delivery of which another was recorded in the same breath; answers how many bytes more are kept now.
async fn one(session: &Session<'_>, attempt: &Attempt) -> Pg<i64> {
    match settle(session, attempt).await? {
        Some(more) => Ok(more),
        None => renumbered(session, attempt).await,
    }
}

/// Likewise one whose number is taken, under another; nothing of one that was recorded before, or whose delivery is not held.
async fn renumbered(session: &Session<'_>, attempt: &Attempt) -> Pg<i64> {
    let Some(number) = renumber(session, attempt).await? else { return Ok(0) };
    let attempt = Attempt { number, ..attempt.clone() };
    Ok(settle(session, &attempt).await?.unwrap_or_default())
}

/// Likewise one under its own number; `None` when that is taken, or its delivery is not held.
async fn settle(session: &Session<'_>, attempt: &Attempt) -> Pg<Option<i64>> {
    let Some(it) = write(session.db, &Rows::of(&[attempt], session.now)).await?.pop() else { return Ok(None) };
    let made = if it.moved { follow(session, attempt, &it).await? } else { slowly(session, attempt, attempt.number).await? };
    Ok(Some(it.answered + made))
}

async fn follow(session: &Session<'_>, attempt: &Attempt, it: &Settled) -> Pg<i64> {
    let more = keep_body(session.db, attempt, true).await?;
    if it.ended {
        lanes::move_up(session, it.order).await?;
    }
    if it.died {
        throttle::died(session, it.place, session.now).await?;
    }
    Ok(more)
}

/// The number of an attempt whose own is taken: `None` when it was recorded before, or its delivery is not held.
async fn renumber(session: &Session<'_>, attempt: &Attempt) -> Pg<Option<u32>> {
    let sql = "SELECT (SELECT max(number) FROM attempts WHERE place = $1) + 1 FROM deliveries d WHERE d.place = $1
        AND NOT EXISTS (SELECT 1 FROM attempts WHERE place = $1 AND number = $2::bigint AND started_at = $3)";
    let params: super::connect::Params<'_> = &[&attempt.delivery.place(), &i64::from(attempt.number), &to_ms(attempt.started_at)];
    match session.db.first(sql, params).await? {
        Some(row) => Ok(Cells::of(&row).some_int()?.and_then(|number| u32::try_from(number).ok())),
        None => Ok(None),
    }
}

/// What a later event has cancelled, or what expired, while an attempt was under way, and what arrived all the same.
pub(super) const ARRIVE: &str = "UPDATE deliveries SET state = 1, cause = NULL, note = NULL, error = NULL, settled_at = $2,
        attempts = greatest(attempts, $3::int)
    WHERE place = $1 AND (state = 3 AND cause = 6 OR state = 6)";

/// What is left to do for an attempt that was kept, and whose delivery is final or a newer owner's; answers how many bytes of its body
/// more are kept now.
async fn slowly(session: &Session<'_>, attempt: &Attempt, number: u32) -> Pg<i64> {
    let place = attempt.delivery.place();
    if attempt.next == Next::Delivered {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        if session.db.run(ARRIVE, &[&place, &session.now, &number]).await? != 0 {
            return Ok(0);
        }
    }
    let dead = matches!(attempt.next, Next::Dead(_));
    if attempt.rendered.is_none() && !dead {
        return Ok(0);
    }
    let sql = "SELECT s.epoch <= $2 FROM deliveries d JOIN targets t ON t.id = d.target_id JOIN shards s ON s.shard = t.shard
        WHERE d.place = $1";
    let todays = session.db.first(sql, &[&place, &attempt.epoch]).await?;
    let todays = todays.map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or_default();
    let more = keep_body(session.db, attempt, todays || attempt.next == Next::Delivered).await?;
    if dead && todays {
        throttle::died(session, place, session.now).await?;
    }
    Ok(more)
}

/// What was answered to these attempts, in bytes.
pub(super) fn answered(attempts: &[&Attempt]) -> i32 {
    small(attempts.iter().map(|attempt| attempt.response.len()).sum())
}

/// So many bytes more are in use, or fewer.
async fn count(db: &Db, shared: &Shared, more: i64) -> Pg<()> {
    if more == 0 {
        return Ok(());
    }
    db.run("UPDATE usage SET bytes = bytes + $2 WHERE slot = $1", &[&shared.slot(), &more]).await.map(|_| ())
}
