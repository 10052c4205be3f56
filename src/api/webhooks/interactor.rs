//! `/api/v1/webhooks`: Interactor's dialect (webhooks guide, "Instructions").

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    bodies::{TrialAsked, WebhookAsked, WebhookChanged},
    deliveries::{self, DeliveryItem, EventItem},
    listed, log,
    named::{Found, Id},
    read, required, samples,
    shown::{LastDelivery, WebhookItem},
    trial::{self, TrialItem},
};
use crate::{
    access::Caller,
    api::{
        Api,
        deliveries::View,
        error::ApiError,
        list::{self, Listed, One, Paged, Params},
        openapi::{params::params, words},
    },
    clock::{later, rfc3339_s},
    subscriptions::{Dialect, OVERLAP, Subscription, Wanted},
};

params!(ListAsked = listed::PARAMS, "after" => Kind::WebhookCursor);
params!(
    LogAsked = log::PARAMS,
    "status" means "Standing so only: `delivered`, `failed` (after a failed attempt, or given up) or `pending`."
        => Kind::Words(log::words),
    "code" means "Last answered with this status only." => Kind::Code,
    "after" => Kind::DeliveryCursor,
);
params!(SamplesAsked = samples::PARAMS, "type" means "Of this type only; it may be a glob." => Kind::Text);

/// Makes one. The answer shows its secret, this once. Nothing is sent, and nobody is asked whether the URL can be reached: `…/test` does.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks",
    request_body = WebhookAsked,
    responses((status = 201, body = One<WebhookItem>), (status = 500, description = "no secret can be made now")),
)]
pub(super) async fn create(State(api): State<Api>, caller: Caller, body: Body) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&required(body).await?, Dialect::Interactor)?;
    let created = api.subscriptions.create(&caller, Dialect::Interactor, wanted).await?;
    let item = WebhookItem::new(&api, &caller, &created.subscription, LastDelivery::default());
    Ok(list::created(&item.with_secret(created.secret.reveal())))
}

/// All that the caller may know of, newest first.
#[utoipa::path(get, path = "/api/v1/webhooks", params(ListAsked), responses((status = 200, body = Paged<Webhooks>)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let (page, next) = listed::page(&api, &caller, query.as_deref())?;
    let mut webhooks = Vec::with_capacity(page.len());
    for it in page {
        webhooks.push(WebhookItem::new(&api, &caller, &it, LastDelivery::of(&api, &it).await?));
    }
    Ok(list::page_of(Webhooks { webhooks }, next))
}

/// One of them.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}", responses((status = 200, body = One<WebhookItem>)))]
pub(super) async fn one(State(api): State<Api>, caller: Caller, Found(it): Found) -> Result<Response, ApiError> {
    shown(&api, &caller, &it).await
}

/// Changes what the body says and leaves the rest, as the guide does by `PUT`.
#[utoipa::path(
    put,
    path = "/api/v1/webhooks/{id}",
    request_body = WebhookChanged,
    responses((status = 200, body = One<WebhookItem>), (status = 500, description = "its secrets cannot be read now")),
)]
pub(super) async fn update(State(api): State<Api>, caller: Caller, Id(id): Id, body: Body) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&required(body).await?, Dialect::Interactor)?;
    let updated = api.subscriptions.update(&caller, &id, wanted).await?;
    shown(&api, &caller, &updated.subscription).await
}

/// Changes what the body says and leaves the rest.
#[utoipa::path(
    patch,
    path = "/api/v1/webhooks/{id}",
    request_body = WebhookChanged,
    responses((status = 200, body = One<WebhookItem>), (status = 500, description = "its secrets cannot be read now")),
)]
pub(super) async fn patch(api: State<Api>, caller: Caller, id: Id, body: Body) -> Result<Response, ApiError> {
    update(api, caller, id, body).await
}

/// Switches it off where it is on: what comes for it is held. Switches it on where it is off: what was held is released, under a cap.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/toggle", responses((status = 200, body = One<WebhookItem>)))]
pub(super) async fn toggle(State(api): State<Api>, caller: Caller, Id(id): Id) -> Result<Response, ApiError> {
    let updated = api.subscriptions.toggle(&caller, &id, None).await?;
    shown(&api, &caller, &updated.subscription).await
}

/// Deletes it. What waits for it is held for a while, for another of the same token with the same URL.
#[utoipa::path(delete, path = "/api/v1/webhooks/{id}", responses((status = 200, body = One<Deleted>)))]
pub(super) async fn delete(State(api): State<Api>, caller: Caller, Id(id): Id) -> Result<Response, ApiError> {
    let deleted = api.subscriptions.delete(&caller, &id).await?;
    Ok(list::one(&Deleted { id: deleted.id.to_string(), deleted: true }))
}

/// Makes its secret anew. The answer shows it, this once; the former one signs beside it for 48 h. Five sign at once at most: another is
/// refused with 429 until the oldest has ended.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{id}/regenerate-secret",
    responses((status = 200, body = One<Regenerated>), (status = 500, description = "no secret can be made now")),
)]
pub(super) async fn regenerate_secret(State(api): State<Api>, caller: Caller, Id(id): Id) -> Result<Response, ApiError> {
    let made = api.subscriptions.regenerate(&caller, &id).await?;
    let at = made.subscription.regenerated_at.unwrap_or(made.subscription.updated_at);
    Ok(list::one(&Regenerated {
        id: made.subscription.id.to_string(),
        secret: made.secret.reveal().to_owned(),
        regenerated_at: rfc3339_s(at),
        previous_signs_until: rfc3339_s(later(at, OVERLAP)),
    }))
}

/// What was delivered to it, newest first, an entry for each event.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}/events", params(LogAsked), responses((status = 200, body = Paged<Events>)))]
pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    Found(it): Found,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wanted = log::Wanted::read(query.as_deref(), &it.id, u32::MAX)?;
    let logged = log::page(&api, &wanted).await?;
    let view = View::new(&api, &caller);
    let events = logged.entries.iter().map(|entry| EventItem::new(entry, &view)).collect();
    Ok(list::page_of(Events { events }, logged.next))
}

/// Its whole log: what was delivered to it, newest first, with each attempt.
#[utoipa::path(
    get,
    path = "/api/v1/webhooks/{id}/deliveries",
    params(LogAsked),
    responses((status = 200, body = Listed<DeliveryItem>)),
)]
pub(super) async fn deliveries(
    State(api): State<Api>,
    caller: Caller,
    Found(it): Found,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let (items, next) = whole_log(&api, &caller, &it, query.as_deref()).await?;
    Ok(list::page_of(items, next))
}

/// A page of the whole log.
pub(super) async fn whole_log(
    api: &Api,
    caller: &Caller,
    it: &Subscription,
    query: Option<&str>,
) -> Result<(Vec<DeliveryItem>, Option<String>), ApiError> {
    let wanted = log::Wanted::read(query, &it.id, deliveries::PAGE_MAX)?;
    let logged = log::page(api, &wanted).await?;
    let view = View::new(api, caller);
    let mut items = Vec::with_capacity(logged.entries.len());
    for entry in &logged.entries {
        items.push(DeliveryItem::new(api, entry, &view).await?);
    }
    Ok((items, logged.next))
}

/// Sends it a signed sample now, beside everything else, and answers with what its receiver said.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{id}/test",
    request_body = inline(TrialAsked),
    responses((status = 200, body = One<TrialItem>)),
)]
pub(super) async fn test(State(api): State<Api>, caller: Caller, Found(it): Found, body: Body) -> Result<Response, ApiError> {
    let tried: TrialItem = trial::make(&api, &caller, &it, read(body).await?.as_ref()).await?;
    Ok(list::one(&tried))
}

/// The event types that can be subscribed to.
#[utoipa::path(
    get,
    path = "/api/v1/webhooks/event-types",
    responses((status = 200, body = One<EventTypes>), (status = 400, description = "it takes no parameters")),
)]
pub(super) async fn event_types(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Params::from_query(query.as_deref(), &[])?;
    Ok(list::one(&EventTypes { event_types: api.subscriptions.types().list(caller.namespaces.as_ref()) }))
}

/// An example of each type as it is delivered, for whoever maps fields before the first event has come. Of `type` only, which may be
/// a glob.
#[utoipa::path(get, path = "/api/v1/webhooks/samples", params(SamplesAsked), responses((status = 200, body = Listed<words::Envelope>)))]
pub(super) async fn samples(State(api): State<Api>, caller: Caller, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &samples::PARAMS)?;
    let types = api.subscriptions.types().list(caller.namespaces.as_ref());
    Ok(list::whole(samples::of(&types, params.take("type").as_deref(), api.engine.now())?))
}

async fn shown(api: &Api, caller: &Caller, it: &Subscription) -> Result<Response, ApiError> {
    Ok(list::one(&WebhookItem::new(api, caller, it, LastDelivery::of(api, it).await?)))
}

/// A page of subscriptions.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookPage)]
struct Webhooks {
    webhooks: Vec<WebhookItem>,
}

/// A page of what was delivered.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookEventPage)]
struct Events {
    events: Vec<EventItem>,
}

/// Every event type that can be subscribed to.
#[derive(Serialize, ToSchema)]
#[schema(as = EventTypes)]
struct EventTypes {
    event_types: Vec<String>,
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
#[schema(as = DeletedWebhook)]
pub(super) struct Deleted {
    pub(super) id: String,
    pub(super) deleted: bool,
}

/// A secret that was made anew.
#[derive(Serialize, ToSchema)]
#[schema(as = RegeneratedSecret)]
struct Regenerated {
    id: String,
    /// Shown once.
    secret: String,
    regenerated_at: String,
    /// Until then the former secret signs beside it.
    previous_signs_until: String,
}
