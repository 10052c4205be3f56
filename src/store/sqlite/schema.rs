//! Which file is a store of ours, and bringing its schema up to what this version knows.

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, TransactionBehavior};

use super::rows::fault;
use crate::store::{Error, Result};

/// Marks a database file as a Hookyard store: `HkYd` (SQLite's `application_id`).
const APPLICATION_ID: i32 = 0x486b_5964;

/// What brings a store from one version to the next, oldest first. Never edited once released, only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
    include_str!("migrations/0009.sql"),
    include_str!("migrations/0010.sql"),
    include_str!("migrations/0011.sql"),
    include_str!("migrations/0012.sql"),
];

/// The version of the schema that this binary reads and writes (SQLite's `user_version`).
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// Makes sure that `conn` is a store of ours in today's schema: an empty file becomes one, an older one is brought up.
///
/// # Errors
/// [`Error::Unreadable`] for another program's file and for a newer schema; the file is left as it was.
pub(super) fn prepare(conn: &mut Connection) -> Result<()> {
    match check(conn)? {
        VERSION => Ok(()),
        older => migrate(conn, older),
    }
}

/// The version of the store that `conn` opened, 0 for an empty file; writes nothing.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check(conn: &Connection) -> Result<i32> {
    match version(conn)? {
        newer if VERSION < newer => Err(Error::Unreadable(format!(
            "its schema has version {newer}, this binary knows {VERSION} and older; use the hookyard that wrote it"
        ))),
        known => Ok(known),
    }
}

/// The schema's version; 0 for a file that nothing was written to yet.
fn version(conn: &Connection) -> Result<i32> {
    let id: i32 = pragma(conn, "application_id")?;
    let version: i32 = pragma(conn, "user_version")?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fault)?;
    match (id, tables) {
        (APPLICATION_ID, _) => Ok(version),
        (0, 0) => Ok(0),
        _ => Err(Error::Unreadable("it is a database of another program".into())),
    }
}

fn pragma(conn: &Connection, name: &str) -> Result<i32> {
    conn.pragma_query_value(None, name, |row| row.get(0)).map_err(fault)
}

/// Runs what is missing in one transaction, so that a kill leaves the old schema or the new one.
fn migrate(conn: &mut Connection, from: i32) -> Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
    let done = usize::try_from(from).map_err(|_| Error::Unreadable(format!("its schema has version {from}")))?;
    for step in MIGRATIONS.iter().skip(done) {
        tx.execute_batch(step).map_err(fault)?;
    }
    if from == 0 {
        tx.execute("INSERT INTO identity (salt) VALUES (?)", [random_salt()?]).map_err(fault)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(fault)?;
    tx.pragma_update(None, "user_version", VERSION).map_err(fault)?;
    tx.commit().map_err(fault)
}

fn random_salt() -> Result<i64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Backend("the system gives no random bytes".into()))?;
    Ok(i64::from_ne_bytes(bytes))
}
