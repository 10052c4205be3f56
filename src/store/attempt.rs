//! Attempts, and what they leave their deliveries as.

use std::time::Duration;

use bytes::Bytes;

use super::{Cause, Rendered};
use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, Name},
};

/// One try of a delivery, as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// The how-manieth, from 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The answer's HTTP status, where one came.
    pub status: Option<u16>,
    /// What went wrong, as a code: `timeout`, `connect`, `dns`, `tls`, `http_503`, `address_forbidden`, …. `None` when delivered.
    pub error: Option<String>,
    /// What went wrong, or was worth a remark, for a person.
    pub detail: Option<String>,
    /// The beginning of the answer's body.
    pub response: Bytes,
    /// What it came to.
    pub next: Next,
    /// The body that was made for it, to be kept for the next attempt.
    pub rendered: Option<Rendered>,
    /// False for a failure at target level: it burns nothing of its delivery's policy, nor begins its clocks.
    pub counts: bool,
    /// See [`Delivery::stood_still_ms`]; kept with the first attempt that counts.
    pub stood_still_ms: i64,
    /// The epoch under which the lane's shard was owned when it began (see [`Store::own_shards`]).
    pub epoch: i64,
    /// Of a digest: [`Delivery::unmade`] as it was read. Where more was taken out of it since, neither what was made for the attempt is
    /// kept nor what was answered, which may repeat it.
    pub unmade: Option<u32>,
    /// Its delivery has an order key: the next one waits for its record.
    pub ordered: bool,
}

impl Attempt {
    /// The same without what was made for it and what was answered.
    pub(super) fn bare(&self) -> Self {
        Self { detail: None, response: Bytes::new(), rendered: None, ..self.clone() }
    }
}

/// What an attempt leaves its delivery as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Delivered.
    Delivered,
    /// Pending, due again at this time.
    Retry(Timestamp),
    /// Taken, and reported on later: pending and in nobody's queue, until a report comes or it counts as delivered at this time.
    Awaits(Timestamp),
    /// A dead letter.
    Dead(Cause),
}

/// What one call of [`super::Store::unreported`] settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unreported {
    /// Which deliveries, and of which targets.
    pub settled: Vec<(Name, DeliveryId)>,
    /// When the next one has waited for long enough.
    pub next: Option<Timestamp>,
}
