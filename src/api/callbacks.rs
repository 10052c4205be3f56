//! `/callbacks/…` on the public listener: reports of those that messages go through. Whoever signs is let through, nobody else.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{Api, error::ApiError};
use crate::{deliver::Heard, store};

/// Largest report, in bytes.
const BODY_MAX: usize = 16 * 1024;
/// Longest time its body may take.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Twilio's report on a message of a destination.
pub(super) async fn twilio(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Ok(Path(name)) = name else { return Err(ApiError::NotFound("page")) };
    let Ok(Ok(body)) = timeout(BODY_WITHIN, to_bytes(body, BODY_MAX)).await else {
        return Err(ApiError::Invalid("a report has at most 16 KiB and comes within 10 s".to_owned()));
    };
    let signature = headers.get("x-twilio-signature").map_or(&b""[..], |value| value.as_bytes());
    match api.engine.twilio(&name, &query.unwrap_or_default(), signature, &body).await {
        Heard::Taken => Ok(StatusCode::NO_CONTENT.into_response()),
        Heard::Nobody => Err(ApiError::NotFound("page")),
        Heard::Forged => Err(ApiError::Forged),
        Heard::Senseless => Err(ApiError::Invalid("the report names no delivery and attempt".to_owned())),
        Heard::Later => Err(store::Error::Full("a report cannot be taken now".to_owned()).into()),
    }
}
