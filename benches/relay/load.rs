//! The load generator: one thread, kept-alive connections to 127.0.0.1, bounded in count and in time.
//!
//! *Closed*: every connection sends its next request when the last is answered; all are signed before the clock starts. *Open*: requests
//! are due at a steady rate whatever the answers do, and latency counts from when a request was due, so that a stall is not hidden by
//! the requests it kept from being sent; each is signed when it is due, which takes about 5 µs of its latency.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hookyard::clock::{Timestamp, later};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::timeout,
};

use crate::{
    Outcome,
    histogram::Histogram,
    requests::{Batch, Signer},
    wire::Wire,
};

const STALL_MAX: Duration = Duration::from_secs(30); // beyond the planned end, before a run counts as stuck
const OVERDUE_MAX: usize = 65_536; // requests that are due and wait for a connection

/// How a load is put on.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// Connections, each with one request at a time.
    pub(crate) connections: usize,
    /// At first, this long, nothing is counted.
    pub(crate) warm_up: Duration,
    /// Then it is counted for this long.
    pub(crate) length: Duration,
}

/// What came back.
pub(crate) struct Report {
    /// Answers 200.
    pub(crate) accepted: u64,
    /// Other answers, and in an open load requests that no connection was free for.
    pub(crate) refused: u64,
    /// Time it was counted for.
    pub(crate) took: Duration,
    /// Of the answers 200.
    pub(crate) latency: Histogram,
}

impl Report {
    /// Answers 200 per second.
    pub(crate) fn rate(&self) -> f64 {
        self.accepted as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Load {
    /// Sends each request of `batch` once, until there are none left or the time is over.
    pub(crate) async fn closed(self, batch: &Arc<Batch>) -> Outcome<Report> {
        self.closed_up_to(batch, batch.len()).await
    }

    /// Sends the requests of `batch` over and over: for a server that does not look at them.
    pub(crate) async fn closed_in_circles(self, batch: &Arc<Batch>) -> Outcome<Report> {
        self.closed_up_to(batch, usize::MAX).await
    }

    async fn closed_up_to(self, batch: &Arc<Batch>, count: usize) -> Outcome<Report> {
        let (next, window) = (Arc::new(AtomicUsize::new(0)), self.window());
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            let (batch, next, wire) = (batch.clone(), next.clone(), Wire::connect(self.address).await?);
            workers.spawn(async move {
                let mut tally = Tally::new(window);
                closed_worker(wire, &batch, count, &next, &mut tally).await.map(|()| tally)
            });
        }
        self.collect(workers, window).await
    }

    /// Sends `rate` requests per second, evenly spaced.
    pub(crate) async fn open(self, signer: &Signer, rate: u32) -> Outcome<Report> {
        let (queue, due) = mpsc::channel(OVERDUE_MAX);
        let due = Arc::new(Mutex::new(due));
        let mut workers = JoinSet::new();
        let mut wires = Vec::new();
        for _ in 0..self.connections {
            wires.push(Wire::connect(self.address).await?);
        }
        let window = self.window();
        for wire in wires {
            let (due, signer) = (due.clone(), signer.clone());
            workers.spawn(async move {
                let mut tally = Tally::new(window);
                open_worker(wire, &signer, &due, &mut tally).await.map(|()| tally)
            });
        }
        let wall = signer.now();
        let pacer = thread::spawn(move || pace(&queue, rate, window, wall));
        let mut report = self.collect(workers, window).await?;
        report.refused += pacer.join().map_err(|_| "the pacer failed")?;
        Ok(report)
    }

    fn window(&self) -> Window {
        let begin = Instant::now();
        let counted = begin + self.warm_up;
        Window { begin, counted, end: counted + self.length }
    }

    async fn collect(self, mut workers: JoinSet<Outcome<Tally>>, window: Window) -> Outcome<Report> {
        let mut all = Tally::new(window);
        let joined = timeout(self.warm_up + self.length + STALL_MAX, async {
            while let Some(worker) = workers.join_next().await {
                all.merge(&worker??);
            }
            Outcome::Ok(())
        });
        joined.await.map_err(|_| "the server stopped answering")??;
        let took = all.last.min(window.end).saturating_duration_since(window.counted);
        Ok(Report { accepted: all.accepted, refused: all.refused, took, latency: all.latency })
    }
}

/// When a load begins, is counted from, and ends.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    counted: Instant,
    end: Instant,
}

struct Tally {
    window: Window,
    accepted: u64,
    refused: u64,
    last: Instant,
    latency: Histogram,
}

impl Tally {
    fn new(window: Window) -> Self {
        Self { window, accepted: 0, refused: 0, last: window.begin, latency: Histogram::new() }
    }

    fn count(&mut self, from: Instant, status: u16) {
        self.last = Instant::now();
        if from < self.window.counted {
            return;
        }
        match status {
            200 => {
                self.accepted += 1;
                self.latency.record(self.last.saturating_duration_since(from));
            }
            _ => self.refused += 1,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.last = self.last.max(other.last);
        self.latency.merge(&other.latency);
    }
}

async fn closed_worker(mut wire: Wire, batch: &Batch, count: usize, next: &AtomicUsize, tally: &mut Tally) -> Outcome {
    loop {
        let (index, from) = (next.fetch_add(1, Ordering::Relaxed), Instant::now());
        if count <= index || tally.window.end <= from {
            return Ok(());
        }
        let request = batch.get(index % batch.len().max(1)).ok_or("there is nothing to send")?;
        let status = wire.ask(request).await?.status()?;
        tally.count(from, status);
    }
}

async fn open_worker(mut wire: Wire, signer: &Signer, due: &Mutex<mpsc::Receiver<Due>>, tally: &mut Tally) -> Outcome {
    let mut request = Vec::new();
    loop {
        let next = due.lock().await.recv().await;
        let Some(Due { from, at }) = next else { return Ok(()) };
        request.clear();
        signer.write(at, &mut request)?;
        let status = wire.ask(&request).await?.status()?;
        tally.count(from, status);
    }
}

/// A request's turn, by both clocks.
struct Due {
    from: Instant,
    at: Timestamp,
}

/// Says when each request is due; returns how many found the queue full.
fn pace(queue: &mpsc::Sender<Due>, rate: u32, window: Window, wall: Timestamp) -> u64 {
    let mut refused = 0;
    for n in 0_u64.. {
        let offset = Duration::from_secs_f64(n as f64 / f64::from(rate.max(1)));
        let from = window.begin + offset;
        if window.end <= from {
            break;
        }
        wait_until(from);
        match queue.try_send(Due { from, at: later(wall, offset) }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => refused += 1,
            Err(mpsc::error::TrySendError::Closed(_)) => break,
        }
    }
    refused
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own: the runtime's timer only knows whole milliseconds")]
fn wait_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}
