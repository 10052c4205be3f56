//! `kind: webhook`: the envelope, the received bytes or a template's text, to any HTTP endpoint.

use super::{TEMPLATE, TemplateRef};
use crate::{
    config::decode::{Context, Decode, Field, Fields, Keys, Words},
    deliver::{
        answers::Reading,
        attempt::{Tried, Try},
        endpoint::{self, Body, Endpoint},
        making::{Draft, Making},
    },
    envelope::{CLOUDEVENTS_JSON, JSON},
};

/// How much of an answer's body is kept, in bytes.
const ANSWER_MAX: usize = 4 * 1024;
/// Media type of a template's text that is no JSON.
const TEXT: &str = "text/plain; charset=utf-8";

/// A webhook destination.
#[derive(Debug, Clone)]
pub struct Webhook {
    endpoint: Endpoint,
    payload: Payload,
}

/// What is sent.
#[derive(Debug, Clone)]
enum Payload {
    /// The envelope, as this media type.
    Envelope(&'static str),
    /// The bytes received, with their content type.
    Original,
    /// A template's text.
    Template(TemplateRef),
}

#[derive(Clone, Copy, PartialEq)]
enum Word {
    Envelope,
    Original,
    Template,
}

#[derive(Clone, Copy, PartialEq)]
struct MediaType(&'static str);

/// The keys of a webhook destination.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<Word>(
        "payload",
        "What is sent: the envelope, the bytes received with their content type, or what `template` makes.",
    )
    .default("envelope"),
    Field::of::<MediaType>(
        "content_type",
        "How the envelope is labelled: `application/json`, or `application/cloudevents+json`.",
    )
    .default("json"),
    TEMPLATE,
    Field::of::<bool>(
        "handshake",
        "Whether the target is asked by OPTIONS for its consent first (CloudEvents' abuse protection); without it, nothing is sent.",
    )
    .default("false"),
])
.and(&[endpoint::KEYS])
.such_that(|webhook| webhook.needs_where("payload", "template", "template"));

impl Words for Word {
    const WORDS: &'static [(&'static str, Self)] =
        &[("envelope", Self::Envelope), ("original", Self::Original), ("template", Self::Template)];
}

impl Words for MediaType {
    const WORDS: &'static [(&'static str, Self)] = &[("json", Self(JSON)), ("cloudevents", Self(CLOUDEVENTS_JSON))];
}

impl Webhook {
    /// Reads the keys of a webhook destination.
    pub(super) fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let endpoint = Endpoint::decode(fields, cx);
        let payload = Payload::decode(name, fields, cx);
        let handshake = fields.or("handshake", false, cx);
        let endpoint = endpoint?.asked_first(handshake);
        if !endpoint.signs() {
            let help = "give it `signing: {secrets: [...]}`, so that the target can tell the relay from anybody else";
            cx.warning("unsigned", fields.place(), format!("{} is sent to without a signature", fields.what())).help(help);
        }
        Some(Self { endpoint, payload: payload? })
    }

    /// Sends the envelope to `endpoint`: a subscription.
    pub(in crate::deliver) fn of_envelopes(endpoint: Endpoint) -> Self {
        Self { endpoint, payload: Payload::Envelope(JSON) }
    }

    /// Goes on with what `former`, the same before the file changed, knows of its target.
    pub(super) fn goes_on_from(&mut self, former: &Self) {
        self.endpoint.goes_on_from(&former.endpoint);
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn template(&self) -> Option<&TemplateRef> {
        match &self.payload {
            Payload::Template(template) => Some(template),
            Payload::Envelope(_) | Payload::Original => None,
        }
    }

    pub(super) async fn send(&self, attempt: &Try<'_>, answers: &Reading) -> Tried {
        if let Some(kept) = attempt.kept() {
            return self.post(attempt, &kept, answers).await;
        }
        // Kept whatever it is, should it have to be sent again: by then the file may name another payload.
        let (body, failed) = self.body(attempt);
        self.post(attempt, &body, answers).await.rendered(body, failed)
    }

    /// What would be sent.
    pub(super) fn draft(&self, making: &Making<'_>) -> Draft {
        Draft::plain(self.body(making))
    }

    /// The body, and why a template was not used.
    fn body(&self, making: &Making<'_>) -> (Body, Option<String>) {
        if let Some(body) = batch(making).or_else(|| self.plain(making)) {
            return (body, None);
        }
        let text = making.text(self.template().map(|template| template.name.as_str()));
        (Body { content_type: media_type(&text.text).to_owned(), bytes: text.text.into() }, text.failed)
    }

    async fn post(&self, attempt: &Try<'_>, body: &Body, answers: &Reading) -> Tried {
        let answered = self.endpoint.post(attempt, body, ANSWER_MAX).await;
        Tried::new(answered, attempt.at, |status| answers.meaning(status))
    }

    /// The body, unless a template has to make it now: a rule that names one wants its text, whatever the payload.
    fn plain(&self, making: &Making<'_>) -> Option<Body> {
        let event = making.event;
        match &self.payload {
            _ if making.delivery.template.is_some() => None,
            Payload::Template(_) => None,
            Payload::Envelope(media_type) => Some(Body { content_type: (*media_type).to_owned(), bytes: event.to_json().into() }),
            Payload::Original => {
                let content_type = event.content_type.clone().unwrap_or_else(|| JSON.to_owned());
                Some(Body { content_type, bytes: event.body.clone() })
            }
        }
    }
}

impl Payload {
    fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let word = fields.or("payload", Word::Envelope, cx);
        let content_type = fields.node("content_type").map(|node| MediaType::decode(node, cx));
        let template = fields.node("template").map(|node| TemplateRef::decode(name, node, cx));
        if content_type.is_some() && word != Word::Envelope {
            cx.error("bad-value", fields.key_place("content_type"), "`content_type` is chosen for `payload: envelope` only");
        }
        if template.is_some() && word != Word::Template {
            cx.error("bad-value", fields.key_place("template"), "`template` is used with `payload: template` only");
        }
        match (word, template) {
            (Word::Envelope, _) => Some(Self::Envelope(content_type.unwrap_or(Some(MediaType(JSON)))?.0)),
            (Word::Original, _) => Some(Self::Original),
            (Word::Template, Some(template)) => template.map(Self::Template),
            (Word::Template, None) => {
                cx.error("missing-key", fields.key_place("payload"), "`payload: template` needs `template`");
                None
            }
        }
    }
}

/// Media type of several events at once (CloudEvents 1.0 HTTP binding, batched mode).
const BATCH: &str = "application/cloudevents-batch+json; charset=utf-8";

/// What gathered while the destination was of a kind that people read, and is sent now that it is not: all of it.
fn batch(making: &Making<'_>) -> Option<Body> {
    let digest = making.digest?;
    let mut bytes = vec![b'['];
    for (n, (_, event)) in digest.events.iter().enumerate() {
        if 0 < n {
            bytes.push(b',');
        }
        bytes.extend(event.to_json());
    }
    bytes.push(b']');
    Some(Body { content_type: BATCH.to_owned(), bytes: bytes.into() })
}

/// JSON where the text is JSON, else plain text.
fn media_type(text: &str) -> &'static str {
    let json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    if json { JSON } else { TEXT }
}
