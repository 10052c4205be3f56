//! Giving up what has reached its give-up time while its target is broken.

use rusqlite::Connection;

use super::{
    lanes::{self, OrderKey},
    query,
    rows::{self, Cells, DEAD, Reading, cause_code},
    session::{Answer, Session},
    throttle,
};
use crate::{
    clock::{from_ms, to_ms},
    envelope::{DeliveryId, Name},
    store::{Cause, DeliveryRow, GaveUp, GivenUp},
};

/// Deliveries that one call of [`give_up`] ends.
const SLICE: usize = 250;

/// What was tried and waits for a target, in the order of give-up.
pub(super) const TRIED: &str =
    "SELECT place, order_key, first_attempt_at, stood_still_ms FROM deliveries INDEXED BY deliveries_tried
    WHERE state = 0 AND first_attempt_at IS NOT NULL AND turn <> 4 AND target_id = (SELECT id FROM targets WHERE name = ?1)
    ORDER BY first_attempt_at - stood_still_ms";
/// Ends one of them.
pub(super) const END: &str = "UPDATE deliveries SET state = ?2, cause = ?3, due_at = NULL, settled_at = ?4 WHERE place = ?1";
/// One that has ended, with what it delivers.
pub(super) const ENDED: &str = concat!(
    "SELECT ",
    rows::delivery_columns!("?2"),
    ", e.id, e.source, e.type FROM deliveries d JOIN events e ON e.seq = d.place >> 16 WHERE d.place = ?1"
);

/// Gives up what has reached its time; see [`crate::store::Store::give_up`].
pub(super) fn give_up(
    session: &mut Session,
    reading: &Reading,
    target: &Name,
    when: &GaveUp,
    except: &[DeliveryId],
) -> Answer<GivenUp> {
    if session.owned.is_stale(when.epoch) {
        return Ok(Ok(GivenUp::default()));
    }
    let target_id = session.target_id(target)?;
    let (conn, now) = (&session.conn, session.now);
    let Reached { places, next } = reached(conn, reading, target, when, except)?;
    let mut dead = Vec::with_capacity(places.len());
    for (place, key) in places {
        conn.prepare_cached(END)?.execute((place, DEAD, cause_code(Cause::Receiver), now))?;
        if let Some(key) = key {
            lanes::move_up(conn, target_id, &key)?;
        }
        throttle::died(conn, place, now)?;
        dead.push(ended(conn, reading, place, target)?);
    }
    Ok(Ok(GivenUp { dead, next: next.map(from_ms) }))
}

/// What has reached its give-up time, and when the next one does.
struct Reached {
    places: Vec<(i64, Option<OrderKey>)>,
    next: Option<i64>,
}

fn reached(
    conn: &Connection,
    reading: &Reading,
    target: &Name,
    when: &GaveUp,
    except: &[DeliveryId],
) -> rusqlite::Result<Reached> {
    let (now, after) = (to_ms(when.now), i64::try_from(when.after.as_millis()).unwrap_or(i64::MAX));
    let mut found = Reached { places: Vec::new(), next: None };
    let mut statement = conn.prepare_cached(TRIED)?;
    let mut tried = statement.query([target.as_str()])?;
    while let Some(row) = tried.next()? {
        let (place, first, stood_still): (i64, i64, i64) = (row.get(0)?, row.get(2)?, row.get(3)?);
        if except.binary_search(&DeliveryId::at(reading.salt, place)).is_ok() {
            continue;
        }
        let still = when.still_ms.saturating_sub(stood_still);
        let at = first.saturating_add(after).saturating_add(still.max(0));
        if at <= now && found.places.len() < SLICE {
            found.places.push((place, row.get(1)?));
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

fn ended(conn: &Connection, reading: &Reading, place: i64, target: &Name) -> rusqlite::Result<DeliveryRow> {
    let mut one = conn.prepare_cached(ENDED)?;
    one.query_row((place, target.as_str()), |row| query::delivery_row(reading, &mut Cells::of(row)))
}
