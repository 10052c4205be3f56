//! Removing what is kept no longer, in slices that hold up nobody else's commit for long, and making room when the store
//! has reached its limit. The rules are those of `delivery.md`, "Retention".

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::{
    ahead, change, digest, ending,
    lanes::{self, OrderKey},
    rows::{amount, cause_code, stage},
    session::{Answer, Session},
    threads, throttle,
};
use crate::{
    clock::{Timestamp, earlier, to_ms},
    envelope::Name,
    route::OWN_SOURCE,
    store::{Cause, Error, N_MAX, Pruned, Retention, Stage},
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
    walk: Walk,
}

impl Room {
    /// Puts back what was known before a transaction that came to nothing. The limit was said, not found: it stays.
    pub(super) fn put_back(&mut self, before: Self) {
        *self = Self { limit: self.limit, ..before };
    }

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
pub(super) fn prune(session: &mut Session, now: Timestamp, retention: &Retention, held: &[(Name, Timestamp)]) -> Answer<Pruned> {
    let before = |kept: Duration| to_ms(earlier(now, kept));
    session.room.limit = retention.max_bytes;
    ahead::look(session, to_ms(now))?;
    let given_up = give_up(&session.conn, held, before(retention.events), to_ms(now))?;
    let own_given_up = own(&session.conn, &given_up)?;
    let dead = dead_letters(&session.conn, before(retention.dead_letters))?;
    let own_dead_letters = own(&session.conn, &dead)?;
    let freed = free(&session.conn, &dead, before(retention.events))?;
    let rejections = rejections(&session.conn, before(retention.rejections))?;
    let keys = keys(session, to_ms(now))?;
    let steps = replays(&session.conn, before(retention.events))?;
    let threads = threads::forget(&session.conn, before(retention.events))?;
    let entries = change::forget(&session.conn, before(retention.audit), to_ms(now))?;
    let windows = ending::prune(&session.conn, before(retention.events), to_ms(now))?;
    let swept = sweep(session, before(retention.events), retention.max_bytes.map(goal))?;
    if freed != 0 {
        session.keep_last_seq()?;
    }
    let full = |removed: u64| u64::from(SLICE) <= removed;
    Ok(Ok(Pruned {
        events: freed + swept.events,
        dead_letters: dead.len() as u64,
        own_dead_letters,
        rejections,
        keys: keys.removed,
        given_up: given_up.len() as u64,
        own_given_up,
        more: !swept.ended
            || windows
            || full(steps)
            || full(given_up.len() as u64)
            || full(dead.len() as u64)
            || full(rejections)
            || keys.more
            || threads
            || entries,
        used: used(&session.conn)?,
    }))
}

/// How many of the deliveries at `places` are of the relay's own events.
fn own(conn: &Connection, places: &[i64]) -> rusqlite::Result<u64> {
    let mut look = conn.prepare_cached("SELECT 1 FROM events WHERE seq = ? AND source = ?")?;
    let mut count = 0;
    for place in places {
        count += u64::from(look.exists((place >> 16, OWN_SOURCE))?);
    }
    Ok(count)
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

/// Deliveries that have been due since before `cutoff`, of a lane that stands still. What a digest has gathered goes with its carrier.
pub(super) const GIVE_UP: &str = "UPDATE deliveries SET state = 2, cause = ?3, due_at = NULL, settled_at = ?4 WHERE place IN (
    SELECT place FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = ?1 AND turn IN (0, 1, 2) AND due_at < ?2 LIMIT ?5) RETURNING place, order_key, stage";

/// Gives up what lanes held since before `cutoff` have held for that long; gives its places. Being due is being held there: a
/// delivery that a person has retried since is not given up for its age.
fn give_up(conn: &Connection, held: &[(Name, Timestamp)], cutoff: i64, now: i64) -> rusqlite::Result<Vec<i64>> {
    let mut given_up = Vec::new();
    for (target, _) in held.iter().filter(|(_, since)| to_ms(*since) < cutoff) {
        let Some(target) = target_id(conn, target)? else { continue };
        let left = i64::from(SLICE) - given_up.len() as i64;
        let mut statement = conn.prepare_cached(GIVE_UP)?;
        let row = (target, cutoff, cause_code(Cause::Config), now, left);
        let dead = statement.query_map(row, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let dead: Vec<(i64, Option<OrderKey>, i64)> = dead.collect::<rusqlite::Result<_>>()?;
        given_up.extend(dead.iter().map(|(place, ..)| *place));
        for (place, key, at) in &dead {
            // A dead digest is one dead letter, which lists its events.
            if stage(*at) == Stage::Gathering {
                digest::close(conn, *place, now)?;
            }
            if let Some(key) = key {
                lanes::move_up(conn, target, key)?;
            }
            throttle::died(conn, *place, now)?;
        }
    }
    Ok(given_up)
}

fn target_id(conn: &Connection, target: &Name) -> rusqlite::Result<Option<i64>> {
    let mut look_up = conn.prepare_cached("SELECT id FROM targets WHERE name = ?")?;
    look_up.query_row([target.as_str()], |row| row.get(0)).optional()
}

/// Dead letters that died before a time and that nobody has settled: those go with their events.
pub(super) const DIED: &str = "SELECT d.place FROM targets t CROSS JOIN deliveries d INDEXED BY deliveries_died
    ON d.state = 2 AND d.resolved_at IS NULL AND d.target_id = t.id AND d.settled_at < ?1 LIMIT ?2";

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

/// What decides whether an event goes. One with a delivery in a state that only a later version knows (above 6) does not. One with a delivery in a state that only a later version knows (above 6) does not.
const CANDIDATES: &str = "SELECT e.seq, e.received_at, NOT EXISTS (SELECT 1 FROM deliveries d NOT INDEXED
    WHERE d.place BETWEEN e.seq << 16 AND (e.seq << 16) | 65535
        AND (d.state = 0 OR d.state > 6 OR d.state = 2 AND d.resolved_at IS NULL OR d.state = 5 AND EXISTS (SELECT 1 FROM deliveries c NOT INDEXED
            WHERE c.place = d.carrier AND (c.state = 0 OR c.state = 2 AND c.resolved_at IS NULL)))) FROM events e";

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
    // What a clock that was ahead took in goes by its own time, and keeps nothing behind it from going.
    let (now, mut events, mut old) = (session.now, 0_u64, false);
    let slice = slice(conn, walk.at)?;
    for it in &slice {
        walk.at = it.seq;
        old |= it.received_at < cutoff || now < it.received_at;
        if it.finished && (early || it.received_at < cutoff) {
            remove_event(conn, it.seq)?;
            events += 1;
            early = early && (!events.is_multiple_of(EARLY_STEP) || over()?);
        }
    }
    if events != 0 {
        walk.fruitful = true;
        session.keep_last_seq()?;
    }
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
pub(super) fn remove_event(conn: &Connection, seq: i64) -> rusqlite::Result<()> {
    remove_deliveries(conn, seq << 16, seq << 16 | i64::from(N_MAX))?;
    conn.prepare_cached("DELETE FROM payloads WHERE seq = ?")?.execute([seq])?;
    conn.prepare_cached("DELETE FROM events WHERE seq = ?")?.execute([seq])?;
    Ok(())
}

/// Removes the deliveries from place `first` to place `last` with their attempts and bodies.
fn remove_deliveries(conn: &Connection, first: i64, last: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM attempts WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
    conn.prepare_cached("DELETE FROM bodies WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
    conn.prepare_cached("DELETE FROM handling WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
    conn.prepare_cached("DELETE FROM awaited WHERE place BETWEEN ? AND ?")?.execute((first, last))?;
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

/// Forgets steps of replays from before `cutoff`, as if their events were gone; the oldest have the lowest ids.
fn replays(conn: &Connection, cutoff: i64) -> rusqlite::Result<u64> {
    let sql = "DELETE FROM replays WHERE at < ?1 AND id IN (SELECT id FROM replays ORDER BY id LIMIT ?2)";
    Ok(conn.prepare_cached(sql)?.execute((cutoff, SLICE))? as u64)
}

struct Keys {
    removed: u64,
    more: bool,
}

/// A walk over the dedupe keys, in their order, a slice at a time.
#[derive(Debug, Clone, Copy)]
enum Walk {
    /// Behind this key.
    At([u8; 16]),
    /// It is over; the next one begins at this time.
    Over(i64),
}

impl Default for Walk {
    fn default() -> Self {
        Self::Over(i64::MIN)
    }
}

/// Keys that one call looks at.
const KEYS_SLICE: i64 = 4000;
/// Time from the end of one walk over the keys to the next.
const WALK_EVERY_MS: i64 = 60 * 60 * 1000;

/// A slice of the keys, and which of them have had their time.
pub(super) const KEYS: &str =
    "SELECT key, forget_at <= ?3, forget_at <= ?3 AND hashed AND EXISTS (SELECT 1 FROM events e WHERE e.seq = dedupe.seq) FROM dedupe
    WHERE key > ?1 ORDER BY key LIMIT ?2";

struct Key {
    key: [u8; 16],
    due: bool,
    held: bool,
}

/// Forgets dedupe keys: a slice at each call, and on and on (`more`) only while that pays, so that a walk over millions of keys
/// holds nobody up; what is forgotten late costs room, an eighth at most, and no answer. The key of a hash id stays while its
/// event is held: without it the same bytes would come in under the very same id.
fn keys(session: &mut Session, now: i64) -> rusqlite::Result<Keys> {
    let after = match session.room.walk {
        Walk::At(key) => key,
        Walk::Over(next) if now < next => return Ok(Keys { removed: 0, more: false }),
        Walk::Over(_) => [0; 16],
    };
    let slice = keys_after(&session.conn, after, now)?;
    let due: Vec<&Key> = slice.iter().filter(|it| it.due).take(SLICE as usize).collect();
    let mut removed = 0;
    for it in &due {
        removed += forget(&session.conn, it, now)?;
    }
    // Where as many were due as one call removes, more may be due behind the last of them.
    let more = due.len() == SLICE as usize;
    let last = if more { due.last().copied() } else { slice.last() };
    session.room.walk = match last {
        Some(last) if more || slice.len() as i64 == KEYS_SLICE => Walk::At(last.key),
        _ => Walk::Over(now.saturating_add(WALK_EVERY_MS)),
    };
    Ok(Keys { removed, more })
}

fn keys_after(conn: &Connection, after: [u8; 16], now: i64) -> rusqlite::Result<Vec<Key>> {
    let mut statement = conn.prepare_cached(KEYS)?;
    let key = |row: &rusqlite::Row<'_>| Ok(Key { key: row.get(0)?, due: row.get(1)?, held: row.get(2)? });
    statement.query_map((after, KEYS_SLICE, now), key)?.collect()
}

fn forget(conn: &Connection, it: &Key, now: i64) -> rusqlite::Result<u64> {
    if it.held {
        let later = now.saturating_add(HASH_KEPT_ON_MS);
        conn.prepare_cached("UPDATE dedupe SET forget_at = ? WHERE key = ?")?.execute((later, it.key))?;
        return Ok(0);
    }
    Ok(conn.prepare_cached("DELETE FROM dedupe WHERE key = ?")?.execute([it.key])? as u64)
}
