//! `/api/v1/replicas`: the relays that share the store, and which generation of configurations each goes by.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    error::ApiError,
    list::{Listed, Params},
    openapi::params::params,
    slice::{self, Slice},
};
use crate::{clock::rfc3339_ms, generations::Shown};

params!(ListAsked = slice::PARAMS, "after" => Kind::RowCursor, "limit" means "How many at most; all of them without it." => Kind::Number);

/// All replicas that share the store now, by name.
#[utoipa::path(get, path = "/api/v1/replicas", params(ListAsked), responses((status = 200, body = Listed<ReplicaItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let slice = Slice::take(&mut Params::from_query(query.as_deref(), &slice::PARAMS)?)?;
    let replicas = api.running.replicas().await?.into_iter().map(ReplicaItem::new).collect();
    Ok(slice.answer(replicas, |item: &ReplicaItem| &item.id))
}

/// A replica as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Replica)]
struct ReplicaItem {
    /// Drawn at its start.
    id: String,
    /// Its machine and its process: `relay-0/17`. Empty where it says nothing.
    name: String,
    /// Whether it is the one that answers.
    asked: bool,
    /// The version of Hookyard.
    version: String,
    /// Which of the generations of configurations it goes by; null where nobody remembers.
    generation: Option<u64>,
    /// Whether that is the newest.
    newest: bool,
    /// A keyed hash of what its configuration means: the same for two files that say the same.
    digest: String,
    /// Since when it goes by that.
    loaded_at: String,
    started_at: String,
    /// When it last said that it is there.
    seen_at: String,
    /// How many of the 256 shards of lanes it owns.
    shards: usize,
    /// The destinations whose lanes it works on.
    lanes: Vec<String>,
}

impl ReplicaItem {
    fn new(replica: Shown) -> Self {
        let Shown { peer, generation, newest, lanes, asked } = replica;
        Self {
            id: peer.id,
            name: peer.name,
            asked,
            version: peer.version,
            generation,
            newest,
            digest: peer.digest,
            loaded_at: rfc3339_ms(peer.loaded_at),
            started_at: rfc3339_ms(peer.started_at),
            seen_at: rfc3339_ms(peer.seen_at),
            shards: peer.shards.len(),
            lanes,
        }
    }
}
