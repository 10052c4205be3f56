//! `/api/v1/events`: what was taken in, and the whole story of one event.

use std::{pin::pin, time::Duration};

use axum::{
    extract::{Extension, Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    Api,
    deliveries::{self, DeliveryStory},
    ending::Ending,
    error::ApiError,
    follow::{self, Cursor, Following, Types},
    list::{self, Listed, One, Params},
    openapi::{params::params, words},
    places::Taken,
};
use crate::{
    access::Caller,
    clock::{Timestamp, rfc3339_ms},
    config::decode,
    envelope::{Envelope, EventUid},
    explain::SubscriptionsItem,
    json,
    listen::Peer,
    route::{OWN_SOURCE, Why},
    store::{EventRow, Filter, Page, State as Stored, Walk, Walked},
};

const PARAMS: [&str; 10] = ["source", "type", "target", "state", "since", "until", "limit", "after", "wait", "envelope"];
params!(Asked = PARAMS, "after" => Kind::EventCursor, "type" => Kind::Globs);
/// Longest `wait`.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Bytes of bodies after which a page with envelopes ends.
const PAGE_BYTES: usize = 1024 * 1024;
/// How often the store is asked for one page at most, before one with nothing in it is answered: it looks at so many events each time.
const ROUNDS_MAX: usize = 20;
/// How long after a page in which nothing was wanted the next one is looked for at the earliest.
const PACE: Duration = Duration::from_millis(10);
/// Requests of one token that may wait.
pub(super) const WAITING_EACH_MAX: usize = 100;
/// Requests that may wait.
pub(super) const WAITING_ALL_MAX: usize = 1000;

/// What is asked of the list.
struct Question {
    filter: Filter,
    types: Types,
    /// Where the walk in commit order begins; `None` for the newest first.
    from: Option<Cursor>,
    wait: Option<Duration>,
    envelope: bool,
}

impl Question {
    fn read(query: Option<&str>, caller: &Caller) -> Result<Self, ApiError> {
        let mut params = Params::repeating(query, &PARAMS, &["type"])?;
        let wait = params.take_as("wait", "a time of at most 60s, such as 30s", wait)?;
        let after = params.get("after").map(str::to_owned);
        let types = Types::take(&mut params, "type")?;
        let state = params.take_as("state", "the state of a delivery", Stored::parse)?;
        let envelope = params.take_as("envelope", "true or false", list::flag)?;
        let filter = follow::within(Filter { state, ..list::filter(&mut params, place_of)? }, caller);
        let from = match (filter.page, wait) {
            (Page::After(_), _) => after.as_deref().and_then(Cursor::parse),
            (Page::Newest, Some(_)) => Some(Cursor::at(0)),
            (Page::Before(_), Some(_)) => return Err(list::invalid("wait", "goes with a cursor of commit order only")),
            (Page::Newest | Page::Before(_), None) => None,
        };
        Ok(Self { filter, types, from, wait, envelope: envelope.unwrap_or(wait.is_some()) })
    }
}

/// A length of time as in `routes.yaml`, or in seconds.
fn wait(text: &str) -> Option<Duration> {
    let length = decode::duration(text).or_else(|| text.parse().ok().map(Duration::from_secs));
    length.filter(|length| *length <= WAIT_MAX)
}

/// A page of events. The newest first; in commit order with `after`, and with `wait` also, which answers once something has come or the
/// time is up: going on from `next`, which is never null then, misses nothing and repeats nothing.
#[utoipa::path(get, path = "/api/v1/events", params(Asked), responses((status = 200, body = Listed<EventItem>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    peer: Option<Extension<Peer>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let asked = Question::read(query.as_deref(), &caller)?;
    match asked.from {
        Some(from) => in_commit_order(&api, &caller, peer.map(|Extension(peer)| peer), asked, from).await,
        None => newest_first(&api, asked).await,
    }
}

async fn newest_first(api: &Api, asked: Question) -> Result<Response, ApiError> {
    let Question { filter, types, envelope, .. } = asked;
    let limit = filter.limit as usize;
    let one_more = list::one_more(&filter);
    let (mut filter, types) = types.narrow(filter);
    let mut walked = Walked { events: Vec::new(), upto: EventUid { salt: 0, seq: 0 }, more: true };
    for _ in 0..ROUNDS_MAX {
        let walk = Walk {
            filter: Filter { limit: one_more, ..filter.clone() },
            types: types.clone(),
            bodies: envelope,
            bytes: PAGE_BYTES,
        };
        walked = api.store.walk(walk).await?;
        if !walked.events.is_empty() || !walked.more {
            break;
        }
        filter.page = Page::Before(walked.upto.seq);
    }
    let Walked { mut events, mut upto, mut more } = walked;
    if limit < events.len() {
        events.truncate(limit);
        more = true;
        upto = events.last().map_or(upto, |event| event.uid);
    }
    let next = more.then(|| format!("b{}", upto.seq));
    Ok(list::listed(events.iter().map(|row| EventItem::with(row, envelope)).collect(), next))
}

async fn in_commit_order(
    api: &Api,
    caller: &Caller,
    peer: Option<Peer>,
    asked: Question,
    from: Cursor,
) -> Result<Response, ApiError> {
    let Question { filter, types, wait, envelope, .. } = asked;
    let mut following = Following::new(api.store.clone(), from, filter, types, envelope, PAGE_BYTES).await?;
    let mut leaf = following.look().await?;
    let mut rounds = 1;
    while leaf.events.is_empty() && following.is_behind() && rounds < ROUNDS_MAX {
        leaf = following.look().await?;
        rounds += 1;
    }
    if let Some(wait) = wait.filter(|wait| leaf.events.is_empty() && !wait.is_zero()) {
        let _place = api.lasting.waiting.take(&caller.id).map_err(|taken| crowded(taken, api.clock.now()))?;
        let token = Ending::of(api, caller, None);
        let (mut over, mut ended) = (pin!(over(api, peer, wait)), pin!(token.ended()));
        while leaf.events.is_empty() {
            tokio::select! {
                biased;
                () = &mut ended => return Err(ApiError::Unauthorized),
                () = &mut over => break,
                next = following.next() => leaf = next?,
            }
            // What is committed meanwhile is looked at together.
            tokio::time::sleep(PACE).await;
        }
    }
    let next = Some(follow::shown(leaf.upto));
    Ok(list::listed(leaf.events.iter().map(|row| EventItem::with(row, envelope)).collect(), next))
}

/// Waits until whoever waits need not wait longer: the time is up, the relay stops, or nobody is there any more.
async fn over(api: &Api, peer: Option<Peer>, wait: Duration) {
    let left = async {
        match &peer {
            Some(peer) => peer.left().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = api.stop.cancelled() => {}
        () = left => {}
        () = api.clock.sleep(wait) => {}
    }
}

/// How long somebody who may not wait is asked to stay away, in seconds.
const AGAIN_S: u32 = 5;

fn crowded(taken: Taken, now: Timestamp) -> ApiError {
    match taken {
        Taken::ByToken => ApiError::Crowded {
            message: format!("{WAITING_EACH_MAX} requests of this token wait for events, which is all that may"),
            limit: u32::try_from(WAITING_EACH_MAX).unwrap_or(u32::MAX),
            reset_at: now.as_second() + i64::from(AGAIN_S),
            retry_after: AGAIN_S,
        },
        Taken::ByAll => ApiError::Busy("as many requests wait for events as the relay holds"),
    }
}

/// The whole story of one event. Its verdict, its envelope, the rules that matched, why each of today's rules would or would not, and
/// each delivery with its attempts. A caller that is bound to namespaces is told of neither rules nor subscriptions.
#[utoipa::path(get, path = "/api/v1/events/{uid}", responses((status = 200, body = One<EventStory>)))]
pub(super) async fn one(
    State(api): State<Api>,
    caller: Caller,
    uid: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let missing = ApiError::NotFound("event");
    let Some(uid) = uid.ok().and_then(|Path(uid)| uid.parse().ok()) else { return Err(missing) };
    let Some(row) = api.store.event(uid).await?.filter(|row| sees(&caller, &row.envelope)) else { return Err(missing) };
    let mut deliveries = deliveries::of_event(&api, &caller, uid, &row.envelope).await?;
    deliveries.sort_unstable_by_key(DeliveryStory::number);
    let whole = !caller.is_bound();
    Ok(list::one(&EventStory {
        event: EventItem::new(&row),
        rules: whole.then_some(&row.rules),
        why: whole.then(|| api.running.explain(&row.envelope).into_iter().map(WhyItem::from).collect()),
        subscriptions: whole.then(|| api.running.takers(&row.envelope).into()),
        envelope: raw(&row.envelope),
        deliveries,
    }))
}

/// `filter`, of what `caller` sees. What the relay tells of itself is for nobody who is bound to namespaces, whatever it is about.
pub(super) fn visible(caller: &Caller, filter: Filter) -> Filter {
    let Some(own) = &caller.namespaces else { return filter };
    let (namespaces, except_source) = (Some(own.iter().cloned().collect()), Some(OWN_SOURCE.to_owned()));
    Filter { namespaces, except_source, ..filter }
}

/// Whether `caller` sees this event, and what became of it.
pub(super) fn sees(caller: &Caller, event: &Envelope) -> bool {
    caller.sees(event.namespace.as_deref()) && !(caller.is_bound() && event.source.as_str() == OWN_SOURCE)
}

fn place_of(id: &str) -> Option<i64> {
    follow::uid(id).map(|uid| uid.seq)
}

/// An event as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
struct EventItem {
    /// The relay's own id, for URLs.
    uid: String,
    /// The sender's id, or the hash of what came.
    id: String,
    source: String,
    r#type: String,
    /// The sender's instant.
    #[schema(format = DateTime)]
    time: String,
    namespace: Option<String>,
    subject: Option<String>,
    received_at: String,
    #[schema(value_type = words::Verdict)]
    verdict: &'static str,
    duplicates: u32,
    duplicate_mismatch: u32,
    last_duplicate_at: Option<String>,
    /// Where it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<words::Envelope>, nullable = false)]
    envelope: Option<Box<RawValue>>,
}

/// All that is known of one event.
#[derive(Serialize, ToSchema)]
struct EventStory<'r> {
    #[serde(flatten)]
    event: EventItem,
    /// The rules that matched when it came, and the subscriptions that took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<&'r Vec<String>>,
    /// What today's rules make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Vec<WhyItem>>,
    /// What today's subscriptions make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<SubscriptionsItem>,
    #[schema(value_type = words::Envelope)]
    envelope: Box<RawValue>,
    deliveries: Vec<DeliveryStory>,
}

/// Whether a rule fires for the event, and if not, why not.
#[derive(Serialize, ToSchema)]
#[schema(as = Why)]
struct WhyItem {
    rule: String,
    matched: bool,
    reason: Option<String>,
}

impl From<Why> for WhyItem {
    fn from(why: Why) -> Self {
        Self { rule: why.rule.to_string(), matched: why.matched, reason: why.reason }
    }
}

impl EventItem {
    fn new(row: &EventRow) -> Self {
        let envelope = &row.envelope;
        Self {
            uid: row.uid.to_string(),
            id: envelope.id.clone(),
            source: envelope.source.to_string(),
            r#type: envelope.r#type.clone(),
            time: envelope.time.clone(),
            namespace: envelope.namespace.clone(),
            subject: envelope.subject.clone(),
            received_at: rfc3339_ms(envelope.received_at),
            // What the relay tells of itself need not be told to anybody.
            verdict: if row.rules.is_empty() && envelope.source.as_str() != OWN_SOURCE { "unmatched" } else { "accepted" },
            duplicates: row.duplicates,
            duplicate_mismatch: row.mismatches,
            last_duplicate_at: row.last_duplicate_at.map(rfc3339_ms),
            envelope: None,
        }
    }

    fn with(row: &EventRow, envelope: bool) -> Self {
        Self { envelope: envelope.then(|| raw(&row.envelope)), ..Self::new(row) }
    }
}

/// The envelope as targets receive it, the sender's bytes of `data` included.
pub(super) fn raw(envelope: &Envelope) -> Box<RawValue> {
    let bytes = envelope.to_json();
    let exact = std::str::from_utf8(&bytes).ok().and_then(|text| RawValue::from_string(text.to_owned()).ok());
    exact.or_else(|| serde_json::value::to_raw_value(&json::lenient(&bytes)).ok()).unwrap_or_else(|| RawValue::NULL.to_owned())
}

/// Deliveries of one event at most shown in its story.
pub(super) const STORY_MAX: u32 = 1000;

/// The filter for everything that belongs to one event.
pub(super) fn all_of(event: EventUid) -> Filter {
    Filter { event: Some(event), page: Page::Newest, limit: STORY_MAX, ..Filter::default() }
}
