//! Templates that name what the events they are made from do not have.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{Said, Written};
use crate::{
    config::{
        decode::Context,
        tree::{Node, Place},
    },
    deliver::kinds::TemplateRef,
    envelope::Envelope,
    render::{self, Absent, Part},
    route::{Match, Rule, to_value},
    samples::{self, Sample},
};

/// How often templates are rendered at most.
const RENDERS_MAX: usize = 2_000;
/// How many types a warning names.
const LISTED_MAX: usize = 3;

/// Warns of names that are in no sample of some type that a rule sends with the template.
pub(super) fn check(root: &Node, said: &Said<'_>, rules: &[Written<'_>], cx: &mut Context) {
    let events = events(said);
    let mut made = Made::default();
    for written in rules {
        for to in &written.rule.to {
            let target = to.destination.value.as_str();
            let used: Vec<Used<'_>> = match &to.template {
                Some(template) => named(root, said, &template.value).into_iter().collect(),
                None => of_destination(root, said, target),
            };
            if used.is_empty() {
                continue;
            }
            for sample in met(written.rule, &events) {
                used.iter().for_each(|template| made.render(template, sample, written.rule));
            }
        }
    }
    made.tell(cx);
}

/// A template and where it stands.
struct Used<'d> {
    source: render::Source,
    /// Its text, or its parts.
    node: &'d Node,
}

/// The entry `name` of `templates`.
fn named<'d>(root: &'d Node, said: &Said<'_>, name: &str) -> Option<Used<'d>> {
    Some(Used { source: said.templates.get(name)?.clone(), node: root.get("templates")?.get(name)? })
}

/// The templates that a destination names or brings along.
fn of_destination<'d>(root: &'d Node, said: &Said<'_>, name: &str) -> Vec<Used<'d>> {
    let Some(destination) = said.destinations.iter().find(|it| it.name.as_str() == name) else { return Vec::new() };
    let Some(node) = root.get("destinations").and_then(|all| all.get(name)) else { return Vec::new() };
    let used = |template: &TemplateRef| match &template.inline {
        Some(text) => Some(Used { source: text.as_str().into(), node: inline(node, text)? }),
        None => named(root, said, &template.name),
    };
    destination.kind.templates().into_iter().filter_map(used).collect()
}

/// Where a destination says `text`.
fn inline<'d>(destination: &'d Node, text: &str) -> Option<&'d Node> {
    let own = ["template", "body"].into_iter().filter_map(|key| destination.get(key));
    let variables = destination.get("content_variables").map(Node::entries).unwrap_or_default();
    own.chain(variables.iter().map(|(_, node)| node)).find(|node| node.text() == Some(text))
}

/// A sample as it comes in by one of the file's sources.
struct Event {
    sample: Sample,
    envelope: Envelope,
    /// As rules see it.
    view: Value,
}

/// Each sample by each source that it may come in by; by none in particular where the file declares none.
fn events(said: &Said<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    for sample in samples::ALL {
        let takes = |types: Option<Vec<&str>>| types.is_none_or(|types| types.contains(&sample.r#type));
        let sources = said.sources.iter().filter(|source| source.kind() == sample.kind && takes(source.kind.types()));
        let by = sources.map(|source| Envelope { source: source.name.clone(), ..sample.envelope() });
        let alone = said.sources.is_empty().then(|| sample.envelope());
        events.extend(by.chain(alone).map(|envelope| Event { sample, view: to_value(&envelope), envelope }));
    }
    events
}

/// The samples that `rule` matches: those for which its conditions hold, or where none is so lucky, those of its types.
fn met(rule: &Rule, events: &[Event]) -> Vec<Sample> {
    // Whose event it is says nothing about its fields.
    let matches = Match { namespace: Vec::new(), ..rule.matches.clone() };
    let fits: Vec<&Event> = events.iter().filter(|event| matches.fits(&event.envelope)).collect();
    let holds = |event: &&Event| rule.when.iter().all(|condition| condition.holds(&event.view));
    let lucky: Vec<Sample> = fits.iter().copied().filter(holds).map(|event| event.sample).collect();
    if lucky.is_empty() { fits.iter().map(|event| event.sample).collect() } else { lucky }
}

/// What was rendered, and what was found missing.
#[derive(Default)]
struct Made {
    /// By template and type.
    renders: HashMap<(Place, &'static str), Vec<Absent>>,
    /// By the place of the template and the name.
    missing: BTreeMap<(Place, String), Missing>,
}

/// A name, and who lacks it.
struct Missing {
    types: BTreeSet<&'static str>,
    /// What was meant, where that is the same for each of them.
    near: Option<String>,
    /// A rule that sends them.
    rule: String,
}

impl Made {
    fn render(&mut self, template: &Used<'_>, sample: Sample, rule: &Rule) {
        let key = (template.node.place, sample.r#type);
        if !self.renders.contains_key(&key) {
            if self.renders.len() == RENDERS_MAX {
                return;
            }
            self.renders.insert(key, render::absent(&template.source, sample));
        }
        for absent in self.renders.get(&key).into_iter().flatten() {
            let node = part_of(template.node, absent.part);
            let first = || Missing { types: BTreeSet::new(), near: absent.near.clone(), rule: rule.name.to_string() };
            let missing = self.missing.entry((node.place, absent.name.clone())).or_insert_with(first);
            missing.near.take_if(|near| absent.near.as_ref() != Some(near));
            missing.types.insert(sample.r#type);
        }
    }

    fn tell(self, cx: &mut Context) {
        for ((place, name), Missing { types, near, rule }) in self.missing {
            let at = cx.find_in(place, &name).unwrap_or(place);
            let listed: Vec<&str> = types.iter().copied().take(LISTED_MAX).collect();
            let more = if LISTED_MAX < types.len() { format!(" and {} more", types.len() - LISTED_MAX) } else { String::new() };
            let message = format!("the sample of {}{more} has no `{name}`", listed.join(", "));
            let problem = cx.warning("template-field", at, message);
            problem
                .did_you_mean(near.as_deref())
                .note(format!("rule \"{rule}\" sends it with this template; what is missing renders as nothing"));
            if near.is_none() {
                problem.help(format!("where it may be missing, say so: {{{{ {name} | default(\"-\") }}}}"));
            }
        }
    }
}

/// The text of a part; a template that is a text has one.
fn part_of(node: &Node, part: Part) -> &Node {
    let key = Part::ALL.iter().find(|(_, one)| *one == part).map(|(key, _)| *key);
    key.and_then(|key| node.get(key)).unwrap_or(node)
}
