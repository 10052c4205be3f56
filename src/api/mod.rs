//! The HTTP API over the store: one file per resource. No SQL, no outgoing calls.
//!
//! The admin listener answers everything; the public one health, and with `server.public_api` the events.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Router,
    extract::Request,
    middleware,
    routing::{get, post},
};
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::{
    app::Handles,
    clock::Timestamp,
    envelope::{DeliveryId, Envelope},
    explain::backtest::Summary,
    ingest::RetryReport,
    reconnect,
    reload::{self, Outcome, Rejected},
    route::{Takers, Why},
    secret::Secret,
    store::{self, Filter, Store},
    telemetry::Metrics,
};

mod auth;
mod backtest;
mod body;
mod callbacks;
mod config;
mod dead_letters;
mod deliveries;
mod engine;
mod error;
mod events;
mod explain;
mod health;
mod jobs;
mod list;
mod metrics;
mod mutes;
#[cfg(test)]
mod operating_tests;
mod rejections;
mod scopes;
mod sources;
mod targets;
#[cfg(test)]
mod tests;

use engine::Engine;
use error::ApiError;

/// Answers on the admin listener: the whole API, metrics and health.
pub fn admin(handles: Handles) -> Router {
    Api::new(handles).admin()
}

/// Answers on the public listener: health, reconnect links, the events where the file says so, and the sources for everything else.
pub fn public(handles: Handles) -> Router {
    let (generation, ingest) = (handles.generation.clone(), handles.ingest.clone());
    let pages = reconnect::router(handles.reconnecting.clone(), &handles.clock);
    let shown = move || generation.now().config.server.public_api;
    Api::new(handles).public(shown, ingest.clone().router()).merge(pages).fallback_service(ingest.router())
}

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
struct Api {
    store: Arc<dyn Store>,
    running: Arc<dyn Running>,
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    admin_token: Option<Secret>,
    ready: Arc<health::Probe>,
    stop: CancellationToken,
}

/// What the API shows of the configuration.
struct Loaded {
    hash: String,
    at: Timestamp,
    /// What is wrong with the file on disk, where the relay goes by an older one.
    rejected: Option<Rejected>,
    file: Option<String>,
}

/// What the API asks of the rooms that run, besides the store.
#[async_trait]
trait Running: Send + Sync {
    /// What the relay goes by.
    fn config(&self) -> Loaded;

    /// Reads the file again and goes by it when it is good.
    async fn reload(&self) -> Result<Outcome, reload::Failure>;

    /// The deliveries an attempt of which is under way.
    fn in_flight(&self) -> Vec<DeliveryId>;

    /// For every rule of today, whether it fires for `event`, and if not, why not.
    fn explain(&self, event: &Envelope) -> Vec<Why>;

    /// What the subscriptions of today make of `event`.
    fn takers(&self, event: &Envelope) -> Takers;

    /// What the rules of today plan for `event`.
    fn summary(&self, event: &Envelope) -> Summary;

    /// Verifies quarantined requests again: [`crate::ingest::Ingest::retry_rejections`].
    async fn retry_rejections(&self, filter: Filter, clock_offset: SignedDuration) -> store::Result<RetryReport>;
}

#[async_trait]
impl Running for Handles {
    fn config(&self) -> Loaded {
        let generation = self.generation.now();
        Loaded {
            hash: generation.config.hash.clone(),
            at: generation.loaded_at,
            rejected: (*self.rejected.now()).clone(),
            file: self.reloader.file().map(|path| path.display().to_string()),
        }
    }

    async fn reload(&self) -> Result<Outcome, reload::Failure> {
        reload::reload(self).await
    }

    fn in_flight(&self) -> Vec<DeliveryId> {
        self.deliver.in_flight()
    }

    fn explain(&self, event: &Envelope) -> Vec<Why> {
        self.router().explain(event)
    }

    fn takers(&self, event: &Envelope) -> Takers {
        self.router().explain_subscriptions(event)
    }

    fn summary(&self, event: &Envelope) -> Summary {
        Summary::of(&self.router(), event)
    }

    async fn retry_rejections(&self, filter: Filter, clock_offset: SignedDuration) -> store::Result<RetryReport> {
        self.ingest.retry_rejections(filter, clock_offset).await
    }
}

impl Api {
    fn new(handles: Handles) -> Self {
        Self {
            store: handles.store.clone(),
            metrics: handles.metrics.clone(),
            admin_token: handles.admin_token.clone(),
            ready: Arc::default(),
            stop: handles.stop.clone(),
            engine: Arc::new(handles.clone()),
            running: Arc::new(handles),
        }
    }

    fn admin(self) -> Router {
        events()
            .route("/api/v1/deliveries", get(deliveries::list))
            .route("/api/v1/deliveries/{id}", get(deliveries::one))
            .route("/api/v1/deliveries/{id}/retry", post(deliveries::retry))
            .route("/api/v1/deliveries/{id}/cancel", post(deliveries::cancel))
            .route("/api/v1/dead-letters", get(dead_letters::list))
            .route("/api/v1/dead-letters/retry", post(dead_letters::retry))
            .route("/api/v1/dead-letters/{id}", get(deliveries::one))
            .route("/api/v1/dead-letters/{id}/retry", post(deliveries::retry))
            .route("/api/v1/dead-letters/{id}/resolve", post(dead_letters::resolve))
            .route("/api/v1/replays", get(jobs::replays).post(jobs::make))
            .route("/api/v1/replays/{id}", get(jobs::replay))
            .route("/api/v1/replays/{id}/cancel", post(jobs::cancel_replay))
            .route("/api/v1/jobs", get(jobs::list))
            .route("/api/v1/jobs/{id}", get(jobs::one))
            .route("/api/v1/jobs/{id}/cancel", post(jobs::cancel))
            .route("/api/v1/targets", get(targets::list))
            .route("/api/v1/targets/{name}", get(targets::one))
            .route("/api/v1/targets/{name}/pause", post(targets::pause))
            .route("/api/v1/targets/{name}/resume", post(targets::resume))
            .route("/api/v1/targets/{name}/close", post(targets::close))
            .route("/api/v1/targets/{name}/test", post(targets::test))
            .route("/api/v1/targets/{name}/cancel", post(targets::cancel))
            .route("/api/v1/mutes", get(mutes::list).post(mutes::add))
            .route("/api/v1/mutes/{id}", get(mutes::one).delete(mutes::remove))
            .route("/api/v1/sources", get(sources::list))
            .route("/api/v1/rejections", get(rejections::list))
            .route("/api/v1/rejections/retry", post(rejections::retry))
            .route("/api/v1/explain", post(explain::explain))
            .route("/api/v1/config", get(config::show))
            .route("/api/v1/config/backtest", get(backtest::page))
            .route("/api/v1/config/check", post(config::check))
            .route("/api/v1/config/reload", post(config::reload))
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready_in_detail))
            .route("/metrics", get(metrics::export))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(middleware::from_fn_with_state(self.clone(), auth::require))
            .with_state(self)
    }

    /// What the public listener answers; the events while `shown` says so, and else what `otherwise` does.
    fn public(self, shown: impl Fn() -> bool + Clone + Send + Sync + 'static, otherwise: Router) -> Router {
        let required = middleware::from_fn_with_state(self.clone(), auth::require);
        let where_shown = middleware::from_fn(move |request: Request, next: middleware::Next| {
            let (shown, mut otherwise) = (shown.clone(), otherwise.clone());
            async move { if shown() { Ok(next.run(request).await) } else { otherwise.call(request).await } }
        });
        let events = events().method_not_allowed_fallback(method_not_allowed).layer(required.clone()).layer(where_shown);
        Router::new()
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/callbacks/twilio/{destination}", post(callbacks::twilio))
            .method_not_allowed_fallback(method_not_allowed)
            .layer(required)
            .merge(events)
            .with_state(self)
    }
}

fn events() -> Router<Api> {
    Router::new().route("/api/v1/events", get(events::list)).route("/api/v1/events/{uid}", get(events::one))
}

async fn not_found() -> ApiError {
    ApiError::NotFound("page")
}

async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}
