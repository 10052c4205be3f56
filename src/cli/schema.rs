//! `hookyard schema`: what routes.yaml may say, for editors.

use super::{Failure, output};
use crate::config;

/// Prints it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Prints the JSON Schema of routes.yaml.
pub(super) fn run(_: &Args) -> Result<(), Failure> {
    output::raw(&format!("{:#}", config::schema()));
    Ok(())
}
