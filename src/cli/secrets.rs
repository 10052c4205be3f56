//! `hookyard secrets`: after the encryption key was changed, seals anew what the former one sealed.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Failure,
    client::{Access, Relay},
    output,
};
use crate::{
    app,
    clock::Clock,
    config,
    rekey::{self, Counted, Slice},
    store::{self, Change, NewAudit},
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_required = true)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Seals anew, under encryption_key, what is sealed under previous_encryption_keys
    ///
    /// Asks the running relay; where none runs, works on the store that the configuration names. May be broken off and begun again.
    Rekey(Rekey),
}

#[derive(Debug, clap::Args)]
struct Rekey {
    #[command(flatten)]
    access: Access,
}

/// What came of all slices.
#[derive(Default)]
struct Sum {
    subscriptions: Counted,
    rejections: Counted,
}

/// Seals anew, and prints the counts.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let access = args.what.map_or(args.access, |What::Rekey(Rekey { access })| access);
    let sum = match by_relay(&access.relay()?, access.json).await {
        Err(Failure::Unreachable(why)) => on_file(&access.config, access.json, &why).await?,
        done => done?,
    };
    sum.print(access.json);
    match sum.subscriptions.closed + sum.rejections.closed {
        0 => Ok(()),
        closed => Err(Failure::Bad(format!(
            "{closed} could not be opened: the key they were sealed under is not among security.previous_encryption_keys"
        ))),
    }
}

async fn by_relay(relay: &Relay, quiet: bool) -> Result<Sum, Failure> {
    let mut sum = Sum::default();
    let mut after = None;
    loop {
        let answer = relay.post_json("/api/v1/secrets/rekey", json!({"after": after}).to_string()).await?;
        let data = &answer.json["data"];
        sum.add(counted(&data["subscriptions"]), counted(&data["rejections"]), quiet);
        match data["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(sum),
        }
    }
}

fn counted(of: &Value) -> Counted {
    let number = |name: &str| of[name].as_u64().unwrap_or_default();
    Counted { sealed: number("sealed"), current: number("current"), closed: number("closed") }
}

/// Works on the store itself. `why` says what kept the relay from being asked.
async fn on_file(path: &Path, quiet: bool, why: &str) -> Result<Sum, Failure> {
    let loaded = config::load(path, &config::System);
    let config =
        loaded.config.ok_or_else(|| Failure::Bad(format!("{why}; and {} is bad: see `hookyard check`", path.display())))?;
    // A store that is not there is not made for this.
    if store::file(&config.store.url, Path::new("")).is_some_and(|file| !file.exists()) {
        return Err(Failure::Unreachable(format!("{why}; and there is no store to work on")));
    }
    if !quiet {
        output::note("no relay answers: working on the store itself …");
    }
    let unreachable = |error: store::Error| Failure::Unreachable(format!("{why}; and {error}"));
    let sealer = app::sealer(&config).map_err(|error| Failure::Bad(error.to_string()))?;
    let clock = Clock::system();
    let store = store::open(&config.store.url, Path::new(""), clock.clone()).await.map_err(unreachable)?;
    let done = async {
        let mut sum = Sum::default();
        let subscriptions = rekey::subscriptions(&*store, &sealer).await?;
        let mut slice = rekey::slice(&*store, &sealer, 0, subscriptions).await?;
        loop {
            sum.add(slice.subscriptions, slice.rejections, quiet);
            let Slice { next: Some(after), .. } = slice else { break };
            slice = rekey::slice(&*store, &sealer, after, Counted::default()).await?;
        }
        if 0 < sum.subscriptions.sealed + sum.rejections.sealed {
            let (who, action, subject) = ("command line".to_owned(), "secrets.rekeyed".to_owned(), "encryption_key".to_owned());
            let entry = NewAudit { at: clock.now(), who, action, subject, before: None, after: Some(sum.json().to_string()) };
            store.change(Change { audit: vec![entry], ..Change::default() }).await?;
        }
        Ok(sum)
    };
    let done = done.await.map_err(unreachable);
    store.close().await;
    done
}

impl Sum {
    fn add(&mut self, subscriptions: Counted, rejections: Counted, quiet: bool) {
        self.subscriptions += subscriptions;
        self.rejections += rejections;
        if !quiet && 0 < subscriptions.sealed + rejections.sealed {
            output::note(&format!(
                "sealed anew so far: {} subscriptions, {} rejections",
                self.subscriptions.sealed, self.rejections.sealed
            ));
        }
    }

    fn json(&self) -> Value {
        let counted = |of: Counted| json!({"sealed": of.sealed, "current": of.current, "closed": of.closed});
        json!({"subscriptions": counted(self.subscriptions), "rejections": counted(self.rejections)})
    }

    fn print(&self, json: bool) {
        if json {
            return output::raw(&json!({"data": self.json()}).to_string());
        }
        for (what, of) in [("subscriptions", self.subscriptions), ("rejections", self.rejections)] {
            let Counted { sealed, current, closed } = of;
            output::line(&format!(
                "{what}: {sealed} sealed anew, {current} were under today's key, {closed} could not be opened"
            ));
        }
    }
}
