//! How long things are kept, and what was removed.

use std::time::Duration;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Finished events, from their acceptance; at least so long.
    pub events: Duration,
    /// Dead letters, from their death.
    pub dead_letters: Duration,
    /// Rejections.
    pub rejections: Duration,
    /// Audit entries: who changed what.
    pub audit: Duration,
    /// Size of the store in bytes beyond which finished events go early, and beyond which new ones are refused.
    pub max_bytes: Option<u64>,
}

/// What one call of [`Store::prune`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Finished events.
    pub events: u64,
    /// Dead letters,
    pub dead_letters: u64,
    /// and how many of them were of the relay's own events.
    pub own_dead_letters: u64,
    /// Rejections.
    pub rejections: u64,
    /// Dedupe keys.
    pub keys: u64,
    /// Deliveries of targets gone from the file that became dead letters, cause `config`,
    pub given_up: u64,
    /// and how many of them were of the relay's own events.
    pub own_given_up: u64,
    /// True when more is left to do.
    pub more: bool,
    /// Bytes in use afterwards.
    pub used: u64,
}
