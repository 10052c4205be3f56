//! `handshake: true`: a sender asks by OPTIONS whether it may deliver to a source, and is told yes.
//!
//! Facts: CloudEvents "HTTP 1.1 Web Hooks for Event Delivery" 1.0, section 4 (abuse protection). Consent is given at once, so
//! `WebHook-Request-Callback` is not called; the rate asked for (`WebHook-Request-Rate`) changes nothing in the one allowed.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    response::Response,
};

use super::source::Source;
use crate::config::decode::Rate;

/// Who asks.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
/// Who may deliver.
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
/// How many requests per minute.
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
/// What a source with a handshake is asked by.
const ALLOW: HeaderValue = HeaderValue::from_static("POST, OPTIONS");
/// Longest origin that is echoed, in bytes: that of a DNS name.
const ORIGIN_MAX: usize = 253;

/// The answer to a sender who asks `source` for its consent; `None`: nobody does, or the source is not to be asked.
pub(super) fn consent(source: &Source, method: &Method, headers: &HeaderMap) -> Option<Response> {
    if !source.handshake || method != Method::OPTIONS {
        return None;
    }
    let origin = origin(headers)?;
    let mut response = Response::new(Body::empty());
    let answered = response.headers_mut();
    answered.insert(header::ALLOW, ALLOW);
    answered.insert(ALLOWED_ORIGIN, origin);
    answered.insert(ALLOWED_RATE, source.rate_limit.map_or(HeaderValue::from_static("*"), |rate| per_minute(rate).into()));
    Some(response)
}

/// The one origin named in `headers`, if it is a DNS name, or looks like one with a port.
fn origin(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut named = headers.get_all(REQUEST_ORIGIN).iter();
    let origin = named.next().filter(|_| named.next().is_none())?;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:".contains(byte);
    let bytes = origin.as_bytes();
    ((1..=ORIGIN_MAX).contains(&bytes.len()) && bytes.iter().all(fits)).then(|| origin.clone())
}

/// `rate` per minute, rounded down; at least 1, as the header knows no less.
fn per_minute(rate: Rate) -> u64 {
    let seconds = rate.per.as_secs().max(1);
    (u64::from(rate.count).saturating_mul(60) / seconds).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_origin_is_one_name_of_bounded_length() {
        let of = |values: &[&str]| {
            let headers = values.iter().map(|value| (REQUEST_ORIGIN, HeaderValue::from_str(value).unwrap())).collect();
            origin(&headers)
        };
        assert_eq!(of(&["events.example.com"]).unwrap(), "events.example.com");
        for bad in [&[][..], &[""], &["*"], &["a b"], &["<a>"], &["a, b"], &["a", "a"], &["é"], &[&"a".repeat(254)]] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn rates_are_told_per_minute() {
        let rate = |count, seconds| per_minute(Rate { count, per: Duration::from_secs(seconds), burst: 1 });
        assert_eq!([rate(50, 1), rate(7, 60), rate(90, 3600), rate(1, 3600)], [3000, 7, 1, 1]);
    }
}
