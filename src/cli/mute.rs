//! `hookyard mute`: what nobody is to be told of for a while; adds, lists and ends mutes.

use clap::Subcommand;

use super::{
    Failure,
    client::{Access, Answer, given, in_path, show},
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
    /// Lists those that are not over, newest first
    List(List),
    /// Holds back what fits until an end: it is suppressed, and says why
    Add(Add),
    /// Ends one before its time
    Remove(One),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct One {
    /// The mute (mute_…)
    id: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// Only deliveries to these targets (globs, with commas between them)
    #[arg(long)]
    target: Option<String>,
    /// Only of events of these types
    #[arg(long)]
    r#type: Option<String>,
    /// Only of events from these sources
    #[arg(long)]
    source: Option<String>,
    /// Only of events in these namespaces
    #[arg(long)]
    namespace: Option<String>,
    /// Why: shown with everything that is held back
    #[arg(long)]
    reason: String,
    /// Who wants it [default: whose token is used]
    #[arg(long)]
    author: Option<String>,
    /// Until when, in RFC 3339
    #[arg(long, value_name = "TIME", required_unless_present = "for", conflicts_with = "for")]
    until: Option<String>,
    /// For how long (30m, 24h, 7d)
    #[arg(long, value_name = "TIME")]
    r#for: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// What a table shows of a mute.
const COLUMNS: [&str; 8] = ["target", "type", "source", "namespace", "reason", "author", "until", "id"];
const FACTS: [&str; 9] = ["id", "target", "type", "source", "namespace", "reason", "author", "created_at", "until"];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what.unwrap_or(What::List(List { access: args.access })) {
        What::List(List { access }) => {
            show(&access.relay()?.get("/api/v1/mutes", &[]).await?, access.json, &COLUMNS);
            Ok(())
        }
        What::Add(add) => {
            let query = given(&[
                ("target", &add.target),
                ("type", &add.r#type),
                ("source", &add.source),
                ("namespace", &add.namespace),
                ("reason", &Some(add.reason)),
                ("author", &add.author),
                ("until", &add.until),
                ("for", &add.r#for),
            ]);
            tell(&add.access.relay()?.post("/api/v1/mutes", &query).await?, add.access.json);
            Ok(())
        }
        What::Remove(one) => {
            let path = format!("/api/v1/mutes/{}", in_path(&one.id)?);
            tell(&one.access.relay()?.delete(&path).await?, one.access.json);
            Ok(())
        }
    }
}

fn tell(answer: &Answer, json: bool) {
    if json {
        output::raw(&answer.text);
    } else {
        output::facts(&answer.json["data"], &FACTS);
    }
}
