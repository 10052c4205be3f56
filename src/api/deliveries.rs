//! `/api/v1/deliveries`: what is on its way to whom, and how each try went.
//!
//! Two states are never written to the store: `sending` is what the lanes have in hand, `held` what waits for a target that is
//! gone from `routes.yaml`. Filters on them are turned into what the store can answer.

use std::{cmp::Reverse, collections::HashSet};

use axum::{
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;

use super::{
    Api,
    error::ApiError,
    events,
    list::{self, Params},
};
use crate::{
    clock::rfc3339_ms,
    envelope::{DeliveryId, EventUid},
    store::{self, Attempt, Cause, Delivery, DeliveryRow, Filter, Next, Page, State as Stored, Targets},
};

const PARAMS: [&str; 9] = ["source", "type", "target", "state", "event", "since", "until", "limit", "after"];

/// A page of deliveries.
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &PARAMS)?;
    let state = params.take_as("state", "a state of deliveries", Stored::parse)?;
    let event = params.take_as("event", "an event's uid", |text| text.parse().ok())?;
    let filter = Filter { event, ..list::filter(&mut params, place_of)? };
    page(&api, filter, state).await
}

/// One delivery with its attempts.
pub(super) async fn one(State(api): State<Api>, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let missing = ApiError::NotFound("delivery");
    let Some(id) = id.ok().and_then(|Path(id)| id.parse::<DeliveryId>().ok()) else { return Err(missing) };
    let stories = of_event(&api, id.event).await?;
    let story = stories.into_iter().find(|story| story.id == id).ok_or(missing)?;
    Ok(list::one(&story))
}

/// The page of deliveries that `filter` asks for, in `state` where one is given.
pub(super) async fn page(api: &Api, filter: Filter, state: Option<Stored>) -> Result<Response, ApiError> {
    let (page, limit) = (filter.page, filter.limit);
    let view = View::new(api);
    let rows = match state {
        Some(Stored::Sending) => view.sending(api, filter).await?,
        _ => view.written(api, filter, state).await?,
    };
    Ok(list::answer(rows, page, limit, |row| row.delivery.id.place(), |row| view.item(row)))
}

/// The deliveries of `event` with their attempts.
pub(super) async fn of_event(api: &Api, event: EventUid) -> store::Result<Vec<DeliveryStory>> {
    let view = View::new(api);
    let rows = api.store.deliveries(events::all_of(event)).await?;
    let attempts = api.store.attempts(event).await?;
    let log = |id: DeliveryId| attempts.iter().filter(|attempt| attempt.delivery == id).map(AttemptItem::new).collect();
    let story = |row: &DeliveryRow| DeliveryStory { id: row.delivery.id, delivery: view.item(row), log: log(row.delivery.id) };
    Ok(rows.iter().map(story).collect())
}

/// The place of a delivery's id, or behind all deliveries of an event's.
pub(super) fn place_of(id: &str) -> Option<i64> {
    let behind = |event| DeliveryId { event, n: store::N_MAX }.place();
    id.parse().map(DeliveryId::place).ok().or_else(|| id.parse().ok().map(behind))
}

/// How rows look at this moment: which are in hand, and which targets exist.
struct View<'a> {
    api: &'a Api,
    in_flight: HashSet<DeliveryId>,
}

impl<'a> View<'a> {
    fn new(api: &'a Api) -> Self {
        Self { api, in_flight: api.running.in_flight().into_iter().collect() }
    }

    /// The state to show, and why.
    fn state(&self, delivery: &Delivery) -> (Stored, Option<Cause>) {
        match delivery.state {
            Stored::Pending if self.in_flight.contains(&delivery.id) => (Stored::Sending, None),
            Stored::Pending if !self.api.config.destinations.contains(&delivery.target) => (Stored::Held, Some(Cause::Config)),
            state => (state, delivery.cause),
        }
    }

    /// Rows in a state that the store can look for. What is in hand is left out of `pending`, so that many more are asked for.
    async fn written(&self, api: &Api, filter: Filter, state: Option<Stored>) -> store::Result<Vec<DeliveryRow>> {
        let destinations = || api.config.destinations.clone();
        let (written, targets) = match state {
            Some(Stored::Pending) => (Some(Stored::Pending), Some(Targets::Among(destinations()))),
            Some(Stored::Held) => (Some(Stored::Pending), Some(Targets::NotAmong(destinations()))),
            other => (other, None),
        };
        let in_hand = u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX);
        let limit = list::one_more(&filter).saturating_add(if state.is_some() { in_hand } else { 0 });
        let mut rows = api.store.deliveries(Filter { state: written, targets, limit, ..filter }).await?;
        rows.retain(|row| state.is_none_or(|state| self.state(&row.delivery).0 == state));
        Ok(rows)
    }

    /// Rows that are in hand: a bounded number, looked up event by event.
    async fn sending(&self, api: &Api, filter: Filter) -> store::Result<Vec<DeliveryRow>> {
        let events: HashSet<_> = self.in_flight.iter().map(|id| id.event).collect();
        let mut rows = Vec::new();
        for event in events.into_iter().filter(|event| filter.event.is_none_or(|only| only == *event)) {
            let found = Filter { event: Some(event), page: Page::Newest, limit: events::STORY_MAX, ..filter.clone() };
            rows.extend(api.store.deliveries(found).await?);
        }
        rows.retain(|row| self.state(&row.delivery).0 == Stored::Sending && within(filter.page, row.delivery.id.place()));
        match filter.page {
            Page::After(..) => rows.sort_unstable_by_key(|row| row.delivery.id.place()),
            Page::Newest | Page::Before(..) => rows.sort_unstable_by_key(|row| Reverse(row.delivery.id.place())),
        }
        Ok(rows)
    }

    fn item(&self, row: &DeliveryRow) -> DeliveryItem {
        let delivery = &row.delivery;
        let (state, cause) = self.state(delivery);
        DeliveryItem {
            id: delivery.id.to_string(),
            event: delivery.id.event.to_string(),
            event_id: row.event_id.clone(),
            source: row.source.clone(),
            r#type: row.r#type.clone(),
            target: delivery.target.to_string(),
            rule: delivery.rule.as_ref().map(ToString::to_string),
            state: state.word(),
            cause: cause.map(Cause::word),
            error: delivery.error.clone(),
            attempts: delivery.attempts,
            next_attempt_at: delivery.due_at.filter(|_| state == Stored::Pending).map(rfc3339_ms),
            created_at: rfc3339_ms(delivery.created_at),
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
#[derive(Serialize)]
struct DeliveryItem {
    id: String,
    event: String,
    event_id: String,
    source: String,
    r#type: String,
    target: String,
    rule: Option<String>,
    state: &'static str,
    cause: Option<&'static str>,
    error: Option<String>,
    attempts: u32,
    next_attempt_at: Option<String>,
    created_at: String,
}

/// A delivery with its log: one entry per attempt.
#[derive(Serialize)]
pub(super) struct DeliveryStory {
    #[serde(skip)]
    id: DeliveryId,
    #[serde(flatten)]
    delivery: DeliveryItem,
    log: Vec<AttemptItem>,
}

impl DeliveryStory {
    /// Which of its event's deliveries it is.
    pub(super) fn number(&self) -> u32 {
        self.id.n
    }
}

#[derive(Serialize)]
struct AttemptItem {
    number: u32,
    started_at: String,
    duration_ms: u64,
    outcome: &'static str,
    status: Option<u16>,
    error: Option<String>,
    detail: Option<String>,
    response: String,
    next_attempt_at: Option<String>,
}

impl AttemptItem {
    fn new(attempt: &Attempt) -> Self {
        let (outcome, next) = match attempt.next {
            Next::Delivered => ("delivered", None),
            Next::Retry(at) => ("retry", Some(at)),
            Next::Dead(_) => ("dead", None),
        };
        Self {
            number: attempt.number,
            started_at: rfc3339_ms(attempt.started_at),
            duration_ms: u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX),
            outcome,
            status: attempt.status,
            error: attempt.error.clone(),
            detail: attempt.detail.clone(),
            response: String::from_utf8_lossy(&attempt.response).into_owned(),
            next_attempt_at: next.map(rfc3339_ms),
        }
    }
}
