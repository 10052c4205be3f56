//! What a path names: an id, and the subscription behind it.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
    response::{IntoResponse, Response},
};

use crate::{
    access::Caller,
    api::{Api, error::ApiError},
    subscriptions::{Refused, Subscription},
};

/// The id in the path. One that cannot be read is that of no subscription.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| Refused::NotFound.into())
    }
}

/// The subscription that the path names, if its caller may know of it.
pub(super) struct Found(pub(super) Arc<Subscription>);

impl FromRequestParts<Api> for Found {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, api).await?;
        let Id(id) = Id::from_request_parts(parts, api).await.map_err(IntoResponse::into_response)?;
        let found = api.subscriptions.get(&caller, &id).map_err(ApiError::from);
        found.map(Self).map_err(IntoResponse::into_response)
    }
}
