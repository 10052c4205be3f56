//! `hookyard events`: what came in, and the whole story of one event.

use serde_json::Value;

use super::{
    Failure,
    client::{Access, Page, Span, given, show},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The relay's id of one event (ev_…): tells its whole story
    uid: Option<String>,
    /// Only from this source
    #[arg(long)]
    source: Option<String>,
    /// Only of this type
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
        if args.access.json {
            output::raw(&answer.text)
        } else {
            tell(&answer.json["data"])
        }
        return Ok(());
    }
    let mut query = given(&[("source", &args.source), ("type", &args.r#type), ("target", &args.target)]);
    query.extend(args.span.query()?);
    query.extend(args.page.query());
    show(&relay.get("/api/v1/events", &query).await?, args.access.json, &COLUMNS);
    Ok(())
}

/// An id as part of a path: ids have letters, digits and underscores only.
pub(super) fn in_path(id: &str) -> Result<&str, Failure> {
    let fits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    fits.then_some(id).ok_or_else(|| Failure::Usage("this is not an id of the relay's".to_owned()))
}

fn tell(event: &Value) {
    output::facts(event, &FACTS);
    output::facts(event, &["envelope"]);
    for delivery in event["deliveries"].as_array().into_iter().flatten() {
        output::line("");
        tell_delivery(delivery);
    }
}

/// Prints a delivery and its attempts.
pub(super) fn tell_delivery(delivery: &Value) {
    let names =
        ["id", "event", "event_id", "source", "type", "target", "rule", "state", "cause", "error", "attempts", "next_attempt_at"];
    output::facts(delivery, &names);
    let log = delivery["log"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !log.is_empty() {
        output::list(log, &["number", "started_at", "duration_ms", "outcome", "status", "error", "detail", "response"]);
    }
}
