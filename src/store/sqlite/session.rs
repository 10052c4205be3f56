//! What the writer thread works with: its connection, what it keeps in memory of the tables, and its transactions.

use std::{collections::HashMap, path::Path};

use rusqlite::Connection;

use super::{
    checkpoint::{Checkpoints, WAL_PAGES},
    connect::{Disk, Lock},
    keys::{IDLE_SLICE, Keys, Progress},
    owners::Shards,
    prune::{self, Room},
    rows::fault,
};
use crate::{
    clock::{Clock, to_ms},
    envelope::Name,
    store::Result,
};

/// The writer's connection and what belongs to it. What is kept in memory is put back when a transaction is rolled back.
pub(super) struct Session {
    /// The only connection that writes.
    pub(super) conn: Connection,
    checkpoints: Checkpoints,
    /// First half of every id of this store.
    pub(super) salt: u64,
    /// The time of the batch under way, in ms.
    pub(super) now: i64,
    /// What is known about the space left.
    pub(super) room: Room,
    /// How events are known again.
    pub(super) keys: Keys,
    /// Who owns the shards.
    pub(super) owned: Shards,
    /// The clock was set back, or may have been before this start: times in the tables may lie in its former future.
    pub(super) set_back: bool,
    last_seq: i64,
    targets: HashMap<Name, i64>,
    clock: Clock,
    _disk: Disk,
    _lock: Lock,
}

/// What the probe writes lies under this key of the settings.
const PROBE: &str = "probe";
/// How much it writes: a large event, and more than the odds and ends a full disk has left.
const PROBE_BYTES: u32 = 64 * 1024;

/// What a transaction changes in memory.
#[derive(Clone, Copy)]
struct Mark {
    last_seq: i64,
    keys: Progress,
    room: Room,
    owned: Shards,
}

/// What one job of a transaction answers: `Err` inside for a refusal that leaves its batch-mates alone.
pub(super) type Answer<T> = rusqlite::Result<Result<T>>;

impl Session {
    /// A session on `conn`, whose schema is today's.
    pub(super) fn new(mut conn: Connection, path: &Path, disk: Disk, lock: Lock, clock: Clock) -> Result<Self> {
        let identity = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
        let sql = "SELECT salt, max(last_seq, (SELECT coalesce(max(seq), 0) FROM events)) FROM identity";
        let (salt, last_seq) = conn.query_row(sql, [], identity).map_err(fault)?;
        let keys = Keys::load(&conn).map_err(fault)?;
        let checkpoints = Checkpoints::start(&mut conn, path, disk.clone(), WAL_PAGES)?;
        Ok(Self {
            conn,
            checkpoints,
            salt: salt.cast_unsigned(),
            now: to_ms(clock.now()),
            room: Room::default(),
            keys,
            owned: Shards::default(),
            set_back: true,
            last_seq,
            targets: HashMap::new(),
            clock,
            _disk: disk,
            _lock: lock,
        })
    }

    /// Runs `work` in one transaction: all of it is on disk when this answers `Ok`, nothing of it otherwise.
    pub(super) fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.room.forget();
        let before = Mark { last_seq: self.last_seq, keys: self.keys.mark(), room: self.room, owned: self.owned };
        let now = to_ms(self.clock.now());
        self.set_back |= now < self.now;
        self.now = now;
        let done = self.attempt(|session| {
            session.keys.step(&session.conn, session.last_seq, now)?;
            work(session)
        });
        if done.is_err() {
            self.roll_back(before);
        }
        done
    }

    /// What is to be done between two transactions, after everybody was answered.
    pub(super) fn between(&mut self) {
        self.checkpoints.look(&self.conn);
    }

    /// Does a little of what can wait, while nothing else is to be done; false when nothing of that kind is left.
    pub(super) fn while_idle(&mut self) -> bool {
        if !self.keys.are_moving() {
            return false;
        }
        let moved = self.transaction(|session| session.keys.move_some(&session.conn, IDLE_SLICE));
        if let Err(error) = &moved {
            tracing::warn!("dedupe keys stay where they are for now: {error}");
        }
        self.between();
        moved.is_ok()
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = work(self)?;
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(done)
    }

    fn roll_back(&mut self, before: Mark) {
        // Some errors have ended the transaction already.
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!("the store cannot roll back: {error}");
        }
        self.last_seq = before.last_seq;
        self.keys.put_back(before.keys);
        self.room.put_back(before.room);
        self.owned = before.owned;
        // Had it been looked after, that was undone.
        self.set_back = true;
        self.targets.clear();
    }

    /// The next place in commit order; never given out twice.
    pub(super) fn next_seq(&mut self) -> i64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// The last place that was given out: between two transactions, that of the newest event on disk.
    pub(super) fn last_seq(&self) -> i64 {
        self.last_seq
    }

    /// Keeps the last place that was given out, where the event that shows it may have been removed. The events themselves
    /// show it otherwise: one page less to write in every commit.
    pub(super) fn keep_last_seq(&self) -> rusqlite::Result<()> {
        self.conn.prepare_cached("UPDATE identity SET last_seq = ?")?.execute([self.last_seq]).map(|_| ())
    }

    /// The number of `target` in the tables, drawn where it has none.
    pub(super) fn target_id(&mut self, target: &Name) -> rusqlite::Result<i64> {
        if let Some(id) = self.targets.get(target) {
            return Ok(*id);
        }
        let named = [target.as_str()];
        self.conn.prepare_cached("INSERT INTO targets (name) VALUES (?) ON CONFLICT DO NOTHING")?.execute(named)?;
        let id = self.conn.prepare_cached("SELECT id FROM targets WHERE name = ?")?.query_row(named, |row| row.get(0))?;
        self.targets.insert(target.clone(), id);
        Ok(id)
    }

    /// Keeps `value` under `key`.
    pub(super) fn set_setting(&mut self, key: &str, value: &str) -> Answer<()> {
        self.keep_setting(key, value).map(Ok)
    }

    /// The same, as a part of another job.
    pub(super) fn keep_setting(&self, key: &str, value: &str) -> rusqlite::Result<()> {
        let sql = "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.conn.prepare_cached(sql)?.execute([key, value]).map(|_| ())
    }

    /// Forgets the value under `key`.
    pub(super) fn remove_setting(&mut self, key: &str) -> Answer<()> {
        self.conn.prepare_cached("DELETE FROM settings WHERE key = ?")?.execute([key])?;
        Ok(Ok(()))
    }

    /// Writes as much as an event, to see whether it can be, and looks whether there is room for one. A row alone tells
    /// nothing: it still fits where no event does.
    pub(super) fn probe(&mut self) -> Answer<()> {
        self.conn.prepare_cached("UPDATE identity SET probed_at = ?")?.execute([self.now])?;
        let sql = "INSERT OR REPLACE INTO settings (key, value) VALUES (?, CAST(randomblob(?) AS TEXT))";
        self.conn.prepare_cached(sql)?.execute((PROBE, PROBE_BYTES))?;
        prune::make_room(self)
    }

    /// Removes what [`Session::probe`] wrote.
    pub(super) fn remove_probe(&mut self) -> Answer<()> {
        self.conn.prepare_cached("DELETE FROM settings WHERE key = ?")?.execute([PROBE])?;
        Ok(Ok(()))
    }

    /// Moves keys and WAL to their places, so that the next start has nothing to read or to recover, and lets go of all.
    pub(super) fn close(mut self) {
        // Twice: a move that is under way leaves those that came since it began.
        for _ in 0..2 {
            self.keys.let_go(self.last_seq);
            while self.while_idle() {}
        }
        self.checkpoints.close();
        self.conn.flush_prepared_statement_cache();
        if let Err(error) = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!("the store was closed without a checkpoint, which the next start makes up for: {error}");
        }
    }
}
