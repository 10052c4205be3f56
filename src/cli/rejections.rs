//! `hookyard rejections`: requests that were not accepted, and why; `rejections retry` verifies those that were kept again.

use clap::Subcommand;

use super::{
    Failure,
    client::{Access, Page, Relay, Span, given, show},
    output,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists them, newest first
    List(List),
    /// Verifies those that were kept with today's configuration and takes in what passes
    Retry(Retry),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Retry {
    #[command(flatten)]
    which: Which,
    /// How wrong our clock was when they came: added to their time of arrival, such as -5m or 300s
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    clock_offset: Option<String>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Only those that came to this source
    #[arg(long)]
    source: Option<String>,
    /// Only those answered with this code, such as invalid_signature
    #[arg(long)]
    code: Option<String>,
    #[command(flatten)]
    span: Span,
}

const COLUMNS: [&str; 10] = ["id", "at", "source", "status", "code", "reason", "remote", "kept", "accepted_as", "path"];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        None => list(args.list).await,
        Some(What::List(args)) => list(args).await,
        Some(What::Retry(args)) => retry(args).await,
    }
}

impl Which {
    fn query(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let mut query = given(&[("source", &self.source), ("code", &self.code)]);
        query.extend(self.span.query()?);
        Ok(query)
    }
}

async fn list(args: List) -> Result<(), Failure> {
    let mut query = args.which.query()?;
    query.extend(args.page.query());
    show(&args.access.relay()?.get("/api/v1/rejections", &query).await?, args.access.json, &COLUMNS);
    Ok(())
}

async fn retry(args: Retry) -> Result<(), Failure> {
    let mut query = args.which.query()?;
    query.extend(args.clock_offset.map(|offset| ("clock_offset", offset)));
    let relay: Relay = args.access.relay()?;
    if !args.access.json {
        output::note("verifying what was kept with today's configuration …");
    }
    let answer = relay.post("/api/v1/rejections/retry", &query).await?;
    if args.access.json {
        output::raw(&answer.text);
    } else {
        output::facts(&answer.json["data"], &["tried", "accepted", "duplicates", "failed"]);
    }
    Ok(())
}
