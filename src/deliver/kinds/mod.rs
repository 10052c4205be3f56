//! The kinds of destinations, one file each.

use super::{
    answers::Reading,
    attempt::{Tried, Try},
    endpoint::Endpoint,
    making::{Draft, Making},
};
use crate::{
    config::{
        bad_template,
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Rate, Schema, Shape, Words, nearest},
        tree::{Node, Value},
    },
    contacts::{Contacts, NoRecipients},
    envelope::Envelope,
    render,
    route::{handling::Audience, path::Path},
};

mod email;
mod n8n;
mod slack;
mod webhook;
mod whatsapp;

pub use email::Email;
pub use n8n::N8n;
pub use slack::Slack;
pub use webhook::Webhook;
pub use whatsapp::Whatsapp;
pub(super) use whatsapp::{Fate, Reported, UNREPORTED};

/// What a destination is, and what only its kind has.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Any HTTP endpoint.
    Webhook(Webhook),
    /// A workflow of n8n that begins with a webhook.
    N8n(N8n),
    /// A channel of Slack.
    Slack(Slack),
    /// People's telephones, by Twilio.
    Whatsapp(Whatsapp),
    /// People, by mail.
    Email(Box<Email>),
}

/// What `kind` may say.
#[derive(Clone, Copy)]
pub(crate) enum Word {
    Webhook,
    N8n,
    Slack,
    Whatsapp,
    Email,
}

impl Words for Word {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("webhook", Self::Webhook),
        ("n8n", Self::N8n),
        ("slack", Self::Slack),
        ("whatsapp", Self::Whatsapp),
        ("email", Self::Email),
    ];
}

/// The key of kinds whose message a template makes.
const TEMPLATE: Field = Field::of::<TemplateRef>(
    "template",
    "What makes its message: an entry of `templates`, or Jinja itself. Left out: the built-in message.",
)
.example("{{ event.type }} for {{ event.namespace }}");
/// The key of kinds that tell a thread.
const THREAD_BY: Field =
    Field::of::<Path>("thread_by", "Messages with the same value here stand in one thread.").example("$.data.credential_id");

impl Word {
    /// The keys that only this kind has.
    pub(super) fn keys(self) -> Keys {
        match self {
            Self::Webhook => webhook::KEYS,
            Self::N8n => n8n::KEYS,
            Self::Slack => slack::KEYS,
            Self::Whatsapp => whatsapp::KEYS,
            Self::Email => email::KEYS,
        }
    }

    /// How much is sent to one that does not say: Slack takes a message a second.
    pub(super) fn rate(self) -> Option<Rate> {
        match self {
            Self::Slack => Some(Rate::per_second(1, 1)),
            Self::Webhook | Self::N8n | Self::Whatsapp | Self::Email => None,
        }
    }

    /// Whether deliveries of this kind can go out together, as one message that lists them.
    pub(crate) fn takes_digests(self) -> bool {
        match self {
            Self::Slack | Self::Whatsapp | Self::Email => true,
            Self::Webhook | Self::N8n => false,
        }
    }

    /// The kind called `text`, where there is one.
    pub(crate) fn of(text: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, kind)| *kind)
    }

    /// Reads `kind`.
    pub(super) fn read(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let Some(node) = fields.node("kind") else {
            if !fields.called_otherwise("kind", "type", cx) {
                let message = format!("{} needs `kind`", fields.what());
                cx.error("missing-key", fields.place(), message).note("kinds: webhook n8n slack whatsapp email");
            }
            return None;
        };
        Self::decode(node, cx)
    }
}

impl Kind {
    /// Reads the keys of kind `word`, of the destination called `name`.
    pub(super) fn decode(word: Word, name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        match word {
            Word::Webhook => Webhook::decode(name, fields, cx).map(Self::Webhook),
            Word::N8n => N8n::decode(name, fields, cx).map(Self::N8n),
            Word::Slack => Slack::decode(name, fields, cx).map(Self::Slack),
            Word::Whatsapp => Whatsapp::decode(name, fields, cx).map(Self::Whatsapp),
            Word::Email => Email::decode(name, fields, cx).map(Box::new).map(Self::Email),
        }
    }

    /// The kind's word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::N8n(_) => "n8n",
            Self::Slack(_) => "slack",
            Self::Whatsapp(_) => "whatsapp",
            Self::Email(_) => "email",
        }
    }

    /// Where it is reached over HTTP; `None` where it is not.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Webhook(it) => Some(it.endpoint()),
            Self::N8n(it) => Some(it.endpoint()),
            Self::Slack(it) => Some(it.endpoint()),
            Self::Whatsapp(it) => Some(it.endpoint()),
            Self::Email(_) => None,
        }
    }

    /// Where it is reached, without what may be secret.
    pub fn masked_url(&self) -> String {
        match self {
            Self::Email(it) => it.masked_url(),
            over_http => over_http.endpoint().map(Endpoint::masked_url).unwrap_or_default(),
        }
    }

    /// Who reads what it sends.
    pub fn audience(&self) -> Audience {
        match self {
            Self::Webhook(_) | Self::N8n(_) => Audience::Same,
            Self::Slack(it) => it.audience(),
            Self::Whatsapp(it) => it.audience(),
            Self::Email(it) => it.audience(),
        }
    }

    /// Takes over what the same destination held before the file changed and which outlives an attempt.
    pub(super) fn goes_on_from(&mut self, former: &Self) {
        match (self, former) {
            (Self::Slack(it), Self::Slack(former)) => it.goes_on_from(former),
            (Self::Webhook(it), Self::Webhook(former)) => it.goes_on_from(former),
            _ => {}
        }
    }

    /// The templates its text is made with.
    pub fn templates(&self) -> Vec<&TemplateRef> {
        match self {
            Self::Webhook(it) => it.template().into_iter().collect(),
            Self::N8n(it) => it.template().into_iter().collect(),
            Self::Slack(it) => it.template().into_iter().collect(),
            Self::Whatsapp(it) => it.templates(),
            Self::Email(it) => it.template().into_iter().collect(),
        }
    }

    /// What it would send, and to whom. Nothing is asked of anybody.
    pub(super) fn draft(&self, making: &Making<'_>) -> Draft {
        match self {
            Self::Webhook(it) => it.draft(making),
            Self::N8n(it) => it.draft(making),
            Self::Slack(it) => it.draft(making),
            Self::Whatsapp(it) => it.draft(making),
            Self::Email(it) => it.draft(making),
        }
    }

    /// Why nobody could be written to about `event`, as far as that is known without asking; `None`: somebody could.
    pub fn unaddressed(&self, event: &Envelope, contacts: &Contacts) -> Option<String> {
        let why = match self {
            Self::Webhook(_) | Self::N8n(_) => None,
            Self::Slack(it) => it.unaddressed(event, contacts),
            Self::Whatsapp(it) => it.unaddressed(event, contacts),
            Self::Email(it) => it.unaddressed(event, contacts),
        };
        why.filter(|why| !matches!(why, NoRecipients::Unavailable(_))).map(|why| why.to_string())
    }

    /// Makes one attempt. No transaction is open and no lock is held while it runs. What is rarer or larger than a request is allocated by
    /// itself: what is not would make the future of every attempt as large.
    pub(super) async fn send(&self, attempt: &Try<'_>, answers: &Reading) -> Tried {
        match self {
            Self::Webhook(it) => it.send(attempt, answers).await,
            Self::N8n(it) => it.send(attempt, answers).await,
            Self::Slack(it) => Box::pin(it.send(attempt, answers)).await,
            Self::Whatsapp(it) => Box::pin(it.send(attempt, answers)).await,
            Self::Email(it) => Box::pin(it.send(attempt)).await,
        }
    }
}

/// The template a destination names, or brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRef {
    /// The name it is rendered by.
    pub name: String,
    /// Its text, where the destination brings it along.
    pub inline: Option<String>,
}

impl Shape for TemplateRef {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text()
    }
}

impl TemplateRef {
    /// Reads `template`: the name of an entry of `templates`, or a template itself where it holds `{{` or `{%`.
    fn decode(destination: &str, node: &Node, cx: &mut Context) -> Option<Self> {
        let Value::String(text) = &node.value else {
            return cx.expected("the name of a template, or a template", node);
        };
        if text.contains("{{") || text.contains("{%") {
            return Self::inline(destination, text, node, cx);
        }
        if !cx.templates.contains_key(text) {
            let near = nearest(text, cx.templates.keys().map(String::as_str)).filter(|_| !node.referenced).map(str::to_owned);
            let what = if node.referenced { "of a name from the environment".to_owned() } else { format!("`{text}`") };
            cx.error("unknown-template", node.place, format!("there is no template {what}")).did_you_mean(near.as_deref());
            return None;
        }
        Some(Self { name: text.clone(), inline: None })
    }

    /// Reads text that is a template whatever it holds, called `what`.
    fn of_text(what: &str, node: &Node, cx: &mut Context) -> Option<Self> {
        match &node.value {
            Value::String(text) => Self::inline(what, text, node, cx),
            _ => cx.expected("text, in which {{ event.type }} and the like are filled in", node),
        }
    }

    fn inline(destination: &str, text: &str, node: &Node, cx: &mut Context) -> Option<Self> {
        if let Err(error) = render::check_text(text) {
            bad_template(&error, node, cx);
            return None;
        }
        // No entry of `templates` has a space in its name.
        Some(Self { name: format!("of {destination}"), inline: Some(text.to_owned()) })
    }
}
