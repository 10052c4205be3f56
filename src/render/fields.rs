//! Looks fields up in an event's data, cleaned for people: whatever is missing or has another shape is simply not there.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::safe::{self, Block};
use crate::envelope::Envelope;

/// Longest text taken from one field for a line, in characters.
pub(super) const FIELD_MAX: usize = 200;
/// Longest text taken from an event as a whole: what somebody wrote, an error, in characters.
const LONG_MAX: usize = 6_000;
/// Names of fields whose values nobody is shown.
const HIDDEN: [&str; 8] = ["password", "passwd", "secret", "token", "api_key", "apikey", "authorization", "private_key"];
/// How deep [`Fields::flat`] looks into objects.
const DEPTH_MAX: usize = 3;

/// Where the platforms put a room's name or id.
pub(super) const ROOM: [&str; 4] = ["room.name", "room.id", "room", "room_id"];

/// A named value that a message shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// What it is.
    pub(super) name: String,
    /// One line.
    pub(super) value: String,
}

/// The fields of one event.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    /// The envelope.
    pub(super) event: &'a Envelope,
    /// Its data, parsed.
    pub(super) data: &'a Value,
}

impl<'a> Fields<'a> {
    /// The value at a dotted path into the data.
    pub(super) fn value(&self, path: &str) -> Option<&'a Value> {
        path.split('.').try_fold(self.data, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// The first of `paths` that holds text, a number or a truth value, as one line.
    pub(super) fn get(&self, paths: &[&str]) -> Option<String> {
        paths.iter().find_map(|path| scalar(self.value(path)?))
    }

    /// The first of `paths` that holds text, with its lines.
    pub(super) fn long(&self, paths: &[&str]) -> Option<Block> {
        let text = paths.iter().find_map(|path| self.value(path)?.as_str().filter(|text| !text.trim().is_empty()))?;
        Some(safe::block(text, LONG_MAX)).filter(|block| !block.text.trim().is_empty())
    }

    /// Likewise, or `otherwise`.
    pub(super) fn or(&self, paths: &[&str], otherwise: &str) -> String {
        self.get(paths).unwrap_or_else(|| otherwise.to_owned())
    }

    /// Likewise, with `before` in front, or nothing.
    pub(super) fn put(&self, before: &str, paths: &[&str]) -> String {
        self.get(paths).map_or_else(String::new, |text| format!("{before}{text}"))
    }

    /// The first of `paths` that holds a time, as people read it; another text as it stands.
    pub(super) fn time(&self, paths: &[&str]) -> Option<String> {
        self.get(paths).map(|text| text.parse().map_or(text, moment))
    }

    /// What a credential is for.
    pub(super) fn service(&self) -> String {
        self.or(&["service_name", "service_id", "service", "provider", "connector", "credential_id"], "A service")
    }

    /// A workflow's name.
    pub(super) fn workflow(&self) -> String {
        self.or(&["workflow_name", "workflow_id", "instance_id"], "(unnamed)")
    }

    /// An agent's name.
    pub(super) fn agent(&self) -> String {
        self.or(&["agent.name", "agent.id", "assistant_id"], "The agent")
    }

    /// The name of who talks to an agent.
    pub(super) fn user(&self) -> String {
        self.or(&["user.name", "user.id", "external_user_id"], "A user")
    }

    /// Whose event it is.
    pub(super) fn namespace(&self) -> Option<String> {
        let namespace = self.event.namespace.as_deref().map(|namespace| safe::line(namespace, FIELD_MAX));
        namespace.filter(|namespace| !namespace.is_empty())
    }

    /// ` for user_123`, or nothing.
    pub(super) fn whose(&self) -> String {
        self.namespace().map_or_else(String::new, |namespace| format!(" for {namespace}"))
    }

    /// When it happened, as people read it.
    pub(super) fn happened(&self) -> String {
        self.event.time.parse().map_or_else(|_| safe::line(&self.event.time, FIELD_MAX), moment)
    }

    /// What the data holds, as facts: at most `max`, two levels of objects spelled out, nothing that looks secret.
    pub(super) fn flat(&self, path: Option<&str>, max: usize) -> Vec<Fact> {
        let mut facts = Vec::new();
        if let Some(value) = path.map_or(Some(self.data), |path| self.value(path)) {
            flatten(value, "", 0, max, &mut facts);
        }
        facts
    }
}

/// `value` as one line, where it is no object or list.
fn scalar(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => safe::line(text, FIELD_MAX),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn flatten(value: &Value, name: &str, depth: usize, max: usize, facts: &mut Vec<Fact>) {
    if facts.len() == max {
        return;
    }
    let value = match value {
        Value::Object(map) if depth < DEPTH_MAX => {
            for (key, value) in map {
                // Every message has these of the envelope.
                let told = depth == 0 && matches!(key.as_str(), "namespace" | "external_user_id");
                if !told {
                    let name = if name.is_empty() { words(key) } else { format!("{name} {}", words(key)) };
                    flatten(value, &name, depth + 1, max, facts);
                }
            }
            return;
        }
        Value::Object(map) => Some(format!("{} fields", map.len())).filter(|_| !map.is_empty()),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let items: Vec<_> = items.iter().take(20).filter_map(scalar).collect();
            Some(safe::line(&items.join(", "), FIELD_MAX)).filter(|text| !text.is_empty())
        }
        Value::Array(items) => Some(format!("{} items", items.len())),
        other => scalar(other),
    };
    if let Some(value) = value {
        let name = safe::line(&capital(name), 60);
        let hidden = HIDDEN.iter().any(|word| name.to_lowercase().replace(' ', "_").contains(word));
        let name = if name.is_empty() { "Data".to_owned() } else { name };
        facts.push(Fact { name, value: if hidden { "***".to_owned() } else { value } });
    }
}

/// `at` as people read it.
pub(super) fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%-d %B %Y, %H:%M UTC").to_string()
}

/// `email_sent` as people read it: `email sent`.
pub(super) fn words(name: &str) -> String {
    safe::line(name, FIELD_MAX).replace(['_', '.', '-'], " ")
}

/// `text` with its first letter large.
pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::envelope::tests::sample;

    #[test]
    fn data_is_told_as_facts_without_what_looks_secret() {
        let event = sample();
        let data = json!({
            "namespace": "n", "message": {"from": "a@b", "to": ["x", 1], "deep": {"er": {"est": 1}}}, "accessToken": "hush", "none": null,
            "list": [{"a": 1}, {}], "": {}, "user": {"api_key": "hush"}
        });
        let fields = Fields { event: &event, data: &data };
        let facts: Vec<_> = fields.flat(None, 10).into_iter().map(|fact| format!("{}={}", fact.name, fact.value)).collect();
        assert_eq!(
            facts,
            [
                "Message from=a@b",
                "Message to=x, 1",
                "Message deep er=1 fields",
                "AccessToken=***",
                "List=2 items",
                "User api key=***"
            ]
        );
        assert_eq!(fields.flat(None, 1).len(), 1);
        assert_eq!(fields.happened(), "20 January 2026, 12:00 UTC");
    }
}
