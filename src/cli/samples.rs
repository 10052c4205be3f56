//! Every event of the seeds, as its sender would write it: ten of Interactor's webhooks, three of its agents', and one that
//! Trigger Forwarding would send for Gmail, whose body no document shows.

/// An event of the seeds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// The kind of source that takes it.
    pub(super) kind: &'static str,
    /// What happened.
    pub(super) r#type: &'static str,
    /// The body, in compact JSON.
    pub(super) body: &'static str,
}

const fn sample(kind: &'static str, r#type: &'static str, body: &'static str) -> Sample {
    Sample { kind, r#type, body }
}

/// All of them, in the order of their documents.
pub(super) const ALL: [Sample; 14] = [
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

/// The sample of this type.
pub(super) fn find(r#type: &str) -> Option<Sample> {
    ALL.into_iter().find(|sample| sample.r#type == r#type)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

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
        }
    }
}
