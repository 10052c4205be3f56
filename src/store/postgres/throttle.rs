//! What throttles count, and who takes the place of one that died.

use super::{connect::Pg, decide, rows::Cells, session::Session};
use crate::store::{Key, Throttle};

/// How long what was decided is kept beyond the window it counts in: one that passed may die, and another takes its place.
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Whether the delivery in this row has reached some of its people, or one of those may that it was split into: then it has
/// not died in vain, and another in its place would be told to them again.
macro_rules! reached {
    () => {
        "(coalesce((SELECT b.reached FROM bodies b WHERE b.place = d.place), false)
            OR d.recipient IS NOT NULL AND EXISTS (SELECT 1 FROM deliveries s
                WHERE s.place BETWEEN (d.place >> 16) << 16 AND ((d.place >> 16) << 16) + 65535 AND s.place <> d.place
                    AND s.target_id = d.target_id AND s.recipient IS NOT NULL AND s.replay = d.replay AND s.state IN (0, 1)))"
    };
}

/// Those of a key that went between two times: that are not dead, cancelled, suppressed or expired. One that was removed had
/// arrived; one that did not arrive everywhere went all the same.
pub(super) const WENT: &str = concat!(
    "SELECT count(*) FROM (SELECT 1 FROM throttled t LEFT JOIN deliveries d ON d.place = t.place
    WHERE t.target_id = $1 AND t.key = $2 AND NOT t.suppressed AND t.at > $3 AND t.place >= $4 AND t.place <> $5
        AND (coalesce(d.state, 1) IN (0, 1, 5) OR ",
    reached!(),
    ") AND t.at < $7 LIMIT $6::bigint) AS went"
);

/// When those went that [`WENT`] counts for one that comes after all of them, newest first.
pub(super) const WENT_AT: &str = concat!(
    "SELECT t.at FROM throttled t LEFT JOIN deliveries d ON d.place = t.place
    WHERE t.target_id = $1 AND t.key = $2 AND NOT t.suppressed AND t.at > $3 AND t.place >= $4
        AND (coalesce(d.state, 1) IN (0, 1, 5) OR ",
    reached!(),
    ") AND t.at < $5 ORDER BY t.at DESC LIMIT $6::bigint"
);

/// Who was counted and died, unless somebody was told.
pub(super) const GAVE_UP_ITS_PLACE: &str =
    concat!("SELECT d.target_id FROM deliveries d WHERE d.place = $1 AND d.stage <> 0 AND NOT (", reached!(), ")");

/// Why the delivery at `place` is suppressed; `None` when it may go. What was decided is noted under each of its keys.
pub(super) async fn full(session: &Session<'_>, target: i64, place: i64, throttles: &[Throttle], now: i64) -> Pg<Option<String>> {
    let mut full = !throttles.is_empty();
    for throttle in throttles {
        full = full && i64::from(throttle.limit) <= went(session, target, place, throttle, now).await?;
    }
    for throttle in throttles {
        note(session, target, place, throttle, full, now).await?;
    }
    Ok(throttles.first().filter(|_| full).map(reason))
}

/// Why one of this throttle was suppressed.
pub(super) fn reason(throttle: &Throttle) -> String {
    let per = crate::clock::short(throttle.per);
    match throttle.limit {
        1 => format!("one of the same key went within {per}"),
        limit => format!("{limit} of the same key went within {per}"),
    }
}

async fn went(session: &Session<'_>, target: i64, place: i64, throttle: &Throttle, now: i64) -> Pg<i64> {
    let since = now.saturating_sub(ms(throttle));
    // A window that an event ended counts for nobody who came after it.
    let floor = reset(session.db, &throttle.key).await?.filter(|floor| *floor <= place).unwrap_or(i64::MIN);
    // What went further ahead than the window is long went by a clock that was set back since.
    let ahead = now.saturating_add(ms(throttle));
    let limit = i64::from(throttle.limit);
    let row = session.db.first(WENT, &[&target, &&throttle.key[..], &since, &floor, &place, &limit, &ahead]).await?;
    row.map_or(Ok(0), |row| Cells::of(&row).int())
}

async fn note(session: &Session<'_>, target: i64, place: i64, throttle: &Throttle, full: bool, now: i64) -> Pg<()> {
    let sql = "INSERT INTO throttled (target_id, key, suppressed, at, place, keep_until) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (target_id, key, suppressed, at, place) DO UPDATE SET keep_until = excluded.keep_until";
    let keep_until = now.saturating_add(ms(throttle)).saturating_add(KEPT_MS);
    session.db.run(sql, &[&target, &&throttle.key[..], &full, &now, &place, &keep_until]).await.map(|_| ())
}

pub(super) fn ms(throttle: &Throttle) -> i64 {
    i64::try_from(throttle.per.as_millis()).unwrap_or(i64::MAX)
}

/// The first place that comes after the last event which ended the window of `key`; that event's own deliveries do.
pub(super) async fn reset(db: &super::connect::Db, key: &Key) -> Pg<Option<i64>> {
    let row = db.first("SELECT seq << 16 FROM resets WHERE key = $1", &[&&key[..]]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// The newest suppressed ones of a key that came after a place, and whether later events made them pointless.
pub(super) const SUPPRESSED: &str = "SELECT t.place, h.plan, h.cancels FROM throttled t JOIN deliveries d ON d.place = t.place
    LEFT JOIN handling h ON h.place = t.place
    WHERE t.target_id = $1 AND t.key = $2 AND t.suppressed AND t.place >= $3 AND d.state = 4 AND d.cause = 3
    ORDER BY t.at DESC, t.place DESC LIMIT $4::bigint";
/// Those that are looked at: the others of a key were called off by later events.
const LOOKED_AT: i64 = 100;

/// The delivery at `place` has died, and nobody was told: where a throttle counted it, the newest suppressed one of its key is undecided
/// again, due now.
pub(super) async fn died(session: &Session<'_>, place: i64, now: i64) -> Pg<()> {
    let Some(row) = session.db.first(GAVE_UP_ITS_PLACE, &[&place]).await? else { return Ok(()) };
    let target: i64 = row.try_get(0)?;
    for throttle in &decide::plan(session, place).await?.throttles {
        if promote(session, target, &throttle.key, place, now).await? {
            session.tell(&[target]);
            return Ok(());
        }
    }
    Ok(())
}

async fn promote(session: &Session<'_>, target: i64, key: &Key, dead: i64, now: i64) -> Pg<bool> {
    let floor = reset(session.db, key).await?.unwrap_or(i64::MIN);
    if dead < floor {
        return Ok(false);
    }
    for row in session.db.rows(SUPPRESSED, &[&target, &&key[..], &floor, &LOOKED_AT]).await? {
        let mut cells = Cells::of(&row);
        let place = cells.int()?;
        let plan = decide::read_plan(cells.take()?);
        // Later events made it pointless.
        let called_off = cells.some_int()? == Some(0) && !plan.cancels.is_empty();
        if !called_off {
            wake(session, target, place, &plan.throttles, now).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

async fn wake(session: &Session<'_>, target: i64, place: i64, throttles: &[Throttle], now: i64) -> Pg<()> {
    let keys: Vec<&[u8]> = throttles.iter().map(|throttle| &throttle.key[..]).collect();
    let sql = "DELETE FROM throttled WHERE target_id = $1 AND key = ANY($2) AND suppressed AND place = $3";
    session.db.run(sql, &[&target, &keys, &place]).await?;
    // What was ordered goes out of order: those behind it went long ago.
    let sql = "UPDATE deliveries SET state = 0, cause = NULL, note = NULL, due_at = $2, settled_at = NULL, stage = 1,
            turn = CASE WHEN severity = 2 THEN 0 ELSE 1 END, out_of_order = out_of_order OR order_key IS NOT NULL, order_key = NULL
        WHERE place = $1";
    session.db.run(sql, &[&place, &now]).await.map(|_| ())
}
