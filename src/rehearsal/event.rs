//! The events that a test begins with: what a sender would write, and what its source makes of that.

use bytes::Bytes;
use serde_json::Value;

use super::section::Start;
use crate::{
    clock::{Timestamp, rfc3339_s},
    envelope::{Envelope, JSON},
    ingest::{self, Source},
    route::OWN_SOURCE,
};

/// The id of an event that is given none.
const ID: &str = "evt_test";

/// Event `index` (from 0) of a test that begins with `start` at `now`. The error says why its source makes no event of it.
pub(super) fn envelope(start: &Start, index: u32, sources: &[Source], now: Timestamp) -> Result<Envelope, String> {
    let Some(source) = source(start, sources) else { return Ok(own(start, index, now)) };
    let time = start.time.unwrap_or(now);
    let mut event = ingest::rehearse(source, body(start, source.kind(), index, time), now)?;
    event.id = match start.sample {
        Some(_) => fresh(start.id.as_deref().unwrap_or(&event.id), index),
        None => id(start, index),
    };
    if let Some(r#type) = &start.r#type {
        event.r#type.clone_from(r#type);
    }
    event.namespace = start.namespace.clone().or(event.namespace);
    event.subject = start.subject.clone().or(event.subject);
    if let Some(time) = start.time {
        (event.time, event.timestamp) = (rfc3339_s(time), rfc3339_s(time));
    }
    Ok(event)
}

/// The source it comes in by: the one it names, or the first that takes events like its sample. `None`: the relay's own.
fn source<'s>(start: &Start, sources: &'s [Source]) -> Option<&'s Source> {
    match (&start.source, start.sample) {
        (Some(named), _) => sources.iter().find(|source| source.name == named.value),
        (None, sample) => sources.iter().find(|source| Some(source.kind()) == sample.map(|sample| sample.kind)),
    }
}

fn id(start: &Start, index: u32) -> String {
    fresh(start.id.as_deref().unwrap_or(ID), index)
}

/// The id of event `index`: that of the first, with its number behind it.
fn fresh(first: &str, index: u32) -> String {
    match index {
        0 => first.to_owned(),
        more => format!("{first}-{}", more + 1),
    }
}

/// What a sender of this kind would write.
fn body(start: &Start, kind: &str, index: u32, time: Timestamp) -> Bytes {
    if let (Some(sample), None) = (start.sample, &start.data) {
        return Bytes::from_static(sample.body.as_bytes());
    }
    let data = start.data.as_deref().unwrap_or("{}");
    let r#type = start.r#type.as_deref().or(start.sample.map(|sample| sample.r#type));
    let (text, time) = (|text: &str| Value::from(text).to_string(), rfc3339_s(time));
    let named = r#type.map(text).unwrap_or_default();
    // `data` goes in as it is: its numbers stay exact.
    let written = match kind {
        "interactor" => {
            format!(r#"{{"id":{},"type":{named},"timestamp":"{time}","data":{data}}}"#, text(&id(start, index)))
        }
        "agent" => format!(r#"{{"event":{named},"timestamp":"{time}","data":{data}}}"#),
        "standard" if r#type.is_some() => format!(r#"{{"type":{named},"timestamp":"{time}","data":{data}}}"#),
        _ => data.to_owned(),
    };
    written.into()
}

/// An event that the relay tells of itself.
fn own(start: &Start, index: u32, now: Timestamp) -> Envelope {
    let data = start.data.as_deref().unwrap_or("{}");
    let (head, tail) = (r#"{"data":"#, "}");
    let time = rfc3339_s(start.time.unwrap_or(now));
    Envelope {
        id: id(start, index),
        source: OWN_SOURCE.into(),
        kind: OWN_SOURCE,
        r#type: start.r#type.clone().unwrap_or_default(),
        subject: start.subject.clone(),
        namespace: start.namespace.clone(),
        time: time.clone(),
        timestamp: time,
        received_at: now,
        traceparent: None,
        replayed: false,
        data: Some(head.len()..head.len() + data.len()),
        body: format!("{head}{data}{tail}").into(),
        content_type: Some(JSON.to_owned()),
    }
}
