//! Connectors' triggers, reports of a content security policy, tests, and whatever has no words of its own: its data is told as facts.

use super::super::{
    builtin,
    fields::{FIELD_MAX, Fields, capital, words},
    safe,
    story::{Story, Tone},
};

/// Facts taken from data.
const DATA_MAX: usize = 10;

/// What any event says.
pub(super) fn tell(it: Fields<'_>) -> Story {
    let name = it.event.r#type.as_str();
    if let Some((connector, what)) = name.strip_prefix("connector.").and_then(|rest| rest.split_once('.')) {
        return triggered(it, connector, what);
    }
    match name {
        "csp.violation" => violation(it),
        "test" => Story {
            topic: "Test".to_owned(),
            title: format!("Test event {}", safe::line(&it.event.id, FIELD_MAX)),
            lead: "This is a test: it arrived, and nothing needs to be done.".to_owned(),
            tone: Tone::Good,
            facts: it.flat(None, DATA_MAX),
            ..Story::default()
        },
        "trigger.unmapped" => Story {
            topic: "Trigger".to_owned(),
            title: format!("A trigger from {} that no case describes", it.event.source),
            lead: format!("Something came in by {} that none of its `cases` takes.", it.event.source),
            todo: Some("Add a case for it to `routes.yaml`, or leave it be.".to_owned()),
            facts: it.flat(None, DATA_MAX),
            tone: Tone::Attention,
            ..Story::default()
        },
        _ => plain(it),
    }
}

fn plain(it: Fields<'_>) -> Story {
    let mut story = Story {
        topic: capital(&words(it.event.source.as_str())),
        title: builtin::line(it.event, it.data),
        lead: format!("{} came in by {}{}.", safe::line(&it.event.r#type, FIELD_MAX), it.event.source, it.whose()),
        ..Story::default()
    };
    story.fact("Namespace", it.namespace());
    story.fact("Subject", subject(it));
    story.more(it.flat(None, DATA_MAX));
    story
}

/// What a connector noticed.
fn triggered(it: Fields<'_>, connector: &str, what: &str) -> Story {
    let (connector, what) = (capital(&words(connector)), words(what));
    let about = it
        .get(&["message.subject", "issue.key", "subject", "title", "name"])
        .map_or_else(String::new, |text| format!(": {text}"));
    let mut story = Story {
        topic: connector.clone(),
        title: format!("{connector}: {what}{}{about}", it.whose()),
        lead: format!("{connector} noticed “{what}”{}.", it.whose()),
        ..Story::default()
    };
    story.fact("Namespace", it.namespace());
    story.more(it.flat(None, DATA_MAX).into_iter().filter(|fact| fact.name != "Connector").collect());
    story
}

/// What a browser refused to load, in either shape that browsers report it in.
pub(super) fn violation(it: Fields<'_>) -> Story {
    let one = |names: &[&str]| {
        let paths: Vec<_> =
            ["", "csp-report.", "body."].iter().flat_map(|at| names.iter().map(move |name| format!("{at}{name}"))).collect();
        it.get(&paths.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let page = one(&["document-uri", "documentURL", "document_uri", "document_url"]);
    let blocked = one(&["blocked-uri", "blockedURL", "blocked_uri", "blocked_url"]);
    let directive =
        one(&["effective-directive", "effectiveDirective", "violated-directive", "violatedDirective", "effective_directive"]);
    let report_only = one(&["disposition"]).is_some_and(|it| it == "report");
    let what = directive.clone().unwrap_or_else(|| "a directive".to_owned());
    let mut story = Story {
        topic: "Content security policy".to_owned(),
        title: format!("{what} violated by {}", blocked.as_deref().unwrap_or("something")),
        lead: format!(
            "A browser {} that the content security policy does not allow.",
            if report_only { "loaded something" } else { "refused to load something" }
        ),
        tone: Tone::Attention,
        ..Story::default()
    };
    story.fact("Page", page);
    story.fact("Blocked", blocked);
    story.fact("Directive", directive);
    story.fact("Disposition", one(&["disposition"]));
    story.fact("File", one(&["source-file", "sourceFile", "source_file"]));
    story.fact("Line", one(&["line-number", "lineNumber", "line_number"]));
    story.fact("Sample", one(&["script-sample", "sample"]));
    story
}

fn subject(it: Fields<'_>) -> Option<String> {
    it.event.subject.as_deref().map(|subject| safe::line(subject, FIELD_MAX))
}
