//! What a notice is called, what it is about and what it says; and the event that a batch of them becomes.

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};

use super::{Differing, Notice, batch::Batch};
use crate::{
    clock::{Timestamp, rfc3339_ms},
    envelope::{Envelope, JSON, Name},
    route::OWN_SOURCE,
    sign,
};

/// Replicas that one notice lists.
const REPLICAS_MAX: usize = 50;
/// The kind of the relay's own source.
const KIND: &str = "hookyard";

/// The event's type.
pub(super) fn r#type(notice: &Notice) -> &'static str {
    match notice {
        Notice::Dead { .. }
        | Notice::HeldTooLong { .. }
        | Notice::Expired { .. }
        | Notice::LeftOut { .. }
        | Notice::Removed { .. } => "relay.delivery.dead",
        Notice::Disabled { .. } => "relay.target.disabled",
        Notice::Broken { .. } => "relay.target.broken",
        Notice::Recovered { .. } => "relay.target.recovered",
        Notice::Paused { .. } => "relay.target.paused",
        Notice::Rejecting { .. } | Notice::Unanswered { .. } => "relay.source.rejecting",
        Notice::Silent { .. } => "relay.source.silent",
        Notice::Filling { .. } => "relay.store.filling",
        Notice::ConfigLoaded { .. } => "relay.config.loaded",
        Notice::ConfigRejected { .. } => "relay.config.rejected",
        Notice::Differ { .. } => "relay.replicas.differ",
        Notice::Agree { .. } => "relay.replicas.agree",
    }
}

/// What it is gathered with: deaths and removals share a type, and are not counted together.
pub(super) fn gathered_as(notice: &Notice) -> &'static str {
    match notice {
        Notice::HeldTooLong { .. } => "held too long",
        Notice::Expired { .. } => "expired",
        Notice::LeftOut { .. } => "left out",
        Notice::Removed { .. } => "removed",
        Notice::Unanswered { .. } => "unanswered",
        _ => r#type(notice),
    }
}

/// The target or source it is about.
pub(super) fn subject(notice: &Notice) -> Option<&Name> {
    match notice {
        Notice::Dead { target, .. }
        | Notice::Broken { target, .. }
        | Notice::Recovered { target, .. }
        | Notice::Disabled { target, .. }
        | Notice::Expired { target, .. }
        | Notice::Paused { target, .. } => Some(target),
        Notice::Rejecting { source, .. }
        | Notice::Unanswered { source, .. }
        | Notice::LeftOut { source, .. }
        | Notice::Silent { source, .. } => Some(source),
        Notice::HeldTooLong { .. }
        | Notice::Removed { .. }
        | Notice::Filling { .. }
        | Notice::ConfigLoaded { .. }
        | Notice::ConfigRejected { .. }
        | Notice::Differ { .. }
        | Notice::Agree { .. } => None,
    }
}

/// How many things it tells of.
pub(super) fn weight(notice: &Notice) -> u64 {
    match notice {
        Notice::HeldTooLong { count }
        | Notice::Removed { count }
        | Notice::Expired { count, .. }
        | Notice::LeftOut { count, .. } => *count,
        _ => 1,
    }
}

/// What it says, as a JSON object.
pub(super) fn item(notice: &Notice, at: Timestamp) -> Map<String, Value> {
    let said = match notice {
        Notice::Dead { delivery, event_id, event_type, target, cause, error } => json!({
            "target": target.as_str(),
            "delivery": delivery.to_string(),
            "event": {"uid": delivery.event.to_string(), "id": event_id, "type": event_type},
            "cause": cause.word(),
            "error": error,
        }),
        Notice::HeldTooLong { count } => json!({"dead": count, "cause": "config", "error": "held_too_long"}),
        Notice::Expired { target, count } => {
            json!({"target": target.as_str(), "expired": count, "cause": "held_max", "error": "held_too_long"})
        }
        Notice::LeftOut { source, count } => {
            json!({"source": source.as_str(), "left_out": count, "cause": "takers", "error": "too_many_subscriptions"})
        }
        Notice::Disabled { target, why, error, event } => json!({
            "target": target.as_str(),
            "cause": why,
            "error": error,
            "delivery": event.as_ref().map(|(delivery, ..)| delivery.to_string()),
            "event": event.as_ref().map(|(delivery, id, r#type)| json!({"uid": delivery.event.to_string(), "id": id, "type": r#type})),
        }),
        Notice::Removed { count } => json!({"removed": count, "reason": "retention"}),
        Notice::Broken { target, cause, error } => json!({"target": target.as_str(), "cause": cause.word(), "error": error}),
        Notice::Recovered { target, broken_since } => {
            json!({"target": target.as_str(), "broken_since": rfc3339_ms(*broken_since)})
        }
        Notice::Paused { target, by } => json!({"target": target.as_str(), "by": by}),
        Notice::Rejecting { source, count, reason } => {
            json!({"source": source.as_str(), "rejected": count, "reason": reason})
        }
        Notice::Unanswered { source, failures, reason } => {
            json!({"source": source.as_str(), "failures": failures, "reason": reason})
        }
        Notice::Silent { source, last_at } => json!({"source": source.as_str(), "last_received_at": last_at.map(rfc3339_ms)}),
        Notice::Filling { used, max } => json!({"used_bytes": used, "max_bytes": max}),
        Notice::ConfigLoaded { hash } => json!({"hash": hash}),
        Notice::ConfigRejected { error } => json!({"error": error}),
        Notice::Differ { newest, since, replicas } => json!({
            "newest": newest,
            "differ_since": rfc3339_ms(*since),
            "replicas": replicas.iter().take(REPLICAS_MAX).map(replica).collect::<Vec<_>>(),
        }),
        Notice::Agree { since } => json!({"agree_since": rfc3339_ms(*since)}),
    };
    let Value::Object(mut said) = said else { return Map::new() };
    said.retain(|_, value| !value.is_null());
    said.insert("at".to_owned(), rfc3339_ms(at).into());
    said
}

fn replica(it: &Differing) -> Value {
    json!({"name": it.name, "version": it.version, "generation": it.generation})
}

/// The event that tells of `batch`: its data is what the first notice says, how many there were, and the list of the first ones.
/// `None` when the system gives no random bytes for its id.
pub(super) fn envelope(batch: &Batch, now: Timestamp) -> Option<Envelope> {
    let mut drawn = [0; 16];
    SystemRandom::new().fill(&mut drawn).ok()?;
    let (id, time) = (format!("relay_{}", sign::hex(&drawn)), rfc3339_ms(now));
    let head = json!({"id": id, "type": batch.r#type, "timestamp": time}).to_string();
    let data = data(batch).to_string();
    let start = head.len() + r#""data":"#.len();
    let body = format!(r#"{},"data":{data}}}"#, head.trim_end_matches('}'));
    Some(Envelope {
        id,
        source: OWN_SOURCE.into(),
        kind: KIND,
        r#type: batch.r#type.to_owned(),
        subject: batch.subject.clone(),
        namespace: None,
        time: time.clone(),
        timestamp: time,
        received_at: now,
        traceparent: None,
        replayed: false,
        data: Some(start..start + data.len()),
        body: Bytes::from(body),
        content_type: Some(JSON.to_owned()),
    })
}

fn data(batch: &Batch) -> Value {
    let mut data = batch.listed.first().cloned().unwrap_or_default();
    data.remove("at");
    data.insert("count".to_owned(), batch.count.into());
    data.insert("since".to_owned(), rfc3339_ms(batch.since).into());
    data.insert("until".to_owned(), rfc3339_ms(batch.until).into());
    data.insert("items".to_owned(), batch.listed.iter().cloned().map(Value::Object).collect());
    Value::Object(data)
}
