//! What a clock that was ahead has put off, once the clock was set back: times that only it can have made are not waited for.

use std::sync::atomic::Ordering;

use super::{connect::Pg, decide, rows::Cells, session::Session};

/// Rows that one call looks for.
const SLICE: i64 = 500;
/// How far ahead the due time of a delivery is not wondered at: the longest wait unless a file asks for longer ones.
const AHEAD_MS: i64 = 60 * 60 * 1000;

/// Deliveries that wait for a time which a clock made that was ahead: they were planned or tried in what is the future now.
pub(super) const AHEAD: &str = "UPDATE deliveries SET due_at = $1 WHERE place IN (
    SELECT d.place FROM targets t CROSS JOIN LATERAL (SELECT place, created_at FROM deliveries
        WHERE state = 0 AND target_id = t.id AND turn IN (0, 1, 2, 3) AND due_at > $2) AS d
    WHERE d.created_at > $2 OR EXISTS (SELECT 1 FROM attempts a WHERE a.place = d.place AND a.started_at > $2) LIMIT $3)";
/// Those that wait for a report: for as long as was meant.
pub(super) const AWAITED: &str = "UPDATE deliveries d SET due_at = $1 + d.due_at -
        (SELECT max(a.started_at) FROM attempts a WHERE a.place = d.place)
    WHERE d.place IN (SELECT place FROM deliveries w WHERE w.state = 0 AND w.turn = 4
        AND w.due_at > $2 AND EXISTS (SELECT 1 FROM attempts a WHERE a.place = w.place AND a.started_at > $2) LIMIT $3)";
/// What quiet hours hold: whether they do is asked again.
pub(super) const QUIET: &str = "UPDATE deliveries SET due_at = $1 WHERE state = 0 AND cause = 5 AND due_at > $1";
/// Digests that gather: their carriers, when they are due, and what the rules want.
pub(super) const GATHERING: &str = "SELECT g.carrier, c.due_at, h.plan FROM digests g JOIN deliveries c ON c.place = g.carrier
        LEFT JOIN handling h ON h.place = g.carrier
    WHERE c.state = 0 AND c.stage = 3 AND c.due_at > $1";

/// Makes due what waits for a time that only a wrong clock has seen, once the clock was set back.
pub(super) async fn look(session: &Session<'_>, now: i64) -> Pg<()> {
    if !session.shared.set_back.load(Ordering::Relaxed) {
        return Ok(());
    }
    let ahead = now.saturating_add(AHEAD_MS);
    let woken = session.db.run(AHEAD, &[&now, &ahead, &SLICE]).await?;
    let awaited = session.db.run(AWAITED, &[&now, &ahead, &SLICE]).await?;
    session.db.run(QUIET, &[&now]).await?;
    let digests = digests(session, now).await?;
    session.shared.set_back.store(SLICE.cast_unsigned() <= woken.max(awaited), Ordering::Relaxed);
    if 0 < woken + digests {
        tracing::warn!(
            deliveries = woken,
            digests,
            "the clock was set back: deliveries that waited for its former time are due now"
        );
    }
    Ok(())
}

/// Digests that end later than their rule can have meant, or with quiet hours, about which is asked again; answers how many.
async fn digests(session: &Session<'_>, now: i64) -> Pg<u64> {
    let mut carriers = Vec::new();
    for row in session.db.rows(GATHERING, &[&now]).await? {
        let mut cells = Cells::of(&row);
        let (carrier, due_at) = (cells.int()?, cells.int()?);
        let window = decide::read_plan(cells.take()?).digest.map(|digest| digest.window.as_millis());
        let window = window.map_or(0, |window| i64::try_from(window).unwrap_or(i64::MAX));
        if now.saturating_add(window).saturating_add(AHEAD_MS) < due_at {
            carriers.push(carrier);
        }
    }
    if !carriers.is_empty() {
        session.db.run("UPDATE deliveries SET due_at = $2 WHERE place = ANY($1)", &[&carriers, &now]).await?;
        session.db.run("UPDATE digests SET ends_at = $2 WHERE carrier = ANY($1)", &[&carriers, &now]).await?;
    }
    Ok(carriers.len() as u64)
}
