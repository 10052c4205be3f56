//! What the readers are asked: due work for the lanes, and pages of events, deliveries and attempts.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter, types::Value};

use super::{
    digest,
    functions::FITS_TYPE,
    replay,
    rows::{self, Cells, Reading, amount, cause_code, state_code},
};
use crate::{
    clock::{Timestamp, from_ms, to_ms},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    route::glob::Glob,
    store::{
        Attempt, Backlog, Delivery, DeliveryRow, Due, EventRow, Filter, N_MAX, Page, Rendered, SEQ_MAX, State, Targets,
        codes::EXPIRED,
    },
};

/// Bytes of bodies after which one answer of [`due`] ends.
const DUE_BYTES: usize = 16 * 1024 * 1024;

/// One of the two queues of a lane, in the order of its index: the critical ones (0), or the rest (1).
pub(super) const QUEUE: &str = "SELECT place, due_at FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = (SELECT id FROM targets WHERE name = ?1) AND turn = ?2 AND due_at <= ?3
    ORDER BY due_at, created_at, place";
/// What has waited longest of both queues. An order key's earliest stands in them alone, so its followers come after it.
pub(super) const OLDEST: &str = "SELECT place FROM deliveries INDEXED BY deliveries_pending
    WHERE state = 0 AND target_id = (SELECT id FROM targets WHERE name = ?1) AND turn IN (0, 1) AND due_at <= ?2
    ORDER BY created_at, place LIMIT ?3";
/// Both, in the order in which they go.
const QUEUES: [i64; 2] = [0, 1];

/// One delivery with the body made for it.
pub(super) const DUE: &str = concat!(
    "SELECT b.content_type, b.body, b.progress, b.reached, ",
    rows::delivery_columns!("?2"),
    " FROM deliveries d LEFT JOIN bodies b ON b.place = d.place WHERE d.place = ?1 AND d.state = 0"
);

/// The event of a delivery, with its body.
pub(super) const DUE_EVENT: &str =
    concat!("SELECT p.body, ", rows::event_columns!(), " FROM events e CROSS JOIN payloads p ON p.seq = e.seq WHERE e.seq = ?1");

/// What is due; see [`crate::store::Store::due`].
pub(super) fn due(
    conn: &Connection,
    reading: &Reading,
    target: &Name,
    now: i64,
    limit: u32,
    except: &[DeliveryId],
) -> rusqlite::Result<Vec<Due>> {
    let mut one = conn.prepare_cached(DUE)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for queue in QUEUES {
        let mut statement = conn.prepare_cached(QUEUE)?;
        let mut places = statement.query((target.as_str(), queue, now))?;
        while found.len() < limit as usize
            && bytes < DUE_BYTES
            && let Some((place, _)) = next_place(&mut places, reading.salt, except)?
        {
            // It may have been settled since the queue was read.
            let delivery = one.query_row((place, target.as_str()), |row| made(reading, row)).optional()?;
            let due = delivery.map(|delivery| with_event(conn, reading, delivery)).transpose()?.flatten();
            bytes += due.as_ref().map_or(0, held);
            found.extend(due);
        }
    }
    Ok(found)
}

/// What has waited longest; see [`crate::store::Store::oldest_due`].
pub(super) fn oldest_due(
    conn: &Connection,
    reading: &Reading,
    target: &Name,
    now: i64,
    except: &[DeliveryId],
) -> rusqlite::Result<Option<Due>> {
    let mut oldest = conn.prepare_cached(OLDEST)?;
    // One more than are left out: that one is among them.
    let mut places = oldest.query((target.as_str(), now, except.len() as i64 + 1))?;
    while let Some(row) = places.next()? {
        let place: i64 = row.get(0)?;
        if except.binary_search(&DeliveryId::at(reading.salt, place)).is_err() {
            let mut one = conn.prepare_cached(DUE)?;
            let delivery = one.query_row((place, target.as_str()), |row| made(reading, row)).optional()?;
            return Ok(delivery.map(|delivery| with_event(conn, reading, delivery)).transpose()?.flatten());
        }
    }
    Ok(None)
}

/// Bytes of the bodies that `due` brings.
fn held(due: &Due) -> usize {
    due.envelope.body.len() + due.delivery.body.as_ref().map_or(0, |made| made.body.len())
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

fn made(reading: &Reading, row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let mut cells = Cells::of(row);
    let made_type: Option<String> = cells.take()?;
    let made: Option<Vec<u8>> = cells.take()?;
    let progress: Option<Vec<u8>> = cells.take()?;
    let progress = progress.map(Into::into);
    let reached = cells.take::<Option<bool>>()?.unwrap_or_default();
    let made = made_type.zip(made).map(|(content_type, body)| Rendered { content_type, body: body.into(), progress, reached });
    reading.delivery(&mut cells, made)
}

/// `delivery` with its event, which other lanes may have read just now; `None` where it was removed meanwhile.
fn with_event(conn: &Connection, reading: &Reading, delivery: Delivery) -> rusqlite::Result<Option<Due>> {
    let Some(envelope) = event_at(conn, reading, delivery.id.event.seq)? else { return Ok(None) };
    if delivery.replayed && !envelope.replayed {
        let envelope = Arc::new(Envelope { replayed: true, ..(*envelope).clone() });
        return Ok(Some(Due { delivery, envelope }));
    }
    Ok(Some(Due { delivery, envelope }))
}

/// The event at `seq`, which others may have asked for just now; `None` where it was removed.
fn event_at(conn: &Connection, reading: &Reading, seq: i64) -> rusqlite::Result<Option<Arc<Envelope>>> {
    if let Some(known) = reading.recent.get(seq) {
        return Ok(Some(known));
    }
    let read = conn.prepare_cached(DUE_EVENT)?.query_row([seq], |row| {
        let mut cells = Cells::of(row);
        let payload: Vec<u8> = cells.take()?;
        reading.envelope(&mut cells, payload.into())
    });
    let event = read.optional()?.map(Arc::new);
    event.iter().for_each(|event| reading.recent.put(seq, event));
    Ok(event)
}

/// When something falls due; see [`crate::store::Store::next_due`].
pub(super) fn next_due(
    conn: &Connection,
    reading: &Reading,
    target: &Name,
    except: &[DeliveryId],
) -> rusqlite::Result<Option<Timestamp>> {
    let mut earliest: Option<i64> = None;
    for queue in QUEUES {
        let mut statement = conn.prepare_cached(QUEUE)?;
        let mut places = statement.query((target.as_str(), queue, i64::MAX))?;
        if let Some((_, due_at)) = next_place(&mut places, reading.salt, except)? {
            earliest = Some(earliest.map_or(due_at, |earlier| earlier.min(due_at)));
        }
    }
    Ok(earliest.map(from_ms))
}

/// What goes out inside a delivery, as places in their order.
pub(super) const CARRIED: &str = "SELECT place FROM deliveries INDEXED BY deliveries_carried
    WHERE carrier IS NOT NULL AND carrier = ?1 AND state = 5 ORDER BY place LIMIT ?2";

/// The events of what `carrier` carries; see [`crate::store::Store::carried`].
pub(super) fn carried(
    conn: &Connection,
    reading: &Reading,
    carrier: DeliveryId,
    limit: u32,
) -> rusqlite::Result<Vec<(DeliveryId, Arc<Envelope>)>> {
    let first = digest::first_of(conn, carrier.place())?;
    let mut places = conn.prepare_cached(CARRIED)?;
    let rows = places.query_map((first, limit), |row| row.get::<_, i64>(0))?;
    let mut events = Vec::new();
    for place in rows {
        let id = DeliveryId::at(reading.salt, place?);
        events.extend(event_at(conn, reading, id.event.seq)?.map(|event| (id, event)));
    }
    Ok(events)
}

/// A statement that counts by target: all, or one (`?`).
macro_rules! by_target {
    ($counts:literal) => {
        [
            concat!($counts, " GROUP BY target_id"),
            concat!($counts, " AND target_id = (SELECT id FROM targets WHERE name = ?) GROUP BY target_id"),
        ]
    };
}
/// What waits by target, from the index alone.
pub(super) const WAITING: [&str; 2] =
    by_target!("SELECT target_id, count(*), min(created_at) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0");
/// What is dead by target, from the index alone.
pub(super) const DEAD: [&str; 2] = by_target!(
    "SELECT target_id, count(*), NULL FROM deliveries INDEXED BY deliveries_died WHERE state = 2 AND resolved_at IS NULL"
);

/// What waits and what is dead; see [`crate::store::Store::backlog`].
pub(super) fn backlog(conn: &Connection, target: Option<&Name>) -> rusqlite::Result<Vec<Backlog>> {
    let mut rows: BTreeMap<i64, Backlog> = BTreeMap::new();
    for (id, waiting, oldest_at) in counts(conn, WAITING, target)? {
        let row = Backlog { target: name(conn, id)?, waiting, oldest_at: oldest_at.map(from_ms), dead: 0 };
        rows.insert(id, row);
    }
    for (id, dead, _) in counts(conn, DEAD, target)? {
        match rows.get_mut(&id) {
            Some(row) => row.dead = dead,
            None => _ = rows.insert(id, Backlog { target: name(conn, id)?, waiting: 0, oldest_at: None, dead }),
        }
    }
    Ok(rows.into_values().collect())
}

fn counts(conn: &Connection, [all, one]: [&str; 2], target: Option<&Name>) -> rusqlite::Result<Vec<(i64, u64, Option<i64>)>> {
    let mut statement = conn.prepare_cached(if target.is_some() { one } else { all })?;
    let target = params_from_iter(target.map(Name::as_str));
    let rows = statement.query_map(target, |row| Ok((row.get(0)?, amount(row, 1)?, row.get(2)?)))?;
    rows.collect()
}

fn name(conn: &Connection, id: i64) -> rusqlite::Result<Name> {
    let mut statement = conn.prepare_cached("SELECT name FROM targets WHERE id = ?")?;
    statement.query_row([id], |row| Ok(row.get_ref(0)?.as_str()?.into()))
}

/// A page of events; see [`crate::store::Store::events`].
pub(super) fn events(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<Vec<EventRow>> {
    let mut clauses = of_events(filter);
    clauses.page("e.seq", filter.page, filter.limit);
    let mut statement = conn.prepare_cached(&clauses.sql(concat!("SELECT ", rows::story_columns!(), " FROM events e")))?;
    let rows = statement.query_map(clauses.params(), |row| reading.event(&mut Cells::of(row), Bytes::new()))?;
    rows.collect()
}

/// How many events; see [`crate::store::Store::count_events`].
pub(super) fn count_events(conn: &Connection, filter: &Filter) -> rusqlite::Result<u64> {
    let clauses = of_events(filter);
    let mut statement = conn.prepare_cached(&clauses.sql("SELECT count(*) FROM events e"))?;
    statement.query_row(clauses.params(), |row| amount(row, 0))
}

/// What `filter` says of events.
pub(super) fn of_events(filter: &Filter) -> Where {
    let mut clauses = Where::default();
    clauses.equals("e.source", filter.source.as_deref());
    except_source(&mut clauses, filter);
    of_namespaces(&mut clauses, filter);
    clauses.equals("e.type", filter.r#type.as_deref());
    of_types(&mut clauses, filter);
    clauses.equals("e.id", filter.id.as_deref());
    clauses.equals("e.subject", filter.subject.as_deref());
    clauses.between("e.received_at", filter.since, filter.until);
    match filter.matched {
        Some(true) => clauses.and("e.deliveries > 0", []),
        Some(false) => clauses.and("e.deliveries = 0", []),
        None => {}
    }
    sent(&mut clauses, filter);
    clauses
}

/// Only events of types that one of the filter's globs fits.
fn of_types(clauses: &mut Where, filter: &Filter) {
    if !filter.types.is_empty() {
        let globs: Vec<&str> = filter.types.iter().map(Glob::text).collect();
        // Texts always serialise.
        let globs = serde_json::to_string(&globs).unwrap_or_default();
        clauses.and(&format!("{FITS_TYPE}(e.type, ?)"), [globs.into()]);
    }
}

fn except_source(clauses: &mut Where, filter: &Filter) {
    if let Some(source) = &filter.except_source {
        clauses.and("e.source <> ?", [source.clone().into()]);
    }
}

fn of_namespaces(clauses: &mut Where, filter: &Filter) {
    if let Some(namespaces) = &filter.namespaces {
        // Texts always serialise.
        let namespaces = serde_json::to_string(namespaces).unwrap_or_default();
        clauses.and("e.namespace IN (SELECT value FROM json_each(?))", [namespaces.into()]);
    }
}

/// Only events with a delivery of which `filter` says target and state.
fn sent(clauses: &mut Where, filter: &Filter) {
    if filter.target.is_none() && filter.state.is_none() {
        return;
    }
    let mut sent = "EXISTS (SELECT 1 FROM deliveries d WHERE d.place BETWEEN e.seq << 16 AND (e.seq << 16) | 65535".to_owned();
    if let Some(state) = filter.state {
        sent += " AND ";
        sent += &is_in(state);
    }
    match &filter.target {
        Some(target) => {
            clauses.and(&(sent + " AND d.target_id = (SELECT id FROM targets WHERE name = ?))"), [target.clone().into()])
        }
        None => clauses.and(&(sent + ")"), []),
    }
}

/// One event with its body; see [`crate::store::Store::event`].
pub(super) fn event(conn: &Connection, reading: &Reading, uid: EventUid) -> rusqlite::Result<Option<EventRow>> {
    if uid.salt != reading.salt {
        return Ok(None);
    }
    let sql =
        concat!("SELECT p.body, ", rows::story_columns!(), " FROM events e JOIN payloads p ON p.seq = e.seq WHERE e.seq = ?");
    let mut statement = conn.prepare_cached(sql)?;
    let found = statement.query_row([uid.seq], |row| {
        let mut cells = Cells::of(row);
        let payload: Vec<u8> = cells.take()?;
        reading.event(&mut cells, payload.into())
    });
    found.optional()
}

/// A page of deliveries; see [`crate::store::Store::deliveries`].
pub(super) fn deliveries(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<Vec<DeliveryRow>> {
    let (mut clauses, tables) = of_deliveries(filter, reading.salt);
    match filter.replayed {
        Some(true) => clauses.page_of_steps(filter.page, filter.limit, |place| replay::step(conn, place))?,
        _ => clauses.page("d.place", filter.page, filter.limit),
    }
    listed(conn, reading, &clauses, &format!("{tables} {WITH_BOTH}"))
}

/// Deliveries of one subscription; see [`crate::store::Store::subscribed`].
pub(super) fn subscribed(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<Vec<DeliveryRow>> {
    let (mut clauses, tables) = of_subscription(filter, reading.salt);
    clauses.page("d.place", filter.page, filter.limit);
    listed(conn, reading, &clauses, tables)
}

/// What `filter` says of the deliveries of one subscription, and where they are found.
pub(super) fn of_subscription(filter: &Filter, salt: u64) -> (Where, &'static str) {
    // By state an index of its own would be named.
    let (mut clauses, _) = of_deliveries(&Filter { state: None, ..filter.clone() }, salt);
    clauses.extend(filter.state.map(is_in));
    let target = filter.target.clone().map_or(Value::Null, Value::from);
    // What the index says of rules, for SQLite to see that it holds them.
    let own = "d.target_id = (SELECT id FROM targets WHERE name = ?) AND d.rule >= 'wh_' AND d.rule < 'wh`'";
    clauses.and(own, [target]);
    let tables = "deliveries d INDEXED BY deliveries_subscribed CROSS JOIN targets t ON t.id = d.target_id \
         CROSS JOIN events e ON e.seq = d.place >> 16";
    (clauses, tables)
}

fn listed(conn: &Connection, reading: &Reading, clauses: &Where, tables: &str) -> rusqlite::Result<Vec<DeliveryRow>> {
    let sql = clauses.sql(&format!("SELECT {}, e.id, e.source, e.type FROM {tables}", rows::delivery_columns!("t.name")));
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(clauses.params(), |row| delivery_row(reading, &mut Cells::of(row)))?;
    rows.collect()
}

/// How many deliveries; see [`crate::store::Store::count_deliveries`].
pub(super) fn count_deliveries(conn: &Connection, reading: &Reading, filter: &Filter) -> rusqlite::Result<u64> {
    let (clauses, tables) = of_deliveries(filter, reading.salt);
    let mut statement = conn.prepare_cached(&clauses.sql(&format!("SELECT count(*) FROM {tables} {}", spoken_of(filter))))?;
    statement.query_row(clauses.params(), |row| amount(row, 0))
}

/// What replays made, step by step.
const STEPS: &str =
    "replays r CROSS JOIN deliveries d NOT INDEXED ON d.place BETWEEN r.seq << 16 | r.first AND r.seq << 16 | r.last";

/// What `filter` says of deliveries, and the table that holds them.
fn of_deliveries(filter: &Filter, salt: u64) -> (Where, String) {
    let mut clauses = Where::default();
    clauses.equals("e.source", filter.source.as_deref());
    except_source(&mut clauses, filter);
    of_namespaces(&mut clauses, filter);
    clauses.equals("e.type", filter.r#type.as_deref());
    of_types(&mut clauses, filter);
    clauses.between("d.created_at", filter.since, filter.until);
    if let Some(target) = &filter.target {
        // By its number: the queue's index begins with that.
        clauses.and("d.target_id = (SELECT id FROM targets WHERE name = ?)", [target.clone().into()]);
    }
    among(&mut clauses, filter.targets.as_ref());
    if let Some(event) = filter.event {
        let (first, last) = places(event, salt);
        clauses.and("d.place BETWEEN ? AND ?", [first.into(), last.into()]);
    }
    if let Some(carrier) = filter.carrier {
        let ours = if carrier.event.salt == salt { carrier.place() } else { -1 };
        let first = "coalesce((SELECT carrier FROM deliveries WHERE place = ? AND stage = 5), ?)";
        clauses.and(&format!("d.carrier = {first} AND d.state = 5"), [ours.into(), ours.into()]);
    }
    if let Some(time) = filter.due_before {
        clauses.and("d.due_at < ?", [to_ms(time).into()]);
    }
    let index = in_state(&mut clauses, filter);
    of_the_dead(&mut clauses, filter);
    let deliveries = match filter.replayed {
        Some(true) => STEPS.to_owned(),
        _ => format!("deliveries d {index}"),
    };
    match (filter.replayed, filter.event) {
        (Some(true), Some(event)) => clauses.and("r.seq = ?", [event.seq.into()]),
        (Some(false), _) => clauses.and("d.replay = 0", []),
        _ => {}
    }
    (clauses, deliveries)
}

/// With each delivery its target and its event.
const WITH_BOTH: &str = "CROSS JOIN targets t ON t.id = d.target_id CROSS JOIN events e ON e.seq = d.place >> 16";

/// What else must be looked at for `filter` to be answered: counting tens of thousands again and again must not look at more.
fn spoken_of(filter: &Filter) -> &'static str {
    let of_events = filter.source.is_some()
        || filter.except_source.is_some()
        || filter.namespaces.is_some()
        || filter.r#type.is_some()
        || !filter.types.is_empty();
    match (of_events, filter.targets.is_some()) {
        (false, false) => "",
        (false, true) => "CROSS JOIN targets t ON t.id = d.target_id",
        (true, _) => WITH_BOTH,
    }
}

/// Filters by cause, and dead letters by whether somebody has settled them.
fn of_the_dead(clauses: &mut Where, filter: &Filter) {
    if let Some(cause) = filter.cause {
        clauses.and("d.cause = ?", [cause_code(cause).into()]);
    }
    match filter.resolved {
        Some(true) => clauses.and("d.state = 2 AND d.resolved_at IS NOT NULL", []),
        Some(false) => clauses.and("d.state = 2 AND d.resolved_at IS NULL", []),
        None => {}
    }
}

/// One delivery, without its body.
pub(super) fn delivery(conn: &Connection, reading: &Reading, id: DeliveryId) -> rusqlite::Result<Option<Delivery>> {
    let sql = concat!(
        "SELECT ",
        rows::delivery_columns!("t.name"),
        " FROM deliveries d JOIN targets t ON t.id = d.target_id WHERE d.place = ?"
    );
    conn.prepare_cached(sql)?.query_row([id.place()], |row| reading.delivery(&mut Cells::of(row), None)).optional()
}

/// The delivery in the next cells with id, source and type of its event.
pub(super) fn delivery_row(reading: &Reading, cells: &mut Cells<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        delivery: reading.delivery(cells, None)?,
        event_id: cells.take()?,
        source: cells.take()?,
        r#type: cells.take()?,
    })
}

/// Filters by state, and names the index that holds nothing but that state: SQLite only finds it by the literal number.
fn in_state(clauses: &mut Where, filter: &Filter) -> &'static str {
    let Some(state) = filter.state else { return "" };
    clauses.and(&is_in(state), []);
    match state {
        State::Sending => "INDEXED BY deliveries_unreported",
        State::Pending if filter.event.is_none() => "INDEXED BY deliveries_pending",
        State::Dead => "INDEXED BY deliveries_dead",
        State::Suppressed | State::Digested | State::Expired | State::Unknown if filter.carrier.is_none() => {
            // What the index says, for SQLite to see that it holds them.
            clauses.and("d.state > 3", []);
            "INDEXED BY deliveries_unsent"
        }
        _ => "",
    }
}

/// What is written of a delivery in `state`. Of those that are being sent, only those whose target has yet to report are.
fn is_in(state: State) -> String {
    match (state, state_code(state)) {
        (State::Sending, _) => "d.state = 0 AND d.turn = 4".to_owned(),
        (State::Pending, Some(code)) => format!("d.state = {code} AND d.turn <> 4"),
        (State::Unknown, _) => format!("d.state > {EXPIRED}"),
        (_, Some(code)) => format!("d.state = {code}"),
        (_, None) => "0".to_owned(),
    }
}

fn among(clauses: &mut Where, targets: Option<&Targets>) {
    let (clause, names) = match targets {
        Some(Targets::Flowing(names)) => ("t.name IN (SELECT value FROM json_each(?)) AND d.cause IS NOT 5", names),
        Some(Targets::Held(names)) => ("(t.name NOT IN (SELECT value FROM json_each(?)) OR d.cause IS 5)", names),
        None => return,
    };
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let names = serde_json::to_string(&names).unwrap_or_default();
    clauses.and(clause, [names.into()]);
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

/// The attempts of one delivery, by number.
const ATTEMPTS_OF: &str = "SELECT * FROM attempts WHERE place = ? ORDER BY number";

/// The attempts of these deliveries; see [`crate::store::Store::attempts_of`].
pub(super) fn attempts_of(conn: &Connection, reading: &Reading, ids: &[DeliveryId]) -> rusqlite::Result<Vec<Attempt>> {
    let mut statement = conn.prepare_cached(ATTEMPTS_OF)?;
    let mut found = Vec::new();
    for id in ids.iter().filter(|id| id.event.salt == reading.salt) {
        let rows = statement.query_map([id.place()], |row| reading.attempt(row))?;
        found.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(found)
}

/// What is kept under `key`.
pub(super) fn setting(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM settings WHERE key = ?")?.query_row([key], |row| row.get(0)).optional()
}

/// What is kept under keys that begin with `prefix`.
pub(super) fn settings(conn: &Connection, prefix: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = conn.prepare_cached("SELECT key, value FROM settings WHERE key >= ? ORDER BY key")?;
    let mut rows = statement.query([prefix])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()?
        && row.get_ref(0)?.as_str()?.starts_with(prefix)
    {
        found.push((row.get(0)?, row.get(1)?));
    }
    Ok(found)
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

    fn extend(&mut self, clauses: impl IntoIterator<Item = String>) {
        self.clauses.extend(clauses);
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

    /// As [`Self::page`], by the steps that made deliveries; `step` tells which made the one at a place.
    fn page_of_steps(&mut self, page: Page, limit: u32, step: impl Fn(i64) -> rusqlite::Result<i64>) -> rusqlite::Result<()> {
        let order = match page {
            Page::Newest => "DESC",
            Page::Before(place) => {
                let step = step(place)?;
                self.and("r.id <= ? AND (r.id < ? OR d.place < ?)", [step.into(), step.into(), place.into()]);
                "DESC"
            }
            Page::After(place) => {
                let step = step(place)?;
                self.and("r.id >= ? AND (r.id > ? OR d.place > ?)", [step.into(), step.into(), place.into()]);
                "ASC"
            }
        };
        self.tail = format!(" ORDER BY r.id {order}, d.place {order} LIMIT {limit}");
        Ok(())
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
