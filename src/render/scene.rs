//! What a template sees.

use minijinja::{Value, value::Serde};
use serde_json::{Map, Value as Json, json};

use super::message::{Links, MessageScene};
use crate::{
    clock::rfc3339_ms,
    envelope::{DeliveryId, Envelope, EventUid, JSON},
    json,
    samples::{self, Sample},
};

/// What a template sees: `event` (the envelope's attributes, `data` parsed), `delivery` (`id`, `attempt`), `source` and `digest` (`count`: of
/// how many events a message tells, 1 but for digests); where people read it, `severity` and `links` (`event`, `reconnect`) too.
#[derive(Debug, Clone)]
pub struct Scene(pub(super) Value);

impl Scene {
    /// The scene of one delivery's body. `data` is the event's, parsed by [`json::lenient`].
    pub fn new(event: &Envelope, data: &Json, delivery: &DeliveryId, attempt: u32) -> Self {
        Self::of_several(event, data, delivery, attempt, 1)
    }

    /// The scene of a body that tells of `count` events, `event` being the first.
    pub fn of_several(event: &Envelope, data: &Json, delivery: &DeliveryId, attempt: u32, count: u64) -> Self {
        let mut scene = scene(event, data, delivery, attempt);
        scene["digest"]["count"] = count.into();
        Self(Value::from(Serde(scene)))
    }

    /// The scene of a message.
    pub(super) fn of(it: &MessageScene<'_>, links: Links<'_>) -> Self {
        let mut scene = scene(it.event, it.data, &it.delivery, it.attempt);
        scene["severity"] = it.severity.word().into();
        let mut known = Map::new();
        for (name, link) in [("event", links.event), ("reconnect", links.reconnect)] {
            known.extend(link.map(|link| (name.to_owned(), link.into())));
        }
        scene["links"] = Json::Object(known);
        Self(Value::from(Serde(scene)))
    }

    /// A scene for every event of the seeds, and one of a type nobody knows.
    pub(super) fn samples() -> impl Iterator<Item = Self> {
        let unknown = Sample { kind: "trigger", r#type: "sample.event", body: "{}" };
        samples::ALL.into_iter().chain([unknown]).map(|sample| Self(Value::from(Serde(Self::sample_json(sample)))))
    }

    /// The scene of `sample`, with all that any scene has.
    pub(super) fn sample_json(sample: Sample) -> Json {
        let event = sample.envelope();
        let delivery = DeliveryId { event: EventUid { salt: 0, seq: 1 }, n: 1 };
        let mut scene = scene(&event, &json::lenient(event.data()), &delivery, 1);
        scene["severity"] = "info".into();
        scene["links"] = json!({"event": "https://relay.example.com/events/sample", "reconnect": "https://relay.example.com/reconnect/sample"});
        scene
    }
}

fn scene(event: &Envelope, data: &Json, delivery: &DeliveryId, attempt: u32) -> Json {
    json!({
        "event": attributes(event, data),
        "delivery": { "id": delivery.to_string(), "attempt": attempt },
        "source": event.source.as_str(),
        "digest": { "count": 1 },
    })
}

/// The envelope's attributes as targets receive them.
fn attributes(event: &Envelope, data: &Json) -> Json {
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), Json::from(value));
        }
    };
    put("specversion", Some("1.0"));
    put("id", Some(&event.id));
    put("source", Some(&Envelope::source_uri(&event.source)));
    put("type", Some(&event.r#type));
    put("subject", event.subject.as_deref());
    put("time", Some(&event.time));
    put("timestamp", Some(&event.timestamp));
    put("datacontenttype", Some(JSON));
    put("namespace", event.namespace.as_deref());
    put("sourcekind", Some(event.kind));
    put("receivedat", Some(&rfc3339_ms(event.received_at)));
    put("traceparent", event.traceparent.as_deref());
    if event.replayed {
        map.insert("replayed".to_owned(), Json::from(true));
    }
    map.insert("data".to_owned(), data.clone());
    Json::Object(map)
}
