//! `/api/v1/secrets/rekey`: what former encryption keys sealed, sealed anew under today's.

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api, body,
    error::ApiError,
    list::{self, One},
    openapi::params::params,
};
use crate::{
    access::Caller,
    rekey::{Counted, Slice},
};

const PARAMS: [&str; 1] = ["after"];
params!(Asked = PARAMS, "after" means "`next` of the slice before; without it, from the beginning." => Kind::Slice);

/// Seals anew a slice of what is sealed under `security.previous_encryption_keys`. Ask with `next` as `after` until it is null; what is
/// under today's key is left alone, so that it may begin again at any time.
#[utoipa::path(post, path = "/api/v1/secrets/rekey", request_body = inline(Asked), responses((status = 200, body = One<SliceItem>)))]
pub(super) async fn rekey(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = body::params(query.as_deref(), body, &PARAMS).await?;
    let place = |text: &str| text.parse().ok().filter(|after: &i64| 0 <= *after);
    let after = params.take_as("after", "the `next` of a slice", place)?.unwrap_or_default();
    let slice = api.engine.rekey(after).await?;
    let item = SliceItem::of(slice);
    if 0 < slice.subscriptions.sealed + slice.rejections.sealed {
        tracing::info!(by = %caller.id, subscriptions = slice.subscriptions.sealed, rejections = slice.rejections.sealed, "sealed anew");
        api.note(&caller, "secrets.rekeyed", "encryption_key", Value::Null, json!(item)).await;
    }
    Ok(list::one(&item))
}

/// What came of a slice.
#[derive(Serialize, ToSchema)]
#[schema(as = Rekeyed)]
struct SliceItem {
    /// Of subscriptions; all of them are in the first slice.
    subscriptions: CountedItem,
    /// Of quarantined requests.
    rejections: CountedItem,
    /// Null at the end.
    #[schema(required)]
    next: Option<String>,
}

/// How many things of one sort there were.
#[derive(Serialize, ToSchema)]
#[schema(as = RekeyedCount)]
struct CountedItem {
    /// Sealed anew.
    sealed: u64,
    /// Under today's key already.
    current: u64,
    /// Under a key that is not known: left as they are.
    closed: u64,
}

impl SliceItem {
    fn of(slice: Slice) -> Self {
        let counted = |Counted { sealed, current, closed }| CountedItem { sealed, current, closed };
        Self {
            subscriptions: counted(slice.subscriptions),
            rejections: counted(slice.rejections),
            next: slice.next.map(|next| next.to_string()),
        }
    }
}
