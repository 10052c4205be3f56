//! Tasks that commit together what is queued (group commit): nobody waits for a timer, and the busier it gets, the more share a commit.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::store::{Error, Result};

/// Jobs that wait; who comes after waits outside, which is what slows ingest down to what the database can do.
const QUEUE_MAX: usize = 1024;
/// Jobs that share one commit.
const BATCH_MAX: usize = 512;
/// Bytes of bodies after which a commit takes no more jobs.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// One call's part of a commit.
pub(super) trait Job: Send + 'static {
    /// How many bytes it writes, roughly.
    fn bytes(&self) -> usize;
    /// Answers whoever asked, if still there: what it came to, or the error that undid it.
    fn answer(self, outcome: Result<()>);
}

/// Writes jobs.
pub(super) trait Work<J>: Send + 'static {
    /// Commits `batch`, all of it or nothing, and keeps with each job what it came to.
    fn commit(&mut self, batch: &mut [J]) -> impl Future<Output = Result<()>> + Send;
    /// It is on disk.
    fn committed(&mut self, batch: &mut [J], began: Instant);
}

/// Hands jobs to the task.
pub(super) struct Writer<J> {
    queue: mpsc::Sender<Message<J>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Message<J> {
    Job(J),
    Stop,
}

impl<J: Job> Writer<J> {
    /// Starts the task.
    pub(super) fn start(work: impl Work<J>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(run(work, jobs));
        Self { queue, task: Mutex::new(Some(task)) }
    }

    /// Runs the job that `make` builds around the way its answer goes.
    pub(super) async fn make<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> J) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Job(make(reply))).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Returns when what is queued is committed.
    pub(super) async fn close(&self) {
        // Fails when the task has ended already.
        let _ = self.queue.send(Message::Stop).await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!("a writer of the store broke off");
        }
    }
}

async fn run<J: Job>(mut work: impl Work<J>, mut queue: mpsc::Receiver<Message<J>>) {
    // The log gets one line when commits begin to fail and one when that ends.
    let mut failing = false;
    while let Some(first) = queue.recv().await {
        let mut batch = gather(first, &mut queue);
        if batch.is_empty() {
            continue;
        }
        let began = Instant::now();
        match work.commit(&mut batch).await {
            Ok(()) => done(&mut work, batch, began, &mut failing),
            // When the database takes nothing, it takes nothing of anybody. Any other error is one job's: each then goes alone.
            Err(error) if matches!(error, Error::Full(_) | Error::Closed) || batch.len() == 1 => {
                refuse(batch, &error, &mut failing);
            }
            Err(_) => {
                for job in batch {
                    let (mut one, began) = (vec![job], Instant::now());
                    match work.commit(&mut one).await {
                        Ok(()) => done(&mut work, one, began, &mut failing),
                        Err(error) => refuse(one, &error, &mut failing),
                    }
                }
            }
        }
    }
}

fn done<J: Job>(work: &mut impl Work<J>, mut batch: Vec<J>, began: Instant, failing: &mut bool) {
    if std::mem::take(failing) {
        tracing::info!("the store takes writes again");
    }
    work.committed(&mut batch, began);
    batch.into_iter().for_each(|job| job.answer(Ok(())));
}

fn refuse<J: Job>(batch: Vec<J>, error: &Error, failing: &mut bool) {
    if !std::mem::replace(failing, true) {
        tracing::error!("nothing of this was written, whoever asked was told: {error}");
    }
    batch.into_iter().for_each(|job| job.answer(Err(error.clone())));
}

/// `first` and what is queued behind it, within the bounds of a batch. Nothing more is taken in after a stop.
fn gather<J: Job>(first: Message<J>, queue: &mut mpsc::Receiver<Message<J>>) -> Vec<J> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Job(job) => {
                bytes += job.bytes();
                batch.push(job);
            }
            Message::Stop => queue.close(),
        }
        let room = batch.len() < BATCH_MAX && bytes < BATCH_BYTES;
        next = if room { queue.try_recv().ok() } else { None };
    }
    batch
}
