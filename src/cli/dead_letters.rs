//! `hookyard dead-letters`: deliveries that were given up; tries them again, or settles them with a note.

use clap::Subcommand;

use super::{
    Failure,
    bulk::Bulk,
    client::{Access, Page, Span, given, in_path, show},
    deliveries::{COLUMNS, tell},
};
use crate::store::Cause;

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
    /// Lists those that nobody has settled, newest first
    List(List),
    /// Tries one again, or all that the filters select
    Retry(Retry),
    /// Settles one: nothing more is to be done
    Resolve(Resolve),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// Those that were settled with a note
    #[arg(long)]
    resolved: bool,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Retry {
    /// One dead letter (dl_…)
    #[arg(conflicts_with_all = ["source", "type", "target", "event", "cause", "since", "until", "dry_run", "rate", "no_wait"])]
    id: Option<String>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Resolve {
    /// The dead letter (dl_…)
    id: String,
    /// Why nothing more is to be done
    #[arg(long)]
    note: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Which {
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
    /// Only those that are this one's fault
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Cause::ALL.map(|(word, _)| word)))]
    cause: Option<String>,
    #[command(flatten)]
    span: Span,
}

impl Which {
    fn query(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let filters = [
            ("source", &self.source),
            ("type", &self.r#type),
            ("target", &self.target),
            ("event", &self.event),
            ("cause", &self.cause),
        ];
        let mut query = given(&filters);
        query.extend(self.span.query()?);
        Ok(query)
    }
}

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what.unwrap_or(What::List(args.list)) {
        What::List(args) => list(args).await,
        What::Retry(args) => retry(args).await,
        What::Resolve(args) => resolve(args).await,
    }
}

async fn list(args: List) -> Result<(), Failure> {
    let mut query = args.which.query()?;
    query.push(("resolved", args.resolved.to_string()));
    query.extend(args.page.query());
    show(&args.access.relay()?.get("/api/v1/dead-letters", &query).await?, args.access.json, &COLUMNS);
    Ok(())
}

async fn retry(args: Retry) -> Result<(), Failure> {
    if let Some(id) = &args.id {
        let answer = args.access.relay()?.post(&format!("/api/v1/dead-letters/{}/retry", in_path(id)?), &[]).await?;
        tell(&answer, args.access.json);
        return Ok(());
    }
    args.bulk.go(&args.access, "/api/v1/dead-letters/retry", args.which.query()?).await
}

async fn resolve(args: Resolve) -> Result<(), Failure> {
    let path = format!("/api/v1/dead-letters/{}/resolve", in_path(&args.id)?);
    let answer = args.access.relay()?.post(&path, &[("note", args.note)]).await?;
    tell(&answer, args.access.json);
    Ok(())
}
