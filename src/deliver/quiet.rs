//! When a destination wants to be left alone, and what becomes of its deliveries then.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, OneOrMore, Schema, Shape, Words, nearest},
        tree::Node,
    },
    schedule::Schedule,
    store::Severity,
};

/// `quiet: {schedule, then, except}`.
#[derive(Debug, Clone)]
pub struct Quiet {
    /// When.
    pub schedule: Arc<Schedule>,
    /// What becomes of deliveries then.
    pub then: Then,
    /// The severities that go out all the same.
    pub except: Vec<Severity>,
}

/// What becomes of a delivery in quiet hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It waits until they end.
    Hold,
    /// It goes out when they end, in one message with the others.
    Digest,
    /// It is not sent.
    Drop,
}

impl Words for Then {
    const WORDS: &'static [(&'static str, Self)] = &[("hold", Self::Hold), ("digest", Self::Digest), ("drop", Self::Drop)];
}

const KEYS: Keys = Keys::of(&[
    Field::of::<String>("schedule", "When: an entry of `schedules`.").required().example("nights"),
    Field::of::<Then>("then", "What becomes of deliveries then: they wait, go out as one message when it ends, or are not sent.")
        .default("hold"),
    Field::of::<OneOrMore<Severity>>("except", "Severities that go out all the same.").example(r#"["critical"]"#),
]);

impl Shape for Quiet {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Quiet {
    /// Until when a delivery of this severity is to wait at `now`; `None` when it may go.
    pub(super) fn until(&self, severity: Severity, now: Timestamp) -> Option<Timestamp> {
        if self.except.contains(&severity) {
            return None;
        }
        self.schedule.until(now)
    }

    /// Whether what comes then is gathered.
    pub(super) fn gathers(&self) -> bool {
        self.then == Then::Digest
    }
}

impl Decode for Quiet {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`quiet`", KEYS, cx)?;
        let schedule = match fields.node("schedule") {
            Some(node) => named(node, cx),
            None => {
                fields.missing("schedule", cx);
                None
            }
        };
        let then = fields.or("then", Then::Hold, cx);
        let except = match fields.node("except") {
            Some(node) => OneOrMore::decode(node, cx).map(|OneOrMore(all)| all),
            None => Some(Vec::new()),
        };
        let place = fields.key_place("schedule");
        fields.finish(cx);
        let (schedule, except) = (schedule?, except?);
        // Any time will do: it asks for a whole week.
        if except.is_empty() && schedule.is_always(Timestamp::UNIX_EPOCH) {
            cx.warning("always-quiet", place, format!("schedule `{}` leaves no time in which anything is sent", schedule.name));
        }
        Some(Self { schedule, then, except })
    }
}

/// The schedule that `node` names.
fn named(node: &Node, cx: &mut Context) -> Option<Arc<Schedule>> {
    let name = String::decode(node, cx)?;
    if let Some(declared) = cx.schedules.get(&name) {
        return declared.clone();
    }
    let near = nearest(&name, cx.schedules.keys().map(String::as_str)).filter(|_| !node.referenced).map(str::to_owned);
    let what = if node.referenced { "of a name from the environment".to_owned() } else { format!("`{name}`") };
    cx.error("unknown-schedule", node.place, format!("there is no schedule {what}")).did_you_mean(near.as_deref());
    None
}
