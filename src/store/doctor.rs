//! What an operator wants to know of a store before sleeping: which safety is in force, what ails, what will. Only looks.

use std::path::Path;

use super::{Record, Result, postgres, sqlite};
use crate::{clock::Clock, secret::Secret};

/// How well one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Good,
    /// It works, and may cost something one day.
    Warning,
    /// It does not work, or loses what was acknowledged.
    Bad,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: a stable name.
    pub check: &'static str,
    /// How well it is.
    pub health: Health,
    /// What was seen, in one line.
    pub said: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Finding {
    /// It is well.
    pub fn good(check: &'static str, said: impl Into<String>) -> Self {
        Self { check, health: Health::Good, said: said.into(), help: None }
    }

    /// It may cost something, unless somebody does what `help` says.
    pub fn warning(check: &'static str, said: impl Into<String>, help: impl Into<String>) -> Self {
        Self { check, health: Health::Warning, said: said.into(), help: Some(help.into()) }
    }

    /// It is not well, until somebody does what `help` says.
    pub fn bad(check: &'static str, said: impl Into<String>, help: impl Into<String>) -> Self {
        Self { check, health: Health::Bad, said: said.into(), help: Some(help.into()) }
    }
}

/// What was found out about a store.
#[derive(Debug, Default)]
pub struct Examined {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
    /// The subscriptions, whose secrets the configured key must open; none where the store could not be read.
    pub sealed: Vec<Record>,
}

/// Looks at the store at `url`, which relays may be working on; `max_bytes` is what it may grow to, where that is bounded.
///
/// # Errors
/// Where it cannot be reached. A file that is not there yet is no error.
pub async fn examine(url: &Secret, folder: &Path, max_bytes: Option<u64>, clock: &Clock) -> Result<Examined> {
    match super::file(url, folder) {
        Some(path) => sqlite::doctor::examine(&path, max_bytes),
        None => postgres::doctor::examine(url, clock).await,
    }
}

/// `17 MiB`: a size as people say it.
pub(in crate::store) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, bits)| 10 << bits <= bytes) {
        Some((unit, bits)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} bytes"),
    }
}
