//! The SQLite back end: one file, one process. Calls come in; those that write go as jobs to the one writer thread, which
//! commits together what is queued ([`writer`]); those that read go to a few connections beside it ([`reader`]).
//!
//! The writer's side: [`session`] (what it works with), [`accept`], [`record`], [`reject`], [`prune`], [`lanes`] (who goes before
//! whom), [`give_up`], [`held`] (by subscriptions), [`person`] and [`replay`] (what people ask for), [`owners`] (of lanes), [`keys`] (of events), [`mod@change`] (records that people manage), [`checkpoint`]. The
//! readers' side:
//! [`query`] (due work, events, deliveries), [`mod@walk`], [`foresee`] and [`reject`]'s lists. Both sides: [`connect`], [`schema`], [`rows`].

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use self::{
    connect::{Disk, Lock},
    reader::Readers,
    replay::Replay,
    rows::Reading,
    session::Session,
    split::Split,
    writer::Writer,
};
use super::{
    Accepted, Ask, Attempt, AuditFilter, AuditRow, Backlog, Change, Changed, Decision, DeliveryRow, Due, Erased, Error, EventRow,
    Filter, Foreseen, GaveUp, GivenUp, HandedOver, Handling, HeldBound, NewDelivery, NewEvent, NewRejection, OnCommit, Owned,
    OwnerId, Profile, Pruned, Read, Record, RecordKind, Rejection, Rendered, Replica, Resolution, Result, Retention, Retried,
    SHARDS, Store, Unreported, Walk, Walked,
};
use crate::{
    clock::{Clock, Timestamp, to_ms},
    envelope::{DeliveryId, Envelope, EventUid, Name},
};

mod accept;
mod ahead;
mod change;
mod checkpoint;
mod connect;
pub(super) mod copy;
mod decide;
mod digest;
pub(super) mod doctor;
mod ending;
mod erase;
mod foresee;
mod functions;
mod give_up;
mod held;
mod keys;
mod lanes;
mod owners;
mod person;
mod prune;
mod query;
mod reader;
mod record;
mod reject;
mod replay;
mod reports;
mod rows;
mod schema;
mod session;
mod split;
#[cfg(test)]
mod tests;
mod threads;
mod throttle;
mod walk;
mod writer;

/// Opens the store in the file at `path`, made where it is missing; see [`super::open`].
pub async fn open(path: &Path, clock: Clock) -> Result<Arc<Sqlite>> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Sqlite::open(path, clock)).await;
    opened.map_err(|error| Error::Backend(error.to_string().into()))?.map(Arc::new)
}

/// A store in one SQLite file.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Sqlite {
    writer: Writer,
    /// For the lanes, whose questions are short.
    lanes: Readers,
    reading: Reading,
    /// For lists, which may take long: they must not hold up a delivery.
    lists: Readers,
    /// For those who follow along: there may be many of them, who must not hold up a list.
    walks: Readers,
    listener: Arc<OnceLock<Arc<dyn OnCommit>>>,
    /// What the one process says of itself.
    profile: Mutex<Option<(OwnerId, Profile)>>,
}

/// Connections that answer the lanes.
const LANE_READERS: usize = 2;
/// Connections that answer lists and details.
const LIST_READERS: usize = 2;
/// Connections that answer those who follow along.
const WALK_READERS: usize = 1;

impl Sqlite {
    fn open(path: PathBuf, clock: Clock) -> Result<Self> {
        let lock = Lock::take(&path)?;
        let conn = connect::writer(&path)?;
        copy::unfinished(&conn)?;
        let disk = Disk::open(&path)?;
        let session = Session::new(conn, &path, disk.clone(), lock, clock)?;
        let reading = Reading { salt: session.salt, words: Arc::default(), recent: Arc::default() };
        let listener = Arc::new(OnceLock::new());
        Ok(Self {
            writer: Writer::start(session, listener.clone())?,
            lanes: Readers::new(path.clone(), disk.clone(), LANE_READERS, reading.clone()),
            lists: Readers::new(path.clone(), disk.clone(), LIST_READERS, reading.clone()),
            walks: Readers::new(path, disk, WALK_READERS, reading.clone()),
            reading,
            listener,
            profile: Mutex::default(),
        })
    }
}

#[async_trait]
impl Store for Sqlite {
    fn on_commit(&self, listener: Arc<dyn OnCommit>) {
        if self.listener.set(listener).is_err() {
            tracing::error!("the store was given a second listener, which hears nothing");
        }
    }

    async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        self.writer.accept(event).await
    }

    async fn record(&self, attempts: Vec<Attempt>) -> Result<()> {
        self.writer.run(move |session| record::record(session, &attempts)).await
    }

    async fn due(&self, target: &Name, now: Timestamp, limit: u32, except: Vec<DeliveryId>) -> Result<Vec<Due>> {
        let target = target.clone();
        self.lanes.ask(move |conn, reading| query::due(conn, reading, &target, to_ms(now), limit, &except)).await
    }

    async fn decide(&self, target: &Name, asks: Vec<Ask>, epoch: i64, now: Timestamp) -> Result<Vec<Decision>> {
        let target = target.clone();
        self.writer.run(move |session| decide::decide(session, &target, &asks, epoch, to_ms(now))).await
    }

    async fn foresee(&self, target: &Name, handling: Handling, now: Timestamp) -> Result<Foreseen> {
        let target = target.clone();
        self.lists.ask(move |conn, _| foresee::foresee(conn, &target, &handling, to_ms(now))).await
    }

    async fn carried(&self, carrier: DeliveryId, limit: u32) -> Result<Vec<(DeliveryId, Arc<Envelope>)>> {
        self.lanes.ask(move |conn, reading| query::carried(conn, reading, carrier, limit)).await
    }

    async fn expire(
        &self,
        target: &Name,
        cutoff: Timestamp,
        reason: &str,
        except: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>> {
        let (target, reason) = (target.clone(), reason.to_owned());
        self.writer.run(move |session| ending::expire(session, &target, to_ms(cutoff), &reason, &except, to_ms(now))).await
    }

    async fn rouse(&self, target: &Name, now: Timestamp) -> Result<()> {
        let target = target.clone();
        self.writer.run(move |session| ending::rouse(session, &target, to_ms(now))).await
    }

    async fn next_due(&self, target: &Name, except: Vec<DeliveryId>) -> Result<Option<Timestamp>> {
        let target = target.clone();
        self.lanes.ask(move |conn, reading| query::next_due(conn, reading, &target, &except)).await
    }

    async fn oldest_due(&self, target: &Name, now: Timestamp, except: Vec<DeliveryId>) -> Result<Option<Due>> {
        let target = target.clone();
        self.lanes.ask(move |conn, reading| query::oldest_due(conn, reading, &target, to_ms(now), &except)).await
    }

    async fn give_up(&self, target: &Name, when: GaveUp, except: Vec<DeliveryId>) -> Result<GivenUp> {
        let (target, reading) = (target.clone(), self.reading.clone());
        self.writer.run(move |session| give_up::give_up(session, &reading, &target, &when, &except)).await
    }

    async fn backlog(&self, target: Option<&Name>) -> Result<Vec<Backlog>> {
        let target = target.cloned();
        self.lists.ask(move |conn, _| query::backlog(conn, target.as_ref())).await
    }

    async fn events(&self, filter: Filter) -> Result<Vec<EventRow>> {
        self.lists.ask(move |conn, reading| query::events(conn, reading, &filter)).await
    }

    async fn event(&self, uid: EventUid) -> Result<Option<EventRow>> {
        self.lists.ask(move |conn, reading| query::event(conn, reading, uid)).await
    }

    async fn walk(&self, walk: Walk) -> Result<Walked> {
        self.walks.ask(move |conn, reading| walk::walk(conn, reading, &walk, walk::ROWS_MAX)).await
    }

    async fn deliveries(&self, filter: Filter) -> Result<Vec<DeliveryRow>> {
        self.lists.ask(move |conn, reading| query::deliveries(conn, reading, &filter)).await
    }

    async fn attempts(&self, event: EventUid) -> Result<Vec<Attempt>> {
        self.lists.ask(move |conn, reading| query::attempts(conn, reading, event)).await
    }

    async fn subscribed(&self, filter: Filter) -> Result<Vec<DeliveryRow>> {
        self.lists.ask(move |conn, reading| query::subscribed(conn, reading, &filter)).await
    }

    async fn attempts_of(&self, deliveries: Vec<DeliveryId>) -> Result<Vec<Attempt>> {
        self.lists.ask(move |conn, reading| query::attempts_of(conn, reading, &deliveries)).await
    }

    async fn reject(&self, rejections: Vec<NewRejection>, bound: u32, bound_bytes: u64) -> Result<()> {
        self.writer.run(move |session| reject::reject(&session.conn, &rejections, bound, bound_bytes)).await
    }

    async fn rejections(&self, filter: Filter) -> Result<Vec<Rejection>> {
        self.lists.ask(move |conn, reading| reject::rejections(conn, reading, &filter)).await
    }

    async fn quarantined(&self, filter: Filter, after: i64) -> Result<Vec<Rejection>> {
        self.lists.ask(move |conn, reading| reject::quarantined(conn, reading, &filter, after)).await
    }

    async fn settle_rejection(&self, id: i64, at: Timestamp, outcome: Retried) -> Result<()> {
        self.writer.run(move |session| reject::settle(&session.conn, id, to_ms(at), &outcome)).await
    }

    async fn reseal_rejections(&self, resealed: Vec<(i64, Vec<u8>)>) -> Result<u64> {
        self.writer.run(move |session| reject::reseal(&session.conn, &resealed)).await
    }

    async fn prune(&self, now: Timestamp, retention: Retention, held: Vec<(Name, Timestamp)>) -> Result<Pruned> {
        self.writer.run(move |session| prune::prune(session, now, &retention, &held)).await
    }

    async fn setting(&self, key: &str) -> Result<Option<String>> {
        let key = key.to_owned();
        self.lists.ask(move |conn, _| query::setting(conn, &key)).await
    }

    async fn set_setting(&self, key: &str, value: String) -> Result<()> {
        let key = key.to_owned();
        self.writer.run(move |session| session.set_setting(&key, &value)).await
    }

    async fn settings(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let prefix = prefix.to_owned();
        self.lists.ask(move |conn, _| query::settings(conn, &prefix)).await
    }

    async fn remove_setting(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.writer.run(move |session| session.remove_setting(&key)).await
    }

    async fn split(&self, of: Read, recipients: Vec<String>, body: Rendered, now: Timestamp) -> Result<Option<String>> {
        let reading = self.reading.clone();
        self.writer.make(|reply| Split::new(of, recipients, body, now, reading, reply)).await
    }

    async fn reported(&self, attempt: Attempt) -> Result<bool> {
        self.writer.run(move |session| reports::reported(session, &attempt)).await
    }

    async fn unreported(&self, now: Timestamp) -> Result<Unreported> {
        self.writer.run(move |session| reports::unreported(session, now)).await
    }

    async fn thread(&self, key: [u8; 16]) -> Result<Option<String>> {
        self.lanes.ask(move |conn, _| threads::root(conn, key)).await
    }

    async fn set_thread(&self, key: [u8; 16], root: Option<String>) -> Result<()> {
        self.writer.run(move |session| threads::set(session, key, root.as_deref())).await
    }

    async fn own_shards(&self, owner: OwnerId, now: Timestamp, lease: Duration) -> Result<Vec<Owned>> {
        self.writer.run(move |session| owners::own(session, owner, now, lease)).await
    }

    async fn release_shards(&self, owner: OwnerId) -> Result<()> {
        self.writer.run(move |session| owners::release(session, owner)).await
    }

    async fn present(&self, owner: OwnerId, profile: Profile, _: Timestamp, _: Duration) -> Result<()> {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Some((owner, profile));
        Ok(())
    }

    async fn replicas(&self, now: Timestamp) -> Result<Vec<Replica>> {
        let said = self.profile.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let replica = |(owner, profile): (OwnerId, Profile)| Replica {
            owner,
            doc: profile.doc,
            seen_at: now,
            shards: (0..SHARDS).collect(),
        };
        Ok(said.into_iter().map(replica).collect())
    }

    async fn retry(&self, ids: Vec<DeliveryId>, now: Timestamp) -> Result<Vec<DeliveryId>> {
        self.writer.run(move |session| person::retry(session, &ids, to_ms(now))).await
    }

    async fn cancel(&self, ids: Vec<DeliveryId>, reason: &str, now: Timestamp) -> Result<Vec<DeliveryId>> {
        let reason = reason.to_owned();
        self.writer.run(move |session| person::cancel(session, &ids, &reason, to_ms(now))).await
    }

    async fn erase(&self, events: Vec<EventUid>, now: Timestamp) -> Result<Erased> {
        self.writer.run(move |session| erase::erase(session, &events, to_ms(now))).await
    }

    async fn resolve(&self, id: DeliveryId, resolution: Resolution) -> Result<bool> {
        self.writer.run(move |session| person::resolve(session, id, &resolution)).await
    }

    async fn replay(&self, event: EventUid, deliveries: Vec<NewDelivery>, tag: &str, now: Timestamp) -> Result<Vec<DeliveryId>> {
        let (tag, reading) = (tag.to_owned(), self.reading.clone());
        self.writer.make(|reply| Replay::new(event, deliveries, tag, now, reading, reply)).await
    }

    async fn adopt(&self, old: &Name, new: &Name) -> Result<u64> {
        let (old, new) = (old.clone(), new.clone());
        self.writer.run(move |session| lanes::adopt(session, &old, &new)).await
    }

    async fn hand_over(&self, old: &Name, new: &Name, now: Timestamp) -> Result<HandedOver> {
        let (old, new) = (old.clone(), new.clone());
        self.writer.run(move |session| held::hand_over(session, &old, &new, to_ms(now))).await
    }

    async fn bound_held(
        &self,
        target: &Name,
        bound: HeldBound,
        except: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>> {
        let (name, HeldBound { cutoff, bytes, reason }) = (target.clone(), bound);
        let except: Vec<i64> = except.into_iter().map(DeliveryId::place).collect();
        // What is beyond is found beside the writer: there may be very much to look at.
        let beyond = self.lists.ask(move |conn, _| held::beyond(conn, &name, cutoff.map(to_ms), bytes, &except)).await?;
        if beyond.is_empty() {
            return Ok(Vec::new());
        }
        let mut expired = Vec::with_capacity(beyond.len());
        // A slice at a time, so that others are written between them.
        for slice in beyond.chunks(held::SLICE) {
            let (target, reason, slice) = (target.clone(), reason.clone(), slice.to_vec());
            expired.extend(self.writer.run(move |session| held::expire(session, &target, &slice, &reason, to_ms(now))).await?);
        }
        Ok(expired)
    }

    async fn count_deliveries(&self, filter: Filter) -> Result<u64> {
        self.lists.ask(move |conn, reading| query::count_deliveries(conn, reading, &filter)).await
    }

    async fn count_events(&self, filter: Filter) -> Result<u64> {
        self.lists.ask(move |conn, _| query::count_events(conn, &filter)).await
    }

    async fn change(&self, change: Change) -> Result<Changed> {
        self.writer.run(move |session| change::change(session, &change)).await
    }

    async fn records(&self, kind: RecordKind, after: i64) -> Result<Vec<Record>> {
        self.lists.ask(move |conn, _| change::records(conn, kind, after)).await
    }

    async fn record_of(&self, kind: RecordKind, id: &str) -> Result<Option<Record>> {
        let id = id.to_owned();
        self.lists.ask(move |conn, _| change::record_of(conn, kind, &id)).await
    }

    async fn audit(&self, filter: AuditFilter) -> Result<Vec<AuditRow>> {
        self.lists.ask(move |conn, _| change::audit(conn, &filter)).await
    }

    fn newest(&self) -> watch::Receiver<i64> {
        self.writer.newest()
    }

    async fn ready(&self) -> Result<()> {
        self.writer.probe().await
    }

    async fn close(&self) {
        self.lanes.close();
        self.lists.close();
        self.walks.close();
        self.writer.close().await;
    }
}
