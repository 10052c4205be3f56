//! `hookyard sources propose NAME`: what came in by a source that none of its cases takes, and a case for it, ready to paste.

use serde_json::{Value, json};

use crate::{
    cli::{
        Failure,
        client::{Access, Relay, in_path},
        output::{self, cell},
    },
    envelope::Name,
    ingest::propose::{self, BODIES_MAX, Proposal},
    telemetry::logs::plain,
};

/// The type of what no case takes.
const UNMAPPED: &str = "trigger.unmapped";
/// How far entries of `cases` stand to the right in a file that is indented by two.
const INDENT: usize = 6;
/// Longest body shown, in characters.
const SHOWN_MAX: usize = 600;

/// Shows the latest bodies of a source that no case takes, and writes a `case` for each shape of them.
///
/// Paths that look like id, time, namespace and subject are guessed: look at them, choose a type, and paste what fits under `cases` of
/// the source. Values that may be secrets are masked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source's name
    name: String,
    #[command(flatten)]
    access: Access,
}

/// A body, and the event it came as.
struct Came {
    uid: String,
    at: String,
    body: Value,
}

/// Asks the relay, and prints cases as YAML.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let name = Name::parse(&args.name).ok_or_else(|| Failure::Usage("this is not the name of a source".to_owned()))?;
    let relay = args.access.relay()?;
    known(&relay, &name).await?;
    let came = latest(&relay, &name).await?;
    let bodies: Vec<Value> = came.iter().map(|it| it.body.clone()).collect();
    let proposals = propose::propose(&name, &bodies);
    if args.access.json {
        let data: Vec<_> = proposals.iter().map(|it| as_json(it, &came)).collect();
        output::raw(&format!("{:#}", json!({ "data": data })));
        return Ok(());
    }
    if came.is_empty() {
        output::note(&format!("nothing that came in by {name} is of type {UNMAPPED}: its cases take all of it"));
        return Ok(());
    }
    output::note(&format!("{} bodies of type {UNMAPPED}; paste what fits under `cases:` of source {name}", came.len()));
    output::raw(&format!("    cases:\n{}", proposals.iter().map(|it| told(it, &came)).collect::<Vec<_>>().join("\n")));
    Ok(())
}

/// The relay has the source, of a kind that has cases.
async fn known(relay: &Relay, name: &Name) -> Result<(), Failure> {
    let answer = relay.get("/api/v1/sources", &[]).await?;
    let found = answer.list().iter().find(|it| it["name"] == name.as_str());
    match found.map(|it| cell(it, "kind")) {
        None => Err(Failure::Bad(format!("the relay has no source {name}"))),
        Some(kind) if kind == "trigger" => Ok(()),
        Some(kind) => Err(Failure::Bad(format!("source {name} is of kind {kind}: only `trigger` has cases"))),
    }
}

/// The latest bodies that no case took, newest first.
async fn latest(relay: &Relay, name: &Name) -> Result<Vec<Came>, Failure> {
    let query = [("source", name.to_string()), ("type", UNMAPPED.to_owned()), ("limit", BODIES_MAX.to_string())];
    let answer = relay.get("/api/v1/events", &query).await?;
    let mut came = Vec::new();
    for row in answer.list() {
        let uid = cell(row, "uid");
        let event = relay.get(&format!("/api/v1/events/{}", in_path(&uid)?), &[]).await?;
        came.push(Came { at: cell(row, "received_at"), uid, body: event.json["data"]["envelope"]["data"].clone() });
    }
    Ok(came)
}

fn as_json(proposal: &Proposal, came: &[Came]) -> Value {
    let bodies: Vec<&Came> = proposal.bodies.iter().filter_map(|at| came.get(*at)).collect();
    json!({
        "type": proposal.r#type,
        "bodies": bodies.len(),
        "events": bodies.iter().map(|it| &it.uid).collect::<Vec<_>>(),
        "sample": bodies.first().map(|it| propose::masked(&it.body)),
        "tells_apart": proposal.tells_apart,
        "yaml": proposal.yaml,
    })
}

/// The case, and what it was made of as comments.
fn told(proposal: &Proposal, came: &[Came]) -> String {
    let bodies: Vec<&Came> = proposal.bodies.iter().filter_map(|at| came.get(*at)).collect();
    let mut lines = Vec::new();
    if let Some(latest) = bodies.first() {
        let shown = plain(&propose::masked(&latest.body).to_string());
        let cut: String = shown.chars().take(SHOWN_MAX).collect();
        let more = if cut.len() < shown.len() { "…" } else { "" };
        lines.push(format!(
            "# {} of this shape, the latest at {} ({}):",
            count(bodies.len()),
            plain(&latest.at),
            plain(&latest.uid)
        ));
        lines.push(format!("#   {cut}{more}"));
    }
    if !proposal.tells_apart {
        lines.push("# takes other bodies too: it needs one more condition, or stands behind theirs".to_owned());
    }
    lines.push(proposal.yaml.clone());
    lines.join("\n").lines().map(|line| format!("{:INDENT$}{line}\n", "")).collect()
}

fn count(bodies: usize) -> String {
    if bodies == 1 { "one body".to_owned() } else { format!("{bodies} bodies") }
}
