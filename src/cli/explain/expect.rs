//! `--expect to=a,b`: for scripts that hold a file to what it should do.

use std::{collections::BTreeSet, str::FromStr};

use serde_json::Value;

use crate::cli::{Failure, output};

/// What is expected of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    what: What,
    names: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The targets that are reached, all of them.
    To,
    /// The rules that fire, all of them.
    Rules,
}

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, names) = match text.split_once('=') {
            Some(("to", names)) => (What::To, names),
            Some(("rules", names)) => (What::Rules, names),
            _ => return Err("expected to=crm,ops-slack or rules=workflow-failed".to_owned()),
        };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Self { what, names })
    }
}

impl Expected {
    /// What is wrong with `answer`; `None`: nothing.
    fn unmet(&self, answer: &Value) -> Option<String> {
        let list = |name: &str| answer[name].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let named = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let (word, got): (_, BTreeSet<String>) = match self.what {
            What::To => ("to", list("targets").map(|it| named(it, "target")).collect()),
            What::Rules => ("rules", list("rules").filter(|it| it["matched"] == true).map(|it| named(it, "rule")).collect()),
        };
        if got == self.names {
            return None;
        }
        let missing = shown("missing", self.names.difference(&got));
        let beyond = shown("not expected", got.difference(&self.names));
        let wrong: Vec<_> = [missing, beyond].into_iter().flatten().collect();
        Some(format!("unmet: {word} is {}: {}", joined(got.iter()), wrong.join("; ")))
    }
}

fn shown<'n>(what: &str, names: impl Iterator<Item = &'n String>) -> Option<String> {
    let mut names = names.peekable();
    names.peek()?;
    Some(format!("{what}: {}", joined(names)))
}

fn joined<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Says what of `expected` the answer does not meet; then the exit status is 1.
pub(super) fn check(expected: &[Expected], answer: &Value) -> Result<(), Failure> {
    let unmet: Vec<_> = expected.iter().filter_map(|it| it.unmet(answer)).collect();
    unmet.iter().for_each(|line| output::note(line));
    if unmet.is_empty() { Ok(()) } else { Err(Failure::BadAndSaid) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_that_is_expected_and_nothing_else_must_be_there() {
        let answer = json!({
            "targets": [{"target": "crm"}, {"target": "ops"}],
            "rules": [{"rule": "a", "matched": true}, {"rule": "b", "matched": false}],
        });
        let unmet = |text: &str| text.parse::<Expected>().unwrap().unmet(&answer);
        assert_eq!((unmet("to=ops, crm"), unmet("rules=a")), (None, None));
        insta::assert_snapshot!(unmet("to=crm,mail").unwrap(), @"unmet: to is crm, ops: missing: mail; not expected: ops");
        insta::assert_snapshot!(unmet("to=").unwrap(), @"unmet: to is crm, ops: not expected: crm, ops");
        insta::assert_snapshot!(unmet("rules=b").unwrap(), @"unmet: rules is a: missing: b; not expected: a");
        assert_eq!("to=".parse::<Expected>().unwrap().unmet(&json!({"targets": []})), None);
        assert!("two=a".parse::<Expected>().is_err() && "to".parse::<Expected>().is_err());
    }
}
