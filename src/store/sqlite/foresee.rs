//! What would be decided about a delivery that is not there: [`super::decide`] without writing anything.

use rusqlite::{Connection, OptionalExtension};

use super::{digest, throttle};
use crate::{
    clock::from_ms,
    envelope::Name,
    store::{Digest, Foreseen, Full, Gathered, Handling, Throttle},
};

/// See [`crate::store::Store::foresee`].
pub(super) fn foresee(conn: &Connection, target: &Name, handling: &Handling, now: i64) -> rusqlite::Result<Foreseen> {
    let mut look = conn.prepare_cached("SELECT id FROM targets WHERE name = ?")?;
    let target: Option<i64> = look.query_row([target.as_str()], |row| row.get(0)).optional()?;
    let throttled = match target {
        Some(target) => full(conn, target, &handling.throttles, now)?,
        None => None,
    };
    let gathered = match &handling.digest {
        Some(digest) if throttled.is_none() => Some(gathered(conn, target, digest, now)?),
        _ => None,
    };
    Ok(Foreseen { throttled, gathered })
}

/// It is suppressed when every throttle is full, so it may go as soon as one of them is not.
fn full(conn: &Connection, target: i64, throttles: &[Throttle], now: i64) -> rusqlite::Result<Option<Full>> {
    let mut soonest = None;
    for throttle in throttles {
        let Some(until) = full_until(conn, target, throttle, now)? else { return Ok(None) };
        soonest = Some(soonest.map_or(until, |known: i64| known.min(until)));
    }
    let full = throttles.first().zip(soonest);
    Ok(full.map(|(throttle, until)| Full { reason: throttle::reason(throttle), until: from_ms(until) }))
}

/// Until when the throttle lets nothing go; `None`: it does.
fn full_until(conn: &Connection, target: i64, throttle: &Throttle, now: i64) -> rusqlite::Result<Option<i64>> {
    let window = throttle::ms(throttle);
    let floor = throttle::reset(conn, &throttle.key)?.unwrap_or(i64::MIN);
    let row = (target, throttle.key, now.saturating_sub(window), floor, now.saturating_add(window), throttle.limit);
    let mut went = conn.prepare_cached(throttle::WENT_AT)?;
    let went: Vec<i64> = went.query_map(row, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let full = usize::try_from(throttle.limit).is_ok_and(|limit| limit <= went.len());
    Ok(went.last().filter(|_| full).map(|oldest| oldest.saturating_add(window)))
}

fn gathered(conn: &Connection, target: Option<i64>, digest: &Digest, now: i64) -> rusqlite::Result<Gathered> {
    let ends_at = now.saturating_add(i64::try_from(digest.window.as_millis()).unwrap_or(i64::MAX));
    let mut look = conn.prepare_cached(digest::OPEN)?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, u32>(1)?, row.get::<_, Option<i64>>(2)?));
    let open = look.query_row((target, digest.key), read).optional()?;
    let (others, until) = open.map_or((0, ends_at), |(others, due_at)| (others, due_at.unwrap_or(now)));
    // A full one goes out at once.
    let until = if digest.max <= others.saturating_add(1) { now } else { until.max(now) };
    Ok(Gathered { until: from_ms(until), others })
}
