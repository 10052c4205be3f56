//! What a clock that was ahead has put off, once the clock was set back: times that only it can have made are not waited for.

use rusqlite::Connection;

use super::{decide, session::Session};

/// Rows that one call looks for.
const SLICE: u32 = 500;
/// How far ahead the due time of a delivery is not wondered at: the longest wait unless a file asks for longer ones.
const AHEAD_MS: i64 = 60 * 60 * 1000;

/// Deliveries that wait for a time which a clock made that was ahead: they were planned or tried in what is the future now.
pub(super) const AHEAD: &str = "UPDATE deliveries SET due_at = ?1 WHERE place IN (
    SELECT d.place FROM targets t CROSS JOIN deliveries d INDEXED BY deliveries_pending
    ON d.state = 0 AND d.target_id = t.id AND d.turn IN (0, 1, 2, 3) AND d.due_at > ?2
    WHERE d.created_at > ?2 OR EXISTS (SELECT 1 FROM attempts a WHERE a.place = d.place AND a.started_at > ?2) LIMIT ?3)";
/// Those that wait for a report: for as long as was meant.
pub(super) const AWAITED: &str = "UPDATE deliveries SET due_at = ?1 + due_at -
        (SELECT max(a.started_at) FROM attempts a WHERE a.place = deliveries.place)
    WHERE place IN (SELECT d.place FROM deliveries d INDEXED BY deliveries_unreported WHERE d.state = 0 AND d.turn = 4
        AND d.due_at > ?2 AND EXISTS (SELECT 1 FROM attempts a WHERE a.place = d.place AND a.started_at > ?2) LIMIT ?3)";
/// What quiet hours hold: whether they do is asked again.
pub(super) const QUIET: &str = "UPDATE deliveries SET due_at = ?1 WHERE place IN (
    SELECT place FROM deliveries INDEXED BY deliveries_quiet WHERE state = 0 AND cause = 5 AND due_at > ?1)";
/// Digests that gather: their carriers, and when they are due.
pub(super) const GATHERING: &str = "SELECT g.carrier, c.due_at FROM digests g CROSS JOIN deliveries c ON c.place = g.carrier
    WHERE c.state = 0 AND c.stage = 3 AND c.due_at > ?1";

/// Makes due what waits for a time that only a wrong clock has seen, once the clock was set back.
pub(super) fn look(session: &mut Session, now: i64) -> rusqlite::Result<()> {
    if !session.set_back {
        return Ok(());
    }
    let ahead = now.saturating_add(AHEAD_MS);
    let woken = session.conn.prepare_cached(AHEAD)?.execute((now, ahead, SLICE))?;
    let awaited = session.conn.prepare_cached(AWAITED)?.execute((now, ahead, SLICE))?;
    session.conn.prepare_cached(QUIET)?.execute([now])?;
    let digests = digests(&session.conn, now)?;
    session.set_back = SLICE as usize <= woken.max(awaited);
    if 0 < woken + digests {
        tracing::warn!(
            deliveries = woken,
            digests,
            "the clock was set back: deliveries that waited for its former time are due now"
        );
    }
    Ok(())
}

/// Digests that end later than their rule can have meant, or with quiet hours, about which is asked again; answers how many.
fn digests(conn: &Connection, now: i64) -> rusqlite::Result<usize> {
    let mut gathering = conn.prepare_cached(GATHERING)?;
    let found = gathering.query_map([now], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut count = 0;
    for (carrier, due_at) in found.collect::<rusqlite::Result<Vec<(i64, i64)>>>()? {
        let window =
            decide::plan(conn, carrier)?.digest.map_or(0, |digest| i64::try_from(digest.window.as_millis()).unwrap_or(i64::MAX));
        if now.saturating_add(window).saturating_add(AHEAD_MS) < due_at {
            conn.prepare_cached("UPDATE deliveries SET due_at = ?2 WHERE place = ?1")?.execute((carrier, now))?;
            conn.prepare_cached("UPDATE digests SET ends_at = ?2 WHERE carrier = ?1")?.execute((carrier, now))?;
            count += 1;
        }
    }
    Ok(count)
}
