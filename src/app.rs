//! Puts the rooms together: sees every room, decides nothing.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, config::Config, deliver::Deliver, ingest::Ingest, secret::Secret, store::Store, telemetry::Metrics};

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
    /// What is on disk.
    pub store: Arc<dyn Store>,
    /// The public side.
    pub ingest: Arc<Ingest>,
    /// The sending side.
    pub deliver: Arc<Deliver>,
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
    Store(#[from] crate::store::Error),
    /// The encryption key does not serve.
    #[error(transparent)]
    Seal(#[from] crate::seal::Error),
    /// A destination's client cannot be made.
    #[error(transparent)]
    Deliver(#[from] crate::deliver::StartError),
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
}

impl App {
    /// Opens the store, binds both listeners, resumes deliveries.
    pub async fn build(_config: Config, _options: Options) -> Result<Self, StartError> {
        Err(StartError::Store(crate::store::Error::Closed))
    }

    /// Cancelling this stops the relay.
    pub fn shutdown(&self) -> CancellationToken {
        self.handles.stop.clone()
    }

    /// Answers requests until shutdown, then drains within `server.shutdown_grace` and closes the store.
    pub async fn serve(self) {}
}
