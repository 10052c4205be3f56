//! Which file is a store of ours, and bringing its schema up to what this version knows.

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::rows::fault;
use crate::store::{Error, Result};

/// Marks a database file as a Hookyard store: `HkYd` (SQLite's `application_id`).
const APPLICATION_ID: i32 = 0x486b_5964;

/// What brings a store from one version to the next, oldest first. Never edited once released, only added to; within a major version
/// of Hookyard a step only adds, so that whoever goes back to the version before goes on with the same file.
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
/// The oldest version of the schema of which a binary can work with what [`MIGRATIONS`] make: raised only by a step that does not just
/// add.
const WORKS_SINCE: i32 = 12;
/// Where the store says so, among its settings.
const WORKS_SINCE_KEY: &str = "schema.works_since";

/// Makes sure that `conn` is a store of ours in today's schema: an empty file becomes one, an older one is brought up.
///
/// # Errors
/// [`Error::Unreadable`] for another program's file and for a newer schema that this version cannot work with; the file is left as it
/// was.
pub(super) fn prepare(conn: &mut Connection) -> Result<()> {
    match check(conn)? {
        older if older < VERSION => migrate(conn, older),
        VERSION => Ok(()),
        newer => {
            tracing::warn!(
                version = newer,
                known = VERSION,
                "a later version has added to the store; this one goes on with what it knows"
            );
            Ok(())
        }
    }
}

/// The version of the store that `conn` opened, 0 for an empty file; writes nothing.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check(conn: &Connection) -> Result<i32> {
    let version = version(conn)?;
    let needed = if VERSION < version { works_since(conn, version)? } else { version };
    if VERSION < needed {
        return Err(Error::Unreadable(format!(
            "its schema has version {version}, which needs a hookyard that knows version {needed}; this one knows {VERSION}, and has \
             changed nothing: start the newer hookyard, or restore a backup from before it"
        )));
    }
    Ok(version)
}

/// Which version a hookyard must know to work with this store, which has the newer `version`.
fn works_since(conn: &Connection, version: i32) -> Result<i32> {
    let sql = "SELECT value FROM settings WHERE key = ?";
    let said = conn.query_row(sql, [WORKS_SINCE_KEY], |row| row.get::<_, String>(0)).optional().map_err(fault)?;
    Ok(said.and_then(|text| text.parse().ok()).unwrap_or(version))
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
    // A store that says nothing needs its own version.
    if WORKS_SINCE < VERSION {
        let known = "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)";
        tx.execute(known, (WORKS_SINCE_KEY, WORKS_SINCE.to_string())).map_err(fault)?;
    }
    tx.commit().map_err(fault)
}

fn random_salt() -> Result<i64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Backend("the system gives no random bytes".into()))?;
    Ok(i64::from_ne_bytes(bytes))
}
