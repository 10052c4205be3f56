//! `/metrics` in classic Prometheus text.

use axum::{extract::State, http::header, response::IntoResponse};

use super::Api;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything the relay counts.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
pub(super) async fn export(State(api): State<Api>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT)], api.metrics.export())
}
