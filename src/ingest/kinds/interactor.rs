//! `interactor`: Interactor's webhooks, in the dialect of its webhooks guide and in the timestamped one of its integration guide.

use std::time::Duration;

use axum::http::HeaderName;

use super::{
    Content, Facts, HELD_TO, HmacProof, Id, MAP_WITHOUT_ID, Proof, SECRETS, TOLERANCE, Verified, first_text, map_without_id,
    mapped, told_by,
};
use crate::{
    clock::Timestamp,
    config::decode::{Context, Field, Fields, Keys, Secrets, Words},
    ingest::{
        answer::{Code, Rejection},
        body::{Body, Token},
        mapping::Mapping,
        request::Raw,
        time,
    },
    sign::{self, Algorithm, Key},
};

static SIGNATURE: HeaderName = HeaderName::from_static("x-interactor-signature");
static TIMESTAMP: HeaderName = HeaderName::from_static("x-interactor-timestamp");

/// The settings of an `interactor` source.
#[derive(Debug, Clone)]
pub(crate) struct Interactor {
    dialect: Dialect,
    secrets: Secrets,
    keys: Vec<Key>,
    tolerance: Duration,
    map: Mapping,
}

/// Which of Interactor's documents a sender follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// The webhooks guide: ISO time, `sha256=` and hex over the body.
    Seed,
    /// The integration guide: Unix seconds, bare hex over timestamp, dot and body.
    Timestamped,
}

/// The keys of an `interactor` source.
pub(super) const KEYS: Keys = Keys::of(&[
    SECRETS,
    Field::of::<Dialect>(
        "dialect",
        "Which of Interactor's documents the sender follows: `seed` the webhooks guide, `timestamped` the integration guide.",
    )
    .default("seed"),
    Field::of::<Duration>("tolerance", HELD_TO).default("5m"),
    MAP_WITHOUT_ID,
]);

impl Words for Dialect {
    const WORDS: &'static [(&'static str, Self)] = &[("seed", Self::Seed), ("timestamped", Self::Timestamped)];
}

impl Interactor {
    /// Reads `secrets`, `dialect`, `tolerance` and `map`.
    pub(super) fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let secrets: Option<Secrets> = fields.required("secrets", cx);
        let dialect = fields.or("dialect", Dialect::Seed, cx);
        let tolerance = fields.or("tolerance", TOLERANCE, cx);
        let map = map_without_id(fields, cx);
        let secrets = secrets?;
        let keys = secrets.0.iter().map(Key::literal).collect();
        Some(Self { dialect, secrets, keys, tolerance, map })
    }

    /// Checks that Interactor sent `request`: its timestamp first, then HMAC-SHA256 with the literal bytes of any of the
    /// secrets, `whsec_` included.
    ///
    /// Facts: Interactor webhooks guide, "Verifying Webhook Signatures"; for `timestamped`, guide 06 of its public documents.
    pub(super) fn verify<'r>(&self, request: &'r Raw, now: Timestamp) -> Result<Verified<'r>, Rejection> {
        let (stamp, sent) = self.timestamp(request).ok_or(Code::InvalidTimestamp)?;
        if !time::within(now, sent, self.tolerance) {
            return Err(Code::InvalidTimestamp.into());
        }
        let given = self.signature(request).ok_or(Code::InvalidSignature)?;
        let matching = match self.dialect {
            Dialect::Seed => sign::matching(&self.keys, &[&request.body], &[&given]),
            Dialect::Timestamped => sign::matching(&self.keys, &[stamp.as_bytes(), b".", &request.body], &[&given]),
        };
        matching.map(|secret| Verified::new(request, Some(secret))).ok_or_else(|| Code::InvalidSignature.into())
    }

    fn timestamp<'r>(&self, request: &'r Raw) -> Option<(&'r str, Timestamp)> {
        let text = request.one(&TIMESTAMP)?;
        let at = match self.dialect {
            Dialect::Seed => time::iso(text),
            Dialect::Timestamped => time::unix(text),
        };
        at.map(|at| (text, at))
    }

    fn signature(&self, request: &Raw) -> Option<[u8; 32]> {
        let text = request.one(&SIGNATURE)?;
        let hex = match self.dialect {
            Dialect::Seed => text.strip_prefix("sha256=")?,
            Dialect::Timestamped => text,
        };
        sign::hex32(hex.as_bytes())
    }

    /// Finds the facts: `id` and `type` are strings that are not empty. Whatever a type says, its event is not lost: who shows it
    /// escapes it. A namespace or subject that cannot be shown is left out.
    pub(super) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        let names = ["id", "type", "timestamp", "created_at", "data", "_replayed"];
        let (body, [id, r#type, timestamp, created_at, data, replayed]) = Body::read(verified.request, names)?;
        let id = id.and_then(Token::string).filter(|id| !id.is_empty());
        let id = id.ok_or(Rejection::because(Code::InvalidEvent, "`id` is not a string with something in it"))?;
        let r#type = r#type.and_then(Token::string).filter(|text| !text.is_empty());
        let r#type = r#type.ok_or(Rejection::because(Code::InvalidEvent, "`type` is not a string with something in it"))?;
        let (namespace, subject) = data.map_or((None, None), |data| self.whose(data));
        let times = match self.dialect {
            Dialect::Seed => [timestamp, created_at],
            Dialect::Timestamped => [created_at, timestamp],
        };
        let facts = Facts {
            id: Id::Sender(id),
            r#type,
            time: told_by(&times),
            namespace,
            subject,
            data: data.map(|data| body.range(data)),
            replayed: replayed.is_some_and(Token::is_true),
        };
        Ok(mapped(facts, &self.map, verified.request))
    }

    /// The namespace and the subject that `data` names.
    fn whose(&self, data: Token<'_>) -> (Option<String>, Option<String>) {
        let names = ["namespace", "external_user_id", "credential_id", "instance_id", "room_id"];
        let Ok([namespace, user, credential, instance, room]) = data.members(names) else {
            return (None, None);
        };
        let owners = match self.dialect {
            Dialect::Seed => [namespace, user],
            Dialect::Timestamped => [user, namespace],
        };
        (first_text(&owners), first_text(&[credential, instance, room]))
    }

    /// The types of its events; `None`: what their sender says.
    pub(super) fn types(&self) -> Option<Vec<&str>> {
        self.map.settled_type("").filter(|settled| !settled.is_empty()).map(|settled| vec![settled])
    }

    /// How it wants its sender proven.
    pub(super) fn proof(&self) -> Proof<'_> {
        let seed = self.dialect == Dialect::Seed;
        Proof::Hmac(HmacProof {
            headers: vec![&SIGNATURE],
            written: if seed { "`sha256=` and 64 lowercase hex digits" } else { "64 lowercase hex digits" },
            algorithm: Algorithm::Sha256,
            content: if seed { Content::Body } else { Content::TimestampBody },
            timestamps: vec![&TIMESTAMP],
            unix: !seed,
            tolerance: Some(self.tolerance),
            secrets: &self.secrets.0,
            standard: false,
        })
    }
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

    const BODY: &[u8] = br#"{"id":"evt_003","type":"credential.expired","timestamp":"2026-01-20T12:00:00Z","data":{"credential_id":"cred_abc","namespace":"user_123"}}"#;

    fn seed() -> Kind {
        decoded(Word::Interactor, r#"{"secrets": ["whsec_now", "whsec_before", ""]}"#).unwrap()
    }

    fn sent(timestamp: &str, signature: &str, body: &[u8]) -> Raw {
        request("/", &[("x-interactor-timestamp", timestamp), ("x-interactor-signature", signature)], body)
    }

    fn signed(body: &[u8]) -> Raw {
        sent("2026-01-20T12:00:00Z", &format!("sha256={}", hmac_hex("whsec_now", &[body])), body)
    }

    #[test]
    fn a_signed_event_is_taken_with_either_secret() {
        let facts = taken(&seed(), &signed(BODY)).unwrap();
        assert_eq!(facts.id, Id::Sender("evt_003".into()));
        assert_eq!(
            (facts.r#type.as_str(), facts.namespace.as_deref(), facts.subject.as_deref()),
            ("credential.expired", Some("user_123"), Some("cred_abc"))
        );
        assert_eq!(&BODY[facts.data.unwrap()], br#"{"credential_id":"cred_abc","namespace":"user_123"}"#);
        let before = sent("2026-01-20T12:05:00Z", &format!("sha256={}", hmac_hex("whsec_before", &[BODY])), BODY);
        assert!(taken(&seed(), &before).is_ok());
    }

    #[test]
    fn the_timestamp_is_checked_before_the_signature() {
        let good = format!("sha256={}", hmac_hex("whsec_now", &[BODY]));
        for bad in ["2026-01-20T12:05:01Z", "2026-01-20T11:54:59Z", "1768910400", "", "soon"] {
            assert_eq!(taken(&seed(), &sent(bad, &good, BODY)), Err(Code::InvalidTimestamp), "{bad}");
            assert_eq!(taken(&seed(), &sent(bad, "nonsense", BODY)), Err(Code::InvalidTimestamp), "{bad}");
        }
    }

    #[test]
    fn the_signature_has_one_form_only() {
        let hex = hmac_hex("whsec_now", &[BODY]);
        let upper = format!("sha256={}", hex.to_uppercase());
        for bad in [&hex, &upper, &format!("SHA256={hex}"), &format!("sha256={hex}0"), "", "sha256="] {
            assert_eq!(taken(&seed(), &sent("2026-01-20T12:00:00Z", bad, BODY)), Err(Code::InvalidSignature), "{bad}");
        }
        let mut twice = signed(BODY);
        let value = twice.headers[&SIGNATURE].clone();
        twice.headers.append(&SIGNATURE, value);
        assert_eq!(taken(&seed(), &twice), Err(Code::InvalidSignature));
        let mut changed = signed(BODY);
        changed.body = [BODY, b" "].concat().into();
        assert_eq!(taken(&seed(), &changed), Err(Code::InvalidSignature));
    }

    #[test]
    fn id_and_type_are_strings_with_something_in_them() {
        for bad in [
            r#"{"type":"a"}"#,
            r#"{"id":"","type":"a"}"#,
            r#"{"id":1,"type":"a"}"#,
            r#"{"id":"a"}"#,
            r#"{"id":"a","type":""}"#,
            r#"{"id":"a","type":null}"#,
            "[]",
        ] {
            assert_eq!(taken(&seed(), &signed(bad.as_bytes())), Err(Code::InvalidEvent), "{bad}");
        }
        let bare = taken(&seed(), &signed(br#"{"id":"a","type":"b","timestamp":"soon","_replayed":true}"#)).unwrap();
        assert_eq!((bare.data, bare.time, bare.replayed), (None, None, true));
        assert!(taken(&seed(), &signed(br#"{"id":"a","type":"b","data":[1]}"#)).is_ok());
    }

    #[test]
    fn the_timestamped_dialect_signs_the_timestamp_too() {
        let kind = decoded(Word::Interactor, r#"{"secrets": "s", "dialect": "timestamped"}"#).unwrap();
        let body = br#"{"id":"e","type":"workflow.started","created_at":"2026-01-20T11:59:00Z","data":{"external_user_id":"u7","instance_id":5}}"#;
        let good = sent("1768910400", &hmac_hex("s", &[b"1768910400.", body]), body);
        let facts = taken(&kind, &good).unwrap();
        assert_eq!((facts.namespace.as_deref(), facts.subject.as_deref()), (Some("u7"), Some("5")));
        assert_eq!(facts.time.unwrap().1, "2026-01-20T11:59:00Z");
        assert_eq!(taken(&kind, &sent("1768910400", &hmac_hex("s", &[body]), body)), Err(Code::InvalidSignature));
        assert_eq!(taken(&kind, &sent("2026-01-20T12:00:00Z", "", body)), Err(Code::InvalidTimestamp));
    }

    #[test]
    fn map_overrides_and_settings_are_checked() {
        let kind =
            decoded(Word::Interactor, r#"{"secrets": "whsec_now", "map": {"namespace": "$.data.credential_id", "type": "t"}}"#)
                .unwrap();
        let facts = taken(&kind, &signed(BODY)).unwrap();
        assert_eq!((facts.r#type.as_str(), facts.namespace.as_deref()), ("t", Some("cred_abc")));
        assert_eq!(decoded(Word::Interactor, "{}").unwrap_err(), ["missing-key"]);
        assert_eq!(decoded(Word::Interactor, r#"{"secrets": ["", ""]}"#).unwrap_err(), ["no-secret"]);
        assert_eq!(decoded(Word::Interactor, r#"{"secrets": "a", "map": {"id": "$.x"}}"#).unwrap_err(), ["unknown-key"]);
        assert_eq!(decoded(Word::Interactor, r#"{"secrets": "a", "dialect": "guide"}"#).unwrap_err(), ["bad-value"]);
    }
}
