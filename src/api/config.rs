//! `/api/v1/config`: what the relay runs on.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::Api;
use crate::clock::rfc3339_ms;

/// The configuration's hash, when it was loaded, and what is wrong with the file on disk when an older one runs.
pub(super) async fn show(State(api): State<Api>) -> Json<Value> {
    let config = api.running.config();
    Json(json!({"data": {"hash": config.hash, "loaded_at": rfc3339_ms(config.at), "error": config.error.as_deref()}}))
}
