//! `hookyard sources`: what came in by each source, which of its secrets are in use, and how those stand that are polled; cases for what
//! none of them takes.

use clap::Subcommand;
use serde_json::Value;

use super::{
    Failure,
    client::Access,
    output::{self, cell},
};
use crate::envelope::Name;

mod propose;

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
    /// Has the API of a `poll` source asked now, and tells what came of it
    Poll(Poll),
    Propose(propose::Args),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Poll {
    /// The source
    name: String,
    #[command(flatten)]
    access: Access,
}

const COLUMNS: [&str; 6] = ["name", "kind", "path", "last_received_at", "counts", "secrets"];
const POLL: [&str; 12] = [
    "url",
    "every_s",
    "last_poll_at",
    "last_success_at",
    "last_error",
    "last_error_message",
    "failures",
    "next_poll_at",
    "cursor",
    "pages",
    "items",
    "taken",
];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what.unwrap_or(What::List(List { access: args.access })) {
        What::List(List { access }) => list(&access).await,
        What::Poll(args) => poll(args).await,
        What::Propose(args) => propose::run(args).await,
    }
}

async fn list(access: &Access) -> Result<(), Failure> {
    let answer = access.relay()?.get("/api/v1/sources", &[]).await?;
    if access.json {
        output::raw(&answer.text);
        return Ok(());
    }
    let rows: Vec<_> = answer.list().iter().map(row).collect();
    output::list(&rows, &COLUMNS);
    Ok(())
}

async fn poll(args: Poll) -> Result<(), Failure> {
    let name = Name::parse(&args.name).ok_or_else(|| Failure::Usage("this is not the name of a source".to_owned()))?;
    let answer = args.access.relay()?.post(&format!("/api/v1/sources/{name}/poll"), &[]).await?;
    let status = &answer.json["data"]["poll"];
    if args.access.json {
        output::raw(&answer.text);
    } else {
        output::facts(status, &POLL);
    }
    match status["last_error"].as_str() {
        None => Ok(()),
        Some(error) => Err(Failure::Bad(format!("{name} cannot be polled: {error}"))),
    }
}

/// The source with texts in place of what has parts; of one that is polled, how that stands in place of a path.
fn row(source: &Value) -> Value {
    let mut row = source.clone();
    row["counts"] = counts(&source["counts"]).into();
    row["secrets"] = secrets(&source["secrets"]).into();
    if source["poll"].is_object() {
        row["path"] = polled(&source["poll"]).into();
    }
    row
}

/// `https://h.example/*** every 60s, last 2026-…, next 2026-…, cursor 2026-…, http_401`.
fn polled(poll: &Value) -> String {
    let mut told = format!("{} every {}s", cell(poll, "url"), cell(poll, "every_s"));
    for (key, word) in [("last_poll_at", "last "), ("next_poll_at", "next "), ("cursor", "cursor "), ("last_error", "")] {
        if !poll[key].is_null() {
            told.push_str(&format!(", {word}{}", cell(poll, key)));
        }
    }
    told
}

/// `success 3, invalid_signature 1`.
fn counts(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    let counts: Vec<_> = counts.filter(|(_, count)| **count != 0).map(|(word, count)| format!("{word} {count}")).collect();
    if counts.is_empty() { "-".to_owned() } else { counts.join(", ") }
}

/// When each secret was last of use, by its place in the file.
fn secrets(secrets: &Value) -> String {
    let each = secrets.as_array().into_iter().flatten();
    let each: Vec<_> = each.map(|it| format!("{}: {}", cell(it, "position"), cell(it, "last_used_at"))).collect();
    if each.is_empty() { "-".to_owned() } else { each.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_and_secrets_fit_a_cell() {
        let source = json!({
            "name": "interactor", "kind": "interactor", "path": "/webhooks/interactor", "last_received_at": null,
            "counts": {"success": 3, "duplicate": 0, "invalid_signature": 1},
            "secrets": [{"position": 0, "last_used_at": "2026-01-20T12:00:00.000Z"}, {"position": 1, "last_used_at": null}],
        });
        let shown = COLUMNS.map(|name| cell(&row(&source), name));
        assert_eq!(shown[3..], ["-", "success 3, invalid_signature 1", "0: 2026-01-20T12:00:00.000Z, 1: -"]);
        assert_eq!(COLUMNS.map(|name| cell(&row(&json!({"name": "x"})), name)), ["x", "-", "-", "-", "-", "-"]);
    }
}
