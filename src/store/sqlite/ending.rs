//! What an event ends of deliveries that came before it (`reset_on`, `cancel_on`), in its own commit; and what ends by itself (`ttl`,
//! quiet hours that changed).

use rusqlite::{Connection, OptionalExtension};

use super::{
    decide::{Aside, set_aside},
    rows::{CANCELLED, EXPIRED},
    session::{Answer, Session},
};
use crate::{
    envelope::{DeliveryId, EventUid, Name},
    store::{Cause, Endings, Handling, Key, NewEvent},
};

/// Keeps what the rules want of the delivery at `place`.
pub(super) fn keep(conn: &Connection, place: i64, handling: &Handling) -> rusqlite::Result<()> {
    // Plain data: writing it cannot fail.
    let plan = serde_json::to_string(handling).unwrap_or_default();
    let sql = "INSERT INTO handling (place, plan, cancels) VALUES (?, ?, ?)";
    conn.prepare_cached(sql)?.execute((place, plan, handling.cancels.len() as i64))?;
    for key in &handling.cancels {
        conn.prepare_cached("INSERT OR IGNORE INTO awaited (key, place) VALUES (?, ?)")?.execute((key, place))?;
    }
    Ok(())
}

/// Ends what `event`, which becomes number `seq`, ends; answers what it cancelled.
pub(super) fn end(session: &Session, event: &NewEvent, seq: i64) -> rusqlite::Result<Vec<(Name, DeliveryId)>> {
    let Endings { resets, cancels } = &event.endings;
    for key in resets {
        let sql = "INSERT OR REPLACE INTO resets (key, seq, at) VALUES (?, ?, ?)";
        session.conn.prepare_cached(sql)?.execute((key, seq, session.now))?;
    }
    // By our own id: its sender's would outlive its erasure here.
    let reason = format!("{} {} came", event.envelope.r#type, EventUid { salt: session.salt, seq });
    let mut cancelled = Vec::new();
    for key in cancels {
        for place in named(&session.conn, key)? {
            cancelled.extend(cancel(session, place, &reason)?);
        }
    }
    Ok(cancelled)
}

/// The deliveries that wait for `key` to be named; from now on they do not.
fn named(conn: &Connection, key: &Key) -> rusqlite::Result<Vec<i64>> {
    let mut take = conn.prepare_cached("DELETE FROM awaited WHERE key = ? RETURNING place")?;
    let places = take.query_map([key], |row| row.get(0))?;
    places.collect()
}

/// Cancels the delivery at `place`, if it waits, once all of its keys were named. One that carries others went its way already.
fn cancel(session: &Session, place: i64, reason: &str) -> rusqlite::Result<Option<(Name, DeliveryId)>> {
    let sql = "UPDATE handling SET cancels = cancels - 1 WHERE place = ? RETURNING cancels";
    let left: Option<i64> = session.conn.prepare_cached(sql)?.query_row([place], |row| row.get(0)).optional()?;
    if left != Some(0) {
        return Ok(None);
    }
    let sql = "SELECT d.target_id, t.name FROM deliveries d CROSS JOIN targets t ON t.id = d.target_id
        WHERE d.place = ? AND d.state = 0 AND d.stage <> 5 AND d.turn <> 4";
    let found: Option<(i64, String)> =
        session.conn.prepare_cached(sql)?.query_row([place], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((target, name)) = found else { return Ok(None) };
    let end = Aside { state: CANCELLED, cause: Some(Cause::CancelOn), reason, now: session.now };
    let done = set_aside(&session.conn, target, place, &end)?;
    Ok(done.then(|| (name.as_str().into(), DeliveryId::at(session.salt, place))))
}

/// Deliveries that one call of [`expire`] ends.
const SLICE: usize = 500;

/// What of a target was planned before a time and waits.
pub(super) const OLD: &str = "SELECT place FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = ?1 AND turn IN (0, 1, 2, 3) AND created_at <= ?2";

/// Expires a slice; see [`crate::store::Store::expire`].
pub(super) fn expire(
    session: &mut Session,
    target: &Name,
    cutoff: i64,
    reason: &str,
    except: &[DeliveryId],
    now: i64,
) -> Answer<Vec<DeliveryId>> {
    let target = session.target_id(target)?;
    let mut old = session.conn.prepare_cached(OLD)?;
    let mut places = old.query((target, cutoff))?;
    let mut found = Vec::new();
    while let Some(row) = places.next()?
        && found.len() < SLICE
    {
        let place = row.get(0)?;
        if except.binary_search(&DeliveryId::at(session.salt, place)).is_err() && is_old(&session.conn, place, cutoff)? {
            found.push(place);
        }
    }
    drop(places);
    for place in &found {
        set_aside(&session.conn, target, *place, &Aside { state: EXPIRED, cause: None, reason, now })?;
    }
    Ok(Ok(found.into_iter().map(|place| DeliveryId::at(session.salt, place)).collect()))
}

/// Whether nobody has retried it since `cutoff`, and nobody travels with it.
fn is_old(conn: &Connection, place: i64, cutoff: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT stage <> 5 AND coalesce(renewed_at, created_at) <= ?2 FROM deliveries WHERE place = ?1";
    conn.prepare_cached(sql)?.query_row((place, cutoff), |row| row.get(0))
}

/// Makes due what quiet hours hold.
pub(super) const ROUSE: &str = "UPDATE deliveries SET due_at = ?2, cause = NULL WHERE place IN (
    SELECT place FROM deliveries INDEXED BY deliveries_quiet WHERE state = 0 AND cause = 5 AND target_id = ?1)";

/// Makes due what quiet hours hold of `target`; see [`crate::store::Store::rouse`].
pub(super) fn rouse(session: &mut Session, target: &Name, now: i64) -> Answer<()> {
    let target = session.target_id(target)?;
    session.conn.prepare_cached(ROUSE)?.execute((target, now))?;
    Ok(Ok(()))
}

/// Rows of each kind that one call of [`prune`] removes.
const PRUNED: u32 = 500;

/// Forgets what no window counts any more; `cutoff`: events from before are gone. Answers whether more is left.
pub(super) fn prune(conn: &Connection, cutoff: i64, now: i64) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM throttled WHERE (target_id, key, suppressed, at, place) IN (
        SELECT target_id, key, suppressed, at, place FROM throttled INDEXED BY throttled_kept WHERE keep_until <= ?1 LIMIT ?2)";
    let throttled = conn.prepare_cached(sql)?.execute((now, PRUNED))?;
    let sql = "DELETE FROM resets WHERE key IN (SELECT key FROM resets INDEXED BY resets_at WHERE at <= ?1 LIMIT ?2)";
    let resets = conn.prepare_cached(sql)?.execute((cutoff, PRUNED))?;
    Ok(PRUNED as usize <= throttled.max(resets))
}
