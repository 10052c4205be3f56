//! A real HTTP listener on 127.0.0.1 that the relay delivers to: it answers as told and keeps what it was sent, header
//! names as they stood on the wire.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

use super::{SOON, until};

/// What a receiver answers with.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status with these headers and this body.
    Full(u16, Vec<(String, String)>, String),
    /// Nothing, ever: the connection stays open.
    Never,
    /// Nothing: the connection is closed.
    Close,
    /// 200, once there is a permit to take.
    Gated(Arc<Semaphore>),
    /// This status, once there is a permit to take.
    Late(u16, Arc<Semaphore>),
}

impl From<u16> for Reply {
    fn from(status: u16) -> Self {
        Self::Full(status, Vec::new(), "{}".into())
    }
}

impl Reply {
    /// `status` with one header.
    pub(crate) fn with(status: u16, name: &str, value: impl ToString) -> Self {
        Self::Full(status, vec![(name.into(), value.to_string())], "{}".into())
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// `POST /path HTTP/1.1`.
    pub(crate) line: String,
    /// Headers in order, names as sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
}

impl Received {
    /// The value of header `name`, in whatever case it came; empty where it did not.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.as_str())
    }

    /// How many headers are called `name`.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

type Answering = dyn Fn(&Received, usize) -> Reply + Send + Sync;

struct Shared {
    answering: Box<Answering>,
    seen: Mutex<Vec<Received>>,
    connections: AtomicUsize,
}

/// See the top of this file. Stops listening when dropped.
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    /// Answers 200.
    pub(crate) async fn ok() -> Self {
        Self::start([200]).await
    }

    /// Answers with `replies` in order, the last one for ever.
    pub(crate) async fn start<R: Into<Reply>>(replies: impl IntoIterator<Item = R>) -> Self {
        let replies: Vec<Reply> = replies.into_iter().map(Into::into).collect();
        Self::answering(move |_, place| replies[place.min(replies.len() - 1)].clone()).await
    }

    /// Never answers.
    pub(crate) async fn silent() -> Self {
        Self::start([Reply::Never]).await
    }

    /// Answers as `answering` says, which gets the request and how many came before it.
    pub(crate) async fn answering(answering: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, answering)
    }

    fn on(listener: TcpListener, answering: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        let addr = listener.local_addr().unwrap();
        let shared =
            Arc::new(Shared { answering: Box::new(answering), seen: Mutex::default(), connections: AtomicUsize::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, accepting }
    }

    /// Where it listens: `http://127.0.0.1:<port>/hook`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Vec<Received> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests came so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The different values of header `name` that came so far.
    pub(crate) fn distinct(&self, name: &str) -> BTreeSet<String> {
        self.shared.seen.lock().unwrap().iter().map(|request| request.header(name).to_owned()).collect()
    }

    /// Waits until at least `count` requests came, and yields all.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        self.wait_within(count, SOON).await
    }

    /// Waits at most `within` until at least `count` requests came, and yields all.
    pub(crate) async fn wait_within(&self, count: usize, within: Duration) -> Vec<Received> {
        until(&format!("{count} requests"), within, async || (count <= self.count()).then(|| self.seen())).await
    }

    /// Waits for the first request.
    pub(crate) async fn first(&self) -> Received {
        self.wait_for(1).await.remove(0)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Aborted with the receiver, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(converse(socket, Arc::clone(&shared)));
    }
}

async fn converse(socket: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let request = read(&mut socket).await?;
        let reply = {
            let mut seen = shared.seen.lock().unwrap();
            let reply = (shared.answering)(&request, seen.len());
            seen.push(request);
            reply
        };
        match reply {
            Reply::Full(status, headers, body) => {
                let declared = headers.iter().any(|(name, _)| name == "content-length");
                let length = if declared { String::new() } else { format!("content-length: {}\r\n", body.len()) };
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let head = format!("HTTP/1.1 {status} Scripted\r\n{headers}{length}\r\n{body}");
                socket.write_all(head.as_bytes()).await.ok()?;
            }
            Reply::Never => std::future::pending().await,
            Reply::Close => return None,
            Reply::Gated(gate) => {
                gate.acquire().await.ok()?.forget();
                socket.write_all(b"HTTP/1.1 200 Scripted\r\ncontent-length: 0\r\n\r\n").await.ok()?;
            }
            Reply::Late(status, gate) => {
                gate.acquire().await.ok()?.forget();
                let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n");
                socket.write_all(head.as_bytes()).await.ok()?;
            }
        }
    }
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Received> {
    let line = line(socket).await.filter(|line| !line.is_empty())?;
    let mut headers = Vec::new();
    loop {
        let text = self::line(socket).await?;
        let Some((name, value)) = text.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Received { line, headers, body: Vec::new(), at: Instant::now() };
    if request.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        loop {
            let size = usize::from_str_radix(&self::line(socket).await?, 16).ok()?;
            let mut chunk = vec![0; size];
            socket.read_exact(&mut chunk).await.ok()?;
            request.body.extend_from_slice(&chunk);
            self::line(socket).await?;
            if size == 0 {
                return Some(request);
            }
        }
    }
    request.body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    socket.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

async fn line(socket: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = String::new();
    socket.read_line(&mut text).await.ok()?;
    text.ends_with('\n').then(|| text.trim_end().to_owned())
}
