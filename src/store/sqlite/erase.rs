//! Erasing events for good: they, all that belongs to them, and what was made of them.

use rusqlite::{Connection, OptionalExtension};

use super::{
    person, prune,
    rows::{DIGESTED, stage_code},
    session::{Answer, Session},
    split,
};
use crate::{
    envelope::{DeliveryId, EventUid, Name},
    store::{Erased, N_MAX, Stage},
};

/// Erases `events`; see [`crate::store::Store::erase`].
pub(super) fn erase(session: &mut Session, events: &[EventUid], now: i64) -> Answer<Erased> {
    // Whole pages are overwritten too, not only given back to the file.
    overwrite(&session.conn, true)?;
    let answer = each(session, events, now);
    overwrite(&session.conn, false)?;
    answer
}

fn overwrite(conn: &Connection, on: bool) -> rusqlite::Result<()> {
    let sql = if on { "PRAGMA secure_delete = ON" } else { "PRAGMA secure_delete = FAST" };
    conn.query_row(sql, [], |_| Ok(()))
}

fn each(session: &mut Session, events: &[EventUid], now: i64) -> Answer<Erased> {
    let mut erased = Erased::default();
    let salt = session.salt;
    for event in events.iter().filter(|event| event.salt == salt) {
        let there = session.conn.prepare_cached("SELECT 1 FROM events WHERE seq = ?")?.exists([event.seq])?;
        if !there {
            continue;
        }
        let places = (event.seq << 16, event.seq << 16 | i64::from(N_MAX));
        hand_on(&session.conn, places, now, &mut erased)?;
        let waiting = waiting(&session.conn, places)?;
        let ids: Vec<_> = waiting.iter().map(|(place, _)| DeliveryId::at(salt, *place)).collect();
        match person::cancel(session, &ids, "its event was erased", now)? {
            Ok(ended) => erased.ended.extend(ended),
            Err(refused) => return Ok(Err(refused)),
        }
        erased.targets.extend(waiting.into_iter().map(|(_, target)| target));
        unmake(session, places, &mut erased)?;
        prune::remove_event(&session.conn, event.seq)?;
        erased.events += 1;
    }
    if erased.events != 0 {
        session.keep_last_seq()?;
    }
    Ok(Ok(erased))
}

/// What is pending between two places.
fn waiting(conn: &Connection, places: (i64, i64)) -> rusqlite::Result<Vec<(i64, Name)>> {
    let sql = "SELECT d.place, t.name FROM deliveries d NOT INDEXED JOIN targets t ON t.id = d.target_id
        WHERE d.place BETWEEN ? AND ? AND d.state = 0";
    let mut look = conn.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Name::from(row.get::<_, String>(1)?.as_str())));
    look.query_map(places, row)?.collect()
}

/// What carries closed digests and has not arrived, and the first of those that carry the same to other recipients.
pub(super) const CARRIERS: &str =
    "SELECT coalesce(d.carrier, d.place) AS first, d.place, t.name FROM deliveries d NOT INDEXED JOIN targets t ON t.id = d.target_id
    WHERE d.place BETWEEN ?1 AND ?2 AND d.stage = ?3 AND (d.state = 0 OR d.state = 2 AND d.resolved_at IS NULL)
    ORDER BY first, d.place";
/// The first of those that one carries, events between two places left out.
pub(super) const HEIR: &str = "SELECT place FROM deliveries INDEXED BY deliveries_carried
    WHERE carrier IS NOT NULL AND carrier = ?1 AND state = ?4 AND place NOT BETWEEN ?2 AND ?3 ORDER BY place LIMIT 1";

/// The others of a digest that waits, or is a dead letter, go on without the one that carried them: the first of them does, for whoever
/// does not have it.
fn hand_on(conn: &Connection, (first, last): (i64, i64), now: i64, erased: &mut Erased) -> rusqlite::Result<()> {
    let mut look = conn.prepare_cached(CARRIERS)?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let carriers = look.query_map((first, last, stage_code(Stage::Carrying)), read)?;
    let carriers: Vec<(i64, i64, String)> = carriers.collect::<rusqlite::Result<_>>()?;
    for same in carriers.chunk_by(|one, next| one.0 == next.0) {
        let Some((named, carrier, _)) = same.first() else { continue };
        let mut look = conn.prepare_cached(HEIR)?;
        let Some(heir) = look.query_row((named, first, last, DIGESTED), |row| row.get::<_, i64>(0)).optional()? else {
            continue;
        };
        let sql = "UPDATE deliveries SET carrier = ?2 WHERE carrier = ?1 AND state = ?3 AND place <> ?2";
        let others = conn.prepare_cached(sql)?.execute((named, heir, DIGESTED))?;
        let stage = if others == 0 { Stage::Passed } else { Stage::Carrying };
        inherit(conn, *carrier, heir, stage, now)?;
        for (_, carrier, _) in same.iter().skip(1) {
            inherit_beside(conn, *carrier, heir, stage, now)?;
        }
        erased.targets.extend(same.iter().map(|(.., target)| Name::from(target.as_str())));
    }
    Ok(())
}

/// `heir` takes the place of `carrier`.
fn inherit(conn: &Connection, carrier: i64, heir: i64, stage: Stage, now: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE deliveries SET (target_id, state, cause, error, settled_at, recipient, due_at) =
            (SELECT c.target_id, c.state, c.cause, c.error, c.settled_at, c.recipient, iif(c.state = 0, ?3, NULL)
            FROM deliveries c WHERE c.place = ?1),
        stage = ?4, carrier = NULL, turn = iif(severity = 2, 0, 1) WHERE place = ?2";
    conn.prepare_cached(sql)?.execute((carrier, heir, now, stage_code(stage))).map(|_| ())
}

/// One more delivery of the event of `heir` takes the place of `carrier`, which was for another recipient.
fn inherit_beside(conn: &Connection, carrier: i64, heir: i64, stage: Stage, now: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE events SET deliveries = deliveries + 1 WHERE seq = ? AND deliveries < ? RETURNING deliveries";
    let n: Option<i64> = conn.prepare_cached(sql)?.query_row((heir >> 16, N_MAX), |row| row.get(0)).optional()?;
    let Some(n) = n else { return Ok(()) };
    let place = heir >> 16 << 16 | n;
    let sql = "INSERT INTO deliveries (place, target_id, state, cause, created_at, due_at, settled_at, error, rule, template, severity,
            turn, replay, stage, carrier, recipient)
        SELECT ?3, c.target_id, c.state, c.cause, h.created_at, iif(c.state = 0, ?4, NULL), c.settled_at, c.error, h.rule, h.template,
            h.severity, iif(h.severity = 2, 0, 1), h.replay, ?5, ?6, c.recipient
        FROM deliveries h, deliveries c WHERE h.place = ?2 AND c.place = ?1";
    let first = (stage == Stage::Carrying).then_some(heir);
    conn.prepare_cached(sql)?.execute((carrier, heir, place, now, stage_code(stage), first))?;
    split::share_handling(conn, heir, place)
}

/// Those that deliveries between two places go out inside, and those that carry the same to other recipients.
pub(super) const MADE: &str = "WITH c AS (SELECT DISTINCT carrier AS place FROM deliveries NOT INDEXED
        WHERE place BETWEEN ?1 AND ?2 AND carrier IS NOT NULL)
    SELECT place FROM c UNION SELECT d.place FROM c CROSS JOIN deliveries d INDEXED BY deliveries_carried
        WHERE d.carrier IS NOT NULL AND d.carrier = c.place AND d.stage = 5";

/// Takes away what was made of the events whose deliveries lie between two places: bodies of the digests that carry them, which are made
/// anew where they are to be sent once more, and what was answered to those. What is made of them by now is not kept either.
fn unmake(session: &Session, places: (i64, i64), erased: &mut Erased) -> rusqlite::Result<()> {
    let conn = &session.conn;
    let mut look = conn.prepare_cached(MADE)?;
    let carriers: Vec<i64> = look.query_map(places, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for carrier in carriers {
        conn.prepare_cached("DELETE FROM bodies WHERE place = ?")?.execute([carrier])?;
        conn.prepare_cached("UPDATE attempts SET response = x'', detail = NULL WHERE place = ?")?.execute([carrier])?;
        let sql = "UPDATE deliveries SET unmade = unmade + 1 WHERE place = ?1
            RETURNING state = 0, (SELECT t.name FROM targets t WHERE t.id = target_id)";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let found: Option<(bool, String)> = conn.prepare_cached(sql)?.query_row([carrier], read).optional()?;
        if let Some((true, target)) = found {
            erased.carriers.push(DeliveryId::at(session.salt, carrier));
            erased.targets.push(Name::from(target.as_str()));
        }
    }
    Ok(())
}
