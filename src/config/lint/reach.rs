//! Rules that no event can reach, and types that are nearly those of a platform.

use super::{PAIRS_MAX, Said, Written, all_sources};
use crate::{
    announce,
    config::{
        decode::{Context, nearest},
        tree::Node,
    },
    ingest::Source,
    route::{OWN_SOURCE, Rule, glob::Glob, when::never},
    samples,
};

/// How many letters may be wrong for a part of a type to be taken for a slip of the hand (Damerau-Levenshtein).
const SLIPS_MAX: usize = 2;
/// Shortest part of a type that is looked at for slips, in characters: short words are alike by chance.
const PART_MIN: usize = 5;
/// How many types a note lists.
const LISTED_MAX: usize = 8;

/// Warns of rules that nothing reaches.
pub(super) fn check(root: &Node, said: &Said<'_>, rules: &[Written<'_>], cx: &mut Context) {
    let known = Known::new(root, said);
    for written in rules {
        contradiction(*written, cx);
        known.types(*written, cx);
    }
    shadowed(rules, cx);
}

/// Warns of a `when` that nothing meets.
fn contradiction(written: Written<'_>, cx: &mut Context) {
    let Some(reason) = never(&written.rule.when) else { return };
    let place =
        written.node.get("when").map_or(written.rule.place, |when| when.items().first().map_or(when.place, |item| item.place));
    cx.warning("never-true", place, format!("no event reaches rule \"{}\": {reason}", written.rule.name));
}

/// Warns of rules whose events all end at a rule above.
fn shadowed(rules: &[Written<'_>], cx: &mut Context) {
    let mut pairs = PAIRS_MAX;
    let mut stops: Vec<&Rule> = Vec::new();
    for written in rules {
        let rule = written.rule;
        pairs = pairs.saturating_sub(stops.len());
        if pairs == 0 {
            return;
        }
        if let Some(above) = stops.iter().find(|above| above.matches.covers(&rule.matches)) {
            let message = format!("no event reaches rule \"{}\": rule \"{}\" above takes them all", rule.name, above.name);
            let there = super::whereabouts(above.place, rule.place, cx);
            cx.warning("unreachable-rule", rule.place, message)
                .note(format!("\"{}\" ({there}) says `stop: true`, and its `match` is as wide", above.name))
                .help("put this rule above it");
        }
        if rule.stop && rule.when.is_empty() {
            stops.push(rule);
        }
    }
}

/// The types that can come, by source.
struct Known<'d> {
    sources: &'d [Source],
    /// Whether there are no other sources.
    all: bool,
    /// Types that the platforms' documents, `event_types`, the sources and the tests of the file name.
    types: Vec<&'d str>,
}

impl<'d> Known<'d> {
    fn new(root: &'d Node, said: &Said<'d>) -> Self {
        let tests = root.get("tests").map(Node::items).unwrap_or_default();
        let tested = tests.iter().filter_map(|test| test.get("event")?.get("type")?.text());
        let settled = said.sources.iter().filter_map(|source| source.kind.types()).flatten();
        let said_so = root.get("event_types").map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
        let types =
            samples::ALL.iter().map(|sample| sample.r#type).chain(announce::TYPES).chain(tested).chain(settled).chain(said_so);
        Self { sources: said.sources, all: all_sources(root, said), types: types.collect() }
    }

    /// Warns of each type of a rule that its sources do not have, and of those that nearly are another.
    fn types(&self, written: Written<'_>, cx: &mut Context) {
        let rule = written.rule;
        let types = written.node.get("match").and_then(|matches| matches.get("type"));
        let nodes = types.map(|node| if node.items().is_empty() { std::slice::from_ref(node) } else { node.items() });
        let taken: Vec<&Source> = self.sources.iter().filter(|source| rule.matches.takes_source(source.name.as_str())).collect();
        for (node, glob) in nodes.unwrap_or_default().iter().zip(&rule.matches.r#type) {
            if !self.unnamed_own(rule, glob, node, cx) && !self.impossible(rule, &taken, glob, node, cx) {
                self.slip(&taken, rule, glob, node, cx);
            }
        }
    }

    /// The relay's own types, in a rule that does not name the relay.
    fn unnamed_own(&self, rule: &Rule, glob: &Glob, node: &Node, cx: &mut Context) -> bool {
        let own = announce::TYPES.iter().any(|own| glob.matches(own)) && glob.text().starts_with("relay.");
        if !own || rule.matches.names_own() {
            return false;
        }
        cx.warning("unreachable-type", node.place, format!("the relay's own events do not reach rule \"{}\"", rule.name))
            .help(format!("they go only to rules that name their source: add `source: {OWN_SOURCE}` to its `match`"));
        true
    }

    /// A type that none of the rule's sources sends.
    fn impossible(&self, rule: &Rule, taken: &[&Source], glob: &Glob, node: &Node, cx: &mut Context) -> bool {
        let own = rule.matches.names_own();
        let sent: Option<Vec<Vec<&str>>> = taken.iter().map(|source| source.kind.types()).collect();
        let Some(sent) = sent.filter(|_| self.all && (own || !taken.is_empty())) else { return false };
        let mut sent: Vec<&str> = sent.into_iter().flatten().chain(announce::TYPES.into_iter().filter(|_| own)).collect();
        if sent.iter().any(|sent| glob.matches(sent)) {
            return false;
        }
        sent.sort_unstable();
        sent.dedup();
        let near = slip_of(glob, &sent).or_else(|| nearest(glob.text(), sent.iter().copied()).map(str::to_owned));
        let more = if LISTED_MAX < sent.len() { ", …" } else { "" };
        let listed = sent.get(..LISTED_MAX).unwrap_or(&sent).join(", ");
        let message = format!("no source of rule \"{}\" sends events of type `{}`", rule.name, glob.text());
        cx.warning("unreachable-type", node.place, message)
            .did_you_mean(near.as_deref())
            .note(format!("they send {listed}{more}"));
        true
    }

    /// A type that nobody has ever heard of, and that is nearly one of a platform.
    fn slip(&self, taken: &[&Source], rule: &Rule, glob: &Glob, node: &Node, cx: &mut Context) {
        let platforms = taken.iter().any(|source| matches!(source.kind(), "interactor" | "agent")) || rule.matches.names_own();
        if !platforms || node.referenced || self.types.iter().any(|known| glob.matches(known)) {
            return;
        }
        let Some(near) = slip_of(glob, &self.types) else { return };
        let message = format!("no event of type `{}` is known", glob.text());
        cx.warning("unknown-type", node.place, message).did_you_mean(Some(&near));
    }
}

/// What `glob` would be with one part of it put right, so that it fits one of `known`.
fn slip_of(glob: &Glob, known: &[&str]) -> Option<String> {
    let parts: Vec<&str> = glob.text().split('.').collect();
    let wrong =
        (0..parts.len()).filter(|at| parts.get(*at).is_some_and(|part| !part.contains('*') && PART_MIN <= part.chars().count()));
    let mut best: Option<(usize, String)> = None;
    for at in wrong {
        for type_ in known {
            let (Some(right), Some(part)) = (type_.split('.').nth(at), parts.get(at)) else { continue };
            let slips = strsim::damerau_levenshtein(part, right);
            if slips == 0 || SLIPS_MAX < slips || best.as_ref().is_some_and(|(fewest, _)| *fewest <= slips) {
                continue;
            }
            let mut put_right = parts.clone();
            if let Some(part) = put_right.get_mut(at) {
                *part = right;
            }
            let text = put_right.join(".");
            if Glob::parse(&text).is_ok_and(|glob| glob.matches(type_)) {
                best = Some((slips, text));
            }
        }
    }
    best.map(|(_, text)| text)
}
