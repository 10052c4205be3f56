//! Removing what is kept no longer, in slices that hold up nobody else's commit for long, and making room when the store
//! has reached its limit. The rules are those of `delivery.md`, "Retention".

use std::time::Duration;

use rusqlite::Connection;

use super::{
    rows::{amount, cause_code},
    session::{Answer, Session},
};
use crate::{
    clock::{Timestamp, earlier, to_ms},
    envelope::Name,
    store::{Cause, Error, N_MAX, Pruned, Retention},
};

/// Rows of each kind that one call looks at.
const SLICE: u32 = 500;
/// Events removed early between two looks at the size.
const EARLY_STEP: u64 = 25;
/// Hundredths of `max_bytes` that early removal leaves in use: what is above is the room that new events come into.
const FILL_GOAL: u64 = 90;
/// How long the key of a hash id is kept further while its event is held.
const HASH_KEPT_ON_MS: i64 = 24 * 60 * 60 * 1000;

/// What is known about the space left; kept in memory, and put back when a transaction is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    /// `store.max_bytes`, as the last call of [`prune`] said.
    limit: Option<u64>,
    /// A whole sweep found nothing to remove and the limit is reached.
    exhausted: bool,
    /// Whether there was room when this transaction asked; asked once.
    there_was: Option<bool>,
    sweep: Sweep,
}

impl Room {
    /// A transaction begins: it looks for itself.
    pub(super) fn forget(&mut self) {
        self.there_was = None;
    }
}

/// A walk over all events, oldest first, a slice at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Sweep {
    /// The last event that was looked at.
    at: i64,
    /// The walk removed something, or passed events that would have been removed early.
    fruitful: bool,
}

/// Removes a slice of everything that `retention` no longer keeps; see [`crate::store::Store::prune`].
pub(super) fn prune(session: &mut Session, now: Timestamp, retention: &Retention, gone: &[Name]) -> Answer<Pruned> {
    let before = |kept: Duration| to_ms(earlier(now, kept));
    session.room.limit = retention.max_bytes;
    let given_up = give_up(&session.conn, gone, before(retention.events), to_ms(now))?;
    let dead = dead_letters(&session.conn, before(retention.dead_letters))?;
    let freed = free(&session.conn, &dead, before(retention.events))?;
    let rejections = rejections(&session.conn, before(retention.rejections))?;
    let keys = keys(&session.conn, to_ms(now))?;
    let swept = sweep(session, before(retention.events), retention.max_bytes.map(goal))?;
    let full = |removed: u64| u64::from(SLICE) <= removed;
    Ok(Ok(Pruned {
        events: freed + swept.events,
        dead_letters: dead.len() as u64,
        rejections,
        keys: keys.removed,
        given_up,
        more: !swept.ended || full(given_up) || full(dead.len() as u64) || full(rejections) || keys.more,
        used: used(&session.conn)?,
    }))
}

fn goal(limit: u64) -> u64 {
    limit / 100 * FILL_GOAL
}

/// Ok when a new event may come in. At the limit, the oldest finished events go first; when none is left, refuses.
pub(super) fn make_room(session: &mut Session) -> Answer<()> {
    let Some(limit) = session.room.limit else { return Ok(Ok(())) };
    let room = match session.room.there_was {
        Some(room) => room,
        None => look_for_room(session, limit)?,
    };
    session.room.there_was = Some(room);
    Ok(if room { Ok(()) } else { Err(no_room(limit)) })
}

fn look_for_room(session: &mut Session, limit: u64) -> rusqlite::Result<bool> {
    if limit <= used(&session.conn)? {
        sweep(session, i64::MIN, Some(goal(limit)))?;
    }
    if used(&session.conn)? < limit {
        session.room.exhausted = false;
    }
    Ok(!session.room.exhausted)
}

fn no_room(limit: u64) -> Error {
    Error::Full(format!("`store.max_bytes` ({limit} bytes) is reached and nothing finished is left to remove"))
}

/// Bytes of the database that hold something.
fn used(conn: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    conn.prepare_cached(sql)?.query_row([], |row| amount(row, 0))
}

/// Deliveries that have been due since before `cutoff`, of targets that are gone.
pub(super) const GIVE_UP: &str = "UPDATE deliveries SET state = 2, cause = ?3, due_at = NULL, settled_at = ?4 WHERE place IN (
    SELECT place FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = (SELECT id FROM targets WHERE name = ?1) AND due_at < ?2 ORDER BY due_at LIMIT ?5)";

fn give_up(conn: &Connection, gone: &[Name], cutoff: i64, now: i64) -> rusqlite::Result<u64> {
    let mut statement = conn.prepare_cached(GIVE_UP)?;
    let mut given_up = 0;
    for target in gone {
        let left = i64::from(SLICE) - given_up;
        given_up += statement.execute((target.as_str(), cutoff, cause_code(Cause::Config), now, left))? as i64;
    }
    Ok(given_up.cast_unsigned())
}

/// Dead letters that died before a time.
pub(super) const DIED: &str = "SELECT d.place FROM targets t CROSS JOIN deliveries d INDEXED BY deliveries_died
    ON d.state = 2 AND d.target_id = t.id AND d.settled_at < ?1 LIMIT ?2";

/// Removes dead letters that died before `cutoff`; gives their places.
fn dead_letters(conn: &Connection, cutoff: i64) -> rusqlite::Result<Vec<i64>> {
    let mut statement = conn.prepare_cached(DIED)?;
    let places: Vec<i64> = statement.query_map((cutoff, SLICE), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for place in &places {
        remove_deliveries(conn, *place, *place)?;
    }
    Ok(places)
}

/// Removes the events of these dead letters that nothing else keeps.
fn free(conn: &Connection, dead: &[i64], cutoff: i64) -> rusqlite::Result<u64> {
    let sql = format!("{CANDIDATES} WHERE e.seq = ?");
    let mut statement = conn.prepare_cached(&sql)?;
    let mut freed = 0;
    let mut seqs: Vec<i64> = dead.iter().map(|place| place >> 16).collect();
    seqs.dedup();
    for seq in seqs {
        let candidates: Vec<_> = statement.query_map([seq], Candidate::read)?.collect::<rusqlite::Result<_>>()?;
        for _ in candidates.iter().filter(|it| it.finished && it.received_at < cutoff) {
            remove_event(conn, seq)?;
            freed += 1;
        }
    }
    Ok(freed)
}

/// What decides whether an event goes.
const CANDIDATES: &str = "SELECT e.seq, e.received_at, NOT EXISTS (SELECT 1 FROM deliveries d NOT INDEXED
    WHERE d.place BETWEEN e.seq << 16 AND (e.seq << 16) | 65535 AND d.state <> 1) FROM events e";

struct Candidate {
    seq: i64,
    received_at: i64,
    finished: bool,
}

impl Candidate {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { seq: row.get(0)?, received_at: row.get(1)?, finished: row.get(2)? })
    }
}

/// What one step of the sweep did.
struct Swept {
    events: u64,
    /// The walk is through: the next step begins with the oldest again.
    ended: bool,
}

/// Walks on over the events by one slice: removes finished ones from before `cutoff`, and while more than `goal` bytes are
/// in use, younger ones too.
fn sweep(session: &mut Session, cutoff: i64, goal: Option<u64>) -> rusqlite::Result<Swept> {
    let conn = &session.conn;
    let over = || Ok::<_, rusqlite::Error>(goal.is_some() && goal < Some(used(conn)?));
    let mut early = over()?;
    let mut walk = session.room.sweep;
    walk.fruitful |= !early;
    let (mut events, mut old) = (0_u64, false);
    let slice = slice(conn, walk.at)?;
    for it in &slice {
        walk.at = it.seq;
        old |= it.received_at < cutoff;
        if it.finished && (early || it.received_at < cutoff) {
            remove_event(conn, it.seq)?;
            events += 1;
            early = early && (!events.is_multiple_of(EARLY_STEP) || over()?);
        }
    }
    walk.fruitful |= events != 0;
    let ended = slice.len() < SLICE as usize || !(early || old);
    if ended {
        let limit = session.room.limit.unwrap_or(u64::MAX);
        session.room.exhausted = !walk.fruitful && limit <= used(conn)?;
        walk = Sweep::default();
    }
    session.room.sweep = walk;
    Ok(Swept { events, ended })
}

fn slice(conn: &Connection, after: i64) -> rusqlite::Result<Vec<Candidate>> {
    let sql = format!("{CANDIDATES} WHERE e.seq > ? ORDER BY e.seq LIMIT {SLICE}");
    let mut statement = conn.prepare_cached(&sql)?;
    statement.query_map([after], Candidate::read)?.collect()
}

/// Removes an event with everything that belongs to it; its dedupe key stays.
fn remove_event(conn: &Connection, seq: i64) -> rusqlite::Result<()> {
    remove_deliveries(conn, seq << 16, seq << 16 | i64::from(N_MAX))?;
    conn.prepare_cached("DELETE FROM payloads WHERE seq = ?")?.execute([seq])?;
    conn.prepare_cached("DELETE FROM events WHERE seq = ?")?.execute([seq])?;
    Ok(())
}

/// Removes the deliveries from place `first` to place `last` with their attempts and bodies.
fn remove_deliveries(conn: &Connection, first: i64, last: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM attempts WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
    conn.prepare_cached("DELETE FROM bodies WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
    conn.prepare_cached("DELETE FROM deliveries NOT INDEXED WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
    Ok(())
}

fn rejections(conn: &Connection, cutoff: i64) -> rusqlite::Result<u64> {
    let mut old = conn.prepare_cached("SELECT id FROM rejections INDEXED BY rejections_at WHERE at < ? LIMIT ?")?;
    let ids: Vec<i64> = old.query_map((cutoff, SLICE), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for id in &ids {
        conn.prepare_cached("DELETE FROM quarantine WHERE id = ?")?.execute([id])?;
        conn.prepare_cached("DELETE FROM rejections WHERE id = ?")?.execute([id])?;
    }
    Ok(ids.len() as u64)
}

struct Keys {
    removed: u64,
    more: bool,
}

/// Dedupe keys whose time has come.
pub(super) const FORGOTTEN: &str =
    "SELECT key, hashed AND EXISTS (SELECT 1 FROM events e WHERE e.seq = dedupe.seq) FROM dedupe INDEXED BY dedupe_forget
    WHERE forget_at <= ? LIMIT ?";

/// Forgets dedupe keys. That of a hash id stays while its event is held: without it the same bytes would come in under the
/// very same id.
fn keys(conn: &Connection, now: i64) -> rusqlite::Result<Keys> {
    let mut statement = conn.prepare_cached(FORGOTTEN)?;
    let due = statement.query_map((now, SLICE), |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, bool>(1)?)))?;
    let due: Vec<_> = due.collect::<rusqlite::Result<_>>()?;
    let mut removed = 0;
    for (key, held) in &due {
        if *held {
            let later = now.saturating_add(HASH_KEPT_ON_MS);
            conn.prepare_cached("UPDATE dedupe SET forget_at = ? WHERE key = ?")?.execute((later, key))?;
        } else {
            removed += conn.prepare_cached("DELETE FROM dedupe WHERE key = ?")?.execute([key])? as u64;
        }
    }
    Ok(Keys { removed, more: due.len() == SLICE as usize })
}
