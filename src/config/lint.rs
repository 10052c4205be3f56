//! What a file may say and probably does not mean: rules that nothing reaches, deliveries handled otherwise than any rule says, templates
//! that name what no event has, secrets in plain sight. All of it is warnings; only what is sure is said.

use std::collections::{BTreeMap, HashMap};

use super::{
    decode::{Context, Severity},
    meant,
    tree::{Node, Place, Value},
};
use crate::{deliver::Destination, ingest::Source, render, route::Rule};

mod handling;
mod reach;
mod secrets;
mod templates;

/// What the file says, as far as it could be made out.
pub(super) struct Said<'d> {
    pub(super) sources: &'d [Source],
    pub(super) destinations: &'d [Destination],
    pub(super) rules: &'d [Rule],
    pub(super) templates: &'d BTreeMap<String, render::Source>,
}

/// A rule beside what the file writes of it.
#[derive(Clone, Copy)]
struct Written<'d> {
    node: &'d Node,
    rule: &'d Rule,
}

/// How many pairs of rules are held against one another at most: a file of ten thousand rules is read in good time all the same.
const PAIRS_MAX: usize = 100_000;

/// Warns of what `root`, which says `said`, probably does not mean.
pub(super) fn check(root: &Node, said: &Said<'_>, cx: &mut Context) {
    secrets::check(root, cx);
    comments(root, cx);
    let rules = written(root, said.rules);
    reach::check(root, said, &rules, cx);
    untold(root, &rules, cx);
    handling::check(said, &rules, cx);
    templates::check(root, said, &rules, cx);
}

/// The rules that could be made out, in their order.
fn written<'d>(root: &'d Node, rules: &'d [Rule]) -> Vec<Written<'d>> {
    let items = root.get("rules").map(Node::items).unwrap_or_default();
    let place_of = |node: &Node| node.get("name").map_or(node.place, |name| name.place);
    let nodes: HashMap<Place, &Node> = items.iter().map(|node| (place_of(node), node)).collect();
    rules.iter().filter_map(|rule| Some(Written { node: nodes.get(&rule.place)?, rule })).collect()
}

/// Whether the file declares no source but those that could be made out.
fn all_sources(root: &Node, said: &Said<'_>) -> bool {
    root.get("sources").map(Node::entries).unwrap_or_default().len() == said.sources.len()
}

/// What somebody should be told of.
const GRAVE: [&str; 2] = ["relay.delivery.dead", "relay.target.broken"];

/// Warns when no rule sends the relay's own events anywhere: nobody would be told of dead letters. A file in which anything is wrong has
/// other worries.
fn untold(root: &Node, rules: &[Written<'_>], cx: &mut Context) {
    let sending = || rules.iter().filter(|written| !written.rule.to.is_empty()).map(|written| written.rule);
    let key = root.entries().iter().map(|(key, _)| key).find(|key| key.name == "rules");
    let Some(key) = key.filter(|_| sending().next().is_some() && !cx.failed()) else { return };
    let told = |what: &str| sending().any(|rule| rule.matches.names_own() && rule.matches.takes_type(what));
    let untold: Vec<&str> = GRAVE.into_iter().filter(|what| !told(what)).collect();
    let message = match untold.as_slice() {
        [] => return,
        [one] => format!("nobody is told of `{one}`"),
        _ => "nobody is told when a delivery is given up or a target breaks".to_owned(),
    };
    cx.warning("untold", key.place, message).help("add a rule such as {name: tell-ops, match: {source: hookyard}, to: [ops]}");
}

/// `line 12`, for what stands at `place`.
fn whereabouts(place: Place, from: Place, cx: &Context) -> String {
    cx.files.mention(place, from)
}

/// Warns of values that are comments, where their absence is no error: `thread_by: #x`.
fn comments(node: &Node, cx: &mut Context) {
    match &node.value {
        Value::Map(map) => map.iter().for_each(|(_, node)| comments(node, cx)),
        Value::List(items) => items.iter().for_each(|item| comments(item, cx)),
        Value::Null => {
            let Some((place, comment)) = meant::comment(cx.files.text(), node) else { return };
            if !cx.problems.iter().any(|problem| problem.place == place) {
                meant::say_comment(
                    cx,
                    Severity::Warning,
                    place,
                    &comment,
                    "`#` after a space begins a comment: nothing is said here",
                );
            }
        }
        _ => {}
    }
}
