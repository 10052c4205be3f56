//! The event as plain data: ids, type, time, and the bytes its sender wrote. Uses nothing else of ours but the clock's formats.

use std::{fmt, ops::Range, str::FromStr, sync::Arc};

use bytes::Bytes;

use crate::clock::{Timestamp, rfc3339_ms};

/// The name of a source, destination or rule as `routes.yaml` writes it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name, in bytes.
    pub const LEN_MAX: usize = 64;

    /// `text` as a name: a letter or digit, then letters, digits, `.`, `_` and `-`; at most [`Name::LEN_MAX`] bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next()?;
        let good = first.is_ascii_alphanumeric() && text.len() <= Self::LEN_MAX && text.bytes().all(fits);
        good.then(|| Self(text.into()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    /// For names that were parsed before: from the store, or from code.
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The relay's own id of an event, used in URLs: `ev_` and 32 hex digits.
///
/// The first half is drawn once per store, so that ids of two stores never meet; the second is the event's place in
/// commit order, so that the store finds it without an index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EventUid {
    /// Drawn at random when the store was made.
    pub salt: u64,
    /// The place in commit order, from 1.
    pub seq: i64,
}

impl fmt::Display for EventUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ev_{:016x}{:016x}", self.salt, self.seq)
    }
}

/// Text that is not an id of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not an id of the relay's")]
pub struct NotAnId;

impl FromStr for EventUid {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        halves(text.strip_prefix("ev_").ok_or(NotAnId)?)
    }
}

fn halves(hex: &str) -> Result<EventUid, NotAnId> {
    if hex.len() != 32 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(NotAnId);
    }
    let salt = u64::from_str_radix(&hex[..16], 16).map_err(|_| NotAnId)?;
    let seq = i64::from_str_radix(&hex[16..], 16).map_err(|_| NotAnId)?;
    Ok(EventUid { salt, seq })
}

/// The id of a delivery, the same on every attempt: `dl_`, its event's 32 hex digits, `_` and a number.
/// Sent as `Idempotency-Key` and `X-Hookyard-Delivery`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeliveryId {
    /// The event that is delivered.
    pub event: EventUid,
    /// Which of the event's deliveries, from 1; replays count on.
    pub n: u32,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dl_{:016x}{:016x}_{}", self.event.salt, self.event.seq, self.n)
    }
}

impl FromStr for DeliveryId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (event, n) = text.strip_prefix("dl_").and_then(|rest| rest.split_once('_')).ok_or(NotAnId)?;
        Ok(Self { event: halves(event)?, n: n.parse().map_err(|_| NotAnId)? })
    }
}

/// One accepted thing, with the bytes it arrived in.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The sender's id, or `sha256:` and the hex digest of the body where the sender gives none.
    pub id: String,
    /// The source it came in by.
    pub source: Name,
    /// The source's kind: `interactor`, `agent`, `trigger`, `hmac`, `standard`, …
    pub kind: &'static str,
    /// What happened, as the sender names it: `credential.expired`.
    pub r#type: String,
    /// What it happened to, where the kind knows: a credential, instance or room id.
    pub subject: Option<String>,
    /// Whose event it is: the tenant.
    pub namespace: Option<String>,
    /// The sender's instant in RFC 3339; the time of arrival where it gave none that can be read.
    pub time: String,
    /// The sender's time as it was sent.
    pub timestamp: String,
    /// When the relay took it in.
    pub received_at: Timestamp,
    /// W3C trace context: the sender's, or one begun here.
    pub traceparent: Option<String>,
    /// True for an event sent again on purpose.
    pub replayed: bool,
    /// The body as received; `data` is a part of it.
    pub body: Bytes,
    /// The media type the body came with.
    pub content_type: Option<String>,
    /// Which bytes of `body` are the sender's `data`; `None` where it sent none, which counts as `{}`.
    pub data: Option<Range<usize>>,
}

/// Media type of the envelope by default.
pub const JSON: &str = "application/json";
/// Media type of the envelope with `content_type: cloudevents` (CloudEvents 1.0 HTTP binding, structured mode).
pub const CLOUDEVENTS_JSON: &str = "application/cloudevents+json; charset=utf-8";

impl Envelope {
    /// The sender's `data`, byte for byte.
    pub fn data(&self) -> &[u8] {
        self.data.clone().and_then(|range| self.body.get(range)).unwrap_or(b"{}")
    }

    /// The CloudEvents `source` of events that come in by source `name`.
    pub fn source_uri(name: &Name) -> String {
        format!("/sources/{name}")
    }

    /// The envelope as targets receive it: compact JSON around `data`, whose bytes are the sender's.
    /// Absent attributes are left out.
    pub fn to_json(&self) -> Vec<u8> {
        let data = self.data();
        let mut out = Vec::with_capacity(data.len() + 512);
        out.extend_from_slice(br#"{"specversion":"1.0""#);
        member(&mut out, "id", &self.id);
        member(&mut out, "source", &Self::source_uri(&self.source));
        member(&mut out, "type", &self.r#type);
        optional(&mut out, "subject", self.subject.as_deref());
        member(&mut out, "time", &self.time);
        member(&mut out, "timestamp", &self.timestamp);
        member(&mut out, "datacontenttype", JSON);
        optional(&mut out, "namespace", self.namespace.as_deref());
        member(&mut out, "sourcekind", self.kind);
        member(&mut out, "receivedat", &rfc3339_ms(self.received_at));
        optional(&mut out, "traceparent", self.traceparent.as_deref());
        if self.replayed {
            out.extend_from_slice(br#","replayed":true"#);
        }
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data);
        out.push(b'}');
        out
    }
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        member(out, name, value);
    }
}

fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Envelope {
        let body = Bytes::from_static(
            br#"{"id":"evt_003","type":"credential.expired","data":{ "credential_id": "cred_abc", "n": 1.50 }}"#,
        );
        Envelope {
            id: "evt_003".into(),
            source: "interactor".into(),
            kind: "interactor",
            r#type: "credential.expired".into(),
            subject: Some("cred_abc".into()),
            namespace: Some("user_123".into()),
            time: "2026-01-20T12:00:00Z".into(),
            timestamp: "2026-01-20T12:00:00Z".into(),
            received_at: "2026-01-20T12:00:00.412Z".parse().unwrap(),
            traceparent: None,
            replayed: false,
            content_type: Some(JSON.into()),
            data: Some(body.windows(3).position(|part| part == b"{ \"").unwrap()..body.len() - 1),
            body,
        }
    }

    #[test]
    fn the_envelope_keeps_the_senders_bytes_of_data() {
        let json = String::from_utf8(sample().to_json()).unwrap();
        assert_eq!(
            json,
            r#"{"specversion":"1.0","id":"evt_003","source":"/sources/interactor","type":"credential.expired","subject":"cred_abc","time":"2026-01-20T12:00:00Z","timestamp":"2026-01-20T12:00:00Z","datacontenttype":"application/json","namespace":"user_123","sourcekind":"interactor","receivedat":"2026-01-20T12:00:00.412Z","data":{ "credential_id": "cred_abc", "n": 1.50 }}"#
        );
    }

    #[test]
    fn absent_data_is_an_empty_object_and_a_replay_says_so() {
        let envelope = Envelope { data: None, replayed: true, subject: None, ..sample() };
        let json = String::from_utf8(envelope.to_json()).unwrap();
        assert!(json.ends_with(r#""replayed":true,"data":{}}"#), "{json}");
        assert!(!json.contains("subject"));
    }

    #[test]
    fn ids_are_read_back() {
        let event = EventUid { salt: 0xdead_beef, seq: 77 };
        assert_eq!(event.to_string().parse(), Ok(event));
        let delivery = DeliveryId { event, n: 3 };
        assert_eq!(delivery.to_string().parse(), Ok(delivery));
        for bad in ["", "ev_", "ev_0g", "dl_00000000deadbeef000000000000004d", "ev_00000000deadbeef+00000000000004d"] {
            assert_eq!(bad.parse::<EventUid>(), Err(NotAnId), "{bad}");
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(Name::parse("ops-slack").is_some() && Name::parse("a.b_1").is_some());
        for bad in ["", "-a", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(Name::parse(bad).is_none(), "{bad}");
        }
    }
}
