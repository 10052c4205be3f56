//! `hookyard explain`: what would become of an event, and why: by the file on disk, or by the running relay.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use serde_json::{Map, Value, json};

use super::{Failure, client::Access, output, sign::read};
use crate::{
    clock::{Clock, Timestamp},
    config::{self, System, report},
    envelope::Envelope,
    explain::{
        ByFile,
        event::{self, Written},
    },
    ingest::Source,
};

mod expect;
mod tell;

use expect::Expected;

/// Tells what would become of an event: every rule, why it fires or does not, and what each target would get and when.
///
/// Asks the file on disk, so that an edit can be tried before it is live; with --id or --live the running relay, which knows of
/// pauses, breakers, mutes, throttles and digests too. Nothing is sent or changed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file with the event (`-`: stdin): an envelope, {source, type, data}, or with --source a body as its sender sends it
    #[arg(value_name = "EVENT.json", conflicts_with_all = ["id", "type"], required_unless_present_any = ["id", "type"])]
    file: Option<PathBuf>,
    /// A stored event, by the relay's id (ev_…) or its sender's
    #[arg(long, value_name = "ID", conflicts_with_all = ["type", "data"])]
    id: Option<String>,
    /// An event of this type, with the data of the seeds' sample where --data is not given
    #[arg(long)]
    r#type: Option<String>,
    /// The source it comes in by
    #[arg(long)]
    source: Option<String>,
    /// Whose it is
    #[arg(long, requires = "type")]
    namespace: Option<String>,
    /// What it happened to
    #[arg(long, requires = "type")]
    subject: Option<String>,
    /// Its data: a JSON object, or members such as workflow_data.amount=10
    #[arg(long, value_name = "JSON|PATH=VALUE", requires = "type")]
    data: Vec<String>,
    /// As if it were this time (not with --live)
    #[arg(long, value_name = "TIME", conflicts_with_all = ["live", "id"])]
    at: Option<Timestamp>,
    /// Ask the running relay
    #[arg(long)]
    live: bool,
    /// What must come of it, else the exit status is 1: to=crm,ops-slack or rules=workflow-failed; nothing behind = means none
    #[arg(long, value_name = "to=A,B|rules=A,B")]
    expect: Vec<Expected>,
    /// Show headers and bodies whole
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    access: Access,
}

/// Explains, prints, and holds the answer against what was expected.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let answer = if args.live || args.id.is_some() { args.ask_relay().await? } else { args.ask_file()? };
    if args.access.json {
        output::raw(&format!("{answer:#}"));
    } else {
        tell::tell(&answer["data"], output::coloured(), args.full);
    }
    expect::check(&args.expect, &answer["data"])
}

impl Args {
    async fn ask_relay(&self) -> Result<Value, Failure> {
        let question = match (&self.id, &self.file) {
            (Some(id), _) => {
                let mut question = json!({"id": id});
                if let Some(source) = &self.source {
                    question["source"] = source.as_str().into();
                }
                question.to_string()
            }
            (None, Some(file)) => {
                let text = read(file)?;
                let text = String::from_utf8(text).map_err(|_| Failure::Usage(format!("{} is not UTF-8", file.display())))?;
                let parsed: Map<String, Value> = serde_json::from_str(&text)
                    .map_err(|error| Failure::Usage(format!("{} is no JSON object: {error}", file.display())))?;
                match &self.source {
                    Some(source) if !parsed.contains_key("specversion") => {
                        format!(r#"{{"source":{},"body":{text}}}"#, Value::from(source.as_str()))
                    }
                    _ => format!(r#"{{"event":{text}}}"#),
                }
            }
            (None, None) => {
                let made = self.made_up()?;
                let source =
                    self.source.as_deref().ok_or_else(|| Failure::Usage("--live needs --source beside --type".into()))?;
                let mut event =
                    json!({"source": source, "type": made.r#type, "namespace": made.namespace, "subject": made.subject});
                event["data"] = made.data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_else(|| json!({}));
                json!({"event": event}).to_string()
            }
        };
        Ok(self.access.relay()?.post_json("/api/v1/explain", question).await?.json)
    }

    fn ask_file(&self) -> Result<Value, Failure> {
        let loaded = config::load(&self.access.config, &System);
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let Some(config) = loaded.config.clone() else {
            output::block(&report::text(&loaded, colour));
            return Err(Failure::BadAndSaid);
        };
        let by_file = ByFile::new(config).map_err(Failure::Bad)?;
        let now = self.at.unwrap_or_else(|| Clock::system().now());
        let event = self.event(&by_file.config().sources, now)?;
        let answer = by_file.explain(&event, now);
        serde_json::to_value(answer).map(|answer| json!({"data": answer})).map_err(|error| Failure::Bad(error.to_string()))
    }

    fn event(&self, sources: &[Source], now: Timestamp) -> Result<Envelope, Failure> {
        if let Some(file) = &self.file {
            let event = event::read(&read(file)?, self.source.as_deref(), sources, now);
            return event.map_err(|why| Failure::Usage(format!("{}: {why}", file.display())));
        }
        let mut made = self.made_up()?;
        made.source = self.source.clone().or_else(|| only(sources));
        made.event(sources, now).map_err(|why| Failure::Usage(format!("{why}; --source says by which it comes in")))
    }

    /// The event that the flags make up.
    fn made_up(&self) -> Result<Written, Failure> {
        let data = (!self.data.is_empty()).then(|| data(&self.data)).transpose()?;
        let r#type = self.r#type.as_deref().unwrap_or_default();
        let (mut made, sampled) = Written::of_type(r#type, data).map_err(Failure::Usage)?;
        if sampled {
            output::note("the data is that of the seeds' sample: --data gives others");
        }
        made.namespace = self.namespace.clone().or(made.namespace);
        made.subject = self.subject.clone().or(made.subject);
        Ok(made)
    }
}

/// The one source there is.
fn only(sources: &[Source]) -> Option<String> {
    match sources {
        [source] => Some(source.name.to_string()),
        _ => None,
    }
}

/// The JSON of `parts`: objects, and members by their dotted path, later ones over earlier ones.
fn data(parts: &[String]) -> Result<String, Failure> {
    let mut data = Map::new();
    for part in parts {
        if part.trim_start().starts_with('{') {
            let object: Map<String, Value> =
                serde_json::from_str(part).map_err(|error| Failure::Usage(format!("--data: this is no JSON object: {error}")))?;
            data.extend(object);
            continue;
        }
        let Some((path, value)) = part.split_once('=') else {
            return Err(Failure::Usage("--data takes a JSON object, or members such as workflow_data.amount=10".to_owned()));
        };
        // A number, true, null or a list as JSON writes them; anything else is text.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        put(&mut data, path, value).ok_or_else(|| Failure::Usage(format!("--data {path}=…: there is something else already")))?;
    }
    Ok(Value::Object(data).to_string())
}

fn put(data: &mut Map<String, Value>, path: &str, value: Value) -> Option<()> {
    match path.split_once('.') {
        None => _ = data.insert(path.to_owned(), value),
        Some((first, rest)) => {
            let inner = data.entry(first).or_insert_with(|| Value::Object(Map::new()));
            put(inner.as_object_mut()?, rest, value)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(parts: &[&str]) -> String {
        data(&parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn data_is_objects_and_members() {
        assert_eq!(
            made(&["a.b=10", "a.c=x y", "d=true", "e=[1]", "f=\"10\"", "g="]),
            r#"{"a":{"b":10,"c":"x y"},"d":true,"e":[1],"f":"10","g":""}"#
        );
        assert_eq!(made(&[r#"{"a":{"b":1},"n":1.50}"#, "a.c=2"]), r#"{"a":{"b":1,"c":2},"n":1.5}"#);
        insta::assert_snapshot!(made(&["a"]), @"--data takes a JSON object, or members such as workflow_data.amount=10");
        insta::assert_snapshot!(made(&["a=1", "a.b=2"]), @"--data a.b=…: there is something else already");
        assert!(made(&["{"]).contains("no JSON object"));
    }
}
