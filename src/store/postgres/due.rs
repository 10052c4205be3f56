//! What lanes read: the next deliveries of a target, each with its event and with the body that was made for it.

use std::{collections::HashMap, sync::Arc};

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
/// Of those that wait for target `t`, $columns of so many ($limit) that come first and are not in hand ($3). As many more as are in hand
/// are looked at: those may come first. (What is in hand is left out above the partitions, so that it is made ready for looking up once.)
macro_rules! first_of {
    ($columns:literal, $which:literal, $order:literal, $limit:literal) => {
        concat!(
            "(SELECT * FROM (SELECT ",
            $columns,
            " FROM deliveries WHERE state = 0 AND target_id = t.id AND ",
            $which,
            " ORDER BY ",
            $order,
            " LIMIT ",
            $limit,
            " + cardinality($3::bigint[])) AS w
            WHERE place NOT IN (SELECT unnest($3::bigint[])))"
        )
    };
}

/// Both queues of a lane in the order in which they go, the critical ones (0) and the rest (1), each in the order of its index.
pub(super) const QUEUES: &str = concat!(
    with_size!(),
    "CROSS JOIN (VALUES (0), (1)) AS q (turn) CROSS JOIN LATERAL ",
    first_of!("*", "turn = q.turn AND due_at <= $2", "due_at, created_at, place", "$4::bigint"),
    " AS d WHERE t.name = $1 ORDER BY q.turn, d.due_at, d.created_at, d.place LIMIT $4::bigint"
);
/// What has waited longest of both queues, found in the index alone. An order key's earliest stands in them alone, so its followers come
/// after it.
pub(super) const OLDEST: &str = concat!(
    with_size!(),
    "CROSS JOIN LATERAL (SELECT place FROM ",
    first_of!("place, created_at", "turn IN (0, 1) AND due_at <= $2", "created_at, place", "1"),
    " AS f ORDER BY created_at, place LIMIT 1) AS o
    CROSS JOIN LATERAL (SELECT * FROM deliveries WHERE place = o.place AND state::int = 0 OFFSET 0) AS d WHERE t.name = $1"
);
/// When the first one of both queues is due, whatever time it is ($2).
pub(super) const NEXT_DUE: &str = concat!(
    "SELECT min(d.due_at) FROM targets t CROSS JOIN (VALUES (0), (1)) AS q (turn) CROSS JOIN LATERAL ",
    first_of!("place, due_at", "turn = q.turn AND due_at <= $2", "due_at, created_at, place", "1"),
    " AS d WHERE t.name = $1"
);
/// Bodies that were made for deliveries.
pub(super) const MADE: &str = "SELECT b.place, b.content_type, b.body, b.progress, b.reached
    FROM unnest($1::bigint[]) AS u (at) JOIN bodies b ON b.place = u.at";
/// Events ($1) with their bodies, in that order, until those and what goes with them ($2: all that is known to come before each) are so
/// many bytes ($3); those beyond come without. Which of those that are asked for they are.
pub(super) const EVENTS: &str = concat!(
    "SELECT e.nth, e.comes_before < $3, CASE WHEN e.comes_before < $3 THEN e.body END, ",
    rows::event_columns!(),
    " FROM (SELECT e.*, u.nth,
            u.known + sum(octet_length(e.body)) OVER (ORDER BY u.nth ROWS UNBOUNDED PRECEDING) - octet_length(e.body) AS comes_before
        FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS u (at, known, nth) JOIN events e ON e.seq = u.at) AS e
    ORDER BY e.nth"
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
    let found = db.first(NEXT_DUE, &[&Text::of(target.as_str()), &i64::MAX, &places(reading, except)]).await?;
    let earliest: Option<i64> = found.map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(earliest.map(from_ms))
}

fn places(reading: &Reading, ids: &[DeliveryId]) -> Vec<i64> {
    ids.iter().filter(|id| id.event.salt == reading.salt).map(|id| id.place()).collect()
}

/// The deliveries in `rows` ([`with_size`]) with all that goes with them, in that order: the first of them, until their bodies are too large
/// together. Those are left out whose events are gone, or that were settled meanwhile as far as their made bodies tell.
async fn whole(db: &Db, reading: &Reading, rows: &[Row]) -> Pg<Vec<Due>> {
    let (mut found, mut missing, mut known_bytes) = (Vec::with_capacity(rows.len()), Missing::default(), 0);
    for row in rows {
        if DUE_BYTES <= known_bytes {
            break;
        }
        let mut cells = Cells::of(row);
        let made = cells.some_int()?;
        let delivery = reading.delivery(&mut cells, None)?;
        let seq = delivery.id.event.seq;
        let event = reading.recent.get(seq);
        if event.is_none() {
            missing.add(seq, known_bytes, found.len());
        }
        known_bytes += made.unwrap_or_default() + event.as_ref().map_or(0, |event| event.body.len() as i64);
        found.push((delivery, made.is_some(), event));
    }
    for (at, _, event) in missing.read(db, reading, DUE_BYTES).await? {
        match (event, found.get_mut(at)) {
            (None, _) => found.truncate(at),
            (event, Some(due)) => due.2 = event,
            (Some(_), None) => {}
        }
    }
    let made = found.iter().filter(|(_, was_made, _)| *was_made).map(|(delivery, ..)| delivery.id.place()).collect();
    let mut bodies = bodies(db, made).await?;
    let due = |(mut delivery, was_made, event): (Delivery, bool, Option<Event>)| {
        if was_made {
            delivery.body = Some(bodies.remove(&delivery.id.place())?);
        }
        let event = event?;
        let envelope = match delivery.replayed && !event.replayed {
            true => Arc::new(Envelope { replayed: true, ..(*event).clone() }),
            false => event,
        };
        Some(Due { delivery, envelope })
    };
    Ok(found.into_iter().filter_map(due).collect())
}

/// The bodies that were made for the deliveries at `places`.
async fn bodies(db: &Db, places: Vec<i64>) -> Pg<HashMap<i64, Rendered>> {
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
    let (mut found, mut missing) = (HashMap::new(), Missing::default());
    for seq in seqs {
        match reading.recent.get(seq) {
            Some(event) => _ = found.insert(seq, event),
            None => missing.add(seq, 0, 0),
        }
    }
    let read = missing.read(db, reading, i64::MAX).await?;
    found.extend(read.into_iter().filter_map(|(_, seq, event)| Some((seq, event?))));
    Ok(found)
}

/// Events that nobody has read just now.
#[derive(Default)]
struct Missing {
    seqs: Vec<i64>,
    /// How many bytes are known to come before each.
    known: Vec<i64>,
    /// What each belongs to.
    at: Vec<usize>,
}

impl Missing {
    fn add(&mut self, seq: i64, known: i64, at: usize) {
        self.seqs.push(seq);
        self.known.push(known);
        self.at.push(at);
    }

    /// What each of them belongs to, and it itself, in their order: `None` for those that come after so many bytes. Those that are gone are
    /// left out.
    async fn read(&self, db: &Db, reading: &Reading, bytes: i64) -> Pg<Vec<(usize, i64, Option<Event>)>> {
        let mut read = Vec::with_capacity(self.seqs.len());
        if self.seqs.is_empty() {
            return Ok(read);
        }
        for row in &db.rows(EVENTS, &[&self.seqs, &self.known, &bytes]).await? {
            let mut cells = Cells::of(row);
            let nth = usize::try_from(cells.int()? - 1).unwrap_or(usize::MAX);
            let (Some(at), Some(seq)) = (self.at.get(nth), self.seqs.get(nth)) else { continue };
            if !cells.take::<bool>()? {
                read.push((*at, *seq, None));
                continue;
            }
            let body = cells.some_bytes()?.unwrap_or_default();
            let event = Arc::new(reading.envelope(&mut cells, body)?);
            reading.recent.put(*seq, &event);
            read.push((*at, *seq, Some(event)));
        }
        Ok(read)
    }
}
