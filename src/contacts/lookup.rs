//! `contacts_lookup`: asks an HTTP service who stands behind a namespace. Answers are cached; one that cannot be had anew stays.
//!
//! `GET url` with `{namespace}` percent-encoded. 200 with `{"email": […], "slack": …, "whatsapp": […]}`, also below `data`; 204, 404 or
//! an empty object: nobody.

use std::{collections::HashMap, fmt, sync::Mutex, time::Duration};

use hyper::header::HeaderMap;
use serde_json::Value as Json;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use url::Url;

use super::{Found, Unavailable, entry::ways_of_json};
use crate::{
    clock::{Clock, Timestamp, later},
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
        tree::Node,
    },
    deliver::{
        TlsProfile,
        fetch::{Fetch, read_headers, read_url},
        policy::AddressPolicy,
    },
    json,
};

/// What stands in the URL for the namespace.
const PLACEHOLDER: &str = "{namespace}";
/// Longest wait for an answer: a lane waits for it before it sends.
const TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Longest time an answer counts as new.
const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Largest answer, in bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Answers kept; the oldest goes first.
const CACHE_MAX: usize = 10_000;
/// Questions asked at once.
const ASKED_MAX: usize = 8;
/// How long a service that failed is left alone for the namespace it failed on.
const AGAIN: Duration = Duration::from_secs(10);

/// How the service is asked.
#[derive(Clone, PartialEq)]
pub struct Lookup {
    url: String,
    headers: HeaderMap,
    pub(super) tls: TlsProfile,
    ttl: Duration,
    timeout: Duration,
}

impl fmt::Debug for Lookup {
    /// The URL and the headers may carry secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("ttl", &self.ttl).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

const KEYS: Keys = Keys::of(&[
    Field::of::<String>("url", "Where it is asked, with `{namespace}` in the path or query.")
        .required()
        .example("https://people.example.com/contacts/{namespace}")
        .such_that(|url| url.pattern(r"^https?://.*\{namespace\}", "a URL with `{namespace}` in its path or query")),
    Field::of::<Headers>("headers", "Headers of every request.").example(r#"{"Authorization": "Bearer ${PEOPLE_TOKEN}"}"#),
    Field::of::<TlsProfile>("tls", "Which certificates are trusted.").default("{}"),
    Field::of::<Duration>("ttl", "How long an answer is good, at most 7d.").default("5m"),
    Field::of::<Duration>("timeout", "How long it is waited for, at most 10s.").default("5s"),
]);

/// A map of headers.
struct Headers;

impl Shape for Headers {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::map_of(Schema::text())
    }
}

impl Shape for Lookup {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Decode for Lookup {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`contacts_lookup`", KEYS, cx)?;
        let url = fields.required::<Located<String>>("url", cx).and_then(|url| template(url, cx));
        let headers = fields.node("headers").map_or(Some(HeaderMap::new()), |node| read_headers(node, cx));
        let tls = fields.or("tls", TlsProfile::default(), cx);
        let ttl = bounded(&mut fields, "ttl", Duration::from_secs(300), TTL_MAX, "7d", cx);
        let timeout = bounded(&mut fields, "timeout", Duration::from_secs(5), TIMEOUT_MAX, "10s", cx);
        fields.finish(cx);
        Some(Self { url: url?, headers: headers?, tls, ttl: ttl?, timeout: timeout? })
    }
}

/// The URL, which must be one wherever its placeholder stands.
fn template(url: Located<String>, cx: &mut Context) -> Option<String> {
    let sample = Located { value: url.value.replace(PLACEHOLDER, "namespace"), place: url.place };
    let read = read_url(&sample, cx)?;
    let other = Url::parse(&url.value.replace(PLACEHOLDER, "other")).ok()?;
    if !url.value.contains(PLACEHOLDER) || read.origin() != other.origin() {
        cx.error("bad-value", url.place, "the URL needs `{namespace}` in its path or query");
        return None;
    }
    Some(url.value)
}

fn bounded(
    fields: &mut Fields<'_>,
    name: &'static str,
    default: Duration,
    max: Duration,
    shown: &str,
    cx: &mut Context,
) -> Option<Duration> {
    let Some(given) = fields.optional::<Located<Duration>>(name, cx) else { return Some(default) };
    if given.value.is_zero() || max < given.value {
        cx.error("bad-value", given.place, format!("`{name}` is longer than nothing and at most {shown}"));
        return None;
    }
    Some(given.value)
}

/// What was answered for one namespace, and when it is asked for again.
#[derive(Debug, Clone)]
struct Kept {
    /// `None`: no answer was ever had.
    found: Option<Found>,
    asked_at: Timestamp,
    fresh_until: Timestamp,
}

/// The service, with what it answered.
pub(super) struct Service {
    lookup: Lookup,
    fetch: Fetch,
    clock: Clock,
    kept: Mutex<HashMap<String, Kept>>,
    slots: Semaphore,
}

impl Service {
    pub(super) fn new(lookup: Lookup, fetch: Fetch, clock: Clock) -> Self {
        Self { lookup, fetch, clock, kept: Mutex::default(), slots: Semaphore::new(ASKED_MAX) }
    }

    /// Whether it is what `lookup` means, as far as `policy` permits.
    pub(super) fn is_asked_by(&self, lookup: &Lookup, policy: &AddressPolicy) -> bool {
        self.lookup == *lookup && self.fetch.policy() == policy
    }

    /// Who stands behind `namespace`; the last answer where there is no newer one.
    pub(super) async fn find(&self, namespace: &str) -> Result<Found, Unavailable> {
        // Dots alone would name another path.
        if matches!(namespace, "" | "." | "..") {
            return Ok(Found::default());
        }
        if let Some(kept) = self.fresh(namespace) {
            return kept.found.ok_or_else(Unavailable::resting);
        }
        let deadline = Instant::now() + self.lookup.timeout;
        let Ok(Ok(_slot)) = timeout_at(deadline, self.slots.acquire()).await else {
            return self.keep(namespace, Err("too many look-ups wait".to_owned()));
        };
        // Somebody else may have asked the same meanwhile.
        if let Some(kept) = self.fresh(namespace) {
            return kept.found.ok_or_else(Unavailable::resting);
        }
        let answered = self.ask(namespace, deadline).await;
        self.keep(namespace, answered)
    }

    /// What it has lately answered.
    pub(super) fn known(&self, namespace: &str) -> Result<Found, Unavailable> {
        if matches!(namespace, "" | "." | "..") {
            return Ok(Found::default());
        }
        self.fresh(namespace).ok_or_else(Unavailable::unasked)?.found.ok_or_else(Unavailable::resting)
    }

    fn fresh(&self, namespace: &str) -> Option<Kept> {
        let now = self.clock.now();
        let kept = self.kept.lock().ok()?.get(namespace).cloned()?;
        // A clock set back must not make an answer last.
        (kept.asked_at <= now && now < kept.fresh_until).then_some(kept)
    }

    async fn ask(&self, namespace: &str, deadline: Instant) -> Result<Found, String> {
        let url = Url::parse(&self.lookup.url.replace(PLACEHOLDER, &encoded(namespace))).map_err(|error| error.to_string())?;
        let answer = self.fetch.get(&url, self.lookup.headers.clone(), ANSWER_MAX, deadline).await?;
        match answer.status {
            204 | 404 => return Ok(Found::default()),
            200 => {}
            status => return Err(format!("it answers {status}")),
        }
        if json::too_deep(&answer.body) {
            return Err("its answer nests too deep".to_owned());
        }
        let body: Json = serde_json::from_slice(&answer.body).map_err(|_| "its answer is no JSON, or too large".to_owned())?;
        match body.get("data").unwrap_or(&body) {
            Json::Null => Ok(Found::default()),
            ways => ways_of_json(ways).map_err(|reason| format!("its answer cannot be used: {reason}")),
        }
    }

    /// Keeps an answer; where it failed, the last one counts on.
    fn keep(&self, namespace: &str, answered: Result<Found, String>) -> Result<Found, Unavailable> {
        let now = self.clock.now();
        let Ok(mut all) = self.kept.lock() else { return answered.map_err(Unavailable) };
        let last = all.get(namespace).and_then(|kept| kept.found.clone());
        let kept = match &answered {
            Ok(found) => Kept { found: Some(found.clone()), asked_at: now, fresh_until: later(now, self.lookup.ttl) },
            Err(reason) => {
                tracing::warn!(%reason, last_answer_kept = last.is_some(), "the look-up of contacts failed");
                Kept { found: last.clone(), asked_at: now, fresh_until: later(now, AGAIN) }
            }
        };
        if CACHE_MAX <= all.len() && !all.contains_key(namespace) {
            forget_oldest(&mut all);
        }
        all.insert(namespace.to_owned(), kept);
        answered.or_else(|reason| last.ok_or(Unavailable(reason)))
    }
}

/// Makes room: a tenth of the answers goes, those asked for longest ago.
fn forget_oldest(all: &mut HashMap<String, Kept>) {
    let mut ages: Vec<Timestamp> = all.values().map(|kept| kept.asked_at).collect();
    ages.sort_unstable();
    let Some(limit) = ages.get(ages.len() / 10).copied() else { return };
    let mut left = ages.len() / 10 + 1;
    all.retain(|_, kept| {
        let goes = 0 < left && kept.asked_at <= limit;
        left -= usize::from(goes);
        !goes
    });
}

/// `text` with all but unreserved characters (RFC 3986, 2.3) percent-encoded.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{context, node};

    fn read(yaml: &str) -> Result<Lookup, String> {
        let mut cx = context();
        let lookup = Lookup::decode(&node(yaml), &mut cx);
        lookup.filter(|_| !cx.failed()).ok_or_else(|| cx.problems.into_iter().map(|it| it.message).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn the_url_has_a_place_for_the_namespace() {
        assert!(
            read("{url: 'https://people.example.com/{namespace}?a={namespace}', headers: {Authorization: x}, ttl: 1m}").is_ok()
        );
        insta::assert_snapshot!(read("{url: 'https://people.example.com/'}").unwrap_err(), @"the URL needs `{namespace}` in its path or query");
        insta::assert_snapshot!(read("{url: 'https://{namespace}.example.com/'}").unwrap_err(), @"the URL needs `{namespace}` in its path or query");
        insta::assert_snapshot!(read("{url: 'http://people.example.com/{namespace}'}").unwrap_err(), @"a target must be https");
        insta::assert_snapshot!(read("{url: 'https://people.example.com/{namespace}', ttl: 8d, timeout: 11s}").unwrap_err(), @"`ttl` is longer than nothing and at most 7d; `timeout` is longer than nothing and at most 10s");
    }

    #[test]
    fn namespaces_are_encoded_whole() {
        assert_eq!(encoded("a/../b?c=d&e#f é%"), "a%2F..%2Fb%3Fc%3Dd%26e%23f%20%C3%A9%25");
    }

    #[test]
    fn the_oldest_answers_go_first() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let kept = |second| Kept { found: None, asked_at: at(second), fresh_until: at(second) };
        let mut all: HashMap<_, _> = (0..20).map(|n| (n.to_string(), kept(n))).collect();
        forget_oldest(&mut all);
        assert_eq!(all.len(), 17);
        assert!(!all.contains_key("0") && !all.contains_key("2") && all.contains_key("3"));
    }
}
