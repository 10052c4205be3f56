//! `hookyard reload`: makes the running relay go by its file as it is now, and says what came of it.

use serde_json::Value;

use super::{Failure, client::Access, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    access: Access,

    /// Say that this is the newest configuration of all replicas, though it may have been that before: to go back to it
    #[arg(long)]
    newest: bool,
}

/// Asks the relay, waits until the file holds or is refused, and prints what it says.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let json = args.access.json;
    let path = if args.newest { "/api/v1/config/reload?newest=true" } else { "/api/v1/config/reload" };
    let answer = args.access.relay()?.post_unless(422, path).await?;
    if json {
        output::raw(&answer.text);
    }
    if answer.json["error"].is_string() {
        if !json {
            problems(&answer.json["problems"]);
            output::note(&format!("the relay goes on with the file it had: {}", text(&answer.json["message"])));
        }
        return Err(Failure::BadAndSaid);
    }
    if !json {
        tell(&answer.json["data"]);
    }
    Ok(())
}

fn tell(outcome: &Value) {
    problems(&outcome["warnings"]);
    let before = text(&outcome["former_hash"]);
    let before = if outcome["changed"] == true { format!("before: {before}") } else { "as before".to_owned() };
    output::line(&format!("loaded {} ({before})", text(&outcome["hash"])));
    for what in ["sources", "destinations", "rules"] {
        for (change, sign) in [("added", "+"), ("removed", "-")] {
            let names: Vec<_> = outcome[what][change].as_array().into_iter().flatten().map(text).collect();
            if !names.is_empty() {
                output::line(&format!("{sign} {what}: {}", names.join(", ")));
            }
        }
    }
    for waiting in outcome["waiting"].as_array().into_iter().flatten() {
        let (target, count) = (text(&waiting["target"]), &waiting["deliveries"]);
        output::line(&format!("{count} deliveries wait for `{target}`, which is gone: {}", text(&waiting["help"])));
    }
}

/// Each as `routes.yaml:12:5: error[unknown-key]: …`.
fn problems(list: &Value) {
    for it in list.as_array().into_iter().flatten() {
        let place = format!("{}:{}:{}", text(&it["file"]), it["line"], it["col"]);
        output::note(&format!("{place}: {}[{}]: {}", text(&it["severity"]), text(&it["code"]), text(&it["message"])));
        if let Some(help) = it["help"].as_str() {
            output::note(&format!("  help: {help}"));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
