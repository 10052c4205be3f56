//! The order within a lane: where a delivery stands in its queues, and who moves up when one leaves. Of the deliveries with one order
//! key the earliest is in the queue and the rest stand behind it; and moving a whole lane to another target. All under the lock of
//! the store, so that nobody moves up between a look and what follows from it.

use std::collections::{BTreeSet, HashSet};

use tokio_postgres::Row;

use super::{
    connect::{Answer, Params, Pg},
    rows::Cells,
    session::{Session, Shared},
};
use crate::{
    envelope::Name,
    store::{NewDelivery, Severity},
};

/// A lane and an order key in it.
pub(super) type Head = (i64, [u8; 16]);

/// [`Severity::Critical`]'s queue: before the rest of its lane.
const FIRST: i64 = 0;
/// Everybody else's queue.
const REST: i64 = 1;
/// In no queue: behind an earlier one of its order key.
const BEHIND: i64 = 2;

/// Order keys by lane, by column.
#[derive(Default)]
pub(super) struct Keys {
    targets: Vec<i64>,
    keys: Vec<Vec<u8>>,
}

impl Keys {
    /// The keys of `planned`.
    pub(super) fn of<'n>(shared: &Shared, planned: impl IntoIterator<Item = &'n NewDelivery>) -> Self {
        let pair = |it: &NewDelivery| Some((shared.known(&it.target)?, it.order_key?));
        planned.into_iter().filter_map(pair).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// As values of a statement: targets, keys.
    pub(super) fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 2] {
        [&self.targets, &self.keys]
    }
}

impl FromIterator<Head> for Keys {
    fn from_iter<I: IntoIterator<Item = Head>>(pairs: I) -> Self {
        let pairs: BTreeSet<Head> = pairs.into_iter().collect();
        let (targets, keys) = pairs.into_iter().map(|(target, key)| (target, key.to_vec())).unzip();
        Self { targets, keys }
    }
}

/// Whether a delivery of the lane `u.target` with the order key `u.key` is in the queues, or taken and not yet reported on: two looks into
/// the index. `OFFSET 0` keeps PostgreSQL from making a join of it, which would walk over all that stand behind; the index of all that is not
/// reported on yet, which it takes for empty where it counted while nothing was, does not know `BETWEEN`.
macro_rules! led {
    () => {
        "(EXISTS (SELECT 1 FROM deliveries h WHERE h.state = 0 AND h.order_key IS NOT NULL AND h.target_id = u.target
            AND h.order_key = u.key AND h.turn < 2 OFFSET 0)
        OR EXISTS (SELECT 1 FROM deliveries h WHERE h.state = 0 AND h.order_key IS NOT NULL AND h.target_id = u.target
            AND h.order_key = u.key AND h.turn BETWEEN 4 AND 4 OFFSET 0))"
    };
}

/// Those of the keys of which one is in the queues of its lane.
pub(super) const HEADS: &str =
    concat!("SELECT u.target, u.key FROM unnest($1::bigint[], $2::bytea[]) AS u (target, key) WHERE ", led!());

/// What [`HEADS`] found.
pub(super) fn heads(rows: &[Row]) -> Pg<HashSet<Head>> {
    let head = |row: &Row| {
        let mut cells = Cells::of(row);
        Ok((cells.int()?, cells.some_key()?.unwrap_or_default()))
    };
    rows.iter().map(head).collect()
}

/// Where a new delivery stands; `heads` knows then that it leads, where it does.
pub(super) fn turn(heads: &mut HashSet<Head>, target: i64, planned: &NewDelivery) -> i64 {
    match planned.order_key {
        Some(key) if !heads.insert((target, key)) => BEHIND,
        _ if planned.severity == Severity::Critical => FIRST,
        _ => REST,
    }
}

/// Lets the earliest of those that stand behind move up, for each key of which none is in the queues.
pub(super) const MOVE_UP: &str = concat!(
    "UPDATE deliveries d SET turn = CASE WHEN d.severity = 2 THEN 0 ELSE 1 END
    FROM unnest($1::bigint[], $2::bytea[]) AS u (target, key)
        CROSS JOIN LATERAL (SELECT b.place FROM deliveries b WHERE b.state = 0 AND b.order_key IS NOT NULL AND b.target_id = u.target
            AND b.order_key = u.key AND b.turn = 2 ORDER BY b.place LIMIT 1) AS next
    WHERE d.place = next.place AND NOT ",
    led!()
);

/// Lets the next one of each of `keys` move up, unless one is in the queues still.
pub(super) async fn move_up(session: &Session<'_>, keys: impl IntoIterator<Item = Head>) -> Pg<()> {
    let keys: Keys = keys.into_iter().collect();
    if keys.is_empty() {
        return Ok(());
    }
    session.db.run(MOVE_UP, &keys.params()).await.map(|_| ())
}

/// Deliveries that one call of [`adopt`] moves.
const SLICE: i64 = 4000;

/// What waits for a target, those in its queues first. Ordered ones queue up anew: the first to come leads, unless somebody leads there
/// already.
pub(super) const MOVE_WAITING: &str =
    "UPDATE deliveries d SET target_id = $2, turn = CASE WHEN d.order_key IS NULL OR d.turn = 4 THEN d.turn ELSE 2 END
    FROM unnest(ARRAY(SELECT place FROM deliveries WHERE state = 0 AND target_id = $1
        ORDER BY turn, due_at, created_at, place LIMIT $3)) AS old (at)
    WHERE d.place = old.at RETURNING d.order_key";
/// A target's dead letters that nobody has settled.
pub(super) const MOVE_DEAD: &str = "UPDATE deliveries d SET target_id = $2
    FROM unnest(ARRAY(SELECT place FROM deliveries WHERE state = 2 AND resolved_at IS NULL AND target_id = $1 LIMIT $3)) AS old (at)
    WHERE d.place = old.at";

/// Gives a slice of what waits for `old`, or of its dead letters, to `new`; see [`crate::store::Store::adopt`].
pub(super) async fn adopt(session: &Session<'_>, old: &Name, new: &Name) -> Answer<u64> {
    let (old, new) = (session.target(old).await?, session.target(new).await?);
    let moved = session.db.rows(MOVE_WAITING, &[&old, &new, &SLICE]).await?;
    let keys: Vec<[u8; 16]> = moved.iter().filter_map(|row| Cells::of(row).some_key().transpose()).collect::<Pg<_>>()?;
    move_up(session, keys.iter().flat_map(|key| [(new, *key), (old, *key)])).await?;
    let waiting = moved.len() as u64;
    let left = SLICE - i64::try_from(waiting).unwrap_or(SLICE).min(SLICE);
    let dead = if left == 0 { 0 } else { session.db.run(MOVE_DEAD, &[&old, &new, &left]).await? };
    move_windows(session, &[&old, &new]).await?;
    if waiting != 0 {
        session.tell(&[new]);
        session.tell_ended(&[old]);
    }
    Ok(Ok(waiting + dead))
}

/// Windows go on under the new name. There are as many as there are keys of them, not as deliveries.
async fn move_windows(session: &Session<'_>, names: Params<'_>) -> Pg<()> {
    for sql in [
        "DELETE FROM throttled n USING throttled o WHERE o.target_id = $1 AND n.target_id = $2 AND n.key = o.key
            AND n.suppressed = o.suppressed AND n.at = o.at AND n.place = o.place",
        "UPDATE throttled SET target_id = $2 WHERE target_id = $1",
        "DELETE FROM digests n USING digests o WHERE o.target_id = $1 AND n.target_id = $2 AND n.key = o.key",
        "UPDATE digests SET target_id = $2 WHERE target_id = $1",
    ] {
        session.db.run(sql, names).await?;
    }
    Ok(())
}
