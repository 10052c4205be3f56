//! Deliveries that were taken by somebody who reports later what became of them: they wait in no queue, until a report comes or its time
//! is over.

use rusqlite::{Connection, OptionalExtension};

use super::{
    lanes::{self, OrderKey},
    record::After,
    rows::{DEAD, DELIVERED, PENDING},
    session::{Answer, Session},
    throttle,
};
use crate::{
    clock::{Timestamp, from_ms, to_ms},
    envelope::{DeliveryId, Name},
    store::{Attempt, Unreported},
};

/// Deliveries that one call of [`unreported`] settles.
const SLICE: i64 = 250;

/// Takes the delivery at a place out of its queue until its report comes.
pub(super) const WAIT: &str = "UPDATE deliveries SET turn = 4 WHERE place = ? AND state = 0";

/// One that waits for the report of this attempt.
pub(super) const WAITING: &str =
    "SELECT target_id, order_key FROM deliveries WHERE place = ?1 AND state = 0 AND turn = 4 AND attempts = ?2";

/// Ends the wait, or puts it back into its queue.
const SETTLE: &str =
    "UPDATE deliveries SET state = ?2, cause = ?3, due_at = ?4, settled_at = ?5, error = ?6, uncounted = uncounted + ?7,
        unconfirmed = ?8, turn = iif(severity = 2, 0, 1) WHERE place = ?1";
/// What the attempt came to after all.
const SETTLE_ATTEMPT: &str =
    "UPDATE attempts SET error = ?3, detail = coalesce(detail || '; ', '') || ?4, outcome = ?5, cause = ?6,
        retry_at = ?7, counts = ?8 WHERE place = ?1 AND number = ?2";

/// Settles what waits for a report; see [`crate::store::Store::reported`].
pub(super) fn reported(session: &Session, attempt: &Attempt) -> Answer<bool> {
    if attempt.delivery.event.salt != session.salt {
        return Ok(Ok(false));
    }
    let (conn, place) = (&session.conn, attempt.delivery.place());
    let mut waiting = conn.prepare_cached(WAITING)?;
    let found = waiting.query_row((place, attempt.number), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((target, key)): Option<(i64, Option<OrderKey>)> = found else { return Ok(Ok(false)) };
    let after = After::of(attempt.next, session.now);
    conn.prepare_cached(SETTLE)?.execute((
        place,
        after.state,
        after.cause,
        after.due_at,
        after.settled_at,
        attempt.error.as_deref(),
        !attempt.counts,
        false,
    ))?;
    conn.prepare_cached(SETTLE_ATTEMPT)?.execute((
        place,
        attempt.number,
        attempt.error.as_deref(),
        attempt.detail.as_deref().unwrap_or("reported"),
        after.outcome,
        after.cause,
        after.due_at,
        attempt.counts,
    ))?;
    if after.state != PENDING
        && let Some(key) = key
    {
        lanes::move_up(conn, target, &key)?;
    }
    if after.state == DEAD {
        throttle::died(conn, place, session.now)?;
    }
    Ok(Ok(true))
}

/// What has waited for long enough.
pub(super) const OVERDUE: &str = "SELECT d.place, d.target_id, d.order_key, d.attempts, t.name
    FROM deliveries d INDEXED BY deliveries_unreported CROSS JOIN targets t ON t.id = d.target_id
    WHERE d.state = 0 AND d.turn = 4 AND d.due_at <= ?1 ORDER BY d.due_at LIMIT ?2";
/// When the next one has.
pub(super) const NEXT: &str = "SELECT min(due_at) FROM deliveries INDEXED BY deliveries_unreported WHERE state = 0 AND turn = 4";
/// What the attempt says then.
const NOTHING: &str = "no report came in time: delivered, unconfirmed";

/// Settles a slice of what has waited for long enough; see [`crate::store::Store::unreported`].
pub(super) fn unreported(session: &Session, now: Timestamp) -> Answer<Unreported> {
    let (conn, salt) = (&session.conn, session.salt);
    let mut settled = Vec::new();
    for it in overdue(conn, to_ms(now))? {
        let none: Option<i64> = None;
        conn.prepare_cached(SETTLE)?.execute((it.place, DELIVERED, none, none, session.now, None::<&str>, false, true))?;
        let mut attempt = conn.prepare_cached(SETTLE_ATTEMPT)?;
        attempt.execute((it.place, it.number, None::<&str>, NOTHING, DELIVERED, none, none, true))?;
        if let Some(key) = it.key {
            lanes::move_up(conn, it.target, &key)?;
        }
        settled.push((it.name, DeliveryId::at(salt, it.place)));
    }
    let next: Option<i64> = conn.prepare_cached(NEXT)?.query_row([], |row| row.get(0))?;
    Ok(Ok(Unreported { settled, next: next.map(from_ms) }))
}

struct Overdue {
    place: i64,
    target: i64,
    key: Option<OrderKey>,
    number: u32,
    name: Name,
}

fn overdue(conn: &Connection, now: i64) -> rusqlite::Result<Vec<Overdue>> {
    let mut overdue = conn.prepare_cached(OVERDUE)?;
    let rows = overdue.query_map((now, SLICE), |row| {
        let name = row.get_ref(4)?.as_str()?.into();
        Ok(Overdue { place: row.get(0)?, target: row.get(1)?, key: row.get(2)?, number: row.get(3)?, name })
    })?;
    rows.collect()
}
