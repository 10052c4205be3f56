//! What people manage and rooms keep: settings, threads, records, and the audit of changes.

use std::collections::HashMap;

use super::{
    clauses::Where,
    connect::{Answer, Db, Pg},
    rows::Cells,
    session::Session,
    text::Text,
};
use crate::{
    clock::to_ms,
    store::{AtMost, AuditFilter, AuditRow, Change, Changed, NewAudit, Record, RecordKind, Write},
};

/// Keeps values under keys.
pub(super) const KEEP_SETTINGS: &str = "INSERT INTO settings (key, value) SELECT * FROM unnest($1::text[], $2::text[])
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// Keeps `value` under `key`.
pub(super) async fn set_setting(db: &Db, key: &str, value: &str) -> Pg<()> {
    db.run(KEEP_SETTINGS, &[&[Text::of(key)].as_slice(), &[Text::of(value)].as_slice()]).await.map(|_| ())
}

/// Forgets the value under `key`.
pub(super) async fn remove_setting(db: &Db, key: &str) -> Pg<()> {
    db.run("DELETE FROM settings WHERE key = $1", &[&Text::of(key)]).await.map(|_| ())
}

/// What is kept under `key`.
pub(super) async fn setting(db: &Db, key: &str) -> Pg<Option<String>> {
    let row = db.first("SELECT value FROM settings WHERE key = $1", &[&Text::of(key)]).await?;
    row.map(|row| Cells::of(&row).text()).transpose()
}

/// What is kept under keys that begin with `prefix`.
pub(super) async fn settings(db: &Db, prefix: &str) -> Pg<Vec<(String, String)>> {
    let sql = "SELECT key, value FROM settings WHERE key >= $1 AND starts_with(key, $1) ORDER BY key";
    let pair = |row: &tokio_postgres::Row| {
        let mut cells = Cells::of(row);
        Ok((cells.text()?, cells.text()?))
    };
    db.rows(sql, &[&Text::of(prefix)]).await?.iter().map(pair).collect()
}

/// What the thread answers to; see [`crate::store::Store::thread`].
pub(super) async fn thread(db: &Db, key: [u8; 16]) -> Pg<Option<String>> {
    let row = db.first("SELECT root FROM threads WHERE key = $1", &[&&key[..]]).await?;
    row.map(|row| Cells::of(&row).text()).transpose()
}

/// Begins the thread, begins it anew or ends it; see [`crate::store::Store::set_thread`].
pub(super) async fn set_thread(db: &Db, key: [u8; 16], root: Option<&str>, now: i64) -> Pg<()> {
    let done = match root {
        Some(root) => {
            let sql = "INSERT INTO threads (key, root, begun_at) VALUES ($1, $2, $3)
                ON CONFLICT (key) DO UPDATE SET root = excluded.root, begun_at = excluded.begun_at";
            db.run(sql, &[&&key[..], &Text::of(root), &now]).await
        }
        None => db.run("DELETE FROM threads WHERE key = $1", &[&&key[..]]).await,
    };
    done.map(|_| ())
}

/// Rows of each kind that one call of [`forget`] removes.
const SLICE: i64 = 500;
/// How long it shows that a record was removed, in ms.
const REMOVED_KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// Makes the change, or nothing of it; see [`crate::store::Store::change`].
pub(super) async fn change(session: &Session<'_>, change: &Change) -> Answer<Changed> {
    let known = Known::of(session, change).await?;
    if !change.writes.iter().all(|write| known.fits(write)) {
        return Ok(Ok(Changed::Conflict));
    }
    if let Some(most) = &change.at_most
        && i64::from(most.count) < known.will_be(session, most, &change.writes).await?
    {
        return Ok(Ok(Changed::TooMany));
    }
    let newest = session.db.first("SELECT greatest(revision, (SELECT max(revision) FROM records)) FROM identity", &[]).await?;
    let revision = newest.map_or(Ok(0), |row| row.try_get::<_, i64>(0))? + 1;
    for write in &change.writes {
        put(session, write, revision).await?;
    }
    for entry in &change.audit {
        note(session, entry).await?;
    }
    Ok(Ok(Changed::Done { revision }))
}

/// The records that a change is about, as they are.
struct Known(HashMap<(String, String), Stands>);

struct Stands {
    revision: i64,
    there: bool,
    owner: String,
}

impl Known {
    async fn of(session: &Session<'_>, change: &Change) -> Pg<Self> {
        let (kinds, ids): (Vec<&str>, Vec<Text<'_>>) =
            change.writes.iter().map(|write| (of(write).0.word(), Text::of(of(write).1))).unzip();
        let sql = "SELECT r.kind, r.id, r.revision, r.doc IS NOT NULL, r.owner FROM records r
            JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS u (kind, id)) AS u ON r.kind = u.kind AND r.id = u.id";
        let mut known = HashMap::new();
        for row in session.db.rows(sql, &[&kinds, &ids]).await? {
            let mut cells = Cells::of(&row);
            let key = (cells.text()?, cells.text()?);
            known.insert(key, Stands { revision: cells.int()?, there: cells.take()?, owner: cells.text()? });
        }
        Ok(Self(known))
    }

    fn get(&self, write: &Write) -> Option<&Stands> {
        let (kind, id) = of(write);
        self.0.get(&(kind.word().to_owned(), id.to_owned()))
    }

    /// Whether the record is what the change expects it to be. A removed one is never made again.
    fn fits(&self, write: &Write) -> bool {
        let known = self.get(write);
        match write {
            Write::Put { expected: None, .. } => known.is_none(),
            Write::Put { expected: Some(expected), .. } | Write::Remove { expected, .. } => {
                known.is_some_and(|it| it.there && it.revision == *expected)
            }
        }
    }

    /// How many records of the owner there will be.
    async fn will_be(&self, session: &Session<'_>, most: &AtMost, writes: &[Write]) -> Pg<i64> {
        let sql = "SELECT count(*) FROM records WHERE kind = $1 AND owner = $2 AND doc IS NOT NULL";
        let there = session.db.first(sql, &[&most.kind.word(), &Text::of(&most.owner)]).await?;
        let there: i64 = there.map_or(Ok(0), |row| row.try_get(0))?;
        let count = |write: &Write| match write {
            Write::Put { kind, owner, expected: None, .. } if *kind == most.kind && *owner == most.owner => 1,
            Write::Remove { kind, .. } if *kind == most.kind && self.get(write).is_some_and(|it| it.owner == most.owner) => -1,
            Write::Put { .. } | Write::Remove { .. } => 0,
        };
        Ok(there + writes.iter().map(count).sum::<i64>())
    }
}

fn of(write: &Write) -> (RecordKind, &str) {
    let (Write::Put { kind, id, .. } | Write::Remove { kind, id, .. }) = write;
    (*kind, id)
}

async fn put(session: &Session<'_>, write: &Write, revision: i64) -> Pg<()> {
    match write {
        Write::Put { kind, id, owner, doc, sealed, .. } => {
            let sql = "INSERT INTO records (kind, id, owner, revision, doc, sealed) VALUES ($1, $2, $3, $4, $5, $6)
                ON CONFLICT (kind, id) DO UPDATE SET owner = excluded.owner, revision = excluded.revision, doc = excluded.doc,
                    sealed = excluded.sealed";
            let (id, owner, doc) = (Text::of(id), Text::of(owner), Text::of(doc));
            session.db.run(sql, &[&kind.word(), &id, &owner, &revision, &doc, &sealed.as_deref()]).await?;
        }
        Write::Remove { kind, id, .. } => {
            let sql = "UPDATE records SET revision = $1, doc = NULL, sealed = NULL, removed_at = $2 WHERE kind = $3 AND id = $4";
            session.db.run(sql, &[&revision, &session.now, &kind.word(), &Text::of(id)]).await?;
        }
    }
    Ok(())
}

async fn note(session: &Session<'_>, entry: &NewAudit) -> Pg<()> {
    let NewAudit { at, who, action, subject, before, after } = entry;
    let sql = "INSERT INTO audit (at, who, action, subject, before, after) VALUES ($1, $2, $3, $4, $5, $6)";
    let (before, after) = (Text::of_some(before.as_deref()), Text::of_some(after.as_deref()));
    session.db.run(sql, &[&to_ms(*at), &Text::of(who), &Text::of(action), &Text::of(subject), &before, &after]).await.map(|_| ())
}

/// The records, and those that are gone; see [`crate::store::Store::records`].
pub(super) async fn records(db: &Db, kind: RecordKind, after: i64) -> Pg<Vec<Record>> {
    let sql = "SELECT id, owner, revision, doc, sealed FROM records
        WHERE kind = $1 AND $2 < revision AND ($2 <> 0 OR doc IS NOT NULL) ORDER BY revision, id";
    let record = |row: &tokio_postgres::Row| {
        let mut cells = Cells::of(row);
        let (id, owner, revision) = (cells.text()?, cells.text()?, cells.int()?);
        Ok(Record { kind, id, owner, revision, doc: cells.some_text()?, sealed: cells.some_bytes()? })
    };
    db.rows(sql, &[&kind.word(), &after]).await?.iter().map(record).collect()
}

/// One record; see [`crate::store::Store::record_of`].
pub(super) async fn record_of(db: &Db, kind: RecordKind, id: &str) -> Pg<Option<Record>> {
    let sql = "SELECT owner, revision, doc, sealed FROM records WHERE kind = $1 AND id = $2 AND doc IS NOT NULL";
    let record = |row: tokio_postgres::Row| {
        let mut cells = Cells::of(&row);
        let (owner, revision) = (cells.text()?, cells.int()?);
        Ok(Record { kind, id: id.to_owned(), owner, revision, doc: cells.some_text()?, sealed: cells.some_bytes()? })
    };
    db.first(sql, &[&kind.word(), &Text::of(id)]).await?.map(record).transpose()
}

/// A page of the audit; see [`crate::store::Store::audit`].
pub(super) async fn audit(db: &Db, filter: &AuditFilter) -> Pg<Vec<AuditRow>> {
    let mut clauses = Where::default();
    clauses.equals("who", filter.who.as_deref());
    clauses.equals("subject", filter.subject.as_deref());
    if let Some(beginning) = &filter.action {
        clauses.and("starts_with(action, $)", [Text::from(beginning.clone()).into()]);
    }
    clauses.between("at", filter.since, filter.until);
    clauses.page("id", filter.page, filter.limit);
    let row = |row: &tokio_postgres::Row| {
        let mut cells = Cells::of(row);
        let id = cells.int()?;
        let entry = NewAudit {
            at: cells.time()?,
            who: cells.text()?,
            action: cells.text()?,
            subject: cells.text()?,
            before: cells.some_text()?,
            after: cells.some_text()?,
        };
        Ok(AuditRow { id, entry })
    };
    clauses.rows(db, "SELECT id, at, who, action, subject, before, after FROM audit").await?.iter().map(row).collect()
}

/// Removes a slice of the entries from before `cutoff`, of threads that began before `begun`, and of the traces of removed records;
/// true when more are left.
pub(super) async fn forget(session: &Session<'_>, cutoff: i64, begun: i64) -> Pg<bool> {
    let sql = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 LIMIT $2)";
    let entries = session.db.run(sql, &[&cutoff, &SLICE]).await?;
    // The newest revision stays: revisions only grow.
    let sql = "DELETE FROM records WHERE doc IS NULL AND removed_at < $1 AND revision < (SELECT max(revision) FROM records)";
    session.db.run(sql, &[&session.now.saturating_sub(REMOVED_KEPT_MS)]).await?;
    // They are few, so that none needs an index.
    let sql = "DELETE FROM threads WHERE key IN (SELECT key FROM threads WHERE begun_at < $1 LIMIT $2)";
    let threads = session.db.run(sql, &[&begun, &SLICE]).await?;
    Ok(SLICE.cast_unsigned() <= entries.max(threads))
}
