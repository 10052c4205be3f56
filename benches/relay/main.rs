//! The benchmark: `cargo bench --bench relay -- [options]`; `--help` lists them.
//!
//! Starts the real release binary and a bare axum handler in turn under one load generator and a counting receiver, all on 127.0.0.1
//! and nothing pinned, so that they share the machine; rounds are interleaved, figures are medians of all rounds, and rates are held
//! against the bare handler's (R0) of the same round. Every event has a random id and about 600 bytes; the store is filled first. A column
//! is measured on SQLite, and one on a PostgreSQL of the bench's own, in turn. Prints a table with what issues 3 and 7 promise beside what
//! was measured, and the same as JSON. It judges and never fails for a slow figure: only a relay that does not work ends it, with status 1.

use std::{error::Error, fs, io, io::Write, process::ExitCode, thread};

use clap::Parser;
use serde_json::json;

use crate::{
    options::{Options, Role},
    scenarios::Bench,
    table::Results,
};

mod bare;
mod histogram;
mod load;
mod options;
mod postgres;
mod process;
mod receiver;
mod relay;
mod requests;
mod scenarios;
mod stores;
mod table;
mod wire;

/// Why something could not be measured, for the person at the terminal.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;
/// What can fail in a benchmark.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` runs this too, and timing is not for tests.
        return ExitCode::SUCCESS;
    }
    match play(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to say it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn play(options: Options) -> Outcome {
    let (mut one_thread, mut many) = (tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread());
    match options.role {
        Some(Role::Bare) => many.enable_all().build()?.block_on(bare::serve()),
        Some(Role::Receiver) => one_thread.enable_all().build()?.block_on(receiver::serve()),
        None => one_thread.enable_all().build()?.block_on(measure(options)),
    }
}

/// Prints what was measured even when something failed half-way.
async fn measure(options: Options) -> Outcome {
    let mut bench = Bench::new(options).await?;
    let outcome = bench.run().await;
    print(&bench.options, &bench.results)?;
    outcome
}

fn print(options: &Options, results: &Results) -> Outcome {
    if results.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", results.table())?;
    let mut json = results.json();
    json["run"] = json!({
        "cores": thread::available_parallelism()?.get(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
        "prefill": options.prefill,
        "stores": options.engines().iter().map(|engine| engine.as_str()).collect::<Vec<_>>(),
        "given": options.store_url.is_some(),
    });
    match &options.json {
        Some(path) => fs::write(path, format!("{json:#}\n"))?,
        None => writeln!(stdout, "{json}")?,
    }
    Ok(())
}
