//! The HTTP clients deliveries go out by. One request is one request: no redirects, no proxy, no retries of the client's
//! own; and no connection to an address the policy forbids, whether the URL names it or a name resolves to it.

use std::{collections::HashMap, error::Error as StdError, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Certificate, Client, ClientBuilder, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, RETRY_AFTER},
    redirect, retry,
};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::policy::AddressPolicy;
use crate::config::{
    decode::{Context, Decode, Fields, Located},
    tree::Node,
};

/// Longest wait for a connection, name look-up and TLS included; within the attempt's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept open to one host while nothing is sent: as many as one lane may use at once, since a busy target whose
/// connections are closed between two attempts pays for a new one each time (measured: a third of all attempts with 32 kept, 64 in use).
const IDLE_PER_HOST_MAX: usize = super::CONCURRENCY_MAX as usize;
/// How long an idle connection is kept: shorter than servers commonly keep theirs, so that we close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Largest header list taken from an HTTP/2 answer, in bytes. (HTTP/1 answers: 100 headers in hyper's own buffer.)
const ANSWER_HEADERS_MAX: u32 = 64 * 1024;
/// How often an HTTP/2 connection in use is asked whether the other side still lives, and how long it may take to answer:
/// requests share it, so one whose other side has vanished would time out one after the other.
const PING_EVERY: Duration = Duration::from_secs(10);
/// See [`PING_EVERY`].
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Longest text kept of what went wrong, in characters.
const DETAIL_MAX: usize = 300;
/// Largest CA file, in bytes.
const CA_FILE_MAX: usize = 1024 * 1024;

/// How a destination's certificate is checked (`tls`). Destinations with the same profile share a client.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TlsProfile {
    verify: bool,
    /// Certificates in PEM that are trusted instead of the system's.
    ca: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsProfile")
            .field("verify", &self.verify)
            .field("ca_bytes", &self.ca.as_ref().map(|ca| ca.len()))
            .finish()
    }
}

impl Default for TlsProfile {
    fn default() -> Self {
        Self { verify: true, ca: None }
    }
}

impl Decode for TlsProfile {
    /// `{verify, ca_file}`; the file is read here, so that `check` finds one that is missing.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`tls`", cx)?;
        let verify = fields.or("verify", true, cx);
        let ca_file = fields.optional::<Located<String>>("ca_file", cx);
        if !verify {
            let place = fields.key_place("verify");
            cx.warning(
                "tls-unverified",
                place,
                "with `verify: false` anybody on the way can read and answer in the target's name",
            );
            if ca_file.is_some() {
                cx.error("bad-value", fields.key_place("ca_file"), "`ca_file` changes nothing with `verify: false`");
            }
        }
        fields.finish(cx);
        let ca = match ca_file {
            Some(file) => Some(read_ca(&file, cx)?),
            None => None,
        };
        Some(Self { verify, ca })
    }
}

fn read_ca(file: &Located<String>, cx: &mut Context) -> Option<Arc<[u8]>> {
    match load_ca(&cx.resolve_path(&file.value)) {
        Ok(pem) => Some(pem),
        Err(reason) => {
            cx.error("bad-ca-file", file.place, format!("`{}` cannot be used: {reason}", file.value));
            None
        }
    }
}

fn load_ca(path: &Path) -> Result<Arc<[u8]>, String> {
    use io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut pem = Vec::new();
    let limit = u64::try_from(CA_FILE_MAX).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(pem.into()),
        _ => Err("it holds no certificate in PEM".to_owned()),
    }
}

/// Makes clients, one per TLS profile.
pub(super) struct Clients {
    policy: Arc<AddressPolicy>,
    made: HashMap<TlsProfile, Client>,
}

impl Clients {
    /// Clients that reach what `policy` permits.
    pub(super) fn new(policy: AddressPolicy) -> Self {
        // Another part of the process may have installed one already; any provider serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { policy: Arc::new(policy), made: HashMap::new() }
    }

    /// The client for `tls`; fails when its certificates cannot be used.
    pub(super) fn get(&mut self, tls: &TlsProfile) -> Result<Http, reqwest::Error> {
        let client = match self.made.get(tls) {
            Some(client) => client.clone(),
            None => {
                let client = self.make(tls)?;
                self.made.insert(tls.clone(), client.clone());
                client
            }
        };
        Ok(Http { client, policy: self.policy.clone() })
    }

    fn make(&self, tls: &TlsProfile) -> Result<Client, reqwest::Error> {
        if let Some(pem) = &tls.ca {
            return self.builder().tls_certs_only(Certificate::from_pem_bundle(pem)?).build();
        }
        if !tls.verify {
            return self.builder().tls_danger_accept_invalid_certs(true).build();
        }
        // A bare container has no certificates of its own: the platform's verifier fails there, and the bundled ones serve.
        self.builder().build().or_else(|_| self.builder().tls_certs_only(bundled()?).build())
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(concat!("hookyard/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_max_header_list_size(ANSWER_HEADERS_MAX)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PONG_WITHIN)
            .dns_resolver(Vetting { policy: self.policy.clone() })
    }
}

fn bundled() -> Result<Vec<Certificate>, reqwest::Error> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| Certificate::from_der(der)).collect()
}

/// A client and what it may reach. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    policy: Arc<AddressPolicy>,
}

/// One request.
pub(super) struct Post<'a> {
    /// Where to.
    pub(super) url: &'a Url,
    /// With which headers.
    pub(super) headers: HeaderMap,
    /// The bytes.
    pub(super) body: Bytes,
    /// How much of the answer's body is read, in bytes.
    pub(super) answer_max: usize,
    /// When it must be done.
    pub(super) deadline: Instant,
}

/// What a target answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// Its `Retry-After`, as sent.
    pub(super) retry_after: Option<String>,
    /// The beginning of its body.
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What kind of failure.
    pub(super) kind: FailureKind,
    /// What was said, without the URL.
    pub(super) detail: String,
}

/// What kept a request from being answered. [`FailureKind::code`] is what attempts record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No answer within the timeout.
    Timeout,
    /// The name does not resolve.
    Dns,
    /// Nobody takes the connection.
    Connect,
    /// The certificate is not trusted, or the handshake failed.
    Tls,
    /// The connection ended before an answer came, or what came is no HTTP.
    Closed,
    /// The policy forbids every address of the target.
    Forbidden,
    /// The request cannot be made: our own fault.
    Request,
}

impl FailureKind {
    /// The stable code of this failure.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Closed => "closed",
            Self::Forbidden => "address_forbidden",
            Self::Request => "internal",
        }
    }
}

impl Http {
    /// Sends `post` and reads its answer. The status decides as soon as the header has come: a body that drips past the
    /// deadline is cut.
    pub(super) async fn send(&self, post: Post<'_>) -> Result<Answer, Failure> {
        if self.policy.forbids_literal(post.url) {
            return Err(Failure { kind: FailureKind::Forbidden, detail: Forbidden.to_string() });
        }
        let request = self.client.post(post.url.clone()).headers(post.headers).body(post.body).send();
        let mut response = match timeout_at(post.deadline, request).await {
            Ok(sent) => sent.map_err(|error| failure(&error))?,
            Err(_) => return Err(Failure { kind: FailureKind::Timeout, detail: "no answer within the timeout".to_owned() }),
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = read(&mut response, post.answer_max, post.deadline).await;
        Ok(Answer { status, retry_after, body })
    }
}

async fn read(response: &mut Response, max: usize, deadline: Instant) -> Bytes {
    let mut body = BytesMut::new();
    while body.len() < max {
        let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await else { break };
        let room = max - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    body.freeze()
}

fn failure(error: &reqwest::Error) -> Failure {
    let kind = if find::<Forbidden>(error) {
        FailureKind::Forbidden
    } else if error.is_timeout() {
        FailureKind::Timeout
    } else if error.is_dns() {
        FailureKind::Dns
    } else if find::<rustls::Error>(error) {
        FailureKind::Tls
    } else if error.is_connect() {
        FailureKind::Connect
    } else if error.is_builder() {
        FailureKind::Request
    } else {
        FailureKind::Closed
    };
    Failure { kind, detail: innermost(error).chars().filter(|c| !c.is_control()).take(DETAIL_MAX).collect() }
}

/// The last message of the chain: what the system or the other side said. The outer ones may hold the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut said: &(dyn StdError + 'static) = match error.source() {
        Some(source) => source,
        None => return "the request cannot be made".to_owned(),
    };
    while let Some(source) = said.source() {
        said = source;
    }
    said.to_string()
}

/// Whether an `E` is in the chain; I/O errors are looked into, as they hide what they wrap.
fn find<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<E>() || wrapped.is_some_and(|wrapped| find::<E>(wrapped)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Every address a name resolves to is forbidden.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the address policy forbids every address of this target; `security.allow_targets` lets private ones through")]
struct Forbidden;

/// Resolves names to the addresses that are permitted. What it answers is what is connected to, so nobody can answer
/// otherwise the second time.
struct Vetting {
    policy: Arc<AddressPolicy>,
}

impl Resolve for Vetting {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.policy.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let any = policy.permits_name(name.as_str());
            let permitted: Vec<SocketAddr> = found.filter(|address| any || policy.permits(address.ip())).collect();
            if permitted.is_empty() {
                return Err(Forbidden.into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}
