//! What an answer's status means, and what its `Retry-After` asks for. Pure.
//!
//! Facts: `delivery.md`, "What answers mean"; Interactor webhooks guide, "HTTP Response Semantics"; RFC 9110, 10.2.3.

use std::{collections::BTreeMap, time::Duration};

use jiff::fmt::rfc2822::DateTimeParser;

use crate::{
    clock::{Timestamp, until},
    config::{
        decode::{Context, Decode, Definitions, Schema, Shape, Words},
        tree::{Node, Value},
    },
    store::Cause,
};

/// Which table a destination's answers are read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Forgiving: endpoints vanish during deploys, credentials are repaired.
    Default,
    /// Interactor's own table: what is not known to pass is permanent.
    Interactor,
}

/// What a status means for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The target took it.
    Delivered,
    /// May pass: to be tried again.
    Transient,
    /// Likewise, but maybe the target wants nothing of us at all: 401, 403, 407.
    Denied,
    /// Would fail the same way again.
    Permanent(Cause),
    /// Likewise, and maybe so would every other delivery: 3xx, 410.
    Moved(Cause),
    /// Would fail the same way whatever were sent: what a body says of our credentials, or of what they are for.
    Target,
}

/// What `status_rules` may say.
impl Words for Meaning {
    const WORDS: &'static [(&'static str, Self)] =
        &[("delivered", Self::Delivered), ("transient", Self::Transient), ("permanent", Self::Permanent(Cause::Receiver))];
}

/// How a destination reads answers: by a table, but for what it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The table.
    pub table: Answers,
    /// What single statuses mean here.
    pub rules: StatusRules,
}

impl Reading {
    /// What `status` means.
    pub fn meaning(&self, status: u16) -> Meaning {
        self.rules.0.get(&status).copied().unwrap_or_else(|| self.table.meaning(status))
    }
}

/// `status_rules`: `{404: permanent, 409: delivered}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusRules(BTreeMap<u16, Meaning>);

impl StatusRules {
    /// Whether there is one for `status`.
    pub fn names(&self, status: u16) -> bool {
        self.0.contains_key(&status)
    }
}

impl Shape for StatusRules {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map_under("^[2-5][0-9][0-9]$", Meaning::schema(all))
    }
}

impl Decode for StatusRules {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let Value::Map(map) = &node.value else {
            return cx.expected("a map such as {404: permanent, 409: delivered}", node);
        };
        let mut rules = BTreeMap::new();
        for (key, value) in map {
            let meaning = Meaning::decode(value, cx);
            match (key.name.parse().ok().filter(|status| (200..=599).contains(status)), meaning) {
                (Some(status), Some(meaning)) => _ = rules.insert(status, meaning),
                (None, _) => _ = cx.error("bad-value", key.place, format!("`{}` is no status between 200 and 599", key.name)),
                (Some(_), None) => {}
            }
        }
        Some(Self(rules))
    }
}

impl Words for Answers {
    const WORDS: &'static [(&'static str, Self)] = &[("default", Self::Default), ("interactor", Self::Interactor)];
}

impl Answers {
    /// What `status` means. What is no final answer (1xx, 6xx and beyond) counts as a fault of the server.
    pub fn meaning(self, status: u16) -> Meaning {
        match status {
            200..=299 => Meaning::Delivered,
            300..=399 => Meaning::Moved(Cause::Config),
            410 => Meaning::Moved(Cause::Receiver),
            408 | 425 | 429 => Meaning::Transient,
            401 | 403 | 407 if self == Self::Default => Meaning::Denied,
            404 | 409 | 421 | 423 | 424 if self == Self::Default => Meaning::Transient,
            400..=499 | 501 | 505 => Meaning::Permanent(Cause::Receiver),
            _ => Meaning::Transient,
        }
    }
}

/// How long `Retry-After` asks to wait from `now`, in seconds or as an HTTP date; text that is neither asks for nothing.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds ask for ever: the caller has a cap.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(until(now, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::deliver::testing::decode;

    fn statuses(answers: Answers, meaning: Meaning) -> Vec<u16> {
        (200..600).filter(|status| answers.meaning(*status) == meaning).filter(|status| !(506..599).contains(status)).collect()
    }

    #[test]
    fn the_default_table() {
        let transient = [404, 408, 409, 421, 423, 424, 425, 429, 500, 502, 503, 504, 599];
        assert_eq!(statuses(Answers::Default, Meaning::Transient), transient);
        assert_eq!(statuses(Answers::Default, Meaning::Denied), [401, 403, 407]);
        assert_eq!(statuses(Answers::Default, Meaning::Moved(Cause::Config)), Vec::from_iter(300..400));
        assert_eq!(statuses(Answers::Default, Meaning::Moved(Cause::Receiver)), [410]);
        for permanent in [400, 402, 405, 406, 411, 418, 422, 426, 431, 451, 499, 501, 505] {
            assert_eq!(Answers::Default.meaning(permanent), Meaning::Permanent(Cause::Receiver), "{permanent}");
        }
    }

    #[test]
    fn interactors_table() {
        assert_eq!(statuses(Answers::Interactor, Meaning::Transient), [408, 425, 429, 500, 502, 503, 504, 599]);
        assert_eq!(statuses(Answers::Interactor, Meaning::Delivered), Vec::from_iter(200..300));
    }

    #[test]
    fn status_rules_say_otherwise_of_single_statuses() {
        let rules = decode("{404: permanent, 409: delivered, 301: transient}").unwrap();
        let reading = Reading { table: Answers::Default, rules };
        let meanings = [404, 409, 301, 302, 424].map(|status| reading.meaning(status));
        assert_eq!(
            meanings,
            [
                Meaning::Permanent(Cause::Receiver),
                Meaning::Delivered,
                Meaning::Transient,
                Meaning::Moved(Cause::Config),
                Meaning::Transient
            ]
        );
        let bad = decode::<StatusRules>("{40x: permanent, 600: delivered, 404: gone}").unwrap_err();
        insta::assert_snapshot!(bad.join("; "), @"`40x` is no status between 200 and 599; `600` is no status between 200 and 599; expected `delivered` or `transient` or `permanent`, found `gone`");
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = "2026-01-20T12:00:00Z".parse().unwrap();
        let secs = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(secs("120"), Some(120));
        assert_eq!(secs(" 0 "), Some(0));
        assert_eq!(secs("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(secs("Tue, 20 Jan 2026 12:01:30 GMT"), Some(90));
        assert_eq!(secs("Tue, 20 Jan 2026 11:00:00 GMT"), Some(0));
        for bad in ["", "soon", "-5", "1.5", "Tue, 20 Jan"] {
            assert_eq!(secs(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text: String, status: u16) {
            let _ = retry_after(&text, "2026-01-20T12:00:00Z".parse().unwrap());
            let _ = (Answers::Default.meaning(status), Answers::Interactor.meaning(status));
        }
    }
}
