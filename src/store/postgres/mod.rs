//! The PostgreSQL back end: one database, any number of processes. Events and attempts go to two tasks that commit together what is
//! queued ([`batch`]: [`accept`] and [`at_once`], [`record`] and [`freely`]); other writes are transactions of their own; reads go over connections beside them.
//!
//! Order. Whatever others must see in order (events, who goes before whom under an order key, what throttles and digests count, who owns
//! which lanes) is written under one lock, the row of `identity`, held until the commit ([`session`]): so the order of events is the
//! order of their commits, and a place that was read past never fills later. Attempts of deliveries that stand in nobody's way need none.
//!
//! Writing: [`insert`] (rows as sets), [`ending`], [`decide`], [`throttle`], [`digest`], [`lanes`], [`give_up`], [`reports`], [`person`],
//! [`held`] (by subscriptions), [`mod@replay`], [`people`], [`reject`], [`owners`], [`prune`], [`ahead`]. Reading: [`query`], [`mod@walk`], [`foresee`], [`clauses`], [`rows`].
//! Both: [`url`], [`tls`], [`servers`], [`connect`], [`link`], [`schema`], [`text`]. What processes tell each other: [`news`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::{
    accept::{Accept, Ingest},
    batch::{Kept, Writer},
    connect::{BRIEF, Gate, PATIENT, Pool, fault},
    news::News,
    record::{Record, Recorder},
    rows::Reading,
    servers::Servers,
    session::{Shared, locked, read},
    text::Text,
    tls::Tls,
};
use super::{
    Accepted, Ask, Attempt, AuditFilter, AuditRow, Backlog, Change, Changed, Committed, Decision, DeliveryRow, Due, Erased,
    Error, EventRow, Filter, Foreseen, GaveUp, GivenUp, HandedOver, Handling, HeldBound, NewDelivery, NewEvent, NewRejection,
    OnCommit, Owned, OwnerId, Profile, Pruned, Read, RecordKind, Rejection, Rendered, Replica, Resolution, Result, Retention,
    Retried, Store, Unreported, Walk, Walked, copy as copied,
};
use crate::{
    clock::{Clock, Timestamp, to_ms},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    secret::Secret,
};

mod accept;
mod ahead;
mod at_once;
mod batch;
mod bodies;
mod clauses;
mod connect;
pub(super) mod copy;
mod decide;
mod digest;
pub(super) mod doctor;
mod due;
mod ending;
mod erase;
mod foresee;
mod freely;
mod give_up;
mod held;
mod insert;
mod lanes;
mod link;
mod news;
mod notices;
mod numbers;
mod owners;
mod partitions;
mod people;
mod person;
mod presence;
mod prune;
mod query;
mod record;
mod recount;
mod reject;
mod replay;
mod reports;
mod rows;
mod schema;
mod servers;
mod session;
mod spread;
#[cfg(test)]
pub(super) mod tests;
mod text;
mod throttle;
mod tls;
mod url;
mod walk;

/// Whether `url` can be a store's; else why not, without telling what it says.
pub fn check(url: &Secret) -> std::result::Result<(), String> {
    url::parse(url.reveal()).map(|_| ())
}

/// `url` without its password and options.
pub(super) fn shown(url: &Secret) -> String {
    url::parse(url.reveal()).map_or_else(|_| "postgres://***".to_owned(), |place| place.shown())
}

pub(in crate::store) use insert::size_of as size_of_event;

/// Connections of the two tasks that commit batches: each keeps one, and may still wait for what it sent over one that was lost.
const BATCHES: usize = 4;
/// Connections of other writes.
const WORK: usize = 4;
/// Connections that answer the lanes, whose questions are short. What goes over them is moved by the threads that lanes work on, as these
/// make them.
const LANES: usize = 4;
/// Connections that answer those who look for what others changed, and for single records.
const LOOKS: usize = 2;
/// Connections that answer lists, which may take long: they must not hold up a delivery.
const LISTS: usize = 3;
/// Connections that answer those who follow along: there may be many of them, who must not hold up a list.
const WALKS: usize = 2;

/// A store in a PostgreSQL database.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Postgres {
    shared: Arc<Shared>,
    ingest: Writer<Accept>,
    recorder: Writer<Record>,
    batches: Arc<Pool>,
    work: Arc<Pool>,
    lanes: Arc<Pool>,
    looks: Arc<Pool>,
    lists: Arc<Pool>,
    walks: Arc<Pool>,
    news: std::sync::Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

/// Opens the store at `url`, whose tables are made where they are missing; see [`super::open`].
pub async fn open(url: &Secret, clock: Clock) -> Result<Arc<Postgres>> {
    let place = url::parse(url.reveal()).map_err(|reason| Error::Unreadable(format!("the store's URL: {reason}")))?;
    let tls = Tls::new(&place)?;
    let servers = Arc::new(Servers::new(place, tls));
    let mut client = servers.connect().await?.watched(&servers);
    let salt = schema::prepare(&mut client).await?;
    let row = client.query_one("SELECT last_seq FROM identity", &[]).await.map_err(|error| fault(&error))?;
    let newest: i64 = row.try_get(0).map_err(|error| fault(&error))?;
    let mark = client.query_opt("SELECT value FROM settings WHERE key = $1", &[&copied::KEY]).await;
    let mark = mark.map_err(|error| fault(&error))?.map(|row| row.get::<_, Text<'_>>(0).into_string());
    copied::unfinished(mark.as_deref())?;
    drop(client);
    let reading = Reading { salt, words: super::held::Words::default(), recent: super::held::Recent::default() };
    let shared = Arc::new(Shared::new(reading, clock, newest));
    let gate = Arc::new(Gate::default());
    let pool = |count, by_index, rounds| Pool::new(&servers, &gate, count, by_index, rounds).map(Arc::new);
    let (batches, work) = (pool(BATCHES, true, BRIEF)?, pool(WORK, true, PATIENT)?);
    let (lanes, looks) = (pool(LANES, true, BRIEF)?, pool(LOOKS, true, BRIEF)?);
    let (lists, walks) = (pool(LISTS, false, PATIENT)?, pool(WALKS, true, BRIEF)?);
    let stop = CancellationToken::new();
    let news = News { servers, pool: looks.clone(), shared: shared.clone(), stop: stop.clone() };
    Ok(Arc::new(Postgres {
        ingest: Writer::new(Ingest { connection: Kept::of(batches.clone()), shared: shared.clone() }),
        recorder: Writer::new(Recorder { connection: Kept::of(batches.clone()), shared: shared.clone() }),
        news: std::sync::Mutex::new(Some(tokio::spawn(news.run()))),
        shared,
        batches,
        work,
        lanes,
        looks,
        lists,
        walks,
        stop,
    }))
}

impl Postgres {
    /// Tells of what is on disk.
    fn tell(&self, committed: Option<Committed>) {
        if let (Some(listener), Some(committed)) = (self.shared.listener.get(), committed) {
            listener.committed(vec![committed]);
        }
    }

    fn reading(&self) -> &Reading {
        &self.shared.reading
    }
}

/// No targets.
fn none() -> std::iter::Empty<&'static Name> {
    std::iter::empty()
}

#[async_trait]
impl Store for Postgres {
    fn on_commit(&self, listener: Arc<dyn OnCommit>) {
        if self.shared.listener.set(listener).is_err() {
            tracing::error!("the store was given a second listener, which hears nothing");
        }
    }

    async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        self.ingest.make(|reply| Accept::new(event, reply)).await
    }

    async fn record(&self, attempts: Vec<Attempt>) -> Result<()> {
        self.recorder.make(|reply| Record { attempts, reply }).await
    }

    async fn due(&self, target: &Name, now: Timestamp, limit: u32, except: Vec<DeliveryId>) -> Result<Vec<Due>> {
        read!(self.lanes, |db| due::due(db, self.reading(), target, to_ms(now), limit, &except))
    }

    async fn decide(&self, target: &Name, asks: Vec<Ask>, epoch: i64, now: Timestamp) -> Result<Vec<Decision>> {
        locked!(self, [target].into_iter(), |session| decide::decide(session, target, &asks, epoch, to_ms(now)))
    }

    async fn foresee(&self, target: &Name, handling: Handling, now: Timestamp) -> Result<Foreseen> {
        read!(self.lists, |db| foresee::foresee(db, target, &handling, to_ms(now)))
    }

    async fn carried(&self, carrier: DeliveryId, limit: u32) -> Result<Vec<(DeliveryId, Arc<Envelope>)>> {
        read!(self.lanes, |db| query::carried(db, self.reading(), carrier, limit))
    }

    async fn expire(
        &self,
        target: &Name,
        cutoff: Timestamp,
        reason: &str,
        except: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>> {
        let (cutoff, now) = (to_ms(cutoff), to_ms(now));
        locked!(self, [target].into_iter(), |session| ending::expire(session, target, cutoff, reason, &except, now))
    }

    async fn rouse(&self, target: &Name, now: Timestamp) -> Result<()> {
        locked!(self, [target].into_iter(), |session| ending::rouse(session, target, to_ms(now)))
    }

    async fn next_due(&self, target: &Name, except: Vec<DeliveryId>) -> Result<Option<Timestamp>> {
        read!(self.lanes, |db| due::next_due(db, self.reading(), target, &except))
    }

    async fn oldest_due(&self, target: &Name, now: Timestamp, except: Vec<DeliveryId>) -> Result<Option<Due>> {
        read!(self.lanes, |db| due::oldest_due(db, self.reading(), target, to_ms(now), &except))
    }

    async fn give_up(&self, target: &Name, when: GaveUp, except: Vec<DeliveryId>) -> Result<GivenUp> {
        locked!(self, [target].into_iter(), |session| give_up::give_up(session, target, &when, &except))
    }

    async fn backlog(&self, target: Option<&Name>) -> Result<Vec<Backlog>> {
        read!(self.lists, |db| query::backlog(db, target))
    }

    async fn events(&self, filter: Filter) -> Result<Vec<EventRow>> {
        read!(self.lists, |db| query::events(db, self.reading(), &filter))
    }

    async fn event(&self, uid: EventUid) -> Result<Option<EventRow>> {
        read!(self.lists, |db| query::event(db, self.reading(), uid))
    }

    async fn walk(&self, walk: Walk) -> Result<Walked> {
        read!(self.walks, |db| walk::walk(db, self.reading(), &walk, walk::ROWS_MAX))
    }

    async fn deliveries(&self, filter: Filter) -> Result<Vec<DeliveryRow>> {
        read!(self.lists, |db| query::deliveries(db, self.reading(), &filter))
    }

    async fn attempts(&self, event: EventUid) -> Result<Vec<Attempt>> {
        read!(self.lists, |db| query::attempts(db, self.reading(), event))
    }

    async fn subscribed(&self, filter: Filter) -> Result<Vec<DeliveryRow>> {
        read!(self.lists, |db| query::subscribed(db, self.reading(), &filter))
    }

    async fn attempts_of(&self, deliveries: Vec<DeliveryId>) -> Result<Vec<Attempt>> {
        read!(self.lists, |db| query::attempts_of(db, self.reading(), &deliveries))
    }

    async fn reject(&self, rejections: Vec<NewRejection>, bound: u32, bound_bytes: u64) -> Result<()> {
        locked!(self, none(), |session| reject::reject(session, &rejections, bound, bound_bytes))
    }

    async fn rejections(&self, filter: Filter) -> Result<Vec<Rejection>> {
        read!(self.lists, |db| reject::rejections(db, self.reading(), &filter))
    }

    async fn quarantined(&self, filter: Filter, after: i64) -> Result<Vec<Rejection>> {
        read!(self.lists, |db| reject::quarantined(db, self.reading(), &filter, after))
    }

    async fn settle_rejection(&self, id: i64, at: Timestamp, outcome: Retried) -> Result<()> {
        locked!(self, none(), |session| reject::settle(session, id, to_ms(at), &outcome))
    }

    async fn reseal_rejections(&self, resealed: Vec<(i64, Vec<u8>)>) -> Result<u64> {
        read!(self.work, |db| reject::reseal(db, &resealed))
    }

    async fn prune(&self, now: Timestamp, retention: Retention, held: Vec<(Name, Timestamp)>) -> Result<Pruned> {
        let tidied = read!(self.work, |db| partitions::tidy(db, &self.shared, now, retention.events))?;
        read!(self.work, |db| recount::recount(db, &self.shared))?;
        let pruned = locked!(self, held.iter().map(|(name, _)| name), |session| prune::prune(session, now, &retention, &held))?;
        Ok(Pruned { events: pruned.events + tidied.events, more: pruned.more || tidied.more, ..pruned })
    }

    async fn setting(&self, key: &str) -> Result<Option<String>> {
        read!(self.looks, |db| people::setting(db, key))
    }

    async fn set_setting(&self, key: &str, value: String) -> Result<()> {
        read!(self.work, |db| people::set_setting(db, key, &value))
    }

    async fn settings(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        read!(self.looks, |db| people::settings(db, prefix))
    }

    async fn remove_setting(&self, key: &str) -> Result<()> {
        read!(self.work, |db| people::remove_setting(db, key))
    }

    async fn split(&self, of: Read, recipients: Vec<String>, body: Rendered, now: Timestamp) -> Result<Option<String>> {
        let done = locked!(self, none(), |session| replay::split(session, of, &recipients, &body, now))?;
        self.tell(done.told);
        Ok(done.own)
    }

    async fn reported(&self, attempt: Attempt) -> Result<bool> {
        locked!(self, none(), |session| reports::reported(session, &attempt))
    }

    async fn unreported(&self, now: Timestamp) -> Result<Unreported> {
        locked!(self, none(), |session| reports::unreported(session, now))
    }

    async fn thread(&self, key: [u8; 16]) -> Result<Option<String>> {
        read!(self.lanes, |db| people::thread(db, key))
    }

    async fn set_thread(&self, key: [u8; 16], root: Option<String>) -> Result<()> {
        let now = self.shared.now();
        read!(self.work, |db| people::set_thread(db, key, root.as_deref(), now))
    }

    async fn own_shards(&self, owner: OwnerId, now: Timestamp, lease: Duration) -> Result<Vec<Owned>> {
        locked!(briefly self, none(), |session| owners::own(session, owner, now, lease))
    }

    async fn keep_shards(&self, owner: OwnerId, kept: Vec<u16>, now: Timestamp, lease: Duration) -> Result<Vec<Owned>> {
        locked!(briefly self, none(), |session| owners::keep_only(session, owner, &kept, now, lease))
    }

    async fn release_shards(&self, owner: OwnerId) -> Result<()> {
        locked!(briefly self, none(), |session| owners::release(session, owner))
    }

    async fn present(&self, owner: OwnerId, profile: Profile, now: Timestamp, lease: Duration) -> Result<()> {
        locked!(briefly self, none(), |session| owners::present(session, owner, &profile, now, lease))
    }

    async fn replicas(&self, now: Timestamp) -> Result<Vec<Replica>> {
        read!(self.looks, |db| owners::replicas(db, &self.shared, now))
    }

    async fn retry(&self, ids: Vec<DeliveryId>, now: Timestamp) -> Result<Vec<DeliveryId>> {
        locked!(self, none(), |session| person::retry(session, &ids, to_ms(now)))
    }

    async fn cancel(&self, ids: Vec<DeliveryId>, reason: &str, now: Timestamp) -> Result<Vec<DeliveryId>> {
        locked!(self, none(), |session| person::cancel(session, &ids, reason, to_ms(now)))
    }

    async fn erase(&self, events: Vec<EventUid>, now: Timestamp) -> Result<Erased> {
        locked!(self, none(), |session| erase::erase(session, &events, to_ms(now)))
    }

    async fn resolve(&self, id: DeliveryId, resolution: Resolution) -> Result<bool> {
        locked!(self, none(), |session| person::resolve(session, id, &resolution))
    }

    async fn replay(&self, event: EventUid, deliveries: Vec<NewDelivery>, tag: &str, now: Timestamp) -> Result<Vec<DeliveryId>> {
        let targets = || deliveries.iter().map(|planned| &planned.target);
        let done = locked!(self, targets(), |session| replay::replay(session, event, &deliveries, tag, now))?;
        self.tell(done.told);
        Ok(done.ids)
    }

    async fn adopt(&self, old: &Name, new: &Name) -> Result<u64> {
        if old == new {
            return Ok(0);
        }
        locked!(self, [old, new].into_iter(), |session| lanes::adopt(session, old, new))
    }

    async fn hand_over(&self, old: &Name, new: &Name, now: Timestamp) -> Result<HandedOver> {
        if old == new {
            return Ok(HandedOver::default());
        }
        locked!(self, [old, new].into_iter(), |session| held::hand_over(session, old, new, to_ms(now)))
    }

    async fn bound_held(
        &self,
        target: &Name,
        bound: HeldBound,
        except: Vec<DeliveryId>,
        now: Timestamp,
    ) -> Result<Vec<DeliveryId>> {
        let (HeldBound { cutoff, bytes, reason }, now) = (bound, to_ms(now));
        // What is beyond is found without the lock: there may be very much to look at.
        let beyond = read!(self.lists, |db| held::beyond(db, target, cutoff.map(to_ms), bytes, &except))?;
        if beyond.is_empty() {
            return Ok(Vec::new());
        }
        locked!(self, [target].into_iter(), |session| held::expire(session, target, &beyond, &reason, now))
    }

    async fn count_deliveries(&self, filter: Filter) -> Result<u64> {
        read!(self.lists, |db| query::count_deliveries(db, self.reading(), &filter))
    }

    async fn count_events(&self, filter: Filter) -> Result<u64> {
        read!(self.lists, |db| query::count_events(db, &filter))
    }

    async fn change(&self, change: Change) -> Result<Changed> {
        locked!(self, none(), |session| people::change(session, &change))
    }

    async fn records(&self, kind: RecordKind, after: i64) -> Result<Vec<super::Record>> {
        read!(self.looks, |db| people::records(db, kind, after))
    }

    async fn record_of(&self, kind: RecordKind, id: &str) -> Result<Option<super::Record>> {
        read!(self.looks, |db| people::record_of(db, kind, id))
    }

    async fn audit(&self, filter: AuditFilter) -> Result<Vec<AuditRow>> {
        read!(self.lists, |db| people::audit(db, &filter))
    }

    fn newest(&self) -> watch::Receiver<i64> {
        self.shared.newest.subscribe()
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn ready(&self) -> Result<()> {
        locked!(self, none(), |session| session::probe(session))?;
        // In a commit of its own: what one transaction writes and takes back tells little.
        read!(self.work, |db| people::remove_setting(db, session::PROBE))
    }

    async fn close(&self) {
        self.stop.cancel();
        self.ingest.close().await;
        self.recorder.close().await;
        for pool in [&self.batches, &self.work, &self.lanes, &self.looks, &self.lists, &self.walks] {
            pool.close();
        }
        self.shared.presence.leave();
        let news = self.news.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(news) = news {
            let _ = news.await;
        }
    }
}
