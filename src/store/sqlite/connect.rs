//! Opening the files: the lock beside the database, the database itself, and how SQLite is set for each use.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{checkpoint::WAL_PAGES, functions, rows::fault, schema};
use crate::store::{Error, Result};

/// Bytes of the log's file that are kept when it is begun anew: more than it usually has, since cutting a file and making it
/// grow again costs more than writing over it.
const WAL_KEPT: i64 = WAL_PAGES as i64 * 4096 * 2;
/// What the writer keeps of the database in memory, in KiB: filled by use, so an idle relay has none of it.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// The same for each reader.
const READER_CACHE_KIB: i64 = 1024;
/// How long a lock held by somebody else (a backup) is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// Statements that a connection keeps prepared: more than there are, lists of every filter aside.
const STATEMENTS: usize = 64;

/// The lock on a store: held by one process at a time, freed by the system when that process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the database at `path`, in a file beside it that holds the number of the process.
    ///
    /// # Errors
    /// [`Error::Locked`] with path and process when another has it.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let path = beside(path, ".lock");
        let failed = |error: io::Error| Error::Backend(format!("{}: {error}", path.display()).into());
        let mut file = private().truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(held_by(&path, &mut file))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The number only helps people: a disk that is too full for it does not keep the relay from starting.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn held_by(path: &Path, file: &mut File) -> String {
    let mut pid = String::new();
    let known = file.take(20).read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
    let who = if known { format!("process {}", pid.trim()) } else { "another process".into() };
    format!("{} is held by {who}", path.display())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The database's file, open beside SQLite's own handles.
///
/// Whoever has a connection keeps one of these and drops it last: when a process closes any handle of a file, the system frees all
/// locks it holds there (POSIX, `fcntl`), those of SQLite too.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<File>);

impl Disk {
    /// Opens the database at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::Backend(format!("{}: {error}", path.display()).into());
        File::open(path).map(|file| Self(Arc::new(file))).map_err(failed)
    }

    /// Returns when what was written to the database is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Options that make a file which only its owner may read: a store holds what others sent in confidence.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Opens the database at `path` to write to, made where it is missing, in today's schema.
///
/// # Errors
/// [`Error::Unreadable`] when the file is not a store or is one of a newer version.
pub(super) fn writer(path: &Path) -> Result<Connection> {
    if !fs::exists(path).unwrap_or(false) {
        let failed = |error: io::Error| Error::Backend(format!("{}: {error}", path.display()).into());
        // SQLite gives the files beside it the same mode.
        private().truncate(false).open(path).map_err(failed)?;
    }
    let named = |error: Error| match error {
        Error::Unreadable(why) => Error::Unreadable(format!("{}: {why}", path.display())),
        other => other,
    };
    connect_writer(path).map_err(named)
}

fn connect_writer(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(fault)?;
    // Before anything is written: another program's file is left as it was.
    conn.busy_timeout(BUSY).map_err(fault)?;
    schema::check(&conn)?;
    set_writer(&conn).map_err(fault)?;
    schema::prepare(&mut conn)?;
    Ok(conn)
}

/// WAL with a sync on every commit: what was acknowledged outlives the power. Settings that need no write come first.
fn set_writer(conn: &Connection) -> rusqlite::Result<()> {
    keep_plans(conn)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "memory")?;
    conn.pragma_update(None, "synchronous", "full")?;
    // What is removed from a page is overwritten when the page is written anyway.
    conn.query_row("PRAGMA secure_delete = FAST", [], |_| Ok(()))?;
    // `checkpoint.rs` does that.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        conn.pragma_update(None, "journal_mode", "wal")?;
    }
    Ok(())
}

/// Plans each statement once. SQLite would otherwise look at the values bound to it, and plan it again whenever they were others: for
/// each delivery that is read back that cost more than the reading.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

/// Opens the database at `path`, which the writer has opened before, to move the log into it.
pub(super) fn mover(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(conn)
}

/// Opens the database at `path`, which the writer has opened before, to read from.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY)?;
    keep_plans(&conn)?;
    functions::define(&conn)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "memory")?;
    Ok(conn)
}
