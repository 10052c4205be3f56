//! The event that is asked about: as the relay sends it on, as its sender sends it, or made up.

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    clock::{Timestamp, rfc3339_s},
    envelope::{Envelope, JSON, Name},
    ingest::{Source, kind_word, rehearse},
    json,
    route::OWN_SOURCE,
    samples,
};

/// The id of an event that names none.
const ID: &str = "evt_explained";
/// Longest id, type, namespace, subject or time, in characters.
const TEXT_MAX: usize = 256;
/// The kind of the relay's own events.
const OWN_KIND: &str = "hookyard";

/// An event as somebody writes it down: the members of an envelope, all but `source` and `type` may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    #[serde(default, rename = "specversion")]
    _specversion: IgnoredAny,
    #[serde(default)]
    id: Option<String>,
    /// `interactor`, or `/sources/interactor` as in an envelope.
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub r#type: Option<String>,
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default, rename = "datacontenttype")]
    _datacontenttype: IgnoredAny,
    /// Counts for events of sources that are not declared (any more).
    #[serde(default)]
    sourcekind: Option<String>,
    #[serde(default)]
    receivedat: Option<String>,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    replayed: bool,
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
}

/// The event that `text` holds: with `source`, a body as its sender sends it; else an event or an envelope. `now` is when it comes in.
pub fn read(text: &[u8], source: Option<&str>, sources: &[Source], now: Timestamp) -> Result<Envelope, String> {
    if json::too_deep(text) {
        return Err("it nests too deep".to_owned());
    }
    let parsed: Map<String, Value> = serde_json::from_slice(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    match source {
        Some(name) if !parsed.contains_key("specversion") => sent(declared(name, sources)?, text, now),
        None if !parsed.contains_key("source") => Err(format!(
            "it names no `source`: this is an event such as {{\"source\": …, \"type\": …, \"data\": …}}, or an envelope; of a body as its \
             sender sends it, say by which source it comes ({})",
            names(sources)
        )),
        named => {
            let mut written: Written = serde_json::from_slice(text).map_err(|error| format!("it is no event: {error}"))?;
            written.source = named.map(str::to_owned).or(written.source);
            written.event(sources, now)
        }
    }
}

/// The event of the body `text`, as the sender of `source` sends it.
fn sent(source: &Source, text: &[u8], now: Timestamp) -> Result<Envelope, String> {
    let event = rehearse(source, Bytes::copy_from_slice(text), now);
    let event = event.map_err(|why| format!("source `{}` would refuse this body: {why}", source.name))?;
    // A trace is begun for what is taken in only.
    Ok(Envelope { traceparent: None, ..event })
}

impl Written {
    /// The event, as it would be taken in at `now` by the source of `sources` that it names.
    pub fn event(self, sources: &[Source], now: Timestamp) -> Result<Envelope, String> {
        let name = self.source.as_deref().ok_or_else(|| format!("an event has a `source` ({})", names(sources)))?;
        let (name, kind) = match source_name(name) {
            OWN_SOURCE => (Name::from(OWN_SOURCE), OWN_KIND),
            name => declared(name, sources).map(|source| (source.name.clone(), source.kind()))?,
        };
        self.by(name, kind, now)
    }

    /// The event, as a relay took it in; its source need not be declared here.
    pub fn stored(self, now: Timestamp) -> Result<Envelope, String> {
        let name = self.source.as_deref().map(source_name).and_then(Name::parse).ok_or("an event has a `source`")?;
        let kind = self.sourcekind.as_deref().and_then(kind_word).unwrap_or(OWN_KIND);
        self.by(name, kind, now)
    }

    fn by(self, name: Name, kind: &'static str, now: Timestamp) -> Result<Envelope, String> {
        let r#type = self.r#type.filter(|it| !it.is_empty()).ok_or("an event has a `type`")?;
        let texts = [Some(&r#type), self.id.as_ref(), self.subject.as_ref(), self.namespace.as_ref(), self.time.as_ref()];
        if texts.into_iter().flatten().any(|text| TEXT_MAX < text.chars().count() || text.chars().any(char::is_control)) {
            return Err(format!("id, type, subject, namespace and time are one line of at most {TEXT_MAX} characters"));
        }
        let received_at = match self.receivedat.as_deref().map(str::parse) {
            None => now,
            Some(Ok(at)) => at,
            Some(Err(_)) => return Err("`receivedat` is no time in RFC 3339".to_owned()),
        };
        let data = self.data.map_or_else(|| "{}".to_owned(), |data| data.get().to_owned());
        let parsed = json::lenient(data.as_bytes());
        let at = |names: &[&str]| names.iter().find_map(|name| parsed.get(name)?.as_str().map(str::to_owned));
        let looks = !matches!(kind, "trigger" | "hmac" | "poll");
        let namespace = self.namespace.or_else(|| at(&["namespace", "external_user_id"]).filter(|_| looks));
        let subject = self.subject.or_else(|| at(&["credential_id", "instance_id", "room_id"]).filter(|_| looks));
        let id = self.id.unwrap_or_else(|| ID.to_owned());
        let time = self.time.or_else(|| self.timestamp.clone()).unwrap_or_else(|| rfc3339_s(received_at));
        let timestamp = self.timestamp.unwrap_or_else(|| time.clone());
        let (body, range) = body(&id, &r#type, &timestamp, &data, looks);
        Ok(Envelope {
            id,
            source: name,
            kind,
            r#type,
            subject,
            namespace,
            time,
            timestamp,
            received_at,
            traceparent: self.traceparent,
            replayed: self.replayed,
            body,
            content_type: Some(JSON.to_owned()),
            data: Some(range),
        })
    }

    /// An event of this type: with the data of the seeds' sample where there is one and `data` says nothing. Also whether that was so.
    pub fn of_type(r#type: &str, data: Option<String>) -> Result<(Self, bool), String> {
        let sample = samples::find(r#type).filter(|_| data.is_none()).map(|sample| sample.envelope());
        let sampled = sample.is_some();
        let text = |sample: &Envelope| String::from_utf8_lossy(sample.data()).into_owned();
        let data = data.or_else(|| sample.as_ref().map(text));
        let data = data.map(RawValue::from_string).transpose().map_err(|error| format!("the data is no JSON: {error}"))?;
        let (subject, namespace) = sample.map_or((None, None), |sample| (sample.subject, sample.namespace));
        Ok((Self { r#type: Some(r#type.to_owned()), data, subject, namespace, ..Self::default() }, sampled))
    }
}

fn source_name(text: &str) -> &str {
    text.strip_prefix("/sources/").unwrap_or(text)
}

/// The body that holds `data`, as a sender might have written it: `wrapped` where the data is not all of it.
fn body(id: &str, r#type: &str, timestamp: &str, data: &str, wrapped: bool) -> (Bytes, std::ops::Range<usize>) {
    if !wrapped {
        return (Bytes::copy_from_slice(data.as_bytes()), 0..data.len());
    }
    let head = json!({"id": id, "type": r#type, "timestamp": timestamp}).to_string();
    let head = format!(r#"{},"data":"#, head.trim_end_matches('}'));
    let range = head.len()..head.len() + data.len();
    (Bytes::from(format!("{head}{data}}}")), range)
}

/// The source called `name`.
fn declared<'s>(name: &str, sources: &'s [Source]) -> Result<&'s Source, String> {
    let found = sources.iter().find(|source| source.name.as_str() == name);
    found.ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        format!("there is no source `{name}`; declared: {}", names(sources))
    })
}

fn names(sources: &[Source]) -> String {
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
