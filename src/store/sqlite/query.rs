//! What the readers are asked: due work for the lanes, and pages of events, deliveries and attempts.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter, types::Value};

use super::rows::{Reading, amount, state_code};
use crate::{
    clock::{Timestamp, from_ms, to_ms},
    envelope::{DeliveryId, EventUid, Name},
    store::{Attempt, Backlog, DeliveryRow, Due, EventRow, Filter, N_MAX, Page, Rendered, SEQ_MAX, State, Targets},
};

/// Bytes of bodies after which one answer of [`due`] ends.
const DUE_BYTES: usize = 16 * 1024 * 1024;

/// The queue of one lane, in the order of its index.
pub(super) const QUEUE: &str = "SELECT place, due_at FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = (SELECT id FROM targets WHERE name = ?1) AND due_at <= ?2 ORDER BY due_at, created_at, place";

/// One delivery with its event and both bodies.
pub(super) const DUE: &str = "SELECT e.*, d.*, ?2 AS target, p.body AS payload, b.content_type AS made_type, b.body AS made
    FROM deliveries d CROSS JOIN events e ON e.seq = d.place >> 16 CROSS JOIN payloads p ON p.seq = e.seq
    LEFT JOIN bodies b ON b.place = d.place WHERE d.place = ?1 AND d.state = 0";

/// What is due; see [`crate::store::Store::due`].
pub(super) fn due(
    conn: &Connection,
    reading: &Reading,
    target: &Name,
    now: i64,
    limit: u32,
    except: &[DeliveryId],
) -> rusqlite::Result<Vec<Due>> {
    let mut queue = conn.prepare_cached(QUEUE)?;
    let mut places = queue.query((target.as_str(), now))?;
    let mut one = conn.prepare_cached(DUE)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(place) = next_place(&mut places, reading.salt, except)?
        && found.len() < limit as usize
        && bytes < DUE_BYTES
    {
        // It may have been settled since the queue was read.
        let row = one.query_row((place.0, target.as_str()), |row| with_event(reading, row)).optional()?;
        bytes += row.as_ref().map_or(0, |due| due.envelope.body.len());
        found.extend(row);
    }
    Ok(found)
}

/// The next delivery of the queue that is not in `except`: its place and when it is due.
fn next_place(rows: &mut rusqlite::Rows<'_>, salt: u64, except: &[DeliveryId]) -> rusqlite::Result<Option<(i64, i64)>> {
    while let Some(row) = rows.next()? {
        let place = row.get(0)?;
        if except.binary_search(&DeliveryId::at(salt, place)).is_err() {
            return Ok(Some((place, row.get(1)?)));
        }
    }
    Ok(None)
}

fn with_event(reading: &Reading, row: &Row<'_>) -> rusqlite::Result<Due> {
    let payload: Vec<u8> = row.get("payload")?;
    let made_type: Option<String> = row.get("made_type")?;
    let made: Option<Vec<u8>> = row.get("made")?;
    let made = made_type.zip(made).map(|(content_type, body)| Rendered { content_type, body: body.into() });
    let envelope = Arc::new(reading.envelope(row, payload.into())?);
    Ok(Due { delivery: reading.delivery(row, made)?, envelope })
}

/// When something falls due; see [`crate::store::Store::next_due`].
pub(super) fn next_due(
    conn: &Connection,
    reading: &Reading,
    target: &Name,
    except: &[DeliveryId],
) -> rusqlite::Result<Option<Timestamp>> {
    let mut queue = conn.prepare_cached(QUEUE)?;
    let mut places = queue.query((target.as_str(), i64::MAX))?;
    Ok(next_place(&mut places, reading.salt, except)?.map(|(_, due_at)| from_ms(due_at)))
}

/// What waits by target, from the index alone.
pub(super) const WAITING: &str = "SELECT target_id, count(*), min(created_at) FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 GROUP BY target_id";
/// What is dead by target, from the index alone.
pub(super) const DEAD: &str =
    "SELECT target_id, count(*), NULL FROM deliveries INDEXED BY deliveries_died WHERE state = 2 GROUP BY target_id";

/// What waits and what is dead; see [`crate::store::Store::backlog`].
pub(super) fn backlog(conn: &Connection) -> rusqlite::Result<Vec<Backlog>> {
    let mut rows: BTreeMap<i64, Backlog> = BTreeMap::new();
    for (id, waiting, oldest_at) in counts(conn, WAITING)? {
        let row = Backlog { target: name(conn, id)?, waiting, oldest_at: oldest_at.map(from_ms), dead: 0 };
        rows.insert(id, row);
    }
    for (id, dead, _) in counts(conn, DEAD)? {
        match rows.get_mut(&id) {
            Some(row) => row.dead = dead,
            None => _ = rows.insert(id, Backlog { target: name(conn, id)?, waiting: 0, oldest_at: None, dead }),
        }
    }
    Ok(rows.into_values().collect())
}

fn counts(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<(i64, u64, Option<i64>)>> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, amount(row, 1)?, row.get(2)?)))?;
    rows.collect()
}

fn name(conn: &Connection, id: i64) -> rusqlite::Result<Name> {
    let mut statement = conn.prepare_cached("SELECT name FROM targets WHERE id = ?")?;
    statement.query_row([id], |row| Ok(row.get_ref(0)?.as_str()?.into()))
}

/// A page of events; see [`crate::store::Store::events`].
pub(super) fn events(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<Vec<EventRow>> {
    let mut clauses = Where::default();
    clauses.equals("e.source", filter.source.as_deref());
    clauses.equals("e.type", filter.r#type.as_deref());
    clauses.between("e.received_at", filter.since, filter.until);
    if let Some(target) = &filter.target {
        let sent = "EXISTS (SELECT 1 FROM deliveries d WHERE d.place BETWEEN e.seq << 16 AND (e.seq << 16) | 65535
            AND d.target_id = (SELECT id FROM targets WHERE name = ?))";
        clauses.and(sent, [Value::from(target.clone())]);
    }
    clauses.page("e.seq", filter.page, filter.limit);
    let mut statement = conn.prepare_cached(&clauses.sql("SELECT e.* FROM events e"))?;
    let rows = statement.query_map(clauses.params(), |row| reading.event(row, Bytes::new()))?;
    rows.collect()
}

/// One event with its body; see [`crate::store::Store::event`].
pub(super) fn event(conn: &Connection, reading: &Reading, uid: EventUid) -> rusqlite::Result<Option<EventRow>> {
    if uid.salt != reading.salt {
        return Ok(None);
    }
    let sql = "SELECT e.*, p.body AS payload FROM events e JOIN payloads p ON p.seq = e.seq WHERE e.seq = ?";
    let mut statement = conn.prepare_cached(sql)?;
    let found = statement.query_row([uid.seq], |row| reading.event(row, row.get::<_, Vec<u8>>("payload")?.into()));
    found.optional()
}

/// A page of deliveries; see [`crate::store::Store::deliveries`].
pub(super) fn deliveries(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<Vec<DeliveryRow>> {
    let mut clauses = Where::default();
    clauses.equals("e.source", filter.source.as_deref());
    clauses.equals("e.type", filter.r#type.as_deref());
    clauses.between("d.created_at", filter.since, filter.until);
    clauses.equals("t.name", filter.target.as_deref());
    among(&mut clauses, filter.targets.as_ref());
    if let Some(event) = filter.event {
        let (first, last) = places(event, reading.salt);
        clauses.and("d.place BETWEEN ? AND ?", [first.into(), last.into()]);
    }
    let index = in_state(&mut clauses, filter);
    clauses.page("d.place", filter.page, filter.limit);
    let sql = format!(
        "SELECT d.*, t.name AS target, e.id AS event_id, e.source, e.type FROM deliveries d {index}
        CROSS JOIN targets t ON t.id = d.target_id CROSS JOIN events e ON e.seq = d.place >> 16"
    );
    let mut statement = conn.prepare_cached(&clauses.sql(&sql))?;
    let rows = statement.query_map(clauses.params(), |row| delivery_row(reading, row))?;
    rows.collect()
}

fn delivery_row(reading: &Reading, row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        delivery: reading.delivery(row, None)?,
        event_id: row.get("event_id")?,
        source: row.get("source")?,
        r#type: row.get("type")?,
    })
}

/// Filters by state, and names the index that holds nothing but that state: SQLite only finds it by the literal number.
fn in_state(clauses: &mut Where, filter: &Filter) -> &'static str {
    let Some(state) = filter.state else { return "" };
    match state_code(state) {
        Some(code) => clauses.and(&format!("d.state = {code}"), []),
        // Not a state that is written.
        None => clauses.and("0", []),
    }
    match state {
        State::Pending if filter.event.is_none() => "INDEXED BY deliveries_pending",
        State::Dead => "INDEXED BY deliveries_dead",
        _ => "",
    }
}

fn among(clauses: &mut Where, targets: Option<&Targets>) {
    let (not, names) = match targets {
        Some(Targets::Among(names)) => ("", names),
        Some(Targets::NotAmong(names)) => ("NOT", names),
        None => return,
    };
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let names = serde_json::to_string(&names).unwrap_or_default();
    clauses.and(&format!("t.name {not} IN (SELECT value FROM json_each(?))"), [names.into()]);
}

/// The first and the last place that a delivery of `event` can have; none lies between them for an event that is not ours.
fn places(event: EventUid, salt: u64) -> (i64, i64) {
    if event.salt != salt || !(1..=SEQ_MAX).contains(&event.seq) {
        return (1, 0);
    }
    let place = |n| DeliveryId { event, n }.place();
    (place(0), place(N_MAX))
}

/// The attempts of one event; see [`crate::store::Store::attempts`].
pub(super) const ATTEMPTS: &str = "SELECT * FROM attempts WHERE place BETWEEN ? AND ? ORDER BY place, number";

/// What [`ATTEMPTS`] finds.
pub(super) fn attempts(conn: &Connection, reading: &Reading, event: EventUid) -> rusqlite::Result<Vec<Attempt>> {
    let mut statement = conn.prepare_cached(ATTEMPTS)?;
    let rows = statement.query_map(places(event, reading.salt), |row| reading.attempt(row))?;
    rows.collect()
}

/// What is kept under `key`.
pub(super) fn setting(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM settings WHERE key = ?")?.query_row([key], |row| row.get(0)).optional()
}

/// The clauses of a list's statement behind its tables, with their values. Values never become text of the statement.
#[derive(Debug, Default)]
pub(super) struct Where {
    clauses: Vec<String>,
    values: Vec<Value>,
    tail: String,
}

impl Where {
    /// Adds `clause`, which has one `?` for each of `values`.
    pub(super) fn and<const N: usize>(&mut self, clause: &str, values: [Value; N]) {
        self.clauses.push(clause.to_owned());
        self.values.extend(values);
    }

    /// `column` is `value`, where there is one.
    pub(super) fn equals(&mut self, column: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.and(&format!("{column} = ?"), [value.to_owned().into()]);
        }
    }

    /// The time in `column` is `since` or later, and before `until`.
    pub(super) fn between(&mut self, column: &str, since: Option<Timestamp>, until: Option<Timestamp>) {
        if let Some(since) = since {
            self.and(&format!("{column} >= ?"), [to_ms(since).into()]);
        }
        if let Some(until) = until {
            self.and(&format!("{column} < ?"), [to_ms(until).into()]);
        }
    }

    /// Order and end of `page`, by the place in `column`; comes last.
    pub(super) fn page(&mut self, column: &str, page: Page, limit: u32) {
        let order = match page {
            Page::Newest => "DESC",
            Page::Before(place) => {
                self.and(&format!("{column} < ?"), [place.into()]);
                "DESC"
            }
            Page::After(place) => {
                self.and(&format!("{column} > ?"), [place.into()]);
                "ASC"
            }
        };
        self.tail = format!(" ORDER BY {column} {order} LIMIT {limit}");
    }

    /// The whole statement; `select` names columns and tables.
    pub(super) fn sql(&self, select: &str) -> String {
        let clauses = self.clauses.join(" AND ");
        let r#where = if clauses.is_empty() { "" } else { " WHERE " };
        format!("{select}{where}{clauses}{tail}", r#where = r#where, tail = self.tail)
    }

    /// Its values, in the order of their `?`.
    pub(super) fn params(&self) -> impl rusqlite::Params + '_ {
        params_from_iter(&self.values)
    }
}
