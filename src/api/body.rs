//! What a POST asks for: parameters in the query, in a JSON object, or in both.

use std::{error::Error as _, time::Duration};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde_json::{Map, Number, Value};

use super::{
    error::ApiError,
    list::{self, Params, invalid},
    openapi::params,
};

/// Longest body with parameters.
const BODY_MAX: usize = 16 * 1024; // bytes
/// How long a body may take.
pub(super) const BODY_TIME: Duration = Duration::from_secs(10);

/// The parameters of `query` and `body`, all of which must be among `known`, each given once.
pub(super) async fn params(query: Option<&str>, body: Body, known: &[&str]) -> Result<Params, ApiError> {
    given(Params::from_query(query, known)?, read(body).await?, known, &[])
}

/// Likewise, where each of `lists` may be a list of texts too, and may stand below `match`, as in a rule.
pub(super) async fn params_with_lists(
    query: Option<&str>,
    body: Body,
    known: &[&str],
    lists: &[&str],
) -> Result<Params, ApiError> {
    let params = Params::from_query(query, known)?;
    let mut members = read(body).await?;
    let below = match members.remove("match") {
        Some(Value::Object(below)) => below,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(invalid("match", "is an object such as {\"type\": \"credential.*\"}")),
    };
    if let Some(name) = below.keys().find(|name| !lists.contains(&name.as_str())) {
        return Err(invalid(&short(name), "is nothing that is matched"));
    }
    given(params, members.into_iter().chain(below), known, lists)
}

/// `params` with those of `members`.
fn given(
    mut params: Params,
    members: impl IntoIterator<Item = (String, Value)>,
    known: &[&str],
    lists: &[&str],
) -> Result<Params, ApiError> {
    for (name, value) in members {
        // Before its value is looked at: a name that is mistyped is what there is to mend.
        if !known.contains(&name.as_str()) {
            return Err(list::unknown(&name, known));
        }
        let text = match value {
            Value::Array(items) if lists.contains(&name.as_str()) => Some(joined(&name, items)?),
            value => text(&name, value)?,
        };
        if let Some(text) = text {
            params.add(&name, text, known)?;
        }
    }
    Ok(params)
}

/// The JSON object in `body`, each of whose members is among `known`.
pub(super) async fn object(body: Body, known: &[&str]) -> Result<Map<String, Value>, ApiError> {
    let given = read(body).await?;
    match given.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(list::unknown(name, known)),
        None => Ok(given),
    }
}

/// The lists of texts that `body` has under `names`; empty where it has none, or no body.
pub(super) async fn texts<const N: usize>(body: Body, names: [&str; N]) -> Result<[Vec<String>; N], ApiError> {
    let mut given = object(body, &names).await?;
    let mut lists = names.map(|_| Vec::new());
    for (name, list) in names.iter().zip(&mut lists) {
        match given.remove(*name) {
            None | Some(Value::Null) => {}
            Some(value) => *list = serde_json::from_value(value).map_err(|_| invalid(name, "is not a list of texts"))?,
        }
    }
    Ok(lists)
}

/// A list as the query writes it.
fn joined(name: &str, items: Vec<Value>) -> Result<String, ApiError> {
    let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
    texts.map(|texts| texts.join(",")).ok_or_else(|| invalid(&short(name), "is a list of texts"))
}

fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

/// All of `body`, at most `most` bytes, which must come `within`.
pub(super) async fn bytes(body: Body, most: usize, within: Duration) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(within, to_bytes(body, most)).await;
    let read = read.map_err(|_| ApiError::Invalid("the body did not come in time".to_owned()))?;
    read.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => ApiError::TooLarge,
        _ => ApiError::Invalid("the body broke off, or is not sent as HTTP wants it".to_owned()),
    })
}

async fn read(body: Body) -> Result<Map<String, Value>, ApiError> {
    let bytes = bytes(body, BODY_MAX, BODY_TIME).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes).map_err(|_| ApiError::Invalid("the body is not a JSON object".into()))
}

/// The value of a parameter in a JSON body; null stands for its absence. What is text is never made of a number or a flag.
fn text(name: &str, value: Value) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) if !params::is_text(name) => Ok(Some(whole(&number))),
        Value::Bool(flag) if !params::is_text(name) => Ok(Some(flag.to_string())),
        _ => Err(invalid(&short(name), "is not text")),
    }
}

/// A number as text; `7.0` is 7, as in JSON Schema.
fn whole(number: &Number) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_is_not_known_is_told_before_its_value() {
        let told =
            async |body: &'static str| params(None, Body::from(body), &["note", "type"]).await.map_err(|error| error.to_string());
        for body in [r#"{"bogus": 7}"#, r#"{"bogus": {}}"#, r#"{"bogus": "x"}"#] {
            assert_eq!(told(body).await.unwrap_err(), "there is no parameter `bogus`; known here: note, type");
        }
        assert_eq!(told(r#"{"note": []}"#).await.unwrap_err(), "parameter `note` is not text");
        assert_eq!(told(r#"{"type": "a.*,b"}"#).await.unwrap().take("type").as_deref(), Some("a.*,b"));
        assert_eq!(
            told(r#"{"match": {"type": "a"}}"#).await.unwrap_err(),
            "there is no parameter `match`; known here: note, type"
        );
    }

    #[test]
    fn text_is_text_and_whole_numbers_are_whole() {
        let read = |name, value: Value| text(name, value).map_err(|error| error.to_string());
        assert_eq!(read("event", "a".into()), Ok(Some("a".to_owned())));
        for value in [Value::from(false), Value::from(7), Value::from(vec!["a"])] {
            assert_eq!(read("event", value), Err("parameter `event` is not text".to_owned()));
        }
        assert_eq!(read("rate", 7.0.into()), Ok(Some("7".to_owned())));
        assert_eq!(read("limit", 1.5.into()), Ok(Some("1.5".to_owned())), "for its reader to refuse");
        assert_eq!(read("dry_run", true.into()), Ok(Some("true".to_owned())));
        assert_eq!(read("event", Value::Null), Ok(None));
    }
}
