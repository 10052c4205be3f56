//! What people manage and the relay keeps for them (subscriptions, tokens, lanes, jobs), and the audit of every change.
//!
//! A record is a JSON document of the room that owns it, which the store does not read, and bytes that room has sealed. What is
//! changed together is one commit, with its audit entries.

use bytes::Bytes;

use super::Page;
use crate::clock::Timestamp;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A way out registered by API.
    Subscription,
    /// A bearer token.
    Token,
    /// How the lane of a target stands; its id is the target's name.
    Lane,
    /// Work on many deliveries that a person asked for.
    Job,
    /// What replicas agree on about their configurations.
    Configuration,
    /// What came in by each source.
    Sources,
}

impl RecordKind {
    /// Its word in the tables and in audit entries.
    pub fn word(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Token => "token",
            Self::Lane => "lane",
            Self::Job => "job",
            Self::Configuration => "configuration",
            Self::Sources => "sources",
        }
    }
}

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// Its id: unique within its kind, never used again.
    pub id: String,
    /// Whom it belongs to: what [`AtMost`] counts by.
    pub owner: String,
    /// The change that wrote it last; grows with every change of any record.
    pub revision: i64,
    /// What its room says of it, as JSON. `None`: it was removed.
    pub doc: Option<String>,
    /// What of it is secret, sealed.
    pub sealed: Option<Bytes>,
}

/// One record's part of a [`Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Keeps the record: a new one where `expected` is `None`, else in place of the one with that revision.
    Put {
        /// What it is.
        kind: RecordKind,
        /// Its id.
        id: String,
        /// Whom it belongs to.
        owner: String,
        /// Its document.
        doc: String,
        /// What of it is secret, sealed.
        sealed: Option<Bytes>,
        /// The revision it takes the place of.
        expected: Option<i64>,
    },
    /// Removes the record with this revision.
    Remove {
        /// What it is.
        kind: RecordKind,
        /// Its id.
        id: String,
        /// The revision it has.
        expected: i64,
    },
}

/// What is written in one commit, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The records.
    pub writes: Vec<Write>,
    /// Refuses new records beyond a number.
    pub at_most: Option<AtMost>,
    /// Who did it; also for changes of other things than records, which then come without `writes`.
    pub audit: Vec<NewAudit>,
}

/// At most `count` records of `kind` belong to `owner` once the change is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtMost {
    /// What is counted.
    pub kind: RecordKind,
    /// Whose.
    pub owner: String,
    /// How many there may be.
    pub count: u32,
}

/// What a [`Change`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// All of it is on disk, its records under this revision.
    Done {
        /// The revision.
        revision: i64,
    },
    /// Somebody else has changed, made or removed one of the records meanwhile: nothing was written.
    Conflict,
    /// [`Change::at_most`] refuses: nothing was written.
    TooMany,
}

/// An audit entry to be kept. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// When.
    pub at: Timestamp,
    /// Who: the id of a token, `bootstrap`, or the relay itself.
    pub who: String,
    /// What was done, as `subscription.created`.
    pub action: String,
    /// To what: an id or a name.
    pub subject: String,
    /// How it was before, as JSON.
    pub before: Option<String>,
    /// How it is since, as JSON.
    pub after: Option<String>,
}

/// An audit entry as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place among all, in the order of commits.
    pub id: i64,
    /// What it says.
    pub entry: NewAudit,
}

/// Which audit entries to list. Fields that are `None` do not filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only what this one did.
    pub who: Option<String>,
    /// Only actions that begin so: `subscription.`.
    pub action: Option<String>,
    /// Only what was done to this.
    pub subject: Option<String>,
    /// Only at this time or later.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Which page; a place is an [`AuditRow::id`].
    pub page: Page,
    /// How many at most.
    pub limit: u32,
}

impl Default for AuditFilter {
    fn default() -> Self {
        Self { who: None, action: None, subject: None, since: None, until: None, page: Page::Newest, limit: 100 }
    }
}
