//! `/api/v1/audit`: who changed what, how it was before and how it is since. No secret is in it.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api,
    error::ApiError,
    list::{self, Listed, Params},
    openapi::params::params,
};
use crate::{
    access::{BOOTSTRAP, Caller},
    clock::rfc3339_ms,
    store::{AuditFilter, AuditRow, Change, NewAudit},
};

const PARAMS: [&str; 7] = ["who", "what", "subject", "since", "until", "limit", "after"];

params!(Asked = PARAMS,
    "who" means "Only what this token did, by its id; `bootstrap` for the one of the start." => Kind::Text,
    "what" means "Only this action, or actions that begin so: `token.created`, `subscription.`." => Kind::Text,
    "subject" means "Only what was done to this: an id or a name." => Kind::Text);

/// A page of the audit. `who` is the id of a token, `what` an action or what actions begin with (`token.created`, `subscription.`),
/// `subject` the id or name of what was changed.
#[utoipa::path(get, path = "/api/v1/audit", params(Asked), responses((status = 200, body = Listed<AuditItem>)))]
pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::from_query(query.as_deref(), &PARAMS)?;
    let (who, action, subject) = (params.take("who"), params.take("what"), params.take("subject"));
    let shared = list::filter(&mut params, |_| None)?;
    let (page, limit) = (shared.page, shared.limit);
    let filter =
        AuditFilter { who, action, subject, since: shared.since, until: shared.until, page, limit: list::one_more(&shared) };
    let rows = api.store.audit(filter).await?;
    Ok(list::answer(rows, page, limit, |row| row.id, |row| AuditItem::new(&api, row)))
}

impl Api {
    /// Notes that `caller` has done `action` to `subject`: for changes that are not in one commit with their entry. What was done
    /// is done: where the entry cannot be kept, the log has it.
    pub(super) async fn note(&self, caller: &Caller, action: &str, subject: &str, before: Value, after: Value) {
        let text = |value: Value| (!value.is_null()).then(|| value.to_string());
        let entry = NewAudit {
            at: self.engine.now(),
            who: caller.id.clone(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            before: text(before),
            after: text(after),
        };
        if let Err(error) = self.store.change(Change { audit: vec![entry.clone()], ..Change::default() }).await {
            let NewAudit { who, before, after, .. } = entry;
            tracing::error!(who, action, subject, before, after, "an audit entry could not be kept: {error}");
        }
    }
}

/// An audit entry as lists show it.
#[derive(Serialize, ToSchema)]
struct AuditItem {
    id: i64,
    at: String,
    /// The id of a token, `bootstrap`, or `hookyard` for what the relay did by itself.
    who: String,
    /// What that token is called, while it is known.
    #[schema(required)]
    name: Option<String>,
    /// What was done: `target.paused`.
    what: String,
    /// To what: an id or a name.
    subject: String,
    /// How it was; null where it is new.
    before: Value,
    /// How it is since; null where it is gone.
    after: Value,
}

impl AuditItem {
    fn new(api: &Api, row: &AuditRow) -> Self {
        let NewAudit { at, who, action, subject, before, after } = row.entry.clone();
        // Ours are JSON; what is not is shown as text.
        let read =
            |text: Option<String>| text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or_else(|_| json!(text)));
        let name =
            if who == BOOTSTRAP { Some(Caller::bootstrap().name) } else { api.tokens.get(&who).map(|token| token.name.clone()) };
        Self { id: row.id, at: rfc3339_ms(at), who, name, what: action, subject, before: read(before), after: read(after) }
    }
}
