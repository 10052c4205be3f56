//! What an event ends of deliveries that came before it (`reset_on`, `cancel_on`), in its own commit; and what ends by itself (`ttl`,
//! quiet hours that changed).

use super::{
    connect::{Answer, Pg},
    decide::{Aside, set_aside},
    rows::Cells,
    session::Session,
};
use crate::{
    envelope::{DeliveryId, EventUid, Name},
    store::{
        Cause, Endings, NewEvent,
        codes::{CANCELLED, EXPIRED},
    },
};

/// The last event that ended the window of each key.
pub(super) const RESET: &str =
    "INSERT INTO resets (key, seq, at) SELECT DISTINCT key, $2::bigint, $3::bigint FROM unnest($1::bytea[]) AS u (key)
    ON CONFLICT (key) DO UPDATE SET seq = excluded.seq, at = excluded.at";
/// The deliveries that wait for a key to be named (a cast, as in [`super::freely::FREELY`]); from now on they do not.
pub(super) const NAMED: &str = "WITH named AS (DELETE FROM awaited WHERE key = $1 RETURNING place),
        left_over AS (UPDATE handling h SET cancels = h.cancels - 1 FROM named n WHERE h.place = n.place RETURNING h.place, h.cancels)
    SELECT d.place, d.target_id, t.name FROM left_over l JOIN deliveries d ON d.place = l.place JOIN targets t ON t.id = d.target_id
    WHERE l.cancels = 0 AND d.state::int = 0 AND d.stage <> 5 AND d.turn <> 4 ORDER BY d.place";

/// Ends what `event`, which becomes number `seq`, ends; answers what it cancelled.
pub(super) async fn end(session: &Session<'_>, event: &NewEvent, seq: i64) -> Pg<Vec<(Name, DeliveryId)>> {
    let Endings { resets, cancels } = &event.endings;
    if !resets.is_empty() {
        let keys: Vec<&[u8]> = resets.iter().map(|key| &key[..]).collect();
        session.db.run(RESET, &[&keys, &seq, &session.now]).await?;
    }
    // By our own id: its sender's would outlive its erasure here.
    let reason = format!("{} {} came", event.envelope.r#type, EventUid { salt: session.salt(), seq });
    let (mut cancelled, mut targets) = (Vec::new(), Vec::new());
    for key in cancels {
        // One that carries others went its way already; one whose keys were not all named yet waits on.
        for row in session.db.rows(NAMED, &[&&key[..]]).await? {
            let mut cells = Cells::of(&row);
            let (place, target, name) = (cells.int()?, cells.int()?, cells.text()?);
            let end = Aside { state: CANCELLED, cause: Some(Cause::CancelOn), reason: &reason, now: session.now };
            if set_aside(session, target, place, &end).await? {
                cancelled.push((name.as_str().into(), DeliveryId::at(session.salt(), place)));
                targets.push(target);
            }
        }
    }
    session.tell_ended(&targets);
    Ok(cancelled)
}

/// Deliveries that one call of [`expire`] ends.
const SLICE: i64 = 500;

/// What of a target was planned (or retried by a person) before a time and waits, and what nobody travels with. Those that are left
/// out are among the first so many.
pub(super) const OLD: &str = "SELECT place FROM deliveries WHERE state = 0 AND target_id = $1 AND turn IN (0, 1, 2, 3)
        AND created_at <= $2 AND stage <> 5 AND coalesce(renewed_at, created_at) <= $2
    ORDER BY turn, due_at, created_at, place LIMIT $3";

/// Expires a slice; see [`crate::store::Store::expire`].
pub(super) async fn expire(
    session: &Session<'_>,
    target: &Name,
    cutoff: i64,
    reason: &str,
    except: &[DeliveryId],
    now: i64,
) -> Answer<Vec<DeliveryId>> {
    let target = session.target(target).await?;
    let limit = SLICE.saturating_add(i64::try_from(except.len()).unwrap_or(i64::MAX));
    let mut found = Vec::new();
    for row in session.db.rows(OLD, &[&target, &cutoff, &limit]).await? {
        let id = DeliveryId::at(session.salt(), row.try_get(0)?);
        if except.binary_search(&id).is_err() && found.len() < usize::try_from(SLICE).unwrap_or(usize::MAX) {
            found.push(id);
        }
    }
    if !found.is_empty() {
        // Its lane may have changed hands since it was looked at what is in hand.
        session.tell_ended(&[target]);
    }
    for id in &found {
        set_aside(session, target, id.place(), &Aside { state: EXPIRED, cause: None, reason, now }).await?;
    }
    Ok(Ok(found))
}

/// Makes due what quiet hours hold.
pub(super) const ROUSE: &str = "UPDATE deliveries SET due_at = $2, cause = NULL WHERE state = 0 AND cause = 5 AND target_id = $1";

/// Makes due what quiet hours hold of `target`; see [`crate::store::Store::rouse`].
pub(super) async fn rouse(session: &Session<'_>, target: &Name, now: i64) -> Answer<()> {
    let target = session.target(target).await?;
    if session.db.run(ROUSE, &[&target, &now]).await? != 0 {
        session.tell(&[target]);
    }
    Ok(Ok(()))
}

/// Rows of each kind that one call of [`prune`] removes.
const PRUNED: i64 = 500;

/// Forgets what no window counts any more; `cutoff`: events from before are gone. Answers whether more is left.
pub(super) async fn prune(session: &Session<'_>, cutoff: i64, now: i64) -> Pg<bool> {
    let sql = "DELETE FROM throttled WHERE (target_id, key, suppressed, at, place) IN (
        SELECT target_id, key, suppressed, at, place FROM throttled WHERE keep_until <= $1 LIMIT $2)";
    let throttled = session.db.run(sql, &[&now, &PRUNED]).await?;
    let sql = "DELETE FROM resets WHERE key IN (SELECT key FROM resets WHERE at <= $1 LIMIT $2)";
    let resets = session.db.run(sql, &[&cutoff, &PRUNED]).await?;
    Ok(PRUNED.cast_unsigned() <= throttled.max(resets))
}
