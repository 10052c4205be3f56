//! What the tests of this room share: decoding snippets, a store in memory, a receiver, and a relay around them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{body::to_bytes, extract::Request, http::HeaderMap, response::IntoResponse};
use bytes::Bytes;
use serde_json::Value as Json;

use super::{Defaults, Deliver, Destination, Parts, Site, WaysOut};
use crate::{
    announce::{Announcer, Notice},
    clock::{Clock, Timestamp, later},
    config::{
        AllowTarget, Problem, Severity,
        decode::{Context, Decode},
        tree::{Key, Node, Place, Value},
    },
    contacts::{self, Contacts},
    envelope::{DeliveryId, Envelope, EventUid, Name, tests::sample},
    store::{
        self, Accepted, Ask, Attempt, Backlog, Change, Changed, Committed, Decision, Delivery, DeliveryRow, Due, EventRow,
        Filter, GaveUp, GivenUp, NewDelivery, NewEvent, NewRejection, Next, OnCommit, Owned, OwnerId, Pruned, Record, RecordKind,
        Rejection, Resolution, Retention, Retried, State, Store, Write,
    },
    telemetry::Metrics,
};

/// A node of YAML text; a string's place is its first occurrence in the text.
pub(crate) fn node(yaml: &str) -> Node {
    fn build(value: Json, yaml: &str) -> Node {
        let mut place = Place::default();
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(yes) => Value::Bool(yes),
            Json::Number(number) => number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap()), Value::Int),
            Json::String(text) => {
                place = yaml.find(&text).map_or(place, |start| Place { start, end: start + text.len() });
                Value::String(text)
            }
            Json::Array(items) => Value::List(items.into_iter().map(|item| build(item, yaml)).collect()),
            Json::Object(map) => {
                let key = |name: String| Key {
                    place: yaml.find(&name).map_or(place, |start| Place { start, end: start + name.len() }),
                    name,
                };
                Value::Map(map.into_iter().map(|(name, value)| (key(name), build(value, yaml))).collect())
            }
        };
        Node { value, place, referenced: false }
    }
    build(serde_saphyr::from_str(yaml).unwrap(), yaml)
}

/// Every problem of decoding `yaml` as a `T`.
pub(crate) fn problems<T: Decode>(yaml: &str) -> Vec<Problem> {
    let mut cx = Context::default();
    let _ = T::decode(&node(yaml), &mut cx);
    cx.problems
}

/// `yaml` as a `T`, or what is wrong with it.
pub(crate) fn decode<T: Decode>(yaml: &str) -> Result<T, Vec<String>> {
    let mut cx = Context::default();
    let decoded = T::decode(&node(yaml), &mut cx);
    finished(decoded, &cx)
}

/// A name that no resolver asks anybody about: its label is too long.
pub(crate) const NOWHERE: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.invalid";

/// A context in which 127.0.0.0/8 and [`NOWHERE`] are let through and there is a template `line`.
pub(crate) fn context() -> Context {
    Context {
        require_https: true,
        allow_targets: vec![AllowTarget::Net("127.0.0.0/8".parse().unwrap()), AllowTarget::Host(NOWHERE.into())],
        templates: BTreeMap::from([
            ("line".to_owned(), "{{ event.type }}!".into()),
            ("broken".to_owned(), "{{ event.data.a.b.c }}".into()),
        ]),
        ..Context::default()
    }
}

/// Destination `name` of `yaml`, or what is wrong with it.
pub(crate) fn destination(name: &str, yaml: &str) -> Result<Destination, Vec<String>> {
    let mut cx = context();
    let key = Key { name: name.into(), place: Place::default() };
    let decoded = Destination::decode(&key, &node(yaml), &Defaults::default(), &mut cx);
    finished(decoded, &cx)
}

fn finished<T>(decoded: Option<T>, cx: &Context) -> Result<T, Vec<String>> {
    let errors = || {
        cx.problems.iter().filter(|problem| problem.severity == Severity::Error).map(|problem| problem.message.clone()).collect()
    };
    decoded.filter(|_| !cx.failed()).ok_or_else(errors)
}

/// What a receiver was sent.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A real listener that answers in order with what it was given, then with the last of it.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// An answer: status, a header, how long it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Says(pub(crate) u16, pub(crate) Option<(&'static str, &'static str)>, pub(crate) Duration);

impl From<u16> for Says {
    fn from(status: u16) -> Self {
        Self(status, None, Duration::ZERO)
    }
}

impl Receiver {
    pub(crate) async fn start(answers: impl IntoIterator<Item = impl Into<Says>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let it = Self {
            port: listener.local_addr().unwrap().port(),
            received: Arc::default(),
            open: Arc::default(),
            most: Arc::default(),
        };
        let answers: Arc<Mutex<VecDeque<Says>>> = Arc::new(Mutex::new(answers.into_iter().map(Into::into).collect()));
        let service = it.clone();
        let router = axum::Router::new().fallback(move |request: Request| {
            let (it, answers) = (service.clone(), answers.clone());
            async move { it.answer(request, &answers).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        it
    }

    async fn answer(&self, request: Request, answers: &Mutex<VecDeque<Says>>) -> axum::response::Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 10_000_000).await.unwrap();
        self.most.fetch_max(self.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _open = Open(self.open.clone());
        let Says(status, header, wait) = {
            let mut answers = answers.lock().unwrap();
            let first = *answers.front().unwrap();
            if 1 < answers.len() {
                answers.pop_front();
            }
            first
        };
        self.received.lock().unwrap().push(Received { headers: parts.headers, body });
        tokio::time::sleep(wait).await;
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        match header {
            Some(header) => (status, [header], "answered").into_response(),
            None => (status, "answered").into_response(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks/secret-path", self.port)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The requests that are open: neither answered nor broken off.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The most requests that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// A request that is open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until `done`, for at most a minute: longer than a busy machine needs.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "waited in vain until {what}");
}

/// A relay's sending side over a store in memory, with a clock moved by hand.
pub(crate) struct Relay {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) deliver: Arc<Deliver>,
    pub(crate) notices: tokio::sync::mpsc::Receiver<Notice>,
    pub(crate) metrics: Metrics,
}

impl Relay {
    pub(crate) fn start(destinations: Vec<Destination>) -> Self {
        Self::on(Arc::new(MemoryStore::default()), destinations)
    }

    pub(crate) fn on(store: Arc<MemoryStore>, destinations: Vec<Destination>) -> Self {
        Self::at(store, destinations, "2026-01-20T12:00:00Z".parse().unwrap())
    }

    pub(crate) fn at(store: Arc<MemoryStore>, destinations: Vec<Destination>, now: Timestamp) -> Self {
        let clock = Clock::manual(&now.to_string());
        let metrics = Metrics::default();
        let (announcer, notices) = Announcer::new();
        let ways_out = ways_out(destinations, &clock, &announcer);
        let profile = tokio::sync::watch::Sender::default().subscribe();
        let parts = Parts { store: store.clone(), clock: clock.clone(), metrics: metrics.clone(), announcer, profile };
        let deliver = Deliver::start(parts, ways_out);
        Self { clock, store, deliver: deliver.unwrap(), notices, metrics }
    }

    /// Goes by a file of these destinations.
    pub(crate) fn switch(&self, destinations: Vec<Destination>) {
        let prepared = self.deliver.prepare(ways_out(destinations, &self.clock, &Announcer::new().0)).unwrap();
        self.deliver.switch(prepared);
    }

    /// Commits a sample event on its way to `targets`.
    pub(crate) fn accept(&self, targets: &[&str]) {
        self.store.commit(sample(), targets, None, self.clock.now());
    }

    pub(crate) async fn settled(&self, what: &str, done: impl Fn(&MemoryStore) -> bool) {
        eventually(what, || done(&self.store)).await;
    }
}

fn ways_out(destinations: Vec<Destination>, clock: &Clock, announcer: &Announcer) -> WaysOut {
    let Context { templates, allow_targets, .. } = context();
    let contacts = Contacts::start(contacts::Settings::default(), &allow_targets, clock, announcer.clone(), None).unwrap();
    WaysOut { destinations, templates, contacts, allow_targets, site: Site::default() }
}

/// Whether a store finds fault with an attempt.
type Fault = fn(&Attempt) -> bool;

/// A store in memory, as far as delivery asks.
#[derive(Default)]
pub(crate) struct MemoryStore {
    rows: Mutex<BTreeMap<DeliveryId, Due>>,
    pub(crate) attempts: Mutex<Vec<Attempt>>,
    listener: Mutex<Option<Arc<dyn OnCommit>>>,
    /// Refuses writes while set.
    pub(crate) full: AtomicBool,
    /// Finds fault with such attempts, and writes nothing of what comes with one.
    pub(crate) fault: Mutex<Option<Fault>>,
    /// Finds fault with whatever is written, and says so when it is asked.
    pub(crate) unwell: AtomicBool,
    /// How often it was asked.
    pub(crate) asked: AtomicUsize,
    /// Answers no write while set.
    pub(crate) mute: AtomicBool,
    /// Answers no question for due deliveries while set.
    pub(crate) silent: AtomicBool,
    pub(crate) most_read: AtomicUsize,
    /// Reads of due deliveries.
    pub(crate) reads: AtomicUsize,
    pub(crate) kept: Mutex<BTreeMap<String, String>>,
    /// Records of lanes, by target.
    pub(crate) lanes: Mutex<BTreeMap<String, Record>>,
    /// Writes of [`Self::kept`] and [`Self::lanes`].
    pub(crate) keeps: AtomicUsize,
    pub(crate) threads: Mutex<BTreeMap<[u8; 16], String>>,
    /// How long a lease lasts that is given now; `None`: as long as is asked for.
    pub(crate) lease: Mutex<Option<Duration>>,
    pub(crate) released: AtomicBool,
}

impl MemoryStore {
    pub(crate) fn commit(&self, envelope: Envelope, targets: &[&str], template: Option<&str>, now: Timestamp) {
        let planned =
            |target: &&str| NewDelivery { template: template.map(str::to_owned), ..NewDelivery::to(Name::from(*target)) };
        self.commit_planned(envelope, targets.iter().map(planned).collect(), now);
    }

    /// Commits an event on its way as `planned`; its place in commit order.
    pub(crate) fn commit_planned(&self, envelope: Envelope, planned: Vec<NewDelivery>, now: Timestamp) -> i64 {
        let envelope = Arc::new(envelope);
        let mut rows = self.rows.lock().unwrap();
        let uid = EventUid { salt: 7, seq: rows.keys().last().map_or(1, |id| id.event.seq + 1) };
        let delivery = |(n, planned)| Delivery::new(DeliveryId { event: uid, n }, planned, now);
        let deliveries: Vec<_> = (1..).zip(planned).map(delivery).collect();
        rows.extend(deliveries.iter().map(|it| (it.id, Due { delivery: it.clone(), envelope: envelope.clone() })));
        drop(rows);
        if let Some(listener) = &*self.listener.lock().unwrap() {
            listener.committed(vec![Committed { uid, envelope, deliveries, cancelled: Vec::new() }]);
        }
        uid.seq
    }

    /// Tells what another process would be heard to say: there is something new for these targets.
    pub(crate) fn hear_of(&self, targets: &[Name]) {
        if let Some(listener) = &*self.listener.lock().unwrap() {
            listener.elsewhere(Some(targets));
        }
    }

    /// The delivery of the event committed as number `seq`.
    pub(crate) fn delivery(&self, seq: i64) -> Delivery {
        self.rows.lock().unwrap()[&DeliveryId { event: EventUid { salt: 7, seq }, n: 1 }].delivery.clone()
    }

    /// As a person's retry leaves it.
    pub(crate) fn retry_by_hand(&self, seq: i64, now: Timestamp) {
        let mut rows = self.rows.lock().unwrap();
        let row = &mut rows.get_mut(&DeliveryId { event: EventUid { salt: 7, seq }, n: 1 }).unwrap().delivery;
        row.out_of_order = row.order_key.take().is_some();
        (row.state, row.due_at, row.first_attempt_at, row.uncounted) = (State::Pending, Some(now), None, row.attempts);
    }

    pub(crate) fn states(&self, state: State) -> usize {
        self.rows.lock().unwrap().values().filter(|row| row.delivery.state == state).count()
    }

    /// One line per attempt: `1 retry http_503`.
    pub(crate) fn log(&self) -> String {
        let line = |attempt: &Attempt| {
            let next = match attempt.next {
                Next::Delivered => "delivered".to_owned(),
                Next::Retry(_) => "retry".to_owned(),
                Next::Awaits(_) => "awaits".to_owned(),
                Next::Dead(cause) => format!("dead ({})", cause.word()),
            };
            let what = attempt.error.clone().or(attempt.status.map(|status| status.to_string())).unwrap_or_default();
            format!("{} {next} {what}", attempt.number)
        };
        self.attempts.lock().unwrap().iter().map(line).collect::<Vec<_>>().join(", ")
    }

    fn settle(row: &mut Delivery, attempt: &Attempt) {
        row.attempts = attempt.number;
        if !attempt.counts {
            row.uncounted += 1;
        } else if row.first_attempt_at.is_none() {
            (row.first_attempt_at, row.stood_still_ms) = (Some(attempt.started_at), attempt.stood_still_ms);
        }
        row.error.clone_from(&attempt.error);
        let anew = attempt.rendered.as_ref().is_some_and(|made| made.progress.is_some());
        row.body = if anew { attempt.rendered.clone() } else { row.body.take().or(attempt.rendered.clone()) };
        (row.state, row.due_at, row.cause) = match attempt.next {
            Next::Delivered => (State::Delivered, None, None),
            Next::Retry(at) | Next::Awaits(at) => (State::Pending, Some(at), None),
            Next::Dead(cause) => (State::Dead, None, Some(cause)),
        };
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn on_commit(&self, listener: Arc<dyn OnCommit>) {
        *self.listener.lock().unwrap() = Some(listener);
    }

    async fn record(&self, attempts: Vec<Attempt>) -> store::Result<()> {
        while self.mute.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if self.full.load(Ordering::SeqCst) {
            return Err(store::Error::Full("no space".into()));
        }
        if self.fault.lock().unwrap().is_some_and(|is_at_fault| attempts.iter().any(is_at_fault)) {
            return Err(store::Error::Backend("no equivalent in encoding LATIN1".into()));
        }
        let mut rows = self.rows.lock().unwrap();
        for attempt in attempts {
            let row = &mut rows.get_mut(&attempt.delivery).unwrap().delivery;
            assert_eq!(row.state, State::Pending, "an attempt at a delivery that is final");
            assert_eq!(row.attempts + 1, attempt.number, "two attempts of one delivery at once");
            Self::settle(row, &attempt);
            self.attempts.lock().unwrap().push(attempt);
        }
        Ok(())
    }

    async fn due(&self, target: &Name, now: Timestamp, limit: u32, except: Vec<DeliveryId>) -> store::Result<Vec<Due>> {
        while self.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let rows = self.rows.lock().unwrap();
        self.reads.fetch_add(1, Ordering::SeqCst);
        let waiting = rows.values().filter(|row| row.delivery.target == *target && row.delivery.state == State::Pending);
        let mut keys = std::collections::HashSet::new();
        let heads = waiting.filter(|row| row.delivery.order_key.is_none_or(|key| keys.insert(key)));
        let mut due: Vec<_> = heads
            .filter(|row| row.delivery.due_at.is_some_and(|at| at <= now))
            .filter(|row| except.binary_search(&row.delivery.id).is_err())
            .cloned()
            .collect();
        due.sort_by_key(|row| (row.delivery.severity != store::Severity::Critical, row.delivery.due_at, row.delivery.id));
        due.truncate(usize::try_from(limit).unwrap());
        self.most_read.fetch_max(due.len() + except.len(), Ordering::SeqCst);
        Ok(due)
    }

    async fn next_due(&self, target: &Name, except: Vec<DeliveryId>) -> store::Result<Option<Timestamp>> {
        let rows = self.rows.lock().unwrap();
        let waiting = rows.values().filter(|row| row.delivery.target == *target && row.delivery.state == State::Pending);
        let mut keys = std::collections::HashSet::new();
        let heads = waiting.filter(|row| row.delivery.order_key.is_none_or(|key| keys.insert(key)));
        let free = heads.filter(|row| except.binary_search(&row.delivery.id).is_err());
        Ok(free.filter_map(|row| row.delivery.due_at).min())
    }

    async fn oldest_due(&self, target: &Name, now: Timestamp, except: Vec<DeliveryId>) -> store::Result<Option<Due>> {
        let due = self.due(target, now, u32::MAX, except).await?;
        Ok(due.into_iter().min_by_key(|row| (row.delivery.created_at, row.delivery.id)))
    }

    async fn give_up(&self, target: &Name, when: GaveUp, except: Vec<DeliveryId>) -> store::Result<GivenUp> {
        let mut given_up = GivenUp::default();
        for row in self.rows.lock().unwrap().values_mut() {
            let it = &mut row.delivery;
            let tried = it.first_attempt_at.filter(|_| it.target == *target && it.state == State::Pending);
            let Some(first) = tried.filter(|_| except.binary_search(&it.id).is_err()) else { continue };
            let still = u64::try_from(when.still_ms - it.stood_still_ms).unwrap();
            let at = later(later(first, when.after), Duration::from_millis(still));
            if when.now < at {
                given_up.next = Some(given_up.next.map_or(at, |next: Timestamp| next.min(at)));
                continue;
            }
            (it.state, it.cause, it.due_at) = (State::Dead, Some(store::Cause::Receiver), None);
            let event = &row.envelope;
            given_up.dead.push(DeliveryRow {
                delivery: it.clone(),
                event_id: event.id.clone(),
                source: event.source.to_string(),
                r#type: event.r#type.clone(),
            });
        }
        Ok(given_up)
    }

    async fn decide(&self, _: &Name, asks: Vec<Ask>, _: i64, _: Timestamp) -> store::Result<Vec<Decision>> {
        Ok(vec![Decision::Go(0); asks.len()])
    }
    async fn foresee(&self, _: &Name, _: store::Handling, _: Timestamp) -> store::Result<store::Foreseen> {
        Ok(store::Foreseen::default())
    }

    async fn carried(&self, _: DeliveryId, _: u32) -> store::Result<Vec<(DeliveryId, Arc<Envelope>)>> {
        Ok(Vec::new())
    }
    async fn expire(&self, _: &Name, _: Timestamp, _: &str, _: Vec<DeliveryId>, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Ok(Vec::new())
    }
    async fn hand_over(&self, _: &Name, _: &Name, _: Timestamp) -> store::Result<store::HandedOver> {
        Ok(store::HandedOver::default())
    }

    async fn bound_held(
        &self,
        _: &Name,
        _: store::HeldBound,
        _: Vec<DeliveryId>,
        _: Timestamp,
    ) -> store::Result<Vec<DeliveryId>> {
        Ok(Vec::new())
    }

    async fn rouse(&self, _: &Name, _: Timestamp) -> store::Result<()> {
        Ok(())
    }
    async fn accept(&self, _: NewEvent) -> store::Result<Accepted> {
        Err(store::Error::Closed)
    }
    async fn backlog(&self, _: Option<&Name>) -> store::Result<Vec<Backlog>> {
        Err(store::Error::Closed)
    }
    async fn events(&self, _: Filter) -> store::Result<Vec<EventRow>> {
        Err(store::Error::Closed)
    }
    async fn walk(&self, _: crate::store::Walk) -> store::Result<crate::store::Walked> {
        Err(store::Error::Closed)
    }
    async fn event(&self, _: EventUid) -> store::Result<Option<EventRow>> {
        Err(store::Error::Closed)
    }
    async fn deliveries(&self, _: Filter) -> store::Result<Vec<DeliveryRow>> {
        Err(store::Error::Closed)
    }
    async fn attempts(&self, _: EventUid) -> store::Result<Vec<Attempt>> {
        Err(store::Error::Closed)
    }
    async fn reject(&self, _: Vec<NewRejection>, _: u32, _: u64) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn rejections(&self, _: Filter) -> store::Result<Vec<Rejection>> {
        Err(store::Error::Closed)
    }
    async fn quarantined(&self, _: Filter, _: i64) -> store::Result<Vec<Rejection>> {
        Err(store::Error::Closed)
    }
    async fn reseal_rejections(&self, _: Vec<(i64, Vec<u8>)>) -> store::Result<u64> {
        Ok(0)
    }

    async fn settle_rejection(&self, _: i64, _: Timestamp, _: Retried) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn prune(&self, _: Timestamp, _: Retention, _: Vec<(Name, Timestamp)>) -> store::Result<Pruned> {
        Err(store::Error::Closed)
    }
    async fn setting(&self, key: &str) -> store::Result<Option<String>> {
        Ok(self.kept.lock().unwrap().get(key).cloned())
    }
    async fn set_setting(&self, key: &str, value: String) -> store::Result<()> {
        self.keeps.fetch_add(1, Ordering::SeqCst);
        self.kept.lock().unwrap().insert(key.to_owned(), value);
        Ok(())
    }
    async fn split(&self, _: store::Read, _: Vec<String>, _: store::Rendered, _: Timestamp) -> store::Result<Option<String>> {
        Err(store::Error::Closed)
    }
    async fn reported(&self, _: Attempt) -> store::Result<bool> {
        Err(store::Error::Closed)
    }
    async fn unreported(&self, _: Timestamp) -> store::Result<store::Unreported> {
        Err(store::Error::Closed)
    }
    async fn thread(&self, key: [u8; 16]) -> store::Result<Option<String>> {
        Ok(self.threads.lock().unwrap().get(&key).cloned())
    }
    async fn set_thread(&self, key: [u8; 16], root: Option<String>) -> store::Result<()> {
        let mut threads = self.threads.lock().unwrap();
        match root {
            Some(root) => _ = threads.insert(key, root),
            None => _ = threads.remove(&key),
        }
        Ok(())
    }
    async fn own_shards(&self, _: OwnerId, now: Timestamp, lease: Duration) -> store::Result<Vec<Owned>> {
        let lease = self.lease.lock().unwrap().unwrap_or(lease);
        if lease.is_zero() {
            return Err(store::Error::Full("no space".into()));
        }
        Ok((0..store::SHARDS).map(|shard| Owned { shard, epoch: 3, until: later(now, lease) }).collect())
    }
    async fn release_shards(&self, _: OwnerId) -> store::Result<()> {
        self.released.store(true, Ordering::SeqCst);
        Ok(())
    }
    async fn adopt(&self, old: &Name, new: &Name) -> store::Result<u64> {
        let mut rows = self.rows.lock().unwrap();
        let slice: Vec<_> = rows.values_mut().filter(|row| row.delivery.target == *old).take(100).collect();
        let count = slice.len();
        slice.into_iter().for_each(|row| row.delivery.target = new.clone());
        Ok(u64::try_from(count).unwrap())
    }
    async fn retry(&self, _: Vec<DeliveryId>, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Err(store::Error::Closed)
    }
    async fn cancel(&self, _: Vec<DeliveryId>, _: &str, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Err(store::Error::Closed)
    }
    async fn erase(&self, _: Vec<EventUid>, _: Timestamp) -> store::Result<store::Erased> {
        Err(store::Error::Closed)
    }
    async fn resolve(&self, _: DeliveryId, _: Resolution) -> store::Result<bool> {
        Err(store::Error::Closed)
    }
    async fn replay(&self, _: EventUid, _: Vec<NewDelivery>, _: &str, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Err(store::Error::Closed)
    }
    async fn count_deliveries(&self, _: Filter) -> store::Result<u64> {
        Err(store::Error::Closed)
    }
    async fn count_events(&self, _: Filter) -> store::Result<u64> {
        Err(store::Error::Closed)
    }
    async fn settings(&self, prefix: &str) -> store::Result<Vec<(String, String)>> {
        let kept = self.kept.lock().unwrap();
        Ok(kept.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
    async fn remove_setting(&self, _: &str) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn change(&self, change: Change) -> store::Result<Changed> {
        let mut lanes = self.lanes.lock().unwrap();
        let revision = lanes.values().map(|record| record.revision).max().unwrap_or(0) + 1;
        let fits = |write: &Write| {
            let Write::Put { kind: RecordKind::Lane, id, expected, .. } = write else { return false };
            lanes.get(id).map(|record| record.revision) == *expected
        };
        if !change.writes.iter().all(fits) {
            return Ok(Changed::Conflict);
        }
        self.keeps.fetch_add(1, Ordering::SeqCst);
        for write in change.writes {
            let Write::Put { kind, id, owner, doc, sealed, .. } = write else { continue };
            lanes.insert(id.clone(), Record { kind, id, owner, revision, doc: Some(doc), sealed });
        }
        Ok(Changed::Done { revision })
    }
    async fn records(&self, kind: RecordKind, after: i64) -> store::Result<Vec<Record>> {
        let lanes = self.lanes.lock().unwrap();
        Ok(lanes.values().filter(|record| record.kind == kind && after < record.revision).cloned().collect())
    }
    async fn audit(&self, _: crate::store::AuditFilter) -> store::Result<Vec<crate::store::AuditRow>> {
        Err(store::Error::Closed)
    }
    fn newest(&self) -> tokio::sync::watch::Receiver<i64> {
        tokio::sync::watch::channel(0).1
    }
    async fn ready(&self) -> store::Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.unwell.load(Ordering::SeqCst) { Err(store::Error::Backend("torn pages".into())) } else { Ok(()) }
    }
    async fn close(&self) {}
}

/// What a TLS server works with whose certificate `testing/ca.pem` has signed.
pub(crate) fn tls_config() -> rustls::ServerConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_slice(include_bytes!("testing/leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testing/leaf-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()
}

/// A TLS server that answers everything with 200. Its port.
pub(crate) fn tls_server() -> u16 {
    let config = Arc::new(tls_config());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let _ = answer_tls(socket, config.clone());
        }
    });
    port
}

fn answer_tls(socket: std::net::TcpStream, config: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, socket);
    let _ = stream.read(&mut [0; 4096])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    stream.flush()
}
