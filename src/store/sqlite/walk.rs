//! Walks through events: see [`crate::store::Store::walk`].

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};

use super::{
    query::{self, Where},
    rows::{self, Cells, Reading},
};
use crate::{
    envelope::EventUid,
    store::{EventRow, Page, Walk, Walked},
};

/// Rows of events that one walk looks at: at most some ten milliseconds.
pub(super) const ROWS_MAX: i64 = 10_000;

/// The place of the last row that a walk in commit order looks at, and how many rows it looks at.
pub(super) const LAST_AFTER: &str =
    "SELECT max(seq), count(*) FROM (SELECT seq FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2)";
/// Likewise for one that goes back.
pub(super) const LAST_BEFORE: &str =
    "SELECT min(seq), count(*) FROM (SELECT seq FROM events WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2)";
/// The body of an event.
pub(super) const BODY: &str = "SELECT body FROM payloads WHERE seq = ?1";

/// What `walk` finds, looking at `rows` rows at most.
pub(super) fn walk(conn: &Connection, reading: &Reading, walk: &Walk, rows: i64) -> rusqlite::Result<Walked> {
    let start = match walk.filter.page {
        Page::After(place) | Page::Before(place) => place,
        Page::Newest => 0,
    };
    let at = |seq| EventUid { salt: reading.salt, seq };
    let Some((last, bounded)) = last_row(conn, walk.filter.page, rows)? else {
        return Ok(Walked { events: Vec::new(), upto: at(start), more: false });
    };
    let mut clauses = query::of_events(&walk.filter);
    within(&mut clauses, walk.filter.page, last);
    let mut statement = conn.prepare_cached(&clauses.sql(concat!("SELECT ", rows::story_columns!(), " FROM events e")))?;
    let mut found = statement.query(clauses.params())?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let event = reading.event(&mut Cells::of(row), Bytes::new())?;
        if walk.types.as_ref().is_some_and(|fits| !fits(&event.envelope.r#type)) {
            continue;
        }
        // It may have been removed since its row was read.
        let Some(event) = with_body(conn, event, walk.bodies)? else { continue };
        bytes += event.envelope.body.len();
        events.push(event);
        if walk.filter.limit as usize <= events.len() || walk.bytes <= bytes {
            break;
        }
    }
    let full = walk.filter.limit as usize <= events.len() || walk.bytes <= bytes;
    let upto = events.last().filter(|_| full).map_or(at(last), |event| event.uid);
    Ok(Walked { events, upto, more: full || bounded })
}

/// The last of the rows that are looked at, and whether more may lie behind it.
fn last_row(conn: &Connection, page: Page, rows: i64) -> rusqlite::Result<Option<(i64, bool)>> {
    let (sql, start) = match page {
        Page::After(place) => (LAST_AFTER, place),
        Page::Before(place) => (LAST_BEFORE, place),
        Page::Newest => (LAST_BEFORE, i64::MAX),
    };
    let (last, count): (Option<i64>, i64) =
        conn.prepare_cached(sql)?.query_row((start, rows), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(last.map(|last| (last, rows <= count)))
}

/// The rows from the beginning of `page` to `last`, in its order.
fn within(clauses: &mut Where, page: Page, last: i64) {
    match page {
        Page::After(_) => clauses.and("e.seq <= ?", [last.into()]),
        Page::Before(_) | Page::Newest => clauses.and("e.seq >= ?", [last.into()]),
    }
    clauses.page("e.seq", page, u32::MAX);
}

fn with_body(conn: &Connection, event: EventRow, wanted: bool) -> rusqlite::Result<Option<EventRow>> {
    if !wanted {
        return Ok(Some(event));
    }
    let body: Option<Vec<u8>> = conn.prepare_cached(BODY)?.query_row([event.uid.seq], |row| row.get(0)).optional()?;
    Ok(body.map(|body| {
        let mut event = event;
        event.envelope.body = body.into();
        event
    }))
}
