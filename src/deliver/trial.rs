//! Trying a destination out: a sample goes through its kind once, beside lanes and store, and what it was answered is told.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Deliver,
    attempt::{self, Outcome, Tools, Try},
    making::{Making, Purpose},
};
use crate::{
    clock::rfc3339_s,
    envelope::{DeliveryId, Envelope, EventUid, JSON, Name},
    route::OWN_SOURCE,
    samples,
    store::{Delivery, NewDelivery},
};

/// What is sent when no type is asked for.
const TYPE: &str = "test";
/// Longest type that may be asked for, in bytes.
const TYPE_MAX: usize = 256;

/// What trying a destination out came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The destination.
    pub target: Name,
    /// Its kind.
    pub kind: &'static str,
    /// Where it is, its path masked.
    pub url: String,
    /// The type of the sample.
    pub event_type: String,
    /// `delivered`, `transient`, `permanent`, or `target` where it refuses whatever is sent.
    pub outcome: &'static str,
    /// The answer's status.
    pub status: Option<u16>,
    /// What went wrong, as a code.
    pub error: Option<String>,
    /// What went wrong or was worth a remark, for a person.
    pub detail: Option<String>,
    /// The beginning of the answer's body.
    pub response: Bytes,
    /// How long it took.
    pub duration: Duration,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTrial {
    /// There is no such destination.
    #[error("there is no such target")]
    Nobody,
    /// A type is dotted words.
    #[error("a type of events is letters, digits, `.`, `_` and `-`")]
    BadType,
}

impl Deliver {
    /// Sends a sample of `event_type` to `target` once: it says that it is a test, nothing of it is kept, and neither rate, breaker nor
    /// pause keep it back. Addresses are vetted as always.
    pub async fn test(&self, target: &Name, event_type: Option<&str>) -> Result<Trial, NoTrial> {
        let today = self.desk(target).ok_or(NoTrial::Nobody)?.today();
        let tools = &today.tools;
        let event_type = event_type.unwrap_or(TYPE);
        if !is_type(event_type) {
            return Err(NoTrial::BadType);
        }
        let began = Instant::now();
        let event = sample(event_type, tools);
        let destination = &today.destination;
        let id = DeliveryId { event: EventUid { salt: attempt::draw(), seq: 0 }, n: 1 };
        let at = tools.clock.now();
        let making = Making {
            event: &event,
            delivery: &Delivery::new(id, NewDelivery::to(target.clone()), at),
            digest: None,
            number: 1,
            at,
            templates: &tools.templates,
            contacts: &tools.contacts,
            site: &tools.site,
            purpose: Purpose::Test,
            stage: tools.http.stage(),
        };
        let attempt = Try {
            making,
            deadline: began + destination.timeout,
            http: &tools.http,
            store: &*tools.store,
            traceparent: attempt::traceparent(None, id),
        };
        let tried = destination.kind.send(&attempt, &destination.answers).await;
        Ok(Trial {
            target: target.clone(),
            kind: destination.kind.word(),
            url: destination.masked_url(),
            event_type: event_type.to_owned(),
            outcome: match tried.outcome {
                Outcome::Delivered | Outcome::Awaits => "delivered",
                Outcome::Retry { .. } => "transient",
                Outcome::Permanent { .. } | Outcome::Unasked(_) => "permanent",
                Outcome::Target => "target",
            },
            status: tried.status,
            error: tried.error,
            detail: tried.detail,
            response: tried.response,
            duration: began.elapsed(),
        })
    }
}

fn is_type(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TYPE_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// A sample of the type: that of the seeds where they have one. Its id begins with `test_` and its `data` says `"test": true`, so that no
/// receiver takes it for an event.
fn sample(event_type: &str, tools: &Tools) -> Envelope {
    let now = tools.clock.now();
    let known = samples::find(event_type).map(|sample| sample.envelope());
    let data = known.as_ref().and_then(|event| serde_json::from_slice::<Value>(event.data()).ok());
    let mut data = data.filter(Value::is_object).unwrap_or_else(|| json!({ "message": "a test of this destination" }));
    data["test"] = true.into();
    let data = data.to_string();
    let (head, tail) = (r#"{"data":"#, "}");
    let body = format!("{head}{data}{tail}");
    Envelope {
        id: format!("test_{:016x}", attempt::draw()),
        source: OWN_SOURCE.into(),
        kind: known.as_ref().map_or("test", |event| event.kind),
        r#type: event_type.to_owned(),
        subject: known.as_ref().and_then(|event| event.subject.clone()),
        namespace: known.as_ref().and_then(|event| event.namespace.clone()),
        time: rfc3339_s(now),
        timestamp: rfc3339_s(now),
        received_at: now,
        traceparent: None,
        replayed: false,
        data: Some(head.len()..head.len() + data.len()),
        body: body.into(),
        content_type: Some(JSON.to_owned()),
    }
}
