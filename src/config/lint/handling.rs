//! Two rules that send one event to one target and want different things done with it.

use std::collections::HashMap;

use super::{PAIRS_MAX, Said, Written};
use crate::{
    config::{
        decode::Context,
        tree::{Node, Place, Value},
    },
    route::{To, when::never},
};

/// How many such pairs are told of one target.
const TOLD_MAX: usize = 5;

/// A rule that sends to some target.
#[derive(Clone, Copy)]
struct Sends<'d> {
    written: Written<'d>,
    to: &'d To,
}

/// What rules say of a delivery, and how a warning calls it.
const KEYS: [&str; 3] = ["throttle", "digest", "cancel_on"];

/// Warns of rules that reach one target with different handling, and says which wins (`delivery.md`, "Two rules, one target").
pub(super) fn check(said: &Said<'_>, rules: &[Written<'_>], cx: &mut Context) {
    let mut by_target: HashMap<&str, Vec<Sends<'_>>> = HashMap::new();
    for written in rules {
        for to in &written.rule.to {
            by_target.entry(to.destination.value.as_str()).or_default().push(Sends { written: *written, to });
        }
    }
    let mut pairs = PAIRS_MAX;
    let mut targets: Vec<_> = by_target.into_iter().collect();
    targets.sort_by_key(|(name, _)| *name);
    for (target, sends) in targets {
        let first = sends.first().copied();
        if sends.iter().all(|it| first.is_some_and(|first| differences(first, *it).is_empty())) {
            continue;
        }
        let mut told = 0;
        for (at, later) in sends.iter().enumerate() {
            for earlier in sends.iter().take(at) {
                if pairs == 0 || told == TOLD_MAX {
                    break;
                }
                pairs -= 1;
                let differ = differences(*earlier, *later);
                if !differ.is_empty() && together(*earlier, *later, said) {
                    warn(target, *earlier, *later, &differ, cx);
                    told += 1;
                }
            }
        }
    }
}

/// Whether both may fire for one event.
fn together(earlier: Sends<'_>, later: Sends<'_>, said: &Said<'_>) -> bool {
    let (a, b) = (earlier.written.rule, later.written.rule);
    let sources = said.sources.iter().map(|source| source.name.as_str());
    !std::ptr::eq(a, b) && !a.stop && a.matches.meets(&b.matches, sources) && never(a.when.iter().chain(&b.when)).is_none()
}

/// What the two want otherwise.
fn differences(a: Sends<'_>, b: Sends<'_>) -> Vec<&'static str> {
    let wants = |key| !same(a.written.node.get(key), b.written.node.get(key));
    let mut differ: Vec<&str> = KEYS.into_iter().filter(|key| wants(key)).collect();
    let template = |it: Sends<'_>| it.to.template.as_ref().map(|template| template.value.clone());
    if template(a) != template(b) {
        differ.push("template");
    }
    if a.written.rule.severity != b.written.rule.severity {
        differ.push("severity");
    }
    differ
}

fn warn(target: &str, earlier: Sends<'_>, later: Sends<'_>, differ: &[&str], cx: &mut Context) {
    let (a, b) = (earlier.written.rule, later.written.rule);
    let message =
        format!("rules \"{}\" and \"{}\" may send one event to `{target}`, with different {}", a.name, b.name, and(differ));
    let wins = differ.iter().map(|what| match *what {
        "template" => format!("the template is that of \"{}\", which stands first", a.name),
        "severity" => format!("its severity is {}, the higher", a.severity.max(b.severity).word()),
        "throttle" => both(a.name.as_str(), b.name.as_str(), [earlier, later], "throttle", "suppressed"),
        "digest" => both(a.name.as_str(), b.name.as_str(), [earlier, later], "digest", "gathered"),
        _ => both(a.name.as_str(), b.name.as_str(), [earlier, later], "cancel_on", "cancelled"),
    });
    let wins: Vec<String> = wins.collect();
    cx.warning("two-rules-one-target", place(later), message)
        .note(format!("such an event is delivered once: {}", wins.join("; ")))
        .help("let the first rule say `stop: true`, or narrow the second one's `match` or `when`");
}

/// What becomes of an event whose rules do not agree on `key`.
fn both(a: &str, b: &str, sends: [Sends<'_>; 2], key: &str, becomes: &str) -> String {
    match sends.map(|it| it.written.node.get(key).is_some()) {
        [true, false] => format!("it is never {becomes}, since \"{b}\" does not want that"),
        [false, true] => format!("it is never {becomes}, since \"{a}\" does not want that"),
        _ => format!("it is {becomes} only where both would"),
    }
}

fn place(sends: Sends<'_>) -> Place {
    sends.to.destination.place
}

/// `throttle and severity`.
fn and(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

/// Whether two nodes say the same, wherever they stand.
fn same(a: Option<&Node>, b: Option<&Node>) -> bool {
    let said = |node: Option<&Node>| node.is_none_or(|node| node.value == Value::Null);
    let (Some(a), Some(b)) = (a, b) else { return said(a) && said(b) };
    match (&a.value, &b.value) {
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b))),
        (Value::Map(a), Value::Map(b)) => {
            let found = |key: &str| b.iter().find(|(name, _)| name.name == key).map(|(_, node)| node);
            a.len() == b.len() && a.iter().all(|(key, node)| found(&key.name).is_some_and(|other| same(Some(node), Some(other))))
        }
        (a, b) => a == b,
    }
}
