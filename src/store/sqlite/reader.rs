//! Connections that only read, beside the writer: a few, opened when they are first needed, used off the runtime's threads.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{
    connect::{self, Disk},
    rows::{Reading, fault},
};
use crate::store::{Error, Result};

/// A bounded number of connections that take turns.
pub(super) struct Readers(Arc<Pool>);

struct Pool {
    path: PathBuf,
    reading: Reading,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    _disk: Disk,
}

impl Readers {
    /// At most `count` connections to the database at `path`; none is opened yet.
    pub(super) fn new(path: PathBuf, disk: Disk, count: usize, reading: Reading) -> Self {
        let turns = Arc::new(Semaphore::new(count));
        Self(Arc::new(Pool { path, reading, turns, idle: Mutex::default(), _disk: disk }))
    }

    /// What `question` reads, in its turn, on a thread that may block.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`Readers::close`].
    pub(super) async fn ask<T, F>(&self, question: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &Reading) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let pool = self.0.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let answer = pool.answer(question);
            drop(turn);
            answer
        });
        answered.await.map_err(|error| Error::Backend(error.to_string().into()))?
    }

    /// Questions that have their turn are answered; later ones are not.
    pub(super) fn close(&self) {
        self.0.turns.close();
        self.0.idle().clear();
    }
}

impl Pool {
    fn answer<T>(&self, question: impl FnOnce(&Connection, &Reading) -> rusqlite::Result<T>) -> Result<T> {
        let idle = self.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => connect::reader(&self.path).map_err(fault)?,
        };
        let answer = question(&conn, &self.reading).map_err(fault);
        if !self.turns.is_closed() {
            self.idle().push(conn);
        }
        answer
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
