//! What people read about one event, or about several that were gathered, in each form a destination may need.

use serde_json::Value as Json;
use url::Url;

use super::{Scene, Templates, builtin, mail, safe, slack, story::Story};
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
    /// The colour of the bar beside the blocks, as `#rrggbb`.
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
    /// The message about one event: by the named template where one is given, else built in. A template that fails falls back to the
    /// built-in message, which says so.
    pub fn message(&self, template: Option<&str>, scene: &MessageScene<'_>) -> Message {
        let mut story = Story::of(scene);
        let mut failed = None;
        if let Some(template) = template {
            match self.render(template, &Scene::new(scene.event, scene.data, &scene.delivery, scene.attempt)) {
                Ok(text) => story.body(&text),
                Err(error) => failed = Some(format!("template `{template}` failed: {error}")),
            }
        }
        compose(&story, scene, failed)
    }

    /// The message about `events` that were gathered, and `omitted` further ones that are only counted; `scene` is that of the delivery
    /// which carries it. With a template, each event's lines are that template's.
    pub fn digest(&self, template: Option<&str>, scene: &MessageScene<'_>, events: &[DigestItem<'_>], omitted: usize) -> Message {
        let mut failed = None;
        let lines: Vec<String> = events
            .iter()
            .map(|item| {
                let own = template
                    .map(|name| (name, self.render(name, &Scene::new(item.event, item.data, &item.delivery, scene.attempt))));
                match own {
                    Some((_, Ok(text))) => text,
                    Some((name, Err(error))) => {
                        failed = Some(format!("template `{name}` failed: {error}"));
                        builtin::line(item.event, item.data)
                    }
                    None => builtin::line(item.event, item.data),
                }
            })
            .collect();
        compose(&Story::gathered(events.len() + omitted, &lines, omitted), scene, failed)
    }
}

fn compose(story: &Story, scene: &MessageScene<'_>, failed: Option<String>) -> Message {
    let note = failed.as_ref().map(|failed| safe::line(failed, SUBJECT_MAX));
    let event_link = scene.admin_url.map(|url| event_link(url, scene));
    let links = Links { reconnect: scene.reconnect.filter(|link| safe::web_url(link).is_some()), event: event_link.as_deref() };
    let prefix = match scene.severity {
        Severity::Info => "",
        Severity::Warning => "[warning] ",
        Severity::Critical => "[critical] ",
    };
    let subject = format!("{prefix}{}", safe::line(&story.title, SUBJECT_MAX - prefix.len() - 1));
    Message {
        text: mail::text(story, links, note.as_deref()),
        html: mail::html(story, &subject, links, note.as_deref()),
        short: mail::short(story, links, note.as_deref()),
        slack: slack::message(story, &subject, scene.severity, links, note.as_deref()),
        subject,
        failed,
    }
}

/// Where a message leads.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Links<'a> {
    /// To what mends the credential.
    pub(super) reconnect: Option<&'a str>,
    /// To the event's page.
    pub(super) event: Option<&'a str>,
}

/// The page of the event: `{admin_url}/events/{uid}`.
fn event_link(admin_url: &Url, scene: &MessageScene<'_>) -> String {
    format!("{}/events/{}", admin_url.as_str().trim_end_matches('/'), scene.delivery.event)
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
        Templates::new(&BTreeMap::from(sources.map(|(name, text)| (name.to_owned(), text.to_owned()))), Strictness::Lenient)
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
