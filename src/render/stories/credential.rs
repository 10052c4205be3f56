//! Credentials: which service, whose, why, and how to connect it again.

use super::super::{
    fields::Fields,
    story::{Action, Story, Tone, reason},
};

/// What a `credential.*` event says; `None` for a type of its own.
pub(super) fn tell(it: Fields<'_>, reconnect: Option<&str>) -> Option<Story> {
    let (service, whose) = (it.service(), it.whose());
    let of = it.namespace().map_or_else(String::new, |namespace| format!(" of {namespace}"));
    let why = it.get(&["reason", "error.message", "error"]).map(|code| reason(&code));
    let because = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let (title, lead, tone, broken) = match it.event.r#type.as_str() {
        "credential.created" | "credential.ready" => (
            format!("{service} connected{whose}"),
            format!("The connection{of} to {service} is ready; workflows and agents can use it."),
            Tone::Good,
            false,
        ),
        "credential.refreshed" => (
            format!("{service} credential refreshed{whose}"),
            format!("The access{of} to {service} was renewed. Nothing needs to be done."),
            Tone::Good,
            false,
        ),
        "credential.refresh_failed" => (
            format!("{service} credential could not be refreshed{whose}"),
            format!("The access{of} to {service} could not be renewed{because}. It ends when the current token runs out."),
            Tone::Attention,
            true,
        ),
        "credential.expired" => (
            format!("{service} connection expired{whose}"),
            format!(
                "The connection{of} to {service} has expired{because}. What depends on it stands still until it is connected again."
            ),
            Tone::Bad,
            true,
        ),
        "credential.revoked" => (
            format!("{service} access was revoked{whose}"),
            format!(
                "The access{of} to {service} has ended{because}. What depends on it stands still until it is connected again."
            ),
            Tone::Bad,
            true,
        ),
        _ => return None,
    };
    let mut story = Story { topic: "Credential".to_owned(), title, lead, tone, ..Story::default() };
    story.fact("Service", Some(service.clone()));
    story.fact("Namespace", it.namespace());
    story.fact("Reason", why);
    story.fact("Scopes", scopes(it));
    story.fact("Valid until", it.time(&["expires_at"]));
    story.fact("Credential", it.get(&["credential_id"]));
    if broken {
        let others = it.namespace().unwrap_or_else(|| "the account it belongs to".to_owned());
        story.todo = Some(match reconnect {
            Some(_) => {
                format!("Reconnect {service}: the link opens a page with one button, which leads to the sign-in of {service}.")
            }
            None => format!("Reconnect {service}: sign in to {service} again where {others} first connected it."),
        });
        story.action = reconnect.map(|url| Action { label: format!("Reconnect {service}"), url: url.to_owned(), host: None });
    }
    Some(story)
}

fn scopes(it: Fields<'_>) -> Option<String> {
    it.flat(Some("scopes"), 1).pop().map(|fact| fact.value)
}
