//! Giving up what has reached its give-up time while its target is broken.

use super::{
    connect::{Answer, Pg},
    lanes,
    rows::{self, Cells},
    session::Session,
    throttle,
};
use crate::{
    clock::{from_ms, to_ms},
    envelope::{DeliveryId, Name},
    store::{
        Cause, DeliveryRow, GaveUp, GivenUp,
        codes::{DEAD, cause_code},
    },
};

/// Deliveries that one call of [`give_up`] ends.
const SLICE: usize = 250;

/// What was tried and waits for a target, in the order of give-up.
pub(super) const TRIED: &str = "SELECT place, order_key, first_attempt_at, stood_still_ms FROM deliveries
    WHERE state = 0 AND first_attempt_at IS NOT NULL AND turn <> 4 AND target_id = $1
    ORDER BY first_attempt_at - stood_still_ms LIMIT $2";
/// Ends some of them.
pub(super) const END: &str = "UPDATE deliveries SET state = $2::bigint, cause = $3::bigint, due_at = NULL, settled_at = $4
    WHERE place = ANY($1) RETURNING place, stage";
/// Those that have ended, with what they deliver.
pub(super) const ENDED: &str = concat!(
    "SELECT ",
    rows::delivery_columns!(),
    ", e.id, e.source, e.type FROM unnest($1::bigint[]) AS u (at) JOIN deliveries d ON d.place = u.at
        JOIN targets t ON t.id = d.target_id JOIN events e ON e.seq = d.place >> 16"
);

/// Gives up what has reached its time; see [`crate::store::Store::give_up`].
pub(super) async fn give_up(session: &Session<'_>, target: &Name, when: &GaveUp, except: &[DeliveryId]) -> Answer<GivenUp> {
    if session.is_stale(target, when.epoch).await? {
        return Ok(Ok(GivenUp::default()));
    }
    let target = session.target(target).await?;
    let Reached { places, next } = reached(session, target, when, except).await?;
    let next = next.map(from_ms);
    if places.is_empty() {
        return Ok(Ok(GivenUp { dead: Vec::new(), next }));
    }
    let (places, keys): (Vec<i64>, Vec<Option<[u8; 16]>>) = places.into_iter().unzip();
    let ended = session.db.rows(END, &[&places, &DEAD, &cause_code(Cause::Receiver), &session.now]).await?;
    lanes::move_up(session, keys.into_iter().flatten().map(|key| (target, key))).await?;
    for row in ended {
        let mut cells = Cells::of(&row);
        let place = cells.int()?;
        if cells.int()? != 0 {
            throttle::died(session, place, session.now).await?;
        }
    }
    let reading = &session.shared.reading;
    let mut dead: Vec<DeliveryRow> = Vec::with_capacity(places.len());
    for row in session.db.rows(ENDED, &[&places]).await? {
        dead.push(reading.delivery_row(&row)?);
    }
    let turn = |it: &DeliveryRow| places.iter().position(|place| *place == it.delivery.id.place());
    dead.sort_by_key(turn);
    Ok(Ok(GivenUp { dead, next }))
}

/// What has reached its give-up time, and when the next one does.
struct Reached {
    places: Vec<(i64, Option<[u8; 16]>)>,
    next: Option<i64>,
}

async fn reached(session: &Session<'_>, target: i64, when: &GaveUp, except: &[DeliveryId]) -> Pg<Reached> {
    let (now, after) = (to_ms(when.now), i64::try_from(when.after.as_millis()).unwrap_or(i64::MAX));
    let mut found = Reached { places: Vec::new(), next: None };
    // One more than are ended and left out: the next one is among them, unless all behind say of standing still what is another lane's.
    let limit = i64::try_from(SLICE + 1 + except.len()).unwrap_or(i64::MAX);
    let rows = session.db.rows(TRIED, &[&target, &limit]).await?;
    for row in &rows {
        let mut cells = Cells::of(row);
        let (place, key, first, stood_still) = (cells.int()?, cells.some_key()?, cells.int()?, cells.int()?);
        if except.binary_search(&DeliveryId::at(session.salt(), place)).is_ok() {
            continue;
        }
        let still = when.still_ms.saturating_sub(stood_still);
        let at = first.saturating_add(after).saturating_add(still.max(0));
        if at <= now && found.places.len() < SLICE {
            found.places.push((place, key));
            continue;
        }
        found.next = Some(found.next.map_or(at, |next| next.min(at)));
        // Behind it come later ones, unless what it says of standing still is another lane's.
        if 0 <= still {
            break;
        }
    }
    Ok(found)
}
