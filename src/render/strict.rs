//! What templates name and an event does not have. At run time that renders as nothing; a check tells of it.

use std::ops::Range;

use minijinja::{ErrorKind, Template, Value, value::Serde};
use serde_json::Value as Json;

use super::{
    Part, Scene, Source, Strictness,
    templates::{Bounded, environment},
};
use crate::{config::decode::nearest, samples::Sample};

/// How many such names are told of one part of a template.
const ABSENT_MAX: usize = 8;
/// Longest expression that is told as it stands, in bytes.
const EXPRESSION_MAX: usize = 80;
/// What is put where something is missing, to find what else is.
const STAND_IN: &str = "x";

/// A name in a template that an event does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absent {
    /// The part of the template.
    pub part: Part,
    /// The name as it is written: `event.data.workflw_name`.
    pub name: String,
    /// The name that was probably meant.
    pub near: Option<String>,
}

/// Renders each part of `source` for `sample`, and tells what it names that the sample does not have. What is asked for with `is defined`,
/// `default` or `if` may be missing.
pub(crate) fn absent(source: &Source, sample: Sample) -> Vec<Absent> {
    source.0.iter().flat_map(|(part, text)| absent_from(*part, text, sample)).collect()
}

fn absent_from(part: Part, text: &str, sample: Sample) -> Vec<Absent> {
    let mut env = environment(part.form(), Strictness::Strict);
    env.set_debug(true);
    let mut found: Vec<Absent> = Vec::new();
    // What does not compile is told of already.
    let Ok(template) = env.template_from_str(text) else { return found };
    let mut scene = Scene::sample_json(sample);
    while found.len() < ABSENT_MAX {
        let Err(error) = template.render_captured_to(Value::from(Serde(scene.clone())), &mut Bounded::default()) else { break };
        let Some(name) = error
            .range()
            .filter(|_| error.kind() == ErrorKind::UndefinedError)
            .and_then(|range| named(&template, text, &range, &scene))
        else {
            break;
        };
        let near = near(&name, &scene);
        let again = found.iter().any(|absent| absent.name == name);
        let filled = fill(&mut scene, &name);
        if !again {
            found.push(Absent { part, name, near });
        }
        if again || !filled {
            break;
        }
    }
    found
}

/// The name in the expression at `range` that `scene` does not have, or the expression itself.
fn named(template: &Template<'_, '_>, text: &str, range: &Range<usize>, scene: &Json) -> Option<String> {
    let expression = whole(text, range)?.trim();
    let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    names.retain(|name| find(scene, name).is_none());
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    // A filter that was given nothing is pointed at itself: what it was given stands in the same tag.
    let within = |part: &str| names.iter().find(|name| part.contains(name.as_str())).cloned();
    let short = || (expression.len() <= EXPRESSION_MAX && expression.contains('.')).then(|| expression.to_owned());
    within(expression).or_else(|| within(tag(text, range)?)).or_else(short)
}

/// The tag that `range` stands in: `{{ … }}`.
fn tag<'t>(text: &'t str, range: &Range<usize>) -> Option<&'t str> {
    let start = text.get(..range.start)?.rfind('{')?;
    let end = text.get(range.end..)?.find('}').map_or(text.len(), |at| range.end + at);
    text.get(start..end)
}

/// The expression at `range` with all of the name that it begins and ends in: the engine points at the part that is missing.
fn whole<'t>(text: &'t str, range: &Range<usize>) -> Option<&'t str> {
    let of_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let start = text.get(..range.start)?.trim_end_matches(of_name).len();
    let rest = text.get(range.end..)?;
    text.get(start..range.end + rest.len() - rest.trim_start_matches(of_name).len())
}

fn find<'s>(scene: &'s Json, name: &str) -> Option<&'s Json> {
    name.split('.').try_fold(scene, |value, key| value.get(key))
}

/// What `name` is a slip of, among what `scene` has.
fn near(name: &str, scene: &Json) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let known =
        (0..parts.len()).take_while(|count| parts.get(..*count).is_some_and(|path| find_parts(scene, path).is_some())).last()?;
    let (before, wrong) = (parts.get(..known)?, *parts.get(known)?);
    let there = find_parts(scene, before)?.as_object()?;
    let put =
        |path: &[&str]| path.iter().chain(parts.get(known + 1..).unwrap_or_default()).copied().collect::<Vec<_>>().join(".");
    // `event.workflow_name`: what the sender says stands under `data`.
    if before == ["event"] && find_parts(scene, &["event", "data", wrong]).is_some() {
        return Some(put(&["event", "data", wrong]));
    }
    let right = nearest(wrong, there.keys().map(String::as_str))?;
    let path: Vec<&str> = before.iter().copied().chain([right]).collect();
    Some(put(&path))
}

fn find_parts<'s>(scene: &'s Json, parts: &[&str]) -> Option<&'s Json> {
    parts.iter().try_fold(scene, |value, key| value.get(key))
}

/// Puts something where `name` finds nothing; false where that cannot be.
fn fill(scene: &mut Json, name: &str) -> bool {
    let mut value = scene;
    for key in name.split('.') {
        let Some(map) = value.as_object_mut() else { return false };
        value = map.entry(key).or_insert_with(|| Json::Object(serde_json::Map::new()));
    }
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty);
    if empty {
        *value = Json::from(STAND_IN);
    }
    empty
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn said(text: &str) -> String {
        let found = absent(&Source::from(text), samples::find("workflow.instance.failed").unwrap());
        let one = |it: &Absent| format!("{} ({})", it.name, it.near.as_deref().unwrap_or("-"));
        found.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn every_name_that_is_missing_is_told_with_what_was_meant() {
        insta::assert_snapshot!(
            said("{{ event.data.workflw_name }} {{ event.failed_state | upper }} {{ evnt.type }} {{ event.dta.error.code }} {{ event.data.error.kode }} {{ event.data.owner }}"),
            @"event.data.workflw_name (event.data.workflow_name); event.failed_state (event.data.failed_state); evnt.type (event.type); event.dta.error.code (event.data.error.code); event.data.error.kode (event.data.error.code); event.data.owner (-)"
        );
        insta::assert_snapshot!(said("{% for e in event.data.errors %}{{ e }}{% endfor %}"), @"event.data.errors (event.data.error)");
        insta::assert_snapshot!(said("{% set e = event.data.error %}{{ e.nothing }}"), @"e.nothing (-)");
    }

    #[test]
    fn what_may_be_missing_may_be() {
        for fine in [
            "{{ event.data.owner | default('nobody') }}",
            "{% if event.data.owner %}{{ event.data.owner }}{% endif %}",
            "{% if event.data.owner is defined %}x{% endif %}",
            "{{ event.type }} {{ event.data.error.code }} {{ source }} {{ delivery.id }} {{ severity }} {{ links.event }}",
            "{{ event.type",
        ] {
            assert_eq!(said(fine), "", "{fine}");
        }
    }
}
