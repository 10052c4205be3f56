//! `when`: conditions on what an event says. All of a list must hold; `{any: […]}` and `{not: {…}}` nest.
//!
//! An absent path makes a condition false, but for `exists: false`, `ne` and `not_in`. A path that finds several nodes
//! holds when it does for any of them. Types are never converted: the text `"10"` is not the number 10.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::path::Path;
use crate::config::{
    decode::{Context, Decode, Definitions, Field, Fields, Keys, Schema, Shape},
    tree::{self, Node},
};

mod bounded;
mod never;
mod pattern;

pub use never::never;
pub use pattern::TEXT_MAX;

use pattern::Pattern;

/// How deep `any` and `not` may nest.
const DEPTH_MAX: usize = 8;
/// Memory a compiled regular expression may take, in bytes.
const REGEX_MAX: usize = 1024 * 1024;

/// One item of a `when` list.
#[derive(Debug, Clone)]
pub struct Condition(pub(super) Form);

#[derive(Debug, Clone)]
pub(super) enum Form {
    /// Each test must hold for what the path finds.
    Tests(Path, Vec<Test>),
    /// At least one must hold.
    Any(Vec<Condition>),
    /// It must not hold.
    Not(Box<Condition>),
}

#[derive(Debug, Clone)]
pub(super) enum Test {
    Eq(Value),
    Ne(Value),
    Compare(&'static str, Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Exists(bool),
    Contains(Value),
    StartsWith(String),
    EndsWith(String),
    Matches(Regex),
    /// The same, of a stranger.
    Fits(Pattern),
}

impl Condition {
    /// Whether it holds for `root`, which `$` stands for: the body in sources, the envelope in rules.
    pub fn holds(&self, root: &Value) -> bool {
        match &self.0 {
            Form::Tests(path, tests) => {
                let found = path.find(root);
                tests.iter().all(|test| test.holds(&found))
            }
            Form::Any(conditions) => conditions.iter().any(|condition| condition.holds(root)),
            Form::Not(condition) => !condition.holds(root),
        }
    }
}

impl Test {
    pub(super) fn holds(&self, found: &[&Value]) -> bool {
        let any = |test: &dyn Fn(&Value) -> bool| found.iter().any(|value| test(value));
        match self {
            Self::Eq(wanted) => any(&|value| equal(value, wanted)),
            Self::Ne(wanted) => found.is_empty() || any(&|value| !equal(value, wanted)),
            Self::Compare(operator, wanted) => any(&|value| compares(value, operator, wanted)),
            Self::In(list) => any(&|value| list.iter().any(|wanted| equal(value, wanted))),
            Self::NotIn(list) => found.is_empty() || any(&|value| !list.iter().any(|wanted| equal(value, wanted))),
            Self::Exists(wanted) => found.is_empty() != *wanted,
            Self::Contains(wanted) => any(&|value| contains(value, wanted)),
            Self::StartsWith(wanted) => any(&|value| value.as_str().is_some_and(|text| text.starts_with(wanted))),
            Self::EndsWith(wanted) => any(&|value| value.as_str().is_some_and(|text| text.ends_with(wanted))),
            Self::Matches(regex) => any(&|value| value.as_str().is_some_and(|text| regex.is_match(text))),
            Self::Fits(pattern) => any(&|value| value.as_str().is_some_and(|text| pattern.fits(text))),
        }
    }
}

/// Equality without conversion; numbers by value, so 1 equals 1.0.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => order(a, b) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn compares(value: &Value, operator: &str, wanted: &Value) -> bool {
    let Some(order) = order(value, wanted) else { return false };
    match operator {
        "gt" => order.is_gt(),
        "gte" => order.is_ge(),
        "lt" => order.is_lt(),
        _ => order.is_le(),
    }
}

/// The order of two numbers or two texts; `None` for anything else. Whole numbers are compared exactly.
pub(super) fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => {
            let whole = |number: &serde_json::Number| number.as_i128();
            match (whole(a), whole(b)) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
            }
        }
        _ => None,
    }
}

fn contains(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        (Value::Array(items), wanted) => items.iter().any(|item| equal(item, wanted)),
        _ => false,
    }
}

/// What nests conditions.
const NEST: Keys = Keys::of(&[
    Field::of::<Vec<Condition>>("any", "Conditions of which one must hold."),
    Field::of::<Condition>("not", "A condition that must not hold."),
]);
/// What looks at the event.
const TESTS: Keys = Keys::of(&[
    Field::of::<Path>("path", "What is looked at: a JSONPath. In rules `$` is the envelope, in sources the body.")
        .required()
        .example("$.data.final_state"),
    Field::of::<Json>("eq", "Equal to this; types are never converted.").example("escalated"),
    Field::of::<Json>("ne", "Another than this, or absent."),
    Field::of::<Bound>("gt", "More than this.").example("1000"),
    Field::of::<Bound>("gte", "This or more."),
    Field::of::<Bound>("lt", "Less than this."),
    Field::of::<Bound>("lte", "This or less."),
    Field::of::<Vec<Json>>("in", "One of these.").example(r#"["approved", "escalated"]"#),
    Field::of::<Vec<Json>>("not_in", "None of these, or absent."),
    Field::of::<bool>("exists", "Whether there is anything at all.").example("false"),
    Field::of::<Json>("contains", "A text with this part, or a list with this item."),
    Field::of::<String>("starts_with", "A text that begins so."),
    Field::of::<String>("ends_with", "A text that ends so."),
    Field::of::<String>("matches", "A text in which this regular expression fits.").example("^ACME-[0-9]+$"),
]);

/// Any value that JSON holds, `null` too.
struct Json;

impl Shape for Json {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::anything()
    }
}

/// A number or text to compare with.
struct Bound;

impl Shape for Bound {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::any_of([Schema::number(), Schema::text()])
    }
}

impl Shape for Condition {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("condition", |all| {
            let nest = Schema::map(NEST, all).exactly_one(&["any", "not"]);
            Schema::any_of([Schema::map(TESTS, all).at_least_one(&OPERATORS), nest])
        })
    }
}

impl Decode for Condition {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        condition(node, 0, cx)
    }
}

fn condition(node: &Node, depth: usize, cx: &mut Context) -> Option<Condition> {
    if DEPTH_MAX < depth {
        cx.error("too-deep", node.place, format!("conditions nest at most {DEPTH_MAX} deep"));
        return None;
    }
    let mut fields = Fields::open(node, "a condition", NEST, cx)?;
    let any = fields.node("any");
    let not = fields.node("not");
    let form = match (any, not) {
        (Some(any), None) => any_of(any, depth, cx).map(Form::Any),
        (None, Some(not)) => condition(not, depth + 1, cx).map(|inner| Form::Not(Box::new(inner))),
        (Some(_), Some(_)) => {
            cx.error("bad-value", node.place, "a condition has `any` or `not`, not both");
            None
        }
        (None, None) => {
            fields.also(TESTS);
            let path = fields.required::<Path>("path", cx);
            // Where the comparison stands in the path, one mistake is enough.
            let bad_path = path.is_none() && fields.node("path").is_some();
            let tests = tests(&mut fields, node, bad_path, cx);
            path.zip(tests).map(|(path, tests)| Form::Tests(path, tests))
        }
    };
    fields.finish(cx);
    form.map(Condition)
}

fn any_of(node: &Node, depth: usize, cx: &mut Context) -> Option<Vec<Condition>> {
    let tree::Value::List(items) = &node.value else {
        return cx.expected("a list of conditions", node);
    };
    let decoded: Vec<_> = items.iter().map(|item| condition(item, depth + 1, cx)).collect();
    decoded.into_iter().collect()
}

const OPERATORS: [&str; 13] =
    ["eq", "ne", "gt", "gte", "lt", "lte", "in", "not_in", "exists", "contains", "starts_with", "ends_with", "matches"];

fn tests<'n>(fields: &mut Fields<'n>, node: &'n Node, bad_path: bool, cx: &mut Context) -> Option<Vec<Test>> {
    let named: Vec<_> = OPERATORS.into_iter().filter_map(|name| Some((name, operand(fields, node, name)?))).collect();
    if named.is_empty() && (bad_path || fields.has_others()) {
        return None;
    }
    if named.is_empty() {
        let note = format!("operators: {}", OPERATORS.join(" "));
        cx.error("missing-key", node.place, "a condition needs an operator beside `path`").note(note);
        return None;
    }
    let decoded: Vec<_> = named.into_iter().map(|(name, value)| test(name, value, cx)).collect();
    decoded.into_iter().collect()
}

/// What stands beside operator `name`; unlike elsewhere, `null` is a value here.
fn operand<'n>(fields: &mut Fields<'n>, node: &'n Node, name: &'static str) -> Option<&'n Node> {
    let _ = fields.node(name);
    match &node.value {
        tree::Value::Map(map) => map.iter().find(|(key, _)| key.name == name).map(|(_, value)| value),
        _ => None,
    }
}

fn test(name: &'static str, node: &Node, cx: &mut Context) -> Option<Test> {
    match name {
        "eq" => Some(Test::Eq(json(node, cx)?)),
        "ne" => Some(Test::Ne(json(node, cx)?)),
        "in" => Some(Test::In(list(node, cx)?)),
        "not_in" => Some(Test::NotIn(list(node, cx)?)),
        "exists" => bool::decode(node, cx).map(Test::Exists),
        "contains" => Some(Test::Contains(json(node, cx)?)),
        "starts_with" => String::decode(node, cx).map(Test::StartsWith),
        "ends_with" => String::decode(node, cx).map(Test::EndsWith),
        "matches" => regex(node, cx).map(Test::Matches),
        _ => match json(node, cx)? {
            value @ (Value::Number(_) | Value::String(_)) => Some(Test::Compare(name, value)),
            _ => cx.expected("a number or text to compare with", node),
        },
    }
}

fn list(node: &Node, cx: &mut Context) -> Option<Vec<Value>> {
    match json(node, cx)? {
        Value::Array(items) => Some(items),
        _ => cx.expected("a list", node),
    }
}

fn regex(node: &Node, cx: &mut Context) -> Option<Regex> {
    let text = String::decode(node, cx)?;
    match RegexBuilder::new(&text).size_limit(REGEX_MAX).build() {
        Ok(regex) => Some(regex),
        Err(_) => {
            cx.error("bad-regex", node.place, format!("`{text}` is not a regular expression that can be used here"));
            None
        }
    }
}

/// A node as JSON; numbers that JSON cannot hold are an error.
fn json(node: &Node, cx: &mut Context) -> Option<Value> {
    match &node.value {
        tree::Value::Null => Some(Value::Null),
        tree::Value::Bool(yes) => Some(Value::Bool(*yes)),
        tree::Value::Int(number) => Some(Value::from(*number)),
        tree::Value::Float(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => Some(Value::Number(number)),
            None => cx.expected("a number that JSON can hold", node),
        },
        tree::Value::String(text) => Some(Value::from(text.as_str())),
        tree::Value::List(items) => items.iter().map(|item| json(item, cx)).collect::<Option<Vec<_>>>().map(Value::from),
        tree::Value::Map(map) => {
            let pairs = map.iter().map(|(key, value)| Some((key.name.clone(), json(value, cx)?)));
            pairs.collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::tree::{Key, Place};

    /// A tree as YAML would give it, from JSON.
    pub(crate) fn node(value: &Value) -> Node {
        let place = Place::default();
        let value = match value {
            Value::Null => tree::Value::Null,
            Value::Bool(yes) => tree::Value::Bool(*yes),
            Value::Number(number) => match number.as_i64() {
                Some(number) => tree::Value::Int(number),
                None => tree::Value::Float(number.as_f64().unwrap()),
            },
            Value::String(text) => tree::Value::String(text.clone()),
            Value::Array(items) => tree::Value::List(items.iter().map(node).collect()),
            Value::Object(map) => {
                tree::Value::Map(map.iter().map(|(name, value)| (Key { name: name.clone(), place }, node(value))).collect())
            }
        };
        Node { value, place, referenced: false }
    }

    fn parse(value: Value) -> Condition {
        let mut cx = Context::default();
        Condition::decode(&node(&value), &mut cx).unwrap_or_else(|| panic!("{:?}", cx.problems))
    }

    #[test]
    fn operators_never_convert() {
        let root = json!({"n": 10, "f": 10.0, "s": "10", "l": ["a", 1], "t": "approved", "z": null});
        for good in [
            json!({"path": "$.n", "eq": 10}),
            json!({"path": "$.n", "eq": 10.0}),
            json!({"path": "$.f", "gte": 10}),
            json!({"path": "$.n", "gt": 9, "lt": 11}),
            json!({"path": "$.s", "ne": 10}),
            json!({"path": "$.missing", "ne": 10}),
            json!({"path": "$.missing", "not_in": [10]}),
            json!({"path": "$.missing", "exists": false}),
            json!({"path": "$.z", "exists": true}),
            json!({"path": "$.t", "in": ["approved", "escalated"]}),
            json!({"path": "$.l", "contains": 1}),
            json!({"path": "$.t", "contains": "rove"}),
            json!({"path": "$.t", "starts_with": "app"}),
            json!({"path": "$.t", "ends_with": "ed"}),
            json!({"path": "$.t", "matches": "^a.*d$"}),
            json!({"path": "$.l[*]", "eq": 1}),
            json!({"path": "$.s", "gt": "09"}),
            json!({"any": [{"path": "$.n", "eq": 1}, {"not": {"path": "$.n", "eq": 2}}]}),
        ] {
            assert!(parse(good.clone()).holds(&root), "{good}");
        }
        for bad in [
            json!({"path": "$.s", "eq": 10}),
            json!({"path": "$.s", "gt": 1}),
            json!({"path": "$.missing", "eq": null}),
            json!({"path": "$.missing", "lt": 10}),
            json!({"path": "$.n", "in": ["10"]}),
            json!({"path": "$.n", "starts_with": "1"}),
            json!({"path": "$.n", "contains": 1}),
            json!({"any": []}),
            json!({"not": {"path": "$.n", "exists": true}}),
        ] {
            assert!(!parse(bad.clone()).holds(&root), "{bad}");
        }
    }

    #[test]
    fn big_numbers_are_compared_exactly() {
        let root = json!({"n": 9_007_199_254_740_993_i64, "u": u64::MAX});
        assert!(parse(json!({"path": "$.n", "gt": 9_007_199_254_740_992_i64})).holds(&root));
        assert!(parse(json!({"path": "$.u", "gt": i64::MAX})).holds(&root));
    }

    #[test]
    fn what_is_no_condition_is_an_error() {
        let mut deep = json!({"path": "$.a", "eq": 1});
        for _ in 0..=DEPTH_MAX {
            deep = json!({"not": deep});
        }
        for bad in [
            json!({"path": "$.a"}),
            json!({"eq": 1}),
            json!({"path": "a", "eq": 1}),
            json!({"path": "$.a", "equals": 1}),
            json!({"path": "$.a", "matches": "("}),
            json!({"path": "$.a", "matches": "(a{1000}){1000}"}),
            json!({"path": "$.a", "in": "x"}),
            json!({"path": "$.a", "gt": [1]}),
            json!({"any": {"path": "$.a", "eq": 1}}),
            json!("$.a"),
            deep,
        ] {
            let mut cx = Context::default();
            Condition::decode(&node(&bad), &mut cx);
            assert!(cx.failed(), "{bad}");
        }
    }

    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("path|any|not|eq|in|gt|matches|exists|[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_tree_breaks_decoding_and_no_event_breaks_holding(condition in any_json(), root in any_json(), wanted in any_json()) {
            let _ = Condition::decode(&node(&condition), &mut Context::default());
            for operator in OPERATORS {
                let item = json!({"path": "$.a", operator: wanted.clone()});
                if let Some(condition) = Condition::decode(&node(&item), &mut Context::default()) {
                    prop_assert_eq!(condition.holds(&root), condition.why_not("when[0]", &root).is_none());
                }
            }
        }
    }
}
