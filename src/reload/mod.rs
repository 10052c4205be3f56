//! Another file in the place of the one the relay goes by: read again because somebody says so (signal, API) or because it has changed
//! ([`watch`]), checked, and handed to [`Handles::switch`] when it is good. A bad one changes nothing, and shows in the log, in
//! `relay.config.rejected`, in `/api/v1/config` and in metrics. Decides nothing of what a file means.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::{
    announce::Notice,
    app::{Handles, StartError},
    clock::Timestamp,
    config::{
        self, Config, Environment, Loaded, System,
        report::{self, Diagnostic},
    },
    deliver, sign,
};

pub(crate) mod ending;
pub(crate) mod last_good;
mod outcome;
pub mod watch;

pub use outcome::{Outcome, Waiting};
use watch::{Looker, Seen};

/// How often a file is read anew that changes while it is read.
const TRIES: usize = 10;
/// How long such a file is left alone.
const AGAIN: Duration = Duration::from_millis(200);

/// A file that was not taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rejected {
    /// The first error and how many there are, in one line.
    pub error: String,
    /// Everything wrong with it.
    pub problems: Vec<Diagnostic>,
    /// How many further problems there are.
    pub left_off: usize,
    /// When it was read.
    #[serde(skip)]
    pub at: Timestamp,
}

impl Rejected {
    /// What is wrong with `loaded`; `None` when nothing is.
    pub fn of(loaded: &Loaded, at: Timestamp) -> Option<Self> {
        let error = report::headline(loaded)?;
        Some(Self { error, problems: report::diagnostics(loaded), left_off: loaded.left_off, at })
    }

    /// Whether `other` says the same.
    fn says(&self, other: &Self) -> bool {
        (&self.error, &self.problems) == (&other.error, &other.problems)
    }
}

/// Why a file was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The relay was given no file.
    #[error("the relay was started without a file: there is nothing to read again")]
    NoFile,
    /// It goes by what it has until it is gone.
    #[error("the relay is stopping")]
    Stopping,
    /// It is bad.
    #[error("{}", .0.error)]
    Bad(Box<Rejected>),
}

/// Reads the file of one relay, one reader at a time.
#[derive(Debug)]
pub struct Reloader {
    file: Option<PathBuf>,
    turn: tokio::sync::Mutex<()>,
    /// What was read last, and what is looked at for a change.
    looker: Mutex<Looker>,
}

impl Reloader {
    /// Reads the file at `path`, and those it names.
    pub fn of(path: PathBuf) -> Self {
        let looker = Looker::new(&path);
        Self { file: Some(path), turn: tokio::sync::Mutex::default(), looker: Mutex::new(looker) }
    }

    /// For a relay without a file.
    pub fn without_file() -> Self {
        Self { file: None, turn: tokio::sync::Mutex::default(), looker: Mutex::default() }
    }

    /// The file, where there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What the file says, once it stands still, remembering what it was made of. `None` where there is none.
    pub async fn load(self: &Arc<Self>) -> Option<Loaded> {
        let mut tries = 1;
        loop {
            let (reloader, path) = (self.clone(), self.file.clone()?);
            let loaded = tokio::task::spawn_blocking(move || reloader.load_once(&path)).await.ok()?;
            let changing = loaded.problems.iter().any(|problem| problem.code == "changed-while-read");
            if !changing || TRIES <= tries {
                return Some(loaded);
            }
            tries += 1;
            sleep(AGAIN).await;
        }
    }

    fn load_once(&self, path: &Path) -> Loaded {
        // Looked at before it is read: a change meanwhile is one that is still to come.
        let before = self.looker().look();
        let noting = Noting::default();
        let loaded = config::load(path, &noting);
        let secrets = noting.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.looker().read(path, &loaded, secrets, before);
        loaded
    }

    fn looker(&self) -> MutexGuard<'_, Looker> {
        self.looker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the file again and goes by it when it is good; answers when that is done. Whoever asks may hang up: it is done all the same.
/// `newest`: whoever asks says that it is the newest of all replicas, though it may have been that before.
///
/// # Errors
/// [`Failure`]: then nothing has changed.
pub async fn reload(handles: &Handles, newest: bool) -> Result<Outcome, Failure> {
    let handles = handles.clone();
    let turn = tokio::spawn(async move {
        let reloader = handles.reloader.clone();
        let _turn = reloader.turn.lock().await;
        if handles.stop.is_cancelled() {
            return Err(Failure::Stopping);
        }
        let loaded = reloader.load().await.ok_or(Failure::NoFile)?;
        take(&handles, loaded, newest).await
    });
    turn.await.unwrap_or(Err(Failure::Stopping))
}

/// The environment and the files of this machine; remembers which files were asked for, and what they held.
#[derive(Default)]
struct Noting(Mutex<Seen>);

impl Environment for Noting {
    fn var(&self, name: &str) -> Option<String> {
        System.var(name)
    }

    fn file(&self, path: &Path) -> std::io::Result<String> {
        let text = System.file(path);
        let content = text.as_ref().ok().map(|text| sign::sha256(&[text.as_bytes()]));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), content);
        text
    }
}

/// Goes by `loaded` when it is good, and says everywhere what came of it.
async fn take(handles: &Handles, mut loaded: Loaded, newest: bool) -> Result<Outcome, Failure> {
    let former = handles.generation.now();
    config::needs_restart(&former.config, &mut loaded);
    if let Some(config) = loaded.config.take() {
        ending::note(handles, &former.config, &config).await;
        match switch(handles, config.clone()).await {
            Ok(()) => return Ok(taken(handles, &former.config, config, &loaded, newest).await),
            Err((destination, message)) => config::refuse(&mut loaded, destination.as_deref(), message),
        }
    }
    let now = handles.clock.now();
    match Rejected::of(&loaded, now) {
        Some(rejected) => {
            reject(handles, rejected.clone(), &loaded);
            Err(Failure::Bad(Box::new(rejected)))
        }
        // A file without a configuration has an error.
        None => Err(Failure::Stopping),
    }
}

/// Builds what the file says, off the threads that answer requests, and goes by it. The error names the destination, where it is one.
async fn switch(handles: &Handles, config: Config) -> Result<(), (Option<String>, String)> {
    let by = handles.clone();
    let switched = tokio::task::spawn_blocking(move || by.switch(config)).await;
    switched.map_err(|error| (None, error.to_string()))?.map_err(|error| {
        let destination = match &error {
            StartError::Deliver(deliver::StartError::Client { target, .. }) => Some(target.to_string()),
            _ => None,
        };
        (destination, error.to_string())
    })
}

async fn taken(handles: &Handles, former: &Config, config: Config, loaded: &Loaded, newest: bool) -> Outcome {
    let now = handles.clock.now();
    let was_rejected = handles.rejected.now().is_some();
    handles.rejected.replace(Arc::new(None));
    handles.metrics.config_read(Some(now));
    // That asks the store: what is shown of the file has been told by now, and whether the last good one is another's is known after.
    handles.generations.goes_by(&config, newest).await;
    if let Err(error) = handles.deliver.load().await {
        warn!(%error, "how a lane stood is not known yet");
    }
    last_good::keep(handles, &loaded.files).await;
    ending::go_on(handles, loaded).await;
    report::warnings(loaded).iter().for_each(|line| warn!("{line}"));
    let outcome = outcome::of(handles, former, &config, report::diagnostics(loaded), now).await;
    info!(config.hash = %config.hash, changed = outcome.changed, "the configuration is loaded");
    for waiting in &outcome.waiting {
        warn!(target.name = %waiting.target, deliveries = waiting.deliveries, "deliveries wait without their destination: {}", waiting.help);
    }
    if outcome.changed || was_rejected {
        handles.announcer.tell(Notice::ConfigLoaded { hash: config.hash.clone() });
    }
    outcome
}

/// Says that a file was not taken; of the same once only, wherever somebody would be told.
fn reject(handles: &Handles, rejected: Rejected, loaded: &Loaded) {
    let hash = handles.config().hash.clone();
    error!(config.error = %rejected.error, config.hash = %hash, "the configuration is bad and changes nothing: the relay goes on with the last good one");
    handles.metrics.config_read(None);
    let known = handles.rejected.now().as_ref().as_ref().is_some_and(|known| known.says(&rejected));
    if !known {
        report::errors(loaded).iter().for_each(|line| error!("{line}"));
        handles.announcer.tell(Notice::ConfigRejected { error: rejected.error.clone() });
    }
    handles.rejected.replace(Arc::new(Some(rejected)));
}
