//! `hookyard serve`: runs the relay until it is told to stop.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Failure, output};
use crate::{
    app::{App, Options, StartError},
    clock::Clock,
    config::{self, Config, File, Loaded, System, report},
    secret::Secret,
    store,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the relay runs on
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
}

/// Where the store keeps the text of the last file that was good.
const LAST_GOOD: &str = "config.last_good";
/// Exit status after a second signal, as shells have it for SIGINT.
const FORCED: i32 = 130;

/// Starts the relay, says where it listens, and serves until SIGTERM or SIGINT.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let loaded = config::load(&args.config, &System);
    let text = loaded.file.text.clone();
    let (config, config_error) = match loaded.config.clone() {
        Some(config) => (config, None),
        None => last_good(&loaded).await.ok_or_else(|| refused(&loaded))?,
    };
    let good = config_error.is_none();
    let options = Options { clock: Clock::system(), admin_token: admin_token(), config_error };
    let app = App::build(config, options).await.map_err(cannot_start)?;
    stop_on_signals(app.shutdown()).map_err(|error| Failure::Bad(format!("signals cannot be listened to: {error}")))?;
    if good {
        remember(&app, text).await;
    }
    announce(&app);
    app.serve().await;
    Ok(())
}

/// The last good file that the store of this one holds, and what is wrong with the file on disk.
async fn last_good(loaded: &Loaded) -> Option<(Config, Option<String>)> {
    let why = report::headline(loaded)?;
    let text = kept(&loaded.file.text).await?;
    let older = config::parse(File { path: loaded.file.path.clone(), text }, &System);
    let config = older.config?;
    error!(config.error = %why, config.hash = %config.hash, "the configuration is bad: running on the last good one");
    Some((config, Some(why)))
}

/// What the store keeps as the last good file. A store is not made for that.
async fn kept(text: &str) -> Option<String> {
    let url = store_url(text);
    let path = Path::new(url.strip_prefix("sqlite://")?);
    if !tokio::fs::try_exists(path).await.unwrap_or(false) {
        return None;
    }
    let opened = store::open(&Secret::new(url.as_str()), Path::new(""), Clock::system()).await;
    let store = opened.inspect_err(|error| warn!("the store has no last good configuration to tell: {error}")).ok()?;
    let kept = store.setting(LAST_GOOD).await;
    store.close().await;
    kept.ok().flatten()
}

/// The store's URL in a file that may be too bad to be read: the first that stands outside comments, else the default.
fn store_url(text: &str) -> String {
    let found = text.lines().filter_map(|line| {
        let line = line.split_once(" #").map_or(line, |(data, _)| data);
        let at = (!line.trim_start().starts_with('#')).then(|| line.find("sqlite://")).flatten()?;
        line.get(at..)?.split(['"', '\'', ',', '}', ' ', '\t']).next()
    });
    found.map(str::to_owned).next().unwrap_or_else(|| "sqlite://hookyard.db".to_owned())
}

/// Shows the problems; nothing is left to run on.
fn refused(loaded: &Loaded) -> Failure {
    output::block(&report::text(loaded, false));
    Failure::Bad("the configuration is bad, and the store holds no good one".to_owned())
}

fn admin_token() -> Option<Secret> {
    let text = std::env::var("HOOKYARD_ADMIN_TOKEN").unwrap_or_default();
    let token = Some(text.trim()).filter(|token| !token.is_empty());
    if token.is_none() {
        warn!("HOOKYARD_ADMIN_TOKEN is not set: the API answers 401 to everybody");
    }
    token.map(Secret::new)
}

/// What kept the relay from starting, with its exit status.
pub(super) fn cannot_start(error: StartError) -> Failure {
    match error {
        StartError::Store(error) => Failure::Unreachable(error.to_string()),
        error => Failure::Bad(error.to_string()),
    }
}

async fn remember(app: &App, text: String) {
    if let Err(error) = app.handles.store.set_setting(LAST_GOOD, text).await {
        warn!("the configuration cannot be kept as the last good one: {error}");
    }
}

fn announce(app: &App) {
    let config = &app.handles.config;
    info!(public.addr = %app.public_addr, admin.addr = %app.admin_addr, config.hash = %config.hash, "listening");
    let base = config.server.public_url.as_ref().map_or_else(|| format!("http://{}", app.public_addr), ToString::to_string);
    for source in &config.sources {
        let url = format!("{}{}", base.trim_end_matches('/'), source.masked_path());
        info!(source.name = %source.name, source.kind = source.kind(), source.url = %url, "source");
    }
}

/// The first SIGTERM or SIGINT stops the relay in good order, the second at once. What is on disk stands either way.
pub(super) fn stop_on_signals(stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        stop.cancel();
        either(&mut terminate, &mut interrupt).await;
        warn!("told twice to stop: stopping at once");
        std::process::exit(FORCED);
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_found_in_a_file_that_cannot_be_read() {
        for (text, url) in [
            ("server: {\nstore:\n  url: sqlite://a/b.db   # or sqlite://c\n", "sqlite://a/b.db"),
            ("# url: sqlite://not.db\nstore: {url: \"sqlite:///var/x.db\", retention: {}}", "sqlite:///var/x.db"),
            ("version: [", "sqlite://hookyard.db"),
        ] {
            assert_eq!(store_url(text), url);
        }
    }
}
