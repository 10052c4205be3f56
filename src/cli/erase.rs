//! `hookyard erase`: takes events out of the store for good.

use super::{
    Failure,
    bulk::Bulk,
    client::{Access, given},
};

#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = false, args = ["event", "id", "subject", "namespace"])]
pub(super) struct Args {
    /// This event (ev_…)
    event: Option<String>,
    /// Events with this id of their sender's
    #[arg(long)]
    id: Option<String>,
    /// Events with this subject
    #[arg(long)]
    subject: Option<String>,
    /// Events of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only events from this source
    #[arg(long, conflicts_with = "event")]
    source: Option<String>,
    /// They are gone for good: say that this is meant
    #[arg(long, required_unless_present = "dry_run")]
    yes: bool,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    access: Access,
}

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let which = [
        ("event", &args.event),
        ("id", &args.id),
        ("subject", &args.subject),
        ("namespace", &args.namespace),
        ("source", &args.source),
    ];
    args.bulk.go_untold(&args.access, "/api/v1/erasures", given(&which)).await
}
