//! `/api/v1/stream`: events as they are committed, as server-sent events; and `/api/sse-token`, which gives browsers a pass for it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Extension, RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::{
    feed::{Bounds, Feed},
    pass::Pass,
};
use super::{
    Api,
    body::texts,
    ending::Ending,
    error::ApiError,
    follow::{self, Cursor, Following, Types},
    list::{self, Params},
    openapi::{params::params, words},
    places::Taken,
};
use crate::{
    access::Caller,
    clock::{Timestamp, until},
    envelope::EventUid,
    listen::Peer,
    store::Filter,
};

mod body;
mod feed;
mod frame;
pub(super) mod pass;

/// Streams that one token may have open (Interactor webhooks guide, "Rate Limits").
pub(super) const EACH_MAX: usize = 10;
/// Streams that may be open.
pub(super) const ALL_MAX: usize = 1000;
/// How long what was sent may be on its way before whoever reads counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Events of one page of a stream.
const PAGE_ROWS: u32 = 200;
/// Bytes of bodies after which a page of a stream ends.
const PAGE_BYTES: usize = 64 * 1024;

const PARAMS: [&str; 5] = ["after", "type", "source", "namespace", "token"];
params!(
    Asked = PARAMS,
    "after" means "Behind what the stream begins: the id of an event of a stream, or `0`; now without it." => Kind::StreamCursor,
    "type" => Kind::Globs,
    "token" means "Of `/api/sse-token`, in the place of a bearer token, which browsers cannot send with a stream." => Kind::Text,
);
const REPEATED: [&str; 2] = ["type", "namespace"];
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Events as they are committed, as server-sent events. From behind `Last-Event-ID` or `after`, else from now on; each with its uid as `id`,
/// its type as `event` and its envelope as `data`. A `heartbeat` comes every 30 s. Ends with `lagging` or `expired`, whose data says `after`
/// what to go on, where whoever reads is too slow or its token has ended.
#[utoipa::path(
    get,
    path = "/api/v1/stream",
    params(Asked),
    responses((status = 200, description = "Events, until one side ends it.", body = words::StreamEvent, content_type = "text/event-stream")),
)]
pub(super) async fn open(
    State(api): State<Api>,
    caller: Caller,
    pass: Option<Extension<Pass>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut params = Params::repeating(query.as_deref(), &PARAMS, &REPEATED)?;
    let pass = pass.map(|Extension(pass)| pass);
    let cursor = cursor(&mut params, &headers)?;
    let namespaces = follow::namespaces(&mut params, "namespace", &caller)?;
    let allowed = pass.as_ref().map(|pass| pass.types.clone()).unwrap_or_default();
    // It was made here: only another version of the relay's could find it wrong.
    let types = Types::take(&mut params, "type")?.and(Types::read(allowed).map_err(|_| ApiError::Unauthorized)?);
    let filter = Filter {
        source: params.take("source"),
        namespaces: namespaces.map(|names| names.into_iter().collect()),
        limit: PAGE_ROWS,
        ..Filter::default()
    };
    let place = api.lasting.streams.take(&caller.id).map_err(|taken| crowded(taken, api.clock.now()))?;
    let from = cursor.unwrap_or_else(|| Cursor::at(*api.store.newest().borrow()));
    let (filter, store) = (follow::within(filter, &caller), api.store.clone());
    let mut following = Following::new(store, from, filter, types, true, PAGE_BYTES).await?;
    // The first page tells whether the cursor is ours, while that can still be answered.
    let leaf = following.look().await?;
    let begin = EventUid { seq: from.place, ..leaf.upto };
    let mut first = frame::first(begin);
    first.extend(feed::frames(&leaf));
    let (writer, body) = body::body();
    let token = Ending::of(&api, &caller, pass.map(|pass| pass.expires_at));
    let peer = peer.map(|Extension(peer)| {
        peer.vanishes_after(SILENCE_MAX);
        Arc::new(peer)
    });
    let bounds = Bounds { clock: api.clock.clone(), stop: api.stop.clone(), token, peer };
    tokio::spawn(Feed { following, writer, bounds, place }.run(first, begin, leaf.upto));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// A token for the streams of a browser. Good for five minutes and for streams only, of the types and namespaces that the body names, within
/// those of whoever asks; it ends with the token that asked.
#[utoipa::path(
    post,
    path = "/api/sse-token",
    request_body = inline(PassAsked),
    responses((status = 200, body = PassItem)),
)]
pub(super) async fn pass(State(api): State<Api>, caller: Caller, body: Body) -> Result<Response, ApiError> {
    let [types, namespaces] = texts(body, ["types", "namespaces"]).await?;
    Types::read(types.clone()).map_err(|reason| list::invalid("types", &reason))?;
    let namespaces = follow::own(namespaces, &caller)?;
    let now = api.clock.now();
    let token_ends = api.tokens.get(&caller.id).and_then(|token| token.expires_at);
    let pass = Pass::new(&caller.id, types, namespaces, now, token_ends);
    let secret = api.kept_of(&caller.id).ok_or(ApiError::Unauthorized)?;
    let token = pass.seal(&api.sealer, &secret).ok_or_else(|| {
        ApiError::Invalid("so many types and namespaces do not fit into the URL of a stream: name fewer, or use globs".to_owned())
    })?;
    let expires_in = until(now, pass.expires_at).as_secs_f64().ceil();
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, Json(PassItem { token, expires_in: expires_in as u64 })).into_response())
}

/// What a pass is asked for with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the document's shape of what is read by name")]
struct PassAsked {
    /// Types and globs; without any, all types.
    types: Option<Vec<String>>,
    /// Among those of the token that asks; without any, all of its own.
    namespaces: Option<Vec<String>>,
}

/// A pass, as it is answered.
#[derive(Serialize, ToSchema)]
#[schema(as = Pass)]
#[serde(rename_all = "camelCase")]
struct PassItem {
    /// For the `token` of a stream; shown once, kept nowhere.
    token: String,
    /// How long it is good, in seconds.
    expires_in: u64,
}

/// Where the stream begins, if not now. What a browser saw last counts more than what its page asked for at first.
fn cursor(params: &mut Params, headers: &HeaderMap) -> Result<Option<Cursor>, ApiError> {
    // A page that has seen nothing yet may say so by an empty one.
    let after = params.take("after").filter(|after| !after.is_empty());
    let wanted = "is not a cursor: the id of an event of a stream, or 0";
    let after = after.map(|after| Cursor::parse(&after).ok_or_else(|| list::invalid("after", wanted))).transpose()?;
    let Some(last) = headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty()) else { return Ok(after) };
    let last = last.to_str().ok().and_then(Cursor::parse);
    last.map(Some).ok_or_else(|| ApiError::Invalid("`Last-Event-ID` is not the id of an event of a stream".to_owned()))
}

/// How long somebody without a place is asked to wait, in seconds: a connection that broke is found out by then.
const AGAIN_S: u32 = 30;

fn crowded(taken: Taken, now: Timestamp) -> ApiError {
    match taken {
        Taken::ByToken => ApiError::Crowded {
            message: format!("this token has {EACH_MAX} streams open, which is all it may: close one"),
            limit: u32::try_from(EACH_MAX).unwrap_or(u32::MAX),
            reset_at: now.as_second() + i64::from(AGAIN_S),
            retry_after: AGAIN_S,
        },
        Taken::ByAll => ApiError::Busy("as many streams are open as the relay holds"),
    }
}
