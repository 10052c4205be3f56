//! `hookyard deliveries`: what is on its way to whom, and how each try of one went.

use super::{
    Failure,
    client::{Access, Page, Span, given, show},
    events::{in_path, tell_delivery},
    output,
};
use crate::store::State;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One delivery (dl_…): shows its attempts
    id: Option<String>,
    /// Only of events from this source
    #[arg(long)]
    source: Option<String>,
    /// Only of events of this type
    #[arg(long)]
    r#type: Option<String>,
    /// Only to this target
    #[arg(long)]
    target: Option<String>,
    /// Only of this event (ev_…)
    #[arg(long, value_name = "UID")]
    event: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(State::ALL.map(|(word, _)| word)))]
    state: Option<String>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    access: Access,
}

const COLUMNS: [&str; 10] =
    ["created_at", "event_id", "type", "target", "state", "cause", "error", "attempts", "next_attempt_at", "id"];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let relay = args.access.relay()?;
    if let Some(id) = &args.id {
        let answer = relay.get(&format!("/api/v1/deliveries/{}", in_path(id)?), &[]).await?;
        if args.access.json {
            output::raw(&answer.text)
        } else {
            tell_delivery(&answer.json["data"])
        }
        return Ok(());
    }
    let filters = [
        ("source", &args.source),
        ("type", &args.r#type),
        ("target", &args.target),
        ("event", &args.event),
        ("state", &args.state),
    ];
    let mut query = given(&filters);
    query.extend(args.span.query()?);
    query.extend(args.page.query());
    show(&relay.get("/api/v1/deliveries", &query).await?, args.access.json, &COLUMNS);
    Ok(())
}
