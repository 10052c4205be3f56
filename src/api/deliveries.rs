//! `/api/v1/deliveries`: what is on its way to whom, and how each try went.
//!
//! Two states are never written to the store: `sending` is what the lanes have in hand, `held` what waits for a lane that is
//! paused or broken, for a target that is gone from `routes.yaml`, or for the end of quiet hours. Filters on them are turned into what the store can answer.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api,
    error::ApiError,
    events,
    list::{self, Listed, One, Params},
    openapi::{params::params, words},
};
use crate::{
    access::Caller,
    clock::rfc3339_ms,
    deliver::TargetState,
    envelope::{DeliveryId, Envelope, EventUid, Name},
    store::{self, Attempt, Cause, Delivery, DeliveryRow, Filter, Next, Page, Resolution, Stage, State as Stored, Targets},
};

const PARAMS: [&str; 11] =
    ["source", "type", "target", "state", "cause", "event", "replayed", "since", "until", "limit", "after"];
params!(Asked = PARAMS, "after" => Kind::DeliveryCursor, "state" => Kind::Words(words::states));

/// A page of deliveries.
#[utoipa::path(get, path = "/api/v1/deliveries", params(Asked), responses((status = 200, body = Listed<DeliveryItem>)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::repeating(query.as_deref(), &PARAMS, &["type"])?;
    let state = params.take_as("state", "a state of deliveries", Stored::parse)?;
    let event = params.take_as("event", "an event's uid", |text| text.parse().ok())?;
    let cause = params.take_as("cause", "a cause", Cause::parse)?;
    let replayed = params.take_as("replayed", "true or false", list::flag)?;
    let filter = Filter { event, cause, replayed, ..list::filter(&mut params, place_of)? };
    if replayed == Some(true) && state == Some(Stored::Sending) {
        return Err(list::invalid("replayed", "does not go with `state=sending`: what is in hand is listed by event"));
    }
    page(&api, &caller, filter, state).await
}

/// One delivery with its attempts.
#[utoipa::path(get, path = "/api/v1/deliveries/{id}", responses((status = 200, body = One<DeliveryStory>)))]
pub(super) async fn one(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    Ok(Known::read(&api, &caller, id_of(id)?).await?.shown(&api))
}

/// Tries a dead letter again: same delivery, same body, as if for the first time.
#[utoipa::path(
    post,
    path = "/api/v1/deliveries/{id}/retry",
    responses((status = 200, body = One<DeliveryStory>), (status = 409, description = "it is no dead letter, or a resolved one")),
)]
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let id = id_of(id)?;
    let mut known = Known::read(&api, &caller, id).await?;
    let refused = |state: &str| ApiError::Conflict(format!("this delivery is {state}: only dead letters are retried"));
    let delivery = &mut known.row.delivery;
    match delivery.state {
        Stored::Dead if delivery.resolved.is_some() => return Err(refused("resolved")),
        Stored::Dead => {}
        _ => return Err(refused(View::new(&api, &caller).state(delivery).0.word())),
    }
    let now = api.engine.now();
    if api.store.retry(vec![id], now).await?.is_empty() {
        return Err(refused("dead no more"));
    }
    api.engine.wake(std::slice::from_ref(&delivery.target));
    tracing::info!(delivery.id = %id, by = %caller.id, "a dead letter is retried");
    let (before, after) = (told(delivery), json!({"state": Stored::Pending.word()}));
    api.note(&caller, "delivery.retried", &id.to_string(), before, after).await;
    (delivery.state, delivery.cause, delivery.due_at) = (Stored::Pending, None, Some(now));
    delivery.out_of_order |= delivery.order_key.is_some();
    Ok(known.shown(&api))
}

/// Cancels a delivery that is not final. An attempt under way is not called back.
#[utoipa::path(
    post,
    path = "/api/v1/deliveries/{id}/cancel",
    responses((status = 200, body = One<DeliveryStory>), (status = 409, description = "it is final already")),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let id = id_of(id)?;
    let mut known = Known::read(&api, &caller, id).await?;
    known.is_alone()?;
    let delivery = &mut known.row.delivery;
    let reason = format!("cancelled by {}", caller.name);
    if api.store.cancel(vec![id], &reason, api.engine.now()).await?.is_empty() {
        let state = delivery.state.word();
        return Err(ApiError::Conflict(format!("this delivery is {state}: there is nothing left to cancel")));
    }
    api.engine.forget(&[id]);
    // It may have been the head of its order key.
    api.engine.wake(std::slice::from_ref(&delivery.target));
    tracing::info!(delivery.id = %id, by = %caller.id, "a delivery is cancelled");
    let (before, after) = (told(delivery), json!({"state": Stored::Cancelled.word()}));
    api.note(&caller, "delivery.cancelled", &id.to_string(), before, after).await;
    (delivery.state, delivery.cause, delivery.due_at) = (Stored::Cancelled, None, None);
    delivery.reason = Some(reason);
    Ok(known.shown(&api))
}

/// What the audit says of a delivery that somebody acts upon.
pub(super) fn told(delivery: &Delivery) -> Value {
    json!({"state": delivery.state.word(), "cause": delivery.cause.map(Cause::word), "target": delivery.target.as_str()})
}

/// The delivery a path names.
pub(super) fn id_of(id: Result<Path<String>, PathRejection>) -> Result<DeliveryId, ApiError> {
    id.ok().and_then(|Path(id)| id.parse().ok()).ok_or(MISSING)
}

/// All that is known of one delivery. Read before anything is done to it: what is settled may be pruned in the same moment.
pub(super) struct Known {
    /// The delivery.
    pub(super) row: DeliveryRow,
    caller: Caller,
    event: Envelope,
    attempts: Vec<Attempt>,
    carried: Vec<DeliveryRow>,
}

impl Known {
    /// Asks the store, for what `caller` sees.
    pub(super) async fn read(api: &Api, caller: &Caller, id: DeliveryId) -> Result<Self, ApiError> {
        // The page that begins with it: an event can have more deliveries than one page holds.
        let page = Page::After(id.place().saturating_sub(1));
        let rows = api.store.deliveries(Filter { event: Some(id.event), page, limit: 1, ..Filter::default() }).await?;
        let row = rows.into_iter().find(|row| row.delivery.id == id).ok_or(MISSING)?;
        let event = api.store.event(id.event).await?.map(|row| row.envelope);
        let event = event.filter(|event| events::sees(caller, event)).ok_or(MISSING)?;
        let carried = carried(api, &row.delivery).await?;
        // Those of the others of its event may be very many.
        let attempts = api.store.attempts_of(vec![id]).await?;
        Ok(Self { row, caller: caller.clone(), event, attempts, carried })
    }

    /// Refuses what would settle others' events too: a digest carries those of any namespace.
    pub(super) fn is_alone(&self) -> Result<(), ApiError> {
        if self.caller.is_bound() && self.row.delivery.stage == Stage::Carrying {
            return Err(ApiError::Conflict("this delivery carries events of others as well".to_owned()));
        }
        Ok(())
    }

    /// The delivery with its log.
    pub(super) fn shown(&self, api: &Api) -> Response {
        list::one(&DeliveryStory::new(&View::new(api, &self.caller), &self.row, &self.event, &self.attempts, &self.carried))
    }
}

const MISSING: ApiError = ApiError::NotFound("delivery");

/// The page of deliveries that `filter` asks for among those that `caller` sees, in `state` where one is given.
pub(super) async fn page(api: &Api, caller: &Caller, filter: Filter, state: Option<Stored>) -> Result<Response, ApiError> {
    let filter = events::visible(caller, filter);
    let (page, limit) = (filter.page, filter.limit);
    let view = View::new(api, caller);
    let rows = match state {
        Some(Stored::Sending) => view.sending(api, filter).await?,
        _ => view.written(api, filter, state).await?,
    };
    Ok(list::answer(rows, page, limit, |row| row.delivery.id.place(), |row| view.item(row)))
}

/// The deliveries of `event`, which `caller` sees, with their attempts.
pub(super) async fn of_event(
    api: &Api,
    caller: &Caller,
    event: EventUid,
    envelope: &Envelope,
) -> store::Result<Vec<DeliveryStory>> {
    let view = View::new(api, caller);
    let rows = api.store.deliveries(events::all_of(event)).await?;
    let attempts = api.store.attempts_of(rows.iter().map(|row| row.delivery.id).collect()).await?;
    let mut stories = Vec::with_capacity(rows.len());
    for row in &rows {
        stories.push(DeliveryStory::new(&view, row, envelope, &attempts, &carried(api, &row.delivery).await?));
    }
    Ok(stories)
}

/// The place of a delivery's id, or behind all deliveries of an event's.
pub(super) fn place_of(id: &str) -> Option<i64> {
    let behind = |event| DeliveryId { event, n: store::N_MAX }.place();
    id.parse().map(DeliveryId::place).ok().or_else(|| id.parse().ok().map(behind))
}

/// How rows look at this moment: which are in hand, and how their lanes stand.
pub(super) struct View<'a> {
    api: &'a Api,
    caller: &'a Caller,
    in_flight: HashSet<DeliveryId>,
    lanes: HashMap<Name, TargetState>,
}

impl<'a> View<'a> {
    pub(super) fn new(api: &'a Api, caller: &'a Caller) -> Self {
        // How a lane stands that only others know is theirs to say: what waits there is not held for all that is known here.
        let elsewhere = api.engine.elsewhere().into_iter().map(|name| (name, TargetState::Ok));
        let here = api.engine.targets().into_iter().map(|target| (target.name, target.state));
        let lanes = elsewhere.chain(here).collect();
        Self { api, caller, in_flight: api.running.in_flight().into_iter().collect(), lanes }
    }

    /// Whether all is shown of a delivery to `target`. To a caller that is bound to namespaces a destination is everybody's: it learns
    /// whether its event got there, and nothing of rules, recipients, headers, answers and other events; unless it is a
    /// subscription of its own.
    fn whole(&self, target: &Name) -> bool {
        !self.caller.is_bound() || self.api.subscriptions.get(self.caller, target.as_str()).is_ok()
    }

    /// The state to show, and why.
    pub(super) fn state(&self, delivery: &Delivery) -> (Stored, Option<&'static str>) {
        match delivery.state {
            Stored::Pending if delivery.awaits_report || self.in_flight.contains(&delivery.id) => (Stored::Sending, None),
            Stored::Pending => match self.lanes.get(&delivery.target) {
                Some(TargetState::Ok) if delivery.cause == Some(Cause::Quiet) => (Stored::Held, Some(Cause::Quiet.word())),
                Some(TargetState::Ok) => (Stored::Pending, None),
                Some(lane) => (Stored::Held, Some(lane.word())),
                None => (Stored::Held, Some(Cause::Config.word())),
            },
            state => (state, delivery.cause.map(Cause::word)),
        }
    }

    /// When it is tried next, as far as that is a matter of time: what is held for somebody has none.
    pub(super) fn next_attempt_at(&self, delivery: &Delivery) -> Option<String> {
        let (state, cause) = self.state(delivery);
        let by_time = state == Stored::Pending || (state == Stored::Held && cause == Some(Cause::Quiet.word()));
        delivery.due_at.filter(|_| by_time).map(rfc3339_ms)
    }

    /// The targets whose deliveries are not held.
    fn flowing(&self) -> Vec<Name> {
        self.lanes.iter().filter(|(_, lane)| **lane == TargetState::Ok).map(|(name, _)| name.clone()).collect()
    }

    /// Rows in a state that the store can look for. What is in hand is left out of `pending` and `held`, so that many more are
    /// asked for.
    async fn written(&self, api: &Api, filter: Filter, state: Option<Stored>) -> store::Result<Vec<DeliveryRow>> {
        let (written, targets) = match state {
            Some(Stored::Pending) => (Some(Stored::Pending), Some(Targets::Flowing(self.flowing()))),
            Some(Stored::Held) => (Some(Stored::Pending), Some(Targets::Held(self.flowing()))),
            other => (other, None),
        };
        let in_hand = u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX);
        let limit = list::one_more(&filter).saturating_add(if state.is_some() { in_hand } else { 0 });
        let mut rows = api.store.deliveries(Filter { state: written, targets, limit, ..filter }).await?;
        rows.retain(|row| state.is_none_or(|state| self.state(&row.delivery).0 == state));
        Ok(rows)
    }

    /// Rows that are in hand, a bounded number, looked up event by event; and those whose target has yet to report.
    async fn sending(&self, api: &Api, filter: Filter) -> store::Result<Vec<DeliveryRow>> {
        let events: HashSet<_> = self.in_flight.iter().map(|id| id.event).collect();
        let mut rows = Vec::new();
        for event in events.into_iter().filter(|event| filter.event.is_none_or(|only| only == *event)) {
            let found = Filter { event: Some(event), page: Page::Newest, limit: events::STORY_MAX, ..filter.clone() };
            rows.extend(api.store.deliveries(found).await?);
        }
        rows.retain(|row| self.state(&row.delivery).0 == Stored::Sending && within(filter.page, row.delivery.id.place()));
        rows.retain(|row| !row.delivery.awaits_report);
        let limit = list::one_more(&filter);
        rows.extend(api.store.deliveries(Filter { state: Some(Stored::Sending), limit, ..filter.clone() }).await?);
        match filter.page {
            Page::After(..) => rows.sort_unstable_by_key(|row| row.delivery.id.place()),
            Page::Newest | Page::Before(..) => rows.sort_unstable_by_key(|row| Reverse(row.delivery.id.place())),
        }
        Ok(rows)
    }

    fn item(&self, row: &DeliveryRow) -> DeliveryItem {
        let delivery = &row.delivery;
        let (state, cause) = self.state(delivery);
        let whole = self.whole(&delivery.target);
        DeliveryItem {
            id: delivery.id.to_string(),
            event: delivery.id.event.to_string(),
            event_id: row.event_id.clone(),
            source: row.source.clone(),
            r#type: row.r#type.clone(),
            target: delivery.target.to_string(),
            rule: delivery.rule.as_ref().filter(|_| whole).map(ToString::to_string),
            state: state.word(),
            cause,
            error: delivery.error.clone(),
            attempts: delivery.attempts,
            next_attempt_at: self.next_attempt_at(delivery),
            reason: delivery.reason.clone().filter(|_| whole),
            carrier: delivery.carrier.as_ref().filter(|_| whole).map(ToString::to_string),
            created_at: rfc3339_ms(delivery.created_at),
            severity: delivery.severity.word(),
            replayed: delivery.replayed,
            out_of_order: delivery.out_of_order,
            recipient: delivery.recipient.clone().filter(|_| whole),
            unconfirmed: delivery.unconfirmed,
            resolved: delivery.resolved.as_ref().map(ResolutionItem::new),
        }
    }
}

fn within(page: Page, place: i64) -> bool {
    match page {
        Page::Newest => true,
        Page::Before(end) => place < end,
        Page::After(start) => start < place,
    }
}

/// A delivery as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryItem {
    /// The same on every attempt: the `Idempotency-Key` that the target gets.
    id: String,
    /// The event's `uid`,
    event: String,
    /// and its sender's id.
    event_id: String,
    source: String,
    r#type: String,
    target: String,
    rule: Option<String>,
    #[schema(value_type = words::DeliveryState)]
    state: &'static str,
    #[schema(value_type = Option<words::DeliveryCause>)]
    cause: Option<&'static str>,
    /// Of its last attempt: `timeout`, `http_503`, `address_forbidden`, ….
    error: Option<String>,
    /// How many there were.
    attempts: u32,
    next_attempt_at: Option<String>,
    /// Why it was suppressed, cancelled or expired.
    reason: Option<String>,
    /// The delivery inside which its event goes or went out.
    carrier: Option<String>,
    created_at: String,
    #[schema(value_type = words::DeliverySeverity)]
    severity: &'static str,
    /// Made by a replay.
    replayed: bool,
    /// Retried by a person out of the order of its key.
    out_of_order: bool,
    /// Whom it is for, where it was one for several.
    recipient: Option<String>,
    /// Delivered for want of a report.
    unconfirmed: bool,
    resolved: Option<ResolutionItem>,
}

/// What a person settled a dead letter with.
#[derive(Serialize, ToSchema)]
#[schema(as = Resolution)]
struct ResolutionItem {
    #[schema(format = DateTime)]
    at: String,
    note: String,
}

impl ResolutionItem {
    fn new(resolution: &Resolution) -> Self {
        Self { at: rfc3339_ms(resolution.at), note: resolution.note.clone() }
    }
}

/// A delivery with its log: one entry per attempt.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryStory {
    #[serde(skip)]
    id: DeliveryId,
    #[serde(flatten)]
    delivery: DeliveryItem,
    log: Vec<AttemptItem>,
    /// The events that went out inside it, its own left out; at most 1000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    carries: Vec<CarriedItem>,
}

/// An event that went out inside a delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = Carried)]
struct CarriedItem {
    /// Its own delivery.
    id: String,
    event: String,
    event_id: String,
    source: String,
    r#type: String,
}

/// What went out inside `delivery`, where it carries anything.
async fn carried(api: &Api, delivery: &Delivery) -> store::Result<Vec<DeliveryRow>> {
    if delivery.stage != Stage::Carrying {
        return Ok(Vec::new());
    }
    let carried = Filter { carrier: Some(delivery.id), page: Page::After(0), limit: events::STORY_MAX, ..Filter::default() };
    api.store.deliveries(carried).await
}

impl DeliveryStory {
    fn new(view: &View<'_>, row: &DeliveryRow, event: &Envelope, attempts: &[Attempt], carried: &[DeliveryRow]) -> Self {
        let id = row.delivery.id;
        let of_it = attempts.iter().filter(|attempt| attempt.delivery == id);
        let headers = |attempt| view.api.engine.request_headers(event, &row.delivery, attempt).into_iter().collect();
        let whole = view.whole(&row.delivery.target);
        let shown = |attempt| if whole { AttemptItem::new(attempt, headers(attempt)) } else { AttemptItem::bare(attempt) };
        let log = of_it.map(shown).collect();
        let carries = carried.iter().filter(|_| whole).map(CarriedItem::new).collect();
        Self { id, delivery: view.item(row), log, carries }
    }

    /// Which of its event's deliveries it is.
    pub(super) fn number(&self) -> u32 {
        self.id.n
    }
}

impl CarriedItem {
    fn new(row: &DeliveryRow) -> Self {
        let id = row.delivery.id;
        Self {
            id: id.to_string(),
            event: id.event.to_string(),
            event_id: row.event_id.clone(),
            source: row.source.clone(),
            r#type: row.r#type.clone(),
        }
    }
}

/// One try of a delivery.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
struct AttemptItem {
    /// From 1; a retried dead letter counts on.
    number: u32,
    started_at: String,
    latency_ms: u64,
    #[schema(value_type = words::AttemptOutcome)]
    outcome: &'static str,
    /// Of the HTTP answer.
    status: Option<u16>,
    /// Whose fault, when it made a dead letter.
    #[schema(value_type = Option<words::DeliveryCause>)]
    cause: Option<&'static str>,
    error: Option<String>,
    detail: Option<String>,
    /// False for a failure of the whole target, which burns nothing of the delivery's policy.
    counts: bool,
    /// As far as they can be known afterwards; secrets are `***`.
    request_headers: BTreeMap<String, String>,
    /// The beginning of what was answered.
    response: String,
    next_attempt_at: Option<String>,
}

impl AttemptItem {
    fn new(attempt: &Attempt, request_headers: BTreeMap<String, String>) -> Self {
        let (outcome, next, cause) = match attempt.next {
            Next::Delivered => ("delivered", None, None),
            Next::Retry(at) => ("retry", Some(at), None),
            Next::Awaits(_) => ("awaiting", None, None),
            Next::Dead(cause) => ("dead", None, Some(cause)),
        };
        Self {
            number: attempt.number,
            started_at: rfc3339_ms(attempt.started_at),
            latency_ms: u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX),
            outcome,
            status: attempt.status,
            cause: cause.map(Cause::word),
            error: attempt.error.clone(),
            detail: attempt.detail.clone(),
            counts: attempt.counts,
            request_headers,
            response: String::from_utf8_lossy(&attempt.response).into_owned(),
            next_attempt_at: next.map(rfc3339_ms),
        }
    }

    /// The same without what is the destination's own business.
    fn bare(attempt: &Attempt) -> Self {
        Self { detail: None, response: String::new(), ..Self::new(attempt, BTreeMap::new()) }
    }
}
