//! A story as a mail, in plain text and HTML, and as a line or two.

use super::{
    message::{Links, SHORT_MAX},
    safe,
    story::Story,
};

/// The plain text.
pub(super) fn text(story: &Story, links: Links<'_>, note: Option<&str>) -> String {
    let mut out = format!("{}\n", story.body.text);
    if let Some(length) = story.body.cut_from {
        out += &format!("(cut: the whole text has {length} characters)\n");
    }
    if let Some(link) = links.reconnect {
        out += &format!("\nReconnect: {link}\n");
    }
    if let Some(link) = links.event {
        out += &format!("\nThe event: {link}\n");
    }
    if let Some(note) = note {
        out += &format!("\n({note}; this is the built-in message)\n");
    }
    out
}

/// The HTML document.
pub(super) fn html(story: &Story, subject: &str, links: Links<'_>, note: Option<&str>) -> String {
    let mut out = "<!DOCTYPE html><html><head><meta charset=\"utf-8\"><title>".to_owned();
    safe::html(&mut out, subject);
    out += "</title></head><body>";
    for paragraph in text(story, Links::default(), note).lines() {
        out += "<p>";
        safe::html(&mut out, paragraph);
        out += "</p>";
    }
    for (label, link) in [("Reconnect", links.reconnect), ("Open the event", links.event)] {
        if let Some(link) = link {
            out += "<p><a href=\"";
            safe::html(&mut out, link);
            out += &format!("\">{label}</a></p>");
        }
    }
    out + "</body></html>"
}

/// One or two lines.
pub(super) fn short(story: &Story, links: Links<'_>, note: Option<&str>) -> String {
    let mut end = String::new();
    if let Some(link) = links.reconnect.or(links.event) {
        end += &format!("\n{link}");
    }
    if let Some(note) = note {
        end += &format!("\n({note})");
    }
    let room = SHORT_MAX.saturating_sub(end.encode_utf16().count());
    let mut length = 0;
    let mut out: String = story
        .body
        .text
        .chars()
        .take_while(|character| {
            length += character.len_utf16();
            length < room
        })
        .collect();
    if out.len() < story.body.text.len() {
        out.push('…');
    }
    out + &end
}
