//! Templates and where they are used: one that makes nothing of what a destination sends would be read and never used.

use super::{
    decode::Context,
    tree::{Node, Place, Value},
};
use crate::{deliver::kinds::Word, render::Part};

/// Checks the templates that destinations and rules of `root` name. Those that do not exist are told of elsewhere.
pub(super) fn check(root: &Node, cx: &mut Context) {
    for (key, destination) in root.get("destinations").map(Node::entries).unwrap_or_default() {
        if let Some(template) = destination.get("template") {
            makes_text(template, &key.name, destination, cx);
        }
    }
    for (key, destination) in root.get("destinations").map(Node::entries).unwrap_or_default() {
        let gathers = |quiet: &Node| quiet.get("then").filter(|then| then.text() == Some("digest")).map(|then| then.place);
        if let Some(place) = destination.get("quiet").and_then(gathers) {
            tells_of_one(place, &key.name, destination, cx);
        }
    }
    for rule in root.get("rules").map(Node::items).unwrap_or_default() {
        let Some(digest) = rule.get("digest").filter(|node| node.value != Value::Null) else { continue };
        for target in targets(rule) {
            let name = target.get("destination").unwrap_or(target).text().unwrap_or_default();
            if let Some(destination) = root.get("destinations").and_then(|all| all.get(name)) {
                tells_of_one(digest.place, name, destination, cx);
            }
        }
    }
    for target in root.get("rules").map(Node::items).unwrap_or_default().iter().flat_map(targets) {
        let named = target.get("destination").and_then(Node::text).zip(target.get("template"));
        let Some((name, template)) = named else { continue };
        if let Some(destination) = root.get("destinations").and_then(|all| all.get(name)) {
            makes_text(template, name, destination, cx);
            fills_nothing(template, name, destination, cx);
        }
    }
}

fn targets(rule: &Node) -> Vec<&Node> {
    match rule.get("to") {
        Some(Node { value: Value::List(items), .. }) => items.iter().collect(),
        one => one.into_iter().collect(),
    }
}

fn kind(destination: &Node) -> Option<Word> {
    destination.get("kind").and_then(Node::text).and_then(Word::of)
}

/// What machines are sent is a template's text; its other parts are for people.
fn makes_text(template: &Node, name: &str, destination: &Node, cx: &mut Context) {
    if kind(destination).is_none_or(Word::takes_digests) {
        return;
    }
    let Some(source) = template.text().and_then(|template| cx.templates.get(template)) else { return };
    if source.text().is_none() {
        let parts: Vec<_> = Part::ALL.iter().filter(|(_, part)| source.0.contains_key(part)).map(|(name, _)| *name).collect();
        let message = format!("this template makes no `text`, and that is what `{name}` sends");
        cx.error("unfit-template", template.place, message).note(format!("it makes: {}", parts.join(" ")));
    }
}

/// A message that WhatsApp has approved has blanks, and the destination says what fills them.
fn fills_nothing(template: &Node, name: &str, destination: &Node, cx: &mut Context) {
    if matches!(kind(destination), Some(Word::Whatsapp)) && destination.get("content_sid").is_some() {
        let message = format!("`{name}` sends an approved template (`content_sid`): a template of ours has no place in it");
        cx.error("unfit-template", template.place, message)
            .help("leave it out; `content_variables` of the destination say what is filled in");
    }
}

/// A message that WhatsApp has approved lists no events: unless it says how many there are, all but the first would never be told of.
fn tells_of_one(place: Place, name: &str, destination: &Node, cx: &mut Context) {
    let approved = matches!(kind(destination), Some(Word::Whatsapp)) && destination.get("content_sid").is_some();
    let variables = destination.get("content_variables").map(Node::entries).unwrap_or_default();
    let counts = variables.iter().any(|(_, text)| text.text().is_some_and(|text| text.contains("digest.count")));
    if approved && !counts {
        let message =
            format!("of what is gathered for `{name}` only the first event is told of: an approved template lists none");
        cx.warning("unfit-digest", place, message).help("say how many there are in one of its variables: {{ digest.count }}");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{File, parse};

    #[test]
    fn a_digest_that_an_approved_message_would_swallow_is_warned_of() {
        let warned = |variable: &str| {
            let text = format!(
                "version: 1
server: {{public_url: https://relay.example.com}}
schedules: {{nights: {{tz: UTC, windows: [{{from: \"22:00\", to: \"07:00\"}}]}}}}
destinations:
  wa: {{kind: whatsapp, account_sid: AC0123, auth_token: hush, from: \"+14155238886\", to: \"+15550100\", content_sid: HX0123,
    content_variables: {{\"1\": \"{variable}\"}}, quiet: {{schedule: nights, then: digest}}}}
rules:
  - {{name: own, match: {{source: hookyard}}, to: wa}}
  - {{name: all, match: {{type: \"**\"}}, to: wa, digest: {{key: $.namespace, window: 10m}}}}
"
            );
            let loaded = parse(File { path: "routes.yaml".into(), text }, &|_: &str| None);
            assert!(loaded.config.is_some(), "{:?}", loaded.problems);
            loaded.problems.iter().filter(|problem| problem.code == "unfit-digest").count()
        };
        assert_eq!((warned("{{ event.type }}"), warned("{{ digest.count }} events")), (2, 0));
    }
}
