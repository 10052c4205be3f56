//! One entry of `rules`, as the file writes it.

use super::{
    OWN_SOURCE,
    glob::Glob,
    handling::{self, Wanted},
    index::{self, Filed, Says},
    when::Condition,
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, OneOrMore, Schema, Shape},
        tree::{Node, Place, Value},
    },
    envelope::{Envelope, Name},
    store::Severity,
};

/// Matches events and names where they go.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name; `rule-<n>` where the file gives none.
    pub name: Name,
    /// Where it stands: its name, or the whole rule.
    pub place: Place,
    /// The part an index answers.
    pub matches: Match,
    /// Conditions that must all hold besides.
    pub when: Vec<Condition>,
    /// Where it sends what it matches. Empty: matched on purpose, sent nowhere.
    pub to: Vec<To>,
    /// Whether later rules are left out for what it matches.
    pub stop: bool,
    /// How grave what it matches is.
    pub severity: Severity,
    /// What is done with its deliveries before they go out.
    pub wanted: Wanted,
}

/// `match`: exact or globs, one or a list each. An empty list is a key that was left out, which anything fits.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Names of sources.
    pub source: Vec<Glob>,
    /// Event types.
    pub r#type: Vec<Glob>,
    /// Namespaces; an event without one fits only where the key is left out.
    pub namespace: Vec<Glob>,
}

/// One entry of a rule's `to`.
#[derive(Debug, Clone)]
pub struct To {
    /// The destination's name; whether it exists is checked when the whole file is read.
    pub destination: Located<Name>,
    /// The named template the rule wants for it; whether it exists likewise.
    pub template: Option<Located<String>>,
}

const KEYS: Keys = Keys::of(&[
    Field::of::<Name>("name", "What it is called where people see it. Without a name: `rule-<n>`.").example("workflow-failed"),
    Field::of::<Match>("match", "What it is for: sources, types and namespaces, exact or globs. Left out: everything."),
    Field::of::<Vec<Condition>>("when", "Conditions on what the event says, all of which must hold.")
        .example(r#"[{"path": "$.data.workflow_data.amount", "gt": 1000}]"#),
    Field::of::<OneOrMore<To>>("to", "Where it sends. An empty list: matched on purpose, sent nowhere.")
        .required()
        .example(r#"["crm"]"#),
    Field::of::<bool>("stop", "Whether the rules below are left out for what this one matches.").default("false"),
    Field::of::<Severity>("severity", "How grave it is: colour, subject prefix, exception to quiet hours.").default("info"),
])
.and(&[handling::KEYS]);

impl Shape for Rule {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Rule {
    /// Reads entry `index` of `rules`, which counts from 0.
    pub fn decode(index: usize, node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, what(index, node), KEYS, cx)?;
        let name = match fields.node("name") {
            Some(name) => Located::<Name>::decode(name, cx),
            None => Some(Located { value: Name::from(format!("rule-{}", index + 1).as_str()), place: node.place }),
        };
        let matches = match fields.node("match") {
            Some(node) => Match::decode(node, cx),
            None => Some(Match::default()),
        };
        let when = match fields.node("when") {
            Some(node) => Vec::decode(node, cx),
            None => Some(Vec::new()),
        };
        let to = fields.required::<OneOrMore<To>>("to", cx);
        let stop = fields.or("stop", false, cx);
        let severity = fields.or("severity", Severity::Info, cx);
        let wanted = Wanted::decode(&mut fields, cx);
        fields.finish(cx);
        let name = name?;
        Some(Self { name: name.value, place: name.place, matches: matches?, when: when?, to: to?.0, stop, severity, wanted })
    }
}

impl Filed for Rule {
    fn says(&self, field: index::Field) -> Says<'_> {
        Says::Globs(match field {
            index::Field::Source => &self.matches.source,
            index::Field::Type => &self.matches.r#type,
            index::Field::Namespace => &self.matches.namespace,
        })
    }

    fn when(&self) -> &[Condition] {
        &self.when
    }
}

/// What a rule is called in messages: by its name, where it has one that can be read.
fn what(index: usize, node: &Node) -> String {
    let name = match &node.value {
        Value::Map(map) => map.iter().find(|(key, _)| key.name == "name").map(|(_, node)| &node.value),
        _ => None,
    };
    match name {
        Some(Value::String(name)) => format!("rule \"{name}\""),
        _ => format!("rule {}", index + 1),
    }
}

impl Decode for Name {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        Name::parse(&text).or_else(|| cx.expected("a name: letters, digits, `.`, `_` and `-`, at most 64", node))
    }
}

impl Shape for OneOrMoreGlobs {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("globs", |all| OneOrMore::<Glob>::schema(all).not_empty())
    }
}

/// Globs as [`globs`] reads them.
pub(super) struct OneOrMoreGlobs;

const MATCH: Keys = Keys::of(&[
    Field::of::<OneOrMoreGlobs>("source", "Names of sources. The relay's own events come only to rules that say `hookyard`.")
        .example("interactor"),
    Field::of::<OneOrMoreGlobs>("type", "Event types: `*` stays within one part, `**` is one or more parts.")
        .example(r#"["credential.expired", "workflow.instance.*"]"#),
    Field::of::<OneOrMoreGlobs>("namespace", "Namespaces. An event without one fits only where this is left out.")
        .example("acme-*"),
]);

impl Shape for Match {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(MATCH, all)
    }
}

impl Decode for Match {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`match`", MATCH, cx)?;
        let globs = ["source", "type", "namespace"].map(|name| globs(&mut fields, name, cx));
        fields.finish(cx);
        let [source, r#type, namespace] = globs;
        Some(Self { source: source?, r#type: r#type?, namespace: namespace? })
    }
}

/// Globs that may be left out, but not empty; `None` when they are wrong.
pub(super) fn globs(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context) -> Option<Vec<Glob>> {
    let Some(node) = fields.node(name) else { return Some(Vec::new()) };
    let OneOrMore(globs) = OneOrMore::decode(node, cx)?;
    if globs.is_empty() {
        cx.error("bad-value", node.place, format!("an empty `{name}` matches nothing"))
            .help("leave the key out to match anything");
        return None;
    }
    Some(globs)
}

const TO: Keys = Keys::of(&[
    Field::of::<Name>("destination", "A destination's name.").required(),
    Field::of::<String>("template", "An entry of `templates`, instead of the destination's own.").example("failed-line"),
]);

impl Shape for To {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::any_of([Schema::name(), Schema::map(TO, all)])
    }
}

impl Decode for To {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        if let Value::String(_) = node.value {
            return Some(Self { destination: Located::decode(node, cx)?, template: None });
        }
        let mut fields = Fields::open(node, "an entry of `to`", TO, cx)?;
        let destination = fields.required("destination", cx);
        let template = fields.optional("template", cx);
        fields.finish(cx);
        Some(Self { destination: destination?, template })
    }
}

impl Match {
    /// Whether `event` fits. The relay's own events fit only where `source` names `hookyard` itself.
    pub fn fits(&self, event: &Envelope) -> bool {
        self.failing(event).is_none()
    }

    /// What does not fit: which key, what the event has there, and what was wanted.
    pub(super) fn failing<'s>(&'s self, event: &'s Envelope) -> Option<(&'static str, Option<&'s str>, &'s [Glob])> {
        let source = event.source.as_str();
        if !self.takes_source(source) {
            return Some(("source", Some(source), &self.source));
        }
        if !any_fits(&self.r#type, Some(&event.r#type)) {
            return Some(("type", Some(&event.r#type), &self.r#type));
        }
        let namespace = event.namespace.as_deref();
        (!any_fits(&self.namespace, namespace)).then_some(("namespace", namespace, &self.namespace))
    }

    /// Whether events of this type fit, as far as their type goes.
    pub(crate) fn takes_type(&self, r#type: &str) -> bool {
        any_fits(&self.r#type, Some(r#type))
    }

    /// Whether events of the source called `source` fit, as far as that goes.
    pub(crate) fn takes_source(&self, source: &str) -> bool {
        if source == OWN_SOURCE {
            return self.source.iter().any(|glob| glob.exact() == Some(OWN_SOURCE));
        }
        any_fits(&self.source, Some(source))
    }
}

fn any_fits(globs: &[Glob], value: Option<&str>) -> bool {
    globs.is_empty() || value.is_some_and(|value| globs.iter().any(|glob| glob.matches(value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::route::when::tests::node;

    fn problems(value: serde_json::Value) -> Vec<String> {
        let mut cx = Context::default();
        let _ = Rule::decode(0, &node(&value), &mut cx);
        cx.problems.into_iter().map(|problem| format!("{}: {}", problem.code, problem.message)).collect()
    }

    #[test]
    fn one_run_finds_every_problem_of_a_rule() {
        let rule = json!({"name": "a b", "match": {"typ": "x", "type": []}, "when": [{"path": "x", "eq": 1}], "throtle": 1});
        insta::assert_snapshot!(problems(rule).join("\n"), @r#"
        bad-type: expected a name: letters, digits, `.`, `_` and `-`, at most 64, found `a b`
        bad-value: an empty `type` matches nothing
        unknown-key: `match` has no key `typ`
        bad-jsonpath: `x` is not a path: a path begins with `$`
        missing-key: rule "a b" needs `to`
        unknown-key: rule "a b" has no key `throtle`
        "#);
    }

    #[test]
    fn a_rule_needs_little() {
        assert_eq!(problems(json!({"to": "crm"})), Vec::<String>::new());
        assert_eq!(problems(json!({"to": [{"destination": "crm", "template": "t"}], "when": []})), Vec::<String>::new());
    }
}
