//! How values lie in the tables: codes of states and causes, rows to events and deliveries, and what errors mean.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{
    ErrorCode, Row, RowIndex,
    types::{FromSql, ValueRef},
};

use crate::{
    clock::{Timestamp, from_ms},
    envelope::{DeliveryId, Envelope, EventUid},
    store::{
        Attempt, Delivery, Error, EventRow, Next, Rendered, Resolution, Stage, State,
        held::{Recent, Words},
    },
};

pub(super) use crate::store::codes::*;

/// What an error of SQLite means to the store's callers.
pub(super) fn fault(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::DatabaseBusy,
        ) => Error::Full(error.to_string()),
        Some(ErrorCode::NotADatabase) => Error::Unreadable("it is not a database".into()),
        _ => Error::Backend(error.to_string().into()),
    }
}

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

/// The columns that [`Reading::delivery`] reads, of `deliveries d`; the expression yields its target's name.
macro_rules! delivery_columns {
    ($target:literal) => {
        concat!(
            "d.place, ",
            $target,
            ", d.state, d.cause, d.rule, d.template, d.created_at, d.due_at, d.first_attempt_at, d.attempts, d.error, d.order_key,
            d.severity, d.replay, d.uncounted, d.stood_still_ms, d.out_of_order, d.resolved_at, d.note, d.stage, d.carrier,
            d.renewed_at, d.recipient, d.unconfirmed, d.turn = 4, d.unmade"
        )
    };
}
pub(super) use delivery_columns;

/// The cells of a row, read one after the other. (Looking each up by its column's name took a tenth of the work of a
/// delivery that was read back.)
pub(super) struct Cells<'r> {
    row: &'r Row<'r>,
    at: usize,
}

impl<'r> Cells<'r> {
    /// From the first cell of `row`.
    pub(super) fn of(row: &'r Row<'r>) -> Self {
        Self { row, at: 0 }
    }

    /// The next cell.
    pub(super) fn take<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.at += 1;
        self.row.get(self.at - 1)
    }

    fn next(&mut self) -> rusqlite::Result<ValueRef<'r>> {
        self.at += 1;
        self.row.get_ref(self.at - 1)
    }

    fn text(&mut self) -> rusqlite::Result<&'r str> {
        Ok(self.next()?.as_str()?)
    }

    fn time(&mut self) -> rusqlite::Result<Option<Timestamp>> {
        Ok(self.take::<Option<i64>>()?.map(from_ms))
    }
}

/// What is needed to read rows: the store's salt and its words.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// First half of every id.
    pub(super) salt: u64,
    /// See [`Words`].
    pub(super) words: Arc<Words>,
    /// See [`Recent`].
    pub(super) recent: Arc<Recent>,
}

impl Reading {
    /// The column `name` as a static word.
    pub(super) fn word(&self, row: &Row<'_>, name: &str) -> rusqlite::Result<&'static str> {
        Ok(self.words.get(row.get_ref(name)?.as_str()?))
    }

    /// The event in the next cells ([`event_columns`]), with the body given.
    pub(super) fn envelope(&self, cells: &mut Cells<'_>, body: Bytes) -> rusqlite::Result<Envelope> {
        let start: Option<u32> = cells.take()?;
        let len: Option<u32> = cells.take()?;
        Ok(Envelope {
            id: cells.take()?,
            source: cells.text()?.into(),
            kind: self.words.get(cells.text()?),
            r#type: cells.take()?,
            subject: cells.take()?,
            namespace: cells.take()?,
            time: cells.take()?,
            timestamp: cells.take()?,
            received_at: from_ms(cells.take()?),
            traceparent: cells.take()?,
            replayed: cells.take()?,
            body,
            content_type: cells.take()?,
            data: start.zip(len).map(|(start, len)| start as usize..start.saturating_add(len) as usize),
        })
    }

    /// The event in the next cells ([`story_columns`]) as lists show it.
    pub(super) fn event(&self, cells: &mut Cells<'_>, body: Bytes) -> rusqlite::Result<EventRow> {
        Ok(EventRow {
            uid: EventUid { salt: self.salt, seq: cells.take()? },
            envelope: self.envelope(cells, body)?,
            rules: serde_json::from_str(cells.text()?).unwrap_or_default(),
            deliveries: cells.take()?,
            duplicates: cells.take()?,
            mismatches: cells.take()?,
            last_duplicate_at: cells.time()?,
        })
    }

    /// The delivery in the next cells ([`delivery_columns`]).
    pub(super) fn delivery(&self, cells: &mut Cells<'_>, body: Option<Rendered>) -> rusqlite::Result<Delivery> {
        let mut delivery = Delivery {
            id: DeliveryId::at(self.salt, cells.take()?),
            target: cells.text()?.into(),
            state: state(cells.take()?),
            cause: cells.take::<Option<i64>>()?.map(cause),
            rule: cells.next()?.as_str_or_null()?.map(Into::into),
            template: cells.take()?,
            created_at: from_ms(cells.take()?),
            due_at: cells.time()?,
            first_attempt_at: cells.time()?,
            attempts: cells.take()?,
            error: cells.take()?,
            body,
            order_key: cells.take()?,
            severity: severity(cells.take()?),
            replayed: cells.take()?,
            uncounted: cells.take()?,
            stood_still_ms: cells.take()?,
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
        let (resolved_at, note) = (cells.time()?, cells.take::<Option<String>>()?);
        match resolved_at {
            Some(at) => delivery.resolved = Some(Resolution { at, note: note.unwrap_or_default() }),
            None => delivery.reason = note,
        }
        delivery.stage = stage(cells.take()?);
        // Of those that carry a digest to several recipients, the others name the first one.
        let carrier = cells.take::<Option<i64>>()?.filter(|_| delivery.stage != Stage::Carrying);
        delivery.carrier = carrier.map(|place| DeliveryId::at(self.salt, place));
        delivery.renewed_at = cells.time()?;
        delivery.recipient = cells.take()?;
        delivery.unconfirmed = cells.take()?;
        delivery.awaits_report = cells.take()?;
        delivery.unmade = cells.take()?;
        Ok(delivery)
    }

    /// The attempt in `row` (all columns of `attempts`).
    pub(super) fn attempt(&self, row: &Row<'_>) -> rusqlite::Result<Attempt> {
        Ok(Attempt {
            delivery: DeliveryId::at(self.salt, row.get("place")?),
            number: row.get("number")?,
            started_at: time(row, "started_at")?,
            duration: Duration::from_micros(amount(row, "duration_us")?),
            status: row.get("status")?,
            error: row.get("error")?,
            detail: row.get("detail")?,
            response: row.get::<_, Vec<u8>>("response")?.into(),
            next: next(row)?,
            rendered: None,
            counts: row.get("counts")?,
            stood_still_ms: 0,
            epoch: row.get("epoch")?,
            unmade: None,
            ordered: false,
        })
    }
}

fn next(row: &Row<'_>) -> rusqlite::Result<Next> {
    let outcome = row.get("outcome")?;
    if outcome == AWAITS {
        return Ok(Next::Awaits(optional_time(row, "retry_at")?.unwrap_or_default()));
    }
    Ok(match state(outcome) {
        State::Dead => Next::Dead(cause(row.get::<_, Option<i64>>("cause")?.unwrap_or_default())),
        // What a later version's attempt came to is not known; that it ended nothing is.
        State::Pending | State::Unknown => Next::Retry(optional_time(row, "retry_at")?.unwrap_or_default()),
        _ => Next::Delivered,
    })
}

/// The number in `column`, which is never below 0.
pub(super) fn amount(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0).cast_unsigned())
}

/// The time in column `name`.
pub(super) fn time(row: &Row<'_>, name: &str) -> rusqlite::Result<Timestamp> {
    row.get(name).map(from_ms)
}

/// The time in column `name`, where there is one.
pub(super) fn optional_time(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(name)?.map(from_ms))
}
