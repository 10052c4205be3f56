//! `/api/v1/rejections`: requests that were not accepted, why, and another chance for them.

use axum::{
    body::Body,
    extract::{RawQuery, State},
    response::Response,
};
use jiff::SignedDuration;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api, body,
    error::ApiError,
    list::{self, Listed, One, Params},
    openapi::params::params,
};
use crate::{
    access::Caller,
    clock::rfc3339_ms,
    config::decode::duration,
    store::{Filter, Rejection},
};

const PARAMS: [&str; 6] = ["source", "code", "since", "until", "limit", "after"];
const RETRY_PARAMS: [&str; 6] = ["source", "code", "since", "until", "limit", "clock_offset"];
params!(Asked = PARAMS);
params!(RetryAsked = RETRY_PARAMS);

/// A page of rejections.
#[utoipa::path(get, path = "/api/v1/rejections", params(Asked), responses((status = 200, body = Listed<RejectionItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let filter = list::filter(&mut Params::from_query(query.as_deref(), &PARAMS)?, |_| None)?;
    let (page, limit) = (filter.page, filter.limit);
    let rows = api.store.rejections(Filter { limit: list::one_more(&filter), ..filter }).await?;
    Ok(list::answer(rows, page, limit, |row| row.id, RejectionItem::new))
}

/// Verifies quarantined requests again with today's configuration. All that the filters in query or JSON body let through.
#[utoipa::path(
    post,
    path = "/api/v1/rejections/retry",
    request_body = inline(RetryAsked),
    responses((status = 200, body = One<Retried>)),
)]
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = body::params(query.as_deref(), body, &RETRY_PARAMS).await?;
    let offset = params.take_as("clock_offset", "a signed duration such as -5m or 300s", offset)?.unwrap_or_default();
    let limit = params.take_as("limit", "a number from 1", |text| text.parse().ok().filter(|limit: &u32| 0 < *limit))?;
    let filter = Filter { limit: limit.unwrap_or(u32::MAX), ..list::filter(&mut params, |_| None)? };
    let subject = filter.source.clone().unwrap_or_else(|| "*".to_owned());
    let report = api.running.retry_rejections(filter, offset).await?;
    tracing::info!(report.tried, report.accepted, report.duplicates, report.failed, "rejections were retried");
    let retried =
        Retried { tried: report.tried, accepted: report.accepted, duplicates: report.duplicates, failed: report.failed };
    api.note(&caller, "rejections.retried", &subject, Value::Null, json!(retried)).await;
    Ok(list::one(&retried))
}

/// `5m`, `-300s`: what to add to a time of arrival.
fn offset(text: &str) -> Option<SignedDuration> {
    let (sign, length) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    SignedDuration::try_from(duration(length)?).ok()?.checked_mul(sign)
}

/// What another chance came to.
#[derive(Serialize, ToSchema)]
struct Retried {
    tried: u64,
    accepted: u64,
    duplicates: u64,
    failed: u64,
}

/// A rejection as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Rejection)]
struct RejectionItem {
    id: i64,
    /// Null where no source is behind the path.
    source: Option<String>,
    #[schema(format = DateTime)]
    at: String,
    status: u16,
    code: &'static str,
    reason: String,
    path: String,
    remote: String,
    bytes: u64,
    kept: bool,
    accepted_as: Option<String>,
    retried_at: Option<String>,
}

impl RejectionItem {
    fn new(row: &Rejection) -> Self {
        let was = &row.rejection;
        Self {
            id: row.id,
            source: was.source.as_ref().map(ToString::to_string),
            at: rfc3339_ms(was.at),
            status: was.status,
            code: was.code,
            reason: was.reason.clone(),
            path: was.path.clone(),
            remote: was.remote.clone(),
            bytes: was.bytes,
            kept: row.kept,
            accepted_as: row.accepted_as.clone(),
            retried_at: row.retried_at.map(rfc3339_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_a_sign() {
        assert_eq!(offset("-5m"), Some(SignedDuration::from_secs(-300)));
        assert_eq!(offset("300s"), Some(SignedDuration::from_secs(300)));
        assert_eq!(offset("+1h"), Some(SignedDuration::from_hours(1)));
        for bad in ["", "-", "5", "--5m", "m", "-99999999999d"] {
            assert_eq!(offset(bad), None, "{bad}");
        }
    }
}
