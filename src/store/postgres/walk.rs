//! Walks through events: see [`crate::store::Store::walk`]. Events are seen in the order of their commits (the lock of the store), so
//! nothing appears later behind a place that was walked past.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    clauses::Where,
    connect::{Db, Pg},
    query,
    rows::{self, Cells, Reading},
};
use crate::{
    envelope::EventUid,
    store::{EventRow, Page, Walk, Walked},
};

/// Rows of events that one walk looks at: at most some ten milliseconds.
pub(super) const ROWS_MAX: i64 = 10_000;
/// Rows that are read at once.
const SLICE: u32 = 500;

/// The place of the last row that a walk in commit order looks at, and how many rows it looks at.
pub(super) const LAST_AFTER: &str =
    "SELECT max(seq), count(*) FROM (SELECT seq FROM events WHERE seq > $1 ORDER BY seq LIMIT $2) AS looked_at";
/// Likewise for one that goes back.
pub(super) const LAST_BEFORE: &str =
    "SELECT min(seq), count(*) FROM (SELECT seq FROM events WHERE seq < $1 ORDER BY seq DESC LIMIT $2) AS looked_at";
/// The bodies of events.
pub(super) const BODIES: &str = "SELECT e.seq, e.body FROM unnest($1::bigint[]) AS u (at) JOIN events e ON e.seq = u.at";

/// What `walk` finds, looking at `rows` rows at most.
pub(super) async fn walk(db: &Db, reading: &Reading, walk: &Walk, rows: i64) -> Pg<Walked> {
    let start = match walk.filter.page {
        Page::After(place) | Page::Before(place) => place,
        Page::Newest => 0,
    };
    let at = |seq| EventUid { salt: reading.salt, seq };
    let Some((last, bounded)) = last_row(db, walk.filter.page, rows).await? else {
        return Ok(Walked { events: Vec::new(), upto: at(start), more: false });
    };
    let (mut events, full) = wanted(db, reading, walk, last).await?;
    let upto = events.last().filter(|_| full).map_or(at(last), |event| event.uid);
    if walk.bodies {
        events = with_bodies(db, events).await?;
    }
    Ok(Walked { events, upto, more: full || bounded })
}

/// The last of the rows that are looked at, and whether more may lie behind it.
async fn last_row(db: &Db, page: Page, rows: i64) -> Pg<Option<(i64, bool)>> {
    let (sql, start) = match page {
        Page::After(place) => (LAST_AFTER, place),
        Page::Before(place) => (LAST_BEFORE, place),
        Page::Newest => (LAST_BEFORE, i64::MAX),
    };
    let Some(row) = db.first(sql, &[&start, &rows]).await? else { return Ok(None) };
    let mut cells = Cells::of(&row);
    let (last, count) = (cells.some_int()?, cells.int()?);
    Ok(last.map(|last| (last, rows <= count)))
}

/// The events up to `last` that are wanted, without their bodies, and whether there are as many as may come.
async fn wanted(db: &Db, reading: &Reading, walk: &Walk, last: i64) -> Pg<(Vec<EventRow>, bool)> {
    let (mut events, mut bytes, mut page) = (Vec::new(), 0, walk.filter.page);
    loop {
        let mut clauses = query::of_events(&walk.filter);
        within(&mut clauses, page, last);
        let select = concat!("SELECT octet_length(e.body), ", rows::story_columns!(), " FROM events e");
        let found = clauses.rows(db, select).await?;
        for row in &found {
            let mut cells = Cells::of(row);
            let size = usize::try_from(cells.int()?).unwrap_or_default();
            let event = reading.event(&mut cells, Bytes::new())?;
            page = behind(page, event.uid.seq);
            if walk.types.as_ref().is_some_and(|fits| !fits(&event.envelope.r#type)) {
                continue;
            }
            bytes += if walk.bodies { size } else { 0 };
            events.push(event);
            if walk.filter.limit as usize <= events.len() || walk.bytes <= bytes {
                return Ok((events, true));
            }
        }
        if found.len() < SLICE as usize {
            return Ok((events, false));
        }
    }
}

/// The rows from the beginning of `page` to `last`, in its order.
fn within(clauses: &mut Where, page: Page, last: i64) {
    match page {
        Page::After(_) => clauses.and("e.seq <= $", [last.into()]),
        Page::Before(_) | Page::Newest => clauses.and("e.seq >= $", [last.into()]),
    }
    clauses.page("e.seq", page, SLICE);
}

/// What lies behind `seq`, in the order of `page`.
fn behind(page: Page, seq: i64) -> Page {
    match page {
        Page::After(_) => Page::After(seq),
        Page::Before(_) | Page::Newest => Page::Before(seq),
    }
}

/// `events` with their bodies, without those that were removed since their rows were read.
async fn with_bodies(db: &Db, events: Vec<EventRow>) -> Pg<Vec<EventRow>> {
    let seqs: Vec<i64> = events.iter().map(|event| event.uid.seq).collect();
    let mut bodies: HashMap<i64, Bytes> = HashMap::with_capacity(seqs.len());
    for row in db.rows(BODIES, &[&seqs]).await? {
        let mut cells = Cells::of(&row);
        bodies.insert(cells.int()?, cells.some_bytes()?.unwrap_or_default());
    }
    let with_body = |mut event: EventRow| {
        event.envelope.body = bodies.remove(&event.uid.seq)?;
        Some(event)
    };
    Ok(events.into_iter().filter_map(with_body).collect())
}
