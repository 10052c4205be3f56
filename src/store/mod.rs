//! What is kept on disk. Accepted events, their deliveries and attempts, rejected requests, and what was seen before
//! come in; they go out as rows and pages. Knows no HTTP and no policy: it is told what to write and when things are due.
//!
//! Methods are steps of the work, not tables; `contract.rs` tests each promise on every back end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    clock::{Clock, Timestamp},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    secret::Secret,
};

#[cfg(test)]
pub(crate) mod contract;
mod page;
pub mod sqlite;

pub use page::{Filter, N_MAX, Page, SEQ_MAX, Targets};

/// Opens the store at `url`, made where it is missing: `sqlite://<path>`, relative to `folder` or absolute
/// (`sqlite:///var/lib/hookyard.db`).
///
/// # Errors
/// [`Error::Unreadable`] for other schemes, another program's file and a newer schema; [`Error::Locked`] when another
/// process works on it.
pub async fn open(url: &Secret, folder: &Path, clock: Clock) -> Result<Arc<dyn Store>> {
    let (scheme, place) = url.reveal().split_once("://").unwrap_or_default();
    match scheme {
        "sqlite" if !place.is_empty() => Ok(sqlite::open(&folder.join(place), clock).await?),
        "sqlite" => Err(Error::Unreadable("`sqlite://` is followed by the path of a file, as in sqlite://hookyard.db".into())),
        // The rest of the URL may hold a password.
        _ => Err(Error::Unreadable("the store's URL begins with none of: sqlite://".into())),
    }
}

/// Where the encryption key of the store at `url` is kept when `routes.yaml` names none: beside it, with `.key` behind its name.
pub fn key_file(url: &Secret, folder: &Path) -> PathBuf {
    let (_, place) = url.reveal().split_once("://").unwrap_or_default();
    let mut path = folder.join(place).into_os_string();
    path.push(".key");
    path.into()
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing can be written now: the disk is full, the file is read-only, the limit `store.max_bytes` is reached.
    /// Nothing was lost; the caller answers 503.
    #[error("the store takes nothing more: {0}")]
    Full(String),
    /// Another process works on this store.
    #[error("the store is in use: {0}")]
    Locked(String),
    /// The schema is newer than this binary, or the file is not a store.
    #[error("the store cannot be read by this version: {0}")]
    Unreadable(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Anything else the back end said.
    #[error("the store failed: {0}")]
    Backend(Arc<str>),
}

/// What the store's methods answer.
pub type Result<T> = std::result::Result<T, Error>;

/// How an event is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupeKey {
    /// First 16 bytes of SHA-256 over what identifies the event within its source (see [`crate::ingest`]).
    pub key: [u8; 16],
    /// First 16 bytes of SHA-256 over the received bytes, to tell a repeat from a changed one.
    pub body: [u8; 16],
    /// How long the key makes repeats duplicates.
    pub remember: Remember,
}

/// How long a dedupe key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remember {
    /// The sender gave the id: a repeat within this time is a duplicate.
    Id(Duration),
    /// The id is a hash of the body: a repeat within this window is a duplicate; later the same bytes are a new event,
    /// whose id gets `-<unix seconds>`. Zero: every repeat is a new event.
    Hash(Duration),
}

/// An event to be kept, with everything that must commit with it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event. Its `id` gets a suffix from the store when an old hash id comes again ([`Remember::Hash`]).
    pub envelope: Envelope,
    /// How it is known again.
    pub dedupe: DedupeKey,
    /// Its deliveries, in the order of the rules.
    pub deliveries: Vec<NewDelivery>,
    /// Names of the rules that matched, in order.
    pub rules: Vec<Name>,
}

/// A delivery to be kept beside its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// Where it goes.
    pub target: Name,
    /// The rule that planned it first.
    pub rule: Option<Name>,
    /// The template that rule names for it.
    pub template: Option<String>,
}

/// What became of an event handed to [`Store::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The event and all its deliveries are on disk.
    New {
        /// Its id here.
        uid: EventUid,
        /// The event's id, suffix included.
        id: String,
    },
    /// Held already: nothing was written but the count.
    Duplicate {
        /// The event's id as it is held.
        id: String,
        /// True when the repeat had other bytes.
        mismatch: bool,
    },
}

/// An event that has just been committed, for whoever delivers it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its id here.
    pub uid: EventUid,
    /// The event, as kept.
    pub envelope: Arc<Envelope>,
    /// Its deliveries with their ids; all are due at once.
    pub deliveries: Vec<Delivery>,
}

/// Told of every commit that made deliveries, on the writer's thread: must not block.
pub trait OnCommit: Send + Sync {
    /// `events` are on disk.
    fn committed(&self, events: Vec<Committed>);
    /// `count` requests shared one commit that took `took`.
    fn batch(&self, count: usize, took: Duration);
}

/// Where a delivery stands (`delivery.md`, "States"; the states of later issues join here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its turn or its retry time.
    Pending,
    /// An attempt is under way. Never written: the lane's owner knows it.
    Sending,
    /// Waits for somebody: its target is gone from `routes.yaml`. Never written: it is the lane's state.
    Held,
    /// The target took it.
    Delivered,
    /// Given up: a dead letter.
    Dead,
}

impl State {
    /// Every state and its word.
    pub const ALL: [(&str, Self); 5] = [
        ("pending", Self::Pending),
        ("sending", Self::Sending),
        ("held", Self::Held),
        ("delivered", Self::Delivered),
        ("dead", Self::Dead),
    ];

    /// The state's word in API and CLI.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(word, _)| word)
    }

    /// The state that `word` names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, state)| *state)
    }
}

/// Whose fault a dead letter is, or why a delivery is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The target refused it or could not be reached.
    Receiver,
    /// What `routes.yaml` says cannot work: a forbidden address, a moved URL, a target that is gone.
    Config,
    /// Our own fault.
    Internal,
}

impl Cause {
    /// Every cause and its word.
    pub const ALL: [(&str, Self); 3] = [("receiver", Self::Receiver), ("config", Self::Config), ("internal", Self::Internal)];

    /// The cause's word in API and CLI.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, cause)| *cause == self).map_or("", |(word, _)| word)
    }
}

/// One event on its way to one target, as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its id, the same on every attempt.
    pub id: DeliveryId,
    /// Where it goes.
    pub target: Name,
    /// Where it stands.
    pub state: State,
    /// Why it is dead.
    pub cause: Option<Cause>,
    /// The rule that planned it first.
    pub rule: Option<Name>,
    /// The template that rule names.
    pub template: Option<String>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When the next attempt is due; `None` when there is none to come.
    pub due_at: Option<Timestamp>,
    /// When the first attempt began: give-up runs from here.
    pub first_attempt_at: Option<Timestamp>,
    /// How many attempts were made.
    pub attempts: u32,
    /// What the last attempt ended with: `timeout`, `http_503`, `address_forbidden`, ….
    pub error: Option<String>,
    /// The body, once it was made from a template: it stays the same bytes on every attempt.
    pub body: Option<Rendered>,
}

/// A body made for one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub body: Bytes,
}

/// A delivery that is due, with its event.
#[derive(Debug, Clone)]
pub struct Due {
    /// The delivery.
    pub delivery: Delivery,
    /// What it delivers.
    pub envelope: Arc<Envelope>,
}

/// One try of a delivery, as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// The how-manieth, from 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The answer's HTTP status, where one came.
    pub status: Option<u16>,
    /// What went wrong, as a code: `timeout`, `connect`, `dns`, `tls`, `http_503`, `address_forbidden`, …. `None` when delivered.
    pub error: Option<String>,
    /// What went wrong, or was worth a remark, for a person.
    pub detail: Option<String>,
    /// The beginning of the answer's body.
    pub response: Bytes,
    /// What it came to.
    pub next: Next,
    /// The body that was made for it from a template, to be kept for the next attempt.
    pub rendered: Option<Rendered>,
}

/// What an attempt leaves its delivery as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Delivered.
    Delivered,
    /// Pending, due again at this time.
    Retry(Timestamp),
    /// A dead letter.
    Dead(Cause),
}

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
    /// The event's id it became when it was retried with success.
    pub accepted_as: Option<String>,
    /// When it was last retried.
    pub retried_at: Option<Timestamp>,
}

/// What a retry of a rejection came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It passed and became this event (or was a duplicate of it): its kept bytes are dropped.
    Accepted(String),
    /// It failed again, for this reason; it stays.
    Failed(String),
}

/// An event as lists and details show it.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Its id here.
    pub uid: EventUid,
    /// The event; in lists its `body` is empty.
    pub envelope: Envelope,
    /// Names of the rules that matched.
    pub rules: Vec<String>,
    /// How many deliveries were planned; none means the verdict `unmatched`.
    pub deliveries: u32,
    /// How many repeats came.
    pub duplicates: u32,
    /// How many of those had other bytes.
    pub mismatches: u32,
    /// When the last repeat came.
    pub last_duplicate_at: Option<Timestamp>,
}

/// A delivery as lists show it, with what it delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRow {
    /// The delivery.
    pub delivery: Delivery,
    /// The event's id, as its sender knows it.
    pub event_id: String,
    /// The event's source.
    pub source: String,
    /// The event's type.
    pub r#type: String,
}

/// What waits for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The target.
    pub target: Name,
    /// Deliveries that are not final.
    pub waiting: u64,
    /// When the oldest of them was planned.
    pub oldest_at: Option<Timestamp>,
    /// Dead letters.
    pub dead: u64,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Finished events, from their acceptance.
    pub events: Duration,
    /// Dead letters, from their death.
    pub dead_letters: Duration,
    /// Rejections.
    pub rejections: Duration,
    /// Size of the store in bytes beyond which finished events go early, and beyond which new ones are refused.
    pub max_bytes: Option<u64>,
}

/// What one call of [`Store::prune`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Finished events.
    pub events: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Rejections.
    pub rejections: u64,
    /// Dedupe keys.
    pub keys: u64,
    /// Deliveries of targets gone from the file that became dead letters, cause `config`.
    pub given_up: u64,
    /// True when more is left to do.
    pub more: bool,
    /// Bytes in use afterwards.
    pub used: u64,
}

/// Everything the relay keeps.
///
/// Every `Err` means that nothing of the call was written.
#[async_trait]
pub trait Store: Send + Sync {
    /// Names who is told of commits; called once, before the first [`Store::accept`].
    fn on_commit(&self, listener: Arc<dyn OnCommit>);

    /// Writes the event and all its deliveries in one commit; returns once they are on disk.
    /// A repeat writes nothing but its count: [`Accepted::Duplicate`].
    async fn accept(&self, event: NewEvent) -> Result<Accepted>;

    /// Records attempts and what they leave their deliveries as, in one commit. A delivery that is final stays as it is,
    /// but the attempt is kept. An attempt recorded again (same number, same start) changes nothing; another one under a
    /// number that is taken gets the next free one. Attempts of deliveries that are not held are dropped.
    async fn record(&self, attempts: Vec<Attempt>) -> Result<()>;

    /// Up to `limit` pending deliveries of `target` that are due at `now`, earliest due first (then by acceptance),
    /// leaving out those in `except` (sorted), which the caller has in hand. Fewer come when their bodies are large:
    /// [`Store::next_due`] tells whether there are more.
    async fn due(&self, target: &Name, now: Timestamp, limit: u32, except: Vec<DeliveryId>) -> Result<Vec<Due>>;

    /// When the next pending delivery of `target` falls due, `except` left out.
    async fn next_due(&self, target: &Name, except: Vec<DeliveryId>) -> Result<Option<Timestamp>>;

    /// What waits and what is dead, by target; targets without either are left out.
    async fn backlog(&self) -> Result<Vec<Backlog>>;

    /// Events, without their bodies.
    async fn events(&self, filter: Filter) -> Result<Vec<EventRow>>;

    /// One event with its body.
    async fn event(&self, uid: EventUid) -> Result<Option<EventRow>>;

    /// Deliveries, without their bodies.
    async fn deliveries(&self, filter: Filter) -> Result<Vec<DeliveryRow>>;

    /// The attempts of the deliveries of one event, by delivery and number; `rendered` is left empty.
    async fn attempts(&self, event: EventUid) -> Result<Vec<Attempt>>;

    /// Keeps rejections. Per source (paths of no source share one) at most `bound` sealed requests are held, and at most
    /// that many in `bound_bytes`: the oldest lose their bytes, not their row.
    async fn reject(&self, rejections: Vec<NewRejection>, bound: u32, bound_bytes: u64) -> Result<()>;

    /// Rejections; `sealed` is left empty.
    async fn rejections(&self, filter: Filter) -> Result<Vec<Rejection>>;

    /// Rejections that are kept whole, with their bytes, in order of arrival after `after`; `filter.page` is not looked at.
    /// Fewer than `filter.limit` come when they are large: an empty answer is the end.
    async fn quarantined(&self, filter: Filter, after: i64) -> Result<Vec<Rejection>>;

    /// Notes what a retry came to.
    async fn settle_rejection(&self, id: i64, at: Timestamp, outcome: Retried) -> Result<()>;

    /// Removes a bounded number of things that `retention` no longer keeps; call again while [`Pruned::more`].
    /// `gone` names the targets that `routes.yaml` no longer declares: what has been due to them for longer than
    /// [`Retention::events`] becomes a dead letter, cause `config`.
    /// Events with a delivery that is not final, or with a dead letter, stay whatever their age.
    async fn prune(&self, now: Timestamp, retention: Retention, gone: Vec<Name>) -> Result<Pruned>;

    /// A value kept under `key`: the last good configuration, ….
    async fn setting(&self, key: &str) -> Result<Option<String>>;

    /// Keeps `value` under `key`.
    async fn set_setting(&self, key: &str, value: String) -> Result<()>;

    /// Ok when the store can take an event now: writes and syncs a probe.
    async fn ready(&self) -> Result<()>;

    /// Finishes what is queued, then closes. Later calls answer [`Error::Closed`].
    async fn close(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_schemes_are_refused_without_telling_the_password() {
        for url in ["postgres://user:hush@host/db", "hookyard.db", "sqlite://", ""] {
            let Err(error) = open(&Secret::new(url), Path::new("."), Clock::system()).await else { panic!("{url}") };
            assert!(matches!(error, Error::Unreadable(_)), "{url}: {error}");
            assert!(error.to_string().contains("sqlite://") && !error.to_string().contains("hush"), "{error}");
        }
    }
}
