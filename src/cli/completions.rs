//! `hookyard completions`: what a shell needs to complete the command line.

use clap_complete::Shell;

use super::{Failure, help, output};

/// Prints what a shell needs to complete verbs and options
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script of the shell that `args` name.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut help::command(), "hookyard", &mut script);
    output::raw(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
