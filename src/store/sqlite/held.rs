//! What subscriptions hold: handed over to the one that takes a deleted one's place, and bounded.

use rusqlite::{Connection, OptionalExtension};

use super::{
    decide::{Aside, set_aside},
    lanes,
    rows::{CANCELLED, EXPIRED},
    session::{Answer, Session},
};
use crate::{
    envelope::{DeliveryId, Name},
    store::HandedOver,
};

/// Deliveries that one call of [`hand_over`] or [`expire`] takes up.
pub(super) const SLICE: usize = 1000;
/// Deliveries that [`beyond`] names at once: all that waits is looked at for that.
const BEYOND_MAX: usize = 50 * SLICE;

/// Whether the event of the delivery at `?1` has another to `?2` that waits or arrived, and is no less a replay.
pub(super) const HAS: &str = "SELECT 1 FROM deliveries WHERE place BETWEEN (?1 >> 16) << 16 AND ((?1 >> 16) << 16) + 65535
    AND target_id = ?2 AND state IN (0, 1) AND replay = (SELECT replay FROM deliveries WHERE place = ?1)";

/// Gives a slice of what waits for `old` to `new`, but for what `new` has; see [`crate::store::Store::hand_over`].
pub(super) fn hand_over(session: &mut Session, old: &Name, new: &Name, now: i64) -> Answer<HandedOver> {
    let mut handed = HandedOver::default();
    if old == new {
        return Ok(Ok(handed));
    }
    let reason = format!("{new} has this event already");
    let (old, new) = (session.target_id(old)?, session.target_id(new)?);
    let conn = &session.conn;
    let places: Vec<i64> = {
        let mut waiting = conn.prepare_cached(lanes::WAITING)?;
        let rows = waiting.query_map((old, SLICE as i64), |row| row.get(0))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    for place in places {
        if conn.prepare_cached(HAS)?.exists((place, new))? {
            let end = Aside { state: CANCELLED, cause: None, reason: &reason, now };
            handed.dropped += u64::from(set_aside(conn, old, place, &end)?);
        } else {
            lanes::move_one(conn, old, new, place)?;
            handed.moved += 1;
        }
    }
    if handed == HandedOver::default() {
        handed.moved += lanes::move_dead(conn, old, new, SLICE)? as u64;
    }
    Ok(Ok(handed))
}

/// What waits for a target, oldest first, with how many bytes each is: the event's, and the body's that was made of it.
pub(super) const SIZES: &str = "SELECT d.place, max(d.created_at, coalesce(d.due_at, 0)),
        coalesce(length(p.body), 0) + coalesce((SELECT length(b.body) FROM bodies b WHERE b.place = d.place), 0)
    FROM deliveries d INDEXED BY deliveries_pending LEFT JOIN payloads p ON p.seq = d.place >> 16
    WHERE d.state = 0 AND d.target_id = ?1 AND d.turn IN (0, 1, 2, 3) ORDER BY d.place";

/// Which of what waits for `target` is beyond `bytes`, or has waited since `cutoff`: at most [`BEYOND_MAX`], the oldest first.
pub(super) fn beyond(
    conn: &Connection,
    target: &Name,
    cutoff: Option<i64>,
    bytes: u64,
    except: &[i64],
) -> rusqlite::Result<Vec<i64>> {
    let id = "SELECT id FROM targets WHERE name = ?";
    let Some(target): Option<i64> = conn.prepare_cached(id)?.query_row([target.as_str()], |row| row.get(0)).optional()? else {
        return Ok(Vec::new());
    };
    let mut sizes = conn.prepare_cached(SIZES)?;
    let rows = sizes.query_map([target], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows: Vec<(i64, i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
    let all: u64 = rows.iter().map(|(.., size)| size.unsigned_abs()).sum();
    let mut excess = all.saturating_sub(bytes);
    let mut found = Vec::new();
    for (place, at, size) in rows {
        let old = cutoff.is_some_and(|cutoff| at <= cutoff);
        if (excess == 0 && !old) || except.binary_search(&place).is_ok() {
            continue;
        }
        excess = excess.saturating_sub(size.unsigned_abs());
        found.push(place);
        if BEYOND_MAX <= found.len() {
            break;
        }
    }
    Ok(found)
}

/// Expires those at `places` that wait still.
pub(super) fn expire(session: &mut Session, target: &Name, places: &[i64], reason: &str, now: i64) -> Answer<Vec<DeliveryId>> {
    let target = session.target_id(target)?;
    let mut expired = Vec::new();
    for place in places {
        if set_aside(&session.conn, target, *place, &Aside { state: EXPIRED, cause: None, reason, now })? {
            expired.push(DeliveryId::at(session.salt, *place));
        }
    }
    Ok(Ok(expired))
}
