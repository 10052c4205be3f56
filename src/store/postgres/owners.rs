//! Who owns the shards of lanes: leases in the store, spread evenly over those who share it.
//!
//! Whoever holds more than its share renews no lease of what is over, and others take it when that ends: so an owner has the time that it
//! always has to finish what it began. What is released, was nobody's, or was a process's that can be seen to have ended
//! ([`super::presence`]) is taken at once, and others are told of it.

use std::time::Duration;

use super::{
    connect::{Answer, Db, Pg},
    news::Said,
    rows::Cells,
    session::{Session, Shared},
};
use crate::{
    clock::{Timestamp, from_ms, later, to_ms},
    store::{Owned, OwnerId, SHARDS},
};

/// Takes or renews leases; see [`crate::store::Store::own_shards`].
pub(super) async fn own(session: &Session<'_>, owner: OwnerId, now: Timestamp, lease: Duration) -> Answer<Vec<Owned>> {
    // Replicas' clocks differ: leases go by the database's.
    let ahead = ahead(session, to_ms(now)).await?;
    let (me, until) = (owner.0.cast_signed(), to_ms(later(now, lease)).saturating_add(ahead));
    let now = to_ms(now).saturating_add(ahead);
    bury(session, me).await?;
    let share = share(session, me, now, until).await?;
    keep(session, me, share).await?;
    session.db.run(RENEW, &[&me, &until]).await?;
    take(session, me, now, until, share).await?;
    let held = session.db.rows(HELD, &[&me, &now]).await?;
    held.iter().map(|row| owned(row, ahead)).collect::<Pg<_>>().map(Ok)
}

/// How far the database's clock is ahead of `now`, in ms; a clock that tests move is everybody's.
async fn ahead(session: &Session<'_>, now: i64) -> Pg<i64> {
    if !session.shared.clock.is_system() {
        return Ok(0);
    }
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $1";
    session.db.first(sql, &[&now]).await?.map_or(Ok(0), |row| row.try_get(0))
}

/// The live owners, this one among them.
const LIVE: &str = "WITH gone AS (DELETE FROM owners WHERE until <= $2 AND owner <> $1),
        here AS (INSERT INTO owners (owner, until, place) VALUES ($1, $3, $4)
            ON CONFLICT (owner) DO UPDATE SET until = excluded.until, place = excluded.place)
    SELECT count(*), count(*) FILTER (WHERE owner < $1) FROM owners WHERE $2 < until AND owner <> $1";

/// How many shards this owner may hold.
async fn share(session: &Session<'_>, me: i64, now: i64, until: i64) -> Pg<i64> {
    let place = session.shared.presence.shows(me.cast_unsigned());
    let Some(row) = session.db.first(LIVE, &[&me, &now, &until, &place]).await? else { return Ok(SHARDS.into()) };
    let (others, before): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    session.shared.counted(others != 0);
    let (all, shards) = (others + 1, i64::from(SHARDS));
    Ok(shards / all + i64::from(before < shards % all))
}

/// Marks what is over this owner's share, and what is no longer: those it has marked before first, so that they are the same each time.
const KEEP: &str = "UPDATE shards s SET leaving = k.n > $2 FROM (
        SELECT shard, row_number() OVER (ORDER BY leaving, shard) AS n FROM shards WHERE owner = $1) AS k
    WHERE s.shard = k.shard AND s.leaving <> (k.n > $2)";

async fn keep(session: &Session<'_>, me: i64, share: i64) -> Pg<()> {
    session.db.run(KEEP, &[&me, &share]).await.map(|_| ())
}

const RENEW: &str = "UPDATE shards SET until = $2 WHERE owner = $1 AND NOT leaving";

/// Takes what is nobody's, as far as this owner's share goes.
const TAKE: &str = "UPDATE shards s SET owner = $1, epoch = $4, until = $3, leaving = false FROM (
        SELECT shard FROM shards WHERE owner IS DISTINCT FROM $1 AND (owner IS NULL OR until <= $2)
            OR owner = $1 AND leaving AND until <= $2
        ORDER BY shard LIMIT greatest(0, $5 - (SELECT count(*) FROM shards WHERE owner = $1 AND NOT leaving))) AS free
    WHERE s.shard = free.shard";
const NEXT_EPOCH: &str = "UPDATE identity SET epoch = epoch + 1 RETURNING epoch";
const FREE: &str =
    "SELECT EXISTS (SELECT 1 FROM shards WHERE (owner IS NULL OR until <= $2) AND (owner IS DISTINCT FROM $1 OR leaving))
    AND (SELECT count(*) FROM shards WHERE owner = $1 AND NOT leaving) < $3";

async fn take(session: &Session<'_>, me: i64, now: i64, until: i64, share: i64) -> Pg<()> {
    let free = session.db.first(FREE, &[&me, &now, &share]).await?;
    if !free.map(|row| row.try_get::<_, bool>(0)).transpose()?.unwrap_or_default() {
        return Ok(());
    }
    let epoch: i64 = session.db.first(NEXT_EPOCH, &[]).await?.map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    session.db.run(TAKE, &[&me, &now, &until, &epoch, &share]).await.map(|_| ())
}

const HELD: &str = "SELECT shard, epoch, until FROM shards WHERE owner = $1 AND $2 < until ORDER BY shard";

fn owned(row: &tokio_postgres::Row, ahead: i64) -> Pg<Owned> {
    let mut cells = Cells::of(row);
    let shard = u16::try_from(cells.int()?).unwrap_or_default();
    Ok(Owned { shard, epoch: cells.int()?, until: from_ms(cells.int()?.saturating_sub(ahead)) })
}

/// Ends the leases of `owner`; see [`crate::store::Store::release_shards`].
pub(super) async fn release(session: &Session<'_>, owner: OwnerId) -> Answer<()> {
    give_up(session, &[owner.0.cast_signed()]).await?;
    Ok(Ok(()))
}

/// Ends the leases of these owners, and tells that.
async fn give_up(session: &Session<'_>, owners: &[i64]) -> Pg<()> {
    let sql = "UPDATE shards SET owner = NULL, until = 0, leaving = false WHERE owner = ANY($1)";
    let freed = session.db.run(sql, &[&owners]).await?;
    session.db.run("DELETE FROM owners WHERE owner = ANY($1)", &[&owners]).await?;
    if freed == 0 { Ok(()) } else { session.say(Said::Freed).await }
}

/// The other owners of one machine.
const NEIGHBOURS: &str = "SELECT owner FROM owners WHERE place = $1 AND owner <> $2";

/// Ends the leases of those of this machine whose processes have ended: they send nothing any more.
async fn bury(session: &Session<'_>, me: i64) -> Pg<()> {
    let gone = gone(session.db, session.shared, me).await?;
    if gone.is_empty() { Ok(()) } else { give_up(session, &gone).await }
}

async fn gone(db: &Db, shared: &Shared, me: i64) -> Pg<Vec<i64>> {
    let Some(place) = shared.presence.place() else { return Ok(Vec::new()) };
    let rows = db.rows(NEIGHBOURS, &[&place, &me]).await?;
    let owners = rows.iter().map(|row| row.try_get(0)).collect::<Pg<Vec<i64>>>()?;
    Ok(owners.into_iter().filter(|owner| shared.presence.is_gone(owner.cast_unsigned())).collect())
}

/// Whether there may be shards to take: the lease on one has ended, or a process of this machine that owned some.
pub(super) async fn are_free(db: &Db, shared: &Shared) -> Pg<bool> {
    let sql = "SELECT EXISTS (SELECT FROM shards
        WHERE until <= coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint))";
    let now = (!shared.clock.is_system()).then(|| to_ms(shared.clock.now()));
    let ended = db.first(sql, &[&now]).await?.map_or(Ok(false), |row| row.try_get(0))?;
    // Nobody is number 0, as far as chance goes.
    Ok(ended || !gone(db, shared, 0).await?.is_empty())
}
