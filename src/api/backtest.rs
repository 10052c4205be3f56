//! `/api/v1/config/backtest`: stored events with what today's rules plan for them, for whoever holds another file against them. Needs
//! `config:read` and `events:read`, once tokens have scopes. Off the hot path: it reads as lists do, and plans on its own.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    Api,
    error::ApiError,
    events,
    list::{self, Params},
    openapi::{params::params, words},
};
use crate::{
    explain::backtest::Summary,
    store::{EventRow, Page},
};

/// Most events of a page, whatever `limit` says,
const EVENTS_MAX: u32 = 500;
/// and bytes of their bodies after which a page ends.
const BYTES_MAX: usize = 8 * 1024 * 1024;

const PARAMS: [&str; 3] = ["since", "limit", "after"];
params!(Asked = PARAMS, "after" => Kind::BackCursor);

/// A page of events since `since`, newest first, the relay's own included.
#[utoipa::path(get, path = "/api/v1/config/backtest", params(Asked), responses((status = 200, body = Answer)))]
pub(super) async fn page(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &PARAMS)?;
    let mut filter = list::filter(&mut params, |_| None)?;
    if let Page::After(_) = filter.page {
        return Err(list::invalid("after", "is not a cursor of this list: it goes from the newest event back"));
    }
    // The store would look on for older ones at the end; here they come first to last, and the first that is too old ends it.
    let since = filter.since.take();
    filter.limit = filter.limit.min(EVENTS_MAX);
    let rows = api.store.events(filter.clone()).await?;
    let full = usize::try_from(filter.limit).is_ok_and(|limit| limit <= rows.len());
    let (mut items, mut bytes, mut next) = (Vec::new(), 0, None);
    for row in rows {
        if since.is_some_and(|since| row.envelope.received_at < since) {
            return Ok(answer(items, None));
        }
        let seq = row.uid.seq;
        // It may have gone meanwhile.
        if let Some(row) = api.store.event(row.uid).await? {
            bytes += row.envelope.body.len();
            items.push(Item::new(&api, &row));
        }
        next = Some(format!("b{seq}"));
        if BYTES_MAX < bytes {
            return Ok(answer(items, next));
        }
    }
    Ok(answer(items, next.filter(|_| full)))
}

fn answer(data: Vec<Item>, next: Option<String>) -> Response {
    axum::response::IntoResponse::into_response(axum::Json(Answer { data, next }))
}

/// A page of events and what becomes of them.
#[derive(Serialize, ToSchema)]
#[schema(as = BacktestPage)]
struct Answer {
    data: Vec<Item>,
    next: Option<String>,
}

/// One event, and what today's rules plan for it.
#[derive(Serialize, ToSchema)]
#[schema(as = Backtested)]
struct Item {
    uid: String,
    #[schema(value_type = words::Envelope)]
    envelope: Box<RawValue>,
    plan: Summary,
}

impl Item {
    fn new(api: &Api, row: &EventRow) -> Self {
        Self { uid: row.uid.to_string(), envelope: events::raw(&row.envelope), plan: api.running.summary(&row.envelope) }
    }
}
