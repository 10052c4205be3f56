//! What a POST asks for: parameters in the query, in a JSON object, or in both.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use serde_json::{Map, Value};

use super::{
    error::ApiError,
    list::{Params, invalid},
};

/// Longest body with parameters.
const BODY_MAX: usize = 16 * 1024; // bytes
/// How long such a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The parameters of `query` and `body`, all of which must be among `known`, each given once.
pub(super) async fn params(query: Option<&str>, body: Body, known: &[&str]) -> Result<Params, ApiError> {
    let mut params = Params::from_query(query, known)?;
    for (name, value) in read(body).await? {
        if let Some(text) = text(&name, value)? {
            params.add(&name, text, known)?;
        }
    }
    Ok(params)
}

async fn read(body: Body) -> Result<Map<String, Value>, ApiError> {
    let read = tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_MAX)).await;
    let bytes = read.map_err(|_| ApiError::Invalid("the body did not come in time".into()))?.map_err(|_| ApiError::TooLarge)?;
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes).map_err(|_| ApiError::Invalid("the body is not a JSON object".into()))
}

/// The value of a parameter in a JSON body; null stands for its absence.
fn text(name: &str, value: Value) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(flag) => Ok(Some(flag.to_string())),
        Value::Array(_) | Value::Object(_) => Err(invalid(&name.chars().take(64).collect::<String>(), "is not text")),
    }
}
