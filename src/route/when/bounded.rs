//! Conditions that strangers write: the same words, with work that is bounded for every event.

use super::{Condition, Form, Test, pattern::Pattern};
use crate::route::path::Path;

/// Most items of `in` and `not_in` beside a path that finds several values: each is held against each.
const LIST_MAX: usize = 20;

impl Condition {
    /// How many there are, those within `any` and `not` included.
    pub fn count(&self) -> usize {
        match &self.0 {
            Form::Tests(..) => 1,
            Form::Any(any) => any.iter().fold(1, |sum, one| sum + one.count()),
            Form::Not(one) => 1 + one.count(),
        }
    }

    /// The same for whoever must not make the relay work without end. The error says what such a condition cannot say.
    pub fn bounded(self) -> Result<Self, String> {
        let form = match self.0 {
            Form::Tests(path, tests) => {
                let path = path.bounded()?;
                let tests: Result<_, _> = tests.into_iter().map(|test| bounded(test, &path)).collect();
                Form::Tests(path, tests?)
            }
            Form::Any(any) => Form::Any(any.into_iter().map(Self::bounded).collect::<Result<_, _>>()?),
            Form::Not(one) => Form::Not(Box::new(one.bounded()?)),
        };
        Ok(Self(form))
    }

    /// Says which of its patterns takes too much work. Takes some milliseconds for each: it is asked once, when it is written.
    pub fn has_small_patterns(&self) -> Result<(), String> {
        match &self.0 {
            Form::Tests(_, tests) => tests.iter().try_for_each(|test| match test {
                Test::Fits(pattern) => pattern.is_small(),
                _ => Ok(()),
            }),
            Form::Any(any) => any.iter().try_for_each(Self::has_small_patterns),
            Form::Not(one) => one.has_small_patterns(),
        }
    }
}

fn bounded(test: Test, path: &Path) -> Result<Test, String> {
    match test {
        Test::Matches(regex) => Pattern::new(regex.as_str()).map(Test::Fits),
        Test::In(list) | Test::NotIn(list) if path.steps().is_none() && LIST_MAX < list.len() => {
            Err(format!("`{}` may find several values: a list beside it has at most {LIST_MAX} items", path.text()))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        config::decode::{Context, Decode},
        route::when::tests::node,
    };

    fn parse(value: Value) -> Condition {
        Condition::decode(&node(&value), &mut Context::default()).unwrap()
    }

    #[test]
    fn they_hold_as_those_of_rules_do() {
        let event = json!({"data": {"items": [{"p": 1, "s": "ACME-12"}, {"p": 5}], "t": "x"}});
        for (condition, holds) in [
            (json!({"path": "$.data.items[?@.p > 2].p", "eq": 5}), true),
            (json!({"path": "$..s", "matches": "^ACME-[0-9]+$"}), true),
            (json!({"not": {"path": "$..s", "matches": "^ACME-[a-z]+$"}}), true),
            (json!({"any": [{"path": "$.data.t", "matches": "y"}, {"path": "$.data.items[*].p", "in": [7, 8]}]}), false),
        ] {
            let plain = parse(condition.clone());
            assert_eq!(plain.holds(&event), holds, "{condition}");
            assert_eq!(plain.bounded().unwrap().holds(&event), holds, "{condition}");
        }
    }

    #[test]
    fn every_condition_counts_wherever_it_stands() {
        assert_eq!(parse(json!({"any": [{"path": "$.a", "eq": 1, "ne": 2}, {"not": {"path": "$.b", "eq": 1}}]})).count(), 4);
    }

    #[test]
    fn long_lists_are_for_paths_that_find_one_value() {
        let list: Vec<_> = (0..=LIST_MAX).collect();
        assert!(parse(json!({"path": "$.a", "in": list})).bounded().is_ok());
        assert!(parse(json!({"path": "$..a", "in": list})).bounded().unwrap_err().contains("at most 20 items"));
    }
}
