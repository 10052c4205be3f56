//! `kind: n8n`: `{"message": …, "metadata": …}` to a workflow that begins with a webhook.
//!
//! Facts: Honeyframe's `n8n_webhook` connector (message and metadata, the answer goes back); n8n's Webhook node (basic and
//! header credentials; 404 while a workflow is inactive or being edited).

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::{TEMPLATE, TemplateRef};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Schema, Shape, Words},
        tree::Node,
    },
    deliver::{
        answers::{Meaning, Reading},
        attempt::{Tried, Try},
        endpoint::{self, Body, Endpoint, own_header_name, read_value},
        making::{Draft, Making},
    },
    envelope::JSON,
    secret::Secret,
    sign::base64,
};

/// How much of n8n's answer is kept, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// An n8n destination.
#[derive(Debug, Clone)]
pub struct N8n {
    endpoint: Endpoint,
    template: Option<TemplateRef>,
    metadata: Metadata,
}

/// What `metadata` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metadata {
    /// The envelope.
    Envelope,
    /// The sender's `data`.
    Data,
}

/// The keys of an n8n destination.
pub(super) const KEYS: Keys = Keys::of(&[
    TEMPLATE,
    Field::of::<Metadata>("metadata", "What stands beside the message: the envelope, or the sender's `data`.")
        .default("envelope"),
    Field::of::<Auth>("auth", "The credentials of n8n's Webhook node.")
        .example(r#"{"header": {"name": "X-N8n-Key", "value": "${N8N_KEY}"}}"#),
])
.and(&[endpoint::KEYS]);

impl Words for Metadata {
    const WORDS: &'static [(&'static str, Self)] = &[("envelope", Self::Envelope), ("data", Self::Data)];
}

impl N8n {
    /// Reads the keys of an n8n destination.
    pub(super) fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let endpoint = Endpoint::decode(fields, cx);
        let template = fields.node("template").map(|node| TemplateRef::decode(name, node, cx));
        let metadata = fields.or("metadata", Metadata::Envelope, cx);
        let auth = fields.node("auth").map(|node| Auth::decode(node, cx));
        let mut endpoint = endpoint?;
        if let Some(Auth { name, value }) = auth.flatten() {
            if endpoint.has_header(&name) {
                cx.error("reserved-header", fields.key_place("auth"), format!("header `{name}` is set elsewhere too"));
            }
            endpoint.set_header(name, value);
        }
        let template = match template {
            Some(template) => Some(template?),
            None => None,
        };
        Some(Self { endpoint, template, metadata })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn template(&self) -> Option<&TemplateRef> {
        self.template.as_ref()
    }

    pub(super) async fn send(&self, attempt: &Try<'_>, answers: &Reading) -> Tried {
        if let Some(kept) = attempt.kept() {
            return self.post(attempt, &kept, answers).await;
        }
        let (body, failed) = self.body(attempt);
        self.post(attempt, &body, answers).await.rendered(body, failed)
    }

    /// What would be sent.
    pub(super) fn draft(&self, making: &Making<'_>) -> Draft {
        Draft::plain(self.body(making))
    }

    async fn post(&self, attempt: &Try<'_>, body: &Body, answers: &Reading) -> Tried {
        let answered = self.endpoint.post(attempt, body, ANSWER_MAX).await;
        Tried::new(answered, attempt.at, |status| match status {
            404 => Meaning::Transient,
            other => answers.meaning(other),
        })
    }

    /// The body, and why a template was not used.
    fn body(&self, making: &Making<'_>) -> (Body, Option<String>) {
        let text = making.text(self.template.as_ref().map(|template| template.name.as_str()));
        let mut out = br#"{"message":"#.to_vec();
        // Writing a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut out, &text.text);
        out.extend_from_slice(br#","metadata":"#);
        match self.metadata {
            Metadata::Envelope => out.extend_from_slice(&making.event.to_json()),
            Metadata::Data => out.extend_from_slice(making.event.data()),
        }
        out.push(b'}');
        (Body { content_type: JSON.to_owned(), bytes: out.into() }, text.failed)
    }
}

/// Credentials of n8n's Webhook node, as the header they become.
struct Auth {
    name: HeaderName,
    value: HeaderValue,
}

/// `auth`.
const AUTH: Keys = Keys::of(&[
    Field::of::<AuthHeader>("header", "A header with a fixed value."),
    Field::of::<AuthBasic>("basic", "HTTP basic authentication."),
])
.such_that(|auth| auth.exactly_one(&["header", "basic"]));
const HEADER: Keys = Keys::of(&[
    Field::of::<String>("name", "The header's name.").required().example("X-N8n-Key"),
    Field::of::<Secret>("value", "Its value.").required().example("${N8N_KEY}"),
]);
const BASIC: Keys = Keys::of(&[
    Field::of::<String>("username", "The user.").required(),
    Field::of::<Secret>("password", "The password.").required().example("${N8N_PASSWORD}"),
]);

/// `auth.header`.
struct AuthHeader;

impl Shape for AuthHeader {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(HEADER, all)
    }
}

/// `auth.basic`.
struct AuthBasic;

impl Shape for AuthBasic {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(BASIC, all)
    }
}

impl Shape for Auth {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(AUTH, all)
    }
}

impl Decode for Auth {
    /// `{header: {name, value}}` or `{basic: {username, password}}`.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`auth`", AUTH, cx)?;
        let (header, basic) = (fields.node("header"), fields.node("basic"));
        let auth = match (header, basic) {
            (Some(header), None) => Self::header(header, cx),
            (None, Some(basic)) => Self::basic(basic, cx),
            _ => {
                cx.error("bad-value", node.place, "`auth` needs either `header` or `basic`");
                None
            }
        };
        fields.finish(cx);
        auth
    }
}

impl Auth {
    fn header(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`header`", HEADER, cx)?;
        let name = fields.required::<String>("name", cx);
        let name = name.and_then(|name| own_header_name(&name, fields.key_place("name"), cx));
        let value = fields.node("value");
        if value.is_none() {
            cx.error("missing-key", fields.place(), "`header` needs `value`");
        }
        let value = value.and_then(|node| read_value(node, cx));
        fields.finish(cx);
        Some(Self { name: name?, value: value? })
    }

    fn basic(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`basic`", BASIC, cx)?;
        let username = fields.required::<String>("username", cx);
        let password = fields.required::<Secret>("password", cx);
        fields.finish(cx);
        let (username, password) = (username?, password?);
        if username.contains(':') {
            cx.error("bad-value", node.place, "a user name cannot hold a colon");
            return None;
        }
        let token = base64(format!("{username}:{}", password.reveal()).as_bytes());
        let mut value = HeaderValue::try_from(format!("Basic {token}")).ok()?;
        value.set_sensitive(true);
        Some(Self { name: AUTHORIZATION, value })
    }
}
