//! Why a rule does or does not match: a walk of its own over the matchers that planning uses, so that planning pays nothing for it.
//!
//! Every test is asked through the same `holds` as in a plan; only the words are made here. What was seen in the event is its sender's
//! text: it is cut and escaped, so that it can be shown anywhere.

use std::io;

use serde_json::Value;

use super::{
    OWN_SOURCE, Router, View,
    glob::Glob,
    path::Path,
    rule::{Match, Rule},
    when::{Condition, Form, Test},
};
use crate::{
    config::tree::Place,
    envelope::{Envelope, Name},
    telemetry::logs::plain,
};

/// Longest value of an event that a reason shows, in characters.
pub(super) const SEEN_MAX: usize = 120;
/// Longest text that a reason shows of what a rule wants, in characters.
pub(super) const WANTED_MAX: usize = 160;
/// Most alternatives of an `any` of which is told why each does not hold.
const ALTERNATIVES_MAX: usize = 4;

/// Why a rule did or did not match an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// The rule.
    pub rule: Name,
    /// Which of `rules` it is, from 0: names may repeat.
    pub index: usize,
    /// Where it stands in the file.
    pub place: Place,
    /// Whether it fired.
    pub matched: bool,
    /// The first condition that failed with the value seen, or the rule whose `stop` came before; `None` when it fired.
    pub reason: Option<String>,
}

impl Router {
    /// For every rule, whether it fires for `event`, and if not, why not. Those that fire are those of [`Router::plan`].
    pub fn explain(&self, event: &Envelope) -> Vec<Why> {
        let mut view = View::new(event);
        let mut stopped_by: Option<&Rule> = None;
        let mut all = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let reason = match stopped_by {
                Some(rule) => Some(format!("stopped by rule {} above", rule.name)),
                None => rule.why_not(event, &mut view),
            };
            if reason.is_none() && rule.stop {
                stopped_by = Some(rule);
            }
            all.push(Why { rule: rule.name.clone(), index, place: rule.place, matched: reason.is_none(), reason });
        }
        all
    }
}

impl Rule {
    fn why_not(&self, event: &Envelope, view: &mut View<'_>) -> Option<String> {
        if let Some(reason) = self.matches.why_not(event) {
            return Some(reason);
        }
        let mut conditions = self.when.iter().enumerate();
        conditions.find_map(|(at, condition)| condition.why_not(&format!("when[{at}]"), view.value()))
    }
}

impl Match {
    /// Why `event` does not fit; `None` when it does.
    pub fn why_not(&self, event: &Envelope) -> Option<String> {
        let (name, value, globs) = self.failing(event)?;
        let wanted = wanted_globs(globs);
        Some(match value {
            Some(OWN_SOURCE) if name == "source" => {
                format!("{name} is {OWN_SOURCE}: the relay's own events fire only rules that name `source: {OWN_SOURCE}`")
            }
            Some(value) => format!("{name} is {}, wanted {wanted}", shown(value, SEEN_MAX)),
            None => format!("{name} is absent, wanted {wanted}"),
        })
    }
}

/// `credential.expired`, or `one of credential.expired, credential.revoked`.
pub(super) fn wanted_globs(globs: &[Glob]) -> String {
    let texts: Vec<_> = globs.iter().map(Glob::text).collect();
    let all = shown(&texts.join(", "), WANTED_MAX);
    if texts.len() == 1 { all } else { format!("one of {all}") }
}

impl Condition {
    /// Why it does not hold for `root`, in a person's words; `None` when it holds. `at` is where it stands: `when[0]`.
    pub fn why_not(&self, at: &str, root: &Value) -> Option<String> {
        self.why(at, root, true)
    }

    /// Why it is not as it is `wanted` to be: holding (true) or failing (false).
    fn why(&self, at: &str, root: &Value, wanted: bool) -> Option<String> {
        match &self.0 {
            Form::Tests(path, tests) => why_tests(path, tests, root, wanted).map(|reason| format!("{at}: {reason}")),
            Form::Any(conditions) if wanted => why_none(conditions, at, root),
            Form::Any(conditions) => {
                let mut each = conditions.iter().enumerate();
                each.find_map(|(n, condition)| condition.why(&format!("{at}.any[{n}]"), root, false))
            }
            Form::Not(condition) => condition.why(&format!("{at}.not"), root, !wanted),
        }
    }
}

/// Why none of the alternatives holds.
fn why_none(conditions: &[Condition], at: &str, root: &Value) -> Option<String> {
    if conditions.is_empty() {
        return Some(format!("{at}.any is empty: nothing can hold"));
    }
    if conditions.iter().any(|condition| condition.holds(root)) {
        return None;
    }
    let each = conditions.iter().enumerate().take(ALTERNATIVES_MAX);
    let mut reasons: Vec<_> = each.filter_map(|(n, it)| it.why(&format!("{at}.any[{n}]"), root, true)).collect();
    if let Some(more @ 1..) = conditions.len().checked_sub(ALTERNATIVES_MAX) {
        reasons.push(format!("and {more} more"));
    }
    Some(reasons.join("; "))
}

fn why_tests(path: &Path, tests: &[Test], root: &Value, wanted: bool) -> Option<String> {
    let found = path.find(root);
    let failed = tests.iter().find(|test| !test.holds(&found));
    let words = match (failed, wanted) {
        (Some(failed), true) => failed.words(),
        // All hold, and that is not wanted.
        (None, false) => {
            let all: Vec<_> = tests.iter().map(Test::words).collect();
            format!("not {}", all.join(" and "))
        }
        _ => return None,
    };
    Some(format!("{} is {}, wanted {words}", shown(path.text(), WANTED_MAX), seen(&found)))
}

impl Test {
    /// What it wants: `> 1000`, `one of ["approved","escalated"]`.
    pub(super) fn words(&self) -> String {
        let operator = |sign: &str, wanted: &Value| format!("{sign} {}", json(wanted, WANTED_MAX));
        let text = |word: &str, wanted: &str| format!("{word} {}", json(&Value::from(wanted), WANTED_MAX));
        match self {
            Self::Eq(wanted) => json(wanted, WANTED_MAX),
            Self::Ne(wanted) => operator("anything but", wanted),
            Self::Compare(operator_name, wanted) => operator(sign(operator_name), wanted),
            Self::In(values) => operator("one of", &Value::from(values.clone())),
            Self::NotIn(values) => operator("none of", &Value::from(values.clone())),
            Self::Exists(true) => "to be there".to_owned(),
            Self::Exists(false) => "to be absent".to_owned(),
            Self::Contains(wanted) => operator("what contains", wanted),
            Self::StartsWith(wanted) => text("text that starts with", wanted),
            Self::EndsWith(wanted) => text("text that ends with", wanted),
            Self::Matches(regex) => text("text that matches", regex.as_str()),
            Self::Fits(pattern) => text("text that matches", pattern.text()),
        }
    }
}

fn sign(operator: &str) -> &'static str {
    match operator {
        "gt" => ">",
        "gte" => ">=",
        "lt" => "<",
        _ => "<=",
    }
}

/// What a path found, for a person.
fn seen(found: &[&Value]) -> String {
    match found {
        [] => "absent".to_owned(),
        [one] => json(one, SEEN_MAX),
        [first, rest @ ..] => format!("{} (and {} more)", json(first, SEEN_MAX), rest.len()),
    }
}

/// `value` as JSON, no more of it written than is shown.
fn json(value: &Value, max: usize) -> String {
    let mut out = Cut { bytes: Vec::new(), left: max * 4 };
    // It ends early when there is enough.
    let whole = serde_json::to_writer(&mut out, value).is_ok();
    let text = String::from_utf8_lossy(&out.bytes);
    if whole { shown(&text, max) } else { shown(&format!("{}\u{fffd}", text.trim_end_matches('\u{fffd}')), max) }
}

/// At most `max` characters of `text`, nothing in them that a terminal would act upon.
pub(super) fn shown(text: &str, max: usize) -> String {
    let mut chars = text.chars();
    let begin: String = chars.by_ref().take(max).collect();
    if chars.next().is_some() { format!("{}…", plain(&begin)) } else { plain(&begin) }
}

/// Takes a bounded number of bytes.
struct Cut {
    bytes: Vec<u8>,
    left: usize,
}

impl io::Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.get(..bytes.len().min(self.left)).unwrap_or_default();
        if taken.is_empty() && !bytes.is_empty() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes.extend_from_slice(taken);
        self.left -= taken.len();
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        config::decode::{Context, Decode},
        envelope::tests::sample,
        route::when::tests::{any_json, node},
    };

    fn router(rules: &Value) -> Router {
        let mut cx = Context::default();
        let rules = rules.as_array().unwrap().iter().enumerate();
        let rules: Vec<_> = rules.map(|(at, rule)| Rule::decode(at, &node(rule), &mut cx).unwrap()).collect();
        assert!(!cx.failed(), "{:?}", cx.problems);
        Router::new(rules, Vec::new(), Vec::new())
    }

    fn told(router: &Router, event: &Envelope) -> String {
        let line = |why: &Why| format!("{}: {}", why.rule, why.reason.as_deref().unwrap_or("matched"));
        router.explain(event).iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn of_data(r#type: &str, data: &str) -> Envelope {
        Envelope { r#type: r#type.to_owned(), body: data.to_owned().into(), data: Some(0..data.len()), ..sample() }
    }

    fn why(condition: Value, root: &Value) -> String {
        let mut cx = Context::default();
        let condition = Condition::decode(&node(&condition), &mut cx).unwrap_or_else(|| panic!("{:?}", cx.problems));
        condition.why_not("when[0]", root).unwrap()
    }

    #[test]
    fn explain_names_the_first_condition_that_failed() {
        let router = router(&json!([
            {"name": "reconnect", "match": {"type": ["credential.expired", "credential.revoked"]}, "to": ["mail"]},
            {"name": "one", "match": {"type": "credential.expired"}, "to": ["mail"]},
            {"name": "large", "match": {"type": "workflow.instance.*", "namespace": "user_*"}, "when": [{"path": "$.type", "exists": true}, {"path": "$.data.amount", "gt": 1000}], "to": ["crm"]},
            {"name": "acme", "match": {"namespace": "acme-*"}, "to": ["crm"]},
            {"name": "chatter", "match": {"source": "agents"}, "to": ["n8n"]},
            {"name": "audit", "match": {"type": "**"}, "to": ["crm"], "stop": true},
            {"name": "own", "match": {"source": "hookyard", "type": "relay.**"}, "to": ["slack"]}
        ]));
        let event = of_data("workflow.instance.completed", r#"{"amount":10}"#);
        insta::assert_snapshot!(told(&router, &event), @r"
        reconnect: type is workflow.instance.completed, wanted one of credential.expired, credential.revoked
        one: type is workflow.instance.completed, wanted credential.expired
        large: when[1]: $.data.amount is 10, wanted > 1000
        acme: namespace is user_123, wanted acme-*
        chatter: source is interactor, wanted agents
        audit: matched
        own: stopped by rule audit above
        ");
        let anonymous = Envelope { namespace: None, ..event };
        assert!(told(&router, &anonymous).contains("acme: namespace is absent, wanted acme-*"));
    }

    #[test]
    fn the_relays_own_events_say_why_nothing_fires() {
        let router = router(&json!([{"name": "audit", "match": {"source": "*", "type": "**"}, "to": ["crm"]}]));
        let event = Envelope { source: OWN_SOURCE.into(), r#type: "relay.target.broken".into(), ..sample() };
        insta::assert_snapshot!(told(&router, &event), @"audit: source is hookyard: the relay's own events fire only rules that name `source: hookyard`");
    }

    #[test]
    fn a_reason_shows_the_value_seen() {
        let root = json!({"amount": 10, "t": "approved", "l": [1, 2, 3]});
        let all = [
            json!({"path": "$.amount", "gt": 1000}),
            json!({"path": "$.amount", "lte": 9, "gt": 1}),
            json!({"path": "$.x", "eq": "a"}),
            json!({"path": "$.x", "exists": true}),
            json!({"path": "$.t", "exists": false}),
            json!({"path": "$.t", "ne": "approved"}),
            json!({"path": "$.t", "in": ["denied", "open"]}),
            json!({"path": "$.t", "not_in": ["approved"]}),
            json!({"path": "$.t", "contains": "x"}),
            json!({"path": "$.t", "starts_with": "x"}),
            json!({"path": "$.t", "ends_with": "x"}),
            json!({"path": "$.t", "matches": "^x$"}),
            json!({"path": "$.l[*]", "eq": 4}),
            json!({"any": [{"path": "$.x", "exists": true}, {"path": "$.amount", "gt": 1000}]}),
            json!({"any": []}),
            json!({"any": (0..6).map(|n| json!({"path": "$.n", "eq": n})).collect::<Vec<_>>()}),
            json!({"not": {"path": "$.amount", "gt": 1, "lt": 20}}),
            json!({"not": {"any": [{"path": "$.x", "exists": true}, {"path": "$.t", "eq": "approved"}]}}),
            json!({"not": {"not": {"path": "$.amount", "eq": 11}}}),
        ];
        let told: Vec<_> = all.into_iter().map(|it| why(it, &root)).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        when[0]: $.amount is 10, wanted > 1000
        when[0]: $.amount is 10, wanted <= 9
        when[0]: $.x is absent, wanted "a"
        when[0]: $.x is absent, wanted to be there
        when[0]: $.t is "approved", wanted to be absent
        when[0]: $.t is "approved", wanted anything but "approved"
        when[0]: $.t is "approved", wanted one of ["denied","open"]
        when[0]: $.t is "approved", wanted none of ["approved"]
        when[0]: $.t is "approved", wanted what contains "x"
        when[0]: $.t is "approved", wanted text that starts with "x"
        when[0]: $.t is "approved", wanted text that ends with "x"
        when[0]: $.t is "approved", wanted text that matches "^x$"
        when[0]: $.l[*] is 1 (and 2 more), wanted 4
        when[0].any[0]: $.x is absent, wanted to be there; when[0].any[1]: $.amount is 10, wanted > 1000
        when[0].any is empty: nothing can hold
        when[0].any[0]: $.n is absent, wanted 0; when[0].any[1]: $.n is absent, wanted 1; when[0].any[2]: $.n is absent, wanted 2; when[0].any[3]: $.n is absent, wanted 3; and 2 more
        when[0].not: $.amount is 10, wanted not > 1 and < 20
        when[0].not.any[1]: $.t is "approved", wanted not "approved"
        when[0].not.not: $.amount is 10, wanted 11
        "#);
    }

    #[test]
    fn what_an_event_says_is_cut_and_escaped() {
        let long = why(json!({"path": "$.v", "eq": 1}), &json!({"v": "ä".repeat(100_000)}));
        assert!(long.chars().count() < 200 && long.contains("ä…, wanted 1"), "{long}");
        let evil = why(json!({"path": "$.v", "eq": 1}), &json!({"v": "\u{1b}[2J\u{202e}\u{9b}x\n"}));
        assert!(!evil.contains(['\u{1b}', '\u{202e}', '\u{9b}', '\n']), "{evil}");
        let router = router(&json!([{"name": "a", "match": {"type": "x"}, "to": ["crm"]}]));
        let event = of_data(&format!("a\u{1b}]0;{}", "b".repeat(500)), "{}");
        let told = told(&router, &event);
        assert!(!told.contains('\u{1b}') && told.chars().count() < 200, "{told}");
    }

    /// A condition on paths that the data below may have.
    fn any_condition() -> impl Strategy<Value = Value> {
        let operator = prop_oneof![Just("eq"), Just("ne"), Just("gt"), Just("lte"), Just("contains")];
        let exists = ("[ab]", any::<bool>()).prop_map(|(name, there)| json!({"path": format!("$.data.{name}"), "exists": there}));
        let test =
            ("[ab]", operator, 0..3).prop_map(|(name, operator, n)| json!({"path": format!("$.data.{name}"), operator: n}));
        prop_oneof![exists, test].prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|any| json!({"any": any})),
                inner.prop_map(|not| json!({"not": not})),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_explained_as_matched_is_what_is_planned(
            rules in prop::collection::vec((r"a|b|\*\*|a\.\*|\*", "(x\\*|x|)", "(s|hookyard|\\*|)", prop::collection::vec(any_condition(), 0..3), any::<bool>()), 0..10),
            r#type in r"[ab](\.[ab])?", namespace in prop::option::of("[xy]"), source in "(s|t|hookyard)", data in any_json(),
            a in prop::option::of(0..3),
        ) {
            let rules: Vec<_> = rules.into_iter().enumerate().map(|(n, (r#type, namespace, source, when, stop))| {
                let mut matching = json!({"type": r#type});
                if !namespace.is_empty() { matching["namespace"] = json!([namespace]); }
                if !source.is_empty() { matching["source"] = json!(source); }
                json!({"name": format!("r{n}"), "match": matching, "when": when, "stop": stop && n % 3 == 2, "to": ["crm"]})
            }).collect();
            let router = router(&Value::from(rules));
            let data = a.map_or(data, |a| json!({"a": a, "b": [a, 1]})).to_string();
            let event = Envelope { namespace, source: source.as_str().into(), ..of_data(&r#type, &data) };
            let explained = router.explain(&event);
            let matched: Vec<_> = explained.iter().filter(|why| why.matched).map(|why| why.rule.clone()).collect();
            prop_assert_eq!(matched, router.plan(&event).rules);
            prop_assert!(explained.iter().all(|why| why.matched == why.reason.is_none()));
        }
    }
}
