//! `/api/v1/config`: what the relay runs on, and another file in its place.

use std::{path::PathBuf, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Api,
    body::bytes,
    error::{ApiError, BadFile},
    list::{self, One, Params},
    openapi::{params::params, words},
};
use crate::{
    access::Caller,
    clock::rfc3339_ms,
    config::{self, File, Loaded, System, report, report::Diagnostic, yaml},
    reload::{Failure, Outcome},
    store,
};

/// How long a file that is sent may take.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// What a file is called that nobody named.
const UNNAMED: &str = "routes.yaml";

/// What the relay goes by.
#[derive(Serialize, ToSchema)]
#[schema(as = Config)]
pub(super) struct ConfigItem {
    /// Of all its files.
    hash: String,
    loaded_at: String,
    /// Null where it was started without a file.
    file: Option<String>,
    /// What is wrong with the file on disk, in one line, where the relay goes by an older one.
    error: Option<String>,
    rejected_at: Option<String>,
    /// Everything that is wrong with it.
    problems: Option<Vec<Diagnostic>>,
    /// Which of the generations it is that replicas have gone by; null where the store has not said yet, or has forgotten.
    generation: Option<u64>,
    /// The newest of them.
    newest: Option<NewestItem>,
}

/// The newest generation of configurations, of all replicas that share the store.
#[derive(Serialize, ToSchema)]
#[schema(as = NewestConfig)]
struct NewestItem {
    generation: u64,
    /// Since when it is the newest.
    since: String,
    /// The replica that made it so.
    by: String,
}

/// What a file is worth.
#[derive(Serialize, ToSchema)]
pub(super) struct Checked {
    /// Whether the relay could go by it.
    ok: bool,
    /// Null for one that is bad.
    hash: Option<String>,
    problems: Vec<Diagnostic>,
    /// How many further problems there are.
    left_off: usize,
}

/// What the relay goes by. The configuration's hash, when it was loaded, and what is wrong with the file on disk when an older one
/// runs.
#[utoipa::path(get, path = "/api/v1/config", responses((status = 200, body = One<ConfigItem>)))]
pub(super) async fn show(State(api): State<Api>) -> Json<One<ConfigItem>> {
    let config = api.running.config();
    let rejected = config.rejected.as_ref();
    Json(One {
        data: ConfigItem {
            hash: config.hash,
            loaded_at: rfc3339_ms(config.at),
            file: config.file,
            error: rejected.map(|it| it.error.clone()),
            rejected_at: rejected.map(|it| rfc3339_ms(it.at)),
            problems: rejected.map(|it| it.problems.clone()),
            generation: config.standing.as_ref().and_then(|it| it.generation),
            newest: config.standing.as_ref().and_then(|it| it.newest.as_ref()).map(|it| NewestItem {
                generation: it.number,
                since: rfc3339_ms(it.at),
                by: it.by.clone(),
            }),
        },
    })
}

const RELOAD_PARAMS: [&str; 1] = ["newest"];
params!(ReloadAsked = RELOAD_PARAMS, "newest" means "That it is the newest configuration of all replicas, though it may have been that before." => Kind::Flag);

/// Reads the file again. Answers once it holds, with what it has changed, or with everything that is wrong with it.
#[utoipa::path(
    post,
    path = "/api/v1/config/reload",
    params(ReloadAsked),
    responses((status = 200, body = One<Outcome>), (status = 409, description = "it was started without a file"), (status = 422, body = BadFile, description = "the file is bad, and nothing has changed")),
)]
pub(super) async fn reload(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<One<Outcome>>, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &RELOAD_PARAMS)?;
    let newest = params.take_as("newest", "true or false", list::flag)?.unwrap_or_default();
    let before = json!({"hash": api.running.config().hash});
    match api.running.reload(newest).await {
        Ok(outcome) => {
            let now = api.running.config();
            let file = now.file.unwrap_or_else(|| UNNAMED.to_owned());
            api.note(&caller, "config.reloaded", &file, before, json!({"hash": now.hash})).await;
            Ok(Json(One { data: outcome }))
        }
        Err(Failure::Bad(rejected)) => Err(ApiError::BadConfig(rejected)),
        Err(refused @ Failure::NoFile) => Err(ApiError::Conflict(refused.to_string())),
        Err(refused @ Failure::Stopping) => Err(store::Error::Full(refused.to_string()).into()),
    }
}

/// Checks a file without going by it. That is the text that is sent, in the place of the file that the relay goes by; without one, that
/// file.
#[utoipa::path(
    post,
    path = "/api/v1/config/check",
    request_body(content = inline(words::Whatever), content_type = "application/yaml"),
    responses((status = 200, body = One<Checked>), (status = 409, description = "it was started without a file, and none is sent")),
)]
pub(super) async fn check(State(api): State<Api>, body: Body) -> Result<Json<One<Checked>>, ApiError> {
    let bytes = bytes(body, yaml::FILE_MAX + 1, BODY_WITHIN).await?;
    let path = api.running.config().file.map(PathBuf::from);
    let read: Box<dyn FnOnce() -> Loaded + Send> = if bytes.trim_ascii().is_empty() {
        let path = path.ok_or_else(|| ApiError::Conflict(Failure::NoFile.to_string()))?;
        Box::new(move || config::load(&path, &System))
    } else {
        let text = String::from_utf8(bytes.into()).map_err(|_| ApiError::Invalid("the body is not UTF-8".into()))?;
        let file = File { path: path.unwrap_or_else(|| UNNAMED.into()), text };
        Box::new(move || config::parse(file, &System))
    };
    let loaded = tokio::task::spawn_blocking(read).await.map_err(|error| store::Error::Backend(error.to_string().into()))?;
    Ok(Json(One {
        data: Checked {
            ok: loaded.config.is_some(),
            hash: loaded.config.as_ref().map(|config| config.hash.clone()),
            problems: report::diagnostics(&loaded),
            left_off: loaded.left_off,
        },
    }))
}
