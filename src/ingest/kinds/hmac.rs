//! `hmac`: any sender's HMAC, by preset or described key by key.

use std::time::Duration;

use axum::http::HeaderName;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde_json::Value;

use super::{Content, Facts, HELD_TO, HmacProof, MAP, Proof, SECRETS, TOLERANCE, Verified, all_mapped};
use crate::{
    clock::Timestamp,
    config::decode::{Context, Decode, Field, Fields, Keys, Secrets, Words},
    envelope::Name,
    ingest::{
        answer::{Code, Rejection},
        body::Body,
        mapping::{Expression, HeaderText, Mapping, header_name},
        request::Raw,
        time,
    },
    json,
    sign::{self, Algorithm, Key},
};

/// How many signatures of one header are looked at: Stripe sends one per secret.
const ITEMS_MAX: usize = 8;

/// The settings of an `hmac` source.
#[derive(Debug, Clone)]
pub(crate) struct Hmac {
    form: Form,
    secrets: Secrets,
    keys: Vec<Key>,
    map: Mapping,
    fallback: String,
}

/// How the signature stands in the request.
#[derive(Debug, Clone)]
struct Form {
    header: HeaderName,
    layout: Layout,
    algorithm: Algorithm,
    content: Content,
    timestamp: Option<HeaderName>,
    tolerance: Option<Duration>,
}

#[derive(Debug, Clone)]
enum Layout {
    /// A prefix and one signature.
    Plain { prefix: String, required: bool, encoding: Encoding },
    /// Stripe's `t=<Unix seconds>,v1=<hex>,v1=<hex>`.
    Stripe,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoding {
    Hex,
    Base64,
}

/// Senders whose form is known.
#[derive(Debug, Clone, Copy)]
enum Preset {
    /// `X-Honeyframe-Signature`: hex over the body; `sha256=` before it is tolerated, since its documents leave the form open.
    Honeyframe,
    /// `X-Hub-Signature-256: sha256=<hex>` over the body; type and id stand in `X-GitHub-Event` and `X-GitHub-Delivery`.
    Github,
    /// `Stripe-Signature: t=…,v1=…` over `t.body`, held to 5 min.
    Stripe,
}

/// The keys of an `hmac` source.
pub(super) const KEYS: Keys = Keys::of(&[
    SECRETS,
    Field::of::<Preset>("preset", "A sender whose form is known; it settles the keys below but for `tolerance`."),
    Field::of::<HeaderText>("header", "The header that carries the signature.").example("X-Signature-256"),
    Field::of::<String>("prefix", "What stands before the signature.").example("sha256="),
    Field::of::<Encoding>("encoding", "How the signature is written.").default("hex"),
    Field::of::<Algorithm>("algorithm", "What the HMAC is made with.").default("sha256"),
    Field::of::<Content>("content", "What is signed: the body, or the timestamp, a dot and the body.").default("body"),
    Field::of::<HeaderText>("timestamp_header", "The header that carries the time of sending.").example("X-Timestamp"),
    Field::of::<Duration>("tolerance", HELD_TO).example("5m"),
    MAP,
])
.such_that(|hmac| hmac.exactly_one(&["preset", "header"]));

impl Words for Preset {
    const WORDS: &'static [(&'static str, Self)] =
        &[("honeyframe", Self::Honeyframe), ("github", Self::Github), ("stripe", Self::Stripe)];
}

impl Words for Encoding {
    const WORDS: &'static [(&'static str, Self)] = &[("hex", Self::Hex), ("base64", Self::Base64)];
}

impl Words for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &[("sha256", Self::Sha256), ("sha512", Self::Sha512), ("sha1", Self::Sha1)];
}

impl Words for Content {
    const WORDS: &'static [(&'static str, Self)] = &[("body", Self::Body), ("timestamp.body", Self::TimestampBody)];
}

/// What a preset settles.
const SETTLED: [&str; 6] = ["header", "prefix", "encoding", "algorithm", "content", "timestamp_header"];

/// A request's signatures, with the timestamp they cover.
struct Given<'r> {
    timestamp: Option<&'r str>,
    signatures: Vec<Vec<u8>>,
}

impl Hmac {
    /// Reads `secrets`, `preset` or (`header`, `prefix`, `encoding`, `algorithm`, `content`, `timestamp_header`), `tolerance`
    /// and `map`. What `map` does not name comes from the preset; without a type it is `<preset or source>.event`.
    pub(super) fn decode(fields: &mut Fields<'_>, name: &Name, cx: &mut Context) -> Option<Self> {
        let secrets: Option<Secrets> = fields.required("secrets", cx);
        let map = fields.node("map").and_then(|node| Mapping::decode(node, cx)).unwrap_or_default();
        let (form, map, called) = match fields.node("preset") {
            Some(node) => {
                let preset = Preset::decode(node, cx);
                let form = preset.map(|preset| preset.form(fields, cx));
                (form, map.or(&preset.map(Preset::map).unwrap_or_default()), preset.map_or(name.as_str(), |preset| preset.word()))
            }
            None => (Form::decode(fields, cx), map, name.as_str()),
        };
        let (form, secrets) = (form?, secrets?);
        let keys = secrets.0.iter().map(|secret| Key::new(form.algorithm, secret.reveal().as_bytes())).collect();
        Some(Self { form, secrets, keys, map, fallback: format!("{called}.event") })
    }

    /// Checks the timestamp, where one is signed or named, then the signature.
    pub(super) fn verify<'r>(&self, request: &'r Raw, now: Timestamp) -> Result<Verified<'r>, Rejection> {
        let given = self.form.given(request);
        if let Some(tolerance) = self.form.tolerance {
            let sent = given.timestamp.and_then(time::instant).ok_or(Code::InvalidTimestamp)?;
            if !time::within(now, sent, tolerance) {
                return Err(Code::InvalidTimestamp.into());
            }
        }
        let stamp = given.timestamp.unwrap_or_default().as_bytes();
        let signatures: Vec<&[u8]> = given.signatures.iter().map(Vec::as_slice).collect();
        let matching = match self.form.content {
            Content::Body => sign::matching(&self.keys, &[&request.body], &signatures),
            _ => sign::matching(&self.keys, &[stamp, b".", &request.body], &signatures),
        };
        matching.map(|secret| Verified::new(request, Some(secret))).ok_or_else(|| Code::InvalidSignature.into())
    }

    /// Finds the facts by `map`; the whole body is the data.
    pub(super) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        let (body, []) = Body::read(verified.request, [])?;
        let value = if self.map.is_empty() { Value::Null } else { json::lenient(body.whole().raw().as_bytes()) };
        Ok(all_mapped(&self.map, verified.request, &value, 0..verified.request.body.len(), &self.fallback))
    }

    /// The types of its events; `None`: what their sender says.
    pub(super) fn types(&self) -> Option<Vec<&str>> {
        self.map.settled_type(&self.fallback).map(|settled| vec![settled])
    }

    /// How it wants its sender proven.
    pub(super) fn proof(&self) -> Proof<'_> {
        let written = match &self.form.layout {
            Layout::Plain { encoding: Encoding::Base64, .. } => "the configured prefix and base64",
            Layout::Plain { .. } => "the configured prefix and hex digits",
            Layout::Stripe => "`t=<Unix seconds>,v1=<hex digits>`",
        };
        Proof::Hmac(HmacProof {
            headers: vec![&self.form.header],
            written,
            algorithm: self.form.algorithm,
            content: self.form.content,
            timestamps: self.form.timestamp.iter().collect(),
            unix: true,
            tolerance: self.form.tolerance,
            secrets: &self.secrets.0,
            standard: false,
        })
    }

    /// How a signature is written: what stands before it, and whether it is base64 rather than hex. `None`: in Stripe's layout.
    pub(crate) fn written(&self) -> Option<(&str, bool)> {
        match &self.form.layout {
            Layout::Plain { prefix, encoding, .. } => Some((prefix, matches!(encoding, Encoding::Base64))),
            Layout::Stripe => None,
        }
    }

    /// The headers that its map reads.
    pub(super) fn mapped_headers(&self) -> Vec<&HeaderName> {
        self.map.headers().collect()
    }
}

impl Form {
    fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        if fields.node("header").is_none() {
            let problem = cx.error("missing-key", fields.place(), format!("{} needs `header` or `preset`", fields.what()));
            problem.help("presets: honeyframe, github, stripe");
        }
        let header = named(fields, "header", cx);
        let prefix: String = fields.optional("prefix", cx).unwrap_or_default();
        let encoding = fields.or("encoding", Encoding::Hex, cx);
        let algorithm = fields.or("algorithm", Algorithm::Sha256, cx);
        let content = fields.or("content", Content::Body, cx);
        let timestamp = named(fields, "timestamp_header", cx);
        let tolerance = fields.optional("tolerance", cx);
        check_timestamp(fields, content == Content::TimestampBody || tolerance.is_some(), cx);
        let tolerance = timestamp.is_some().then(|| tolerance.unwrap_or(TOLERANCE));
        let layout = Layout::Plain { required: !prefix.is_empty(), prefix, encoding };
        Some(Self { header: header?, layout, algorithm, content, timestamp, tolerance })
    }

    /// What `request` gives; nothing where the header is missing, repeated or malformed.
    fn given<'r>(&self, request: &'r Raw) -> Given<'r> {
        let text = request.one(&self.header).unwrap_or_default();
        match &self.layout {
            Layout::Stripe => stripe(text),
            Layout::Plain { prefix, required, encoding } => Given {
                timestamp: self.timestamp.as_ref().and_then(|name| request.one(name)),
                signatures: plain(text, prefix, *required, *encoding).into_iter().collect(),
            },
        }
    }
}

fn named(fields: &mut Fields<'_>, key: &'static str, cx: &mut Context) -> Option<HeaderName> {
    let node = fields.node(key)?;
    String::decode(node, cx).and_then(|text| header_name(&text, node, cx))
}

/// What is held to a time must say where the time stands.
fn check_timestamp(fields: &mut Fields<'_>, needed: bool, cx: &mut Context) {
    if needed && fields.node("timestamp_header").is_none() {
        let place = fields.key_place("content").max(fields.key_place("tolerance"));
        cx.error("missing-key", place, "`content: timestamp.body` and `tolerance` need `timestamp_header`");
    }
}

fn plain(text: &str, prefix: &str, required: bool, encoding: Encoding) -> Option<Vec<u8>> {
    let rest = match text.strip_prefix(prefix) {
        Some(rest) => rest,
        None if required => return None,
        None => text,
    };
    match encoding {
        Encoding::Hex => HEXLOWER_PERMISSIVE.decode(rest.as_bytes()).ok(),
        Encoding::Base64 => BASE64.decode(rest.as_bytes()).ok(),
    }
}

/// Stripe's header: items `key=value` between commas; `v1` may come several times, other versions are skipped.
fn stripe(text: &str) -> Given<'_> {
    let items = || text.split(',').filter_map(|item| item.trim().split_once('='));
    let signatures = items().filter(|(key, _)| *key == "v1").take(ITEMS_MAX);
    Given {
        timestamp: items().find(|(key, _)| *key == "t").map(|(_, value)| value),
        signatures: signatures.filter_map(|(_, hex)| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()).collect(),
    }
}

impl Preset {
    fn word(self) -> &'static str {
        match self {
            Self::Honeyframe => "honeyframe",
            Self::Github => "github",
            Self::Stripe => "stripe",
        }
    }

    /// Its form; keys that it settles are errors beside it.
    fn form(self, fields: &mut Fields<'_>, cx: &mut Context) -> Form {
        for key in SETTLED {
            if fields.node(key).is_some() {
                let message = format!("`preset: {}` settles `{key}`", self.word());
                cx.error("conflict", fields.key_place(key), message);
            }
        }
        let hex = |required| Layout::Plain { prefix: "sha256=".to_owned(), required, encoding: Encoding::Hex };
        let (header, layout, content) = match self {
            Self::Honeyframe => ("x-honeyframe-signature", hex(false), Content::Body),
            Self::Github => ("x-hub-signature-256", hex(true), Content::Body),
            Self::Stripe => ("stripe-signature", Layout::Stripe, Content::TimestampBody),
        };
        let tolerance = self.tolerance(fields, cx);
        let header = HeaderName::from_static(header);
        Form { header, layout, algorithm: Algorithm::Sha256, content, timestamp: None, tolerance }
    }

    /// Stripe's tolerance; the others send no time.
    fn tolerance(self, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Duration> {
        let given = fields.optional("tolerance", cx);
        match self {
            Self::Stripe => Some(given.unwrap_or(TOLERANCE)),
            Self::Honeyframe | Self::Github => {
                if given.is_some() {
                    let message = format!("`preset: {}` has no timestamp to hold to a tolerance", self.word());
                    cx.error("conflict", fields.key_place("tolerance"), message);
                }
                None
            }
        }
    }

    /// Where it keeps an event's facts.
    fn map(self) -> Mapping {
        let paths = |texts: &[&str]| texts.iter().filter_map(|text| Expression::path(text)).collect();
        let header = |name| vec![Expression::Header(HeaderName::from_static(name))];
        match self {
            Self::Honeyframe => Mapping {
                id: paths(&["$.id"]),
                r#type: paths(&["$.event_type", "$.type"]),
                time: paths(&["$.timestamp", "$.created_at"]),
                ..Mapping::default()
            },
            Self::Github => Mapping {
                id: header("x-github-delivery"),
                r#type: header("x-github-event"),
                subject: paths(&["$.repository.full_name"]),
                ..Mapping::default()
            },
            Self::Stripe => Mapping {
                id: paths(&["$.id"]),
                r#type: paths(&["$.type"]),
                time: paths(&["$.created"]),
                namespace: paths(&["$.account"]),
                subject: paths(&["$.data.object.id"]),
                data: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ingest::{
            kinds::{
                Id, Kind, Word,
                tests::{decoded, hmac_hex, taken},
            },
            request::tests::request,
        },
        secret::Secret,
    };

    fn hmac(text: &str) -> Kind {
        decoded(Word::Hmac, text).unwrap()
    }

    #[test]
    fn github_names_type_and_id_in_headers() {
        let body = br#"{"action":"opened","repository":{"full_name":"a/b"}}"#;
        let signature = format!("sha256={}", hmac_hex("s", &[body]));
        let headers =
            [("x-hub-signature-256", signature.as_str()), ("x-github-event", "pull_request"), ("x-github-delivery", "72d3162e")];
        let facts = taken(&hmac(r#"{"preset": "github", "secrets": "s"}"#), &request("/", &headers, body)).unwrap();
        assert_eq!(
            (facts.id, facts.r#type.as_str(), facts.subject.as_deref()),
            (Id::Sender("72d3162e".into()), "pull_request", Some("a/b"))
        );
        let bare = [("x-hub-signature-256", &signature[7..])];
        assert_eq!(
            taken(&hmac(r#"{"preset": "github", "secrets": "s"}"#), &request("/", &bare, body)),
            Err(Code::InvalidSignature)
        );
    }

    #[test]
    fn stripe_signs_its_timestamp_and_may_sign_twice() {
        let kind = hmac(r#"{"preset": "stripe", "secrets": ["new", "old"]}"#);
        let body = br#"{"id":"evt_1","type":"invoice.paid","created":1768910399}"#;
        let signed = |secret: &str, at: &str| format!("t={at},v1={},v1=00,v0=x", hmac_hex(secret, &[at.as_bytes(), b".", body]));
        let sent = |value: &str| taken(&kind, &request("/", &[("stripe-signature", value)], body));
        let facts = sent(&signed("old", "1768910400")).unwrap();
        assert_eq!((facts.id, facts.r#type.as_str()), (Id::Sender("evt_1".into()), "invoice.paid"));
        assert_eq!(sent(&signed("old", "1768910000")), Err(Code::InvalidTimestamp));
        assert_eq!(sent("v1=00"), Err(Code::InvalidTimestamp));
        assert_eq!(sent(&signed("other", "1768910400")), Err(Code::InvalidSignature));
    }

    #[test]
    fn honeyframe_is_taken_with_prefix_and_without() {
        let kind = hmac(r#"{"preset": "honeyframe", "secrets": "s", "map": {"id": "$.n"}}"#);
        let body = br#"{"event_type":"dataset.updated","n":4}"#;
        for good in [hmac_hex("s", &[body]), format!("sha256={}", hmac_hex("s", &[body]))] {
            let facts = taken(&kind, &request("/", &[("x-honeyframe-signature", &good)], body)).unwrap();
            assert_eq!((facts.id, facts.r#type.as_str()), (Id::Sender("4".into()), "dataset.updated"));
        }
        let facts = taken(&kind, &request("/", &[("x-honeyframe-signature", &hmac_hex("s", &[b"{}"]))], b"{}")).unwrap();
        assert_eq!((facts.id, facts.r#type.as_str()), (Id::Hash, "honeyframe.event"));
    }

    #[test]
    fn any_form_can_be_described() {
        let kind = hmac(
            r#"{"header": "X-Sig", "prefix": "v0=", "encoding": "base64", "algorithm": "sha512", "content": "timestamp.body", "timestamp_header": "X-Time", "secrets": "s"}"#,
        );
        let key = Key::new(Algorithm::Sha512, Secret::new("s").reveal().as_bytes());
        let signature = format!("v0={}", sign::base64(key.sign(&[b"1768910400.{}"]).as_ref()));
        let sent = |at: &str, value: &str| taken(&kind, &request("/", &[("x-sig", value), ("x-time", at)], b"{}"));
        assert_eq!(sent("1768910400", &signature).unwrap().r#type, "shop.event");
        assert_eq!(sent("1768910401", &signature), Err(Code::InvalidSignature));
        assert_eq!(sent("1768919999", &signature), Err(Code::InvalidTimestamp));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (text, code) in [
            (r#"{"secrets": "s"}"#, "missing-key"),
            (r#"{"secrets": "s", "preset": "slack"}"#, "bad-value"),
            (r#"{"secrets": "s", "preset": "github", "header": "X-A"}"#, "conflict"),
            (r#"{"secrets": "s", "preset": "github", "tolerance": "5m"}"#, "conflict"),
            (r#"{"secrets": "s", "header": "X-A", "content": "timestamp.body"}"#, "missing-key"),
            (r#"{"secrets": "s", "header": "X-A", "tolerance": "5m"}"#, "missing-key"),
            (r#"{"secrets": "s", "header": "X A"}"#, "bad-type"),
        ] {
            assert_eq!(decoded(Word::Hmac, text).unwrap_err(), [code], "{text}");
        }
    }
}
