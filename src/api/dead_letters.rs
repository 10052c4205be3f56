//! `/api/v1/dead-letters`: deliveries that were given up. A dead letter's id is its delivery's.

use axum::{
    body::Body,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde_json::json;

use super::{
    Api, body,
    deliveries::{self, DeliveryItem, DeliveryStory},
    error::ApiError,
    events,
    jobs::{Bulk, Counted},
    list::{self, Listed, One, Params, invalid},
    openapi::{params::params, words},
};
use crate::{
    access::Caller,
    jobs::{self, Kind},
    store::{Cause, Filter, Resolution, State as Stored},
};

const PARAMS: [&str; 11] =
    ["source", "type", "target", "state", "event", "cause", "resolved", "since", "until", "limit", "after"];
const RETRY_PARAMS: [&str; 9] = ["source", "type", "target", "event", "cause", "since", "until", "rate", "dry_run"];
const RESOLVE_PARAMS: [&str; 1] = ["note"];
params!(Asked = PARAMS, "after" => Kind::DeliveryCursor, "state" => Kind::Words(words::dead),
    "resolved" means "`true`: those that were resolved, instead of those that nobody has settled." => Kind::Flag);
params!(RetryAsked = RETRY_PARAMS);
params!(ResolveAsked = RESOLVE_PARAMS, "note" => Kind::Needed);
/// Longest note, in characters.
const NOTE_MAX: usize = 1000;

/// A page of dead letters; those that were resolved with `resolved=true`.
#[utoipa::path(get, path = "/api/v1/dead-letters", params(Asked), responses((status = 200, body = Listed<DeliveryItem>)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::repeating(query.as_deref(), &PARAMS, &["type"])?;
    let resolved = params.take_as("resolved", "true or false", list::flag)?;
    params.take_as("state", "`dead`, which all of these are", |text| (text == Stored::Dead.word()).then_some(()))?;
    // One that is resolved is none any more.
    let filter = Filter { resolved: resolved.or(Some(false)), ..filter(&mut params)? };
    deliveries::page(&api, &caller, filter, Some(Stored::Dead)).await
}

/// Retries what the filters select, as a job.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/retry",
    request_body = inline(RetryAsked),
    responses((status = 200, body = One<Counted>), (status = 201, body = One<jobs::Shown>)),
)]
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = body::params(query.as_deref(), body, &RETRY_PARAMS).await?;
    let bulk = Bulk::take(&mut params)?;
    let filter = Filter { state: Some(Stored::Dead), resolved: Some(false), ..filter(&mut params)? };
    bulk.go(&api, &caller, Kind::Retry, events::visible(&caller, filter)).await
}

/// One dead letter with its attempts, by its delivery's id.
#[utoipa::path(get, path = "/api/v1/dead-letters/{id}", responses((status = 200, body = One<DeliveryStory>)))]
pub(super) async fn one(api: State<Api>, caller: Caller, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    deliveries::one(api, caller, id).await
}

/// Tries a dead letter again: same delivery, same body, as if for the first time.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/{id}/retry",
    responses((status = 200, body = One<DeliveryStory>), (status = 409, description = "it is no dead letter, or a resolved one")),
)]
pub(super) async fn retry_one(
    api: State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    deliveries::retry(api, caller, id).await
}

/// Settles a dead letter with a note.
#[utoipa::path(
    post,
    path = "/api/v1/dead-letters/{id}/resolve",
    request_body = inline(ResolveAsked),
    responses((status = 200, body = One<DeliveryStory>), (status = 409, description = "it is no dead letter, or resolved already")),
)]
pub(super) async fn resolve(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let id = deliveries::id_of(id)?;
    let mut params = body::params(query.as_deref(), body, &RESOLVE_PARAMS).await?;
    let note = note(params.take("note").as_deref().unwrap_or_default())?;
    let mut known = deliveries::Known::read(&api, &caller, id).await?;
    known.is_alone()?;
    if known.row.delivery.state != Stored::Dead {
        return Err(ApiError::Conflict("this delivery is no dead letter".to_owned()));
    }
    let resolution = Resolution { at: api.engine.now(), note };
    if !api.store.resolve(id, resolution.clone()).await? {
        return Err(ApiError::Conflict("this dead letter is resolved already".to_owned()));
    }
    tracing::info!(delivery.id = %id, by = %caller.id, "a dead letter is resolved");
    let (before, after) = (deliveries::told(&known.row.delivery), json!({"state": Stored::Dead.word(), "note": resolution.note}));
    api.note(&caller, "dead_letter.resolved", &id.to_string(), before, after).await;
    known.row.delivery.resolved = Some(resolution);
    Ok(known.shown(&api))
}

fn filter(params: &mut Params) -> Result<Filter, ApiError> {
    let words = Cause::ALL.map(|(word, _)| word).join(", ");
    let cause = |word: &str| Cause::ALL.iter().find(|(known, _)| *known == word).map(|(_, cause)| *cause);
    let cause = params.take_as("cause", &format!("one of {words}"), cause)?;
    let event = params.take_as("event", "an event's uid", |text| text.parse().ok())?;
    Ok(Filter { cause, event, ..list::filter(params, deliveries::place_of)? })
}

fn note(text: &str) -> Result<String, ApiError> {
    match text.trim() {
        "" => Err(invalid("note", "is needed: it says why nothing more is to be done")),
        note if NOTE_MAX < note.chars().count() => Err(invalid("note", &format!("has more than {NOTE_MAX} characters"))),
        note => Ok(note.to_owned()),
    }
}
