//! A subscription as it is known, and as the store keeps it. What of it is secret is in [`super::secrets`] and nowhere here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use data_encoding::BASE32_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    clock::Timestamp,
    config::decode::Rate,
    envelope::Name,
    route::{glob::Glob, subscribers::Subscriber, when::Condition},
};

/// A way out registered by API. Prints without the URL's path, which may carry a secret.
#[derive(Clone)]
pub struct Subscription {
    /// Its id, and the name of its target: `wh_` and 26 letters and digits.
    pub id: Name,
    /// Which API made it.
    pub dialect: Dialect,
    /// Where it goes.
    pub url: Url,
    /// The event types it wants; one must fit.
    pub events: Vec<Glob>,
    /// What must hold besides.
    pub filter: Option<EventFilter>,
    /// What its maker calls it.
    pub name: Option<String>,
    /// What its maker says of it.
    pub description: Option<String>,
    /// Names of the headers that go along, as they were written; their values may be secret.
    pub headers: Vec<String>,
    /// What its maker keeps with it: an object.
    pub metadata: Option<Value>,
    /// Longest time for one attempt, where its maker says so.
    pub timeout: Option<Duration>,
    /// How often a delivery is retried, where its maker says so.
    pub max_retries: Option<u32>,
    /// Whether the receiver's certificate is checked.
    pub verify_tls: bool,
    /// Whether the receiver is asked for its consent by OPTIONS first (CloudEvents' abuse protection).
    pub handshake: bool,
    /// Since when and why it is switched off.
    pub disabled: Option<Disabled>,
    /// The namespaces whose events it gets, exactly so; `None`: all, as an unbound token made it.
    pub namespaces: Option<BTreeSet<String>>,
    /// The token that made it: its id.
    pub made_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When its secret was last made anew.
    pub regenerated_at: Option<Timestamp>,
    /// Whether deliveries are signed `standard` too: where the secret is one that it takes.
    pub standard: bool,
    /// What it held when it was enabled is being released.
    pub release: Option<Release>,
    /// Where it stands between being made and being forgotten.
    pub life: Life,
    /// What a later version keeps of it: it stays.
    pub(super) more: Map<String, Value>,
}

/// Which API made a subscription: what signs it, and when it is tried again, follow from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// `/api/v1/webhooks`.
    Interactor,
    /// `/api/webhooks`.
    Honeyframe,
}

impl Dialect {
    /// Its word in API and audit.
    pub fn word(self) -> &'static str {
        match self {
            Self::Interactor => "interactor",
            Self::Honeyframe => "honeyframe",
        }
    }
}

/// `filter`: conditions in the form of `when`, and as they were written.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// As it was written.
    pub written: Value,
    /// What must hold, all of it.
    pub conditions: Vec<Condition>,
}

/// Why a subscription is switched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
    /// What the last attempt ended with, where that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a subscription was switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A person did it, or made it so.
    Person,
    /// Its receiver answered 410.
    Gone,
    /// It was broken for 24 h.
    Broken,
    /// Five deliveries in a row died for lack of attempts.
    Undelivered,
}

impl Why {
    /// Its word in API, audit and notices.
    pub fn word(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Gone => "gone",
            Self::Broken => "broken",
            Self::Undelivered => "undelivered",
        }
    }
}

/// What was held is sent under a cap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The job that counts it; `None` for the moment before it begins.
    pub job: Option<String>,
    /// What was planned before is what was held.
    pub until: Timestamp,
    /// How many may go in how many milliseconds.
    count: u32,
    per_ms: u64,
}

impl Release {
    /// One that begins at `until`, and its cap.
    pub fn new(until: Timestamp, rate: Rate) -> Self {
        Self { job: None, until, count: rate.count, per_ms: u64::try_from(rate.per.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The same, which this job counts.
    pub(super) fn counted_by(self, job: &str) -> Self {
        Self { job: Some(job.to_owned()), ..self }
    }

    /// The cap: evenly, none ahead of its time but the first.
    pub fn rate(&self) -> Rate {
        Rate { count: self.count.max(1), per: Duration::from_millis(self.per_ms.max(1)), burst: 1 }
    }

    /// How many go under the cap in so long.
    pub(super) fn within(&self, time: Duration) -> u64 {
        let sent = u128::from(self.count) * time.as_millis() / u128::from(self.per_ms.max(1));
        u64::try_from(sent).unwrap_or(u64::MAX)
    }

    /// The cap as jobs show it: so many in a second, one at least.
    pub fn per_second(&self) -> u32 {
        let per_second = u64::from(self.count).saturating_mul(1000) / self.per_ms.max(1);
        u32::try_from(per_second).unwrap_or(u32::MAX).max(1)
    }
}

/// Where a subscription stands between being made and being forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Life {
    /// It is there.
    Living,
    /// It was deleted: what it would get is planned and held for one that may come in its place.
    InGrace {
        /// Until then.
        until: Timestamp,
        /// Whether what waits was held before it was deleted: it was switched off, paused, broken, or being released.
        #[serde(default)]
        held: bool,
    },
    /// Another has taken its place, and takes over what still comes to light for it.
    Adopted {
        /// Which.
        #[serde(with = "name")]
        by: Name,
        /// Since when.
        at: Timestamp,
    },
    /// Nobody came: what waits is cancelled.
    Over {
        /// Since when.
        at: Timestamp,
    },
}

impl Subscription {
    /// Whether it is there for those who made it.
    pub fn is_living(&self) -> bool {
        self.life == Life::Living
    }

    /// Whether events are planned for it.
    pub(super) fn is_planned(&self) -> bool {
        matches!(self.life, Life::Living | Life::InGrace { .. })
    }

    /// Whether it is sent to.
    pub fn is_enabled(&self) -> bool {
        self.is_living() && self.disabled.is_none()
    }

    /// Since when nothing is sent to it.
    pub(super) fn off_since(&self) -> Option<Timestamp> {
        let deleted = if self.is_living() { None } else { Some(self.updated_at) };
        self.disabled.as_ref().map(|it| it.at).or(deleted)
    }

    /// Where it goes, its path masked.
    pub fn masked_url(&self) -> String {
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}/***", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// Its events as they were written.
    pub fn event_texts(&self) -> Vec<&str> {
        self.events.iter().map(Glob::text).collect()
    }

    /// As planning sees it.
    pub(super) fn subscriber(&self) -> Subscriber {
        Subscriber {
            target: self.id.clone(),
            events: self.events.clone(),
            filter: self.filter.as_ref().map(|filter| filter.conditions.clone()).unwrap_or_default(),
            namespaces: self.namespaces.clone(),
        }
    }

    /// The document that the store keeps.
    pub(super) fn to_doc(&self) -> String {
        let doc = Doc {
            dialect: self.dialect,
            url: self.url.to_string(),
            events: self.events.iter().map(|glob| glob.text().to_owned()).collect(),
            filter: self.filter.as_ref().map(|filter| filter.written.clone()),
            name: self.name.clone(),
            description: self.description.clone(),
            headers: self.headers.clone(),
            metadata: self.metadata.clone(),
            timeout_ms: self.timeout.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
            max_retries: self.max_retries,
            verify_tls: self.verify_tls,
            handshake: self.handshake,
            disabled: self.disabled.clone(),
            namespaces: self.namespaces.clone(),
            made_by: self.made_by.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            regenerated_at: self.regenerated_at,
            standard: self.standard,
            release: self.release.clone(),
            life: self.life.clone(),
            more: self.more.clone(),
        };
        // Plain data with text for keys: writing it cannot fail.
        serde_json::to_string(&doc).unwrap_or_default()
    }

    /// Reads such a document; the error says what it lacks.
    pub(super) fn of_doc(id: &str, doc: &str) -> Result<Self, String> {
        let doc: Doc = serde_json::from_str(doc).map_err(|error| error.to_string())?;
        let filter = match doc.filter {
            Some(written) => Some(super::filter::read(written)?),
            None => None,
        };
        let events = doc.events.iter().map(|text| Glob::parse(text)).collect::<Result<_, _>>();
        Ok(Self {
            id: Name::parse(id).ok_or("its id is no name")?,
            dialect: doc.dialect,
            url: doc.url.parse().map_err(|error: url::ParseError| error.to_string())?,
            events: events.map_err(|error| error.to_string())?,
            filter,
            name: doc.name,
            description: doc.description,
            headers: doc.headers,
            metadata: doc.metadata,
            timeout: doc.timeout_ms.map(Duration::from_millis),
            max_retries: doc.max_retries,
            verify_tls: doc.verify_tls,
            handshake: doc.handshake,
            disabled: doc.disabled,
            namespaces: doc.namespaces,
            made_by: doc.made_by,
            created_at: doc.created_at,
            updated_at: doc.updated_at,
            regenerated_at: doc.regenerated_at,
            standard: doc.standard,
            release: doc.release,
            life: doc.life,
            more: doc.more,
        })
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.id)
            .field("url", &self.masked_url())
            .field("events", &self.event_texts())
            .field("disabled", &self.disabled)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// What the store keeps. New keys have a default: older documents lack them.
#[derive(Serialize, Deserialize)]
struct Doc {
    dialect: Dialect,
    url: String,
    events: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_retries: Option<u32>,
    verify_tls: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    handshake: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled: Option<Disabled>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespaces: Option<BTreeSet<String>>,
    made_by: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regenerated_at: Option<Timestamp>,
    standard: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Release>,
    life: Life,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// Names in documents.
mod name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::envelope::Name;

    pub(super) fn serialize<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Name, D::Error> {
        Name::parse(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no name"))
    }
}

/// A new id: `wh_` and 26 lower-case letters and digits, which hold 130 random bits. `None`: the system gives none.
pub(super) fn new_id() -> Option<Name> {
    let mut drawn = [0; 17];
    SystemRandom::new().fill(&mut drawn).ok()?;
    let text = BASE32_NOPAD.encode(&drawn).to_ascii_lowercase();
    Name::parse(&format!("wh_{}", text.get(..26)?))
}

/// A subscription with what the store knows of it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) subscription: Arc<Subscription>,
    /// Its secrets, sealed.
    pub(super) sealed: bytes::Bytes,
    /// The change that wrote it last.
    pub(super) revision: i64,
}
