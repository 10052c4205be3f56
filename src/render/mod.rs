//! Templates and their escapes: envelope in, text out. Users write Jinja; what it may cost is bounded in steps and bytes.
//!
//! Two things are made here. A **body** for machines ([`Templates::render`]) is what the template says, nothing escaped. A **message** for
//! people ([`Templates::message`]) has a form for each channel, and whatever came with the event is cleaned and escaped for it: first a
//! [`story`] is told of the event, by type, then it is laid out as text, HTML and Slack's blocks; a user's template replaces parts of it.
//!
//! A template never reaches beyond what it is given: no files, no other templates, no environment. While the relay runs, a
//! missing field renders as nothing and only a field of a missing field fails; a check may ask for [`Strictness::Strict`].

pub mod builtin;
mod fields;
mod filters;
mod mail;
mod message;
mod page;
mod safe;
mod scene;
mod slack;
mod source;
mod stories;
mod story;
mod strict;
mod templates;

pub use message::{DigestItem, Message, MessageScene, SHORT_MAX, SUBJECT_MAX, SlackMessage, TEXT_MAX};
pub use scene::Scene;
pub use source::{Part, Source};
pub use strict::Absent;
pub(crate) use strict::absent;
pub(crate) use templates::FILTERS;
pub use templates::{OUTPUT_MAX, Strictness, TemplateError, Templates, check, check_text};

/// `text` as people are shown it in one line: without what shows nothing or turns what follows around, at most `max` characters long and
/// an ellipsis where it was cut.
pub fn shown(text: &str, max: usize) -> String {
    safe::line(text, max)
}
