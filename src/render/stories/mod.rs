//! What each type of event says: one file per family. Nothing here fails: a field that is missing, or has another shape, is left out.
//!
//! Facts: Interactor webhooks guide, "Event-Specific Payloads"; Interactor's integration guide (the `timestamped` dialect); agent webhooks
//! guide, "Event Types"; trigger forwarding; `announce/` for the relay's own.

use super::{
    builtin,
    fields::{FIELD_MAX, Fields},
    safe,
    story::Story,
};
use crate::route::OWN_SOURCE;

mod chat;
mod credential;
mod other;
mod relay;
mod workflow;

/// The title of an event whose line is its title: the relay's own, and reports of a content security policy.
pub(super) fn title(it: Fields<'_>) -> Option<String> {
    let story = match it.event.r#type.as_str() {
        "csp.violation" => Some(other::violation(it)),
        name if name.starts_with("relay.") && is_own(it) => relay::tell(it),
        _ => None,
    };
    story.map(|story| story.title)
}

fn is_own(it: Fields<'_>) -> bool {
    it.event.source.as_str() == OWN_SOURCE
}

/// What the event says. `reconnect` leads to what mends the credential it is about.
pub(super) fn tell(it: Fields<'_>, reconnect: Option<&str>) -> Story {
    let name = it.event.r#type.as_str();
    let told = match name.split_once('.').map_or(name, |(first, _)| first) {
        "credential" => credential::tell(it, reconnect),
        "workflow" => workflow::tell(it),
        "agent" | "user" => chat::tell(it),
        "relay" if is_own(it) => relay::tell(it),
        _ => None,
    };
    let mut story = told.unwrap_or_else(|| other::tell(it));
    story.line = builtin::line(it.event, it.data);
    story.fact("Time", Some(it.happened()));
    story.foot = format!("{} · {}", safe::line(name, FIELD_MAX), safe::line(&it.event.id, FIELD_MAX));
    if it.event.replayed {
        story.foot += " · sent again on purpose";
    }
    story
}
