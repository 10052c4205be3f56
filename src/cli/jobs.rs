//! `hookyard jobs`: what touches many things at once in the background, and how far it is.

use clap::Subcommand;

use super::{
    Failure,
    bulk::{COLUMNS, tell},
    client::{Access, show},
    events::in_path,
};

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
    /// Lists them, newest first
    List(List),
    /// Shows one
    Show(One),
    /// Stops one; what it did stays done
    Cancel(One),
}

#[derive(Debug, clap::Args)]
struct List {
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct One {
    /// The job's id (job_…)
    id: String,
    #[command(flatten)]
    access: Access,
}

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what.unwrap_or(What::List(args.list)) {
        What::List(List { limit, access }) => {
            let jobs = access.relay()?.get("/api/v1/jobs", &[("limit", limit.to_string())]).await?;
            show(&jobs, access.json, &COLUMNS);
        }
        What::Show(One { id, access }) => {
            let job = access.relay()?.get(&format!("/api/v1/jobs/{}", in_path(&id)?), &[]).await?;
            tell(&job, access.json);
        }
        What::Cancel(One { id, access }) => {
            let job = access.relay()?.post(&format!("/api/v1/jobs/{}/cancel", in_path(&id)?), &[]).await?;
            tell(&job, access.json);
        }
    }
    Ok(())
}
