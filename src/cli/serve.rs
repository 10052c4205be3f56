//! `hookyard serve`: runs the relay until it is told to stop.

use std::{io, path::PathBuf, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Failure, output};
use crate::{
    app::{App, Handles, Options, StartError},
    clock::Clock,
    config::{Loaded, report},
    reload::{self, Rejected, Reloader, ending, last_good},
    secret::Secret,
    store,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the relay runs on
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
}

/// Exit status after a second signal, as shells have it for SIGINT.
const FORCED: i32 = 130;

/// Starts the relay, says where it listens, and serves until SIGTERM or SIGINT.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let cannot_listen = |error| Failure::Bad(format!("signals cannot be listened to: {error}"));
    // From here on it does not end the process.
    let hangups = signal(SignalKind::hangup()).map_err(cannot_listen)?;
    let reloader = Arc::new(Reloader::of(args.config));
    let loaded = reloader.load().await.ok_or_else(|| Failure::Bad("the file could not be read".to_owned()))?;
    let clock = Clock::system();
    let rejected = if loaded.config.is_none() { Rejected::of(&loaded, clock.now()) } else { None };
    let config = match loaded.config.clone() {
        Some(config) => config,
        None => last_good::find(&loaded).await.map_err(|error| unknown(&loaded, &error))?.ok_or_else(|| refused(&loaded))?,
    };
    let good = rejected.is_none();
    if good {
        report::warnings(&loaded).iter().for_each(|line| warn!("{line}"));
    }
    let options = Options { clock, admin_token: admin_token(), rejected, reloader };
    let app = App::build(config, options).await.map_err(cannot_start)?;
    stop_on_signals(app.shutdown()).map_err(cannot_listen)?;
    ending::at_start(&app.handles, &loaded).await;
    if good {
        last_good::keep(&app.handles, &loaded.files).await;
    }
    announce(&app);
    tokio::spawn(reload_on_hangups(hangups, app.handles.clone()));
    tokio::spawn(reload::watch::run(app.handles.clone()));
    app.serve().await;
    Ok(())
}

/// Reads the file again at every SIGHUP until the relay stops.
async fn reload_on_hangups(mut hangups: Signal, handles: Handles) {
    let stop = handles.stop.clone();
    while let Some(Some(())) = stop.run_until_cancelled(hangups.recv()).await {
        info!("told to read the configuration again");
        // What came of it is in the log already.
        let _ = reload::reload(&handles, false).await;
    }
}

/// Shows the problems; nothing is left to run on.
fn refused(loaded: &Loaded) -> Failure {
    output::block(&report::text(loaded, output::note_coloured()));
    Failure::Bad("the configuration is bad, and the store holds no good one".to_owned())
}

/// Likewise where the store cannot tell: it may, later.
fn unknown(loaded: &Loaded, error: &store::Error) -> Failure {
    output::block(&report::text(loaded, output::note_coloured()));
    Failure::Unreachable(format!("the configuration is bad, and whether the store holds a good one cannot be told: {error}"))
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

fn announce(app: &App) {
    let config = app.handles.config();
    info!(public.addr = %app.public_addr, admin.addr = %app.admin_addr, config.hash = %config.hash, "listening");
    let base = config.server.public_url.as_ref().map_or_else(|| format!("http://{}", app.public_addr), ToString::to_string);
    for source in &config.sources {
        let Some(path) = source.masked_path() else { continue };
        let url = format!("{}{path}", base.trim_end_matches('/'));
        info!(source.name = %source.name, source.kind = source.kind(), source.url = %url, "source {} takes webhooks at {url}", source.name);
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
