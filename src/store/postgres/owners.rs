//! Who owns the shards of lanes: leases in the store, spread evenly over those who share it.
//!
//! Whoever holds more than its share renews no lease of what is over, and others take it when that ends: so an owner has the time that it
//! always has to finish what it began. What is released, was nobody's, or was a process's that can be seen to have ended
//! ([`super::presence`]) is taken at once, and others are told of it. A shard with a lane that an owner lacks (its configuration is older)
//! goes like what is over its share to one that knows the lane, as long as there is one.

use std::time::Duration;

use super::{
    connect::{Answer, Db, Pg},
    rows::Cells,
    session::{Session, Shared},
    spread::{Owner, Spread},
    text::Text,
};
use crate::{
    clock::{Timestamp, from_ms, later, to_ms},
    store::{Owned, OwnerId, Profile, Replica},
};

/// How much longer than a lease one may still last, in ms: clocks are read one after the other.
const SLACK_MS: i64 = 5000;
/// Longer than any lease, in ms: what ends later was written when the database's clock was ahead of what it is now, and is nobody's.
pub(super) const LEASE_MAX_MS: i64 = 60_000;

/// Takes or renews leases; see [`crate::store::Store::own_shards`].
pub(super) async fn own(session: &Session<'_>, owner: OwnerId, now: Timestamp, lease: Duration) -> Answer<Vec<Owned>> {
    // Replicas' clocks differ: leases go by the database's.
    let ahead = ahead(session.db, session.shared, to_ms(now)).await?;
    let (me, until) = (owner.0.cast_signed(), to_ms(later(now, lease)).saturating_add(ahead));
    let now = to_ms(now).saturating_add(ahead);
    session.db.run(CUT, &[&until, &until.saturating_add(SLACK_MS)]).await?;
    bury(session, me).await?;
    let spread = spread(session, me, now, until).await?;
    keep(session, me, &spread).await?;
    session.db.run(RENEW, &[&me, &until]).await?;
    take(session, me, now, until, &spread).await?;
    let held = session.db.rows(HELD, &[&me, &now]).await?;
    held.iter().map(|row| owned(row, ahead)).collect::<Pg<_>>().map(Ok)
}

/// Cuts leases that end later than any that is given now: the database's clock was set back since, or another server took over whose is
/// behind. Who holds one, were it alive, believes in no more than that either, and has it renewed before.
const CUT: &str = "WITH present AS (UPDATE owners SET until = $1 WHERE $2 < until) UPDATE shards SET until = $1 WHERE $2 < until";

/// How far the database's clock is ahead of `now`, in ms, when it may have been `now` for a while; a clock that tests move is everybody's.
async fn ahead(db: &Db, shared: &Shared, now: i64) -> Pg<i64> {
    if !shared.clock.is_system() {
        return Ok(0);
    }
    let before = to_ms(shared.clock.now());
    let row = db.first("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]).await?;
    let Some(row) = row else { return Ok(0) };
    let there: i64 = row.try_get(0)?;
    shared.shows(there, before, to_ms(shared.clock.now()));
    Ok(there.saturating_sub(now))
}

/// The live owners that do not leave, this one among them, and the shards with lanes that each lacks.
const LIVE: &str = "WITH gone AS (DELETE FROM owners WHERE until <= $2 AND owner <> $1),
        here AS (INSERT INTO owners (owner, until, seen_at, place) VALUES ($1, $3, $2, $4) ON CONFLICT (owner) DO UPDATE
            SET until = excluded.until, seen_at = excluded.seen_at, place = excluded.place, leaving = false)
    SELECT owner, lacks FROM owners WHERE $2 < until AND NOT leaving OR owner = $1";

async fn spread(session: &Session<'_>, me: i64, now: i64, until: i64) -> Pg<Spread> {
    let place = session.shared.presence.shows(me.cast_unsigned());
    let rows = session.db.rows(LIVE, &[&me, &now, &until, &place]).await?;
    let owner = |row: &tokio_postgres::Row| Ok(Owner { id: row.try_get(0)?, lacks: row.try_get(1)? });
    let mut live = rows.iter().map(owner).collect::<Pg<Vec<_>>>()?;
    // What a statement writes it does not see.
    if !live.iter().any(|owner| owner.id == me) {
        live.push(Owner { id: me, lacks: Vec::new() });
    }
    session.shared.counted(live.len() != 1);
    Ok(Spread::of(me, &live))
}

/// Marks what is over this owner's share, and what is no longer: those it has marked before first, so that they are the same each time.
const KEEP: &str = "UPDATE shards s SET leaving = k.leaves FROM (
        SELECT shard, shard = ANY($4::smallint[]) OR row_number() OVER (
            PARTITION BY shard = ANY($3::smallint[])
            ORDER BY shard = ANY($4::smallint[]), array_position($3::smallint[], shard), leaving, shard
        ) > CASE WHEN shard = ANY($3::smallint[]) THEN $5::bigint ELSE $2::bigint END AS leaves
        FROM shards WHERE owner = $1) AS k
    WHERE s.shard = k.shard AND s.leaving <> k.leaves";

async fn keep(session: &Session<'_>, me: i64, spread: &Spread) -> Pg<()> {
    let Spread { first, never, first_share, rest_share } = spread;
    session.db.run(KEEP, &[&me, rest_share, first, never, first_share]).await.map(|_| ())
}

const RENEW: &str = "UPDATE shards SET until = $2 WHERE owner = $1 AND NOT leaving";

/// What is nobody's and this owner's to take: of those that others lack whatever is free, of the rest as far as its share goes.
const FREE: &str = "SELECT f.shard FROM (
        SELECT shard, shard = ANY($3::smallint[]) AS first, owner IS NOT DISTINCT FROM $1 AS mine,
            row_number() OVER (PARTITION BY shard = ANY($3::smallint[]) ORDER BY owner IS NOT DISTINCT FROM $1, shard) AS n
        FROM shards WHERE (owner IS NULL OR until <= $2) AND (owner IS DISTINCT FROM $1 OR leaving)
            AND shard <> ALL($4::smallint[])) AS f
    CROSS JOIN (SELECT count(*) FILTER (WHERE shard = ANY($3::smallint[])) AS first,
            count(*) FILTER (WHERE shard <> ALL($3::smallint[])) AS rest FROM shards WHERE owner = $1 AND NOT leaving) AS held
    WHERE CASE WHEN f.first THEN NOT f.mine OR f.n <= $5::bigint - held.first ELSE f.n <= $6::bigint - held.rest END
    ORDER BY f.shard";
const NEXT_EPOCH: &str = "UPDATE identity SET epoch = epoch + 1 RETURNING epoch";
const TAKE: &str = "UPDATE shards SET owner = $1, epoch = $3, until = $2, leaving = false WHERE shard = ANY($4::smallint[])";

async fn take(session: &Session<'_>, me: i64, now: i64, until: i64, spread: &Spread) -> Pg<()> {
    let Spread { first, never, first_share, rest_share } = spread;
    let free = session.db.rows(FREE, &[&me, &now, first, never, first_share, rest_share]).await?;
    let free = free.iter().map(|row| row.try_get(0)).collect::<Pg<Vec<i16>>>()?;
    if free.is_empty() {
        return Ok(());
    }
    let epoch: i64 = session.db.first(NEXT_EPOCH, &[]).await?.map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    session.db.run(TAKE, &[&me, &until, &epoch, &free]).await.map(|_| ())
}

const HELD: &str = "SELECT shard, epoch, until FROM shards WHERE owner = $1 AND $2 < until ORDER BY shard";

fn owned(row: &tokio_postgres::Row, ahead: i64) -> Pg<Owned> {
    let mut cells = Cells::of(row);
    let shard = u16::try_from(cells.int()?).unwrap_or_default();
    Ok(Owned { shard, epoch: cells.int()?, until: from_ms(cells.int()?.saturating_sub(ahead)) })
}

/// Renews the leases of an owner that leaves on some of its shards, and ends the others; see [`crate::store::Store::keep_shards`].
pub(super) async fn keep_only(
    session: &Session<'_>,
    owner: OwnerId,
    kept: &[u16],
    now: Timestamp,
    lease: Duration,
) -> Answer<Vec<Owned>> {
    let ahead = ahead(session.db, session.shared, to_ms(now)).await?;
    let (me, until) = (owner.0.cast_signed(), to_ms(later(now, lease)).saturating_add(ahead));
    let now = to_ms(now).saturating_add(ahead);
    let kept: Vec<i16> = kept.iter().filter_map(|shard| i16::try_from(*shard).ok()).collect();
    let sql = "UPDATE owners SET until = $2, seen_at = $3, leaving = true WHERE owner = $1";
    session.db.run(sql, &[&me, &until, &now]).await?;
    let sql = "UPDATE shards SET owner = NULL, until = 0, leaving = false WHERE owner = $1 AND shard <> ALL($2::smallint[])";
    if session.db.run(sql, &[&me, &kept]).await? != 0 {
        session.tell_freed();
    }
    // Also those that it was handing over: what is under way there ends sooner than anybody could do it again.
    session.db.run("UPDATE shards SET until = $2 WHERE owner = $1", &[&me, &until]).await?;
    let held = session.db.rows(HELD, &[&me, &now]).await?;
    held.iter().map(|row| owned(row, ahead)).collect::<Pg<_>>().map(Ok)
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
    if freed != 0 {
        session.tell_freed();
    }
    Ok(())
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

/// Keeps what `owner` says of itself; see [`crate::store::Store::present`].
pub(super) async fn present(
    session: &Session<'_>,
    owner: OwnerId,
    profile: &Profile,
    now: Timestamp,
    lease: Duration,
) -> Answer<()> {
    let ahead = ahead(session.db, session.shared, to_ms(now)).await?;
    let (me, until) = (owner.0.cast_signed(), to_ms(later(now, lease)).saturating_add(ahead));
    let lacks: Vec<i16> = profile.lacks.iter().filter_map(|shard| i16::try_from(*shard).ok()).collect();
    let sql = "INSERT INTO owners (owner, until, seen_at, lacks, doc) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (owner) DO UPDATE
        SET until = excluded.until, seen_at = excluded.seen_at, lacks = excluded.lacks, doc = excluded.doc";
    let seen_at = to_ms(now).saturating_add(ahead);
    session.db.run(sql, &[&me, &until, &seen_at, &lacks, &Text::of(&profile.doc)]).await?;
    Ok(Ok(()))
}

const REPLICAS: &str = "SELECT o.owner, o.doc, o.seen_at,
        ARRAY(SELECT s.shard FROM shards s WHERE s.owner = o.owner AND $1 < s.until ORDER BY s.shard)
    FROM owners o WHERE $1 < o.until ORDER BY o.owner";

/// Who shares the store; see [`crate::store::Store::replicas`].
pub(super) async fn replicas(db: &Db, shared: &Shared, now: Timestamp) -> Pg<Vec<Replica>> {
    let ahead = ahead(db, shared, to_ms(now)).await?;
    let replica = |row: &tokio_postgres::Row| {
        let mut cells = Cells::of(row);
        let (owner, doc, seen_at) = (OwnerId(cells.int()?.cast_unsigned()), cells.text()?, cells.int()?);
        let shards = cells.take::<Vec<i16>>()?.into_iter().filter_map(|shard| u16::try_from(shard).ok()).collect();
        Ok(Replica { owner, doc, seen_at: from_ms(seen_at.saturating_sub(ahead)), shards })
    };
    let now = to_ms(now).saturating_add(ahead);
    db.rows(REPLICAS, &[&now]).await?.iter().map(replica).collect()
}
