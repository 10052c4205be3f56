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
use tokio::sync::watch;

use crate::{
    clock::{Clock, Timestamp},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    secret::Secret,
};

mod attempt;
mod change;
mod codes;
#[cfg(test)]
pub(crate) mod contract;
pub mod copy;
mod delivery;
pub mod doctor;
mod event;
mod handling;
mod held;
mod page;
pub mod postgres;
mod rejection;
mod retention;
mod scratch;
mod shard;
pub mod sqlite;
mod walk;

pub use attempt::{Attempt, Next, Unreported};
pub use change::{AtMost, AuditFilter, AuditRow, Change, Changed, NewAudit, Record, RecordKind, Write};
pub use delivery::{
    Backlog, Cause, Delivery, DeliveryRow, Due, Erased, GaveUp, GivenUp, HandedOver, HeldBound, NewDelivery, Read, Rendered,
    Resolution, Severity, State,
};
pub use event::{Accepted, Committed, DedupeKey, EventRow, NewEvent, Remember};
pub use handling::{
    Ask, DIGEST_MAX, DIGEST_READ_MAX, Decision, Digest, Digested, Endings, Foreseen, Full, Gathered, Handling, Hush, Key, Stage,
    Throttle, Wish,
};
pub use page::{Filter, N_MAX, Page, SEQ_MAX, Targets};
pub use rejection::{NewRejection, Rejection, Retried};
pub use retention::{Pruned, Retention};
pub use scratch::Scratch;
pub use shard::{Owned, OwnerId, Profile, Replica, SHARDS, shard_of};
pub use walk::{FitsType, Walk, Walked};

/// Opens the store at `url`, made where it is missing: `sqlite://<path>`, relative to `folder` or absolute
/// (`sqlite:///var/lib/hookyard.db`), or `postgres://<user>:<password>@<host>/<database>`.
///
/// # Errors
/// [`Error::Unreadable`] for other schemes, another program's file and a newer schema; [`Error::Locked`] when another
/// process works on a file; [`Error::Full`] when no server can be reached.
pub async fn open(url: &Secret, folder: &Path, clock: Clock) -> Result<Arc<dyn Store>> {
    let (scheme, place) = url.reveal().split_once("://").unwrap_or_default();
    match scheme {
        "sqlite" if !place.is_empty() => Ok(sqlite::open(&folder.join(place), clock).await?),
        "sqlite" => Err(Error::Unreadable("`sqlite://` is followed by the path of a file, as in sqlite://hookyard.db".into())),
        "postgres" | "postgresql" => Ok(postgres::open(url, clock).await?),
        // The rest of the URL may hold a password.
        _ => Err(Error::Unreadable("the store's URL begins with none of: sqlite://, postgres://".into())),
    }
}

/// The file that the store at `url` is; `None`: several processes share it, over the network.
pub fn file(url: &Secret, folder: &Path) -> Option<PathBuf> {
    url.reveal().strip_prefix("sqlite://").map(|path| folder.join(path))
}

/// `url` as it may be shown: a server's without password and options.
pub fn shown(url: &Secret) -> String {
    match url.reveal().strip_prefix("sqlite://") {
        Some(path) => format!("sqlite://{path}"),
        None => postgres::shown(url),
    }
}

/// Where the encryption key of the store at `url` is kept when `routes.yaml` names none: beside it, with `.key` behind its name.
/// `None`: nothing lies beside it.
pub fn key_file(url: &Secret, folder: &Path) -> Option<PathBuf> {
    let mut path = file(url, folder)?.into_os_string();
    path.push(".key");
    Some(path.into())
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
    /// It is a copy that was begun and not finished.
    #[error(
        "the store is an unfinished copy ({0}): run `hookyard store copy` again with the same --from and --to, which goes on where it \
         stopped; or name another store"
    )]
    Unfinished(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Anything else the back end said.
    #[error("the store failed: {0}")]
    Backend(Arc<str>),
}

/// What the store's methods answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Told of every commit that made or cancelled deliveries, on the writer's thread: must not block.
pub trait OnCommit: Send + Sync {
    /// `events` are on disk.
    fn committed(&self, events: Vec<Committed>);
    /// Another process of this store has committed what makes deliveries to these targets due, or moves them; `None`: to whichever.
    fn elsewhere(&self, targets: Option<&[Name]>);
    /// Another process has ended or moved what waited for these targets; `None`: for whichever. What is in hand of it is not to be sent.
    fn ended_elsewhere(&self, targets: Option<&[Name]>) {
        self.elsewhere(targets);
    }
    /// There may be shards that [`Store::own_shards`] would take now: somebody has given them up, or is gone.
    fn freed(&self) {}
    /// `count` requests shared one commit that took `took`.
    fn batch(&self, count: usize, took: Duration);
}

/// Everything the relay keeps.
///
/// Every `Err` means that nothing of the call was written.
#[async_trait]
pub trait Store: Send + Sync {
    /// Names who is told of commits; called once, before the first [`Store::accept`].
    fn on_commit(&self, listener: Arc<dyn OnCommit>);

    /// Writes the event and all its deliveries in one commit, with what it ends ([`NewEvent::endings`]) of deliveries that came before
    /// it: throttles whose windows end, and waiting deliveries that it cancels. Returns once all is on disk.
    /// A repeat writes nothing but its count: [`Accepted::Duplicate`].
    async fn accept(&self, event: NewEvent) -> Result<Accepted>;

    /// Records attempts and what they leave their deliveries as, in one commit. A delivery that is final stays as it is,
    /// but the attempt is kept. An attempt recorded again (same number, same start) changes nothing; another one under a
    /// number that is taken gets the next free one. Attempts of deliveries that are not held are dropped. One that does not
    /// count ([`Attempt::counts`]) is counted apart and begins no clock. A failure of a former owner ([`Attempt::epoch`]) is
    /// kept and changes nothing; a success settles like any other, and also what a later event has cancelled meanwhile.
    /// When one that a throttle counted dies, the newest suppressed one of its key is pending again and [`Stage::Undecided`].
    async fn record(&self, attempts: Vec<Attempt>) -> Result<()>;

    /// Up to `limit` pending deliveries of `target` that are due at `now`, critical ones first, then earliest due first (then by
    /// acceptance); of those with one order key only the earliest accepted, and none while that one is not due or in `except`;
    /// leaving out those in `except` (sorted), which the caller has in hand. Fewer come when their bodies are large:
    /// [`Store::next_due`] tells whether there are more.
    async fn due(&self, target: &Name, now: Timestamp, limit: u32, except: Vec<DeliveryId>) -> Result<Vec<Due>>;

    /// Decides about pending deliveries of `target` that are about to be tried, one after the other; answers in their order. What an
    /// owner of a former `epoch` asks is over. A throttle counts those of its key that it let go and that are pending, delivered or
    /// digested. A digest is carried by the first delivery it gathers, which falls due when it ends; who leaves it is followed by the
    /// next. Once the carrier may go, the others are [`State::Digested`].
    async fn decide(&self, target: &Name, asks: Vec<Ask>, epoch: i64, now: Timestamp) -> Result<Vec<Decision>>;

    /// What [`Store::decide`] would make of a new delivery to `target` with `handling` if it were asked now. Nothing is written.
    async fn foresee(&self, target: &Name, handling: Handling, now: Timestamp) -> Result<Foreseen>;

    /// The deliveries that `carrier` carries and their events, itself left out, in the order of acceptance, at most `limit`.
    async fn carried(&self, carrier: DeliveryId, limit: u32) -> Result<Vec<(DeliveryId, Arc<Envelope>)>>;

    /// Expires a slice of the pending deliveries of `target` that were planned (or retried by a person) at `cutoff` or before, for this
    /// reason; those in `except` (sorted) and carriers of a closed digest are left out. Answers which.
    async fn expire(
        &self,
        target: &Name,
        cutoff: Timestamp,
        reason: &str,
        except: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>>;

    /// Makes what quiet hours hold of `target` due at `now`: they may have changed since.
    async fn rouse(&self, target: &Name, now: Timestamp) -> Result<()>;

    /// When the next pending delivery of `target` falls due; `except` is left out, and what stands behind an earlier one of its
    /// order key.
    async fn next_due(&self, target: &Name, except: Vec<DeliveryId>) -> Result<Option<Timestamp>>;

    /// What a probe is made with: of all that [`Store::due`] could bring, the one that has waited longest since it was planned.
    async fn oldest_due(&self, target: &Name, now: Timestamp, except: Vec<DeliveryId>) -> Result<Option<Due>>;

    /// Makes dead letters, cause `receiver`, of a slice of the pending deliveries of `target` that have reached their give-up time, those
    /// in `except` (sorted) left out: no attempt is made, none is recorded, and the next of their order key may go. Answers them, and
    /// when the next one gets there; call again while that has passed. A former owner ([`GaveUp::epoch`]) changes nothing.
    async fn give_up(&self, target: &Name, when: GaveUp, except: Vec<DeliveryId>) -> Result<GivenUp>;

    /// What waits and what is dead, by target, or of one `target` alone; targets without either are left out. It counts all of it.
    async fn backlog(&self, target: Option<&Name>) -> Result<Vec<Backlog>>;

    /// Events, without their bodies.
    async fn events(&self, filter: Filter) -> Result<Vec<EventRow>>;

    /// Walks through events with their bodies, within bounds. In commit order it passes no place behind which an event may still become
    /// readable: who goes on from [`Walked::upto`] misses none, however late it is committed.
    async fn walk(&self, walk: Walk) -> Result<Walked>;

    /// One event with its body.
    async fn event(&self, uid: EventUid) -> Result<Option<EventRow>>;

    /// Deliveries, without their bodies.
    async fn deliveries(&self, filter: Filter) -> Result<Vec<DeliveryRow>>;

    /// The attempts of the deliveries of one event, by delivery and number; `rendered` is left empty.
    async fn attempts(&self, event: EventUid) -> Result<Vec<Attempt>>;

    /// What [`Store::deliveries`] finds for `filter.target`, of which only those count that name a subscription (`wh_…`) as their rule:
    /// found without a walk over the deliveries of others.
    async fn subscribed(&self, filter: Filter) -> Result<Vec<DeliveryRow>> {
        self.deliveries(filter).await
    }

    /// The attempts of these deliveries alone, by delivery as they are named and by number; `rendered` is left empty.
    async fn attempts_of(&self, deliveries: Vec<DeliveryId>) -> Result<Vec<Attempt>> {
        let mut found = Vec::new();
        for id in deliveries {
            found.extend(self.attempts(id.event).await?.into_iter().filter(|attempt| attempt.delivery == id));
        }
        Ok(found)
    }

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

    /// Puts other bytes in the place of requests that are kept whole, which say the same under another key; answers how many there
    /// still were.
    async fn reseal_rejections(&self, resealed: Vec<(i64, Vec<u8>)>) -> Result<u64>;

    /// Removes a bounded number of things that `retention` no longer keeps; call again while [`Pruned::more`].
    /// `held` names the targets that are held (paused, broken, or gone from `routes.yaml`) and since when: a delivery that has been
    /// held for longer than [`Retention::events`] (from then or from when it was last due, whichever is later) becomes a dead
    /// letter, cause `config`.
    /// Events with a delivery that is not final, or with an unresolved dead letter, stay whatever their age, and so do those that such
    /// a delivery carries.
    async fn prune(&self, now: Timestamp, retention: Retention, held: Vec<(Name, Timestamp)>) -> Result<Pruned>;

    /// A value kept under `key`: the last good configuration, ….
    async fn setting(&self, key: &str) -> Result<Option<String>>;

    /// Keeps `value` under `key`.
    async fn set_setting(&self, key: &str, value: String) -> Result<()>;

    /// Takes or renews the shards this owner may hold until `now + lease`, each with its fencing epoch. (SQLite: the one process owns
    /// them all; the epoch grows at every opening.)
    async fn own_shards(&self, owner: OwnerId, now: Timestamp, lease: Duration) -> Result<Vec<Owned>>;

    /// What [`Store::own_shards`] is to an owner that leaves: of what it holds, those in `kept` are its own until `now + lease`, and the rest
    /// is given up, so that others need not wait for the lease to end. It takes nothing, and others share as if it were gone. (SQLite:
    /// nobody waits.)
    async fn keep_shards(&self, owner: OwnerId, kept: Vec<u16>, now: Timestamp, lease: Duration) -> Result<Vec<Owned>> {
        let owned = self.own_shards(owner, now, lease).await?;
        Ok(owned.into_iter().filter(|it| kept.contains(&it.shard)).collect())
    }

    /// Gives up what `owner` holds, so that others need not wait for the lease to end.
    async fn release_shards(&self, owner: OwnerId) -> Result<()>;

    /// Keeps what `owner` says of itself, until `now + lease` unless it renews its shards; where it lacks lanes of a shard and another owner
    /// does not, [`Store::own_shards`] leaves that shard to the other.
    async fn present(&self, owner: OwnerId, profile: Profile, now: Timestamp, lease: Duration) -> Result<()> {
        let _ = (owner, profile, now, lease);
        Ok(())
    }

    /// Who shares the store at `now`, by the leases.
    async fn replicas(&self, now: Timestamp) -> Result<Vec<Replica>> {
        let _ = now;
        Ok(Vec::new())
    }

    /// Makes those of `ids` that are dead (and not resolved) pending again, due at `now`: same id and body, attempt numbers go on, the
    /// policy's count and clocks start anew; ordered ones go out of order. Answers which.
    async fn retry(&self, ids: Vec<DeliveryId>, now: Timestamp) -> Result<Vec<DeliveryId>>;

    /// Cancels those of `ids` that are not final, and keeps why ([`Delivery::reason`]). Answers which.
    async fn cancel(&self, ids: Vec<DeliveryId>, reason: &str, now: Timestamp) -> Result<Vec<DeliveryId>>;

    /// Erases these events for good, in one commit: with their bodies, deliveries and attempts, and what was made of them, which is the
    /// bodies of digests that carry them, now or once an attempt that is under way is recorded. What waits of them is ended as [`Store::cancel`] would; the others of a digest that one of
    /// them carried go on in another, for the recipients that do not have it. Dedupe keys stay: a repeat is still one.
    async fn erase(&self, events: Vec<EventUid>, now: Timestamp) -> Result<Erased>;

    /// Settles a dead letter with a note; false when there is no such dead letter.
    async fn resolve(&self, id: DeliveryId, resolution: Resolution) -> Result<bool>;

    /// Makes new deliveries of a stored event, marked as replayed, due at `now`, and tells the listener of commits.
    /// `tag` names the job and step: a call with a `tag` that was done before writes nothing and answers what it made then.
    async fn replay(&self, event: EventUid, deliveries: Vec<NewDelivery>, tag: &str, now: Timestamp) -> Result<Vec<DeliveryId>>;

    /// Gives what waits for `old`, and its dead letters, to `new`; answers how many. One commit per slice: call until 0.
    async fn adopt(&self, old: &Name, new: &Name) -> Result<u64>;

    /// Gives a slice of what waits for `old` to `new`, which takes its place, then its dead letters; what `new` has a delivery of that
    /// waits or arrived (a replay only of a replay) is cancelled instead. One commit per slice: call until nothing was done. For targets
    /// that keep no order.
    async fn hand_over(&self, old: &Name, new: &Name, now: Timestamp) -> Result<HandedOver>;

    /// Expires a slice of what waits for `target`, the oldest first: what is beyond the bound; those in `except` (sorted) are left out.
    /// Answers which; call until there is none.
    async fn bound_held(
        &self,
        target: &Name,
        bound: HeldBound,
        except: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>>;

    /// How many deliveries `filter` selects; `page` and `limit` are not looked at.
    async fn count_deliveries(&self, filter: Filter) -> Result<u64>;

    /// How many events `filter` selects; likewise.
    async fn count_events(&self, filter: Filter) -> Result<u64>;

    /// Every kept value whose key begins with `prefix`, by key.
    async fn settings(&self, prefix: &str) -> Result<Vec<(String, String)>>;

    /// Forgets the value under `key`.
    async fn remove_setting(&self, key: &str) -> Result<()>;

    /// Makes of the delivery `id`, which is for several recipients, one for each: it stays for the first of them, the others become new
    /// deliveries of its event, due at `now`, with `body`; the listener of commits is told of them. Answers whom it is for now: where it
    /// was split before, nothing is written. `None`: it is not held, or final. What a digest carries, all of them carry; where something was
    /// taken out of it since it was read ([`Delivery::unmade`]), `body` is not kept, and each has its own made.
    async fn split(&self, of: Read, recipients: Vec<String>, body: Rendered, now: Timestamp) -> Result<Option<String>>;

    /// Records what an attempt that waits for a report ([`Next::Awaits`]) came to: its error, what followed, and `detail` behind what it
    /// said before. False: it waits no more, and nothing was written.
    async fn reported(&self, attempt: Attempt) -> Result<bool>;

    /// Settles a slice of the deliveries that have waited for their report until `now`: delivered, and marked as unconfirmed.
    async fn unreported(&self, now: Timestamp) -> Result<Unreported>;

    /// What later messages of the thread `key` answer to, where it has begun.
    async fn thread(&self, key: [u8; 16]) -> Result<Option<String>>;

    /// Begins the thread `key` with `root`, or ends it. It is kept as long as an event would be ([`Retention::events`]).
    async fn set_thread(&self, key: [u8; 16], root: Option<String>) -> Result<()>;

    /// Writes records and audit entries in one commit, or nothing where [`Changed`] says so.
    async fn change(&self, change: Change) -> Result<Changed>;

    /// The records of `kind` that were written after the revision `after`, by revision. With 0 those that there are; else also those
    /// that were removed since, without a document (for a day).
    async fn records(&self, kind: RecordKind, after: i64) -> Result<Vec<Record>>;

    /// The record `id` of `kind`, as long as it is there.
    async fn record_of(&self, kind: RecordKind, id: &str) -> Result<Option<Record>> {
        Ok(self.records(kind, 0).await?.into_iter().find(|record| record.id == id && record.doc.is_some()))
    }

    /// A page of the audit.
    async fn audit(&self, filter: AuditFilter) -> Result<Vec<AuditRow>>;

    /// The place of the newest event that is on disk ([`EventUid::seq`]), whether or not it has deliveries; changes with every commit
    /// of events. Every event at that place or before is on disk and readable once this shows it.
    fn newest(&self) -> watch::Receiver<i64>;

    /// Whether other processes may work on this store too. What they change of records and settings shows when it is read again.
    fn is_shared(&self) -> bool {
        false
    }

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
        for url in ["mysql://user:hush@host/db", "postgres://me:hush@/db?sslmode=hush", "hookyard.db", "sqlite://", ""] {
            let Err(error) = open(&Secret::new(url), Path::new("."), Clock::system()).await else { panic!("{url}") };
            assert!(matches!(error, Error::Unreadable(_)), "{url}: {error}");
            let said = error.to_string();
            assert!(said.contains("sqlite://") || url.contains("sslmode") && said.contains("sslmode"), "{error}");
            assert!(!said.contains("hush"), "{error}");
        }
    }
}
