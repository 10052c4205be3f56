//! Taking in an event: is it a repeat, and if not, the rows of event, body and deliveries.

use std::sync::Arc;

use rusqlite::params;
use tokio::sync::oneshot;

use super::{
    ending,
    keys::Seen,
    lanes, prune,
    rows::{PENDING, severity_code, stage_code},
    session::{Answer, Session},
    writer::Job,
};
use crate::{
    clock::{from_ms, to_ms},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    store::{Accepted, Committed, Delivery, Error, N_MAX, NewDelivery, NewEvent, Remember, Result, SEQ_MAX, Stage},
};

/// How long the key of a hash id is kept at least, so that the same bytes get a suffix when they come after their window.
/// Pruning keeps it for as long as its event is held.
const HASH_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The job of one [`crate::store::Store::accept`].
pub(super) struct Accept {
    event: NewEvent,
    done: Option<Result<Done>>,
    /// Deliveries of earlier events that it cancelled.
    cancelled: Vec<(Name, DeliveryId)>,
    salt: u64,
    reply: oneshot::Sender<Result<Accepted>>,
}

/// What the event came to.
#[derive(Clone, Copy)]
enum Done {
    /// On disk as `seq`, its deliveries due at `at`.
    New { seq: i64, suffix: Option<i64>, at: i64 },
    /// Held already as `seq`, under its id with `suffix`.
    Repeat { seq: i64, suffix: Option<i64>, mismatch: bool },
}

impl Accept {
    /// Takes in `event` and answers through `reply`.
    pub(super) fn new(event: NewEvent, reply: oneshot::Sender<Result<Accepted>>) -> Self {
        Self { event, done: None, cancelled: Vec::new(), salt: 0, reply }
    }
}

impl Job for Accept {
    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()> {
        self.salt = session.salt;
        self.cancelled.clear();
        self.done = Some(accept(session, &self.event, &mut self.cancelled)?);
        Ok(())
    }

    fn event(&mut self) -> Option<Committed> {
        let Some(Ok(Done::New { seq, suffix, at })) = self.done else { return None };
        let planned = std::mem::take(&mut self.event.deliveries);
        if planned.is_empty() && self.cancelled.is_empty() {
            return None;
        }
        let uid = EventUid { salt: self.salt, seq };
        let deliveries =
            (1..).zip(planned).map(|(n, planned)| Delivery::new(DeliveryId { event: uid, n }, planned, from_ms(at))).collect();
        // A clone shares the body.
        let id = with_suffix(self.event.envelope.id.clone(), suffix);
        let envelope = Arc::new(Envelope { id, ..self.event.envelope.clone() });
        Some(Committed { uid, envelope, deliveries, cancelled: std::mem::take(&mut self.cancelled) })
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { event, done, salt, reply, .. } = *self;
        let id = event.envelope.id;
        let _ = reply.send(outcome.and_then(|()| done.unwrap_or(Err(Error::Closed))).map(|done| match done {
            Done::New { seq, suffix, .. } => Accepted::New { uid: EventUid { salt, seq }, id: with_suffix(id, suffix) },
            Done::Repeat { seq, suffix, mismatch } => {
                Accepted::Duplicate { uid: EventUid { salt, seq }, id: with_suffix(id, suffix), mismatch }
            }
        }));
    }

    fn bytes(&self) -> usize {
        self.event.envelope.body.len()
    }
}

fn with_suffix(id: String, suffix: Option<i64>) -> String {
    match suffix {
        Some(suffix) => format!("{id}-{suffix}"),
        None => id,
    }
}

fn accept(session: &mut Session, event: &NewEvent, cancelled: &mut Vec<(Name, DeliveryId)>) -> Answer<Done> {
    let suffix = match known(session, event)? {
        Known::Repeat { seq, suffix, mismatch } => {
            count_repeat(session, seq, mismatch)?;
            keep_setting(session, event)?;
            return Ok(Ok(Done::Repeat { seq, suffix, mismatch }));
        }
        Known::New { suffix } => suffix,
    };
    if let Err(refused) = prune::make_room(session)? {
        return Ok(Err(refused));
    }
    let seq = session.next_seq();
    if SEQ_MAX < seq || (N_MAX as usize) < event.deliveries.len() {
        return Ok(Err(Error::Backend(format!("an event has at most {N_MAX} deliveries, a store {SEQ_MAX} events").into())));
    }
    remember(session, event, seq, suffix)?;
    // What it ends comes before what it begins.
    if !event.endings.is_empty() {
        *cancelled = ending::end(session, event, seq)?;
    }
    insert(session, event, seq, suffix)?;
    keep_setting(session, event)?;
    Ok(Ok(Done::New { seq, suffix, at: session.now }))
}

fn keep_setting(session: &Session, event: &NewEvent) -> rusqlite::Result<()> {
    event.setting.as_ref().map_or(Ok(()), |(key, value)| session.keep_setting(key, value))
}

/// Whether an event came before.
enum Known {
    /// It did, as this event, with other bytes or not.
    Repeat { seq: i64, suffix: Option<i64>, mismatch: bool },
    /// It did not, or too long ago: its id gets this suffix.
    New { suffix: Option<i64> },
}

fn known(session: &Session, event: &NewEvent) -> rusqlite::Result<Known> {
    let dedupe = &event.dedupe;
    let Some(seen) = session.keys.seen(&session.conn, &dedupe.key)? else { return Ok(Known::New { suffix: None }) };
    let ago = session.now.saturating_sub(seen.seen_at);
    let repeat = match dedupe.remember {
        Remember::Id(window) => ago < ms(window),
        // Of what came in the future of a clock that was set back nobody knows how long ago that was: as long as it says.
        Remember::Hash(window) => ago.saturating_abs() < ms(window),
    };
    Ok(if repeat {
        Known::Repeat { seq: seen.seq, suffix: seen.suffix, mismatch: seen.body != dedupe.body }
    } else {
        Known::New { suffix: next_suffix(dedupe.remember, session.now, seen.suffix) }
    })
}

/// Unix seconds for a hash id that comes again, counted up from the last one when that second was used.
fn next_suffix(remember: Remember, now: i64, last: Option<i64>) -> Option<i64> {
    let seconds = now.div_euclid(1000);
    match remember {
        Remember::Id(_) => None,
        Remember::Hash(_) => Some(last.map_or(seconds, |last| seconds.max(last.saturating_add(1)))),
    }
}

fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Counts a repeat on the event, unless that was pruned.
fn count_repeat(session: &Session, seq: i64, mismatch: bool) -> rusqlite::Result<()> {
    let sql = "UPDATE events SET duplicates = duplicates + 1, mismatches = mismatches + ?, last_duplicate_at = ? WHERE seq = ?";
    session.conn.prepare_cached(sql)?.execute((mismatch, session.now, seq))?;
    Ok(())
}

fn remember(session: &mut Session, event: &NewEvent, seq: i64, suffix: Option<i64>) -> rusqlite::Result<()> {
    let (hashed, kept) = match event.dedupe.remember {
        Remember::Id(window) => (false, ms(window)),
        Remember::Hash(window) => (true, ms(window).max(HASH_KEPT_MS)),
    };
    let forget_at = session.now.saturating_add(kept);
    let seen = Seen { body: event.dedupe.body, seq, seen_at: session.now, hashed, suffix, forget_at };
    session.keys.remember(&session.conn, event.dedupe.key, seen)
}

/// Writes event, body and deliveries.
fn insert(session: &mut Session, event: &NewEvent, seq: i64, suffix: Option<i64>) -> rusqlite::Result<()> {
    insert_event(session, event, seq, suffix)?;
    let mut payload = session.conn.prepare_cached("INSERT INTO payloads (seq, body) VALUES (?, ?)")?;
    payload.execute((seq, &*event.envelope.body))?;
    drop(payload);
    for (n, planned) in (1..).zip(&event.deliveries) {
        let id = DeliveryId { event: EventUid { salt: session.salt, seq }, n };
        insert_delivery(session, id, planned, session.now, false)?;
    }
    Ok(())
}

fn insert_event(session: &Session, event: &NewEvent, seq: i64, suffix: Option<i64>) -> rusqlite::Result<()> {
    let it = &event.envelope;
    let id = suffix.map(|suffix| with_suffix(it.id.clone(), Some(suffix)));
    let rules: Vec<&str> = event.rules.iter().map(|name| name.as_str()).collect();
    // Names are plain text: this cannot fail.
    let rules = serde_json::to_string(&rules).unwrap_or_default();
    let sql = "INSERT INTO events (seq, id, source, kind, type, subject, namespace, time, timestamp, received_at, traceparent,
            replayed, content_type, data_start, data_len, rules, deliveries)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    session.conn.prepare_cached(sql)?.execute(params![
        seq,
        id.as_deref().unwrap_or(&it.id),
        it.source.as_str(),
        it.kind,
        it.r#type,
        it.subject,
        it.namespace,
        it.time,
        it.timestamp,
        to_ms(it.received_at),
        it.traceparent,
        it.replayed,
        it.content_type,
        it.data.as_ref().map(|range| range.start as i64),
        it.data.as_ref().map(|range| range.len() as i64),
        rules,
        event.deliveries.len() as i64,
    ])?;
    Ok(())
}

/// Writes a delivery that is due `at` once, made by a replay or not.
pub(super) fn insert_delivery(
    session: &mut Session,
    id: DeliveryId,
    planned: &NewDelivery,
    at: i64,
    replay: bool,
) -> rusqlite::Result<()> {
    let target = session.target_id(&planned.target)?;
    let turn = lanes::turn(&session.conn, target, planned.order_key.as_ref(), planned.severity)?;
    let sql =
        "INSERT INTO deliveries (place, target_id, state, created_at, due_at, rule, template, order_key, severity, turn, replay,
            stage)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let severity = severity_code(planned.severity);
    let rule = planned.rule.as_ref().map(|name| name.as_str());
    let template = planned.template.as_deref();
    let stage = stage_code(if planned.handling.is_some() { Stage::Undecided } else { Stage::Free });
    let row = (id.place(), target, PENDING, at, at, rule, template, planned.order_key, severity, turn, replay, stage);
    session.conn.prepare_cached(sql)?.execute(row)?;
    if let Some(handling) = &planned.handling {
        ending::keep(&session.conn, id.place(), handling)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn suffixes_count_up_within_a_second() {
        let hash = Remember::Hash(Duration::ZERO);
        assert_eq!(next_suffix(hash, 5_000, None), Some(5));
        assert_eq!(next_suffix(hash, 5_999, Some(5)), Some(6));
        assert_eq!(next_suffix(hash, 6_000, Some(6)), Some(7));
        assert_eq!(next_suffix(hash, 60_000, Some(7)), Some(60));
        assert_eq!(next_suffix(Remember::Id(Duration::ZERO), 60_000, None), None);
    }
}
