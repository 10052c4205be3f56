//! `/api/v1/sources`: what came in by each source, which of its secrets are in use, and how those stand that are polled.

use std::collections::BTreeMap;

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
    list::{self, Listed, One, Params},
    openapi::params::params,
    slice::{self, Slice},
};
use crate::{
    access::Caller,
    clock::{Timestamp, rfc3339_ms},
    envelope::Name,
    ingest::{PollStatus, SourceStatistics},
};

params!(ListAsked = slice::PARAMS, "after" => Kind::RowCursor, "limit" means "How many at most; all of them without it." => Kind::Number);

/// All sources, in the order of the file.
#[utoipa::path(get, path = "/api/v1/sources", params(ListAsked), responses((status = 200, body = Listed<SourceItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let slice = Slice::take(&mut Params::from_query(query.as_deref(), &slice::PARAMS)?)?;
    Ok(slice.answer(api.engine.sources().into_iter().map(SourceItem::new).collect(), |item: &SourceItem| &item.name))
}

/// Has a source asked now that is polled, and answers how it stands once that is done, or has taken long.
#[utoipa::path(
    post,
    path = "/api/v1/sources/{name}/poll",
    responses((status = 200, body = One<SourceItem>), (status = 409, description = "its sender comes by itself")),
)]
pub(super) async fn poll(
    State(api): State<Api>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let known = |name: Name| api.engine.sources().into_iter().find(|source| source.name == name);
    let name = name.ok().and_then(|Path(name)| Name::parse(&name)).ok_or(ApiError::NotFound("source"))?;
    known(name.clone()).ok_or(ApiError::NotFound("source"))?;
    if !api.engine.poll(&name).await? {
        return Err(ApiError::Conflict(format!("source `{name}` is not polled: its sender comes by itself")));
    }
    tracing::info!(source.name = %name, by = %caller.id, "a person has a source polled");
    let polled = known(name.clone()).ok_or(ApiError::NotFound("source"))?;
    let after = json!({"last_error": polled.poll.as_ref().and_then(|poll| poll.last_error.as_ref()).map(|(word, _)| word)});
    api.note(&caller, "source.polled", name.as_str(), Value::Null, after).await;
    Ok(list::one(&SourceItem::new(polled)))
}

/// A source as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Source)]
struct SourceItem {
    name: String,
    kind: &'static str,
    /// `null`: nobody sends to it.
    path: Option<String>,
    last_received_at: Option<String>,
    /// How many requests had which answer.
    counts: BTreeMap<&'static str, u64>,
    secrets: Vec<SecretItem>,
    /// How it stands, where it is polled.
    poll: Option<PollItem>,
}

/// How a source stands that is polled.
#[derive(Serialize, ToSchema)]
#[schema(as = Poll)]
struct PollItem {
    /// Scheme and host.
    url: String,
    every_s: u64,
    last_poll_at: Option<String>,
    last_success_at: Option<String>,
    /// What the last round came to, where it met a fault: `http_401`, `bad_cursor`, ….
    last_error: Option<String>,
    last_error_message: Option<String>,
    /// How often in a row it did.
    failures: u32,
    /// `null`: another relay asks.
    next_poll_at: Option<String>,
    /// The greatest value that was reached.
    cursor: Option<String>,
    /// Of the last round: pages, items on them, and how many of those were new.
    pages: u32,
    items: u64,
    taken: u64,
    /// And how many were left out because they lie before where the source began (`start`).
    left_out: u64,
}

impl PollItem {
    fn new(status: PollStatus) -> Self {
        let (last_error, last_error_message) = status.last_error.unzip();
        Self {
            url: status.url,
            every_s: status.every.as_secs(),
            last_poll_at: status.last_poll_at.map(rfc3339_ms),
            last_success_at: status.last_success_at.map(rfc3339_ms),
            last_error,
            last_error_message,
            failures: status.failures,
            next_poll_at: status.next_poll_at.map(rfc3339_ms),
            cursor: status.cursor,
            pages: status.pages,
            items: status.items,
            taken: status.taken,
            left_out: status.left_out,
        }
    }
}

/// A secret by its position in the file: 0 is the current one.
#[derive(Serialize, ToSchema)]
#[schema(as = SecretUse)]
struct SecretItem {
    position: usize,
    last_used_at: Option<String>,
}

impl SourceItem {
    fn new(source: SourceStatistics) -> Self {
        let secret = |(position, at): (usize, Option<Timestamp>)| SecretItem { position, last_used_at: at.map(rfc3339_ms) };
        Self {
            name: source.name.to_string(),
            kind: source.kind,
            path: source.path,
            last_received_at: source.last_received_at.map(rfc3339_ms),
            counts: source.counts.into_iter().collect(),
            secrets: source.secrets.into_iter().enumerate().map(secret).collect(),
            poll: source.poll.map(PollItem::new),
        }
    }
}
