//! A source as `routes.yaml` declares it: what all kinds share.

use std::time::Duration;

use super::{
    dedupe::WINDOW,
    kinds::{Kind, Poll, Word},
    limits::FAILURES,
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Rate, Schema, Shape, Words},
        tree::{self, Node, Place, Value},
    },
    envelope::Name,
};

/// Longest path, in bytes.
const PATH_MAX: usize = 512;
/// Shortest `silent_after`.
const SILENT_MIN: Duration = Duration::from_secs(1);
/// Paths that the listener answers itself.
const TAKEN: [&str; 2] = ["/healthz", "/readyz"];

/// A named way in, as `routes.yaml` declares it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: Name,
    /// The path of the public listener that it answers on: `/webhooks/interactor`. Where the source has a secret last segment,
    /// the path without it. `None`: it is asked, and nobody sends to it.
    pub path: Option<String>,
    /// Where the path stands in the file, or all of it where it has none.
    pub place: Place,
    pub(crate) kind: Kind,
    pub(crate) rate_limit: Option<Rate>,
    pub(crate) failure_limit: Rate,
    pub(crate) window: Duration,
    /// Whether senders that ask by OPTIONS are told that they may deliver.
    pub(crate) handshake: bool,
    /// After how long without anything accepted it is told that the source is silent.
    pub(crate) silent_after: Option<Duration>,
}

/// What all kinds share.
const KEYS: Keys = Keys::of(&[
    Field::of::<Word>("kind", "How its sender proves itself, and where an event's id, type and time stand.").required(),
    Field::of::<Duration>("silent_after", "After how long without an event the relay tells that it is silent. Left out: never.")
        .example("24h"),
]);

/// What all share whose senders come by themselves.
pub(super) const PUSHED: &[Field] = &[
    Field::of::<SourcePath>("path", "The path of the public listener that it answers on.")
        .required()
        .example("/webhooks/interactor"),
    Field::of::<Rate>("rate_limit", "How many verified requests it takes; more get 429.")
        .example(r#"{"rate": "50/s", "burst": 100}"#),
    Field::of::<Rate>("failure_limit", "How many requests of one client address may fail; more get 429 and are counted only.")
        .default(r#"{"rate": "100/s", "burst": 1000}"#),
    Field::of::<Dedupe>("dedupe", "How events are known again whose sender gives them no id."),
    Field::of::<bool>(
        "handshake",
        "Whether a sender that asks for consent by OPTIONS with `WebHook-Request-Origin` gets it (CloudEvents' abuse protection).",
    )
    .default("false"),
];

impl Shape for Source {
    fn schema(all: &mut Definitions) -> Schema {
        let kinds = Word::WORDS.iter().map(|(word, kind)| (*word, kind.all_keys()));
        Schema::map_by_kind(KEYS, kinds, all)
    }
}

/// `dedupe`.
struct Dedupe;

impl Dedupe {
    const KEYS: Keys =
        Keys::of(&[
            Field::of::<Window>("window", "How long the bytes of an event are remembered; `off`: not at all.").default("24h")
        ]);
}

impl Shape for Dedupe {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(Self::KEYS, all)
    }
}

/// How long hashes are remembered.
struct Window;

impl Shape for Window {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::any_of([Duration::schema(all), Schema::only("off")])
    }
}

impl Source {
    /// Reads one entry of `sources`. That names and paths do not repeat is checked when the whole file is read.
    pub fn decode(key: &tree::Key, node: &Node, cx: &mut Context) -> Option<Self> {
        let name = Name::parse(&key.name);
        if name.is_none() {
            let problem = cx.error("bad-name", key.place, format!("`{}` cannot name a source", key.name));
            problem.help("a letter or digit, then letters, digits, `.`, `_` and `-`; at most 64");
        }
        let mut fields = Fields::open(node, format!("source `{}`", key.name), KEYS, cx)?;
        if fields.node("kind").is_none() && fields.called_otherwise("kind", "type", cx) {
            return None;
        }
        let kind = fields.required::<Word>("kind", cx)?; // Which keys are legal depends on it.
        fields.also(kind.all_keys());
        let pushed = if kind == Word::Poll { Some(Pushed::default()) } else { Pushed::decode(&mut fields, cx) };
        let kind = Kind::decode(kind, &mut fields, name.as_ref().unwrap_or(&Name::from("source")), cx);
        let silent_after = fields.optional::<Located<Duration>>("silent_after", cx).map(|after| silent_after(&after, cx));
        fields.finish(cx);
        let Pushed { path, rate_limit, failure_limit, window, handshake } = pushed?;
        Some(Self {
            name: name?,
            place: path.as_ref().map_or(node.place, |path| path.place),
            path: path.map(|path| path.value.0),
            kind: kind?,
            rate_limit,
            failure_limit,
            window,
            handshake,
            silent_after,
        })
    }

    /// Its kind's word: `interactor`.
    pub fn kind(&self) -> &'static str {
        self.kind.word()
    }

    /// Its path as it may be shown: a secret last segment is masked.
    pub fn masked_path(&self) -> Option<String> {
        let path = self.path.as_ref()?;
        Some(if self.has_path_secret() { format!("{path}/***") } else { path.clone() })
    }

    /// What is asked, where it is a source of kind `poll`.
    pub(crate) fn poll(&self) -> Option<&Poll> {
        match &self.kind {
            Kind::Poll(poll) => Some(poll),
            _ => None,
        }
    }

    /// Whether the last segment of its path is a secret.
    pub(crate) fn has_path_secret(&self) -> bool {
        !self.kind.path_secrets().is_empty()
    }
}

/// What [`PUSHED`] says.
struct Pushed {
    path: Option<Located<SourcePath>>,
    rate_limit: Option<Rate>,
    failure_limit: Rate,
    window: Duration,
    handshake: bool,
}

impl Default for Pushed {
    fn default() -> Self {
        Self { path: None, rate_limit: None, failure_limit: FAILURES, window: WINDOW, handshake: false }
    }
}

impl Pushed {
    fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let path: Option<Located<SourcePath>> = fields.required("path", cx);
        let rate_limit = fields.optional("rate_limit", cx);
        let failure_limit = fields.or("failure_limit", FAILURES, cx);
        let window = fields.node("dedupe").and_then(|node| window(node, cx)).unwrap_or(WINDOW);
        let handshake = fields.or("handshake", false, cx);
        Some(Self { path: Some(path?), rate_limit, failure_limit, window, handshake })
    }
}

fn silent_after(after: &Located<Duration>, cx: &mut Context) -> Duration {
    if after.value < SILENT_MIN {
        cx.error("bad-value", after.place, "`silent_after` is at least 1s");
    }
    after.value
}

/// `dedupe: {window: 24h}`; `off` stands for no time at all.
fn window(node: &Node, cx: &mut Context) -> Option<Duration> {
    let mut fields = Fields::open(node, "`dedupe`", Dedupe::KEYS, cx)?;
    let window = match fields.node("window") {
        Some(Node { value: Value::String(text), .. }) if text == "off" => Some(Duration::ZERO),
        Some(node) => Duration::decode(node, cx),
        None => None,
    };
    fields.finish(cx);
    window
}

/// The path of a source: absolute, without empty, `.` or `..` segments, query or escapes, so that it has one form only.
struct SourcePath(String);

impl Shape for SourcePath {
    fn schema(_: &mut Definitions) -> Schema {
        let expected = "a path such as /webhooks/interactor: no query, no empty segments, no slash at its end";
        Schema::like(r"^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+$", expected)
    }
}

impl Decode for SourcePath {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if !is_plain(&text) {
            let problem = cx.error("bad-path", node.place, "this is not the path of a source");
            problem.help("a path such as /webhooks/interactor: no query, no empty segments, no slash at its end");
            return None;
        }
        if TAKEN.contains(&text.as_str()) || text.starts_with("/api/") {
            cx.error("bad-path", node.place, "the relay itself answers on this path");
            return None;
        }
        Some(Self(text))
    }
}

fn is_plain(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
    let segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(fits);
    path.len() <= PATH_MAX && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment))
}

/// The word of the kind of sources that is called `text`.
pub fn kind_word(text: &str) -> Option<&'static str> {
    Word::WORDS.iter().map(|(word, _)| *word).find(|word| *word == text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ingest::kinds::tests::yaml;

    /// The source `name` that says `text`, which is JSON, or the codes of what is wrong with it.
    pub(crate) fn source(name: &str, text: &str) -> Result<Source, Vec<&'static str>> {
        let mut cx = Context::default();
        let key = tree::Key { name: name.to_owned(), place: Place::default() };
        let source = Source::decode(&key, &yaml(text), &mut cx);
        source.filter(|_| cx.problems.is_empty()).ok_or_else(|| cx.problems.iter().map(|problem| problem.code).collect())
    }

    #[test]
    fn a_source_is_read_whole() {
        let source = source(
            "connectors",
            r#"{"kind": "trigger", "path": "/triggers/a", "path_secret": "s3", "rate_limit": {"rate": "50/s", "burst": 100}, "dedupe": {"window": "off"}, "failure_limit": "5/s"}"#,
        )
        .unwrap();
        assert_eq!(
            (source.kind(), source.path.as_deref(), source.masked_path().as_deref()),
            ("trigger", Some("/triggers/a"), Some("/triggers/a/***"))
        );
        assert_eq!((source.rate_limit, source.failure_limit), (Some(Rate::per_second(50, 100)), Rate::per_second(5, 5)));
        assert_eq!(source.window, Duration::ZERO);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, code) in [
            (r#"{"path": "/a"}"#, "missing-key"),
            (r#"{"kind": "interacter", "path": "/a"}"#, "bad-value"),
            (r#"{"kind": "agent", "path": "/a", "secrets": "s", "preset": "github"}"#, "unknown-key"),
            (r#"{"kind": "agent", "path": "/a", "secrets": "s", "dedupe": {"window": "5"}}"#, "bad-type"),
            (r#"{"kind": "agent", "secrets": "s"}"#, "missing-key"),
        ] {
            assert_eq!(source("a", text).unwrap_err(), [code], "{text}");
        }
        assert_eq!(source("a b", r#"{"kind": "agent", "path": "/a", "secrets": "s"}"#).unwrap_err(), ["bad-name"]);
        for bad in ["", "/", "a", "/a/", "//a", "/a?b", "/a/../b", "/a b", "/%41", "/é", "/healthz", "/api/v1"] {
            let text = format!(r#"{{"kind": "agent", "path": "{bad}", "secrets": "s"}}"#);
            assert_eq!(source("a", &text).unwrap_err(), ["bad-path"], "{bad}");
        }
    }
}
