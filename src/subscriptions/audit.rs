//! A subscription as audit entries show it: whoever reads them must not learn a secret, so the path of its URL is masked, and of headers
//! only the names are told.

use serde_json::{Map, Value, json};

use super::model::{Life, Subscription};

/// What an entry tells of `it`, as JSON.
pub(super) fn shown(it: &Subscription) -> String {
    let all = json!({
        "id": it.id.as_str(),
        "url": it.masked_url(),
        "url_hash": url_hash(it),
        "events": it.event_texts(),
        "filter": it.filter.as_ref().map(|filter| &filter.written),
        "enabled": it.disabled.is_none(),
        "disabled_reason": it.disabled.as_ref().map(|disabled| disabled.why.word()),
        "name": it.name,
        "description": it.description,
        "headers": it.headers,
        "timeout": it.timeout.map(|timeout| timeout.as_secs_f64()),
        "max_retries": it.max_retries,
        "verify_tls": it.verify_tls,
        "handshake": it.handshake.then_some(true),
        "namespaces": it.namespaces,
        "dialect": it.dialect.word(),
        "state": state(&it.life),
        "adopted_by": match &it.life { Life::Adopted { by, .. } => Some(by.as_str()), _ => None },
    });
    let Value::Object(mut all) = all else { return String::new() };
    all.retain(|_, value| !value.is_null() && *value != Value::Array(Vec::new()));
    Value::Object(all.into_iter().collect::<Map<_, _>>()).to_string()
}

/// Tells one URL from another without showing either: 8 hex digits.
fn url_hash(it: &Subscription) -> String {
    let mut hash = crate::sign::hex(&crate::sign::sha256(&[it.url.as_str().as_bytes()]));
    hash.truncate(8);
    hash
}

fn state(life: &Life) -> &'static str {
    match life {
        Life::Living => "living",
        Life::InGrace { .. } => "deleted",
        Life::Adopted { .. } => "adopted",
        Life::Over { .. } => "over",
    }
}
