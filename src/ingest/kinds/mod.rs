//! The kinds of source: how each proves its sender and where it keeps an event's facts. A new kind is a file here, a variant of
//! [`Kind`] and the arms the compiler asks for.

use std::{ops::Range, time::Duration};

use axum::http::HeaderName;
use serde_json::Value;

use super::{
    answer::{Code, Rejection},
    body::{Body, Token, fit},
    mapping::{MapWithoutId, Mapped, Mapping, Members},
    poll::Pulled,
    request::Raw,
    source::PUSHED,
    time,
};
use crate::{
    clock::Timestamp,
    config::decode::{Context, Field, Fields, Keys, Secrets, Words},
    envelope::Name,
    json,
    secret::Secret,
    sign,
};

mod agent;
mod hmac;
mod interactor;
mod poll;
mod standard;
mod trigger;

pub(crate) use agent::Agent;
pub(crate) use hmac::Hmac;
pub(crate) use interactor::Interactor;
pub(crate) use poll::Poll;
pub(crate) use standard::Standard;
pub(crate) use trigger::Trigger;

/// How far a signed timestamp may be off by default, before or after.
const TOLERANCE: Duration = Duration::from_secs(300);

/// What kind a source is, with what that kind is configured with.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Interactor's webhooks.
    Interactor(Interactor),
    /// Interactor's agent webhooks.
    Agent(Agent),
    /// Interactor's trigger forwarding, or any sender that knows a static header or path only.
    Trigger(Trigger),
    /// Any other sender's HMAC.
    Hmac(Hmac),
    /// Standard Webhooks.
    Standard(Standard),
    /// A REST API that is asked again and again.
    Poll(Box<Poll>),
}

/// The word of a kind, before its settings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// `interactor`.
    Interactor,
    /// `agent`.
    Agent,
    /// `trigger`.
    Trigger,
    /// `hmac`.
    Hmac,
    /// `standard`.
    Standard,
    /// `poll`.
    Poll,
}

impl Words for Word {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("interactor", Self::Interactor),
        ("agent", Self::Agent),
        ("trigger", Self::Trigger),
        ("hmac", Self::Hmac),
        ("standard", Self::Standard),
        ("poll", Self::Poll),
    ];
}

impl Word {
    /// The keys that only this kind has.
    #[cfg(test)]
    pub(crate) fn keys(self) -> Keys {
        match self {
            Self::Interactor => interactor::KEYS,
            Self::Agent => agent::KEYS,
            Self::Trigger => trigger::KEYS,
            Self::Hmac => hmac::KEYS,
            Self::Standard => standard::KEYS,
            Self::Poll => poll::KEYS,
        }
    }

    /// The same, with those that all kinds have whose senders come by themselves.
    pub(crate) fn all_keys(self) -> Keys {
        match self {
            Self::Interactor => const { Keys::of(PUSHED).and(&[interactor::KEYS]) },
            Self::Agent => const { Keys::of(PUSHED).and(&[agent::KEYS]) },
            Self::Trigger => const { Keys::of(PUSHED).and(&[trigger::KEYS]) },
            Self::Hmac => const { Keys::of(PUSHED).and(&[hmac::KEYS]) },
            Self::Standard => const { Keys::of(PUSHED).and(&[standard::KEYS]) },
            Self::Poll => poll::KEYS,
        }
    }
}

/// Keys that several kinds have.
const SECRETS: Field =
    Field::of::<Secrets>("secrets", "The secrets it shares with its sender, the current one first; any of them may fit.")
        .required()
        .example(r#"["${INTERACTOR_WEBHOOK_SECRET}", "${INTERACTOR_WEBHOOK_SECRET_PREVIOUS:-}"]"#);
const HELD_TO: &str = "How far a timestamp may be off, before or after.";
const MAP_WITHOUT_ID: Field =
    Field::of::<MapWithoutId>("map", "Where type, time, namespace and subject stand, instead of where this kind keeps them.")
        .example(r#"{"namespace": "$.data.account"}"#);
const MAP: Field =
    Field::of::<Mapping>("map", "Where id, type, time, namespace and subject stand: a JSONPath into the body, or a literal.")
        .example(r#"{"type": "connector.gmail.email_sent", "id": "$.message.id", "time": "$.message.sent_at"}"#);

/// A request whose sender is proven, or an item that was fetched from where the file says. Only the kinds of this folder make one, and [`Kind::normalise`] takes nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified<'r> {
    request: &'r Raw,
    secret: Option<usize>,
}

impl<'r> Verified<'r> {
    /// `secret` is the position among [`Kind::secrets`] of the one that proves the sender; `None` where nothing secret does.
    fn new(request: &'r Raw, secret: Option<usize>) -> Self {
        Self { request, secret }
    }

    /// The position among [`Kind::secrets`] of the one that proved the sender.
    pub(crate) fn secret(&self) -> Option<usize> {
        self.secret
    }
}

/// How an event is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    /// As its sender calls it.
    Sender(String),
    /// The sender calls it nothing: by the hash of its bytes.
    Hash,
}

/// What a request says about its event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    /// How it is called.
    pub(crate) id: Id,
    /// What happened.
    pub(crate) r#type: String,
    /// When, and as it was sent; `None` where that is missing or unreadable.
    pub(crate) time: Option<(Timestamp, String)>,
    /// Whose event it is.
    pub(crate) namespace: Option<String>,
    /// What it happened to.
    pub(crate) subject: Option<String>,
    /// Which bytes of the body are its data.
    pub(crate) data: Option<Range<usize>>,
    /// Whether its sender sends it again on purpose.
    pub(crate) replayed: bool,
}

impl Kind {
    /// Reads what a source of kind `word`, called `name`, is configured with.
    pub(crate) fn decode(word: Word, fields: &mut Fields<'_>, name: &Name, cx: &mut Context) -> Option<Self> {
        match word {
            Word::Interactor => Interactor::decode(fields, cx).map(Self::Interactor),
            Word::Agent => Agent::decode(fields, cx).map(Self::Agent),
            Word::Trigger => Trigger::decode(fields, cx).map(Self::Trigger),
            Word::Hmac => Hmac::decode(fields, name, cx).map(Self::Hmac),
            Word::Standard => Standard::decode(fields, cx).map(Self::Standard),
            Word::Poll => Poll::decode(fields, name, cx).map(|poll| Self::Poll(Box::new(poll))),
        }
    }

    /// Its word in `routes.yaml` and in the envelope's `sourcekind`.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Interactor(_) => "interactor",
            Self::Agent(_) => "agent",
            Self::Trigger(_) => "trigger",
            Self::Hmac(_) => "hmac",
            Self::Standard(_) => "standard",
            Self::Poll(_) => "poll",
        }
    }

    /// The types its events can be of; `None` where their sender says.
    pub(crate) fn types(&self) -> Option<Vec<&str>> {
        match self {
            Self::Interactor(it) => it.types(),
            Self::Agent(it) => it.types(),
            Self::Trigger(it) => it.types(),
            Self::Hmac(it) => it.types(),
            Self::Standard(it) => it.types(),
            Self::Poll(it) => it.types(),
        }
    }

    /// Checks who sent `request`. Timestamps are held to `now`.
    pub(crate) fn verify<'r>(&self, request: &'r Raw, now: Timestamp) -> Result<Verified<'r>, Rejection> {
        match self {
            Self::Interactor(it) => it.verify(request, now),
            Self::Agent(it) => it.verify(request, now),
            Self::Trigger(it) => it.verify(request),
            Self::Hmac(it) => it.verify(request, now),
            Self::Standard(it) => it.verify(request, now),
            // Nobody sends to it.
            Self::Poll(_) => Err(Code::NotFound.into()),
        }
    }

    /// Checks media type, JSON and shape, and finds the event's facts.
    pub(crate) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        match self {
            Self::Interactor(it) => it.normalise(verified),
            Self::Agent(it) => it.normalise(verified),
            Self::Trigger(it) => it.normalise(verified),
            Self::Hmac(it) => it.normalise(verified),
            Self::Standard(it) => it.normalise(verified),
            Self::Poll(it) => it.normalise(verified),
        }
    }

    /// The facts of an item that the relay itself fetched; nothing of a kind that is not asked.
    pub(super) fn pulled(&self, item: &Pulled) -> Result<Facts, Rejection> {
        match self {
            Self::Poll(it) => it.normalise(it.pulled(item)),
            _ => Err(Code::NotFound.into()),
        }
    }

    /// The facts of a request that nobody sent: for rehearsals, and to be shown. They are no [`Verified`], so that nothing is taken in by them.
    pub(super) fn facts_of(&self, request: &Raw) -> Result<Facts, Rejection> {
        self.normalise(Verified::new(request, None))
    }

    /// How it wants its sender proven, for the doctor and the quarantine.
    pub(crate) fn proof(&self) -> Proof<'_> {
        match self {
            Self::Interactor(it) => it.proof(),
            Self::Agent(it) => it.proof(),
            Self::Trigger(it) => it.proof(),
            Self::Hmac(it) => it.proof(),
            Self::Standard(it) => it.proof(),
            Self::Poll(_) => Proof::None,
        }
    }

    /// The secret last segments of its path, where it has them.
    pub(crate) fn path_secrets(&self) -> &[Secret] {
        match self {
            Self::Trigger(it) => it.path_secrets(),
            Self::Interactor(_) | Self::Agent(_) | Self::Hmac(_) | Self::Standard(_) | Self::Poll(_) => &[],
        }
    }

    /// Everything that proves a sender, in the order of the file; header values before path secrets.
    pub(crate) fn secrets(&self) -> Vec<&Secret> {
        let proofs = match self.proof() {
            Proof::Hmac(proof) => proof.secrets,
            Proof::Static { values, .. } => values,
            Proof::None => &[],
        };
        proofs.iter().chain(self.path_secrets()).collect()
    }

    /// The headers that its `map` reads.
    pub(crate) fn mapped_headers(&self) -> Vec<&HeaderName> {
        match self {
            Self::Trigger(it) => it.mapped_headers(),
            Self::Hmac(it) => it.mapped_headers(),
            Self::Interactor(_) | Self::Agent(_) | Self::Standard(_) | Self::Poll(_) => Vec::new(),
        }
    }
}

/// How a kind wants its sender proven.
#[derive(Debug, Clone)]
pub(crate) enum Proof<'s> {
    /// By an HMAC.
    Hmac(HmacProof<'s>),
    /// By a header that always has the same value.
    Static {
        /// Which header.
        header: &'s HeaderName,
        /// Its values.
        values: &'s [Secret],
    },
    /// By its path, or not at all.
    None,
}

/// An HMAC that proves a sender.
#[derive(Debug, Clone)]
pub(crate) struct HmacProof<'s> {
    /// The headers the signature may stand in.
    pub(crate) headers: Vec<&'s HeaderName>,
    /// How it is written, for people: "`sha256=` and 64 lowercase hex digits".
    pub(crate) written: &'static str,
    /// Which hash function.
    pub(crate) algorithm: sign::Algorithm,
    /// What is signed.
    pub(crate) content: Content,
    /// The headers the timestamp may stand in.
    pub(crate) timestamps: Vec<&'s HeaderName>,
    /// Whether the timestamp is Unix seconds rather than ISO 8601.
    pub(crate) unix: bool,
    /// How far it may be off.
    pub(crate) tolerance: Option<Duration>,
    /// The secrets.
    pub(crate) secrets: &'s [Secret],
    /// Whether the secrets are Standard Webhooks secrets.
    pub(crate) standard: bool,
}

/// What an HMAC is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// The body.
    Body,
    /// The timestamp as sent, a dot, the body.
    TimestampBody,
    /// The id, a dot, the timestamp, a dot, the body.
    IdTimestampBody,
}

/// What `map` says of a request, over what its kind says.
fn mapped(mut facts: Facts, map: &Mapping, request: &Raw) -> Facts {
    if map.is_empty() {
        return facts;
    }
    let Mapped { r#type, time, namespace, subject, .. } = map.apply(request, &json::lenient(&request.body));
    facts.r#type = r#type.unwrap_or(facts.r#type);
    facts.time = time.and_then(told).or(facts.time);
    facts.namespace = namespace.or(facts.namespace);
    facts.subject = subject.or(facts.subject);
    facts
}

/// The facts of a body of any shape, whose whole is the data: by `map`, and with type `fallback` where that finds none.
fn all_mapped(map: &Mapping, request: &Raw, body: &Value, data: Range<usize>, fallback: &str) -> Facts {
    let found = map.apply(request, body);
    Facts {
        id: found.id.map_or(Id::Hash, Id::Sender),
        r#type: found.r#type.unwrap_or_else(|| fallback.to_owned()),
        time: found.time.and_then(told),
        namespace: found.namespace,
        subject: found.subject,
        data: Some(map.data.as_ref().and_then(|members| part(members, request)).unwrap_or(data)),
        replayed: false,
    }
}

/// Which bytes of the body stand at `members`.
fn part(members: &Members, request: &Raw) -> Option<Range<usize>> {
    let (body, []) = Body::read(request, []).ok()?;
    body.whole().at(&members.names).map(|token| body.range(token))
}

/// The time that `text` tells, with the text.
fn told(text: String) -> Option<(Timestamp, String)> {
    time::instant(&text).map(|at| (at, text))
}

/// The time that the first readable one of `tokens` tells.
fn told_by(tokens: &[Option<Token<'_>>]) -> Option<(Timestamp, String)> {
    tokens.iter().flatten().find_map(|token| token.text().and_then(told))
}

/// The text of the first of `tokens` that has one that fits.
fn first_text(tokens: &[Option<Token<'_>>]) -> Option<String> {
    tokens.iter().flatten().find_map(|token| token.text().and_then(fit))
}

/// A `map` of a kind that settles the id itself.
fn map_without_id(fields: &mut Fields<'_>, cx: &mut Context) -> Mapping {
    fields.node("map").and_then(|node| Mapping::decode_without_id(node, cx)).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::tree::{Key, Node, Place, Value as Yaml};

    /// The tree of a file that says `text`, which is JSON.
    pub(crate) fn yaml(text: &str) -> Node {
        node(&serde_json::from_str(text).unwrap())
    }

    fn node(value: &Value) -> Node {
        let key = |name: &String| Key { name: name.clone(), place: Place::default() };
        let value = match value {
            Value::Null => Yaml::Null,
            Value::Bool(yes) => Yaml::Bool(*yes),
            Value::Number(number) => number.as_i64().map_or_else(|| Yaml::Float(number.as_f64().unwrap()), Yaml::Int),
            Value::String(text) => Yaml::String(text.clone()),
            Value::Array(items) => Yaml::List(items.iter().map(node).collect()),
            Value::Object(map) => Yaml::Map(map.iter().map(|(name, value)| (key(name), node(value))).collect()),
        };
        Node { value, place: Place::default(), referenced: false }
    }

    /// The kind of a source that says `text` (kind-specific keys only), or the codes of what is wrong with it.
    pub(crate) fn decoded(word: Word, text: &str) -> Result<Kind, Vec<&'static str>> {
        let mut cx = Context::default();
        let tree = yaml(text);
        let mut fields = Fields::open(&tree, "a source", word.keys(), &mut cx).unwrap();
        let kind = Kind::decode(word, &mut fields, &Name::from("shop"), &mut cx);
        fields.finish(&mut cx);
        match kind {
            Some(kind) if cx.problems.is_empty() => Ok(kind),
            _ => Err(cx.problems.iter().map(|problem| problem.code).collect()),
        }
    }

    /// Noon, when every request of the tests arrives.
    pub(crate) fn noon() -> Timestamp {
        "2026-01-20T12:00:00Z".parse().unwrap()
    }

    /// What becomes of `request` at noon.
    pub(crate) fn taken(kind: &Kind, request: &Raw) -> Result<Facts, Code> {
        kind.verify(request, noon()).and_then(|verified| kind.normalise(verified)).map_err(|rejection| rejection.code)
    }

    /// Lowercase hex of HMAC-SHA-256 over `parts` with the literal `secret`.
    pub(crate) fn hmac_hex(secret: &str, parts: &[&[u8]]) -> String {
        sign::hex(sign::Key::literal(&Secret::new(secret)).sign(parts).as_ref())
    }
}
