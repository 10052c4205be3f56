//! What is done to problems once the whole file is read: sorted, cut to those that are shown, placed in the tree, freed of secrets.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    ops::Range,
};

use super::{
    Files, PROBLEMS_MAX, Problem,
    mask::Mask,
    merge::{Outline, Section},
    tree::{Key, Node, Place, Value},
};
use crate::secret::Secret;

/// Longest message, help or note, in bytes.
const MESSAGE_MAX: usize = 2000;
/// Shortest value from outside that is looked for everywhere in a message; shorter ones stand in it by chance.
const OUTSIDE_MIN: usize = 6;
/// Problems that a file which cannot be read may be the cause of, by declaring or using the name.
const UNKNOWN_NAMES: [&str; 8] = [
    "unknown-destination",
    "unknown-rule",
    "unknown-source",
    "unknown-template",
    "unknown-schedule",
    "unused-destination",
    "no-contacts",
    "no-fallback",
];
/// What stands in the place of a secret.
const STARS: &str = "***";

/// Drops what only follows from a reference that could not be resolved, and references in values that nobody reads.
pub(super) fn without_consequences(problems: &mut Vec<Problem>, failed: &[Place], ignored: &[Place]) {
    let failed: HashSet<Place> = failed.iter().copied().collect();
    let ignored: BTreeMap<usize, usize> = ignored.iter().map(|place| (place.start, place.end)).collect();
    let unread = |at: Place| ignored.range(..=at.start).next_back().is_some_and(|(_, end)| at.end <= *end);
    problems.retain(|problem| match is_about_a_reference(problem) {
        true => !unread(problem.place),
        false => !failed.contains(&problem.place),
    });
}

fn is_about_a_reference(problem: &Problem) -> bool {
    matches!(problem.code, "unset-env" | "unreadable-file" | "bad-reference" | "too-large")
}

/// Drops what only follows from a file that could not be read: the names it declares are not known.
pub(super) fn without_unknown_names(problems: &mut Vec<Problem>) {
    problems.retain(|problem| !UNKNOWN_NAMES.contains(&problem.code));
}

/// The first problems by place, errors before warnings where not all can be shown, and how many are left off.
pub(super) fn select(mut problems: Vec<Problem>) -> (Vec<Problem>, usize) {
    problems.sort_by_key(|problem| (problem.severity, problem.place));
    problems.dedup_by(|b, a| (a.place, a.code, &a.message) == (b.place, b.code, &b.message));
    let left_off = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    problems.sort_by_key(|problem| (problem.place, problem.severity));
    (problems, left_off)
}

/// Says where in its file's part of the tree a problem is.
pub(super) fn locate(problem: &mut Problem, root: &Node, outline: &Outline, files: &Files) {
    let Some(section) = outline.section(files, problem.place) else { return };
    if problem.code == "missing-key" && problem.place == root.place {
        return;
    }
    let (path, item) = path_of(root, section, problem);
    problem.path = Some(path);
    in_which_item(problem, &section.key.name, item);
}

/// Takes secrets out of what a problem says.
pub(super) fn censor(problem: &mut Problem, mask: &Mask, text: &str, outside: &[Secret]) {
    let literal: Vec<&str> = mask.within(problem.place).filter_map(|place| text.get(place.start..place.end)).collect();
    if !literal.is_empty() {
        problem.fix = None;
    }
    let texts = [Some(&mut problem.message), problem.label.as_mut(), problem.help.as_mut(), problem.note.as_mut()];
    for said in texts.into_iter().flatten() {
        cut(said);
        for secret in &literal {
            hide(said, secret.trim_matches(['"', '\'']));
        }
        for secret in outside {
            hide_outside(said, secret.reveal());
        }
    }
}

fn cut(said: &mut String) {
    if MESSAGE_MAX < said.len() {
        said.truncate(said.floor_char_boundary(MESSAGE_MAX));
        said.push('…');
    }
}

fn hide(said: &mut String, secret: &str) {
    if !secret.is_empty() && said.contains(secret) {
        *said = said.replace(secret, STARS);
    }
}

/// A short value from outside is hidden only where it is quoted, since it may be a word of the message.
fn hide_outside(said: &mut String, secret: &str) {
    if OUTSIDE_MIN <= secret.len() {
        hide(said, secret);
    } else if said.contains(&format!("`{secret}`")) {
        *said = said.replace(&format!("`{secret}`"), STARS);
    }
}

/// `rules[1].to[0]`: the keys and indices that lead to the place of `problem`, counted within its file; and the item of the section
/// on the way, with its number.
fn path_of<'n>(root: &'n Node, section: &Section, problem: &Problem) -> (String, Option<(usize, &'n Node)>) {
    let at = problem.place;
    let mut path = section.key.name.clone();
    // What is missing is missing in a map, which is pointed at by its first key.
    let missing_in = |place: Place| problem.code == "missing-key" && place == at;
    if at.start < section.place.start || section.key.place == at && section.place != at || missing_in(section.place) {
        return (path, None);
    }
    let mut item = None;
    let mut children = root.get(&section.key.name).map(|node| Children::of(node).within(section.range.as_ref()));
    while let Some((step, child)) = children.and_then(|it| it.leading_to(at)) {
        path.push_str(&step.to_string());
        if let (None, Step::Item(number)) = (&item, &step) {
            item = Some((*number, child));
        }
        if matches!(step, Step::Key(_, true)) || missing_in(child.place) {
            break;
        }
        children = Some(Children::of(child));
    }
    (path, item)
}

/// One step down the tree.
enum Step<'n> {
    /// Into the value of this key; whether the way ends there.
    Key(&'n str, bool),
    /// Into this item.
    Item(usize),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name, _) => write!(f, ".{name}"),
            Self::Item(number) => write!(f, "[{number}]"),
        }
    }
}

/// What is below a node.
#[derive(Clone, Copy)]
enum Children<'n> {
    Map(&'n [(Key, Node)]),
    List(&'n [Node]),
    None,
}

impl<'n> Children<'n> {
    fn of(node: &'n Node) -> Self {
        match &node.value {
            Value::Map(entries) => Self::Map(entries),
            Value::List(items) => Self::List(items),
            _ => Self::None,
        }
    }

    fn within(self, range: Option<&Range<usize>>) -> Self {
        let Some(range) = range else { return self };
        match self {
            Self::Map(entries) => Self::Map(entries.get(range.clone()).unwrap_or_default()),
            Self::List(items) => Self::List(items.get(range.clone()).unwrap_or_default()),
            Self::None => Self::None,
        }
    }

    /// The child in which `at` is, and the step there.
    fn leading_to(self, at: Place) -> Option<(Step<'n>, &'n Node)> {
        match self {
            Self::Map(entries) => {
                let (key, value) = entries.iter().rev().find(|(key, _)| key.place.start <= at.start)?;
                let ends = at.start < value.place.start || key.place == at && value.place != at;
                Some((Step::Key(&key.name, ends), value))
            }
            Self::List(items) => {
                let number = items.iter().rposition(|item| item.place.start <= at.start)?;
                Some((Step::Item(number), items.get(number)?))
            }
            Self::None => None,
        }
    }
}

/// Names the rule or test a problem is in: a list has no names to point at.
fn in_which_item(problem: &mut Problem, section: &str, item: Option<(usize, &Node)>) {
    let what = match section {
        "rules" => "rule",
        "tests" => "test",
        _ => return,
    };
    let Some((index, name)) = item.and_then(|(index, item)| Some((index, item.get("name")?.text()?))) else { return };
    if problem.message.contains(&format!("\"{name}\"")) {
        return;
    }
    let note = problem.note.take().map(|note| format!("; {note}")).unwrap_or_default();
    problem.note = Some(format!("in {what} \"{name}\" ({section}[{index}]){note}"));
}
