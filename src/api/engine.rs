//! What the API asks of the rooms that move deliveries: lanes, jobs, and the counts of the sources.

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    app::Handles,
    clock::Timestamp,
    deliver::{self, Destination},
    envelope::{Envelope, Name},
    store::{self, Attempt, Cause, Delivery, Filter},
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

/// How one target stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TargetStatus {
    /// Its name.
    pub(super) name: Name,
    /// Its kind's word.
    pub(super) kind: &'static str,
    /// Where it goes; the path is masked.
    pub(super) url: String,
    /// Whether it is sent to.
    pub(super) state: TargetState,
    /// Since when it is not; `None` while it is.
    pub(super) since: Option<Timestamp>,
    /// Whose fault it is that it is broken.
    pub(super) cause: Option<Cause>,
    /// Who paused it.
    pub(super) paused_by: Option<String>,
    /// What the last failed attempt ended with.
    pub(super) last_error: Option<String>,
    /// When it last took something.
    pub(super) last_success_at: Option<Timestamp>,
    /// Attempts in the last minute.
    pub(super) attempts_last_minute: u32,
    /// Deliveries it took in the last minute.
    pub(super) deliveries_last_minute: u32,
    /// When a broken one is probed next.
    pub(super) next_probe_at: Option<Timestamp>,
}

/// Whether a target is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetState {
    /// Yes.
    Ok,
    /// Its breaker is open.
    Broken,
    /// A person has paused it.
    Paused,
}

impl TargetState {
    /// The state's word in API and CLI.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Broken => "broken",
            Self::Paused => "paused",
        }
    }
}

/// What came in by one source.
#[derive(Debug, Clone)]
pub(super) struct SourceStatistics {
    pub(super) name: Name,
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
        let lane = |destination: &Destination| TargetStatus {
            name: destination.name.clone(),
            kind: destination.kind.word(),
            url: destination.masked_url(),
            state: TargetState::Ok,
            since: None,
            cause: None,
            paused_by: None,
            last_error: None,
            last_success_at: None,
            attempts_last_minute: 0,
            deliveries_last_minute: 0,
            next_probe_at: None,
        };
        self.config.destinations.iter().map(lane).collect()
    }

    fn sources(&self) -> Vec<SourceStatistics> {
        self.config.sources.iter().map(|source| SourceStatistics { name: source.name.clone() }).collect()
    }

    fn request_headers(&self, event: &Envelope, delivery: &Delivery, attempt: &Attempt) -> Vec<(String, String)> {
        match self.config.destinations.iter().find(|destination| destination.name == delivery.target) {
            Some(destination) => destination.request_headers(event, delivery, attempt.number, attempt.started_at),
            None => deliver::relay_headers(event, delivery, attempt.number),
        }
    }

    async fn steer(&self, _: &Name, _: Steering) -> store::Result<bool> {
        Ok(false)
    }

    fn wake(&self, _: &[Name]) {}

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
