//! What lanes read: the next deliveries of a target, each with its event and with the body that was made for it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio_postgres::Row;

use super::{
    connect::{Db, Pg},
    rows::{self, Cells, Event, Reading},
    text::Text,
};
use crate::{
    clock::{Timestamp, from_ms},
    envelope::{DeliveryId, Envelope, Name},
    store::{Delivery, Due, Rendered},
};

/// Bytes of bodies after which one answer of [`due`] ends.
const DUE_BYTES: i64 = 16 * 1024 * 1024;

/// What is read of a delivery: the size of the body that was made for it, then itself.
macro_rules! with_size {
    () => {
        concat!(
            "SELECT (SELECT octet_length(b.body)::bigint FROM bodies b WHERE b.place = d.place), ",
            rows::delivery_columns!(),
            " FROM targets t "
        )
    };
}
/// Whose those are that wait for target `t`, due by now ($2) and not in hand ($3: looked up, not compared one by one).
macro_rules! waiting {
    ($which:literal) => {
        concat!("state = 0 AND target_id = t.id AND ", $which, " AND place NOT IN (SELECT unnest($3::bigint[]))")
    };
}

/// Both queues of a lane in the order in which they go, the critical ones (0) and the rest (1), each in the order of its index.
pub(super) const QUEUES: &str = concat!(
    with_size!(),
    "CROSS JOIN (VALUES (0), (1)) AS q (turn) CROSS JOIN LATERAL (SELECT * FROM deliveries WHERE ",
    waiting!("turn = q.turn AND due_at <= $2"),
    " ORDER BY due_at, created_at, place LIMIT $4) AS d
    WHERE t.name = $1 ORDER BY q.turn, d.due_at, d.created_at, d.place LIMIT $4"
);
/// What has waited longest of both queues. An order key's earliest stands in them alone, so its followers come after it.
pub(super) const OLDEST: &str = concat!(
    with_size!(),
    "CROSS JOIN LATERAL (SELECT * FROM deliveries WHERE ",
    waiting!("turn IN (0, 1) AND due_at <= $2"),
    " ORDER BY created_at, place LIMIT 1) AS d WHERE t.name = $1"
);
/// When the first ones of each queue are due, but for those in hand ($2).
pub(super) const NEXT_DUE: &str = "SELECT min(d.due_at) FROM targets t CROSS JOIN (VALUES (0), (1)) AS q (turn)
        CROSS JOIN LATERAL (SELECT due_at FROM deliveries WHERE state = 0 AND target_id = t.id AND turn = q.turn
            AND place NOT IN (SELECT unnest($2::bigint[])) ORDER BY due_at, created_at, place LIMIT 1) AS d
    WHERE t.name = $1";
/// Bodies that were made for deliveries.
pub(super) const MADE: &str = "SELECT b.place, b.content_type, b.body, b.progress, b.reached
    FROM unnest($1::bigint[]) AS u (at) JOIN bodies b ON b.place = u.at";
/// Events with their bodies, in the order in which they are asked for, until those are so many bytes ($2).
pub(super) const EVENTS: &str = concat!(
    "SELECT e.seq, e.body, ",
    rows::event_columns!(),
    " FROM (SELECT e.*, sum(octet_length(e.body)) OVER (ORDER BY u.n ROWS UNBOUNDED PRECEDING) - octet_length(e.body) AS before
        FROM unnest($1::bigint[]) WITH ORDINALITY AS u (at, n) JOIN events e ON e.seq = u.at) AS e WHERE e.before < $2"
);

/// What is due; see [`crate::store::Store::due`].
pub(super) async fn due(db: &Db, reading: &Reading, target: &Name, now: i64, limit: u32, except: &[DeliveryId]) -> Pg<Vec<Due>> {
    let in_hand = places(reading, except);
    let found = db.rows(QUEUES, &[&Text::of(target.as_str()), &now, &in_hand, &i64::from(limit)]).await?;
    whole(db, reading, &found).await
}

/// What has waited longest; see [`crate::store::Store::oldest_due`].
pub(super) async fn oldest_due(db: &Db, reading: &Reading, target: &Name, now: i64, except: &[DeliveryId]) -> Pg<Option<Due>> {
    let in_hand = places(reading, except);
    let found = db.rows(OLDEST, &[&Text::of(target.as_str()), &now, &in_hand]).await?;
    Ok(whole(db, reading, &found).await?.pop())
}

/// When something falls due; see [`crate::store::Store::next_due`].
pub(super) async fn next_due(db: &Db, reading: &Reading, target: &Name, except: &[DeliveryId]) -> Pg<Option<Timestamp>> {
    let found = db.first(NEXT_DUE, &[&Text::of(target.as_str()), &places(reading, except)]).await?;
    let earliest: Option<i64> = found.map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(earliest.map(from_ms))
}

fn places(reading: &Reading, ids: &[DeliveryId]) -> Vec<i64> {
    ids.iter().filter(|id| id.event.salt == reading.salt).map(|id| id.place()).collect()
}

/// The deliveries in `rows` ([`with_size`]) with all that goes with them, in that order and as many as are not too large together; without
/// those that were settled meanwhile, or whose events are gone.
async fn whole(db: &Db, reading: &Reading, rows: &[Row]) -> Pg<Vec<Due>> {
    let (mut deliveries, mut events) = (Vec::with_capacity(rows.len()), HashMap::with_capacity(rows.len()));
    let (mut made, mut missing, mut bytes) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        let mut cells = Cells::of(row);
        let size = cells.some_int()?;
        let delivery = reading.delivery(&mut cells, None)?;
        let seq = delivery.id.event.seq;
        let known = reading.recent.get(seq);
        if size.is_some() {
            made.push(delivery.id.place());
        }
        bytes += size.unwrap_or_default() + known.as_ref().map_or(0, |event| i64::try_from(event.body.len()).unwrap_or(i64::MAX));
        match known {
            Some(event) => _ = events.insert(seq, event),
            None => missing.push(seq),
        }
        deliveries.push((delivery, size.is_some()));
        if DUE_BYTES <= bytes {
            break;
        }
    }
    let (bodies, read) = tokio::join!(biased; bodies(db, &made), read(db, reading, &missing, (DUE_BYTES - bytes).max(1)));
    let mut bodies = bodies?;
    events.extend(read?);
    let due = |(mut delivery, was_made): (Delivery, bool)| {
        if was_made {
            delivery.body = Some(bodies.remove(&delivery.id.place())?);
        }
        let event: &Event = events.get(&delivery.id.event.seq)?;
        let envelope = match delivery.replayed && !event.replayed {
            true => Arc::new(Envelope { replayed: true, ..(**event).clone() }),
            false => event.clone(),
        };
        Some(Due { delivery, envelope })
    };
    Ok(deliveries.into_iter().filter_map(due).collect())
}

/// The bodies that were made for the deliveries at `places`.
async fn bodies(db: &Db, places: &[i64]) -> Pg<HashMap<i64, Rendered>> {
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let body = |row: &Row| {
        let mut cells = Cells::of(row);
        let (place, content_type) = (cells.int()?, cells.text()?);
        let (body, progress) = (cells.some_bytes()?.unwrap_or_default(), cells.some_bytes()?);
        let reached = cells.take::<Option<bool>>()?.unwrap_or_default();
        Ok((place, Rendered { content_type, body, progress, reached }))
    };
    db.rows(MADE, &[&places]).await?.iter().map(body).collect()
}

/// The events at `seqs`, which others may have asked for just now.
pub(super) async fn events_at(db: &Db, reading: &Reading, seqs: impl Iterator<Item = i64>) -> Pg<HashMap<i64, Event>> {
    let (mut found, mut missing) = (HashMap::new(), HashSet::new());
    for seq in seqs {
        match reading.recent.get(seq) {
            Some(event) => _ = found.insert(seq, event),
            None => _ = missing.insert(seq),
        }
    }
    let missing: Vec<i64> = missing.into_iter().collect();
    found.extend(read(db, reading, &missing, i64::MAX).await?);
    Ok(found)
}

/// The events at `seqs`, the first of them, until their bodies are so many bytes.
async fn read(db: &Db, reading: &Reading, seqs: &[i64], bytes: i64) -> Pg<Vec<(i64, Event)>> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let event = |row: &Row| {
        let mut cells = Cells::of(row);
        let seq = cells.int()?;
        let body = cells.some_bytes()?.unwrap_or_default();
        let event = Arc::new(reading.envelope(&mut cells, body)?);
        reading.recent.put(seq, &event);
        Ok((seq, event))
    };
    db.rows(EVENTS, &[&seqs, &bytes]).await?.iter().map(event).collect()
}
