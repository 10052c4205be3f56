//! Writes attempts to the store, for as long as it takes; and tells lanes when the store refuses, so that nothing is sent
//! that could not be recorded.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::store::{self, Attempt, Store};

/// Waits between tries of writing what the store refused: the first, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Records attempts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recorder {
    store: Arc<dyn Store>,
    /// How many attempts the store has refused and not yet taken.
    refused: Arc<watch::Sender<usize>>,
}

impl Recorder {
    /// Records in `store`.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, refused: Arc::new(watch::Sender::new(0)) }
    }

    /// How many attempts wait because the store refuses them; lanes begin nothing while there are any.
    pub(super) fn refused(&self) -> watch::Receiver<usize> {
        self.refused.subscribe()
    }

    /// Records `attempt`, trying until the store takes it. False: the store has closed, and the delivery stays as it was.
    /// Calls that come at the same time share a commit, as the store's writer batches them.
    pub(super) async fn record(&self, attempt: Attempt) -> bool {
        let mut waiting = None;
        let mut pause = BACKOFF_MIN;
        loop {
            match self.store.record(vec![attempt.clone()]).await {
                Ok(()) => return true,
                Err(store::Error::Closed) => return false,
                Err(error) => {
                    if waiting.is_none() {
                        tracing::error!(delivery.id = %attempt.delivery, attempt = attempt.number, %error, "the store refuses an attempt; nothing is sent until it takes it");
                        waiting = Some(Waiting::new(self.refused.clone()));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
    }
}

/// Counts one refused attempt for as long as it lives.
struct Waiting(Arc<watch::Sender<usize>>);

impl Waiting {
    fn new(refused: Arc<watch::Sender<usize>>) -> Self {
        refused.send_modify(|count| *count += 1);
        Self(refused)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
