//! `/api/v1/mutes`: what people want to hear nothing of for a while. What a mute holds back is `suppressed`, cause `mute`, and says why.

use axum::{
    body::Body,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    Api, body,
    error::ApiError,
    list::{self, Listed, One, Params, invalid},
    openapi::params::{self, Kind, params},
    slice::{self, Slice},
};
use crate::{
    access::Caller,
    clock::{later, rfc3339_ms},
    config::decode::duration,
    deliver::mutes::{Mute, Refused, Wanted},
};

/// What a mute matches by: as in a rule, and targets.
const LISTS: [&str; 4] = ["source", "type", "namespace", "target"];
const PARAMS: [&str; 8] = ["source", "type", "namespace", "target", "reason", "author", "until", "for"];
params!(ListAsked = slice::PARAMS, "after" => Kind::RowCursor, "limit" means "How many at most; all of them without it." => Kind::Number);

/// The body of a mute: globs below `match` or beside it, and an end.
struct Asked;

impl PartialSchema for Asked {
    fn schema() -> RefOr<Schema> {
        let globs = LISTS.map(|name| (name, Kind::Globs, "Globs, one or several."));
        let mut body = params::body(&PARAMS, &globs);
        body["properties"]["match"] = params::body(&LISTS, &globs);
        body["properties"]["match"]["description"] = "The globs, as in a rule.".into();
        body["properties"]["until"]["description"] = "When it ends.".into();
        body["oneOf"] = json!([{"required": ["until"]}, {"required": ["for"]}]);
        params::schema(body)
    }
}

impl ToSchema for Asked {}

/// All mutes that are not over, newest first.
#[utoipa::path(get, path = "/api/v1/mutes", params(ListAsked), responses((status = 200, body = Listed<MuteItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let slice = Slice::take(&mut Params::from_query(query.as_deref(), &slice::PARAMS)?)?;
    let mutes = api.engine.mutes().await?;
    Ok(slice.answer(mutes.iter().rev().map(MuteItem::new).collect(), |item: &MuteItem| &item.id))
}

/// One mute that is not over.
#[utoipa::path(get, path = "/api/v1/mutes/{id}", responses((status = 200, body = One<MuteItem>)))]
pub(super) async fn one(State(api): State<Api>, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| MISSING)?;
    let mutes = api.engine.mutes().await?;
    mutes.iter().find(|mute| mute.id == id).map(|mute| list::one(&MuteItem::new(mute))).ok_or(MISSING)
}

/// Mutes what is named. `source`, `type`, `namespace` and `target` as globs, one or several with commas between them (in JSON also as
/// lists, and below `match` as in a rule); `reason`; `author`
/// (default: who asks); `until` a time, or `for` so long.
#[utoipa::path(
    post,
    path = "/api/v1/mutes",
    request_body = inline(Asked),
    responses((status = 201, body = One<MuteItem>), (status = 409, description = "as many mutes as there can be are there")),
)]
pub(super) async fn add(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = body::params_with_lists(query.as_deref(), body, &PARAMS, &LISTS).await?;
    let mut globs = |name: &str| params.take(name).map_or_else(Vec::new, |text| split(&text));
    let (source, r#type, namespace, target) = (globs("source"), globs("type"), globs("namespace"), globs("target"));
    let (reason, author) = (params.take("reason"), params.take("author"));
    let time = "a time in RFC 3339, such as 2026-01-20T12:00:00Z";
    let until = params.take_as("until", time, |text| text.parse().ok())?;
    let span = params.take_as("for", "a length of time such as 30m, 24h or 7d", duration)?;
    let until = match (until, span) {
        (Some(until), None) => until,
        (None, Some(span)) => later(api.engine.now(), span),
        (Some(_), Some(_)) => return Err(invalid("for", "is given beside `until`")),
        (None, None) => return Err(invalid("until", "is missing: a mute has an end; or say `for` how long")),
    };
    let author = author.unwrap_or_else(|| caller.name.clone());
    let wanted = Wanted { source, r#type, namespace, target, reason: reason.unwrap_or_default(), author };
    let mute = api.engine.mute(wanted, until).await.map_err(|refused| match refused {
        Refused::Unfit(why) => ApiError::Invalid(why),
        Refused::TooMany => ApiError::Conflict(refused.to_string()),
        Refused::Store(error) => ApiError::Store(error),
    })?;
    tracing::info!(mute.id = %mute.id, by = %mute.author, until = %mute.until, reason = %mute.reason, "muted");
    let item = MuteItem::new(&mute);
    api.note(&caller, "mute.added", &mute.id, Value::Null, json!(item)).await;
    Ok(list::created(&item))
}

/// Ends a mute before its time. What it has suppressed stays so.
#[utoipa::path(delete, path = "/api/v1/mutes/{id}", responses((status = 200, body = One<MuteItem>)))]
pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| MISSING)?;
    let mute = api.engine.unmute(&id).await?.ok_or(MISSING)?;
    tracing::info!(mute.id = %mute.id, by = %caller.id, "a mute is ended");
    let item = MuteItem::new(&mute);
    api.note(&caller, "mute.removed", &mute.id, json!(item), Value::Null).await;
    Ok(list::one(&item))
}

const MISSING: ApiError = ApiError::NotFound("mute");

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|glob| !glob.is_empty()).map(str::to_owned).collect()
}

/// A mute as lists show it. A list that is empty stands for anything.
#[derive(Serialize, ToSchema)]
#[schema(as = Mute)]
struct MuteItem {
    id: String,
    source: Vec<String>,
    r#type: Vec<String>,
    namespace: Vec<String>,
    target: Vec<String>,
    reason: String,
    author: String,
    created_at: String,
    until: String,
}

impl MuteItem {
    fn new(mute: &Mute) -> Self {
        let Mute { id, source, r#type, namespace, target, reason, author, created_at, until } = mute.clone();
        let (created_at, until) = (rfc3339_ms(created_at), rfc3339_ms(until));
        Self { id, source, r#type, namespace, target, reason, author, created_at, until }
    }
}
