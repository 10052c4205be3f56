//! What the writer thread works with: its connection, what it keeps in memory of the tables, and its transactions.

use std::collections::HashMap;

use rusqlite::Connection;

use super::{
    connect::Lock,
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
    /// First half of every id of this store.
    pub(super) salt: u64,
    /// The time of the batch under way, in ms.
    pub(super) now: i64,
    /// What is known about the space left.
    pub(super) room: Room,
    last_seq: i64,
    targets: HashMap<Name, i64>,
    clock: Clock,
    _lock: Lock,
}

/// What a transaction changes in memory.
#[derive(Clone, Copy)]
struct Mark {
    last_seq: i64,
    room: Room,
}

/// What one job of a transaction answers: `Err` inside for a refusal that leaves its batch-mates alone.
pub(super) type Answer<T> = rusqlite::Result<Result<T>>;

impl Session {
    /// A session on `conn`, whose schema is today's.
    pub(super) fn new(conn: Connection, lock: Lock, clock: Clock) -> Result<Self> {
        let identity = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get(1)?));
        let (salt, last_seq) = conn.query_row("SELECT salt, last_seq FROM identity", [], identity).map_err(fault)?;
        Ok(Self {
            conn,
            salt: salt.cast_unsigned(),
            now: to_ms(clock.now()),
            room: Room::default(),
            last_seq,
            targets: HashMap::new(),
            clock,
            _lock: lock,
        })
    }

    /// Runs `work` in one transaction: all of it is on disk when this answers `Ok`, nothing of it otherwise.
    pub(super) fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.room.forget();
        let before = Mark { last_seq: self.last_seq, room: self.room };
        self.now = to_ms(self.clock.now());
        let done = self.attempt(before, work);
        if done.is_err() {
            self.roll_back(before);
        }
        done
    }

    fn attempt<T>(&mut self, before: Mark, work: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = work(self)?;
        if before.last_seq < self.last_seq {
            self.conn.prepare_cached("UPDATE identity SET last_seq = ?")?.execute([self.last_seq])?;
        }
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
        self.room = before.room;
        self.targets.clear();
    }

    /// The next place in commit order; never given out twice.
    pub(super) fn next_seq(&mut self) -> i64 {
        self.last_seq += 1;
        self.last_seq
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
        let sql = "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.conn.prepare_cached(sql)?.execute([key, value])?;
        Ok(Ok(()))
    }

    /// Writes something, to see whether it can be, and looks whether there is room for events.
    pub(super) fn probe(&mut self) -> Answer<()> {
        self.conn.prepare_cached("UPDATE identity SET probed_at = ?")?.execute([self.now])?;
        prune::make_room(self)
    }

    /// Moves the WAL into the database, so that the next start has nothing to recover, and lets go of both.
    pub(super) fn close(self) {
        self.conn.flush_prepared_statement_cache();
        if let Err(error) = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!("the store was closed without a checkpoint, which the next start makes up for: {error}");
        }
    }
}
