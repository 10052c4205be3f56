//! Values with a unit: durations, sizes, rates.

use std::time::Duration;

use super::{
    decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
    tree::{Node, Value},
};

/// What durations are called in messages.
const DURATION: &str = "a duration such as 500ms, 30s, 5m, 24h or 7d";
/// What sizes are called in messages.
const SIZE: &str = "a size such as 64KiB, 1MiB or 2GiB";
/// What rates are called in messages.
const RATE: &str = "a rate such as 50/s, 100/m or 1000/h";

impl Shape for Duration {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like("^[0-9]+(ms|s|m|h|d)$", DURATION)
    }
}

impl Decode for Duration {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let parsed = match &node.value {
            Value::String(text) => duration(text),
            _ => None,
        };
        if parsed.is_none() {
            cx.expected::<Self>(DURATION, node);
            if let (Value::Int(number @ 0..), Some(problem)) = (&node.value, cx.problems.last_mut()) {
                problem.help(format!("a number needs its unit: {number}s, {number}m, {number}h or {number}d"));
            }
        }
        parsed
    }
}

/// `500ms`, `30s`, `5m`, `24h`, `7d`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // A century: longer is a mistake, and shorter never overflows a time.
    number.checked_mul(millis).filter(|ms| *ms <= 100 * 366 * 86_400_000).map(Duration::from_millis)
}

/// A number of bytes: `512`, `64KiB`, `1MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Shape for Size {
    fn schema(_: &mut Definitions) -> Schema {
        let bytes = Schema::only_integer().at_least(0);
        Schema::any_of([Schema::like("^[0-9]+(B|KiB|MiB|GiB|TiB)?$", SIZE), bytes])
    }
}

impl Decode for Size {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let parsed = match &node.value {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::String(text) => size(text),
            _ => None,
        };
        parsed.map(Self).or_else(|| cx.expected(SIZE, node))
    }
}

/// `64KiB`, `1MiB`, `2GiB`, or plain bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok())
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

/// So many per second, minute or hour, with a burst: `{rate: 50/s, burst: 100}`. Without `burst`, one second's worth (at least 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// Per how long.
    pub per: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl Rate {
    /// `count` a second, up to `burst` at once.
    pub const fn per_second(count: u32, burst: u32) -> Self {
        Self { count, per: Duration::from_secs(1), burst }
    }
}

const KEYS: Keys = Keys::of(&[
    Field::of::<PerTime>("rate", "How many in which time: a second, a minute or an hour.").required().example("50/s"),
    Field::of::<u32>("burst", "How many may come at once. Without it, as many as come in a second, and one at least.")
        .example("100")
        .such_that(|burst| burst.at_least(1)),
]);

/// `50/s`: a rate without its burst.
struct PerTime;

impl Shape for PerTime {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like("^[0-9]*[1-9][0-9]*/(s|m|min|h)$", RATE)
    }
}

impl Shape for Rate {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("rate", |all| Schema::any_of([PerTime::schema(all), Schema::map(KEYS, all)]))
    }
}

impl Decode for Rate {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        if let Value::String(_) = node.value {
            return rate(node, cx);
        }
        let mut fields = Fields::open(node, "a rate limit", KEYS, cx)?;
        let rate_node = fields.node("rate");
        if rate_node.is_none() {
            fields.missing("rate", cx);
        }
        let parsed = rate_node.and_then(|node| rate(node, cx));
        let burst = fields.optional::<Located<u32>>("burst", cx);
        fields.finish(cx);
        if let Some(Located { value: 0, place }) = burst {
            cx.error("bad-value", place, "a burst of 0 lets nothing through");
            return None;
        }
        let parsed = parsed?;
        Some(Self { burst: burst.map_or(parsed.burst, |burst| burst.value), ..parsed })
    }
}

fn rate(node: &Node, cx: &mut Context) -> Option<Rate> {
    let parsed = match &node.value {
        Value::String(text) => text.split_once('/').and_then(|(count, unit)| {
            let secs = match unit {
                "s" => 1,
                "m" | "min" => 60,
                "h" => 3600,
                _ => return None,
            };
            let count: u32 = count.parse().ok().filter(|count| *count > 0)?;
            Some(Rate { count, per: Duration::from_secs(secs), burst: (count / u32::try_from(secs).unwrap_or(1)).max(1) })
        }),
        _ => None,
    };
    parsed.or_else(|| cx.expected(RATE, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(7 * 86400)));
        assert_eq!(size("64KiB"), Some(65536));
        for bad in ["", "5", "s", "-5s", "1.5h", "99999999999999d", "5 m"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        for bad in ["", "MiB", "1MB", "99999999999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
