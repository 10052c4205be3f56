//! Requests that were not accepted.

use crate::{
    clock::Timestamp,
    envelope::{EventUid, Name},
};

/// A request that was not accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRejection {
    /// The source its path belongs to; `None` for paths that belong to none.
    pub source: Option<Name>,
    /// When it came.
    pub at: Timestamp,
    /// The answer's status.
    pub status: u16,
    /// The answer's code: `invalid_signature`, ….
    pub code: &'static str,
    /// The likely cause, as the signature doctor sees it.
    pub reason: String,
    /// Its path, secrets masked.
    pub path: String,
    /// Who sent it: the address of the connection.
    pub remote: String,
    /// Size of its body in bytes.
    pub bytes: u64,
    /// The whole request, encrypted, where it is kept.
    pub sealed: Option<Vec<u8>>,
}

/// A rejection as the log shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// Its number, in order of arrival.
    pub id: i64,
    /// What was recorded; `sealed` is only filled by [`Store::quarantined`].
    pub rejection: NewRejection,
    /// True when the whole request is kept and can be retried.
    pub kept: bool,
    /// The event that it became when it was retried with success, by its id here: its sender's would outlive an erasure.
    pub accepted_as: Option<String>,
    /// When it was last retried.
    pub retried_at: Option<Timestamp>,
}

/// What a retry of a rejection came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It passed and became this event (or was a duplicate of it): its kept bytes are dropped.
    Accepted(EventUid),
    /// It failed again, for this reason; it stays.
    Failed(String),
}
