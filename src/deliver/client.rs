//! The HTTP clients deliveries go out by. One request is one request: no redirects, no proxy; and no connection to an address the
//! policy forbids, whether the URL names it or a name resolves to it. All that can be known of a URL before is known before:
//! an attempt parses nothing.

use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    io,
    net::IpAddr,
    pin::Pin,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full};
use hyper::{
    Method, Request, Response, Uri,
    body::{Body, Incoming},
    header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{Instant, Sleep, sleep_until};
use url::Url;

use super::{
    connect::{Connector, Forbidden, Unresolved},
    policy::{self, AddressPolicy},
    stage::Stage,
    tls::TlsProfile,
};

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
/// Most that is read of a body that nobody wants, in bytes.
const DISCARDED_MAX: usize = 4 * 1024;
/// What the relay calls itself.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hookyard/", env!("CARGO_PKG_VERSION")));
/// Which answers it takes: any.
const ANY: HeaderValue = HeaderValue::from_static("*/*");

/// Makes clients, one per TLS profile.
pub(super) struct Clients {
    policy: Arc<AddressPolicy>,
    made: HashMap<TlsProfile, Http>,
    /// The profiles that were asked for.
    used: HashSet<TlsProfile>,
}

impl Clients {
    /// Clients that reach what `policy` permits.
    pub(super) fn new(policy: AddressPolicy) -> Self {
        Self { policy: Arc::new(policy), made: HashMap::new(), used: HashSet::new() }
    }

    /// The same clients with their open connections where `policy` has not changed, else none.
    pub(super) fn following(&self, policy: AddressPolicy) -> Self {
        if *self.policy == policy {
            return Self { policy: self.policy.clone(), made: self.made.clone(), used: HashSet::new() };
        }
        Self::new(policy)
    }

    /// Whether they reach what `policy` permits, and no more.
    pub(super) fn follow(&self, policy: &AddressPolicy) -> bool {
        *self.policy == *policy
    }

    /// Those that were asked for.
    pub(super) fn used(mut self) -> Self {
        self.made.retain(|tls, _| self.used.contains(tls));
        self
    }

    /// The client for `tls`; fails when its certificates cannot be used.
    pub(super) fn get(&mut self, tls: &TlsProfile) -> Result<Http, rustls::Error> {
        self.used.insert(tls.clone());
        if let Some(http) = self.made.get(tls) {
            return Ok(http.clone());
        }
        let client = client(Connector::new(self.policy.clone(), tls.config()?));
        let http = Http { way: Way::Network(Box::new(client)), policy: self.policy.clone() };
        self.made.insert(tls.clone(), http.clone());
        Ok(http)
    }
}

fn client(connector: Connector) -> Client<Connector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_max_header_list_size(ANSWER_HEADERS_MAX)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PONG_WITHIN)
        // Only requests of which not a byte was written: the target closed the idle connection they were to go by.
        .retry_canceled_requests(true)
        .build(connector)
}

/// A client and what it may reach. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http {
    way: Way,
    policy: Arc<AddressPolicy>,
}

/// Where requests go.
#[derive(Clone)]
enum Way {
    Network(Box<Client<Connector, Full<Bytes>>>),
    /// Nowhere: they are rehearsed.
    Stage(Arc<Stage>),
}

/// A URL made ready once for many requests.
#[derive(Clone)]
pub(super) struct ReadyUrl {
    uri: Uri,
    /// The address it names, in whatever notation; `None`: it has a name, whose addresses are vetted when it is resolved.
    literal: Option<IpAddr>,
}

impl ReadyUrl {
    /// `url` made ready; `None` where no request can carry it: it is too long.
    pub(super) fn new(url: &Url) -> Option<Self> {
        let uri: Uri = url.as_str().parse().ok()?;
        uri.authority()?;
        Some(Self { uri, literal: policy::literal(url) })
    }
}

/// One request.
pub(super) struct Post<'a> {
    /// Where to.
    pub(super) url: &'a ReadyUrl,
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
    /// The target was asked for its consent and gave none: nothing was sent.
    Handshake,
    /// The target was asked for its consent and answered that it cannot now (or is gone): nothing was sent.
    Unasked {
        /// The answer's status.
        status: u16,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
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
            Self::Handshake | Self::Unasked { .. } => "handshake_refused",
        }
    }
}

impl Http {
    /// One that sends nothing: `stage` takes what `policy` permits, as far as it can be told without resolving a name.
    pub(super) fn staged(stage: Arc<Stage>, policy: Arc<AddressPolicy>) -> Self {
        Self { way: Way::Stage(stage), policy }
    }

    /// What takes everything in the place of targets, where nothing is sent.
    pub(super) fn stage(&self) -> Option<&Stage> {
        match &self.way {
            Way::Network(_) => None,
            Way::Stage(stage) => Some(stage),
        }
    }

    /// What it may reach.
    pub(super) fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// Sends `post` and reads its answer. The status decides as soon as the header has come: a body that drips past the
    /// deadline is cut.
    pub(super) async fn send(&self, post: Post<'_>) -> Result<Answer, Failure> {
        if post.url.literal.is_some_and(|address| self.policy.forbids(address)) {
            return Err(Failure { kind: FailureKind::Forbidden, detail: Forbidden::by(&self.policy).to_string() });
        }
        let (answer_max, deadline) = (post.answer_max, post.deadline);
        self.exchange(request(post), answer_max, deadline).await
    }

    /// Asks `url`; otherwise like [`Http::send`].
    pub(super) async fn get(
        &self,
        url: &ReadyUrl,
        headers: HeaderMap,
        answer_max: usize,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut asked = request(Post { url, headers, body: Bytes::new(), answer_max, deadline });
        *asked.method_mut() = Method::GET;
        if url.literal.is_some_and(|address| self.policy.forbids(address)) {
            return Err(Failure { kind: FailureKind::Forbidden, detail: Forbidden::by(&self.policy).to_string() });
        }
        self.exchange(asked, answer_max, deadline).await
    }

    /// Asks `url` for its consent; yields the status and the headers of its answer.
    pub(super) async fn options(
        &self,
        url: &ReadyUrl,
        headers: HeaderMap,
        deadline: Instant,
    ) -> Result<(u16, HeaderMap), Failure> {
        let (parts, body) = self.question(Method::OPTIONS, url, headers, deadline).await?.into_parts();
        // So that the connection may be used again.
        read(body, DISCARDED_MAX, pin!(sleep_until(deadline))).await;
        Ok((parts.status.as_u16(), parts.headers))
    }

    /// Asks `url`; its answer's body is not read yet.
    pub(super) async fn ask(&self, url: &ReadyUrl, headers: HeaderMap, deadline: Instant) -> Result<Response<Incoming>, Failure> {
        self.question(Method::GET, url, headers, deadline).await
    }

    async fn question(
        &self,
        method: Method,
        url: &ReadyUrl,
        headers: HeaderMap,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Failure> {
        let refused = |kind, detail: String| Err(Failure { kind, detail });
        let Way::Network(client) = &self.way else { return refused(FailureKind::Request, "nobody is asked here".to_owned()) };
        if url.literal.is_some_and(|address| self.policy.forbids(address)) {
            return refused(FailureKind::Forbidden, Forbidden::by(&self.policy).to_string());
        }
        let mut asked = request(Post { url, headers, body: Bytes::new(), answer_max: 0, deadline });
        *asked.method_mut() = method;
        match before(pin!(sleep_until(deadline)), client.request(asked)).await {
            Some(answered) => answered.map_err(|error| failure(&error)),
            None => refused(FailureKind::Timeout, "no answer within the timeout".to_owned()),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, answer_max: usize, deadline: Instant) -> Result<Answer, Failure> {
        let client = match &self.way {
            Way::Network(client) => client,
            Way::Stage(stage) => {
                let (parts, body) = request.into_parts();
                // What is in memory already cannot fail to be read.
                let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
                return Ok(stage.takes(&parts.headers, body));
            }
        };
        let mut deadline = pin!(sleep_until(deadline));
        let response = match before(deadline.as_mut(), client.request(request)).await {
            Some(answered) => answered.map_err(|error| failure(&error))?,
            None => return Err(Failure { kind: FailureKind::Timeout, detail: "no answer within the timeout".to_owned() }),
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = read(response.into_body(), answer_max, deadline).await;
        Ok(Answer { status, retry_after, body })
    }
}

fn request(post: Post<'_>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(post.body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = post.url.uri.clone();
    let mut headers = post.headers;
    headers.insert(USER_AGENT, AGENT);
    headers.entry(ACCEPT).or_insert(ANY);
    *request.headers_mut() = headers;
    request
}

/// What `work` comes to, if it does so before `deadline`.
async fn before<T>(deadline: Pin<&mut Sleep>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = deadline => None,
    }
}

async fn read(mut from: Incoming, max: usize, mut deadline: Pin<&mut Sleep>) -> Bytes {
    let expected = usize::try_from(from.size_hint().lower()).unwrap_or(max);
    let mut body = Vec::with_capacity(expected.min(max));
    while body.len() < max {
        let Some(Some(Ok(frame))) = before(deadline.as_mut(), from.frame()).await else { break };
        // A frame may be trailers, too.
        let Ok(chunk) = frame.into_data() else { continue };
        let room = max - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    body.into()
}

fn failure(error: &Error) -> Failure {
    failure_of(error, error.is_connect())
}

/// What `error` comes to, which befell us while we were `connecting` or later.
pub(super) fn failure_of(error: &(dyn StdError + 'static), connecting: bool) -> Failure {
    let kind = if find::<Forbidden>(error) {
        FailureKind::Forbidden
    } else if timed_out(error) {
        FailureKind::Timeout
    } else if find::<Unresolved>(error) {
        FailureKind::Dns
    } else if find::<rustls::Error>(error) {
        FailureKind::Tls
    } else if connecting {
        FailureKind::Connect
    } else {
        FailureKind::Closed
    };
    Failure { kind, detail: innermost(error).chars().filter(|c| !c.is_control()).take(DETAIL_MAX).collect() }
}

/// The error itself and what lies below it, outermost first.
fn chain<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The last message of the chain: what the system or the other side said.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}

/// Whether a wait of the system's or of hyper's own is over: for the connection, for an HTTP/2 pong.
fn timed_out(error: &(dyn StdError + 'static)) -> bool {
    let io = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    chain(error).any(|error| error.downcast_ref().is_some_and(io) || error.downcast_ref().is_some_and(hyper::Error::is_timeout))
}

/// Whether an `E` is in the chain; I/O errors are looked into, as they hide what they wrap.
fn find<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.is::<E>() || wrapped.is_some_and(|wrapped| find::<E>(wrapped))
    })
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use hyper_util::{rt::TokioIo, server::conn::auto};

    use super::*;
    use crate::deliver::testing::{decode, tls_config};

    /// A target that speaks HTTP/2 and HTTP/1.1, and answers with what it was asked in. It takes one connection.
    async fn target() -> ReadyUrl {
        let mut config = tls_config();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/x?a=b", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async move {
                let headers = [USER_AGENT, ACCEPT].map(|name| request.headers()[name].to_str().unwrap().to_owned());
                let seen = format!("{:?} {} {}", request.version(), request.uri().path_and_query().unwrap(), headers.join(" "));
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(seen)))
            });
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
        });
        ReadyUrl::new(&url.parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn http2_is_spoken_with_those_who_offer_it_over_one_connection() {
        let url = target().await;
        let policy = AddressPolicy::new(&[crate::config::AllowTarget::Net("127.0.0.0/8".parse().unwrap())]);
        let http = Clients::new(policy).get(&decode("{verify: false}").unwrap()).unwrap();
        for _ in 0..3 {
            let deadline = Instant::now() + Duration::from_secs(60);
            let post = Post { url: &url, headers: HeaderMap::new(), body: "x".into(), answer_max: 100, deadline };
            let answer = http.send(post).await.unwrap();
            let expected = concat!("HTTP/2.0 /x?a=b hookyard/", env!("CARGO_PKG_VERSION"), " */*");
            assert_eq!((answer.status, std::str::from_utf8(&answer.body).unwrap()), (200, expected));
        }
    }

    #[test]
    fn what_no_request_can_carry_is_not_ready() {
        let url = |length: usize| format!("https://a.example/{}", "x".repeat(length)).parse().unwrap();
        assert!(ReadyUrl::new(&url(10_000)).is_some() && ReadyUrl::new(&url(70_000)).is_none());
    }
}
