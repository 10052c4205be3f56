//! What a copy leaves in its destination: of which store it is, how far it came, and whether it is whole. A relay does not start on one
//! that is not.

use serde::{Deserialize, Serialize};

use super::tables::Cell;
use crate::{
    clock::{from_ms, rfc3339_s},
    store::Error,
};

/// Where the destination's settings keep the mark; it is no part of what is copied.
pub(in crate::store) const KEY: &str = "store.copy";

/// Settings that belong to the place a store is in, as a list in SQL: the mark, what proves that it can be written to, and who may work on
/// it.
macro_rules! of_the_place {
    () => {
        "('store.copy', 'probe', 'schema.works_since')"
    };
}
pub(in crate::store) use of_the_place;

/// What tells a store and its state from others: it is another one as soon as a relay has worked on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Stamp {
    /// First half of every id.
    pub(in crate::store) salt: i64,
    /// The last place that was given out.
    pub(in crate::store) last_seq: i64,
    /// Of the last owner of lanes: every start of a relay has one of its own.
    pub(in crate::store) epoch: i64,
    /// Of the records' last change.
    pub(in crate::store) revision: i64,
    /// Of the last entry of the audit.
    pub(in crate::store) audit: i64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::store) struct Mark {
    /// The source as it was when the copy was begun.
    pub(in crate::store) from: Stamp,
    /// In ms.
    pub(in crate::store) begun_at: i64,
    /// In ms; `None`: it is not whole.
    pub(in crate::store) finished_at: Option<i64>,
    /// The table under way.
    pub(in crate::store) table: String,
    /// The key of the last row of it that is there; empty before the first.
    pub(in crate::store) after: Vec<Cell>,
    /// Rows of all tables that are there.
    pub(in crate::store) rows: u64,
}

impl Mark {
    /// Of a copy that begins.
    pub(in crate::store) fn new(from: Stamp, begun_at: i64) -> Self {
        Self { from, begun_at, finished_at: None, table: String::new(), after: Vec::new(), rows: 0 }
    }

    /// As the settings keep it.
    pub(in crate::store) fn written(&self) -> String {
        // Numbers, texts and lists: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What the settings kept.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when another version wrote it.
    pub(in crate::store) fn read(text: &str) -> Result<Self, Error> {
        let other = |_| Error::Unreadable("it is a copy that another version of hookyard has begun or made".to_owned());
        serde_json::from_str(text).map_err(other)
    }
}

/// Refuses a store that is not whole yet; `mark` is what its settings keep under [`KEY`].
///
/// # Errors
/// [`Error::Unfinished`], which says what to do.
pub(in crate::store) fn unfinished(mark: Option<&str>) -> Result<(), Error> {
    let Some(text) = mark else { return Ok(()) };
    let mark = Mark::read(text)?;
    if mark.finished_at.is_some() {
        return Ok(());
    }
    let (begun, rows) = (rfc3339_s(from_ms(mark.begun_at)), mark.rows);
    Err(Error::Unfinished(format!("begun at {begun}, {rows} rows are there")))
}
