//! Moving the write-ahead log into the database without making anybody wait. A thread of its own moves what is there while the
//! writer goes on; only the little that was written meanwhile is moved by the writer itself, between two commits, since a
//! log is begun anew only when all of it is moved. SQLite syncs the database only when everything was moved, which the thread never
//! manages while there is traffic: it syncs by itself. SQLite's own checkpoint, on the writer's thread, made every commit of that
//! moment wait for it (measured at 1,000 events/s with 300,000 stored: the slowest hundredth of all requests).

use std::{
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

use super::{
    connect::{self, Disk},
    rows::fault,
};
use crate::store::{Error, Result};

/// Pages of the log after which they are moved: 64 MiB. Measured: a quarter of that costs a third of the rate once the tables
/// have grown, since a page that is changed often is moved once (`field/performance.md`).
pub(super) const WAL_PAGES: u32 = 16_384;
/// What the thread may leave to the writer, in pages: about 2 ms of work.
const REST_PAGES: u32 = 128;
/// Rounds of the thread until it leaves what remains to the writer: each begins with what was written during the last.
const ROUNDS_MAX: usize = 5;
/// How much longer the log may grow before it is tried again when a reader kept it from being begun anew, as a divisor.
const AGAIN: u32 = 8;

/// The writer's side.
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    every: u32,
    /// The length of the log, in pages, at which the thread is called next.
    call_at: u32,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// How long the log is, in pages.
    pages: AtomicU32,
    step: Mutex<Step>,
    bell: Condvar,
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nobody's: the log is short.
    Idle,
    /// The thread moves pages.
    Moving,
    /// The writer moves the rest.
    Rest,
    /// The store is closed.
    Over,
}

impl Shared {
    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkpoints {
    /// Takes over from SQLite's own checkpoints on `conn`, the writer's connection to the database at `path`; begins to move
    /// pages when the log has `every` of them.
    pub(super) fn start(conn: &mut Connection, path: &Path, disk: Disk, every: u32) -> Result<Self> {
        let shared = Arc::new(Shared { pages: AtomicU32::new(0), step: Mutex::new(Step::Idle), bell: Condvar::new() });
        let told = shared.clone();
        let hook = move |_: &mut rusqlite::hooks::Wal, pages| {
            told.pages.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        conn.wal_hook(Some(hook)).map_err(fault)?;
        let (beside, mover) = (connect::mover(path).map_err(fault)?, shared.clone());
        let thread = thread::Builder::new().name("store-mover".into()).spawn(move || run(&beside, &disk, &mover));
        let thread = thread.map_err(|error| Error::Backend(format!("no thread for checkpoints: {error}").into()))?;
        Ok(Self { shared, every, call_at: every, thread: Some(thread) })
    }

    /// Between two commits of `conn`: calls the thread when the log has grown long, or moves what it left.
    pub(super) fn look(&mut self, conn: &Connection) {
        let pages = self.shared.pages.load(Ordering::Relaxed);
        if pages < self.every {
            self.call_at = self.every;
        }
        if pages < self.call_at {
            return;
        }
        let step = *self.shared.step();
        match step {
            Step::Idle => self.turn(Step::Moving),
            Step::Rest => {
                move_pages(conn);
                self.call_at = pages.saturating_add(self.every / AGAIN);
                self.turn(Step::Idle);
            }
            Step::Moving | Step::Over => {}
        }
    }

    fn turn(&self, step: Step) {
        *self.shared.step() = step;
        self.shared.bell.notify_one();
    }

    /// Waits for the thread.
    pub(super) fn close(&mut self) {
        self.turn(Step::Over);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for the store's checkpoints broke off");
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(conn: &Connection, disk: &Disk, shared: &Shared) {
    loop {
        let step = shared.bell.wait_while(shared.step(), |step| matches!(step, Step::Idle | Step::Rest));
        let step = *step.unwrap_or_else(PoisonError::into_inner);
        if step == Step::Over {
            return;
        }
        let mut rounds = 0..ROUNDS_MAX;
        while rounds.next().is_some() {
            let moved = move_pages(conn);
            if let Err(error) = disk.sync() {
                tracing::warn!("the store's database is not synced for now: {error}");
            }
            if shared.pages.load(Ordering::Relaxed).saturating_sub(moved) < REST_PAGES {
                break;
            }
        }
        let mut step = shared.step();
        if *step == Step::Moving {
            *step = Step::Rest;
        }
    }
}

/// Moves what is in the log by now, as far as no reader needs the database as it is; gives how many of its pages are moved in all.
fn move_pages(conn: &Connection) -> u32 {
    let moved = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(2));
    moved.map(|moved| u32::try_from(moved).unwrap_or(0)).unwrap_or_else(|error| {
        tracing::warn!("the store's log is not moved into the database for now: {error}");
        0
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_log_is_moved_beside_the_writer_and_begun_anew() {
        const EVERY: u32 = 64;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it.db");
        let mut conn = connect::writer(&path).unwrap();
        let mut checkpoints = Checkpoints::start(&mut conn, &path, Disk::open(&path).unwrap(), EVERY).unwrap();
        conn.execute_batch("CREATE TABLE it (n INTEGER PRIMARY KEY, filler BLOB NOT NULL)").unwrap();
        let write = |n: i64| conn.execute("INSERT INTO it (n, filler) VALUES (?, zeroblob(5000))", [n]).unwrap();
        let (mut written, mut longest, mut begun_anew) = (0, 0, 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        while begun_anew < 3 {
            assert!(Instant::now() < deadline, "the log was never begun anew; it has {longest} pages");
            written += 1;
            write(written);
            let pages = checkpoints.shared.pages.load(Ordering::Relaxed);
            begun_anew += u32::from(pages < longest);
            longest = if pages < longest { 0 } else { pages };
            checkpoints.look(&conn);
        }
        checkpoints.close();
        drop((checkpoints, conn));
        let count: i64 = connect::reader(&path).unwrap().query_row("SELECT count(*) FROM it", [], |row| row.get(0)).unwrap();
        assert_eq!(count, written);
    }

    #[test]
    fn a_reader_in_the_way_does_not_stop_the_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it.db");
        let mut conn = connect::writer(&path).unwrap();
        let mut checkpoints = Checkpoints::start(&mut conn, &path, Disk::open(&path).unwrap(), 8).unwrap();
        conn.execute_batch("CREATE TABLE it (n INTEGER PRIMARY KEY, filler BLOB NOT NULL)").unwrap();
        let reader = connect::reader(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM it").unwrap();
        for n in 0..200_i64 {
            conn.execute("INSERT INTO it (n, filler) VALUES (?, zeroblob(5000))", [n]).unwrap();
            checkpoints.look(&conn);
        }
        assert_eq!(reader.query_row("SELECT count(*) FROM it", [], |row| row.get::<_, i64>(0)), Ok(0));
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(reader.query_row("SELECT count(*) FROM it", [], |row| row.get::<_, i64>(0)), Ok(200));
    }
}
