//! Talks out, never answers requests: lanes, attempts, retries, dead letters.
//!
//! Committed deliveries come in, from the store's writer or read back by due time; requests go out, and attempts go back to
//! the store. A destination's `kind` makes an attempt (`kinds/`), `attempt.rs` decides what it leaves its delivery as, and
//! `lane.rs` decides when the next one begins. Stays away from how events came in and from who asks about them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    announce::{Announcer, Notice},
    clock::{Clock, Timestamp, earlier},
    config::{
        AllowTarget,
        decode::{Context, Definitions, Field, Fields, Keys, Located, Rate, Schema, Shape, Words},
        tree::{Key, Node},
    },
    contacts::Contacts,
    envelope::{DeliveryId, Name},
    live::Live,
    render::Source,
    route::{handling::Audience, path::Path},
    store::{self, OwnerId, Profile, Store},
    telemetry::Metrics,
};

pub mod answers;
mod attempt;
mod breaker;
mod client;
mod condition;
mod connect;
mod desk;
pub mod endpoint;
pub(crate) mod fetch;
mod following;
mod handshake;
mod inbox;
pub mod kinds;
mod lane;
mod making;
pub mod mutes;
mod ownership;
pub mod policy;
pub mod preview;
pub mod quiet;
mod reach;
mod record;
mod rehearsing;
mod reports;
pub mod retry;
mod roster;
pub(crate) mod seats;
mod shown;
mod signing;
mod signs;
mod stage;
mod status;
mod subscribed;
mod threads;
mod tls;
mod trial;

#[cfg(test)]
mod lane_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use attempt::Site;
pub use lane::UNRECORDED_MAX;
pub use ownership::{Ownership, Work};
pub use reach::{Reached, reach};
pub use rehearsing::{Rehearsing, Turn};
pub use reports::Heard;
pub use roster::Prepared;
pub use seats::{Outlet, Outlets};
pub use shown::relay_headers;
pub use signs::{Ailment, Broken, Signs, Told, Tried};
pub use stage::Sent;
pub use status::{TargetState, TargetStatus};
pub use subscribed::Subscribed;
pub use tls::TlsProfile;
pub use trial::{NoTrial, Trial};

use answers::{Answers, Reading, StatusRules};
use client::Clients;
use desk::Desk;
use inbox::Inboxes;
use kinds::Kind;
use mutes::Mutes;
use ownership::{Keeper, Leases, Works};
use policy::AddressPolicy;
use quiet::Quiet;
use record::Recorder;
use reports::Overdue;
use retry::Policy;
use roster::Roster;
use seats::Seats;
use threads::Threads;

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
    pub answers: Reading,
    /// The longest wait its `Retry-After` may ask for.
    pub retry_after_max: Duration,
    /// How much is sent to it at most.
    pub rate_limit: Option<Rate>,
    /// What its deliveries are ordered by: a path into the envelope.
    pub order_by: Option<Path>,
    /// What it was called before: what waits for that name is its own.
    pub renamed_from: Option<Name>,
    /// What is older is not worth sending.
    pub ttl: Option<Duration>,
    /// When it wants to be left alone.
    pub quiet: Option<Quiet>,
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

/// What a destination gets that says nothing, and every subscription.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONCURRENCY: u32 = 8;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// The longest timeout of one attempt (agent webhooks guide, "Webhook Settings").
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// The most attempts of one destination at once.
const CONCURRENCY_MAX: u32 = 1024;

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT,
            concurrency: CONCURRENCY,
            retry: Policy::honeyframe(),
            answers: Answers::Default,
            retry_after_max: RETRY_AFTER_MAX,
        }
    }
}

/// What `defaults.destination` may say, and every destination.
const SHARED: Keys = Keys::of(&[
    Field::of::<Duration>("timeout", "How long one attempt may take, at most 300s.").default("30s"),
    Field::of::<u32>("concurrency", "How many attempts may be under way at once.")
        .default("8")
        .such_that(|concurrency| concurrency.between(1, CONCURRENCY_MAX.into())),
    Field::of::<Policy>("retry", "When a delivery is tried again, and when it is given up.")
        .default("honeyframe")
        .example(r#"{"initial": "5s", "factor": 3, "max": "1h", "jitter": "full", "give_up_after": "24h"}"#),
    Field::of::<Answers>("answers", "How statuses are read: `default` is forgiving, `interactor` is Interactor's own table.")
        .default("default"),
    Field::of::<Duration>("retry_after_max", "The longest wait that a target may ask for by `Retry-After`.").default("1h"),
]);
/// What only a destination may say, of whatever kind.
const KEYS: Keys = Keys::of(&[
    Field::of::<kinds::Word>("kind", "What it is.").required(),
    Field::of::<StatusRules>("status_rules", "What single statuses mean here, whatever the table says.")
        .default("{}")
        .example(r#"{"404": "permanent", "409": "delivered"}"#),
    Field::of::<Rate>("rate_limit", "How much is sent at most; what is more waits. Slack's default is 1/s.")
        .example(r#"{"rate": "20/s", "burst": 40}"#),
    Field::of::<Path>(
        "order_by",
        "Deliveries with the same value here arrive in order; one that fails holds up those behind it.",
    )
    .example("$.data.instance_id"),
    Field::of::<Name>("renamed_from", "What it was called before: what waits for that name becomes its own.").example("old-crm"),
    Field::of::<Duration>("ttl", "What is older than this is not worth sending.").example("7d"),
    Field::of::<Quiet>("quiet", "When it is left alone, and what becomes of deliveries then.")
        .example(r#"{"schedule": "nights", "then": "hold", "except": ["critical"]}"#),
])
.and(&[SHARED]);

impl Shape for Defaults {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(SHARED, all)
    }
}

impl Shape for Destination {
    fn schema(all: &mut Definitions) -> Schema {
        let kinds = kinds::Word::WORDS.iter().map(|(word, kind)| (*word, kind.keys()));
        Schema::map_by_kind(KEYS, kinds, all)
    }
}

impl Defaults {
    /// Reads `defaults.destination`; `None` stands for its absence.
    pub fn decode(node: Option<&Node>, cx: &mut Context) -> Self {
        let ours = Self::default();
        let Some(mut fields) = node.and_then(|node| Fields::open(node, "`defaults.destination`", SHARED, cx)) else {
            return ours;
        };
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
            answers: fields.optional("answers", cx).unwrap_or(self.answers),
            retry_after_max: fields.optional("retry_after_max", cx).unwrap_or(self.retry_after_max),
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
        let mut fields = Fields::open(node, format!("destination `{}`", key.name), KEYS, cx)?;
        let common = defaults.overridden(&mut fields, cx);
        // Which keys there are depends on the kind: without one, none can be called unknown.
        let word = kinds::Word::read(&mut fields, cx)?;
        fields.also(word.keys());
        let kind = Kind::decode(word, &key.name, &mut fields, cx);
        let rules = fields.or("status_rules", StatusRules::default(), cx);
        if matches!(word, kinds::Word::N8n) && rules.names(404) {
            cx.error("bad-value", fields.key_place("status_rules"), "n8n's 404 is always transient: a workflow is being edited");
        }
        let rate_limit = fields.optional("rate_limit", cx).or(word.rate());
        let order_by = fields.optional("order_by", cx);
        let renamed_from = fields.optional("renamed_from", cx);
        let ttl = fields.optional::<Located<Duration>>("ttl", cx);
        if let Some(Located { place, .. }) = ttl.as_ref().filter(|ttl| ttl.value.is_zero()) {
            cx.error("bad-value", *place, "a `ttl` of 0 would let nothing be sent");
        }
        let ttl = ttl.map(|ttl| ttl.value);
        let quiet = fields.optional::<Quiet>("quiet", cx);
        if quiet.as_ref().is_some_and(Quiet::gathers) && !word.takes_digests() {
            let message = format!("{} cannot gather: only Slack, email and WhatsApp take digests", fields.what());
            cx.error("bad-value", fields.key_place("quiet"), message).help("`then: hold` or `then: drop`");
        }
        fields.finish(cx);
        let Defaults { timeout, concurrency, retry, answers, retry_after_max } = common;
        let answers = Reading { table: answers, rules };
        let (name, kind) = (name?, kind?);
        Some(Self {
            name,
            kind,
            timeout,
            concurrency,
            retry,
            answers,
            retry_after_max,
            rate_limit,
            order_by,
            renamed_from,
            ttl,
            quiet,
        })
    }

    /// Where it goes, for people: the path, which may carry a secret, is masked.
    pub fn masked_url(&self) -> String {
        self.kind.masked_url()
    }
}

/// What delivery works with, whatever the file says.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// Where deliveries wait.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Where the relay tells of itself.
    pub announcer: Announcer,
    /// What the relay says of itself to others that share the store.
    pub profile: watch::Receiver<Profile>,
}

/// What the file says of deliveries.
#[derive(Debug)]
pub struct WaysOut {
    /// The ways out.
    pub destinations: Vec<Destination>,
    /// Named templates.
    pub templates: BTreeMap<String, Source>,
    /// Who stands behind a namespace.
    pub contacts: Arc<Contacts>,
    /// Private targets that are let through.
    pub allow_targets: Vec<AllowTarget>,
    /// Where people reach the relay.
    pub site: Site,
}

/// What keeps an order, and by which path: what the router needs of the destinations.
pub fn orders(destinations: &[Destination]) -> Vec<(Name, Path)> {
    destinations.iter().filter_map(|it| Some((it.name.clone(), it.order_by.clone()?))).collect()
}

/// Who reads what destinations send: what the router needs to know of digests.
pub fn audiences(destinations: &[Destination]) -> Vec<(Name, Audience)> {
    destinations.iter().map(|it| (it.name.clone(), it.kind.audience())).collect()
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
    /// The runtime of the lanes cannot be made.
    #[error("the runtime that delivers does not start: {0}")]
    Threads(#[source] std::io::Error),
}

/// The sending side of one relay: a lane per destination.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Deliver {
    /// Who has a lane now.
    roster: Live<Roster>,
    /// The lanes of subscriptions.
    seats: Arc<Seats>,
    /// One file at a time takes the place of another; the clients of the last one.
    switching: std::sync::Mutex<Clients>,
    store: Arc<dyn Store>,
    metrics: Metrics,
    recorder: Recorder,
    inboxes: Arc<Inboxes>,
    mutes: Arc<Mutes>,
    clock: Clock,
    announcer: Announcer,
    /// Rung when a delivery begins to wait for a report.
    awaited: Arc<Notify>,
    lanes: TaskTracker,
    /// What lanes run on. What the store does for them alone does too, so whoever stops a relay in good order closes the store before this
    /// is dropped.
    threads: Threads,
    keeper: std::sync::Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    break_off: CancellationToken,
    /// Cancelled: give up the lanes.
    leave: CancellationToken,
    /// Lives as long as the lanes that listen to it.
    leases: Arc<watch::Sender<Leases>>,
    /// What goes on by having them.
    works: Works,
    /// The newest record of a lane that was read ([`following`]).
    lanes_seen: AtomicI64,
}

impl Deliver {
    /// Starts a lane per destination, which begin with what the store holds for them, and listens to the store's commits.
    pub fn start(parts: Parts, ways_out: WaysOut) -> Result<Arc<Self>, StartError> {
        let Parts { store, clock, metrics, announcer, profile } = parts;
        let mutes = Arc::new(Mutes::new(store.clone(), clock.clone()));
        let recorder = Recorder::new(store.clone());
        let awaited = Arc::new(Notify::new());
        let (stop, break_off, leave) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (leases, works) = (Arc::new(watch::Sender::new(Leases::new())), Works::default());
        let seats = Arc::new(Seats::default());
        let inboxes = Arc::new(Inboxes::new(metrics.clone(), seats.clone()));
        let deliver = Arc::new(Self {
            roster: Live::new(Arc::default()),
            seats: seats.clone(),
            switching: std::sync::Mutex::new(Clients::new(AddressPolicy::default())),
            store: store.clone(),
            metrics: metrics.clone(),
            recorder,
            inboxes: inboxes.clone(),
            mutes,
            clock: clock.clone(),
            announcer,
            awaited: awaited.clone(),
            lanes: TaskTracker::new(),
            threads: Threads::start().map_err(StartError::Threads)?,
            keeper: std::sync::Mutex::default(),
            stop: stop.clone(),
            break_off,
            leave: leave.clone(),
            leases: leases.clone(),
            works: works.clone(),
            lanes_seen: AtomicI64::new(0),
        });
        // Nothing runs yet that would have to be stopped if this fails.
        let prepared = deliver.prepare(ways_out)?;
        store.on_commit(inboxes.clone());
        deliver.switch(prepared);
        tokio::spawn(seats::answer_calls(Arc::downgrade(&deliver), seats, leave.clone()));
        let freed = inboxes.freed.clone();
        let overdue = Overdue { store: store.clone(), clock: clock.clone(), inboxes, metrics, bell: awaited };
        tokio::spawn(leave.clone().run_until_cancelled_owned(overdue.run()));
        let owner = OwnerId(attempt::draw());
        let keeper = Keeper { owner, store, clock, profile, leases, freed, works, draining: stop, stop: leave };
        *deliver.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::spawn(keeper.run()));
        Ok(deliver)
    }

    /// Reads how every lane stood when it was last worked on: before anybody asks.
    pub async fn load(&self) -> store::Result<()> {
        for desk in &self.roster.now().desks {
            desk.load().await?;
        }
        Ok(())
    }

    /// What is this relay's of the work that several on one store share by names.
    pub fn ownership(&self) -> Ownership {
        Ownership::new(self.leases.subscribe(), self.works.clone())
    }

    /// What people want to hear nothing of for a while.
    pub fn mutes(&self) -> &Mutes {
        &self.mutes
    }

    /// Expires what waits for longer than the `ttl` of its target, wherever it waits.
    pub async fn expire(&self) -> Result<(), store::Error> {
        let now = self.clock.now();
        for desk in &self.roster.now().desks {
            // Whoever owns a lane knows what of it is under way.
            let Some(ttl) = desk.today().destination.ttl.filter(|_| self.works_on(desk.name())) else { continue };
            let (cutoff, reason) = (earlier(now, ttl), lane::expired(ttl));
            loop {
                let mut in_flight = self.inboxes.in_flight();
                in_flight.sort_unstable();
                let expired = desk.store.expire(desk.name(), cutoff, &reason, in_flight, now).await?;
                if expired.is_empty() {
                    break;
                }
                tracing::info!(target.name = %desk.name(), deliveries = expired.len(), "expired: {reason}");
                self.inboxes.expired(desk.name(), expired.len());
                desk.inbox.forget(&expired);
                desk.inbox.wake();
            }
        }
        Ok(())
    }

    /// Whether the store refuses attempts, or does not answer, so that nothing is sent.
    pub fn is_refused(&self) -> bool {
        self.recorder.is_refused()
    }

    /// The deliveries an attempt of which is under way.
    pub fn in_flight(&self) -> Vec<DeliveryId> {
        self.inboxes.in_flight()
    }

    /// How every target stands: destinations in the order of the file, then subscriptions.
    pub fn targets(&self) -> Vec<TargetStatus> {
        let now = self.clock.now();
        let mut all: Vec<_> = self.roster.now().desks.iter().map(|desk| desk.status(now, self.works_on(desk.name()))).collect();
        all.extend(self.seat_statuses(now));
        all
    }

    /// What a target is sent by now.
    pub fn destination(&self, target: &Name) -> Option<Arc<Destination>> {
        self.desk(target).map(|desk| desk.today().destination.clone())
    }

    /// Whether the lane of `target` is this replica's.
    pub fn works_on(&self, target: &Name) -> bool {
        !self.store.is_shared() || self.ownership().owns(target)
    }

    /// The destinations whose lanes are this replica's and that are held (paused, broken), and since when. One where an attempt is under way is
    /// not among them: what is just being tried may arrive.
    pub fn held(&self) -> Vec<(Name, Timestamp)> {
        let held = |desk: &Arc<Desk>| {
            let state = desk.inbox.state();
            let since = state.condition.held_since().filter(|_| !state.is_sending())?;
            Some((desk.name().clone(), since))
        };
        self.roster.now().desks.iter().filter(|desk| self.works_on(desk.name())).filter_map(held).collect()
    }

    /// Stops sending to `target` until somebody resumes it. False: there is no such target.
    pub async fn pause(&self, target: &Name, by: &str) -> Result<bool, store::Error> {
        let Some(desk) = self.desk(target) else { return Ok(false) };
        let now = self.clock.now();
        if desk.change(|condition| condition.pause(by, now)).await? {
            tracing::info!(target.name = %target, by, "paused");
            self.announcer.tell(Notice::Paused { target: target.clone(), by: by.to_owned() });
        }
        Ok(true)
    }

    /// Sends to `target` again. False: there is no such target.
    pub async fn resume(&self, target: &Name) -> Result<bool, store::Error> {
        let Some(desk) = self.desk(target) else { return Ok(false) };
        let now = self.clock.now();
        desk.change(|condition| condition.resume(now)).await?;
        self.rouse_seat(target);
        tracing::info!(target.name = %target, "resumed");
        Ok(true)
    }

    /// Closes the breaker of `target`: a person knows that it works. False: there is no such target.
    pub async fn close(&self, target: &Name) -> Result<bool, store::Error> {
        let Some(desk) = self.desk(target) else { return Ok(false) };
        if let Some(broken_since) = desk.change(condition::Condition::close_as_asked).await? {
            self.announcer.tell(Notice::Recovered { target: target.clone(), broken_since });
        }
        self.seats.signs.heals(target);
        self.rouse_seat(target);
        Ok(true)
    }

    /// The store may hold due deliveries for `targets` that it told nobody of.
    pub fn wake(&self, targets: &[Name]) {
        for target in targets {
            match self.roster.now().desk(target) {
                Some(desk) => desk.inbox.wake(),
                None => _ = self.rouse_seat(target),
            }
        }
    }

    /// Lets go of those of `ids` that wait in hand: they were cancelled. Those under way are answered all the same.
    pub fn forget(&self, ids: &[DeliveryId]) {
        self.roster.now().desks.iter().for_each(|desk| desk.inbox.forget(ids));
        self.seats.desks().iter().for_each(|desk| desk.inbox.forget(ids));
    }

    /// Reads those of `ids` again that wait in hand: something was taken out of the digest that each of them carries. (No subscription has
    /// one.) Of those under way nothing is kept that was made of it.
    pub fn read_anew(&self, ids: &[DeliveryId]) {
        self.roster.now().desks.iter().for_each(|desk| desk.inbox.read_anew(ids));
    }

    /// Begins no new attempt; returns when those under way are recorded, or after `grace`, when they are broken off, and recorded as that: their
    /// deliveries stay pending, and go out under the same id after the next start. Others have the lanes of which nothing is under way at
    /// once, and each of the rest when that is over.
    pub async fn drain(&self, grace: Duration) {
        self.stop.cancel();
        self.lanes.close();
        if timeout(grace, self.lanes.wait()).await.is_err() {
            self.break_off.cancel();
            self.lanes.wait().await;
        }
    }

    /// Lets others have what is left of the lanes, once nothing that goes by owning them is under way any more.
    pub async fn leave(&self) {
        self.leave.cancel();
        let keeper = self.keeper.lock().ok().and_then(|mut keeper| keeper.take());
        if let Some(keeper) = keeper {
            let _ = keeper.await;
        }
    }

    /// Whether no lane has anything in hand.
    #[cfg(test)]
    fn inboxes_are_empty(&self) -> bool {
        self.roster.now().desks.iter().all(|desk| !desk.inbox.state().has_more())
    }

    fn desk(&self, target: &Name) -> Option<Arc<Desk>> {
        let of_file = self.roster.now().desk(target).cloned();
        of_file.or_else(|| self.seat_desk(target))
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.stop.cancel();
        self.break_off.cancel();
        self.leave.cancel();
    }
}
