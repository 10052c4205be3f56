//! Puts the rooms together: sees every room, decides nothing. `serve`, `demo` and every test start the relay here.

use std::{net::SocketAddr, path::Path, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api,
    clock::{Clock, Timestamp},
    config::Config,
    deliver::{self, Deliver},
    housekeeping,
    ingest::{self, Ingest},
    listen,
    route::Router,
    seal::{self, Sealer},
    secret::Secret,
    store::{self, Store},
    telemetry::Metrics,
};

/// What a relay is started with besides its configuration.
#[derive(Debug)]
pub struct Options {
    /// What time it is.
    pub clock: Clock,
    /// The bearer token that may do everything (`HOOKYARD_ADMIN_TOKEN`). `None`: the API answers 401.
    pub admin_token: Option<Secret>,
    /// What is wrong with the file on disk when the relay runs on an older configuration; shown everywhere.
    pub config_error: Option<String>,
}

/// Handles of the running relay, for the API and for tests. Cheap to clone.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Handles {
    /// What it runs on.
    pub config: Arc<Config>,
    /// Since when.
    pub loaded_at: Timestamp,
    /// What is on disk.
    pub store: Arc<dyn Store>,
    /// The public side.
    pub ingest: Arc<Ingest>,
    /// The sending side.
    pub deliver: Arc<Deliver>,
    /// The rules, for the API to say why one matched.
    pub router: Arc<Router>,
    /// Counts.
    pub metrics: Metrics,
    /// What time it is.
    pub clock: Clock,
    /// See [`Options::admin_token`].
    pub admin_token: Option<Secret>,
    /// See [`Options::config_error`].
    pub config_error: Option<Arc<str>>,
    /// Cancelled when the relay stops.
    pub stop: CancellationToken,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The encryption key does not serve.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// A destination's client cannot be made.
    #[error(transparent)]
    Deliver(#[from] deliver::StartError),
}

/// A relay that listens already and runs with [`App::serve`].
#[expect(missing_debug_implementations, reason = "handles")]
pub struct App {
    /// Its parts.
    pub handles: Handles,
    /// Where the public listener is.
    pub public_addr: SocketAddr,
    /// Where the admin listener is.
    pub admin_addr: SocketAddr,
    public: TcpListener,
    admin: TcpListener,
}

impl App {
    /// Opens the store, binds both listeners, resumes deliveries.
    pub async fn build(config: Config, options: Options) -> Result<Self, StartError> {
        let (public, public_addr) = bind(&config.server.listen).await?;
        let (admin, admin_addr) = bind(&config.server.admin_listen).await?;
        let metrics = Metrics::new(&config.hash);
        let store = store::open(&config.store.url, Path::new(""), options.clock.clone()).await?;
        let sealer = sealer(&config)?;
        let router = Arc::new(Router::new(config.rules.clone(), config.unmatched.clone()));
        let deliver = Deliver::start(deliver::Parts {
            destinations: config.destinations.clone(),
            templates: config.templates.clone(),
            allow_targets: config.security.allow_targets.clone(),
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
        })?;
        let ingest = Arc::new(Ingest::new(ingest::Parts {
            sources: config.sources.clone(),
            router: router.clone(),
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            sealer,
            max_body: config.server.max_body,
            retention_events: config.store.retention.events,
        }));
        let handles = Handles {
            loaded_at: options.clock.now(),
            config: Arc::new(config),
            store,
            ingest,
            deliver,
            router,
            metrics,
            clock: options.clock,
            admin_token: options.admin_token,
            config_error: options.config_error.map(Arc::from),
            stop: CancellationToken::new(),
        };
        Ok(Self { handles, public_addr, admin_addr, public, admin })
    }

    /// Cancelling this stops the relay.
    pub fn shutdown(&self) -> CancellationToken {
        self.handles.stop.clone()
    }

    /// Answers requests until shutdown, then drains within `server.shutdown_grace` and closes the store.
    ///
    /// In this order, so that nothing acknowledged is left to chance: requests under way are answered, attempts under way
    /// are recorded, the store is closed. What is not sent by then waits in the store for the next start.
    pub async fn serve(self) {
        let Self { handles, public, admin, .. } = self;
        let (grace, stop) = (handles.config.server.shutdown_grace, handles.stop.clone());
        let tidying = tokio::spawn(housekeeping::run(handles.clone(), stop.clone()));
        let public = tokio::spawn(listen::serve(public, api::public(handles.clone()), stop.clone(), grace));
        let admin = tokio::spawn(listen::serve(admin, api::admin(handles.clone()), stop.clone(), grace));
        stop.cancelled().await;
        info!(grace_s = grace.as_secs(), "stopping: no new requests, finishing what is under way");
        let (_, _, ()) = tokio::join!(public, admin, handles.deliver.drain(grace));
        handles.ingest.flush().await;
        if tidying.await.is_err() {
            warn!("housekeeping had failed");
        }
        handles.store.close().await;
        info!("stopped");
    }
}

async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The configured key, or the key file beside the store.
fn sealer(config: &Config) -> Result<Sealer, StartError> {
    match &config.security.encryption_key {
        Some(key) => Ok(Sealer::new(key)?),
        None => Ok(Sealer::from_file(&store::key_file(&config.store.url, Path::new("")))?),
    }
}
