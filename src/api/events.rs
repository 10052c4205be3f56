//! `/api/v1/events`: what was taken in, and the whole story of one event.

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    Api,
    deliveries::{self, DeliveryStory},
    error::ApiError,
    list::{self, Listed, One, Params},
    openapi::{params::params, words},
};
use crate::{
    access::Caller,
    clock::rfc3339_ms,
    envelope::{Envelope, EventUid},
    explain::SubscriptionsItem,
    json,
    route::{OWN_SOURCE, Why},
    store::{EventRow, Filter, Page, State as Stored},
};

const PARAMS: [&str; 8] = ["source", "type", "target", "state", "since", "until", "limit", "after"];
params!(Asked = PARAMS, "after" => Kind::EventCursor);

/// A page of events.
#[utoipa::path(get, path = "/api/v1/events", params(Asked), responses((status = 200, body = Listed<EventItem>)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &PARAMS)?;
    let state = params.take_as("state", "the state of a delivery", Stored::parse)?;
    let filter = visible(&caller, without_own(Filter { state, ..list::filter(&mut params, place_of)? }));
    let (page, limit) = (filter.page, filter.limit);
    let rows = api.store.events(Filter { limit: list::one_more(&filter), ..filter }).await?;
    Ok(list::answer(rows, page, limit, |row| row.uid.seq, EventItem::new))
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

/// The relay's own events are left out unless they are asked for by source.
fn without_own(filter: Filter) -> Filter {
    let except_source = filter.source.is_none().then(|| OWN_SOURCE.to_owned());
    Filter { except_source, ..filter }
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
    id.parse().ok().map(|uid: EventUid| uid.seq)
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
            verdict: if row.rules.is_empty() { "unmatched" } else { "accepted" },
            duplicates: row.duplicates,
            duplicate_mismatch: row.mismatches,
            last_duplicate_at: row.last_duplicate_at.map(rfc3339_ms),
        }
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
