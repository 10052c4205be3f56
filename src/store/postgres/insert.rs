//! Rows of events, deliveries and keys, gathered by column and written as one set each.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::{
    accept::with_suffix,
    connect::{Db, Pg},
    text::Text,
};
use crate::{
    clock::to_ms,
    store::{
        Handling, Key, NewDelivery, NewEvent, Stage,
        codes::{PENDING, severity_code, stage_code},
    },
};

/// What an event takes beside its body and its text, in bytes: its row, its dedupe key and their places in indexes.
const EVENT_BYTES: i64 = 512;
/// What a delivery takes, its usual attempt included.
const DELIVERY_BYTES: i64 = 512;

pub(super) const EVENTS: &str = "INSERT INTO events (seq, id, source, kind, type, subject, namespace, time, timestamp, received_at, traceparent,
        replayed, content_type, data_start, data_len, rules, deliveries, size, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::bigint[], $11::text[], $12::bool[], $13::text[], $14::int[], $15::int[], $16::text[], $17::int[], $18::bigint[],
        $19::bytea[])";

/// Events that are to be written.
#[derive(Default)]
pub(super) struct Events<'r> {
    seq: Vec<i64>,
    id: Vec<Text<'r>>,
    source: Vec<Text<'r>>,
    kind: Vec<&'static str>,
    r#type: Vec<Text<'r>>,
    subject: Vec<Option<Text<'r>>>,
    namespace: Vec<Option<Text<'r>>>,
    time: Vec<Text<'r>>,
    timestamp: Vec<Text<'r>>,
    received_at: Vec<i64>,
    traceparent: Vec<Option<Text<'r>>>,
    replayed: Vec<bool>,
    content_type: Vec<Option<Text<'r>>>,
    data_start: Vec<Option<i32>>,
    data_len: Vec<Option<i32>>,
    rules: Vec<Text<'r>>,
    deliveries: Vec<i32>,
    size: Vec<i64>,
    body: Vec<&'r [u8]>,
}

impl<'r> Events<'r> {
    /// Adds `event` as number `seq`, with what is put behind its id.
    pub(super) fn push(&mut self, event: &'r NewEvent, seq: i64, suffix: Option<i64>) {
        let it = &event.envelope;
        let rules: Vec<&str> = event.rules.iter().map(|name| name.as_str()).collect();
        self.seq.push(seq);
        self.id.push(if suffix.is_some() { with_suffix(&it.id, suffix).into() } else { Text::of(&it.id) });
        self.source.push(Text::of(it.source.as_str()));
        self.kind.push(it.kind);
        self.r#type.push(Text::of(&it.r#type));
        self.subject.push(Text::of_some(it.subject.as_deref()));
        self.namespace.push(Text::of_some(it.namespace.as_deref()));
        self.time.push(Text::of(&it.time));
        self.timestamp.push(Text::of(&it.timestamp));
        self.received_at.push(to_ms(it.received_at));
        self.traceparent.push(Text::of_some(it.traceparent.as_deref()));
        self.replayed.push(it.replayed);
        self.content_type.push(Text::of_some(it.content_type.as_deref()));
        self.data_start.push(it.data.as_ref().map(|range| small(range.start)));
        self.data_len.push(it.data.as_ref().map(|range| small(range.len())));
        // Names are plain text: this cannot fail.
        self.rules.push(serde_json::to_string(&rules).unwrap_or_default().into());
        self.deliveries.push(small(event.deliveries.len()));
        self.size.push(size(event));
        self.body.push(&it.body);
    }

    /// Bytes of all of them.
    pub(super) fn size(&self) -> i64 {
        self.size.iter().sum()
    }

    /// Has every statement of an ordinary batch ready, so that they can be sent one behind the other.
    pub(super) async fn prepare(&self, db: &Db) -> Pg<()> {
        for sql in [EVENTS, DELIVERIES, PLANS, AWAITED, KEYS] {
            db.statement(sql).await?;
        }
        Ok(())
    }

    /// As values of a statement, in the order of [`EVENTS`].
    pub(super) fn columns(&self) -> [&(dyn ToSql + Sync); 19] {
        [
            &self.seq,
            &self.id,
            &self.source,
            &self.kind,
            &self.r#type,
            &self.subject,
            &self.namespace,
            &self.time,
            &self.timestamp,
            &self.received_at,
            &self.traceparent,
            &self.replayed,
            &self.content_type,
            &self.data_start,
            &self.data_len,
            &self.rules,
            &self.deliveries,
            &self.size,
            &self.body,
        ]
    }

    pub(super) async fn insert(&self, db: &Db) -> Pg<u64> {
        if self.seq.is_empty() {
            return Ok(0);
        }
        db.run(EVENTS, &self.columns()).await
    }
}

/// What an event adds to what is in use.
fn size(event: &NewEvent) -> i64 {
    let it = &event.envelope;
    let texts = [Some(&it.id), Some(&it.r#type), it.subject.as_ref(), it.namespace.as_ref(), it.content_type.as_ref()];
    let bytes = it.body.len() + texts.into_iter().flatten().map(String::len).sum::<usize>();
    size_of(bytes, i64::from(small(event.deliveries.len())))
}

/// The same of an event with so many bytes of text and body, and so many deliveries.
pub(in crate::store) fn size_of(bytes: usize, deliveries: i64) -> i64 {
    i64::from(small(bytes)) + EVENT_BYTES + DELIVERY_BYTES * deliveries
}

/// A size as the tables hold it: bodies and their parts are far below what fits.
pub(super) fn small(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

pub(super) const DELIVERIES: &str =
    "INSERT INTO deliveries (place, target_id, state, created_at, due_at, rule, template, order_key, severity, turn, replay, stage)
    SELECT place, target, $10::bigint, $9::bigint, $9::bigint, rule, template, key, severity, turn, $11::bool, stage
    FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[])
        AS u (place, target, rule, template, key, severity, turn, stage)";

/// Deliveries that are to be written; due at once, all at one time.
#[derive(Default)]
pub(super) struct Deliveries<'r> {
    place: Vec<i64>,
    target: Vec<i64>,
    rule: Vec<Option<Text<'r>>>,
    template: Vec<Option<Text<'r>>>,
    order_key: Vec<Option<&'r [u8]>>,
    severity: Vec<i64>,
    turn: Vec<i64>,
    stage: Vec<i64>,
    at: i64,
    replay: bool,
}

impl<'r> Deliveries<'r> {
    /// Adds one that is due `at` once, made by a replay or not.
    pub(super) fn push(&mut self, place: i64, target: i64, planned: &'r NewDelivery, at: i64, replay: bool, turn: i64) {
        self.place.push(place);
        self.target.push(target);
        self.rule.push(Text::of_some(planned.rule.as_ref().map(|name| name.as_str())));
        self.template.push(Text::of_some(planned.template.as_deref()));
        self.order_key.push(planned.order_key.as_ref().map(|key| &key[..]));
        self.severity.push(severity_code(planned.severity));
        self.turn.push(turn);
        self.stage.push(stage_code(if planned.handling.is_some() { Stage::Undecided } else { Stage::Free }));
        (self.at, self.replay) = (at, replay);
    }

    /// As values of a statement, but for order keys.
    pub(super) fn columns(&self) -> [&(dyn ToSql + Sync); 7] {
        [&self.place, &self.target, &self.rule, &self.template, &self.severity, &self.turn, &self.stage]
    }

    pub(super) async fn insert(&self, db: &Db) -> Pg<u64> {
        if self.place.is_empty() {
            return Ok(0);
        }
        db.run(
            DELIVERIES,
            &[
                &self.place,
                &self.target,
                &self.rule,
                &self.template,
                &self.order_key,
                &self.severity,
                &self.turn,
                &self.stage,
                &self.at,
                &PENDING,
                &self.replay,
            ],
        )
        .await
    }
}

pub(super) const PLANS: &str =
    "INSERT INTO handling (place, plan, cancels) SELECT * FROM unnest($1::bigint[], $2::text[], $3::int[])";
pub(super) const AWAITED: &str =
    "INSERT INTO awaited (key, place) SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT DO NOTHING";

/// What the rules want of deliveries.
#[derive(Default)]
pub(super) struct Waiting {
    place: Vec<i64>,
    plan: Vec<String>,
    cancels: Vec<i32>,
    key: Vec<Key>,
    key_place: Vec<i64>,
}

impl Waiting {
    /// Adds what they want of the delivery at `place`.
    pub(super) fn push(&mut self, place: i64, handling: &Handling) {
        self.place.push(place);
        // Plain data: writing it cannot fail.
        self.plan.push(serde_json::to_string(handling).unwrap_or_default());
        self.cancels.push(small(handling.cancels.len()));
        for key in &handling.cancels {
            self.key.push(*key);
            self.key_place.push(place);
        }
    }

    /// Whether nothing is wanted of any.
    pub(super) fn is_empty(&self) -> bool {
        self.place.is_empty()
    }

    /// As values of [`PLANS`].
    pub(super) fn plans(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.place, &self.plan, &self.cancels]
    }

    /// As values of [`AWAITED`].
    pub(super) fn awaited(&self) -> Awaited<'_> {
        Awaited { keys: self.key.iter().map(|key| &key[..]).collect(), places: &self.key_place }
    }

    pub(super) async fn insert_plans(&self, db: &Db) -> Pg<u64> {
        if self.is_empty() {
            return Ok(0);
        }
        db.run(PLANS, &self.plans()).await
    }

    pub(super) async fn insert_keys(&self, db: &Db) -> Pg<u64> {
        if self.key.is_empty() {
            return Ok(0);
        }
        db.run(AWAITED, &self.awaited().params()).await
    }
}

/// The keys that deliveries wait for, by column.
pub(super) struct Awaited<'w> {
    keys: Vec<&'w [u8]>,
    places: &'w Vec<i64>,
}

impl Awaited<'_> {
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 2] {
        [&self.keys, self.places]
    }
}

/// What is remembered of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// First 16 bytes of the hash of the bytes received.
    pub(super) body: [u8; 16],
    /// The event.
    pub(super) seq: i64,
    /// When it was accepted, in ms.
    pub(super) seen_at: i64,
    /// Whether its id is a hash of the body.
    pub(super) hashed: bool,
    /// What was put behind that id.
    pub(super) suffix: Option<i64>,
    /// When it is forgotten, in ms.
    pub(super) forget_at: i64,
}

pub(super) const KEYS: &str = "INSERT INTO dedupe (key, body, seq, seen_at, hashed, suffix, forget_at)
    SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bool[], $6::bigint[], $7::bigint[])
    ON CONFLICT (key) DO UPDATE SET body = excluded.body, seq = excluded.seq, seen_at = excluded.seen_at, hashed = excluded.hashed,
        suffix = excluded.suffix, forget_at = excluded.forget_at";

/// How events are to be known again; of one key that came several times, the last.
#[derive(Default)]
pub(super) struct Keys(HashMap<[u8; 16], Seen>);

impl Keys {
    /// Remembers `key`, in place of what was remembered of it.
    pub(super) fn put(&mut self, key: [u8; 16], seen: Seen) {
        self.0.insert(key, seen);
    }

    /// By column, in the order of the index, whose pages are then each touched once.
    pub(super) fn columns(&self) -> KeyColumns<'_> {
        let mut all: Vec<(&[u8; 16], &Seen)> = self.0.iter().collect();
        all.sort_unstable_by_key(|(key, _)| **key);
        KeyColumns {
            keys: all.iter().map(|(key, _)| &key[..]).collect(),
            bodies: all.iter().map(|(_, seen)| &seen.body[..]).collect(),
            seqs: all.iter().map(|(_, seen)| seen.seq).collect(),
            seen_at: all.iter().map(|(_, seen)| seen.seen_at).collect(),
            hashed: all.iter().map(|(_, seen)| seen.hashed).collect(),
            suffixes: all.iter().map(|(_, seen)| seen.suffix).collect(),
            forget_at: all.iter().map(|(_, seen)| seen.forget_at).collect(),
        }
    }

    pub(super) async fn insert(&self, db: &Db) -> Pg<u64> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let it = self.columns();
        db.run(KEYS, &[&it.keys, &it.bodies, &it.seqs, &it.seen_at, &it.hashed, &it.suffixes, &it.forget_at]).await
    }
}

/// Keys by column.
pub(super) struct KeyColumns<'k> {
    keys: Vec<&'k [u8]>,
    bodies: Vec<&'k [u8]>,
    seqs: Vec<i64>,
    seen_at: Vec<i64>,
    hashed: Vec<bool>,
    suffixes: Vec<Option<i64>>,
    forget_at: Vec<i64>,
}

impl KeyColumns<'_> {
    /// As values of a statement, but for suffixes.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.keys, &self.bodies, &self.seqs, &self.seen_at, &self.hashed, &self.forget_at]
    }
}
