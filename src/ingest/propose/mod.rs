//! A `case` for bodies that no case takes: bodies whose shape nobody documented come in, what can be pasted into `cases` goes out.
//!
//! `shape.rs` puts bodies together that are alike and finds what tells them from the others, `pick.rs` guesses which of their members
//! are an event's facts, `yaml.rs` writes it down, `masked.rs` shows a body without what may be a secret. Pure, and guesses all of it:
//! whoever pastes it is told what to look at.

use serde_json::Value;

use crate::{envelope::Name, telemetry::logs::plain};

mod masked;
mod pick;
mod shape;
mod yaml;

pub use masked::masked;
use pick::Facts;
use shape::Group;

/// Most bodies that are looked at.
pub const BODIES_MAX: usize = 50;
/// Most cases that are proposed, those of most bodies first.
const CASES_MAX: usize = 10;
/// How deep members are looked for.
const DEPTH_MAX: usize = 4;
/// Most members of one body that are looked at.
const MEMBERS_MAX: usize = 400;

/// A case for bodies of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Which of the bodies it takes, by their places.
    pub bodies: Vec<usize>,
    /// The type that it gives them.
    pub r#type: String,
    /// The entry of `cases`, as YAML that begins with `- when:`, not indented.
    pub yaml: String,
    /// Whether it takes none of the other bodies.
    pub tells_apart: bool,
}

/// Cases for `bodies` of source `source`, the newest body first.
pub fn propose(source: &Name, bodies: &[Value]) -> Vec<Proposal> {
    let bodies = bodies.get(..BODIES_MAX).unwrap_or(bodies);
    let mut groups = shape::groups(bodies);
    groups.sort_by_key(|group| std::cmp::Reverse(group.bodies.len()));
    groups.truncate(CASES_MAX);
    let mut proposals: Vec<Proposal> = Vec::new();
    for group in groups {
        let members: Vec<&Value> = group.bodies.iter().filter_map(|at| bodies.get(*at)).collect();
        let facts = Facts::of(&members);
        let taken = |r#type: &str| proposals.iter().any(|it| it.r#type == r#type);
        let r#type = unique(pick::type_of(source, &group), taken);
        let yaml = yaml::case(&group, &r#type, &facts);
        let tells_apart = group.tells_apart(bodies);
        proposals.push(Proposal { bodies: group.bodies, r#type, yaml, tells_apart });
    }
    proposals
}

fn unique(r#type: String, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..=CASES_MAX + 1).map(|n| format!("{type}_{n}"));
    std::iter::once(r#type.clone()).chain(numbered).find(|it| !taken(it)).unwrap_or(r#type)
}

/// A member of a body: the names that lead to it.
type Steps = Vec<String>;

/// The members of `body` that are no objects, with what leads to them; those whose names cannot stand in a path are left out.
fn members(body: &Value) -> Vec<(Steps, &Value)> {
    let mut found = Vec::new();
    walk(body, &mut Vec::new(), &mut found);
    found
}

fn walk<'v>(value: &'v Value, at: &mut Steps, found: &mut Vec<(Steps, &'v Value)>) {
    let Value::Object(map) = value else { return };
    for (name, inner) in map {
        if MEMBERS_MAX <= found.len() || DEPTH_MAX <= at.len() {
            return;
        }
        if !fits(name) {
            continue;
        }
        at.push(name.clone());
        match inner {
            Value::Object(_) => walk(inner, at, found),
            other => found.push((at.clone(), other)),
        }
        at.pop();
    }
}

/// Whether a name can stand in a path, and be shown.
fn fits(name: &str) -> bool {
    (1..=64).contains(&name.len()) && !name.contains(['\'', '"', '\\', '$']) && plain(name) == name
}

/// The value at the end of `steps`.
fn at<'v>(body: &'v Value, steps: &[String]) -> Option<&'v Value> {
    steps.iter().try_fold(body, |value, name| value.get(name))
}

/// `$.message.id`, `$['message id'].id`.
fn path(steps: &[String]) -> String {
    let plain = |name: &str| {
        name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
            && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
    };
    let step = |name: &String| if plain(name) { format!(".{name}") } else { format!("['{name}']") };
    std::iter::once("$".to_owned()).chain(steps.iter().map(step)).collect()
}

/// The words of a name, in lower case: `messageId`, `message-id` and `message_id` are the same.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let mut lower_before = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            words.push(String::new());
        } else {
            if c.is_uppercase() && lower_before {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(c.to_lowercase());
            }
        }
        lower_before = c.is_lowercase() || c.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{
            decode::Context,
            tree::{Key, Place},
            yaml,
        },
        ingest::{Source, rehearse},
        route::when::tests::any_json,
    };

    fn told(bodies: &[Value]) -> String {
        let all = propose(&"connectors".into(), bodies);
        all.iter().map(|it| format!("# {:?} {}\n{}", it.bodies, it.tells_apart, it.yaml)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn connectors_are_told_apart_by_what_names_them() {
        let jira = |n: u32| {
            json!({"connector": "jira", "event": "issue_updated", "account": "acme", "issue": {"id": "10002", "key": "OPS-1"},
                "updated_at": format!("2026-01-20T12:00:0{n}Z"), "changes": [n]})
        };
        let gmail = |n: u32| json!({"connector": "gmail", "account": "user_1", "message": {"id": format!("m{n}"), "thread_id": "t1", "sent_at": "2026-01-20T12:00:00Z"}});
        insta::assert_snapshot!(told(&[jira(1), gmail(1), jira(2), gmail(2), jira(3)]), @r#"
        # [0, 2, 4] true
        - when: [{path: $.connector, eq: jira}, {path: $.event, eq: issue_updated}]
          map:
            type: connector.jira.issue_updated  # a name of your own choice
            # id: none is told; the hash of its bytes is its id
            time: $.updated_at
            namespace: $.account
            subject: $.issue.key
        # [1, 3] true
        - when: [{path: $.connector, eq: gmail}]
          map:
            type: connector.gmail  # a name of your own choice
            id: $.message.id  # must differ for every event: what repeats it is dropped
            time: $.message.sent_at
            namespace: $.account
            subject: $.message.thread_id
        "#);
    }

    #[test]
    fn bodies_that_name_nothing_are_told_apart_by_their_members() {
        let invoice = json!({"invoice": {"number": "R-1", "total": 10}, "customer": {"id": 17}, "at": 1768910400});
        let plain = json!({"text": "hello", "odd name": 1});
        insta::assert_snapshot!(told(&[invoice.clone(), plain, invoice]), @r#"
        # [0, 2] true
        - when: [{path: $.at, exists: true}, {path: $.customer, exists: true}, {path: $.invoice, exists: true}]
          map:
            type: connectors.invoice  # a name of your own choice
            # id: none is told; the hash of its bytes is its id
            time: $.at
            namespace: $.customer.id
            subject: $.invoice.number
        # [1] true
        - when: [{path: "$['odd name']", exists: true}, {path: $.text, exists: true}]
          map:
            type: connectors.odd_name  # a name of your own choice
            # id: none is told; the hash of its bytes is its id
        "#);
    }

    #[test]
    fn an_id_that_repeats_is_none() {
        let body = |id: &str| json!({"type": "updated", "id": id, "resource": {"id": "r1"}});
        let (same, different) = (told(&[body("1"), body("1")]), told(&[body("1"), body("2")]));
        assert!(!same.contains("id: $.id") && different.contains("id: $.id"), "{same}{different}");
        assert!(different.contains("subject: $.resource.id"), "what it happened to is no id of the event: {different}");
    }

    #[test]
    fn words_of_names() {
        assert_eq!(words("messageId"), ["message", "id"]);
        assert_eq!(words("Event-Type"), ["event", "type"]);
        assert_eq!((words("ID"), words("userID2")), (vec!["id".to_owned()], vec!["user".into(), "id2".into()]));
    }

    proptest! {
        #[test]
        fn whatever_comes_the_case_loads_and_takes_its_bodies(bodies in prop::collection::vec(any_json(), 0..6), named in prop::collection::vec(("[a-c]", any_json()), 0..4)) {
            let named = named.into_iter().map(|(connector, data)| json!({"connector": connector, "data": data, "id": "x: # ${A} \u{202e}"}));
            let bodies: Vec<Value> = bodies.into_iter().chain(named).collect();
            for proposal in propose(&"connectors".into(), &bodies) {
                let file = format!("kind: trigger\npath: /t\nallow_unauthenticated: true\ncases:\n{}", super::yaml::indented(&proposal.yaml, 2));
                let mut cx = Context::default();
                let tree = yaml::parse(&file, &mut cx);
                prop_assert!(!cx.failed(), "{file}\n{:?}", cx.problems);
                let tree = tree.unwrap();
                let key = Key { name: "t".into(), place: Place::default() };
                let source = Source::decode(&key, &tree, &mut cx);
                prop_assert!(source.is_some() && !cx.failed(), "{file}\n{:?}", cx.problems);
                for at in &proposal.bodies {
                    let body = bodies[*at].to_string();
                    let event = rehearse(source.as_ref().unwrap(), body.clone().into(), Default::default()).unwrap();
                    prop_assert_eq!(&event.r#type, &proposal.r#type, "{}\n{}", &file, &body);
                }
            }
        }
    }
}
