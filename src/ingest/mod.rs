//! From a request to an accepted event: limit, verify, normalise, plan, accept. Knows nothing of how things are sent.
//!
//! [`Ingest::router`] takes requests in. `intake` reads the body, `kinds` proves the sender and finds the facts, `dedupe` says what the event
//! is known again by, and the store keeps it: only then is the answer 200. What is not accepted goes to the `quarantine`, from which
//! [`Ingest::retry_rejections`] takes it in later.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, header, request::Parts as Head},
    response::Response,
};
use jiff::SignedDuration;
use tokio::time::Instant;
use tracing::warn;

use self::{
    answer::{Code, Limited, Rejection},
    inbound::{Inbound, Place},
    intake::{Read, Room},
    keeping::Keeping,
    kinds::Facts,
    quarantine::{Quarantine, Refused},
    request::Raw,
};
use crate::{
    announce::{Announcer, Notice},
    clock::{Clock, Timestamp, rfc3339_ms},
    envelope::{Envelope, Name},
    live::Live,
    route::{Plan, Router},
    seal::Sealer,
    store::{self, Accepted, Filter, NewEvent, Remember, Store},
    subscriptions::EventTypes,
    telemetry::Metrics,
};

mod answer;
mod body;
mod dedupe;
mod doctor;
mod handshake;
mod inbound;
mod intake;
mod keeping;
pub(crate) mod kinds;
pub(crate) mod limits;
mod mapping;
pub mod poll;
pub mod propose;
mod quarantine;
mod rehearsing;
mod request;
mod retry;
mod sealed;
mod source;
mod statistics;
mod time;
mod told;

pub use poll::{PollStatus, Pollers};
pub(crate) use rehearsing::rehearse;
pub use retry::RetryReport;
pub(crate) use sealed::seal_anew;
pub use source::{Source, kind_word};
pub use statistics::SourceStatistics;

/// What ingest works with, whatever the file says.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// Keeps events.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Seals the quarantine.
    pub sealer: Sealer,
    /// Which types of events are known: those that come are.
    pub types: Arc<EventTypes>,
    /// Where the relay tells of itself.
    pub announcer: Announcer,
}

/// What the file says of requests.
#[derive(Debug)]
pub struct WaysIn {
    /// The ways in.
    pub sources: Vec<Source>,
    /// Plans deliveries.
    pub router: Arc<Router>,
    /// Largest request body in bytes.
    pub max_body: usize,
    /// How long events are kept (`store.retention.events`): ids are remembered at least as long.
    pub retention_events: Duration,
}

/// The public side of one relay.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Ingest {
    /// What requests go by. Each takes it once, when its header has come, and goes by it to the end: what it is verified, mapped and
    /// planned with is of one file.
    inbound: Live<Inbound>,
    quarantine: Quarantine,
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Metrics,
    sealer: Sealer,
    types: Arc<EventTypes>,
    announcer: Announcer,
    room: Room,
    /// What is kept of the counts; one at a time writes it.
    keeping: tokio::sync::Mutex<Keeping>,
}

/// Longest time the store is waited for: senders are promised an answer within 5 s of their last byte.
const STORE_TIMEOUT: Duration = Duration::from_millis(4_500);

/// Why a request did not become an event.
enum Failure {
    /// It is not what it should be.
    Rejected(Rejection),
    /// Too many came.
    Limited(Limited),
    /// Too many large bodies are under way for one more.
    NoRoom,
    /// It cannot be kept now.
    Store(store::Error),
}

impl<R: Into<Rejection>> From<R> for Failure {
    fn from(rejection: R) -> Self {
        Self::Rejected(rejection.into())
    }
}

impl Ingest {
    /// Takes requests for the sources of `ways_in`. Must be called on a runtime, on which rejections are written from then on.
    pub fn new(parts: Parts, ways_in: WaysIn) -> Self {
        let Parts { store, clock, metrics, sealer, types, announcer } = parts;
        Self {
            inbound: Live::new(Arc::new(Inbound::new(ways_in, None, &clock, &sealer))),
            quarantine: Quarantine::start(sealer.clone(), store.clone(), &clock),
            store,
            clock,
            metrics,
            sealer,
            types,
            announcer,
            room: Room::new(),
            keeping: tokio::sync::Mutex::default(),
        }
    }

    /// Goes by `ways_in` from the next request on. Limits that have not changed go on as they are, and so do counts.
    pub fn switch(&self, ways_in: WaysIn) {
        let inbound = Inbound::new(ways_in, Some(&self.inbound.now()), &self.clock, &self.sealer);
        self.inbound.replace(Arc::new(inbound));
    }

    /// Answers every path of the public listener that nothing else answers.
    pub fn router(self: Arc<Self>) -> axum::Router {
        axum::Router::new().fallback(handle).with_state(self)
    }

    /// Verifies quarantined requests again with today's configuration and takes in what passes. `clock_offset` is added to
    /// their time of arrival, to which their timestamps are held. All that `filter` selects is tried, page by page, in order of
    /// arrival; its `page` and `limit` do not matter.
    pub async fn retry_rejections(&self, filter: Filter, clock_offset: SignedDuration) -> Result<RetryReport, store::Error> {
        retry::retry(self, filter, clock_offset).await
    }

    /// What came in by each source, in the order of the file.
    pub fn statistics(&self) -> Vec<SourceStatistics> {
        let inbound = self.inbound.now();
        inbound.statistics.read(&inbound.sources)
    }

    /// Goes on counting where former runs, and other replicas, stopped; before the first request.
    pub async fn restore_statistics(&self) -> store::Result<()> {
        self.keeping.lock().await.restore(&*self.store, &self.inbound.now(), self.clock.now()).await
    }

    /// Keeps the statistics for the next run and for other replicas, if there is anything new, and learns what these have counted. `owns`:
    /// which sources this relay tells of.
    pub async fn keep_statistics(&self, owns: &(dyn Fn(&Name) -> bool + Send + Sync)) -> store::Result<()> {
        let mut keeping = self.keeping.lock().await;
        let inbound = self.inbound.now();
        let is_dirty = inbound.statistics.changed();
        let kept = keeping.exchange(&*self.store, &inbound, is_dirty, owns, self.clock.now()).await;
        kept.inspect_err(|_| {
            if is_dirty {
                inbound.statistics.not_kept();
            }
        })
    }

    /// What there is to tell now about the sources that this relay tells of; each thing comes once.
    pub fn notices(&self, owns: &(dyn Fn(&Name) -> bool + Send + Sync)) -> Vec<Notice> {
        let inbound = self.inbound.now();
        inbound.statistics.notices(&inbound.sources, owns, self.clock.now())
    }

    /// Waits until all rejections so far are written: before the store is closed.
    pub async fn flush(&self) {
        self.quarantine.flush().await;
    }

    async fn answer(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let inbound = self.inbound.now();
        let place = inbound.place(head.uri.path());
        if let Place::Source(position) = place
            && head.method != Method::POST
        {
            // Its body changes nothing: the sender need not have sent it to be told.
            intake::dismiss(body, inbound.max_body);
            let asked = inbound.sources.get(position);
            if let Some(consent) = asked.and_then(|source| handshake::consent(source, &head.method, &head.headers)) {
                return consent;
            }
            let (request, _) = self.raw(head, Read::Whole(bytes::Bytes::new()));
            return self.conclude(&inbound, place, request, None).await;
        }
        // What the body takes of the room is given back when the answer is known.
        let (read, _held) = intake::read(&head, body, inbound.max_body, &self.room).await;
        let began = Instant::now();
        let closes = intake::closes(&head);
        let (request, fault) = self.raw(head, read);
        let response = self.conclude(&inbound, place, request, fault).await;
        if let Place::Source(position) = place
            && let Some(source) = inbound.sources.get(position)
        {
            self.metrics.processed(&source.name, began.elapsed());
        }
        if closes && fault.is_some() { closing(response) } else { response }
    }

    /// The request with its body, and what went wrong in reading that, with the body's size as far as is known.
    fn raw(&self, head: Head, read: Read) -> (Raw, Option<(Code, u64)>) {
        let (body, fault) = match read {
            Read::Whole(body) => (body, None),
            Read::TooLarge(bytes) => (bytes::Bytes::new(), Some((Code::PayloadTooLarge, bytes))),
            Read::NoRoom => (bytes::Bytes::new(), Some((Code::Unavailable, 0))),
            Read::Slow => (bytes::Bytes::new(), Some((Code::RequestTimeout, 0))),
            Read::Broken => (bytes::Bytes::new(), Some((Code::InvalidJson, 0))),
        };
        let (path, peer) = (head.uri.path().to_owned(), intake::peer(&head));
        let request = Raw { method: head.method, path, headers: head.headers, body, arrived_at: self.clock.now(), peer };
        (request, fault)
    }

    async fn conclude(&self, inbound: &Arc<Inbound>, place: Place, request: Raw, fault: Option<(Code, u64)>) -> Response {
        let bytes = fault.map_or(request.body.len() as u64, |(_, bytes)| bytes);
        let (source, result) = match place {
            Place::Nowhere => (None, Err(Code::NotFound.into())),
            Place::WrongSecret(position) => (Some(position), Err(Code::NotFound.into())),
            Place::Source(position) if request.method != Method::POST => (Some(position), Err(Code::MethodNotAllowed.into())),
            Place::Source(position) => match fault {
                Some((code, _)) => (Some(position), Err(broken(code))),
                None => (Some(position), self.take(inbound, position, &request).await),
            },
        };
        match result {
            Ok(accepted) => received(&accepted),
            Err(failure) => self.refuse(inbound, source, request, bytes, failure),
        }
    }

    /// Verifies, limits, normalises, plans and accepts `request` for the source at `position`.
    async fn take(&self, inbound: &Inbound, position: usize, request: &Raw) -> Result<Accepted, Failure> {
        let source = inbound.sources.get(position).ok_or(Code::NotFound)?;
        let verified = source.kind.verify(request, request.arrived_at)?;
        inbound.statistics.used(position, verified.secret(), request.arrived_at);
        if let Some(Some(rate)) = inbound.rates.get(position) {
            rate.take(&()).map_err(Failure::Limited)?;
        }
        let facts = source.kind.normalise(verified)?;
        let accepting = self.accept(inbound, source, facts, request, request.arrived_at);
        // What commits after all is a duplicate when the sender tries again.
        let in_time = tokio::time::timeout(STORE_TIMEOUT, accepting).await;
        let accepted =
            in_time.unwrap_or_else(|_| Err(store::Error::Backend("it took too long".into()))).map_err(Failure::Store)?;
        inbound.statistics.accepted(position, &accepted, request.arrived_at);
        Ok(accepted)
    }

    /// Plans and keeps the event that `facts` tell of. When the sender hangs up meanwhile, this is dropped; the store still commits
    /// and hands over what it took, and the sender's next try is a duplicate.
    async fn accept(
        &self,
        inbound: &Inbound,
        source: &Source,
        facts: Facts,
        request: &Raw,
        now: Timestamp,
    ) -> store::Result<Accepted> {
        self.keep(self.event(inbound, source, facts, request, now)).await
    }

    /// Plans and keeps an item that was fetched for `source`, which may be of a file that is gone meanwhile: the rules are those of
    /// `inbound`. `setting` is kept in the same commit.
    async fn pull(
        &self,
        inbound: &Inbound,
        source: &Source,
        facts: Facts,
        item: &poll::Pulled,
        setting: Option<(String, String)>,
    ) -> store::Result<Accepted> {
        let now = self.clock.now();
        let event = self.event(inbound, source, facts, item.raw(), now);
        let accepted = self.keep(NewEvent { setting, ..event }).await?;
        if let Some(position) = inbound.position(&source.name) {
            inbound.statistics.accepted(position, &accepted, now);
        }
        Ok(accepted)
    }

    /// The event that `facts` tell of, with its deliveries planned.
    fn event(&self, inbound: &Inbound, source: &Source, facts: Facts, request: &Raw, now: Timestamp) -> NewEvent {
        let mut dedupe = dedupe::key(&source.name, &facts.id, facts.replayed, &request.body, inbound.remember_ids, source.window);
        if source.poll().is_some() {
            // The same bytes are the same item, asked for again, however long after.
            dedupe.remember = Remember::Id(inbound.remember_ids);
        }
        let envelope = envelope(source, facts, request, now);
        self.types.saw(&envelope.r#type, envelope.namespace.as_deref());
        let Plan { deliveries, rules, endings, left_out } = inbound.router.plan(&envelope);
        if 0 < left_out {
            warn!(
                event.id = envelope.id,
                subscriptions = left_out,
                "more subscriptions take an event than may: the others do not get it"
            );
            self.announcer.tell(Notice::LeftOut { source: source.name.clone(), count: left_out as u64 });
        }
        NewEvent { envelope, dedupe, deliveries, rules, endings, setting: None }
    }

    async fn keep(&self, event: NewEvent) -> store::Result<Accepted> {
        let (source, r#type) = (event.envelope.source.clone(), event.envelope.r#type.clone());
        let accepted = self.store.accept(event).await?;
        self.metrics.received(Some(&source), Some(&r#type), word(&accepted));
        Ok(accepted)
    }

    fn refuse(&self, inbound: &Arc<Inbound>, source: Option<usize>, request: Raw, bytes: u64, failure: Failure) -> Response {
        let now = request.arrived_at;
        let (rejection, limited) = match failure {
            Failure::Limited(limited) => (Code::RateLimited.into(), Some(limited)),
            Failure::NoRoom => (Rejection::because(Code::Unavailable, "too many large bodies are under way"), None),
            Failure::Store(error) => {
                warn!("an event is not taken in: {error}");
                (Rejection::because(Code::Unavailable, error.to_string()), None)
            }
            Failure::Rejected(rejection) => match inbound.count_failure(source, &request) {
                Ok(()) => (rejection, None),
                Err(limited) => (Code::RateLimited.into(), Some(limited)),
            },
        };
        let code = rejection.code;
        if let Some(position) = source {
            inbound.statistics.refused(position, code, now);
        }
        self.metrics.received(quarantine::source_name(&inbound.sources, source), None, code.word());
        self.quarantine.note(Refused { request, code, reason: rejection.reason, inbound: inbound.clone(), source, bytes });
        limited.map_or_else(|| answer::error(code), |limited| answer::rate_limited(limited, now))
    }
}

async fn handle(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    ingest.answer(request).await
}

fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn broken(code: Code) -> Failure {
    let reason = match code {
        Code::PayloadTooLarge => "the body is larger than `server.max_body`",
        Code::RequestTimeout => "the body did not arrive within 30 s",
        Code::Unavailable => return Failure::NoRoom,
        _ => "the body broke off",
    };
    Failure::Rejected(Rejection::because(code, reason))
}

fn received(accepted: &Accepted) -> Response {
    match accepted {
        Accepted::New { id, .. } => answer::received(id, false),
        Accepted::Duplicate { id, .. } => answer::received(id, true),
    }
}

/// The status under which what was accepted is counted.
fn word(accepted: &Accepted) -> &'static str {
    match accepted {
        Accepted::New { .. } => "success",
        Accepted::Duplicate { mismatch: false, .. } => "duplicate",
        Accepted::Duplicate { mismatch: true, .. } => "duplicate_mismatch",
    }
}

/// Longest media type that is kept, in bytes.
const CONTENT_TYPE_MAX: usize = 256;

/// The envelope of what `facts` tell, taken in at `now`: later than it arrived, where it was retried.
fn envelope(source: &Source, facts: Facts, request: &Raw, now: Timestamp) -> Envelope {
    let (time, timestamp) = match facts.time {
        Some((at, text)) => (at.to_string(), text),
        None => (rfc3339_ms(request.arrived_at), rfc3339_ms(request.arrived_at)),
    };
    Envelope {
        id: dedupe::event_id(&facts.id, &request.body),
        source: source.name.clone(),
        kind: source.kind(),
        r#type: facts.r#type,
        subject: facts.subject,
        namespace: facts.namespace,
        time,
        timestamp,
        received_at: now,
        traceparent: traceparent(request),
        replayed: facts.replayed,
        body: request.body.clone(),
        content_type: request.content_type().filter(|text| text.len() <= CONTENT_TYPE_MAX).map(str::to_owned),
        data: facts.data,
    }
}

/// The sender's trace context, or one begun here.
fn traceparent(request: &Raw) -> Option<String> {
    static TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");
    let sent = request.one(&TRACEPARENT).filter(|text| is_traceparent(text));
    sent.map(str::to_owned).or_else(|| Some(new_traceparent()))
}

/// W3C Trace Context, level 1: version, trace id, parent id and flags in lowercase hex, neither id all zeros.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == length && part.bytes().all(lower))
    };
    let (version, trace, parent, flags) = (hex(2), hex(32), hex(16), hex(2));
    let some = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|byte| byte != b'0'));
    version == Some("00") && some(trace) && some(parent) && flags.is_some() && parts.next().is_none()
}

/// A trace begun here. Its parts are random, but need not be secret.
fn new_traceparent() -> String {
    format!("00-{:032x}-{:016x}-00", fastrand::u128(1..), fastrand::u64(1..))
}

#[cfg(test)]
mod tests;
