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

use super::{Defaults, Deliver, Destination, Parts};
use crate::{
    clock::{Clock, Timestamp},
    config::{
        AllowTarget, Problem, Severity,
        decode::{Context, Decode},
        tree::{Key, Node, Place, Value},
    },
    envelope::{DeliveryId, Envelope, EventUid, Name, tests::sample},
    store::{
        self, Accepted, Attempt, Backlog, Committed, Delivery, DeliveryRow, Due, EventRow, Filter, NewEvent, NewRejection, Next,
        OnCommit, Pruned, Rejection, Retention, Retried, State, Store,
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
            ("line".to_owned(), "{{ event.type }}!".to_owned()),
            ("broken".to_owned(), "{{ event.data.a.b.c }}".to_owned()),
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
        self.open.fetch_sub(1, Ordering::SeqCst);
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

    /// The most requests that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
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
}

impl Relay {
    pub(crate) fn start(destinations: Vec<Destination>) -> Self {
        Self::on(Arc::new(MemoryStore::default()), destinations)
    }

    pub(crate) fn on(store: Arc<MemoryStore>, destinations: Vec<Destination>) -> Self {
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let cx = context();
        let deliver = Deliver::start(Parts {
            destinations,
            templates: cx.templates,
            allow_targets: cx.allow_targets,
            store: store.clone(),
            clock: clock.clone(),
            metrics: Metrics::default(),
        });
        Self { clock, store, deliver: deliver.unwrap() }
    }

    /// Commits a sample event on its way to `targets`.
    pub(crate) fn accept(&self, targets: &[&str]) {
        self.store.commit(sample(), targets, None, self.clock.now());
    }

    pub(crate) async fn settled(&self, what: &str, done: impl Fn(&MemoryStore) -> bool) {
        eventually(what, || done(&self.store)).await;
    }
}

/// A store in memory, as far as delivery asks.
#[derive(Default)]
pub(crate) struct MemoryStore {
    rows: Mutex<BTreeMap<DeliveryId, Due>>,
    pub(crate) attempts: Mutex<Vec<Attempt>>,
    listener: Mutex<Option<Arc<dyn OnCommit>>>,
    /// Refuses writes while set.
    pub(crate) full: AtomicBool,
    /// Panics at the next write.
    pub(crate) panic_once: AtomicBool,
    pub(crate) most_read: AtomicUsize,
}

impl MemoryStore {
    pub(crate) fn commit(&self, envelope: Envelope, targets: &[&str], template: Option<&str>, now: Timestamp) {
        let envelope = Arc::new(envelope);
        let mut rows = self.rows.lock().unwrap();
        let uid = EventUid { salt: 7, seq: rows.keys().last().map_or(1, |id| id.event.seq + 1) };
        let delivery = |(n, target): (usize, &&str)| Delivery {
            id: DeliveryId { event: uid, n: u32::try_from(n).unwrap() + 1 },
            target: Name::from(*target),
            state: State::Pending,
            cause: None,
            rule: None,
            template: template.map(str::to_owned),
            created_at: now,
            due_at: Some(now),
            first_attempt_at: None,
            attempts: 0,
            error: None,
            body: None,
        };
        let deliveries: Vec<_> = targets.iter().enumerate().map(delivery).collect();
        rows.extend(deliveries.iter().map(|it| (it.id, Due { delivery: it.clone(), envelope: envelope.clone() })));
        drop(rows);
        if let Some(listener) = &*self.listener.lock().unwrap() {
            listener.committed(vec![Committed { uid, envelope, deliveries }]);
        }
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
                Next::Dead(cause) => format!("dead ({})", cause.word()),
            };
            let what = attempt.error.clone().or(attempt.status.map(|status| status.to_string())).unwrap_or_default();
            format!("{} {next} {what}", attempt.number)
        };
        self.attempts.lock().unwrap().iter().map(line).collect::<Vec<_>>().join(", ")
    }

    fn settle(row: &mut Delivery, attempt: &Attempt) {
        row.attempts = attempt.number;
        row.first_attempt_at.get_or_insert(attempt.started_at);
        row.error.clone_from(&attempt.error);
        row.body = row.body.take().or(attempt.rendered.clone());
        (row.state, row.due_at, row.cause) = match attempt.next {
            Next::Delivered => (State::Delivered, None, None),
            Next::Retry(at) => (State::Pending, Some(at), None),
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
        assert!(!self.panic_once.swap(false, Ordering::SeqCst), "a bug of ours");
        if self.full.load(Ordering::SeqCst) {
            return Err(store::Error::Full("no space".into()));
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
        let rows = self.rows.lock().unwrap();
        let mut due: Vec<_> = rows
            .values()
            .filter(|row| row.delivery.target == *target && row.delivery.due_at.is_some_and(|at| at <= now))
            .filter(|row| except.binary_search(&row.delivery.id).is_err())
            .cloned()
            .collect();
        due.sort_by_key(|row| (row.delivery.due_at, row.delivery.id));
        due.truncate(usize::try_from(limit).unwrap());
        self.most_read.fetch_max(due.len() + except.len(), Ordering::SeqCst);
        Ok(due)
    }

    async fn next_due(&self, target: &Name, except: Vec<DeliveryId>) -> store::Result<Option<Timestamp>> {
        let rows = self.rows.lock().unwrap();
        let waiting =
            rows.values().filter(|row| row.delivery.target == *target && except.binary_search(&row.delivery.id).is_err());
        Ok(waiting.filter_map(|row| row.delivery.due_at).min())
    }

    async fn accept(&self, _: NewEvent) -> store::Result<Accepted> {
        Err(store::Error::Closed)
    }
    async fn backlog(&self) -> store::Result<Vec<Backlog>> {
        Err(store::Error::Closed)
    }
    async fn events(&self, _: Filter) -> store::Result<Vec<EventRow>> {
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
    async fn settle_rejection(&self, _: i64, _: Timestamp, _: Retried) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn prune(&self, _: Timestamp, _: Retention, _: Vec<Name>) -> store::Result<Pruned> {
        Err(store::Error::Closed)
    }
    async fn setting(&self, _: &str) -> store::Result<Option<String>> {
        Err(store::Error::Closed)
    }
    async fn set_setting(&self, _: &str, _: String) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn ready(&self) -> store::Result<()> {
        Ok(())
    }
    async fn close(&self) {}
}

/// A TLS server whose certificate `testing/ca.pem` has signed; it answers everything with 200. Its port.
pub(crate) fn tls_server() -> u16 {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_slice(include_bytes!("testing/leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testing/leaf-key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
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
