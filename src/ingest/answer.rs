//! What senders read: success and error answers, exactly as `product.md` writes them.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::clock::{Timestamp, later};

/// Why a request is not accepted, as its sender reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    /// No source answers on this path.
    NotFound,
    /// Something else than `POST`.
    MethodNotAllowed,
    /// The body is larger than `server.max_body`.
    PayloadTooLarge,
    /// The body did not come in time.
    RequestTimeout,
    /// The timestamp is missing, unreadable or outside the tolerance.
    InvalidTimestamp,
    /// The signature is missing, malformed or of another key or body.
    InvalidSignature,
    /// The static header is missing or has another value.
    InvalidHeader,
    /// The body is not said to be JSON, or is compressed.
    UnsupportedMediaType,
    /// The body is not JSON, or nests deeper than [`crate::json::DEPTH_MAX`].
    InvalidJson,
    /// The body is JSON, but not of the kind's shape.
    InvalidEvent,
    /// Too many requests.
    RateLimited,
    /// Nothing can be kept now.
    Unavailable,
}

impl Code {
    /// Every code, its status, its word, and the sentence its sender reads, which says no more than the code.
    const ALL: [(Self, StatusCode, &'static str, &'static str); 12] = [
        (Self::NotFound, StatusCode::NOT_FOUND, "not_found", "Nothing answers on this path."),
        (Self::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Only POST is allowed here."),
        (Self::PayloadTooLarge, StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "The body is too large."),
        (Self::RequestTimeout, StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body did not arrive in time."),
        (Self::InvalidTimestamp, StatusCode::UNAUTHORIZED, "invalid_timestamp", "The timestamp is not valid."),
        (Self::InvalidSignature, StatusCode::UNAUTHORIZED, "invalid_signature", "The signature is not valid."),
        (Self::InvalidHeader, StatusCode::UNAUTHORIZED, "invalid_header", "The header that proves the sender is not valid."),
        (
            Self::UnsupportedMediaType,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "The body must be JSON, not compressed.",
        ),
        (Self::InvalidJson, StatusCode::BAD_REQUEST, "invalid_json", "The body is not valid JSON, or nests deeper than 100."),
        (Self::InvalidEvent, StatusCode::BAD_REQUEST, "invalid_event", "The body is not a valid event."),
        (Self::RateLimited, StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests."),
        (Self::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Nothing can be taken in now; try again later."),
    ];

    /// How many codes there are.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// Its place among all codes.
    pub(crate) fn index(self) -> usize {
        Self::ALL.iter().position(|row| row.0 == self).unwrap_or_default()
    }

    /// The words of all codes, by [`Code::index`].
    pub(crate) fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|row| row.2)
    }

    fn row(self) -> (StatusCode, &'static str, &'static str) {
        let row = Self::ALL.iter().find(|row| row.0 == self);
        row.map_or((StatusCode::INTERNAL_SERVER_ERROR, "internal", ""), |row| (row.1, row.2, row.3))
    }

    /// The HTTP status it is answered with.
    pub(crate) fn status(self) -> StatusCode {
        self.row().0
    }

    /// Its word in answers, logs and metrics.
    pub(crate) fn word(self) -> &'static str {
        self.row().1
    }

    /// One sentence for the sender.
    pub(crate) fn message(self) -> &'static str {
        self.row().2
    }
}

/// Why a request is not accepted: a code for its sender, and what the rejection log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// For the sender.
    pub(crate) code: Code,
    /// For the log, where the verifier knows more than its code says; else the doctor is asked.
    pub(crate) reason: Option<Cow<'static, str>>,
}

impl Rejection {
    /// A rejection that the log explains with `reason`.
    pub(crate) fn because(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: Some(reason.into()) }
    }
}

impl From<Code> for Rejection {
    fn from(code: Code) -> Self {
        Self { code, reason: None }
    }
}

/// How long a sender that is told to come back later should wait, when nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a sender is told about a limit it ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    /// How many requests may come at once.
    pub(crate) limit: u32,
    /// How long until the next is let through.
    pub(crate) wait: Duration,
}

/// `200`: the event is held.
pub(crate) fn received(id: &str, duplicate: bool) -> Response {
    let body =
        if duplicate { json!({"received": true, "id": id, "duplicate": true}) } else { json!({"received": true, "id": id}) };
    json_response(StatusCode::OK, &body)
}

/// The error answer of `code`.
pub(crate) fn error(code: Code) -> Response {
    let mut response = json_response(code.status(), &json!({"error": code.word(), "message": code.message()}));
    match code {
        Code::MethodNotAllowed => set(response.headers_mut(), header::ALLOW.as_str(), "POST".to_owned()),
        Code::Unavailable => set(response.headers_mut(), header::RETRY_AFTER.as_str(), RETRY_AFTER.as_secs().to_string()),
        _ => {}
    }
    response
}

/// `429`, with when to come back: `Retry-After` and `retry_after` in seconds, `X-RateLimit-Reset` in Unix seconds
/// (Interactor webhooks guide, "Rate Limiting").
pub(crate) fn rate_limited(limited: Limited, now: Timestamp) -> Response {
    let code = Code::RateLimited;
    let seconds = limited.wait.as_secs().saturating_add(1).min(3600);
    let body = json!({"error": code.word(), "message": code.message(), "retry_after": seconds});
    let mut response = json_response(code.status(), &body);
    let reset = later(now, Duration::from_secs(seconds)).as_second();
    let headers = response.headers_mut();
    set(headers, "retry-after", seconds.to_string());
    set(headers, "x-ratelimit-limit", limited.limit.to_string());
    set(headers, "x-ratelimit-remaining", "0".to_owned());
    set(headers, "x-ratelimit-reset", reset.to_string());
    response
}

fn set(headers: &mut HeaderMap, name: &'static str, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> String {
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 4096).await.unwrap();
        let headers: Vec<_> = parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        format!("{} {} {}", parts.status.as_u16(), headers.join("; "), String::from_utf8_lossy(&body))
    }

    #[tokio::test]
    async fn answers_read_as_promised() {
        insta::assert_snapshot!(text(received("evt_1", false)).await, @r#"200 content-type: application/json {"received":true,"id":"evt_1"}"#);
        insta::assert_snapshot!(text(received("evt_1", true)).await, @r#"200 content-type: application/json {"received":true,"id":"evt_1","duplicate":true}"#);
        insta::assert_snapshot!(text(error(Code::InvalidSignature)).await, @r#"401 content-type: application/json {"error":"invalid_signature","message":"The signature is not valid."}"#);
        insta::assert_snapshot!(text(error(Code::MethodNotAllowed)).await, @r#"405 content-type: application/json; allow: POST {"error":"method_not_allowed","message":"Only POST is allowed here."}"#);
        insta::assert_snapshot!(text(error(Code::Unavailable)).await, @r#"503 content-type: application/json; retry-after: 5 {"error":"unavailable","message":"Nothing can be taken in now; try again later."}"#);
        let limited = Limited { limit: 100, wait: Duration::from_millis(1500) };
        insta::assert_snapshot!(text(rate_limited(limited, Timestamp::UNIX_EPOCH)).await, @r#"429 content-type: application/json; retry-after: 2; x-ratelimit-limit: 100; x-ratelimit-remaining: 0; x-ratelimit-reset: 2 {"error":"rate_limited","message":"Too many requests.","retry_after":2}"#);
    }

    #[test]
    fn every_code_has_its_row() {
        assert!(Code::ALL.iter().all(|row| row.0.word() == row.2 && !row.0.message().is_empty() && row.0.status() == row.1));
    }
}
