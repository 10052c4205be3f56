//! What the processes of one store tell each other: at most one notification for each commit, and a look now and then for those that
//! were missed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use super::{
    connect::{Pg, Pool},
    session::Shared,
    text::Text,
    tls::Tls,
    url::Place,
};
use crate::envelope::Name;

/// How often is looked for what no notification told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long is waited for until a connection for notifications is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// Targets that one notification names; of more it says that there are many (PostgreSQL takes 8,000 bytes).
const NAMED_MAX: usize = 256;
/// What says so.
const MANY: &str = "*";

/// Where the processes of the store with this salt hear each other.
pub(super) fn channel(salt: u64) -> String {
    format!("hookyard_{salt:016x}")
}

/// The notification of the process with this voice: there is something new for these targets.
pub(super) fn said(voice: u64, targets: &[i64]) -> String {
    let mut targets = targets.to_vec();
    targets.sort_unstable();
    targets.dedup();
    if NAMED_MAX < targets.len() {
        return format!("{voice:016x} {MANY}");
    }
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    format!("{voice:016x} {}", targets.join(","))
}

/// What another process said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Targets(HashSet<i64>),
    /// Of more than it named, or nobody knows of which.
    Many,
}

impl Heard {
    /// What `text` says; `None`: it is our own, or nobody's.
    fn of(voice: u64, text: &str) -> Option<Self> {
        let (whose, targets) = text.split_once(' ')?;
        if whose == format!("{voice:016x}") {
            return None;
        }
        if targets == MANY {
            return Some(Self::Many);
        }
        targets.split(',').map(|id| id.parse().ok()).collect::<Option<_>>().map(Self::Targets)
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Targets(mut some), Self::Targets(more)) => {
                some.extend(more);
                Self::Targets(some)
            }
            _ => Self::Many,
        }
    }
}

/// Hears what other processes commit, until it is stopped.
pub(super) struct News {
    pub(super) place: Place,
    pub(super) tls: Tls,
    pub(super) pool: Arc<Pool>,
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
}

impl News {
    /// Runs until it is stopped.
    pub(super) async fn run(self) {
        let _ = self.stop.run_until_cancelled(self.hear()).await;
    }

    async fn hear(&self) {
        loop {
            // What was said while nobody listened is not said again.
            self.look(Some(Heard::Many)).await;
            let _ = self.listen().await;
            tokio::time::sleep(AGAIN).await;
            self.look(None).await;
        }
    }

    /// Listens over one connection until that is lost.
    async fn listen(&self) -> Pg<()> {
        let (client, mut connection) = self.place.config.connect(self.tls.clone()).await?;
        let (tx, mut said) = tokio::sync::mpsc::channel(NAMED_MAX);
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(it) = message
                    // What finds no room is found by the look that follows.
                    && tx.try_send(it.payload().to_owned()).is_err()
                    && tx.is_closed()
                {
                    return;
                }
            }
        });
        client.batch_execute(&format!("LISTEN {}", channel(self.shared.reading.salt))).await?;
        while !client.is_closed() {
            let mut heard = None;
            if let Ok(first) = tokio::time::timeout(LOOK_EVERY, said.recv()).await {
                let Some(first) = first else { break };
                let mut next = Some(first);
                while let Some(text) = next {
                    if let Some(more) = Heard::of(self.shared.voice, &text) {
                        heard = Some(heard.map_or(more.clone(), |known: Heard| known.and(more)));
                    }
                    next = said.try_recv().ok();
                }
                if heard.is_none() {
                    continue;
                }
            }
            self.look(heard).await;
        }
        driver.abort();
        Ok(())
    }

    /// Looks how far the store has come, and tells of what was `heard`, or missed.
    async fn look(&self, heard: Option<Heard>) {
        let Ok(db) = self.pool.get().await else { return };
        let Ok(Some(row)) = db.first("SELECT last_seq FROM identity", &[]).await else { return };
        let Ok(seq) = row.try_get::<_, i64>(0) else { return };
        let missed = *self.shared.newest.borrow() < seq;
        self.shared.reached(seq);
        let Some(listener) = self.shared.listener.get() else { return };
        match heard {
            Some(Heard::Targets(ids)) => {
                let ids: Vec<i64> = ids.into_iter().collect();
                let Ok(rows) = db.rows("SELECT name FROM targets WHERE id = ANY($1)", &[&ids]).await else { return };
                let names = rows.iter().filter_map(|row| row.try_get::<_, Text<'static>>(0).ok());
                let names: Vec<Name> = names.map(|name| name.into_string().as_str().into()).collect();
                listener.elsewhere(Some(&names));
            }
            Some(Heard::Many) => listener.elsewhere(None),
            None if missed => listener.elsewhere(None),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_says_others_hear() {
        let targets = |ids: &[i64]| Heard::Targets(ids.iter().copied().collect());
        assert_eq!(Heard::of(7, &said(8, &[3, 1, 3])), Some(targets(&[1, 3])));
        assert_eq!(Heard::of(8, &said(8, &[3])), None, "its own");
        let many: Vec<i64> = (0..2 * NAMED_MAX as i64).map(|n| i64::MAX - n).collect();
        assert_eq!(Heard::of(7, &said(8, &many)), Some(Heard::Many));
        assert!(said(8, &many[..NAMED_MAX]).len() < 8000);
        for strange in ["", "x", "0000000000000008 1,x", "0000000000000008 "] {
            assert_eq!(Heard::of(7, strange), None, "{strange}");
        }
        assert_eq!(targets(&[1]).and(targets(&[2])), targets(&[1, 2]));
        assert_eq!(targets(&[1]).and(Heard::Many), Heard::Many);
    }
}
