//! What people read about one event, or about several that were gathered, in each form a destination may need.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use url::Url;

use super::{
    Part, Scene, TemplateError, Templates, builtin,
    fields::Fields,
    mail, page,
    safe::{self, Block},
    slack, stories,
    story::{OWN_MAX, Story},
};
use crate::{
    envelope::{DeliveryId, Envelope},
    store::Severity,
};

/// Longest subject, in characters.
pub const SUBJECT_MAX: usize = 200;
/// Longest short text, in UTF-16 units: Twilio takes 1,600.
pub const SHORT_MAX: usize = 1600;
/// Longest plain text, in characters.
pub const TEXT_MAX: usize = 20_000;
/// Longest remark on a template that failed, in characters.
const NOTE_MAX: usize = 300;
/// Events that a digest lists; the others are counted.
const LISTED_MAX: usize = 50;

/// What people read about one event, in each form a destination may need. Bounded, and safe for its channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// One line without control characters, at most [`SUBJECT_MAX`] characters; begins with `[warning]` or `[critical]` where the
    /// rule's severity is that.
    pub subject: String,
    /// The text of a mail: lines that end in `\n`, at most [`TEXT_MAX`] characters.
    pub text: String,
    /// A complete HTML document; everything that came with the event is escaped.
    pub html: String,
    /// One or two lines, at most [`SHORT_MAX`] UTF-16 units: the body of a WhatsApp message.
    pub short: String,
    /// For Slack.
    pub slack: SlackMessage,
    /// Why the template that was meant was not used; the message then says so too. Counted as `template_failed`.
    pub failed: Option<String>,
}

/// A message in Slack's Block Kit, within Slack's limits, everything that came with the event escaped.
#[derive(Debug, Clone, PartialEq)]
pub struct SlackMessage {
    /// What notifications show, escaped.
    pub text: String,
    /// The colour of the bar beside the blocks, as `#rrggbb`: the severity's, but for `info`.
    pub color: Option<&'static str>,
    /// At most 50 blocks, about 10,000 characters in all.
    pub blocks: Vec<Json>,
}

/// What a message is made of.
#[derive(Debug, Clone, Copy)]
pub struct MessageScene<'a> {
    /// The event.
    pub event: &'a Envelope,
    /// Its `data`, parsed by [`crate::json::lenient`].
    pub data: &'a Json,
    /// The delivery that carries the message.
    pub delivery: DeliveryId,
    /// The how-manieth attempt, from 1.
    pub attempt: u32,
    /// How grave the rule says it is.
    pub severity: Severity,
    /// `server.admin_url`: leads to the event's page. `None` leaves the link out: people outside cannot open it.
    pub admin_url: Option<&'a Url>,
    /// A signed link that mends the credential the event is about; what is no URL of a web page is left out.
    pub reconnect: Option<&'a str>,
}

/// An event of a digest.
#[derive(Debug, Clone, Copy)]
pub struct DigestItem<'a> {
    /// The event.
    pub event: &'a Envelope,
    /// Its `data`, parsed by [`crate::json::lenient`].
    pub data: &'a Json,
    /// The delivery it was digested from.
    pub delivery: DeliveryId,
}

impl Templates {
    /// The message about one event: by the named template where one is given, whose parts take the place of the built-in ones. A template
    /// that fails is not used at all: the message is built in, and says so.
    pub fn message(&self, template: Option<&str>, scene: &MessageScene<'_>) -> Message {
        let event_link = event_link(scene);
        let links = links(scene, event_link.as_deref());
        let story = stories::tell(Fields { event: scene.event, data: scene.data }, links.reconnect);
        let (own, failed) = match template.map(|name| (name, self.parts(name, &Scene::of(scene, links)))) {
            Some((_, Ok(own))) => (own, None),
            Some((name, Err(error))) => (BTreeMap::new(), Some(why(name, &error))),
            None => (BTreeMap::new(), None),
        };
        compose(&story, &own, scene.severity, links, failed)
    }

    /// The message about `events` that were gathered, and `omitted` further ones that are only counted; `scene` is that of the delivery
    /// which carries it. With a template, an event's line is what the template says in short.
    pub fn digest(&self, template: Option<&str>, scene: &MessageScene<'_>, events: &[DigestItem<'_>], omitted: usize) -> Message {
        let event_link = event_link(scene);
        let links = links(scene, event_link.as_deref());
        let (listed, left) = events.split_at(events.len().min(LISTED_MAX));
        let mut failed = None;
        let lines: Vec<String> = listed
            .iter()
            .map(|item| match template.map(|name| (name, self.item(name, scene, item))) {
                Some((_, Ok(Some(line)))) => line,
                Some((name, Err(error))) => {
                    failed = Some(why(name, &error));
                    builtin::line(item.event, item.data)
                }
                Some((_, Ok(None))) | None => builtin::line(item.event, item.data),
            })
            .collect();
        let fields: Vec<_> = listed.iter().map(|item| Fields { event: item.event, data: item.data }).collect();
        let story = Story::gathered(&fields, &lines, omitted.saturating_add(left.len()));
        compose(&story, &BTreeMap::new(), scene.severity, links, failed)
    }

    /// What template `name` says of one of several events, where it makes a short text or a text.
    fn item(&self, name: &str, scene: &MessageScene<'_>, item: &DigestItem<'_>) -> Result<Option<String>, TemplateError> {
        let scene = MessageScene { event: item.event, data: item.data, delivery: item.delivery, reconnect: None, ..*scene };
        let mut parts = self.parts(name, &Scene::of(&scene, Links::default()))?;
        let line = parts.remove(&Part::Short).or_else(|| parts.remove(&Part::Text));
        Ok(line.filter(|line| !line.trim().is_empty()))
    }
}

fn why(name: &str, error: &TemplateError) -> String {
    format!("template `{name}` failed: {error}")
}

/// Lays `story` out in each form; `own` parts, which a template made, take the place of what is built in.
fn compose(story: &Story, own: &BTreeMap<Part, String>, severity: Severity, links: Links<'_>, failed: Option<String>) -> Message {
    let note = failed.as_ref().map(|failed| safe::line(failed, NOTE_MAX));
    let note = note.as_deref();
    let own = |part| own.get(&part).map(String::as_str);
    let text = own(Part::Text).map(|text| safe::block(text, OWN_MAX));
    let prefix = match severity {
        Severity::Info => "",
        Severity::Warning => "[warning] ",
        Severity::Critical => "[critical] ",
    };
    let subject = Some(own(Part::Subject).unwrap_or_default()).filter(|own| !own.trim().is_empty()).unwrap_or(&story.title);
    // One character is the ellipsis.
    let subject = format!("{prefix}{}", safe::line(subject, SUBJECT_MAX - prefix.len() - 1));
    let html = match (own(Part::Html), &text) {
        (Some(html), _) if is_document(html) => html.to_owned(),
        (Some(html), _) => page::html(story, &subject, severity, &page::Body::Html(html), links, note),
        (None, Some(text)) => page::html(story, &subject, severity, &page::Body::Text(&mail::said(text)), links, note),
        (None, None) => page::html(story, &subject, severity, &page::Body::Story, links, note),
    };
    let slack = match (own(Part::Slack), &text) {
        (Some(markup), _) => slack::Body::Markup(markup),
        (None, Some(text)) => slack::Body::Text(&text.text),
        (None, None) => slack::Body::Story,
    };
    let slack = slack::message(story, &subject, severity, &slack, links, note);
    let short = own(Part::Short).map(|short| safe::block(short, OWN_MAX));
    // Nobody takes an empty message.
    let said = |block: &&Block| !block.text.is_empty();
    let short = short.as_ref().filter(said).or(text.as_ref().filter(said)).map_or(story.line.as_str(), |short| &short.text);
    let short = mail::short(short, story.action.as_ref(), links, note);
    let text = text.map_or_else(|| mail::text(story, links, note), |text| mail::own(&text, story.action.as_ref()));
    Message { subject, text, html, short, slack, failed }
}

impl Message {
    /// The message, every form of which says first that it is a test and that nothing happened.
    pub fn marked_as_test(mut self) -> Self {
        self.subject.insert_str(0, TEST);
        self.text = format!("{TEST}{TEST_NOTE}\n\n{}", self.text);
        self.short.insert_str(0, TEST);
        let body = self.html.find("<body").and_then(|from| Some(from + self.html.get(from..)?.find('>')? + 1));
        self.html.insert_str(body.unwrap_or(0), &format!("<p style=\"text-align:center\">{TEST}{TEST_NOTE}</p>"));
        self.slack.text.insert_str(0, TEST);
        self.slack.blocks.truncate(SLACK_BLOCKS_MAX - 1);
        let note = serde_json::json!({"type": "mrkdwn", "text": format!("{TEST}{TEST_NOTE}")});
        self.slack.blocks.insert(0, serde_json::json!({"type": "context", "elements": [note]}));
        self
    }
}

/// Blocks that Slack takes in one message.
const SLACK_BLOCKS_MAX: usize = 50;
/// What a message to try a destination out begins with.
const TEST: &str = "[test] ";
/// What it says of itself.
const TEST_NOTE: &str = "Somebody tries this destination out. Nothing has happened, and nothing is to be done.";

/// Whether a template made a whole document, and not only what stands in it.
fn is_document(html: &str) -> bool {
    let start: String = html.trim_start().chars().take(16).flat_map(char::to_lowercase).collect();
    start.starts_with("<!doctype") || start.starts_with("<html")
}

/// Where a message leads.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Links<'a> {
    /// To what mends the credential.
    pub(super) reconnect: Option<&'a str>,
    /// To the event's page.
    pub(super) event: Option<&'a str>,
}

fn links<'a>(scene: &MessageScene<'a>, event: Option<&'a str>) -> Links<'a> {
    Links { reconnect: scene.reconnect.filter(|link| safe::web_url(link).is_some()), event }
}

/// The page of the event: `{admin_url}/events/{uid}`.
fn event_link(scene: &MessageScene<'_>) -> Option<String> {
    scene.admin_url.map(|url| format!("{}/events/{}", url.as_str().trim_end_matches('/'), scene.delivery.event))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{
        envelope::{EventUid, tests::sample},
        render::Strictness,
    };

    fn templates() -> Templates {
        let sources = [("line", "{{ event.type }} <{{ event.data.name }}>"), ("broken", "{{ event.data.a.b.c }}")];
        Templates::new(&BTreeMap::from(sources.map(|(name, text)| (name.to_owned(), text.into()))), Strictness::Lenient)
    }

    fn message(template: Option<&str>, data: &Json) -> Message {
        let admin_url = "https://relay.example.com/".parse().unwrap();
        let event = sample();
        let scene = MessageScene {
            event: &event,
            data,
            delivery: DeliveryId { event: EventUid { salt: 1, seq: 2 }, n: 1 },
            attempt: 1,
            severity: Severity::Critical,
            admin_url: Some(&admin_url),
            reconnect: Some("https://relay.example.com/reconnect/x"),
        };
        templates().message(template, &scene)
    }

    #[test]
    fn every_form_says_it_and_links() {
        let message = message(None, &json!({"service_name": "Google <Calendar>"}));
        assert!(message.subject.starts_with("[critical] Google <Calendar>"), "{}", message.subject);
        let link = "https://relay.example.com/events/ev_00000000000000010000000000000002";
        let slack = serde_json::to_string(&message.slack.blocks).unwrap();
        for form in [&message.text, &message.html, &slack] {
            assert!(form.contains(link) && form.contains("https://relay.example.com/reconnect/x"), "{form}");
        }
        assert!(message.html.contains("Google &lt;Calendar&gt;") && slack.contains("Google &lt;Calendar&gt;"));
        assert!(message.short.contains("Google <Calendar>"));
        assert_eq!(message.failed, None);
    }

    #[test]
    fn a_template_makes_it_and_one_that_fails_is_told_of() {
        let own = message(Some("line"), &json!({"name": "<!channel>"}));
        assert!(own.text.contains("credential.expired <<!channel>>") && own.short.contains("<<!channel>>"));
        assert!(own.slack.text.contains("&lt;") && !own.slack.text.contains('<'));
        let failed = message(Some("broken"), &json!({"service_name": "Google"}));
        assert!(failed.failed.is_some() && failed.text.contains("Google") && failed.text.contains("template `broken` failed"));
        assert!(failed.html.contains("template `broken` failed") && failed.short.contains("template `broken` failed"));
    }

    #[test]
    fn a_digest_lists_and_counts() {
        let (event, data) = (sample(), json!({"service_name": "Google"}));
        let delivery = DeliveryId { event: EventUid { salt: 1, seq: 2 }, n: 1 };
        let scene = MessageScene {
            event: &event,
            data: &data,
            delivery,
            attempt: 1,
            severity: Severity::Info,
            admin_url: None,
            reconnect: None,
        };
        let message = templates().digest(None, &scene, &[DigestItem { event: &event, data: &data, delivery }; 3], 4);
        assert!(
            message.subject.contains('7') && message.text.matches("Google").count() >= 3 && message.text.contains("4 more"),
            "{}",
            message.text
        );
    }
}
