//! What is read of what is stored: pages of events, deliveries and attempts, and counts of them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tokio_postgres::{Row, types::ToSql};

use super::{
    clauses::{Value, Where},
    connect::{Db, Pg},
    digest, due,
    rows::{self, ATTEMPT, Cells, Reading},
    text::Text,
};
use crate::{
    clock::to_ms,
    envelope::{DeliveryId, Envelope, EventUid, Name},
    route::glob::Glob,
    store::{
        Attempt, Backlog, Delivery, DeliveryRow, EventRow, Filter, N_MAX, Page, SEQ_MAX, State, Targets,
        codes::{EXPIRED, cause_code, state_code},
    },
};

/// What goes out inside a delivery, as places in their order.
pub(super) const CARRIED: &str = "SELECT place FROM deliveries
    WHERE carrier IS NOT NULL AND carrier = $1 AND state = 5 ORDER BY place LIMIT $2";

/// The events of what `carrier` carries; see [`crate::store::Store::carried`].
pub(super) async fn carried(db: &Db, reading: &Reading, carrier: DeliveryId, limit: u32) -> Pg<Vec<(DeliveryId, Arc<Envelope>)>> {
    let first = digest::first_of(db, carrier.place()).await?;
    let rows = db.rows(CARRIED, &[&first, &i64::from(limit)]).await?;
    let places: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Pg<_>>()?;
    let events = due::events_at(db, reading, places.iter().map(|place| place >> 16)).await?;
    let with_event = |place: &i64| Some((DeliveryId::at(reading.salt, *place), events.get(&(place >> 16))?.clone()));
    Ok(places.iter().filter_map(with_event).collect())
}

/// Statements that count by target.
pub(super) struct ByTarget {
    /// All of them.
    pub(super) all: &'static str,
    /// One, $1.
    pub(super) one: &'static str,
}

macro_rules! by_target {
    ($columns:literal, $counts:literal) => {
        ByTarget {
            all: concat!(
                "SELECT t.name, ",
                $columns,
                " FROM (",
                $counts,
                " GROUP BY target_id) AS d JOIN targets t ON t.id = d.target_id"
            ),
            one: concat!(
                "SELECT t.name, ",
                $columns,
                " FROM targets t CROSS JOIN LATERAL (",
                $counts,
                " AND target_id = t.id GROUP BY target_id) AS d WHERE t.name = $1"
            ),
        }
    };
}
/// What waits by target, from the index alone.
pub(super) const WAITING: ByTarget =
    by_target!("d.n, d.oldest", "SELECT target_id, count(*) AS n, min(created_at) AS oldest FROM deliveries WHERE state = 0");
/// What is dead by target, from the index alone.
pub(super) const DEAD: ByTarget =
    by_target!("d.n", "SELECT target_id, count(*) AS n FROM deliveries WHERE state = 2 AND resolved_at IS NULL");

/// What waits and what is dead; see [`crate::store::Store::backlog`].
pub(super) async fn backlog(db: &Db, target: Option<&Name>) -> Pg<Vec<Backlog>> {
    let name = target.map(|target| Text::of(target.as_str()));
    let params: Vec<&(dyn ToSql + Sync)> = name.iter().map(|name| name as _).collect();
    let of = |counted: ByTarget| if target.is_some() { counted.one } else { counted.all };
    let mut found: BTreeMap<String, Backlog> = BTreeMap::new();
    for row in db.rows(of(WAITING), &params).await? {
        let mut cells = Cells::of(&row);
        let name = cells.text()?;
        let (waiting, oldest_at) = (cells.amount()?, cells.some_time()?);
        found.insert(name.clone(), Backlog { target: name.as_str().into(), waiting, oldest_at, dead: 0 });
    }
    for row in db.rows(of(DEAD), &params).await? {
        let mut cells = Cells::of(&row);
        let name = cells.text()?;
        let none = || Backlog { target: name.as_str().into(), waiting: 0, oldest_at: None, dead: 0 };
        found.entry(name.clone()).or_insert_with(none).dead = cells.amount()?;
    }
    Ok(found.into_values().collect())
}

/// A page of events; see [`crate::store::Store::events`].
pub(super) async fn events(db: &Db, reading: &Reading, filter: &Filter) -> Pg<Vec<EventRow>> {
    let mut clauses = of_events(filter);
    clauses.page("e.seq", filter.page, filter.limit);
    let rows = clauses.rows(db, concat!("SELECT ", rows::story_columns!(), " FROM events e")).await?;
    rows.iter().map(|row| reading.event(&mut Cells::of(row), Bytes::new())).collect()
}

/// How many events; see [`crate::store::Store::count_events`].
pub(super) async fn count_events(db: &Db, filter: &Filter) -> Pg<u64> {
    one_number(&of_events(filter).rows(db, "SELECT count(*) FROM events e").await?)
}

fn one_number(rows: &[Row]) -> Pg<u64> {
    rows.first().map_or(Ok(0), |row| Cells::of(row).amount())
}

/// What `filter` says of events.
pub(super) fn of_events(filter: &Filter) -> Where {
    let mut clauses = Where::default();
    of_both(&mut clauses, filter);
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

/// What `filter` says of an event, also of a delivery's.
fn of_both(clauses: &mut Where, filter: &Filter) {
    clauses.equals("e.source", filter.source.as_deref());
    if let Some(source) = &filter.except_source {
        clauses.and("e.source <> $", [source.clone().into()]);
    }
    if let Some(namespaces) = &filter.namespaces {
        clauses.and("e.namespace = ANY($)", [namespaces.iter().cloned().collect()]);
    }
    clauses.equals("e.type", filter.r#type.as_deref());
    if !filter.types.is_empty() {
        clauses.and("e.type ~ ANY($)", [filter.types.iter().map(pattern).collect()]);
    }
}

/// The regular expression that says what a glob does. A line's end is a character like any other to both.
fn pattern(glob: &Glob) -> String {
    let mut pattern = "^".to_owned();
    let mut left = glob.text().chars().peekable();
    while let Some(c) = left.next() {
        match c {
            '*' if left.next_if_eq(&'*').is_some() => pattern += ".*",
            '*' => pattern += "[^.]*",
            '.' | '\\' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => pattern.extend(['\\', c]),
            c => pattern.push(c),
        }
    }
    pattern + "$"
}

/// Only events with a delivery of which `filter` says target and state.
fn sent(clauses: &mut Where, filter: &Filter) {
    if filter.target.is_none() && filter.state.is_none() {
        return;
    }
    let mut sent = "EXISTS (SELECT 1 FROM deliveries d WHERE d.place BETWEEN e.seq << 16 AND (e.seq << 16) + 65535".to_owned();
    if let Some(state) = filter.state {
        sent += " AND ";
        sent += &is_in(state);
    }
    match &filter.target {
        Some(target) => {
            clauses.and(&(sent + " AND d.target_id = (SELECT id FROM targets WHERE name = $))"), [target.clone().into()])
        }
        None => clauses.and(&(sent + ")"), []),
    }
}

/// One event with its body; see [`crate::store::Store::event`].
pub(super) async fn event(db: &Db, reading: &Reading, uid: EventUid) -> Pg<Option<EventRow>> {
    if uid.salt != reading.salt {
        return Ok(None);
    }
    let sql = concat!("SELECT e.body, ", rows::story_columns!(), " FROM events e WHERE e.seq = $1");
    let Some(row) = db.first(sql, &[&uid.seq]).await? else { return Ok(None) };
    let mut cells = Cells::of(&row);
    let body = cells.some_bytes()?.unwrap_or_default();
    reading.event(&mut cells, body).map(Some)
}

/// A page of deliveries; see [`crate::store::Store::deliveries`].
pub(super) async fn deliveries(db: &Db, reading: &Reading, filter: &Filter) -> Pg<Vec<DeliveryRow>> {
    let (mut clauses, tables) = of_deliveries(filter, reading.salt);
    match (filter.replayed, filter.page) {
        (Some(true), Page::Before(place) | Page::After(place)) => {
            let step = super::replay::step(db, place).await?;
            clauses.page_of_steps(filter.page, filter.limit, step);
        }
        (Some(true), Page::Newest) => clauses.page_of_steps(filter.page, filter.limit, 0),
        _ => clauses.page("d.place", filter.page, filter.limit),
    }
    listed(db, reading, &clauses, &tables).await
}

/// Deliveries of one subscription; see [`crate::store::Store::subscribed`].
pub(super) async fn subscribed(db: &Db, reading: &Reading, filter: &Filter) -> Pg<Vec<DeliveryRow>> {
    let (clauses, tables) = of_subscription(filter, reading.salt);
    listed(db, reading, &clauses, &tables).await
}

/// A page of the deliveries of one subscription, and where they are found.
pub(super) fn of_subscription(filter: &Filter, salt: u64) -> (Where, String) {
    let (mut clauses, tables) = of_deliveries(filter, salt);
    // What the index says of rules, for PostgreSQL to see that it holds them.
    let own = "d.target_id = (SELECT id FROM targets WHERE name = $) AND starts_with(d.rule, 'wh_')";
    clauses.and(own, [filter.target.clone().unwrap_or_default().into()]);
    clauses.page("d.place", filter.page, filter.limit);
    (clauses, tables)
}

async fn listed(db: &Db, reading: &Reading, clauses: &Where, tables: &str) -> Pg<Vec<DeliveryRow>> {
    let select = format!("SELECT {}, e.id, e.source, e.type FROM {tables}", rows::delivery_columns!());
    clauses.rows(db, &select).await?.iter().map(|row| reading.delivery_row(row)).collect()
}

/// How many deliveries; see [`crate::store::Store::count_deliveries`].
pub(super) async fn count_deliveries(db: &Db, reading: &Reading, filter: &Filter) -> Pg<u64> {
    let (clauses, tables) = of_deliveries(filter, reading.salt);
    one_number(&clauses.rows(db, &format!("SELECT count(*) FROM {tables}")).await?)
}

/// What replays made, step by step.
const STEPS: &str = "replays r JOIN deliveries d ON d.place BETWEEN (r.seq << 16) + r.first AND (r.seq << 16) + r.last";

/// What `filter` says of deliveries, and the tables that hold them and what it speaks of.
fn of_deliveries(filter: &Filter, salt: u64) -> (Where, String) {
    let mut clauses = Where::default();
    of_both(&mut clauses, filter);
    clauses.between("d.created_at", filter.since, filter.until);
    clauses.equals("t.name", filter.target.as_deref());
    if let Some(time) = filter.due_before {
        clauses.and("d.due_at < $", [to_ms(time).into()]);
    }
    among(&mut clauses, filter.targets.as_ref());
    if let Some(event) = filter.event {
        let (first, last) = places(event, salt);
        clauses.and("d.place BETWEEN $ AND $", [first.into(), last.into()]);
    }
    if let Some(carrier) = filter.carrier {
        let ours = if carrier.event.salt == salt { carrier.place() } else { -1 };
        let first = "coalesce((SELECT carrier FROM deliveries WHERE place = $ AND stage = 5), $)";
        clauses.and(&format!("d.carrier = {first} AND d.state = 5"), [ours.into(), ours.into()]);
    }
    if let Some(state) = filter.state {
        clauses.and(&is_in(state), []);
    }
    if let Some(cause) = filter.cause {
        clauses.and("d.cause = $::bigint", [cause_code(cause).into()]);
    }
    match filter.resolved {
        Some(true) => clauses.and("d.state = 2 AND d.resolved_at IS NOT NULL", []),
        Some(false) => clauses.and("d.state = 2 AND d.resolved_at IS NULL", []),
        None => {}
    }
    match (filter.replayed, filter.event) {
        (Some(true), Some(event)) => clauses.and("r.seq = $", [event.seq.into()]),
        (Some(false), _) => clauses.and("NOT d.replay", []),
        _ => {}
    }
    let deliveries = if filter.replayed == Some(true) { STEPS } else { "deliveries d" };
    (clauses, format!("{deliveries} JOIN targets t ON t.id = d.target_id JOIN events e ON e.seq = d.place >> 16"))
}

/// One delivery, without its body.
pub(super) async fn delivery(db: &Db, reading: &Reading, id: DeliveryId) -> Pg<Option<Delivery>> {
    let sql = concat!(
        "SELECT ",
        rows::delivery_columns!(),
        " FROM deliveries d JOIN targets t ON t.id = d.target_id WHERE d.place = $1"
    );
    let row = db.first(sql, &[&id.place()]).await?;
    row.map(|row| reading.delivery(&mut Cells::of(&row), None)).transpose()
}

/// What is written of a delivery in `state`, by the literal number that the indexes name. Of those that are being sent, only those whose
/// target has yet to report are.
fn is_in(state: State) -> String {
    match (state, state_code(state)) {
        (State::Sending, _) => "d.state = 0 AND d.turn = 4".to_owned(),
        (State::Pending, Some(code)) => format!("d.state = {code} AND d.turn <> 4"),
        (State::Suppressed | State::Digested | State::Expired, Some(code)) => format!("d.state = {code} AND d.state > 3"),
        (State::Unknown, _) => format!("d.state > 3 AND d.state > {EXPIRED}"),
        (_, Some(code)) => format!("d.state = {code}"),
        (_, None) => "false".to_owned(),
    }
}

fn among(clauses: &mut Where, targets: Option<&Targets>) {
    let (clause, names) = match targets {
        Some(Targets::Flowing(names)) => ("t.name = ANY($) AND d.cause IS DISTINCT FROM 5", names),
        Some(Targets::Held(names)) => ("(NOT t.name = ANY($) OR d.cause IS NOT DISTINCT FROM 5)", names),
        None => return,
    };
    let names: Value = names.iter().map(|name| name.as_str().to_owned()).collect();
    clauses.and(clause, [names]);
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
pub(super) async fn attempts(db: &Db, reading: &Reading, event: EventUid) -> Pg<Vec<Attempt>> {
    let (first, last) = places(event, reading.salt);
    let sql = format!("SELECT {ATTEMPT} FROM attempts WHERE place BETWEEN $1 AND $2 ORDER BY place, number");
    db.rows(&sql, &[&first, &last]).await?.iter().map(|row| reading.attempt(row)).collect()
}

/// The attempts of these deliveries; see [`crate::store::Store::attempts_of`].
pub(super) async fn attempts_of(db: &Db, reading: &Reading, ids: &[DeliveryId]) -> Pg<Vec<Attempt>> {
    let places: Vec<i64> = ids.iter().filter(|id| id.event.salt == reading.salt).map(|id| id.place()).collect();
    db.rows(&attempts_of_sql(), &[&places]).await?.iter().map(|row| reading.attempt(row)).collect()
}

/// The attempts of deliveries, by these as they are named.
pub(super) fn attempts_of_sql() -> String {
    format!(
        "SELECT {ATTEMPT} FROM unnest($1::bigint[]) WITH ORDINALITY AS u (named, nth) JOIN attempts ON place = named
        ORDER BY nth, number"
    )
}
