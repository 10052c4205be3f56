//! `/api/v1/explain`: what would become of an event, and why. Needs `config:read` and `events:read`, once tokens have scopes; changes
//! nothing.

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    Api,
    body::{BODY_TIME, bytes},
    error::ApiError,
    list::{self, One, Params},
    openapi::params::schema,
};
use crate::{
    envelope::{Envelope, EventUid},
    explain::Explanation,
    json,
    store::{EventRow, Filter, Page},
};

/// Longest question, in bytes: an event of the usual `server.max_body`, and what is around it.
const BODY_MAX: usize = 2 * 1024 * 1024;
/// The newest events among which one is looked for by its sender's id,
const LOOKED_AT: u32 = 20_000;
/// so many at a time.
const PAGE: u32 = 1000;

/// What is asked about, one of `uid`, `id`, `event` and `body`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The relay's id of a stored event.
    #[serde(default)]
    uid: Option<String>,
    /// The sender's id of a stored event, or the relay's.
    #[serde(default)]
    id: Option<String>,
    /// An event, or an envelope.
    #[serde(default)]
    event: Option<Box<RawValue>>,
    /// The source `body` comes in by; with `id`, the source of that event.
    #[serde(default)]
    source: Option<String>,
    /// A body as its sender sends it.
    #[serde(default)]
    body: Option<Box<RawValue>>,
}

impl PartialSchema for Question {
    fn schema() -> RefOr<Schema> {
        let text = |what: &str| json!({"type": "string", "description": what});
        let way = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        let (uid, id) = (text("The relay's id of a stored event."), text("The sender's id of a stored event, or the relay's."));
        schema(json!({
            "description": "What is asked about: a stored event, an event or envelope, or a body as its sender sends it.",
            "oneOf": [
                way(json!({"uid": uid}), json!(["uid"])),
                way(json!({"id": id, "source": text("The source of that event.")}), json!(["id"])),
                way(json!({"event": {"type": "object", "description": "An event, or an envelope."}}), json!(["event"])),
                way(
                    json!({"body": {"description": "A body, as JSON."}, "source": text("The source it comes in by.")}),
                    json!(["body", "source"]),
                ),
            ],
            "examples": [{"event": {"type": "credential.expired", "data": {"service_name": "Google Calendar"}}}],
        }))
    }
}

impl ToSchema for Question {}

/// Explains an event. Every rule with why it fires or does not, every target with what it would get and when.
#[utoipa::path(post, path = "/api/v1/explain", request_body = Question, responses((status = 200, body = One<Explanation>), (status = 404, description = "no such event is kept")))]
pub(super) async fn explain(State(api): State<Api>, RawQuery(query): RawQuery, body: Body) -> Result<Response, ApiError> {
    Params::from_query(query.as_deref(), &[])?;
    let event = event(&api, question(body).await?).await?;
    Ok(list::one(&api.engine.foretell(&event).await?))
}

async fn question(body: Body) -> Result<Question, ApiError> {
    let bytes = bytes(body, BODY_MAX, BODY_TIME).await?;
    if json::too_deep(&bytes) {
        return Err(ApiError::Invalid("the body nests too deep".into()));
    }
    serde_json::from_slice(&bytes).map_err(|error| ApiError::Invalid(format!("the body is no question: {error}")))
}

/// The event that is asked about.
async fn event(api: &Api, asked: Question) -> Result<Envelope, ApiError> {
    let source = asked.source.as_deref();
    match (asked.uid, asked.id, asked.event, asked.body) {
        (Some(id), None, None, None) => by_uid(api, &id).await,
        (None, Some(id), None, None) if id.parse::<EventUid>().is_ok() => by_uid(api, &id).await,
        (None, Some(id), None, None) => by_id(api, &id, source).await,
        (None, None, Some(event), None) if source.is_none() => {
            api.engine.written(event.get().as_bytes(), None).map_err(ApiError::Invalid)
        }
        (None, None, None, Some(body)) if source.is_some() => {
            api.engine.written(body.get().as_bytes(), source).map_err(ApiError::Invalid)
        }
        _ => Err(ApiError::Invalid(
            "give one of `uid`, `id` (with or without `source`), `event`, and `body` with `source`".to_owned(),
        )),
    }
}

const MISSING: ApiError = ApiError::NotFound("event");

async fn by_uid(api: &Api, text: &str) -> Result<Envelope, ApiError> {
    let uid = text.parse().map_err(|_| MISSING)?;
    let row: EventRow = api.store.event(uid).await?.ok_or(MISSING)?;
    Ok(row.envelope)
}

/// The newest event of this id.
async fn by_id(api: &Api, id: &str, source: Option<&str>) -> Result<Envelope, ApiError> {
    let mut page = Page::Newest;
    for _ in 0..LOOKED_AT / PAGE {
        let filter = Filter { source: source.map(str::to_owned), page, limit: PAGE, ..Filter::default() };
        let rows = api.store.events(filter).await?;
        if let Some(found) = rows.iter().find(|row| row.envelope.id == id) {
            return by_uid(api, &found.uid.to_string()).await;
        }
        let Some(last) = rows.last() else { break };
        page = Page::Before(last.uid.seq);
    }
    Err(MISSING)
}
