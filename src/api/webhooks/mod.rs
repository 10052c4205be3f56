//! `/api/v1/webhooks` and `/api/webhooks`: subscriptions, in Interactor's dialect and in Honeyframe's. Both show the same ones.
//!
//! Facts: Interactor webhooks guide ("Instructions", "Webhook API Errors"), Honeyframe webhooks page ("What's planned"). Where those say
//! nothing: members of a body that nobody knows are ignored, but for those that look like a misspelt one; what is deleted is answered
//! with 200 and a body, as everything else is, so that a client that reads JSON from every answer has some.

use axum::body::Body;
use serde_json::Value;

use super::{
    body::{BODY_TIME, bytes},
    error::ApiError,
    openapi::routed::{Routed, routes},
};
use crate::json;

mod bodies;
mod deliveries;
mod honeyframe;
mod interactor;
mod listed;
mod log;
mod named;
mod samples;
mod shown;
mod trial;

/// The routes of both dialects.
pub(super) fn routes() -> Vec<Routed> {
    vec![
        routes!(interactor::list, interactor::create),
        routes!(interactor::event_types),
        routes!(interactor::samples),
        routes!(interactor::one, interactor::update, interactor::patch, interactor::delete),
        routes!(interactor::toggle),
        routes!(interactor::regenerate_secret),
        routes!(interactor::events),
        routes!(interactor::deliveries),
        routes!(interactor::test),
        routes!(honeyframe::list, honeyframe::create),
        routes!(honeyframe::one, honeyframe::delete),
        routes!(honeyframe::deliveries),
    ]
}

/// Longest body, in bytes: every member at its longest.
const BODY_MAX: usize = 128 * 1024;

/// The JSON of a body that must have some.
async fn required(body: Body) -> Result<Value, ApiError> {
    read(body).await?.ok_or_else(|| ApiError::Invalid("the body is a JSON object".to_owned()))
}

/// The JSON of a body, where there is any.
async fn read(body: Body) -> Result<Option<Value>, ApiError> {
    let bytes = bytes(body, BODY_MAX, BODY_TIME).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    if json::too_deep(&bytes) {
        return Err(ApiError::Invalid("the body nests too deep".to_owned()));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|_| ApiError::Invalid("the body is not JSON".to_owned()))
}
