//! Names that `tests` mentions: a test that waits for a rule nobody wrote can only fail.

use std::collections::HashMap;

use super::{Declared, RESERVED, items, one_or_more, quoted};
use crate::{
    config::{
        decode::{Context, Severity},
        tree::{Key, Node, Place, Value},
    },
    samples,
};

/// Checks every source, rule and target that `tests` of `root` mentions against those that are declared.
pub(super) fn check(root: &Node, declared: &Declared<'_>, cx: &mut Context) {
    let rules = Rules::new(root);
    for test in items(root, "tests") {
        if let Some(event) = test.get("event") {
            source(root, event, declared, cx);
        }
        let Some(expect) = test.get("expect") else { continue };
        for rule in expect.get("rules").map(one_or_more).unwrap_or_default() {
            rules.check(rule, declared, cx);
        }
        for target in expect.get("to").map(one_or_more).unwrap_or_default() {
            destination(target, declared, cx);
        }
        for (key, _) in expect.get("states").map(Node::entries).unwrap_or_default() {
            destination(&as_node(key), declared, cx);
        }
        for (key, wanted) in expect.get("renders").map(Node::entries).unwrap_or_default() {
            destination(&as_node(key), declared, cx);
            subject(root, key, wanted, cx);
        }
    }
}

/// What the event comes in by: a source of the file, or the relay's own. One made of a sample may leave that to the sample's kind.
fn source(root: &Node, event: &Node, declared: &Declared<'_>, cx: &mut Context) {
    let Some(node) = event.get("source").filter(|node| node.value != Value::Null) else {
        return sampled(root, event, cx);
    };
    let Some(name) = node.text() else { return };
    if name != RESERVED && !declared.sources.contains_key(name) {
        let message = format!("no source is named {}", quoted(node));
        declared.unknown(Severity::Error, "unknown-source", node, message, &declared.sources, cx);
        return;
    }
    let kind = root.get("sources").and_then(|sources| sources.get(name)?.get("kind")?.text());
    typed(event, node, kind.unwrap_or(RESERVED), cx);
}

/// What happened is said, or found in the event's data by `map` of its source.
fn typed(event: &Node, source: &Node, kind: &str, cx: &mut Context) {
    let says = |key: &str| event.get(key).is_some_and(|node| node.value != Value::Null);
    if let Some(sample) = event.get("sample").and_then(Node::text).and_then(samples::find) {
        if sample.kind != kind && !says("data") {
            let message =
                format!("this sample comes in by a source of kind `{}`, and {} is of kind `{kind}`", sample.kind, quoted(source));
            cx.error("bad-value", source.place, message).help("with `data` of its own, only the type is the sample's");
        }
    } else if !says("type") && !MAPPING.contains(&kind) {
        cx.error("missing-key", source.place, format!("an event of kind `{kind}` needs `type`"));
    }
}

/// The kinds of sources that find the type in the event's data.
const MAPPING: [&str; 3] = ["trigger", "hmac", "standard"];

fn sampled(root: &Node, event: &Node, cx: &mut Context) {
    let Some(node) = event.get("sample") else { return };
    let Some(sample) = node.text().and_then(samples::find) else { return };
    let sources = root.get("sources").map(Node::entries).unwrap_or_default();
    let fits = |it: &&(Key, Node)| it.1.get("kind").and_then(Node::text) == Some(sample.kind);
    let fitting: Vec<&str> = sources.iter().filter(fits).map(|(key, _)| key.name.as_str()).collect();
    let by = format!("are of kind `{}`, by which this sample would come in", sample.kind);
    match fitting.as_slice() {
        [_] => {}
        [] => _ = cx.error("unknown-source", node.place, format!("no sources {by}")),
        [first, ..] => {
            let message = format!("{} sources {by}", fitting.len());
            cx.error("unknown-source", node.place, message).help(format!("say which: source: {first}"));
        }
    }
}

fn destination(node: &Node, declared: &Declared<'_>, cx: &mut Context) {
    let Some(name) = node.text() else { return };
    if !declared.destinations.contains_key(name) {
        let message = format!("no destination is named {}", quoted(node));
        declared.unknown(Severity::Error, "unknown-destination", node, message, &declared.destinations, cx);
    }
}

/// Only mails have a subject.
fn subject(root: &Node, target: &Key, wanted: &Node, cx: &mut Context) {
    let kind = || root.get("destinations")?.get(&target.name)?.get("kind")?.text();
    if let (Some(subject), Some(kind)) = (wanted.get("subject"), kind())
        && kind != "email"
    {
        let message = format!("`{}` is of kind `{kind}`: only mails have a subject", target.name);
        cx.error("bad-value", subject.place, message).help("`contains` looks at all of the message");
    }
}

/// A key of a map as the name that it is.
fn as_node(key: &Key) -> Node {
    Node { value: Value::String(key.name.clone()), place: key.place, referenced: false }
}

/// What the rules of the file are called.
struct Rules<'n> {
    named: HashMap<&'n str, Place>,
    all: &'n [Node],
}

impl<'n> Rules<'n> {
    fn new(root: &'n Node) -> Self {
        let all = items(root, "rules");
        let named = all.iter().filter_map(|rule| rule.get("name"));
        Self { named: named.filter_map(|name| Some((name.text()?, name.place))).collect(), all }
    }

    fn check(&self, node: &Node, declared: &Declared<'_>, cx: &mut Context) {
        let Some(name) = node.text().filter(|name| !self.named.contains_key(name) && !self.is_number(name)) else { return };
        let message = match node.referenced {
            true => "no rule has a name from the environment".to_owned(),
            false => format!("no rule is named `{name}`"),
        };
        declared.unknown(Severity::Error, "unknown-rule", node, message, &self.named, cx);
    }

    /// Rules without a name are called by their number.
    fn is_number(&self, name: &str) -> bool {
        let number = name.strip_prefix("rule-").and_then(|number| number.parse::<usize>().ok());
        let rule = number.and_then(|number| self.all.get(number.checked_sub(1)?));
        rule.is_some_and(|rule| rule.get("name").is_none())
    }
}
