//! Deliveries: as they are planned, as they are held, as lists show them; and what keeps one from arriving.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Handling, Stage};
use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Envelope, Name},
};

/// A delivery to be kept beside its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// Where it goes.
    pub target: Name,
    /// The rule that planned it first.
    pub rule: Option<Name>,
    /// The template that rule names for it.
    pub template: Option<String>,
    /// What it is ordered by within its lane: a hash of the value that the destination's `order_by` finds. `None`: not ordered.
    pub order_key: Option<[u8; 16]>,
    /// The highest severity of the rules that planned it.
    pub severity: Severity,
    /// What is decided about it before its first attempt, where the rules want anything.
    pub handling: Option<Box<Handling>>,
}

impl NewDelivery {
    /// A delivery to `target` that nothing more is said of.
    pub fn to(target: Name) -> Self {
        Self { target, rule: None, template: None, order_key: None, severity: Severity::Info, handling: None }
    }
}

/// How grave a rule says its events are. `critical` goes before the rest of its lane (`delivery.md`, "Lanes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Severity {
    /// The default.
    #[default]
    Info,
    /// Worth a look.
    Warning,
    /// Goes first.
    Critical,
}

impl Severity {
    /// Every severity and its word.
    pub const ALL: [(&str, Self); 3] = [("info", Self::Info), ("warning", Self::Warning), ("critical", Self::Critical)];

    /// The severity's word in config and API.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, severity)| *severity == self).map_or("", |(word, _)| word)
    }
}

/// Where a delivery stands (`delivery.md`, "States").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its turn, its retry time, or its digest window.
    Pending,
    /// An attempt is under way. Never written: the lane's owner knows it.
    Sending,
    /// Waits for somebody: its lane is paused or broken, its target is gone from `routes.yaml`, or it is quiet. Never written: it is
    /// the lane's state, or a pending one of cause [`Cause::Quiet`].
    Held,
    /// The target took it.
    Delivered,
    /// Given up: a dead letter.
    Dead,
    /// A person cancelled it, or a later event made it pointless.
    Cancelled,
    /// Not sent on purpose: its cause says why. Final, unless it takes the place of one that died.
    Suppressed,
    /// Its event went out inside another delivery: [`Delivery::carrier`].
    Digested,
    /// Older than its `ttl`.
    Expired,
    /// One that only a later version knows, which shares the store: it is left alone.
    Unknown,
}

impl State {
    /// Every state and its word.
    pub const ALL: [(&str, Self); 10] = [
        ("pending", Self::Pending),
        ("sending", Self::Sending),
        ("held", Self::Held),
        ("delivered", Self::Delivered),
        ("dead", Self::Dead),
        ("cancelled", Self::Cancelled),
        ("suppressed", Self::Suppressed),
        ("digested", Self::Digested),
        ("expired", Self::Expired),
        ("unknown", Self::Unknown),
    ];

    /// The state's word in API and CLI.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, state)| *state == self).map_or("", |(word, _)| word)
    }

    /// The state that `word` names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, state)| *state)
    }
}

/// Whose fault a dead letter is, or why a delivery is held, suppressed or cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The target refused it or could not be reached.
    Receiver,
    /// What `routes.yaml` says cannot work: a forbidden address, a moved URL, a target that is gone.
    Config,
    /// Our own fault.
    Internal,
    /// As many of its key went already.
    Throttle,
    /// A person wants none of it for a while.
    Mute,
    /// Quiet hours.
    Quiet,
    /// A later event made it pointless.
    CancelOn,
    /// One that only a later version knows, which shares the store.
    Unknown,
}

impl Cause {
    /// Every cause and its word.
    pub const ALL: [(&str, Self); 8] = [
        ("receiver", Self::Receiver),
        ("config", Self::Config),
        ("internal", Self::Internal),
        ("throttle", Self::Throttle),
        ("mute", Self::Mute),
        ("quiet", Self::Quiet),
        ("cancel_on", Self::CancelOn),
        ("unknown", Self::Unknown),
    ];

    /// The cause that `word` names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, cause)| *cause)
    }

    /// The cause's word in API and CLI.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, cause)| *cause == self).map_or("", |(word, _)| word)
    }
}

/// One event on its way to one target, as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its id, the same on every attempt.
    pub id: DeliveryId,
    /// Where it goes.
    pub target: Name,
    /// Where it stands.
    pub state: State,
    /// Why it is dead, suppressed or cancelled; [`Cause::Quiet`] too while it is held.
    pub cause: Option<Cause>,
    /// The rule that planned it first.
    pub rule: Option<Name>,
    /// The template that rule names.
    pub template: Option<String>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When the next attempt is due; `None` when there is none to come.
    pub due_at: Option<Timestamp>,
    /// When the first attempt began: give-up runs from here.
    pub first_attempt_at: Option<Timestamp>,
    /// How many attempts were made.
    pub attempts: u32,
    /// What the last attempt ended with: `timeout`, `http_503`, `address_forbidden`, ….
    pub error: Option<String>,
    /// The body, once it was made and failed to arrive: it stays the same bytes on every attempt.
    pub body: Option<Rendered>,
    /// See [`NewDelivery::order_key`]; `None` too once a person retried it, which sends it out of order.
    pub order_key: Option<[u8; 16]>,
    /// See [`NewDelivery::severity`].
    pub severity: Severity,
    /// Made by a replay: its envelope says so.
    pub replayed: bool,
    /// Attempts that do not count for the policy: those before a person's last retry, and those that failed at target level.
    pub uncounted: u32,
    /// How long its lane had stood still in all (paused) when its first attempt began, in milliseconds: give-up stands still too.
    pub stood_still_ms: i64,
    /// True when a person retried it out of the order of its key.
    pub out_of_order: bool,
    /// What a person settled its death with.
    pub resolved: Option<Resolution>,
    /// How far the decision about its first attempt has come.
    pub stage: Stage,
    /// The delivery inside which its event goes or went out.
    pub carrier: Option<DeliveryId>,
    /// Why it was suppressed, cancelled or expired, for a person.
    pub reason: Option<String>,
    /// When a person last retried it: its `ttl` runs from there.
    pub renewed_at: Option<Timestamp>,
    /// Whom it is for, where it was one for several that was split.
    pub recipient: Option<String>,
    /// True when it counts as delivered for want of a report.
    pub unconfirmed: bool,
    /// True while its target has taken it and not yet reported what became of it: it is being sent, and due for nothing but that.
    pub awaits_report: bool,
    /// How often something was taken out of the digest it carries: what was made of it before is not to be kept.
    pub unmade: u32,
}

impl Delivery {
    /// The delivery `planned` at `at`, which is due at once.
    pub fn new(id: DeliveryId, planned: NewDelivery, at: Timestamp) -> Self {
        let NewDelivery { target, rule, template, order_key, severity, handling } = planned;
        Self {
            id,
            target,
            state: State::Pending,
            cause: None,
            rule,
            template,
            created_at: at,
            due_at: Some(at),
            first_attempt_at: None,
            attempts: 0,
            error: None,
            body: None,
            order_key,
            severity,
            replayed: false,
            uncounted: 0,
            stood_still_ms: 0,
            out_of_order: false,
            resolved: None,
            stage: if handling.is_some() { Stage::Undecided } else { Stage::Free },
            carrier: None,
            reason: None,
            renewed_at: None,
            recipient: None,
            unconfirmed: false,
            awaits_report: false,
            unmade: 0,
        }
    }
}

/// How a person settled a dead letter without retrying it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub note: String,
}

/// A delivery as it was when something was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Which.
    pub id: DeliveryId,
    /// See [`Delivery::unmade`].
    pub unmade: u32,
}

impl Delivery {
    /// It, as it was read.
    pub fn read(&self) -> Read {
        Read { id: self.id, unmade: self.unmade }
    }
}

/// A body made for one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub body: Bytes,
    /// What earlier attempts left to be done, in the kind's own terms: who of several recipients has it already. Unlike the body it
    /// changes with every attempt.
    pub progress: Option<Bytes>,
    /// Whether any of several recipients has it: however it ends then, somebody was told.
    pub reached: bool,
}

/// A delivery that is due, with its event.
#[derive(Debug, Clone)]
pub struct Due {
    /// The delivery.
    pub delivery: Delivery,
    /// What it delivers.
    pub envelope: Arc<Envelope>,
}

/// A delivery as lists show it, with what it delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRow {
    /// The delivery.
    pub delivery: Delivery,
    /// The event's id, as its sender knows it.
    pub event_id: String,
    /// The event's source.
    pub source: String,
    /// The event's type.
    pub r#type: String,
}

/// What [`super::Store::erase`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Erased {
    /// How many of the events there were.
    pub events: u64,
    /// What waited of them.
    pub ended: Vec<DeliveryId>,
    /// What waits and carried some of them in a digest: whoever has it in hand reads it anew.
    pub carriers: Vec<DeliveryId>,
    /// For whose targets something is due now that was not, or is no more; a name may stand here several times.
    pub targets: Vec<Name>,
}

/// What one slice of [`super::Store::hand_over`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandedOver {
    /// Deliveries that have another target now.
    pub moved: u64,
    /// Deliveries that were cancelled, as the other has their event.
    pub dropped: u64,
}

/// How much may wait for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBound {
    /// What was planned, and last due, at this time or before is beyond it; `None`: nothing is for its age.
    pub cutoff: Option<Timestamp>,
    /// Bytes of events and of bodies made of them; beyond them, the oldest are.
    pub bytes: u64,
    /// Why, for a person.
    pub reason: String,
}

/// What waits for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The target.
    pub target: Name,
    /// Deliveries that are not final.
    pub waiting: u64,
    /// When the oldest of them was planned.
    pub oldest_at: Option<Timestamp>,
    /// Dead letters that nobody has settled.
    pub dead: u64,
}

/// When deliveries are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GaveUp {
    /// What time it is.
    pub now: Timestamp,
    /// How long after its first attempt a delivery is given up, the time its lane stood still left out.
    pub after: Duration,
    /// How long the lane has stood still in all until now, in milliseconds; see [`Delivery::stood_still_ms`].
    pub still_ms: i64,
    /// The epoch under which the lane's shard is owned (see [`super::Store::own_shards`]).
    pub epoch: i64,
}

/// What was given up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GivenUp {
    /// These.
    pub dead: Vec<DeliveryRow>,
    /// When the next one is to be, if the lane does not stand still until then; passed already where more is left to do.
    pub next: Option<Timestamp>,
}
