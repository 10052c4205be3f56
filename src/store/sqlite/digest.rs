//! Digests: the first delivery of a key carries those that gather behind it, falls due when the digest ends, and takes them along.

use rusqlite::{Connection, OptionalExtension};

use super::rows::{DIGESTED, SUPPRESSED, cause_code, stage_code};
use crate::store::{Cause, Stage};

/// A delivery that is to be gathered.
pub(super) struct New {
    pub(super) target: i64,
    pub(super) key: [u8; 16],
    pub(super) place: i64,
    pub(super) severity: i64,
    /// When a digest that begins with it ends.
    pub(super) ends_at: i64,
    /// How many it gathers at most.
    pub(super) max: u32,
    pub(super) now: i64,
}

/// The digest of a key that gathers; its carrier may have gone another way.
pub(super) const OPEN: &str =
    "SELECT g.carrier, g.gathered, c.due_at FROM digests g CROSS JOIN deliveries c ON c.place = g.carrier
    WHERE g.target_id = ?1 AND g.key = ?2 AND c.state = 0 AND c.stage = 3";

struct Open {
    carrier: i64,
    gathered: u32,
    due_at: i64,
}

/// Gathers `it`; answers when the digest that it is in now goes out.
pub(super) fn gather(conn: &Connection, it: &New) -> rusqlite::Result<i64> {
    let mut look = conn.prepare_cached(OPEN)?;
    let open = look.query_row((it.target, it.key), |row| {
        Ok(Open { carrier: row.get(0)?, gathered: row.get(1)?, due_at: row.get::<_, Option<i64>>(2)?.unwrap_or(it.now) })
    });
    match open.optional()? {
        Some(open) if open.carrier != it.place => join(conn, it, &open),
        _ => begin(conn, it),
    }
}

fn begin(conn: &Connection, it: &New) -> rusqlite::Result<i64> {
    let due_at = if it.max <= 1 { it.now } else { it.ends_at };
    let sql = "INSERT OR REPLACE INTO digests (target_id, key, carrier, ends_at, gathered) VALUES (?, ?, ?, ?, 1)";
    conn.prepare_cached(sql)?.execute((it.target, it.key, it.place, it.ends_at))?;
    let sql = "UPDATE deliveries SET stage = ?2, due_at = ?3, cause = NULL, order_key = NULL WHERE place = ?1";
    conn.prepare_cached(sql)?.execute((it.place, stage_code(Stage::Gathering), due_at))?;
    Ok(due_at)
}

fn join(conn: &Connection, it: &New, open: &Open) -> rusqlite::Result<i64> {
    let gathered = open.gathered.saturating_add(1);
    let due_at = if it.max <= gathered { it.now } else { open.due_at };
    let sql =
        "UPDATE deliveries SET stage = ?2, carrier = ?3, turn = 3, due_at = ?4, cause = NULL, order_key = NULL WHERE place = ?1";
    conn.prepare_cached(sql)?.execute((it.place, stage_code(Stage::Gathered), open.carrier, due_at))?;
    conn.prepare_cached("UPDATE digests SET gathered = ?2 WHERE carrier = ?1")?.execute((open.carrier, gathered))?;
    // A digest is as grave as the gravest in it.
    let sql = "UPDATE deliveries SET due_at = ?2, severity = max(severity, ?3), turn = iif(max(severity, ?3) = 2, 0, 1)
        WHERE place = ?1";
    conn.prepare_cached(sql)?.execute((open.carrier, due_at, it.severity))?;
    Ok(due_at)
}

/// The digest that `carrier` carries gathers no more: those it gathered are digested. Answers how many.
pub(super) fn close(conn: &Connection, carrier: i64, now: i64) -> rusqlite::Result<u32> {
    forget(conn, carrier)?;
    let sql = "UPDATE deliveries SET state = ?2, due_at = NULL, settled_at = ?3, cause = NULL WHERE carrier = ?1 AND state = 0";
    let carries = conn.prepare_cached(sql)?.execute((carrier, DIGESTED, now))?;
    let stage = if carries == 0 { Stage::Passed } else { Stage::Carrying };
    conn.prepare_cached("UPDATE deliveries SET stage = ?2 WHERE place = ?1")?.execute((carrier, stage_code(stage)))?;
    Ok(u32::try_from(carries).unwrap_or(u32::MAX))
}

/// Whom those name that go out inside `carrier`: itself, or where the digest goes to several recipients, the first of those that carry it.
pub(super) fn first_of(conn: &Connection, carrier: i64) -> rusqlite::Result<i64> {
    let mut look = conn.prepare_cached("SELECT carrier FROM deliveries WHERE place = ? AND stage = 5")?;
    Ok(look.query_row([carrier], |row| row.get(0)).optional()?.flatten().unwrap_or(carrier))
}

/// How many went out, or are to go out, inside `carrier`.
pub(super) fn carries(conn: &Connection, carrier: i64) -> rusqlite::Result<u32> {
    let carrier = first_of(conn, carrier)?;
    let sql = "SELECT count(*) FROM deliveries WHERE carrier = ? AND state = 5";
    conn.prepare_cached(sql)?.query_row([carrier], |row| row.get(0))
}

/// What `carrier` gathered is not sent: quiet hours drop it. Answers how many that are.
pub(super) fn drop_carried(conn: &Connection, carrier: i64, now: i64, reason: &str) -> rusqlite::Result<u32> {
    forget(conn, carrier)?;
    let sql = "UPDATE deliveries SET state = ?2, cause = ?3, due_at = NULL, settled_at = ?4, note = ?5, carrier = NULL
        WHERE carrier = ?1 AND state = 0";
    let dropped = conn.prepare_cached(sql)?.execute((carrier, SUPPRESSED, cause_code(Cause::Quiet), now, reason))?;
    Ok(u32::try_from(dropped).unwrap_or(u32::MAX))
}

fn forget(conn: &Connection, carrier: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM digests WHERE carrier = ?")?.execute([carrier]).map(|_| ())
}

/// What carries the delivery at `place`.
pub(super) fn carrier_of(conn: &Connection, place: i64) -> rusqlite::Result<Option<i64>> {
    let mut look = conn.prepare_cached("SELECT carrier FROM deliveries WHERE place = ?")?;
    Ok(look.query_row([place], |row| row.get(0)).optional()?.flatten())
}

/// The earliest of those that wait inside a carrier.
pub(super) const FOLLOWER: &str = "SELECT place, severity FROM deliveries INDEXED BY deliveries_carried
    WHERE carrier IS NOT NULL AND carrier = ?1 AND state = 0 ORDER BY place LIMIT 1";

/// The delivery at `place` has left the digest it was in: where it carried it, the next one does.
pub(super) fn leave(conn: &Connection, place: i64, stage: Stage, carrier: Option<i64>, now: i64) -> rusqlite::Result<()> {
    match (stage, carrier) {
        (Stage::Gathered, Some(carrier)) => {
            let sql = "UPDATE digests SET gathered = gathered - 1 WHERE carrier = ?";
            conn.prepare_cached(sql)?.execute([carrier]).map(|_| ())
        }
        (Stage::Gathering, _) => hand_on(conn, place, now),
        _ => Ok(()),
    }
}

fn hand_on(conn: &Connection, carrier: i64, now: i64) -> rusqlite::Result<()> {
    let next: Option<i64> = conn.prepare_cached(FOLLOWER)?.query_row([carrier], |row| row.get(0)).optional()?;
    let Some(next) = next else { return forget(conn, carrier) };
    let ends_at: Option<i64> = conn
        .prepare_cached("SELECT ends_at FROM digests WHERE carrier = ?")?
        .query_row([carrier], |row| row.get(0))
        .optional()?;
    let sql = "UPDATE deliveries SET stage = ?2, carrier = NULL, turn = iif(severity = 2, 0, 1), due_at = ?3 WHERE place = ?1";
    conn.prepare_cached(sql)?.execute((next, stage_code(Stage::Gathering), ends_at.unwrap_or(now)))?;
    conn.prepare_cached("UPDATE deliveries SET carrier = ?2 WHERE carrier = ?1 AND state = 0")?.execute((carrier, next))?;
    let sql = "UPDATE digests SET carrier = ?2, gathered = gathered - 1 WHERE carrier = ?1";
    conn.prepare_cached(sql)?.execute((carrier, next)).map(|_| ())
}
