//! When a delivery is tried again: policies, and the next time after an attempt that failed. Pure; chance is passed in.
//!
//! Facts: `delivery.md`, "Policies" and "Clocks"; Interactor webhooks guide, "Retry Policy"; agent webhooks guide,
//! "Webhook Settings" (3 retries, 10 at most).

use std::time::Duration;

use crate::{
    clock::{Timestamp, later, to_ms},
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape, Words},
        tree::{Node, Value},
    },
};

/// How often, how far apart and how long a delivery is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long is waited between attempts.
    pub steps: Steps,
    /// How chance changes a step.
    pub jitter: Jitter,
    /// How long after its first attempt a delivery is given up.
    pub give_up_after: Option<Duration>,
    /// How many attempts are made at most, the first included.
    pub max_attempts: Option<u32>,
}

/// The waits between attempts.
#[derive(Debug, Clone, PartialEq)]
pub enum Steps {
    /// `initial`, then each `factor` times as long as the one before, up to `max`.
    Growing {
        /// The first wait.
        initial: Duration,
        /// How much longer each wait is; at least 1.
        factor: f64,
        /// The longest wait.
        max: Duration,
    },
    /// These, one after the other; the last is repeated.
    Fixed(&'static [Duration]),
}

/// How chance changes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Not at all.
    None,
    /// To between half and the whole of it.
    Equal,
    /// To between nothing and the whole of it.
    Full,
}

impl Words for Jitter {
    const WORDS: &'static [(&'static str, Self)] = &[("none", Self::None), ("equal", Self::Equal), ("full", Self::Full)];
}

const STEP_MAX: Duration = Duration::from_secs(3600);
/// Interactor's own waits: attempts at 0, 1 min, 6 min, 36 min and 2 h 36 min.
const INTERACTOR_STEPS: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(1800), Duration::from_secs(7200)];
/// The agent platform allows 10 retries at most.
const AGENT_ATTEMPTS_MAX: u32 = 11;

impl Policy {
    /// Initial 5 s, factor 2, max 1 h, equal jitter, given up after 24 h: the default.
    pub fn honeyframe() -> Self {
        Self {
            steps: Steps::Growing { initial: Duration::from_secs(5), factor: 2.0, max: STEP_MAX },
            jitter: Jitter::Equal,
            give_up_after: Some(Duration::from_secs(24 * 3600)),
            max_attempts: None,
        }
    }

    /// Attempts at 0, 1 min, 6 min, 36 min, 2 h 36 min, no jitter.
    pub fn interactor() -> Self {
        Self { steps: Steps::Fixed(&INTERACTOR_STEPS), jitter: Jitter::None, give_up_after: None, max_attempts: Some(5) }
    }

    /// Three retries, initial 10 s, factor 2.
    pub fn agent() -> Self {
        Self {
            steps: Steps::Growing { initial: Duration::from_secs(10), factor: 2.0, max: STEP_MAX },
            jitter: Jitter::None,
            give_up_after: None,
            max_attempts: Some(4),
        }
    }

    /// When a delivery is due again after `made` attempts, the last of which failed at `now`; `None`: it is given up.
    ///
    /// `first` is when its first attempt began, `not_before` the target's own wish (`Retry-After`), `random` lies in `0..1`.
    /// When the next time lies past give-up, one last attempt is due at give-up time.
    pub fn next(
        &self,
        made: u32,
        first: Timestamp,
        now: Timestamp,
        not_before: Option<Timestamp>,
        random: f64,
    ) -> Option<Timestamp> {
        if self.max_attempts.is_some_and(|max| max <= made) {
            return None;
        }
        let step = self.jitter.apply(self.steps.after(made), random);
        let wanted = not_before.map_or(later(now, step), |at| at.max(later(now, step)));
        let Some(give_up) = self.give_up_at(first) else { return Some(wanted) };
        (!self.given_up(first, now)).then(|| wanted.min(give_up))
    }

    /// Whether a delivery first tried at `first` is past its give-up time at `now`.
    pub fn given_up(&self, first: Timestamp, now: Timestamp) -> bool {
        // The store keeps milliseconds: a last attempt due at give-up time may begin and end a fraction before it.
        self.give_up_at(first).is_some_and(|give_up| to_ms(give_up) <= to_ms(now))
    }

    fn give_up_at(&self, first: Timestamp) -> Option<Timestamp> {
        self.give_up_after.map(|after| later(first, after))
    }
}

impl Steps {
    /// The wait after attempt `made` (from 1), before chance changes it.
    pub fn after(&self, made: u32) -> Duration {
        let index = made.saturating_sub(1);
        match self {
            Self::Fixed(steps) => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                steps.get(index).or(steps.last()).copied().unwrap_or_default()
            }
            Self::Growing { initial, factor, max } => {
                let grown = initial.as_secs_f64() * factor.powf(f64::from(index));
                Duration::try_from_secs_f64(grown).map_or(*max, |step| step.min(*max))
            }
        }
    }
}

impl Jitter {
    fn apply(self, step: Duration, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        match self {
            Self::None => step,
            Self::Equal => step.mul_f64(0.5 + random / 2.0),
            Self::Full => step.mul_f64(random),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Preset {
    Honeyframe,
    Interactor,
    Agent,
}

impl Words for Preset {
    const WORDS: &'static [(&'static str, Self)] =
        &[("honeyframe", Self::Honeyframe), ("interactor", Self::Interactor), ("agent", Self::Agent)];
}

const KEYS: Keys = Keys::of(&[
    Field::of::<Preset>("preset", "What it begins with; the other keys change it.").default("honeyframe"),
    Field::of::<Duration>("initial", "The wait after the first attempt.").example("5s"),
    Field::of::<f64>("factor", "By how much each wait is longer than the one before; 1 or more.")
        .example("3")
        .such_that(|factor| factor.at_least(1)),
    Field::of::<Duration>("max", "The longest wait between two attempts.").example("1h"),
    Field::of::<Jitter>("jitter", "How chance spreads the waits: `none`, `equal` (half of the wait stands) or `full`.")
        .example("full"),
    Field::of::<Duration>("give_up_after", "How long after the first attempt the last one is made.").example("24h"),
    Field::of::<u32>("max_attempts", "How many attempts are made at most, the first one among them.")
        .example("6")
        .such_that(|most| most.at_least(1)),
]);

impl Shape for Policy {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("retry", |all| Schema::any_of([Preset::schema(all), Schema::map(KEYS, all)]))
    }
}

impl Preset {
    fn policy(self) -> Policy {
        match self {
            Self::Honeyframe => Policy::honeyframe(),
            Self::Interactor => Policy::interactor(),
            Self::Agent => Policy::agent(),
        }
    }
}

impl Decode for Policy {
    /// `honeyframe`, or a map: `{preset: agent, max_attempts: 6}`; without `preset` the rest overrides `honeyframe`.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        if let Value::String(_) = node.value {
            return Preset::decode(node, cx).map(Preset::policy);
        }
        let mut fields = Fields::open(node, "a retry policy", KEYS, cx)?;
        let preset = match fields.node("preset") {
            Some(node) => Preset::decode(node, cx)?,
            None => Preset::Honeyframe,
        };
        let mut policy = preset.policy();
        policy.override_steps(&mut fields, cx);
        policy.override_limits(preset, &mut fields, cx);
        fields.finish(cx);
        Some(policy)
    }
}

impl Policy {
    fn override_steps(&mut self, fields: &mut Fields<'_>, cx: &mut Context) {
        let places = ["initial", "factor", "max"].map(|name| (name, fields.node(name), fields.key_place(name)));
        let Steps::Growing { initial, factor, max } = &mut self.steps else {
            for (name, _, place) in places.into_iter().filter(|(_, node, _)| node.is_some()) {
                cx.error("bad-value", place, format!("preset `interactor` has waits of its own: `{name}` changes nothing"));
            }
            return;
        };
        *initial = fields.optional("initial", cx).unwrap_or(*initial);
        *factor = fields.optional("factor", cx).unwrap_or(*factor);
        *max = fields.optional("max", cx).unwrap_or(*max);
        if *factor < 1.0 {
            cx.error("bad-value", fields.key_place("factor"), "`factor` must be at least 1");
        }
        if *max < *initial {
            let place = if fields.node("max").is_some() { fields.key_place("max") } else { fields.key_place("initial") };
            cx.error("bad-value", place, "`max` must not be shorter than `initial`");
        }
    }

    fn override_limits(&mut self, preset: Preset, fields: &mut Fields<'_>, cx: &mut Context) {
        self.jitter = fields.optional("jitter", cx).unwrap_or(self.jitter);
        self.give_up_after = fields.optional("give_up_after", cx).or(self.give_up_after);
        let Some(Located { value, place }) = fields.optional::<Located<u32>>("max_attempts", cx) else { return };
        if value == 0 {
            cx.error("bad-value", place, "`max_attempts` counts the first attempt: at least 1");
        } else if preset == Preset::Agent && AGENT_ATTEMPTS_MAX < value {
            cx.error("bad-value", place, "preset `agent` makes 10 retries at most: `max_attempts` up to 11");
        }
        self.max_attempts = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::deliver::testing::decode;

    const START: &str = "2026-01-20T12:00:00Z";

    /// Seconds after the first attempt at which attempts are made when every one fails at once.
    fn attempts(policy: &Policy, random: f64) -> Vec<i64> {
        let first: Timestamp = START.parse().unwrap();
        let (mut now, mut at) = (first, vec![0]);
        while let Some(next) = policy.next(u32::try_from(at.len()).unwrap(), first, now, None, random) {
            at.push(next.as_second() - first.as_second());
            now = next;
        }
        at
    }

    #[test]
    fn interactor_keeps_the_seeds_times() {
        assert_eq!(attempts(&Policy::interactor(), 0.3), [0, 60, 360, 2160, 9360]);
    }

    #[test]
    fn agent_retries_three_times() {
        assert_eq!(attempts(&Policy::agent(), 0.0), [0, 10, 30, 70]);
    }

    #[test]
    fn honeyframe_grows_to_an_hour_and_tries_last_at_give_up_time() {
        let times = attempts(&Policy::honeyframe(), 1.0);
        assert_eq!(times[..5], [0, 5, 15, 35, 75]);
        assert_eq!(times.last(), Some(&86_400));
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 3600));
    }

    #[test]
    fn the_targets_wish_counts_when_it_is_later() {
        let first: Timestamp = START.parse().unwrap();
        let at = |secs| later(first, Duration::from_secs(secs));
        let next = |wish| Policy::agent().next(1, first, first, Some(at(wish)), 0.0);
        assert_eq!((next(3), next(300)), (Some(at(10)), Some(at(300))));
    }

    #[test]
    fn a_last_attempt_that_ends_within_the_same_millisecond_is_the_last() {
        let first: Timestamp = "2026-01-20T12:00:00.0009Z".parse().unwrap();
        let policy = Policy { give_up_after: Some(Duration::from_secs(1)), ..Policy::honeyframe() };
        assert_eq!(policy.next(1, first, "2026-01-20T12:00:01.0001Z".parse().unwrap(), None, 0.0), None);
    }

    #[test]
    fn policies_are_read_with_presets_and_overrides() {
        let good = |yaml| decode::<Policy>(yaml).unwrap();
        assert_eq!(good("{preset: honeyframe}"), Policy::honeyframe());
        assert_eq!(good("interactor"), Policy::interactor());
        assert_eq!(good("{preset: agent, max_attempts: 11}").max_attempts, Some(11));
        let custom = good("{initial: 5s, factor: 3, max: 1h, jitter: full, give_up_after: 24h}");
        assert_eq!(attempts(&custom, 1.0)[..4], [0, 5, 20, 65]);
    }

    #[test]
    fn policies_that_cannot_be_meant_are_errors() {
        let message = |yaml| decode::<Policy>(yaml).unwrap_err().join("; ");
        insta::assert_snapshot!(message("{preset: agent, max_attempts: 12}"), @"preset `agent` makes 10 retries at most: `max_attempts` up to 11");
        insta::assert_snapshot!(message("{preset: interactor, initial: 5s}"), @"preset `interactor` has waits of its own: `initial` changes nothing");
        insta::assert_snapshot!(message("{initial: 2h}"), @"`max` must not be shorter than `initial`");
        insta::assert_snapshot!(message("{factor: 0.5, jiter: none, max_attempts: 0}"), @"`factor` must be at least 1; `max_attempts` counts the first attempt: at least 1; a retry policy has no key `jiter`");
    }

    proptest! {
        #[test]
        fn the_next_time_is_never_past_nor_beyond_give_up(
            made: u32, initial in 0u64..10_000_000, factor in 1.0f64..1e9, max in 0u64..1 << 40, give_up in 1u64..1 << 40,
            waited in 0u64..1 << 40, wish in proptest::option::of(0u64..1 << 40), random: f64, which in 0usize..3,
        ) {
            let policy = Policy {
                steps: Steps::Growing { initial: Duration::from_millis(initial), factor, max: Duration::from_millis(max) },
                jitter: Jitter::WORDS[which].1,
                give_up_after: Some(Duration::from_millis(give_up)),
                max_attempts: None,
            };
            let first: Timestamp = START.parse().unwrap();
            let now = later(first, Duration::from_millis(waited));
            let wish = wish.map(|ms| later(first, Duration::from_millis(ms)));
            match policy.next(made, first, now, wish, random) {
                Some(next) => prop_assert!(now <= next && next <= later(first, Duration::from_millis(give_up))),
                None => prop_assert!(give_up <= waited),
            }
        }
    }
}
