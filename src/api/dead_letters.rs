//! `/api/v1/dead-letters`: deliveries that were given up. A dead letter's id is its delivery's.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};

use super::{
    Api, deliveries,
    error::ApiError,
    list::{self, Params},
};
use crate::store::State as Stored;

const PARAMS: [&str; 7] = ["source", "type", "target", "since", "until", "limit", "after"];

/// A page of dead letters.
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let filter = list::filter(&mut Params::from_query(query.as_deref(), &PARAMS)?, deliveries::place_of)?;
    deliveries::page(&api, filter, Some(Stored::Dead)).await
}
