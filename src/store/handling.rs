//! What is decided about a delivery before its first attempt: what the rules want, as it was fixed when the delivery was planned;
//! what the owner of its lane asks; and what comes of that.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Envelope},
};

use super::{Cause, State};

/// The first half of SHA-256 over a rule and the value that the path of its throttle, digest or `cancel_on` finds.
pub type Key = [u8; 16];

/// What the rules that planned a delivery want done with it. Where there are several, only what every one of them wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Handling {
    /// One per rule; the delivery is suppressed when every one of them is full. None: it is not throttled.
    pub throttles: Vec<Throttle>,
    /// The digest it goes out in.
    pub digest: Option<Digest>,
    /// One per rule; the delivery is cancelled once every one of them was named by a later event. None: it is not.
    pub cancels: Vec<Key>,
}

/// A rule's `throttle`, for one value of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// What is counted together within a lane.
    pub key: Key,
    /// How many may go.
    pub limit: u32,
    /// Within how long.
    pub per: Duration,
}

/// A rule's `digest`, for one value of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// What goes out together within a lane.
    pub key: Key,
    /// How long is gathered from the first one on.
    pub window: Duration,
    /// How many go out at once at most: then the digest does not wait for its window to end.
    pub max: u32,
}

impl Handling {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.throttles.is_empty() && self.digest.is_none() && self.cancels.is_empty()
    }
}

/// What an event ends besides making deliveries: committed with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endings {
    /// Throttles (`reset_on`) whose window ends.
    pub resets: Vec<Key>,
    /// Keys (`cancel_on`) whose waiting deliveries are cancelled.
    pub cancels: Vec<Key>,
}

impl Endings {
    /// Whether it ends nothing.
    pub fn is_empty(&self) -> bool {
        self.resets.is_empty() && self.cancels.is_empty()
    }
}

/// How far the decision about a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Stage {
    /// Its rules want nothing.
    #[default]
    Free,
    /// Nothing is decided.
    Undecided,
    /// It may go.
    Passed,
    /// It carries a digest that is still gathering.
    Gathering,
    /// It is gathered, or went out, in a digest that another carries.
    Gathered,
    /// It carries a digest that gathers no more.
    Carrying,
}

/// What the owner of a lane asks about one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which.
    pub delivery: DeliveryId,
    /// What to do with it.
    pub wish: Wish,
}

/// What is to be done with a delivery that is about to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// It is older than its `ttl`; says so.
    Expire(String),
    /// A mute holds it back, for this reason.
    Suppress(Cause, String),
    /// Throttle and digest decide; then the quiet hours.
    Decide(Hush),
}

/// What the quiet hours of a target make of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hush {
    /// Nothing: it is not quiet, or not for this one.
    None,
    /// It waits until then.
    Hold(Timestamp),
    /// It gathers with others of this key until then.
    Gather(Key, Timestamp),
    /// It is not sent, for this reason.
    Drop(String),
}

/// What comes of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may be tried now; so many others go out with it.
    Go(u32),
    /// It waits, or what carries it does, until then.
    Waits(Timestamp),
    /// It is final now, without having been tried.
    Ended {
        /// As what.
        state: State,
        /// Why, where the state alone does not say.
        cause: Option<Cause>,
        /// How many others ended with it: what it had gathered.
        others: u32,
    },
    /// It was final before, or is no longer this owner's to decide about.
    Over,
}

/// What throttles and digests would make of a delivery that is decided about now; see [`super::Store::foresee`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// It would be suppressed.
    pub throttled: Option<Full>,
    /// It would be gathered.
    pub gathered: Option<Gathered>,
}

/// A throttle that lets nothing more go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// How many went within how long, for a person.
    pub reason: String,
    /// When the next one of its key may go.
    pub until: Timestamp,
}

/// What a delivery would be gathered into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathered {
    /// When that goes out.
    pub until: Timestamp,
    /// How many are in it already; 0: it begins with this one.
    pub others: u32,
}

/// What goes out in one digest.
#[derive(Debug, Clone)]
pub struct Digested {
    /// Deliveries and their events in the order of acceptance, the one that carries them first.
    pub events: Vec<(DeliveryId, Arc<Envelope>)>,
    /// How many more there are.
    pub omitted: u32,
}

/// Most deliveries that one digest gathers, whatever its `max` or its window.
pub const DIGEST_MAX: u32 = 10_000;
/// Most events of a digest that are read to be told of; the others are counted.
pub const DIGEST_READ_MAX: u32 = 100;
