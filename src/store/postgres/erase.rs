//! Erasing events for good: they, all that belongs to them, and what was made of them.

use super::{
    connect::{Answer, Pg},
    person, prune,
    rows::Cells,
    session::Session,
};
use crate::{
    envelope::{DeliveryId, EventUid, Name},
    store::{
        Erased, Stage,
        codes::{DIGESTED, stage_code},
    },
};

/// Those of some events that there are.
const THERE: &str = "SELECT DISTINCT e.seq FROM unnest($1::bigint[]) AS u (at) JOIN events e ON e.seq = u.at ORDER BY e.seq";
/// What is pending of some events.
pub(super) const WAITING: &str = "SELECT d.place, t.name FROM unnest($1::bigint[]) AS s (seq)
    JOIN deliveries d ON d.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535 JOIN targets t ON t.id = d.target_id WHERE d.state = 0";
/// Carriers of closed digests that have not arrived.
pub(super) const CARRIERS: &str = "SELECT d.place, d.target_id, t.name FROM unnest($1::bigint[]) AS s (seq)
    JOIN deliveries d ON d.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535 JOIN targets t ON t.id = d.target_id
    WHERE d.stage = $2::bigint AND (d.state = 0 OR d.state = 2 AND d.resolved_at IS NULL) ORDER BY d.place";
/// The first of those that one carries, some events left out.
pub(super) const HEIR: &str = "SELECT place FROM deliveries
    WHERE carrier IS NOT NULL AND carrier = $1 AND state = $2::bigint AND (place >> 16) <> ALL($3) ORDER BY place LIMIT 1";

/// Erases `events`; see [`crate::store::Store::erase`].
pub(super) async fn erase(session: &Session<'_>, events: &[EventUid], now: i64) -> Answer<Erased> {
    let seqs: Vec<i64> = events.iter().filter(|event| event.salt == session.salt()).map(|event| event.seq).collect();
    let rows = session.db.rows(THERE, &[&seqs]).await?;
    let seqs: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Pg<_>>()?;
    let mut erased = Erased { events: seqs.len() as u64, ..Erased::default() };
    hand_on(session, &seqs, now, &mut erased).await?;
    let mut ids = Vec::new();
    for row in session.db.rows(WAITING, &[&seqs]).await? {
        let mut cells = Cells::of(&row);
        ids.push(DeliveryId::at(session.salt(), cells.int()?));
        erased.targets.push(Name::from(cells.text()?.as_str()));
    }
    match person::cancel(session, &ids, now).await? {
        Ok(ended) => erased.ended = ended,
        Err(refused) => return Ok(Err(refused)),
    }
    unmake(session, &seqs).await?;
    prune::remove_events(session, &seqs).await?;
    Ok(Ok(erased))
}

/// The others of a digest that waits, or is a dead letter, go on without the one that carried them: the first of them does.
async fn hand_on(session: &Session<'_>, seqs: &[i64], now: i64, erased: &mut Erased) -> Pg<()> {
    let mut targets = Vec::new();
    for row in session.db.rows(CARRIERS, &[&seqs, &stage_code(Stage::Carrying)]).await? {
        let mut cells = Cells::of(&row);
        let (carrier, target) = (cells.int()?, cells.int()?);
        let Some(heir) = session.db.first(HEIR, &[&carrier, &DIGESTED, &seqs]).await? else { continue };
        let heir: i64 = heir.try_get(0)?;
        let sql = "UPDATE deliveries SET carrier = $2 WHERE carrier = $1 AND state = $3::bigint AND place <> $2";
        let others = session.db.run(sql, &[&carrier, &heir, &DIGESTED]).await?;
        let stage = if others == 0 { Stage::Passed } else { Stage::Carrying };
        let sql = "UPDATE deliveries d SET state = c.state, cause = c.cause, error = c.error, settled_at = c.settled_at,
                due_at = CASE WHEN c.state = 0 THEN $3::bigint END, stage = $4::bigint, carrier = NULL,
                turn = CASE WHEN d.severity = 2 THEN 0 ELSE 1 END
            FROM deliveries c WHERE c.place = $1 AND d.place = $2";
        session.db.run(sql, &[&carrier, &heir, &now, &stage_code(stage)]).await?;
        erased.targets.push(Name::from(cells.text()?.as_str()));
        targets.push(target);
    }
    session.tell(&targets);
    Ok(())
}

/// Takes away what was made of some events: bodies of the digests that carry them, which are made anew where they are to be sent once
/// more, and what was answered to those.
async fn unmake(session: &Session<'_>, seqs: &[i64]) -> Pg<()> {
    let sql = "SELECT DISTINCT d.carrier FROM unnest($1::bigint[]) AS s (seq)
        JOIN deliveries d ON d.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535 WHERE d.carrier IS NOT NULL";
    let rows = session.db.rows(sql, &[&seqs]).await?;
    let carriers: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Pg<_>>()?;
    prune::remove_made(session, &carriers).await
}
