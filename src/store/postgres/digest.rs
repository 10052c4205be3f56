//! Digests: the first delivery of a key carries those that gather behind it, falls due when the digest ends, and takes them along.

use super::{
    connect::{Db, Pg},
    rows::Cells,
    session::Session,
};
use crate::store::{
    Cause, Stage,
    codes::{DIGESTED, SUPPRESSED, cause_code},
};

/// A delivery that is to be gathered.
pub(super) struct New {
    pub(super) target: i64,
    pub(super) key: [u8; 16],
    pub(super) place: i64,
    pub(super) severity: i64,
    /// When a digest that begins with it ends.
    pub(super) ends_at: i64,
    /// How many it gathers at most.
    pub(super) max: u32,
    pub(super) now: i64,
}

/// The digest of a key that gathers (a cast, as in [`super::freely::FREELY`]); its carrier may have gone another way.
pub(super) const OPEN: &str = "SELECT g.carrier, g.gathered, c.due_at FROM digests g JOIN deliveries c ON c.place = g.carrier
    WHERE g.target_id = $1 AND g.key = $2 AND c.state::int = 0 AND c.stage = 3";

struct Open {
    carrier: i64,
    gathered: u32,
    due_at: i64,
}

/// Gathers `it`; answers when the digest that it is in now goes out.
pub(super) async fn gather(session: &Session<'_>, it: &New) -> Pg<i64> {
    let open = match session.db.first(OPEN, &[&it.target, &&it.key[..]]).await? {
        Some(row) => {
            let mut cells = Cells::of(&row);
            Some(Open { carrier: cells.int()?, gathered: cells.count()?, due_at: cells.some_int()?.unwrap_or(it.now) })
        }
        None => None,
    };
    match open {
        Some(open) if open.carrier != it.place => join(session, it, &open).await,
        _ => begin(session, it).await,
    }
}

async fn begin(session: &Session<'_>, it: &New) -> Pg<i64> {
    let due_at = if it.max <= 1 { it.now } else { it.ends_at };
    let sql = "INSERT INTO digests (target_id, key, carrier, ends_at, gathered) VALUES ($1, $2, $3, $4, 1)
        ON CONFLICT (target_id, key) DO UPDATE SET carrier = excluded.carrier, ends_at = excluded.ends_at, gathered = 1";
    session.db.run(sql, &[&it.target, &&it.key[..], &it.place, &it.ends_at]).await?;
    let sql = "UPDATE deliveries SET stage = 3, due_at = $2, cause = NULL, order_key = NULL WHERE place = $1";
    session.db.run(sql, &[&it.place, &due_at]).await?;
    Ok(due_at)
}

async fn join(session: &Session<'_>, it: &New, open: &Open) -> Pg<i64> {
    let due_at = if it.max <= open.gathered.saturating_add(1) { it.now } else { open.due_at };
    let sql =
        "UPDATE deliveries SET stage = 4, carrier = $2, turn = 3, due_at = $3, cause = NULL, order_key = NULL WHERE place = $1";
    session.db.run(sql, &[&it.place, &open.carrier, &due_at]).await?;
    session.db.run("UPDATE digests SET gathered = gathered + 1 WHERE carrier = $1", &[&open.carrier]).await?;
    // A digest is as grave as the gravest in it.
    let sql = "UPDATE deliveries SET due_at = $2, severity = greatest(severity, $3::bigint),
            turn = CASE WHEN greatest(severity, $3::bigint) = 2 THEN 0 ELSE 1 END WHERE place = $1";
    session.db.run(sql, &[&open.carrier, &due_at, &it.severity]).await?;
    Ok(due_at)
}

/// The digest that `carrier` carries gathers no more: those it gathered are digested. Answers how many.
pub(super) async fn close(session: &Session<'_>, carrier: i64, now: i64) -> Pg<u32> {
    forget(session, carrier).await?;
    let sql =
        "UPDATE deliveries SET state = $2::bigint, due_at = NULL, settled_at = $3, cause = NULL WHERE carrier = $1 AND state = 0";
    let carries = session.db.run(sql, &[&carrier, &DIGESTED, &now]).await?;
    let sql = "UPDATE deliveries SET stage = CASE WHEN $2 THEN 5 ELSE 2 END WHERE place = $1";
    session.db.run(sql, &[&carrier, &(carries != 0)]).await?;
    Ok(u32::try_from(carries).unwrap_or(u32::MAX))
}

/// Whom those name that go out inside a carrier: itself, or where the digest goes to several recipients, the first of those that carry it.
pub(super) const FIRST_OF: &str = "SELECT carrier FROM deliveries WHERE place = $1 AND stage = 5 AND carrier IS NOT NULL";

/// See [`FIRST_OF`].
pub(super) async fn first_of(db: &Db, carrier: i64) -> Pg<i64> {
    db.first(FIRST_OF, &[&carrier]).await?.map_or(Ok(carrier), |row| row.try_get(0))
}

/// How many went out, or are to go out, inside `carrier`.
pub(super) async fn carries(session: &Session<'_>, carrier: i64) -> Pg<u32> {
    let sql = "SELECT count(*) FROM deliveries WHERE carrier = $1 AND state = 5";
    let carrier = first_of(session.db, carrier).await?;
    session.db.first(sql, &[&carrier]).await?.map_or(Ok(0), |row| Cells::of(&row).count())
}

/// What `carrier` gathered is not sent: quiet hours drop it. Answers how many that are.
pub(super) async fn drop_carried(session: &Session<'_>, carrier: i64, now: i64, reason: &str) -> Pg<u32> {
    forget(session, carrier).await?;
    let sql =
        "UPDATE deliveries SET state = $2::bigint, cause = $3::bigint, due_at = NULL, settled_at = $4, note = $5, carrier = NULL
        WHERE carrier = $1 AND state = 0";
    let reason = super::text::Text::of(reason);
    let dropped = session.db.run(sql, &[&carrier, &SUPPRESSED, &cause_code(Cause::Quiet), &now, &reason]).await?;
    Ok(u32::try_from(dropped).unwrap_or(u32::MAX))
}

async fn forget(session: &Session<'_>, carrier: i64) -> Pg<()> {
    session.db.run("DELETE FROM digests WHERE carrier = $1", &[&carrier]).await.map(|_| ())
}

/// The earliest of those that wait inside a carrier.
pub(super) const FOLLOWER: &str = "SELECT place FROM deliveries
    WHERE carrier IS NOT NULL AND carrier = $1 AND state = 0 ORDER BY place LIMIT 1";

/// The delivery at `place` has left the digest it was in: where it carried it, the next one does.
pub(super) async fn leave(session: &Session<'_>, place: i64, stage: Stage, carrier: Option<i64>, now: i64) -> Pg<()> {
    match (stage, carrier) {
        (Stage::Gathered, Some(carrier)) => {
            let sql = "UPDATE digests SET gathered = gathered - 1 WHERE carrier = $1";
            session.db.run(sql, &[&carrier]).await.map(|_| ())
        }
        (Stage::Gathering, _) => hand_on(session, place, now).await,
        _ => Ok(()),
    }
}

async fn hand_on(session: &Session<'_>, carrier: i64, now: i64) -> Pg<()> {
    let Some(next) = session.db.first(FOLLOWER, &[&carrier]).await? else { return forget(session, carrier).await };
    let next: i64 = next.try_get(0)?;
    let sql = "UPDATE deliveries SET stage = 3, carrier = NULL, turn = CASE WHEN severity = 2 THEN 0 ELSE 1 END,
            due_at = coalesce((SELECT ends_at FROM digests WHERE carrier = $2 LIMIT 1), $3::bigint) WHERE place = $1";
    session.db.run(sql, &[&next, &carrier, &now]).await?;
    session.db.run("UPDATE deliveries SET carrier = $2 WHERE carrier = $1 AND state = 0", &[&carrier, &next]).await?;
    let sql = "UPDATE digests SET carrier = $2, gathered = gathered - 1 WHERE carrier = $1";
    session.db.run(sql, &[&carrier, &next]).await.map(|_| ())
}
