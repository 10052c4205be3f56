//! Ways out registered by API. What people want of them comes in; records in the store, lanes to send by and subscribers to plan for go
//! out. Knows no HTTP and sends nothing.
//!
//! Every change is made in the same order: the store, with an audit entry, in one commit; then memory; then the lane; then planning: so
//! whatever is planned finds its lane, and a restart builds all of it from the store. Changes are made one at a time, under an asynchronous
//! lock ([`Subscriptions::changing`]): it is held while the store commits, which a lock of the standard library must not be. Nobody who
//! plans or sends ever waits for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tracing::{error, info};
use url::Url;

use crate::{
    access::{BOOTSTRAP, Caller},
    announce::Announcer,
    clock::{Clock, Timestamp, later},
    config::decode::nearest,
    deliver::{Deliver, policy::AddressPolicy},
    envelope::Name,
    jobs::{Job, Jobs},
    live::Live,
    route::{Subscribers, glob::Glob},
    seal::Sealer,
    secret::Secret,
    sign,
    store::{self, AtMost, Change, Changed, NewAudit, Record, RecordKind, Store, Write},
};

mod audit;
mod filter;
mod life;
mod model;
mod outlet;
mod refused;
mod secrets;
mod section;
mod succession;
mod switching;
#[cfg(test)]
mod tests;
mod types;
mod wanted;

pub use model::{Dialect, Disabled, EventFilter, Life, Release, Subscription, Why};
pub use refused::{Refused, What};
pub use secrets::OVERLAP;
pub use section::{EventTypesOfFile, HeldMax, Settings};
pub use types::EventTypes;
pub use wanted::{MASKED, Wanted};

use model::Kept;
use secrets::Secrets;
use wanted::Names;

/// How long graces last at the least from a start on: while the relay was off, nobody could come. At most `subscriptions.grace`.
const AFTER_START: Duration = Duration::from_secs(300);

/// The store shows for a day that a record was removed. Who has not looked for as long as this, or whose clock was set by as much, looks
/// at all there is: what is not there any more is gone.
const LOOKED_MAX: Duration = Duration::from_secs(12 * 3600);

/// How often a change is made anew, where another replica made one of the same subscription first.
const TRIES: u32 = 5;

/// What subscriptions are kept with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// Where they are kept.
    pub store: Arc<dyn Store>,
    /// Seals their secrets.
    pub sealer: Sealer,
    /// What time it is.
    pub clock: Clock,
    /// Where the relay tells of itself.
    pub announcer: Announcer,
    /// Whom events are planned for.
    pub subscribers: Subscribers,
    /// Which types are known.
    pub types: Arc<EventTypes>,
}

/// The subscriptions of one relay.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Subscriptions {
    parts: Parts,
    settings: Live<Settings>,
    known: RwLock<HashMap<Name, Kept>>,
    /// Those that cannot be read as they are kept: a later version may have made them.
    unread: RwLock<BTreeSet<Name>>,
    /// The newest revision that was read from the store.
    seen: AtomicI64,
    /// When that was, as far as nothing was missed since.
    looked: Mutex<Timestamp>,
    /// The erasures after which it was looked what of their namespaces is still known.
    erased: Mutex<BTreeSet<String>>,
    /// How many deliveries waited for those that hold some when it was last looked how large they are.
    weighed: Mutex<HashMap<Name, u64>>,
    /// Held by whoever changes one, from reading it to the end.
    changing: tokio::sync::Mutex<()>,
    /// Lanes and jobs, once there are any.
    running: OnceLock<Running>,
}

struct Running {
    deliver: Arc<Deliver>,
    jobs: Arc<Jobs>,
}

/// A subscription that was just made.
#[derive(Debug)]
pub struct Created {
    /// It.
    pub subscription: Arc<Subscription>,
    /// What signs its deliveries; to be shown once.
    pub secret: Secret,
    /// Those deleted before whose place it takes.
    pub adopted: Vec<Name>,
}

/// A subscription that was changed.
#[derive(Debug)]
pub struct Updated {
    /// It, as it is now.
    pub subscription: Arc<Subscription>,
    /// What sends on what it held, where it was switched on and held anything.
    pub job: Option<Job>,
}

/// A subscription whose secret was made anew.
#[derive(Debug)]
pub struct Regenerated {
    /// It.
    pub subscription: Arc<Subscription>,
    /// The new secret; to be shown once. The former one signs beside it for [`OVERLAP`].
    pub secret: Secret,
}

impl Subscriptions {
    /// None at all, as long as nobody makes one. Nothing is read.
    pub(crate) fn none(parts: Parts, settings: Settings) -> Self {
        let settings = Live::new(Arc::new(settings));
        Self {
            looked: Mutex::new(parts.clock.now()),
            parts,
            settings,
            known: RwLock::default(),
            unread: RwLock::default(),
            seen: AtomicI64::new(0),
            erased: Mutex::default(),
            weighed: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            running: OnceLock::new(),
        }
    }

    /// Reads what the store keeps, and plans for it. Nothing is sent before [`Subscriptions::start`].
    pub async fn load(parts: Parts, settings: Settings) -> store::Result<Arc<Self>> {
        parts.types.restore(&*parts.store).await?;
        let looked = Mutex::new(parts.clock.now());
        let grace_until = later(parts.clock.now(), settings.grace.min(AFTER_START));
        let (mut known, mut unread, mut seen) = (HashMap::new(), BTreeSet::new(), 0);
        for record in parts.store.records(RecordKind::Subscription, 0).await? {
            seen = record.revision.max(seen);
            let Some(doc) = record.doc else { continue };
            match Subscription::of_doc(&record.id, &doc) {
                Ok(mut subscription) => {
                    if let Life::InGrace { until, .. } = &mut subscription.life {
                        *until = (*until).max(grace_until);
                    }
                    let sealed = record.sealed.unwrap_or_default();
                    let id = subscription.id.clone();
                    known.insert(id, Kept { subscription: Arc::new(subscription), sealed, revision: record.revision });
                }
                Err(reason) => {
                    error!(subscription.id = %record.id, reason, "a subscription that the store keeps cannot be read and is left alone");
                    unread.extend(Name::parse(&record.id));
                }
            }
        }
        let planned = known.values().filter(|kept| kept.subscription.is_planned());
        parts.subscribers.load(planned.map(|kept| kept.subscription.subscriber()).collect());
        let (known, unread) = (RwLock::new(known), RwLock::new(unread));
        Ok(Arc::new(Self { known, unread, seen: AtomicI64::new(seen), looked, ..Self::none(parts, settings) }))
    }

    /// Goes by another file from now on.
    pub fn follow(&self, settings: Settings, types: EventTypesOfFile) {
        self.parts.types.follow(types.0);
        if let Some(running) = self.running.get() {
            running.deliver.let_subscriptions_reach(&settings.allow_targets);
        }
        self.settings.replace(Arc::new(settings));
    }

    /// Whether `target` is, or was a moment ago, a subscription.
    pub fn keeps(&self, target: &Name) -> bool {
        self.known().contains_key(target)
    }

    /// Whether `target` is one that cannot be read as it is kept: it is left alone, and so is what waits for it.
    pub fn cannot_read(&self, target: &Name) -> bool {
        self.unread.read().unwrap_or_else(PoisonError::into_inner).contains(target)
    }

    /// Those that cannot be read as they are kept.
    pub(crate) fn unread(&self) -> BTreeSet<Name> {
        self.unread.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which event types are known.
    pub fn types(&self) -> &EventTypes {
        &self.parts.types
    }

    /// Notes which event types came: before the store is closed.
    pub(crate) async fn keep_types(&self) -> store::Result<()> {
        self.forget_erased().await?;
        self.parts.types.keep(&*self.parts.store).await
    }

    /// Makes one that `caller` wants: it gets events of the caller's namespaces. Takes the place of those that the same token deleted a
    /// moment ago, that went to the same URL, and got nothing that this one does not get.
    ///
    /// # Errors
    /// [`Refused::Invalid`], [`Refused::TooMany`], [`Refused::NoSecret`], [`Refused::Releasing`]; else what the store says.
    pub async fn create(&self, caller: &Caller, dialect: Dialect, wanted: Wanted) -> Result<Created, Refused> {
        let names = Names::of(dialect);
        let url = wanted.url.ok_or_else(|| Refused::url(names.url, "is required"))?;
        self.vet_url(&url, names.url)?;
        let events = wanted.events.ok_or_else(|| Refused::events(names.events, "is required"))?;
        self.vet_events(&events, caller, names.events)?;
        let secret = match (dialect, wanted.secret) {
            (Dialect::Honeyframe, None) => return Err(Refused::request("secret", "is required")),
            (Dialect::Honeyframe, Some(secret)) => secret,
            (Dialect::Interactor, Some(_)) => {
                return Err(Refused::request("secret", "is not taken here: the relay makes one, and shows it in its answer"));
            }
            (Dialect::Interactor, None) => secrets::draw().ok_or(Refused::NoSecret)?,
        };
        let headers = wanted.headers.unwrap_or_default();
        if let Some((name, _)) = headers.iter().find(|(_, value)| value.reveal() == MASKED) {
            return Err(Refused::request("headers", format!("gives `{name}` no value")));
        }
        let now = self.parts.clock.now();
        let subscription = Subscription {
            id: model::new_id().ok_or(Refused::NoSecret)?,
            dialect,
            url,
            events,
            filter: wanted.filter.flatten(),
            name: wanted.name.flatten(),
            description: wanted.description.flatten(),
            headers: headers.keys().cloned().collect(),
            metadata: wanted.metadata.flatten(),
            timeout: wanted.timeout.flatten(),
            max_retries: wanted.max_retries.flatten(),
            verify_tls: wanted.verify_tls.unwrap_or(true),
            handshake: wanted.handshake.unwrap_or(false),
            disabled: (wanted.enabled == Some(false)).then_some(Disabled { at: now, why: Why::Person, error: None }),
            namespaces: caller.namespaces.clone(),
            made_by: caller.id.clone(),
            created_at: now,
            updated_at: now,
            regenerated_at: None,
            standard: sign::standard_key(&secret).is_ok(),
            release: None,
            life: Life::Living,
            more: serde_json::Map::new(),
        };
        let sealed = Secrets::new(secret.clone(), headers).seal(&subscription.id, &self.parts.sealer)?;
        let (subscription, adopted) = self.make(caller, subscription, sealed).await?;
        info!(target.name = %subscription.id, by = %caller.id, adopted = adopted.len(), "a subscription was made");
        Ok(Created { subscription, secret, adopted })
    }

    async fn make(
        &self,
        caller: &Caller,
        mut made: Subscription,
        sealed: bytes::Bytes,
    ) -> Result<(Arc<Subscription>, Vec<Name>), Refused> {
        let _changing = self.begin_change().await?;
        let owner = owner(caller.namespaces.as_ref(), &caller.id);
        let limit = self.settings.now().limit;
        let mut batch = Batch::by(&caller.id, made.created_at);
        batch.at_most = (caller.id != BOOTSTRAP).then_some(AtMost { kind: RecordKind::Subscription, owner, count: limit });
        let taken = succession::adopted(&made, self.of_one_url(&made));
        let adopted: Vec<Name> = taken.iter().map(|kept| kept.subscription.id.clone()).collect();
        if taken.iter().any(|kept| matches!(kept.subscription.life, Life::InGrace { held: true, .. })) {
            made.release = self.release_of_heir(&made, &adopted, made.created_at).await?;
        }
        for kept in taken {
            let life = Life::Adopted { by: made.id.clone(), at: made.created_at };
            let after = Subscription { life, release: None, updated_at: made.created_at, ..(*kept.subscription).clone() };
            batch.put("subscription.adopted", Some(&kept), after, kept.sealed.clone());
        }
        batch.put("subscription.created", None, made.clone(), sealed);
        self.write(batch).await?;
        // Planned for both for a moment: what both get is dropped when the one adopts the other.
        self.plan_for(&made);
        adopted.iter().for_each(|id| self.parts.subscribers.remove(id));
        if !adopted.is_empty() {
            self.look_again();
        }
        Ok((Arc::new(made), adopted))
    }

    /// All that `caller` may know of, in the order in which they were made.
    pub fn list(&self, caller: &Caller) -> Vec<Arc<Subscription>> {
        let mut all: Vec<_> = self.all(|it| it.is_living() && caller.covers(it.namespaces.as_ref()));
        all.sort_unstable_by(|a, b| {
            let key = |kept: &Kept| (kept.subscription.created_at, kept.revision);
            key(a).cmp(&key(b))
        });
        all.into_iter().map(|kept| kept.subscription).collect()
    }

    /// The one of this id.
    ///
    /// # Errors
    /// [`Refused::NotFound`] too where it is of other namespaces than the caller's, or deleted.
    pub fn get(&self, caller: &Caller, id: &str) -> Result<Arc<Subscription>, Refused> {
        self.found(caller, id).map(|kept| kept.subscription)
    }

    /// Changes what `wanted` says, and leaves the rest.
    ///
    /// # Errors
    /// As [`Subscriptions::create`] and [`Subscriptions::enable`].
    pub async fn update(&self, caller: &Caller, id: &str, wanted: Wanted) -> Result<Updated, Refused> {
        for _ in 1..TRIES {
            match self.update_once(caller, id, wanted.clone()).await {
                Err(Refused::Raced) => {}
                done => return done,
            }
        }
        self.update_once(caller, id, wanted).await
    }

    async fn update_once(&self, caller: &Caller, id: &str, wanted: Wanted) -> Result<Updated, Refused> {
        let _changing = self.begin_change().await?;
        let kept = self.found(caller, id)?;
        let names = Names::of(Dialect::Interactor);
        let mut after = (*kept.subscription).clone();
        if let Some(secret) = &wanted.secret {
            // The answer that a subscription was made with may be sent back.
            if self.secrets(&kept)?.signing.first().is_none_or(|(current, _)| current != secret) {
                return Err(Refused::request("secret", "is made by the relay: `regenerate-secret` makes it anew"));
            }
        }
        if let Some(url) = wanted.url {
            self.vet_url(&url, names.url)?;
            keep_headers_from_strangers(&after, &url, wanted.headers.as_ref())?;
            after.url = url;
        }
        if let Some(events) = wanted.events {
            self.vet_events(&events, caller, names.events)?;
            after.events = events;
        }
        after.filter = wanted.filter.unwrap_or(after.filter);
        after.name = wanted.name.unwrap_or(after.name);
        after.description = wanted.description.unwrap_or(after.description);
        after.metadata = wanted.metadata.unwrap_or(after.metadata);
        after.timeout = wanted.timeout.unwrap_or(after.timeout);
        after.max_retries = wanted.max_retries.unwrap_or(after.max_retries);
        after.verify_tls = wanted.verify_tls.unwrap_or(after.verify_tls);
        after.handshake = wanted.handshake.unwrap_or(after.handshake);
        let mut sealed = kept.sealed.clone();
        if let Some(mut headers) = wanted.headers {
            let mut secrets = self.secrets(&kept)?;
            for (name, value) in headers.iter_mut().filter(|(_, value)| value.reveal() == MASKED) {
                let known = secrets.headers.get(name).cloned();
                *value = known.ok_or_else(|| Refused::request("headers", format!("gives `{name}` no value")))?;
            }
            after.headers = headers.keys().cloned().collect();
            secrets.headers = headers;
            sealed = secrets.seal(&after.id, &self.parts.sealer)?;
        }
        after.updated_at = self.parts.clock.now();
        let switched = wanted.enabled.filter(|enabled| *enabled != after.disabled.is_none());
        self.switched(caller, &kept, after, sealed, switched, None).await
    }

    /// Makes its secret anew; the former one signs beside it for [`OVERLAP`].
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::NoSecret`], [`Refused::ManySecrets`]; else what the store says.
    pub async fn regenerate(&self, caller: &Caller, id: &str) -> Result<Regenerated, Refused> {
        for _ in 1..TRIES {
            match self.regenerate_once(caller, id).await {
                Err(Refused::Raced) => {}
                done => return done,
            }
        }
        self.regenerate_once(caller, id).await
    }

    async fn regenerate_once(&self, caller: &Caller, id: &str) -> Result<Regenerated, Refused> {
        let _changing = self.begin_change().await?;
        let kept = self.found(caller, id)?;
        let now = self.parts.clock.now();
        let secret = secrets::draw().ok_or(Refused::NoSecret)?;
        let mut secrets = self.secrets(&kept)?;
        secrets.replace(secret.clone(), now).map_err(Refused::ManySecrets)?;
        let sealed = secrets.seal(&kept.subscription.id, &self.parts.sealer)?;
        let after = Subscription { regenerated_at: Some(now), updated_at: now, standard: true, ..(*kept.subscription).clone() };
        let mut batch = Batch::by(&caller.id, now);
        batch.put("subscription.secret_regenerated", Some(&kept), after.clone(), sealed);
        self.write(batch).await?;
        self.reseat(&after.id).await;
        Ok(Regenerated { subscription: Arc::new(after), secret })
    }

    /// Refuses a URL that no delivery could reach, as far as its text tells.
    fn vet_url(&self, url: &Url, field: &str) -> Result<(), Refused> {
        let policy = AddressPolicy::new(&self.settings.now().allow_targets);
        if url.scheme() != "https" && !policy.lets_through(url) {
            return Err(Refused::url(field, "must be https"));
        }
        if policy.forbids_literal(url) {
            return Err(Refused::url(field, "names an address that is not public"));
        }
        Ok(())
    }

    /// Refuses a glob that no known type fits.
    fn vet_events(&self, events: &[Glob], caller: &Caller, field: &str) -> Result<(), Refused> {
        let namespaces = caller.namespaces.as_ref();
        let Some((at, unknown)) = events.iter().enumerate().find(|(_, glob)| !self.parts.types.fits(glob, namespaces)) else {
            return Ok(());
        };
        let list = self.parts.types.list(namespaces);
        let near = nearest(unknown.text(), list.iter().map(String::as_str));
        let near = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        let field = if field == Names::of(Dialect::Honeyframe).events { field.to_owned() } else { format!("{field}[{at}]") };
        let text: String = unknown.text().chars().filter(|c| !c.is_control()).collect();
        Err(Refused::events(field, format!("is `{text}`, which no known event type fits{near}")))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Name, Kept>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, id: &Name) -> Option<Kept> {
        self.known().get(id).cloned()
    }

    fn all(&self, which: impl Fn(&Subscription) -> bool) -> Vec<Kept> {
        self.known().values().filter(|kept| which(&kept.subscription)).cloned().collect()
    }

    /// All others that the maker of `it` has for its URL, deleted ones too.
    fn of_one_url(&self, it: &Subscription) -> Vec<Kept> {
        self.all(|other| other.id != it.id && other.made_by == it.made_by && other.url == it.url)
    }

    fn found(&self, caller: &Caller, id: &str) -> Result<Kept, Refused> {
        let kept = Name::parse(id).and_then(|id| self.kept(&id));
        kept.filter(|kept| kept.subscription.is_living() && caller.covers(kept.subscription.namespaces.as_ref()))
            .ok_or(Refused::NotFound)
    }

    fn secrets(&self, kept: &Kept) -> Result<Secrets, Refused> {
        Ok(Secrets::open(&kept.sealed, &kept.subscription.id, &self.parts.sealer)?)
    }

    /// Commits `batch`, then takes it into memory. Under [`Subscriptions::changing`].
    async fn write(&self, batch: Batch) -> Result<(), Refused> {
        let Batch { puts, at_most, change, .. } = batch;
        let limit = at_most.as_ref().map_or(0, |at_most| at_most.count);
        match self.parts.store.change(Change { at_most, ..change }).await? {
            Changed::Done { revision } => {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                for (id, put) in puts {
                    match put {
                        Some((subscription, sealed)) => {
                            known.insert(id, Kept { subscription: Arc::new(subscription), sealed, revision });
                        }
                        None => _ = known.remove(&id),
                    }
                }
                Ok(())
            }
            Changed::TooMany => Err(Refused::TooMany(limit)),
            Changed::Conflict => {
                self.read_again().await?;
                Err(Refused::Raced)
            }
        }
    }

    /// Lets `work` write records of subscriptions past this room, while nothing here does, and takes them up.
    pub(crate) async fn meanwhile<T>(&self, work: impl Future<Output = store::Result<T>>) -> store::Result<T> {
        let _changing = self.changing.lock().await;
        let done = work.await?;
        self.read_again().await?;
        Ok(done)
    }

    /// Somebody else wrote records (secrets that were sealed anew): takes them into memory.
    async fn read_again(&self) -> store::Result<()> {
        for record in self.parts.store.records(RecordKind::Subscription, 0).await? {
            let read = record.doc.as_deref().and_then(|doc| Subscription::of_doc(&record.id, doc).ok());
            let (Some(subscription), Some(sealed)) = (read, record.sealed) else { continue };
            let kept = Kept { subscription: Arc::new(subscription), sealed, revision: record.revision };
            self.known.write().unwrap_or_else(PoisonError::into_inner).insert(kept.subscription.id.clone(), kept);
        }
        Ok(())
    }

    /// Takes up what other replicas have changed in the store since the last call: from then on it holds here too.
    ///
    /// # Errors
    /// The store's.
    pub async fn refresh(&self) -> store::Result<()> {
        let _changing = self.changing.lock().await;
        self.catch_up().await
    }

    /// Nobody else here changes one from now on, and what others have changed until now is known.
    async fn begin_change(&self) -> store::Result<tokio::sync::MutexGuard<'_, ()>> {
        let changing = self.changing.lock().await;
        if self.parts.store.is_shared() {
            self.catch_up().await?;
        }
        Ok(changing)
    }

    /// Reads what others have changed. Under [`Subscriptions::changing`].
    async fn catch_up(&self) -> store::Result<()> {
        let (now, looked) = (self.parts.clock.now(), *self.looked.lock().unwrap_or_else(PoisonError::into_inner));
        let blind = LOOKED_MAX < now.duration_since(looked).unsigned_abs();
        let seen = if blind { 0 } else { self.seen.load(Ordering::Relaxed) };
        let records = self.parts.store.records(RecordKind::Subscription, seen).await?;
        if blind {
            self.forget_all_but(&records);
        }
        for record in records {
            self.seen.fetch_max(record.revision, Ordering::Relaxed);
            let Some(id) = Name::parse(&record.id) else { continue };
            if self.kept(&id).is_some_and(|kept| record.revision <= kept.revision) {
                continue;
            }
            match record.doc.as_deref().map(|doc| Subscription::of_doc(&record.id, doc)) {
                None => self.forget(&id),
                Some(Ok(subscription)) => self.take(subscription, record.sealed.unwrap_or_default(), record.revision),
                Some(Err(reason)) => {
                    // What is known of it holds until it can be read: an event must not miss it.
                    error!(subscription.id = %id, reason, "a subscription that another replica keeps cannot be read and is left alone");
                    self.unread.write().unwrap_or_else(PoisonError::into_inner).insert(id);
                    continue;
                }
            }
            self.unread.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// Goes by `records` being all there are.
    fn forget_all_but(&self, records: &[Record]) {
        let there: BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
        self.unread.write().unwrap_or_else(PoisonError::into_inner).retain(|id| there.contains(id.as_str()));
        for gone in self.all(|it| !there.contains(it.id.as_str())) {
            self.forget(&gone.subscription.id);
        }
    }

    /// Goes by what another replica has made of a subscription.
    fn take(&self, subscription: Subscription, sealed: bytes::Bytes, revision: i64) {
        let kept = Kept { subscription: Arc::new(subscription), sealed, revision };
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(kept.subscription.id.clone(), kept.clone());
        let it = &kept.subscription;
        if it.is_planned() {
            self.plan_for(it);
        } else {
            self.parts.subscribers.remove(&it.id);
        }
        if let Some(running) = self.running.get() {
            running.deliver.follow_seat(&it.id);
        }
        self.look_again();
    }

    /// Another replica has forgotten it.
    fn forget(&self, id: &Name) {
        let was_there = self.known.write().unwrap_or_else(PoisonError::into_inner).remove(id).is_some();
        self.parts.subscribers.remove(id);
        if let Some(running) = self.running.get().filter(|_| was_there) {
            running.deliver.unseat(id);
        }
    }

    /// Plans for `subscription`, whose lane is there before the first delivery is.
    fn plan_for(&self, subscription: &Subscription) {
        if let Some(running) = self.running.get() {
            running.deliver.seat(&subscription.id);
        }
        self.parts.subscribers.put(subscription.subscriber());
    }

    /// Lets its lane go by what is kept now. A store that fails keeps the lane from noting it, not from doing it.
    async fn reseat(&self, id: &Name) {
        let Some(running) = self.running.get() else { return };
        if let Err(error) = running.deliver.reseat(id).await {
            tracing::warn!(target.name = %id, %error, "how the lane stands is not kept");
        }
    }

    /// There is something to do for whoever looks after the lives of subscriptions.
    fn look_again(&self) {
        if let Some(running) = self.running.get() {
            running.deliver.signs().ring();
        }
    }
}

/// Refuses to let the secret values of headers go to another place than they were given for: whoever may change a subscription need not
/// be whoever knows them.
fn keep_headers_from_strangers(it: &Subscription, url: &Url, headers: Option<&BTreeMap<String, Secret>>) -> Result<(), Refused> {
    let place = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    let whole = headers.is_some_and(|headers| headers.values().all(|value| value.reveal() != MASKED));
    if it.headers.is_empty() || whole || place(&it.url) == place(url) {
        return Ok(());
    }
    Err(Refused::request("headers", "are secret and were given for the former URL: give `headers` again with another URL"))
}

/// What is written in one commit.
struct Batch {
    change: Change,
    at_most: Option<AtMost>,
    puts: Vec<(Name, Option<(Subscription, bytes::Bytes)>)>,
    who: String,
    at: Timestamp,
}

impl Batch {
    /// What `who` does at `at`.
    fn by(who: &str, at: Timestamp) -> Self {
        Self { change: Change::default(), at_most: None, puts: Vec::new(), who: who.to_owned(), at }
    }

    /// Keeps `after` in the place of `before`, and notes that.
    fn put(&mut self, action: &str, before: Option<&Kept>, after: Subscription, sealed: bytes::Bytes) {
        self.note(action, before, Some(&after));
        self.put_silently(before, after, sealed);
    }

    /// Keeps `after` in the place of `before`: nothing that anybody did.
    fn put_silently(&mut self, before: Option<&Kept>, after: Subscription, sealed: bytes::Bytes) {
        // One that is no longer there does not count among those its maker may have.
        let owner = if after.is_living() { owner(after.namespaces.as_ref(), &after.made_by) } else { "deleted".to_owned() };
        self.change.writes.push(Write::Put {
            kind: RecordKind::Subscription,
            id: after.id.to_string(),
            owner,
            doc: after.to_doc(),
            sealed: Some(sealed.clone()),
            expected: before.map(|kept| kept.revision),
        });
        self.puts.push((after.id.clone(), Some((after, sealed))));
    }

    /// Forgets `before`.
    fn remove(&mut self, before: &Kept) {
        let id = before.subscription.id.clone();
        self.change.writes.push(Write::Remove { kind: RecordKind::Subscription, id: id.to_string(), expected: before.revision });
        self.puts.push((id, None));
    }

    fn note(&mut self, action: &str, before: Option<&Kept>, after: Option<&Subscription>) {
        let subject = after.or(before.map(|kept| &*kept.subscription)).map(|it| it.id.to_string()).unwrap_or_default();
        self.change.audit.push(NewAudit {
            at: self.at,
            who: self.who.clone(),
            action: action.to_owned(),
            subject,
            before: before.map(|kept| audit::shown(&kept.subscription)),
            after: after.map(audit::shown),
        });
    }
}

/// Among whose subscriptions one is counted: those of one set of namespaces; those of unbound tokens are one set; those of the token the
/// relay was started with are counted by themselves, and have no limit.
fn owner(namespaces: Option<&BTreeSet<String>>, made_by: &str) -> String {
    match namespaces {
        Some(namespaces) => {
            let parts: Vec<&[u8]> = namespaces.iter().flat_map(|it| [it.as_bytes(), &[0][..]]).collect();
            format!("namespaces:{}", sign::hex(&sign::sha256(&parts)))
        }
        None if made_by == BOOTSTRAP => BOOTSTRAP.to_owned(),
        None => "unbound".to_owned(),
    }
}
