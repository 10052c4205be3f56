//! `/api/v1/sources`: what came in by each source, and which of its secrets are in use.

use std::collections::BTreeMap;

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    error::ApiError,
    list::{self, Listed, Params},
};
use crate::{
    clock::{Timestamp, rfc3339_ms},
    ingest::SourceStatistics,
};

/// All sources, in the order of the file.
#[utoipa::path(get, path = "/api/v1/sources", responses((status = 200, body = Listed<SourceItem>), (status = 400, description = "it takes no parameters")))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Params::from_query(query.as_deref(), &[])?;
    Ok(list::whole(api.engine.sources().into_iter().map(SourceItem::new).collect()))
}

/// A source as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Source)]
struct SourceItem {
    name: String,
    kind: &'static str,
    path: String,
    last_received_at: Option<String>,
    /// How many requests had which answer.
    counts: BTreeMap<&'static str, u64>,
    secrets: Vec<SecretItem>,
}

/// A secret by its position in the file: 0 is the current one.
#[derive(Serialize, ToSchema)]
#[schema(as = SecretUse)]
struct SecretItem {
    position: usize,
    last_used_at: Option<String>,
}

impl SourceItem {
    fn new(source: SourceStatistics) -> Self {
        let secret = |(position, at): (usize, Option<Timestamp>)| SecretItem { position, last_used_at: at.map(rfc3339_ms) };
        Self {
            name: source.name.to_string(),
            kind: source.kind,
            path: source.path,
            last_received_at: source.last_received_at.map(rfc3339_ms),
            counts: source.counts.into_iter().collect(),
            secrets: source.secrets.into_iter().enumerate().map(secret).collect(),
        }
    }
}
