//! Talks out, never answers requests: lanes, attempts, retries, dead letters.
//!
//! Committed deliveries come in, from the store's writer or read back by due time; requests go out, and attempts go back to
//! the store. A destination's `kind` makes an attempt (`kinds/`), `attempt.rs` decides what it leaves its delivery as, and
//! `lane.rs` decides when the next one begins. Stays away from how events came in and from who asks about them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{
        AllowTarget,
        decode::{Context, Fields, Located},
        tree::{Key, Node},
    },
    envelope::{DeliveryId, Name},
    render::{Strictness, Templates},
    store::Store,
    telemetry::Metrics,
};

pub mod answers;
mod attempt;
mod client;
pub mod endpoint;
mod inbox;
pub mod kinds;
mod lane;
pub mod policy;
mod record;
pub mod retry;
mod signing;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use client::TlsProfile;

use answers::Answers;
use client::Clients;
use inbox::Inboxes;
use kinds::Kind;
use lane::Lane;
use policy::AddressPolicy;
use record::Recorder;
use retry::Policy;

/// A named way out, as `routes.yaml` declares it.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its name.
    pub name: Name,
    /// What it is, and what only its kind has.
    pub kind: Kind,
    /// Longest time for one attempt.
    pub timeout: Duration,
    /// Attempts under way at once.
    pub concurrency: u32,
    /// When deliveries are tried again.
    pub retry: Policy,
    /// How its answers are read.
    pub answers: Answers,
    /// The longest wait its `Retry-After` may ask for.
    pub retry_after_max: Duration,
}

/// `defaults.destination`: what a destination that does not say otherwise gets.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Longest time for one attempt. Default 30 s, at most 300 s.
    pub timeout: Duration,
    /// Attempts under way at once. Default 8.
    pub concurrency: u32,
    /// When deliveries are tried again. Default `honeyframe`.
    pub retry: Policy,
    /// How answers are read. Default `default`.
    pub answers: Answers,
    /// The longest wait that `Retry-After` may ask for. Default 1 h.
    pub retry_after_max: Duration,
}

/// The longest timeout of one attempt (agent webhooks guide, "Webhook Settings").
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// The most attempts of one destination at once.
const CONCURRENCY_MAX: u32 = 1024;

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            concurrency: 8,
            retry: Policy::honeyframe(),
            answers: Answers::Default,
            retry_after_max: Duration::from_secs(3600),
        }
    }
}

impl Defaults {
    /// Reads `defaults.destination`; `None` stands for its absence.
    pub fn decode(node: Option<&Node>, cx: &mut Context) -> Self {
        let ours = Self::default();
        let Some(mut fields) = node.and_then(|node| Fields::open(node, "`defaults.destination`", cx)) else { return ours };
        let read = ours.overridden(&mut fields, cx);
        fields.finish(cx);
        read
    }

    /// These, with what `fields` says otherwise.
    fn overridden(&self, fields: &mut Fields<'_>, cx: &mut Context) -> Self {
        let timeout = fields.optional::<Located<Duration>>("timeout", cx);
        let timeout = timeout.and_then(|it| {
            let range = Duration::from_millis(1)..=TIMEOUT_MAX;
            within(it, range, "`timeout` must be longer than nothing and at most 300s", cx)
        });
        let concurrency = fields.optional::<Located<u32>>("concurrency", cx);
        let concurrency =
            concurrency.and_then(|it| within(it, 1..=CONCURRENCY_MAX, "`concurrency` must be between 1 and 1024", cx));
        Self {
            timeout: timeout.unwrap_or(self.timeout),
            concurrency: concurrency.unwrap_or(self.concurrency),
            retry: fields.optional("retry", cx).unwrap_or_else(|| self.retry.clone()),
            answers: fields.or("answers", self.answers, cx),
            retry_after_max: fields.or("retry_after_max", self.retry_after_max, cx),
        }
    }
}

fn within<T: PartialOrd>(it: Located<T>, range: std::ops::RangeInclusive<T>, message: &str, cx: &mut Context) -> Option<T> {
    if !range.contains(&it.value) {
        cx.error("bad-value", it.place, message);
        return None;
    }
    Some(it.value)
}

impl Destination {
    /// Reads one entry of `destinations`.
    pub fn decode(key: &Key, node: &Node, defaults: &Defaults, cx: &mut Context) -> Option<Self> {
        let name = Name::parse(&key.name);
        if name.is_none() {
            let message = "a name begins with a letter or digit, then letters, digits, `.`, `_` and `-`; at most 64";
            cx.error("bad-name", key.place, message);
        }
        let mut fields = Fields::open(node, format!("destination `{}`", key.name), cx)?;
        let common = defaults.overridden(&mut fields, cx);
        // Which keys there are depends on the kind: without one, none can be called unknown.
        let word = kinds::Word::decode(&mut fields, cx)?;
        let kind = Kind::decode(word, &key.name, &mut fields, cx);
        fields.finish(cx);
        let Defaults { timeout, concurrency, retry, answers, retry_after_max } = common;
        Some(Self { name: name?, kind: kind?, timeout, concurrency, retry, answers, retry_after_max })
    }

    /// Where it goes, for people: the path, which may carry a secret, is masked.
    pub fn masked_url(&self) -> String {
        self.kind.endpoint().masked_url()
    }
}

/// What delivery works with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// The ways out.
    pub destinations: Vec<Destination>,
    /// Named templates.
    pub templates: BTreeMap<String, String>,
    /// Private targets that are let through.
    pub allow_targets: Vec<AllowTarget>,
    /// Where deliveries wait.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
}

/// Why delivery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP client of a destination cannot be made: its CA file, ….
    #[error("destination {target}: {reason}")]
    Client {
        /// Which destination.
        target: Name,
        /// Why.
        reason: String,
    },
}

/// The sending side of one relay: a lane per destination.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Deliver {
    inboxes: Arc<Inboxes>,
    lanes: std::sync::Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    break_off: CancellationToken,
}

impl Deliver {
    /// Starts a lane per destination, which begin with what the store holds for them, and listens to the store's commits.
    pub fn start(parts: Parts) -> Result<Arc<Self>, StartError> {
        let Parts { destinations, templates, allow_targets, store, clock, metrics } = parts;
        let templates = Arc::new(Templates::new(&all_templates(templates, &destinations), Strictness::Lenient));
        let mut clients = Clients::new(AddressPolicy::new(&allow_targets));
        let recorder = Recorder::new(store.clone());
        let (stop, break_off) = (CancellationToken::new(), CancellationToken::new());
        let mut lanes = Vec::new();
        for destination in destinations {
            let http = clients.get(&destination.kind.endpoint().tls).map_err(|error| StartError::Client {
                target: destination.name.clone(),
                reason: error.without_url().to_string(),
            })?;
            lanes.push(Lane::new(lane::Parts {
                destination: Arc::new(destination),
                http,
                templates: templates.clone(),
                store: store.clone(),
                recorder: recorder.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                stop: stop.clone(),
                break_off: break_off.clone(),
            }));
        }
        let by_target: HashMap<_, _> = lanes.iter().map(|lane| (lane.name().clone(), lane.inbox())).collect();
        let inboxes = Arc::new(Inboxes::new(by_target, metrics));
        store.on_commit(inboxes.clone());
        let lanes = lanes.into_iter().map(|lane| tokio::spawn(lane.run())).collect();
        Ok(Arc::new(Self { inboxes, lanes: std::sync::Mutex::new(lanes), stop, break_off }))
    }

    /// The deliveries an attempt of which is under way.
    pub fn in_flight(&self) -> Vec<DeliveryId> {
        self.inboxes.in_flight()
    }

    /// Begins no new attempt; returns when those under way are recorded, or after `grace`, when they are broken off: their
    /// deliveries stay pending, and go out under the same id after the next start.
    pub async fn drain(&self, grace: Duration) {
        self.stop.cancel();
        let lanes = self.lanes.lock().map(|mut lanes| std::mem::take(&mut *lanes)).unwrap_or_default();
        let mut ended = tokio::task::JoinSet::new();
        for lane in lanes {
            ended.spawn(lane);
        }
        let all = async { while ended.join_next().await.is_some() {} };
        if timeout(grace, all).await.is_err() {
            self.break_off.cancel();
            while ended.join_next().await.is_some() {}
        }
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.stop.cancel();
        self.break_off.cancel();
    }
}

/// The named templates and those that destinations bring along.
fn all_templates(mut named: BTreeMap<String, String>, destinations: &[Destination]) -> BTreeMap<String, String> {
    for template in destinations.iter().filter_map(|destination| destination.kind.template()) {
        if let Some(text) = &template.inline {
            named.insert(template.name.clone(), text.clone());
        }
    }
    named
}
