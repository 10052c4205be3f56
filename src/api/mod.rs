//! The HTTP API over the store: one file per resource. No SQL, no outgoing calls.
//!
//! The admin listener answers everything; the public one health, and with `server.public_api` the events.

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Extension, Router,
    extract::Request,
    middleware,
    routing::{get, post},
};
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::{
    access::Tokens,
    app::Handles,
    clock::{Clock, Timestamp},
    config::{Cors, decode::Rate},
    envelope::{DeliveryId, Envelope},
    explain::backtest::Summary,
    generations::{self, Standing},
    ingest::RetryReport,
    reconnect,
    reload::{self, Outcome, Rejected},
    route::{Takers, Why},
    seal::Sealer,
    secret::Secret,
    store::{self, Filter, Store},
    subscriptions::Subscriptions,
    telemetry::Metrics,
};

mod audit;
mod auth;
mod backtest;
mod body;
mod callbacks;
mod config;
mod cors;
mod dead_letters;
mod deliveries;
mod ending;
mod engine;
mod erasures;
mod error;
mod events;
mod explain;
mod follow;
mod health;
mod jobs;
mod limits;
mod list;
mod metrics;
mod mutes;
mod openapi;
#[cfg(test)]
mod operating_tests;
mod places;
mod rejections;
mod replicas;
mod scopes;
mod secrets;
mod slice;
mod sources;
mod stream;
mod targets;
#[cfg(test)]
mod tests;
mod tokens;
mod webhooks;

use engine::Engine;
use error::ApiError;
pub(crate) use limits::Limits;
use openapi::{
    Document,
    routed::{self, Routed, routes},
};
pub use places::Lasting;

/// Answers on the admin listener: the whole API, metrics and health.
pub fn admin(handles: Handles) -> Router {
    let generation = handles.generation.clone();
    let pages = move || generation.now().config.server.cors.clone();
    shown_to(Api::new(handles).admin(), pages)
}

/// Answers on the public listener: health, reconnect links, the events where the file says so, and the sources for everything else.
pub fn public(handles: Handles) -> Router {
    let (generation, ingest) = (handles.generation.clone(), handles.ingest.clone());
    let links = reconnect::router(handles.reconnecting.clone(), &handles.clock);
    let config = move || generation.now().config.clone();
    let shown = {
        let config = config.clone();
        move || config().server.public_api
    };
    let pages =
        move || Some(config()).filter(|config| config.server.public_api).map_or_else(Cors::default, |it| it.server.cors.clone());
    let api = Api::new(handles).public(shown, ingest.clone().router());
    shown_to(api, pages).merge(links).fallback_service(ingest.router())
}

/// `router`, whose answers the web pages may read that `pages` names then.
fn shown_to(router: Router, pages: impl Fn() -> Cors + Clone + Send + Sync + 'static) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: middleware::Next| {
        let cors = pages();
        async move { cors::answer(&cors, request, next).await }
    }))
}

/// Every route of both listeners that is not a source's: its method, and its path as `/api/v1/events/{uid}`.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    scopes::ROUTES.iter().map(|(method, path, _)| (method.as_str(), *path))
}

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
struct Api {
    store: Arc<dyn Store>,
    running: Arc<dyn Running>,
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    admin_token: Option<Secret>,
    tokens: Arc<Tokens>,
    limits: Arc<Limits>,
    subscriptions: Arc<Subscriptions>,
    ready: Arc<health::Probe>,
    lasting: Lasting,
    sealer: Sealer,
    clock: Clock,
    stop: CancellationToken,
}

/// What the API shows of the configuration.
struct Loaded {
    hash: String,
    at: Timestamp,
    /// What is wrong with the file on disk, where the relay goes by an older one.
    rejected: Option<Rejected>,
    file: Option<String>,
    /// Which generation that is, and which is the newest.
    standing: Option<Standing>,
}

/// What the API asks of the rooms that run, besides the store.
#[async_trait]
trait Running: Send + Sync {
    /// What the relay goes by.
    fn config(&self) -> Loaded;

    /// How much a created token may ask.
    fn api_rate(&self) -> Rate;

    /// Reads the file again and goes by it when it is good; `newest`: it is to be the newest of all replicas.
    async fn reload(&self, newest: bool) -> Result<Outcome, reload::Failure>;

    /// The replicas that share the store.
    async fn replicas(&self) -> store::Result<Vec<generations::Shown>>;

    /// The deliveries an attempt of which is under way.
    fn in_flight(&self) -> Vec<DeliveryId>;

    /// Whether nothing is sent because the store does not take what was.
    fn refuses_attempts(&self) -> bool;

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
            standing: Some(self.generations.standing()),
        }
    }

    fn api_rate(&self) -> Rate {
        self.generation.now().config.server.api_rate_limit
    }

    async fn reload(&self, newest: bool) -> Result<Outcome, reload::Failure> {
        reload::reload(self, newest).await
    }

    async fn replicas(&self) -> store::Result<Vec<generations::Shown>> {
        self.generations.replicas().await
    }

    fn in_flight(&self) -> Vec<DeliveryId> {
        self.deliver.in_flight()
    }

    fn refuses_attempts(&self) -> bool {
        self.deliver.is_refused()
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
            tokens: handles.tokens.clone(),
            limits: handles.limits.clone(),
            subscriptions: handles.subscriptions.clone(),
            ready: Arc::default(),
            lasting: handles.lasting.clone(),
            sealer: handles.sealer.clone(),
            clock: handles.clock.clone(),
            stop: handles.stop.clone(),
            engine: Arc::new(handles.clone()),
            running: Arc::new(handles),
        }
    }

    fn admin(self) -> Router {
        let routed: Vec<_> = both().into_iter().chain(operating()).collect();
        let document = Document::new(routed::says(&routed));
        routed::router(routed)
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(middleware::from_fn_with_state(self.clone(), auth::require))
            .layer(Extension(document))
            .with_state(self)
    }

    /// What the public listener answers; the events while `shown` says so, and else what `otherwise` does.
    fn public(self, shown: impl Fn() -> bool + Clone + Send + Sync + 'static, otherwise: Router) -> Router {
        let required = middleware::from_fn_with_state(self.clone(), auth::require);
        let where_shown = middleware::from_fn(move |request: Request, next: middleware::Next| {
            let (shown, mut otherwise) = (shown.clone(), otherwise.clone());
            async move { if shown() { Ok(next.run(request).await) } else { otherwise.call(request).await } }
        });
        let shown = routed::router(both());
        let shown = shown.method_not_allowed_fallback(method_not_allowed).layer(required.clone()).layer(where_shown);
        Router::new()
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/callbacks/twilio/{destination}", post(callbacks::twilio))
            .method_not_allowed_fallback(method_not_allowed)
            .layer(required)
            .merge(shown)
            .with_state(self)
    }
}

/// What both listeners answer.
fn both() -> Vec<Routed> {
    let mut routed = webhooks::routes();
    routed.extend([routes!(events::list), routes!(events::one), routes!(stream::open), routes!(stream::pass)]);
    routed
}

/// What the admin listener answers beside.
fn operating() -> Vec<Routed> {
    vec![
        routes!(deliveries::list),
        routes!(deliveries::one),
        routes!(deliveries::retry),
        routes!(deliveries::cancel),
        routes!(dead_letters::list),
        routes!(dead_letters::retry),
        routes!(dead_letters::one),
        routes!(dead_letters::retry_one),
        routes!(dead_letters::resolve),
        routes!(jobs::replays, jobs::make),
        routes!(jobs::replay),
        routes!(jobs::cancel_replay),
        routes!(erasures::make),
        routes!(jobs::list),
        routes!(jobs::one),
        routes!(jobs::cancel),
        routes!(targets::list),
        routes!(targets::one),
        routes!(targets::pause),
        routes!(targets::resume),
        routes!(targets::close),
        routes!(targets::test),
        routes!(targets::cancel),
        routes!(mutes::list, mutes::add),
        routes!(mutes::one, mutes::remove),
        routes!(sources::list),
        routes!(sources::poll),
        routes!(rejections::list),
        routes!(rejections::retry),
        routes!(tokens::list, tokens::create),
        routes!(tokens::one, tokens::revoke),
        routes!(audit::list),
        routes!(secrets::rekey),
        routes!(explain::explain),
        routes!(config::show),
        routes!(backtest::page),
        routes!(config::check),
        routes!(config::reload),
        routes!(replicas::list),
        routes!(health::alive),
        routes!(health::ready_in_detail),
        routes!(metrics::export),
        routes!(openapi::document),
        routes!(openapi::docs),
    ]
}

async fn not_found() -> ApiError {
    ApiError::NotFound("page")
}

async fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed
}
