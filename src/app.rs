//! Puts the rooms together: sees every room, decides nothing. `serve`, `demo` and every test start the relay here.

use std::{net::SocketAddr, path::Path, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    announce::{self, Announcer, Announcing, Notice},
    api,
    clock::{Clock, Timestamp},
    config::Config,
    contacts::Contacts,
    deliver::{self, Deliver, Site},
    housekeeping,
    ingest::{self, Ingest},
    jobs::{self, Jobs},
    listen,
    reconnect::{self, Reconnecting},
    route::Router,
    seal::{self, Sealer},
    secret::Secret,
    store::{self, Pruned, Store},
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
    /// Work on many deliveries at once.
    pub jobs: Arc<Jobs>,
    /// Takes what is worth telling of the relay itself.
    pub announcer: Announcer,
    /// The rules, for the API to say why one matched.
    pub router: Arc<Router>,
    /// Makes reconnect links and follows them.
    pub reconnecting: Arc<Reconnecting>,
    /// Counts.
    pub metrics: Metrics,
    /// Seals what is kept secret at rest.
    pub sealer: Sealer,
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
    /// The client of `contacts_lookup` cannot be made.
    #[error("contacts_lookup: {0}")]
    Contacts(String),
    /// The client of the connector API cannot be made.
    #[error("reconnect: {0}")]
    Reconnect(String),
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
    announcing: Announcing,
}

impl App {
    /// Opens the store, binds both listeners, resumes deliveries and jobs.
    pub async fn build(config: Config, options: Options) -> Result<Self, StartError> {
        let metrics = Metrics::new(&config.hash);
        let store = store::open(&config.store.url, Path::new(""), options.clock.clone()).await?;
        // After the store: whoever starts a second relay by mistake learns that the store is in use, not that a port is.
        let (public, public_addr) = bind(&config.server.listen).await?;
        let (admin, admin_addr) = bind(&config.server.admin_listen).await?;
        let sealer = sealer(&config)?;
        let tidied = tell_limits(&*store, &config, options.clock.now()).await;
        let router = Router::new(config.rules.clone(), config.unmatched.clone(), deliver::orders(&config.destinations));
        let router = Arc::new(router.with_audiences(deliver::audiences(&config.destinations)));
        let (announcer, notices) = Announcer::new();
        let telling = announce::Parts { store: store.clone(), router: router.clone(), clock: options.clock.clone() };
        let announcing = announce::start(notices, telling);
        let stop = CancellationToken::new();
        let allowed = &config.security.allow_targets;
        let contacts = Contacts::start(config.contacts.clone(), allowed, &options.clock, announcer.clone());
        let contacts = contacts.map_err(StartError::Contacts)?;
        let reconnecting = Reconnecting::new(reconnect::Parts {
            settings: config.reconnect.as_ref(),
            public_url: config.server.public_url.clone(),
            allow_targets: &config.security.allow_targets,
            sealer: sealer.clone(),
            clock: options.clock.clone(),
        });
        let reconnecting = reconnecting.map_err(StartError::Reconnect)?;
        let mut templates = config.templates.clone();
        reconnect::add_template(config.reconnect.as_ref(), &mut templates);
        let deliver = Deliver::start(deliver::Parts {
            destinations: config.destinations.clone(),
            templates,
            contacts,
            allow_targets: config.security.allow_targets.clone(),
            site: Site {
                public_url: config.server.public_url.clone(),
                admin_url: config.server.admin_url.clone(),
                reconnecting: Some(reconnecting.clone()),
            },
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            announcer: announcer.clone(),
        })?;
        deliver.load().await?;
        let ingest = Arc::new(Ingest::new(ingest::Parts {
            sources: config.sources.clone(),
            router: router.clone(),
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            sealer: sealer.clone(),
            max_body: config.server.max_body,
            retention_events: config.store.retention.events,
        }));
        ingest.restore_statistics().await?;
        let jobs = Jobs::start(jobs::Parts {
            store: store.clone(),
            router: router.clone(),
            clock: options.clock.clone(),
            lanes: deliver.clone(),
            stop: stop.clone(),
        })
        .await?;
        announcer.tell(match &options.config_error {
            None => Notice::ConfigLoaded { hash: config.hash.clone() },
            Some(error) => Notice::ConfigRejected { error: error.clone() },
        });
        let handles = Handles {
            loaded_at: options.clock.now(),
            config: Arc::new(config),
            store,
            ingest,
            deliver,
            jobs,
            announcer,
            router,
            reconnecting,
            metrics,
            sealer,
            clock: options.clock,
            admin_token: options.admin_token,
            config_error: options.config_error.map(Arc::from),
            stop,
        };
        housekeeping::report(tidied, &handles);
        Ok(Self { handles, public_addr, admin_addr, public, admin, announcing })
    }

    /// Cancelling this stops the relay.
    pub fn shutdown(&self) -> CancellationToken {
        self.handles.stop.clone()
    }

    /// Answers requests until shutdown, then drains within `server.shutdown_grace` and closes the store.
    ///
    /// In this order, so that nothing acknowledged is left to chance: requests under way are answered, attempts and steps of
    /// jobs under way are recorded, what there is to tell of the relay itself is told, counts are kept, the store is closed. What is not
    /// sent by then waits in the store for the next start.
    pub async fn serve(self) {
        let Self { handles, public, admin, announcing, .. } = self;
        let (grace, stop) = (handles.config.server.shutdown_grace, handles.stop.clone());
        let tidying = tokio::spawn(housekeeping::run(handles.clone(), stop.clone()));
        let public = tokio::spawn(listen::serve(public, api::public(handles.clone()), stop.clone(), grace));
        let admin = tokio::spawn(listen::serve(admin, api::admin(handles.clone()), stop.clone(), grace));
        stop.cancelled().await;
        info!(grace_s = grace.as_secs(), "stopping: no new requests, finishing what is under way");
        let (_, _, (), ()) = tokio::join!(public, admin, handles.deliver.drain(grace), handles.jobs.drain());
        handles.ingest.flush().await;
        if tidying.await.is_err() {
            warn!("housekeeping had failed");
        }
        announcing.finish().await;
        if let Err(error) = handles.ingest.keep_statistics().await {
            warn!("the counts of the sources since the last round are lost: {error}");
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

/// The store learns its limits by pruning: once before the first event, so that none comes in beyond them. A store that
/// cannot be pruned now takes no events either, and is pruned again later. Answers what went.
async fn tell_limits(store: &dyn Store, config: &Config, now: Timestamp) -> Pruned {
    store.prune(now, config.store.retention, Vec::new()).await.unwrap_or_else(|error| {
        warn!(%error, "the store could not be tidied before the start");
        Pruned::default()
    })
}

/// The configured key, or the key file beside the store.
fn sealer(config: &Config) -> Result<Sealer, StartError> {
    match &config.security.encryption_key {
        Some(key) => Ok(Sealer::new(key)?),
        None => Ok(Sealer::from_file(&store::key_file(&config.store.url, Path::new("")))?),
    }
}
