//! The delivery log of a subscription as answers show it: in short, as Interactor lists it, and whole.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::log::{self, Entry};
use crate::{
    api::{Api, deliveries::View},
    clock::{rfc3339_ms, rfc3339_s},
    store::{self, Attempt, Cause, Next},
};

/// Most entries of a page of the whole log, each of which may have many attempts.
pub(super) const PAGE_MAX: u32 = 100;
/// Most attempts of one delivery that its entry shows: the last ones.
const ATTEMPTS_MAX: usize = 20;
/// Longest beginning of an answer that an attempt shows, in characters.
const EXCERPT_MAX: usize = 1000;

/// A delivery in Interactor's words (webhooks guide, "View Recent Events"). What does not apply is left out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookEvent)]
pub(super) struct EventItem {
    /// The event's id, as its sender named it.
    id: String,
    r#type: String,
    /// When the last attempt was over; null before the first.
    delivered_at: Option<String>,
    /// `delivered`, `failed` (after a failed attempt, or given up) or `pending`.
    status: &'static str,
    /// Of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_time_ms: Option<u64>,
    /// How often it was tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_count: Option<u32>,
    /// What went wrong, as a code: `timeout`, `http_503`, `address_forbidden`, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// Its id in the whole log.
    delivery_id: String,
}

impl EventItem {
    pub(super) fn new(entry: &Entry, view: &View<'_>) -> Self {
        let (delivery, status, last) = (&entry.row.delivery, entry.status(), entry.last());
        let retries = delivery.attempts.saturating_sub(1);
        Self {
            id: entry.row.event_id.clone(),
            r#type: entry.row.r#type.clone(),
            delivered_at: last.map(|attempt| rfc3339_s(log::ended_at(attempt))),
            status: status.word(),
            response_code: last.and_then(|attempt| attempt.status),
            response_time_ms: last.filter(|attempt| attempt.status.is_some()).map(latency_ms),
            retry_count: (status == log::Status::Failed || 0 < retries).then_some(retries),
            error: delivery.error.clone(),
            next_attempt_at: view.next_attempt_at(delivery),
            delivery_id: delivery.id.to_string(),
        }
    }
}

/// A delivery with its attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub(super) struct DeliveryItem {
    /// The same on every attempt: the `Idempotency-Key` that the receiver gets.
    id: String,
    /// The event's id, as its sender named it.
    event_id: String,
    event_type: String,
    /// `delivered`, `failed` (after a failed attempt, or given up) or `pending`.
    status: &'static str,
    /// Where it stands, more closely.
    state: &'static str,
    /// Why it is held, dead, cancelled or expired.
    cause: Option<&'static str>,
    /// Why it is cancelled or expired, for a person.
    reason: Option<String>,
    /// Of its last attempt: `timeout`, `http_503`, `address_forbidden`, ….
    error: Option<String>,
    created_at: String,
    next_attempt_at: Option<String>,
    /// How many attempts there were, those that are not shown included.
    attempt_count: u32,
    /// The last of them.
    attempts: Vec<AttemptItem>,
}

/// One try of a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookAttempt)]
pub(super) struct AttemptItem {
    /// From 1.
    number: u32,
    #[schema(format = DateTime)]
    at: String,
    latency_ms: u64,
    /// `delivered`, `retry` or `dead`.
    outcome: &'static str,
    /// Of the answer; null where none came.
    status_code: Option<u16>,
    /// Whose fault, when it gave the delivery up.
    cause: Option<&'static str>,
    error: Option<String>,
    detail: Option<String>,
    /// As far as they can be known afterwards; secrets and signatures are `***`.
    request_headers: BTreeMap<String, String>,
    /// The beginning of the answer.
    response: String,
    next_attempt_at: Option<String>,
}

impl DeliveryItem {
    /// Reads the event for what its headers said.
    pub(super) async fn new(api: &Api, entry: &Entry, view: &View<'_>) -> store::Result<Self> {
        let delivery = &entry.row.delivery;
        let (state, cause) = view.state(delivery);
        let shown = entry.attempts.len().saturating_sub(ATTEMPTS_MAX);
        let shown = entry.attempts.get(shown..).unwrap_or_default();
        let event = if shown.is_empty() { None } else { api.store.event(delivery.id.event).await? };
        let headers = |attempt: &Attempt| match &event {
            Some(row) => api.engine.request_headers(&row.envelope, delivery, attempt).into_iter().collect(),
            None => BTreeMap::new(),
        };
        Ok(Self {
            id: delivery.id.to_string(),
            event_id: entry.row.event_id.clone(),
            event_type: entry.row.r#type.clone(),
            status: entry.status().word(),
            state: state.word(),
            cause,
            reason: delivery.reason.clone(),
            error: delivery.error.clone(),
            created_at: rfc3339_ms(delivery.created_at),
            next_attempt_at: view.next_attempt_at(delivery),
            attempt_count: delivery.attempts,
            attempts: shown.iter().map(|attempt| AttemptItem::new(attempt, headers(attempt))).collect(),
        })
    }
}

impl AttemptItem {
    fn new(attempt: &Attempt, request_headers: BTreeMap<String, String>) -> Self {
        let (outcome, next, cause) = match attempt.next {
            Next::Delivered => ("delivered", None, None),
            Next::Retry(at) | Next::Awaits(at) => ("retry", Some(at), None),
            Next::Dead(cause) => ("dead", None, Some(cause)),
        };
        Self {
            number: attempt.number,
            at: rfc3339_ms(attempt.started_at),
            latency_ms: latency_ms(attempt),
            outcome,
            status_code: attempt.status,
            cause: cause.map(Cause::word),
            error: attempt.error.clone(),
            detail: attempt.detail.clone(),
            request_headers,
            response: excerpt(&attempt.response),
            next_attempt_at: next.map(rfc3339_ms),
        }
    }
}

/// The beginning of an answer's body, as text.
pub(super) fn excerpt(response: &[u8]) -> String {
    String::from_utf8_lossy(response).chars().take(EXCERPT_MAX).collect()
}

fn latency_ms(attempt: &Attempt) -> u64 {
    u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX)
}
