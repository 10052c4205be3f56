//! Arguments in, exit status out.

use std::process::ExitCode;

use clap::Parser;
use hookyard::{cli, telemetry};

fn main() -> ExitCode {
    let args = cli::Args::parse(); // wrong usage ends here, with 2
    telemetry::logs::init(&args.log());
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
