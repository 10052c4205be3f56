//! `/api/v1/sources`: what came in by each source, and which of its secrets are in use.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;

use super::{
    Api,
    engine::SourceStatistics,
    error::ApiError,
    list::{self, Params},
};

/// All sources, in the order of the file.
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Params::from_query(query.as_deref(), &[])?;
    Ok(list::whole(api.engine.sources().into_iter().map(SourceItem::new).collect()))
}

/// A source as lists show it.
#[derive(Serialize)]
struct SourceItem {
    name: String,
}

impl SourceItem {
    fn new(source: SourceStatistics) -> Self {
        Self { name: source.name.to_string() }
    }
}
