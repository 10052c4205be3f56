//! `hookyard schema`: what routes.yaml may say, for editors.

use super::{Failure, output};
use crate::config;

/// Prints it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// That of the files which routes.yaml includes
    #[arg(long)]
    included: bool,
}

/// Prints the JSON Schema of routes.yaml.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let schema = if args.included { config::schema_of_included() } else { config::schema() };
    output::raw(&format!("{schema:#}"));
    Ok(())
}
