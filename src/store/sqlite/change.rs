//! Records that people manage, and the audit of changes.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    query::Where,
    session::{Answer, Session},
};
use crate::{
    clock::{from_ms, to_ms},
    store::{AtMost, AuditFilter, AuditRow, Change, Changed, NewAudit, Record, RecordKind, Write},
};

/// Rows of each kind that one call of [`forget`] removes.
const SLICE: u32 = 500;
/// How long it shows that a record was removed, in ms.
const REMOVED_KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// Makes the change, or nothing of it; see [`crate::store::Store::change`].
pub(super) fn change(session: &Session, change: &Change) -> Answer<Changed> {
    let conn = &session.conn;
    for write in &change.writes {
        if !fits(conn, write)? {
            return Ok(Ok(Changed::Conflict));
        }
    }
    if let Some(most) = &change.at_most
        && most.count < will_be(conn, most, &change.writes)?
    {
        return Ok(Ok(Changed::TooMany));
    }
    let revision = newest(conn)? + 1;
    for write in &change.writes {
        put(session, write, revision)?;
    }
    for entry in &change.audit {
        note(conn, entry)?;
    }
    Ok(Ok(Changed::Done { revision }))
}

/// Whether the record is what the change expects it to be. A removed one is never made again.
fn fits(conn: &Connection, write: &Write) -> rusqlite::Result<bool> {
    let (Write::Put { kind, id, .. } | Write::Remove { kind, id, .. }) = write;
    let mut known = conn.prepare_cached("SELECT revision, doc IS NOT NULL FROM records WHERE kind = ? AND id = ?")?;
    let known: Option<(i64, bool)> = known.query_row([kind.word(), id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(match write {
        Write::Put { expected: None, .. } => known.is_none(),
        Write::Put { expected: Some(expected), .. } | Write::Remove { expected, .. } => known == Some((*expected, true)),
    })
}

/// How many records of the owner there will be.
fn will_be(conn: &Connection, most: &AtMost, writes: &[Write]) -> rusqlite::Result<u32> {
    let sql = "SELECT count(*) FROM records WHERE kind = ? AND owner = ? AND doc IS NOT NULL";
    let there: u32 = conn.prepare_cached(sql)?.query_row((most.kind.word(), &most.owner), |row| row.get(0))?;
    let (mut more, mut fewer) = (0, 0);
    for write in writes {
        match write {
            Write::Put { kind, owner, expected: None, .. } if *kind == most.kind && *owner == most.owner => more += 1,
            Write::Remove { kind, id, .. } if *kind == most.kind && owner_of(conn, *kind, id)? == most.owner => fewer += 1,
            Write::Put { .. } | Write::Remove { .. } => {}
        }
    }
    Ok((there + more).saturating_sub(fewer))
}

fn owner_of(conn: &Connection, kind: RecordKind, id: &str) -> rusqlite::Result<String> {
    conn.prepare_cached("SELECT owner FROM records WHERE kind = ? AND id = ?")?.query_row([kind.word(), id], |row| row.get(0))
}

fn newest(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT coalesce(max(revision), 0) FROM records")?.query_row([], |row| row.get(0))
}

fn put(session: &Session, write: &Write, revision: i64) -> rusqlite::Result<()> {
    match write {
        Write::Put { kind, id, owner, doc, sealed, .. } => {
            let sql = "INSERT INTO records (kind, id, owner, revision, doc, sealed) VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (kind, id) DO UPDATE SET owner = excluded.owner, revision = excluded.revision, doc = excluded.doc,
                    sealed = excluded.sealed";
            let row = params![kind.word(), id, owner, revision, doc, sealed.as_deref()];
            session.conn.prepare_cached(sql)?.execute(row)?;
        }
        Write::Remove { kind, id, .. } => {
            let sql = "UPDATE records SET revision = ?, doc = NULL, sealed = NULL, removed_at = ? WHERE kind = ? AND id = ?";
            session.conn.prepare_cached(sql)?.execute((revision, session.now, kind.word(), id))?;
        }
    }
    Ok(())
}

fn note(conn: &Connection, entry: &NewAudit) -> rusqlite::Result<()> {
    let NewAudit { at, who, action, subject, before, after } = entry;
    let sql = "INSERT INTO audit (at, who, action, subject, before, after) VALUES (?, ?, ?, ?, ?, ?)";
    conn.prepare_cached(sql)?.execute((to_ms(*at), who, action, subject, before, after))?;
    Ok(())
}

/// The records, and those that are gone; see [`crate::store::Store::records`].
pub(super) fn records(conn: &Connection, kind: RecordKind, after: i64) -> rusqlite::Result<Vec<Record>> {
    // All of them in the order of the table; what is new since, by its index.
    let sql = match after {
        0 => {
            "SELECT id, owner, revision, doc, sealed FROM records WHERE kind = ?1 AND doc IS NOT NULL AND ?2 < revision ORDER BY revision"
        }
        _ => {
            "SELECT id, owner, revision, doc, sealed FROM records INDEXED BY records_revision WHERE kind = ?1 AND ?2 < revision ORDER BY revision"
        }
    };
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map((kind.word(), after), |row| {
        let sealed: Option<Vec<u8>> = row.get(4)?;
        Ok(Record {
            kind,
            id: row.get(0)?,
            owner: row.get(1)?,
            revision: row.get(2)?,
            doc: row.get(3)?,
            sealed: sealed.map(Into::into),
        })
    })?;
    rows.collect()
}

/// One record; see [`crate::store::Store::record_of`].
pub(super) fn record_of(conn: &Connection, kind: RecordKind, id: &str) -> rusqlite::Result<Option<Record>> {
    let sql = "SELECT owner, revision, doc, sealed FROM records WHERE kind = ? AND id = ? AND doc IS NOT NULL";
    let record = |row: &rusqlite::Row<'_>| {
        let sealed: Option<Vec<u8>> = row.get(3)?;
        let sealed = sealed.map(Into::into);
        Ok(Record { kind, id: id.to_owned(), owner: row.get(0)?, revision: row.get(1)?, doc: row.get(2)?, sealed })
    };
    conn.prepare_cached(sql)?.query_row([kind.word(), id], record).optional()
}

/// A page of the audit; see [`crate::store::Store::audit`].
pub(super) fn audit(conn: &Connection, filter: &AuditFilter) -> rusqlite::Result<Vec<AuditRow>> {
    let mut clauses = Where::default();
    clauses.equals("who", filter.who.as_deref());
    clauses.equals("subject", filter.subject.as_deref());
    if let Some(beginning) = &filter.action {
        clauses.and("substr(action, 1, length(?)) = ?", [beginning.clone().into(), beginning.clone().into()]);
    }
    clauses.between("at", filter.since, filter.until);
    clauses.page("id", filter.page, filter.limit);
    let mut statement = conn.prepare_cached(&clauses.sql("SELECT id, at, who, action, subject, before, after FROM audit"))?;
    let rows = statement.query_map(clauses.params(), |row| {
        let entry = NewAudit {
            at: from_ms(row.get(1)?),
            who: row.get(2)?,
            action: row.get(3)?,
            subject: row.get(4)?,
            before: row.get(5)?,
            after: row.get(6)?,
        };
        Ok(AuditRow { id: row.get(0)?, entry })
    })?;
    rows.collect()
}

/// Removes a slice of the entries from before `cutoff`, and of the traces of removed records; true when more are left.
pub(super) fn forget(conn: &Connection, cutoff: i64, now: i64) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ?1 LIMIT ?2)";
    let entries = conn.prepare_cached(sql)?.execute((cutoff, SLICE))?;
    // The newest revision stays: revisions only grow.
    let sql = "DELETE FROM records WHERE doc IS NULL AND removed_at < ?1 AND revision < (SELECT max(revision) FROM records)";
    conn.prepare_cached(sql)?.execute([now.saturating_sub(REMOVED_KEPT_MS)])?;
    Ok(entries == SLICE as usize)
}
