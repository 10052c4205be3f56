//! Keeping attempts, and moving their deliveries to what the attempts left them as.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension};

use super::{
    lanes::{self, OrderKey},
    reports,
    rows::{AWAITS, DEAD, DELIVERED, PENDING, cause_code},
    session::{Answer, Session},
    throttle,
};
use crate::{
    clock::to_ms,
    store::{Attempt, Next},
};

/// Records `attempts`; see [`crate::store::Store::record`].
pub(super) fn record(session: &mut Session, attempts: &[Attempt]) -> Answer<()> {
    let (salt, now) = (session.salt, session.now);
    for attempt in attempts.iter().filter(|attempt| attempt.delivery.event.salt == salt) {
        let place = attempt.delivery.place();
        let after = After::of(attempt.next, now);
        let conn = &session.conn;
        let attempt = &*timely(conn, attempt)?;
        if let Some(number) = keep(conn, place, attempt, &after)? {
            // A former owner's failures change nothing.
            let moves = attempt.next == Next::Delivered || !session.owned.is_stale(attempt.epoch);
            if !(moves && settle(conn, SETTLE, place, number, attempt, &after)?) {
                settle_slowly(conn, place, number, attempt, &after, moves)?;
            }
            if moves && after.state == DEAD {
                throttle::died(conn, place, now)?;
            }
        }
    }
    Ok(Ok(()))
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

/// `attempt`, of a digest out of which something was taken since it was read, without what tells of that.
fn timely<'a>(conn: &Connection, attempt: &'a Attempt) -> rusqlite::Result<Cow<'a, Attempt>> {
    let Some(read) = attempt.unmade else { return Ok(Cow::Borrowed(attempt)) };
    let mut look = conn.prepare_cached("SELECT unmade FROM deliveries WHERE place = ?")?;
    let now: Option<u32> = look.query_row([attempt.delivery.place()], |row| row.get(0)).optional()?;
    Ok(if now.is_some_and(|now| now != read) { Cow::Owned(attempt.bare()) } else { Cow::Borrowed(attempt) })
}

/// Writes the attempt's row; gives its number, or `None` when it was recorded before.
fn keep(conn: &Connection, place: i64, attempt: &Attempt, after: &After) -> rusqlite::Result<Option<u32>> {
    if insert(conn, place, attempt.number, attempt, after)? {
        return Ok(Some(attempt.number));
    }
    if recorded(conn, place, attempt)? {
        return Ok(None);
    }
    let last = "SELECT coalesce(max(number), 0) FROM attempts WHERE place = ?";
    let last: u32 = conn.prepare_cached(last)?.query_row([place], |row| row.get(0))?;
    let number = last.saturating_add(1);
    Ok(insert(conn, place, number, attempt, after)?.then_some(number))
}

/// Writes the attempt's row as `number`; false when that number is taken.
fn insert(conn: &Connection, place: i64, number: u32, attempt: &Attempt, after: &After) -> rusqlite::Result<bool> {
    let sql =
        "INSERT INTO attempts (place, number, started_at, duration_us, status, error, detail, outcome, cause, retry_at, response,
            counts, epoch)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    let inserted = conn.prepare_cached(sql)?.execute((
        place,
        number,
        to_ms(attempt.started_at),
        i64::try_from(attempt.duration.as_micros()).unwrap_or(i64::MAX),
        attempt.status,
        attempt.error.as_deref(),
        attempt.detail.as_deref(),
        after.outcome,
        after.cause,
        after.due_at,
        &*attempt.response,
        attempt.counts,
        attempt.epoch,
    ))?;
    Ok(inserted != 0)
}

/// Whether the row under the attempt's number is this very attempt.
fn recorded(conn: &Connection, place: i64, attempt: &Attempt) -> rusqlite::Result<bool> {
    let sql = "SELECT started_at FROM attempts WHERE place = ? AND number = ?";
    let started_at = conn.prepare_cached(sql)?.query_row((place, attempt.number), |row| row.get(0)).optional()?;
    Ok(started_at == Some(to_ms(attempt.started_at)))
}

/// The statement that moves a delivery which is not final, for those that `which` selects.
macro_rules! settling {
    ($which:literal) => {
        concat!(
            "UPDATE deliveries SET state = ?1, cause = ?2, due_at = ?3, settled_at = ?4, attempts = max(attempts, ?5), error = ?6,
                uncounted = uncounted + ?7, first_attempt_at = coalesce(first_attempt_at, ?8),
                stood_still_ms = iif(first_attempt_at IS NULL, coalesce(?9, stood_still_ms), stood_still_ms)
            WHERE place = ?10 AND state = 0 AND ",
            $which
        )
    };
}
/// Moves one that is in nobody's way, as nearly all are.
pub(super) const SETTLE: &str = settling!("order_key IS NULL");
/// Moves one that others may stand behind.
pub(super) const SETTLE_ORDERED: &str = settling!("order_key IS NOT NULL");

/// Moves the delivery at `place` by `sql`, and keeps the body that was made for it; false when `sql` does not mean it.
fn settle(conn: &Connection, sql: &str, place: i64, number: u32, attempt: &Attempt, after: &After) -> rusqlite::Result<bool> {
    let changed = conn.prepare_cached(sql)?.execute((
        after.state,
        after.cause,
        after.due_at,
        after.settled_at,
        number,
        attempt.error.as_deref(),
        !attempt.counts,
        attempt.counts.then(|| to_ms(attempt.started_at)),
        attempt.counts.then_some(attempt.stood_still_ms),
        place,
    ))?;
    if changed != 0 {
        keep_body(conn, place, attempt, true)?;
        if after.outcome == AWAITS {
            conn.prepare_cached(reports::WAIT)?.execute([place])?;
        }
    }
    Ok(changed != 0)
}

/// What is left to do for a delivery that is ordered or final, or is not held at all: of that one nothing stays.
fn settle_slowly(
    conn: &Connection,
    place: i64,
    number: u32,
    attempt: &Attempt,
    after: &After,
    moves: bool,
) -> rusqlite::Result<()> {
    let sql = "SELECT target_id, order_key FROM deliveries WHERE place = ?";
    let lane = conn.prepare_cached(sql)?.query_row([place], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match lane {
        None => forget(conn, place, number),
        Some(_) if attempt.next == Next::Delivered && arrive(conn, place, number, after)? => Ok(()),
        Some((target_id, Some(key))) if moves => {
            let key: OrderKey = key;
            let settled = settle(conn, SETTLE_ORDERED, place, number, attempt, after)?;
            if settled && after.state != PENDING { lanes::move_up(conn, target_id, &key) } else { Ok(()) }
        }
        Some(_) => keep_body(conn, place, attempt, moves),
    }
}

/// What a later event has cancelled, or what expired, while an attempt was under way, and what arrived all the same.
pub(super) const ARRIVE: &str = "UPDATE deliveries SET state = 1, cause = NULL, note = NULL, error = NULL, settled_at = ?2,
        attempts = max(attempts, ?3)
    WHERE place = ?1 AND (state = 3 AND cause = 6 OR state = 6)";

/// Settles what was ended too late; false when it was not.
fn arrive(conn: &Connection, place: i64, number: u32, after: &After) -> rusqlite::Result<bool> {
    Ok(conn.prepare_cached(ARRIVE)?.execute((place, after.settled_at, number))? != 0)
}

/// Takes back the row of an attempt whose delivery is not held.
fn forget(conn: &Connection, place: i64, number: u32) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM attempts WHERE place = ? AND number = ?")?.execute((place, number)).map(|_| ())
}

/// Keeps the body that was made for the delivery, once: later attempts send the same bytes. What they left to be done is kept anew
/// each time, unless (`moves`) a former owner of the lane says so: it knows less.
fn keep_body(conn: &Connection, place: i64, attempt: &Attempt, moves: bool) -> rusqlite::Result<()> {
    let Some(made) = &attempt.rendered else { return Ok(()) };
    let sql = if made.progress.is_some() && moves {
        "INSERT INTO bodies (place, content_type, body, progress, reached) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET content_type = excluded.content_type, body = excluded.body, progress = excluded.progress,
            reached = max(reached, excluded.reached)"
    } else {
        "INSERT INTO bodies (place, content_type, body, progress, reached) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    };
    let progress = made.progress.as_deref();
    conn.prepare_cached(sql)?.execute((place, &made.content_type, &*made.body, progress, made.reached)).map(|_| ())
}
