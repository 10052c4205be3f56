//! Erasing events for good: they, all that belongs to them, and what was made of them.

use super::{
    connect::{Answer, Pg},
    person, prune, replay,
    rows::Cells,
    session::Session,
};
use crate::{
    envelope::{DeliveryId, EventUid, Name},
    store::{
        Erased, N_MAX, Stage,
        codes::{DIGESTED, stage_code},
    },
};

/// Those of some events that there are.
const THERE: &str = "SELECT DISTINCT e.seq FROM unnest($1::bigint[]) AS u (at) JOIN events e ON e.seq = u.at ORDER BY e.seq";
/// What is pending of some events.
pub(super) const WAITING: &str = "SELECT d.place, t.name FROM unnest($1::bigint[]) AS s (seq)
    JOIN deliveries d ON d.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535 JOIN targets t ON t.id = d.target_id WHERE d.state = 0";
/// What carries closed digests and has not arrived, and the first of those that carry the same to other recipients.
pub(super) const CARRIERS: &str =
    "SELECT coalesce(d.carrier, d.place), d.place, d.target_id, t.name FROM unnest($1::bigint[]) AS s (seq)
    JOIN deliveries d ON d.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535 JOIN targets t ON t.id = d.target_id
    WHERE d.stage = $2::bigint AND (d.state = 0 OR d.state = 2 AND d.resolved_at IS NULL) ORDER BY 1, 2";
/// The first of those that one carries, some events left out.
pub(super) const HEIR: &str = "SELECT place FROM deliveries
    WHERE carrier IS NOT NULL AND carrier = $1 AND state = $2::bigint AND (place >> 16) <> ALL($3) ORDER BY place LIMIT 1";
/// Marks those that some events go out inside, and those that carry the same to other recipients.
pub(super) const MADE: &str = "WITH c AS (SELECT DISTINCT d.carrier AS place FROM unnest($1::bigint[]) AS s (seq)
            JOIN deliveries d ON d.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535 WHERE d.carrier IS NOT NULL),
        made AS (SELECT place FROM c
            UNION SELECT d.place FROM c JOIN deliveries d ON d.carrier = c.place AND d.carrier IS NOT NULL AND d.stage = 5)
    UPDATE deliveries d SET unmade = d.unmade + 1 FROM made m, targets t WHERE d.place = m.place AND t.id = d.target_id
    RETURNING d.place, d.state::int = 0, d.target_id, t.name";

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
    match person::cancel(session, &ids, "its event was erased", now).await? {
        Ok(ended) => erased.ended = ended,
        Err(refused) => return Ok(Err(refused)),
    }
    unmake(session, &seqs, &mut erased).await?;
    prune::remove_events(session, &seqs).await?;
    Ok(Ok(erased))
}

/// What is to go on in another.
struct Carrier {
    /// The first of those that carry the same.
    named: i64,
    place: i64,
    target: i64,
    name: String,
}

/// The others of a digest that waits, or is a dead letter, go on without the one that carried them: the first of them does, for whoever
/// does not have it.
async fn hand_on(session: &Session<'_>, seqs: &[i64], now: i64, erased: &mut Erased) -> Pg<()> {
    let mut carriers = Vec::new();
    for row in session.db.rows(CARRIERS, &[&seqs, &stage_code(Stage::Carrying)]).await? {
        let mut cells = Cells::of(&row);
        carriers.push(Carrier { named: cells.int()?, place: cells.int()?, target: cells.int()?, name: cells.text()? });
    }
    let mut targets = Vec::new();
    for same in carriers.chunk_by(|one, next| one.named == next.named) {
        let Some(first) = same.first() else { continue };
        let Some(heir) = session.db.first(HEIR, &[&first.named, &DIGESTED, &seqs]).await? else { continue };
        let heir: i64 = heir.try_get(0)?;
        let sql = "UPDATE deliveries SET carrier = $2 WHERE carrier = $1 AND state = $3::bigint AND place <> $2";
        let others = session.db.run(sql, &[&first.named, &heir, &DIGESTED]).await?;
        let stage = if others == 0 { Stage::Passed } else { Stage::Carrying };
        inherit(session, first.place, heir, stage, now).await?;
        for other in same.iter().skip(1) {
            inherit_beside(session, other.place, heir, stage, now).await?;
        }
        erased.targets.extend(same.iter().map(|it| Name::from(it.name.as_str())));
        targets.extend(same.iter().map(|it| it.target));
    }
    session.tell(&targets);
    Ok(())
}

/// `heir` takes the place of `carrier`.
async fn inherit(session: &Session<'_>, carrier: i64, heir: i64, stage: Stage, now: i64) -> Pg<()> {
    let sql = "UPDATE deliveries d SET target_id = c.target_id, state = c.state, cause = c.cause, error = c.error,
            settled_at = c.settled_at, recipient = c.recipient, due_at = CASE WHEN c.state = 0 THEN $3::bigint END,
            stage = $4::bigint, carrier = NULL, turn = CASE WHEN d.severity = 2 THEN 0 ELSE 1 END
        FROM deliveries c WHERE c.place = $1 AND d.place = $2";
    session.db.run(sql, &[&carrier, &heir, &now, &stage_code(stage)]).await.map(|_| ())
}

/// One more delivery of the event of `heir` takes the place of `carrier`, which was for another recipient.
async fn inherit_beside(session: &Session<'_>, carrier: i64, heir: i64, stage: Stage, now: i64) -> Pg<()> {
    let sql = "UPDATE events SET deliveries = deliveries + 1 WHERE seq = $1 AND deliveries < $2::bigint RETURNING deliveries";
    let Some(row) = session.db.first(sql, &[&(heir >> 16), &i64::from(N_MAX)]).await? else { return Ok(()) };
    let place = heir >> 16 << 16 | Cells::of(&row).int()?;
    let sql = "INSERT INTO deliveries (place, target_id, state, cause, created_at, due_at, settled_at, error, rule, template, severity,
            turn, replay, stage, carrier, recipient)
        SELECT $3, c.target_id, c.state, c.cause, h.created_at, CASE WHEN c.state = 0 THEN $4::bigint END, c.settled_at, c.error, h.rule,
            h.template, h.severity, CASE WHEN h.severity = 2 THEN 0 ELSE 1 END, h.replay, $5::bigint, $6::bigint, c.recipient
        FROM deliveries h, deliveries c WHERE h.place = $2 AND c.place = $1";
    let first = (stage == Stage::Carrying).then_some(heir);
    session.db.run(sql, &[&carrier, &heir, &place, &now, &stage_code(stage), &first]).await?;
    replay::share_handling(session, heir, &[place]).await
}

/// Takes away what was made of some events: bodies of the digests that carry them, which are made anew where they are to be sent once
/// more, and what was answered to those. What is made of them by now is not kept either, and whoever has it in hand reads it anew.
async fn unmake(session: &Session<'_>, seqs: &[i64], erased: &mut Erased) -> Pg<()> {
    let (mut carriers, mut targets) = (Vec::new(), Vec::new());
    for row in session.db.rows(MADE, &[&seqs]).await? {
        let mut cells = Cells::of(&row);
        let (place, waits, target) = (cells.int()?, cells.take::<bool>()?, cells.int()?);
        carriers.push(place);
        if waits {
            erased.carriers.push(DeliveryId::at(session.salt(), place));
            erased.targets.push(Name::from(cells.text()?.as_str()));
            targets.push(target);
        }
    }
    prune::remove_made(session, &carriers).await?;
    session.tell_ended(&targets);
    Ok(())
}
