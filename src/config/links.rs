//! Names that point at one another: rules at destinations and templates, sources at paths.
//!
//! This reads the tree and not what was decoded from it, so that a destination with a mistake in it is still declared, and a rule
//! with one still says where it sends: one mistake makes one error.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    PROBLEMS_MAX,
    decode::{Context, Severity, nearest},
    files::Files,
    tree::{Key, Node, Place, Value},
};
use crate::{contacts, deliver::kinds::Word, reconnect, route::glob::Glob};

mod expected;

/// The relay's own source, which tells what it does (`relay.**`).
const RESERVED: &str = "hookyard";
/// Paths of the public listener that are the relay's own, with all below them.
const RELAY_PATHS: [&str; 6] = ["/healthz", "/readyz", "/api", "/metrics", "/callbacks", reconnect::PATH];
/// How many names a note lists.
const LISTED_MAX: usize = 20;

/// Checks every name that `root` mentions against those it declares.
pub(super) fn check(root: &Node, contacts: &contacts::Settings, cx: &mut Context) {
    let declared = Declared::new(root, cx.files.clone());
    sources(root, cx);
    names(root, "rules", cx);
    names(root, "tests", cx);
    declared.renames(root, cx);
    let mut used = HashSet::new();
    for (index, rule) in items(root, "rules").iter().enumerate() {
        digests(root, rule, cx);
        let name = rule.get("name").and_then(Node::text);
        let what = name.map_or_else(|| format!("rules[{index}]"), |name| format!("rule \"{name}\""));
        for source in rule.get("match").and_then(|matching| matching.get("source")).map(one_or_more).unwrap_or_default() {
            declared.source(source, cx);
        }
        for target in rule.get("to").map(one_or_more).unwrap_or_default() {
            declared.destination(target.get("destination").unwrap_or(target), &what, &mut used, cx);
            if let Some(template) = target.get("template") {
                declared.template(template, &what, cx);
            }
        }
    }
    for target in items(root, "unmatched") {
        declared.destination(target, "`unmatched`", &mut used, cx);
    }
    declared.unused(&used, cx);
    expected::check(root, &declared, cx);
    unreached(root, contacts, cx);
}

/// Says where messages to contacts would reach nobody.
fn unreached(root: &Node, contacts: &contacts::Settings, cx: &mut Context) {
    let contact = |node: &Node, key| node.get(key).filter(|to| to.text() == Some("contact")).map(|to| to.place);
    // Slack calls it a channel.
    let to_contact = |node: &Node| contact(node, "to").or_else(|| contact(node, "channel"));
    for place in root.get("destinations").map(Node::entries).unwrap_or_default().iter().filter_map(|(_, node)| to_contact(node)) {
        if ["contacts", "contacts_file", "contacts_lookup"].iter().all(|section| root.get(section).is_none()) {
            cx.error("no-contacts", place, "there are no contacts").help("declare them under `contacts`");
        } else if !contacts.has_fallback() && !cx.failed() {
            cx.warning("no-fallback", place, "a message for a namespace without a contact would reach nobody")
                .help("add a contact for the rest: {namespace: \"*\", email: [ops@example.com]}");
        }
    }
}

/// A digest is one message that lists its events: only kinds that people read can send it.
fn digests(root: &Node, rule: &Node, cx: &mut Context) {
    let Some(digest) = rule.get("digest").filter(|node| node.value != Value::Null) else { return };
    for target in rule.get("to").map(one_or_more).unwrap_or_default() {
        let node = target.get("destination").unwrap_or(target);
        let destination = node.text().and_then(|name| root.get("destinations")?.get(name));
        let Some(kind) = destination.and_then(|it| it.get("kind")?.text()) else { continue };
        if Word::of(kind).is_some_and(|word| !word.takes_digests()) {
            let message = format!("{} is of kind `{kind}`: only Slack, email and WhatsApp take digests", quoted(node));
            cx.error("bad-digest", digest.place, message).help("leave `digest` out, or send to it by a rule of its own");
        }
    }
}

fn items<'n>(root: &'n Node, section: &str) -> &'n [Node] {
    root.get(section).map(Node::items).unwrap_or_default()
}

fn keys<'n>(root: &'n Node, section: &str) -> Vec<&'n Key> {
    root.get(section).map(Node::entries).unwrap_or_default().iter().map(|(key, _)| key).collect()
}

fn one_or_more(node: &Node) -> Vec<&Node> {
    match node.items() {
        [] => vec![node],
        items => items.iter().collect(),
    }
}

/// What the file declares, by name.
struct Declared<'n> {
    sources: HashMap<&'n str, Place>,
    destinations: HashMap<&'n str, Place>,
    templates: HashMap<&'n str, Place>,
    files: Arc<Files>,
}

impl<'n> Declared<'n> {
    fn new(root: &'n Node, files: Arc<Files>) -> Self {
        let by_name = |section| keys(root, section).into_iter().map(|key| (key.name.as_str(), key.place)).collect();
        Self { sources: by_name("sources"), destinations: by_name("destinations"), templates: by_name("templates"), files }
    }

    fn destination(&self, node: &Node, who: &str, used: &mut HashSet<String>, cx: &mut Context) {
        let Some(name) = node.text() else { return };
        if self.destinations.contains_key(name) {
            used.insert(name.to_owned());
            return;
        }
        let message = format!("{who} sends to {}, which is not declared", quoted(node));
        let near = self.unknown(Severity::Error, "unknown-destination", node, message, &self.destinations, cx);
        // It is used by whoever meant it.
        used.extend(near.map(str::to_owned));
    }

    /// A rule that matches a source which does not exist never fires. It may be declared later, so this is no error.
    fn source(&self, node: &Node, cx: &mut Context) {
        let Some(name) = node.text().filter(|name| *name != RESERVED) else { return };
        let Ok(glob) = Glob::parse(name) else { return };
        if glob.exact().is_none() {
            if !self.sources.is_empty() && !self.sources.keys().any(|declared| glob.matches(declared)) {
                let message = format!("no source has a name that fits {}", quoted(node));
                cx.warning("unknown-source", node.place, message).note(list(&self.sources));
            }
        } else if !self.sources.contains_key(name) {
            let message = format!("no source is named {}", quoted(node));
            self.unknown(Severity::Warning, "unknown-source", node, message, &self.sources, cx);
        }
    }

    fn template(&self, node: &Node, who: &str, cx: &mut Context) {
        let Some(name) = node.text() else { return };
        if !self.templates.contains_key(name) {
            let message = format!("{who} wants the template {}, which is not declared", quoted(node));
            self.unknown(Severity::Error, "unknown-template", node, message, &self.templates, cx);
        }
    }

    fn unknown(
        &self,
        severity: Severity,
        code: &'static str,
        node: &Node,
        message: String,
        declared: &HashMap<&'n str, Place>,
        cx: &mut Context,
    ) -> Option<&'n str> {
        // Beyond what is shown, looking for the nearest name would only cost time.
        let shown = cx.problems.len() < PROBLEMS_MAX;
        // What cannot be a name has been told of.
        if shown && cx.problems.iter().any(|problem| problem.place == node.place && problem.severity == Severity::Error) {
            return None;
        }
        let problem = match severity {
            Severity::Error => cx.error(code, node.place, message),
            Severity::Warning => cx.warning(code, node.place, message),
        };
        if !shown {
            return None;
        }
        let near = nearest(node.text().unwrap_or_default(), declared.keys().copied()).filter(|_| !node.referenced);
        problem.did_you_mean(near).note(list(declared));
        if let Some(place) = near.and_then(|near| declared.get(near)) {
            let there = self.files.mention(*place, node.place);
            problem.help = near.map(|near| format!("did you mean `{near}` ({there})?"));
        }
        near
    }

    /// `renamed_from` names a destination that is gone, and each only once.
    fn renames(&self, root: &Node, cx: &mut Context) {
        let mut adopted: HashMap<&str, Place> = HashMap::new();
        for (_, destination) in root.get("destinations").map(Node::entries).unwrap_or_default() {
            let Some((old, node)) = destination.get("renamed_from").and_then(|node| Some((node.text()?, node))) else { continue };
            if let Some(place) = self.destinations.get(old) {
                let there = self.files.whereabouts(*place, node.place);
                cx.error(
                    "bad-rename",
                    node.place,
                    format!("{} is still declared: only what is gone can be adopted", quoted(node)),
                )
                .note(format!("declared {there}"));
            } else if let Some(first) = adopted.insert(old, node.place) {
                let there = self.files.whereabouts(first, node.place);
                cx.error("bad-rename", node.place, format!("two destinations adopt {}", quoted(node)))
                    .note(format!("first {there}"));
            }
        }
    }

    fn unused(&self, used: &HashSet<String>, cx: &mut Context) {
        for (name, place) in self.destinations.iter().filter(|(name, _)| !used.contains(**name)) {
            if cx.problems.len() < PROBLEMS_MAX && cx.problems.iter().any(|problem| problem.place == *place) {
                continue; // Its name is wrong, and nothing can send to it.
            }
            cx.warning("unused-destination", *place, format!("no rule sends to `{name}`"));
        }
    }
}

/// The text of `node`, unless it came from outside.
fn quoted(node: &Node) -> String {
    if node.referenced { "a name from the environment".to_owned() } else { format!("`{}`", node.text().unwrap_or_default()) }
}

fn list(declared: &HashMap<&str, Place>) -> String {
    let mut names: Vec<_> = declared.keys().copied().collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(LISTED_MAX);
    names.truncate(LISTED_MAX);
    match (names.is_empty(), more) {
        (true, _) => "none is declared".to_owned(),
        (false, 0) => format!("declared: {}", names.join(", ")),
        (false, more) => format!("declared: {} and {more} more", names.join(", ")),
    }
}

/// Names and paths of sources.
fn sources(root: &Node, cx: &mut Context) {
    let mut paths: HashMap<&str, (&str, Place)> = HashMap::new();
    for (key, source) in root.get("sources").map(Node::entries).unwrap_or_default() {
        if key.name == RESERVED {
            cx.error("reserved-name", key.place, "`hookyard` is the relay's own source").help("take another name");
        }
        let Some((path, node)) = source.get("path").and_then(|node| Some((node.text()?, node))) else { continue };
        // A source that reads its path has a word of its own on some of these; one error for one mistake.
        let noted = |cx: &Context| cx.problems.iter().any(|problem| problem.place == node.place);
        if let Some(taken) = RELAY_PATHS.iter().find(|taken| is_below(path, taken)).filter(|_| !noted(cx)) {
            cx.error("reserved-path", node.place, format!("`{taken}` and what is below it are the relay's own paths"));
        }
        if let Some((other, place)) = paths.get(path) {
            let there = cx.files.whereabouts(*place, node.place);
            let message = format!("sources \"{other}\" and \"{}\" have the same path", key.name);
            cx.error("repeated-path", node.place, message).note(format!("first {there}"));
            continue;
        }
        paths.insert(path, (&key.name, node.place));
    }
}

fn is_below(path: &str, taken: &str) -> bool {
    path.strip_prefix(taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Names of the items of a section, none of which has another's.
fn names(root: &Node, section: &str, cx: &mut Context) {
    let mut names: HashMap<&str, Place> = HashMap::new();
    for node in items(root, section).iter().filter_map(|item| item.get("name")) {
        let Some(name) = node.text() else { continue };
        if let Some(first) = names.get(name) {
            let there = cx.files.whereabouts(*first, node.place);
            let message = format!("two {section} have the name \"{name}\"");
            // Nothing breaks of two rules of one name, but what is told of them is hard to tell apart. Whose name it is among several
            // files is not for either of them to say.
            let problem = match section {
                "rules" if cx.files.index(*first) == cx.files.index(node.place) => {
                    cx.warning("repeated-name", node.place, message)
                }
                _ => cx.error("repeated-name", node.place, message),
            };
            problem.note(format!("first {there}"));
            continue;
        }
        names.insert(name, node.place);
    }
}
