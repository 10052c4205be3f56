//! What a person does to deliveries: retries, cancels and resolves them.

use rusqlite::OptionalExtension;

use super::{
    digest,
    lanes::{self, OrderKey},
    rows::stage,
    session::{Answer, Session},
};
use crate::{clock::to_ms, envelope::DeliveryId, store::Resolution};

/// Wakes a dead letter that nobody has settled. What was ordered goes out of order from now on.
pub(super) const RETRY: &str =
    "UPDATE deliveries SET state = 0, cause = NULL, due_at = ?2, settled_at = NULL, first_attempt_at = NULL,
        uncounted = attempts, stood_still_ms = 0, renewed_at = ?2, turn = iif(severity = 2, 0, 1),
        out_of_order = out_of_order OR order_key IS NOT NULL, order_key = NULL
    WHERE place = ?1 AND state = 2 AND resolved_at IS NULL";

/// Makes dead letters pending again, due at `now`; see [`crate::store::Store::retry`].
pub(super) fn retry(session: &Session, ids: &[DeliveryId], now: i64) -> Answer<Vec<DeliveryId>> {
    let mut retry = session.conn.prepare_cached(RETRY)?;
    let mut retried = Vec::new();
    for id in ours(session, ids) {
        if retry.execute((id.place(), now))? != 0 {
            retried.push(*id);
        }
    }
    Ok(Ok(retried))
}

fn ours<'a>(session: &Session, ids: &'a [DeliveryId]) -> impl Iterator<Item = &'a DeliveryId> {
    let salt = session.salt;
    ids.iter().filter(move |id| id.event.salt == salt)
}

/// Ends a delivery that is not final.
pub(super) const CANCEL: &str =
    "UPDATE deliveries SET state = 3, cause = NULL, due_at = NULL, settled_at = ?2, note = ?3 WHERE place = ?1 AND state = 0
    RETURNING target_id, order_key, stage, carrier";

/// Cancels what is not final; see [`crate::store::Store::cancel`].
pub(super) fn cancel(session: &Session, ids: &[DeliveryId], reason: &str, now: i64) -> Answer<Vec<DeliveryId>> {
    let mut cancelled = Vec::new();
    for id in ours(session, ids) {
        let mut cancel = session.conn.prepare_cached(CANCEL)?;
        let values = (id.place(), now, reason);
        let lane = cancel.query_row(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).optional()?;
        let Some((target, key, at, carrier)): Option<(i64, Option<OrderKey>, i64, Option<i64>)> = lane else { continue };
        digest::leave(&session.conn, id.place(), stage(at), carrier, now)?;
        if let Some(key) = key {
            lanes::move_up(&session.conn, target, &key)?;
        }
        cancelled.push(*id);
    }
    Ok(Ok(cancelled))
}

/// Settles a dead letter.
pub(super) const RESOLVE: &str =
    "UPDATE deliveries SET resolved_at = ?2, note = ?3 WHERE place = ?1 AND state = 2 AND resolved_at IS NULL";

/// Settles a dead letter with a note; see [`crate::store::Store::resolve`].
pub(super) fn resolve(session: &Session, id: DeliveryId, resolution: &Resolution) -> Answer<bool> {
    let mut resolve = session.conn.prepare_cached(RESOLVE)?;
    let known = id.event.salt == session.salt;
    Ok(Ok(known && resolve.execute((id.place(), to_ms(resolution.at), &resolution.note))? != 0))
}
