//! Agents and who talks to them: who said what, where; what an agent did.

use serde_json::Value;

use super::super::{
    fields::{Fields, ROOM, words},
    safe,
    story::{Story, Tone, reason},
};
use crate::json;

/// Facts taken from what an agent's action was given.
const INPUTS_MAX: usize = 8;
/// Longest `content` of an action that is read as JSON, in bytes.
const CONTENT_MAX: usize = 256 * 1024;

/// What an `agent.*` or `user.*` event says; `None` for a type of its own.
pub(super) fn tell(it: Fields<'_>) -> Option<Story> {
    let room = it.or(&ROOM, "a room");
    let said = it.long(&["content", "message", "text"]);
    let mut story = Story { topic: "Chat".to_owned(), ..Story::default() };
    match it.event.r#type.as_str() {
        "agent.room.message" | "agent.message" | "agent.response_sent" => {
            let agent = it.agent();
            story.title = format!("{agent} in {room}");
            story.lead = format!("{agent} wrote in {room}{}.", it.whose());
            story.quote(&agent, said);
        }
        "user.message" | "agent.message_received" => {
            let user = it.user();
            story.title = format!("{user} in {room}");
            story.lead =
                format!("{user} wrote to {} in {room}.", it.or(&["agent.name", "agent.id", "assistant_id"], "the agent"));
            story.quote(&user, said);
        }
        "agent.action" | "agent.action_executed" => action(&mut story, it, &room),
        "agent.error" => {
            story.title = format!("{} failed in {room}", it.agent());
            story.lead = format!("{} could not go on in {room}{}.", it.agent(), it.whose());
            story.quote("Error", it.long(&["error.message", "message", "error"]));
            story.tone = Tone::Bad;
        }
        "agent.room_created" => {
            story.title = format!("Chat {room} opened{}", it.whose());
            story.lead = format!("The chat {room}{} was opened.", it.whose());
        }
        "agent.room.closed" => {
            let why = it.get(&["reason"]).map_or_else(String::new, |why| format!(": {}", reason(&why)));
            story.title = format!("Chat {room} closed{}", it.whose());
            story.lead = format!("The chat {room}{} has ended{why}.", it.whose());
            story.fact("Messages", it.get(&["message_count"]));
            story.fact("Duration", it.value("duration_seconds").and_then(Value::as_u64).map(duration));
        }
        _ => return None,
    }
    story.fact("Agent", it.get(&["agent.name", "agent.id", "assistant_id"]));
    story.fact("User", it.get(&["user.name", "user.id", "external_user_id"]));
    story.fact("Room", it.get(&ROOM));
    story.fact("Namespace", it.namespace());
    story.fact("Error code", it.get(&["error.code"]));
    Some(story)
}

/// What an agent did: `content` is JSON in a text, with the action's `identifier` and its `inputs`.
fn action(story: &mut Story, it: Fields<'_>, room: &str) {
    let action = it.or(&["action", "action_name"], "an action");
    let (agent, whose) = (it.agent(), it.whose());
    let within =
        it.value("content").and_then(Value::as_str).filter(|text| text.len() <= CONTENT_MAX && !json::too_deep(text.as_bytes()));
    let parsed = within.and_then(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_object);
    let parsed = parsed.as_ref().or_else(|| it.value("content").filter(|content| content.is_object()));
    let content = parsed.map(|data| Fields { event: it.event, data });
    let identifier = content.and_then(|content| content.get(&["identifier", "name", "id"]));
    let called = identifier.as_ref().map_or_else(|| words(&action), Clone::clone);
    story.title = format!("{agent} ran {called} in {room}");
    story.lead = format!("{agent} executed an action in {room}{whose}.");
    story.fact("Action", Some(safe::line(&action, 100)));
    story.fact("Identifier", identifier);
    if let Some(content) = content {
        story.more(content.flat(Some("inputs"), INPUTS_MAX));
    } else {
        story.quote("Content", it.long(&["content"]));
    }
    story.fact("Result", it.get(&["result", "status"]));
}

/// `5 min`, `1 h 10 min`, `45 s`.
fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
