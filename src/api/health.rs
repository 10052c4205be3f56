//! `/healthz`: the process runs. `/readyz`: it can take events now.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::Api;
use crate::store::Store;

/// How long the store's answer holds: whoever asks more often does not make it write more often.
const FRESH: Duration = Duration::from_secs(1);
/// How long the store may take to answer before it counts as not taking writes.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// That the process runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Alive {
    /// `ok`.
    status: &'static str,
}

/// Whether the relay takes events. What is left out is told on the admin listener only.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ready` or `unavailable`.
    status: &'static str,
    /// `unavailable`, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// `ok`, where it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'static str>,
    /// `refused`, while the store takes no record of what was sent: events come in, and nothing goes out.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<GoesBy>,
}

/// What the relay goes by.
#[derive(Serialize, ToSchema)]
struct GoesBy {
    hash: String,
    /// What is wrong with the file on disk, where the relay goes by an older one.
    error: Option<String>,
}

impl Readiness {
    fn ready() -> Self {
        Self { status: "ready", ..Self::default() }
    }

    fn unavailable(why: String) -> Self {
        Self { status: "unavailable", error: Some("unavailable"), message: Some(why), ..Self::default() }
    }
}

/// 200 while the process runs.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Alive)))]
pub(super) async fn alive() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// 200 when an event would be taken now, else 503; says no more.
pub(super) async fn ready(State(api): State<Api>) -> Response {
    match verdict(&api).await {
        Ok(()) => Json(Readiness::ready()).into_response(),
        Err(_) => {
            let body = Readiness::unavailable("the relay takes no events now".to_owned());
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// 200 when an event would be taken now, else 503, and why not.
#[utoipa::path(
    get,
    path = "/readyz",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "it takes none now")),
)]
pub(super) async fn ready_in_detail(State(api): State<Api>) -> Response {
    let verdict = verdict(&api).await;
    let attempts = api.running.refuses_attempts().then_some("refused");
    let config = api.running.config();
    let config = Some(GoesBy { hash: config.hash, error: config.rejected.map(|it| it.error) });
    match verdict {
        Ok(()) => Json(Readiness { store: Some("ok"), attempts, config, ..Readiness::ready() }).into_response(),
        Err(reason) => {
            let body = Readiness { attempts, config, ..Readiness::unavailable(reason) };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn verdict(api: &Api) -> Result<(), String> {
    if api.stop.is_cancelled() {
        return Err("the relay is stopping".to_owned());
    }
    api.ready.ask(&api.store).await
}

/// Asks the store whether it takes writes, one question at a time, and remembers the answer for a moment.
#[derive(Default)]
pub(super) struct Probe(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    last: Option<(Instant, Result<(), String>)>,
    asking: bool,
}

impl Probe {
    async fn ask(self: &Arc<Self>, store: &Arc<dyn Store>) -> Result<(), String> {
        if let Some(known) = self.known() {
            return known;
        }
        let (probe, store) = (self.clone(), store.clone());
        // A task of its own, so that a caller who hangs up does not leave the question open.
        let asked = tokio::spawn(async move {
            let answer = match timeout(PROBE_MAX, store.ready()).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("the store did not answer within {} s", PROBE_MAX.as_secs())),
            };
            *probe.0.lock().unwrap_or_else(PoisonError::into_inner) =
                Seen { last: Some((Instant::now(), answer.clone())), asking: false };
            answer
        });
        asked.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// The last answer, while it is fresh or somebody else asks for a new one; else it is the caller's turn to ask.
    fn known(&self) -> Option<Result<(), String>> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.last.as_ref().filter(|(at, _)| seen.asking || at.elapsed() < FRESH).map(|(_, answer)| answer.clone());
        seen.asking |= known.is_none();
        known
    }
}
