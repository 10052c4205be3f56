//! Who owns the shards of lanes. The file belongs to one process, so all of them have one owner; the epoch is kept in the file,
//! so that it grows from one process to the next.

use std::time::Duration;

use super::session::{Answer, Session};
use crate::{
    clock::{Timestamp, later},
    store::{Owned, OwnerId, SHARDS},
};

/// Who holds the shards; kept in memory, because it ends with the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    owner: OwnerId,
    until: Timestamp,
}

/// Takes or renews the lease; see [`crate::store::Store::own_shards`].
pub(super) fn own(session: &mut Session, owner: OwnerId, now: Timestamp, lease: Duration) -> Answer<Vec<Owned>> {
    match session.owned.lease {
        Some(held) if held.owner == owner => {}
        Some(held) if now < held.until => return Ok(Ok(Vec::new())),
        _ => session.owned.epoch = Some(next_epoch(session)?),
    }
    let until = later(now, lease);
    session.owned.lease = Some(Lease { owner, until });
    let epoch = session.owned.epoch.unwrap_or_default();
    Ok(Ok((0..SHARDS).map(|shard| Owned { shard, epoch, until }).collect()))
}

fn next_epoch(session: &Session) -> rusqlite::Result<i64> {
    let sql = "UPDATE identity SET epoch = epoch + 1 RETURNING epoch";
    session.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

/// Ends the lease of `owner`; see [`crate::store::Store::release_shards`].
pub(super) fn release(session: &mut Session, owner: OwnerId) -> Answer<()> {
    session.owned.lease = session.owned.lease.filter(|held| held.owner != owner);
    Ok(Ok(()))
}

/// The lease on the shards, and its epoch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shards {
    lease: Option<Lease>,
    /// The last owner's, once there was one in this process.
    epoch: Option<i64>,
}

impl Shards {
    /// Whether an attempt of `epoch` was begun by a former owner.
    pub(super) fn is_stale(self, epoch: i64) -> bool {
        self.epoch.is_some_and(|today| epoch < today)
    }
}
