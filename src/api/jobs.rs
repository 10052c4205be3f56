//! `/api/v1/jobs`: what touches many deliveries at once, in the background: counted first, capped, cancelled. `/api/v1/replays` shows
//! those that make deliveries again.

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
    error::ApiError,
    list::{self, Listed, One, Params, invalid},
    openapi::params::params,
    slice::{self, Slice},
};
use crate::{
    access::Caller,
    envelope::Name,
    jobs::{Job, Kind, Shown},
    store::{Filter, State as Stored},
};

const REPLAY_PARAMS: [&str; 9] = ["source", "type", "target", "state", "event", "since", "until", "rate", "dry_run"];
params!(Asked = slice::PARAMS, "after" => Kind::RowCursor);
params!(ReplayAsked = REPLAY_PARAMS);

/// All jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", params(Asked), responses((status = 200, body = Listed<Shown>)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    newest(&api, query.as_deref(), |job| is_seen(&api, &caller, job))
}

/// All replays, newest first.
#[utoipa::path(get, path = "/api/v1/replays", params(Asked), responses((status = 200, body = Listed<Shown>)))]
pub(super) async fn replays(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    newest(&api, query.as_deref(), is_replay)
}

/// One job.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", responses((status = 200, body = One<Shown>)))]
pub(super) async fn one(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    Ok(list::one(&found(&api, id, "job", |job| is_seen(&api, &caller, job))?))
}

/// One replay.
#[utoipa::path(get, path = "/api/v1/replays/{id}", responses((status = 200, body = One<Shown>)))]
pub(super) async fn replay(State(api): State<Api>, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    Ok(list::one(&found(&api, id, "replay", is_replay)?))
}

/// Stops a job; what it did stays done.
#[utoipa::path(
    post,
    path = "/api/v1/jobs/{id}/cancel",
    responses((status = 200, body = One<Shown>), (status = 409, description = "it has ended")),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let job = found(&api, id, "job", |job| is_seen(&api, &caller, job))?;
    stop(&api, &caller, &job).await
}

/// Stops a replay; what it made stays made.
#[utoipa::path(
    post,
    path = "/api/v1/replays/{id}/cancel",
    responses((status = 200, body = One<Shown>), (status = 409, description = "it has ended")),
)]
pub(super) async fn cancel_replay(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let job = found(&api, id, "replay", is_replay)?;
    stop(&api, &caller, &job).await
}

/// Makes deliveries again of the events that the filters select: by today's rules, or to `target` only. With `state`, only of events
/// that have a delivery in this state (to `target`, where one is named).
#[utoipa::path(
    post,
    path = "/api/v1/replays",
    request_body = inline(ReplayAsked),
    responses((status = 200, body = One<Counted>), (status = 201, body = One<Shown>)),
)]
pub(super) async fn make(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = body::params(query.as_deref(), body, &REPLAY_PARAMS).await?;
    let target = params.take("target").map(|name| destination(&api, &name)).transpose()?;
    let state = params.take_as("state", "a state of deliveries", Stored::parse)?;
    let event = params.take_as("event", "an event's uid", |text| text.parse().ok())?;
    let bulk = Bulk::take(&mut params)?;
    let with = target.as_ref().filter(|_| state.is_some()).map(ToString::to_string);
    let filter = Filter { state, event, target: with, ..list::filter(&mut params, |_| None)? };
    bulk.go(&api, &caller, Kind::Replay { target }, filter).await
}

/// How many things a job would touch.
#[derive(Serialize, ToSchema)]
pub(super) struct Counted {
    /// Always true: nothing was done.
    dry_run: bool,
    count: u64,
}

/// How a job is asked for.
pub(super) struct Bulk {
    dry_run: bool,
    rate: Option<u32>,
}

/// The highest rate a job can be capped at, per second: beyond it, a cap says nothing.
const RATE_MAX: u32 = 100_000;

impl Bulk {
    /// Takes `dry_run` and `rate` out of `params`.
    pub(super) fn take(params: &mut Params) -> Result<Self, ApiError> {
        let dry_run = params.take_as("dry_run", "true or false", list::flag)?.unwrap_or_default();
        let rate = params.take_as("rate", &format!("a number per second from 1 to {RATE_MAX}, such as 100 or 100/s"), rate)?;
        Ok(Self { dry_run, rate })
    }

    /// Answers how many things the job would touch, or begins it: 201.
    pub(super) async fn go(&self, api: &Api, caller: &Caller, kind: Kind, filter: Filter) -> Result<Response, ApiError> {
        if self.dry_run {
            let count = api.engine.count(&kind, &filter).await?;
            return Ok(list::one(&Counted { dry_run: true, count }));
        }
        let job = api.engine.begin(kind, filter, self.rate, &caller.name).await?;
        tracing::info!(job.id = %job.id, job.kind = job.kind.word(), by = %caller.id, "a job has begun");
        api.note(caller, "job.begun", &job.id, Value::Null, json!(job.forgetful())).await;
        Ok(list::created(&job))
    }
}

fn newest(api: &Api, query: Option<&str>, shown: impl Fn(&Job) -> bool) -> Result<Response, ApiError> {
    let slice = Slice::take(&mut Params::from_query(query, &slice::PARAMS)?)?.unless_said(list::LIMIT);
    Ok(slice.answer(api.engine.jobs().into_iter().filter(shown).collect(), |job: &Job| &job.id))
}

fn found(
    api: &Api,
    id: Result<Path<String>, PathRejection>,
    what: &'static str,
    shown: impl Fn(&Job) -> bool,
) -> Result<Job, ApiError> {
    let Ok(Path(id)) = id else { return Err(ApiError::NotFound(what)) };
    let jobs = api.engine.jobs();
    jobs.into_iter().find(|job| job.id == id && shown(job)).ok_or(ApiError::NotFound(what))
}

async fn stop(api: &Api, caller: &Caller, job: &Job) -> Result<Response, ApiError> {
    if job.finished_at.is_some() {
        return Err(ApiError::Conflict("this job has ended".to_owned()));
    }
    let stopped = api.engine.cancel_job(&job.id).await?.ok_or(ApiError::NotFound("job"))?;
    tracing::info!(job.id = %job.id, by = %caller.id, "a job is cancelled");
    api.note(caller, "job.cancelled", &job.id, json!(job.forgetful()), json!(stopped)).await;
    Ok(list::one(&stopped))
}

/// Whether `caller` may know of `job`: one that is bound to namespaces knows those that touch nothing beyond them, and releases of its
/// subscriptions.
fn is_seen(api: &Api, caller: &Caller, job: &Job) -> bool {
    let released = || job.filter.target.as_deref().is_some_and(|target| api.subscriptions.get(caller, target).is_ok());
    match &job.filter.namespaces {
        _ if !caller.is_bound() => true,
        _ if job.kind == Kind::Erase => false,
        Some(namespaces) => namespaces.iter().all(|namespace| caller.sees(Some(namespace))),
        None => job.kind == Kind::Release && released(),
    }
}

fn is_replay(job: &Job) -> bool {
    matches!(job.kind, Kind::Replay { .. })
}

fn destination(api: &Api, name: &str) -> Result<Name, ApiError> {
    let known = api.engine.targets().into_iter().map(|target| target.name).find(|known| known.as_str() == name);
    known.ok_or_else(|| invalid("target", "names no destination of routes.yaml"))
}

/// `100` or `100/s`.
fn rate(text: &str) -> Option<u32> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    text.parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        assert_eq!((rate("100"), rate("7/s")), (Some(100), Some(7)));
        for bad in ["", "0", "-1", "1/m", "100001", "1.5", "/s"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }
}
