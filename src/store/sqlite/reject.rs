//! Requests that were not accepted: keeping them within their bounds, listing them, retrying them.

use rusqlite::{Connection, Row};

use super::{
    query::Where,
    rows::{Reading, amount, optional_time, time},
    session::Answer,
};
use crate::{
    clock::to_ms,
    store::{Filter, NewRejection, Rejection, Retried},
};

/// Bytes of kept requests after which one answer of [`quarantined`] ends.
const QUARANTINED_BYTES: usize = 16 * 1024 * 1024;

/// Keeps `rejections`; see [`crate::store::Store::reject`].
pub(super) fn reject(conn: &Connection, rejections: &[NewRejection], bound: u32, bound_bytes: u64) -> Answer<()> {
    for it in rejections {
        let id = insert(conn, it)?;
        if let Some(sealed) = &it.sealed {
            let source = shelf(it);
            let sql = "INSERT INTO quarantine (id, source, size, sealed) VALUES (?, ?, ?, ?)";
            conn.prepare_cached(sql)?.execute((id, source, sealed.len() as i64, sealed))?;
            make_room(conn, source, bound, bound_bytes)?;
        }
    }
    Ok(Ok(()))
}

fn insert(conn: &Connection, it: &NewRejection) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO rejections (source, at, status, code, reason, path, remote, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let source = it.source.as_ref().map(|name| name.as_str());
    let bytes = i64::try_from(it.bytes).unwrap_or(i64::MAX);
    conn.prepare_cached(sql)?.insert((source, to_ms(it.at), it.status, it.code, &it.reason, &it.path, &it.remote, bytes))
}

/// Whose bound it counts towards: its source's, or that of all paths of no source.
fn shelf(it: &NewRejection) -> &str {
    it.source.as_ref().map_or("", |name| name.as_str())
}

/// Drops the oldest kept requests of `source` until the rest is within the bounds.
fn make_room(conn: &Connection, source: &str, bound: u32, bound_bytes: u64) -> rusqlite::Result<()> {
    let bound_bytes = i64::try_from(bound_bytes).unwrap_or(i64::MAX);
    let mut totals = conn.prepare_cached("SELECT held, bytes FROM quarantine_totals WHERE source = ?")?;
    let mut drop_oldest =
        conn.prepare_cached("DELETE FROM quarantine WHERE id = (SELECT min(id) FROM quarantine WHERE source = ?)")?;
    loop {
        let (held, bytes): (i64, i64) = totals.query_row([source], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if (held <= i64::from(bound) && bytes <= bound_bytes) || drop_oldest.execute([source])? == 0 {
            return Ok(());
        }
    }
}

/// Notes what a retry came to; see [`crate::store::Store::settle_rejection`].
pub(super) fn settle(conn: &Connection, id: i64, at: i64, outcome: &Retried) -> Answer<()> {
    match outcome {
        Retried::Accepted(event) => {
            let sql = "UPDATE rejections SET accepted_as = ?, retried_at = ? WHERE id = ?";
            conn.prepare_cached(sql)?.execute((event.to_string(), at, id))?;
            conn.prepare_cached("DELETE FROM quarantine WHERE id = ?")?.execute([id])?;
        }
        Retried::Failed(reason) => {
            let sql = "UPDATE rejections SET reason = ?, retried_at = ? WHERE id = ?";
            conn.prepare_cached(sql)?.execute((reason, at, id))?;
        }
    }
    Ok(Ok(()))
}

/// Puts other bytes in the place of kept requests; see [`crate::store::Store::reseal_rejections`].
pub(super) fn reseal(conn: &Connection, resealed: &[(i64, Vec<u8>)]) -> Answer<u64> {
    let mut changed = 0;
    for (id, sealed) in resealed {
        // What it counts for in the bounds stays: a few bytes more would not matter, and the totals are kept by triggers.
        changed += conn.prepare_cached("UPDATE quarantine SET sealed = ? WHERE id = ?")?.execute((sealed, id))?;
    }
    Ok(Ok(u64::try_from(changed).unwrap_or(u64::MAX)))
}

/// One page of rejections; see [`crate::store::Store::rejections`].
pub(super) fn rejections(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<Vec<Rejection>> {
    let sql = "SELECT r.*, EXISTS (SELECT 1 FROM quarantine q WHERE q.id = r.id) AS kept FROM rejections r";
    let mut clauses = filtered(filter);
    clauses.page("r.id", filter.page, filter.limit);
    let mut statement = conn.prepare_cached(&clauses.sql(sql))?;
    let rows = statement.query_map(clauses.params(), |row| rejection(reading, row, None))?;
    rows.collect()
}

/// Kept requests behind `after`; see [`crate::store::Store::quarantined`].
pub(super) fn quarantined(conn: &Connection, reading: &Reading, filter: &Filter, after: i64) -> rusqlite::Result<Vec<Rejection>> {
    let sql = "SELECT r.*, 1 AS kept, q.sealed FROM quarantine q CROSS JOIN rejections r ON r.id = q.id";
    let mut clauses = filtered(filter);
    clauses.page("q.id", crate::store::Page::After(after), filter.limit);
    let mut statement = conn.prepare_cached(&clauses.sql(sql))?;
    let mut rows = statement.query(clauses.params())?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let sealed: Vec<u8> = row.get("sealed")?;
        bytes += sealed.len();
        found.push(rejection(reading, row, Some(sealed))?);
        if QUARANTINED_BYTES < bytes {
            break;
        }
    }
    Ok(found)
}

fn filtered(filter: &Filter) -> Where {
    let mut clauses = Where::default();
    clauses.equals("r.source", filter.source.as_deref());
    clauses.equals("r.code", filter.code.as_deref());
    clauses.between("r.at", filter.since, filter.until);
    clauses
}

fn rejection(reading: &Reading, row: &Row<'_>, sealed: Option<Vec<u8>>) -> rusqlite::Result<Rejection> {
    let rejection = NewRejection {
        source: row.get_ref("source")?.as_str_or_null()?.map(Into::into),
        at: time(row, "at")?,
        status: row.get("status")?,
        code: reading.word(row, "code")?,
        reason: row.get("reason")?,
        path: row.get("path")?,
        remote: row.get("remote")?,
        bytes: amount(row, "bytes")?,
        sealed,
    };
    Ok(Rejection {
        id: row.get("id")?,
        rejection,
        kept: row.get("kept")?,
        accepted_as: row.get("accepted_as")?,
        retried_at: optional_time(row, "retried_at")?,
    })
}
