//! Puts the rooms together: sees every room, decides nothing. `serve`, `demo` and every test start the relay here.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::generation::{Built, Fixed};
use crate::{
    access::Tokens,
    announce::{self, Announcer, Announcing, Notice},
    api,
    clock::{Clock, Timestamp},
    config::Config,
    deliver::{self, Deliver},
    generations::{self, Generations},
    housekeeping,
    ingest::{self, Ingest, Pollers},
    jobs::{self, Jobs},
    listen,
    live::Live,
    reconnect::Reconnecting,
    rekey::{self, Opened},
    reload::{Rejected, Reloader},
    replicas,
    route::{Router, Subscribers},
    seal::{self, Sealer},
    secret::Secret,
    store::{self, Pruned, Store},
    subscriptions::{self, EventTypes, Subscriptions},
    telemetry::Metrics,
};

mod generation;

pub use generation::Generation;

/// What a relay is started with besides its configuration.
#[derive(Debug)]
pub struct Options {
    /// What time it is.
    pub clock: Clock,
    /// The bearer token that may do everything (`HOOKYARD_ADMIN_TOKEN`). `None`: the API answers 401, whatever token is shown.
    pub admin_token: Option<Secret>,
    /// What is wrong with the file on disk when the relay runs on an older configuration; shown everywhere.
    pub rejected: Option<Rejected>,
    /// Reads the file again when somebody says so.
    pub reloader: Arc<Reloader>,
}

/// Handles of the running relay, for the API and for tests. Cheap to clone.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Handles {
    /// What it goes by now. Whoever needs more than one part of it takes it once.
    pub generation: Live<Generation>,
    /// What is wrong with the file on disk when the relay goes by an older one.
    pub rejected: Live<Option<Rejected>>,
    /// Reads the file again.
    pub reloader: Arc<Reloader>,
    /// What is on disk.
    pub store: Arc<dyn Store>,
    /// Which configuration is the newest of all replicas.
    pub generations: Arc<Generations>,
    /// The public side.
    pub ingest: Arc<Ingest>,
    /// Asks the sources that are polled.
    pub pollers: Arc<Pollers>,
    /// The sending side.
    pub deliver: Arc<Deliver>,
    /// Who takes what by subscription, whatever the file says.
    pub subscribers: Subscribers,
    /// Ways out registered by API.
    pub subscriptions: Arc<Subscriptions>,
    /// Work on many deliveries at once.
    pub jobs: Arc<Jobs>,
    /// Takes what is worth telling of the relay itself.
    pub announcer: Announcer,
    /// Makes reconnect links and follows them.
    pub reconnecting: Live<Reconnecting>,
    /// Counts.
    pub metrics: Metrics,
    /// Seals what is kept secret at rest.
    pub sealer: Sealer,
    /// Places for requests of the API that last.
    pub lasting: api::Lasting,
    /// What time it is.
    pub clock: Clock,
    /// See [`Options::admin_token`].
    pub admin_token: Option<Secret>,
    /// The tokens that people have created.
    pub tokens: Arc<Tokens>,
    /// How much may be asked of the API, on both listeners together.
    pub(crate) limits: Arc<api::Limits>,
    /// Cancelled when the relay stops.
    pub stop: CancellationToken,
    /// The rules, for those who need nothing else of the file.
    routers: Live<Router>,
}

impl Handles {
    /// What the relay runs on now.
    pub fn config(&self) -> Arc<Config> {
        self.generation.now().config.clone()
    }

    /// The rules it plans with now.
    pub fn router(&self) -> Arc<Router> {
        self.generation.now().router.clone()
    }

    /// Goes by `config` from now on: everything is built first, and only then put in the place of what there was, which cannot fail.
    /// A request that has begun, and an attempt under way, end as they began. One at a time, and on a runtime.
    ///
    /// # Errors
    /// What cannot be built; then nothing has changed.
    pub fn switch(&self, config: Config) -> Result<(), StartError> {
        let former = self.generation.now();
        let Built { generation, ways_in, ways_out, reconnecting, asked } = Built::of(config, &self.fixed(), Some(&former))?;
        let prepared = self.deliver.prepare(ways_out)?;
        // Lanes first: whatever is planned by the new rules finds them.
        self.reconnecting.replace(reconnecting);
        self.deliver.switch(prepared);
        self.routers.replace(generation.router.clone());
        self.ingest.switch(ways_in);
        // After that: a source that was polled and is pushed to now is asked a last time.
        self.pollers.switch(asked);
        let config = &generation.config;
        self.subscriptions.follow(config.subscriptions.clone(), config.event_types.clone());
        self.metrics.configured(&generation.config.hash);
        self.generation.replace(Arc::new(generation));
        Ok(())
    }

    fn fixed(&self) -> Fixed {
        Fixed {
            clock: self.clock.clone(),
            announcer: self.announcer.clone(),
            sealer: self.sealer.clone(),
            subscribers: self.subscribers.clone(),
        }
    }
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
    /// The encryption key is another than the one that sealed what the store keeps.
    #[error(
        "the encryption key opens the secrets of none of the {subscriptions} subscriptions in the store, so that nothing sent to them \
         could be signed: start with the key they were sealed under, or put it under security.previous_encryption_keys (without \
         encryption_key, the key is in the file beside the store, with `.key` behind its name)"
    )]
    WrongKey {
        /// How many there are.
        subscriptions: u64,
    },
    /// Several processes share the store, and no key was given that they could share.
    #[error("`security.encryption_key` is needed: the store is shared, and every replica must read what another has sealed")]
    NoKey,
    /// The client of `contacts_lookup` cannot be made.
    #[error("contacts_lookup: {0}")]
    Contacts(String),
    /// The client of the connector API cannot be made.
    #[error("reconnect: {0}")]
    Reconnect(String),
    /// The client of a source that is polled cannot be made.
    #[error("{0}")]
    Poll(String),
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
        fits(&sealer, &*store).await?;
        let tidied = tell_limits(&*store, &config, options.clock.now()).await;
        let (announcer, notices) = Announcer::new();
        let subscribers = Subscribers::default();
        let fixed = Fixed {
            clock: options.clock.clone(),
            announcer: announcer.clone(),
            sealer: sealer.clone(),
            subscribers: subscribers.clone(),
        };
        let Built { generation, ways_in, ways_out, reconnecting, asked } = Built::of(config, &fixed, None)?;
        let routers = Live::new(generation.router.clone());
        let telling = announce::Parts { store: store.clone(), router: routers.clone(), clock: options.clock.clone() };
        let announcing = announce::start(notices, telling);
        let stop = CancellationToken::new();
        let parts = generations::Parts {
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            announcer: announcer.clone(),
            sealer: sealer.clone(),
        };
        let generations = Generations::join(parts, &generation.config).await;
        let parts = deliver::Parts {
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            announcer: announcer.clone(),
            profile: generations.profile(),
        };
        let deliver = Deliver::start(parts, ways_out)?;
        deliver.load().await?;
        let types = Arc::new(EventTypes::new(generation.config.event_types.0.clone()));
        let parts = subscriptions::Parts {
            store: store.clone(),
            sealer: sealer.clone(),
            clock: options.clock.clone(),
            announcer: announcer.clone(),
            subscribers: subscribers.clone(),
            types: types.clone(),
        };
        let subscriptions = Subscriptions::load(parts, generation.config.subscriptions.clone()).await?;
        let parts = ingest::Parts {
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            sealer: sealer.clone(),
            types,
            announcer: announcer.clone(),
        };
        let ingest = Arc::new(Ingest::new(parts, ways_in));
        ingest.restore_statistics().await?;
        let tokens = Tokens::load(store.clone()).await?;
        let limits = Arc::new(api::Limits::new(generation.config.server.api_rate_limit, &options.clock));
        let parts = ingest::poll::Parts {
            ingest: ingest.clone(),
            store: store.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
            announcer: announcer.clone(),
            ownership: deliver.ownership(),
        };
        let pollers = Pollers::start(parts, asked, stop.clone());
        let jobs = Jobs::start(jobs::Parts {
            store: store.clone(),
            router: routers.clone(),
            clock: options.clock.clone(),
            lanes: deliver.clone(),
            ownership: deliver.ownership(),
            stop: stop.clone(),
        })
        .await?;
        subscriptions.start(deliver.clone(), jobs.clone(), stop.clone()).await?;
        generations.started().await;
        metrics.config_read(options.rejected.is_none().then(|| options.clock.now()));
        announcer.tell(match &options.rejected {
            None => Notice::ConfigLoaded { hash: generation.config.hash.clone() },
            Some(rejected) => Notice::ConfigRejected { error: rejected.error.clone() },
        });
        let handles = Handles {
            generation: Live::new(Arc::new(generation)),
            rejected: Live::new(Arc::new(options.rejected)),
            reloader: options.reloader,
            store,
            generations,
            ingest,
            pollers,
            deliver,
            subscribers,
            subscriptions,
            jobs,
            announcer,
            reconnecting: Live::new(reconnecting),
            metrics,
            sealer,
            lasting: api::Lasting::default(),
            clock: options.clock,
            admin_token: options.admin_token,
            tokens,
            limits,
            stop,
            routers,
        };
        housekeeping::report(tidied, &handles);
        Ok(Self { handles, public_addr, admin_addr, public, admin, announcing })
    }

    /// Cancelling this stops the relay.
    pub fn shutdown(&self) -> CancellationToken {
        self.handles.stop.clone()
    }

    /// Answers requests until shutdown, then drains within `server.shutdown_grace` and closes the store. Where the store gives no answer,
    /// all of it takes no longer than that and [`LAST`].
    ///
    /// In this order, so that nothing acknowledged is left to chance: requests under way are answered, attempts and steps of
    /// jobs under way are recorded, what there is to tell of the relay itself is told, counts are kept, the store is closed. What is not
    /// sent by then waits in the store for the next start.
    pub async fn serve(self) {
        let Self { handles, public, admin, announcing, .. } = self;
        let (generation, stop) = (handles.generation.clone(), handles.stop.clone());
        let grace = move || generation.now().config.server.shutdown_grace;
        let tidying = tokio::spawn(housekeeping::run(handles.clone(), stop.clone()));
        let following = tokio::spawn(replicas::follow(handles.clone(), stop.clone()));
        let agreeing = tokio::spawn(generations::follow(handles.clone(), stop.clone()));
        let public = tokio::spawn(listen::serve(public, api::public(handles.clone()), stop.clone(), grace.clone()));
        let admin = tokio::spawn(listen::serve(admin, api::admin(handles.clone()), stop.clone(), grace.clone()));
        stop.cancelled().await;
        let grace = grace();
        info!(grace_s = grace.as_secs(), "stopping: no new requests, finishing what is under way");
        let end = async {
            let asking = handles.pollers.drain(grace);
            let (_, _, (), (), ()) = tokio::join!(public, admin, asking, handles.deliver.drain(grace), handles.jobs.drain());
            // What was asked for, sent and done by owning it is over now.
            handles.deliver.leave().await;
            handles.ingest.flush().await;
            if tidying.await.is_err() {
                warn!("housekeeping had failed");
            }
            if following.await.is_err() | agreeing.await.is_err() {
                warn!("following other replicas had failed");
            }
            announcing.finish().await;
            keep_counts(&handles).await;
            handles.store.close().await;
        };
        if timeout(grace + LAST, end).await.is_err() {
            warn!(
                "the store gave no answer until the end of server.shutdown_grace: what it has not taken of attempts under way is sent again, \
                 and the lanes go to others when their lease ends"
            );
        }
        info!("stopped");
    }
}

/// How long after `server.shutdown_grace` the store may take to be told the last of it.
pub const LAST: Duration = Duration::from_secs(4);

async fn keep_counts(handles: &Handles) {
    if let Err(error) = handles.ingest.keep_statistics(&|_| false).await {
        warn!("the counts of the sources since the last round are lost: {error}");
    }
    if let Err(error) = handles.tokens.keep_uses(Duration::ZERO).await {
        warn!("when tokens were used last is kept some minutes too early: {error}");
    }
    if let Err(error) = handles.subscriptions.keep_types().await {
        warn!("which event types came last is found out again from the events: {error}");
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

/// The configured key, or the key file beside the store; and the former ones.
pub(crate) fn sealer(config: &Config) -> Result<Sealer, StartError> {
    let sealer = match &config.security.encryption_key {
        Some(key) => Sealer::new(key)?,
        None => match store::key_file(&config.store.url, Path::new("")) {
            Some(file) => Sealer::from_file(&file)?,
            None => return Err(StartError::NoKey),
        },
    };
    Ok(sealer.with_former(&config.security.previous_encryption_keys)?)
}

/// Refuses a key that opens none of the subscriptions' secrets: nothing that is sent to them could be signed.
async fn fits(sealer: &Sealer, store: &dyn Store) -> Result<(), StartError> {
    let Opened { opened, closed } = rekey::opened(store, sealer).await?;
    match (opened, closed) {
        (_, 0) => {}
        (0, subscriptions) => return Err(StartError::WrongKey { subscriptions }),
        (opened, closed) => warn!(
            opened,
            closed,
            "the secrets of some subscriptions are sealed under a key that is not known: nothing is sent to those until it stands in \
             security.previous_encryption_keys"
        ),
    }
    Ok(())
}
