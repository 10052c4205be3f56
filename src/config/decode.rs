//! From the tree to typed values, by hand, so that one run finds every problem and each has its place.
//!
//! A decoder never stops at the first error: it notes a [`Problem`] and yields `None`, and its caller goes on with the
//! rest. [`Fields`] reads a map key by key.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

pub use super::{
    fields::Fields,
    keys::{Field, Keys},
    schema::{Definitions, Schema, Shape},
    units::{Rate, Size, duration, size},
};
use super::{
    files::{File, Files},
    meant,
    tree::{Node, Place, Value},
};
use crate::{schedule::Schedule, secret::Secret};

/// Longest piece of the file that a message repeats, in bytes.
const WRITTEN_MAX: usize = 80;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but probably says something else than meant.
    Warning,
}

/// One thing wrong with the file, for the person who edits it.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Stable name of the kind of problem: `unknown-key`.
    pub code: &'static str,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What stands beside the caret: `the path ends before this`.
    pub label: Option<String>,
    /// What to do, where there is something to say: `did you mean `throttle`?`.
    pub help: Option<String>,
    /// Context: which rule, which keys are legal.
    pub note: Option<String>,
    /// Text that would put it right in place of what stands at `place`.
    pub fix: Option<String>,
    /// Where in the tree: `rules[1].to[0]`. Filled in when the whole file is read.
    pub path: Option<String>,
}

impl Problem {
    /// Adds what to do about it.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// Says that `near` was probably meant, where there is such a word.
    pub fn did_you_mean(&mut self, near: Option<&str>) -> &mut Self {
        if let Some(near) = near {
            self.fix = Some(near.to_owned());
            self.help = Some(format!("did you mean `{near}`?"));
        }
        self
    }

    /// Adds what stands beside the caret.
    pub fn label(&mut self, text: impl Into<String>) -> &mut Self {
        self.label = Some(text.into());
        self
    }

    /// Adds context.
    pub fn note(&mut self, text: impl Into<String>) -> &mut Self {
        self.note = Some(text.into());
        self
    }
}

/// What decoders share: the problems found so far and what they may look up.
#[derive(Debug, Default)]
pub struct Context {
    /// Every problem so far.
    pub problems: Vec<Problem>,
    /// Named templates of the file, for destinations and rules that refer to them.
    pub templates: BTreeMap<String, crate::render::Source>,
    /// Named schedules of the file; `None` for one with a mistake in it, which is declared all the same.
    pub schedules: BTreeMap<String, Option<Arc<Schedule>>>,
    /// Private targets the file lets through (`security.allow_targets`), for the check of URLs.
    pub allow_targets: Vec<AllowTarget>,
    /// Where the public listener is reached (`server.public_url`), for destinations that are reported to.
    pub public_url: Option<url::Url>,
    /// Whether targets must be https (`security.require_https`).
    pub require_https: bool,
    /// The files that are read: for relative paths, and for messages that quote how a value is written (`1.20`).
    pub files: Arc<Files>,
    /// True when a file could not be read, or is no YAML: nobody knows which names it declares.
    pub incomplete: bool,
    /// Texts below keys that nobody knows: what they refer to is not needed.
    pub ignored: Vec<Place>,
    /// Places of secrets that are in no tree, because the keys above them repeat or are not text.
    pub hidden: Vec<Place>,
}

/// An entry of `security.allow_targets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowTarget {
    /// Addresses of this network.
    Net(IpNet),
    /// Whatever this host name (lower case) resolves to.
    Host(String),
}

impl Context {
    /// The context of a file without a name that says `text`, for tests and tools.
    pub fn of(text: &str) -> Self {
        let file = File { path: std::path::PathBuf::new(), text: text.to_owned() };
        Self { files: Arc::new(Files::new(file)), ..Self::default() }
    }

    /// Notes an error at `place`.
    pub fn error(&mut self, code: &'static str, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, code, place, message.into())
    }

    /// Notes a warning at `place`.
    pub fn warning(&mut self, code: &'static str, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, code, place, message.into())
    }

    #[expect(clippy::indexing_slicing, reason = "the element was pushed on the line before")]
    fn push(&mut self, severity: Severity, code: &'static str, place: Place, message: String) -> &mut Problem {
        self.problems.push(Problem {
            severity,
            code,
            message,
            place,
            label: None,
            help: None,
            note: None,
            fix: None,
            path: None,
        });
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    /// True when an error was noted.
    pub fn failed(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Notes that `node` is not `wanted` (`a duration such as 30s`), and yields `None`.
    pub fn expected<T>(&mut self, wanted: &str, node: &Node) -> Option<T> {
        let got = match &node.value {
            Value::String(text) if !node.referenced => format!("`{text}`"),
            _ => node.kind().to_owned(),
        };
        if let Some((place, comment)) = meant::comment(self.files.text(), node) {
            meant::say_comment(self, Severity::Error, place, &comment, &format!("expected {wanted}, found a comment"));
            return None;
        }
        let hint = meant::hint(node);
        let problem = self.error("bad-type", node.place, format!("expected {wanted}, found {got}"));
        if let Some((help, fix)) = hint {
            problem.help(help).fix = fix;
        }
        None
    }

    /// What is written at `place`, when it is short and stands on one line.
    pub fn written(&self, place: Place) -> Option<&str> {
        let text = self.files.text().get(place.start..place.end)?;
        (!text.is_empty() && text.len() <= WRITTEN_MAX && !text.contains(['\n', '"', '\\'])).then_some(text)
    }

    /// Where `needle` first stands within `place`.
    pub fn find_in(&self, place: Place, needle: &str) -> Option<Place> {
        let at = self.files.text().get(place.start..place.end)?.find(needle)?;
        Some(Place { start: place.start + at, end: place.start + at + needle.len() })
    }

    /// `path`, which stands at `place`, read against the folder of the file that says it.
    pub fn resolve_path(&self, path: &str, place: Place) -> std::path::PathBuf {
        self.files.folder(place).join(path)
    }
}

/// A type that `routes.yaml` can hold.
pub trait Decode: Shape + Sized {
    /// Reads `node`; notes what is wrong with it and yields `None`.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self>;
}

/// A decoded value that keeps its place, for checks that come later.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T: Shape> Shape for Located<T> {
    fn schema(all: &mut Definitions) -> Schema {
        T::schema(all)
    }

    fn type_name() -> &'static str {
        T::type_name()
    }
}

impl<T: Decode> Decode for Located<T> {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        Some(Self { value: T::decode(node, cx)?, place: node.place })
    }
}

/// Notes every text of `node`: a map or a list knows its beginning only.
pub(super) fn ignore(node: &Node, ignored: &mut Vec<Place>) {
    match &node.value {
        Value::Map(map) => map.iter().for_each(|(_, node)| ignore(node, ignored)),
        Value::List(items) => items.iter().for_each(|item| ignore(item, ignored)),
        _ => ignored.push(node.place),
    }
}

/// How alike two words must be for one to be suggested for the other (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// The candidate that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.into_iter().map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    scored.filter(|(score, _)| ALIKE <= *score).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// A type whose values are a few words.
pub trait Words: Copy + 'static {
    /// Every word and what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Shape for T {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::words(T::WORDS.iter().map(|(word, _)| *word))
    }
}

impl<T: Words> Decode for T {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        one_of(node, T::WORDS, cx)
    }
}

/// Reads one of a few words; anything else is an error that lists them.
pub fn one_of<T: Copy>(node: &Node, words: &[(&str, T)], cx: &mut Context) -> Option<T> {
    let Value::String(text) = &node.value else {
        return cx.expected(&list_of(words), node);
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Some(*value);
    }
    if node.referenced {
        return cx.expected(&list_of(words), node);
    }
    let near = nearest(text, words.iter().map(|(word, _)| *word));
    cx.error("bad-value", node.place, format!("expected {}, found `{text}`", list_of(words))).did_you_mean(near);
    None
}

fn list_of<T>(words: &[(&str, T)]) -> String {
    let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    words.join(" or ")
}

impl Shape for String {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text()
    }
}

impl Decode for String {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        match &node.value {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                let quoted = cx.written(node.place).map(|text| format!("\"{text}\""));
                let problem = cx.error("bad-type", node.place, format!("expected text, found {}", node.kind()));
                problem.help(quoted.as_ref().map_or("put it in quotes".to_owned(), |text| format!("put it in quotes: {text}")));
                problem.fix = quoted;
                None
            }
            _ => cx.expected("text", node),
        }
    }
}

impl Shape for bool {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::boolean()
    }
}

impl Decode for bool {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        match &node.value {
            Value::Bool(yes) => Some(*yes),
            Value::String(text) if node.referenced && text == "true" => Some(true),
            Value::String(text) if node.referenced && text == "false" => Some(false),
            Value::String(text) if !node.referenced => {
                let fix = boolean(text);
                cx.expected::<Self>("`true` or `false`", node);
                if let (Some(fix), Some(problem)) = (fix, cx.problems.last_mut()) {
                    problem.fix = Some(fix.to_owned());
                    problem.help(format!("YAML 1.2 reads `{text}` as text; write `{fix}`"));
                }
                None
            }
            _ => cx.expected("`true` or `false`", node),
        }
    }
}

/// What YAML 1.1 took `text` for.
fn boolean(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" => Some("true"),
        "no" | "off" | "n" => Some("false"),
        _ => None,
    }
}

impl Shape for u64 {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::integer().at_least(0)
    }
}

impl Decode for u64 {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let number = match &node.value {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::String(text) if node.referenced => text.parse().ok(),
            _ => None,
        };
        number.or_else(|| cx.expected("a whole number, 0 or more", node))
    }
}

impl Shape for u32 {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::integer().between(0, u32::MAX.into())
    }
}

impl Decode for u32 {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let number = u64::decode(node, cx)?;
        u32::try_from(number).ok().or_else(|| cx.expected("a number below 4294967296", node))
    }
}

impl Shape for f64 {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::number()
    }
}

impl Decode for f64 {
    #[expect(clippy::cast_precision_loss, reason = "factors are small")]
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let number = match &node.value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::String(text) if node.referenced => text.parse().ok(),
            _ => None,
        };
        number.filter(|number| number.is_finite()).or_else(|| cx.expected("a number", node))
    }
}

impl Shape for Secret {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text()
    }
}

impl Decode for Secret {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        String::decode(node, cx).map(Secret::new)
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::list(T::schema(all))
    }
}

impl<T: Decode> Decode for Vec<T> {
    /// A list; every item that is wrong is noted, and then there is none.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return cx.expected("a list", node);
        };
        let decoded: Vec<_> = items.iter().map(|item| T::decode(item, cx)).collect();
        decoded.into_iter().collect()
    }
}

/// One item or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T: Shape> Shape for OneOrMore<T> {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::one_or_more(T::schema(all))
    }
}

impl<T: Decode> Decode for OneOrMore<T> {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        match &node.value {
            Value::List(_) => Vec::decode(node, cx).map(Self),
            _ => T::decode(node, cx).map(|one| Self(vec![one])),
        }
    }
}

/// Secrets, the current one first. Empty items (an unset `${NAME:-}`) are dropped; none left is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets(pub Vec<Secret>);

impl Shape for Secrets {
    fn schema(all: &mut Definitions) -> Schema {
        OneOrMore::<Secret>::schema(all).not_empty()
    }
}

impl Decode for Secrets {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let OneOrMore(mut secrets) = OneOrMore::<Secret>::decode(node, cx)?;
        secrets.retain(|secret| !secret.is_empty());
        if secrets.is_empty() {
            cx.error("no-secret", node.place, "at least one secret must not be empty");
            return None;
        }
        Some(Self(secrets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word() {
        assert_eq!(nearest("chanel", ["channel", "timeout"]), Some("channel"));
        assert_eq!(nearest("chanel", ["timeout"]), None);
    }
}
