//! What throttles count, and who takes the place of one that died.

use rusqlite::{Connection, OptionalExtension};

use super::{decide, rows};
use crate::store::{Key, Throttle};

/// How long what was decided is kept beyond the window it counts in: one that passed may die, and another takes its place.
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Whether the delivery in this row has reached some of its people, or one of those may that it was split into: then it has
/// not died in vain, and another in its place would be told to them again.
macro_rules! reached {
    () => {
        "(coalesce((SELECT b.reached FROM bodies b WHERE b.place = d.place), 0)
            OR d.recipient IS NOT NULL AND EXISTS (SELECT 1 FROM deliveries s
                WHERE s.place BETWEEN (d.place >> 16) << 16 AND ((d.place >> 16) << 16) + 65535 AND s.place <> d.place
                    AND s.target_id = d.target_id AND s.recipient IS NOT NULL AND s.replay = d.replay AND s.state IN (0, 1)))"
    };
}

/// Those of a key that went between two times: that are not dead, cancelled, suppressed or expired. One that was removed had
/// arrived; one that did not arrive everywhere went all the same.
pub(super) const WENT: &str = concat!(
    "SELECT 1 FROM throttled t LEFT JOIN deliveries d ON d.place = t.place
    WHERE t.target_id = ?1 AND t.key = ?2 AND t.suppressed = 0 AND t.at > ?3 AND t.place >= ?4 AND t.place <> ?5
        AND (coalesce(d.state, 1) IN (0, 1, 5) OR ",
    reached!(),
    ") AND t.at < ?7 LIMIT ?6"
);

/// When those went that [`WENT`] counts for one that comes after all of them, newest first.
pub(super) const WENT_AT: &str = concat!(
    "SELECT t.at FROM throttled t LEFT JOIN deliveries d ON d.place = t.place
    WHERE t.target_id = ?1 AND t.key = ?2 AND t.suppressed = 0 AND t.at > ?3 AND t.place >= ?4
        AND (coalesce(d.state, 1) IN (0, 1, 5) OR ",
    reached!(),
    ") AND t.at < ?5 ORDER BY t.at DESC LIMIT ?6"
);

/// Who was counted and died, unless somebody was told.
pub(super) const GAVE_UP_ITS_PLACE: &str =
    concat!("SELECT d.target_id FROM deliveries d WHERE d.place = ? AND d.stage <> 0 AND NOT (", reached!(), ")");

/// Why the delivery at `place` is suppressed; `None` when it may go. What was decided is noted under each of its keys.
pub(super) fn full(
    conn: &Connection,
    target: i64,
    place: i64,
    throttles: &[Throttle],
    now: i64,
) -> rusqlite::Result<Option<String>> {
    let mut full = !throttles.is_empty();
    for throttle in throttles {
        full = full && throttle.limit <= went(conn, target, place, throttle, now)?;
    }
    for throttle in throttles {
        note(conn, target, place, throttle, full, now)?;
    }
    Ok(throttles.first().filter(|_| full).map(reason))
}

/// Why one of this throttle was suppressed.
pub(super) fn reason(throttle: &Throttle) -> String {
    let per = crate::clock::short(throttle.per);
    match throttle.limit {
        1 => format!("one of the same key went within {per}"),
        limit => format!("{limit} of the same key went within {per}"),
    }
}

fn went(conn: &Connection, target: i64, place: i64, throttle: &Throttle, now: i64) -> rusqlite::Result<u32> {
    let since = now.saturating_sub(ms(throttle));
    // A window that an event ended counts for nobody who came after it.
    let floor = reset(conn, &throttle.key)?.filter(|floor| *floor <= place).unwrap_or(i64::MIN);
    // What went further ahead than the window is long went by a clock that was set back since.
    let ahead = now.saturating_add(ms(throttle));
    let row = (target, throttle.key, since, floor, place, throttle.limit, ahead);
    let mut went = conn.prepare_cached(WENT)?;
    let mut rows = went.query(row)?;
    let mut count = 0;
    while rows.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

fn note(conn: &Connection, target: i64, place: i64, throttle: &Throttle, full: bool, now: i64) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO throttled (target_id, key, suppressed, at, place, keep_until) VALUES (?, ?, ?, ?, ?, ?)";
    let keep_until = now.saturating_add(ms(throttle)).saturating_add(KEPT_MS);
    conn.prepare_cached(sql)?.execute((target, throttle.key, full, now, place, keep_until)).map(|_| ())
}

pub(super) fn ms(throttle: &Throttle) -> i64 {
    i64::try_from(throttle.per.as_millis()).unwrap_or(i64::MAX)
}

/// The first place that comes after the last event which ended the window of `key`; that event's own deliveries do.
pub(super) fn reset(conn: &Connection, key: &Key) -> rusqlite::Result<Option<i64>> {
    let mut look = conn.prepare_cached("SELECT seq FROM resets WHERE key = ?")?;
    let seq: Option<i64> = look.query_row([key], |row| row.get(0)).optional()?;
    Ok(seq.map(|seq| seq << 16))
}

/// The newest suppressed ones of a key that came after a place.
pub(super) const SUPPRESSED: &str = "SELECT t.at, t.place FROM throttled t CROSS JOIN deliveries d ON d.place = t.place
    WHERE t.target_id = ?1 AND t.key = ?2 AND t.suppressed = 1 AND t.place >= ?3 AND d.state = 4 AND d.cause = 3
    ORDER BY t.at DESC, t.place DESC LIMIT ?4";
/// Those that are looked at: the others of a key were called off by later events.
const LOOKED_AT: u32 = 100;

/// The delivery at `place` has died, and nobody was told: where a throttle counted it, the newest suppressed one of its key is undecided again, due now.
pub(super) fn died(conn: &Connection, place: i64, now: i64) -> rusqlite::Result<()> {
    let mut look = conn.prepare_cached(GAVE_UP_ITS_PLACE)?;
    let Some(target) = look.query_row([place], |row| row.get(0)).optional()? else { return Ok(()) };
    for throttle in &decide::plan(conn, place)?.throttles {
        if promote(conn, target, &throttle.key, place, now)? {
            return Ok(());
        }
    }
    Ok(())
}

fn promote(conn: &Connection, target: i64, key: &Key, dead: i64, now: i64) -> rusqlite::Result<bool> {
    let floor = reset(conn, key)?.unwrap_or(i64::MIN);
    if dead < floor {
        return Ok(false);
    }
    let mut look = conn.prepare_cached(SUPPRESSED)?;
    let rows = look.query_map((target, key, floor, LOOKED_AT), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
    for (_, place) in rows {
        if !called_off(conn, place)? {
            wake(conn, target, place, now)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether later events made it pointless.
fn called_off(conn: &Connection, place: i64) -> rusqlite::Result<bool> {
    let left = "SELECT cancels FROM handling WHERE place = ?";
    let left: Option<u32> = conn.prepare_cached(left)?.query_row([place], |row| row.get(0)).optional()?;
    Ok(left == Some(0) && !decide::plan(conn, place)?.cancels.is_empty())
}

fn wake(conn: &Connection, target: i64, place: i64, now: i64) -> rusqlite::Result<()> {
    for throttle in &decide::plan(conn, place)?.throttles {
        let sql = "DELETE FROM throttled WHERE target_id = ? AND key = ? AND suppressed = 1 AND place = ?";
        conn.prepare_cached(sql)?.execute((target, throttle.key, place))?;
    }
    // What was ordered goes out of order: those behind it went long ago.
    let sql = "UPDATE deliveries SET state = ?2, cause = NULL, note = NULL, due_at = ?3, settled_at = NULL, stage = ?4,
            turn = iif(severity = 2, 0, 1), out_of_order = out_of_order OR order_key IS NOT NULL, order_key = NULL
        WHERE place = ?1";
    let undecided = rows::stage_code(crate::store::Stage::Undecided);
    conn.prepare_cached(sql)?.execute((place, rows::PENDING, now, undecided)).map(|_| ())
}
