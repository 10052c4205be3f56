//! Connections: a few for each use, made when they are needed, left alone for a while when none can be had; what their errors mean. How long
//! an answer is waited for, [`super::link`] knows; where they lead, [`super::servers`].

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType},
};
use tokio_postgres::{
    Row, Statement,
    error::{DbError, SqlState},
    types::ToSql,
};

use super::{
    link::Link,
    notices::{Mark, Notices},
    servers::Servers,
};
use crate::store::{Error, Result};

/// How long a connection that is free is waited for.
pub(super) const WAIT: Duration = Duration::from_secs(10);
/// How long servers that gave no connection are left alone at first,
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// and at most.
const AGAIN_MAX: Duration = Duration::from_secs(3);

/// How often a server may say that it still works on a statement whose answer is long in coming: of statements that are short, half a
/// minute after the first (the lock of the store is waited for 10 s of that),
pub(super) const BRIEF: u32 = 3;
/// of a commit, which may wait for standbys,
const COMMIT: u32 = 6;
/// of those that may have much to do.
pub(super) const PATIENT: u32 = 180;

/// Begins what is said of a database that is away.
pub(super) const AWAY: &str = "the database cannot be reached: ";

/// What every connection is set to. Nobody may keep the others waiting for longer than this, were its machine to stand still; and a
/// commit that was answered is on disk, whatever the role or the database says.
pub(super) const SETTINGS: &str = "SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '10s'; SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";
/// What those are set to besides that ask the same questions all the time: each is planned once, and always by an index, whether or not
/// the server has counted yet how large the tables are.
pub(super) const BY_INDEX: &str =
    "; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off;
    SET max_parallel_workers_per_gather = 0";

/// What is asked of the server.
pub(super) type Pg<T> = std::result::Result<T, tokio_postgres::Error>;
/// What one job comes to: `Err` inside for a refusal, which is no error of the server's.
pub(super) type Answer<T> = Pg<Result<T>>;
/// The values of a statement.
pub(super) type Params<'p> = &'p [&'p (dyn ToSql + Sync)];

/// What an error of a statement means to the store's callers: by what the server says (its SQLSTATE), or by the connection's end.
pub(super) fn fault(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(said) => said_by_the_server(said),
        // Before an answer came: no fault of the statement's, unless a value of it could not be written or read.
        None if is_lost(error) => Error::Full(away(error)),
        None => Error::Backend(error.to_string().into()),
    }
}

/// What an error means that came while a connection was made: whatever it is, nothing can be written.
pub(super) fn unreached(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(said) => said_by_the_server(said),
        None => Error::Full(away(error)),
    }
}

fn said_by_the_server(said: &DbError) -> Error {
    let message = format!("{} ({})", said.message(), said.code().code());
    if is_unavailable(said.code()) { Error::Full(message) } else { Error::Backend(message.into()) }
}

fn away(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{AWAY}{source}"),
        None => format!("{AWAY}{error}"),
    }
}

/// Whether the connection is at an end.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>())
}

/// Whether the server says that it can take nothing now: no disk, no memory, no connection; starting, stopping, or a standby.
fn is_unavailable(code: &SqlState) -> bool {
    ["53", "57P", "58", "08"].iter().any(|class| code.code().starts_with(class))
        || [
            &SqlState::READ_ONLY_SQL_TRANSACTION,
            &SqlState::LOCK_NOT_AVAILABLE,
            &SqlState::QUERY_CANCELED,
            &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            &SqlState::IN_FAILED_SQL_TRANSACTION,
            &SqlState::INVALID_PASSWORD,
            &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            &SqlState::INVALID_CATALOG_NAME,
        ]
        .contains(&code)
}

/// Whether `error` means that nothing can be written now, whatever it is.
pub(super) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    matches!(fault(error), Error::Full(_))
}

/// Whether the same may be tried again at once: the server chose this one of two that waited for each other.
pub(super) fn is_again(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE))
}

/// A bounded number of connections of one use.
pub(super) struct Pool {
    connections: managed::Pool<Maker>,
    gate: Arc<Gate>,
    outdated: Arc<Outdated>,
    notices: Notices,
    /// [`BRIEF`] or [`PATIENT`].
    rounds: u32,
}

/// Since when connections are not used again that were made before: one of them found that its server can take nothing (a standby now, a
/// full disk), or says nothing any more. So the servers are asked anew.
#[derive(Debug, Default)]
pub(super) struct Outdated(Mutex<Option<Instant>>);

impl Outdated {
    pub(super) fn are_now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn is(&self, made: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| made <= since)
    }
}

/// Makes the connections of a pool.
struct Maker {
    servers: Arc<Servers>,
    settings: String,
    outdated: Arc<Outdated>,
    /// What the connections hear that the server says beside its answers.
    notices: Notices,
}

impl managed::Manager for Maker {
    type Type = Link;
    type Error = Error;

    async fn create(&self) -> Result<Link> {
        Link::make(&self.servers, &self.settings, &self.notices).await
    }

    async fn recycle(&self, link: &mut Link, metrics: &Metrics) -> RecycleResult<Error> {
        let made = metrics.created;
        if link.is_over(made) || self.outdated.is(made) { Err(RecycleError::message("it is at an end")) } else { Ok(()) }
    }
}

impl Pool {
    /// At most `count` connections to `servers`; none is made yet.
    pub(super) fn new(servers: &Arc<Servers>, gate: &Arc<Gate>, count: usize, by_index: bool, rounds: u32) -> Result<Self> {
        let settings = if by_index { format!("{SETTINGS}{BY_INDEX}") } else { SETTINGS.to_owned() };
        let (outdated, notices) = (Arc::new(Outdated::default()), Notices::default());
        let maker = Maker { servers: servers.clone(), settings, outdated: outdated.clone(), notices: notices.clone() };
        // How long a new one may take is bounded for each server.
        let pool = managed::Pool::builder(maker)
            .max_size(count)
            // The one used last: the server's side of it has its plans and what they read at hand.
            .queue_mode(managed::QueueMode::Lifo)
            .wait_timeout(Some(WAIT))
            .runtime(Runtime::Tokio1)
            .build();
        let connections = pool.map_err(|error| Error::Backend(error.to_string().into()))?;
        Ok(Self { connections, gate: gate.clone(), outdated, notices, rounds })
    }

    /// A connection that nobody else uses.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`Pool::close`], [`Error::Full`] when none can be had.
    pub(super) async fn get(&self) -> Result<Db> {
        self.get_for(self.rounds).await
    }

    /// Likewise, for statements that are short, whatever others of this pool are.
    pub(super) async fn get_briefly(&self) -> Result<Db> {
        self.get_for(BRIEF).await
    }

    async fn get_for(&self, rounds: u32) -> Result<Db> {
        if self.connections.status().available == 0 {
            self.gate.ask()?;
        }
        let link = match self.connections.get().await {
            Ok(link) => link,
            Err(PoolError::Closed) => return Err(Error::Closed),
            // All are in use: that says nothing of the servers.
            Err(error @ PoolError::Timeout(TimeoutType::Wait)) => return Err(refused(error)),
            Err(error) => return Err(self.gate.shut(refused(error))),
        };
        self.gate.open(Object::metrics(&link).created);
        Ok(Db { link, open: AtomicBool::new(false), rounds, outdated: self.outdated.clone(), notices: self.notices.clone() })
    }

    /// Connections in use go on; nobody gets another.
    pub(super) fn close(&self) {
        self.connections.close();
    }
}

fn refused(error: PoolError<Error>) -> Error {
    match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(_) => Error::Full(format!("no connection to the database was free for {} s", WAIT.as_secs())),
        other => Error::Backend(other.to_string().into()),
    }
}

/// Keeps servers that give no connection from being asked all the time; whoever comes meanwhile hears at once what they said last.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Option<Shut>>);

#[derive(Debug)]
struct Shut {
    since: Instant,
    until: Instant,
    pause: Duration,
    said: Error,
}

impl Gate {
    fn ask(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(shut) if Instant::now() < shut.until => Err(shut.said.clone()),
            _ => Ok(()),
        }
    }

    fn shut(&self, said: Error) -> Error {
        let mut shut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let pause = shut
            .as_ref()
            .map_or(AGAIN_FIRST, |shut| if shut.until <= now { (shut.pause * 2).min(AGAIN_MAX) } else { shut.pause });
        // Replicas that lost it together come back one after the other.
        let spread = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        *shut = Some(Shut { since: now, until: now + spread, pause, said: said.clone() });
        said
    }

    /// A connection that was made then is used: one from before says nothing of what the servers do now.
    fn open(&self, made: Instant) {
        let mut shut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shut.take_if(|shut| shut.since <= made).is_some() {
            tracing::info!("the database can be reached again");
        }
    }
}

/// A connection, until it goes back to its pool. Whoever leaves it in the middle of a transaction has undone that: what undoes it is
/// sent behind all that was, and before anything that the next one sends.
pub(super) struct Db {
    link: Object<Maker>,
    /// A transaction is open.
    open: AtomicBool,
    /// See [`Link::within`].
    rounds: u32,
    outdated: Arc<Outdated>,
    notices: Notices,
}

impl Db {
    /// `sql`, prepared once for each connection.
    pub(super) async fn statement(&self, sql: &str) -> Pg<Statement> {
        match self.link.known(sql) {
            Some(known) => Ok(known),
            None => self.bounded(self.link.prepare(sql)).await,
        }
    }

    /// The rows of `sql`.
    pub(super) async fn rows(&self, sql: &str, params: Params<'_>) -> Pg<Vec<Row>> {
        let statement = self.statement(sql).await?;
        self.rows_of(&statement, params).await
    }

    /// Its first row.
    pub(super) async fn first(&self, sql: &str, params: Params<'_>) -> Pg<Option<Row>> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Runs `sql`; answers how many rows it was about.
    pub(super) async fn run(&self, sql: &str, params: Params<'_>) -> Pg<u64> {
        let statement = self.statement(sql).await?;
        self.run_of(&statement, params).await
    }

    /// The rows of a statement that was prepared.
    pub(super) async fn rows_of(&self, statement: &Statement, params: Params<'_>) -> Pg<Vec<Row>> {
        self.bounded(self.link.client.query(statement, params)).await
    }

    /// Runs a statement that was prepared.
    pub(super) async fn run_of(&self, statement: &Statement, params: Params<'_>) -> Pg<u64> {
        self.bounded(self.link.client.execute(statement, params)).await
    }

    /// The rows of a statement that is not worth keeping: one of many of its kind.
    pub(super) async fn rows_once(&self, sql: &str, params: Params<'_>) -> Pg<Vec<Row>> {
        let statement = self.bounded(self.link.client.prepare(sql)).await?;
        self.rows_of(&statement, params).await
    }

    /// Runs several statements without values.
    pub(super) async fn script(&self, sql: &str) -> Pg<()> {
        self.bounded(self.link.client.batch_execute(sql)).await
    }

    /// Begins a transaction. What follows may be sent without waiting for this.
    pub(super) async fn begin(&self) -> Pg<()> {
        self.open.store(true, Ordering::Relaxed);
        self.script("BEGIN").await
    }

    /// Ends it: all of it is on disk when this answers `Ok`, if every statement before did.
    pub(super) async fn commit(&self) -> Pg<()> {
        self.link.within(self.rounds.max(COMMIT), self.link.client.batch_execute("COMMIT")).await?;
        self.open.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// To be taken before a commit is sent: what [`Db::waited`] goes by.
    pub(super) fn mark(&self) -> Mark {
        self.notices.mark()
    }

    /// Whether no commit was answered since `mark`, on any connection of the pool, without having waited for its standbys.
    pub(super) fn waited(&self, mark: Mark) -> bool {
        self.notices.mark() == mark
    }

    /// Undoes it.
    pub(super) async fn roll_back(&self) {
        if self.script("ROLLBACK").await.is_ok() {
            self.open.store(false, Ordering::Relaxed);
        }
    }

    /// Whether it may be used for something else.
    pub(super) fn is_usable(&self) -> bool {
        let made = Object::metrics(&self.link).created;
        !self.link.is_over(made) && !self.outdated.is(made)
    }

    /// Is not used again, nor is any other of its pool: its server is none that can be written to any more.
    pub(super) fn discard(&self) {
        self.outdated.are_now();
    }

    async fn bounded<T>(&self, exchange: impl Future<Output = Pg<T>>) -> Pg<T> {
        self.link.within(self.rounds, exchange).await
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.open.load(Ordering::Relaxed) {
            // The first poll hands it to the connection; nobody waits for the answer.
            let mut undo = std::pin::pin!(self.link.client.batch_execute("ROLLBACK"));
            let _ = undo.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_give_nothing_are_asked_less_and_less() {
        let gate = Gate::default();
        assert!(gate.ask().is_ok());
        gate.shut(Error::Full("away".into()));
        assert!(matches!(gate.ask(), Err(Error::Full(said)) if said == "away"), "whoever comes meanwhile hears it at once");
        let pause = || gate.0.lock().unwrap().as_ref().unwrap().pause;
        let mut last = pause();
        for _ in 0..10 {
            gate.0.lock().unwrap().as_mut().unwrap().until = Instant::now();
            assert!(gate.ask().is_ok(), "its time has come");
            gate.shut(Error::Full("away".into()));
            assert!(last <= pause() && pause() <= AGAIN_MAX);
            last = pause();
        }
        assert_eq!(last, AGAIN_MAX);
        let before = Instant::now();
        gate.shut(Error::Full("away".into()));
        gate.open(before);
        assert!(gate.ask().is_err(), "a connection from before says nothing of what the servers do now");
        gate.open(Instant::now());
        assert!(gate.ask().is_ok());
    }
}
