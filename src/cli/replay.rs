//! `hookyard replay`: makes deliveries again of stored events.

use super::{
    Failure,
    bulk::Bulk,
    client::{Access, Span, given},
};
use crate::store::State;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this event (ev_…)
    event: Option<String>,
    /// Only events from this source
    #[arg(long)]
    source: Option<String>,
    /// Only events of this type; a glob too, several with commas
    #[arg(long)]
    r#type: Option<String>,
    /// To this target only, instead of by today's rules
    #[arg(long)]
    target: Option<String>,
    /// Only events with a delivery in this state (to the target, where one is named)
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(State::ALL.map(|(word, _)| word)))]
    state: Option<String>,
    #[command(flatten)]
    span: Span,
    /// Every stored event, when no filter says otherwise
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    access: Access,
}

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let filters = [
        ("event", &args.event),
        ("source", &args.source),
        ("type", &args.r#type),
        ("target", &args.target),
        ("state", &args.state),
    ];
    let mut query = given(&filters);
    query.extend(args.span.query()?);
    if query.is_empty() && !args.all && !args.bulk.only_counts() {
        return Err(Failure::Usage("which events? Name one, give filters such as --since 1h, or say --all".to_owned()));
    }
    args.bulk.go(&args.access, "/api/v1/replays", query).await
}
