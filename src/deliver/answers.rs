//! What an answer's status means, and what its `Retry-After` asks for. Pure.
//!
//! Facts: `delivery.md`, "What answers mean"; Interactor webhooks guide, "HTTP Response Semantics"; RFC 9110, 10.2.3.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;

use crate::{
    clock::{Timestamp, until},
    config::{
        decode::{Context, Decode, one_of},
        tree::Node,
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
    /// Would fail the same way again.
    Permanent(Cause),
}

impl Decode for Answers {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        one_of(node, &[("default", Self::Default), ("interactor", Self::Interactor)], cx)
    }
}

impl Answers {
    /// What `status` means. What is no final answer (1xx, 6xx and beyond) counts as a fault of the server.
    pub fn meaning(self, status: u16) -> Meaning {
        match status {
            200..=299 => Meaning::Delivered,
            300..=399 => Meaning::Permanent(Cause::Config),
            408 | 425 | 429 => Meaning::Transient,
            401 | 403 | 404 | 407 | 409 | 421 | 423 | 424 if self == Self::Default => Meaning::Transient,
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

    fn statuses(answers: Answers, meaning: Meaning) -> Vec<u16> {
        (200..600).filter(|status| answers.meaning(*status) == meaning).filter(|status| !(506..599).contains(status)).collect()
    }

    #[test]
    fn the_default_table() {
        let transient = [401, 403, 404, 407, 408, 409, 421, 423, 424, 425, 429, 500, 502, 503, 504, 599];
        assert_eq!(statuses(Answers::Default, Meaning::Transient), transient);
        assert_eq!(statuses(Answers::Default, Meaning::Permanent(Cause::Config)), Vec::from_iter(300..400));
        assert_eq!(Answers::Default.meaning(410), Meaning::Permanent(Cause::Receiver));
    }

    #[test]
    fn interactors_table() {
        assert_eq!(statuses(Answers::Interactor, Meaning::Transient), [408, 425, 429, 500, 502, 503, 504, 599]);
        assert_eq!(statuses(Answers::Interactor, Meaning::Delivered), Vec::from_iter(200..300));
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
