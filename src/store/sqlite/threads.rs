//! The first message of each thread, which later ones answer to.

use rusqlite::{Connection, OptionalExtension};

use super::session::{Answer, Session};

/// Threads that one call of [`forget`] removes.
const SLICE: u32 = 500;

/// What the thread answers to; see [`crate::store::Store::thread`].
pub(super) fn root(conn: &Connection, key: [u8; 16]) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT root FROM threads WHERE key = ?")?.query_row([key], |row| row.get(0)).optional()
}

/// Begins the thread, begins it anew or ends it; see [`crate::store::Store::set_thread`].
pub(super) fn set(session: &Session, key: [u8; 16], root: Option<&str>) -> Answer<()> {
    match root {
        Some(root) => {
            let sql = "INSERT OR REPLACE INTO threads (key, root, begun_at) VALUES (?, ?, ?)";
            session.conn.prepare_cached(sql)?.execute((key, root, session.now))?;
        }
        None => _ = session.conn.prepare_cached("DELETE FROM threads WHERE key = ?")?.execute([key])?,
    }
    Ok(Ok(()))
}

/// Forgets threads that began before `cutoff`; true when more are left. They are few, so that none needs an index.
pub(super) fn forget(conn: &Connection, cutoff: i64) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM threads WHERE key IN (SELECT key FROM threads WHERE begun_at < ?1 LIMIT ?2)";
    Ok(conn.prepare_cached(sql)?.execute((cutoff, SLICE))? == SLICE as usize)
}
