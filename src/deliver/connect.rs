//! How connections to targets are made: names are vetted as they are resolved, all of it takes a bounded time.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use hyper::{
    Uri,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector, dns::Name},
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::policy::AddressPolicy;

/// Longest wait for a connection, name look-up and TLS included; within the attempt's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent before the system asks whether the other side still lives, and how long it waits for each
/// answer.
const PROBE_AFTER: Duration = Duration::from_secs(15);
/// How often it asks in vain before the connection counts as lost.
const PROBES: u32 = 3;
/// How long what was sent may go without the other side's system saying that it came.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections to what the policy permits. Cheap to clone: every request takes one along.
#[derive(Clone)]
pub(super) struct Connector(Arc<HttpsConnector<HttpConnector<Vetting>>>);

impl Connector {
    /// Connections under `tls`, where a URL asks for it, to what `policy` permits.
    pub(super) fn new(policy: Arc<AddressPolicy>, tls: ClientConfig) -> Self {
        // Of several addresses, all are tried: one after the other, and both families at once when the first is slow.
        let mut http = HttpConnector::new_with_resolver(Vetting(policy));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(PROBE_AFTER));
        http.set_keepalive_interval(Some(PROBE_AFTER));
        http.set_keepalive_retries(Some(PROBES));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        Self(Arc::new(HttpsConnector::from((http, tls))))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Boxed<Stream, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The resolver always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = HttpsConnector::clone(&self.0).call(to);
        Box::pin(async move {
            match timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected.map(Stream),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 10 seconds").into()),
            }
        })
    }
}

/// A connection that keeps the addresses of its ends to itself: hyper-util would hang them on every answer, at three allocations each.
pub(super) struct Stream(MaybeHttpsStream<TokioIo<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.0.connected().is_negotiated_h2() { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, into)
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, parts)
    }
}

/// Every address of a target is forbidden.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the address policy forbids every address of this target; `{setting}` lets private ones through")]
pub(super) struct Forbidden {
    /// What would have to name them.
    setting: &'static str,
}

impl Forbidden {
    /// By `policy`.
    pub(super) fn by(policy: &AddressPolicy) -> Self {
        Self { setting: policy.setting() }
    }
}

/// A name that resolves to nothing.
#[derive(Debug, thiserror::Error)]
#[error("the name does not resolve")]
pub(super) struct Unresolved(#[source] io::Error);

/// Resolves names to the addresses that are permitted. What it answers is what is connected to, so nobody can answer
/// otherwise the second time.
#[derive(Clone)]
struct Vetting(Arc<AddressPolicy>);

impl Service<Name> for Vetting {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Boxed<Self::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let policy = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved)?;
            let any = policy.permits_name(name.as_str());
            let permitted: Vec<SocketAddr> = found.filter(|address| any || policy.permits(address.ip())).collect();
            if permitted.is_empty() {
                return Err(Forbidden::by(&policy).into());
            }
            Ok(permitted.into_iter())
        })
    }
}
