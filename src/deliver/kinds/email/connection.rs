//! Connections to the mail server: vetted addresses, TLS under the destination's own profile, one login each, kept for a while.
//!
//! lettre speaks the protocol over the stream made here. `STARTTLS` is said here, byte by byte: what a server (or somebody on the
//! way) sends after its answer and before TLS must not be taken for something said under TLS (CVE-2011-0411 and its kin).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
    time::Duration,
};

use lettre::transport::smtp::{
    authentication::Mechanism,
    client::{AsyncSmtpConnection, AsyncTokioStream},
    extension::ClientId,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

use super::{
    answer::Refused,
    settings::{Protection, Server, bare},
};
use crate::deliver::{client::FailureKind, connect::Forbidden, policy::AddressPolicy};

/// Longest wait for one address to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections kept.
const IDLE_MAX: usize = 8;
/// How long an idle connection is kept: shorter than servers commonly wait for the next command.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Mails over one connection: servers count them.
const MAILS_MAX: u32 = 50;
/// Longest line of an answer that is read before TLS, and how many of them (RFC 5321, 4.5.3.1.5).
const LINE_MAX: usize = 2000;
const LINES_MAX: usize = 100;
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// An open connection, logged in.
pub(super) struct Connection {
    pub(super) smtp: AsyncSmtpConnection,
    /// Whether mails went over it before.
    pub(super) used: u32,
    idle_since: Instant,
}

/// Connections of one destination that nothing is sent over.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Connection>>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

impl Pool {
    /// One that was used before, and lately.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().ok()?;
        let now = Instant::now();
        let fresh = |it: &Connection| now.duration_since(it.idle_since) < IDLE_TIMEOUT;
        let old: Vec<_> = idle.extract_if(.., |it| !fresh(it)).collect();
        let last = idle.pop();
        drop(idle);
        old.into_iter().for_each(Connection::leave);
        last
    }

    /// Keeps one that is between two mails.
    pub(super) fn put(&self, mut connection: Connection) {
        connection.used += 1;
        connection.idle_since = Instant::now();
        let Ok(mut idle) = self.0.lock() else { return };
        if idle.len() < IDLE_MAX && connection.used < MAILS_MAX && !connection.smtp.has_broken() {
            idle.push(connection);
        } else {
            drop(idle);
            connection.leave();
        }
    }
}

impl Connection {
    /// Connects to `server` as far as `policy` permits, and logs in. `hello` is what we call ourselves.
    pub(super) async fn open(server: &Server, policy: &AddressPolicy, hello: &str) -> Result<Self, Refused> {
        let hello = ClientId::Domain(hello.to_owned());
        let tcp = connect(&addresses(server, policy).await?).await?;
        let stream = match server.protection {
            Protection::None => Stream::plain(tcp),
            Protection::Implicit => Stream::secure(tls(server, tcp).await?, b""),
            Protection::StartTls => {
                let tcp = starttls(tcp, &hello).await?;
                // The server greets once, and that was before TLS; lettre waits for it.
                Stream::secure(tls(server, tcp).await?, b"220 under TLS\r\n")
            }
        };
        let smtp = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello).await;
        let mut smtp = smtp.map_err(|error| Refused::by(&error).unless_about_the_mail())?;
        if let Some(credentials) = server.credentials() {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            if smtp.server_info().get_auth_mechanism(&mechanisms).is_none() {
                return Err(Refused::target("smtp_auth", "the server offers no login that the relay knows (PLAIN, LOGIN)"));
            }
            let login = smtp.auth(&mechanisms, &credentials).await;
            login.map_err(|error| Refused::by(&error).at_login(server))?;
        }
        Ok(Self { smtp, used: 0, idle_since: Instant::now() })
    }

    /// Says goodbye, beside the way.
    pub(super) fn leave(self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.farewell());
        }
    }

    /// Says goodbye, and waits a moment for the answer.
    pub(super) async fn farewell(mut self) {
        // All that counts has been said by now.
        let _ = timeout(FAREWELL, self.smtp.quit()).await;
    }
}

/// The addresses of `server` that `policy` permits. What is vetted here is what is connected to.
async fn addresses(server: &Server, policy: &AddressPolicy) -> Result<Vec<SocketAddr>, Refused> {
    let (host, port) = (bare(&server.host), server.port);
    let found: Vec<SocketAddr> = match &server.host {
        Host::Ipv4(address) => vec![SocketAddr::from((*address, port))],
        Host::Ipv6(address) => vec![SocketAddr::from((*address, port))],
        Host::Domain(name) => {
            let found = tokio::net::lookup_host((name.as_str(), port)).await;
            found.map_err(|_| Refused::failed(FailureKind::Dns, "the name of the mail server does not resolve"))?.collect()
        }
    };
    let any = policy.permits_name(&host);
    let permitted: Vec<_> = found.into_iter().filter(|address| any || policy.permits(address.ip())).collect();
    if permitted.is_empty() {
        return Err(Refused::failed(FailureKind::Forbidden, &Forbidden::by(policy).to_string()));
    }
    Ok(permitted)
}

/// The first of `addresses` that takes the connection.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Refused> {
    let mut last = Refused::failed(FailureKind::Connect, "there is no address");
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = Refused::failed(FailureKind::Connect, &error.to_string()),
            Err(_) => last = Refused::failed(FailureKind::Timeout, "no connection within 10 seconds"),
        }
    }
    Err(last)
}

async fn tls(server: &Server, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Refused> {
    let connector = TlsConnector::from(server.tls.clone());
    match timeout(CONNECT_TIMEOUT, connector.connect(server.certified.clone(), tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Refused::failed(FailureKind::Tls, &error.to_string())),
        Err(_) => Err(Refused::failed(FailureKind::Timeout, "no TLS within 10 seconds")),
    }
}

/// Says `STARTTLS`, and hands back a stream on which the next byte is TLS.
async fn starttls(mut tcp: TcpStream, hello: &ClientId) -> Result<TcpStream, Refused> {
    let greeting = answer(&mut tcp).await?;
    expect(&greeting, "220")?;
    say(&mut tcp, &format!("EHLO {hello}\r\n")).await?;
    let offers = answer(&mut tcp).await?;
    expect(&offers, "250")?;
    if !offers.iter().any(|line| line.get(4..).is_some_and(|word| word.eq_ignore_ascii_case("STARTTLS"))) {
        return Err(Refused::target(
            "smtp_starttls",
            "the server does not offer STARTTLS, and mail is not sent without TLS (`tls: none` would)",
        ));
    }
    say(&mut tcp, "STARTTLS\r\n").await?;
    expect(&answer(&mut tcp).await?, "220")?;
    Ok(tcp)
}

async fn say(tcp: &mut TcpStream, line: &str) -> Result<(), Refused> {
    tcp.write_all(line.as_bytes()).await.map_err(|error| Refused::failed(FailureKind::Closed, &error.to_string()))
}

/// The lines of one answer. Reads no byte beyond it.
async fn answer(tcp: &mut TcpStream) -> Result<Vec<String>, Refused> {
    let mut lines = Vec::new();
    loop {
        let line = read_line(tcp).await.map_err(|error| Refused::failed(FailureKind::Closed, &error.to_string()))?;
        let last = line.as_bytes().get(3) != Some(&b'-');
        lines.push(line);
        if last {
            return Ok(lines);
        }
        if LINES_MAX < lines.len() {
            return Err(Refused::failed(FailureKind::Closed, "the server's answer never ends"));
        }
    }
}

async fn read_line(tcp: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(tcp.read_u8().await?);
        if LINE_MAX < line.len() {
            return Err(io::Error::other("a line of the server's answer is too long"));
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn expect(lines: &[String], code: &str) -> Result<(), Refused> {
    let last = lines.last().map(String::as_str).unwrap_or_default();
    if last.starts_with(code) {
        return Ok(());
    }
    let (given, text) = last.split_at_checked(3).unwrap_or(("", last));
    match given.parse::<u16>().ok().filter(|code| (400..600).contains(code)) {
        Some(code) => Err(Refused::said(code, text).unless_about_the_mail()),
        None => Err(Refused::failed(FailureKind::Closed, "what answers there is no mail server")),
    }
}

/// What lettre speaks over.
#[derive(Debug)]
struct Stream {
    inner: Inner,
    peer: Option<SocketAddr>,
    /// Read before anything that the server sends.
    first: &'static [u8],
}

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn plain(tcp: TcpStream) -> Self {
        Self { peer: tcp.peer_addr().ok(), inner: Inner::Plain(tcp), first: b"" }
    }

    fn secure(tls: TlsStream<TcpStream>, first: &'static [u8]) -> Self {
        Self { peer: tls.get_ref().0.peer_addr().ok(), inner: Inner::Secure(Box::new(tls)), first }
    }
}

impl AsyncTokioStream for Stream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.peer.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let (now, later) = self.first.split_at(self.first.len().min(buf.remaining()));
            buf.put_slice(now);
            self.first = later;
            return Poll::Ready(Ok(()));
        }
        match &mut self.inner {
            Inner::Plain(it) => Pin::new(it).poll_read(cx, buf),
            Inner::Secure(it) => Pin::new(it).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(it) => Pin::new(it).poll_write(cx, bytes),
            Inner::Secure(it) => Pin::new(it).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(it) => Pin::new(it).poll_flush(cx),
            Inner::Secure(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(it) => Pin::new(it).poll_shutdown(cx),
            Inner::Secure(it) => Pin::new(it).poll_shutdown(cx),
        }
    }
}
