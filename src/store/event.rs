//! Events as they are handed to the store and known again, and as lists show them.

use std::{sync::Arc, time::Duration};

use super::{Delivery, Endings, NewDelivery};
use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Envelope, EventUid, Name},
};

/// How an event is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupeKey {
    /// First 16 bytes of SHA-256 over what identifies the event within its source (see [`crate::ingest`]).
    pub key: [u8; 16],
    /// First 16 bytes of SHA-256 over the received bytes, to tell a repeat from a changed one.
    pub body: [u8; 16],
    /// How long the key makes repeats duplicates.
    pub remember: Remember,
}

/// How long a dedupe key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remember {
    /// The sender gave the id: a repeat within this time is a duplicate.
    Id(Duration),
    /// The id is a hash of the body: a repeat within this window is a duplicate; later the same bytes are a new event,
    /// whose id gets `-<unix seconds>`. Zero: every repeat is a new event.
    Hash(Duration),
}

/// An event to be kept, with everything that must commit with it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event. Its `id` gets a suffix from the store when an old hash id comes again ([`Remember::Hash`]).
    pub envelope: Envelope,
    /// How it is known again.
    pub dedupe: DedupeKey,
    /// Its deliveries, in the order of the rules.
    pub deliveries: Vec<NewDelivery>,
    /// Names of the rules that matched, in order.
    pub rules: Vec<Name>,
    /// What it ends of deliveries that came before.
    pub endings: Endings,
    /// A setting (key, value) that is kept in the same commit, also when the event is a repeat: how far a source that pulls has come.
    pub setting: Option<(String, String)>,
}

/// What became of an event handed to [`Store::accept`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The event and all its deliveries are on disk.
    New {
        /// Its id here.
        uid: EventUid,
        /// The event's id, suffix included.
        id: String,
    },
    /// Held already: nothing was written but the count.
    Duplicate {
        /// The event's id here: it may be gone meanwhile.
        uid: EventUid,
        /// The event's id as it is held.
        id: String,
        /// True when the repeat had other bytes.
        mismatch: bool,
    },
}

/// An event that has just been committed, for whoever delivers it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its id here.
    pub uid: EventUid,
    /// The event, as kept.
    pub envelope: Arc<Envelope>,
    /// Its deliveries with their ids; all are due at once.
    pub deliveries: Vec<Delivery>,
    /// Deliveries of earlier events that it cancelled, with their targets.
    pub cancelled: Vec<(Name, DeliveryId)>,
}

/// An event as lists and details show it.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Its id here.
    pub uid: EventUid,
    /// The event; in lists its `body` is empty.
    pub envelope: Envelope,
    /// Names of the rules that matched.
    pub rules: Vec<String>,
    /// How many deliveries were planned; none means the verdict `unmatched`.
    pub deliveries: u32,
    /// How many repeats came.
    pub duplicates: u32,
    /// How many of those had other bytes.
    pub mismatches: u32,
    /// When the last repeat came.
    pub last_duplicate_at: Option<Timestamp>,
}
