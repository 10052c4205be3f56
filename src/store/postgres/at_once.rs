//! Taking in a batch of ordinary events in one statement, which is a commit of its own: one way to the server, and the next batch may
//! be sent behind it. The server gives them their places, so nothing has to be known beforehand.
//!
//! Ordinary is what nobody asks more of than to be kept: nothing of it was seen before, it stands in no order and ends nothing. Whatever
//! else is among them, or that there may be no room, makes the statement write nothing, and the batch goes the longer way
//! ([`super::accept`]).

use std::{collections::HashSet, sync::Arc};

use super::{
    accept::{Accept, Done, remembered},
    batch::Came,
    connect::{Db, Pg, is_refusal},
    insert::{Deliveries, Events, Keys, Waiting},
    session::{Shared, broken, waited},
};
use crate::{
    envelope::{DeliveryId, EventUid},
    store::{N_MAX, SEQ_MAX},
};

/// Everything at once: the lock, the places, the rows, the word to others. What `here` finds in the way (a key that is known, no room,
/// no places left, another server) leaves all that follows without a row. `$wanted`: what rules want of deliveries, where any want something.
macro_rules! at_once {
    ($($wanted:literal)?) => {
        concat!(
            "WITH here AS (UPDATE identity SET last_seq = last_seq + $1::int, used = used + $2::bigint
        WHERE one AND server = pg_postmaster_start_time() AND last_seq + $1::int <= $3::bigint AND NOT EXISTS (SELECT FROM dedupe WHERE key = ANY($24::bytea[]))
            AND ($4::bigint IS NULL OR used + (SELECT coalesce(sum(bytes), 0)::bigint FROM usage) < $4::bigint)
        RETURNING last_seq - $1::int AS base),
    known AS (INSERT INTO dedupe (key, body, seq, seen_at, hashed, suffix, forget_at)
        SELECT u.key, u.body, here.base + u.seq, u.seen_at, u.hashed, NULL, u.forget_at FROM here CROSS JOIN
            unnest($24::bytea[], $25::bytea[], $26::bigint[], $27::bigint[], $28::bool[], $29::bigint[])
            AS u (key, body, seq, seen_at, hashed, forget_at)),
    kept AS (INSERT INTO events (seq, id, source, kind, type, subject, namespace, time, timestamp, received_at, traceparent,
            replayed, content_type, data_start, data_len, rules, deliveries, size, body)
        SELECT here.base + u.seq, u.id, u.source, u.kind, u.type, u.subject, u.namespace, u.time, u.timestamp, u.received_at,
            u.traceparent, u.replayed, u.content_type, u.data_start, u.data_len, u.rules, u.deliveries, u.size, u.body
        FROM here CROSS JOIN unnest($5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::text[], $13::text[], $14::bigint[], $15::text[], $16::bool[], $17::text[], $18::int[], $19::int[], $20::text[],
            $21::int[], $22::bigint[], $23::bytea[])
            AS u (seq, id, source, kind, type, subject, namespace, time, timestamp, received_at, traceparent,
            replayed, content_type, data_start, data_len, rules, deliveries, size, body)),
    planned AS (INSERT INTO deliveries (place, target_id, state, created_at, due_at, rule, template, severity, turn, stage)
        SELECT (here.base << 16) + u.place, u.target, 0, $37::bigint, $37::bigint, u.rule, u.template, u.severity, u.turn, u.stage
        FROM here CROSS JOIN unnest($30::bigint[], $31::bigint[], $32::text[], $33::text[], $34::bigint[], $35::bigint[],
            $36::bigint[]) AS u (place, target, rule, template, severity, turn, stage))",
            $($wanted,)?
            " SELECT here.base, CASE WHEN $39::text IS NOT NULL THEN pg_notify($38::text, $39::text)::text END FROM here"
        )
    };
}

pub(super) const AT_ONCE: &str = at_once!();
pub(super) const AT_ONCE_WANTED: &str = at_once!(
    ", wanted AS (INSERT INTO handling (place, plan, cancels) SELECT (here.base << 16) + u.place, u.plan, u.cancels
        FROM here CROSS JOIN unnest($40::bigint[], $41::text[], $42::int[]) AS u (place, plan, cancels)),
    awaits AS (INSERT INTO awaited (key, place) SELECT u.key, (here.base << 16) + u.place
        FROM here CROSS JOIN unnest($43::bytea[], $44::bigint[]) AS u (key, place) ON CONFLICT DO NOTHING)"
);

/// Whether `batch` may go at once, as far as can be told here.
pub(super) fn is_ordinary(batch: &[Accept]) -> bool {
    let mut seen = HashSet::with_capacity(batch.len());
    batch.iter().map(|job| &job.event).all(|event| {
        event.endings.is_empty()
            && event.setting.is_none()
            && event.deliveries.len() <= N_MAX as usize
            && event.deliveries.iter().all(|planned| planned.order_key.is_none())
            && seen.insert(event.dedupe.key)
    })
}

/// Has the statements ready, so that [`take_in`] sends with its first poll.
pub(super) async fn prepare(db: &Db) -> Pg<()> {
    for sql in [AT_ONCE, AT_ONCE_WANTED] {
        db.statement(sql).await?;
    }
    Ok(())
}

/// Takes in `batch`; `limit`: how many bytes may be in use. The numbers of all its targets are known.
pub(super) async fn take_in(db: Arc<Db>, shared: Arc<Shared>, mut batch: Vec<Accept>, limit: Option<i64>) -> (Vec<Accept>, Came) {
    let (now, mark) = (shared.now(), db.mark());
    let written = write(&db, &shared, &batch, now, limit).await.inspect_err(|error| shared.may_have_committed(error));
    let came = match written {
        Ok(Some(base)) => {
            for (n, job) in (1..).zip(&mut batch) {
                job.done = Some(Ok(Done::New { seq: base + n, suffix: None, at: now }));
                job.salt = shared.reading.salt;
                job.cancelled.clear();
            }
            waited(&db, &shared, mark).map_or_else(Came::Failed, |()| Came::Done)
        }
        Ok(None) => Came::NeedsCare,
        Err(error) if is_refusal(&error) => Came::Failed(broken(&db, &error)),
        // One that others took in at the same moment, or a fault of one of them: the longer way finds out which.
        Err(_) => Came::NeedsCare,
    };
    (batch, came)
}

/// The place before the first of them; `None` where nothing was written.
async fn write(db: &Db, shared: &Shared, batch: &[Accept], now: i64, limit: Option<i64>) -> Pg<Option<i64>> {
    let (mut events, mut deliveries, mut waiting, mut keys) =
        (Events::default(), Deliveries::default(), Waiting::default(), Keys::default());
    let mut targets = Vec::new();
    for (seq, Accept { event, .. }) in (1..).zip(batch) {
        events.push(event, seq, None);
        keys.put(event.dedupe.key, remembered(event, seq, None, now));
        for (n, planned) in (1..).zip(&event.deliveries) {
            let place = DeliveryId { event: EventUid { salt: 0, seq }, n }.place();
            let Some(target) = shared.known(&planned.target) else { return Ok(None) };
            deliveries.push(place, target, planned, now, false, super::lanes::turn(&mut HashSet::new(), target, planned));
            targets.push(target);
            if let Some(handling) = &planned.handling {
                waiting.push(place, handling);
            }
        }
    }
    let (count, size) = (super::insert::small(batch.len()), events.size());
    let (events, deliveries, keys) = (events.columns(), deliveries.columns(), keys.columns());
    let keys = keys.params();
    let channel = super::news::channel(shared.reading.salt);
    let said = if shared.has_company() { super::news::new(&targets, shared.voice) } else { None };
    let mut params: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&count, &size, &SEQ_MAX, &limit];
    params.extend(events);
    params.extend(keys);
    params.extend(deliveries);
    params.extend([&now as &(dyn tokio_postgres::types::ToSql + Sync), &channel, &said]);
    let awaited = waiting.awaited();
    let sql = if waiting.is_empty() {
        AT_ONCE
    } else {
        params.extend(waiting.plans());
        params.extend(awaited.params());
        AT_ONCE_WANTED
    };
    let statement = db.statement(sql).await?;
    let rows = db.rows_of(&statement, &params).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}
