//! A template as its author writes it: a text, or parts of a message.

use std::collections::BTreeMap;

/// A part of a message that a template may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `text`: plain text, the message of n8n, a webhook's body; stands for `html`, `slack` and `short` too where they are not given.
    Text,
    /// `subject`: one line.
    Subject,
    /// `html`: a whole document, or what stands in the middle of the built-in one.
    Html,
    /// `slack`: Slack's own markup.
    Slack,
    /// `short`: a line or two.
    Short,
}

impl Part {
    /// Every part and its key in `routes.yaml`.
    pub const ALL: [(&str, Self); 5] =
        [("text", Self::Text), ("subject", Self::Subject), ("html", Self::Html), ("slack", Self::Slack), ("short", Self::Short)];
}

/// A template: Jinja for one or more parts of a message. The other parts are the built-in ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source(pub BTreeMap<Part, String>);

impl Source {
    /// Its text, where it makes one.
    pub fn text(&self) -> Option<&str> {
        self.0.get(&Part::Text).map(String::as_str)
    }
}

impl<T: Into<String>> From<T> for Source {
    /// A template that is a text.
    fn from(text: T) -> Self {
        Self(BTreeMap::from([(Part::Text, text.into())]))
    }
}
