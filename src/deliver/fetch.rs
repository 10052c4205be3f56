//! Asks a service something by `GET`, under the same address policy and TLS as deliveries go out: contacts, the connector API.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    header::HeaderMap,
};
use tokio::time::{Instant, timeout_at};
use url::Url;

pub(crate) use super::endpoint::Headers;
use super::{
    TlsProfile,
    client::{Clients, Failure, FailureKind, Http, ReadyUrl, failure_of},
    endpoint,
    policy::AddressPolicy,
};
use crate::config::{
    decode::{Context, Located, Schema},
    tree::Node,
};

/// Asks services. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fetch(Http);

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetch")
    }
}

/// What a service answered.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    /// Its status.
    pub(crate) status: u16,
    /// The beginning of its body.
    pub(crate) body: Bytes,
}

impl Fetch {
    /// Reaches what `policy` permits, checking certificates as `tls` says. The error says why there can be no client.
    pub(crate) fn new(policy: AddressPolicy, tls: &TlsProfile) -> Result<Self, String> {
        Clients::new(policy).get(tls).map(Self).map_err(|error| error.to_string())
    }

    /// What it may reach.
    pub(crate) fn policy(&self) -> &AddressPolicy {
        self.0.policy()
    }

    /// What `url` answers, its body read up to `answer_max` bytes. The error is a code and what was said, without the URL.
    pub(crate) async fn get(
        &self,
        url: &Url,
        headers: HeaderMap,
        answer_max: usize,
        deadline: Instant,
    ) -> Result<Fetched, String> {
        let url = &ReadyUrl::new(url).ok_or("no request can carry this URL")?;
        match self.0.get(url, headers, answer_max, deadline).await {
            Ok(answer) => Ok(Fetched { status: answer.status, body: answer.body }),
            Err(failure) => Err(format!("{}: {}", failure.kind.code(), failure.detail)),
        }
    }
}

/// An answer as it came, whole.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    /// Its status.
    pub(crate) status: u16,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body, to the last byte.
    pub(crate) body: Bytes,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotWhole {
    /// It did not come, or not to its end: what that is called, and what was said, without the URL.
    Failed(&'static str, String),
    /// Its body is larger than may be.
    TooLarge,
}

impl Fetch {
    /// What `url` answers, its body read to the end, of which all must come before `deadline` and within `max` bytes. The body of what
    /// is not 2xx is left alone.
    pub(crate) async fn whole(&self, url: &Url, headers: HeaderMap, max: usize, deadline: Instant) -> Result<Whole, NotWhole> {
        let failed = |failure: Failure| NotWhole::Failed(failure.kind.code(), failure.detail);
        let Some(url) = ReadyUrl::new(url) else {
            return Err(NotWhole::Failed(FailureKind::Request.code(), "no request can carry this URL".to_owned()));
        };
        let answer = self.0.ask(&url, headers, deadline).await.map_err(failed)?;
        let (parts, body) = answer.into_parts();
        let body = if parts.status.is_success() { read(body, max, deadline).await? } else { Bytes::new() };
        Ok(Whole { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

async fn read(mut from: Incoming, max: usize, deadline: Instant) -> Result<Bytes, NotWhole> {
    if u64::try_from(max).is_ok_and(|max| max < from.size_hint().lower()) {
        return Err(NotWhole::TooLarge);
    }
    let mut body = Vec::new();
    loop {
        let Ok(frame) = timeout_at(deadline, from.frame()).await else {
            return Err(NotWhole::Failed(FailureKind::Timeout.code(), "the answer did not end within the timeout".to_owned()));
        };
        let Some(frame) = frame else { return Ok(body.into()) };
        let frame = frame.map_err(|error| {
            let failure = failure_of(&error, false);
            NotWhole::Failed(failure.kind.code(), failure.detail)
        })?;
        // A frame may be trailers, too.
        let Ok(chunk) = frame.into_data() else { continue };
        if max < body.len() + chunk.len() {
            return Err(NotWhole::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
}

/// Text that is such a URL, for the schema.
pub(crate) fn url_text(text: Schema) -> Schema {
    endpoint::url(text)
}

/// A URL of a service that may be asked, as far as its text tells.
pub(crate) fn read_url(text: &Located<String>, cx: &mut Context) -> Option<Url> {
    endpoint::read_url(text, cx).map(|(url, _)| url)
}

/// Headers that may be sent along.
pub(crate) fn read_headers(node: &Node, cx: &mut Context) -> Option<HeaderMap> {
    endpoint::read_headers(node, &[], cx)
}
