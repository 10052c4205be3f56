//! A story as Slack's blocks, within Slack's limits. Everything that came with the event is escaped; `verbatim` keeps Slack from finding
//! links and names in it.
//!
//! Facts: `field/crates-and-outside-systems.md`, section 2: header 150, section 3,000, 10 fields of 2,000, about 13,000 in all.

use serde_json::{Value, json};

use super::{
    mail,
    message::{Links, SlackMessage},
    safe,
    story::{Action, List, Quote, Story},
};
use crate::store::Severity;

/// Longest header, in characters.
const HEADER_MAX: usize = 150;
/// Longest text of a section that a template made, in characters.
const SECTION_MAX: usize = 3000;
/// Sections of a text that a template made.
const SECTIONS_MAX: usize = 3;
/// Longest lead and advice.
const SAID_MAX: usize = 800;
/// Longest quote and list, without what begins their lines.
const QUOTE_MAX: usize = 2000;
/// Lines of a quote.
const LINES_MAX: usize = 40;
/// Fields of a section, and the longest of one.
const FIELDS_MAX: usize = 10;
const FIELD_MAX: usize = 250;
/// Longest text of a button.
const LABEL_MAX: usize = 70;
/// Longest small print.
const FOOT_MAX: usize = 500;
/// Longest fallback text; Slack cuts at 40,000.
const TEXT_MAX: usize = 1000;

/// What the blocks say.
pub(super) enum Body<'a> {
    /// What the story says.
    Story,
    /// A text that a template made, in place of it.
    Text(&'a str),
    /// Slack's own markup that a template made, every value in it escaped.
    Markup(&'a str),
}

/// The message.
pub(super) fn message(
    story: &Story,
    subject: &str,
    severity: Severity,
    body: &Body<'_>,
    links: Links<'_>,
    note: Option<&str>,
) -> SlackMessage {
    let mut blocks =
        vec![json!({"type": "header", "text": {"type": "plain_text", "text": safe::slack(subject, HEADER_MAX), "emoji": true}})];
    let said = match body {
        Body::Story => {
            tell(story, &mut blocks);
            safe::slack(&story.line, TEXT_MAX)
        }
        Body::Text(text) => {
            blocks.extend(sections(&safe::slack(text, SECTIONS_MAX * SECTION_MAX)));
            safe::slack(text, TEXT_MAX)
        }
        Body::Markup(text) => {
            blocks.extend(sections(text));
            safe::slack(&story.line, TEXT_MAX)
        }
    };
    blocks.extend(buttons(story.action.as_ref(), links));
    if let Some(note) = note {
        blocks.push(context(&safe::slack(&mail::built_in(note), FOOT_MAX)));
    }
    blocks.push(context(&safe::slack(&story.foot, FOOT_MAX)));
    SlackMessage { text: said, color: color(severity), blocks }
}

/// The colour of the bar beside the blocks, where the rule says that it is grave.
fn color(severity: Severity) -> Option<&'static str> {
    match severity {
        Severity::Info => None,
        Severity::Warning => Some("#e8a317"),
        Severity::Critical => Some("#d64545"),
    }
}

fn tell(story: &Story, blocks: &mut Vec<Value>) {
    blocks.push(section(&safe::slack(&story.lead, SAID_MAX)));
    blocks.extend(story.quote.as_ref().map(quote));
    blocks.extend(story.list.as_ref().map(list));
    let fields: Vec<Value> = story
        .facts
        .iter()
        .take(FIELDS_MAX)
        .map(|fact| markup(&format!("*{}*\n{}", safe::slack(&fact.name, 60), safe::slack(&fact.value, FIELD_MAX - 64))))
        .collect();
    if !fields.is_empty() {
        blocks.push(json!({"type": "section", "fields": fields}));
    }
    blocks.extend(story.todo.as_ref().map(|todo| section(&format!("*What to do:* {}", safe::slack(todo, SAID_MAX)))));
}

fn quote(quote: &Quote) -> Value {
    let text = safe::slack(&quote.block.text, QUOTE_MAX);
    let all = text.lines().count();
    let lines: Vec<_> = text.lines().take(LINES_MAX).map(|line| format!("> {line}")).collect();
    let shortened = LINES_MAX < all || text.ends_with('…');
    let cut = mail::cut(&quote.block).or_else(|| shortened.then(|| "(cut)".to_owned()));
    section(&format!(
        "*{}*\n{}{}",
        safe::slack(&quote.label, 100),
        lines.join("\n"),
        cut.map_or_else(String::new, |cut| format!("\n_{cut}_"))
    ))
}

/// As many of the list's items as there is room for; the others are counted.
fn list(list: &List) -> Value {
    let (mut text, mut shown, mut room) = (format!("*{}*", safe::slack(&list.label, 200)), 0, QUOTE_MAX);
    for item in &list.items {
        let item = safe::slack(item, FIELD_MAX);
        let Some(left) = room.checked_sub(item.chars().count() + 3) else { break };
        text += &format!("\n• {item}");
        (room, shown) = (left, shown + 1);
    }
    if let Some(more) = mail::more(list.omitted + list.items.len() - shown) {
        text += &format!("\n_{more}_");
    }
    section(&text)
}

fn buttons(action: Option<&Action>, links: Links<'_>) -> Option<Value> {
    let button = |label: &str, url: &str| json!({"type": "button", "text": {"type": "plain_text", "text": safe::slack(label, LABEL_MAX)}, "url": url});
    let mut buttons = Vec::new();
    if let Some(action) = action {
        let mut primary = button(&action.label, &action.url);
        primary["style"] = "primary".into();
        buttons.push(primary);
    }
    buttons.extend(links.event.map(|link| button("Show the event", link)));
    (!buttons.is_empty()).then(|| json!({"type": "actions", "elements": buttons}))
}

/// `text`, which is escaped, in as many sections as it takes, split between lines.
fn sections(text: &str) -> Vec<Value> {
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = cut_markup(line, SECTION_MAX - 1);
        match parts.last_mut() {
            Some(last) if last.chars().count() + 1 + line.chars().count() <= SECTION_MAX => {
                last.push('\n');
                last.push_str(&line);
            }
            _ => parts.push(line),
        }
    }
    let cut = SECTIONS_MAX < parts.len();
    parts.retain(|part| !part.trim().is_empty());
    parts.truncate(SECTIONS_MAX);
    let mut sections: Vec<Value> = parts.iter().map(|part| section(part)).collect();
    if cut {
        sections.push(context("_(cut)_"));
    }
    sections
}

/// At most `max` characters of `line`, no entity and no link cut in two.
fn cut_markup(line: &str, max: usize) -> String {
    let Some((end, _)) = line.char_indices().nth(max) else { return line.to_owned() };
    let kept = line.get(..end).unwrap_or_default();
    let open = |opens: char, closes: char| kept.rfind(opens).filter(|at| !kept.get(*at..).unwrap_or_default().contains(closes));
    let end = open('<', '>').into_iter().chain(open('&', ';')).min().unwrap_or(end);
    format!("{}…", kept.get(..end).unwrap_or_default())
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": markup(text)})
}

fn context(text: &str) -> Value {
    json!({"type": "context", "elements": [markup(text)]})
}

fn markup(text: &str) -> Value {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_made_is_split_between_lines_and_never_within_a_link() {
        let text = format!("{}\n{}<https://a.example|x>\n{}", "a".repeat(2000), "b".repeat(2995), "c\n".repeat(4000));
        let sections = sections(&text);
        let texts: Vec<_> = sections.iter().filter_map(|it| it["text"]["text"].as_str()).collect();
        assert_eq!(texts.len(), SECTIONS_MAX);
        assert!(texts.iter().all(|text| text.chars().count() <= SECTION_MAX && !text.contains('<')));
        assert!(texts[1].contains("b…\n") && sections[3]["elements"][0]["text"] == "_(cut)_");
    }
}
