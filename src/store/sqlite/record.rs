//! Keeping attempts, and moving their deliveries to what the attempts left them as.

use rusqlite::{Connection, OptionalExtension};

use super::{
    rows::{DEAD, DELIVERED, PENDING, cause_code},
    session::{Answer, Session},
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
        if settle(&session.conn, place, attempt, &after)? || held(&session.conn, place)? {
            keep(&session.conn, place, attempt, &after)?;
            keep_body(&session.conn, place, attempt)?;
        }
    }
    Ok(Ok(()))
}

/// What an attempt leaves behind, as the tables hold it.
struct After {
    state: i64,
    cause: Option<i64>,
    due_at: Option<i64>,
    settled_at: Option<i64>,
}

impl After {
    fn of(next: Next, now: i64) -> Self {
        match next {
            Next::Delivered => Self { state: DELIVERED, cause: None, due_at: None, settled_at: Some(now) },
            Next::Retry(at) => Self { state: PENDING, cause: None, due_at: Some(to_ms(at)), settled_at: None },
            Next::Dead(cause) => Self { state: DEAD, cause: Some(cause_code(cause)), due_at: None, settled_at: Some(now) },
        }
    }
}

/// Moves a delivery that is not final.
pub(super) const SETTLE: &str = "UPDATE deliveries SET state = ?, cause = ?, due_at = ?, settled_at = ?,
        attempts = max(attempts, ?), error = ?, first_attempt_at = coalesce(first_attempt_at, ?)
    WHERE place = ? AND state = 0";

/// Moves the delivery at `place`; false when it is final already, or not held at all.
fn settle(conn: &Connection, place: i64, attempt: &Attempt, after: &After) -> rusqlite::Result<bool> {
    let changed = conn.prepare_cached(SETTLE)?.execute((
        after.state,
        after.cause,
        after.due_at,
        after.settled_at,
        attempt.number,
        attempt.error.as_deref(),
        to_ms(attempt.started_at),
        place,
    ))?;
    Ok(changed != 0)
}

fn held(conn: &Connection, place: i64) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM deliveries WHERE place = ?")?.exists([place])
}

fn keep(conn: &Connection, place: i64, attempt: &Attempt, after: &After) -> rusqlite::Result<()> {
    if insert(conn, place, attempt.number, attempt, after)? || recorded(conn, place, attempt)? {
        return Ok(());
    }
    let last = "SELECT coalesce(max(number), 0) FROM attempts WHERE place = ?";
    let last: u32 = conn.prepare_cached(last)?.query_row([place], |row| row.get(0))?;
    insert(conn, place, last.saturating_add(1), attempt, after).map(|_| ())
}

/// Writes the attempt's row as `number`; false when that number is taken.
fn insert(conn: &Connection, place: i64, number: u32, attempt: &Attempt, after: &After) -> rusqlite::Result<bool> {
    let sql =
        "INSERT INTO attempts (place, number, started_at, duration_us, status, error, detail, outcome, cause, retry_at, response)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    let inserted = conn.prepare_cached(sql)?.execute((
        place,
        number,
        to_ms(attempt.started_at),
        i64::try_from(attempt.duration.as_micros()).unwrap_or(i64::MAX),
        attempt.status,
        attempt.error.as_deref(),
        attempt.detail.as_deref(),
        after.state,
        after.cause,
        after.due_at,
        &*attempt.response,
    ))?;
    Ok(inserted != 0)
}

/// Whether the row under the attempt's number is this very attempt.
fn recorded(conn: &Connection, place: i64, attempt: &Attempt) -> rusqlite::Result<bool> {
    let sql = "SELECT started_at FROM attempts WHERE place = ? AND number = ?";
    let started_at = conn.prepare_cached(sql)?.query_row((place, attempt.number), |row| row.get(0)).optional()?;
    Ok(started_at == Some(to_ms(attempt.started_at)))
}

/// Keeps the body that was made for the delivery, once: later attempts send the same bytes.
fn keep_body(conn: &Connection, place: i64, attempt: &Attempt) -> rusqlite::Result<()> {
    if let Some(made) = &attempt.rendered {
        let sql = "INSERT INTO bodies (place, content_type, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
        conn.prepare_cached(sql)?.execute((place, &made.content_type, &*made.body))?;
    }
    Ok(())
}
