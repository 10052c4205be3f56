//! `/api/v1/config`: what the relay runs on, and another file in its place.

use std::{path::PathBuf, time::Duration};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::State,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Api, error::ApiError};
use crate::{
    clock::rfc3339_ms,
    config::{self, File, Loaded, System, report, yaml},
    reload::Failure,
    store,
};

/// How long a file that is sent may take.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// What a file is called that nobody named.
const UNNAMED: &str = "routes.yaml";

/// The configuration's hash, when it was loaded, and what is wrong with the file on disk when an older one runs.
pub(super) async fn show(State(api): State<Api>) -> Json<Value> {
    let config = api.running.config();
    let rejected = config.rejected.as_ref();
    Json(json!({"data": {
        "hash": config.hash,
        "loaded_at": rfc3339_ms(config.at),
        "file": config.file,
        "error": rejected.map(|it| &it.error),
        "rejected_at": rejected.map(|it| rfc3339_ms(it.at)),
        "problems": rejected.map(|it| &it.problems),
    }}))
}

/// Reads the file again; answers once it holds, with what it has changed, or with everything that is wrong with it.
pub(super) async fn reload(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    match api.running.reload().await {
        Ok(outcome) => Ok(Json(json!({"data": outcome}))),
        Err(Failure::Bad(rejected)) => Err(ApiError::BadConfig(rejected)),
        Err(refused @ Failure::NoFile) => Err(ApiError::Conflict(refused.to_string())),
        Err(refused @ Failure::Stopping) => Err(store::Error::Full(refused.to_string()).into()),
    }
}

/// Checks a file without going by it: the text that is sent, in the place of the file that the relay goes by; without one, that file.
pub(super) async fn check(State(api): State<Api>, body: Body) -> Result<Json<Value>, ApiError> {
    let bytes = timeout(BODY_WITHIN, to_bytes(body, yaml::FILE_MAX + 1)).await;
    let bytes = bytes.map_err(|_| ApiError::Invalid("the body did not come in time".into()))?.map_err(|_| ApiError::TooLarge)?;
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
    Ok(Json(json!({"data": {
        "ok": loaded.config.is_some(),
        "hash": loaded.config.as_ref().map(|config| &config.hash),
        "problems": report::diagnostics(&loaded),
        "left_off": loaded.left_off,
    }})))
}
