//! What a source would make of a body, for whoever asks: nothing is verified, and nothing of it is taken in.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::{HeaderMap, Method};
use bytes::Bytes;

use super::{Source, envelope, request::Raw};
use crate::{clock::Timestamp, envelope::Envelope};

/// The event that `source` would make of `body` if its sender sent it at `now`. Headers that a `map` reads are not there. The error
/// says why it would make none: its code, and what is wrong.
pub fn suppose(source: &Source, body: Bytes, now: Timestamp) -> Result<Envelope, String> {
    let peer = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let path = source.masked_path();
    let request = Raw { method: Method::POST, path, headers: HeaderMap::new(), body, arrived_at: now, peer };
    match source.kind.facts_of(&request) {
        Ok(facts) => Ok(Envelope { traceparent: None, ..envelope(source, facts, &request, now) }),
        Err(rejection) => {
            let why = rejection.reason.map_or_else(String::new, |reason| format!(": {reason}"));
            Err(format!("source `{}` would refuse this body, {}{why}", source.name, rejection.code.word()))
        }
    }
}

/// The word of the kind of sources that is called `text`.
pub fn kind_word(text: &str) -> Option<&'static str> {
    super::kinds::Word::ALL.iter().map(|(word, _)| *word).find(|word| *word == text)
}
