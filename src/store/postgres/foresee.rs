//! What would be decided about a delivery that is not there: [`super::decide`] without writing anything.

use super::{
    connect::{Db, Pg},
    digest,
    rows::Cells,
    text::Text,
    throttle,
};
use crate::{
    clock::from_ms,
    envelope::Name,
    store::{Digest, Foreseen, Full, Gathered, Handling, Throttle},
};

/// See [`crate::store::Store::foresee`].
pub(super) async fn foresee(db: &Db, target: &Name, handling: &Handling, now: i64) -> Pg<Foreseen> {
    let target = db.first("SELECT id FROM targets WHERE name = $1", &[&Text::of(target.as_str())]).await?;
    let target: Option<i64> = target.map(|row| row.try_get(0)).transpose()?;
    let throttled = match target {
        Some(target) => full(db, target, &handling.throttles, now).await?,
        None => None,
    };
    let gathered = match &handling.digest {
        Some(digest) if throttled.is_none() => Some(gathered(db, target, digest, now).await?),
        _ => None,
    };
    Ok(Foreseen { throttled, gathered })
}

/// It is suppressed when every throttle is full, so it may go as soon as one of them is not.
async fn full(db: &Db, target: i64, throttles: &[Throttle], now: i64) -> Pg<Option<Full>> {
    let mut soonest = None;
    for throttle in throttles {
        let Some(until) = full_until(db, target, throttle, now).await? else { return Ok(None) };
        soonest = Some(soonest.map_or(until, |known: i64| known.min(until)));
    }
    let full = throttles.first().zip(soonest);
    Ok(full.map(|(throttle, until)| Full { reason: throttle::reason(throttle), until: from_ms(until) }))
}

/// Until when the throttle lets nothing go; `None`: it does.
async fn full_until(db: &Db, target: i64, throttle: &Throttle, now: i64) -> Pg<Option<i64>> {
    let window = throttle::ms(throttle);
    let floor = throttle::reset(db, &throttle.key).await?.unwrap_or(i64::MIN);
    let (since, ahead, limit) = (now.saturating_sub(window), now.saturating_add(window), i64::from(throttle.limit));
    let went = db.rows(throttle::WENT_AT, &[&target, &&throttle.key[..], &since, &floor, &ahead, &limit]).await?;
    if went.len() < usize::try_from(throttle.limit).unwrap_or(usize::MAX) {
        return Ok(None);
    }
    let oldest: Option<i64> = went.last().map(|row| row.try_get(0)).transpose()?;
    Ok(oldest.map(|oldest| oldest.saturating_add(window)))
}

async fn gathered(db: &Db, target: Option<i64>, digest: &Digest, now: i64) -> Pg<Gathered> {
    let ends_at = now.saturating_add(i64::try_from(digest.window.as_millis()).unwrap_or(i64::MAX));
    let (mut others, mut until) = (0, ends_at);
    if let Some(row) = db.first(digest::OPEN, &[&target, &&digest.key[..]]).await? {
        let mut cells = Cells::of(&row);
        cells.int()?;
        (others, until) = (cells.count()?, cells.some_int()?.unwrap_or(now));
    }
    // A full one goes out at once.
    let until = if digest.max <= others.saturating_add(1) { now } else { until.max(now) };
    Ok(Gathered { until: from_ms(until), others })
}
