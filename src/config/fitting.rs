//! Templates and where they are used: one that makes nothing of what a destination sends would be read and never used.

use super::{
    decode::Context,
    tree::{Node, Value},
};
use crate::{deliver::kinds::Word, render::Part};

/// Checks the templates that destinations and rules of `root` name. Those that do not exist are told of elsewhere.
pub(super) fn check(root: &Node, cx: &mut Context) {
    for (key, destination) in root.get("destinations").map(Node::entries).unwrap_or_default() {
        if let Some(template) = destination.get("template") {
            makes_text(template, &key.name, destination, cx);
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
