//! What the relay tells of itself: what happened, to which target or source, how often, and what ops can do.

use serde_json::Value;

use super::super::{
    fields::Fields,
    safe,
    story::{List, Quote, Story, Tone},
};

/// What a `relay.*` event says; `None` for a type of its own.
pub(super) fn tell(it: Fields<'_>) -> Option<Story> {
    let target = it.or(&["target"], "several targets");
    let source = it.or(&["source"], "a source");
    let count = it.value("count").and_then(Value::as_u64).unwrap_or(1);
    let why = it.put(": ", &["error"]);
    let mut story = Story { topic: "Relay".to_owned(), tone: Tone::Attention, ..Story::default() };
    match it.event.r#type.as_str() {
        "relay.delivery.dead" => dead(&mut story, it, &target, count),
        "relay.target.broken" => {
            story.title = format!("{target} is broken{why}");
            story.lead = format!(
                "The breaker of {target} opened: nothing is sent there but a probe now and then. What is due waits and is not lost."
            );
            story.todo = Some(format!("Mend {target} or its settings; `hookyard target close {target}` tries again at once."));
            story.tone = Tone::Bad;
        }
        "relay.target.recovered" => {
            story.title = format!("{target} has recovered");
            story.lead = format!("{target} takes deliveries again; what waited goes out now.");
            story.fact("Broken since", it.time(&["broken_since"]));
            story.tone = Tone::Good;
        }
        "relay.target.paused" => {
            let by = it.put(" by ", &["by"]);
            story.title = format!("{target} was paused{by}");
            story.lead = format!("Nothing is sent to {target} until somebody resumes it. What is due waits and is not lost.");
            story.todo = Some(format!("`hookyard target resume {target}` sends again."));
        }
        "relay.target.disabled" => {
            story.title = format!("{target} was disabled{why}");
            story.lead = format!("Nothing is sent to {target} any more until it is enabled again.");
            story.todo = Some("Ask its owner to mend the endpoint and enable it again.".to_owned());
        }
        "relay.source.rejecting" if it.value("failures").is_some() => {
            story.title = format!("{source} cannot be polled");
            story.lead = format!(
                "The API of {source} does not answer as it should. It is asked again and again, from where the last good answer ended: \
                 nothing is passed over."
            );
            story.todo =
                Some(format!("See how it stands with `hookyard sources`; `hookyard sources poll {source}` asks it at once."));
            story.fact("Reason", it.get(&["reason"]));
            story.tone = Tone::Bad;
        }
        "relay.source.rejecting" => {
            let rejected = it.value("rejected").and_then(Value::as_u64).unwrap_or(count);
            let reason = it.put(": ", &["reason"]);
            story.title = format!("{source} rejects requests{reason}");
            story.lead = format!("{source} refused {} in the last minutes{reason}.", counted(rejected, "request", "requests"));
            story.todo = Some(format!(
                "See why with `hookyard rejections --source {source}`; once it is put right, `hookyard rejections retry` takes them in."
            ));
            story.fact("Reason", it.get(&["reason"]));
            story.tone = Tone::Bad;
        }
        "relay.source.silent" => {
            story.title = format!("{source} is silent");
            story.lead = format!("Nothing has come in by {source} for longer than it should be.");
            story.todo = Some("Look whether its sender still sends, and to the right address.".to_owned());
            story.fact("Last received", it.time(&["last_received_at"]).or_else(|| Some("nothing yet".to_owned())));
        }
        "relay.store.filling" => filling(&mut story, it),
        "relay.config.rejected" => {
            story.title = "The new configuration was rejected".to_owned();
            story.lead = "routes.yaml cannot be used as it is; the relay goes on with the last good one.".to_owned();
            story.quote("Error", it.long(&["error"]));
            story.todo = Some("`hookyard check` shows every mistake with its line.".to_owned());
            story.tone = Tone::Bad;
            return Some(batched(story, it, count));
        }
        "relay.config.loaded" => {
            story.title = "A new configuration is in use".to_owned();
            story.lead = "routes.yaml was read and is in use now.".to_owned();
            story.fact("Hash", it.get(&["hash"]));
            story.tone = Tone::Good;
        }
        "relay.replicas.differ" => differ(&mut story, it),
        "relay.replicas.agree" => {
            story.title = "All replicas are alike again".to_owned();
            story.lead = "All relays that share the store go by the same configuration, and are of the same version.".to_owned();
            story.fact("Since", it.time(&["agree_since"]));
            story.tone = Tone::Good;
        }
        _ => return None,
    }
    story.fact("Target", it.get(&["target"]));
    story.fact("Source", it.get(&["source"]));
    story.fact("Cause", it.get(&["cause"]));
    story.fact("Error", it.get(&["error"]));
    Some(batched(story, it, count))
}

fn dead(story: &mut Story, it: Fields<'_>, target: &str, count: u64) {
    let count = it.value("dead").and_then(Value::as_u64).unwrap_or(count).max(1);
    let what = match (count, it.get(&["event.type"])) {
        (1, Some(name)) => format!("A delivery of {name}"),
        (1, None) => "A delivery".to_owned(),
        _ => format!("{count} deliveries"),
    };
    let (to, are) = (it.put(" to ", &["target"]), if count == 1 { "is" } else { "are" });
    story.title = format!("{what}{to} {are} dead{}", it.put(": ", &["error"]));
    story.lead = format!("{what}{to} {are} given up. Nothing is lost: dead letters wait for somebody.");
    story.todo = Some(match it.get(&["target"]) {
        Some(_) => format!(
            "Find out why with `hookyard dead-letters --target {target}`, then try again with `hookyard dead-letters retry --target {target}`."
        ),
        None => "Look at them with `hookyard dead-letters`.".to_owned(),
    });
    story.fact("Event", it.get(&["event.id"]));
    story.fact("Delivery", it.get(&["delivery"]));
    story.tone = Tone::Bad;
}

fn differ(story: &mut Story, it: Fields<'_>) {
    story.title = "The replicas are not alike".to_owned();
    story.lead =
        "The relays that share the store do not go by the same configuration, or are not of the same version. A relay with an \
                  older configuration leaves the lanes that it does not know to the others."
            .to_owned();
    story.todo = Some(
        "Bring all of them to the same file and version; `hookyard reload --newest` at one of them says that its file is the one.".to_owned(),
    );
    story.fact("Newest generation", it.get(&["newest"]));
    story.fact("Since", it.time(&["differ_since"]));
    let replicas = it.value("replicas").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let line = |data: &Value| {
        let it = Fields { event: it.event, data };
        let generation = it.get(&["generation"]).unwrap_or_else(|| "unknown".to_owned());
        Some(format!("{} · generation {generation} · version {}", it.get(&["name"])?, it.get(&["version"]).unwrap_or_default()))
    };
    let items: Vec<String> = replicas.iter().filter_map(line).collect();
    if !items.is_empty() {
        story.list = Some(List { label: "Replicas".to_owned(), items, omitted: 0 });
    }
}

fn filling(story: &mut Story, it: Fields<'_>) {
    let bytes = |name| it.value(name).and_then(Value::as_u64);
    let share = bytes("used_bytes").zip(bytes("max_bytes")).and_then(|(used, max)| used.saturating_mul(100).checked_div(max));
    let share = share.map_or_else(String::new, |share| format!(" to {share} %"));
    story.title = format!("The store is filled{share}");
    story.lead = "Old finished events are removed first; when nothing finished is left, new events are refused.".to_owned();
    story.todo = Some("Raise `store.max_bytes`, shorten `store.retention`, or see what is not delivered.".to_owned());
    story.fact("Used", bytes("used_bytes").map(size));
    story.fact("Limit", bytes("max_bytes").map(size));
}

/// Adds how often it happened and what each time was about, where it was more than once.
fn batched(mut story: Story, it: Fields<'_>, count: u64) -> Story {
    if count < 2 {
        return story;
    }
    story.fact("Times", Some(count.to_string()));
    story.fact("From", it.time(&["since"]));
    story.fact("Until", it.time(&["until"]));
    let listed = it.value("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let items: Vec<String> = listed.iter().filter_map(|data| item(Fields { event: it.event, data })).collect();
    let omitted = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(items.len());
    if !items.is_empty() {
        story.list = Some(List { label: "One by one".to_owned(), items, omitted });
    }
    // A text that is told once is no use beside a list.
    story.quote =
        story.quote.filter(|_| story.list.is_none()).map(|quote| Quote { block: safe::block(&quote.block.text, 2000), ..quote });
    story
}

/// One notice of a batch: `credential.expired evt_1: http_400`.
fn item(it: Fields<'_>) -> Option<String> {
    let about: Vec<_> =
        [&["event.type"][..], &["event.id"], &["by"], &["reason"], &["hash"]].iter().filter_map(|paths| it.get(paths)).collect();
    let (about, error) = (about.join(" "), it.get(&["error"]));
    let at = it.time(&["at"]);
    let text: Vec<_> = [Some(about).filter(|text| !text.is_empty()), error, at].into_iter().flatten().collect();
    (!text.is_empty()).then(|| text.join(" · "))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while 10 * 1024 <= value && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", units.get(unit).copied().unwrap_or_default())
}
