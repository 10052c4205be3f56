//! Asks a service something by `GET`, under the same address policy and TLS as deliveries go out: contacts, the connector API.

use bytes::Bytes;
use hyper::header::HeaderMap;
use tokio::time::Instant;
use url::Url;

use super::{
    TlsProfile,
    client::{Clients, Http, ReadyUrl},
    endpoint,
    policy::AddressPolicy,
};
use crate::config::{
    decode::{Context, Located},
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

/// A URL of a service that may be asked, as far as its text tells.
pub(crate) fn read_url(text: &Located<String>, cx: &mut Context) -> Option<Url> {
    endpoint::read_url(text, cx).map(|(url, _)| url)
}

/// Headers that may be sent along.
pub(crate) fn read_headers(node: &Node, cx: &mut Context) -> Option<HeaderMap> {
    endpoint::read_headers(node, &[], cx)
}
