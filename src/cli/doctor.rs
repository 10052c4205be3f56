//! `hookyard doctor`: what an operator wants to know before sleeping. `check` says whether the file is good; this says whether what it
//! runs on is.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    Failure,
    client::{Reach, Relay},
    output,
};
use crate::{
    clock::Clock,
    config::{self, Config, System},
    rekey::{self, Opened},
    seal::Sealer,
    secret::Secret,
    store::{
        self, Record,
        doctor::{Examined, Finding, Health, examine},
    },
};

/// Only looks: nothing is made, moved or changed. Exit status: 0 where all is well, 1 where something is bad, 3 where the store cannot be
/// reached.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration, for the store, the key and the address of the admin listener
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    /// Take warnings for errors: the exit status is 1 where there is any
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Looks, and says what it found.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let loaded = config::load(&args.config, &System);
    let url = match &loaded.config {
        Some(config) => config.store.url.clone(),
        None => config::store_url(&loaded.files, &System).ok_or_else(|| {
            Failure::Bad(format!("{}: store.url cannot be made out: see `hookyard check`", args.config.display()))
        })?,
    };
    let mut findings = vec![file(&args.config, loaded.config.as_ref())];
    let max_bytes = loaded.config.as_ref().and_then(|config| config.store.retention.max_bytes);
    let shown = store::shown(&url);
    let examined = examine(&url, Path::new(""), max_bytes, &Clock::system()).await;
    let reached = examined.is_ok();
    let Examined { findings: of_store, sealed } = examined.unwrap_or_else(|error| Examined {
        findings: vec![Finding::bad(
            "store",
            format!("{shown}: {error}"),
            "look whether the server runs, and may be reached from here",
        )],
        sealed: Vec::new(),
    });
    findings.extend(of_store);
    findings.extend(loaded.config.as_ref().map(|config| key(config, &url, &sealed)));
    findings.extend(relay(&args.reach.relay(&args.config)?, loaded.config.as_ref()).await);
    tell(&findings, &shown, args.json);
    verdict(&findings, args.strict, reached)
}

fn verdict(findings: &[Finding], strict: bool, reached: bool) -> Result<(), Failure> {
    let count = |health| findings.iter().filter(|it| it.health == health).count();
    match (count(Health::Bad), count(Health::Warning)) {
        _ if !reached => Err(Failure::Unreachable("the store cannot be reached".to_owned())),
        (0, 0) => Ok(()),
        (0, warnings) if !strict => {
            output::note(&format!("{warnings} to look at; nothing is bad"));
            Ok(())
        }
        (bad, warnings) => Err(Failure::Bad(format!("{bad} bad, {warnings} to look at"))),
    }
}

fn file(path: &Path, config: Option<&Config>) -> Finding {
    match config {
        Some(_) => Finding::good("file", format!("{} is good", path.display())),
        None => Finding::bad(
            "file",
            format!("{} is bad: a relay starts on the last good one, if at all", path.display()),
            "hookyard check",
        ),
    }
}

/// Whether the key opens what the store keeps sealed.
fn key(config: &Config, url: &Secret, sealed: &[Record]) -> Finding {
    const CHECK: &str = "key";
    const HELP: &str =
        "name the key they were sealed under as security.encryption_key, or among security.previous_encryption_keys";
    let sealer = match (&config.security.encryption_key, store::key_file(url, Path::new(""))) {
        (Some(key), _) => Sealer::new(key),
        (None, Some(file)) if file.exists() => Sealer::from_file(&file),
        (None, Some(file)) => {
            // None is made by looking.
            let said = format!("no {} yet", file.display());
            return if sealed.is_empty() {
                Finding::good(CHECK, format!("{said}: the first start makes it"))
            } else {
                Finding::bad(CHECK, format!("{said}, and {} subscriptions are sealed under one", sealed.len()), HELP)
            };
        }
        (None, None) => return Finding::bad(CHECK, "replicas that share a store need one", "set security.encryption_key"),
    };
    let sealer = sealer.and_then(|sealer| sealer.with_former(&config.security.previous_encryption_keys));
    match sealer.map(|sealer| rekey::opens(sealed, &sealer)) {
        Err(error) => Finding::bad(CHECK, error.to_string(), "hookyard check"),
        Ok(Opened { opened, closed: 0 }) => Finding::good(CHECK, format!("it opens the secrets of all {opened} subscriptions")),
        Ok(Opened { opened, closed }) => {
            let said =
                format!("it opens the secrets of {opened} subscriptions, and not those of {closed}, to which nothing is sent");
            Finding::bad(CHECK, said, HELP)
        }
    }
}

/// What the relay says of itself, where one answers.
async fn relay(relay: &Relay, config: Option<&Config>) -> Vec<Finding> {
    let (status, answer) = match relay.ready().await {
        Ok(answer) => answer,
        Err(why) => return vec![Finding::warning("relay", why.to_string(), "hookyard serve, or say where it is: --url")],
    };
    let said = &answer.json;
    let mut all = vec![match status {
        200 => Finding::good("relay", "it takes events"),
        _ => {
            let why = said["message"].as_str().unwrap_or("it does not say why");
            Finding::bad("relay", format!("it takes no events: {why}"), "it goes on by itself once that is over")
        }
    }];
    let hash = said["config"]["hash"].as_str().unwrap_or_default();
    all.push(match (said["config"]["error"].as_str(), config) {
        (Some(error), _) => Finding::bad("configuration", format!("it goes by an older file: {error}"), "hookyard check"),
        (None, Some(config)) if config.hash != hash => {
            let help = "hookyard reload";
            Finding::warning("configuration", "it goes by another file than this one", help)
        }
        _ => Finding::good("configuration", "it goes by this file"),
    });
    if relay.has_token() {
        all.push(targets(relay).await);
    }
    all
}

/// Targets to which nothing goes, and dead letters.
async fn targets(relay: &Relay) -> Finding {
    const CHECK: &str = "targets";
    let answer = match relay.get("/api/v1/targets", &[]).await {
        Ok(answer) => answer,
        Err(why) => {
            return Finding::warning(CHECK, why.to_string(), "set HOOKYARD_ADMIN_TOKEN to one with the scope deliveries:read");
        }
    };
    let state = |row: &Value| row["state"].as_str().unwrap_or_default().to_owned();
    let ill: Vec<String> = answer
        .list()
        .iter()
        .filter(|row| state(row) != "ok")
        .map(|row| format!("{} ({}, {} wait)", output::cell(row, "name"), state(row), output::cell(row, "backlog")))
        .collect();
    if ill.is_empty() {
        Finding::good(CHECK, format!("deliveries go to all {}", answer.list().len()))
    } else {
        Finding::warning(CHECK, format!("nothing goes to {}", ill.join(", ")), "hookyard target show <name>")
    }
}

fn tell(findings: &[Finding], shown: &str, json: bool) {
    if json {
        let one = |it: &Finding| json!({"check": it.check, "health": word(it.health), "message": it.said, "help": it.help});
        let ok = findings.iter().all(|it| it.health != Health::Bad);
        let all: Vec<Value> = findings.iter().map(one).collect();
        return output::raw(&json!({"data": {"ok": ok, "store": shown, "findings": all}}).to_string());
    }
    let width = findings.iter().map(|it| it.check.len()).max().unwrap_or_default();
    for Finding { check, health, said, help } in findings {
        output::line(&format!("{:7}  {check:width$}  {said}", word(*health)));
        if let Some(help) = help {
            output::line(&format!("{:7}  {:width$}  -> {help}", "", ""));
        }
    }
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Good => "ok",
        Health::Warning => "warning",
        Health::Bad => "bad",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_that_of_check() {
        let good = Finding::good("a", "");
        let (warning, bad) = (Finding::warning("b", "", ""), Finding::bad("c", "", ""));
        let status = |all: &[&Finding], strict, reached| match verdict(
            &all.iter().map(|it| (*it).clone()).collect::<Vec<_>>(),
            strict,
            reached,
        ) {
            Ok(()) => 0,
            Err(Failure::Bad(_)) => 1,
            Err(Failure::Unreachable(_)) => 3,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(status(&[&good], true, true), 0);
        assert_eq!((status(&[&good, &warning], false, true), status(&[&good, &warning], true, true)), (0, 1));
        assert_eq!((status(&[&good, &bad], false, true), status(&[&good, &bad], true, false)), (1, 3));
    }
}
