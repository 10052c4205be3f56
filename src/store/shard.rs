//! Who works on which lanes.

use crate::{clock::Timestamp, envelope::Name};

/// The shards lanes hash into.
pub const SHARDS: u16 = 256;

/// The shard of the lane of `target`: the first byte of SHA-256 over its name.
pub fn shard_of(target: &Name) -> u16 {
    u16::from(crate::sign::sha256(&[target.as_str().as_bytes()])[0])
}

/// Who owns shards: drawn at random when a relay starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerId(pub u64);

/// A shard this relay may work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Which: below [`SHARDS`].
    pub shard: u16,
    /// Grows with every change of owner: what a former owner still reports is known by it.
    pub epoch: i64,
    /// Until when, unless it is renewed.
    pub until: Timestamp,
}
