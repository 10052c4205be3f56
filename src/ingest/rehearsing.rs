//! The event that a body would become, without a request: for rehearsals, from which nothing goes on.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;

use super::{Raw, envelope, source::Source};
use crate::{
    clock::Timestamp,
    envelope::{Envelope, JSON},
};

/// The event that `source` makes of `body`, arrived at `at` from a sender that is taken for granted. The error says why it makes none.
pub(crate) fn rehearse(source: &Source, body: Bytes, at: Timestamp) -> Result<Envelope, String> {
    let request = Raw {
        method: Method::POST,
        path: source.path.clone().unwrap_or_default(),
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(JSON))]),
        body,
        arrived_at: at,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let facts = source.kind.facts_of(&request).map_err(|rejection| match rejection.reason {
        Some(reason) => reason.into_owned(),
        None => rejection.code.message().to_owned(),
    })?;
    Ok(envelope(source, facts, &request, at))
}
