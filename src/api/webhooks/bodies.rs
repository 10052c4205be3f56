//! What bodies may say, for the document of the API. What reads them is [`crate::subscriptions::Wanted`].

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::api::openapi::params::schema;

/// A body that makes a subscription.
pub(super) struct WebhookAsked;
/// A body that changes one.
pub(super) struct WebhookChanged;
/// A body that makes one in Honeyframe's words.
pub(super) struct PlainAsked;
/// A body that tries one out.
pub(super) struct TrialAsked;

impl PartialSchema for WebhookAsked {
    fn schema() -> RefOr<Schema> {
        let required = json!({"required": ["url"], "anyOf": [{"required": ["events"]}, {"required": ["event_types"]}]});
        schema(object(merged(interactor(&[]), options()), &required))
    }
}

impl ToSchema for WebhookAsked {}

impl PartialSchema for WebhookChanged {
    fn schema() -> RefOr<Schema> {
        let secret =
            json!({"type": ["string", "null"], "description": "As the answer that it was made with showed it; nothing else."});
        let own = merged(interactor(&["null"]), json!({"secret": secret}));
        schema(object(merged(own, options()), &json!({})))
    }
}

impl ToSchema for WebhookChanged {}

impl PartialSchema for PlainAsked {
    fn schema() -> RefOr<Schema> {
        let own = json!({
            "event_type": {
                "type": ["string", "array"], "items": {"type": "string"}, "minItems": 1, "maxItems": 50,
                "description": "The event type, which may be a glob; or several.",
            },
            "target_url": url(),
            "secret": {
                "type": "string", "minLength": 8, "maxLength": 256, "pattern": "^[ -~]*$",
                "description": "What signs its deliveries: printable ASCII. Never shown.",
            },
        });
        let required = json!({"required": ["event_type", "target_url", "secret"]});
        schema(object(merged(own, options()), &required))
    }
}

impl ToSchema for PlainAsked {}

impl PartialSchema for TrialAsked {
    fn schema() -> RefOr<Schema> {
        let event = json!({"type": ["string", "null"], "description": "The type of the sample; without it one that the subscription gets."});
        schema(object(json!({"event": event}), &json!({})))
    }
}

impl ToSchema for TrialAsked {}

/// `or` names what else may stand where a value is needed to make one.
fn interactor(or: &[&str]) -> Value {
    let kinds = |kind: &'static str| json!([&[kind], or].concat());
    let types = |what: &str| json!({"type": kinds("array"), "items": {"type": "string"}, "minItems": 1, "maxItems": 50, "description": what});
    json!({
        "url": merged(url(), json!({"type": kinds("string")})),
        "events": types("The event types it gets, which may be globs; each must fit a type that is known."),
        "event_types": types("Another name of `events`."),
        "handshake": {
            "type": ["boolean", "null"],
            "description": "Whether the receiver is asked for its consent by OPTIONS before it gets anything (CloudEvents' abuse protection).",
        },
    })
}

fn url() -> Value {
    json!({"type": "string", "maxLength": 2048, "description": "Where to: `https`.", "examples": ["https://example.com/hooks"]})
}

/// What both dialects take besides.
fn options() -> Value {
    json!({
        "enabled": {"type": ["boolean", "null"], "description": "Whether it is sent to; what comes while it is not is held."},
        "active": {"type": ["boolean", "null"], "description": "Another name of `enabled`."},
        "filter": {
            "type": ["array", "object", "null"],
            "description": "Conditions on the envelope, in the form of `when` in a rule: all must hold. At most 20, in 8 KiB. `matches` \
                fits no text longer than 64 KiB, and takes no expression whose automaton is large; a path has at most one `..`, \
                compares within `[?…]` only what begins with `@`, and looks at the first 50,000 values of an event.",
            "examples": [[{"path": "$.data.amount", "gt": 1000}]],
        },
        "name": {"type": ["string", "null"], "maxLength": 200, "description": "What it is called."},
        "description": {"type": ["string", "null"], "maxLength": 2000, "description": "What is said of it."},
        "headers": {
            "type": ["object", "null"], "additionalProperties": {"type": "string"}, "maxProperties": 20,
            "description": "Headers that go along; their values are kept secret and shown as `***`.",
        },
        "metadata": {"type": ["object", "null"], "description": "What its maker keeps with it; at most 8 KiB."},
        "timeout": {"type": ["number", "null"], "minimum": 1, "maximum": 300, "description": "Seconds for one attempt; 30 without it."},
        "max_retries": {
            "type": ["integer", "null"], "minimum": 0, "maximum": 10,
            "description": "How often a delivery is retried, ten seconds after the first attempt and then twice as long each time.",
        },
        "verify_tls": {"type": ["boolean", "null"], "description": "Whether the receiver's certificate is checked."},
    })
}

fn merged(mut own: Value, others: Value) -> Value {
    if let (Some(own), Value::Object(others)) = (own.as_object_mut(), others) {
        own.extend(others);
    }
    own
}

/// Members that nobody knows are ignored.
fn object(properties: Value, required: &Value) -> Value {
    merged(json!({"type": "object", "properties": properties}), required.clone())
}
