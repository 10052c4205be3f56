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

/// What a replica says of itself to those it shares a store with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Shards with lanes that it lacks: it leaves them to who knows those, where there is one.
    pub lacks: Vec<u16>,
    /// What the store does not read.
    pub doc: String,
}

/// A replica that shares the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Who it is.
    pub owner: OwnerId,
    /// What it says of itself: [`Profile::doc`].
    pub doc: String,
    /// When it last said that it is there.
    pub seen_at: Timestamp,
    /// The shards it owns.
    pub shards: Vec<u16>,
}

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
