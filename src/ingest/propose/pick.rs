//! Which members of bodies of one shape look like the facts of an event.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Group, Steps, at, members, shape::Test, words};
use crate::{envelope::Name, ingest::time};

/// Longest value that a fact may have, in characters.
const TEXT_MAX: usize = 256;

/// The members that look like facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) id: Option<Steps>,
    pub(super) time: Option<Steps>,
    pub(super) namespace: Option<Steps>,
    pub(super) subject: Option<Steps>,
}

/// Whose an event is.
const OWNERS: [&str; 16] = [
    "namespace",
    "external user",
    "tenant",
    "account",
    "organization",
    "organisation",
    "org",
    "workspace",
    "team",
    "customer",
    "company",
    "client",
    "user",
    "owner",
    "member",
    "author",
];
/// Ids of the event itself: what else has an id is what it happened to, of which there may be many events.
const IDS: [&str; 9] =
    ["event id", "delivery id", "webhook id", "notification id", "request id", "uuid", "guid", "id", "message id"];
/// Wrappers whose `id` is the event's.
const MESSAGES: [&str; 5] = ["event", "message", "delivery", "notification", "webhook"];
/// When it happened, the likelier first.
const TIMES: [&str; 19] = [
    "timestamp",
    "event time",
    "occurred at",
    "triggered at",
    "happened at",
    "time",
    "event timestamp",
    "ts",
    "sent at",
    "updated at",
    "created at",
    "modified at",
    "changed at",
    "at",
    "date",
    "datetime",
    "updated",
    "created",
    "received at",
];

impl Facts {
    /// Those that every one of `bodies` has.
    pub(super) fn of(bodies: &[&Value]) -> Self {
        let Some(first) = bodies.first() else { return Self::default() };
        let everywhere: Vec<Steps> = members(first)
            .into_iter()
            .map(|(steps, _)| steps)
            .filter(|steps| bodies.iter().all(|body| at(body, steps).is_some()))
            .collect();
        let best = |rank: &dyn Fn(&[String]) -> Option<usize>, fits: &dyn Fn(&[&Value]) -> bool| {
            let ranked = everywhere.iter().filter_map(|steps| Some((rank(steps)?, steps.len(), steps)));
            let fitting = ranked.filter(|(_, _, steps)| {
                let values: Vec<&Value> = bodies.iter().filter_map(|body| at(body, steps)).collect();
                fits(&values)
            });
            fitting.min().map(|(_, _, steps)| steps.clone())
        };
        let id = best(&id, &|values| values.iter().all(|it| text(it).is_some()) && all_differ(values));
        let time = best(&when, &|values| values.iter().all(|it| is_time(it)));
        let namespace = best(&owner, &|values| values.iter().all(|it| text(it).is_some()));
        let taken = [&id, &namespace];
        let other = |steps: &[String]| thing(steps).filter(|_| !taken.iter().any(|it| it.as_deref() == Some(steps)));
        let subject = best(&other, &|values| values.iter().all(|it| text(it).is_some()));
        Self { id, time, namespace, subject }
    }
}

fn name(steps: &[String]) -> String {
    steps.last().map(|name| words(name).join(" ")).unwrap_or_default()
}

fn parent(steps: &[String]) -> Option<String> {
    steps.len().checked_sub(2).and_then(|at| steps.get(at)).map(|name| words(name).join(" "))
}

fn id(steps: &[String]) -> Option<usize> {
    let rank = IDS.iter().position(|known| *known == name(steps))?;
    match parent(steps) {
        None => Some(rank),
        // What is nested is the event's own only inside what stands for the event.
        Some(parent) => MESSAGES.contains(&parent.as_str()).then_some(rank + IDS.len()),
    }
}

fn when(steps: &[String]) -> Option<usize> {
    TIMES.iter().position(|known| *known == name(steps))
}

/// `account`, `account_id`, `account.id`.
fn owner(steps: &[String]) -> Option<usize> {
    let name = name(steps);
    let of = |text: &str| OWNERS.iter().position(|known| *known == text);
    let own = of(name.strip_suffix(" id").unwrap_or(&name));
    own.or_else(|| parent(steps).filter(|_| matches!(name.as_str(), "id" | "key" | "name")).and_then(|parent| of(&parent)))
}

/// What it happened to: `thread_id`, `issue.key`, `issue.id`, `invoice_id`.
fn thing(steps: &[String]) -> Option<usize> {
    if owner(steps).is_some() {
        return None;
    }
    let name = name(steps);
    match name.as_str() {
        "thread id" | "conversation id" => Some(0),
        "key" if 1 < steps.len() => Some(1),
        "id" if 1 < steps.len() => Some(2),
        "number" if 1 < steps.len() => Some(4),
        name if name.ends_with(" id") => Some(3),
        _ => None,
    }
}

/// Text or a whole number that an event's fact can be.
fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        _ => return None,
    };
    let fits = !text.is_empty() && text.chars().count() <= TEXT_MAX && !text.chars().any(char::is_control);
    fits.then_some(text)
}

fn all_differ(values: &[&Value]) -> bool {
    let texts: BTreeSet<_> = values.iter().filter_map(|value| text(value)).collect();
    texts.len() == values.len()
}

/// Times are as the mapping reads them; small numbers are counts.
fn is_time(value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.as_f64().is_some_and(|it| 500_000_000.0 < it) => number.to_string(),
        _ => return false,
    };
    time::instant(&text).is_some()
}

/// A type made of what the bodies say they are: `connector.jira.issue_updated`.
pub(super) fn type_of(source: &Name, group: &Group) -> String {
    let said = group.tests.iter().filter_map(|test| match test {
        Test::Is(steps, text) => Some((name(steps), part(text))),
        Test::There(..) => None,
    });
    let said: Vec<_> = said.collect();
    let mut parts: Vec<String> = Vec::new();
    if said.first().is_some_and(|(name, _)| name == "connector") {
        parts.push("connector".to_owned());
    } else {
        parts.push(part(source.as_str()));
    }
    if said.is_empty() {
        let there = group.tests.iter().filter_map(|test| match test {
            Test::There(steps, true) => Some(steps),
            _ => None,
        });
        // When and whose it is says little of what it is.
        let there = there.min_by_key(|steps| when(steps).is_some() || owner(steps).is_some());
        let there = there.and_then(|steps| steps.last()).map(|name| part(name));
        parts.push(there.filter(|it| !it.is_empty()).unwrap_or_else(|| "event".to_owned()));
    }
    for (_, text) in said {
        // `jira` before `jira:issue_updated` says nothing.
        if parts.last().is_some_and(|last| text == *last || text.starts_with(&format!("{last}."))) {
            parts.pop();
        }
        parts.push(text);
    }
    let r#type = parts.join(".");
    r#type.chars().take(TEXT_MAX / 2).collect::<String>().trim_end_matches('.').to_owned()
}

/// `text` as parts of a type: lower case, letters, digits and `_` between dots.
fn part(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else if matches!(c, '.' | ':' | '/') {
            '.'
        } else {
            '_'
        }
    };
    let parts: String = text.chars().map(plain).collect();
    let parts: Vec<_> = parts.split('.').map(|part| part.trim_matches('_')).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "other".to_owned() } else { parts.join(".") }
}
