//! Names that point at one another: rules at destinations and templates, sources at paths.
//!
//! This reads the tree and not what was decoded from it, so that a destination with a mistake in it is still declared, and a rule
//! with one still says where it sends: one mistake makes one error.

use std::collections::{HashMap, HashSet};

use super::{
    PROBLEMS_MAX,
    decode::{Context, nearest},
    tree::{Key, Lines, Node, Place},
};

/// The relay's own source, which tells what it does (`relay.**`).
const RESERVED: &str = "hookyard";
/// Paths of the public listener that are the relay's own, with all below them.
const RELAY_PATHS: [&str; 5] = ["/healthz", "/readyz", "/api", "/metrics", "/callbacks"];
/// How many names a note lists.
const LISTED_MAX: usize = 20;

/// Checks every name that `root` mentions against those it declares.
pub(super) fn check(root: &Node, cx: &mut Context) {
    let lines = Lines::of(&cx.text);
    let declared = Declared::new(root, &lines);
    sources(root, &lines, cx);
    rule_names(root, &lines, cx);
    let mut used = HashSet::new();
    for (index, rule) in items(root, "rules").iter().enumerate() {
        let name = rule.get("name").and_then(Node::text);
        let what = name.map_or_else(|| format!("rules[{index}]"), |name| format!("rule \"{name}\""));
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
    destinations: HashMap<&'n str, Place>,
    templates: HashMap<&'n str, Place>,
    lines: &'n Lines,
}

impl<'n> Declared<'n> {
    fn new(root: &'n Node, lines: &'n Lines) -> Self {
        let by_name = |section| keys(root, section).into_iter().map(|key| (key.name.as_str(), key.place)).collect();
        Self { destinations: by_name("destinations"), templates: by_name("templates"), lines }
    }

    fn destination(&self, node: &Node, who: &str, used: &mut HashSet<String>, cx: &mut Context) {
        let Some(name) = node.text() else { return };
        if self.destinations.contains_key(name) {
            used.insert(name.to_owned());
            return;
        }
        let message = format!("{who} sends to {}, which is not declared", quoted(node));
        self.unknown("unknown-destination", node, message, &self.destinations, cx);
    }

    fn template(&self, node: &Node, who: &str, cx: &mut Context) {
        let Some(name) = node.text() else { return };
        if !self.templates.contains_key(name) {
            let message = format!("{who} wants the template {}, which is not declared", quoted(node));
            self.unknown("unknown-template", node, message, &self.templates, cx);
        }
    }

    fn unknown(&self, code: &'static str, node: &Node, message: String, declared: &HashMap<&str, Place>, cx: &mut Context) {
        // Beyond what is shown, looking for the nearest name would only cost time.
        let shown = cx.problems.len() < PROBLEMS_MAX;
        let problem = cx.error(code, node.place, message);
        if !shown {
            return;
        }
        let near = nearest(node.text().unwrap_or_default(), declared.keys().copied()).filter(|_| !node.referenced);
        problem.did_you_mean(near).note(list(declared));
        if let Some(place) = near.and_then(|near| declared.get(near)) {
            let line = self.lines.line(place.start);
            problem.help = near.map(|near| format!("did you mean `{near}` (line {line})?"));
        }
    }

    fn unused(&self, used: &HashSet<String>, cx: &mut Context) {
        for (name, place) in self.destinations.iter().filter(|(name, _)| !used.contains(**name)) {
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
fn sources(root: &Node, lines: &Lines, cx: &mut Context) {
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
            let line = lines.line(place.start);
            let message = format!("sources \"{other}\" and \"{}\" have the same path", key.name);
            cx.error("repeated-path", node.place, message).note(format!("first on line {line}"));
            continue;
        }
        paths.insert(path, (&key.name, node.place));
    }
}

fn is_below(path: &str, taken: &str) -> bool {
    path.strip_prefix(taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn rule_names(root: &Node, lines: &Lines, cx: &mut Context) {
    let mut names: HashMap<&str, Place> = HashMap::new();
    for node in items(root, "rules").iter().filter_map(|rule| rule.get("name")) {
        let Some(name) = node.text() else { continue };
        if let Some(first) = names.get(name) {
            let line = lines.line(first.start);
            cx.error("repeated-name", node.place, format!("two rules have the name \"{name}\""))
                .note(format!("first on line {line}"));
            continue;
        }
        names.insert(name, node.place);
    }
}
