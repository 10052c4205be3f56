//! The signature headers a target receives. Facts: `product.md`, "Outbound contracts"; Standard Webhooks 1.0.0;
//! Interactor webhooks guide, "Signature Header Format"; agent webhooks guide, "Signature Verification".

use std::borrow::Cow;

use data_encoding::{BASE64, HEXLOWER};

use super::{Algorithm, Key, NotAStandardSecret, hex, sha256, standard_key};
use crate::{
    clock::{Timestamp, rfc3339_s},
    envelope::{Envelope, Name},
    secret::Secret,
};

/// A way to sign what goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`, one `v1` item per secret.
    Standard,
    /// `X-Interactor-Signature: sha256=<hex>` over the body, beside `X-Interactor-Timestamp`.
    Interactor,
    /// `X-Webhook-Signature: <hex>` over the body.
    Agent,
    /// `X-Honeyframe-Signature: sha256=<hex>` over the body.
    Honeyframe,
    /// As configured.
    Custom(Custom),
}

/// The `custom` scheme: HMAC-SHA-256 with the literal secret, under a header of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custom {
    /// Header that carries the signature.
    pub header: String,
    /// What stands before the signature: `sha256=`.
    pub prefix: String,
    /// How the signature is written.
    pub encoding: Encoding,
    /// What is signed.
    pub content: Content,
    /// Header that carries the timestamp (Unix seconds of the attempt) when it is part of the content.
    pub timestamp_header: String,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Lowercase hex.
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The body.
    Body,
    /// Unix seconds, a dot, the body.
    TimestampBody,
}

/// The schemes and keys of one target, made ready.
#[derive(Debug, Clone)]
pub struct Signing {
    schemes: Vec<Scheme>,
    literal: Vec<Lasting>,
    standard: Vec<Lasting>,
}

/// A key, and until when it signs; `None`: for good.
#[derive(Debug, Clone)]
struct Lasting {
    key: Key,
    until: Option<Timestamp>,
}

impl Lasting {
    fn signs_at(&self, at: Timestamp) -> bool {
        self.until.is_none_or(|until| at < until)
    }
}

/// What one attempt signs.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// `webhook-id`: see [`webhook_id`].
    pub id: &'a str,
    /// When the attempt is made.
    pub at: Timestamp,
    /// The bytes sent.
    pub body: &'a [u8],
}

impl Signing {
    /// Makes keys of `secrets`, the current one first. Fails when `schemes` has `standard` and a secret does not fit it.
    pub fn new(schemes: Vec<Scheme>, secrets: &[Secret]) -> Result<Self, NotAStandardSecret> {
        let lasting = |key| Lasting { key, until: None };
        let standard = if schemes.contains(&Scheme::Standard) {
            secrets.iter().map(|secret| standard_key(secret).map(lasting)).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        Ok(Self { literal: secrets.iter().map(Key::literal).map(lasting).collect(), standard, schemes })
    }

    /// The same of secrets that have an end each, or none, the current one first. `standard` is left out where the current one does not
    /// fit it; a former one that does not signs the other schemes only.
    pub fn lasting(mut schemes: Vec<Scheme>, secrets: &[(Secret, Option<Timestamp>)]) -> Self {
        let fits = secrets.first().is_some_and(|(secret, _)| standard_key(secret).is_ok());
        schemes.retain(|scheme| fits || *scheme != Scheme::Standard);
        let literal = secrets.iter().map(|(secret, until)| Lasting { key: Key::literal(secret), until: *until });
        let standard =
            secrets.iter().filter_map(|(secret, until)| Some(Lasting { key: standard_key(secret).ok()?, until: *until }));
        let standard = if schemes.contains(&Scheme::Standard) { standard.collect() } else { Vec::new() };
        Self { literal: literal.collect(), standard, schemes }
    }

    /// How many secrets there are to sign with at `at`, for schemes that carry one signature only: an attempt refused with 401
    /// or 403 is repeated with the next. 1 where every scheme carries all signatures at once.
    pub fn rounds(&self, at: Timestamp) -> usize {
        let single = self.schemes.iter().any(|scheme| *scheme != Scheme::Standard);
        if single { self.literal.iter().filter(|key| key.signs_at(at)).count().max(1) } else { 1 }
    }

    /// The headers for `message`. `round` says which secret signs where a scheme carries one signature: 0 is the current one.
    pub fn headers(&self, message: Message<'_>, round: usize) -> Vec<(&str, String)> {
        let mut headers = Vec::with_capacity(self.schemes.len() * 3);
        let seconds = message.at.as_second().to_string();
        for scheme in &self.schemes {
            self.sign(scheme, message, &seconds, round, &mut headers);
        }
        headers
    }

    /// Names (lower case) of every header these schemes set, which custom headers cannot override.
    pub fn header_names(&self) -> Vec<String> {
        let names = self.schemes.iter().flat_map(|scheme| match scheme {
            Scheme::Standard => vec!["webhook-id", "webhook-timestamp", "webhook-signature"],
            Scheme::Interactor => vec!["x-interactor-signature", "x-interactor-timestamp"],
            Scheme::Agent => vec!["x-webhook-signature"],
            Scheme::Honeyframe => vec!["x-honeyframe-signature"],
            Scheme::Custom(custom) => vec![custom.header.as_str(), custom.timestamp_header.as_str()],
        });
        names.map(str::to_ascii_lowercase).collect()
    }

    fn sign<'s>(
        &'s self,
        scheme: &'s Scheme,
        message: Message<'_>,
        seconds: &str,
        round: usize,
        headers: &mut Vec<(&'s str, String)>,
    ) {
        let mut header = |name: &'s str, value: String| headers.push((name, value));
        let literal = || self.literal.iter().filter(|key| key.signs_at(message.at)).nth(round).map(|it| &it.key);
        let body_hex = |prefix: &str| {
            let key = literal()?;
            Some(prefixed(prefix, key.sign(&[message.body]).as_ref(), Encoding::Hex))
        };
        match scheme {
            Scheme::Standard => {
                let parts = [message.id.as_bytes(), b".", seconds.as_bytes(), b".", message.body];
                let item = |it: &Lasting| prefixed("v1,", it.key.sign(&parts).as_ref(), Encoding::Base64);
                header("webhook-id", message.id.to_owned());
                header("webhook-timestamp", seconds.to_owned());
                let signing = self.standard.iter().filter(|key| key.signs_at(message.at));
                header("webhook-signature", joined(signing.map(item)));
            }
            Scheme::Interactor => {
                if let Some(signature) = body_hex("sha256=") {
                    header("X-Interactor-Signature", signature);
                    header("X-Interactor-Timestamp", rfc3339_s(message.at));
                }
            }
            Scheme::Agent => {
                if let Some(signature) = body_hex("") {
                    header("X-Webhook-Signature", signature);
                }
            }
            Scheme::Honeyframe => {
                if let Some(signature) = body_hex("sha256=") {
                    header("X-Honeyframe-Signature", signature);
                }
            }
            Scheme::Custom(custom) => {
                let Some(key) = literal() else { return };
                let tag = match custom.content {
                    Content::Body => key.sign(&[message.body]),
                    Content::TimestampBody => {
                        header(&custom.timestamp_header, seconds.to_owned());
                        key.sign(&[seconds.as_bytes(), b".", message.body])
                    }
                };
                header(&custom.header, prefixed(&custom.prefix, tag.as_ref(), custom.encoding));
            }
        }
    }
}

/// `prefix` and what encodes `tag`, in one allocation.
fn prefixed(prefix: &str, tag: &[u8], encoding: Encoding) -> String {
    let encoding = match encoding {
        Encoding::Hex => HEXLOWER,
        Encoding::Base64 => BASE64,
    };
    let mut text = String::with_capacity(prefix.len() + encoding.encode_len(tag.len()));
    text.push_str(prefix);
    encoding.encode_append(tag, &mut text);
    text
}

/// The items with a space between two.
fn joined(mut items: impl Iterator<Item = String>) -> String {
    // Nearly always there is one.
    let first = items.next().unwrap_or_default();
    items.fold(first, |all, item| all + " " + &item)
}

/// The `webhook-id` of an event: its id where that is `[A-Za-z0-9_:-]{1,128}`, else `evt_` and the first 32 hex digits of
/// SHA-256 over source and id.
pub fn webhook_id(envelope: &Envelope) -> Cow<'_, str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-');
    if (1..=128).contains(&envelope.id.len()) && envelope.id.bytes().all(fits) {
        return Cow::Borrowed(&envelope.id);
    }
    let mut digest = hex(&identity(&envelope.source, &envelope.id));
    digest.truncate(32);
    Cow::Owned(format!("evt_{digest}"))
}

/// SHA-256 over source and id, kept apart by a zero byte, which neither can hold.
pub fn identity(source: &Name, id: &str) -> [u8; 32] {
    sha256(&[source.as_str().as_bytes(), &[0], id.as_bytes()])
}

/// An HMAC key over the bytes of `secret` for `algorithm`, for `hmac` sources.
pub fn key_for(algorithm: Algorithm, secret: &Secret) -> Key {
    Key::new(algorithm, secret.reveal().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::tests::sample;

    fn message() -> Message<'static> {
        Message { id: "evt_003", at: "2026-01-20T12:00:00.9Z".parse().unwrap(), body: br#"{"a":1}"# }
    }

    fn secrets() -> [Secret; 2] {
        [Secret::new("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"), Secret::new("whsec_cHJldmlvdXNwcmV2aW91c3ByZXZpb3Vz")]
    }

    #[test]
    fn several_schemes_sign_one_body() {
        let custom = Custom {
            header: "X-Sig".into(),
            prefix: "v0=".into(),
            encoding: Encoding::Base64,
            content: Content::TimestampBody,
            timestamp_header: "X-Sig-Time".into(),
        };
        let schemes = vec![Scheme::Standard, Scheme::Interactor, Scheme::Agent, Scheme::Honeyframe, Scheme::Custom(custom)];
        let signing = Signing::new(schemes, &secrets()).unwrap();
        let headers = signing.headers(message(), 0);
        let find = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()).unwrap();
        assert_eq!(find("webhook-id"), "evt_003");
        assert_eq!(find("webhook-timestamp"), "1768910400");
        assert_eq!(find("webhook-signature").split(' ').count(), 2);
        assert_eq!(find("X-Interactor-Timestamp"), "2026-01-20T12:00:00Z");
        assert_eq!(find("X-Interactor-Signature"), format!("sha256={}", find("X-Webhook-Signature")));
        assert_eq!(find("X-Honeyframe-Signature"), find("X-Interactor-Signature"));
        assert_eq!(find("X-Sig-Time"), "1768910400");
        assert!(find("X-Sig").starts_with("v0="));
        assert_eq!(signing.header_names().len(), 9);
        assert_eq!(signing.rounds(message().at), 2);
        assert_ne!(headers, signing.headers(message(), 1));
    }

    #[test]
    fn standard_alone_needs_one_round_and_standard_secrets() {
        assert_eq!(Signing::new(vec![Scheme::Standard], &secrets()).unwrap().rounds(message().at), 1);
        assert!(Signing::new(vec![Scheme::Standard], &[Secret::new("plain")]).is_err());
        assert!(Signing::new(vec![Scheme::Agent], &[Secret::new("plain")]).is_ok());
    }

    #[test]
    fn a_secret_signs_until_its_end_by_the_clock() {
        let [new, old] = secrets();
        let end: Timestamp = "2026-01-22T12:00:00Z".parse().unwrap();
        let schemes = vec![Scheme::Standard, Scheme::Honeyframe];
        let signing = Signing::lasting(schemes.clone(), &[(new.clone(), None), (old, Some(end))]);
        let signatures = |at: Timestamp, round| {
            let headers = signing.headers(Message { at, ..message() }, round);
            let find = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            (find("webhook-signature").map_or(0, |it| it.split(' ').count()), find("X-Honeyframe-Signature").is_some())
        };
        let before = crate::clock::earlier(end, std::time::Duration::from_millis(1));
        assert_eq!((signing.rounds(before), signatures(before, 1)), (2, (2, true)));
        assert_eq!((signing.rounds(end), signatures(end, 0), signatures(end, 1).1), (1, (1, true), false));
        let plain = Signing::lasting(schemes, &[(Secret::new("hush-hush"), None), (new, Some(end))]);
        assert!(!plain.header_names().contains(&"webhook-id".to_owned()) && plain.rounds(before) == 2);
    }

    #[test]
    fn ids_that_no_header_can_carry_are_hashed() {
        let id = |id: &str| webhook_id(&Envelope { id: id.into(), ..sample() }).into_owned();
        assert_eq!(id("evt_003"), "evt_003");
        assert_eq!(id("sha256:00ff-17"), "sha256:00ff-17");
        let hashed = id("a.b");
        assert!(hashed.starts_with("evt_") && hashed.len() == 36, "{hashed}");
        assert_ne!(hashed, id("a,b"));
    }
}
