//! `channel` of a bot: one channel for everything, or the member of the workspace who stands behind each event's namespace.

use super::super::email::unaddressed;
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Schema, Shape},
        tree::Node,
    },
    contacts::{Contacts, NoRecipients},
    deliver::attempt::{Tried, Try},
    envelope::Envelope,
};

/// Longest name or id of a channel, in characters.
const CHANNEL_MAX: usize = 80;
/// The word for the member that contacts name.
const CONTACT: &str = "contact";

/// Where a bot posts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Channel {
    /// A channel, by its id or name.
    Named(String),
    /// `channel: contact`: whoever stands behind the event's namespace, as a direct message.
    Contact,
}

/// What channels are called in messages.
const CHANNEL: &str = "a channel's id such as C0123456789, its name, or `contact`";

impl Shape for Channel {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^\S{1,80}$", CHANNEL)
    }
}

impl Decode for Channel {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if text == CONTACT {
            return Some(Self::Contact);
        }
        let fits = !text.is_empty()
            && text.chars().count() <= CHANNEL_MAX
            && !text.contains(|c: char| c.is_control() || c.is_whitespace());
        if !fits {
            cx.error("bad-value", node.place, format!("`channel` is {CHANNEL}"));
            return None;
        }
        Some(Self::Named(text))
    }
}

impl Channel {
    /// Where it goes, as far as that is known without asking anybody.
    pub(super) fn known(&self, event: &Envelope, contacts: &Contacts) -> Result<String, NoRecipients> {
        match self {
            Self::Named(channel) => Ok(channel.clone()),
            Self::Contact => {
                let found = contacts.known(event.namespace.as_deref())?;
                found.slack.map(|member| member.as_str().to_owned()).ok_or(NoRecipients::Nobody("a Slack user"))
            }
        }
    }

    /// Where this message goes; the attempt that has nobody to go to.
    pub(super) async fn of(&self, attempt: &Try<'_>) -> Result<String, Tried> {
        match self {
            Self::Named(channel) => Ok(channel.clone()),
            Self::Contact => {
                let found = attempt.contacts.find(attempt.event.namespace.as_deref()).await;
                let found = found.map_err(|error| unaddressed(&error.into()))?;
                let member = found.slack.ok_or_else(|| unaddressed(&NoRecipients::Nobody("a Slack user")))?;
                Ok(member.as_str().to_owned())
            }
        }
    }
}
