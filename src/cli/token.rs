//! `hookyard token`: makes, lists and ends tokens of the API.

use clap::Subcommand;
use serde_json::json;

use super::{
    Failure,
    client::{Access, Answer, in_path, show, show_one},
    output,
};
use crate::access::Scope;

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
    /// Lists tokens, newest first; those that are over too, for 30 days
    List(List),
    /// Makes one and prints it: it is never shown again
    Create(Create),
    /// Ends one: from then on it is not taken
    Revoke(One),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct One {
    /// The token's id (tok_…)
    id: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What it is for
    #[arg(long)]
    name: String,
    /// What it may do, with commas between: webhooks, webhooks:read|write|delete, events:read, deliveries:read|write, config:read|write, admin
    #[arg(long, required = true, value_delimiter = ',', value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Bind it to this namespace, exact as it is written; once for each of several [default: bound to none]
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// When it ends, in RFC 3339 [default: never]
    #[arg(long, value_name = "TIME", conflicts_with = "expires_in")]
    expires_at: Option<String>,
    /// After how long it ends (24h, 90d)
    #[arg(long, value_name = "TIME")]
    expires_in: Option<String>,
    #[command(flatten)]
    access: Access,
}

fn scope(word: &str) -> Result<Scope, String> {
    Scope::parse(word).ok_or_else(|| format!("there are {}", Scope::ALL.map(|(_, word)| word).join(", ")))
}

/// What a table shows of a token.
const COLUMNS: [&str; 7] = ["name", "scopes", "namespaces", "state", "expires_at", "last_used_at", "id"];
const FACTS: [&str; 11] = [
    "id",
    "name",
    "scopes",
    "namespaces",
    "state",
    "created_at",
    "created_by",
    "expires_at",
    "last_used_at",
    "revoked_at",
    "revoked_by",
];

/// Asks the relay and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what.unwrap_or(What::List(List { access: args.access })) {
        What::List(List { access }) => show(&access.relay()?.get("/api/v1/tokens", &[]).await?, access.json, &COLUMNS),
        What::Create(create) => {
            let body = json!({
                "name": create.name,
                "scopes": create.scopes.iter().map(|scope| scope.word()).collect::<Vec<_>>(),
                "namespaces": Some(create.namespace).filter(|namespaces| !namespaces.is_empty()),
                "expires_at": create.expires_at,
                "expires_in": create.expires_in,
            });
            made(&create.access.relay()?.post_json("/api/v1/tokens", body.to_string()).await?, create.access.json);
        }
        What::Revoke(one) => {
            let path = format!("/api/v1/tokens/{}", in_path(&one.id)?);
            let answer = one.access.relay()?.delete(&path).await?;
            show_one(&answer, one.access.json, |token| output::facts(token, &FACTS));
        }
    }
    Ok(())
}

/// The token alone on stdout, so that it goes where it is wanted without being seen; what it is beside that.
fn made(answer: &Answer, json: bool) {
    if json {
        return output::raw(&answer.text);
    }
    let token = &answer.json["data"];
    let said = |name| output::cell(token, name);
    output::note(&format!(
        "token {} ({}), scopes {}, namespaces {}",
        said("name"),
        said("id"),
        said("scopes"),
        said("namespaces")
    ));
    output::note("it is shown this once:");
    output::line(token["token"].as_str().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_known_words() {
        assert_eq!((scope("events:read"), scope("admin")), (Ok(Scope::EventsRead), Ok(Scope::Admin)));
        assert!(scope("everything").unwrap_err().contains("webhooks:write"));
    }
}
