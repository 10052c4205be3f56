//! Every event of the seeds, as its sender would write it: ten of Interactor's webhooks, three of its agents', and one that
//! Trigger Forwarding would send for Gmail, whose body no document shows.

use bytes::Bytes;
use serde_json::Value;

use crate::envelope::{Envelope, JSON};

/// An event of the seeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// The kind of source that takes it.
    pub(crate) kind: &'static str,
    /// What happened.
    pub(crate) r#type: &'static str,
    /// The body, in compact JSON.
    pub(crate) body: &'static str,
}

const fn sample(kind: &'static str, r#type: &'static str, body: &'static str) -> Sample {
    Sample { kind, r#type, body }
}

/// All of them, in the order of their documents.
pub(crate) const ALL: [Sample; 14] = [
    sample("interactor", "credential.created", include_str!("samples/interactor-evt_001-credential.created.json")),
    sample("interactor", "credential.refreshed", include_str!("samples/interactor-evt_002-credential.refreshed.json")),
    sample("interactor", "credential.expired", include_str!("samples/interactor-evt_003-credential.expired.json")),
    sample("interactor", "credential.revoked", include_str!("samples/interactor-evt_004-credential.revoked.json")),
    sample("interactor", "workflow.instance.created", include_str!("samples/interactor-evt_005-workflow.instance.created.json")),
    sample("interactor", "workflow.instance.halted", include_str!("samples/interactor-evt_006-workflow.instance.halted.json")),
    sample(
        "interactor",
        "workflow.instance.completed",
        include_str!("samples/interactor-evt_007-workflow.instance.completed.json"),
    ),
    sample("interactor", "workflow.instance.failed", include_str!("samples/interactor-evt_008-workflow.instance.failed.json")),
    sample("interactor", "agent.room.message", include_str!("samples/interactor-evt_009-agent.room.message.json")),
    sample("interactor", "agent.room.closed", include_str!("samples/interactor-evt_010-agent.room.closed.json")),
    sample("agent", "agent.action", include_str!("samples/agent-agent.action.json")),
    sample("agent", "agent.message", include_str!("samples/agent-agent.message.json")),
    sample("agent", "user.message", include_str!("samples/agent-user.message.json")),
    sample("trigger", "connector.gmail.email_sent", include_str!("samples/trigger-gmail-email-sent.json")),
];

impl Sample {
    /// The sample as it looks once it was taken in, by a source that is named for its kind.
    pub(crate) fn envelope(&self) -> Envelope {
        let body = Bytes::from_static(self.body.as_bytes());
        let parsed: Value = serde_json::from_str(self.body).unwrap_or_default();
        // The samples are compact, and `data` is their last member; a trigger's data is its whole body.
        let data = match self.kind {
            "trigger" => Some(0..body.len()),
            _ => self.body.find(DATA).map(|at| at + DATA.len()..body.len() - 1),
        };
        let at = |pointer: &str| parsed.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let first = |pointers: &[&str]| pointers.iter().find_map(|pointer| at(pointer));
        let time = first(&["/timestamp", "/message/sent_at"]).unwrap_or_else(|| TIME.to_owned());
        Envelope {
            id: first(&["/id", "/message/id"]).unwrap_or_else(|| "evt_sample".to_owned()),
            source: self.kind.into(),
            kind: self.kind,
            r#type: self.r#type.to_owned(),
            subject: first(&[
                "/data/credential_id",
                "/data/instance_id",
                "/data/room_id",
                "/data/room/id",
                "/data/room",
                "/message/thread_id",
            ]),
            namespace: first(&["/data/namespace", "/account"]),
            received_at: time.parse().unwrap_or_default(),
            timestamp: time.clone(),
            time,
            traceparent: None,
            replayed: false,
            body,
            content_type: Some(JSON.to_owned()),
            data,
        }
    }
}

/// What `data` begins after.
const DATA: &str = "\"data\":";
/// When a sample happened that does not say.
const TIME: &str = "2026-01-20T12:00:00Z";

/// The sample of this type.
pub(crate) fn find(r#type: &str) -> Option<Sample> {
    ALL.into_iter().find(|sample| sample.r#type == r#type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_compact_json_of_its_type() {
        for sample in ALL {
            let body: Value = serde_json::from_str(sample.body).unwrap();
            assert_eq!(body.to_string(), sample.body, "compact");
            let named = match sample.kind {
                "interactor" => body["type"].as_str(),
                "agent" => body["event"].as_str(),
                _ => Some(sample.r#type),
            };
            assert_eq!(named, Some(sample.r#type));
            assert!(find(sample.r#type).is_some());
            let data = if sample.kind == "trigger" { body.clone() } else { body["data"].clone() };
            let envelope = sample.envelope();
            assert_eq!(serde_json::from_slice::<Value>(envelope.data()).unwrap(), data);
            assert!(envelope.subject.is_some(), "{}", sample.r#type);
        }
    }
}
