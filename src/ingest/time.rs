//! Times as senders write them. Text in, an instant or nothing out; no text can make it fail.

use std::time::Duration;

use crate::clock::Timestamp;

/// Longest text that is read as a time, in bytes.
const LEN_MAX: usize = 64;
/// Digits of a fraction of a second that count; further ones are cut off.
const FRACTION_MAX: usize = 9;
/// From this number on, a bare number is milliseconds since 1970 (in seconds it would lie beyond the year 5138).
const MILLIS_FROM: i64 = 100_000_000_000;

/// ISO 8601 as Interactor's own verifiers read it: date, `T`, time to the second, any fraction, and `Z` or an offset
/// (`+01:00` or `+0100`). What names no instant (no offset, no time of day) is refused, since the sender's zone is not known.
pub(crate) fn iso(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if LEN_MAX < bytes.len() || !shaped(bytes.get(..19)?, b"dddd-dd-ddTdd:dd:dd") {
        return None;
    }
    let (fraction, offset) = split_fraction(text.get(19..)?)?;
    let offset = offset_of(offset)?;
    format!("{}T{}{fraction}{offset}", text.get(..10)?, text.get(11..19)?).parse().ok()
}

/// Whether `bytes` has the shape of `pattern`: `d` stands for a digit, `T` for `T`, `t` or a space.
fn shaped(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.len() == pattern.len()
        && bytes.iter().zip(pattern).all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b't' | b' '),
            _ => byte == shape,
        })
}

/// The fraction, with its dot and cut to what counts, and what follows it.
fn split_fraction(rest: &str) -> Option<(&str, &str)> {
    let Some(digits) = rest.strip_prefix('.') else {
        return Some(("", rest));
    };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    let kept = rest.get(..=length.min(FRACTION_MAX))?;
    (0 < length).then_some((kept, digits.get(length..)?))
}

fn offset_of(text: &str) -> Option<String> {
    match text {
        "Z" | "z" => Some("Z".to_owned()),
        _ if !text.starts_with(['+', '-']) => None,
        _ if shaped(text.get(1..)?.as_bytes(), b"dd:dd") => Some(text.to_owned()),
        _ if shaped(text.get(1..)?.as_bytes(), b"dddd") => Some(format!("{}:{}", text.get(..3)?, text.get(3..)?)),
        _ => None,
    }
}

/// Seconds since 1970, as decimal digits and nothing else.
pub(crate) fn unix(text: &str) -> Option<Timestamp> {
    let plain = text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten().and_then(|seconds| Timestamp::from_second(seconds).ok())
}

/// A time as a body may hold it: ISO 8601, or a number of seconds or milliseconds since 1970.
pub(crate) fn instant(text: &str) -> Option<Timestamp> {
    iso(text).or_else(|| number(text))
}

fn number(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || 15 < whole.len() || 9 < fraction.len() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    if MILLIS_FROM <= whole {
        return Timestamp::from_millisecond(whole).ok();
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::from_second(whole).ok()?.checked_add(Duration::from_nanos(nanos)).ok()
}

/// Whether `sent` lies within `tolerance` of `now`, before or after.
pub(crate) fn within(now: Timestamp, sent: Timestamp, tolerance: Duration) -> bool {
    now.duration_since(sent).unsigned_abs() <= tolerance
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    #[test]
    fn iso_is_read_as_senders_write_it() {
        let noon = at("2026-01-20T12:00:00Z");
        for good in [
            "2026-01-20T12:00:00Z",
            "2026-01-20t12:00:00z",
            "2026-01-20 12:00:00Z",
            "2026-01-20T12:00:00.000000Z",
            "2026-01-20T12:00:00.0000000009Z",
            "2026-01-20T13:00:00+01:00",
            "2026-01-20T07:00:00-0500",
        ] {
            assert_eq!(iso(good), noon, "{good}");
        }
        assert_eq!(iso("2024-01-15T11:45:00.123456789123Z"), at("2024-01-15T11:45:00.123456789Z"));
    }

    #[test]
    fn what_names_no_instant_is_refused() {
        let long = format!("2026-01-20T12:00:00.{}Z", "1".repeat(60));
        for bad in [
            "",
            "now",
            "2026-01-20",
            "2026-01-20T12:00Z",
            "2026-01-20T12:00:00",
            "2026-01-20T12:00:00.Z",
            "2026-13-20T12:00:00Z",
            "2026-02-30T12:00:00Z",
            "2026-01-20T25:00:00Z",
            "2026-01-20T12:00:00+1:00",
            "2026-01-20T12:00:00+99:99",
            "2026-01-20T12:00:00Z[UTC]",
            " 2026-01-20T12:00:00Z",
            "1768910400",
            "２０２６-01-20T12:00:00Z",
            &long,
        ] {
            assert_eq!(iso(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_seconds_or_milliseconds() {
        let noon = at("2026-01-20T12:00:00Z");
        assert_eq!(unix("1768910400"), noon);
        assert_eq!((instant("1768910400"), instant("1768910400000"), instant("1768910400.0")), (noon, noon, noon));
        assert_eq!(instant("1768910400.5"), at("2026-01-20T12:00:00.5Z"));
        for bad in ["", "-1", "+1", "1e9", "1768910400.0", " 1768910400", "99999999999999999999", "0x1"] {
            assert_eq!(unix(bad), None, "{bad}");
        }
        assert_eq!((instant("1e9"), instant("."), instant("-5")), (None, None, None));
    }

    #[test]
    fn the_tolerance_reaches_both_ways() {
        let (noon, minute) = (at("2026-01-20T12:00:00Z").unwrap(), Duration::from_secs(60));
        assert!(within(noon, at("2026-01-20T12:01:00Z").unwrap(), minute));
        assert!(within(noon, at("2026-01-20T11:59:00Z").unwrap(), minute));
        assert!(!within(noon, at("2026-01-20T11:58:59.999Z").unwrap(), minute));
        assert!(!within(noon, Timestamp::MIN, minute) && !within(Timestamp::MIN, Timestamp::MAX, minute));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text: String, like in "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:]{8}[.0-9]{0,12}[Zz+-]?[0-9:]{0,6}") {
            let _ = (iso(&text), unix(&text), instant(&text), iso(&like), instant(&like));
        }
    }
}
