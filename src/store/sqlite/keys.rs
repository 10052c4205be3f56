//! How events are known again. Keys are random, so each that is written at its place in the table of all keys touches a page of its
//! own, which the log and the database then both have to take. Those that came lately are therefore written in the order in which they come,
//! known by heart, and moved to their places many at a time, in the order of the table: each page then takes a dozen.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

/// Keys known by heart after which they are moved.
const MOVE_AT: usize = 65_536;
/// How long a key waits at most, in ms: a relay with little to do ends up with none in memory.
const MOVE_AFTER_MS: i64 = 60_000;
/// Keys moved in a transaction of others,
const SLICE: usize = 32;
/// and how many more for each key that came in the one before: they go faster than they come.
const PER_FRESH: usize = 2;
/// As many are moved at once after they have waited: a few ms of work, once a minute.
const ALL_AT_ONCE: usize = 2048;
/// Keys moved at once while there is nothing else to do: about 1 ms of work.
pub(super) const IDLE_SLICE: usize = 512;
/// Rows that were moved and are removed in place of one key.
const ROWS_PER_KEY: usize = 4;

/// A dedupe key: its order is the table's.
pub(super) type Key = [u8; 16];

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// First 16 bytes of the hash of the bytes received.
    pub(super) body: [u8; 16],
    /// The event.
    pub(super) seq: i64,
    /// When it was accepted, in ms.
    pub(super) seen_at: i64,
    /// Whether its id is a hash of the body.
    pub(super) hashed: bool,
    /// What was put behind that id.
    pub(super) suffix: Option<i64>,
    /// When it is forgotten, in ms.
    pub(super) forget_at: i64,
}

/// The keys that came lately, and the way of the others to their table.
#[derive(Debug)]
pub(super) struct Keys {
    recent: BTreeMap<Key, Seen>,
    progress: Progress,
    /// What this transaction changed in `recent`, and how that was before.
    undo: Vec<(Key, Option<Seen>)>,
    move_at: usize,
}

/// What is put back with a transaction beside the keys themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    moving: Moving,
    /// When the first key came that no move has taken yet, in ms.
    since: Option<i64>,
    /// Keys that this transaction brought.
    fresh: usize,
}

/// How far the move under way has come. It takes the keys of events up to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moving {
    Nothing,
    /// Keys behind `after` go to their places.
    Keys {
        last: i64,
        after: Option<Key>,
    },
    /// They are there: what was written of them in the order in which they came is removed.
    Rows {
        last: i64,
    },
}

/// What the table of all keys says of one.
pub(super) const KNOWN: &str = "SELECT body, seq, seen_at, hashed, suffix, forget_at FROM dedupe WHERE key = ?";
const WRITE: &str =
    "INSERT OR REPLACE INTO dedupe (key, body, seq, seen_at, hashed, suffix, forget_at) VALUES (?, ?, ?, ?, ?, ?, ?)";
const WRITE_RECENT: &str =
    "INSERT INTO dedupe_recent (key, body, seq, seen_at, hashed, suffix, forget_at) VALUES (?, ?, ?, ?, ?, ?, ?)";
const READ_RECENT: &str = "SELECT key, body, seq, seen_at, hashed, suffix, forget_at FROM dedupe_recent ORDER BY seq";
const REMOVE_RECENT: &str =
    "DELETE FROM dedupe_recent WHERE seq IN (SELECT seq FROM dedupe_recent WHERE seq <= ?1 ORDER BY seq LIMIT ?2)";

impl Keys {
    /// Those that an earlier run has not moved.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut statement = conn.prepare(READ_RECENT)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, read(row, 1)?)))?;
        let recent: BTreeMap<Key, Seen> = rows.collect::<rusqlite::Result<_>>()?;
        // They have waited once already: the first transaction moves them.
        let since = (!recent.is_empty()).then_some(i64::MIN);
        Ok(Self { recent, progress: Progress { moving: Moving::Nothing, since, fresh: 0 }, undo: Vec::new(), move_at: MOVE_AT })
    }

    /// What is remembered of `key`.
    pub(super) fn seen(&self, conn: &Connection, key: &Key) -> rusqlite::Result<Option<Seen>> {
        if let Some(seen) = self.recent.get(key) {
            return Ok(Some(*seen));
        }
        conn.prepare_cached(KNOWN)?.query_row([key], |row| read(row, 0)).optional()
    }

    /// Remembers `key`, in place of what was remembered of it.
    pub(super) fn remember(&mut self, conn: &Connection, key: Key, seen: Seen) -> rusqlite::Result<()> {
        write(conn, WRITE_RECENT, &key, &seen)?;
        let before = self.recent.insert(key, seen);
        self.undo.push((key, before));
        self.progress.fresh += 1;
        self.progress.since.get_or_insert(seen.seen_at);
        Ok(())
    }

    /// A transaction begins: what must be put back with it.
    pub(super) fn mark(&mut self) -> Progress {
        self.undo.clear();
        self.progress
    }

    /// The transaction came to nothing.
    pub(super) fn put_back(&mut self, before: Progress) {
        for (key, seen) in self.undo.drain(..).rev() {
            match seen {
                Some(seen) => self.recent.insert(key, seen),
                None => self.recent.remove(&key),
            };
        }
        self.progress = before;
    }

    /// Lets all that are known by heart go, however few they are and however short they have waited; `last` is the last event there is.
    pub(super) fn let_go(&mut self, last: i64) {
        if !self.are_moving() && !self.recent.is_empty() {
            self.progress.since = None;
            self.progress.moving = Moving::Keys { last, after: None };
        }
    }

    /// Whether keys are on their way.
    pub(super) fn are_moving(&self) -> bool {
        self.progress.moving != Moving::Nothing
    }

    /// The share of a transaction of others in moving them; `last` is the last event there is.
    pub(super) fn step(&mut self, conn: &Connection, last: i64, now: i64) -> rusqlite::Result<()> {
        let fresh = std::mem::take(&mut self.progress.fresh);
        // The clock may have been set back since.
        let waited = self.progress.since.is_some_and(|since| MOVE_AFTER_MS <= now.saturating_sub(since) || now < since);
        let begins = !self.are_moving() && (self.move_at <= self.recent.len() || waited);
        if begins {
            self.let_go(last);
        }
        let few = begins && self.recent.len() < ALL_AT_ONCE;
        self.move_some(conn, if few { ALL_AT_ONCE } else { SLICE + PER_FRESH * fresh })
    }

    /// Moves `count` keys, or removes what is left of those that were moved.
    pub(super) fn move_some(&mut self, conn: &Connection, count: usize) -> rusqlite::Result<()> {
        self.progress.moving = match self.progress.moving {
            Moving::Nothing => Moving::Nothing,
            Moving::Keys { last, after } => match self.move_keys(conn, last, after, count)? {
                Some(after) => Moving::Keys { last, after: Some(after) },
                None => Moving::Rows { last },
            },
            Moving::Rows { last } => {
                let limit = count * ROWS_PER_KEY;
                let removed = conn.prepare_cached(REMOVE_RECENT)?.execute((last, limit as i64))?;
                if removed < limit { Moving::Nothing } else { Moving::Rows { last } }
            }
        };
        Ok(())
    }

    /// Moves up to `count` of the keys behind `after`; gives the last of them, or `None` when there are no more.
    fn move_keys(&mut self, conn: &Connection, last: i64, after: Option<Key>, count: usize) -> rusqlite::Result<Option<Key>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = after.map_or(Unbounded, Excluded);
        let slice = self.recent.range((behind, Unbounded)).filter(|(_, seen)| seen.seq <= last).take(count);
        let slice: Vec<(Key, Seen)> = slice.map(|(key, seen)| (*key, *seen)).collect();
        for (key, seen) in &slice {
            write(conn, WRITE, key, seen)?;
            self.recent.remove(key);
            self.undo.push((*key, Some(*seen)));
        }
        Ok(slice.last().filter(|_| slice.len() == count).map(|(key, _)| *key))
    }
}

fn read(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<Seen> {
    Ok(Seen {
        body: row.get(from)?,
        seq: row.get(from + 1)?,
        seen_at: row.get(from + 2)?,
        hashed: row.get(from + 3)?,
        suffix: row.get(from + 4)?,
        forget_at: row.get(from + 5)?,
    })
}

fn write(conn: &Connection, sql: &str, key: &Key, seen: &Seen) -> rusqlite::Result<()> {
    let row = (key, seen.body, seen.seq, seen.seen_at, seen.hashed, seen.suffix, seen.forget_at);
    conn.prepare_cached(sql)?.execute(row).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::connect;

    /// Keys in a new database, moved from 100 on.
    struct Bench {
        _folder: tempfile::TempDir,
        conn: Connection,
        keys: Keys,
        last: i64,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let conn = connect::writer(&folder.path().join("it.db")).unwrap();
            conn.pragma_update(None, "synchronous", "off").unwrap();
            let keys = Keys { move_at: 100, ..Keys::load(&conn).unwrap() };
            Self { _folder: folder, conn, keys, last: 0 }
        }

        /// A transaction that remembers `names`, at `now`.
        fn remember(&mut self, names: impl IntoIterator<Item = u32>, now: i64) {
            self.keys.mark();
            self.keys.step(&self.conn, self.last, now).unwrap();
            for name in names {
                self.last += 1;
                self.keys.remember(&self.conn, key(name), seen(self.last, now)).unwrap();
            }
        }

        fn until_moved(&mut self) {
            while self.keys.are_moving() {
                self.keys.mark();
                self.keys.move_some(&self.conn, 7).unwrap();
            }
        }

        fn seq(&self, name: u32) -> Option<i64> {
            self.keys.seen(&self.conn, &key(name)).unwrap().map(|seen| seen.seq)
        }

        fn rows(&self, table: &str) -> i64 {
            self.conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        }
    }

    /// Spread over the table, as hashes are.
    fn key(name: u32) -> Key {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&name.wrapping_mul(2_654_435_761).to_be_bytes());
        key
    }

    fn seen(seq: i64, at: i64) -> Seen {
        Seen { body: [1; 16], seq, seen_at: at, hashed: false, suffix: None, forget_at: at + 1000 }
    }

    #[test]
    fn all_are_known_before_while_and_after_they_are_moved() {
        let mut bench = Bench::new();
        bench.keys.move_at = 3000;
        for name in 0..6000 {
            bench.remember([name], 1);
            assert_eq!(bench.seq(name / 2), Some(i64::from(name / 2) + 1));
        }
        assert!(bench.keys.recent.len() <= 3000, "they go faster than they come");
        for minute in 1..3 {
            bench.remember([], 1 + minute * MOVE_AFTER_MS);
            bench.until_moved();
        }
        assert!(bench.keys.recent.is_empty());
        assert_eq!((bench.rows("dedupe"), bench.rows("dedupe_recent")), (6000, 0));
        assert!((0..6000).all(|name| bench.seq(name) == Some(i64::from(name) + 1)));
        assert_eq!(bench.seq(6000), None);
    }

    #[test]
    fn few_wait_a_minute_and_no_longer() {
        let mut bench = Bench::new();
        bench.remember([1, 2], 0);
        bench.remember([], MOVE_AFTER_MS - 1);
        assert_eq!(bench.rows("dedupe"), 0);
        bench.remember([], MOVE_AFTER_MS);
        bench.until_moved();
        assert_eq!((bench.rows("dedupe"), bench.rows("dedupe_recent"), bench.keys.recent.len()), (2, 0, 0));
    }

    #[test]
    fn what_is_rolled_back_is_as_it_was() {
        let mut bench = Bench::new();
        bench.remember(0..150, 0);
        let (recent, before) = (bench.keys.recent.clone(), bench.keys.mark());
        bench.conn.execute_batch("BEGIN").unwrap();
        bench.keys.step(&bench.conn, bench.last, 1).unwrap();
        bench.keys.remember(&bench.conn, key(3), seen(900, 1)).unwrap();
        bench.keys.remember(&bench.conn, key(500), seen(901, 1)).unwrap();
        assert_ne!(bench.keys.recent, recent);
        bench.conn.execute_batch("ROLLBACK").unwrap();
        bench.keys.put_back(before);
        assert_eq!((&bench.keys.recent, bench.keys.are_moving()), (&recent, false));
        assert_eq!((bench.seq(3), bench.seq(500), bench.rows("dedupe")), (Some(4), None, 0));
    }

    #[test]
    fn the_latest_counts_when_a_key_comes_again_while_it_is_moved() {
        let mut bench = Bench::new();
        bench.remember(0..5000, 0);
        bench.remember(0..50, 1);
        assert!(bench.keys.are_moving());
        bench.until_moved();
        assert_eq!((bench.seq(0), bench.seq(49), bench.seq(50)), (Some(5001), Some(5050), Some(51)));
        bench.remember([], 1 + MOVE_AFTER_MS);
        bench.until_moved();
        assert_eq!((bench.seq(0), bench.seq(49), bench.rows("dedupe")), (Some(5001), Some(5050), 5000));
    }

    #[test]
    fn a_move_that_was_broken_off_is_made_again() {
        let mut bench = Bench::new();
        bench.remember(0..5000, 0);
        bench.remember(0..50, 1);
        for count in [40, 9000, 20] {
            bench.keys.mark();
            bench.keys.move_some(&bench.conn, count).unwrap();
            bench.keys = Keys::load(&bench.conn).unwrap();
            assert!((0..5000).all(|name| bench.seq(name) == Some(i64::from(name) + if name < 50 { 5001 } else { 1 })));
            bench.remember([], 2);
            assert!(bench.keys.are_moving());
        }
        bench.until_moved();
        assert_eq!((bench.rows("dedupe"), bench.rows("dedupe_recent")), (5000, 0));
    }
}
