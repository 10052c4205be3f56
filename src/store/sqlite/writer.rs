//! The one thread that writes. It takes whatever is queued, commits it with one sync, and only then answers (group commit):
//! nobody waits for a timer, and the busier it gets, the more share a sync.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    accept::Accept,
    rows::fault,
    session::{Answer, Session},
};
use crate::store::{Accepted, Committed, Error, NewEvent, OnCommit, Result};

/// Jobs that wait; who comes after waits outside, which is what slows ingest down to what the disk can do.
const QUEUE_MAX: usize = 1024;
/// Jobs that share one commit.
const BATCH_MAX: usize = 512;
/// Bytes of bodies after which a commit takes no more jobs.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// One call's part of a commit.
pub(super) trait Job: Send {
    /// Writes, inside a transaction. Runs again when that transaction was rolled back because of another job.
    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()>;
    /// The event that is on disk now and has deliveries, where the job wrote one; asked once.
    fn event(&mut self) -> Option<Committed>;
    /// Answers whoever asked, if still there: what [`Job::run`] came to, or the error that undid it.
    fn answer(self: Box<Self>, outcome: Result<()>);
    /// How many bytes it writes, roughly.
    fn bytes(&self) -> usize;
}

enum Message {
    Job(Box<dyn Job>),
    Stop,
}

/// Who is told of commits, once somebody is.
pub(super) type Listener = Arc<OnceLock<Arc<dyn OnCommit>>>;

/// Hands jobs to the writer thread.
pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    newest: watch::Receiver<i64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread, which owns `session` until it ends.
    pub(super) fn start(session: Session, listener: Listener) -> Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let (news, newest) = watch::channel(session.last_seq());
        let work = Work { session, listener, news, failing: false };
        let thread = thread::Builder::new().name("store-writer".into()).spawn(move || work.run(jobs));
        let thread = thread.map_err(|error| Error::Backend(format!("no thread for the writer: {error}").into()))?;
        Ok(Self { queue, newest, thread: Mutex::new(Some(thread)) })
    }

    /// See [`crate::store::Store::newest`].
    pub(super) fn newest(&self) -> watch::Receiver<i64> {
        self.newest.clone()
    }

    /// Takes in `event`; see [`crate::store::Store::accept`].
    pub(super) async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        self.make(|reply| Accept::new(event, reply)).await
    }

    /// Runs the job that `make` builds around the way its answer goes.
    pub(super) async fn make<T, J: Job + 'static>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> J) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(make(reply));
        self.queue.send(Message::Job(job)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Runs `write` in a transaction that others share. It may run twice: what it did the first time was undone.
    pub(super) async fn run<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Session) -> Answer<T> + Send + 'static,
    {
        self.make(|reply| Write { write, answer: None, reply }).await
    }

    /// Ok when an event could be taken in now; see [`crate::store::Store::ready`].
    pub(super) async fn probe(&self) -> Result<()> {
        self.run(Session::probe).await?;
        // In a commit of its own: what one transaction writes and takes back never reaches the disk.
        self.run(Session::remove_probe).await
    }

    /// Returns when what is queued is committed and the files are closed.
    pub(super) async fn close(&self) {
        // Fails when the thread has ended already.
        let _ = self.queue.send(Message::Stop).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let joined = tokio::task::spawn_blocking(move || thread.is_none_or(|thread| thread.join().is_ok())).await;
        if !joined.is_ok_and(|whole| whole) {
            tracing::error!("the store's writer broke off");
        }
    }
}

/// Any write but that of an event.
struct Write<T, F> {
    write: F,
    answer: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&mut Session) -> Answer<T> + Send> Job for Write<T, F> {
    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()> {
        self.answer = Some((self.write)(session)?);
        Ok(())
    }

    fn event(&mut self) -> Option<Committed> {
        None
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { answer, reply, .. } = *self;
        let _ = reply.send(outcome.and_then(|()| answer.unwrap_or(Err(Error::Closed))));
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// The thread's side.
struct Work {
    session: Session,
    listener: Listener,
    news: watch::Sender<i64>,
    /// Whether the last commit failed: the log gets one line when that begins and one when it ends.
    failing: bool,
}

type Batch = Vec<Box<dyn Job>>;

impl Work {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        while let Some(first) = self.next(&mut queue) {
            let batch = gather(first, &mut queue);
            if !batch.is_empty() {
                self.commit(batch);
                self.session.between();
            }
        }
        self.session.close();
    }

    /// The next message; does what can wait while there is none.
    fn next(&mut self, queue: &mut mpsc::Receiver<Message>) -> Option<Message> {
        loop {
            match queue.try_recv() {
                Ok(message) => return Some(message),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) if self.session.while_idle() => {}
                Err(mpsc::error::TryRecvError::Empty) => return queue.blocking_recv(),
            }
        }
    }

    fn commit(&mut self, mut batch: Batch) {
        let started = Instant::now();
        match self.session.transaction(|session| batch.iter_mut().try_for_each(|job| job.run(session))) {
            Ok(()) => self.committed(batch, started),
            Err(error) => self.failed(batch, fault(error)),
        }
    }

    fn committed(&mut self, mut batch: Batch, started: Instant) {
        if self.failing {
            tracing::info!("the store takes writes again");
            self.failing = false;
        }
        if let Some(listener) = self.listener.get() {
            let events: Vec<_> = batch.iter_mut().filter_map(|job| job.event()).collect();
            listener.batch(batch.len(), started.elapsed());
            if !events.is_empty() {
                listener.committed(events);
            }
        }
        let newest = self.session.last_seq();
        self.news.send_if_modified(|known| std::mem::replace(known, newest) != newest);
        batch.into_iter().for_each(|job| job.answer(Ok(())));
    }

    /// When the disk refuses, it refuses everybody. Any other error is one job's: each then goes alone.
    fn failed(&mut self, batch: Batch, error: Error) {
        if !matches!(error, Error::Full(_)) && 1 < batch.len() {
            batch.into_iter().for_each(|job| self.commit(vec![job]));
            return;
        }
        if !self.failing {
            tracing::error!("nothing of this was written, whoever asked was told: {error}");
            self.failing = true;
        }
        batch.into_iter().for_each(|job| job.answer(Err(error.clone())));
    }
}

/// `first` and what is queued behind it, within the bounds of a batch. Nothing more is taken in after a stop.
fn gather(first: Message, queue: &mut mpsc::Receiver<Message>) -> Batch {
    let mut batch = Batch::new();
    let mut bytes = 0;
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
