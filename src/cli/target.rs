//! `hookyard target`: how each lane stands and what waits for it; pauses, resumes and closes, and cancels what waits.

use clap::Subcommand;

use super::{
    Failure,
    bulk::Bulk,
    client::{Access, Answer, Span, given, show},
    output,
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists them, in the order of the file
    List(List),
    /// Shows one
    Show(One),
    /// Sends it nothing more until it is resumed
    Pause(One),
    /// Sends to it again
    Resume(One),
    /// Closes its breaker without waiting for a probe
    Close(One),
    /// Sends it a sample once, and shows what it answers; 1 when it does not take it
    Test(Test),
    /// Cancels what waits for it
    Cancel(Cancel),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct One {
    /// The target's name
    name: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Test {
    /// The target's name
    name: String,
    /// The type of the sample, such as credential.expired
    #[arg(long)]
    event: Option<String>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Cancel {
    /// The target's name
    name: String,
    /// Only of events from this source
    #[arg(long)]
    source: Option<String>,
    /// Only of events of this type; a glob too, several with commas
    #[arg(long)]
    r#type: Option<String>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    bulk: Bulk,
    #[command(flatten)]
    access: Access,
}

const COLUMNS: [&str; 9] =
    ["name", "kind", "state", "cause", "backlog", "oldest_at", "dead", "deliveries_per_minute", "last_error"];
const FACTS: [&str; 15] = [
    "name",
    "kind",
    "url",
    "state",
    "cause",
    "since",
    "paused_by",
    "backlog",
    "oldest_at",
    "dead",
    "last_error",
    "last_success_at",
    "attempts_per_minute",
    "deliveries_per_minute",
    "next_probe_at",
];

const TRIAL: [&str; 10] = ["target", "kind", "url", "event", "outcome", "status", "error", "detail", "response", "duration_ms"];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what.unwrap_or(What::List(List { access: args.access })) {
        What::List(List { access }) => {
            show(&access.relay()?.get("/api/v1/targets", &[]).await?, access.json, &COLUMNS);
            Ok(())
        }
        What::Show(one) => {
            let answer = one.access.relay()?.get(&at(&one.name, "")?, &[]).await?;
            tell(&answer, one.access.json);
            Ok(())
        }
        What::Pause(one) => steer(one, "/pause").await,
        What::Resume(one) => steer(one, "/resume").await,
        What::Close(one) => steer(one, "/close").await,
        What::Test(args) => test(args).await,
        What::Cancel(args) => {
            let mut query = given(&[("source", &args.source), ("type", &args.r#type)]);
            query.extend(args.span.query()?);
            args.bulk.go(&args.access, &at(&args.name, "/cancel")?, query).await
        }
    }
}

async fn test(args: Test) -> Result<(), Failure> {
    let body = given(&[("event", &args.event)]);
    let answer = args.access.relay()?.post(&at(&args.name, "/test")?, &body).await?;
    let trial = &answer.json["data"];
    if args.access.json {
        output::raw(&answer.text);
    } else {
        output::facts(trial, &TRIAL);
    }
    match trial["outcome"].as_str() {
        Some("delivered") => Ok(()),
        _ => Err(Failure::Bad(format!("{} did not take the sample", args.name))),
    }
}

async fn steer(one: One, verb: &str) -> Result<(), Failure> {
    let answer = one.access.relay()?.post(&at(&one.name, verb)?, &[]).await?;
    tell(&answer, one.access.json);
    Ok(())
}

fn tell(answer: &Answer, json: bool) {
    if json {
        output::raw(&answer.text);
    } else {
        output::facts(&answer.json["data"], &FACTS);
    }
}

/// The path of the target called `name`: names need no escapes.
fn at(name: &str, verb: &str) -> Result<String, Failure> {
    let name = crate::envelope::Name::parse(name);
    let name = name.ok_or_else(|| Failure::Usage("this is not the name of a target".to_owned()))?;
    Ok(format!("/api/v1/targets/{name}{verb}"))
}
