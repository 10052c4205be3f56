//! Connections: a few for each use, made when they are needed, left alone for a while when none can be had; what their errors mean.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, Metrics, Object, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio_postgres::{
    Row, Statement,
    error::{DbError, SqlState},
    types::ToSql,
};

use super::{
    notices::{Mark, Notices},
    tls::Tls,
    url::Place,
};
use crate::store::{Error, Result};

/// How long a connection that is free is waited for, and how long a new one may take.
const WAIT: Duration = Duration::from_secs(10);
/// How long servers that gave no connection are left alone at first,
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// and at most.
const AGAIN_MAX: Duration = Duration::from_secs(3);

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
        Some(source) => format!("the database cannot be reached: {source}"),
        None => format!("the database cannot be reached: {error}"),
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
    connections: deadpool_postgres::Pool,
    gate: Arc<Gate>,
    outdated: Arc<Outdated>,
    notices: Notices,
}

/// Makes connections that hear what the server says beside its answers.
struct Hearing {
    tls: Tls,
    notices: Notices,
}

impl Connect for Hearing {
    fn connect(&self, config: &tokio_postgres::Config) -> Connecting<'_> {
        let (tls, notices, config) = (self.tls.clone(), self.notices.clone(), config.clone());
        Box::pin(async move {
            let (client, connection) = config.connect(tls).await?;
            let driver = tokio::spawn(async move {
                if let Err(error) = notices.drive(connection).await {
                    tracing::warn!("a connection to the database is lost: {error}");
                }
            });
            Ok((client, driver))
        })
    }
}

type Connecting<'c> = Pin<Box<dyn Future<Output = Pg<(tokio_postgres::Client, tokio::task::JoinHandle<()>)>> + Send + 'c>>;

/// When one connection of a pool last found that its server can take nothing (a standby now, a full disk): those made before are not
/// used again, so that the servers are asked anew.
#[derive(Debug, Default)]
struct Outdated(Mutex<Option<Instant>>);

impl Outdated {
    fn are_now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is(&self, made: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| made <= since)
    }
}

impl Pool {
    /// At most `count` connections to `place`; none is made yet.
    pub(super) fn new(place: &Place, tls: &Tls, gate: &Arc<Gate>, count: usize, by_index: bool) -> Result<Self> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let notices = Notices::default();
        let hearing = Hearing { tls: tls.clone(), notices: notices.clone() };
        let manager = Manager::from_connect(place.config.clone(), hearing, manager);
        let settings = if by_index { format!("{SETTINGS}{BY_INDEX}") } else { SETTINGS.to_owned() };
        let set = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let settings = settings.clone();
            Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
        });
        let outdated = Arc::new(Outdated::default());
        let known = outdated.clone();
        let look = Hook::sync_fn(move |_: &mut deadpool_postgres::ClientWrapper, metrics: &Metrics| {
            if known.is(metrics.created) { Err(HookError::message("its server could take nothing")) } else { Ok(()) }
        });
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(count)
            .post_create(set)
            .pre_recycle(look)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(WAIT))
            .runtime(Runtime::Tokio1)
            .build();
        let connections = pool.map_err(|error| Error::Backend(error.to_string().into()))?;
        Ok(Self { connections, gate: gate.clone(), outdated, notices })
    }

    /// A connection that nobody else uses.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`Pool::close`], [`Error::Full`] when none can be had.
    pub(super) async fn get(&self) -> Result<Db> {
        if self.connections.status().available == 0 {
            self.gate.ask()?;
        }
        let client = match self.connections.get().await {
            Ok(client) => client,
            Err(PoolError::Closed) => return Err(Error::Closed),
            // All are in use: that says nothing of the servers.
            Err(error @ PoolError::Timeout(TimeoutType::Wait)) => return Err(refused(&error)),
            Err(error) => return Err(self.gate.shut(refused(&error))),
        };
        self.gate.open();
        Ok(Db { client, open: AtomicBool::new(false), outdated: self.outdated.clone(), notices: self.notices.clone() })
    }

    /// Connections in use go on; nobody gets another.
    pub(super) fn close(&self) {
        self.connections.close();
    }
}

fn refused(error: &PoolError) -> Error {
    match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => unreached(error),
        PoolError::Timeout(TimeoutType::Wait) => {
            Error::Full(format!("no connection to the database was free for {} s", WAIT.as_secs()))
        }
        PoolError::Timeout(_) => Error::Full(format!("the database gave no connection within {} s", WAIT.as_secs())),
        other => Error::Backend(other.to_string().into()),
    }
}

/// Keeps servers that give no connection from being asked all the time; whoever comes meanwhile hears at once what they said last.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Option<Shut>>);

#[derive(Debug)]
struct Shut {
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
        *shut = Some(Shut { until: now + spread, pause, said: said.clone() });
        said
    }

    fn open(&self) {
        let mut shut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shut.take().is_some() {
            tracing::info!("the database can be reached again");
        }
    }
}

/// A connection, until it goes back to its pool. Whoever leaves it in the middle of a transaction has undone that: what undoes it is
/// sent behind all that was, and before anything that the next one sends.
pub(super) struct Db {
    client: Object,
    /// A transaction is open.
    open: AtomicBool,
    outdated: Arc<Outdated>,
    notices: Notices,
}

impl Db {
    /// `sql`, prepared once for each connection.
    pub(super) async fn statement(&self, sql: &str) -> Pg<Statement> {
        self.client.prepare_cached(sql).await
    }

    /// The rows of `sql`.
    pub(super) async fn rows(&self, sql: &str, params: Params<'_>) -> Pg<Vec<Row>> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, params).await
    }

    /// Its first row.
    pub(super) async fn first(&self, sql: &str, params: Params<'_>) -> Pg<Option<Row>> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Runs `sql`; answers how many rows it was about.
    pub(super) async fn run(&self, sql: &str, params: Params<'_>) -> Pg<u64> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, params).await
    }

    /// The rows of a statement that was prepared.
    pub(super) async fn rows_of(&self, statement: &Statement, params: Params<'_>) -> Pg<Vec<Row>> {
        self.client.query(statement, params).await
    }

    /// Runs a statement that was prepared.
    pub(super) async fn run_of(&self, statement: &Statement, params: Params<'_>) -> Pg<u64> {
        self.client.execute(statement, params).await
    }

    /// The rows of a statement that is not worth keeping: one of many of its kind.
    pub(super) async fn rows_once(&self, sql: &str, params: Params<'_>) -> Pg<Vec<Row>> {
        let statement = self.client.prepare(sql).await?;
        self.client.query(&statement, params).await
    }

    /// Runs several statements without values.
    pub(super) async fn script(&self, sql: &str) -> Pg<()> {
        self.client.batch_execute(sql).await
    }

    /// Begins a transaction. What follows may be sent without waiting for this.
    pub(super) async fn begin(&self) -> Pg<()> {
        self.open.store(true, Ordering::Relaxed);
        self.client.batch_execute("BEGIN").await
    }

    /// Ends it: all of it is on disk when this answers `Ok`, if every statement before did.
    pub(super) async fn commit(&self) -> Pg<()> {
        self.client.batch_execute("COMMIT").await?;
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
        if self.client.batch_execute("ROLLBACK").await.is_ok() {
            self.open.store(false, Ordering::Relaxed);
        }
    }

    /// Whether it may be used for something else.
    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.outdated.is(Object::metrics(&self.client).created)
    }

    /// Is not used again, nor is any other of its pool: its server is none that can be written to any more.
    pub(super) fn discard(&self) {
        self.outdated.are_now();
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if self.open.load(Ordering::Relaxed) {
            // The first poll hands it to the connection; nobody waits for the answer.
            let mut undo = std::pin::pin!(self.client.batch_execute("ROLLBACK"));
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
        gate.open();
        assert!(gate.ask().is_ok());
    }
}
