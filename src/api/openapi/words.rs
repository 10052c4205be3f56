//! The words that fields and parameters take, as schemas: each from the enum that has them.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::params::schema;
use crate::{
    samples,
    store::{Cause, Severity, State},
};

/// Names a schema and its words. The type is for `#[schema(value_type = …)]` only.
macro_rules! words {
    ($($(#[doc = $what:literal])+ $name:ident = $words:expr;)*) => {$(
        $(#[doc = $what])+
        pub(in crate::api) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                schema(json!({"type": "string", "enum": $words, "description": concat!($($what),+).trim()}))
            }
        }

        impl ToSchema for $name {}
    )*};
}

words! {
    /// Where a delivery stands.
    DeliveryState = states();
    /// Why a delivery is dead, held, suppressed or cancelled.
    DeliveryCause = [causes(), vec!["paused", "broken", "disabled"]].concat();
    /// How grave it is.
    DeliverySeverity = Severity::ALL.map(|(word, _)| word);
    /// Whether a target is sent to.
    TargetState = TARGET_STATES;
    /// How a token stands.
    TokenState = ["active", "expired", "revoked"];
    /// What a token may do.
    Scope = crate::access::Scope::ALL.map(|(_, word)| word);
    /// What became of a request.
    Verdict = ["accepted", "unmatched"];
    /// What came of an attempt.
    AttemptOutcome = ["delivered", "retry", "awaiting", "dead"];
}

/// The words of the states of targets.
pub(in crate::api) const TARGET_STATES: [&str; 4] = ["ok", "broken", "paused", "disabled"];

/// Likewise.
pub(in crate::api) fn target_states() -> Vec<&'static str> {
    TARGET_STATES.to_vec()
}

/// The words of the states of deliveries.
pub(in crate::api) fn states() -> Vec<&'static str> {
    State::ALL.map(|(word, _)| word).to_vec()
}

/// The words of the causes that are kept.
pub(in crate::api) fn causes() -> Vec<&'static str> {
    Cause::ALL.map(|(word, _)| word).to_vec()
}

/// The one state that dead letters are in.
pub(in crate::api) fn dead() -> Vec<&'static str> {
    vec![State::Dead.word()]
}

/// Whatever comes.
pub(in crate::api) struct Whatever;

impl PartialSchema for Whatever {
    fn schema() -> RefOr<Schema> {
        schema(json!({}))
    }
}

impl ToSchema for Whatever {}

/// Any JSON object.
pub(in crate::api) struct Anything;

impl PartialSchema for Anything {
    fn schema() -> RefOr<Schema> {
        schema(json!({"type": "object"}))
    }
}

impl ToSchema for Anything {}

/// Any JSON.
pub(in crate::api) struct Any;

impl PartialSchema for Any {
    fn schema() -> RefOr<Schema> {
        schema(json!({}))
    }
}

impl ToSchema for Any {}

/// One event of a stream.
pub(in crate::api) struct StreamEvent;

impl PartialSchema for StreamEvent {
    fn schema() -> RefOr<Schema> {
        let text = |what: &str| json!({"type": "string", "description": what});
        schema(json!({
            "type": "object",
            "description": "One server-sent event, of which the answer is a sequence without an end.",
            "required": ["data"],
            "properties": {
                "id": text("Where a stream goes on from: as `Last-Event-ID`, or as `after`."),
                "event": text("The event's type; `heartbeat`, `lagging` and `expired` are the relay's own."),
                "data": text("The envelope as JSON, see `Envelope`; for the relay's own an object."),
                "retry": {"type": "integer", "description": "Milliseconds to wait before asking again."},
            },
        }))
    }
}

impl ToSchema for StreamEvent {}

/// The event as targets receive it.
pub(in crate::api) struct Envelope;

impl PartialSchema for Envelope {
    fn schema() -> RefOr<Schema> {
        let text = |what: &str| json!({"type": "string", "description": what});
        schema(json!({
            "type": "object",
            "description": "The event as targets receive it: CloudEvents 1.0, and a superset of Interactor's own payload.",
            "required": ["specversion", "id", "source", "type", "time", "timestamp", "sourcekind", "receivedat", "data"],
            "properties": {
                "specversion": {"type": "string", "const": "1.0"},
                "id": text("The sender's id."),
                "source": text("`/sources/` and the source it came in by."),
                "type": text("What happened, as the sender names it."),
                "subject": text("What it happened to."),
                "time": {"type": "string", "format": "date-time", "description": "The sender's instant."},
                "timestamp": text("The sender's time as it was sent."),
                "datacontenttype": text("The media type of `data`."),
                "namespace": text("Whose event it is."),
                "sourcekind": text("The kind of the source."),
                "receivedat": {"type": "string", "format": "date-time", "description": "When the relay took it in."},
                "traceparent": text("W3C trace context."),
                "replayed": {"type": "boolean", "description": "Sent again on purpose."},
                "data": {"description": "The sender's data, unchanged."},
            },
            "examples": [example()],
        }))
    }
}

impl ToSchema for Envelope {}

/// A credential that expired, from the seeds.
fn example() -> Value {
    let sample = samples::find("credential.expired").map(|sample| sample.envelope().to_json());
    sample.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}
