//! Making new deliveries of an event that is held already.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;

use super::{
    accept, prune, query,
    rows::Reading,
    session::{Answer, Session},
    writer::Job,
};
use crate::{
    clock::{Timestamp, to_ms},
    envelope::{DeliveryId, Envelope, EventUid},
    store::{Committed, Delivery, Error, N_MAX, NewDelivery, Result},
};

/// The job of one [`crate::store::Store::replay`].
pub(super) struct Replay {
    /// What is asked for.
    pub(super) event: EventUid,
    /// Its new deliveries.
    pub(super) deliveries: Vec<NewDelivery>,
    /// What the step is known by.
    pub(super) tag: String,
    /// When they are due.
    pub(super) now: Timestamp,
    /// How the event is read.
    pub(super) reading: Reading,
    done: Option<Result<Done>>,
    reply: oneshot::Sender<Result<Vec<DeliveryId>>>,
}

/// What the step came to: deliveries `first` to `last` of its event.
struct Done {
    first: u32,
    last: u32,
    /// The event, unless the step was done before.
    envelope: Option<Envelope>,
}

impl Replay {
    /// Makes `deliveries` of `event` and answers through `reply`.
    pub(super) fn new(
        event: EventUid,
        deliveries: Vec<NewDelivery>,
        tag: String,
        now: Timestamp,
        reading: Reading,
        reply: oneshot::Sender<Result<Vec<DeliveryId>>>,
    ) -> Self {
        Self { event, deliveries, tag, now, reading, done: None, reply }
    }

    fn make(&self, session: &mut Session) -> Answer<Done> {
        if let Some(done) = before(session, &self.tag)? {
            return Ok(Ok(done));
        }
        if let Err(refused) = prune::make_room(session)? {
            return Ok(Err(refused));
        }
        match query::event(&session.conn, &self.reading, self.event)? {
            Some(row) if !self.deliveries.is_empty() => self.insert(session, row.deliveries, row.envelope),
            _ => Ok(Ok(Done { first: 1, last: 0, envelope: None })),
        }
    }

    fn insert(&self, session: &mut Session, planned: u32, envelope: Envelope) -> Answer<Done> {
        let count = u32::try_from(self.deliveries.len()).unwrap_or(u32::MAX);
        let (first, last) = (planned.saturating_add(1), planned.saturating_add(count));
        if N_MAX < last {
            return Ok(Err(Error::Backend(format!("an event has at most {N_MAX} deliveries, replays included").into())));
        }
        let at = to_ms(self.now);
        for (n, planned) in (first..).zip(&self.deliveries) {
            accept::insert_delivery(session, DeliveryId { event: self.event, n }, planned, at, true)?;
        }
        let sql = "UPDATE events SET deliveries = ? WHERE seq = ?";
        session.conn.prepare_cached(sql)?.execute((last, self.event.seq))?;
        note(&session.conn, &self.tag, self.event.seq, (first, last), at)?;
        Ok(Ok(Done { first, last, envelope: Some(envelope) }))
    }

    fn id(&self, n: u32) -> DeliveryId {
        DeliveryId { event: self.event, n }
    }
}

/// Notes a step that made the deliveries `first` to `last` of the event `seq`: lists of what replays made go by it.
pub(super) fn note(conn: &Connection, tag: &str, seq: i64, (first, last): (u32, u32), at: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO replays (tag, seq, first, last, at) VALUES (?, ?, ?, ?, ?)";
    conn.prepare_cached(sql)?.execute((tag, seq, first, last, at)).map(drop)
}

/// The step that made a delivery.
pub(super) const STEP: &str = "SELECT id FROM replays WHERE seq = ?1 AND ?2 BETWEEN first AND last";

/// The step that made the delivery at `place`; 0, from before all of them, where none is known. Steps are forgotten oldest
/// first, so what is known then has come since.
pub(super) fn step(conn: &Connection, place: i64) -> rusqlite::Result<i64> {
    let mut look_up = conn.prepare_cached(STEP)?;
    let found = look_up.query_row((place >> 16, place & i64::from(N_MAX)), |row| row.get(0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// What the step made when it was done before.
fn before(session: &Session, tag: &str) -> rusqlite::Result<Option<Done>> {
    let mut look_up = session.conn.prepare_cached("SELECT first, last FROM replays WHERE tag = ?")?;
    look_up.query_row([tag], |row| Ok(Done { first: row.get(0)?, last: row.get(1)?, envelope: None })).optional()
}

impl Job for Replay {
    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()> {
        self.done = Some(self.make(session)?);
        Ok(())
    }

    fn event(&mut self) -> Option<Committed> {
        let Some(Ok(done)) = &mut self.done else { return None };
        let envelope = Envelope { replayed: true, ..done.envelope.take()? };
        let first = done.first;
        let planned = std::mem::take(&mut self.deliveries);
        let made = |(n, planned)| Delivery { replayed: true, ..Delivery::new(self.id(n), planned, self.now) };
        let deliveries = (first..).zip(planned).map(made).collect();
        Some(Committed { uid: self.event, envelope: Arc::new(envelope), deliveries, cancelled: Vec::new() })
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { event, done, reply, .. } = *self;
        let ids = |done: Done| (done.first..=done.last).map(|n| DeliveryId { event, n }).collect();
        let _ = reply.send(outcome.and_then(|()| done.unwrap_or(Err(Error::Closed))).map(ids));
    }

    fn bytes(&self) -> usize {
        0
    }
}
