//! Requests that were not accepted: keeping them within their bounds, listing them, retrying them.

use std::collections::BTreeSet;

use super::{
    clauses::Where,
    connect::{Answer, Db, Pg},
    rows::{Cells, Reading},
    session::Session,
    text::Text,
};
use crate::{
    clock::to_ms,
    store::{Filter, NewRejection, Page, Rejection, Retried},
};

/// Bytes of kept requests after which one answer of [`quarantined`] ends.
const QUARANTINED_BYTES: i64 = 16 * 1024 * 1024;

const INSERT: &str = "INSERT INTO rejections (source, at, status, code, reason, path, remote, bytes)
    SELECT source, at, status, code, reason, path, remote, bytes FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[],
        $5::text[], $6::text[], $7::text[], $8::bigint[]) WITH ORDINALITY
        AS u (source, at, status, code, reason, path, remote, bytes, n) ORDER BY n RETURNING id";
const KEEP: &str = "INSERT INTO quarantine (id, source, size, sealed)
    SELECT id, source, octet_length(sealed), sealed FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS u (id, source, sealed)";
/// Drops the oldest kept requests of a source that are beyond its bounds.
const MAKE_ROOM: &str = "DELETE FROM quarantine WHERE id IN (SELECT id FROM (
        SELECT id, row_number() OVER w AS held, sum(size) OVER w AS bytes FROM quarantine WHERE source = $1
        WINDOW w AS (ORDER BY id DESC ROWS UNBOUNDED PRECEDING)) AS k WHERE k.held > $2 OR k.bytes > $3::bigint)";

/// Keeps `rejections`; see [`crate::store::Store::reject`].
pub(super) async fn reject(session: &Session<'_>, rejections: &[NewRejection], bound: u32, bound_bytes: u64) -> Answer<()> {
    let column = |cell: fn(&NewRejection) -> Text<'_>| rejections.iter().map(cell).collect::<Vec<_>>();
    let sources: Vec<Option<Text<'_>>> =
        rejections.iter().map(|it| Text::of_some(it.source.as_ref().map(|name| name.as_str()))).collect();
    let at: Vec<i64> = rejections.iter().map(|it| to_ms(it.at)).collect();
    let statuses: Vec<i32> = rejections.iter().map(|it| it.status.into()).collect();
    let bytes: Vec<i64> = rejections.iter().map(|it| i64::try_from(it.bytes).unwrap_or(i64::MAX)).collect();
    let rows = session
        .db
        .rows(
            INSERT,
            &[
                &sources,
                &at,
                &statuses,
                &column(|it| Text::of(it.code)),
                &column(|it| Text::of(&it.reason)),
                &column(|it| Text::of(&it.path)),
                &column(|it| Text::of(&it.remote)),
                &bytes,
            ],
        )
        .await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Pg<_>>()?;
    let kept: Vec<(i64, &str, &[u8])> =
        ids.iter().zip(rejections).filter_map(|(id, it)| Some((*id, shelf(it), it.sealed.as_deref()?))).collect();
    if kept.is_empty() {
        return Ok(Ok(()));
    }
    let ids: Vec<i64> = kept.iter().map(|(id, ..)| *id).collect();
    let shelves: Vec<Text<'_>> = kept.iter().map(|(_, shelf, _)| Text::of(shelf)).collect();
    let sealed: Vec<&[u8]> = kept.iter().map(|(.., sealed)| *sealed).collect();
    session.db.run(KEEP, &[&ids, &shelves, &sealed]).await?;
    let bound_bytes = i64::try_from(bound_bytes).unwrap_or(i64::MAX);
    for shelf in kept.iter().map(|(_, shelf, _)| *shelf).collect::<BTreeSet<_>>() {
        session.db.run(MAKE_ROOM, &[&Text::of(shelf), &i64::from(bound), &bound_bytes]).await?;
    }
    Ok(Ok(()))
}

/// Whose bound it counts towards: its source's, or that of all paths of no source.
fn shelf(it: &NewRejection) -> &str {
    it.source.as_ref().map_or("", |name| name.as_str())
}

/// Notes what a retry came to; see [`crate::store::Store::settle_rejection`].
pub(super) async fn settle(session: &Session<'_>, id: i64, at: i64, outcome: &Retried) -> Answer<()> {
    match outcome {
        Retried::Accepted(event) => {
            let sql = "UPDATE rejections SET accepted_as = $1, retried_at = $2 WHERE id = $3";
            session.db.run(sql, &[&event.to_string(), &at, &id]).await?;
            session.db.run("DELETE FROM quarantine WHERE id = $1", &[&id]).await?;
        }
        Retried::Failed(reason) => {
            let sql = "UPDATE rejections SET reason = $1, retried_at = $2 WHERE id = $3";
            session.db.run(sql, &[&Text::of(reason), &at, &id]).await?;
        }
    }
    Ok(Ok(()))
}

/// Puts other bytes in the place of kept requests. What each counts for in the bounds stays: a few bytes more would not matter.
const RESEAL: &str = "UPDATE quarantine q SET sealed = u.sealed FROM unnest($1::bigint[], $2::bytea[]) AS u (id, sealed)
    WHERE q.id = u.id";

/// Puts other bytes in the place of kept requests; see [`crate::store::Store::reseal_rejections`].
pub(super) async fn reseal(db: &Db, resealed: &[(i64, Vec<u8>)]) -> Pg<u64> {
    let (ids, sealed): (Vec<i64>, Vec<&[u8]>) = resealed.iter().map(|(id, sealed)| (*id, &sealed[..])).unzip();
    db.run(RESEAL, &[&ids, &sealed]).await
}

const COLUMNS: &str = "r.id, r.source, r.at, r.status, r.code, r.reason, r.path, r.remote, r.bytes, r.accepted_as, r.retried_at";

/// One page of rejections; see [`crate::store::Store::rejections`].
pub(super) async fn rejections(db: &Db, reading: &Reading, filter: &Filter) -> Pg<Vec<Rejection>> {
    let select =
        format!("SELECT {COLUMNS}, EXISTS (SELECT 1 FROM quarantine q WHERE q.id = r.id), NULL::bytea FROM rejections r");
    let mut clauses = filtered(filter);
    clauses.page("r.id", filter.page, filter.limit);
    clauses.rows(db, &select).await?.iter().map(|row| rejection(reading, row)).collect()
}

/// Kept requests behind `after`; see [`crate::store::Store::quarantined`].
pub(super) async fn quarantined(db: &Db, reading: &Reading, filter: &Filter, after: i64) -> Pg<Vec<Rejection>> {
    let mut clauses = filtered(filter);
    clauses.page("q.id", Page::After(after), filter.limit);
    // How many go into one answer, before their bytes are read.
    let sizes = clauses.rows(db, "SELECT q.id, q.size FROM quarantine q JOIN rejections r ON r.id = q.id").await?;
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for row in &sizes {
        ids.push(row.try_get::<_, i64>(0)?);
        bytes += row.try_get::<_, i64>(1)?;
        if QUARANTINED_BYTES < bytes {
            break;
        }
    }
    let sql = format!(
        "SELECT {COLUMNS}, true, q.sealed FROM quarantine q JOIN rejections r ON r.id = q.id WHERE q.id = ANY($1) ORDER BY q.id"
    );
    db.rows(&sql, &[&ids]).await?.iter().map(|row| rejection(reading, row)).collect()
}

fn filtered(filter: &Filter) -> Where {
    let mut clauses = Where::default();
    clauses.equals("r.source", filter.source.as_deref());
    clauses.equals("r.code", filter.code.as_deref());
    clauses.between("r.at", filter.since, filter.until);
    clauses
}

fn rejection(reading: &Reading, row: &tokio_postgres::Row) -> Pg<Rejection> {
    let mut cells = Cells::of(row);
    let id = cells.int()?;
    let mut rejection = NewRejection {
        source: cells.some_text()?.map(|name| name.as_str().into()),
        at: cells.time()?,
        status: u16::try_from(cells.int()?).unwrap_or_default(),
        code: reading.words.get(&cells.text()?),
        reason: cells.text()?,
        path: cells.text()?,
        remote: cells.text()?,
        bytes: cells.amount()?,
        sealed: None,
    };
    let (accepted_as, retried_at, kept) = (cells.some_text()?, cells.some_time()?, cells.take()?);
    rejection.sealed = cells.take()?;
    Ok(Rejection { id, rejection, kept, accepted_as, retried_at })
}
