//! `/api/v1/tokens`: who else may use the API, what for, and until when. A token is shown once: in the answer that it was made with.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    Api, body,
    error::ApiError,
    list::{self, Listed, One, Params, invalid},
    openapi::{
        params::{params, schema},
        words,
    },
    slice::{self, Slice},
};
use crate::{
    access::{Caller, Refused, Scope, Scopes, Token, Wanted},
    clock::{Timestamp, later, rfc3339_ms},
    config::decode::duration,
};

const MEMBERS: [&str; 5] = ["name", "scopes", "namespaces", "expires_at", "expires_in"];

params!(ListAsked = slice::PARAMS, "after" => Kind::RowCursor, "limit" means "How many at most; all of them without it." => Kind::Number);

/// All tokens, newest first: those that are over too, for 30 days.
#[utoipa::path(get, path = "/api/v1/tokens", params(ListAsked), responses((status = 200, body = Listed<TokenItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let slice = Slice::take(&mut Params::from_query(query.as_deref(), &slice::PARAMS)?)?;
    let now = api.engine.now();
    let tokens = api.tokens.list().iter().map(|token| TokenItem::new(&api, token, now)).collect();
    Ok(slice.answer(tokens, |item: &TokenItem| &item.id))
}

/// One of them.
#[utoipa::path(get, path = "/api/v1/tokens/{id}", responses((status = 200, body = One<TokenItem>)))]
pub(super) async fn one(State(api): State<Api>, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| MISSING)?;
    let token = api.tokens.get(&id).ok_or(MISSING)?;
    Ok(list::one(&TokenItem::new(&api, &token, api.engine.now())))
}

/// Makes a token that may do no more than whoever asks. Its body: `name`, `scopes`, `namespaces` (default: bound to none), and
/// `expires_at` a time or `expires_in` so long (default: never). `token` is shown in this answer, and never again.
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    request_body = inline(Asked),
    responses((status = 201, body = One<Created>), (status = 409, description = "as many tokens as there can be are there")),
)]
pub(super) async fn create(State(api): State<Api>, caller: Caller, body: Body) -> Result<Response, ApiError> {
    let now = api.engine.now();
    let wanted = wanted(body::object(body, &MEMBERS).await?, now)?;
    let (token, secret) = api.tokens.create(wanted, &caller, now).await.map_err(|refused| match refused {
        Refused::Unfit(why) => ApiError::Invalid(why),
        Refused::Beyond(why) => ApiError::Forbidden(why),
        Refused::TooMany => ApiError::Conflict(refused.to_string()),
        Refused::Store(error) => ApiError::Store(error),
    })?;
    tracing::info!(token.id = %token.id, by = %caller.id, "a token is made");
    // The one place that shows it.
    Ok(list::created(&Created { token: secret.reveal().to_owned(), item: TokenItem::new(&api, &token, now) }))
}

/// Ends a token. What was made with it stays.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", responses((status = 200, body = One<TokenItem>)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| MISSING)?;
    let now = api.engine.now();
    let token = api.tokens.revoke(&id, &caller, now).await?.ok_or(MISSING)?;
    tracing::info!(token.id = %token.id, by = %caller.id, "a token is revoked");
    Ok(list::one(&TokenItem::new(&api, &token, now)))
}

const MISSING: ApiError = ApiError::NotFound("token");

fn wanted(mut given: serde_json::Map<String, Value>, now: Timestamp) -> Result<Wanted, ApiError> {
    let name = match given.remove("name") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(name)) => name.trim().to_owned(),
        Some(_) => return Err(invalid("name", "is not text")),
    };
    let scopes = texts("scopes", given.remove("scopes"))?.unwrap_or_default();
    let scopes: Result<Scopes, _> = scopes.iter().map(|word| Scope::parse(word).ok_or_else(no_scope)).collect();
    let namespaces = texts("namespaces", given.remove("namespaces"))?.map(|names| names.into_iter().collect::<BTreeSet<_>>());
    let expires_at = end(given.remove("expires_at"), given.remove("expires_in"), now)?;
    Ok(Wanted { name, scopes: scopes?, namespaces, expires_at })
}

fn no_scope() -> ApiError {
    invalid("scopes", &format!("has one that does not exist; there are {}", Scope::ALL.map(|(_, word)| word).join(", ")))
}

/// A list of texts; null stands for its absence.
fn texts(name: &str, value: Option<Value>) -> Result<Option<Vec<String>>, ApiError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let texts = value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    texts.map(Some).ok_or_else(|| invalid(name, "is a list of texts"))
}

/// When it ends: `at` a time in RFC 3339, or `after` a length of time such as `30d`, or a number of seconds.
fn end(at: Option<Value>, after: Option<Value>, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let given = |value: Option<Value>| value.filter(|value| !value.is_null());
    match (given(at), given(after)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("expires_in", "is given beside `expires_at`")),
        (Some(at), None) => {
            let at = at.as_str().and_then(|text| text.parse().ok());
            at.map(Some).ok_or_else(|| invalid("expires_at", "is not a time in RFC 3339, such as 2026-01-20T12:00:00Z"))
        }
        (None, Some(after)) => {
            let span = match &after {
                Value::String(text) => duration(text),
                after => after.as_u64().and_then(|seconds| duration(&format!("{seconds}s"))),
            };
            let span = span.filter(|span| !span.is_zero());
            let what = "is not a length of time such as 24h or 30d, or a number of seconds";
            span.map(|span| Some(later(now, span))).ok_or_else(|| invalid("expires_in", what))
        }
    }
}

/// A body that asks for a token.
struct Asked;

impl PartialSchema for Asked {
    fn schema() -> RefOr<Schema> {
        let text = |what: &str| json!({"type": ["string", "null"], "description": what});
        schema(json!({
            "type": "object",
            "required": ["name", "scopes"],
            "additionalProperties": false,
            "properties": {
                "name": {"type": "string", "pattern": "\\S", "maxLength": 100, "description": "What it is for."},
                "scopes": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"enum": Scope::ALL.map(|(_, word)| word)},
                    "description": "What it may do.",
                },
                "namespaces": {
                    "type": ["array", "null"],
                    "minItems": 1,
                    "maxItems": 100,
                    "items": {"type": "string", "minLength": 1, "maxLength": 256},
                    "description": "It sees and receives events of these namespaces only, exact as they are written: a `*` is no glob here. Not with `admin` and `config:…`.",
                },
                "expires_at": text("When it ends, in RFC 3339."),
                "expires_in": {
                    "type": ["string", "integer", "null"],
                    "description": "After how long it ends: `24h`, `90d`, or a number of seconds.",
                },
            },
            "examples": [{"name": "Webhook Manager", "scopes": ["webhooks"]}],
        }))
    }
}

impl ToSchema for Asked {}

/// A token as lists show it.
#[derive(Serialize, ToSchema)]
struct TokenItem {
    id: String,
    name: String,
    #[schema(value_type = Vec<words::Scope>)]
    scopes: Scopes,
    /// `null`: bound to none.
    #[schema(required)]
    namespaces: Option<BTreeSet<String>>,
    #[schema(value_type = words::TokenState)]
    state: &'static str,
    created_at: String,
    /// The id of the token that made it.
    created_by: String,
    #[schema(required)]
    expires_at: Option<String>,
    /// As far as this relay knows; kept every five minutes.
    #[schema(required)]
    last_used_at: Option<String>,
    #[schema(required)]
    revoked_at: Option<String>,
    #[schema(required)]
    revoked_by: Option<String>,
}

impl TokenItem {
    fn new(api: &Api, token: &Token, now: Timestamp) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.clone(),
            scopes: token.scopes,
            namespaces: token.namespaces.clone(),
            state: token.standing(now).word(),
            created_at: rfc3339_ms(token.created_at),
            created_by: token.created_by.clone(),
            expires_at: token.expires_at.map(rfc3339_ms),
            last_used_at: api.tokens.last_used(&token.id).map(rfc3339_ms),
            revoked_at: token.revoked_at.map(rfc3339_ms),
            revoked_by: token.revoked_by.clone(),
        }
    }
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
struct Created {
    #[serde(flatten)]
    item: TokenItem,
    /// What to show as `Authorization: Bearer …`; never shown again.
    token: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Result<Wanted, String> {
        let Value::Object(given) = given else { panic!("{given}") };
        wanted(given, "2026-01-20T12:00:00Z".parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_asked_for_in_json() {
        let full =
            read(json!({"name": " CI ", "scopes": ["webhooks", "events:read"], "namespaces": ["a,b", "c"], "expires_in": "30d"}));
        let full = full.unwrap();
        assert_eq!((full.name.as_str(), full.scopes.iter().count()), ("CI", 2));
        assert_eq!(full.namespaces, Some(["a,b".to_owned(), "c".to_owned()].into()));
        assert_eq!(full.expires_at, Some("2026-02-19T12:00:00Z".parse().unwrap()));
        assert_eq!(read(json!({"expires_in": 60})).unwrap().expires_at, Some("2026-01-20T12:01:00Z".parse().unwrap()));
        let seed = read(json!({"name": "Webhook Manager", "scopes": ["webhooks"], "namespaces": null})).unwrap();
        assert_eq!((seed.namespaces, seed.expires_at), (None, None));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (given, names) in [
            (json!({"name": 1}), "name"),
            (json!({"scopes": "webhooks"}), "scopes"),
            (json!({"scopes": ["all"]}), "scopes"),
            (json!({"scopes": [1]}), "scopes"),
            (json!({"namespaces": {}}), "namespaces"),
            (json!({"expires_at": "tomorrow"}), "expires_at"),
            (json!({"expires_in": "0s"}), "expires_in"),
            (json!({"expires_in": -1}), "expires_in"),
            (json!({"expires_in": u64::MAX}), "expires_in"),
            (json!({"expires_in": "1d", "expires_at": "2027-01-20T12:00:00Z"}), "expires_in"),
        ] {
            let error = read(given.clone()).unwrap_err();
            assert!(error.contains(&format!("`{names}`")), "{given}: {error}");
        }
    }
}
