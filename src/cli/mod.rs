//! The command line: one file per verb. A verb asks the relay's API or works on local files.
//!
//! Data goes to stdout, everything else to stderr. Exit status: 0 good, 1 the thing asked about is bad, 2 wrong usage,
//! 3 the relay or the store cannot be reached.

use std::{future::Future, pin::Pin, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use crate::telemetry::logs::Filter;

mod bulk;
pub mod check;
mod client;
mod completions;
mod dead_letters;
mod deliveries;
mod demo;
mod doctor;
mod erase;
mod events;
mod explain;
mod help;
mod http;
mod jobs;
mod mute;
mod output;
mod rejections;
mod reload;
mod replay;
mod schema;
mod secrets;
mod send;
mod sender;
mod serve;
mod sign;
mod sources;
mod store;
mod tail;
mod target;
mod test;
mod token;
mod way;

/// What the relay and its tools are asked to do.
#[derive(Debug, Parser)]
#[command(name = "hookyard", version, about, long_about = None, propagate_version = true)]
pub struct Args {
    /// Which logs to write, such as `info` or `hookyard::deliver=debug,warn` [default: info; for demo and test: warn]
    #[arg(long, global = true, env = "HOOKYARD_LOG", hide_env_values = true, value_name = "FILTER")]
    log: Option<Filter>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the relay.
    Serve(serve::Args),
    Check(check::Args),
    Test(test::Args),
    Explain(explain::Args),
    /// Prints the JSON Schema of routes.yaml, for editors.
    Schema(schema::Args),
    /// Prints the headers that sign a body, or a curl command that sends it.
    Sign(sign::Args),
    /// Signs events as a source's sender would and posts them to the running relay.
    Send(send::Args),
    /// Shows the whole way of every event of the seeds, with nothing but this binary.
    Demo(demo::Args),
    /// Shows events and deliveries as they come and go.
    Tail(tail::Args),
    /// Lists events, or tells the whole story of one.
    Events(events::Args),
    /// Lists deliveries, or shows one with its attempts.
    Deliveries(deliveries::Args),
    /// Lists deliveries that were given up, tries them again, or settles them.
    DeadLetters(dead_letters::Args),
    /// Lists requests that were not accepted, or gives them another chance.
    Rejections(rejections::Args),
    /// Makes deliveries again of stored events.
    Replay(replay::Args),
    /// Takes events out of the store for good.
    Erase(erase::Args),
    /// Lists targets, pauses, resumes and closes them, or cancels what waits.
    Target(target::Args),
    /// Lists sources and what came in by them.
    Sources(sources::Args),
    /// Lists what nobody is told of for a while, adds to it, or ends it.
    Mute(mute::Args),
    /// Lists what works on many things at once.
    Jobs(jobs::Args),
    /// Makes, lists and ends tokens of the API.
    Token(token::Args),
    /// Seals anew what is sealed under former encryption keys.
    Secrets(secrets::Args),
    /// Looks at the store, the key and the relay: what is in force, what ails, what to do about it.
    Doctor(doctor::Args),
    /// Copies the store into another: from SQLite to PostgreSQL, or back.
    Store(store::Args),
    /// Makes the running relay go by its file as it is now.
    Reload(reload::Args),
    Completions(completions::Args),
}

impl Args {
    /// The arguments of this process; wrong usage ends it here, with 2.
    pub fn of_process() -> Self {
        help::parse()
    }

    /// Which logs to write. The words of the demo and of tests are not to drown in them.
    pub fn log(&self) -> Filter {
        let quiet = matches!(self.verb, Verb::Demo(_) | Verb::Test(_));
        self.log.clone().unwrap_or_else(|| if quiet { Filter::warn() } else { Filter::info() })
    }
}

/// Why a verb did not do what it was asked, each with its exit status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The thing asked about is bad: 1.
    #[error("{0}")]
    Bad(String),
    /// The same, and the verb has said why already: 1.
    #[error("")]
    BadAndSaid,
    /// What was asked makes no sense: 2.
    #[error("{0}")]
    Usage(String),
    /// The relay or the store cannot be reached: 3.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// Says on stderr what is wrong, in one line, and answers the exit status.
    pub fn report(&self) -> ExitCode {
        let (status, said) = match self {
            Self::Bad(_) => (1, false),
            Self::BadAndSaid => (1, true),
            Self::Usage(_) => (2, false),
            Self::Unreachable(_) => (3, false),
        };
        if !said {
            output::note(&format!("hookyard: {self}"));
        }
        ExitCode::from(status)
    }
}

/// Does what `args` say.
///
/// # Errors
/// [`Failure`], whose [`Failure::report`] is the exit status.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.verb {
        Verb::Serve(args) => relay(Box::pin(serve::run(args))),
        Verb::Check(args) => {
            if check::run(&args) == 0 {
                tool(Box::pin(check::against::run(&args)))
            } else {
                Err(Failure::BadAndSaid)
            }
        }
        Verb::Test(args) => relay(Box::pin(test::run(args))),
        Verb::Explain(args) => tool(Box::pin(explain::run(args))),
        Verb::Schema(args) => schema::run(&args),
        Verb::Sign(args) => sign::run(&args),
        Verb::Send(args) => tool(Box::pin(send::run(args))),
        Verb::Demo(args) => relay(Box::pin(demo::run(args))),
        Verb::Events(args) => tool(Box::pin(events::run(args))),
        Verb::Deliveries(args) => tool(Box::pin(deliveries::run(args))),
        Verb::Rejections(args) => tool(Box::pin(rejections::run(args))),
        Verb::Tail(args) => tool(Box::pin(tail::run(args))),
        Verb::DeadLetters(args) => tool(Box::pin(dead_letters::run(args))),
        Verb::Replay(args) => tool(Box::pin(replay::run(args))),
        Verb::Erase(args) => tool(Box::pin(erase::run(args))),
        Verb::Target(args) => tool(Box::pin(target::run(args))),
        Verb::Sources(args) => tool(Box::pin(sources::run(args))),
        Verb::Mute(args) => tool(Box::pin(mute::run(args))),
        Verb::Jobs(args) => tool(Box::pin(jobs::run(args))),
        Verb::Token(args) => tool(Box::pin(token::run(args))),
        Verb::Secrets(args) => tool(Box::pin(secrets::run(args))),
        Verb::Doctor(args) => tool(Box::pin(doctor::run(args))),
        Verb::Store(args) => tool(Box::pin(store::run(args))),
        Verb::Reload(args) => tool(Box::pin(reload::run(args))),
        Verb::Completions(args) => completions::run(&args),
    }
}

/// What a verb does. One type for all: a runtime is compiled once for each type of future that it blocks on.
type Work<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// Runs what contains a relay, on all processors.
fn relay(work: Work<'_>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Bad(format!("the runtime does not start: {error}")))?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LEFT_BEHIND);
    done
}

/// How long what still goes on may take when a relay has ended: a disk that hangs is waited for no longer. (What lanes left is not waited
/// for at all.)
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Runs what asks one.
fn tool(work: Work<'_>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Bad(format!("the runtime does not start: {error}")))?.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_noticed_and_every_verb_has_help() {
        let verbs: Vec<String> = Args::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
        let asking = [
            "tail",
            "events",
            "deliveries",
            "dead-letters",
            "rejections",
            "replay",
            "erase",
            "target",
            "sources",
            "mute",
            "jobs",
            "token",
            "secrets",
            "doctor",
            "store",
            "reload",
            "completions",
        ];
        assert_eq!(verbs, [&["serve", "check", "test", "explain", "schema", "sign", "send", "demo"][..], &asking].concat());
        for verb in &verbs {
            let help = Args::try_parse_from(["hookyard", verb, "--help"]).unwrap_err();
            assert_eq!(help.kind(), ErrorKind::DisplayHelp, "{verb}");
            assert!(Args::try_parse_from(["hookyard", verb, "--nonsense"]).unwrap_err().exit_code() == 2, "{verb}");
        }
        assert_eq!(Args::try_parse_from(["hookyard", "--log", "hookyard=loud", "demo"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_log_may_be_set_before_and_behind_the_verb() {
        for line in [["hookyard", "--log", "debug", "demo"], ["hookyard", "demo", "--log", "debug"]] {
            assert!(Args::try_parse_from(line).unwrap().log.is_some());
        }
    }
}
