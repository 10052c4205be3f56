//! What the API asks of the rooms that move deliveries: lanes, jobs, and the counts of the sources.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    app::Handles,
    clock::Timestamp,
    deliver::{self, TargetStatus},
    envelope::{DeliveryId, Envelope, Name},
    store::{self, Attempt, Delivery, Filter},
};

/// Lanes, jobs and sources as the API needs them. `by` is always [`ADMIN`] until tokens have names.
#[async_trait]
pub(super) trait Engine: Send + Sync {
    /// What time it is.
    fn now(&self) -> Timestamp;

    /// The lanes, in the order of the file.
    fn targets(&self) -> Vec<TargetStatus>;

    /// What came in by each source.
    fn sources(&self) -> Vec<SourceStatistics>;

    /// The headers of the request that `attempt` made, as far as they can be known, secrets as `***`.
    fn request_headers(&self, event: &Envelope, delivery: &Delivery, attempt: &Attempt) -> Vec<(String, String)>;

    /// Pauses, resumes or closes a lane; false when there is none of this name.
    async fn steer(&self, target: &Name, how: Steering) -> store::Result<bool>;

    /// Tells lanes that the store may hold due deliveries for them.
    fn wake(&self, targets: &[Name]);

    /// Lets lanes go of what was cancelled.
    fn forget(&self, ids: &[DeliveryId]);

    /// How many things a job would touch.
    async fn count(&self, kind: &Kind, filter: &Filter) -> store::Result<u64>;

    /// Begins a job.
    async fn begin(&self, kind: Kind, filter: Filter, rate: Option<u32>) -> store::Result<Job>;

    /// All jobs that are remembered, newest first.
    fn jobs(&self) -> Vec<Job>;

    /// Stops a job; what it did stays done. `None` when there is none of this id.
    async fn cancel_job(&self, id: &str) -> store::Result<Option<Job>>;
}

/// Who acts while there is one token only.
pub(super) const ADMIN: &str = "admin";

/// What a person does to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steering {
    /// Sends nothing until it is resumed.
    Pause,
    /// Sends again.
    Resume,
    /// Closes the breaker.
    Close,
}

/// What came in by one source.
#[derive(Debug, Clone)]
pub(super) struct SourceStatistics {
    pub(super) name: Name,
    pub(super) kind: &'static str,
    pub(super) path: String,
    pub(super) last_received_at: Option<Timestamp>,
    pub(super) counts: Vec<(&'static str, u64)>,
    pub(super) secrets: Vec<Option<Timestamp>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Retry,
    Cancel,
    Replay { target: Option<Name> },
}

impl Kind {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Replay { .. } => "replay",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) total: u64,
    pub(super) finished_at: Option<Timestamp>,
}

impl Serialize for Job {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::json!({"id": self.id, "kind": self.kind.word(), "total": self.total}).serialize(serializer)
    }
}

#[async_trait]
impl Engine for Handles {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn targets(&self) -> Vec<TargetStatus> {
        self.deliver.targets()
    }

    fn sources(&self) -> Vec<SourceStatistics> {
        self.config
            .sources
            .iter()
            .map(|source| SourceStatistics {
                name: source.name.clone(),
                kind: source.kind(),
                path: source.masked_path(),
                last_received_at: None,
                counts: vec![],
                secrets: vec![],
            })
            .collect()
    }

    fn request_headers(&self, event: &Envelope, delivery: &Delivery, attempt: &Attempt) -> Vec<(String, String)> {
        match self.config.destinations.iter().find(|destination| destination.name == delivery.target) {
            Some(destination) => destination.request_headers(event, delivery, attempt.number, attempt.started_at),
            None => deliver::relay_headers(event, delivery, attempt.number),
        }
    }

    async fn steer(&self, target: &Name, how: Steering) -> store::Result<bool> {
        match how {
            Steering::Pause => self.deliver.pause(target, ADMIN).await,
            Steering::Resume => self.deliver.resume(target).await,
            Steering::Close => self.deliver.close(target).await,
        }
    }

    fn wake(&self, targets: &[Name]) {
        self.deliver.wake(targets);
    }

    fn forget(&self, ids: &[DeliveryId]) {
        self.deliver.forget(ids);
    }

    async fn count(&self, _: &Kind, _: &Filter) -> store::Result<u64> {
        Err(store::Error::Closed)
    }

    async fn begin(&self, _: Kind, _: Filter, _: Option<u32>) -> store::Result<Job> {
        Err(store::Error::Closed)
    }

    fn jobs(&self) -> Vec<Job> {
        vec![]
    }

    async fn cancel_job(&self, _: &str) -> store::Result<Option<Job>> {
        Ok(None)
    }
}
