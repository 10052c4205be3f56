//! Whether destinations can be reached, without sending them anything: for `check --online`.
//!
//! What takes deliveries over HTTP is connected to, under the address policy and TLS that deliveries go out with, and asked nothing: n8n,
//! Zapier and incoming webhooks of Slack take every request for an event. A bot's token is held against `auth.test`, Twilio's against the
//! account itself, and a mail server is greeted and logged in to.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::Uri;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};
use tower_service::Service;
use url::Url;

use super::{
    Destination,
    client::{Answer, Clients, Failure, FailureKind, Http, Post, ReadyUrl, failure_of},
    connect::{Connector, Forbidden},
    endpoint::Endpoint,
    kinds::Kind,
    policy::{self, AddressPolicy},
};
use crate::{config::AllowTarget, envelope::Name};

/// How many destinations are tried at once.
const AT_ONCE: usize = 16;
/// Longest time one of them may take.
const TIME_MAX: Duration = Duration::from_secs(15);
/// How much of an answer is read, in bytes.
const ANSWER_MAX: usize = 16 * 1024;

/// What trying to reach one destination came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The destination.
    pub target: Name,
    /// Its kind.
    pub kind: &'static str,
    /// Where it is, its path masked.
    pub url: String,
    /// What was found, for a person.
    pub detail: String,
    /// What went wrong, as a code such as attempts record; `None` where nothing did.
    pub error: Option<String>,
    /// How long it took.
    pub duration: Duration,
}

/// Why it cannot be reached: a code, and what was said.
pub(super) struct Unreached {
    pub(super) code: String,
    pub(super) said: String,
}

impl From<Failure> for Unreached {
    fn from(failure: Failure) -> Self {
        Self { code: failure.kind.code().to_owned(), said: failure.detail }
    }
}

/// Tries all of `destinations`, several at once, and tells of each in their order. `allow` are the private targets that are let through.
pub async fn reach(destinations: &[Destination], allow: &[AllowTarget]) -> Vec<Reached> {
    let policy = Arc::new(AddressPolicy::new(allow));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tries = JoinSet::new();
    for (at, destination) in destinations.iter().cloned().enumerate() {
        let (policy, room) = (policy.clone(), room.clone());
        tries.spawn(async move {
            // It is never closed.
            let _turn = room.acquire().await;
            (at, one(&destination, &policy).await)
        });
    }
    let mut reached = tries.join_all().await;
    reached.sort_by_key(|(at, _)| *at);
    reached.into_iter().map(|(_, reached)| reached).collect()
}

async fn one(destination: &Destination, policy: &Arc<AddressPolicy>) -> Reached {
    let begun = Instant::now();
    let late = || Unreached { code: "timeout".to_owned(), said: format!("no answer within {} seconds", TIME_MAX.as_secs()) };
    let found = timeout(TIME_MAX, kind(&destination.kind, policy)).await.unwrap_or_else(|_| Err(late()));
    let (detail, error) = match found {
        Ok(detail) => (detail, None),
        Err(Unreached { code, said }) => (said, Some(code)),
    };
    Reached {
        target: destination.name.clone(),
        kind: destination.kind.word(),
        url: destination.masked_url(),
        detail,
        error,
        duration: begun.elapsed(),
    }
}

async fn kind(kind: &Kind, policy: &Arc<AddressPolicy>) -> Result<String, Unreached> {
    match (kind, kind.endpoint()) {
        (Kind::Email(it), _) => it.reach(policy).await,
        (Kind::Slack(it), Some(endpoint)) if it.is_bot() => it.reach(&Asking::new(endpoint, policy)?).await,
        (Kind::Whatsapp(it), Some(endpoint)) => it.reach(&Asking::new(endpoint, policy)?).await,
        (_, Some(endpoint)) => connect(endpoint, policy).await,
        (_, None) => Ok("there is nothing to reach".to_owned()),
    }
}

/// Connects, under TLS where the URL asks for it, and hangs up.
async fn connect(endpoint: &Endpoint, policy: &Arc<AddressPolicy>) -> Result<String, Unreached> {
    let internal = |said: String| Unreached { code: FailureKind::Request.code().to_owned(), said };
    let url = endpoint.url();
    if policy::literal(url).is_some_and(|address| policy.forbids(address)) {
        return Err(Unreached { code: FailureKind::Forbidden.code().to_owned(), said: Forbidden::by(policy).to_string() });
    }
    let uri: Uri = url.as_str().parse().map_err(|_| internal("no request can carry this URL".to_owned()))?;
    let tls = endpoint.tls.config().map_err(|error| internal(error.to_string()))?;
    let connected = Connector::new(policy.clone(), tls).call(uri).await;
    connected.map_err(|error| Unreached::from(failure_of(&*error as &(dyn StdError + 'static), true)))?;
    Ok(if url.scheme() == "https" { "connected, certificate checked" } else { "connected" }.to_owned())
}

/// Asks the service behind an endpoint about whoever calls it.
pub(super) struct Asking<'e> {
    endpoint: &'e Endpoint,
    http: Http,
}

impl<'e> Asking<'e> {
    fn new(endpoint: &'e Endpoint, policy: &Arc<AddressPolicy>) -> Result<Self, Unreached> {
        let http = Clients::new((**policy).clone()).get(&endpoint.tls);
        let http = http.map_err(|error| Unreached { code: FailureKind::Tls.code().to_owned(), said: error.to_string() })?;
        Ok(Self { endpoint, http })
    }

    /// What the URL answers that ends in `other` where the endpoint's ends in `end`, with the endpoint's credentials: to a `post`, or to a `GET`.
    pub(super) async fn ask(&self, end: &str, other: &str, post: bool) -> Result<Answer, Unreached> {
        let url = ending(self.endpoint.url(), end, other).and_then(|url| ReadyUrl::new(&url));
        let url = url.ok_or_else(|| Unreached {
            code: FailureKind::Request.code().to_owned(),
            said: "no request can carry this URL".to_owned(),
        })?;
        let (headers, deadline) = (self.endpoint.own_headers().clone(), Instant::now() + TIME_MAX);
        let answer = if post {
            self.http.send(Post { url: &url, headers, body: Bytes::new(), answer_max: ANSWER_MAX, deadline }).await
        } else {
            self.http.get(&url, headers, ANSWER_MAX, deadline).await
        };
        Ok(answer?)
    }
}

/// `url` with `other` in the place of its `end`.
fn ending(url: &Url, end: &str, other: &str) -> Option<Url> {
    let path = format!("{}{other}", url.path().strip_suffix(end)?);
    let mut url = url.clone();
    url.set_path(&path);
    Some(url)
}
