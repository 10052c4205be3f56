//! Gathers notices that are alike, so that a thousand deaths are one event.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::{Notice, event};
use crate::clock::{Timestamp, later, until};

/// How long the first notices of a kind are gathered.
const WINDOW: Duration = Duration::from_secs(2);
/// How long they are gathered at most, once they come again and again: the window doubles with every event.
pub(super) const WINDOW_MAX: Duration = Duration::from_secs(60);
/// After this long without a notice of a kind, the next one is news again.
const CALM: Duration = Duration::from_secs(300);
/// Notices that one event lists; the others are counted.
const LISTED_MAX: usize = 20;
/// Kinds (type and target or source) that are told apart; what comes beyond is gathered by type alone.
const KEYS_MAX: usize = 512;

/// What is told of together: what notices are gathered as, and the target or source they are about.
type Key = (&'static str, Option<String>);

/// Notices that are told in one event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    /// The event's type.
    pub(super) r#type: &'static str,
    /// The target or source it is about.
    pub(super) subject: Option<String>,
    /// How many notices there were.
    pub(super) count: u64,
    /// What the first of them say, at most [`LISTED_MAX`].
    pub(super) listed: Vec<Map<String, Value>>,
    /// When the first one came.
    pub(super) since: Timestamp,
    /// When the last one came.
    pub(super) until: Timestamp,
}

#[derive(Default)]
pub(super) struct Batches(BTreeMap<Key, Gathering>);

struct Gathering {
    window: Duration,
    last: Timestamp,
    batch: Option<Batch>,
}

impl Batches {
    /// Gathers `notice`, which came at `now`.
    pub(super) fn add(&mut self, notice: &Notice, now: Timestamp) {
        let subject = event::subject(notice).map(|name| name.as_str().to_owned());
        let key = self.key(event::gathered_as(notice), subject, now);
        let subject = key.1.clone();
        let gathering = self.0.entry(key).or_insert(Gathering { window: WINDOW, last: now, batch: None });
        if gathering.batch.is_none() && CALM <= until(gathering.last, now) {
            gathering.window = WINDOW;
        }
        gathering.last = now;
        let fresh = || Batch { r#type: event::r#type(notice), subject, count: 0, listed: Vec::new(), since: now, until: now };
        let batch = gathering.batch.get_or_insert_with(fresh);
        batch.count += event::weight(notice);
        batch.until = now;
        if batch.listed.len() < LISTED_MAX {
            batch.listed.push(event::item(notice, now));
        }
    }

    /// Under what a notice is gathered. Kinds that have been calm are forgotten when there are too many.
    fn key(&mut self, gathered_as: &'static str, subject: Option<String>, now: Timestamp) -> Key {
        let key = (gathered_as, subject);
        if KEYS_MAX <= self.0.len() && !self.0.contains_key(&key) {
            self.0.retain(|_, gathering| gathering.batch.is_some() || until(gathering.last, now) < CALM);
            if KEYS_MAX <= self.0.len() {
                return (gathered_as, None);
            }
        }
        key
    }

    /// When the next batch is to be told.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.0.values().filter_map(Gathering::due).min()
    }

    /// The batches that are to be told at `now`; those too that began in what is the future now that the clock was set back.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<Batch> {
        let ahead = |gathering: &Gathering| gathering.batch.as_ref().is_some_and(|batch| now < batch.since);
        self.take(|gathering| ahead(gathering) || gathering.due().is_some_and(|due| due <= now))
    }

    /// All that is gathered.
    pub(super) fn all(&mut self) -> Vec<Batch> {
        self.take(|_| true)
    }

    fn take(&mut self, which: impl Fn(&Gathering) -> bool) -> Vec<Batch> {
        let mut taken: Vec<Batch> =
            self.0.values_mut().filter(|gathering| which(gathering)).filter_map(Gathering::take).collect();
        taken.sort_by_key(|batch| batch.since);
        taken
    }
}

impl Gathering {
    fn due(&self) -> Option<Timestamp> {
        self.batch.as_ref().map(|batch| later(batch.since, self.window))
    }

    fn take(&mut self) -> Option<Batch> {
        let batch = self.batch.take()?;
        self.window = (self.window * 2).min(WINDOW_MAX);
        Some(batch)
    }
}
