//! What every destination that speaks HTTP has: a URL, headers, a TLS profile, signatures; and how one attempt goes there.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{
    attempt::Try,
    client::{Answer, Failure, FailureKind, Post, ReadyUrl},
    handshake::{Handshake, REQUEST_ORIGIN, origin},
    policy::AddressPolicy,
    tls::TlsProfile,
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
        tree::{Node, Place, Value},
    },
    sign::outbound::{Message, Signing, webhook_id},
};

/// Where and how a destination is reached. Prints without the URL's path, which may carry a secret.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    ready: ReadyUrl,
    headers: HeaderMap,
    pub(super) tls: TlsProfile,
    signing: Option<Signing>,
    /// What it said of being sent to, where it is asked.
    handshake: Option<Arc<Handshake>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.masked_url())
            .field("tls", &self.tls)
            .field("signing", &self.signing)
            .finish()
    }
}

/// Headers that are the relay's own or the connection's. So is every `x-hookyard-*`.
const RESERVED: [&str; 19] = [
    "user-agent",
    "content-type",
    "content-length",
    "content-encoding",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "host",
    "connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "http2-settings",
    "webhook-request-origin",
];
/// Headers of the signing schemes, which nothing else may set: a target must not take them for signatures.
const SIGNATURES: [&str; 7] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-interactor-signature",
    "x-interactor-timestamp",
    "x-webhook-signature",
    "x-honeyframe-signature",
];
/// Headers of the relay's own, ready to be set.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const DELIVERY: HeaderName = HeaderName::from_static("x-hookyard-delivery");
const ATTEMPT: HeaderName = HeaderName::from_static("x-hookyard-attempt");
const REPLAYED: HeaderName = HeaderName::from_static("x-hookyard-replayed");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// As many headers as are commonly added to the custom ones, so that their map need not grow.
const OWN_HEADERS: usize = 16;
/// Most custom headers of one destination.
const HEADERS_MAX: usize = 50;

/// The bytes of one delivery and their media type.
#[derive(Debug, Clone)]
pub(super) struct Body {
    /// Media type.
    pub(super) content_type: String,
    /// The bytes.
    pub(super) bytes: Bytes,
}

/// What is said of a destination over HTTP.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<String>("url", "Where it is sent. The path, which may carry a secret, is masked wherever it is shown.")
        .required()
        .example("https://crm.example.com/hooks/relay")
        .such_that(url),
    Field::of::<TlsProfile>("tls", "Which certificates are trusted.").default("{}"),
    Field::of::<Signing>("signing", "How requests are signed, so that the target can tell the relay from anybody else.")
        .example(r#"{"schemes": ["standard"], "secrets": ["${CRM_SECRET}"]}"#),
    Field::of::<Headers>("headers", "Headers of every request; not those that the relay sets itself.")
        .example(r#"{"X-Team": "billing"}"#),
]);

/// Text that is the URL of a target.
pub(super) fn url(text: Schema) -> Schema {
    text.pattern("^https?://[^/?#@]+([/?#]|$)", "a URL such as https://example.com/hooks")
}

/// A map of headers.
pub(crate) struct Headers;

impl Shape for Headers {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::map_of(Schema::text())
    }
}

impl Endpoint {
    /// Reads `url`, `headers`, `tls` and `signing` of a destination.
    pub(super) fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let url = fields.required::<Located<String>>("url", cx).and_then(|text| read_url(&text, cx));
        let tls = fields.or("tls", TlsProfile::default(), cx);
        let signing = fields.node("signing").map(|node| Signing::decode(node, cx));
        let names = signing.iter().flatten().flat_map(Signing::header_names).collect::<Vec<_>>();
        let headers = fields.node("headers").map_or(Some(HeaderMap::new()), |node| read_headers(node, &names, cx));
        let signing = match signing {
            Some(signing) => Some(signing?),
            None => None,
        };
        let (url, ready) = url?;
        Some(Self { url, ready, headers: headers?, tls, signing, handshake: None })
    }

    /// `url`, whose text was vetted before, with `headers` and signatures; `verify`: certificates are checked. `None`: no request can
    /// carry this URL.
    pub(super) fn of(url: Url, headers: HeaderMap, verify: bool, signing: Signing) -> Option<Self> {
        let ready = ReadyUrl::new(&url)?;
        Some(Self { url, ready, headers, tls: TlsProfile::verifying(verify), signing: Some(signing), handshake: None })
    }

    /// `url` with `headers` that only the kind knows, and nothing else.
    pub(super) fn at((url, ready): (Url, ReadyUrl), headers: HeaderMap) -> Self {
        Self { url, ready, headers, tls: TlsProfile::default(), signing: None, handshake: None }
    }

    /// The same, asked for its consent before anything is sent to it, where that is `wanted`.
    pub(super) fn asked_first(self, wanted: bool) -> Self {
        Self { handshake: wanted.then(Arc::default), ..self }
    }

    /// Takes over what `former`, the same before the file changed, has said of being sent to, where that is still there.
    pub(super) fn goes_on_from(&mut self, former: &Self) {
        if let (Some(handshake), Some(known)) = (&mut self.handshake, &former.handshake)
            && self.url == former.url
        {
            *handshake = known.clone();
        }
    }

    /// Where it is.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// What `routes.yaml` and the kind send along with every request.
    pub(super) fn own_headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether anything is signed.
    pub(super) fn signs(&self) -> bool {
        self.signing.is_some()
    }

    /// Sets a header that the kind brings along, such as credentials.
    pub(super) fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Whether custom headers or signatures use `name` already.
    pub(super) fn has_header(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name) || self.signing.iter().flat_map(Signing::header_names).any(|taken| taken == name.as_str())
    }

    /// Names, in lower case, of the headers that `routes.yaml` and the signing schemes add to every request.
    pub(super) fn header_names(&self) -> Vec<String> {
        let signatures = self.signing.iter().flat_map(Signing::header_names).filter(|name| !name.is_empty());
        let origin = self.handshake.iter().map(|_| REQUEST_ORIGIN.to_string());
        self.headers.keys().map(ToString::to_string).chain(signatures).chain(origin).collect()
    }

    /// Whether `other` goes to the same place.
    pub(crate) fn same_url(&self, other: &Self) -> bool {
        self.url == other.url
    }

    /// Scheme, host and port; the path, which may carry a secret, as `***`.
    pub fn masked_url(&self) -> String {
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}/***", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// Sends `body`. Where a scheme carries one signature and the target refuses it with 401 or 403, the same is sent
    /// again at once under the next secret. Where its consent is asked for first, there must be one.
    pub(super) async fn post(&self, attempt: &Try<'_>, body: &Body, answer_max: usize) -> Result<Answer, Failure> {
        if let Some(handshake) = &self.handshake {
            Box::pin(handshake.agree(attempt, &self.ready)).await?;
        }
        let rounds = self.signing.as_ref().map_or(1, |signing| signing.rounds(attempt.at));
        let mut round = 0;
        loop {
            let headers =
                self.headers(attempt, body, round).map_err(|reason| Failure { kind: FailureKind::Request, detail: reason })?;
            let post = Post { url: &self.ready, headers, body: body.bytes.clone(), answer_max, deadline: attempt.deadline };
            let answer = attempt.http.send(post).await?;
            round += 1;
            if rounds <= round || !matches!(answer.status, 401 | 403) {
                return Ok(answer);
            }
        }
    }

    fn headers(&self, attempt: &Try<'_>, body: &Body, round: usize) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + OWN_HEADERS);
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        let id = value(attempt.delivery.id.to_string())?;
        headers.insert(CONTENT_TYPE, value(body.content_type.clone())?);
        headers.insert(IDEMPOTENCY_KEY, id.clone());
        headers.insert(DELIVERY, id);
        headers.insert(ATTEMPT, HeaderValue::from(attempt.number));
        headers.insert(TRACEPARENT, value(attempt.traceparent.clone())?);
        if self.handshake.is_some() {
            headers.insert(REQUEST_ORIGIN, origin(attempt.site));
        }
        if attempt.event.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(signing) = &self.signing {
            let id = webhook_id(attempt.event);
            for (name, text) in signing.headers(Message { id: &id, at: attempt.at, body: &body.bytes }, round) {
                let name = HeaderName::try_from(name).map_err(|_| "a signature header has no valid name")?;
                headers.insert(name, value(text)?);
            }
        }
        Ok(headers)
    }
}

/// `text` as it is, without a copy.
fn value(text: String) -> Result<HeaderValue, String> {
    HeaderValue::try_from(text).map_err(|_| "a header cannot carry its value".to_owned())
}

/// Why a text is no URL that deliveries may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadUrl {
    /// It is none, or of another scheme.
    NoUrl,
    /// It holds a user name or a password.
    UserInfo,
    /// It is too long, or holds what no request can carry.
    Unfit,
}

impl BadUrl {
    /// What is wrong, behind the name of the field.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::NoUrl => "is a URL such as https://example.com/hooks",
            Self::UserInfo => "must not hold a user name or password",
            Self::Unfit => "is one that no request can carry",
        }
    }
}

/// `text` as a URL that deliveries may go to, as far as the text alone tells. It has no fragment: none is ever sent.
pub(crate) fn parse_url(text: &str) -> Result<Url, BadUrl> {
    let mut url = Url::parse(text).map_err(|_| BadUrl::NoUrl)?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(BadUrl::NoUrl);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadUrl::UserInfo);
    }
    url.set_fragment(None);
    ReadyUrl::new(&url).map(|_| url).ok_or(BadUrl::Unfit)
}

/// A URL that deliveries may go to, as far as its text tells.
pub(super) fn read_url(text: &Located<String>, cx: &mut Context) -> Option<(Url, ReadyUrl)> {
    let refused = |cx: &mut Context, code, message: &str| {
        cx.error(code, text.place, message);
        None
    };
    let url = match parse_url(&text.value) {
        Ok(url) => url,
        Err(BadUrl::NoUrl) => return refused(cx, "bad-url", "expected a URL such as https://example.com/hooks"),
        Err(BadUrl::UserInfo) => return refused(cx, "bad-url", "a URL must not hold a user name or password"),
        Err(BadUrl::Unfit) => return refused(cx, "bad-url", "no request can carry this URL"),
    };
    let policy = AddressPolicy::new(&cx.allow_targets);
    if url.scheme() == "http" && cx.require_https && !policy.lets_through(&url) {
        let help = "use https, name the host under `security.allow_targets`, or set `security.require_https: false`";
        cx.error("https-required", text.place, "a target must be https").help(help);
        return None;
    }
    if policy.forbids_literal(&url) {
        let help = "let it through under `security.allow_targets`";
        cx.warning("address-forbidden", text.place, "no delivery will reach this address: it is not public").help(help);
    }
    let ready = ReadyUrl::new(&url)?;
    Some((url, ready))
}

/// Headers that a destination may set; none of `signatures`.
pub(super) fn read_headers(node: &Node, signatures: &[String], cx: &mut Context) -> Option<HeaderMap> {
    let Value::Map(entries) = &node.value else {
        return cx.expected("a map of headers", node);
    };
    if HEADERS_MAX < entries.len() {
        cx.error("bad-value", node.place, format!("more than {HEADERS_MAX} headers"));
        return None;
    }
    let mut headers = HeaderMap::new();
    let mut good = true;
    for (key, node) in entries {
        let name = own_header_name(&key.name, key.place, cx);
        let value = read_value(node, cx);
        let (Some(name), Some(value)) = (name, value) else {
            good = false;
            continue;
        };
        let signed = SIGNATURES.contains(&name.as_str()) || signatures.iter().any(|taken| taken == name.as_str());
        if signed || headers.insert(&name, value).is_some() {
            let why = if signed { "belongs to a signature" } else { "is set twice" };
            cx.error("reserved-header", key.place, format!("header `{name}` {why}"));
            good = false;
        }
    }
    good.then_some(headers)
}

/// `text` as the name of a header that a destination may set.
pub(super) fn own_header_name(text: &str, place: Place, cx: &mut Context) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        cx.error("bad-value", place, "this is not the name of a header");
        return None;
    };
    if is_reserved(&name) {
        cx.error("reserved-header", place, format!("header `{name}` is the relay's own"));
        return None;
    }
    Some(name)
}

fn is_reserved(name: &HeaderName) -> bool {
    RESERVED.contains(&name.as_str()) || name.as_str().starts_with("x-hookyard-")
}

/// `text` as the name of a header that whoever subscribes may set; the error says why not.
pub(crate) fn custom_header(text: &str) -> Result<HeaderName, &'static str> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| "it is not the name of a header")?;
    if is_reserved(&name) {
        return Err("it is the relay's own");
    }
    if SIGNATURES.contains(&name.as_str()) { Err("it belongs to a signature") } else { Ok(name) }
}

/// `text` as the value of a header, marked as a secret: it may carry one.
pub(crate) fn header_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A header's value, marked as a secret: it may carry one.
pub(super) fn read_value(node: &Node, cx: &mut Context) -> Option<HeaderValue> {
    let value = header_value(&String::decode(node, cx)?);
    if value.is_none() {
        cx.error("bad-value", node.place, "a header cannot carry this value");
    }
    value
}
