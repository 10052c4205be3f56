//! Subscriptions as both dialects show them. Only the answers that make a secret show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Number, Value};
use utoipa::ToSchema;

use super::log;
use crate::{
    access::Caller,
    api::{Api, openapi::words},
    clock::rfc3339_s,
    jobs::Job,
    store,
    subscriptions::{Dialect, MASKED, Subscription},
};

/// When something was last sent, and how that ended. Left out of the answer that a subscription is made with.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct LastDelivery {
    /// When the last attempt was over; null before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_delivery_at: Option<Option<String>>,
    /// `delivered` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    last_delivery_status: Option<Option<&'static str>>,
}

impl LastDelivery {
    /// Asks the log.
    pub(super) async fn of(api: &Api, it: &Subscription) -> store::Result<Self> {
        let last = log::last(api, &it.id).await?;
        let attempt = last.as_ref().and_then(log::Entry::last);
        Ok(Self {
            last_delivery_at: Some(attempt.map(|attempt| rfc3339_s(log::ended_at(attempt)))),
            last_delivery_status: Some(last.as_ref().map(|last| last.status().word())),
        })
    }
}

/// A subscription in Interactor's words (webhooks guide, "Create a Webhook", "List Webhooks"). What was not asked for is left out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookItem {
    id: String,
    url: String,
    /// Shown once, in the answer that it was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    events: Vec<String>,
    enabled: bool,
    created_at: String,
    #[serde(flatten)]
    last: LastDelivery,
    #[serde(flatten)]
    options: Options,
}

/// What the seed's answers do not have.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookOptions)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Names, their values masked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, &'static str>,
    /// Conditions in the form of `when`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<words::Any>)]
    filter: Option<Value>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    timeout: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_retries: Option<u32>,
    /// Only where it is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_tls: Option<bool>,
    /// Only where it is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<words::Anything>)]
    metadata: Option<Value>,
    /// Whose events it gets; left out: everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<BTreeSet<String>>,
    /// The token that made it, where that is another than the caller's: told to those who are bound to no namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    made_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_at: Option<String>,
    /// `person`, `gone` (the receiver answered 410), `broken` (for 24 h) or `undelivered` (five in a row were given up).
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<&'static str>,
    /// What it held when it was enabled is being sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<ReleaseItem>,
    /// Only where it was changed since it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
}

/// How far the release of what was held has come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookRelease)]
pub(super) struct ReleaseItem {
    job: String,
    state: &'static str,
    /// How many were held.
    total: u64,
    /// How many of them have gone.
    done: u64,
    /// How many go in a second at most.
    rate: u32,
}

impl WebhookItem {
    /// `it` as `caller` sees it, with `last` where that was asked for.
    pub(super) fn new(api: &Api, caller: &Caller, it: &Subscription, last: LastDelivery) -> Self {
        Self {
            id: it.id.to_string(),
            url: it.url.to_string(),
            secret: None,
            events: events(it),
            enabled: it.disabled.is_none(),
            created_at: rfc3339_s(it.created_at),
            last,
            options: Options::new(api, caller, it),
        }
    }

    /// With the secret that was just made.
    pub(super) fn with_secret(self, secret: &str) -> Self {
        Self { secret: Some(secret.to_owned()), ..self }
    }
}

impl Options {
    fn new(api: &Api, caller: &Caller, it: &Subscription) -> Self {
        Self {
            name: it.name.clone(),
            description: it.description.clone(),
            headers: it.headers.iter().map(|name| (name.clone(), MASKED)).collect(),
            filter: it.filter.as_ref().map(|filter| filter.written.clone()),
            timeout: it.timeout.and_then(seconds),
            max_retries: it.max_retries,
            verify_tls: (!it.verify_tls).then_some(false),
            handshake: it.handshake.then_some(true),
            metadata: it.metadata.clone(),
            namespaces: it.namespaces.clone(),
            made_by: (caller.namespaces.is_none() && caller.id != it.made_by).then(|| it.made_by.clone()),
            disabled_at: it.disabled.as_ref().map(|disabled| rfc3339_s(disabled.at)),
            disabled_reason: it.disabled.as_ref().map(|disabled| disabled.why.word()),
            release: ReleaseItem::of(api, it),
            updated_at: (it.created_at < it.updated_at).then(|| rfc3339_s(it.updated_at)),
        }
    }
}

impl ReleaseItem {
    fn of(api: &Api, it: &Subscription) -> Option<Self> {
        let release = it.release.as_ref()?;
        let job = release.job.as_ref()?;
        let job: Job = api.engine.jobs().into_iter().find(|known| known.id == *job)?;
        Some(Self { state: job.state.word(), total: job.total, done: job.done, rate: release.per_second(), job: job.id })
    }
}

/// A subscription in Honeyframe's words (webhooks page, "What's planned"). Its secret is never shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlainWebhook)]
pub(super) struct PlainItem {
    id: String,
    event_type: TypeOrTypes,
    target_url: String,
    enabled: bool,
    created_at: String,
    /// The schemes that sign its deliveries.
    signing: Vec<&'static str>,
    #[serde(flatten)]
    last: LastDelivery,
    #[serde(flatten)]
    options: Options,
}

/// One event type; a list where the subscription has several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum TypeOrTypes {
    One(String),
    Several(Vec<String>),
}

impl PlainItem {
    pub(super) fn new(api: &Api, caller: &Caller, it: &Subscription, last: LastDelivery) -> Self {
        let mut types = events(it);
        Self {
            id: it.id.to_string(),
            event_type: if types.len() == 1 { TypeOrTypes::One(types.remove(0)) } else { TypeOrTypes::Several(types) },
            target_url: it.url.to_string(),
            enabled: it.disabled.is_none(),
            created_at: rfc3339_s(it.created_at),
            signing: signing(it),
            last,
            options: Options::new(api, caller, it),
        }
    }
}

/// A length of time in seconds, without a fraction where it has none.
fn seconds(length: Duration) -> Option<Number> {
    if length.subsec_nanos() == 0 { Some(length.as_secs().into()) } else { Number::from_f64(length.as_secs_f64()) }
}

fn events(it: &Subscription) -> Vec<String> {
    it.event_texts().into_iter().map(str::to_owned).collect()
}

fn signing(it: &Subscription) -> Vec<&'static str> {
    let own = match it.dialect {
        Dialect::Interactor => "interactor",
        Dialect::Honeyframe => "honeyframe",
    };
    it.standard.then_some("standard").into_iter().chain([own]).collect()
}
