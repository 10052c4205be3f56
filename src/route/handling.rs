//! What rules want done with deliveries before they go out (`throttle`, `digest`, `cancel_on`), and what events end of it. Worked out
//! when an event is planned and fixed from then on; only events whose rules say so cost anything.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use serde_json::Value;

use super::{
    glob::Glob,
    path::Path,
    rule::{OneOrMoreGlobs, Rule, globs},
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
        tree::Node,
    },
    envelope::{Envelope, Name},
    sign::sha256,
    store::{DIGEST_MAX, Digest, Endings, Handling, Key, Throttle},
};

/// The longest window of a throttle or a digest.
const WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What one rule says of deliveries before they go out.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `throttle`.
    pub throttle: Option<ThrottleRule>,
    /// `digest`.
    pub digest: Option<DigestRule>,
    /// `cancel_on`.
    pub cancel_on: Option<CancelRule>,
}

/// `throttle: {key, limit, per, reset_on}`.
#[derive(Debug, Clone)]
pub struct ThrottleRule {
    key: Path,
    limit: u32,
    per: Duration,
    reset_on: Vec<Glob>,
}

/// `digest: {key, window, max}`.
#[derive(Debug, Clone)]
pub struct DigestRule {
    key: Path,
    window: Duration,
    max: u32,
}

/// `cancel_on: {type, key}`.
#[derive(Debug, Clone)]
pub struct CancelRule {
    r#type: Vec<Glob>,
    key: Path,
}

/// Who reads what a destination sends: only what the same people read can go out together.
#[derive(Debug, Clone, Default)]
pub enum Audience {
    /// The same for every event.
    #[default]
    Same,
    /// The people behind the event's namespace.
    Namespace,
    /// Whoever this path names.
    At(Path),
}

impl Audience {
    /// What tells the audience of `event` from others; `view` is the envelope as rules see it.
    fn of(&self, event: &Envelope, view: &Value) -> String {
        match self {
            Self::Same => String::new(),
            Self::Namespace => event.namespace.clone().unwrap_or_default(),
            Self::At(path) => path.find(view).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        }
    }

    /// The key under which what comes for one audience gathers while the target `name` is quiet.
    pub fn quiet_key(&self, name: &Name, event: &Envelope) -> Key {
        let who = match self {
            Self::Same => String::new(),
            // The view costs; it is made for these only.
            Self::Namespace | Self::At(_) => self.of(event, &super::to_value(event)),
        };
        key("quiet", name, &[&who])
    }
}

/// What a rule says about handling.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<ThrottleRule>("throttle", "Sends no more than so many per key in a time; the others are suppressed.")
        .example(r#"{"key": "$.data.credential_id", "limit": 1, "per": "24h"}"#),
    Field::of::<DigestRule>(
        "digest",
        "Gathers what comes for one key, and sends it as one message: Slack, email and WhatsApp only.",
    )
    .example(r#"{"key": "$.namespace", "window": "10m", "max": 50}"#),
    Field::of::<CancelRule>("cancel_on", "Events that make deliveries which still wait pointless.")
        .example(r#"{"type": ["credential.refreshed"], "key": "$.data.credential_id"}"#),
]);
const THROTTLE: Keys = Keys::of(&[
    Field::of::<Path>("key", "What tells one run of events from another. An event that has nothing there is not throttled.")
        .required()
        .example("$.data.credential_id"),
    Field::of::<u32>("limit", "How many are sent in that time.").default("1").such_that(|limit| limit.at_least(1)),
    Field::of::<Duration>("per", "In which time.").required().example("24h"),
    Field::of::<OneOrMoreGlobs>("reset_on", "Types of events after which it begins anew for their key.")
        .example("credential.refreshed"),
]);
const DIGEST: Keys = Keys::of(&[
    Field::of::<Path>("key", "What tells one message from another. An event that has nothing there is sent alone.")
        .required()
        .example("$.namespace"),
    Field::of::<Duration>("window", "How long is gathered, from the first event on.").required().example("10m"),
    Field::of::<u32>("max", "How many events end it early.").default("10000").such_that(|max| max.between(1, DIGEST_MAX.into())),
]);
const CANCEL: Keys = Keys::of(&[
    Field::of::<OneOrMoreGlobs>("type", "Types of the events that cancel.").required().example("credential.refreshed"),
    Field::of::<Path>("key", "What the events and the deliveries they cancel have in common.")
        .required()
        .example("$.data.credential_id"),
]);

impl Shape for ThrottleRule {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(THROTTLE, all)
    }
}

impl Shape for DigestRule {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(DIGEST, all)
    }
}

impl Shape for CancelRule {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(CANCEL, all)
    }
}

impl Wanted {
    /// Reads the three keys of a rule.
    pub(super) fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Self {
        Self {
            throttle: fields.optional("throttle", cx),
            digest: fields.optional("digest", cx),
            cancel_on: fields.optional("cancel_on", cx),
        }
    }

    /// Whether it says anything.
    pub(super) fn is_some(&self) -> bool {
        self.throttle.is_some() || self.digest.is_some() || self.cancel_on.is_some()
    }
}

impl Decode for ThrottleRule {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`throttle`", THROTTLE, cx)?;
        let key = fields.required("key", cx);
        let limit = number(&mut fields, "limit", 1..=u32::MAX, "`limit` is at least 1: a rule without `to` sends nothing", cx);
        let per = window(&mut fields, "per", cx);
        let reset_on = globs(&mut fields, "reset_on", cx);
        fields.finish(cx);
        Some(Self { key: key?, limit: limit?.unwrap_or(1), per: per?, reset_on: reset_on? })
    }
}

impl Decode for DigestRule {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`digest`", DIGEST, cx)?;
        let key = fields.required("key", cx);
        let window = window(&mut fields, "window", cx);
        let message = format!("`max` is between 1 and {DIGEST_MAX}");
        let max = number(&mut fields, "max", 1..=DIGEST_MAX, &message, cx);
        fields.finish(cx);
        Some(Self { key: key?, window: window?, max: max?.unwrap_or(DIGEST_MAX) })
    }
}

impl Decode for CancelRule {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`cancel_on`", CANCEL, cx)?;
        let named = fields.node("type").is_some();
        let types = globs(&mut fields, "type", cx);
        if !named {
            fields.missing("type", cx);
        }
        let key = fields.required("key", cx);
        fields.finish(cx);
        Some(Self { r#type: types.filter(|_| named)?, key: key? })
    }
}

/// A length of time that must be there and longer than nothing.
fn window(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context) -> Option<Duration> {
    let given = fields.required::<Located<Duration>>(name, cx)?;
    if given.value.is_zero() || WINDOW_MAX < given.value {
        cx.error("bad-value", given.place, format!("`{name}` is longer than nothing and at most 366d"));
        return None;
    }
    Some(given.value)
}

/// A number that may be absent; `None` when it is wrong.
fn number(
    fields: &mut Fields<'_>,
    name: &'static str,
    range: RangeInclusive<u32>,
    message: &str,
    cx: &mut Context,
) -> Option<Option<u32>> {
    let Some(node) = fields.node(name) else { return Some(None) };
    let given = Located::<u32>::decode(node, cx)?;
    if !range.contains(&given.value) {
        cx.error("bad-value", given.place, message);
        return None;
    }
    Some(Some(given.value))
}

/// What `rules`, all of which name `target`, want done with its delivery of `event`: only what every one of them wants.
pub(super) fn handling(rules: &[&Rule], audience: &Audience, event: &Envelope, view: &Value) -> Option<Box<Handling>> {
    let all = |wanted: Vec<Option<Key>>| wanted.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default();
    let throttle = |rule: &&Rule| {
        let it = rule.wanted.throttle.as_ref()?;
        Some(Throttle { key: it.key(&rule.name, view)?, limit: it.limit, per: it.per })
    };
    let cancel = |rule: &&Rule| {
        let it = rule.wanted.cancel_on.as_ref()?;
        it.key(&rule.name, view)
    };
    let digest = |rule: &&Rule| {
        let it = rule.wanted.digest.as_ref()?;
        let value = it.key.text_in(view)?;
        let key = key("digest", &rule.name, &[&value, &audience.of(event, view)]);
        Some(Digest { key, window: it.window, max: it.max })
    };
    let digests: Option<Vec<Digest>> = rules.iter().map(digest).collect();
    let handling = Handling {
        throttles: rules.iter().map(throttle).collect::<Option<Vec<_>>>().unwrap_or_default(),
        digest: digests.and_then(|digests| digests.first().copied()),
        cancels: all(rules.iter().map(cancel).collect()),
    };
    (!handling.is_empty()).then(|| Box::new(handling))
}

impl ThrottleRule {
    fn key(&self, rule: &Name, view: &Value) -> Option<Key> {
        Some(key("throttle", rule, &[&self.key.text_in(view)?]))
    }
}

impl CancelRule {
    fn key(&self, rule: &Name, view: &Value) -> Option<Key> {
        Some(key("cancel_on", rule, &[&self.key.text_in(view)?]))
    }
}

/// The first half of SHA-256 over what a key is for, the rule (or target) it belongs to and what was found for it.
fn key(what: &str, whose: &Name, values: &[&str]) -> Key {
    // Names hold no zero bytes, and the last value needs no end.
    let mut parts = vec![what.as_bytes(), b"\0", whose.as_str().as_bytes()];
    for value in values {
        parts.extend([&b"\0"[..], value.as_bytes()]);
    }
    let hash = sha256(&parts);
    hash.first_chunk().copied().unwrap_or_default()
}

/// Which rules an event's type ends something of, without looking at the others.
#[derive(Debug, Default)]
pub(super) struct EndIndex {
    by_type: HashMap<String, Vec<usize>>,
    by_glob: Vec<(Glob, usize)>,
}

impl EndIndex {
    /// Files `rules` under the types that they wait for.
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let resets = rule.wanted.throttle.iter().flat_map(|it| &it.reset_on);
            let cancels = rule.wanted.cancel_on.iter().flat_map(|it| &it.r#type);
            for glob in resets.chain(cancels) {
                match glob.exact() {
                    Some(exact) => index.by_type.entry(exact.to_owned()).or_default().push(at),
                    None => index.by_glob.push((glob.clone(), at)),
                }
            }
        }
        index
    }

    /// The rules that an event of this type may end something of, each once.
    fn rules(&self, r#type: &str) -> Vec<usize> {
        let globs = self.by_glob.iter().filter(|(glob, _)| glob.matches(r#type)).map(|(_, at)| *at);
        let mut found: Vec<usize> = self.by_type.get(r#type).into_iter().flatten().copied().chain(globs).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The rules of which `event` ends something: a throttle's window (true), or deliveries that wait (false).
    pub(super) fn ended(&self, rules: &[Rule], event: &Envelope, view: &Value) -> Vec<(Name, bool)> {
        let found = self.rules(&event.r#type).into_iter().filter_map(|at| rules.get(at));
        let of_rule = |rule: &Rule| {
            let (reset, cancel) = ended_of(rule, event, view);
            [reset.map(|_| (rule.name.clone(), true)), cancel.map(|_| (rule.name.clone(), false))]
        };
        found.flat_map(of_rule).flatten().collect()
    }

    /// What `event` ends of what `rules` planned before; `view` is only called when there is something.
    pub(super) fn endings<'v>(&self, rules: &[Rule], event: &Envelope, view: impl FnOnce() -> &'v Value) -> Endings {
        let mut endings = Endings::default();
        if self.by_type.is_empty() && self.by_glob.is_empty() {
            return endings;
        }
        let found = self.rules(&event.r#type);
        if found.is_empty() {
            return endings;
        }
        let view = view();
        for rule in found.into_iter().filter_map(|at| rules.get(at)) {
            let (reset, cancel) = ended_of(rule, event, view);
            endings.resets.extend(reset);
            endings.cancels.extend(cancel);
        }
        endings
    }
}

/// What `event` ends of what `rule` planned before: the throttle under this key, the deliveries that wait for this one.
fn ended_of(rule: &Rule, event: &Envelope, view: &Value) -> (Option<Key>, Option<Key>) {
    let fits = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(&event.r#type));
    let throttle = rule.wanted.throttle.as_ref().filter(|it| fits(&it.reset_on));
    let cancel = rule.wanted.cancel_on.as_ref().filter(|it| fits(&it.r#type));
    (throttle.and_then(|it| it.key(&rule.name, view)), cancel.and_then(|it| it.key(&rule.name, view)))
}
