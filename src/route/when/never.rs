//! Conditions that no event can meet: what `check` warns of. Only what is sure is said.

use serde_json::Value;

use super::{Condition, Form, Test, order};
use crate::route::path::Path;

/// How many tests of one path are held against one another.
const TESTS_MAX: usize = 32;

/// Why no event can meet all of `conditions`: two tests of one path that exclude one another, or a list that holds nothing. `None`
/// where some may, as far as one can tell.
pub fn never<'c>(conditions: impl IntoIterator<Item = &'c Condition>) -> Option<String> {
    let mut paths: Vec<(&Path, Vec<&Test>)> = Vec::new();
    for condition in conditions {
        match &condition.0 {
            // Only a plain path finds one value: of several, each test may hold for another.
            Form::Tests(path, tests) if path.steps().is_some() => {
                match paths.iter_mut().find(|(known, _)| known.steps() == path.steps()) {
                    Some((_, known)) => known.extend(tests),
                    None => paths.push((path, tests.iter().collect())),
                }
            }
            Form::Any(any) if any.is_empty() => return Some("an empty `any` never holds".to_owned()),
            Form::Any(any) => {
                let reasons: Option<Vec<_>> = any.iter().map(|one| never([one])).collect();
                if let Some(reasons) = reasons {
                    return reasons.into_iter().next();
                }
            }
            Form::Tests(..) | Form::Not(_) => {}
        }
    }
    paths.iter().find_map(|(path, tests)| exclusive(tests).map(|reason| format!("{} {reason}", path.text())))
}

/// Why one value cannot pass all of `tests`.
fn exclusive(tests: &[&Test]) -> Option<String> {
    let tests = tests.get(..TESTS_MAX).unwrap_or(tests);
    if let Some(empty) = tests.iter().find(|test| matches!(test, Test::In(list) if list.is_empty())) {
        return Some(format!("is wanted {}, which nothing is", empty.words()));
    }
    let pairs = tests.iter().enumerate().flat_map(|(at, a)| tests.iter().skip(at + 1).map(move |b| (a, b)));
    for (a, b) in pairs {
        if excludes(a, b) || excludes(b, a) {
            return Some(format!("is wanted {} and {}, which nothing is", a.words(), b.words()));
        }
    }
    None
}

/// Whether nothing that passes `a` passes `b`.
fn excludes(a: &Test, b: &Test) -> bool {
    match (a, b) {
        (Test::Eq(value), other) => !other.holds(&[value]),
        (Test::In(values), other) => !values.iter().any(|value| other.holds(&[value])),
        (Test::Exists(false), other) => !other.holds(&[]),
        (Test::Compare(low, from), Test::Compare(high, to)) => {
            let upwards = matches!(*low, "gt" | "gte") && matches!(*high, "lt" | "lte");
            let both = *low == "gte" && *high == "lte";
            match order(from, to) {
                Some(order) => upwards && (order.is_gt() || (order.is_eq() && !both)),
                None => true,
            }
        }
        (Test::Compare(_, Value::Number(_)), other) => of_text(other),
        _ => false,
    }
}

/// Whether only text passes it.
fn of_text(test: &Test) -> bool {
    matches!(test, Test::StartsWith(_) | Test::EndsWith(_) | Test::Matches(_) | Test::Fits(_))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config::decode::{Context, Decode},
        route::when::tests::node,
    };

    fn reason(conditions: Value) -> Option<String> {
        let Value::Array(items) = conditions else { panic!("a list") };
        let conditions: Vec<_> =
            items.iter().map(|item| Condition::decode(&node(item), &mut Context::default()).unwrap()).collect();
        never(&conditions)
    }

    #[test]
    fn what_excludes_itself_is_named() {
        let said = |conditions| reason(conditions).unwrap();
        insta::assert_snapshot!(said(json!([{"path": "$.a", "gt": 10, "lt": 5}])), @"$.a is wanted > 10 and < 5, which nothing is");
        insta::assert_snapshot!(said(json!([{"path": "$.a", "eq": "x"}, {"path": "$['a']", "eq": "y"}])), @r#"$.a is wanted "x" and "y", which nothing is"#);
        insta::assert_snapshot!(said(json!([{"path": "$.a", "in": []}])), @"$.a is wanted one of [], which nothing is");
        insta::assert_snapshot!(said(json!([{"any": []}])), @"an empty `any` never holds");
        for never in [
            json!([{"path": "$.a", "gt": 5, "lte": 5}]),
            json!([{"path": "$.a", "exists": false}, {"path": "$.a", "eq": 1}]),
            json!([{"path": "$.a", "in": [1, 2], "not_in": [1, 2, 3]}]),
            json!([{"path": "$.a", "gt": 5, "starts_with": "x"}]),
            json!([{"path": "$.a", "gt": 5, "lt": "x"}]),
            json!([{"path": "$.a", "eq": "10"}, {"path": "$.a", "gt": 5}]),
            json!([{"any": [{"path": "$.a", "in": []}, {"path": "$.b", "gt": 1, "lt": 0}]}]),
        ] {
            assert!(reason(never.clone()).is_some(), "{never}");
        }
    }

    #[test]
    fn what_may_hold_is_left_alone() {
        for fine in [
            json!([]),
            json!([{"path": "$.a", "gt": 5, "lt": 10}]),
            json!([{"path": "$.a", "gte": 5, "lte": 5}]),
            json!([{"path": "$.a[*]", "eq": 1}, {"path": "$.a[*]", "eq": 2}]),
            json!([{"path": "$.a", "eq": 1}, {"path": "$.b", "eq": 2}]),
            json!([{"any": [{"path": "$.a", "gt": 5, "lt": 1}, {"path": "$.a", "eq": 1}]}]),
            json!([{"not": {"path": "$.a", "gt": 5, "lt": 1}}]),
            json!([{"path": "$.a", "exists": false, "ne": 1}]),
            json!([{"path": "$.a", "contains": "x", "starts_with": "y"}]),
            json!([{"path": "$.a", "gt": "a", "starts_with": "b"}]),
        ] {
            assert_eq!(reason(fine.clone()), None, "{fine}");
        }
    }
}
