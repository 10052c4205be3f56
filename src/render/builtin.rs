//! One plain line per event type, so that a rule needs no template. Missing fields never break a line; event text is
//! stripped of control characters and held to a length.
//!
//! Facts: Interactor webhooks guide, "Event-Specific Payloads"; Interactor's integration guide (the `timestamped` dialect);
//! agent webhooks guide, "Event Types"; trigger forwarding.

use serde_json::Value;

use super::{
    fields::{FIELD_MAX, Fields, ROOM, words},
    safe::line as clean,
    stories,
};
use crate::envelope::Envelope;

/// Longest line, in characters.
const LINE_MAX: usize = 600;

/// The line for `event`, whose `data` is given parsed.
pub fn line(event: &Envelope, data: &Value) -> String {
    let it = Fields { event, data };
    let text = match event.r#type.as_str() {
        "credential.created" | "credential.ready" => format!("{} connected{}", it.service(), it.whose()),
        "credential.refreshed" => {
            format!("{} credential refreshed{}{}", it.service(), it.whose(), it.put(", valid until ", &["expires_at"]))
        }
        "credential.refresh_failed" => format!("{} credential could not be refreshed{}{}", it.service(), it.whose(), it.reason()),
        "credential.expired" => format!("{} connection expired{}{}. Reconnect it.", it.service(), it.whose(), it.reason()),
        "credential.revoked" => format!("{} access was revoked{}{}. Reconnect it.", it.service(), it.whose(), it.reason()),
        "workflow.instance.created" | "workflow.started" => format!("Workflow {} started{}", it.workflow(), it.whose()),
        "workflow.state_changed" => format!("Workflow {} moved on{}{}", it.workflow(), it.state(), it.whose()),
        "workflow.instance.halted" | "workflow.halted" => {
            format!(
                "Workflow {} waits for input{}{}{}",
                it.workflow(),
                it.state(),
                it.whose(),
                it.put(": ", &["halting_presentation.title"])
            )
        }
        "workflow.instance.completed" | "workflow.completed" => {
            format!("Workflow {} completed{}{}", it.workflow(), it.state(), it.whose())
        }
        "workflow.instance.failed" | "workflow.failed" => {
            format!(
                "Workflow {} failed{}{}{}",
                it.workflow(),
                it.state(),
                it.whose(),
                it.put(": ", &["error.message", "error.code", "error"])
            )
        }
        "agent.room.message" | "agent.message" | "agent.response_sent" => format!("{} in {}{}", it.agent(), it.room(), it.said()),
        "agent.room.closed" => format!("Chat{} closed{}{}", it.chat(), it.reason(), it.put(", messages: ", &["message_count"])),
        "agent.room_created" => format!("Chat{} opened{}", it.chat(), it.whose()),
        "user.message" | "agent.message_received" => format!("{} in {}{}", it.user(), it.room(), it.said()),
        "agent.action" | "agent.action_executed" => {
            format!("{} ran {} in {}", it.agent(), it.or(&["action", "action_name"], "an action"), it.room())
        }
        "agent.error" => {
            format!("{} failed in {}{}", it.agent(), it.room(), it.put(": ", &["error.message", "message", "error"]))
        }
        "test" => format!("Test event {}", clean(&event.id, FIELD_MAX)),
        "trigger.unmapped" => format!("Trigger from {} that no case describes{}", event.source, it.whose()),
        name => match name.strip_prefix("connector.").and_then(|rest| rest.split_once('.')) {
            Some((connector, what)) => format!("{}: {}{}{}", words(connector), words(what), it.about(), it.whose()),
            None => stories::title(it).unwrap_or_else(|| format!("{}{}{}", clean(name, FIELD_MAX), it.about(), it.whose())),
        },
    };
    clean(&text, LINE_MAX)
}

impl Fields<'_> {
    fn state(&self) -> String {
        self.put(" in state ", &["failed_state", "current_state", "final_state", "to_state", "state"])
    }

    fn room(&self) -> String {
        self.or(&ROOM, "a room")
    }

    fn chat(&self) -> String {
        self.put(" ", &ROOM)
    }

    fn said(&self) -> String {
        self.put(": ", &["content", "message", "text"])
    }

    fn reason(&self) -> String {
        self.get(&["reason", "error.message", "error"]).map_or_else(String::new, |text| format!(" ({text})"))
    }

    fn about(&self) -> String {
        let subject = self.event.subject.as_deref().map(|subject| clean(subject, FIELD_MAX));
        subject.filter(|subject| !subject.is_empty()).map_or_else(String::new, |subject| format!(" {subject}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::envelope::tests::sample;

    fn of(name: &str, data: &Value) -> String {
        line(&Envelope { r#type: name.into(), subject: None, ..sample() }, data)
    }

    #[test]
    fn every_event_of_the_seeds_has_its_line() {
        let google = json!({"credential_id": "cred_abc", "service_id": "google_calendar", "service_name": "Google Calendar", "reason": "refresh_token_invalid", "expires_at": "2026-01-20T13:00:00Z"});
        let workflow = json!({"instance_id": "inst_xyz", "workflow_name": "approval_workflow", "halting_presentation": {"title": "Approval Required"}});
        let failed = json!({"workflow_name": "approval_workflow", "failed_state": "process_payment", "error": {"code": "payment_declined", "message": "Card was declined by issuer"}});
        let room = json!({"room_id": "room_xyz", "assistant_id": "asst_abc", "content": "Here's what I found", "reason": "user_closed", "message_count": 15});
        let agent = json!({"agent": {"id": "a", "name": "My Agent"}, "user": {"id": "u", "name": "John Doe"}, "room": {"id": "r", "name": "Room Name"}, "content": "Hello", "action": "WARP_EXECUTE"});
        let lines = [
            of("credential.created", &google),
            of("credential.refreshed", &google),
            of("credential.expired", &google),
            of("credential.revoked", &google),
            of("workflow.instance.created", &workflow),
            of("workflow.instance.halted", &workflow),
            of("workflow.instance.completed", &json!({"workflow_name": "approval_workflow", "final_state": "approved"})),
            of("workflow.instance.failed", &failed),
            of("agent.room.message", &room),
            of("agent.room.closed", &room),
            of("agent.action", &agent),
            of("agent.message", &agent),
            of("user.message", &agent),
            of("connector.gmail.email_sent", &json!({})),
            of("trigger.unmapped", &json!([])),
            of("some.thing.else", &json!(null)),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        Google Calendar connected for user_123
        Google Calendar credential refreshed for user_123, valid until 2026-01-20T13:00:00Z
        Google Calendar connection expired for user_123 (refresh_token_invalid). Reconnect it.
        Google Calendar access was revoked for user_123 (refresh_token_invalid). Reconnect it.
        Workflow approval_workflow started for user_123
        Workflow approval_workflow waits for input for user_123: Approval Required
        Workflow approval_workflow completed in state approved for user_123
        Workflow approval_workflow failed in state process_payment for user_123: Card was declined by issuer
        asst_abc in room_xyz: Here's what I found
        Chat room_xyz closed (user_closed), messages: 15
        My Agent ran WARP_EXECUTE in Room Name
        My Agent in Room Name: Hello
        John Doe in Room Name: Hello
        gmail: email sent for user_123
        Trigger from interactor that no case describes for user_123
        some.thing.else for user_123
        ");
    }

    #[test]
    fn the_integration_guides_events_have_theirs() {
        let names = [
            "credential.ready",
            "credential.refresh_failed",
            "workflow.started",
            "workflow.state_changed",
            "workflow.halted",
            "workflow.completed",
            "workflow.failed",
            "agent.room_created",
            "agent.message_received",
            "agent.response_sent",
            "agent.action_executed",
            "agent.error",
            "test",
        ];
        insta::assert_snapshot!(names.map(|name| of(name, &json!({}))).join("\n"), @r"
        A service connected for user_123
        A service credential could not be refreshed for user_123
        Workflow (unnamed) started for user_123
        Workflow (unnamed) moved on for user_123
        Workflow (unnamed) waits for input for user_123
        Workflow (unnamed) completed for user_123
        Workflow (unnamed) failed for user_123
        Chat opened for user_123
        A user in a room
        The agent in a room
        The agent ran an action in a room
        The agent failed in a room
        Test event evt_003
        ");
    }

    proptest! {
        #[test]
        fn lines_are_short_and_clean(name: String, service: String, which in 0usize..4) {
            let name = ["credential.expired", "workflow.failed", "connector.a.b", &name][which];
            let line = of(name, &json!({"service_name": service, "workflow_name": service, "error": {"message": service}}));
            prop_assert!(line.chars().count() <= LINE_MAX + 1);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }
}
