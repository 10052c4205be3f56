//! A story as Slack's blocks.

use serde_json::{Value, json};

use super::{
    message::{Links, SlackMessage},
    safe,
    story::Story,
};
use crate::store::Severity;

/// Longest header, in characters.
const HEADER_MAX: usize = 150;
/// Longest text of a section, in characters.
const SECTION_MAX: usize = 3000;
/// Longest fallback text, in characters; Slack cuts at 40,000.
const TEXT_MAX: usize = 1000;

/// The message.
pub(super) fn message(story: &Story, subject: &str, severity: Severity, links: Links<'_>, note: Option<&str>) -> SlackMessage {
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": safe::slack(subject, HEADER_MAX)}}),
        section(&story.body.text),
    ];
    let buttons: Vec<Value> = [("Reconnect", links.reconnect), ("Open the event", links.event)]
        .into_iter()
        .filter_map(|(label, link)| Some(json!({"type": "button", "text": {"type": "plain_text", "text": label}, "url": link?})))
        .collect();
    if !buttons.is_empty() {
        blocks.push(json!({"type": "actions", "elements": buttons}));
    }
    if let Some(note) = note {
        let note = safe::slack(&format!("{note}; this is the built-in message"), SECTION_MAX);
        blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": note, "verbatim": true}]}));
    }
    let color = match severity {
        Severity::Info => None,
        Severity::Warning => Some("#e0a30b"),
        Severity::Critical => Some("#d92d20"),
    };
    SlackMessage { text: safe::slack(&format!("{subject}: {}", story.body.text), TEXT_MAX), color, blocks }
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": {"type": "mrkdwn", "text": safe::slack(text, SECTION_MAX), "verbatim": true}})
}
