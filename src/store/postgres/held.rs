//! What subscriptions hold: handed over to the one that takes a deleted one's place, and bounded.

use super::{
    connect::{Answer, Db, Pg},
    decide::{Aside, set_aside},
    lanes,
    rows::Cells,
    session::Session,
    text::Text,
};
use crate::{
    envelope::{DeliveryId, Name},
    store::{
        HandedOver,
        codes::{CANCELLED, EXPIRED},
    },
};

/// Deliveries that one call of [`hand_over`] or [`expire`] takes up.
const SLICE: i64 = 1000;

/// A slice of what waits for `$1`, and of each whether its event has another to `$2` that waits or arrived and is no less a replay, or
/// will have once an earlier one of the slice is moved.
pub(super) const DOUBLED: &str = "SELECT o.place, EXISTS (SELECT 1 FROM deliveries d WHERE d.place BETWEEN (o.place >> 16) << 16
            AND ((o.place >> 16) << 16) + 65535 AND d.target_id = $2 AND d.state IN (0, 1) AND d.replay = o.replay)
        OR 1 < row_number() OVER (PARTITION BY o.place >> 16, o.replay ORDER BY o.turn, o.due_at, o.created_at, o.place)
    FROM (SELECT place, replay, turn, due_at, created_at FROM deliveries WHERE state = 0 AND target_id = $1
        ORDER BY turn, due_at, created_at, place LIMIT $3) AS o";
/// Gives waiting deliveries to another target (a cast, as in [`super::freely::FREELY`]); for targets that keep no order.
pub(super) const MOVE: &str = "UPDATE deliveries SET target_id = $2, order_key = NULL,
        turn = CASE WHEN turn = 2 THEN CASE WHEN severity = 2 THEN 0 ELSE 1 END ELSE turn END
    WHERE place = ANY($1) AND target_id = $3 AND state::int = 0";

/// Gives a slice of what waits for `old` to `new`, but for what `new` has; see [`crate::store::Store::hand_over`].
pub(super) async fn hand_over(session: &Session<'_>, old: &Name, new: &Name, now: i64) -> Answer<HandedOver> {
    let reason = format!("{new} has this event already");
    let (old, new) = (session.target(old).await?, session.target(new).await?);
    let (mut moved, mut doubled) = (Vec::new(), Vec::new());
    for row in session.db.rows(DOUBLED, &[&old, &new, &SLICE]).await? {
        let mut cells = Cells::of(&row);
        let place = cells.int()?;
        if cells.take()? { doubled.push(place) } else { moved.push(place) }
    }
    let mut handed = HandedOver::default();
    for place in doubled {
        let end = Aside { state: CANCELLED, cause: None, reason: &reason, now };
        handed.dropped += u64::from(set_aside(session, old, place, &end).await?);
    }
    if !moved.is_empty() {
        handed.moved = session.db.run(MOVE, &[&moved, &new, &old]).await?;
        session.tell(&[new]);
        session.tell_ended(&[old]);
    }
    if handed == HandedOver::default() {
        handed.moved = session.db.run(lanes::MOVE_DEAD, &[&old, &new, &SLICE]).await?;
    }
    Ok(Ok(handed))
}

/// What waits for a target and is beyond `$3` bytes (the event's, and the body's that was made of it), or has waited since `$2`: the
/// oldest first, without what is in hand (`$4`).
pub(super) const BEYOND: &str = "WITH waiting AS (SELECT d.place, greatest(d.created_at, coalesce(d.due_at, 0)) AS at,
            octet_length(e.body) + coalesce((SELECT octet_length(b.body) FROM bodies b WHERE b.place = d.place), 0) AS size,
            d.place = ANY($4::bigint[]) AS in_hand
        FROM deliveries d JOIN events e ON e.seq = d.place >> 16
        WHERE d.state = 0 AND d.target_id = (SELECT id FROM targets WHERE name = $1) AND d.turn IN (0, 1, 2, 3)),
    added AS (SELECT place, at, in_hand, sum(size) OVER () AS total,
            coalesce(sum(size) FILTER (WHERE NOT in_hand) OVER (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)
                AS older FROM waiting)
    SELECT place FROM added WHERE NOT in_hand AND (older < total - $3::bigint OR at <= $2) ORDER BY place LIMIT $5";

/// Which of what waits for `target` is beyond `bytes`, or has waited since `cutoff`: a slice, the oldest first.
pub(super) async fn beyond(db: &Db, target: &Name, cutoff: Option<i64>, bytes: u64, except: &[DeliveryId]) -> Pg<Vec<i64>> {
    let except: Vec<i64> = except.iter().map(|id| id.place()).collect();
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let rows = db.rows(BEYOND, &[&Text::of(target.as_str()), &cutoff, &bytes, &except, &SLICE]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Expires those at `places` that wait still.
pub(super) async fn expire(
    session: &Session<'_>,
    target: &Name,
    places: &[i64],
    reason: &str,
    now: i64,
) -> Answer<Vec<DeliveryId>> {
    let target = session.target(target).await?;
    let mut expired = Vec::new();
    if !places.is_empty() {
        // Its lane may have changed hands since it was looked at what is in hand.
        session.tell_ended(&[target]);
    }
    for place in places {
        if set_aside(session, target, *place, &Aside { state: EXPIRED, cause: None, reason, now }).await? {
            expired.push(DeliveryId::at(session.salt(), *place));
        }
    }
    Ok(Ok(expired))
}
