//! `/api/v1/targets`: how each lane stands and what waits for it, and the hand of a person on it.
//!
//! A target that is gone from `routes.yaml` but has deliveries waiting or dead is shown behind the others, `disabled` with cause
//! `config`: what waits for it can be cancelled, nothing else.

use std::collections::HashMap;

use axum::{
    body::Body,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api, body,
    engine::Steering,
    error::ApiError,
    jobs::{Bulk, Counted},
    list::{self, Listed, One, Params},
    openapi::{params::params, words},
    slice::Slice,
};
use crate::{
    access::Caller,
    clock::{Timestamp, rfc3339_ms},
    deliver::{NoTrial, TargetStatus, Trial},
    envelope::Name,
    jobs::{self, Kind},
    store::{self, Backlog, Cause, Filter},
};

const PARAMS: [&str; 3] = ["state", "limit", "after"];
const CANCEL_PARAMS: [&str; 6] = ["source", "type", "since", "until", "rate", "dry_run"];
const TEST_PARAMS: [&str; 1] = ["event"];
params!(ListAsked = PARAMS, "state" means "In this state." => Kind::Words(words::target_states), "after" => Kind::RowCursor,
    "limit" means "How many at most; all of them without it." => Kind::Number);
params!(CancelAsked = CANCEL_PARAMS);
params!(TestAsked = TEST_PARAMS, "event" means "The type of the sample." => Kind::Type);

/// All targets: those of the file in its order, then those that are gone.
#[utoipa::path(get, path = "/api/v1/targets", params(ListAsked), responses((status = 200, body = Listed<TargetItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &PARAMS)?;
    let slice = Slice::take(&mut params)?;
    let state = |word: &str| words::TARGET_STATES.into_iter().find(|known| *known == word);
    let state = params.take_as("state", &format!("one of {}", words::TARGET_STATES.join(", ")), state)?;
    let mut items = all(&api).await?;
    items.retain(|item| state.is_none_or(|state| item.state == state));
    Ok(slice.answer(items, |item: &TargetItem| &item.name))
}

/// One target.
#[utoipa::path(get, path = "/api/v1/targets/{name}", responses((status = 200, body = One<TargetItem>)))]
pub(super) async fn one(State(api): State<Api>, name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    Ok(list::one(&found(&api, name).await?))
}

/// Sends nothing more to a target until it is resumed.
#[utoipa::path(
    post,
    path = "/api/v1/targets/{name}/pause",
    responses((status = 200, body = One<TargetItem>), (status = 409, description = "it is gone from the file")),
)]
pub(super) async fn pause(
    State(api): State<Api>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    steer(&api, &caller, name, Steering::Pause).await
}

/// Sends to a paused target again.
#[utoipa::path(
    post,
    path = "/api/v1/targets/{name}/resume",
    responses((status = 200, body = One<TargetItem>), (status = 409, description = "it is gone from the file")),
)]
pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    steer(&api, &caller, name, Steering::Resume).await
}

/// Closes a target's breaker without waiting for a probe.
#[utoipa::path(
    post,
    path = "/api/v1/targets/{name}/close",
    responses((status = 200, body = One<TargetItem>), (status = 409, description = "it is gone from the file")),
)]
pub(super) async fn close(
    State(api): State<Api>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    steer(&api, &caller, name, Steering::Close).await
}

/// Cancels what waits for a target, as a job.
#[utoipa::path(
    post,
    path = "/api/v1/targets/{name}/cancel",
    request_body = inline(CancelAsked),
    responses((status = 200, body = One<Counted>), (status = 201, body = One<jobs::Shown>)),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let target = found(&api, name).await?;
    let mut params = body::params(query.as_deref(), body, &CANCEL_PARAMS).await?;
    let bulk = Bulk::take(&mut params)?;
    // Every state that is not final is written as `pending`.
    let waiting = Some(store::State::Pending);
    let filter = Filter { target: Some(target.name), state: waiting, ..list::filter(&mut params, |_| None)? };
    bulk.go(&api, &caller, Kind::Cancel, filter).await
}

/// Sends a sample to a target once, and answers with what came of it.
#[utoipa::path(
    post,
    path = "/api/v1/targets/{name}/test",
    request_body = inline(TestAsked),
    responses((status = 200, body = One<TrialItem>), (status = 409, description = "it is gone from the file")),
)]
pub(super) async fn test(
    State(api): State<Api>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let target = found(&api, name).await?;
    let mut params = body::params(query.as_deref(), body, &TEST_PARAMS).await?;
    let event_type = params.take("event");
    let name = Name::from(target.name.as_str());
    match api.engine.test(&name, event_type.as_deref()).await {
        Ok(trial) => {
            tracing::info!(target.name = %name, outcome = trial.outcome, by = %caller.id, "a person tries a target out");
            let after = json!({"event": trial.event_type, "outcome": trial.outcome});
            api.note(&caller, "target.tested", name.as_str(), Value::Null, after).await;
            Ok(list::one(&TrialItem::of(&trial)))
        }
        Err(NoTrial::Nobody) => {
            Err(ApiError::Conflict(format!("target `{name}` is gone from routes.yaml: there is nothing to try out")))
        }
        Err(refused @ NoTrial::BadType) => Err(ApiError::Invalid(refused.to_string())),
    }
}

/// What trying a target out came to.
#[derive(Serialize, ToSchema)]
#[schema(as = Trial)]
struct TrialItem {
    target: String,
    kind: &'static str,
    url: String,
    event: String,
    outcome: &'static str,
    status: Option<u16>,
    error: Option<String>,
    detail: Option<String>,
    response: String,
    duration_ms: u64,
}

impl TrialItem {
    fn of(trial: &Trial) -> Self {
        Self {
            target: trial.target.to_string(),
            kind: trial.kind,
            url: trial.url.clone(),
            event: trial.event_type.clone(),
            outcome: trial.outcome,
            status: trial.status,
            error: trial.error.clone(),
            detail: trial.detail.clone(),
            response: String::from_utf8_lossy(&trial.response).into_owned(),
            duration_ms: u64::try_from(trial.duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

async fn steer(
    api: &Api,
    caller: &Caller,
    name: Result<Path<String>, PathRejection>,
    how: Steering,
) -> Result<Response, ApiError> {
    let (name, backlog) = waiting(api, name).await?;
    let target = item(api, &name, backlog.as_ref()).ok_or(MISSING)?;
    if !api.engine.steer(&name, how, &caller.name).await? {
        return Err(ApiError::Conflict(format!(
            "target `{name}` is gone from routes.yaml: what waits for it can only be cancelled"
        )));
    }
    tracing::info!(target.name = %name, action = ?how, by = %caller.id, "a person steers a target");
    let now = item(api, &name, backlog.as_ref()).ok_or(MISSING)?;
    api.note(caller, how.action(), name.as_str(), json!({"state": target.state}), json!({"state": now.state})).await;
    Ok(list::one(&now))
}

const MISSING: ApiError = ApiError::NotFound("target");

/// What is asked about, and what waits for it.
async fn waiting(api: &Api, name: Result<Path<String>, PathRejection>) -> Result<(Name, Option<Backlog>), ApiError> {
    let Ok(Path(name)) = name else { return Err(MISSING) };
    let name = Name::from(name.as_str());
    let counted = api.store.backlog(Some(&name)).await?;
    let backlog = counted.into_iter().find(|it| it.target == name);
    Ok((name, backlog))
}

async fn found(api: &Api, name: Result<Path<String>, PathRejection>) -> Result<TargetItem, ApiError> {
    let (name, backlog) = waiting(api, name).await?;
    item(api, &name, backlog.as_ref()).ok_or(MISSING)
}

/// The target of this name as it stands now, while `backlog` waits for it.
fn item(api: &Api, name: &Name, backlog: Option<&Backlog>) -> Option<TargetItem> {
    let lane = api.engine.targets().into_iter().find(|lane| lane.name == *name);
    lane.map(|lane| TargetItem::of_lane(backlog, lane)).or_else(|| backlog.map(TargetItem::gone))
}

async fn all(api: &Api) -> store::Result<Vec<TargetItem>> {
    let mut waiting: HashMap<Name, Backlog> =
        api.store.backlog(None).await?.into_iter().map(|it| (it.target.clone(), it)).collect();
    let lanes = api.engine.targets().into_iter();
    let mut items: Vec<_> = lanes.map(|lane| TargetItem::of_lane(waiting.remove(&lane.name).as_ref(), lane)).collect();
    let mut gone: Vec<_> = waiting.into_values().collect();
    gone.sort_unstable_by(|a, b| a.target.cmp(&b.target));
    items.extend(gone.iter().map(TargetItem::gone));
    Ok(items)
}

/// A target as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Target)]
struct TargetItem {
    name: String,
    /// Null for one that is gone from the file.
    kind: Option<&'static str>,
    /// Where to; secrets in it are masked.
    url: Option<String>,
    #[schema(value_type = words::TargetState)]
    state: &'static str,
    #[schema(value_type = Option<words::DeliveryCause>)]
    cause: Option<&'static str>,
    /// Since when it is so.
    #[schema(format = DateTime)]
    since: Option<String>,
    paused_by: Option<String>,
    /// Deliveries that are not final.
    backlog: u64,
    oldest_at: Option<String>,
    /// Dead letters.
    dead: u64,
    /// Of a target that another replica sends to, as it was when it last opened, closed or was paused.
    last_error: Option<String>,
    /// Of a target that another replica sends to, up to ten minutes behind.
    last_success_at: Option<String>,
    /// In the last minute; null: another replica sends to it, and knows.
    attempts_per_minute: Option<u32>,
    /// Likewise.
    deliveries_per_minute: Option<u32>,
    next_probe_at: Option<String>,
}

impl TargetItem {
    fn of_lane(backlog: Option<&Backlog>, lane: TargetStatus) -> Self {
        let time = |at: Option<Timestamp>| at.map(rfc3339_ms);
        Self {
            name: lane.name.to_string(),
            kind: Some(lane.kind),
            url: Some(lane.url),
            state: lane.state.word(),
            cause: lane.cause.map(Cause::word),
            since: time(lane.since),
            paused_by: lane.paused_by,
            backlog: backlog.map_or(0, |backlog| backlog.waiting),
            oldest_at: time(backlog.and_then(|backlog| backlog.oldest_at)),
            dead: backlog.map_or(0, |backlog| backlog.dead),
            last_error: lane.last_error,
            last_success_at: time(lane.last_success_at),
            attempts_per_minute: lane.attempts_last_minute,
            deliveries_per_minute: lane.deliveries_last_minute,
            next_probe_at: time(lane.next_probe_at),
        }
    }

    fn gone(backlog: &Backlog) -> Self {
        Self {
            name: backlog.target.to_string(),
            kind: None,
            url: None,
            state: "disabled",
            cause: Some(Cause::Config.word()),
            since: None,
            paused_by: None,
            backlog: backlog.waiting,
            oldest_at: backlog.oldest_at.map(rfc3339_ms),
            dead: backlog.dead,
            last_error: None,
            last_success_at: None,
            attempts_per_minute: Some(0),
            deliveries_per_minute: Some(0),
            next_probe_at: None,
        }
    }
}
