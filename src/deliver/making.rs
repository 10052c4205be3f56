//! What the body of one delivery is made with, and the texts that go into it. No network: the same makes a preview.

use super::{attempt::Site, endpoint::Body, stage::Stage};
use crate::{
    clock::Timestamp,
    contacts::{Contacts, NoRecipients},
    envelope::Envelope,
    json,
    render::{DigestItem, Message, MessageScene, Scene, Templates, builtin},
    store::{Delivery, Digested},
};

/// What a body is made with: nothing here reaches the network.
pub(super) struct Making<'a> {
    /// What is delivered.
    pub(super) event: &'a Envelope,
    /// Its delivery.
    pub(super) delivery: &'a Delivery,
    /// What goes out with it, its own event included; `None`: it goes alone.
    pub(super) digest: Option<&'a Digested>,
    /// The how-manieth attempt, from 1.
    pub(super) number: u32,
    /// When it began.
    pub(super) at: Timestamp,
    /// The templates of the file.
    pub(super) templates: &'a Templates,
    /// Who stands behind a namespace.
    pub(super) contacts: &'a Contacts,
    /// Where people reach the relay.
    pub(super) site: &'a Site,
    /// What it is made for.
    pub(super) purpose: Purpose,
    /// What takes everything in the place of targets, where nothing is sent: it learns what people would read.
    pub(super) stage: Option<&'a Stage>,
}

/// What a body is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A delivery.
    Delivery,
    /// To try the destination out: nothing is kept of it, and it says so.
    Test,
    /// To be shown to whoever asks: links that act for a person are masked.
    Preview,
}

/// Text for people, from a template or built in.
pub(super) struct Text {
    /// The text.
    pub(super) text: String,
    /// Why the template that was meant was not used.
    pub(super) failed: Option<String>,
}

impl Making<'_> {
    /// Whether it is sent to try the destination out.
    pub(super) fn is_test(&self) -> bool {
        self.purpose == Purpose::Test
    }

    /// The text of this delivery: by the rule's template, else by `own`, else the built-in line. A template that fails
    /// falls back to that line, which says so.
    pub(super) fn text(&self, own: Option<&str>) -> Text {
        let data = json::lenient(self.event.data());
        // One that makes no text leaves the built-in one.
        let named = self.delivery.template.as_deref().or(own).filter(|name| self.templates.makes_text(name));
        let Some(template) = named else {
            return Text { text: builtin::line(self.event, &data), failed: None };
        };
        self.plain(template, &data)
    }

    /// The text that `template` makes; see [`Making::text`].
    pub(super) fn plain(&self, template: &str, data: &serde_json::Value) -> Text {
        let count = self.digest.map_or(1, |it| it.events.len() as u64 + u64::from(it.omitted));
        match self.templates.render(template, &Scene::of_several(self.event, data, &self.delivery.id, self.number, count)) {
            Ok(text) => Text { text, failed: None },
            Err(error) => Text {
                text: format!("{} (template `{template}` failed; this is the built-in line)", builtin::line(self.event, data)),
                failed: Some(format!("template `{template}` failed: {error}")),
            },
        }
    }

    /// What people read of this delivery, or of all that goes out with it: by the rule's template, else by `own`, else built in.
    pub(super) fn message(&self, own: Option<&str>) -> Message {
        let message = self.made(own);
        if let Some(stage) = self.stage {
            stage.reads(&message);
        }
        message
    }

    fn made(&self, own: Option<&str>) -> Message {
        let data = json::lenient(self.event.data());
        let reconnect = self.site.reconnecting.as_ref().and_then(|links| {
            let scene = Scene::new(self.event, &data, &self.delivery.id, self.number);
            let link = links.link(self.event, &scene, self.templates, self.at)?;
            Some(if self.purpose == Purpose::Preview { links.masked(link) } else { link })
        });
        let scene = MessageScene {
            event: self.event,
            data: &data,
            delivery: self.delivery.id,
            attempt: self.number,
            severity: self.delivery.severity,
            admin_url: self.site.admin_url.as_ref(),
            reconnect: reconnect.as_deref(),
        };
        let template = self.delivery.template.as_deref().or(own);
        let Some(digest) = self.digest else {
            let message = self.templates.message(template, &scene);
            return if self.is_test() { message.marked_as_test() } else { message };
        };
        let data: Vec<_> = digest.events.iter().map(|(_, event)| json::lenient(event.data())).collect();
        let pairs = digest.events.iter().zip(&data);
        let items: Vec<_> = pairs.map(|((delivery, event), data)| DigestItem { event, data, delivery: *delivery }).collect();
        self.templates.digest(template, &scene, &items, usize::try_from(digest.omitted).unwrap_or(usize::MAX))
    }

    /// The body kept from an earlier attempt.
    pub(super) fn kept(&self) -> Option<Body> {
        let kept = self.delivery.body.as_ref()?;
        Some(Body { content_type: kept.content_type.clone(), bytes: kept.body.clone() })
    }
}

/// What one delivery would send, and to whom.
pub(super) struct Draft {
    /// What is sent; of a mail and of a form, what their readers see.
    pub(super) body: Body,
    /// Why the template that was meant was not used.
    pub(super) failed: Option<String>,
    /// Who gets it, as far as that is known without asking; `None` where there is nobody but the destination itself.
    pub(super) to: Option<Result<Vec<String>, NoRecipients>>,
}

impl Draft {
    /// For the destination itself.
    pub(super) fn plain((body, failed): (Body, Option<String>)) -> Self {
        Self { body, failed, to: None }
    }

    /// Text for people.
    pub(super) fn for_people(text: String, failed: Option<String>, to: Result<Vec<String>, NoRecipients>) -> Self {
        let body = Body { content_type: "text/plain; charset=utf-8".to_owned(), bytes: text.into() };
        Self { body, failed, to: Some(to) }
    }
}
