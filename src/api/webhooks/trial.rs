//! Trying a subscription out: a signed sample is sent at once, beside its lane, and what the receiver said is told.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::deliveries::excerpt;
use crate::{
    access::Caller,
    api::{Api, error::ApiError},
    deliver::NoTrial,
    samples,
    subscriptions::{Refused, Subscription, What},
};

/// What came of trying it out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookTrial)]
pub(super) struct TrialItem {
    id: String,
    /// The type of the sample.
    r#type: String,
    /// `delivered` or `failed`.
    status: &'static str,
    response_code: u16,
    response_time_ms: u64,
    /// The beginning of the answer.
    response: String,
    /// What a delivery would come to that is answered so: `transient` (it is tried again) or `permanent`; null where it is delivered.
    failure: Option<&'static str>,
}

/// Sends `it` a sample of the type that `asked` says as `event`, or of one that it gets.
///
/// # Errors
/// `webhook_disabled`; `url_unreachable` where no answer came, with the reason.
pub(super) async fn make(api: &Api, caller: &Caller, it: &Subscription, asked: Option<&Value>) -> Result<TrialItem, ApiError> {
    if it.disabled.is_some() {
        return Err(ApiError::WebhookDisabled);
    }
    if asked.is_some_and(|body| !body.is_object()) {
        return Err(ApiError::Invalid("the body is not a JSON object".to_owned()));
    }
    let wanted = asked.and_then(|body| body.get("event")).filter(|wanted| !wanted.is_null());
    let wanted = match wanted {
        None => a_type_of(it),
        Some(wanted) => Some(wanted.as_str().ok_or_else(bad_type)?),
    };
    let trial = api.engine.test(&it.id, wanted).await.map_err(|refused| match refused {
        NoTrial::BadType => bad_type(),
        // Deleted in this very moment.
        NoTrial::Nobody => Refused::NotFound.into(),
    })?;
    tracing::info!(target.name = %it.id, outcome = trial.outcome, by = %caller.id, "a subscription is tried out");
    let after = json!({"event": trial.event_type, "outcome": trial.outcome});
    api.note(caller, "subscription.tested", it.id.as_str(), Value::Null, after).await;
    let Some(response_code) = trial.status else {
        let reason = trial.detail.or(trial.error).unwrap_or_else(|| "no answer came".to_owned());
        return Err(ApiError::Unreachable(format!("the URL cannot be reached: {reason}")));
    };
    let delivered = trial.outcome == "delivered";
    Ok(TrialItem {
        id: it.id.to_string(),
        r#type: trial.event_type,
        status: if delivered { "delivered" } else { "failed" },
        response_code,
        response_time_ms: u64::try_from(trial.duration.as_millis()).unwrap_or(u64::MAX),
        response: excerpt(&trial.response),
        failure: (!delivered).then(|| if trial.outcome == "permanent" { "permanent" } else { "transient" }),
    })
}

fn bad_type() -> ApiError {
    let reason = "is no event type: letters, digits, `.`, `_` and `-`".to_owned();
    Refused::Invalid { what: What::Events, field: "event".to_owned(), reason }.into()
}

/// A type that it gets: one that it names, or else one of the seeds that it takes.
fn a_type_of(it: &Subscription) -> Option<&str> {
    let named = it.events.iter().find_map(|glob| glob.exact());
    let known = || samples::ALL.iter().map(|sample| sample.r#type).find(|known| it.events.iter().any(|glob| glob.matches(known)));
    named.or_else(known)
}
