//! What stands in the place of targets where nothing may leave the machine: it takes whatever it is sent, and keeps it to be looked at.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};

use super::client::Answer;
use crate::render::Message;

/// What is said to everything: as each kind's service says that it took a message. (Slack's bots learn from `ts` which thread began.)
const TAKEN: &[u8] = br#"{"ok":true,"ts":"1.000001"}"#;
/// Stands for a value that may be a secret.
const MASKED: &str = "***";

/// What was sent by one attempt, to nobody.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Its headers, names in lower case; the values of those that `routes.yaml` sets are `***`. None for mails.
    pub headers: Vec<(String, String)>,
    /// Media type of the body.
    pub content_type: String,
    /// The body: for mails, the whole mail.
    pub body: Bytes,
    /// The recipients of a mail.
    pub to: Vec<String>,
    /// What people read, where it was made for people.
    pub message: Option<Message>,
}

/// Takes everything.
#[derive(Debug, Default)]
pub(super) struct Stage(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    sent: Vec<Sent>,
    /// What was made for people and is not sent yet.
    message: Option<Message>,
}

impl Stage {
    /// People will read `message` in what is sent next.
    pub(super) fn reads(&self, message: &Message) {
        self.taken().message = Some(message.clone());
    }

    /// Takes a request.
    pub(super) fn takes(&self, headers: &HeaderMap, body: Bytes) -> Answer {
        let shown = |value: &hyper::header::HeaderValue| match value.to_str() {
            Ok(text) if !value.is_sensitive() => text.to_owned(),
            _ => MASKED.to_owned(),
        };
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let headers = headers.iter().map(|(name, value)| (name.to_string(), shown(value))).collect();
        self.keep(Sent { headers, content_type, body, to: Vec::new(), message: None });
        Answer { status: 200, retry_after: None, body: Bytes::from_static(TAKEN) }
    }

    /// Takes a mail.
    pub(super) fn takes_mail(&self, content_type: &str, to: Vec<String>, body: Bytes) {
        self.keep(Sent { headers: Vec::new(), content_type: content_type.to_owned(), body, to, message: None });
    }

    /// What was sent since this was last asked.
    pub(super) fn cleared(&self) -> Vec<Sent> {
        let mut taken = self.taken();
        taken.message = None;
        std::mem::take(&mut taken.sent)
    }

    fn keep(&self, sent: Sent) {
        let mut taken = self.taken();
        let message = taken.message.take();
        taken.sent.push(Sent { message, ..sent });
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
