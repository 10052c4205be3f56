//! Which bodies are alike, and what tells them from the others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Steps, at, members, words};

/// Names of members that tell what a body is about, as words: the more general ones first, which is their order in a type.
const TELLING: [&str; 18] = [
    "connector",
    "provider",
    "service",
    "integration",
    "app",
    "source",
    "trigger",
    "object",
    "object type",
    "resource type",
    "kind",
    "topic",
    "event",
    "event type",
    "event name",
    "type",
    "action",
    "verb",
];
/// Members under which such names are looked for too.
const WRAPPERS: [&str; 7] = ["event", "meta", "metadata", "header", "headers", "payload", "data"];
/// A member that has more values than this tells no shapes apart.
const VALUES_MAX: usize = 8;
/// Longest value that tells a shape, in bytes.
const VALUE_MAX: usize = 64;
/// Most members whose presence tells a shape.
const PRESENT_MAX: usize = 3;

/// One condition of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// The member is this text.
    Is(Steps, String),
    /// The member is there, or is not.
    There(Steps, bool),
}

impl Test {
    fn holds(&self, body: &Value) -> bool {
        match self {
            Self::Is(steps, text) => at(body, steps).and_then(Value::as_str) == Some(text),
            Self::There(steps, there) => at(body, steps).is_some() == *there,
        }
    }
}

/// Bodies that are alike.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Which, by their places.
    pub(super) bodies: Vec<usize>,
    /// What holds for all of them.
    pub(super) tests: Vec<Test>,
}

impl Group {
    fn takes(&self, body: &Value) -> bool {
        self.tests.iter().all(|test| test.holds(body))
    }

    /// Whether it takes its own bodies and no others.
    pub(super) fn tells_apart(&self, bodies: &[Value]) -> bool {
        bodies.iter().enumerate().all(|(at, body)| self.takes(body) == self.bodies.contains(&at))
    }
}

/// What bodies that are put together have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    /// Which of the telling members say what.
    said: Vec<(usize, String)>,
    /// The names at their top, where nothing is said.
    names: Vec<String>,
}

/// The bodies, put together by what they say they are; those that do not say, by the members they have.
pub(super) fn groups(bodies: &[Value]) -> Vec<Group> {
    let telling = telling(bodies);
    let mut by_key: BTreeMap<Alike, Vec<usize>> = BTreeMap::new();
    for (place, body) in bodies.iter().enumerate().filter(|(_, body)| body.is_object()) {
        let said: Vec<_> = telling.iter().enumerate().filter_map(|(n, steps)| Some((n, word(at(body, steps)?)?))).collect();
        let names = if said.is_empty() { top(body) } else { Vec::new() };
        by_key.entry(Alike { said, names }).or_default().push(place);
    }
    let group = |(Alike { said, names }, places): (Alike, Vec<usize>)| {
        let said = said.into_iter().filter_map(|(n, value)| Some(Test::Is(telling.get(n)?.clone(), value)));
        let there = names.into_iter().map(|name| Test::There(vec![name], true));
        Group { bodies: places, tests: said.chain(there).collect() }
    };
    let groups: Vec<Group> = by_key.into_iter().map(group).collect();
    groups.into_iter().map(|group| narrowed(group, bodies)).collect()
}

/// What the bodies say they are, in the order of a type.
fn telling(bodies: &[Value]) -> Vec<Steps> {
    let mut values: BTreeMap<(usize, Steps), BTreeSet<String>> = BTreeMap::new();
    for body in bodies {
        for (steps, value) in members(body) {
            let Some(rank) = rank(&steps) else { continue };
            let known = values.entry((rank, steps)).or_default();
            // What is no word makes the member useless.
            known.insert(word(value).unwrap_or_default());
        }
    }
    let fits = |found: &BTreeSet<String>| found.len() <= VALUES_MAX && !found.contains("");
    values.into_iter().filter(|(_, found)| fits(found)).map(|((_, steps), _)| steps).collect()
}

fn rank(steps: &[String]) -> Option<usize> {
    let name = match steps {
        [name] => name,
        [wrapper, name] if WRAPPERS.contains(&wrapper.to_lowercase().as_str()) => name,
        _ => return None,
    };
    let name = words(name).join(" ");
    TELLING.iter().position(|known| *known == name)
}

/// A value that names a kind of thing.
fn word(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-' | b'/');
    let good = (1..=VALUE_MAX).contains(&text.len()) && text.bytes().all(fits) && text.bytes().any(|b| b.is_ascii_alphabetic());
    (good && !super::masked::is_secret(text)).then(|| text.to_owned())
}

/// The names at the top of a body that may stand in a path.
fn top(body: &Value) -> Vec<String> {
    let Value::Object(map) = body else { return Vec::new() };
    let mut names: Vec<_> = map.keys().filter(|name| super::fits(name)).cloned().collect();
    names.sort();
    names
}

/// The group with as few tests as tell it from the other bodies, and with those added that it lacks.
fn narrowed(mut group: Group, bodies: &[Value]) -> Group {
    let others: Vec<&Value> =
        bodies.iter().enumerate().filter(|(at, _)| !group.bodies.contains(at)).map(|(_, body)| body).collect();
    if group.tests.iter().all(|test| matches!(test, Test::There(..))) {
        // The names that fewest others have say most.
        group.tests.sort_by_key(|test| others.iter().filter(|body| test.holds(body)).count());
        group.tests.truncate(PRESENT_MAX);
    }
    let own: Vec<&Value> = group.bodies.iter().filter_map(|at| bodies.get(*at)).collect();
    for other in &others {
        if !group.takes(other) {
            continue;
        }
        let strange = top(other).into_iter().find(|name| own.iter().all(|body| body.get(name).is_none()));
        group.tests.extend(strange.map(|name| Test::There(vec![name], false)));
    }
    if group.tests.is_empty() {
        // An object without any name that fits: nothing tells it.
        group.tests.push(Test::There(Vec::new(), true));
    }
    group
}
