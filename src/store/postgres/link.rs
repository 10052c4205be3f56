//! One connection: its statements, prepared once, and how long their answers are waited for.

use std::{
    collections::HashMap,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use super::{
    connect::{AWAY, Pg, unreached},
    notices::Notices,
    servers::{At, Driver, HANDSHAKE, Made, Servers, pid},
};
use crate::store::{Error, Result};

/// A connection.
pub(super) struct Link {
    pub(super) client: Client,
    /// By their text, of which there are as many as there are kinds of questions.
    statements: RwLock<HashMap<String, Statement>>,
    servers: Arc<Servers>,
    at: Arc<At>,
    /// The server's process that answers it.
    pid: i32,
    driver: Driver,
}

impl Link {
    /// A new one, set to what `settings` say, which adds to `notices`.
    pub(super) async fn make(servers: &Arc<Servers>, settings: &str, notices: &Notices) -> Result<Self> {
        let Made { client, connection, at } = servers.connect().await?;
        let notices = notices.clone();
        let driver = Driver::of(async {
            if let Err(error) = notices.drive(connection).await {
                tracing::warn!("a connection to the database is lost: {error}");
            }
        });
        let set = timeout(HANDSHAKE, client.simple_query(&format!("{settings}; SELECT pg_backend_pid()"))).await;
        let late = |_| Error::Full(format!("{AWAY}{} gave no answer within {} s", at.name, HANDSHAKE.as_secs()));
        let said = set.map_err(late)?.map_err(|error| unreached(&error))?;
        let pid = said.iter().rev().find_map(pid).ok_or_else(|| Error::Backend("the server said nothing".into()))?;
        Ok(Self { client, statements: RwLock::default(), servers: servers.clone(), at, pid, driver })
    }

    /// Whether it is at an end, being one that was made then.
    pub(super) fn is_over(&self, made: Instant) -> bool {
        self.client.is_closed() || self.servers.are_left(made)
    }

    /// The statement of this text, where it is prepared.
    pub(super) fn known(&self, sql: &str) -> Option<Statement> {
        self.statements.read().unwrap_or_else(PoisonError::into_inner).get(sql).cloned()
    }

    /// Prepares it.
    pub(super) async fn prepare(&self, sql: &str) -> Pg<Statement> {
        let statement = self.client.prepare(sql).await?;
        self.statements.write().unwrap_or_else(PoisonError::into_inner).insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// What `exchange` comes to. When it is long in coming, the server is asked whether it still works on it: where it does not, or has
    /// said so `rounds` times, the connection is at an end, and with it the exchange.
    pub(super) async fn within<T>(&self, rounds: u32, exchange: impl Future<Output = Pg<T>>) -> Pg<T> {
        let mut exchange = pin!(exchange);
        // The first poll is the exchange's own: what is sent after it goes behind it.
        match timeout(self.servers.patience, exchange.as_mut()).await {
            Ok(done) => done,
            // Apart: hardly anybody comes here, and everybody would carry it.
            Err(_) => Box::pin(self.late(rounds, exchange)).await,
        }
    }

    async fn late<T>(&self, rounds: u32, mut exchange: Pin<&mut impl Future<Output = Pg<T>>>) -> Pg<T> {
        for round in 1..=rounds {
            tokio::select! {
                biased;
                done = exchange.as_mut() => return done,
                works = self.servers.works(&self.at, Some(self.pid)) => if !works { break },
            }
            if round == rounds {
                tracing::warn!("the database at {} has not answered for too long: a connection to it is given up", self.at.name);
            } else if let Ok(done) = timeout(self.servers.patience, exchange.as_mut()).await {
                return done;
            }
        }
        self.driver.cut();
        exchange.await
    }
}
