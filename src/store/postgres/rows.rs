//! How rows become events, deliveries and attempts.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_postgres::{Row, types::FromSql};

use super::{
    connect::Pg,
    text::{Int, Text},
};
use crate::{
    clock::{Timestamp, from_ms},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    store::{
        Attempt, Delivery, DeliveryRow, EventRow, Next, Rendered, Resolution, Stage, State,
        codes::{AWAITS, cause, severity, stage, state},
        held::{Recent, Words},
    },
};

/// The columns that [`Reading::envelope`] reads, of `events e`.
macro_rules! event_columns {
    () => {
        "e.data_start, e.data_len, e.id, e.source, e.kind, e.type, e.subject, e.namespace, e.time, e.timestamp, e.received_at,
        e.traceparent, e.replayed, e.content_type"
    };
}
pub(super) use event_columns;

/// The columns that [`Reading::event`] reads, of `events e`.
macro_rules! story_columns {
    () => {
        concat!("e.seq, ", rows::event_columns!(), ", e.rules, e.deliveries, e.duplicates, e.mismatches, e.last_duplicate_at")
    };
}
pub(super) use story_columns;

/// The columns that [`Reading::delivery`] reads, of `deliveries d` and `targets t`.
macro_rules! delivery_columns {
    () => {
        "d.place, t.name, d.state, d.cause, d.rule, d.template, d.created_at, d.due_at, d.first_attempt_at, d.attempts, d.error,
        d.order_key, d.severity, d.replay, d.uncounted, d.stood_still_ms, d.out_of_order, d.resolved_at, d.note, d.stage, d.carrier,
        d.renewed_at, d.recipient, d.unconfirmed, d.turn = 4, d.unmade"
    };
}
pub(super) use delivery_columns;

/// The cells of a row, read one after the other.
pub(super) struct Cells<'r> {
    row: &'r Row,
    at: usize,
}

impl<'r> Cells<'r> {
    /// From the first cell of `row`.
    pub(super) fn of(row: &'r Row) -> Self {
        Self { row, at: 0 }
    }

    /// The next cell.
    pub(super) fn take<T: FromSql<'r>>(&mut self) -> Pg<T> {
        self.at += 1;
        self.row.try_get(self.at - 1)
    }

    /// The number in the next cell.
    pub(super) fn int(&mut self) -> Pg<i64> {
        self.take::<Int>().map(|it| it.0)
    }

    /// The same, where there is one.
    pub(super) fn some_int(&mut self) -> Pg<Option<i64>> {
        self.take::<Option<Int>>().map(|it| it.map(|it| it.0))
    }

    /// The number in the next cell, which is a small one and never below 0.
    pub(super) fn count(&mut self) -> Pg<u32> {
        self.int().map(|it| u32::try_from(it.max(0)).unwrap_or(u32::MAX))
    }

    /// The number in the next cell, which is never below 0.
    pub(super) fn amount(&mut self) -> Pg<u64> {
        self.int().map(|it| it.max(0).cast_unsigned())
    }

    /// The text in the next cell.
    pub(super) fn text(&mut self) -> Pg<String> {
        self.take::<Text<'r>>().map(Text::into_string)
    }

    /// The same, where there is one.
    pub(super) fn some_text(&mut self) -> Pg<Option<String>> {
        self.take::<Option<Text<'r>>>().map(|it| it.map(Text::into_string))
    }

    /// The name in the next cell.
    pub(super) fn name(&mut self) -> Pg<Name> {
        self.take::<Text<'r>>().map(|it| it.as_str().into())
    }

    /// The time in the next cell, where there is one.
    pub(super) fn some_time(&mut self) -> Pg<Option<Timestamp>> {
        self.some_int().map(|it| it.map(from_ms))
    }

    /// The time in the next cell.
    pub(super) fn time(&mut self) -> Pg<Timestamp> {
        self.int().map(from_ms)
    }

    /// The 16 bytes in the next cell, where there are so many.
    pub(super) fn some_key(&mut self) -> Pg<Option<[u8; 16]>> {
        self.take::<Option<&[u8]>>().map(|it| it.and_then(|bytes| bytes.try_into().ok()))
    }

    /// The bytes in the next cell, where there are any.
    pub(super) fn some_bytes(&mut self) -> Pg<Option<Bytes>> {
        self.take::<Option<Vec<u8>>>().map(|it| it.map(Bytes::from))
    }
}

/// What is needed to read rows: the store's salt and its words.
#[derive(Debug)]
pub(super) struct Reading {
    /// First half of every id.
    pub(super) salt: u64,
    /// See [`Words`].
    pub(super) words: Words,
    /// See [`Recent`].
    pub(super) recent: Recent,
}

impl Reading {
    /// The event in the next cells ([`event_columns`]), with the body given.
    pub(super) fn envelope(&self, cells: &mut Cells<'_>, body: Bytes) -> Pg<Envelope> {
        let (start, len) = (cells.some_int()?, cells.some_int()?);
        let size = |it: i64| usize::try_from(it).unwrap_or_default();
        Ok(Envelope {
            id: cells.text()?,
            source: cells.name()?,
            kind: self.words.get(cells.take::<Text<'_>>()?.as_str()),
            r#type: cells.text()?,
            subject: cells.some_text()?,
            namespace: cells.some_text()?,
            time: cells.text()?,
            timestamp: cells.text()?,
            received_at: cells.time()?,
            traceparent: cells.some_text()?,
            replayed: cells.take()?,
            body,
            content_type: cells.some_text()?,
            data: start.zip(len).map(|(start, len)| size(start)..size(start).saturating_add(size(len))),
        })
    }

    /// The event in the next cells ([`story_columns`]) as lists show it.
    pub(super) fn event(&self, cells: &mut Cells<'_>, body: Bytes) -> Pg<EventRow> {
        Ok(EventRow {
            uid: EventUid { salt: self.salt, seq: cells.int()? },
            envelope: self.envelope(cells, body)?,
            rules: serde_json::from_str(&cells.text()?).unwrap_or_default(),
            deliveries: cells.count()?,
            duplicates: cells.count()?,
            mismatches: cells.count()?,
            last_duplicate_at: cells.some_time()?,
        })
    }

    /// The delivery in the next cells ([`delivery_columns`]).
    pub(super) fn delivery(&self, cells: &mut Cells<'_>, body: Option<Rendered>) -> Pg<Delivery> {
        let mut delivery = Delivery {
            id: DeliveryId::at(self.salt, cells.int()?),
            target: cells.name()?,
            state: state(cells.int()?),
            cause: cells.some_int()?.map(cause),
            rule: cells.take::<Option<Text<'_>>>()?.map(|name| name.as_str().into()),
            template: cells.some_text()?,
            created_at: cells.time()?,
            due_at: cells.some_time()?,
            first_attempt_at: cells.some_time()?,
            attempts: cells.count()?,
            error: cells.some_text()?,
            body,
            order_key: cells.some_key()?,
            severity: severity(cells.int()?),
            replayed: cells.take()?,
            uncounted: cells.count()?,
            stood_still_ms: cells.int()?,
            out_of_order: cells.take()?,
            resolved: None,
            stage: Stage::Free,
            carrier: None,
            reason: None,
            renewed_at: None,
            recipient: None,
            unconfirmed: false,
            awaits_report: false,
            unmade: 0,
        };
        // One column holds what a person settled a death with, or why it was not sent.
        let (resolved_at, note) = (cells.some_time()?, cells.some_text()?);
        match resolved_at {
            Some(at) => delivery.resolved = Some(Resolution { at, note: note.unwrap_or_default() }),
            None => delivery.reason = note,
        }
        delivery.stage = stage(cells.int()?);
        // Of those that carry a digest to several recipients, the others name the first one.
        let carrier = cells.some_int()?.filter(|_| delivery.stage != Stage::Carrying);
        delivery.carrier = carrier.map(|place| DeliveryId::at(self.salt, place));
        delivery.renewed_at = cells.some_time()?;
        delivery.recipient = cells.some_text()?;
        delivery.unconfirmed = cells.take()?;
        delivery.awaits_report = cells.take()?;
        delivery.unmade = cells.count()?;
        Ok(delivery)
    }

    /// The delivery in `row` with id, source and type of its event.
    pub(super) fn delivery_row(&self, row: &Row) -> Pg<DeliveryRow> {
        let mut cells = Cells::of(row);
        Ok(DeliveryRow {
            delivery: self.delivery(&mut cells, None)?,
            event_id: cells.text()?,
            source: cells.text()?,
            r#type: cells.text()?,
        })
    }

    /// The attempt in `row`.
    pub(super) fn attempt(&self, row: &Row) -> Pg<Attempt> {
        let mut cells = Cells::of(row);
        let delivery = DeliveryId::at(self.salt, cells.int()?);
        let number = cells.count()?;
        let started_at = cells.time()?;
        let duration = Duration::from_micros(cells.amount()?);
        let status = cells.some_int()?.and_then(|it| u16::try_from(it).ok());
        let (error, detail) = (cells.some_text()?, cells.some_text()?);
        let next = next(cells.int()?, cells.some_int()?, cells.some_time()?);
        let response = cells.some_bytes()?.unwrap_or_default();
        let (counts, epoch) = (cells.take()?, cells.int()?);
        Ok(Attempt {
            delivery,
            number,
            started_at,
            duration,
            status,
            error,
            detail,
            response,
            next,
            rendered: None,
            counts,
            stood_still_ms: 0,
            epoch,
            unmade: None,
            ordered: false,
        })
    }
}

/// What [`Reading::attempt`] reads.
pub(super) const ATTEMPT: &str =
    "place, number, started_at, duration_us, status, error, detail, outcome, cause, retry_at, response, counts, epoch";

fn next(outcome: i64, why: Option<i64>, at: Option<Timestamp>) -> Next {
    match (outcome, state(outcome)) {
        (AWAITS, _) => Next::Awaits(at.unwrap_or_default()),
        (_, State::Dead) => Next::Dead(cause(why.unwrap_or_default())),
        // What a later version's attempt came to is not known; that it ended nothing is.
        (_, State::Pending | State::Unknown) => Next::Retry(at.unwrap_or_default()),
        _ => Next::Delivered,
    }
}

/// Several lanes share an event that was read once.
pub(super) type Event = Arc<Envelope>;
