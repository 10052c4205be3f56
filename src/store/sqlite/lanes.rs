//! The order within a lane: where a delivery stands in its queues, and who moves up when one leaves. Of the deliveries with
//! one order key the earliest is in the queue and the rest stand behind it, so that what is due is read without walking over
//! what cannot go; and moving a whole lane to another target.

use rusqlite::{Connection, OptionalExtension};

use super::session::{Answer, Session};
use crate::{envelope::Name, store::Severity};

/// The order key of a delivery, as it is kept.
pub(super) type OrderKey = [u8; 16];

/// [`Severity::Critical`]'s queue: before the rest of its lane.
const FIRST: i64 = 0;
/// Everybody else's queue.
const REST: i64 = 1;
/// In no queue: behind an earlier one of its order key.
const BEHIND: i64 = 2;

/// The queue of a delivery that waits for no other.
pub(super) fn queue(severity: Severity) -> i64 {
    if severity == Severity::Critical { FIRST } else { REST }
}

/// Whether one with this key is in the lane's queues.
pub(super) const HEAD: &str = "SELECT 1 FROM deliveries INDEXED BY deliveries_ordered
    WHERE state = 0 AND order_key IS NOT NULL AND target_id = ?1 AND order_key = ?2 AND turn IN (0, 1, 4)";

fn has_head(conn: &Connection, target_id: i64, key: &OrderKey) -> rusqlite::Result<bool> {
    conn.prepare_cached(HEAD)?.exists((target_id, key))
}

/// Where a new delivery of the lane stands.
pub(super) fn turn(conn: &Connection, target_id: i64, key: Option<&OrderKey>, severity: Severity) -> rusqlite::Result<i64> {
    match key {
        Some(key) if has_head(conn, target_id, key)? => Ok(BEHIND),
        _ => Ok(queue(severity)),
    }
}

/// The earliest accepted of those that stand behind.
pub(super) const NEXT: &str = "SELECT place FROM deliveries INDEXED BY deliveries_ordered
    WHERE state = 0 AND order_key IS NOT NULL AND target_id = ?1 AND order_key = ?2 AND turn = 2 ORDER BY place LIMIT 1";

/// Lets the next one with this key move up, unless one is in the queues still.
pub(super) fn move_up(conn: &Connection, target_id: i64, key: &OrderKey) -> rusqlite::Result<()> {
    if has_head(conn, target_id, key)? {
        return Ok(());
    }
    let next: Option<i64> = conn.prepare_cached(NEXT)?.query_row((target_id, key), |row| row.get(0)).optional()?;
    if let Some(place) = next {
        let sql = "UPDATE deliveries SET turn = iif(severity = 2, 0, 1) WHERE place = ?";
        conn.prepare_cached(sql)?.execute([place])?;
    }
    Ok(())
}

/// Deliveries that one call of [`adopt`] moves.
const SLICE: usize = 4000;

/// What waits for a target, those in its queues first.
pub(super) const WAITING: &str = "SELECT place, order_key FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = ?1 ORDER BY turn, due_at, created_at, place LIMIT ?2";
/// A target's dead letters that nobody has settled.
pub(super) const DEAD: &str = "SELECT place FROM deliveries INDEXED BY deliveries_died
    WHERE state = 2 AND resolved_at IS NULL AND target_id = ?1 LIMIT ?2";

/// Gives a slice of what waits for `old`, or of its dead letters, to `new`; see [`crate::store::Store::adopt`].
pub(super) fn adopt(session: &mut Session, old: &Name, new: &Name) -> Answer<u64> {
    if old == new {
        return Ok(Ok(0));
    }
    let (old, new) = (session.target_id(old)?, session.target_id(new)?);
    let conn = &session.conn;
    let waiting = move_waiting(conn, old, new)?;
    let dead = move_dead(conn, old, new, SLICE - waiting.min(SLICE))?;
    move_windows(conn, old, new)?;
    Ok(Ok((waiting + dead) as u64))
}

fn move_waiting(conn: &Connection, old: i64, new: i64) -> rusqlite::Result<usize> {
    let mut waiting = conn.prepare_cached(WAITING)?;
    let rows = waiting.query_map((old, SLICE as i64), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, Option<OrderKey>)> = rows.collect::<rusqlite::Result<_>>()?;
    // Ordered ones queue up anew: the first to come leads, unless somebody leads there already.
    let mut update = conn.prepare_cached(
        "UPDATE deliveries SET target_id = ?2, turn = iif(order_key IS NULL OR turn = 4, turn, 2) WHERE place = ?1",
    )?;
    for (place, _) in &rows {
        update.execute((place, new))?;
    }
    let mut keys: Vec<&OrderKey> = rows.iter().filter_map(|(_, key)| key.as_ref()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        move_up(conn, new, key)?;
        move_up(conn, old, key)?;
    }
    Ok(rows.len())
}

/// Windows go on under the new name. There are as many as there are keys of them, not as deliveries.
fn move_windows(conn: &Connection, old: i64, new: i64) -> rusqlite::Result<()> {
    for sql in [
        "UPDATE OR REPLACE throttled SET target_id = ?2 WHERE target_id = ?1",
        "UPDATE OR REPLACE digests SET target_id = ?2 WHERE target_id = ?1",
    ] {
        conn.prepare_cached(sql)?.execute((old, new))?;
    }
    Ok(())
}

/// Gives the waiting delivery at `place` to another target; for targets that keep no order.
pub(super) fn move_one(conn: &Connection, old: i64, new: i64, place: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE deliveries SET target_id = ?2, order_key = NULL, turn = iif(turn = 2, iif(severity = 2, 0, 1), turn)
        WHERE place = ?1 AND target_id = ?3";
    conn.prepare_cached(sql)?.execute((place, new, old)).map(|_| ())
}

/// Gives dead letters that nobody has settled to another target.
pub(super) fn move_dead(conn: &Connection, old: i64, new: i64, limit: usize) -> rusqlite::Result<usize> {
    let mut dead = conn.prepare_cached(DEAD)?;
    let places = dead.query_map((old, limit as i64), |row| row.get(0))?;
    let places: Vec<i64> = places.collect::<rusqlite::Result<_>>()?;
    let mut update = conn.prepare_cached("UPDATE deliveries SET target_id = ?2 WHERE place = ?1")?;
    for place in &places {
        update.execute((place, new))?;
    }
    Ok(places.len())
}
