//! What a person does to deliveries: retries, cancels and resolves them.

use super::{connect::Answer, digest, lanes, rows::Cells, session::Session, text::Text};
use crate::{
    clock::to_ms,
    envelope::DeliveryId,
    store::{Resolution, codes::stage},
};

/// Wakes dead letters that nobody has settled; a cast, as in [`super::freely::FREELY`]. What was ordered goes out of order from now on.
pub(super) const RETRY: &str =
    "UPDATE deliveries SET state = 0, cause = NULL, due_at = $2, settled_at = NULL, first_attempt_at = NULL,
        uncounted = attempts, stood_still_ms = 0, renewed_at = $2, turn = CASE WHEN severity = 2 THEN 0 ELSE 1 END,
        out_of_order = out_of_order OR order_key IS NOT NULL, order_key = NULL
    WHERE place = ANY($1) AND state::int = 2 AND resolved_at IS NULL RETURNING place, target_id";

/// Makes dead letters pending again, due at `now`; see [`crate::store::Store::retry`].
pub(super) async fn retry(session: &Session<'_>, ids: &[DeliveryId], now: i64) -> Answer<Vec<DeliveryId>> {
    let (mut retried, mut targets) = (Vec::new(), Vec::new());
    for row in session.db.rows(RETRY, &[&ours(session, ids), &now]).await? {
        retried.push(row.try_get::<_, i64>(0)?);
        targets.push(row.try_get::<_, i64>(1)?);
    }
    session.tell(&targets);
    Ok(Ok(in_order(session, ids, &retried)))
}

/// The places of those that this store gave out.
fn ours(session: &Session<'_>, ids: &[DeliveryId]) -> Vec<i64> {
    ids.iter().filter(|id| id.event.salt == session.salt()).map(|id| id.place()).collect()
}

/// Those of `ids` that are at `places`, each once.
fn in_order(session: &Session<'_>, ids: &[DeliveryId], places: &[i64]) -> Vec<DeliveryId> {
    let mut left: std::collections::HashSet<i64> = places.iter().copied().collect();
    ids.iter().filter(|id| id.event.salt == session.salt() && left.remove(&id.place())).copied().collect()
}

/// Ends deliveries that are not final (a cast, as in [`super::freely::FREELY`]); what they were before.
pub(super) const CANCEL: &str = "UPDATE deliveries SET state = 3, cause = NULL, due_at = NULL, settled_at = $2, note = $3
    WHERE place = ANY($1) AND state::int = 0 RETURNING place, target_id, order_key, stage";
/// What carries a delivery now: its carrier may have been cancelled in the same breath.
const CARRIER: &str = "SELECT carrier FROM deliveries WHERE place = $1";

/// Cancels what is not final; see [`crate::store::Store::cancel`].
pub(super) async fn cancel(session: &Session<'_>, ids: &[DeliveryId], reason: &str, now: i64) -> Answer<Vec<DeliveryId>> {
    let (mut cancelled, mut keys, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for row in session.db.rows(CANCEL, &[&ours(session, ids), &now, &Text::of(reason)]).await? {
        let mut cells = Cells::of(&row);
        let (place, target) = (cells.int()?, cells.int()?);
        cancelled.push(place);
        targets.push(target);
        keys.extend(cells.some_key()?.map(|key| (target, key)));
        let stage = stage(cells.int()?);
        if matches!(stage, crate::store::Stage::Gathering | crate::store::Stage::Gathered) {
            let carrier = session.db.first(CARRIER, &[&place]).await?;
            let carrier = carrier.map(|row| row.try_get::<_, Option<i64>>(0)).transpose()?.flatten();
            digest::leave(session, place, stage, carrier, now).await?;
        }
    }
    lanes::move_up(session, keys).await?;
    session.tell_ended(&targets);
    Ok(Ok(in_order(session, ids, &cancelled)))
}

/// Settles a dead letter.
pub(super) const RESOLVE: &str =
    "UPDATE deliveries SET resolved_at = $2, note = $3 WHERE place = $1 AND state = 2 AND resolved_at IS NULL";

/// Settles a dead letter with a note; see [`crate::store::Store::resolve`].
pub(super) async fn resolve(session: &Session<'_>, id: DeliveryId, resolution: &Resolution) -> Answer<bool> {
    if id.event.salt != session.salt() {
        return Ok(Ok(false));
    }
    let note = Text::of(&resolution.note);
    Ok(Ok(session.db.run(RESOLVE, &[&id.place(), &to_ms(resolution.at), &note]).await? != 0))
}
