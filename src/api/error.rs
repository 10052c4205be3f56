//! What the API answers when it cannot do what it is asked: `{"error": "<code>", "message": "<one sentence>"}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{jobs::BeginError, reload::Rejected, store};

/// How long a caller is asked to wait while the store cannot be reached.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5"); // seconds

/// Why a request to the API is refused. The text is for the caller; causes go to the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// A parameter that is not known, or whose value does not fit; names it.
    #[error("{0}")]
    Invalid(String),
    /// No bearer token, a wrong one, or none is set.
    #[error("a bearer token is needed")]
    Unauthorized,
    /// A token that does not allow this; says why not.
    #[error("{0}")]
    Forbidden(String),
    /// A signature that is not whose it should be.
    #[error("the signature is wrong")]
    Forged,
    /// No such thing.
    #[error("no {0} is here")]
    NotFound(&'static str),
    /// What is asked does not go with how things stand; says why.
    #[error("{0}")]
    Conflict(String),
    /// The path exists, for another method.
    #[error("this path does not take this method")]
    MethodNotAllowed,
    /// The body is longer than any filter.
    #[error("the body is too large")]
    TooLarge,
    /// As much is asked for already as the relay does at a time; says what.
    #[error("{0}")]
    TooMany(String),
    /// The file is bad, and nothing has changed; says everything that is wrong with it.
    #[error("{}", .0.error)]
    BadConfig(Box<Rejected>),
    /// The store failed; its reason is for the log.
    #[error("the store cannot be reached")]
    Store(#[from] store::Error),
}

impl From<BeginError> for ApiError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::TooMany => Self::TooMany(error.to_string()),
            BeginError::Store(error) => Self::Store(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Forged => (StatusCode::FORBIDDEN, "invalid_signature"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_jobs"),
            Self::BadConfig(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_config"),
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        let mut body = json!({"error": code, "message": self.to_string()});
        if let Self::BadConfig(rejected) = &self {
            body["problems"] = json!(rejected.problems);
            body["left_off"] = json!(rejected.left_off);
        }
        let mut response = (status, Json(body)).into_response();
        match &self {
            Self::Unauthorized => _ = response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Self::Store(error) => {
                tracing::warn!("the API cannot answer: {error}");
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            _ => {}
        }
        response
    }
}
