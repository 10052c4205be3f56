//! `subscriptions` and `event_types` of `routes.yaml`.

use std::time::Duration;

use crate::config::{
    AllowTarget,
    decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Rate, Schema, Shape, Size},
    tree::Node,
};

/// What the file says of subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Private targets that subscriptions may reach, and that may be http; `security.allow_targets` means nothing to them.
    pub allow_targets: Vec<AllowTarget>,
    /// How many one set of namespaces may have. Default 50 (Interactor webhooks guide, "Rate Limits").
    pub limit: u32,
    /// How long a deleted one's deliveries wait for another with its URL. Default 10 min.
    pub grace: Duration,
    /// How much one may hold.
    pub held_max: HeldMax,
    /// How fast what one held is released when it is enabled. Default 10 a second.
    pub release_rate: Rate,
}

/// How much a subscription may hold; beyond either, the oldest expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldMax {
    /// How long. Default 7 d.
    pub age: Duration,
    /// Bytes of the events that wait. Default 100 MiB.
    pub bytes: u64,
}

/// The most subscriptions that one set of namespaces can be allowed.
const LIMIT_MAX: u32 = 100_000;
/// Longest grace: what a deleted subscription holds, nobody asked to be kept.
const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The least that can be held, in bytes: one event of the usual `server.max_body`.
const BYTES_MIN: u64 = 1024 * 1024;

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_targets: Vec::new(),
            limit: 50,
            grace: Duration::from_secs(600),
            held_max: HeldMax::default(),
            release_rate: Rate::per_second(10, 10),
        }
    }
}

impl Default for HeldMax {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 86_400), bytes: 100 * 1024 * 1024 }
    }
}

const KEYS: Keys = Keys::of(&[
    Field::of::<Vec<AllowTarget>>(
        "allow_targets",
        "Private addresses and hosts that subscriptions may name, with http too; those under `security` mean nothing to them.",
    )
    .default("[]")
    .example(r#"["10.1.0.0/16"]"#),
    Field::of::<u32>("limit", "How many subscriptions one set of namespaces may have.")
        .default("50")
        .such_that(|limit| limit.between(1, LIMIT_MAX.into())),
    Field::of::<Duration>("grace", "How long a deleted one's deliveries wait for another with its URL, at most 24h.")
        .default("10m"),
    Field::of::<HeldMax>(
        "held_max",
        "How much one that is disabled, broken or paused holds, and in bytes whatever waits for one; beyond, the oldest expire.",
    ),
    Field::of::<Rate>("release_rate", "How fast what one held is sent once it is enabled again.").default("10/s"),
]);

const HELD_MAX: Keys = Keys::of(&[
    Field::of::<Duration>("age", "For how long.").default("7d"),
    Field::of::<Size>("bytes", "How much of events, at least 1MiB.").default("100MiB"),
]);

impl Shape for Settings {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Shape for HeldMax {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(HELD_MAX, all)
    }
}

impl Settings {
    /// Reads `subscriptions`; `None` stands for its absence.
    pub fn decode(node: Option<&Node>, cx: &mut Context) -> Self {
        let mut settings = Self::default();
        let Some(mut fields) = node.and_then(|node| Fields::open(node, "`subscriptions`", KEYS, cx)) else { return settings };
        settings.allow_targets = fields.optional("allow_targets", cx).unwrap_or_default();
        if let Some(limit) = fields.optional::<Located<u32>>("limit", cx) {
            if !(1..=LIMIT_MAX).contains(&limit.value) {
                cx.error("bad-value", limit.place, format!("`limit` must be between 1 and {LIMIT_MAX}"));
            }
            settings.limit = limit.value;
        }
        if let Some(grace) = fields.optional::<Located<Duration>>("grace", cx) {
            if GRACE_MAX < grace.value {
                cx.error("bad-value", grace.place, "`grace` is at most 24h");
            }
            settings.grace = grace.value;
        }
        if let Some(node) = fields.node("held_max") {
            settings.held_max = HeldMax::decode(node, cx).unwrap_or_default();
        }
        settings.release_rate = fields.optional("release_rate", cx).unwrap_or(settings.release_rate);
        fields.finish(cx);
        settings
    }
}

impl Decode for HeldMax {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut held = Self::default();
        let mut fields = Fields::open(node, "`held_max`", HELD_MAX, cx)?;
        if let Some(age) = fields.optional::<Located<Duration>>("age", cx) {
            if age.value.is_zero() {
                cx.error("bad-value", age.place, "an `age` of 0 would let nothing be held");
            }
            held.age = age.value;
        }
        if let Some(bytes) = fields.optional::<Located<Size>>("bytes", cx) {
            if bytes.value.0 < BYTES_MIN {
                cx.error("bad-value", bytes.place, "`bytes` is at least 1MiB");
            }
            held.bytes = bytes.value.0;
        }
        fields.finish(cx);
        Some(held)
    }
}

/// The most types that `event_types` can name.
const TYPES_MAX: usize = 10_000;
/// Longest name of an event type that is taken for known, in bytes.
pub(super) const TYPE_MAX: usize = 256;

/// `event_types`: what senders will send one day, beside what is known of the seeds and of what was received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventTypesOfFile(pub Vec<String>);

impl Shape for EventTypesOfFile {
    fn schema(all: &mut Definitions) -> Schema {
        Vec::<EventType>::schema(all)
    }
}

/// The name of one event type.
struct EventType;

impl Shape for EventType {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^[^\s*.]+(\.[^\s*.]+)*$", "the type of an event such as invoice.paid")
    }
}

impl EventTypesOfFile {
    /// Reads `event_types`; `None` stands for its absence.
    pub fn decode(node: Option<&Node>, cx: &mut Context) -> Self {
        let Some(node) = node else { return Self::default() };
        let Some(types) = Vec::<Located<String>>::decode(node, cx) else { return Self::default() };
        if TYPES_MAX < types.len() {
            cx.error("bad-value", node.place, format!("more than {TYPES_MAX} types"));
        }
        for given in &types {
            if !is_type(&given.value) {
                cx.error("bad-value", given.place, "a type of events is words between dots, without `*` or spaces")
                    .help("credential.expired");
            } else if given.value.starts_with("relay.") {
                cx.error(
                    "bad-value",
                    given.place,
                    "what begins with `relay.` is told by the relay of itself, and no subscription gets it",
                );
            }
        }
        Self(types.into_iter().map(|given| given.value).collect())
    }
}

/// Whether `text` can be the type of an event that somebody subscribes to by name.
pub(super) fn is_type(text: &str) -> bool {
    let fits = |c: char| !c.is_whitespace() && !c.is_control() && c != '*';
    text.len() <= TYPE_MAX && text.split('.').all(|part| !part.is_empty() && part.chars().all(fits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn read(text: &str) -> (Settings, Vec<String>) {
        let mut cx = Context::of(text);
        let node = yaml::parse(text, &mut cx).unwrap();
        let settings = Settings::decode(Some(&node), &mut cx);
        (settings, cx.problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let (settings, problems) = read("held_max: {age: 1d}\nrelease_rate: 100/s");
        assert_eq!(problems, Vec::<String>::new());
        let held_max = HeldMax { age: Duration::from_secs(86_400), ..HeldMax::default() };
        assert_eq!(settings, Settings { held_max, release_rate: Rate::per_second(100, 100), ..Settings::default() });
        assert_eq!((Settings::default().limit, Settings::default().grace), (50, Duration::from_secs(600)));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let (_, problems) = read("limit: 0\ngrace: 25h\nheld_max: {age: 0s, bytes: 1KiB}");
        assert_eq!(
            problems,
            [
                "`limit` must be between 1 and 100000",
                "`grace` is at most 24h",
                "an `age` of 0 would let nothing be held",
                "`bytes` is at least 1MiB"
            ]
        );
    }

    #[test]
    fn types_are_words_between_dots() {
        for good in ["a", "dataset.updated", "Überweisung.neu", "a.b-c_d"] {
            assert!(is_type(good), "{good}");
        }
        for bad in ["", ".", "a.", "a b", "a.*", "a\nb", &"a".repeat(257)] {
            assert!(!is_type(bad), "{bad}");
        }
    }
}
