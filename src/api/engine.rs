//! What the API asks of the rooms that move deliveries: lanes, jobs, and the counts of the sources.

use async_trait::async_trait;

use crate::{
    app::Handles,
    clock::Timestamp,
    deliver::{
        self, Heard, NoTrial, TargetStatus, Trial,
        mutes::{Mute, Refused, Wanted},
    },
    envelope::{DeliveryId, Envelope, Name},
    explain::{self, Explanation},
    ingest::SourceStatistics,
    jobs::{BeginError, Job, Kind},
    rekey::{self, Counted, Slice},
    store::{self, Attempt, Delivery, Filter},
};

/// Lanes, jobs and sources as the API needs them. `by` is what whoever acts is called.
#[async_trait]
pub(super) trait Engine: Send + Sync {
    /// What time it is.
    fn now(&self) -> Timestamp;

    /// The lanes, in the order of the file.
    fn targets(&self) -> Vec<TargetStatus>;

    /// Targets that are not in the file, but in that of replicas which go by a newer one.
    fn elsewhere(&self) -> Vec<Name> {
        Vec::new()
    }

    /// What came in by each source.
    fn sources(&self) -> Vec<SourceStatistics>;

    /// Has a source asked now, and waits for that a while; false when there is none of this name that is asked.
    async fn poll(&self, source: &Name) -> store::Result<bool>;

    /// The headers of the request that `attempt` made, as far as they can be known, secrets as `***`.
    fn request_headers(&self, event: &Envelope, delivery: &Delivery, attempt: &Attempt) -> Vec<(String, String)>;

    /// What would become of an event if it came in now; nothing changes by that.
    async fn foretell(&self, event: &Envelope) -> store::Result<Explanation>;

    /// The event that somebody writes down, or sends as its sender does by the source of that name.
    fn written(&self, text: &[u8], source: Option<&str>) -> Result<Envelope, String>;

    /// Pauses, resumes or closes a lane; false when there is none of this name.
    async fn steer(&self, target: &Name, how: Steering, by: &str) -> store::Result<bool>;

    /// Sends a sample to a destination once, beside its lane.
    async fn test(&self, target: &Name, event_type: Option<&str>) -> Result<Trial, NoTrial>;

    /// Takes Twilio's report about a message of destination `name`: the query and the form as they came, and the signature.
    async fn twilio(&self, name: &str, query: &str, signature: &[u8], body: &[u8]) -> Heard;

    /// What people want to hear nothing of, oldest first.
    async fn mutes(&self) -> store::Result<Vec<Mute>>;

    /// Mutes what `wanted` says until then.
    async fn mute(&self, wanted: Wanted, until: Timestamp) -> Result<Mute, Refused>;

    /// Ends a mute; `None` when there is none of this id.
    async fn unmute(&self, id: &str) -> store::Result<Option<Mute>>;

    /// Tells lanes that the store may hold due deliveries for them.
    fn wake(&self, targets: &[Name]);

    /// Lets lanes go of what was cancelled.
    fn forget(&self, ids: &[DeliveryId]);

    /// How many things a job would touch.
    async fn count(&self, kind: &Kind, filter: &Filter) -> store::Result<u64>;

    /// Begins a job.
    async fn begin(&self, kind: Kind, filter: Filter, rate: Option<u32>, by: &str) -> Result<Job, BeginError>;

    /// All jobs that are remembered, newest first.
    fn jobs(&self) -> Vec<Job>;

    /// Seals anew a slice of what is sealed under former keys, going on behind `after`.
    async fn rekey(&self, after: i64) -> store::Result<Slice>;

    /// Stops a job; what it did stays done. `None` when there is none of this id.
    async fn cancel_job(&self, id: &str) -> store::Result<Option<Job>>;
}

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

impl Steering {
    /// What the audit calls it.
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Pause => "target.paused",
            Self::Resume => "target.resumed",
            Self::Close => "target.closed",
        }
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

    fn elsewhere(&self) -> Vec<Name> {
        self.generations.elsewhere()
    }

    fn sources(&self) -> Vec<SourceStatistics> {
        let mut sources = self.ingest.statistics();
        for source in &mut sources {
            source.poll = self.pollers.status(&source.name);
        }
        sources
    }

    async fn poll(&self, source: &Name) -> store::Result<bool> {
        self.pollers.now(source).await.map(|status| status.is_some())
    }

    fn request_headers(&self, event: &Envelope, delivery: &Delivery, attempt: &Attempt) -> Vec<(String, String)> {
        match self.config().destinations.iter().find(|destination| destination.name == delivery.target) {
            Some(destination) => destination.request_headers(event, delivery, attempt.number, attempt.started_at),
            None => match self.deliver.destination(&delivery.target) {
                Some(of_subscription) => of_subscription.request_headers(event, delivery, attempt.number, attempt.started_at),
                None => deliver::relay_headers(event, delivery, attempt.number),
            },
        }
    }

    async fn foretell(&self, event: &Envelope) -> store::Result<Explanation> {
        // Rules and hash of one file.
        let generation = self.generation.now();
        explain::by_relay(&generation.router, &self.deliver, &generation.config.hash, event, self.clock.now()).await
    }

    fn written(&self, text: &[u8], source: Option<&str>) -> Result<Envelope, String> {
        explain::event::read(text, source, &self.config().sources, self.clock.now())
    }

    async fn steer(&self, target: &Name, how: Steering, by: &str) -> store::Result<bool> {
        match how {
            Steering::Pause => self.deliver.pause(target, by).await,
            Steering::Resume => self.deliver.resume(target).await,
            Steering::Close => self.deliver.close(target).await,
        }
    }

    async fn test(&self, target: &Name, event_type: Option<&str>) -> Result<Trial, NoTrial> {
        self.deliver.test(target, event_type).await
    }

    async fn twilio(&self, name: &str, query: &str, signature: &[u8], body: &[u8]) -> Heard {
        self.deliver.twilio(name, query, signature, body).await
    }

    async fn mutes(&self) -> store::Result<Vec<Mute>> {
        self.deliver.mutes().list().await
    }

    async fn mute(&self, wanted: Wanted, until: Timestamp) -> Result<Mute, Refused> {
        self.deliver.mutes().add(wanted, until).await
    }

    async fn unmute(&self, id: &str) -> store::Result<Option<Mute>> {
        self.deliver.mutes().remove(id).await
    }

    fn wake(&self, targets: &[Name]) {
        self.deliver.wake(targets);
    }

    fn forget(&self, ids: &[DeliveryId]) {
        self.deliver.forget(ids);
    }

    async fn count(&self, kind: &Kind, filter: &Filter) -> store::Result<u64> {
        self.jobs.count(kind, filter).await
    }

    async fn begin(&self, kind: Kind, filter: Filter, rate: Option<u32>, by: &str) -> Result<Job, BeginError> {
        self.jobs.begin(kind, filter, rate, by).await
    }

    fn jobs(&self) -> Vec<Job> {
        self.jobs.list()
    }

    async fn rekey(&self, after: i64) -> store::Result<Slice> {
        // Subscriptions are all done in the first slice.
        let subscriptions = match after {
            0 => self.subscriptions.meanwhile(rekey::subscriptions(&*self.store, &self.sealer)).await?,
            _ => Counted::default(),
        };
        rekey::slice(&*self.store, &self.sealer, after, subscriptions).await
    }

    async fn cancel_job(&self, id: &str) -> store::Result<Option<Job>> {
        self.jobs.cancel(id).await
    }
}
