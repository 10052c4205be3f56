//! A story as a mail's plain text, and as a line or two. (Its HTML: [`super::page`].)

use super::{
    message::{Links, SHORT_MAX, TEXT_MAX},
    safe::{self, Block},
    story::{Action, Story},
};

/// Longest link of a short text, in UTF-16 units: half of one leads nowhere, and the words need room too.
const LINK_MAX: usize = 1000;
/// How long a name of a fact may be to be lined up with the others, in characters.
const NAME_MAX: usize = 16;

/// The plain text.
pub(super) fn text(story: &Story, links: Links<'_>, note: Option<&str>) -> String {
    let mut out = Vec::new();
    out.push(story.title.clone());
    out.push(story.lead.clone());
    if let Some(quote) = &story.quote {
        out.push(format!("{}:\n{}", quote.label, quoted(&quote.block)));
    }
    if let Some(list) = &story.list {
        let items: String = list.items.iter().map(|item| format!("\n  - {item}")).collect();
        out.push(format!("{}:{items}{}", list.label, more(list.omitted).map_or_else(String::new, |more| format!("\n  {more}"))));
    }
    out.extend(story.todo.as_ref().map(|todo| format!("What to do: {todo}")));
    out.extend(story.action.as_ref().map(|action| format!("{}: {}", action.label, action.url)));
    if !story.facts.is_empty() {
        out.push(facts(story));
    }
    out.extend(links.event.map(|link| format!("The event: {link}")));
    out.extend(note.map(|note| format!("({})", built_in(note))));
    out.push(format!("-- \nHookyard · {}", story.foot));
    whole(&out.join("\n\n"), TEXT_MAX) + "\n"
}

/// `own`, which a template made, with what mends things where it does not lead there.
pub(super) fn own(own: &Block, action: Option<&Action>) -> String {
    let mut out = said(own);
    if let Some(action) = action.filter(|action| !own.text.contains(&action.url)) {
        out += &format!("\n\n{}: {}", action.label, action.url);
    }
    out + "\n"
}

/// One or two lines: `line`, and where to go.
pub(super) fn short(line: &str, action: Option<&Action>, links: Links<'_>, note: Option<&str>) -> String {
    let mut end = String::new();
    let fits = |link: &&str| link.encode_utf16().count() <= LINK_MAX;
    let link = action.map(|action| action.url.as_str()).filter(fits).or(links.event.filter(fits));
    if let Some(link) = link.filter(|link| !line.contains(*link)) {
        end += &format!("\n{link}");
    }
    if let Some(note) = note {
        end += &format!("\n({})", built_in(&safe::line(note, 200)));
    }
    let room = SHORT_MAX.saturating_sub(end.encode_utf16().count());
    utf16(line, room) + &end
}

/// That the template that was meant was not used.
pub(super) fn built_in(note: &str) -> String {
    format!("{note}; this is the built-in message")
}

/// `and 3 more`.
pub(super) fn more(omitted: usize) -> Option<String> {
    (0 < omitted).then(|| format!("and {omitted} more"))
}

/// That a text was cut.
pub(super) fn cut(block: &Block) -> Option<String> {
    block.cut_from.map(|length| format!("(cut: the whole text has {length} characters)"))
}

/// A text with the remark that it was cut.
pub(super) fn said(block: &Block) -> String {
    cut(block).map_or_else(|| block.text.clone(), |cut| format!("{}\n{cut}", block.text))
}

fn quoted(block: &Block) -> String {
    let lines: Vec<_> = block.text.lines().map(|line| format!("> {line}")).collect();
    let cut = cut(block).map_or_else(String::new, |cut| format!("\n{cut}"));
    lines.join("\n") + &cut
}

fn facts(story: &Story) -> String {
    let names = || story.facts.iter().map(|fact| fact.name.chars().count());
    let width = names().filter(|length| *length <= NAME_MAX).max().unwrap_or_default() + 1;
    let lines: Vec<_> = story.facts.iter().map(|fact| format!("{:width$} {}", format!("{}:", fact.name), fact.value)).collect();
    lines.join("\n")
}

/// `text`, at most `max` characters long.
fn whole(text: &str, max: usize) -> String {
    said(&safe::block(text, max.saturating_sub(80)))
}

/// `text`, at most `max` UTF-16 units long.
fn utf16(text: &str, max: usize) -> String {
    let mut length = 0;
    let fits = |character: char| {
        length += character.len_utf16();
        length <= max
    };
    if text.chars().all(fits) {
        return text.to_owned();
    }
    let mut left = max.saturating_sub(1);
    let kept = text.chars().take_while(|character| {
        let fits = character.len_utf16() <= left;
        left = left.saturating_sub(character.len_utf16());
        fits
    });
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_counted_as_twilio_counts() {
        assert_eq!((utf16("a😀", 3), utf16("a😀b", 3)), ("a😀".to_owned(), "a…".to_owned()));
        let links = Links { reconnect: None, event: Some("https://a.example/x") };
        let short = short(&"😀".repeat(2000), None, links, Some(&"n".repeat(900)));
        assert!(short.encode_utf16().count() <= SHORT_MAX && short.contains("https://a.example/x") && short.contains("built-in"));
    }

    #[test]
    fn a_link_of_an_event_that_leaves_no_room_is_left_out() {
        let links = Links { reconnect: None, event: Some("https://a.example/x") };
        let far = Action { label: "Answer".into(), url: format!("https://evil.example/{}", "x".repeat(1900)), host: None };
        assert_eq!(short("It waits.", Some(&far), links, None), "It waits.\nhttps://a.example/x");
        assert_eq!(short("It waits.", Some(&far), Links::default(), None), "It waits.");
    }
}
