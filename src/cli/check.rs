//! `hookyard check`: is this file good, and if not, where and why?

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
};

use serde_json::json;

use super::output;
use crate::{
    config::{self, Config, Environment, Loaded, System, report},
    deliver::Reached,
    rehearsal::StandIns,
};

pub(super) mod against;
mod online;

use against::Against;

/// Checks routes.yaml: every error with its line, in one run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to check.
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// Print the problems as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the configuration as it works, as YAML: included files and defaults in their places, secrets by name.
    /// With --json it is `effective` of the answer.
    #[arg(long)]
    pub print: bool,
    /// Let variables be unset and files of `${file:…}` be missing, as where no secret is at hand.
    #[arg(long)]
    pub no_secrets: bool,
    /// Take warnings for errors: the exit status is 1 where there is any.
    #[arg(long)]
    pub strict: bool,
    /// Try each destination too, without sending it anything: names, addresses, TLS, logins and tokens.
    #[arg(long, conflicts_with = "no_secrets")]
    pub online: bool,
    #[command(flatten)]
    pub(super) against: Against,
}

/// Exit status of a good file.
const GOOD: u8 = 0;
/// Exit status of a bad one.
const BAD: u8 = 1;

/// Checks the file and says what is wrong with it. Answers the exit status: 0 for a good file, 1 for a bad one.
pub fn run(args: &Args) -> u8 {
    let colour = output::note_coloured();
    let options = config::Options { no_secrets: args.no_secrets, effective: args.print };
    let stand_ins = StandIns::new(BTreeMap::new(), &System);
    let env: &dyn Environment = if args.no_secrets { &stand_ins } else { &System };
    let loaded = config::load_as(&args.config, env, options);
    let reached = loaded.config.as_ref().filter(|_| args.online).map(online::reach);
    let (data, diagnostics) =
        if args.json { (as_json(&loaded, reached.as_deref()), String::new()) } else { as_text(&loaded, colour) };
    // A reader that has gone away needs no answer.
    let _ = io::stderr().write_all(diagnostics.as_bytes());
    // Then the comparison is the answer, and one is enough for machines.
    if !(args.json && args.against.is_asked() && loaded.config.is_some()) {
        let _ = io::stdout().write_all(data.as_bytes());
    }
    if let Some(reached) = reached.as_deref().filter(|_| !args.json) {
        online::print(reached);
    }
    let warned = args.strict && !loaded.problems.is_empty();
    if warned && !args.json && loaded.config.is_some() {
        let _ = io::stderr().write_all(b"with --strict, a warning is enough\n");
    }
    let all_reached = reached.iter().flatten().all(|it| it.error.is_none());
    if loaded.config.is_some() && !warned && all_reached { GOOD } else { BAD }
}

/// What goes to stdout, and what to stderr.
fn as_text(loaded: &Loaded, colour: bool) -> (String, String) {
    let diagnostics = report::text(loaded, colour);
    let Some(config) = &loaded.config else { return (String::new(), diagnostics) };
    let good = format!("{}: good: {}{}\n", loaded.files.path().display(), contents(config), unseen(loaded));
    match &loaded.effective {
        Some(effective) => (config::effective_yaml(effective), format!("{diagnostics}{good}")),
        None => (good, diagnostics),
    }
}

/// `; 3 references were not looked at`.
fn unseen(loaded: &Loaded) -> String {
    match loaded.unseen {
        0 => String::new(),
        1 => "; 1 reference was not looked at".to_owned(),
        more => format!("; {more} references were not looked at"),
    }
}

fn as_json(loaded: &Loaded, reached: Option<&[Reached]>) -> String {
    let config = loaded.config.as_ref();
    let mut answer = json!({
        "ok": config.is_some(),
        "file": loaded.files.path().display().to_string(),
        "hash": config.map(|config| &config.hash),
        "sources": config.map(|config| config.sources.len()),
        "destinations": config.map(|config| config.destinations.len()),
        "rules": config.map(|config| config.rules.len()),
        "problems": report::diagnostics(loaded),
        "left_off": loaded.left_off,
        "not_looked_at": loaded.unseen,
    });
    if let (Some(_), Some(effective), Some(answer)) = (config, &loaded.effective, answer.as_object_mut()) {
        answer.insert("effective".to_owned(), effective.clone());
    }
    if let (Some(reached), Some(answer)) = (reached, answer.as_object_mut()) {
        answer.insert("online".to_owned(), online::as_json(reached).into());
    }
    format!("{answer:#}\n")
}

/// `2 sources, 1 destination, 3 rules`.
fn contents(config: &Config) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let counts = [(config.sources.len(), "source"), (config.destinations.len(), "destination"), (config.rules.len(), "rule")];
    counts.map(|(count, what)| plural(count, what)).join(", ")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn args(folder: &Path, text: &str, json: bool) -> Args {
        let config = folder.join("routes.yaml");
        fs::write(&config, text).unwrap();
        Args { config, json, print: false, no_secrets: false, strict: false, online: false, against: Against::default() }
    }

    fn loaded(text: &str) -> Loaded {
        config::parse(config::File { path: "routes.yaml".into(), text: text.to_owned() }, &|_: &str| None)
    }

    #[test]
    fn the_exit_status_tells_good_from_bad() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(run(&args(folder.path(), "version: 1", false)), GOOD);
        assert_eq!(run(&args(folder.path(), "version: 1\nservr: {}", true)), BAD);
        let none = Args { config: folder.path().join("none.yaml"), ..args(folder.path(), "version: 1", false) };
        assert_eq!(run(&Args { print: true, no_secrets: true, ..none }), BAD);
        let warned = "version: 1\ndestinations: {n8n: {kind: n8n, url: 'https://n8n.example.com/webhook/abc'}}";
        assert_eq!(run(&args(folder.path(), warned, false)), GOOD);
        assert_eq!(run(&Args { strict: true, ..args(folder.path(), warned, false) }), BAD);
        assert_eq!(run(&Args { strict: true, online: true, ..args(folder.path(), "version: 1", true) }), GOOD);
    }

    #[test]
    fn a_good_file_is_one_line_and_a_bad_one_none() {
        assert_eq!(
            as_text(&loaded("version: 1"), false),
            ("routes.yaml: good: 0 sources, 0 destinations, 0 rules\n".to_owned(), String::new())
        );
        let (data, diagnostics) = as_text(&loaded("version: 2"), false);
        assert!(data.is_empty() && diagnostics.contains("--> routes.yaml:1:10"), "{diagnostics}");
    }

    #[test]
    fn json_is_one_object() {
        let answer: serde_json::Value = serde_json::from_str(&as_json(&loaded("version: 1\nservr: {}"), None)).unwrap();
        assert_eq!((&answer["ok"], &answer["rules"]), (&json!(false), &json!(null)));
        assert_eq!(answer["problems"][0]["col"], 1);
        assert_eq!(answer["problems"][0]["fix"], "server");
        let answer: serde_json::Value = serde_json::from_str(&as_json(&loaded("version: 1"), None)).unwrap();
        assert_eq!((&answer["ok"], &answer["rules"], &answer["problems"]), (&json!(true), &json!(0), &json!([])));
    }
}
