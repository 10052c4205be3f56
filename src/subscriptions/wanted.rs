//! What somebody wants of a subscription, as its JSON body says it: every field by itself, checked as far as it can be without knowing
//! others. Fields are named in errors as the caller wrote them.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use url::Url;

use super::{
    filter,
    model::{Dialect, EventFilter},
    refused::Refused,
};
use crate::{config::decode::nearest, deliver::endpoint, route::glob::Glob, secret::Secret};

/// Longest URL, in bytes.
const URL_MAX: usize = 2048;
/// Most globs of one subscription.
const EVENTS_MAX: usize = 50;
/// Longest name, in characters.
const NAME_MAX: usize = 200;
/// Longest description, in characters.
const DESCRIPTION_MAX: usize = 2000;
/// Largest `metadata`, as compact JSON, in bytes.
const METADATA_MAX: usize = 8 * 1024;
/// Most headers,
const HEADERS_MAX: usize = 20;
/// and longest value of one, in bytes.
const HEADER_MAX: usize = 1024;
/// Lengths of a secret that the caller brings, in characters.
const SECRET: std::ops::RangeInclusive<usize> = 8..=256;
/// Longest timeout, in seconds (agent webhooks guide, "Webhook Settings").
const TIMEOUT_MAX: f64 = 300.0;
/// Most retries (likewise).
const RETRIES_MAX: u64 = 10;
/// What stands for a header's value in answers; sent back, the value stays.
pub const MASKED: &str = "***";

/// What answers carry beside what can be asked for: who sends one back changed need not take it out.
const ANSWERED: [&str; 14] = [
    "made_by",
    "release",
    "id",
    "created_at",
    "updated_at",
    "regenerated_at",
    "last_delivery_at",
    "last_delivery_status",
    "disabled_reason",
    "disabled_at",
    "dialect",
    "namespaces",
    "status",
    "signing",
];

/// What other systems call what is known here: taken for something else, it would do the contrary of what was meant.
const MEANT: [(&str, &str); 4] =
    [("is_active", "enabled"), ("when", "filter"), ("conditions", "filter"), ("ssl_verification", "verify_tls")];

/// What is wanted; `None` where nothing is said. What may be taken away is `Some(None)` then.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Where it goes.
    pub url: Option<Url>,
    /// The event types.
    pub events: Option<Vec<Glob>>,
    /// What signs: in Honeyframe's dialect. In Interactor's the relay makes it; there it is what an answer showed.
    pub secret: Option<Secret>,
    /// Whether it is sent to.
    pub enabled: Option<bool>,
    /// What must hold besides.
    pub filter: Option<Option<EventFilter>>,
    /// What it is called.
    pub name: Option<Option<String>>,
    /// What is said of it.
    pub description: Option<Option<String>>,
    /// Headers that go along, in the place of all there were; [`MASKED`] keeps a value.
    pub headers: Option<BTreeMap<String, Secret>>,
    /// What is kept with it.
    pub metadata: Option<Option<Value>>,
    /// Longest time for one attempt.
    pub timeout: Option<Option<Duration>>,
    /// How often a delivery is retried.
    pub max_retries: Option<Option<u32>>,
    /// Whether the receiver's certificate is checked.
    pub verify_tls: Option<bool>,
    /// Whether the receiver is asked for its consent first: Interactor's dialect only.
    pub handshake: Option<bool>,
}

/// How the fields of a dialect are called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) url: &'static str,
    pub(super) events: &'static str,
}

impl Names {
    /// Those of `dialect`.
    pub(super) fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Interactor => Self { url: "url", events: "events" },
            Dialect::Honeyframe => Self { url: "target_url", events: "event_type" },
        }
    }
}

const OPTIONS: [&str; 11] = [
    "enabled",
    "active",
    "filter",
    "name",
    "description",
    "headers",
    "metadata",
    "timeout",
    "max_retries",
    "verify_tls",
    "secret",
];

impl Wanted {
    /// Reads `body`, which speaks `dialect`.
    ///
    /// # Errors
    /// [`Refused::Invalid`] for the first field that cannot be.
    pub fn read(body: &Value, dialect: Dialect) -> Result<Self, Refused> {
        let Value::Object(fields) = body else { return Err(Refused::request("body", "is a JSON object")) };
        misspelt(fields, dialect)?;
        let wanted = Self {
            url: url(fields, dialect)?,
            events: events(fields, dialect)?,
            secret: secret(fields, dialect)?,
            enabled: enabled(fields)?,
            filter: optional(fields, "filter", |value| filter::compile(value.clone()))?,
            name: optional(fields, "name", |value| text(value, NAME_MAX))?,
            description: optional(fields, "description", |value| text(value, DESCRIPTION_MAX))?,
            headers: optional(fields, "headers", headers)?.map(Option::unwrap_or_default),
            metadata: optional(fields, "metadata", metadata)?,
            timeout: optional(fields, "timeout", timeout)?,
            max_retries: optional(fields, "max_retries", retries)?,
            verify_tls: flag(fields, "verify_tls")?,
            handshake: if dialect == Dialect::Interactor { flag(fields, "handshake")? } else { None },
        };
        Ok(wanted)
    }
}

/// Refuses a field that looks like one that is known: a `filter` that is misspelt would let everything through. Others are ignored:
/// clients of Interactor may say more than we know of.
fn misspelt(fields: &Map<String, Value>, dialect: Dialect) -> Result<(), Refused> {
    let Names { url, events } = Names::of(dialect);
    let mut names = vec![url, events];
    names.extend(OPTIONS);
    if dialect == Dialect::Interactor {
        names.extend(["event_types", "handshake"]);
    }
    let unknown = |key: &&String| !names.contains(&key.as_str()) && !ANSWERED.contains(&key.as_str());
    for key in fields.keys().filter(unknown) {
        let meant = MEANT.iter().find(|(word, _)| word == key).map(|(_, name)| *name);
        if let Some(near) = meant.or_else(|| nearest(key, names.iter().copied())) {
            let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
            return Err(Refused::request(shown, format!("is not known: did you mean `{near}`?")));
        }
    }
    Ok(())
}

fn optional<T>(
    fields: &Map<String, Value>,
    name: &str,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Result<Option<Option<T>>, Refused> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(value) => read(value).map(|it| Some(Some(it))).map_err(|reason| Refused::request(name, reason)),
    }
}

/// What is said of `name`; nothing by `null`.
fn said<'f>(fields: &'f Map<String, Value>, name: &str) -> Option<&'f Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// `enabled`, or `active`, as other systems call it.
fn enabled(fields: &Map<String, Value>) -> Result<Option<bool>, Refused> {
    match (flag(fields, "enabled")?, flag(fields, "active")?) {
        (Some(enabled), Some(active)) if enabled != active => {
            Err(Refused::request("enabled", "and `active` mean the same, and say different things"))
        }
        (enabled, active) => Ok(enabled.or(active)),
    }
}

fn flag(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>, Refused> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(yes)) => Ok(Some(*yes)),
        Some(_) => Err(Refused::request(name, "is true or false")),
    }
}

fn text(value: &Value, max: usize) -> Result<String, String> {
    let Value::String(text) = value else { return Err("is text".to_owned()) };
    if max < text.chars().count() {
        return Err(format!("is longer than {max} characters"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err("holds control characters".to_owned());
    }
    Ok(text.clone())
}

fn url(fields: &Map<String, Value>, dialect: Dialect) -> Result<Option<Url>, Refused> {
    let name = Names::of(dialect).url;
    let refused = |reason: &str| Err(Refused::url(name, reason));
    let Some(value) = said(fields, name) else { return Ok(None) };
    let Value::String(text) = value else { return refused("is text: a URL such as https://example.com/hooks") };
    if URL_MAX < text.len() {
        return refused(&format!("is longer than {URL_MAX} bytes"));
    }
    match endpoint::parse_url(text) {
        Ok(url) => Ok(Some(url)),
        Err(reason) => refused(reason.about()),
    }
}

fn events(fields: &Map<String, Value>, dialect: Dialect) -> Result<Option<Vec<Glob>>, Refused> {
    let name = Names::of(dialect).events;
    let (name, value) = match (said(fields, name), said(fields, "event_types").filter(|_| dialect == Dialect::Interactor)) {
        (None, None) => return Ok(None),
        (Some(value), None) => (name, value),
        (None, Some(value)) => ("event_types", value),
        (Some(value), Some(other)) if value == other => (name, value),
        (Some(_), Some(_)) => return Err(Refused::events(name, "and `event_types` mean the same, and say different things")),
    };
    let texts: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::String(_) if dialect == Dialect::Honeyframe => vec![value],
        _ if dialect == Dialect::Honeyframe => return Err(Refused::events(name, "is text: the type of an event")),
        _ => return Err(Refused::events(name, "is a list of event types")),
    };
    if texts.is_empty() {
        return Err(Refused::events(name, "names no event type"));
    }
    if EVENTS_MAX < texts.len() {
        return Err(Refused::events(name, format!("names more than {EVENTS_MAX}")));
    }
    let mut globs: Vec<Glob> = Vec::with_capacity(texts.len());
    for (at, value) in texts.into_iter().enumerate() {
        let Value::String(text) = value else { return Err(Refused::events(format!("{name}[{at}]"), "is text")) };
        let glob =
            Glob::parse(text).map_err(|error| Refused::events(format!("{name}[{at}]"), format!("is no event type: {error}")))?;
        if !globs.contains(&glob) {
            globs.push(glob);
        }
    }
    Ok(Some(globs))
}

fn secret(fields: &Map<String, Value>, dialect: Dialect) -> Result<Option<Secret>, Refused> {
    let Some(value) = said(fields, "secret") else { return Ok(None) };
    let Value::String(text) = value else { return Err(Refused::request("secret", "is text")) };
    if dialect == Dialect::Interactor {
        // Only held against the one there is.
        return Ok(Some(Secret::new(text.as_str())));
    }
    // Printable ASCII: what both sides take for the same bytes.
    if !SECRET.contains(&text.len()) || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        let reason = format!("is {} to {} printable ASCII characters", SECRET.start(), SECRET.end());
        return Err(Refused::request("secret", reason));
    }
    Ok(Some(Secret::new(text.as_str())))
}

fn headers(value: &Value) -> Result<BTreeMap<String, Secret>, String> {
    let Value::Object(map) = value else { return Err("is an object of names and values".to_owned()) };
    if HEADERS_MAX < map.len() {
        return Err(format!("has more than {HEADERS_MAX} headers"));
    }
    let mut headers = BTreeMap::new();
    let mut names = Vec::with_capacity(map.len());
    for (name, value) in map {
        let read = endpoint::custom_header(name).map_err(|reason| format!("cannot set `{}`: {reason}", shown(name)))?;
        if names.contains(&read) {
            return Err(format!("sets `{read}` twice"));
        }
        names.push(read);
        let good = value.as_str().filter(|text| text.len() <= HEADER_MAX && endpoint::header_value(text).is_some());
        let Some(text) = good else { return Err(format!("gives `{}` a value that no header can carry", shown(name))) };
        headers.insert(name.clone(), Secret::new(text));
    }
    Ok(headers)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn metadata(value: &Value) -> Result<Value, String> {
    if !value.is_object() {
        return Err("is an object".to_owned());
    }
    if METADATA_MAX < value.to_string().len() {
        return Err(format!("is larger than {METADATA_MAX} bytes"));
    }
    Ok(value.clone())
}

fn timeout(value: &Value) -> Result<Duration, String> {
    let seconds = value.as_f64().filter(|seconds| (1.0..=TIMEOUT_MAX).contains(seconds));
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "is a number of seconds from 1 to 300".to_owned())
}

fn retries(value: &Value) -> Result<u32, String> {
    let retries = value.as_u64().filter(|retries| *retries <= RETRIES_MAX).and_then(|retries| u32::try_from(retries).ok());
    retries.ok_or_else(|| format!("is a whole number from 0 to {RETRIES_MAX}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn told(body: Value) -> String {
        let refused = Wanted::read(&body, Dialect::Interactor).unwrap_err();
        format!("{} {refused}", refused.code())
    }

    #[test]
    fn a_body_of_either_dialect_is_read() {
        let wanted = Wanted::read(
            &json!({"url": "https://a.example/h", "event_types": ["credential.*", "credential.*"], "name": "CRM", "timeout": 5,
                "max_retries": 0, "headers": {"X-Key": "psst"}, "filter": null, "created_at": "2026-01-20T12:00:00Z"}),
            Dialect::Interactor,
        );
        let wanted = wanted.unwrap();
        assert_eq!(wanted.events.unwrap().len(), 1);
        assert_eq!((wanted.name, wanted.timeout), (Some(Some("CRM".to_owned())), Some(Some(Duration::from_secs(5)))));
        assert!(wanted.filter.is_some_and(|filter| filter.is_none()) && wanted.max_retries == Some(Some(0)));
        let body = json!({"event_type": "dataset.updated", "target_url": "https://a.example/h", "secret": "12345678"});
        let wanted = Wanted::read(&body, Dialect::Honeyframe).unwrap();
        assert!(wanted.secret.is_some() && wanted.url.is_some() && wanted.events.is_some());
    }

    #[test]
    fn what_cannot_be_names_its_field_and_why() {
        assert_eq!(told(json!(5)), "invalid_request `body` is a JSON object");
        assert_eq!(told(json!({"filters": []})), "invalid_request `filters` is not known: did you mean `filter`?");
        assert_eq!(told(json!({"url": 5})), "invalid_url `url` is text: a URL such as https://example.com/hooks");
        assert_eq!(told(json!({"url": "ftp://a"})), "invalid_url `url` is a URL such as https://example.com/hooks");
        assert_eq!(told(json!({"url": "https://a:b@c.example"})), "invalid_url `url` must not hold a user name or password");
        assert_eq!(told(json!({"events": []})), "invalid_events `events` names no event type");
        assert_eq!(told(json!({"events": "a"})), "invalid_events `events` is a list of event types");
        assert!(
            told(json!({"events": ["a.", "b"], "event_types": ["c"]})).starts_with("invalid_events `events` and `event_types`")
        );
        assert!(told(json!({"events": ["a.b", "a**"]})).starts_with("invalid_events `events[1]` is no event type: "));
        assert_eq!(told(json!({"timeout": 301})), "invalid_request `timeout` is a number of seconds from 1 to 300");
        assert_eq!(told(json!({"max_retries": 11})), "invalid_request `max_retries` is a whole number from 0 to 10");
        assert_eq!(told(json!({"enabled": "yes"})), "invalid_request `enabled` is true or false");
        assert_eq!(told(json!({"headers": {"Host": "x"}})), "invalid_request `headers` cannot set `Host`: it is the relay's own");
        assert!(told(json!({"headers": {"WebHook-Request-Origin": "x"}})).ends_with("it is the relay's own"));
        assert_eq!(
            told(json!({"headers": {"X-A": "a\nb"}})),
            "invalid_request `headers` gives `X-A` a value that no header can carry"
        );
        assert_eq!(told(json!({"metadata": []})), "invalid_request `metadata` is an object");
        assert_eq!(told(json!({"filter": "x"})).split(" such").next(), Some("invalid_request `filter` is a condition"));
        assert_eq!(
            told(json!({"active": false, "enabled": true})),
            "invalid_request `enabled` and `active` mean the same, and say different things"
        );
        let more = json!({"url": "https://a.example/h", "zap": {"id": 1}, "version": 2, "hookUrl": "x"});
        assert!(Wanted::read(&more, Dialect::Interactor).is_ok(), "what nobody knows is ignored");
        let short = Wanted::read(&json!({"secret": "1234567"}), Dialect::Honeyframe).unwrap_err();
        assert_eq!(short.to_string(), "`secret` is 8 to 256 printable ASCII characters");
    }

    proptest! {
        #[test]
        fn no_body_breaks_reading(body in crate::route::when::tests::any_json(), names in prop::collection::vec(0..17_usize, 0..5)) {
            let all = ["url", "events", "event_types", "event_type", "target_url", "secret", "enabled", "filter", "name", "description",
                "headers", "metadata", "timeout", "max_retries", "verify_tls", "handshake", "id"];
            let fields: Map<String, Value> = names.iter().map(|at| (all[*at].to_owned(), body.clone())).collect();
            for dialect in [Dialect::Interactor, Dialect::Honeyframe] {
                let _ = Wanted::read(&body, dialect);
                let _ = Wanted::read(&Value::Object(fields.clone()), dialect);
            }
        }
    }
}
