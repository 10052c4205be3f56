//! Arguments in, exit status out.

use std::process::ExitCode;

use hookyard::{cli, telemetry};

/// What the writer's thread frees was allocated by others, which the system's allocator is slow at: with this one a relay
/// with four targets delivers a third more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = cli::Args::of_process(); // wrong usage ends here, with 2
    telemetry::logs::init(&args.log());
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
