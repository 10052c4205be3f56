//! Making new deliveries: of an event that is held already, and of one delivery for several recipients one for each.

use std::{collections::HashSet, sync::Arc};

use super::{
    connect::{Answer, Db, Pg},
    insert::{Deliveries, Waiting, small},
    lanes, prune, query,
    rows::Cells,
    session::Session,
    text::Text,
};
use crate::{
    clock::{Timestamp, to_ms},
    envelope::{DeliveryId, Envelope, EventUid},
    store::{Committed, Delivery, Error, N_MAX, NewDelivery, Read, Rendered, Stage, codes::stage_code},
};

/// What a step made, and what is told of it once it is on disk.
pub(super) struct Replayed {
    pub(super) ids: Vec<DeliveryId>,
    pub(super) told: Option<Committed>,
}

/// Makes `deliveries` of `event`; see [`crate::store::Store::replay`].
pub(super) async fn replay(
    session: &Session<'_>,
    event: EventUid,
    deliveries: &[NewDelivery],
    tag: &str,
    now: Timestamp,
) -> Answer<Replayed> {
    let ids = |first: u32, last: u32| (first..=last).map(|n| DeliveryId { event, n }).collect::<Vec<_>>();
    if let Some(row) = session.db.first("SELECT first, last FROM replays WHERE tag = $1", &[&Text::of(tag)]).await? {
        let mut cells = Cells::of(&row);
        return Ok(Ok(Replayed { ids: ids(cells.count()?, cells.count()?), told: None }));
    }
    if let Err(refused) = prune::make_room(session).await? {
        return Ok(Err(refused));
    }
    let held = query::event(session.db, &session.shared.reading, event).await?;
    let Some(held) = held.filter(|_| !deliveries.is_empty()) else {
        return Ok(Ok(Replayed { ids: Vec::new(), told: None }));
    };
    let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
    let (first, last) = (held.deliveries.saturating_add(1), held.deliveries.saturating_add(count));
    if N_MAX < last {
        return Ok(Err(Error::Backend(format!("an event has at most {N_MAX} deliveries, replays included").into())));
    }
    insert(session, event, first, deliveries, to_ms(now), true).await?;
    grow(session, event.seq, last).await?;
    note(session, tag, event.seq, (first, last), to_ms(now)).await?;
    let made = |(n, planned): (u32, &NewDelivery)| {
        let id = DeliveryId { event, n };
        Delivery { replayed: true, ..Delivery::new(id, planned.clone(), now) }
    };
    let made = (first..).zip(deliveries).map(made).collect();
    let envelope = Arc::new(Envelope { replayed: true, ..held.envelope });
    let told = Committed { uid: event, envelope, deliveries: made, cancelled: Vec::new() };
    Ok(Ok(Replayed { ids: ids(first, last), told: Some(told) }))
}

/// Writes deliveries of `event` from number `first` on, due `at` once, and tells the other processes of them.
async fn insert(session: &Session<'_>, event: EventUid, first: u32, planned: &[NewDelivery], at: i64, replay: bool) -> Pg<()> {
    let ordered = lanes::Keys::of(session.shared, planned);
    let mut heads = HashSet::new();
    if !ordered.is_empty() {
        heads = lanes::heads(&session.db.rows(lanes::HEADS, &ordered.params()).await?)?;
    }
    let (mut rows, mut waiting, mut targets) = (Deliveries::default(), Waiting::default(), Vec::new());
    for (n, planned) in (first..).zip(planned) {
        let place = DeliveryId { event, n }.place();
        let target = session.target(&planned.target).await?;
        rows.push(place, target, planned, at, replay, lanes::turn(&mut heads, target, planned));
        targets.push(target);
        if let Some(handling) = &planned.handling {
            waiting.push(place, handling);
        }
    }
    rows.insert(session.db).await?;
    waiting.insert_plans(session.db).await?;
    waiting.insert_keys(session.db).await?;
    session.tell(&targets);
    Ok(())
}

/// The event has deliveries up to number `last`.
async fn grow(session: &Session<'_>, seq: i64, last: u32) -> Pg<()> {
    let last = i32::try_from(last).unwrap_or(i32::MAX);
    session.db.run("UPDATE events SET deliveries = $1 WHERE seq = $2", &[&last, &seq]).await.map(|_| ())
}

/// Notes a step that made the deliveries `first` to `last` of the event `seq`: lists of what replays made go by it.
async fn note(session: &Session<'_>, tag: &str, seq: i64, (first, last): (u32, u32), at: i64) -> Pg<()> {
    let sql = "INSERT INTO replays (tag, seq, first, last, at) VALUES ($1, $2, $3::bigint, $4::bigint, $5)";
    session.db.run(sql, &[&Text::of(tag), &seq, &i64::from(first), &i64::from(last), &at]).await.map(|_| ())
}

/// The step that made a delivery.
pub(super) const STEP: &str = "SELECT id FROM replays WHERE seq = $1 AND $2::bigint BETWEEN first AND last";

/// The step that made the delivery at `place`; 0, from before all of them, where none is known. Steps are forgotten oldest
/// first, so what is known then has come since.
pub(super) async fn step(db: &Db, place: i64) -> Pg<i64> {
    let row = db.first(STEP, &[&(place >> 16), &(place & i64::from(N_MAX))]).await?;
    row.map_or(Ok(0), |row| row.try_get(0))
}

/// What a split came to.
pub(super) struct Split {
    /// Whom the delivery is for now; `None`: there is no such delivery, or it is final.
    pub(super) own: Option<String>,
    /// The others, unless it was split before.
    pub(super) told: Option<Committed>,
}

impl Split {
    const NOTHING: Self = Self { own: None, told: None };
}

/// One that is not final and for whom it is.
pub(super) const KNOWN: &str = "SELECT recipient FROM deliveries WHERE place = $1 AND state = 0";

/// Splits `of`; see [`crate::store::Store::split`].
pub(super) async fn split(
    session: &Session<'_>,
    of: Read,
    recipients: &[String],
    body: &Rendered,
    now: Timestamp,
) -> Answer<Split> {
    let id = of.id;
    if id.event.salt != session.salt() {
        return Ok(Ok(Split::NOTHING));
    }
    let Some(row) = session.db.first(KNOWN, &[&id.place()]).await? else { return Ok(Ok(Split::NOTHING)) };
    if let Some(own) = Cells::of(&row).some_text()? {
        return Ok(Ok(Split { own: Some(own), told: None }));
    }
    if let Err(refused) = prune::make_room(session).await? {
        return Ok(Err(refused));
    }
    let event = query::event(session.db, &session.shared.reading, id.event).await?;
    let it = query::delivery(session.db, &session.shared.reading, id).await?;
    let (Some(event), Some(it), Some((own, others))) = (event, it, recipients.split_first()) else {
        return Ok(Ok(Split::NOTHING));
    };
    let first = event.deliveries.saturating_add(1);
    let last = event.deliveries.saturating_add(u32::try_from(others.len()).unwrap_or(u32::MAX));
    if N_MAX < last {
        let why = format!("an event has at most {N_MAX} deliveries, those for each recipient included");
        return Ok(Err(Error::Backend(why.into())));
    }
    let planned = NewDelivery {
        rule: it.rule.clone(),
        template: it.template.clone(),
        order_key: it.order_key,
        severity: it.severity,
        ..NewDelivery::to(it.target.clone())
    };
    let stage = match it.stage {
        Stage::Free | Stage::Carrying => it.stage,
        _ => Stage::Passed,
    };
    let body = (it.unmade == of.unmade).then_some(body);
    insert(session, id.event, first, &vec![planned.clone(); others.len()], to_ms(now), it.replayed).await?;
    let places: Vec<i64> =
        std::iter::once(id).chain((first..=last).map(|n| DeliveryId { event: id.event, n })).map(DeliveryId::place).collect();
    name(session, &places, recipients, &it, stage).await?;
    if let Some(body) = body {
        keep_bodies(session, &places, body).await?;
    }
    grow(session, id.event.seq, last).await?;
    if it.replayed && first <= last {
        note(session, &format!("split {id}"), id.event.seq, (first, last), to_ms(now)).await?;
    }
    let made = |(n, recipient): (u32, &String)| Delivery {
        recipient: Some(recipient.clone()),
        created_at: it.created_at,
        replayed: it.replayed,
        stage,
        body: body.cloned(),
        ..Delivery::new(DeliveryId { event: id.event, n }, planned.clone(), now)
    };
    let deliveries = (first..).zip(others).map(made).collect();
    let told = Committed { uid: id.event, envelope: Arc::new(event.envelope), deliveries, cancelled: Vec::new() };
    Ok(Ok(Split { own: Some(own.clone()), told: Some(told) }))
}

/// What was decided about the one (the first of `places`) holds for all; what may still cancel it, cancels them.
async fn name(session: &Session<'_>, places: &[i64], recipients: &[String], it: &Delivery, stage: Stage) -> Pg<()> {
    let Some((from, others)) = places.split_first() else { return Ok(()) };
    let names: Vec<Text<'_>> = recipients.iter().map(|name| Text::of(name)).collect();
    // What a digest carries, the others find by the first.
    let sql = "UPDATE deliveries d SET recipient = u.name, created_at = $3, stage = CASE d.place WHEN $4 THEN d.stage ELSE $5::bigint END,
            carrier = CASE WHEN d.place <> $4 AND $5::bigint = 5 THEN $4 END
        FROM unnest($1::bigint[], $2::text[]) AS u (place, name) WHERE d.place = u.place";
    session.db.run(sql, &[&places, &names, &to_ms(it.created_at), from, &stage_code(stage)]).await?;
    share_handling(session, *from, others).await
}

/// What the rules want of the delivery at `from` they want of those at `others`, too.
pub(super) async fn share_handling(session: &Session<'_>, from: i64, others: &[i64]) -> Pg<()> {
    for sql in [
        "INSERT INTO handling (place, plan, cancels) SELECT u.place, h.plan, h.cancels FROM handling h, unnest($2::bigint[]) AS u (place)
            WHERE h.place = $1",
        "INSERT INTO awaited (key, place) SELECT w.key, u.place FROM awaited w, unnest($2::bigint[]) AS u (place) WHERE w.place = $1",
    ] {
        session.db.run(sql, &[&from, &others]).await?;
    }
    Ok(())
}

async fn keep_bodies(session: &Session<'_>, places: &[i64], body: &Rendered) -> Pg<()> {
    let sql = "INSERT INTO bodies (place, content_type, body) SELECT u.place, $2, $3 FROM unnest($1::bigint[]) AS u (place)
        ON CONFLICT DO NOTHING";
    let kept = session.db.run(sql, &[&places, &Text::of(&body.content_type), &&*body.body]).await?;
    let size = i64::from(small(body.body.len())).saturating_mul(i64::try_from(kept).unwrap_or_default());
    session.db.run("UPDATE usage SET bytes = bytes + $1 WHERE slot = 0", &[&size]).await.map(|_| ())
}
