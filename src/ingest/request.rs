//! A request as received: what verifiers look at, and what quarantine keeps.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use bytes::Bytes;

use crate::clock::Timestamp;

/// A request with its whole body, exactly as it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw {
    /// Its method.
    pub(crate) method: Method,
    /// The path of its URL as sent, without the query.
    pub(crate) path: String,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
    /// When its last byte came.
    pub(crate) arrived_at: Timestamp,
    /// The address of the connection it came over.
    pub(crate) peer: IpAddr,
}

/// What a request says under one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given<'r> {
    /// The header is not there.
    Missing,
    /// It is there more than once.
    Repeated,
    /// Its value has bytes other than printable ASCII.
    NotText,
    /// Its one value.
    One(&'r str),
}

impl Raw {
    /// What stands under `name`.
    pub(crate) fn given(&self, name: &HeaderName) -> Given<'_> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Given::Missing,
            (Some(_), Some(_)) => Given::Repeated,
            (Some(value), None) => value.to_str().map_or(Given::NotText, Given::One),
        }
    }

    /// The one value under `name`; `None` when it is missing, repeated or not plain ASCII.
    pub(crate) fn one(&self, name: &HeaderName) -> Option<&str> {
        match self.given(name) {
            Given::One(text) => Some(text),
            _ => None,
        }
    }

    /// The media type the body came with, as sent.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    }

    /// Whether the body counts as JSON in UTF-8: no `Content-Type`, `application/json` or `*/*+json`, and no encoding.
    pub(crate) fn is_json(&self) -> bool {
        let types = self.headers.get_all(header::CONTENT_TYPE);
        let encodings = self.headers.get_all(header::CONTENT_ENCODING);
        types.iter().count() <= 1 && types.iter().all(is_json) && encodings.iter().all(is_identity)
    }
}

fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let suffixed = essence.split_once('/').is_some_and(|(kind, subtype)| !kind.is_empty() && subtype.ends_with("+json"));
    (essence == "application/json" || suffixed) && parts.all(is_harmless)
}

/// Any parameter but a character set that is not UTF-8 (or ASCII, a part of it).
fn is_harmless(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return true };
    let value = value.trim().trim_matches('"');
    !name.trim().eq_ignore_ascii_case("charset")
        || ["utf-8", "utf8", "us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known))
}

fn is_identity(value: &HeaderValue) -> bool {
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") || value.is_empty()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request to `path` with `headers` and `body`, at noon.
    pub(crate) fn request(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Raw {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Raw {
            method: Method::POST,
            path: path.to_owned(),
            headers: map,
            body: Bytes::copy_from_slice(body),
            arrived_at: "2026-01-20T12:00:00Z".parse().unwrap(),
            peer: IpAddr::from([192, 0, 2, 7]),
        }
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        let is_json = |headers: &[(&str, &str)]| request("/", headers, b"").is_json();
        assert!(is_json(&[]));
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/vnd.x+json",
            "application/json;charset=\"utf-8\";v=1",
        ] {
            assert!(is_json(&[("content-type", good)]), "{good}");
        }
        for bad in ["text/plain", "", "json", "application/json; charset=latin1", "application/x-www-form-urlencoded", "/+json"] {
            assert!(!is_json(&[("content-type", bad)]), "{bad}");
        }
        assert!(!is_json(&[("content-encoding", "gzip")]) && is_json(&[("content-encoding", "identity")]));
        assert!(!is_json(&[("content-type", "application/json"), ("content-type", "application/json")]));
    }

    #[test]
    fn a_header_counts_when_it_is_there_once_and_plain() {
        let name = HeaderName::from_static("x-a");
        let mut raw = request("/", &[("x-a", "1")], b"");
        assert_eq!(raw.given(&name), Given::One("1"));
        raw.headers.append(&name, HeaderValue::from_static("1"));
        assert_eq!((raw.given(&name), raw.one(&name)), (Given::Repeated, None));
        raw.headers.insert(&name, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(raw.given(&name), Given::NotText);
        raw.headers.remove(&name);
        assert_eq!(raw.given(&name), Given::Missing);
    }

    proptest! {
        #[test]
        fn no_media_type_breaks_it(text in "[ -~]{0,40}") {
            let _ = request("/", &[("content-type", &text)], b"").is_json();
        }
    }
}
