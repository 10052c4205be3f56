//! `filter` of a subscription: the form of `when`, as JSON. It comes from strangers, so it is smaller than what a file may say.

use serde_json::Value;

use super::model::EventFilter;
use crate::{
    config::{
        decode::{Context, Decode},
        tree::Node,
    },
    route::when::Condition,
};

/// Longest filter, as compact JSON, in bytes.
const LEN_MAX: usize = 8 * 1024;
/// Most conditions in it, those within others included.
const CONDITIONS_MAX: usize = 20;
/// Most regular expressions in it: each may take a mebibyte or two for each thread that plans.
const REGEX_MAX: usize = 4;

/// Reads a filter as somebody writes it: what [`read`] takes, and no pattern that takes too much work.
pub(super) fn compile(written: Value) -> Result<EventFilter, String> {
    let filter = read(written)?;
    for (at, condition) in filter.conditions.iter().enumerate() {
        condition.has_small_patterns().map_err(|reason| format!("[{at}]: {reason}"))?;
    }
    Ok(filter)
}

/// Reads a filter: a condition, or a list all of which must hold. The error says what is wrong with it.
pub(super) fn read(written: Value) -> Result<EventFilter, String> {
    if LEN_MAX < written.to_string().len() {
        return Err(format!("is longer than {LEN_MAX} bytes"));
    }
    if REGEX_MAX < regexes(&written) {
        return Err(format!("has more than {REGEX_MAX} times `matches`"));
    }
    let items = match &written {
        Value::Array(items) => items.as_slice(),
        Value::Object(_) => std::slice::from_ref(&written),
        _ => return Err("is a condition such as {\"path\": \"$.data.amount\", \"gt\": 1000}, or a list of them".to_owned()),
    };
    let mut conditions = Vec::with_capacity(items.len().min(CONDITIONS_MAX));
    let mut count = 0;
    for (at, item) in items.iter().enumerate() {
        let condition = condition(item).map_err(|reason| format!("[{at}]: {reason}"))?;
        count += condition.count();
        if CONDITIONS_MAX < count {
            return Err(format!("has more than {CONDITIONS_MAX} conditions, those within `any` and `not` included"));
        }
        conditions.push(condition.bounded().map_err(|reason| format!("[{at}]: {reason}"))?);
    }
    Ok(EventFilter { written, conditions })
}

fn condition(item: &Value) -> Result<Condition, String> {
    let mut cx = Context::default();
    let condition = Condition::decode(&Node::of_json(item), &mut cx);
    let told = cx.problems.into_iter().next().map(|problem| match problem.help {
        Some(help) => format!("{} ({help})", problem.message),
        None => problem.message,
    });
    match (condition, told) {
        (Some(condition), None) => Ok(condition),
        (_, told) => Err(told.unwrap_or_else(|| "is no condition".to_owned())),
    }
}

fn regexes(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(regexes).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| usize::from(key == "matches") + regexes(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_is_one_condition_or_several() {
        for (written, count) in [
            (json!({"path": "$.data.amount", "gt": 1000}), 1),
            (json!([]), 0),
            (json!([{"path": "$.namespace", "eq": "acme"}, {"any": [{"path": "$.data.a", "exists": true}]}]), 2),
        ] {
            assert_eq!(compile(written).unwrap().conditions.len(), count);
        }
    }

    #[test]
    fn what_is_no_filter_is_told() {
        let told = |written: Value| compile(written).unwrap_err();
        assert!(told(json!("x")).starts_with("is a condition such as"));
        assert_eq!(told(json!([{"path": "$.a", "eq": 1}, {"path": "$.a"}])), "[1]: a condition needs an operator beside `path`");
        assert!(told(json!({"path": "$.a", "equals": 1})).starts_with("[0]: "));
        assert!(told(json!({"path": "$.a", "matches": "("})).starts_with("[0]: "));
        let many = "has more than 20 conditions, those within `any` and `not` included";
        assert_eq!(told(Value::from(vec![json!({"path": "$.a", "eq": 1}); 21])), many);
        assert_eq!(told(json!({"not": {"any": vec![json!({"path": "$.a", "eq": 1}); 19]}})), many);
        assert!(told(json!({"path": "$..[?$..zzz]", "exists": true})).starts_with("[0]: `$..[?$..zzz]` has within"));
        assert!(told(json!([{"not": {"path": "$.data.big", "matches": "[01]*1[01]{900}[a-zA-Z_]"}}])).contains("too much work"));
        assert_eq!(told(Value::from(vec![json!({"path": "$.a", "matches": "x"}); 5])), "has more than 4 times `matches`");
        assert_eq!(told(json!({"path": "$.a", "eq": "x".repeat(9000)})), "is longer than 8192 bytes");
    }
}
