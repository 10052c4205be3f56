//! The accept loop both listeners run on, which a slow or huge header or ten thousand idle sockets cannot hurt: headers and idle
//! connections are limited in time, connections in number, and when there are too many the longest idle one makes room.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request, Response, Version},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

mod peer;

pub(crate) use peer::Peer;

/// Connections held at once, where the system lets a process open enough files.
const CONNECTIONS_MAX: usize = 16_384;
/// Connections held at once at least.
const CONNECTIONS_MIN: usize = 64;
/// Longest time from a header's first byte (of the first one: from connecting) to its last.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time a connection waits for its next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Largest header, in bytes.
const HEADER_MAX: usize = 64 * 1024;
/// Requests under way at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// Largest decoded header of an HTTP/2 request, in bytes.
const HEADER_LIST_MAX: u32 = 32 * 1024;
/// How long accepting waits when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);
/// What a sender of a slow header reads, where it can be told.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\ncontent-length: 74\r\nconnection: close\r\n\r\n\
    {\"error\":\"request_timeout\",\"message\":\"The header did not arrive in time.\"}";

/// Serves `router` on `listener` until `stop`, then gives open requests as long to finish as `grace` says then. Requests carry their
/// connection as [`Peer`], and its address as [`ConnectInfo`].
pub async fn serve(listener: TcpListener, router: axum::Router, stop: CancellationToken, grace: impl Fn() -> Duration) {
    let server = Arc::new(Server::new(router, stop.clone(), connections_max(), Timeouts::default()));
    server.clone().accept(listener).await;
    server.tasks.close();
    if timeout(grace(), server.tasks.wait()).await.is_err() {
        debug!("connections are closed with requests under way");
    }
    server.kill.cancel();
    server.tasks.wait().await;
}

/// How many connections are held at once: two fifths of the files this process may open, since there are two listeners.
fn connections_max() -> usize {
    let files = raised_files().and_then(|files| usize::try_from(files).ok());
    files.map_or(CONNECTIONS_MAX, |files| (files / 5 * 2).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX))
}

/// How many files this process may open, after asking for as many as it may ask for: what it is started with is often 1024, a number
/// kept for programs that use `select`. `None`: any number.
fn raised_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            debug!("the number of open files stays as it was: {error}");
            limit.current
        }
    }
}

/// [`HEADER_TIMEOUT`] and [`IDLE_TIMEOUT`]; shorter in tests.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    header: Duration,
    idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { header: HEADER_TIMEOUT, idle: IDLE_TIMEOUT }
    }
}

struct Server {
    http: Builder<TokioExecutor>,
    router: TowerToHyperService<axum::Router>,
    stop: CancellationToken,
    /// Ends every connection, whatever it does.
    kill: CancellationToken,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    timeouts: Timeouts,
}

impl Server {
    fn new(router: axum::Router, stop: CancellationToken, connections: usize, timeouts: Timeouts) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        // The time of headers is watched here, since hyper's own timer would count idle time too and begins after the first bytes.
        http.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEADER_MAX);
        // A sender may say that it has no more to send before it reads: it is answered all the same.
        http.http1().half_close(true);
        http.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEADER_LIST_MAX);
        Self {
            http,
            router: TowerToHyperService::new(router),
            stop,
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(connections)),
            open: Mutex::new(HashMap::new()),
            timeouts,
        }
    }

    /// Takes connections until `stop`.
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut number = 0_u64;
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => {
                    let Some(room) = self.make_room().await else { return };
                    number += 1;
                    self.tasks.spawn(self.clone().run(number, stream, peer, room));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!("no connection can be taken: {error}");
                    self.evict();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Room for one more connection: the longest idle one is closed for it where there is none. `None` when it is time to stop.
    async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        while !self.stop.is_cancelled() {
            if let Ok(room) = self.room.clone().try_acquire_owned() {
                return Some(room);
            }
            self.evict();
            if let Ok(room) = timeout(PAUSE, self.room.clone().acquire_owned()).await {
                return room.ok();
            }
        }
        None
    }

    fn evict(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = open.values().filter(|one| one.is_idle() && !one.end.is_cancelled());
        if let Some(longest) = idle.min_by_key(|one| one.since.load(Ordering::Relaxed)) {
            longest.end.cancel();
        }
    }

    async fn run(self: Arc<Self>, number: u64, stream: TcpStream, peer: SocketAddr, _room: OwnedSemaphorePermit) {
        // A connection that is gone already says so when it is read.
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::new(self.kill.child_token(), self.timeouts));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, activity.clone());
        self.converse(stream, peer, &activity).await;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Answers the requests of one connection until it ends, falls idle, is slow, is evicted, or the server stops.
    async fn converse(&self, stream: TcpStream, peer: SocketAddr, activity: &Arc<Activity>) {
        let (reading, writing) = stream.into_split();
        let reading = Arc::new(reading);
        let behind = Peer::new(reading.clone(), activity.end.clone());
        // Handlers of HTTP/2 are tasks of their own.
        let (router, conversing) = (self.router.clone(), activity.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(behind.clone());
            answer(router.clone(), request, conversing.clone())
        });
        let io = TokioIo::new(Watched { reading: reading.clone(), writing, activity: activity.clone() });
        let mut connection = pin!(self.http.serve_connection(io, service));
        let mut stopping = false;
        loop {
            tokio::select! {
                // Senders break connections off all the time; there is nobody left to tell.
                _ = connection.as_mut() => return,
                () = activity.end.cancelled() => return,
                slow = activity.expired() => {
                    if slow {
                        // Where it cannot be written at once, closing has to do.
                        let stream: &TcpStream = reading.as_ref().as_ref();
                        let _ = stream.try_write(TOO_SLOW);
                    }
                    return;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Whether accepting failed for the connection that was to be accepted, not for all.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn answer(
    router: TowerToHyperService<axum::Router>,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<Held>, std::convert::Infallible> {
    let busy = Busy::new(activity, request.version());
    let response = router.call(request.map(Body::new)).await?;
    Ok(response.map(|body| Held { body, _busy: busy }))
}

/// What a connection is doing. Times are milliseconds since it was opened.
struct Activity {
    opened: Instant,
    /// Requests under way.
    busy: AtomicU32,
    /// When the last request ended.
    since: AtomicU64,
    /// When the header that is being read began; [`NO_HEADER`] when none is.
    header: AtomicU64,
    /// Whether anything of that header came.
    begun: AtomicBool,
    /// Whether it speaks HTTP/2, where bytes between requests are no header.
    multiplexed: AtomicBool,
    /// Ends it.
    end: CancellationToken,
    timeouts: Timeouts,
}

const NO_HEADER: u64 = u64::MAX;

impl Activity {
    fn new(end: CancellationToken, timeouts: Timeouts) -> Self {
        Self {
            opened: Instant::now(),
            busy: AtomicU32::new(0),
            since: AtomicU64::new(0),
            header: AtomicU64::new(0),
            begun: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            end,
            timeouts,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NO_HEADER - 1)
    }

    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// Bytes came.
    fn read(&self) {
        if self.is_idle() && !self.multiplexed.load(Ordering::Relaxed) {
            self.begun.store(true, Ordering::Relaxed);
            // Later bytes of a header do not move its beginning.
            let _ = self.header.compare_exchange(NO_HEADER, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// When it must be closed unless something happens, and whether for a slow header.
    fn deadline(&self) -> Option<(Instant, bool)> {
        if !self.is_idle() {
            return None;
        }
        let (from, allowed, slow) = match self.header.load(Ordering::Relaxed) {
            NO_HEADER => (self.since.load(Ordering::Relaxed), self.timeouts.idle, false),
            began => (began, self.timeouts.header, self.begun.load(Ordering::Relaxed)),
        };
        Some((self.opened + Duration::from_millis(from) + allowed, slow))
    }

    /// Waits until it must be closed; answers whether for a slow header.
    async fn expired(&self) -> bool {
        loop {
            let now = Instant::now();
            let due = self.deadline();
            if let Some((at, slow)) = due
                && at <= now
            {
                return slow;
            }
            // Nothing that begins meanwhile can be due earlier than a header that begins now.
            let next = now + self.timeouts.header;
            sleep_until(due.map_or(next, |(at, _)| at.min(next))).await;
        }
    }
}

/// A request under way, until its answer is written.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: Arc<Activity>, version: Version) -> Self {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        activity.header.store(NO_HEADER, Ordering::Relaxed);
        activity.begun.store(false, Ordering::Relaxed);
        activity.multiplexed.store(version == Version::HTTP_2, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since.store(self.0.now(), Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, which keeps its connection busy.
struct Held {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose reading is watched. The reading half is shared, so that a last answer can be written past hyper.
struct Watched {
    reading: Arc<OwnedReadHalf>,
    writing: OwnedWriteHalf,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream: &TcpStream = self.reading.as_ref().as_ref();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    buffer.advance(count);
                    if 0 < count {
                        self.activity.read();
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writing).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writing).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.writing.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writing).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writing).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    /// Generous: nothing here should come near it.
    const DEADLINE: Duration = Duration::from_secs(20);

    struct Running {
        address: SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start(connections: usize, header_ms: u64, idle_ms: u64) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = get(|| async {
            sleep(Duration::from_millis(300)).await;
            "slow"
        });
        let peer = get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() });
        let router = axum::Router::new().route("/", peer).route("/slow", slow);
        let timeouts = Timeouts { header: Duration::from_millis(header_ms), idle: Duration::from_millis(idle_ms) };
        let stop = CancellationToken::new();
        let server = Arc::new(Server::new(router, stop.clone(), connections, timeouts));
        let task = tokio::spawn(async move {
            server.clone().accept(listener).await;
            server.tasks.close();
            server.tasks.wait().await;
        });
        Running { address, stop, task }
    }

    async fn until_closed(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        // A reset ends the connection as well.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut text)).await.expect("closed in time");
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(GET).await.unwrap();
        let mut buffer = [0; 1024];
        let count = timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn as_many_files_as_allowed_may_be_opened() {
        let files = raised_files();
        assert_eq!((files, getrlimit(Resource::Nofile).current), (getrlimit(Resource::Nofile).maximum, files));
        assert!((CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&connections_max()));
    }

    #[tokio::test]
    async fn requests_are_answered_over_one_connection_which_idles_out() {
        let running = start(8, 10_000, 100).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        for _ in 0..2 {
            assert!(ask(&mut stream).await.ends_with("127.0.0.1"));
        }
        assert_eq!(until_closed(&mut stream).await, "");
    }

    #[tokio::test]
    async fn a_slow_header_is_told_so_and_a_silent_connection_closed() {
        let running = start(8, 150, 60_000).await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        let mut slow = TcpStream::connect(running.address).await.unwrap();
        slow.write_all(b"POST / HTTP/1.1\r\nx-a: ").await.unwrap();
        let trickle = tokio::spawn(async move {
            let (mut reading, mut writing) = slow.into_split();
            let drip = tokio::spawn(async move {
                while writing.write_all(b"a").await.is_ok() {
                    sleep(Duration::from_millis(10)).await
                }
            });
            let mut text = String::new();
            let _ = timeout(DEADLINE, reading.read_to_string(&mut text)).await.expect("closed in time");
            drip.abort();
            text
        });
        let text = trickle.await.unwrap();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
        assert_eq!(until_closed(&mut silent).await, "");
    }

    #[tokio::test]
    async fn the_answer_to_a_slow_header_is_well_formed() {
        let running = start(8, 50, 60_000).await;
        let mut slow = TcpStream::connect(running.address).await.unwrap();
        slow.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        let text = until_closed(&mut slow).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 408 ") && head.contains(&format!("content-length: {}", body.len())), "{text}");
    }

    #[tokio::test]
    async fn a_huge_header_is_refused() {
        let running = start(8, 10_000, 60_000).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let huge = [b"GET / HTTP/1.1\r\nx-a: ", "a".repeat(HEADER_MAX + 1024).as_bytes()].concat();
        // The server may close before all of it is written.
        let _ = stream.write_all(&huge).await;
        let text = until_closed(&mut stream).await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 431 "), "{text}");
    }

    #[tokio::test]
    async fn idle_connections_make_room_for_new_ones() {
        let running = start(4, 60_000, 60_000).await;
        let mut idle = Vec::new();
        for _ in 0..40 {
            idle.push(TcpStream::connect(running.address).await.unwrap());
        }
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        assert!(ask(&mut stream).await.ends_with("127.0.0.1"));
    }

    #[tokio::test]
    async fn stopping_lets_requests_finish() {
        let running = start(8, 10_000, 60_000).await;
        let mut idle = TcpStream::connect(running.address).await.unwrap();
        ask(&mut idle).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        running.stop.cancel();
        assert!(until_closed(&mut stream).await.ends_with("slow"));
        assert_eq!(until_closed(&mut idle).await, "");
        timeout(DEADLINE, running.task).await.unwrap().unwrap();
        assert!(TcpStream::connect(running.address).await.is_err());
    }
}
