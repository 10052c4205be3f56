//! Keeping attempts, and moving their deliveries to what the attempts left them as.
//!
//! Nearly all attempts are of deliveries that are in nobody's way: a batch of them is one statement, and waits for nobody. Where one
//! is ordered, or has died of which a throttle knows, or was recorded before, the batch is undone and made under the lock of the store.

use std::{collections::HashSet, sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::{
    batch::{Job, Work},
    connect::{Db, Pg, Pool},
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
    pub(super) pool: Arc<Pool>,
    pub(super) shared: Arc<Shared>,
    /// Batches that begin under the lock: those before them needed it.
    pub(super) locked: u32,
}

/// Batches after one that needed the lock which take it without trying.
const STAYS_LOCKED: u32 = 16;

/// What a batch under no lock came to.
enum Tried {
    Done,
    NeedsLock,
}

impl Work<Record> for Recorder {
    async fn commit(&mut self, batch: &mut [Record]) -> Result<()> {
        let salt = self.shared.reading.salt;
        let attempts: Vec<&Attempt> =
            batch.iter().flat_map(|job| &job.attempts).filter(|attempt| attempt.delivery.event.salt == salt).collect();
        if attempts.is_empty() {
            return Ok(());
        }
        let mut left = session::AGAIN;
        loop {
            let db = self.pool.get().await?;
            let done = match self.locked {
                0 => self.freely(&db, &attempts).await,
                _ => under_lock(&db, &self.shared, &attempts).await.map(|()| Tried::Done),
            };
            match done {
                Ok(Tried::Done) => {
                    self.locked = self.locked.saturating_sub(1);
                    return Ok(());
                }
                Ok(Tried::NeedsLock) => self.locked = STAYS_LOCKED,
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

impl Recorder {
    async fn freely(&self, db: &Db, attempts: &[&Attempt]) -> Pg<Tried> {
        let now = self.shared.now();
        let (first, rest) = rounds(attempts);
        if !rest.is_empty() {
            return Ok(Tried::NeedsLock);
        }
        let rows = Rows::of(&first, now);
        let fast = db.statement(RECORD).await?;
        let (begun, settled) = tokio::join!(biased; db.begin(), rows.write(db, &fast, false));
        begun?;
        let settled = settled?;
        if settled.len() < first.len() || settled.iter().any(|it| !it.moved) {
            db.roll_back().await;
            return Ok(Tried::NeedsLock);
        }
        keep_bodies(db, &first).await?;
        count(db, &self.shared, attempts).await?;
        db.commit().await?;
        Ok(Tried::Done)
    }
}

async fn under_lock(db: &Db, shared: &Shared, attempts: &[&Attempt]) -> Pg<()> {
    let session = Session::begin(db, shared).await?;
    let (first, rest) = rounds(attempts);
    let fast = db.statement(RECORD).await?;
    let settled = Rows::of(&first, session.now).write(db, &fast, true).await?;
    let mut moved = Vec::new();
    for attempt in &first {
        match settled.iter().find(|it| it.place == attempt.delivery.place()) {
            Some(it) if it.moved => moved.push(*attempt),
            Some(_) => slowly(&session, attempt, attempt.number).await?,
            None => {
                if let Some(number) = renumber(&session, attempt).await? {
                    settle_one(&session, attempt, number).await?;
                }
            }
        }
    }
    keep_bodies(db, &moved).await?;
    let left = settled.iter().filter(|it| it.moved && it.ended);
    lanes::move_up(&session, left.filter_map(|it| it.order)).await?;
    for dead in settled.iter().filter(|it| it.moved && it.died) {
        throttle::died(&session, dead.place, session.now).await?;
    }
    for attempt in rest {
        one(&session, attempt).await?;
    }
    count(db, shared, attempts).await?;
    db.commit().await
}

/// The first attempt of each delivery, in the order of deliveries, and the others as they came.
fn rounds<'a>(attempts: &[&'a Attempt]) -> (Vec<&'a Attempt>, Vec<&'a Attempt>) {
    let mut seen = HashSet::new();
    let (mut first, rest): (Vec<&Attempt>, Vec<&Attempt>) =
        attempts.iter().copied().partition(|attempt| seen.insert(attempt.delivery.place()));
    first.sort_unstable_by_key(|attempt| attempt.delivery.place());
    (first, rest)
}

/// Writes attempts, and moves their deliveries, one attempt of each. Attempts of deliveries that are not held, or that were recorded
/// under their number, are left out. Without the lock (`$15`) so are deliveries that others may stand behind, and deaths that throttles
/// may know of. A former owner's failures change nothing.
pub(super) const RECORD: &str =
    "WITH a AS (SELECT * FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::text[], $7::text[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[], $12::bool[], $13::bigint[], $14::bigint[])
            AS u (place, number, started_at, duration_us, status, error, detail, outcome, cause, due_at, response, counts, epoch, still)),
        kept AS (INSERT INTO attempts (place, number, started_at, duration_us, status, error, detail, outcome, cause, retry_at,
                response, counts, epoch)
            SELECT a.place, a.number, a.started_at, a.duration_us, a.status, a.error, a.detail, a.outcome, a.cause, a.due_at,
                a.response, a.counts, a.epoch
            FROM a JOIN deliveries d ON d.place = a.place ON CONFLICT DO NOTHING RETURNING place),
        moved AS (UPDATE deliveries d SET state = CASE a.outcome WHEN 100 THEN 0 ELSE a.outcome END, cause = a.cause, due_at = a.due_at,
                settled_at = CASE WHEN a.outcome IN (1, 2) THEN $16::bigint END, attempts = greatest(d.attempts, a.number),
                error = a.error, uncounted = d.uncounted + CASE WHEN a.counts THEN 0 ELSE 1 END,
                first_attempt_at = coalesce(d.first_attempt_at, CASE WHEN a.counts THEN a.started_at END),
                stood_still_ms = CASE WHEN d.first_attempt_at IS NULL AND a.counts THEN a.still ELSE d.stood_still_ms END,
                turn = CASE a.outcome WHEN 100 THEN 4 ELSE d.turn END
            FROM a, kept, targets t, shards s
            WHERE d.place = a.place AND kept.place = a.place AND t.id = d.target_id AND s.shard = t.shard AND d.state = 0
                AND (a.outcome = 1 OR s.epoch <= a.epoch) AND ($15 OR d.order_key IS NULL AND (a.outcome <> 2 OR d.stage = 0))
            RETURNING d.place, d.target_id, d.order_key, d.stage, a.outcome)
    SELECT kept.place, m.place IS NOT NULL, m.target_id, m.order_key, m.outcome IN (1, 2), m.outcome = 2 AND m.stage <> 0
    FROM kept LEFT JOIN moved m ON m.place = kept.place";

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
}

/// Attempts by column.
struct Rows<'a> {
    attempts: &'a [&'a Attempt],
    now: i64,
    after: Vec<After>,
}

impl<'a> Rows<'a> {
    fn of(attempts: &'a [&'a Attempt], now: i64) -> Self {
        Self { attempts, now, after: attempts.iter().map(|attempt| After::of(attempt.next, now)).collect() }
    }

    fn column<T>(&self, cell: impl Fn(&'a Attempt) -> T) -> Vec<T> {
        self.attempts.iter().map(|attempt| cell(attempt)).collect()
    }

    async fn write(&self, db: &Db, statement: &tokio_postgres::Statement, locked: bool) -> Pg<Vec<Settled>> {
        let micros = |it: &Attempt| i64::try_from(it.duration.as_micros()).unwrap_or(i64::MAX);
        let outcomes: Vec<i64> = self.after.iter().map(|after| after.outcome).collect();
        let causes: Vec<Option<i64>> = self.after.iter().map(|after| after.cause).collect();
        let due_at: Vec<Option<i64>> = self.after.iter().map(|after| after.due_at).collect();
        let rows = db
            .rows_of(
                statement,
                &[
                    &self.column(|it| it.delivery.place()),
                    &self.column(|it| i32::try_from(it.number).unwrap_or(i32::MAX)),
                    &self.column(|it| to_ms(it.started_at)),
                    &self.column(micros),
                    &self.column(|it| it.status.map(i32::from)),
                    &self.column(|it| Text::of_some(it.error.as_deref())),
                    &self.column(|it| Text::of_some(it.detail.as_deref())),
                    &outcomes,
                    &causes,
                    &due_at,
                    &self.column(|it| &*it.response),
                    &self.column(|it| it.counts),
                    &self.column(|it| it.epoch),
                    &self.column(|it| it.stood_still_ms),
                    &locked,
                    &self.now,
                ],
            )
            .await?;
        rows.iter().map(settled).collect()
    }
}

fn settled(row: &tokio_postgres::Row) -> Pg<Settled> {
    let mut cells = Cells::of(row);
    let (place, moved) = (cells.int()?, cells.take()?);
    let order = cells.some_int()?.zip(cells.some_key()?);
    let ended = cells.take::<Option<bool>>()?.unwrap_or_default();
    Ok(Settled { place, moved, order, ended, died: cells.take::<Option<bool>>()?.unwrap_or_default() })
}

/// Records one attempt of a delivery of which another was recorded in the same breath.
async fn one(session: &Session<'_>, attempt: &Attempt) -> Pg<()> {
    let fast = session.db.statement(RECORD).await?;
    match Rows::of(&[attempt], session.now).write(session.db, &fast, true).await?.pop() {
        Some(it) if it.moved => follow(session, attempt, &it).await,
        Some(_) => slowly(session, attempt, attempt.number).await,
        None => match renumber(session, attempt).await? {
            Some(number) => settle_one(session, attempt, number).await,
            None => Ok(()),
        },
    }
}

async fn settle_one(session: &Session<'_>, attempt: &Attempt, number: u32) -> Pg<()> {
    let attempt = Attempt { number, ..attempt.clone() };
    let fast = session.db.statement(RECORD).await?;
    match Rows::of(&[&attempt], session.now).write(session.db, &fast, true).await?.pop() {
        Some(it) if it.moved => follow(session, &attempt, &it).await,
        Some(_) => slowly(session, &attempt, number).await,
        None => Ok(()),
    }
}

async fn follow(session: &Session<'_>, attempt: &Attempt, it: &Settled) -> Pg<()> {
    keep_body(session.db, attempt, true).await?;
    if it.ended {
        lanes::move_up(session, it.order).await?;
    }
    if it.died {
        throttle::died(session, it.place, session.now).await?;
    }
    Ok(())
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

/// What is left to do for an attempt that was kept, and whose delivery is final or a newer owner's.
async fn slowly(session: &Session<'_>, attempt: &Attempt, number: u32) -> Pg<()> {
    let place = attempt.delivery.place();
    if attempt.next == Next::Delivered {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        if session.db.run(ARRIVE, &[&place, &session.now, &number]).await? != 0 {
            return Ok(());
        }
    }
    let dead = matches!(attempt.next, Next::Dead(_));
    if attempt.rendered.is_none() && !dead {
        return Ok(());
    }
    let sql = "SELECT s.epoch <= $2 FROM deliveries d JOIN targets t ON t.id = d.target_id JOIN shards s ON s.shard = t.shard
        WHERE d.place = $1";
    let todays = session.db.first(sql, &[&place, &attempt.epoch]).await?;
    let todays = todays.map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or_default();
    keep_body(session.db, attempt, todays || attempt.next == Next::Delivered).await?;
    if dead && todays { throttle::died(session, place, session.now).await } else { Ok(()) }
}

pub(super) const BODIES: &str = "INSERT INTO bodies (place, content_type, body, progress, reached)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::bool[]) ON CONFLICT DO NOTHING";

/// Keeps the bodies that were made for deliveries that attempts have moved.
async fn keep_bodies(db: &Db, attempts: &[&Attempt]) -> Pg<()> {
    let plain: Vec<(i64, &crate::store::Rendered)> = attempts
        .iter()
        .filter_map(|attempt| Some((attempt.delivery.place(), attempt.rendered.as_ref().filter(|made| made.progress.is_none())?)))
        .collect();
    if !plain.is_empty() {
        let places: Vec<i64> = plain.iter().map(|(place, _)| *place).collect();
        let types: Vec<Text<'_>> = plain.iter().map(|(_, made)| Text::of(&made.content_type)).collect();
        let bodies: Vec<&[u8]> = plain.iter().map(|(_, made)| &*made.body).collect();
        let progress: Vec<Option<&[u8]>> = vec![None; plain.len()];
        let reached: Vec<bool> = plain.iter().map(|(_, made)| made.reached).collect();
        db.run(BODIES, &[&places, &types, &bodies, &progress, &reached]).await?;
    }
    for attempt in attempts.iter().filter(|attempt| attempt.rendered.as_ref().is_some_and(|made| made.progress.is_some())) {
        keep_body(db, attempt, true).await?;
    }
    Ok(())
}

/// Keeps the body that was made for the delivery, once: later attempts send the same bytes. What they left to be done is kept anew
/// each time, unless (`moves`) a former owner of the lane says so: it knows less.
async fn keep_body(db: &Db, attempt: &Attempt, moves: bool) -> Pg<()> {
    let Some(made) = &attempt.rendered else { return Ok(()) };
    let sql = if made.progress.is_some() && moves {
        "INSERT INTO bodies AS b (place, content_type, body, progress, reached) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (place) DO UPDATE SET content_type = excluded.content_type, body = excluded.body,
            progress = excluded.progress, reached = b.reached OR excluded.reached"
    } else {
        "INSERT INTO bodies (place, content_type, body, progress, reached) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
    };
    let (place, kind) = (attempt.delivery.place(), Text::of(&made.content_type));
    db.run(sql, &[&place, &kind, &&*made.body, &made.progress.as_deref(), &made.reached]).await.map(|_| ())
}

/// Adds what these attempts leave behind to what is in use. Each process has a row of its own, so that none waits for another.
async fn count(db: &Db, shared: &Shared, attempts: &[&Attempt]) -> Pg<()> {
    let size = small(attempts.iter().map(|attempt| bytes(attempt)).sum());
    if size == 0 {
        return Ok(());
    }
    let slot = i16::from((shared.voice % 63) as u8 + 1);
    db.run("UPDATE usage SET bytes = bytes + $2::int WHERE slot = $1", &[&slot, &size]).await.map(|_| ())
}
