//! How values lie in the tables: codes of states and causes, rows to events and deliveries, and what errors mean.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{ErrorCode, Row, RowIndex};

use crate::{
    clock::{Timestamp, from_ms},
    envelope::{DeliveryId, Envelope, EventUid},
    store::{Attempt, Cause, Delivery, Error, EventRow, Next, Rendered, State},
};

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

/// How many words that are not ours yet a store takes in before they all read as [`OTHER`].
const WORDS_MAX: usize = 256;
/// What a word beyond [`WORDS_MAX`] reads as.
const OTHER: &str = "other";

/// Words of the code (kinds, codes of answers) that lie in the tables as text and are static in memory.
///
/// They were static when they were written, so there are few; a file that somebody changed cannot make them many.
#[derive(Debug, Default)]
pub(super) struct Words(Mutex<Vec<&'static str>>);

impl Words {
    fn get(&self, text: &str) -> &'static str {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = known.iter().find(|word| **word == text) {
            return word;
        }
        if WORDS_MAX <= known.len() {
            return OTHER;
        }
        let word: &'static str = Box::leak(text.into());
        known.push(word);
        word
    }
}

/// What is needed to read rows: the store's salt and its words.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// First half of every id.
    pub(super) salt: u64,
    /// See [`Words`].
    pub(super) words: Arc<Words>,
}

impl Reading {
    /// The column `name` as a static word.
    pub(super) fn word(&self, row: &Row<'_>, name: &str) -> rusqlite::Result<&'static str> {
        Ok(self.words.get(row.get_ref(name)?.as_str()?))
    }

    /// The event in `row` (all columns of `events`), with the body given.
    pub(super) fn envelope(&self, row: &Row<'_>, body: Bytes) -> rusqlite::Result<Envelope> {
        let start: Option<u32> = row.get("data_start")?;
        let len: Option<u32> = row.get("data_len")?;
        Ok(Envelope {
            id: row.get("id")?,
            source: row.get_ref("source")?.as_str()?.into(),
            kind: self.word(row, "kind")?,
            r#type: row.get("type")?,
            subject: row.get("subject")?,
            namespace: row.get("namespace")?,
            time: row.get("time")?,
            timestamp: row.get("timestamp")?,
            received_at: time(row, "received_at")?,
            traceparent: row.get("traceparent")?,
            replayed: row.get("replayed")?,
            body,
            content_type: row.get("content_type")?,
            data: start.zip(len).map(|(start, len)| start as usize..start.saturating_add(len) as usize),
        })
    }

    /// The event in `row` (all columns of `events`) as lists show it.
    pub(super) fn event(&self, row: &Row<'_>, body: Bytes) -> rusqlite::Result<EventRow> {
        Ok(EventRow {
            uid: EventUid { salt: self.salt, seq: row.get("seq")? },
            envelope: self.envelope(row, body)?,
            rules: serde_json::from_str(row.get_ref("rules")?.as_str()?).unwrap_or_default(),
            deliveries: row.get("deliveries")?,
            duplicates: row.get("duplicates")?,
            mismatches: row.get("mismatches")?,
            last_duplicate_at: optional_time(row, "last_duplicate_at")?,
        })
    }

    /// The delivery in `row`: its columns and `target`, its target's name.
    pub(super) fn delivery(&self, row: &Row<'_>, body: Option<Rendered>) -> rusqlite::Result<Delivery> {
        Ok(Delivery {
            id: DeliveryId::at(self.salt, row.get("place")?),
            target: row.get_ref("target")?.as_str()?.into(),
            state: state(row.get("state")?),
            cause: row.get::<_, Option<i64>>("cause")?.map(cause),
            rule: row.get_ref("rule")?.as_str_or_null()?.map(Into::into),
            template: row.get("template")?,
            created_at: time(row, "created_at")?,
            due_at: optional_time(row, "due_at")?,
            first_attempt_at: optional_time(row, "first_attempt_at")?,
            attempts: row.get("attempts")?,
            error: row.get("error")?,
            body,
        })
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
        })
    }
}

fn next(row: &Row<'_>) -> rusqlite::Result<Next> {
    Ok(match state(row.get("outcome")?) {
        State::Dead => Next::Dead(cause(row.get::<_, Option<i64>>("cause")?.unwrap_or_default())),
        State::Pending => Next::Retry(optional_time(row, "retry_at")?.unwrap_or_default()),
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

/// The number that `state` is in the tables (the partial indexes name them); `None` for those that are never written.
pub(super) fn state_code(state: State) -> Option<i64> {
    match state {
        State::Pending => Some(PENDING),
        State::Delivered => Some(DELIVERED),
        State::Dead => Some(DEAD),
        State::Sending | State::Held => None,
    }
}

/// [`State::Pending`] in the tables.
pub(super) const PENDING: i64 = 0;
/// [`State::Delivered`] in the tables.
pub(super) const DELIVERED: i64 = 1;
/// [`State::Dead`] in the tables.
pub(super) const DEAD: i64 = 2;

fn state(code: i64) -> State {
    match code {
        DELIVERED => State::Delivered,
        DEAD => State::Dead,
        _ => State::Pending,
    }
}

/// The number that `cause` is in the tables.
pub(super) fn cause_code(cause: Cause) -> i64 {
    match cause {
        Cause::Receiver => 0,
        Cause::Config => 1,
        Cause::Internal => 2,
    }
}

fn cause(code: i64) -> Cause {
    match code {
        1 => Cause::Config,
        2 => Cause::Internal,
        _ => Cause::Receiver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_back() {
        for (_, it) in State::ALL {
            assert!(state_code(it).is_none_or(|code| state(code) == it), "{it:?}");
        }
        for (_, it) in Cause::ALL {
            assert_eq!(cause(cause_code(it)), it);
        }
    }

    #[test]
    fn strange_words_are_bounded() {
        let words = Words::default();
        assert_eq!(words.get("hmac"), "hmac");
        for n in 0..2 * WORDS_MAX {
            words.get(&n.to_string());
        }
        assert_eq!(words.get("hmac"), "hmac");
        assert_eq!(words.get("one more"), OTHER);
    }
}
