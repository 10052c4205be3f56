//! A cursor's value: what it is, which of two is the later, and how it is written to be asked from. Pure.

use std::{cmp::Ordering, time::Duration};

use jiff::{civil::DateTime, tz::TimeZone};
use serde_json::Value as Json;

use crate::{
    clock::{Timestamp, earlier, rfc3339_s},
    config::decode::Words,
};

/// Longest value, in bytes.
pub(super) const LEN_MAX: usize = 1024;
/// Longest piece of a value that a message repeats, in characters.
const SHOWN_MAX: usize = 60;

/// What a cursor's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Times as RFC 3339 writes them; without a zone they are UTC.
    Time,
    /// Unix seconds.
    Unix,
    /// Unix milliseconds.
    UnixMs,
    /// Whole numbers that grow.
    Number,
    /// Texts that grow, compared byte by byte.
    Text,
    /// Words of the API's own, which it gives and takes and nobody else understands.
    Token,
}

impl Words for As {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("time", Self::Time),
        ("unix", Self::Unix),
        ("unix_ms", Self::UnixMs),
        ("number", Self::Number),
        ("text", Self::Text),
        ("token", Self::Token),
    ];
}

impl As {
    /// Whether its values are times.
    pub(super) fn is_time(self) -> bool {
        matches!(self, Self::Time | Self::Unix | Self::UnixMs)
    }

    /// Whether of two values one is the later.
    pub(super) fn is_ordered(self) -> bool {
        self != Self::Token
    }

    /// What a value is called in messages.
    pub(super) fn called(self) -> &'static str {
        match self {
            Self::Time => "a time such as 2026-01-20T12:00:00Z",
            Self::Unix => "a time in Unix seconds",
            Self::UnixMs => "a time in Unix milliseconds",
            Self::Number => "a whole number",
            Self::Text => "a text",
            Self::Token => "a text",
        }
    }
}

/// How far is gone back from the last value when it is asked from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// So long: for times.
    Time(Duration),
    /// So many: for numbers.
    Count(u64),
    /// Not at all: for texts and tokens.
    None,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    /// As it is written, by the API or by the relay.
    pub(super) text: String,
    rank: Rank,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rank {
    Time(Timestamp),
    Number(i128),
    /// By its text.
    Text,
}

impl Value {
    /// `text` as a value; `None` where it is none.
    pub(super) fn read(kind: As, text: &str) -> Option<Self> {
        if text.is_empty() || LEN_MAX < text.len() || text.chars().any(char::is_control) {
            return None;
        }
        let rank = match kind {
            As::Time => Rank::Time(time(text)?),
            As::Unix => Rank::Time(unix(text)?),
            As::UnixMs => Rank::Time(Timestamp::from_millisecond(text.parse().ok()?).ok()?),
            As::Number => Rank::Number(text.parse().ok()?),
            As::Text | As::Token => Rank::Text,
        };
        Some(Self { text: text.to_owned(), rank })
    }

    /// What stands in JSON as a value. The error says what stands there instead.
    pub(super) fn of_json(kind: As, json: &Json) -> Result<Self, String> {
        let text = match json {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            Json::Bool(_) | Json::Null => return Err(format!("`{json}`")),
            Json::Array(_) => return Err("a list".to_owned()),
            Json::Object(_) => return Err("an object".to_owned()),
        };
        Self::read(kind, &text).ok_or_else(|| format!("`{}`", shown(&text)))
    }

    /// `at` as a value of `kind`, which is one of times, to the second below.
    pub(super) fn of_time(kind: As, at: Timestamp) -> Self {
        let text = match kind {
            As::UnixMs => (at.as_second().saturating_mul(1000)).to_string(),
            As::Unix => at.as_second().to_string(),
            _ => rfc3339_s(at),
        };
        let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
        Self { text, rank: Rank::Time(whole) }
    }

    /// The value that lies `overlap` before it, written like it.
    pub(super) fn back(&self, kind: As, overlap: Overlap) -> Self {
        match (&self.rank, overlap) {
            (Rank::Time(at), Overlap::Time(by)) if !by.is_zero() => self.like(kind, earlier(*at, by)),
            (Rank::Number(number), Overlap::Count(by)) if by != 0 => {
                // Whoever counts from 0 has nothing before.
                let number = number.saturating_sub(by.into()).max((*number).min(0));
                Self { text: number.to_string(), rank: Rank::Number(number) }
            }
            _ => self.clone(),
        }
    }

    /// The value, or `latest` where it lies after that, to as many digits as the value has: a time to come would hide what happens until
    /// then.
    pub(super) fn not_after(self, kind: As, latest: Timestamp) -> Self {
        match self.rank {
            Rank::Time(at) if latest < at => self.like(kind, latest),
            _ => self,
        }
    }

    /// The later of the two.
    pub(super) fn max(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if self.is_before(&other) => other,
            _ => self,
        }
    }

    /// How it lies to `other`, a value of the same cursor.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (&self.rank, &other.rank) {
            (Rank::Time(one), Rank::Time(other)) => one.cmp(other),
            (Rank::Number(one), Rank::Number(other)) => one.cmp(other),
            _ => self.text.cmp(&other.text),
        }
    }

    /// Whether `other` is the later.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Less
    }

    /// How many digits it has behind the point, at most nine.
    fn digits(&self) -> usize {
        let fraction = self.text.split(['.', ',']).nth(1).unwrap_or_default();
        fraction.bytes().take_while(u8::is_ascii_digit).count().min(9)
    }

    /// Whether it is the time `at`, or less than a second from it.
    pub(super) fn is_about(&self, at: Timestamp) -> bool {
        matches!(self.rank, Rank::Time(own) if own.duration_since(at).unsigned_abs() < Duration::from_secs(1))
    }

    /// `at`, written as this value is: with as many digits behind the point, rounded down. An API that counts in whole seconds need not
    /// understand more.
    fn like(&self, kind: As, at: Timestamp) -> Self {
        let digits = if kind == As::UnixMs { 3 } else { self.digits() };
        let at = if kind == As::Unix { at.max(Timestamp::UNIX_EPOCH) } else { at };
        let at = cut(at, digits);
        let text = match kind {
            As::Unix if digits == 0 => at.as_second().to_string(),
            As::Unix => format!("{}.{:.digits$}", at.as_second(), format!("{:09}", at.subsec_nanosecond())),
            As::UnixMs => at.as_millisecond().to_string(),
            _ if self.text.parse::<Timestamp>().is_err() => format!("{:.digits$}", TimeZone::UTC.to_datetime(at)),
            _ => format!("{at:.digits$}"),
        };
        // What was cut off in writing is cut off here too.
        Self::read(kind, &text).unwrap_or(Self { text, rank: Rank::Time(at) })
    }
}

/// `at`, rounded down to so many digits behind the point, at most nine.
fn cut(at: Timestamp, digits: usize) -> Timestamp {
    let step = 10_i128.pow(u32::try_from(9_usize.saturating_sub(digits)).unwrap_or(0));
    let nanos = at.as_nanosecond();
    Timestamp::from_nanosecond(nanos - nanos.rem_euclid(step)).unwrap_or(at)
}

/// The beginning of a text from outside, fit for a message.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
    if SHOWN_MAX < text.chars().count() {
        out.push('…');
    }
    out
}

/// RFC 3339, or the same without a zone, which is then UTC.
fn time(text: &str) -> Option<Timestamp> {
    let zoned = text.parse::<Timestamp>().ok();
    zoned.or_else(|| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

/// Unix seconds, with a fraction or without, since 1970.
fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || text.ends_with('.') {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Timestamp::new(seconds.parse().ok()?, nanos.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(kind: As, text: &str) -> Value {
        Value::read(kind, text).unwrap()
    }

    const FIVE: Overlap = Overlap::Time(Duration::from_secs(300));

    #[test]
    fn going_back_writes_as_the_api_does() {
        for (kind, text, back) in [
            (As::Time, "2026-01-20T12:00:00Z", "2026-01-20T11:55:00Z"),
            (As::Time, "2026-01-20T13:00:00.25+01:00", "2026-01-20T11:55:00.25Z"),
            (As::Time, "2026-01-20T12:00:00.123456", "2026-01-20T11:55:00.123456"),
            (As::Time, "2026-01-20 12:00:00", "2026-01-20T11:55:00"),
            (As::Unix, "1768910400", "1768910100"),
            (As::Time, "2026-01-20T12:00:00.500Z", "2026-01-20T11:55:00.500Z"),
            (As::Unix, "1768910400.5", "1768910100.5"),
            (As::UnixMs, "1768910400123", "1768910100123"),
        ] {
            assert_eq!(value(kind, text).back(kind, FIVE).text, back);
            assert_eq!(value(kind, text).back(kind, Overlap::Time(Duration::ZERO)).text, text);
        }
        assert_eq!(value(As::Number, "17").back(As::Number, Overlap::Count(2)).text, "15");
        assert_eq!(value(As::Text, "b").back(As::Text, Overlap::None).text, "b");
    }

    #[test]
    fn the_later_is_told_by_what_it_is_and_not_by_how_it_is_written() {
        let before = |kind, one, other| value(kind, one).is_before(&value(kind, other));
        assert!(before(As::Time, "2026-01-20T13:00:00+01:00", "2026-01-20T12:00:01Z"));
        assert!(before(As::Number, "9", "10") && before(As::Text, "10", "9"));
        let later = value(As::Number, "9").max(Some(value(As::Number, "10")));
        assert_eq!(later.text, "10");
    }

    #[test]
    fn a_time_to_come_counts_as_now() {
        let now = "2026-01-20T12:00:00Z".parse().unwrap();
        assert_eq!(value(As::Time, "2099-01-01T00:00:00Z").not_after(As::Time, now).text, "2026-01-20T12:00:00Z");
        assert_eq!(value(As::Time, "2026-01-20T11:00:00Z").not_after(As::Time, now).text, "2026-01-20T11:00:00Z");
        let now = "2026-01-20T12:00:00.987654321Z".parse().unwrap();
        for (kind, text, held) in [
            (As::Time, "2099-01-01T00:00:00Z", "2026-01-20T12:00:00Z"),
            (As::Time, "2099-01-01T00:00:00.000+02:00", "2026-01-20T12:00:00.987Z"),
            (As::Time, "2099-01-01 00:00:00", "2026-01-20T12:00:00"),
            (As::Time, "2099-01-01T00:00:00.5", "2026-01-20T12:00:00.9"),
            (As::Unix, "4070908800", "1768910400"),
            (As::Unix, "4070908800.25", "1768910400.98"),
            (As::UnixMs, "4070908800000", "1768910400987"),
        ] {
            assert_eq!(value(kind, text).not_after(kind, now), value(kind, held), "{text}");
        }
        let half = Overlap::Time(Duration::from_millis(500));
        assert_eq!(value(As::Time, "2026-01-20T12:00:00Z").back(As::Time, half).text, "2026-01-20T11:59:59Z");
        assert_eq!(value(As::Number, "99999999999").not_after(As::Number, now).text, "99999999999");
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (kind, text) in [
            (As::Time, "yesterday"),
            (As::Time, "1768910400"),
            (As::Unix, "1768910400."),
            (As::Unix, "1.2.3"),
            (As::Unix, "2026-01-20T12:00:00Z"),
            (As::UnixMs, "1.5"),
            (As::Number, "1.5"),
            (As::Number, "a"),
            (As::Text, ""),
            (As::Token, "a\nb"),
        ] {
            assert_eq!(Value::read(kind, text), None, "{text}");
        }
        assert!(Value::read(As::Token, &"x".repeat(LEN_MAX + 1)).is_none());
        assert_eq!(Value::of_json(As::Time, &serde_json::json!({})), Err("an object".to_owned()));
        assert_eq!(Value::of_json(As::Time, &serde_json::json!(5)), Err("`5`".to_owned()));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it_and_going_back_never_goes_forward(text in "[0-9TZ:.+ -]{0,30}|.{0,20}", by in 0_u64..1 << 40) {
            for (kind, _) in [(As::Time, 0), (As::Unix, 0), (As::UnixMs, 0), (As::Number, 0), (As::Text, 0), (As::Token, 0)] {
                let Some(value) = Value::read(kind, &text) else { continue };
                let overlap = match kind {
                    As::Number => Overlap::Count(by),
                    As::Text | As::Token => Overlap::None,
                    _ => Overlap::Time(Duration::from_secs(by)),
                };
                let back = value.back(kind, overlap);
                prop_assert!(!value.is_before(&back), "{back:?} {value:?}");
                prop_assert_eq!(Value::read(kind, &back.text), Some(back.clone()));
            }
        }
    }
}
