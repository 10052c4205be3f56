//! Writes attempts to the store, for as long as it takes; and tells lanes when the store refuses, so that nothing is sent
//! that could not be recorded.
//!
//! A refusal of any lane's attempts stops every lane at once, and so does a store that gives no answer for a second. What has been
//! sent by then is what a commit usually covers: a lane cannot know of a refusal before it asks, and asking before each attempt would cost
//! a sync each. It is recorded once the store takes it, and bounded by `UNRECORDED_MAX` in any case.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use crate::store::{self, Attempt, Store};

/// Waits between tries of writing what the store refused: the first, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long the store may take to answer until that is as good as a refusal: a locked one says so after 5 s only.
const PATIENCE: Duration = Duration::from_secs(1);

/// Records attempts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recorder {
    store: Arc<dyn Store>,
    /// How many batches the store has refused and not yet taken.
    refused: Arc<watch::Sender<usize>>,
}

impl Recorder {
    /// Records in `store`.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, refused: Arc::new(watch::Sender::new(0)) }
    }

    /// How many batches of attempts wait because the store refuses them; lanes begin nothing while there are any.
    pub(super) fn refused(&self) -> watch::Receiver<usize> {
        self.refused.subscribe()
    }

    /// Records `attempts` in one commit, trying until the store takes them. False: the store has closed, and their deliveries stay as
    /// they were. Calls that come at the same time share a commit, as the store's writer batches them.
    pub(super) async fn record(&self, attempts: Vec<Attempt>) -> bool {
        let mut waiting = None;
        let mut pause = BACKOFF_MIN;
        loop {
            let mut recording = self.store.record(attempts.clone());
            let answer = match timeout(PATIENCE, &mut recording).await {
                Ok(answer) => answer,
                Err(_) => {
                    waiting.get_or_insert_with(|| {
                        tracing::warn!(attempts = attempts.len(), "the store does not answer; nothing is sent until it does");
                        Waiting::new(self.refused.clone())
                    });
                    recording.await
                }
            };
            match answer {
                Ok(()) => return true,
                Err(store::Error::Closed) => return false,
                Err(error) => {
                    if pause == BACKOFF_MIN {
                        tracing::error!(attempts = attempts.len(), %error, "the store refuses attempts; nothing is sent until it takes them");
                    }
                    waiting.get_or_insert_with(|| Waiting::new(self.refused.clone()));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
    }
}

/// Counts one refused batch for as long as it lives.
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
