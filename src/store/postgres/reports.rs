//! Deliveries that were taken by somebody who reports later what became of them: they wait in no queue, until a report comes or its time
//! is over.

use super::{connect::Answer, lanes, record::After, rows::Cells, session::Session, text::Text, throttle};
use crate::{
    clock::{Timestamp, from_ms, to_ms},
    envelope::DeliveryId,
    store::{
        Attempt, Unreported,
        codes::{DEAD, DELIVERED, PENDING},
    },
};

/// Deliveries that one call of [`unreported`] settles.
const SLICE: i64 = 250;

/// Ends the wait for the report of this attempt, or puts it back into its queue.
pub(super) const SETTLE: &str =
    "UPDATE deliveries SET state = $3::bigint, cause = $4::bigint, due_at = $5, settled_at = $6, error = $7,
        uncounted = uncounted + $8::int, unconfirmed = false, turn = CASE WHEN severity = 2 THEN 0 ELSE 1 END
    WHERE place = $1 AND state = 0 AND turn = 4 AND attempts = $2::bigint RETURNING target_id, order_key";
/// What the attempt came to after all.
const SETTLE_ATTEMPT: &str = "UPDATE attempts SET error = $3, detail = coalesce(detail || '; ', '') || $4, outcome = $5::bigint,
        cause = $6::bigint, retry_at = $7, counts = $8 WHERE place = $1 AND number = $2::bigint";

/// Settles what waits for a report; see [`crate::store::Store::reported`].
pub(super) async fn reported(session: &Session<'_>, attempt: &Attempt) -> Answer<bool> {
    if attempt.delivery.event.salt != session.salt() {
        return Ok(Ok(false));
    }
    let (db, place, number) = (session.db, attempt.delivery.place(), i64::from(attempt.number));
    let after = After::of(attempt.next, session.now);
    let error = Text::of_some(attempt.error.as_deref());
    let uncounted = i32::from(!attempt.counts);
    let row = db
        .first(SETTLE, &[&place, &number, &after.state, &after.cause, &after.due_at, &after.settled_at, &error, &uncounted])
        .await?;
    let Some(row) = row else { return Ok(Ok(false)) };
    let mut cells = Cells::of(&row);
    let (target, key) = (cells.int()?, cells.some_key()?);
    let detail = Text::of(attempt.detail.as_deref().unwrap_or("reported"));
    db.run(SETTLE_ATTEMPT, &[&place, &number, &error, &detail, &after.outcome, &after.cause, &after.due_at, &attempt.counts])
        .await?;
    if after.state == PENDING {
        session.tell(&[target]);
    } else if let Some(key) = key {
        lanes::move_up(session, [(target, key)]).await?;
        session.tell(&[target]);
    }
    if after.state == DEAD {
        throttle::died(session, place, session.now).await?;
    }
    Ok(Ok(true))
}

/// Settles what has waited for long enough.
pub(super) const OVERDUE: &str =
    "UPDATE deliveries d SET state = $3::bigint, cause = NULL, due_at = NULL, settled_at = $4, error = NULL,
        unconfirmed = true, turn = CASE WHEN d.severity = 2 THEN 0 ELSE 1 END
    FROM (SELECT place, due_at FROM deliveries WHERE state = 0 AND turn = 4 AND due_at <= $1 ORDER BY due_at LIMIT $2) AS late,
        targets t WHERE d.place = late.place AND t.id = d.target_id
    RETURNING d.place, d.target_id, d.order_key, d.attempts, t.name";
const OVERDUE_ATTEMPTS: &str =
    "UPDATE attempts a SET error = NULL, detail = coalesce(a.detail || '; ', '') || $3, outcome = $4::bigint,
        cause = NULL, retry_at = NULL, counts = true
    FROM unnest($1::bigint[], $2::bigint[]) AS u (place, number) WHERE a.place = u.place AND a.number = u.number";
/// When the next one has.
pub(super) const NEXT: &str = "SELECT min(due_at) FROM deliveries WHERE state = 0 AND turn = 4";
/// What the attempt says then.
const NOTHING: &str = "no report came in time: delivered, unconfirmed";

/// Settles a slice of what has waited for long enough; see [`crate::store::Store::unreported`].
pub(super) async fn unreported(session: &Session<'_>, now: Timestamp) -> Answer<Unreported> {
    let late = session.db.rows(OVERDUE, &[&to_ms(now), &SLICE, &DELIVERED, &session.now]).await?;
    let (mut places, mut numbers, mut keys, mut settled) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &late {
        let mut cells = Cells::of(row);
        let (place, target, key) = (cells.int()?, cells.int()?, cells.some_key()?);
        places.push(place);
        numbers.push(cells.int()?);
        keys.extend(key.map(|key| (target, key)));
        settled.push((cells.text()?.as_str().into(), DeliveryId::at(session.salt(), place)));
    }
    if !places.is_empty() {
        session.db.run(OVERDUE_ATTEMPTS, &[&places, &numbers, &NOTHING, &DELIVERED]).await?;
        session.tell(&keys.iter().map(|(target, _)| *target).collect::<Vec<_>>());
        lanes::move_up(session, keys).await?;
    }
    let next = session.db.first(NEXT, &[]).await?.map(|row| row.try_get::<_, Option<i64>>(0)).transpose()?.flatten();
    Ok(Ok(Unreported { settled, next: next.map(from_ms) }))
}
