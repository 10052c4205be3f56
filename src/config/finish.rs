//! What is done to problems once the whole file is read: sorted, cut to those that are shown, placed in the tree, freed of secrets.

use std::collections::{BTreeMap, HashSet};

use super::{
    PROBLEMS_MAX, Problem,
    mask::Mask,
    tree::{Node, Place, Value},
};
use crate::secret::Secret;

/// Longest message, help or note, in bytes.
const MESSAGE_MAX: usize = 2000;
/// Shortest value from outside that is looked for everywhere in a message; shorter ones stand in it by chance.
const OUTSIDE_MIN: usize = 6;
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

/// The first problems by place, errors before warnings where not all can be shown, and how many are left off.
pub(super) fn select(mut problems: Vec<Problem>) -> (Vec<Problem>, usize) {
    problems.sort_by_key(|problem| (problem.severity, problem.place));
    problems.dedup_by(|b, a| (a.place, a.code, &a.message) == (b.place, b.code, &b.message));
    let left_off = problems.len().saturating_sub(PROBLEMS_MAX);
    problems.truncate(PROBLEMS_MAX);
    problems.sort_by_key(|problem| (problem.place, problem.severity));
    (problems, left_off)
}

/// Says where in the tree a problem is.
pub(super) fn locate(problem: &mut Problem, root: &Node) {
    problem.path = path_of(root, problem);
    in_which_item(problem, root);
}

/// Takes secrets out of what a problem says.
pub(super) fn censor(problem: &mut Problem, mask: &Mask, text: &str, outside: &[Secret]) {
    let literal: Vec<&str> = mask.within(problem.place).filter_map(|place| text.get(place.start..place.end)).collect();
    if !literal.is_empty() {
        problem.fix = None;
    }
    let texts = [Some(&mut problem.message), problem.help.as_mut(), problem.note.as_mut()];
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

/// `rules[1].to[0]`: the keys and indices that lead to the place of `problem`.
fn path_of(root: &Node, problem: &Problem) -> Option<String> {
    let mut path = String::new();
    let mut node = root;
    let at = problem.place;
    // What is missing is missing in a map, which is pointed at by its first key.
    while !(problem.code == "missing-key" && node.place == at) {
        match &node.value {
            Value::Map(map) => {
                let Some((key, value)) = map.iter().rev().find(|(key, _)| key.place.start <= at.start) else { break };
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&key.name);
                if at.start < value.place.start || key.place == at && value.place != at {
                    break;
                }
                node = value;
            }
            Value::List(items) => {
                let Some(index) = items.iter().rposition(|item| item.place.start <= at.start) else { break };
                path.push_str(&format!("[{index}]"));
                node = items.get(index)?;
            }
            _ => break,
        }
    }
    (!path.is_empty()).then_some(path)
}

/// Names the rule or test a problem is in: a list has no names to point at.
fn in_which_item(problem: &mut Problem, root: &Node) {
    let path = problem.path.as_deref();
    let sections = [("rules", "rule"), ("tests", "test")];
    let Some((section, what, index)) = sections.iter().find_map(|(section, what)| Some((section, what, index(path?, section)?)))
    else {
        return;
    };
    let Some(name) = root.get(section).and_then(|items| items.items().get(index)).and_then(|item| item.get("name")?.text())
    else {
        return;
    };
    if problem.message.contains(&format!("\"{name}\"")) {
        return;
    }
    let note = problem.note.take().map(|note| format!("; {note}")).unwrap_or_default();
    problem.note = Some(format!("in {what} \"{name}\" ({section}[{index}]){note}"));
}

fn index(path: &str, section: &str) -> Option<usize> {
    path.strip_prefix(section)?.strip_prefix('[')?.split_once(']')?.0.parse().ok()
}
