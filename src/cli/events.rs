//! `hookyard events`: what came in, and the whole story of one event.

use serde_json::Value;

use super::{
    Failure,
    client::{Access, Page, Span, given, in_path, show, show_one},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The relay's id of one event (ev_…): tells its whole story
    uid: Option<String>,
    /// Only from this source
    #[arg(long)]
    source: Option<String>,
    /// Only of this type; a glob too, several with commas
    #[arg(long)]
    r#type: Option<String>,
    /// Only with a delivery to this target
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    access: Access,
}

const COLUMNS: [&str; 7] = ["received_at", "source", "type", "id", "namespace", "verdict", "uid"];
const FACTS: [&str; 13] = [
    "uid",
    "id",
    "source",
    "type",
    "subject",
    "namespace",
    "time",
    "received_at",
    "verdict",
    "rules",
    "duplicates",
    "duplicate_mismatch",
    "last_duplicate_at",
];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let relay = args.access.relay()?;
    if let Some(uid) = &args.uid {
        let answer = relay.get(&format!("/api/v1/events/{}", in_path(uid)?), &[]).await?;
        show_one(&answer, args.access.json, tell);
        return Ok(());
    }
    let mut query = given(&[("source", &args.source), ("type", &args.r#type), ("target", &args.target)]);
    query.extend(args.span.query()?);
    query.extend(args.page.query());
    show(&relay.get("/api/v1/events", &query).await?, args.access.json, &COLUMNS);
    Ok(())
}

fn tell(event: &Value) {
    output::facts(event, &FACTS);
    output::facts(event, &["envelope"]);
    tell_why(event);
    for delivery in event["deliveries"].as_array().into_iter().flatten() {
        output::line("");
        tell_delivery(delivery);
    }
}

/// Prints what today's rules make of the event.
fn tell_why(event: &Value) {
    let rules = event["why"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !rules.is_empty() {
        output::line("");
        output::line("by today's rules:");
        output::list(rules, &["rule", "matched", "reason"]);
    }
}

/// Prints a delivery and its attempts.
pub(super) fn tell_delivery(delivery: &Value) {
    let names =
        ["id", "event", "event_id", "source", "type", "target", "rule", "state", "cause", "error", "attempts", "next_attempt_at"];
    output::facts(delivery, &names);
    for name in ["reason", "carrier"] {
        if !delivery[name].is_null() {
            output::facts(delivery, &[name]);
        }
    }
    tell_marks(delivery);
    let carries = delivery["carries"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !carries.is_empty() {
        output::line("went out with it:");
        output::list(carries, &["event_id", "source", "type", "event"]);
    }
    let log = delivery["log"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !log.is_empty() {
        output::list(log, &["number", "started_at", "latency_ms", "outcome", "status", "error", "detail", "response"]);
    }
}

/// Prints what is out of the ordinary about a delivery.
fn tell_marks(delivery: &Value) {
    for (name, meaning) in [("replayed", "made by a replay"), ("out_of_order", "retried out of the order of its key")] {
        if delivery[name] == true {
            output::line(meaning);
        }
    }
    if delivery["resolved"].is_object() {
        let (at, note) = (output::cell(&delivery["resolved"], "at"), output::cell(&delivery["resolved"], "note"));
        output::line(&format!("resolved at {at}: {note}"));
    }
}
