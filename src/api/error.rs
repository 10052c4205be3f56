//! What the API answers when it cannot do what it is asked: `{"error": "<code>", "message": "<one sentence>"}`.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::limits;
use crate::{config::report::Diagnostic, jobs::BeginError, reload::Rejected, store, subscriptions};

/// How long a caller is asked to wait while the store cannot be reached.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5"); // seconds
/// The same as a number.
const RETRY_AFTER_S: u32 = 5;

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
    /// More is asked than the token may ask, or too many wrong tokens come from this address; when to come back.
    #[error("too many requests: come back in {} s", limits::seconds(*.0))]
    RateLimited(Duration),
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
    /// The caller holds as much as it may of what lasts.
    #[error("{message}")]
    Crowded {
        /// What of.
        message: String,
        /// How much it may.
        limit: u32,
        /// When there will be more, in Unix seconds.
        reset_at: i64,
        /// How long to wait, in seconds.
        retry_after: u32,
    },
    /// All that the relay holds at once is in use, by whomever; says what.
    #[error("{0}")]
    Busy(&'static str),
    /// The file is bad, and nothing has changed; says everything that is wrong with it.
    #[error("{}", .0.error)]
    BadConfig(Box<Rejected>),
    /// What is asked of a subscription is refused.
    #[error(transparent)]
    Webhook(subscriptions::Refused),
    /// A subscription is to be tried out that is switched off.
    #[error("this webhook is disabled: toggle it to enable it again")]
    WebhookDisabled,
    /// No answer came from the URL of a subscription that is tried out; says why.
    #[error("{0}")]
    Unreachable(String),
    /// The store failed; its reason is for the log.
    #[error("the store cannot be reached")]
    Store(#[from] store::Error),
}

impl From<BeginError> for ApiError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::TooMany(_) => Self::TooMany(error.to_string()),
            BeginError::Store(error) => Self::Store(error),
        }
    }
}

impl From<subscriptions::Refused> for ApiError {
    fn from(refused: subscriptions::Refused) -> Self {
        match refused {
            subscriptions::Refused::Store(error) => Self::Store(error),
            refused => Self::Webhook(refused),
        }
    }
}

/// The status of each code of Interactor's (webhooks guide, "Webhook API Errors").
fn status(refused: &subscriptions::Refused) -> StatusCode {
    use subscriptions::Refused;
    match refused {
        Refused::NotFound => StatusCode::NOT_FOUND,
        Refused::Invalid { .. } | Refused::TooMany(_) => StatusCode::BAD_REQUEST,
        Refused::NoSecret => StatusCode::INTERNAL_SERVER_ERROR,
        Refused::ManySecrets(_) => StatusCode::TOO_MANY_REQUESTS,
        Refused::Releasing | Refused::Raced | Refused::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Every status that refuses, and its codes: what the document of the API says of them. A code that is missing here fails every test
/// that meets it.
pub(super) const CODES: &[(u16, &[&str])] = &[
    (400, &["invalid_request", "invalid_url", "invalid_events", "max_webhooks_exceeded", "webhook_disabled", "url_unreachable"]),
    (401, &["unauthorized"]),
    (403, &["forbidden", "invalid_signature"]),
    (404, &["not_found", "webhook_not_found"]),
    (405, &["method_not_allowed"]),
    (409, &["conflict"]),
    (413, &["payload_too_large"]),
    (422, &["invalid_config"]),
    (429, &["rate_limited", "too_many_jobs"]),
    (500, &["invalid_secret_format"]),
    (503, &["unavailable"]),
];

/// What a bad file is refused with.
#[derive(Serialize, ToSchema)]
pub(super) struct BadFile {
    /// `invalid_config`.
    error: &'static str,
    /// The first error and how many there are, in one line.
    message: String,
    /// Everything that is wrong with it.
    problems: Vec<Diagnostic>,
    /// How many further problems there are.
    left_off: usize,
}

impl ApiError {
    fn told(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Forged => (StatusCode::FORBIDDEN, "invalid_signature"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_jobs"),
            Self::Crowded { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::BadConfig(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_config"),
            Self::Webhook(refused) => (status(refused), refused.code()),
            Self::WebhookDisabled => (StatusCode::BAD_REQUEST, "webhook_disabled"),
            Self::Unreachable(_) => (StatusCode::BAD_REQUEST, "url_unreachable"),
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.told();
        debug_assert!(CODES.iter().any(|(known, codes)| *known == status.as_u16() && codes.contains(&code)), "{status} {code}");
        let message = self.to_string();
        let mut response = match &self {
            Self::BadConfig(rejected) => {
                let (problems, left_off) = (rejected.problems.clone(), rejected.left_off);
                (status, Json(BadFile { error: code, message, problems, left_off })).into_response()
            }
            Self::Crowded { retry_after, .. } => {
                (status, Json(json!({"error": code, "message": message, "retry_after": retry_after}))).into_response()
            }
            Self::TooMany(_) => {
                (status, Json(json!({"error": code, "message": message, "retry_after": RETRY_AFTER_S}))).into_response()
            }
            Self::RateLimited(wait) => {
                let retry_after = limits::seconds(*wait);
                (status, Json(json!({"error": code, "message": message, "retry_after": retry_after}))).into_response()
            }
            Self::Webhook(refused) if refused.retry_after().is_some() => {
                let retry_after = refused.retry_after();
                (status, Json(json!({"error": code, "message": message, "retry_after": retry_after}))).into_response()
            }
            _ => (status, Json(json!({"error": code, "message": message}))).into_response(),
        };
        match &self {
            Self::Unauthorized => _ = response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Self::RateLimited(wait) => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(limits::seconds(*wait)));
            }
            Self::Webhook(subscriptions::Refused::Releasing) => {
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            Self::Webhook(refused) => {
                if let Some(wait) = refused.retry_after() {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
                }
            }
            Self::Crowded { limit, reset_at, retry_after, .. } => {
                let headers = response.headers_mut();
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
                headers.insert("x-ratelimit-limit", HeaderValue::from(*limit));
                headers.insert("x-ratelimit-remaining", HeaderValue::from(0));
                headers.insert("x-ratelimit-reset", HeaderValue::from(*reset_at));
            }
            Self::Busy(_) | Self::TooMany(_) => _ = response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER),
            Self::Store(error) => {
                tracing::warn!("the API cannot answer: {error}");
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            _ => {}
        }
        response
    }
}
