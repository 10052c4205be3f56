//! `standard`: Standard Webhooks 1.0.0, as Svix, OpenAI, Clerk and many others send it. Facts: spec/standard-webhooks.md, "Webhook
//! metadata" and "Signature scheme", and the reference libraries.

use std::time::Duration;

use axum::http::HeaderName;
use data_encoding::BASE64;

use super::{
    Content, Facts, HELD_TO, HmacProof, Id, MAP_WITHOUT_ID, Proof, SECRETS, TOLERANCE, Verified, map_without_id, mapped, told_by,
};
use crate::{
    clock::Timestamp,
    config::{
        decode::{Context, Field, Fields, Keys, Secrets},
        tree::Node,
    },
    ingest::{
        answer::{Code, Rejection},
        body::{Body, Token},
        mapping::Mapping,
        request::Raw,
        time,
    },
    sign::{self, Algorithm, Key},
};

/// The three headers of one naming.
struct Headers {
    id: HeaderName,
    timestamp: HeaderName,
    signature: HeaderName,
}

static STANDARD: Headers = Headers {
    id: HeaderName::from_static("webhook-id"),
    timestamp: HeaderName::from_static("webhook-timestamp"),
    signature: HeaderName::from_static("webhook-signature"),
};
static SVIX: Headers = Headers {
    id: HeaderName::from_static("svix-id"),
    timestamp: HeaderName::from_static("svix-timestamp"),
    signature: HeaderName::from_static("svix-signature"),
};

/// How many items of a signature header are looked at: one per secret the sender rotates through.
const ITEMS_MAX: usize = 16;

/// The settings of a `standard` source.
#[derive(Debug, Clone)]
pub(crate) struct Standard {
    secrets: Secrets,
    keys: Vec<Key>,
    tolerance: Duration,
    map: Mapping,
}

/// The keys of a `standard` source.
pub(super) const KEYS: Keys = Keys::of(&[SECRETS, Field::of::<Duration>("tolerance", HELD_TO).default("5m"), MAP_WITHOUT_ID]);

impl Standard {
    /// Reads `secrets`, which must be Standard Webhooks secrets, `tolerance` (default 5 min) and `map`.
    pub(super) fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let secrets: Option<Secrets> = fields.required("secrets", cx);
        let keys = fields.node("secrets").zip(secrets.as_ref()).and_then(|(node, secrets)| keys(node, secrets, cx));
        let tolerance = fields.or("tolerance", TOLERANCE, cx);
        let map = map_without_id(fields, cx);
        Some(Self { secrets: secrets?, keys: keys?, tolerance, map })
    }

    /// Checks the timestamp, in Unix seconds, then whether any `v1` item is the HMAC-SHA256 of any secret over
    /// `id.timestamp.body`. Items of other versions are skipped.
    pub(super) fn verify<'r>(&self, request: &'r Raw, now: Timestamp) -> Result<Verified<'r>, Rejection> {
        let headers = naming(request);
        let stamp = request.one(&headers.timestamp).ok_or(Code::InvalidTimestamp)?;
        let sent = time::unix(stamp).ok_or(Code::InvalidTimestamp)?;
        if !time::within(now, sent, self.tolerance) {
            return Err(Code::InvalidTimestamp.into());
        }
        let id = request.one(&headers.id).filter(|id| !id.is_empty()).ok_or(Code::InvalidSignature)?;
        let items = items(request.one(&headers.signature).ok_or(Code::InvalidSignature)?);
        let given: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
        let parts: [&[u8]; 5] = [id.as_bytes(), b".", stamp.as_bytes(), b".", &request.body];
        let matching = sign::matching(&self.keys, &parts, &given);
        matching.map(|secret| Verified::new(request, Some(secret))).ok_or_else(|| Code::InvalidSignature.into())
    }

    /// Finds the facts: the id is `webhook-id`; a body without `data` is all data; one without `type` needs `map.type`.
    pub(super) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        let request = verified.request;
        let (body, [r#type, timestamp, data]) = Body::read(request, ["type", "timestamp", "data"])?;
        let id = request.one(&naming(request).id).map_or(Id::Hash, |id| Id::Sender(id.to_owned()));
        let facts = Facts {
            id,
            r#type: r#type.and_then(Token::string).unwrap_or_default(),
            time: told_by(&[timestamp]),
            namespace: None,
            subject: None,
            data: data.map_or(Some(0..request.body.len()), |data| Some(body.range(data))),
            replayed: false,
        };
        let facts = mapped(facts, &self.map, request);
        if facts.r#type.is_empty() {
            return Err(Rejection::because(Code::InvalidEvent, "the body has no `type` that fits, and `map.type` finds none"));
        }
        Ok(facts)
    }

    /// The types of its events; `None`: what their sender says.
    pub(super) fn types(&self) -> Option<Vec<&str>> {
        self.map.settled_type("").filter(|settled| !settled.is_empty()).map(|settled| vec![settled])
    }

    /// How it wants its sender proven.
    pub(super) fn proof(&self) -> Proof<'_> {
        Proof::Hmac(HmacProof {
            headers: vec![&STANDARD.signature, &SVIX.signature],
            written: "`v1,` and base64",
            algorithm: Algorithm::Sha256,
            content: Content::IdTimestampBody,
            timestamps: vec![&STANDARD.timestamp, &SVIX.timestamp],
            unix: true,
            tolerance: Some(self.tolerance),
            secrets: &self.secrets.0,
            standard: true,
        })
    }
}

/// The naming that `request` follows: `webhook-*`, or `svix-*` when only that is there.
fn naming(request: &Raw) -> &'static Headers {
    let has = |names: &Headers| [&names.signature, &names.timestamp].into_iter().any(|name| request.headers.contains_key(name));
    if !has(&STANDARD) && has(&SVIX) { &SVIX } else { &STANDARD }
}

fn items(text: &str) -> Vec<Vec<u8>> {
    let items = text.split(' ').filter_map(|item| item.strip_prefix("v1,")).take(ITEMS_MAX);
    items.filter_map(|item| BASE64.decode(item.as_bytes()).ok()).collect()
}

fn keys(node: &Node, secrets: &Secrets, cx: &mut Context) -> Option<Vec<Key>> {
    let keys: Result<Vec<_>, _> = secrets.0.iter().map(sign::standard_key).collect();
    keys.map_err(|error| _ = cx.error("bad-secret", node.place, error.to_string())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::{
        kinds::{Kind, Word, tests::decoded},
        request::tests::request,
    };

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    fn standard(secret: &str, more: &str) -> Kind {
        decoded(Word::Standard, &format!(r#"{{"secrets": ["{secret}"]{more}}}"#)).unwrap()
    }

    fn sent(naming: &str, id: &str, at: &str, signature: &str, body: &[u8]) -> Raw {
        let names = ["id", "timestamp", "signature"].map(|name| format!("{naming}-{name}"));
        request("/", &[(&names[0], id), (&names[1], at), (&names[2], signature)], body)
    }

    fn verdict(kind: &Kind, request: &Raw, now: i64) -> Result<Facts, Code> {
        let now = Timestamp::from_second(now).unwrap();
        kind.verify(request, now).and_then(|verified| kind.normalise(verified)).map_err(|rejection| rejection.code)
    }

    #[test]
    fn the_published_vectors_verify() {
        let typed = standard(SECRET, r#", "map": {"type": "user.seen"}"#);
        let facts = verdict(&typed, &sent("webhook", ID, "1649367553", SIGNATURE, BODY), 1_649_367_553).unwrap();
        assert_eq!((facts.id, facts.data, facts.r#type.as_str()), (Id::Sender(ID.into()), Some(0..BODY.len()), "user.seen"));
        let svix = standard("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", r#", "map": {"type": "t"}"#);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let body = br#"{"test": 2432232314}"#;
        let request = sent("svix", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", signature, body);
        assert!(verdict(&svix, &request, 1_614_265_330).is_ok());
    }

    #[test]
    fn any_item_and_any_secret_may_match() {
        let kind = decoded(Word::Standard, &format!(r#"{{"secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "{SECRET}"]}}"#))
            .unwrap();
        let several = format!("v1a,AAAA v1,bm9uc2Vuc2U= v2,x {SIGNATURE}");
        let request = sent("webhook", ID, "1649367553", &several, BODY);
        assert_eq!(verdict(&kind, &request, 1_649_367_553), Err(Code::InvalidEvent), "no type");
        for bad in ["", "v1,", &SIGNATURE[3..], &SIGNATURE.replace("v1,", "v2,"), &SIGNATURE.replace(' ', ",")[..20]] {
            let request = sent("webhook", ID, "1649367553", bad, BODY);
            assert_eq!(verdict(&kind, &request, 1_649_367_553), Err(Code::InvalidSignature), "{bad}");
        }
    }

    #[test]
    fn the_timestamp_comes_first() {
        let kind = standard(SECRET, "");
        for (at, now) in
            [("1649367553", 1_649_367_854), ("1649367553", 1_649_367_252), ("", 0), ("2022-04-07T21:39:13Z", 1_649_367_553)]
        {
            assert_eq!(verdict(&kind, &sent("webhook", ID, at, "x", BODY), now), Err(Code::InvalidTimestamp), "{at} {now}");
        }
        assert_eq!(
            verdict(&kind, &sent("webhook", "", "1649367553", SIGNATURE, BODY), 1_649_367_553),
            Err(Code::InvalidSignature)
        );
    }

    #[test]
    fn type_and_data_are_taken_from_the_advised_shape() {
        let kind = standard(SECRET, "");
        let body = br#"{"type":"user.created","timestamp":"2022-04-07T21:39:13Z","data":{"a": 1}}"#;
        let key = sign::standard_key(&crate::secret::Secret::new(SECRET)).unwrap();
        let signature = format!("v1,{}", sign::base64(key.sign(&[b"m.1649367553.", body]).as_ref()));
        let facts = verdict(&kind, &sent("webhook", "m", "1649367553", &signature, body), 1_649_367_553).unwrap();
        assert_eq!((facts.r#type.as_str(), &body[facts.data.unwrap()]), ("user.created", &br#"{"a": 1}"#[..]));
    }

    #[test]
    fn only_standard_secrets_serve() {
        assert_eq!(decoded(Word::Standard, r#"{"secrets": ["whsec_hello"]}"#).unwrap_err(), ["bad-secret"]);
    }
}
