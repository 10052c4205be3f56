//! Workflows: which one, in which state, what it waits for or what went wrong.

use serde_json::Value;

use super::super::{
    fields::{FIELD_MAX, Fields, words},
    safe,
    story::{Action, List, Story, Tone},
};

/// Fields of a form that are listed; the others are counted.
const FORM_MAX: usize = 20;
/// Facts taken from a workflow's data.
const DATA_MAX: usize = 6;
/// Where a form may say who it is for to open.
const URLS: [&str; 6] = [
    "halting_presentation.url",
    "halting_presentation.action_url",
    "halting_presentation.link",
    "presentation.url",
    "action_url",
    "url",
];

/// What a `workflow.*` event says; `None` for a type of its own.
pub(super) fn tell(it: Fields<'_>) -> Option<Story> {
    let name = it.event.r#type.strip_prefix("workflow.")?;
    let (workflow, whose) = (it.workflow(), it.whose());
    let mut story = Story { topic: "Workflow".to_owned(), ..Story::default() };
    match name.strip_prefix("instance.").unwrap_or(name) {
        "created" | "started" => {
            story.title = format!("{workflow} started{whose}");
            story.lead = format!("A run of the workflow {workflow}{whose} has started.");
        }
        "state_changed" => {
            let state = it.put(" to ", &["current_state", "to_state", "state"]);
            story.title = format!("{workflow} moved on{state}{whose}");
            story.lead = format!("A run of the workflow {workflow}{whose} moved on{state}.");
        }
        "halted" => halted(&mut story, it, &workflow),
        "completed" => {
            let state = it.put(": ", &["final_state"]);
            story.title = format!("{workflow} completed{whose}{state}");
            story.lead = format!("A run of the workflow {workflow}{whose} is complete.");
            story.tone = Tone::Good;
        }
        "failed" => {
            let state = it.put(" in state ", &["failed_state", "current_state", "state"]);
            story.title = format!("{workflow} failed{state}{whose}");
            story.lead = format!("A run of the workflow {workflow}{whose} failed{state} and does not go on by itself.");
            story.quote("Error", it.long(&["error.message", "error.code", "error"]));
            story.todo = Some("Find out what went wrong, then start the workflow again.".to_owned());
            story.tone = Tone::Bad;
        }
        _ => return None,
    }
    story.fact("Workflow", Some(workflow));
    story.fact("Namespace", it.namespace());
    story.fact("State", it.get(&["failed_state", "current_state", "final_state", "to_state", "state"]));
    story.fact("Before", it.get(&["previous_state", "from_state"]));
    story.fact("Error code", it.get(&["error.code"]));
    story.fact("Run", it.get(&["instance_id"]));
    for path in ["initial_input", "workflow_data", "output"] {
        story.more(it.flat(Some(path), DATA_MAX));
    }
    Some(story)
}

/// A run that waits for somebody, with what it asks.
fn halted(story: &mut Story, it: Fields<'_>, workflow: &str) {
    let asked = it.get(&["halting_presentation.title", "presentation.title"]);
    let state = it.put(" in state ", &["current_state", "state"]);
    let asks = asked.as_ref().map_or_else(String::new, |title| format!("{title}: "));
    story.title = format!("{asks}{workflow} waits for an answer");
    story.lead = format!("A run of the workflow {workflow}{} has stopped{state}. It goes on once somebody answers.", it.whose());
    let said = ["description", "message", "text", "body", "content"];
    let said: Vec<_> = said.iter().map(|name| format!("halting_presentation.{name}")).collect();
    let label = asked.as_deref().unwrap_or("Question");
    story.quote(label, it.long(&said.iter().map(String::as_str).collect::<Vec<_>>()));
    story.list = form(it);
    story.action = URLS.iter().find_map(|path| action(it.value(path)?.as_str()?));
    story.todo = Some(match &story.action {
        Some(_) => "Open the form, look at what it asks, and answer.".to_owned(),
        None => "Answer where you work with this workflow.".to_owned(),
    });
    story.tone = Tone::Attention;
}

fn action(url: &str) -> Option<Action> {
    let url = safe::web_url(url)?;
    let host = url.host_str().map(|host| safe::line(host, FIELD_MAX));
    Some(Action { label: "Answer".to_owned(), url: url.to_string(), host })
}

/// The fields of the form, and the answers it offers.
fn form(it: Fields<'_>) -> Option<List> {
    let shown = it.value("halting_presentation").or_else(|| it.value("presentation"))?;
    let fields = shown.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut items: Vec<String> = fields.iter().take(FORM_MAX).filter_map(field).collect();
    for name in ["actions", "buttons", "options", "choices"] {
        let offered = shown.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let offered: Vec<_> = offered.iter().take(FORM_MAX).filter_map(label).collect();
        if !offered.is_empty() {
            items.push(format!("Answers: {}", offered.join(", ")));
        }
    }
    (!items.is_empty()).then(|| List {
        label: "What it asks for".to_owned(),
        items,
        omitted: fields.len().saturating_sub(FORM_MAX),
    })
}

/// `Amount: 5000 (number, required)`.
fn field(field: &Value) -> Option<String> {
    let name = label(field)?;
    let text = |name: &str| field.get(name).and_then(text);
    let value = ["value", "default"].iter().find_map(|name| text(name)).map_or_else(String::new, |value| format!(": {value}"));
    let required = field.get("required").and_then(Value::as_bool) == Some(true);
    let about: Vec<_> = text("type").into_iter().chain(required.then(|| "required".to_owned())).collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    Some(format!("{name}{value}{about}"))
}

/// What people know `value` by: a text, or an object with a label.
fn label(value: &Value) -> Option<String> {
    if value.is_object() {
        let named = ["label", "title", "text"].iter().find_map(|name| text(value.get(name)?));
        return named
            .or_else(|| ["name", "key", "id", "value"].iter().find_map(|name| text(value.get(name)?)).map(|name| words(&name)));
    }
    text(value)
}

fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => safe::line(text, FIELD_MAX),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}
