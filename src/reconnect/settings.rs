//! `reconnect` and `reconnect_url` of `routes.yaml`.

use std::{collections::BTreeMap, fmt, time::Duration};

use url::Url;

use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
        tree::{Node, Value},
    },
    deliver::{TlsProfile, fetch::read_url},
    render,
    secret::Secret,
};

/// How long a link is good, and the longest.
const LIFETIME: Duration = Duration::from_secs(7 * 86_400);
const LIFETIME_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Longest name of a connector, in bytes.
const CONNECTOR_MAX: usize = 200;

/// How `credential.*` messages lead to what mends the credential.
#[derive(Debug, Clone)]
pub enum Reconnect {
    /// `reconnect`: a page of ours, whose button asks the connector API.
    Page(ConnectorApi),
    /// `reconnect_url`: a template that makes the link from the event.
    Template(String),
}

/// `reconnect`.
#[derive(Clone)]
pub struct ConnectorApi {
    /// Where the API is.
    pub(super) base: Url,
    pub(super) api_key: Secret,
    /// The connector of each service.
    pub(super) connectors: BTreeMap<String, String>,
    /// How long a link is good.
    pub(super) link_ttl: Duration,
    pub(super) tls: TlsProfile,
}

impl fmt::Debug for ConnectorApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorApi")
            .field("connectors", &self.connectors)
            .field("link_ttl", &self.link_ttl)
            .finish_non_exhaustive()
    }
}

impl Reconnect {
    /// Reads both sections, of which there may be one. `public_url` says whether the file tells where our pages are.
    pub fn decode(page: Option<&Node>, template: Option<&Node>, public_url: bool, cx: &mut Context) -> Option<Self> {
        match (page, template) {
            (Some(node), None) => {
                if !public_url {
                    let help = "say where people reach the relay: server: {public_url: https://relay.example.com}";
                    cx.error("missing-key", node.place, "links need `server.public_url`").help(help);
                }
                ConnectorApi::decode(node, cx).map(Self::Page)
            }
            (None, Some(node)) => read_template(node, cx).map(Self::Template),
            (None, None) => None,
            (Some(_), Some(node)) => {
                cx.error("bad-value", node.place, "`reconnect_url` is for those without `reconnect`");
                None
            }
        }
    }
}

const KEYS: Keys = Keys::of(&[
    Field::of::<String>("connector_api", "Where the connector API is.")
        .required()
        .example("https://console.interactor.com")
        .such_that(|url| url.pattern("^https?://[^?]+$", "a URL such as https://console.interactor.com")),
    Field::of::<Secret>("api_key", "The key it is asked with.").required().example("${INTERACTOR_API_KEY}"),
    Field::of::<Connectors>("connectors", "The connector of each service, by the event's `service_id`.")
        .required()
        .example(r#"{"google_calendar": "google-calendar"}"#),
    Field::of::<TlsProfile>("tls", "Which certificates are trusted.").default("{}"),
    Field::of::<Duration>("link_ttl", "How long a link is good, between 1m and 90d.").default("7d"),
]);

/// A map of connectors.
struct Connectors;

impl Shape for Connectors {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::map_of(Schema::text().not_empty()).not_empty()
    }
}

impl Shape for ConnectorApi {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Decode for ConnectorApi {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`reconnect`", KEYS, cx)?;
        let base = fields.required::<Located<String>>("connector_api", cx).and_then(|base| read_base(&base, cx));
        let api_key = fields.required::<Located<Secret>>("api_key", cx).and_then(|key| read_key(key, cx));
        let connectors = match fields.node("connectors") {
            Some(node) => read_connectors(node, cx),
            None => {
                fields.missing("connectors", cx);
                None
            }
        };
        let tls = fields.or("tls", TlsProfile::default(), cx);
        let link_ttl = match fields.optional::<Located<Duration>>("link_ttl", cx) {
            Some(ttl) if ttl.value < Duration::from_secs(60) || LIFETIME_MAX < ttl.value => {
                cx.error("bad-value", ttl.place, "`link_ttl` is between 1m and 90d");
                None
            }
            ttl => Some(ttl.map_or(LIFETIME, |ttl| ttl.value)),
        };
        fields.finish(cx);
        Some(Self { base: base?, api_key: api_key?, connectors: connectors?, link_ttl: link_ttl?, tls })
    }
}

fn read_base(base: &Located<String>, cx: &mut Context) -> Option<Url> {
    let url = read_url(base, cx)?;
    if url.query().is_some() {
        cx.error("bad-url", base.place, "the connector API's URL has no query");
        return None;
    }
    Some(url)
}

fn read_key(key: Located<Secret>, cx: &mut Context) -> Option<Secret> {
    let text = key.value.reveal();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        cx.error("bad-value", key.place, "an API key is plain text without spaces");
        return None;
    }
    Some(key.value)
}

fn read_connectors(node: &Node, cx: &mut Context) -> Option<BTreeMap<String, String>> {
    let Value::Map(entries) = &node.value else {
        return cx.expected("a map such as {google_calendar: google-calendar}", node);
    };
    if entries.is_empty() {
        cx.error("bad-value", node.place, "`connectors` names no service");
        return None;
    }
    let mut connectors = BTreeMap::new();
    for (key, node) in entries {
        let name = String::decode(node, cx)?;
        if name.is_empty() || CONNECTOR_MAX < name.len() || matches!(name.as_str(), "." | "..") {
            return cx.expected("the name of a connector", node);
        }
        connectors.insert(key.name.clone(), name);
    }
    Some(connectors)
}

fn read_template(node: &Node, cx: &mut Context) -> Option<String> {
    let text = String::decode(node, cx)?;
    if let Err(error) = render::check_text(&text) {
        cx.error("bad-template", node.place, format!("this template cannot be used: {error}"));
        return None;
    }
    if !text.contains("://") && !text.starts_with("{{") {
        return cx.expected(
            "a template of a URL such as https://app.example.com/connect?account={{ event.namespace | urlencode }}",
            node,
        );
    }
    Some(text)
}
