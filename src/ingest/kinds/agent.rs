//! `agent`: the webhooks of Interactor's agents. Facts: agent webhooks guide, "Payload Structure", "Signature Verification".

use std::time::Duration;

use axum::http::HeaderName;

use super::{
    Content, Facts, HmacProof, Id, MAP_WITHOUT_ID, Proof, SECRETS, Verified, first_text, map_without_id, mapped, told_by,
};
use crate::{
    clock::Timestamp,
    config::decode::{Context, Field, Fields, Keys, Secrets},
    ingest::{
        answer::{Code, Rejection},
        body::{Body, Token},
        mapping::Mapping,
        request::Raw,
        time,
    },
    sign::{self, Algorithm, Key},
};

static SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");

/// The settings of an `agent` source.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    secrets: Secrets,
    keys: Vec<Key>,
    tolerance: Option<Duration>,
    map: Mapping,
}

/// The keys of an `agent` source.
pub(super) const KEYS: Keys = Keys::of(&[
    SECRETS,
    Field::of::<Duration>(
        "tolerance",
        "How far the body's `timestamp` may be off. Left out: not looked at, since agents retry with the first one.",
    )
    .example("24h"),
    MAP_WITHOUT_ID,
]);

impl Agent {
    /// Reads `secrets`, `tolerance` (none by default: agents retry with the time of the first try) and `map`.
    pub(super) fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let secrets: Option<Secrets> = fields.required("secrets", cx);
        let tolerance = fields.optional("tolerance", cx);
        let map = map_without_id(fields, cx);
        let secrets = secrets?;
        let keys = secrets.0.iter().map(Key::literal).collect();
        Some(Self { secrets, keys, tolerance, map })
    }

    /// Checks that an agent sent `request`: HMAC-SHA256 over the body as 64 hex digits, with `sha256=` before it or not. The
    /// timestamp, where it is held to anything, stands in the body, so it is looked at once the body is proven.
    pub(super) fn verify<'r>(&self, request: &'r Raw, now: Timestamp) -> Result<Verified<'r>, Rejection> {
        let given = signature(request).ok_or(Code::InvalidSignature)?;
        let secret = sign::matching(&self.keys, &[&request.body], &[&given]).ok_or(Code::InvalidSignature)?;
        let timely = self.tolerance.is_none_or(|tolerance| is_timely(request, now, tolerance));
        timely.then(|| Verified::new(request, Some(secret))).ok_or_else(|| Code::InvalidTimestamp.into())
    }

    /// Finds the facts: `event` is a string that is not empty; there is no id.
    pub(super) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        let (body, [event, timestamp, data]) = Body::read(verified.request, ["event", "timestamp", "data"])?;
        let event = event.and_then(Token::string).filter(|text| !text.is_empty());
        let event = event.ok_or(Rejection::because(Code::InvalidEvent, "`event` is not a string with something in it"))?;
        let facts = Facts {
            id: Id::Hash,
            r#type: event,
            time: told_by(&[timestamp]),
            namespace: None,
            subject: data.and_then(room),
            data: data.map(|data| body.range(data)),
            replayed: false,
        };
        Ok(mapped(facts, &self.map, verified.request))
    }

    /// The types of its events; `None`: what their sender says.
    pub(super) fn types(&self) -> Option<Vec<&str>> {
        self.map.settled_type("").filter(|settled| !settled.is_empty()).map(|settled| vec![settled])
    }

    /// How it wants its sender proven.
    pub(super) fn proof(&self) -> Proof<'_> {
        Proof::Hmac(HmacProof {
            headers: vec![&SIGNATURE],
            written: "64 hex digits",
            algorithm: Algorithm::Sha256,
            content: Content::Body,
            timestamps: Vec::new(),
            unix: false,
            tolerance: self.tolerance,
            secrets: &self.secrets.0,
            standard: false,
        })
    }
}

fn signature(request: &Raw) -> Option<[u8; 32]> {
    let text = request.one(&SIGNATURE)?;
    let hex = text.strip_prefix("sha256=").unwrap_or(text);
    sign::hex32(hex.to_ascii_lowercase().as_bytes())
}

/// Whether the body's `timestamp` lies within `tolerance`. A body without an object in it is left to the check of its shape.
fn is_timely(request: &Raw, now: Timestamp, tolerance: Duration) -> bool {
    let Ok((_, timestamp)) = Body::read(request, ["timestamp"]) else { return true };
    told_by(&timestamp).is_some_and(|(sent, _)| time::within(now, sent, tolerance))
}

/// The room's id: `room` is one, or an object that has it.
fn room(data: Token<'_>) -> Option<String> {
    let [room] = data.members(["room"]).ok()?;
    let inner = room.and_then(|room| room.members(["id"]).ok()).and_then(|[id]| id);
    first_text(&[inner, room])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::{
        kinds::{
            Kind, Word,
            tests::{decoded, hmac_hex, taken},
        },
        request::tests::request,
    };

    fn agent(more: &str) -> Kind {
        decoded(Word::Agent, &format!(r#"{{"secrets": ["s"]{more}}}"#)).unwrap()
    }

    fn sent(signature: &str, body: &[u8]) -> Raw {
        request("/", &[("x-webhook-signature", signature)], body)
    }

    #[test]
    fn bare_and_prefixed_signatures_are_taken() {
        let body =
            br#"{"event":"user.message","timestamp":"2024-01-15T11:45:00.000000Z","data":{"room":{"id":"r1","name":"R"}}}"#;
        let hex = hmac_hex("s", &[body]);
        for good in [hex.clone(), format!("sha256={hex}"), hex.to_uppercase()] {
            let facts = taken(&agent(""), &sent(&good, body)).unwrap();
            assert_eq!((facts.id, facts.r#type.as_str(), facts.subject.as_deref()), (Id::Hash, "user.message", Some("r1")));
            assert_eq!(facts.time.unwrap().1, "2024-01-15T11:45:00.000000Z");
        }
        for bad in ["", "sha1=00", &hex[1..]] {
            assert_eq!(taken(&agent(""), &sent(bad, body)), Err(Code::InvalidSignature), "{bad}");
        }
        assert_eq!(taken(&agent(""), &request("/", &[], body)), Err(Code::InvalidSignature));
    }

    #[test]
    fn the_room_may_be_a_text() {
        let body = br#"{"event":"agent.message","data":{"room":"room-hashid"}}"#;
        let facts = taken(&agent(""), &sent(&hmac_hex("s", &[body]), body)).unwrap();
        assert_eq!((facts.subject.as_deref(), facts.time), (Some("room-hashid"), None));
    }

    #[test]
    fn a_tolerance_holds_the_bodys_timestamp() {
        let kind = agent(r#", "tolerance": "5m""#);
        for (timestamp, expected) in [("2026-01-20T11:58:00Z", true), ("2026-01-20T11:50:00Z", false), ("soon", false)] {
            let body = format!(r#"{{"event":"a","timestamp":"{timestamp}"}}"#);
            let result = taken(&kind, &sent(&hmac_hex("s", &[body.as_bytes()]), body.as_bytes()));
            assert_eq!(result.is_ok(), expected, "{timestamp}: {result:?}");
            assert!(expected || result == Err(Code::InvalidTimestamp));
        }
        assert_eq!(taken(&kind, &sent(&hmac_hex("s", &[b"[]"]), b"[]")), Err(Code::InvalidEvent));
    }

    #[test]
    fn the_event_is_a_string_with_something_in_it() {
        for bad in [r#"{"event":""}"#, r#"{"event":1}"#, "{}", "[]"] {
            let request = sent(&hmac_hex("s", &[bad.as_bytes()]), bad.as_bytes());
            assert_eq!(taken(&agent(""), &request), Err(Code::InvalidEvent), "{bad}");
        }
    }
}
