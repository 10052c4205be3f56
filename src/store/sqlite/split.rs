//! Making of one delivery for several recipients one for each.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;

use super::{
    accept, prune, query, replay,
    rows::{Reading, stage_code},
    session::{Answer, Session},
    writer::Job,
};
use crate::{
    clock::{Timestamp, to_ms},
    envelope::{DeliveryId, Envelope},
    store::{Committed, Delivery, Error, N_MAX, NewDelivery, Read, Rendered, Result, Stage},
};

/// The job of one [`crate::store::Store::split`].
pub(super) struct Split {
    /// What is split.
    pub(super) id: DeliveryId,
    /// How often something had been taken out of it when `body` was made.
    pub(super) unmade: u32,
    /// Among whom; the first keeps the delivery.
    pub(super) recipients: Vec<String>,
    /// What all of them are sent.
    pub(super) body: Rendered,
    /// When the others are due.
    pub(super) now: Timestamp,
    /// How the event is read.
    pub(super) reading: Reading,
    done: Option<Result<Done>>,
    reply: oneshot::Sender<Result<Option<String>>>,
}

/// What it came to.
struct Done {
    /// Whom the delivery is for now; `None`: there is no such delivery, or it is final.
    own: Option<String>,
    /// The others, unless it was split before.
    others: Option<(Arc<Envelope>, Vec<Delivery>)>,
}

/// One that is not final and for whom it is.
pub(super) const KNOWN: &str = "SELECT recipient FROM deliveries WHERE place = ? AND state = 0";
const NAME: &str = "UPDATE deliveries SET recipient = ?2, created_at = ?3 WHERE place = ?1";

impl Split {
    /// Splits `of` and answers through `reply`.
    pub(super) fn new(
        of: Read,
        recipients: Vec<String>,
        body: Rendered,
        now: Timestamp,
        reading: Reading,
        reply: oneshot::Sender<Result<Option<String>>>,
    ) -> Self {
        Self { id: of.id, unmade: of.unmade, recipients, body, now, reading, done: None, reply }
    }

    fn make(&self, session: &mut Session) -> Answer<Done> {
        let nothing = || Ok(Ok(Done { own: None, others: None }));
        if self.id.event.salt != session.salt {
            return nothing();
        }
        let known = session.conn.prepare_cached(KNOWN)?.query_row([self.id.place()], |row| row.get(0)).optional()?;
        match known {
            None => nothing(),
            Some(Some(own)) => Ok(Ok(Done { own: Some(own), others: None })),
            Some(None) => {
                if let Err(refused) = prune::make_room(session)? {
                    return Ok(Err(refused));
                }
                self.split(session)
            }
        }
    }

    fn split(&self, session: &mut Session) -> Answer<Done> {
        let Some(event) = query::event(&session.conn, &self.reading, self.id.event)? else {
            return Ok(Ok(Done { own: None, others: None }));
        };
        let rows = query::delivery(&session.conn, &self.reading, self.id)?;
        let (Some(it), Some(own)) = (rows, self.recipients.first()) else {
            return Ok(Ok(Done { own: None, others: None }));
        };
        let first = event.deliveries.saturating_add(1);
        let others = self.recipients.get(1..).unwrap_or_default();
        let last = event.deliveries.saturating_add(u32::try_from(others.len()).unwrap_or(u32::MAX));
        if N_MAX < last {
            return Ok(Err(Error::Backend(
                format!("an event has at most {N_MAX} deliveries, those for each recipient included").into(),
            )));
        }
        let created_at = to_ms(it.created_at);
        let stage = match it.stage {
            Stage::Free | Stage::Carrying => it.stage,
            _ => Stage::Passed,
        };
        let body = (it.unmade == self.unmade).then_some(&self.body);
        session.conn.prepare_cached(NAME)?.execute((self.id.place(), own, created_at))?;
        keep_body(session, self.id, body)?;
        let mut made = Vec::new();
        for (n, recipient) in (first..).zip(others) {
            let id = DeliveryId { event: self.id.event, n };
            let planned = planned(&it);
            accept::insert_delivery(session, id, &planned, to_ms(self.now), it.replayed)?;
            session.conn.prepare_cached(NAME)?.execute((id.place(), recipient, created_at))?;
            decided(&session.conn, self.id, id, stage)?;
            keep_body(session, id, body)?;
            made.push(Delivery {
                recipient: Some(recipient.clone()),
                created_at: it.created_at,
                replayed: it.replayed,
                stage,
                body: body.cloned(),
                ..Delivery::new(id, planned, self.now)
            });
        }
        session.conn.prepare_cached("UPDATE events SET deliveries = ? WHERE seq = ?")?.execute((last, self.id.event.seq))?;
        if it.replayed && first <= last {
            replay::note(&session.conn, &format!("split {}", self.id), self.id.event.seq, (first, last), to_ms(self.now))?;
        }
        Ok(Ok(Done { own: Some(own.clone()), others: Some((Arc::new(event.envelope), made)) }))
    }
}

/// What was decided about the one holds for all; what may still cancel it, cancels them.
fn decided(conn: &Connection, one: DeliveryId, other: DeliveryId, stage: Stage) -> rusqlite::Result<()> {
    // What it carries, the others find by it.
    let first = (stage == Stage::Carrying).then_some(one.place());
    let sql = "UPDATE deliveries SET stage = ?2, carrier = ?3 WHERE place = ?1";
    conn.prepare_cached(sql)?.execute((other.place(), stage_code(stage), first))?;
    share_handling(conn, one.place(), other.place())
}

/// What the rules want of the delivery at `from` they want of the one at `to`, too.
pub(super) fn share_handling(conn: &Connection, from: i64, to: i64) -> rusqlite::Result<()> {
    for sql in [
        "INSERT INTO handling (place, plan, cancels) SELECT ?2, plan, cancels FROM handling WHERE place = ?1",
        "INSERT INTO awaited (key, place) SELECT key, ?2 FROM awaited WHERE place = ?1",
    ] {
        conn.prepare_cached(sql)?.execute((from, to))?;
    }
    Ok(())
}

fn keep_body(session: &Session, id: DeliveryId, body: Option<&Rendered>) -> rusqlite::Result<()> {
    let Some(body) = body else { return Ok(()) };
    let sql = "INSERT INTO bodies (place, content_type, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
    session.conn.prepare_cached(sql)?.execute((id.place(), &body.content_type, &*body.body))?;
    Ok(())
}

/// One like `it`, for somebody else.
fn planned(it: &Delivery) -> NewDelivery {
    NewDelivery {
        rule: it.rule.clone(),
        template: it.template.clone(),
        order_key: it.order_key,
        severity: it.severity,
        ..NewDelivery::to(it.target.clone())
    }
}

impl Job for Split {
    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()> {
        self.done = Some(self.make(session)?);
        Ok(())
    }

    fn event(&mut self) -> Option<Committed> {
        let Some(Ok(done)) = &mut self.done else { return None };
        let (envelope, deliveries) = done.others.take()?;
        Some(Committed { uid: self.id.event, envelope, deliveries, cancelled: Vec::new() })
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { done, reply, .. } = *self;
        let _ = reply.send(outcome.and_then(|()| done.unwrap_or(Err(Error::Closed))).map(|done| done.own));
    }

    fn bytes(&self) -> usize {
        self.body.body.len() * self.recipients.len()
    }
}
