//! `hookyard deliveries`: what is on its way to whom, and how each try of one went; tries a dead letter again, or cancels what waits.

use clap::Subcommand;

use super::{
    Failure,
    client::{Access, Answer, Page, Span, given, in_path, show},
    events::tell_delivery,
    output,
};
use crate::store::{Cause, State};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Tries a dead letter again: same id, same body
    Retry(One),
    /// Cancels one that is not final
    Cancel(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The delivery (dl_…)
    id: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct List {
    /// One delivery (dl_…): shows its attempts
    id: Option<String>,
    /// Only of events from this source
    #[arg(long)]
    source: Option<String>,
    /// Only of events of this type; a glob too, several with commas
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
    /// Only of this cause
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Cause::ALL.map(|(word, _)| word)))]
    cause: Option<String>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    access: Access,
}

/// What a table shows of a delivery.
pub(super) const COLUMNS: [&str; 10] =
    ["created_at", "event_id", "type", "target", "state", "cause", "error", "attempts", "next_attempt_at", "id"];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        None => list(args.list).await,
        Some(What::Retry(one)) => change(one, "retry").await,
        Some(What::Cancel(one)) => change(one, "cancel").await,
    }
}

/// Prints one delivery with its attempts.
pub(super) fn tell(answer: &Answer, json: bool) {
    if json {
        output::raw(&answer.text);
    } else {
        tell_delivery(&answer.json["data"]);
    }
}

async fn change(one: One, verb: &str) -> Result<(), Failure> {
    let answer = one.access.relay()?.post(&format!("/api/v1/deliveries/{}/{verb}", in_path(&one.id)?), &[]).await?;
    tell(&answer, one.access.json);
    Ok(())
}

async fn list(args: List) -> Result<(), Failure> {
    let relay = args.access.relay()?;
    if let Some(id) = &args.id {
        tell(&relay.get(&format!("/api/v1/deliveries/{}", in_path(id)?), &[]).await?, args.access.json);
        return Ok(());
    }
    let filters = [
        ("source", &args.source),
        ("type", &args.r#type),
        ("target", &args.target),
        ("event", &args.event),
        ("state", &args.state),
        ("cause", &args.cause),
    ];
    let mut query = given(&filters);
    query.extend(args.span.query()?);
    query.extend(args.page.query());
    show(&relay.get("/api/v1/deliveries", &query).await?, args.access.json, &COLUMNS);
    Ok(())
}
