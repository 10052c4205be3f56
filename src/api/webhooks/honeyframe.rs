//! `/api/webhooks`: Honeyframe's dialect (webhooks page, "What's planned"): plain objects, without `data`.

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    bodies::PlainAsked,
    deliveries::DeliveryItem,
    interactor::{Deleted, ListAsked, LogAsked, whole_log},
    listed,
    named::{Found, Id},
    required,
    shown::{LastDelivery, PlainItem},
};
use crate::{
    access::Caller,
    api::{Api, error::ApiError},
    subscriptions::{Dialect, Subscription, Wanted},
};

/// Makes one of `event_type`, `target_url` and `secret`, which signs its deliveries and is never shown. `signing` of the answer says by
/// which schemes: `standard` is among them where the secret fits it.
#[utoipa::path(post, path = "/api/webhooks", request_body = PlainAsked, responses((status = 201, body = PlainItem), (status = 500, description = "the secret cannot be kept now")))]
pub(super) async fn create(State(api): State<Api>, caller: Caller, body: Body) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&required(body).await?, Dialect::Honeyframe)?;
    let created = api.subscriptions.create(&caller, Dialect::Honeyframe, wanted).await?;
    Ok((StatusCode::CREATED, Json(PlainItem::new(&api, &caller, &created.subscription, LastDelivery::default()))).into_response())
}

/// All that the caller may know of, newest first.
#[utoipa::path(get, path = "/api/webhooks", params(ListAsked), responses((status = 200, body = Webhooks)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let (page, next) = listed::page(&api, &caller, query.as_deref())?;
    let mut webhooks = Vec::with_capacity(page.len());
    for it in page {
        webhooks.push(item(&api, &caller, &it).await?);
    }
    Ok(Json(Webhooks { webhooks, next }).into_response())
}

/// One of them.
#[utoipa::path(get, path = "/api/webhooks/{id}", responses((status = 200, body = PlainItem)))]
pub(super) async fn one(State(api): State<Api>, caller: Caller, Found(it): Found) -> Result<Response, ApiError> {
    Ok(Json(item(&api, &caller, &it).await?).into_response())
}

/// Deletes it. What waits for it is held for a while, for another of the same token with the same URL.
#[utoipa::path(delete, path = "/api/webhooks/{id}", responses((status = 200, body = Deleted)))]
pub(super) async fn delete(State(api): State<Api>, caller: Caller, Id(id): Id) -> Result<Response, ApiError> {
    let deleted = api.subscriptions.delete(&caller, &id).await?;
    Ok(Json(Deleted { id: deleted.id.to_string(), deleted: true }).into_response())
}

/// Its whole log: what was delivered to it, newest first, with each attempt.
#[utoipa::path(get, path = "/api/webhooks/{id}/deliveries", params(LogAsked), responses((status = 200, body = Deliveries)))]
pub(super) async fn deliveries(
    State(api): State<Api>,
    caller: Caller,
    Found(it): Found,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (deliveries, next) = whole_log(&api, &caller, &it, query.as_deref()).await?;
    Ok(Json(Deliveries { deliveries, next }).into_response())
}

async fn item(api: &Api, caller: &Caller, it: &Subscription) -> Result<PlainItem, ApiError> {
    Ok(PlainItem::new(api, caller, it, LastDelivery::of(api, it).await?))
}

/// A page of subscriptions.
#[derive(Serialize, ToSchema)]
#[schema(as = PlainWebhookPage)]
struct Webhooks {
    webhooks: Vec<PlainItem>,
    /// Ask with it as `after` for the next page; null where there is none.
    #[schema(required)]
    next: Option<String>,
}

/// A page of what was delivered.
#[derive(Serialize, ToSchema)]
#[schema(as = PlainDeliveryPage)]
struct Deliveries {
    deliveries: Vec<DeliveryItem>,
    /// Ask with it as `after` for the next page; null where there is none.
    #[schema(required)]
    next: Option<String>,
}
