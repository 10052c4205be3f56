//! Tasks that commit together what is queued (group commit): the busier it gets, the more share a commit. Nobody waits for a timer; what
//! nobody waits for may.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant as Tick, sleep_until},
};

use super::connect::{Db, Pool};
use crate::store::{Error, Result};

/// Jobs that wait; who comes after waits outside, which is what slows ingest down to what the database can do.
const QUEUE_MAX: usize = 1024;
/// Jobs that share one commit.
const BATCH_MAX: usize = 512;
/// Bytes of bodies after which a commit takes no more jobs.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Batches that are under way at once: while the server writes one, the next is made and sent behind it.
const UNDER_WAY: usize = 2;
/// Rows that are a batch which waits for no more: as many as a lane that is waiting has queued.
const ENOUGH: usize = 128;

/// After a batch that needed care though it did not look so, the next tries again without; while more of them do, so many at most go with
/// care for each that tries.
const CARE_MAX: u32 = 16;

/// One call's part of a commit.
pub(super) trait Job: Send + 'static {
    /// How many bytes it writes, roughly.
    fn bytes(&self) -> usize;
    /// Answers whoever asked, if still there: what it came to, or the error that undid it.
    fn answer(self, outcome: Result<()>);
    /// Roughly how many rows it writes.
    fn rows(&self) -> usize;
    /// Whether somebody gains by its going at once.
    fn is_urgent(&self) -> bool;
}

/// A batch that was sent, and what it came to.
pub(super) type Sent<J> = Pin<Box<dyn Future<Output = (Vec<J>, Came)> + Send>>;

/// What a batch came to that was sent in one exchange.
pub(super) enum Came {
    /// It is on disk.
    Done,
    /// Nothing of it was written: it is no ordinary one, and needs [`Work::commit`].
    NeedsCare,
    /// Nothing can be written.
    Failed(Error),
}

/// Writes jobs.
pub(super) trait Work<J>: Send + 'static {
    /// Jobs that make it worth while to send a batch behind one that is under way; fewer wait for others. A batch costs the server about
    /// as much as ten events, whatever is in it.
    const WORTH_WHILE: usize;

    /// How long the server is left alone after a batch that took so long, while jobs gather of which none is urgent, and that are not
    /// yet [`ENOUGH`].
    fn rest(&self, took: Duration) -> Duration;
    /// Sends `batch`, all of it or nothing, in one exchange: with its first poll it is behind all that were sent before. Gives it back
    /// where it cannot go so.
    fn send(&mut self, batch: Vec<J>) -> impl Future<Output = std::result::Result<Sent<J>, Vec<J>>> + Send;
    /// Commits `batch`, all of it or nothing, and keeps with each job what it came to.
    fn commit(&mut self, batch: &mut [J]) -> impl Future<Output = Result<()>> + Send;
    /// It is on disk.
    fn committed(&mut self, batch: &mut [J], began: Instant);
}

/// The connection of one task, kept from batch to batch: on it they follow one another.
pub(super) struct Kept {
    pool: Arc<Pool>,
    db: Option<Arc<Db>>,
}

impl Kept {
    /// One of `pool`, once it is needed.
    pub(super) fn of(pool: Arc<Pool>) -> Self {
        Self { pool, db: None }
    }

    /// The one that is kept, or another where that cannot be used any more.
    pub(super) async fn get(&mut self) -> Result<Arc<Db>> {
        if let Some(db) = self.db.as_ref().filter(|db| db.is_usable()) {
            return Ok(db.clone());
        }
        self.db = None;
        let db = Arc::new(self.pool.get().await?);
        self.db = Some(db.clone());
        Ok(db)
    }
}

/// Hands jobs to the task.
pub(super) struct Writer<J> {
    queue: mpsc::Sender<Message<J>>,
    begun: Once,
    /// The task, before it is begun.
    idle: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Message<J> {
    Job(J),
    Stop,
}

impl<J: Job> Writer<J> {
    /// One that begins with its first job, on the runtime of whoever brings that: batches are made, and what goes over its connection is
    /// moved, by the threads that wait for it.
    pub(super) fn new(work: impl Work<J>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        Self { queue, begun: Once::new(), idle: Mutex::new(Some(Box::pin(run(work, jobs)))), task: Mutex::default() }
    }

    /// Runs the job that `make` builds around the way its answer goes.
    pub(super) async fn make<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> J) -> Result<T> {
        self.begin();
        let (reply, answer) = oneshot::channel();
        self.queue.send(Message::Job(make(reply))).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    fn begin(&self) {
        self.begun.call_once(|| *held(&self.task) = held(&self.idle).take().map(tokio::spawn));
    }

    /// Returns when what is queued is committed.
    pub(super) async fn close(&self) {
        // One that has not begun never will.
        self.begun.call_once(|| drop(held(&self.idle).take()));
        // Fails when the task has ended already.
        let _ = self.queue.send(Message::Stop).await;
        let task = held(&self.task).take();
        if let Some(task) = task
            && task.await.is_err()
        {
            tracing::error!("a writer of the store broke off");
        }
    }
}

fn held<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run<J: Job, W: Work<J>>(work: W, mut queue: mpsc::Receiver<Message<J>>) {
    let mut task = Task {
        work,
        gathered: Gathered::default(),
        under_way: VecDeque::new(),
        rest_until: Tick::now(),
        care: Care::default(),
        failing: false,
    };
    loop {
        let rests = task.rests();
        if !rests && task.gathered.may_go(task.under_way.len(), W::WORTH_WHILE) {
            task.send().await;
            continue;
        }
        let (front, room) = (!task.under_way.is_empty(), task.gathered.has_room());
        tokio::select! {
            biased;
            ended = next(&mut task.under_way), if front => task.ended(ended).await,
            () = sleep_until(task.rest_until), if rests => {}
            message = queue.recv(), if room => match message {
                Some(message) => task.gathered.take_in(message, &mut queue),
                // All that was queued is on its way.
                None if !front => return,
                None => {
                    let ended = next(&mut task.under_way).await;
                    task.ended(ended).await;
                }
            },
        }
    }
}

/// Jobs that gather for the next batch.
struct Gathered<J> {
    jobs: Vec<J>,
    bytes: usize,
    rows: usize,
    /// One of them is, or nothing more will come.
    urgent: bool,
}

impl<J> Default for Gathered<J> {
    fn default() -> Self {
        Self { jobs: Vec::new(), bytes: 0, rows: 0, urgent: false }
    }
}

impl<J: Job> Gathered<J> {
    fn has_room(&self) -> bool {
        self.jobs.len() < BATCH_MAX && self.bytes < BATCH_BYTES
    }

    fn may_go(&self, under_way: usize, worth_while: usize) -> bool {
        let many = worth_while <= self.jobs.len() || !self.has_room();
        !self.jobs.is_empty() && (under_way == 0 || under_way < UNDER_WAY && many)
    }

    /// Whether it had better wait for more, while the server rests.
    fn may_wait(&self) -> bool {
        !self.jobs.is_empty() && !self.urgent && self.rows < ENOUGH && self.has_room()
    }

    /// `first` and what is queued behind it, within the bounds of a batch. Nothing more is taken in after a stop.
    fn take_in(&mut self, first: Message<J>, queue: &mut mpsc::Receiver<Message<J>>) {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(job) => {
                    self.bytes += job.bytes();
                    self.rows += job.rows();
                    self.urgent |= job.is_urgent();
                    self.jobs.push(job);
                }
                Message::Stop => {
                    self.urgent = true;
                    queue.close();
                }
            }
            next = if self.has_room() { queue.try_recv().ok() } else { None };
        }
    }
}

/// A batch that is under way.
struct UnderWay<J> {
    began: Instant,
    sent: Sent<J>,
    /// It came to this already.
    came: Option<(Vec<J>, Came)>,
}

/// What a batch came to, and when it began.
type Ended<J> = Option<(Instant, Vec<J>, Came)>;

/// What the batch comes to that is longest under way.
async fn next<J>(under_way: &mut VecDeque<UnderWay<J>>) -> Ended<J> {
    let first = under_way.front_mut()?;
    let (jobs, came) = match first.came.take() {
        Some(known) => known,
        None => first.sent.as_mut().await,
    };
    let began = first.began;
    under_way.pop_front();
    Some((began, jobs, came))
}

/// How many of the next batches go with care, without trying.
#[derive(Default)]
struct Care {
    left: u32,
    last: u32,
}

impl Care {
    fn is_due(&mut self) -> bool {
        let due = self.left != 0;
        self.left = self.left.saturating_sub(1);
        due
    }

    fn was_needed(&mut self) {
        self.left = self.last;
        self.last = (2 * self.last).clamp(1, CARE_MAX);
    }

    fn was_not_needed(&mut self) {
        self.last = 0;
    }
}

struct Task<J, W> {
    work: W,
    gathered: Gathered<J>,
    under_way: VecDeque<UnderWay<J>>,
    /// See [`Work::rest`].
    rest_until: Tick,
    care: Care,
    /// The log gets one line when commits begin to fail and one when that ends.
    failing: bool,
}

impl<J: Job, W: Work<J>> Task<J, W> {
    /// Whether what has gathered waits for more until `rest_until`.
    fn rests(&self) -> bool {
        self.under_way.is_empty() && self.gathered.may_wait() && Tick::now() < self.rest_until
    }

    /// Sends what has gathered.
    async fn send(&mut self) {
        let (jobs, began) = (std::mem::take(&mut self.gathered).jobs, Instant::now());
        let sent = if self.care.is_due() { Err(jobs) } else { self.work.send(jobs).await };
        match sent {
            Ok(mut sent) => {
                // The first poll sends it.
                let came = std::future::poll_fn(|cx| match sent.as_mut().poll(cx) {
                    Poll::Ready(came) => Poll::Ready(Some(came)),
                    Poll::Pending => Poll::Ready(None),
                });
                let came = came.await;
                self.under_way.push_back(UnderWay { began, sent, came });
            }
            Err(jobs) => {
                while let ended @ Some(_) = next(&mut self.under_way).await {
                    self.ended(ended).await;
                }
                self.with_care(jobs, began).await;
            }
        }
    }

    async fn ended(&mut self, ended: Ended<J>) {
        match ended {
            Some((began, jobs, Came::Done)) => {
                self.care.was_not_needed();
                self.done(jobs, began);
            }
            Some((began, jobs, Came::NeedsCare)) => {
                self.care.was_needed();
                self.with_care(jobs, began).await;
            }
            Some((_, jobs, Came::Failed(error))) => self.refuse(jobs, &error),
            None => {}
        }
    }

    async fn with_care(&mut self, mut jobs: Vec<J>, began: Instant) {
        match self.work.commit(&mut jobs).await {
            Ok(()) => self.done(jobs, began),
            // When the database takes nothing, it takes nothing of anybody. Any other error is one job's: each then goes alone.
            Err(error) if matches!(error, Error::Full(_) | Error::Closed) || jobs.len() == 1 => self.refuse(jobs, &error),
            Err(_) => {
                for job in jobs {
                    let (mut one, began) = (vec![job], Instant::now());
                    match self.work.commit(&mut one).await {
                        Ok(()) => self.done(one, began),
                        Err(error) => self.refuse(one, &error),
                    }
                }
            }
        }
    }

    fn done(&mut self, mut jobs: Vec<J>, began: Instant) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("the store takes writes again");
        }
        self.work.committed(&mut jobs, began);
        self.rest_until = Tick::now() + self.work.rest(began.elapsed());
        jobs.into_iter().for_each(|job| job.answer(Ok(())));
    }

    fn refuse(&mut self, jobs: Vec<J>, error: &Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!("nothing of this was written, whoever asked was told: {error}");
        }
        jobs.into_iter().for_each(|job| job.answer(Err(error.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slip {
        rows: usize,
        urgent: bool,
        reply: oneshot::Sender<Result<()>>,
    }

    impl Job for Slip {
        fn bytes(&self) -> usize {
            1
        }

        fn answer(self, outcome: Result<()>) {
            let _ = self.reply.send(outcome);
        }

        fn rows(&self) -> usize {
            self.rows
        }

        fn is_urgent(&self) -> bool {
            self.urgent
        }
    }

    /// Takes note of how many jobs each batch had, and rests for so long after it.
    #[derive(Clone)]
    struct Book {
        rest: Duration,
        batches: Arc<Mutex<Vec<usize>>>,
    }

    impl Work<Slip> for Book {
        const WORTH_WHILE: usize = 64;

        fn rest(&self, _: Duration) -> Duration {
            self.rest
        }

        async fn send(&mut self, batch: Vec<Slip>) -> std::result::Result<Sent<Slip>, Vec<Slip>> {
            self.batches.lock().unwrap().push(batch.len());
            Ok(Box::pin(async move { (batch, Came::Done) }))
        }

        async fn commit(&mut self, _: &mut [Slip]) -> Result<()> {
            Ok(())
        }

        fn committed(&mut self, _: &mut [Slip], _: Instant) {}
    }

    struct Office {
        book: Book,
        writer: Writer<Slip>,
        answers: Vec<oneshot::Receiver<Result<()>>>,
    }

    impl Office {
        /// One that has written a batch of one job, and rests for so long now.
        async fn resting(rest: Duration) -> Self {
            let book = Book { rest, batches: Arc::default() };
            let mut office = Self { writer: Writer::new(book.clone()), book, answers: Vec::new() };
            office.ask(1, false).await;
            office.all_are_answered().await;
            office
        }

        async fn ask(&mut self, rows: usize, urgent: bool) {
            let (reply, answer) = oneshot::channel();
            self.writer.begin();
            assert!(self.writer.queue.send(Message::Job(Slip { rows, urgent, reply })).await.is_ok());
            self.answers.push(answer);
        }

        async fn all_are_answered(&mut self) {
            for answer in self.answers.drain(..) {
                answer.await.unwrap().unwrap();
            }
        }

        fn batches(&self) -> Vec<usize> {
            self.book.batches.lock().unwrap().clone()
        }
    }

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn what_is_not_urgent_gathers_while_the_server_rests_and_goes_with_what_is() {
        let mut office = Office::resting(LONG).await;
        for urgent in [false, false, false, true] {
            office.ask(1, urgent).await;
        }
        office.all_are_answered().await;
        assert_eq!(office.batches(), [1, 4]);
    }

    #[tokio::test]
    async fn enough_of_them_wait_for_no_more() {
        let mut office = Office::resting(LONG).await;
        office.ask(ENOUGH - 1, false).await;
        office.ask(1, false).await;
        office.all_are_answered().await;
        assert_eq!(office.batches(), [1, 2]);
    }

    #[tokio::test]
    async fn the_rest_ends() {
        let mut office = Office::resting(Duration::from_millis(1)).await;
        office.ask(1, false).await;
        office.all_are_answered().await;
        assert_eq!(office.batches(), [1, 1]);
    }

    /// Says by which threads batches are sent.
    struct Where(std::sync::mpsc::Sender<Option<String>>);

    impl Work<Slip> for Where {
        const WORTH_WHILE: usize = 64;

        fn rest(&self, _: Duration) -> Duration {
            Duration::ZERO
        }

        async fn send(&mut self, batch: Vec<Slip>) -> std::result::Result<Sent<Slip>, Vec<Slip>> {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
            Ok(Box::pin(async move { (batch, Came::Done) }))
        }

        async fn commit(&mut self, _: &mut [Slip]) -> Result<()> {
            Ok(())
        }

        fn committed(&mut self, _: &mut [Slip], _: Instant) {}
    }

    #[tokio::test]
    async fn it_works_where_its_first_job_comes_from_and_ends_with_that() {
        let (said, heard) = std::sync::mpsc::channel();
        let writer = Arc::new(Writer::new(Where(said)));
        let elsewhere =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("elsewhere").enable_all().build();
        let (elsewhere, asking) = (elsewhere.unwrap(), writer.clone());
        let job = move |reply| Slip { rows: 1, urgent: false, reply };
        elsewhere.spawn(async move { asking.make(job).await }).await.unwrap().unwrap();
        writer.make(job).await.unwrap();
        elsewhere.shutdown_background();
        // Either it is gone, or it goes with this one in hand.
        while !matches!(writer.make(job).await, Err(Error::Closed)) {}
        writer.close().await;
        assert!(heard.iter().all(|thread| thread.as_deref() == Some("elsewhere")));
    }

    #[tokio::test]
    async fn whoever_comes_after_it_closed_is_told_so_even_where_nobody_came_before() {
        let writer = Writer::new(Book { rest: LONG, batches: Arc::default() });
        writer.close().await;
        let answer = writer.make(|reply| Slip { rows: 1, urgent: false, reply }).await;
        assert!(matches!(answer, Err(Error::Closed)));
        writer.close().await;
    }

    #[tokio::test]
    async fn what_has_gathered_is_written_when_it_closes() {
        let mut office = Office::resting(LONG).await;
        office.ask(1, false).await;
        office.writer.close().await;
        office.all_are_answered().await;
        assert_eq!(office.batches(), [1, 1]);
    }
}
