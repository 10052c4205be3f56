//! The target of all deliveries: a process that counts what comes, notes how late it is, and answers as the path asks.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use hookyard::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use crate::{
    Outcome,
    histogram::Histogram,
    options::Role,
    process::{self, Helper},
    requests,
    wire::Wire,
};

const TAKE: &[u8] = b"POST /take HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
const FORGET: &[u8] = b"POST /forget HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
const POLL: Duration = Duration::from_millis(20);
const STALL_MAX: Duration = Duration::from_secs(30); // without a delivery, before waiting for more is given up
const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const DRIP_EVERY: Duration = Duration::from_secs(1);
const DRIP_COUNT: usize = 1000; // bytes

/// How a target answers.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// 200 at once; its deliveries are counted and timed.
    Ok,
    /// The same, and each delivery is counted once: others under its id are [`Taken::repeated`].
    Once,
    /// 500 at once.
    Error,
    /// Never.
    Never,
    /// 200, then a byte of its body per second.
    Drip,
}

impl Manner {
    fn path(self) -> &'static str {
        match self {
            Self::Ok => "/ok",
            Self::Once => "/once",
            Self::Error => "/error",
            Self::Never => "/never",
            Self::Drip => "/drip",
        }
    }
}

/// What came since the last [`Receiver::take`].
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// Deliveries answered 200.
    pub(crate) delivered: u64,
    /// Attempts answered otherwise, or not at all.
    pub(crate) other: u64,
    /// Deliveries that had come before, of those that are counted once.
    pub(crate) repeated: u64,
    /// From the instant the event was due at the relay until its delivery was read whole here, of those delivered.
    pub(crate) lag_p50_ms: f64,
    /// The same.
    pub(crate) lag_p99_ms: f64,
}

/// The receiver's process and a connection to ask it by.
pub(crate) struct Receiver {
    helper: Helper,
    wire: Wire,
}

impl Receiver {
    /// Starts it.
    pub(crate) async fn start() -> Outcome<Self> {
        let helper = Helper::start(Role::Receiver)?;
        let wire = Wire::connect(helper.address).await?;
        Ok(Self { helper, wire })
    }

    /// The URL of a target that answers in this manner.
    pub(crate) fn url(&self, manner: Manner) -> String {
        format!("http://{}{}", self.helper.address, manner.path())
    }

    /// What came since the last time.
    pub(crate) async fn take(&mut self) -> Outcome<Taken> {
        Ok(serde_json::from_slice(self.wire.ask(TAKE).await?.body)?)
    }

    /// Forgets which deliveries have come.
    pub(crate) async fn forget(&mut self) -> Outcome {
        self.wire.ask(FORGET).await?;
        Ok(())
    }

    /// Waits until `count` deliveries came since the last [`Receiver::take`]; answers how many came again meanwhile.
    pub(crate) async fn wait_for(&mut self, count: u64) -> Outcome<u64> {
        let (mut seen, mut repeated, mut progress) = (0, 0, Instant::now());
        while seen < count {
            let taken = self.take().await?;
            repeated += taken.repeated;
            if taken.delivered != 0 {
                progress = Instant::now();
            }
            seen += taken.delivered;
            if STALL_MAX < progress.elapsed() {
                return Err(format!("{seen} of {count} events were delivered, then none for {} s", STALL_MAX.as_secs()).into());
            }
            if seen < count {
                sleep(POLL).await;
            }
        }
        Ok(repeated)
    }
}

struct Tally {
    delivered: u64,
    repeated: u64,
    other: u64,
    lag: Histogram,
    /// Which deliveries have come, of those that are counted once.
    come: HashSet<Vec<u8>>,
}

impl Tally {
    fn new() -> Self {
        Self { delivered: 0, repeated: 0, other: 0, lag: Histogram::new(), come: HashSet::new() }
    }

    fn taken(&self) -> Taken {
        let at = |share| self.lag.percentile_ms(share);
        let Self { delivered, repeated, other, .. } = *self;
        Taken { delivered, repeated, other, lag_p50_ms: at(0.5), lag_p99_ms: at(0.99) }
    }
}

type Shared = Arc<Mutex<Tally>>;

/// In the process of its own: answers until the process that started it ends.
pub(crate) async fn serve() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    process::announce(listener.local_addr()?)?;
    let tally = Shared::new(Mutex::new(Tally::new()));
    loop {
        let (stream, _) = listener.accept().await?;
        let tally = tally.clone();
        // A connection that breaks is the relay's to notice.
        tokio::spawn(async move { answer(Wire::new(stream)?, &tally).await });
    }
}

async fn answer(mut wire: Wire, tally: &Shared) -> io::Result<()> {
    let clock = Clock::system();
    while let Some(request) = wire.receive().await? {
        match request.path() {
            b"/take" => {
                let taken = take(tally);
                wire.send(&taken).await?;
            }
            b"/forget" => {
                with(tally, |tally| tally.come.clear());
                wire.send(TAKEN).await?;
            }
            b"/once" => {
                let id = request.header(b"idempotency-key:").to_vec();
                count_once(tally, id);
                wire.send(TAKEN).await?;
            }
            b"/ok" => {
                count(tally, requests::due_at(request.body), clock.now().as_nanosecond());
                wire.send(TAKEN).await?;
            }
            path => {
                let path = path.to_vec();
                with(tally, |tally| tally.other += 1);
                misbehave(&mut wire, &path).await?;
            }
        }
    }
    Ok(())
}

fn count(tally: &Shared, due_at: Option<i64>, now: i128) {
    let lag = due_at.and_then(|due_at| u64::try_from(now - i128::from(due_at)).ok());
    with(tally, |tally| {
        tally.delivered += 1;
        tally.lag.record(Duration::from_nanos(lag.unwrap_or(0)));
    });
}

fn count_once(tally: &Shared, id: Vec<u8>) {
    with(tally, |tally| {
        let first = tally.come.insert(id);
        *(if first { &mut tally.delivered } else { &mut tally.repeated }) += 1;
    });
}

fn take(tally: &Shared) -> Vec<u8> {
    let taken = with(tally, |tally| {
        let come = std::mem::take(&mut tally.come);
        std::mem::replace(tally, Tally { come, ..Tally::new() }).taken()
    });
    let taken = taken.unwrap_or_default();
    // Six numbers: this cannot fail.
    let body = serde_json::to_string(&taken).unwrap_or_default();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn with<T>(tally: &Shared, act: impl FnOnce(&mut Tally) -> T) -> Option<T> {
    tally.lock().ok().map(|mut tally| act(&mut tally))
}

async fn misbehave(wire: &mut Wire, path: &[u8]) -> io::Result<()> {
    match path {
        b"/error" => wire.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").await,
        b"/drip" => drip(wire).await,
        // Reading goes on: it ends when the relay has given up and closes the connection.
        _ => wire.receive().await.map(|_| ()),
    }
}

async fn drip(wire: &mut Wire) -> io::Result<()> {
    wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {DRIP_COUNT}\r\n\r\n").as_bytes()).await?;
    for _ in 0..DRIP_COUNT {
        sleep(DRIP_EVERY).await;
        wire.send(b".").await?;
    }
    Ok(())
}
