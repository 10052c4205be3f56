//! `/api/v1/erasures`: events taken out of the store for good, as a job: one of them, all of a person, all of a namespace.

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::Response,
};

use super::{
    Api, body,
    error::ApiError,
    jobs::{Bulk, Counted},
    list::{self, One},
    openapi::params::params,
};
use crate::{
    access::Caller,
    jobs::{Kind, Shown},
    store::Filter,
};

const PARAMS: [&str; 7] = ["event", "id", "subject", "namespace", "source", "rate", "dry_run"];
params!(
    Asked = PARAMS,
    "event" means "This event, by its `uid`." => Kind::Event,
    "id" means "Events with this id of their sender's." => Kind::Text,
    "subject" means "Events with this subject." => Kind::Text,
    "namespace" means "Events of this namespace." => Kind::Text,
);

/// Erases events with their bodies, deliveries, attempts and digests, whatever became of them; what waits of them is not sent. Exactly one
/// of `event`, `id`, `subject` and `namespace` says which. The job does not repeat ids and subjects once it has ended.
#[utoipa::path(
    post,
    path = "/api/v1/erasures",
    request_body = inline(Asked),
    responses((status = 200, body = One<Counted>), (status = 201, body = One<Shown>)),
)]
pub(super) async fn make(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = body::params(query.as_deref(), body, &PARAMS).await?;
    let bulk = Bulk::take(&mut params)?;
    let filter = Filter {
        event: params.take_as("event", "an event's uid", |text| text.parse().ok())?,
        id: params.take("id"),
        subject: params.take("subject"),
        namespaces: params.take("namespace").map(|namespace| vec![namespace]),
        source: params.take("source"),
        ..Filter::default()
    };
    let named = [filter.event.is_some(), filter.id.is_some(), filter.subject.is_some(), filter.namespaces.is_some()];
    if named.iter().filter(|named| **named).count() != 1 {
        return Err(ApiError::Invalid("one of `event`, `id`, `subject` and `namespace` says what is erased".to_owned()));
    }
    if filter.event.is_some() && filter.source.is_some() {
        return Err(list::invalid("source", "goes with `id`, `subject` and `namespace` only"));
    }
    bulk.go(&api, &caller, Kind::Erase, filter).await
}
