//! The way back for an expired credential: events in, links for messages out; and the page such a link leads to.
//!
//! Mail scanners open links, so opening one changes nothing. Its page has one button, and only pressing that asks the connector API
//! for the URL at which the service lets the person sign in again. Sends no message; keeps nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hyper::header::{HeaderMap, HeaderValue};
use serde_json::Value as Json;
use tokio::time::Instant;
use url::Url;

use crate::{
    clock::{Clock, Timestamp},
    config::AllowTarget,
    deliver::{fetch::Fetch, policy::AddressPolicy},
    envelope::Envelope,
    json,
    render::{Scene, Source, Templates},
    seal::Sealer,
};

mod link;
mod page;
mod settings;

use link::{Grant, NoGrant};
pub use page::router;
pub use settings::{ConnectorApi, Reconnect};

/// Where the pages are, below `server.public_url`.
pub const PATH: &str = "/reconnect";
/// The name by which `reconnect_url` is rendered. No entry of `templates` has a space in its name.
const TEMPLATE: &str = "of reconnect_url";
/// How long the connector API may take: somebody waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer of the connector API, in bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest URL that is redirected to, in bytes: what browsers take at least.
const URL_MAX: usize = 8 * 1024;
/// What `credential.*` events say when all is well: nothing to mend.
const WELL: [&str; 3] = ["credential.created", "credential.refreshed", "credential.ready"];
/// Under which names the connector API's answer holds its URL; the guide shows none of them.
const URL_KEYS: [&str; 6] = ["auth_url", "authUrl", "url", "authorization_url", "authorizationUrl", "data"];

/// Makes links and follows them. One per relay.
pub struct Reconnecting {
    way: Option<Way>,
    public_url: Option<Url>,
    sealer: Sealer,
    clock: Clock,
}

enum Way {
    /// Without a client only links are made.
    Page(Box<(ConnectorApi, Option<Fetch>)>),
    Template,
}

impl std::fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconnecting").finish_non_exhaustive()
    }
}

/// What links are made with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What the file says.
    pub settings: Option<&'a Reconnect>,
    /// `server.public_url`.
    pub public_url: Option<Url>,
    /// `security.allow_targets`.
    pub allow_targets: &'a [AllowTarget],
    /// Signs links.
    pub sealer: Sealer,
    /// What time it is.
    pub clock: Clock,
}

impl Reconnecting {
    /// Fails with why the connector API's HTTP client cannot be made.
    pub fn new(parts: Parts<'_>) -> Result<Arc<Self>, String> {
        let fetch = match parts.settings {
            Some(Reconnect::Page(api)) => Some(Fetch::new(AddressPolicy::new(parts.allow_targets), &api.tls)?),
            Some(Reconnect::Template(_)) | None => None,
        };
        Ok(Self::with(parts, fetch))
    }

    /// One that makes links and cannot follow them: nobody is asked.
    pub fn rehearsed(parts: Parts<'_>) -> Arc<Self> {
        Self::with(parts, None)
    }

    fn with(parts: Parts<'_>, fetch: Option<Fetch>) -> Arc<Self> {
        let way = parts.settings.map(|settings| match settings {
            Reconnect::Page(api) => Way::Page(Box::new((api.clone(), fetch))),
            Reconnect::Template(_) => Way::Template,
        });
        Arc::new(Self { way, public_url: parts.public_url, sealer: parts.sealer, clock: parts.clock })
    }

    /// The link that mends what `event` tells of at `now`; `None` where there is nothing to mend or nothing to mend it by.
    pub(crate) fn link(&self, event: &Envelope, scene: &Scene, templates: &Templates, now: Timestamp) -> Option<String> {
        if !event.r#type.starts_with("credential.") || WELL.contains(&event.r#type.as_str()) {
            return None;
        }
        match self.way.as_ref()? {
            Way::Page(it) => {
                let api = &it.0;
                let service = json::lenient(event.data()).get("service_id")?.as_str()?.to_owned();
                api.connectors.get(&service)?;
                let grant = Grant { service, namespace: event.namespace.clone()? };
                let mut url = self.public_url.clone()?;
                let path = format!("{}{PATH}/{}", url.path().trim_end_matches('/'), grant.sign(&self.sealer, now, api.link_ttl));
                url.set_path(&path);
                Some(url.into())
            }
            Way::Template => {
                let text = templates.render(TEMPLATE, scene).ok()?;
                let url = Url::parse(text.trim()).ok()?;
                (matches!(url.scheme(), "http" | "https") && url.as_str().len() <= URL_MAX).then(|| url.into())
            }
        }
    }

    /// `link` as it may be shown to others than the person it is for: what a page of ours signed in it is masked.
    pub(crate) fn masked(&self, link: String) -> String {
        match (&self.way, link.rsplit_once('/')) {
            (Some(Way::Page(_)), Some((before, _))) => format!("{before}/***"),
            _ => link,
        }
    }

    /// What `link` stands for now.
    fn open(&self, link: &str) -> Result<Grant, NoGrant> {
        let Some(Way::Page(it)) = &self.way else { return Err(NoGrant::Forged) };
        let grant = Grant::open(link, &self.sealer, self.clock.now())?;
        // The file may know the service no longer.
        if it.0.connectors.contains_key(&grant.service) { Ok(grant) } else { Err(NoGrant::Expired) }
    }

    /// Where the person signs in again, as the connector API says. The error is for the log.
    async fn sign_in_url(&self, grant: &Grant) -> Result<Url, String> {
        let Some(Way::Page(it)) = &self.way else { return Err("there is no connector API".to_owned()) };
        let (api, fetch) = &**it;
        let fetch = fetch.as_ref().ok_or("this is a rehearsal: nobody is asked")?;
        let connector = api.connectors.get(&grant.service).ok_or("the service has no connector")?;
        let mut url = api.base.clone();
        url.path_segments_mut().map_err(|()| "the connector API's URL has no path")?.pop_if_empty().extend([
            "api",
            "v1",
            "connector",
            "interactor",
            connector,
            "auth-url",
        ]);
        url.query_pairs_mut().append_pair("account", &grant.namespace);
        let mut key = HeaderValue::from_str(api.api_key.reveal()).map_err(|_| "a header cannot carry the API key")?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([(hyper::header::HeaderName::from_static("x-api-key"), key)]);
        let answer = fetch.get(&url, headers, ANSWER_MAX, Instant::now() + TIMEOUT).await?;
        if !(200..300).contains(&answer.status) {
            return Err(format!("it answers {}", answer.status));
        }
        let text = String::from_utf8_lossy(&answer.body);
        let found = url_in(&text).ok_or("its answer holds no URL")?;
        let url = Url::parse(&found).map_err(|_| "its answer holds no URL")?;
        if url.scheme() != "https" || URL_MAX < url.as_str().len() {
            return Err("the URL it answers is not https, or too long".to_owned());
        }
        Ok(url)
    }
}

/// The template that makes links, by the name it is rendered by.
pub(crate) fn add_template(settings: Option<&Reconnect>, templates: &mut BTreeMap<String, Source>) {
    if let Some(Reconnect::Template(text)) = settings {
        templates.insert(TEMPLATE.to_owned(), text.as_str().into());
    }
}

/// The URL of an answer: JSON text, an object that holds it (below `data` too), or plain text.
fn url_in(text: &str) -> Option<String> {
    fn of(json: &Json, depth: u8) -> Option<String> {
        match json {
            Json::String(url) => Some(url.clone()),
            Json::Object(map) if depth != 0 => URL_KEYS.iter().find_map(|key| of(map.get(*key)?, depth - 1)),
            _ => None,
        }
    }
    match serde_json::from_str::<Json>(text) {
        Ok(json) => of(&json, 3),
        Err(_) => Some(text.trim().to_owned()).filter(|text| text.starts_with("https://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_an_answer() {
        for text in [
            r#"{"data": {"auth_url": "https://a.example/x"}}"#,
            r#"{"url": "https://a.example/x", "state": "s"}"#,
            r#"{"data": "https://a.example/x"}"#,
            r#""https://a.example/x""#,
            "https://a.example/x\n",
        ] {
            assert_eq!(url_in(text).as_deref(), Some("https://a.example/x"), "{text}");
        }
        for text in ["", "{}", "[]", "nonsense", r#"{"data": {"data": {"data": {"url": "https://a.example/x"}}}}"#] {
            assert_eq!(url_in(text), None, "{text}");
        }
    }
}
