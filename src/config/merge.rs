//! Fragments put behind the main file: one tree, in which lists and maps of names go on from file to file.

use std::{collections::HashMap, ops::Range};

use super::{
    decode::{self, Context, nearest},
    files::Files,
    tree::{Key, Node, Place, Value},
};

/// What a fragment may hold.
const SHARED: [(&str, Shape); 7] = [
    ("sources", Shape::Names("source")),
    ("destinations", Shape::Names("destination")),
    ("rules", Shape::Items),
    ("contacts", Shape::Items),
    ("templates", Shape::Names("template")),
    ("schedules", Shape::Names("schedule")),
    ("tests", Shape::Items),
];
/// Whether a fragment may hold `section`.
pub(super) fn is_shared(section: &str) -> bool {
    SHARED.iter().any(|(name, _)| *name == section)
}

/// What only the main file holds.
const OWN: [&str; 11] = [
    "server",
    "store",
    "security",
    "defaults",
    "reconnect",
    "reconnect_url",
    "contacts_file",
    "contacts_lookup",
    "subscriptions",
    "event_types",
    "unmatched",
];

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A map of names of such things, which do not repeat.
    Names(&'static str),
    /// A list.
    Items,
}

/// Which part of the merged tree each file says.
#[derive(Debug, Default)]
pub(super) struct Outline {
    files: Vec<Vec<Section>>,
}

/// A key of the outermost map of a file.
#[derive(Debug)]
pub(super) struct Section {
    /// The key.
    pub(super) key: Key,
    /// Where its value stands.
    pub(super) place: Place,
    /// Which entries or items of the merged value are of this file; `None`: all there is, and no fragment goes on with it.
    pub(super) range: Option<Range<usize>>,
}

impl Outline {
    /// The section that holds `place`, or the one before it.
    pub(super) fn section(&self, files: &Files, place: Place) -> Option<&Section> {
        self.files.get(files.index(place))?.iter().rev().find(|section| section.key.place.start <= place.start)
    }
}

/// Puts what `fragments` say behind what `root`, the main file, says. What a fragment must not say is noted and left out.
pub(super) fn merge(root: &mut Node, fragments: Vec<Node>, cx: &mut Context) -> Outline {
    let mut outline = Outline { files: vec![sections(root)] };
    let declared = if fragments.is_empty() { HashMap::new() } else { names(root) };
    let mut merging = Merging { root, declared, cx };
    for fragment in fragments {
        outline.files.push(merging.fragment(fragment));
    }
    outline
}

fn sections(root: &Node) -> Vec<Section> {
    let section = |(key, node): &(Key, Node)| {
        let shared = is_shared(&key.name);
        let length = node.entries().len().max(node.items().len());
        Section { key: key.clone(), place: node.place, range: shared.then_some(0..length) }
    };
    root.entries().iter().map(section).collect()
}

/// What the main file declares: section and name, and where.
fn names(root: &Node) -> HashMap<(&'static str, String), Place> {
    let mut names = HashMap::new();
    for (section, _) in SHARED.iter().filter(|(_, shape)| matches!(shape, Shape::Names(_))) {
        let entries = root.get(section).map(Node::entries).unwrap_or_default();
        names.extend(entries.iter().map(|(key, _)| ((*section, key.name.clone()), key.place)));
    }
    names
}

struct Merging<'m> {
    root: &'m mut Node,
    declared: HashMap<(&'static str, String), Place>,
    cx: &'m mut Context,
}

impl Merging<'_> {
    fn fragment(&mut self, fragment: Node) -> Vec<Section> {
        let place = fragment.place;
        let entries = match fragment.value {
            Value::Map(entries) => entries,
            // A file that is empty, or holds comments only.
            Value::Null => Vec::new(),
            _ => {
                self.cx.error("bad-type", place, "expected a map of sections, such as `rules: […]`");
                Vec::new()
            }
        };
        entries.into_iter().map(|(key, node)| self.section(key, node)).collect()
    }

    fn section(&mut self, key: Key, node: Node) -> Section {
        let place = node.place;
        let range = match SHARED.iter().find(|(name, _)| key.name == *name) {
            Some((name, shape)) => self.shared(name, *shape, &key, node),
            None => {
                self.alone(&key, &node);
                0..0
            }
        };
        Section { key, place, range: Some(range) }
    }

    /// A key that no fragment goes on with.
    fn alone(&mut self, key: &Key, node: &Node) {
        let main = self.cx.files.path().display().to_string();
        let name = key.name.as_str();
        if name == "version" {
            return version(node, self.cx);
        }
        decode::ignore(node, &mut self.cx.ignored);
        if name == "include" {
            let help = format!("name all files under `include` of {main}");
            self.cx.error("nested-include", key.place, "a file that is included includes no others").help(help);
        } else if OWN.contains(&name) {
            let message = format!("`{name}` is said once for all, and not in a file that is included");
            self.cx.error("misplaced-key", key.place, message).help(format!("move it to {main}"));
        } else {
            let legal = || SHARED.iter().map(|(name, _)| *name);
            let near = nearest(name, legal());
            let problem = self.cx.error("unknown-key", key.place, format!("a file that is included has no key `{name}`"));
            let mut keys: Vec<_> = legal().chain(["version"]).collect();
            keys.sort_unstable();
            problem.did_you_mean(near).note(format!("keys here: {}", keys.join(" ")));
        }
    }

    /// Moves what `node` says behind what the files before it said; answers where it is now.
    fn shared(&mut self, name: &'static str, shape: Shape, key: &Key, node: Node) -> Range<usize> {
        let fits = matches!((&node.value, shape), (Value::Map(_), Shape::Names(_)) | (Value::List(_), Shape::Items));
        if !fits {
            if node.value != Value::Null {
                let wanted = if matches!(shape, Shape::Items) { "a list" } else { "a map of names" };
                self.cx.expected::<()>(&format!("`{name}` as {wanted}"), &node);
            }
            return 0..0;
        }
        if let Shape::Names(what) = shape {
            self.declare(name, what, &node);
        }
        let Value::Map(root) = &mut self.root.value else { return 0..0 };
        let Some(at) = root.iter().position(|(key, _)| key.name == name) else {
            let length = node.entries().len().max(node.items().len());
            root.push((key.clone(), node));
            return 0..length;
        };
        root.get_mut(at).map_or(0..0, |(_, there)| append(there, node))
    }

    /// Notes the names that a file before it declares. They stay, so that their other mistakes are found in the same run.
    fn declare(&mut self, section: &'static str, what: &str, node: &Node) {
        for (key, _) in node.entries() {
            match self.declared.get(&(section, key.name.clone())) {
                Some(first) => {
                    let note = format!("first {}", self.cx.files.whereabouts(*first, key.place));
                    self.cx.error("repeated-key", key.place, format!("{what} `{}` is declared twice", key.name)).note(note);
                }
                None => _ = self.declared.insert((section, key.name.clone()), key.place),
            }
        }
    }
}

fn append(there: &mut Node, node: Node) -> Range<usize> {
    match (&mut there.value, node.value) {
        (Value::Map(all), Value::Map(more)) => extend(all, more),
        (Value::List(all), Value::List(more)) => extend(all, more),
        (empty @ Value::Null, more) => {
            *empty = more;
            0..there.entries().len().max(there.items().len())
        }
        // The main file is wrong there, which is said when it is read.
        _ => 0..0,
    }
}

fn extend<T>(all: &mut Vec<T>, more: Vec<T>) -> Range<usize> {
    let start = all.len();
    all.extend(more);
    start..all.len()
}

/// A fragment may repeat the version, for editors that know files by it.
fn version(node: &Node, cx: &mut Context) {
    if !matches!(node.value, Value::Int(super::VERSION) | Value::Null) {
        cx.error("bad-version", node.place, "this version of Hookyard reads files of `version: 1`").fix = Some("1".to_owned());
    }
}
