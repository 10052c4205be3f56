//! What servers say beside their answers. One thing matters: that a commit did not wait for the standbys it was to wait for, because
//! somebody ended that (`pg_cancel_backend`). Its answer is that of any other.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{AsyncMessage, Connection, error::DbError};

use super::connect::Pg;

/// Where a server says so, in its own source (`syncrep.c`): the words depend on its language.
const WAITS: &str = "SyncRepWaitForLSN";

/// How often the servers of one pool have said so.
#[derive(Debug, Clone, Default)]
pub(super) struct Notices(Arc<AtomicU64>);

/// How often they had, at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Notices {
    /// How often they have until now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.0.load(Ordering::Acquire))
    }

    /// Lets `connection` work until it is closed. What a server says comes before its answer, and is known here before that is.
    pub(super) async fn drive<S, T>(self, mut connection: Connection<S, T>) -> Pg<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message? {
                self.hear(&notice);
            }
        }
        Ok(())
    }

    fn hear(&self, notice: &DbError) {
        if notice.routine() == Some(WAITS) {
            tracing::warn!("the server ended a commit's wait for its standbys: {}", notice.message());
            self.0.fetch_add(1, Ordering::Release);
        }
    }
}
