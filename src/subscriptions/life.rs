//! What becomes of subscriptions by themselves: switched off when their receivers are gone or take nothing, forgotten some time after they
//! were deleted, with what waits for them handed over or cancelled, and held to what they may hold.
//!
//! Facts: `delivery.md`, "What moves a delivery", "Clocks", "What answers mean" (410), "Breaker".

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::{
    Batch, Kept, Refused, Running, Subscriptions,
    model::{Disabled, Life, Subscription, Why},
    owner,
    switching::{later_again, waiting},
};
use crate::{
    access::BOOTSTRAP,
    announce::Notice,
    clock::{Timestamp, earlier, later, short},
    deliver::{Ailment, Deliver, Outlets, Told, Tried},
    envelope::Name,
    jobs::{Jobs, Kind, State as JobState},
    route::subscribers,
    store::{self, Backlog, Filter, HandedOver, HeldBound, Page, State},
};

/// Who changes subscriptions where no person does, in the audit.
const RELAY: &str = "relay";
/// A subscription that is broken for so long is switched off.
const BROKEN_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long one that is gone is remembered: whatever was planned for it in its last moment comes to light by then.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How long what the store refused is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of an event that is as large as usually may be (`server.max_body`): fewer than fit into the bound at that size are not weighed.
const EVENT_MAX: u64 = 1024 * 1024;
/// What waits for a subscription that is sent to is weighed again once it has grown by one part in so many: all of it is looked at.
const GROWN: u64 = 10;
/// Deliveries that are cancelled at once.
const SLICE: u32 = 500;

/// What is to be done, as far as it is not done yet.
#[derive(Default)]
struct Todo {
    ailing: BTreeMap<Name, (Ailment, Url)>,
    strays: BTreeSet<Name>,
    heavy: BTreeSet<Name>,
    released: BTreeSet<Name>,
    /// Those that are gone and for which nothing waits any more: it was handed over, or cancelled.
    settled: BTreeSet<Name>,
    /// Those that are gone and of which that is being done.
    settling: BTreeSet<Name>,
    /// Of these, those for which more came to light since it was begun.
    again: BTreeSet<Name>,
    /// The lanes of some that are gone are another replica's, or nobody's yet: that may change without a sign.
    elsewhere: bool,
}

impl Todo {
    /// More came to light for `name`, which is gone.
    fn is_not_settled(&mut self, name: &Name) {
        self.settled.remove(name);
        if self.settling.contains(name) {
            self.again.insert(name.clone());
        }
    }

    /// What waited for `name` is settled, but for what came to light since.
    fn is_settled(&mut self, name: Name) {
        self.settling.remove(&name);
        if !self.again.remove(&name) {
            self.settled.insert(name);
        }
    }

    fn add(&mut self, told: Told) {
        let Told { ailing, strays, heavy, released, .. } = told;
        for (name, ailment) in ailing {
            self.ailing.entry(name).or_insert(ailment);
        }
        self.strays.extend(strays);
        self.heavy.extend(heavy);
        self.released.extend(released);
    }
}

impl Subscriptions {
    /// Lets lanes begin with what waits for subscriptions, and looks after their lives until `stop`. Once, on a runtime.
    pub async fn start(self: &Arc<Self>, deliver: Arc<Deliver>, jobs: Arc<Jobs>, stop: CancellationToken) -> store::Result<()> {
        let names = self.all(Subscription::is_planned).into_iter().map(|kept| kept.subscription.id.clone()).collect();
        let outlets = Arc::downgrade(self);
        let outlets: Weak<dyn Outlets> = outlets;
        deliver.open_seats(outlets, names, &self.settings.now().allow_targets).await?;
        let held: Vec<Backlog> = self.parts.store.backlog(None).await?;
        let mut todo = Todo { released: self.releasing(), ..Todo::default() };
        todo.heavy.extend(deliver.held_seats(&held).into_iter().map(|(name, _)| name));
        if self.running.set(Running { deliver, jobs }).is_err() {
            warn!("subscriptions were started twice");
            return Ok(());
        }
        tokio::spawn(run(self.clone(), todo, stop));
        Ok(())
    }

    /// Those whose release has begun.
    fn releasing(&self) -> BTreeSet<Name> {
        self.all(|it| it.release.is_some()).into_iter().map(|kept| kept.subscription.id.clone()).collect()
    }

    /// What housekeeping does for subscriptions: notes which event types came, and lets the oldest of what is held for too long, or is
    /// too much, expire.
    pub async fn tidy(&self, backlog: &[Backlog]) -> store::Result<()> {
        self.forget_erased().await?;
        self.parts.types.keep(&*self.parts.store).await?;
        let Some(running) = self.running.get() else { return Ok(()) };
        running.deliver.call_for(backlog);
        let cutoff = earlier(self.parts.clock.now(), self.settings.now().held_max.age);
        let held: BTreeMap<Name, Timestamp> = running.deliver.held_seats(backlog).into_iter().collect();
        let waiting: BTreeMap<&Name, u64> = backlog.iter().map(|row| (&row.target, row.waiting)).collect();
        self.weighed.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| waiting.get(name).is_some_and(|it| 0 < *it));
        // Whoever owns a lane knows what of it is under way.
        for row in backlog.iter().filter(|row| running.deliver.works_on(&row.target)) {
            let Some(since) = held.get(&row.target) else {
                if self.may_be_heavy(row) {
                    self.bound(running, &row.target, None).await?;
                }
                continue;
            };
            let old = *since <= cutoff && row.oldest_at.is_some_and(|at| at <= cutoff);
            let weighed = self.weighed.lock().unwrap_or_else(PoisonError::into_inner).insert(row.target.clone(), row.waiting);
            if old || weighed != Some(row.waiting) {
                self.bound(running, &row.target, old.then_some(cutoff)).await?;
            }
        }
        Ok(())
    }

    /// Forgets which event types came of namespaces that were erased. Every replica does: each has its own memory of them, and writes all
    /// of that over what the others wrote.
    pub(super) async fn forget_erased(&self) -> store::Result<()> {
        let Some(running) = self.running.get() else { return Ok(()) };
        let mut jobs = running.jobs.list();
        jobs.retain(|job| job.kind == Kind::Erase && job.state == JobState::Done && job.filter.namespaces.is_some());
        let known = |id: &str| self.erased.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
        for job in jobs.iter().filter(|job| !known(&job.id)) {
            for namespace in job.filter.namespaces.iter().flatten() {
                // Of one source only, or others came since: the store names it anyway.
                let rest = Filter { namespaces: Some(vec![namespace.clone()]), limit: 1, ..Filter::default() };
                if !self.parts.types.knows(namespace) || self.parts.store.events(rest).await?.is_empty() {
                    self.parts.types.forget(namespace);
                }
            }
            self.erased.lock().unwrap_or_else(PoisonError::into_inner).insert(job.id.clone());
        }
        let there: BTreeSet<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        self.erased.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| there.contains(id.as_str()));
        Ok(())
    }

    /// Whether what waits for a subscription that is sent to may be more than one may hold, as far as its number tells, and has grown
    /// since it was last weighed: a receiver that takes less than comes fills the disk as one that is off. It may wait for as long as it
    /// takes, though: a delivery that was never tried does not age (`delivery.md`, "Clocks").
    fn may_be_heavy(&self, row: &Backlog) -> bool {
        if row.waiting < self.settings.now().held_max.bytes / EVENT_MAX || !self.keeps(&row.target) {
            return false;
        }
        let mut weighed = self.weighed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = weighed.entry(row.target.clone()).or_default();
        let grown = *last + *last / GROWN < row.waiting;
        *last = if grown { row.waiting } else { row.waiting.min(*last) };
        grown
    }

    /// Lets the oldest of what `name` holds expire, as far as it is more than it may hold or waits since `cutoff`; tells of that.
    async fn bound(&self, running: &Running, name: &Name, cutoff: Option<Timestamp>) -> store::Result<()> {
        let held_max = self.settings.now().held_max;
        let reason = format!("a subscription holds at most {} and {} bytes", short(held_max.age), held_max.bytes);
        let mut count = 0;
        loop {
            let mut in_flight = running.deliver.in_flight();
            in_flight.sort_unstable();
            let bound = HeldBound { cutoff, bytes: held_max.bytes, reason: reason.clone() };
            let expired = self.parts.store.bound_held(name, bound, in_flight, self.parts.clock.now()).await?;
            if expired.is_empty() {
                break;
            }
            running.deliver.forget_expired(name, &expired);
            count += expired.len() as u64;
        }
        if 0 < count {
            warn!(target.name = %name, deliveries = count, "expired: {reason}");
            self.parts.announcer.tell(Notice::Expired { target: name.clone(), count });
        }
        Ok(())
    }
}

async fn run(all: Arc<Subscriptions>, mut todo: Todo, stop: CancellationToken) {
    let Some(running) = all.running.get() else { return };
    let signs = running.deliver.signs();
    let mut settling: JoinSet<Name> = JoinSet::new();
    loop {
        todo.add(signs.take());
        let failed = match all.round(running, &mut todo, &mut settling).await {
            Ok(()) => false,
            Err(Refused::Store(store::Error::Closed)) => return,
            Err(error) => {
                warn!(%error, "what is due for subscriptions is not done; it is tried again");
                true
            }
        };
        let next = all.next_time(running, &todo);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(ended) = settling.join_next() => {
                if let Ok(name) = ended {
                    todo.is_settled(name);
                }
            }
            () = signs.rung(), if !failed => {}
            () = sleep_until(&all, next), if !failed => {}
            () = tokio::time::sleep(AGAIN), if failed || todo.elsewhere => {}
        }
    }
}

async fn sleep_until(all: &Subscriptions, at: Option<Timestamp>) {
    match at {
        Some(at) => all.parts.clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Subscriptions {
    /// When something is due next.
    fn next_time(&self, running: &Running, todo: &Todo) -> Option<Timestamp> {
        // Those that others look for behind them are forgotten when these are.
        let heirs: BTreeSet<Name> = {
            let known = self.known();
            let heir = |kept: &Kept| match &kept.subscription.life {
                Life::Adopted { by, .. } => Some(by.clone()),
                _ => None,
            };
            known.values().filter_map(heir).collect()
        };
        let of_life = |kept: &Kept| match &kept.subscription.life {
            Life::Living => None,
            Life::InGrace { until, .. } => Some(*until),
            // The end of that is what is waited for.
            _ if todo.settling.contains(&kept.subscription.id) || heirs.contains(&kept.subscription.id) => None,
            Life::Adopted { at, .. } | Life::Over { at } => Some(later(*at, REMEMBERED)),
        };
        let broken = running.deliver.signs().broken();
        let lives = self.known().values().filter_map(of_life).min();
        lives.into_iter().chain(broken.values().map(|broken| later(broken.since, BROKEN_MAX))).min()
    }

    async fn round(self: &Arc<Self>, running: &Running, todo: &mut Todo, settling: &mut JoinSet<Name>) -> Result<(), Refused> {
        while let Some((name, (ailment, url))) = todo.ailing.first_key_value().map(|(name, it)| (name.clone(), it.clone())) {
            let (why, tried) = match ailment {
                Ailment::Gone(tried) => (Why::Gone, tried),
                Ailment::Undelivered(tried) => (Why::Undelivered, tried),
            };
            self.switch_off(running, &name, why, Some(tried), Some(&url)).await?;
            todo.ailing.remove(&name);
        }
        let now = self.parts.clock.now();
        for (name, broken) in running.deliver.signs().broken() {
            if later(broken.since, BROKEN_MAX) <= now {
                let tried = match broken.by {
                    Some(tried) => Some(tried),
                    None => self.oldest_waiting(&name).await?,
                };
                self.switch_off(running, &name, Why::Broken, tried, None).await?;
            }
        }
        while let Some(name) = todo.released.first().cloned() {
            self.end_of_release(running, &name).await?;
            todo.released.remove(&name);
        }
        while let Some(name) = todo.heavy.first().cloned() {
            // Another replica that owns its lane weighs what it holds when it tidies.
            if running.deliver.works_on(&name) {
                self.bound(running, &name, None).await?;
            }
            todo.heavy.remove(&name);
        }
        while let Some(name) = todo.strays.first().cloned() {
            self.stray(running, &name, todo).await?;
            todo.strays.remove(&name);
        }
        self.end_graces().await?;
        self.settle_all(todo, settling);
        self.forget_gone(todo).await
    }

    /// The oldest delivery that waits for `name`, and what its last attempt ended with.
    async fn oldest_waiting(&self, name: &Name) -> store::Result<Option<Tried>> {
        let oldest = Filter { page: Page::After(0), limit: 1, ..waiting(name) };
        let rows = self.parts.store.deliveries(oldest).await?;
        Ok(rows.into_iter().next().map(|row| Tried {
            delivery: row.delivery.id,
            event_id: row.event_id,
            event_type: row.r#type,
            error: row.delivery.error,
        }))
    }

    /// Switches `name` off, as its receiver takes nothing, which stands at `url` where that is given; tells of that. Nothing happens
    /// where another stands there by now.
    async fn switch_off(
        &self,
        running: &Running,
        name: &Name,
        why: Why,
        tried: Option<Tried>,
        url: Option<&Url>,
    ) -> Result<(), Refused> {
        let _changing = self.begin_change().await?;
        let Some(kept) = self.kept(name).filter(|kept| kept.subscription.is_enabled()) else {
            running.deliver.signs().forget(name);
            return Ok(());
        };
        if url.is_some_and(|url| *url != kept.subscription.url) {
            return Ok(());
        }
        let now = self.parts.clock.now();
        let error = tried.as_ref().and_then(|tried| tried.error.clone());
        let disabled = Some(Disabled { at: now, why, error: error.clone() });
        let after = Subscription { disabled, release: None, updated_at: now, ..(*kept.subscription).clone() };
        let mut batch = Batch::by(RELAY, now);
        batch.put("subscription.disabled", Some(&kept), after, kept.sealed.clone());
        self.write(batch).await?;
        self.reseat(name).await;
        if let Some(release) = &kept.subscription.release {
            self.end_release(release, "it was switched off again: what it holds is released when it is switched on").await;
        }
        warn!(target.name = %name, cause = why.word(), error, "a subscription was switched off");
        let event = tried.map(|tried| (tried.delivery, tried.event_id, tried.event_type));
        self.parts.announcer.tell(Notice::Disabled { target: name.clone(), why: why.word(), error, event });
        Ok(())
    }

    /// Takes the cap off `name` once its release has ended; where a person has cancelled that, cancels what it still holds of it.
    async fn end_of_release(&self, running: &Running, name: &Name) -> Result<(), Refused> {
        let Some(release) = self.kept(name).and_then(|kept| kept.subscription.release.clone()) else { return Ok(()) };
        // It may have begun, or ended, on another replica.
        running.jobs.refresh().await?;
        let state = release.job.as_ref().and_then(|job| running.jobs.get(job)).map(|job| job.state);
        match (&release.job, state) {
            (Some(_), Some(JobState::Running)) => return Ok(()),
            (Some(job), Some(JobState::Cancelled)) => {
                // There may be many of them: nobody waits for that to change any other subscription.
                let filter = Filter { until: Some(release.until), ..waiting(name) };
                let reason = format!("the release of what its subscription held was cancelled ({job})");
                let cancelled = self.cancel_all(running, filter, &reason).await?;
                info!(target.name = %name, job.id = %job, cancelled, "what was not released yet is cancelled");
            }
            _ => {}
        }
        let _changing = self.begin_change().await?;
        let Some(kept) = self.kept(name).filter(|kept| kept.subscription.release.as_ref() == Some(&release)) else {
            // Somebody has switched it meanwhile.
            return Ok(());
        };
        if release.job.is_none() {
            // The relay was killed before the job began.
            self.count_release(name, RELAY).await?;
            return Ok(());
        }
        let after = Subscription { release: None, ..(*kept.subscription).clone() };
        let mut batch = Batch::by(RELAY, self.parts.clock.now());
        batch.put_silently(Some(&kept), after, kept.sealed.clone());
        self.write(batch).await?;
        self.reseat(name).await;
        Ok(())
    }

    /// Cancels what `filter` selects, for this reason; answers how many.
    async fn cancel_all(&self, running: &Running, filter: Filter, reason: &str) -> store::Result<u64> {
        let (mut cancelled, mut after) = (0, 0);
        loop {
            let rows = self.parts.store.deliveries(Filter { page: Page::After(after), limit: SLICE, ..filter.clone() }).await?;
            let Some(last) = rows.last() else { return Ok(cancelled) };
            after = last.delivery.id.place();
            let ids = rows.into_iter().map(|row| row.delivery.id).collect();
            let ids = self.parts.store.cancel(ids, reason, self.parts.clock.now()).await?;
            running.deliver.forget(&ids);
            cancelled += ids.len() as u64;
        }
    }

    /// Something was committed for `name`, which has no lane.
    async fn stray(&self, running: &Running, name: &Name, todo: &mut Todo) -> Result<(), Refused> {
        if self.parts.store.is_shared() {
            // It may be another replica's, made a moment ago.
            self.refresh().await?;
        }
        match self.kept(name).map(|kept| kept.subscription.life.clone()) {
            Some(Life::Living | Life::InGrace { .. }) => running.deliver.wake(std::slice::from_ref(name)),
            Some(Life::Adopted { .. } | Life::Over { .. }) => todo.is_not_settled(name),
            None => {
                // Targets of the file that are gone are not ours to cancel, nor is what a newer relay keeps.
                if subscribers::is_id(name) && !self.cannot_read(name) {
                    self.cancel_all(running, waiting(name), "its subscription is gone").await?;
                }
            }
        }
        Ok(())
    }

    /// Ends the grace of those for which nobody came.
    async fn end_graces(&self) -> Result<(), Refused> {
        let now = self.parts.clock.now();
        let crowded = self.beyond_room();
        let ends =
            |it: &Subscription| matches!(&it.life, Life::InGrace { until, .. } if *until <= now || crowded.contains(&it.id));
        for kept in self.all(ends) {
            let _changing = self.begin_change().await?;
            let name = kept.subscription.id.clone();
            // Somebody may have come in this moment.
            let Some(kept) = self.kept(&name).filter(|kept| matches!(kept.subscription.life, Life::InGrace { .. })) else {
                continue;
            };
            let after = Subscription { life: Life::Over { at: now }, updated_at: now, ..(*kept.subscription).clone() };
            let mut batch = Batch::by(RELAY, now);
            batch.put_silently(Some(&kept), after, kept.sealed.clone());
            self.write(batch).await?;
            self.parts.subscribers.remove(&name);
        }
        Ok(())
    }

    /// Those in grace that are more than `subscriptions.limit` of one owner, who might make and delete others without end: events are
    /// planned for all of them. The oldest go.
    fn beyond_room(&self) -> BTreeSet<Name> {
        let limit = usize::try_from(self.settings.now().limit).unwrap_or(usize::MAX);
        let mut owners: HashMap<String, Vec<(Timestamp, i64, Name)>> = HashMap::new();
        for kept in self.all(|it| matches!(it.life, Life::InGrace { .. }) && it.made_by != BOOTSTRAP) {
            let it = &kept.subscription;
            let owner = owner(it.namespaces.as_ref(), &it.made_by);
            owners.entry(owner).or_default().push((it.updated_at, kept.revision, it.id.clone()));
        }
        let mut beyond = BTreeSet::new();
        for mut deleted in owners.into_values().filter(|deleted| limit < deleted.len()) {
            deleted.sort_unstable();
            let many = deleted.len() - limit;
            beyond.extend(deleted.into_iter().take(many).map(|(.., id)| id));
        }
        beyond
    }

    /// Begins to settle what waits for those that are gone.
    fn settle_all(self: &Arc<Self>, todo: &mut Todo, settling: &mut JoinSet<Name>) {
        todo.elsewhere = false;
        for kept in self.all(|it| matches!(it.life, Life::Adopted { .. } | Life::Over { .. })) {
            let name = kept.subscription.id.clone();
            // What is under way on another replica must not be sent from elsewhere too: whoever owns the lane hands it over.
            let ours = !self.parts.store.is_shared() || self.owns(&name);
            todo.elsewhere |= !ours;
            if ours && !todo.settled.contains(&name) && todo.settling.insert(name.clone()) {
                let all = self.clone();
                settling.spawn(async move {
                    all.settle(&name).await;
                    name
                });
            }
        }
    }

    fn owns(&self, name: &Name) -> bool {
        self.running.get().is_some_and(|running| running.deliver.ownership().owns(name))
    }

    /// Gives what waits for `old` to the one that took its place, once nothing is under way there; cancels it where nobody did.
    async fn settle(&self, old: &Name) {
        let Some(running) = self.running.get() else { return };
        if let Some(ended) = running.deliver.unseat(old) {
            // What is under way there must not be sent from elsewhere too.
            ended.cancelled().await;
        }
        let mut all = HandedOver::default();
        loop {
            let slice = match self.heir(old) {
                Some(heir) => self.hand_over_slice(running, old, &heir).await,
                None => self.cancel_rest(running, old).await,
            };
            match slice {
                Ok(HandedOver { moved: 0, dropped: 0 }) => break,
                Ok(slice) => (all.moved, all.dropped) = (all.moved + slice.moved, all.dropped + slice.dropped),
                Err(store::Error::Closed) => return,
                Err(error) => {
                    later_again("what waits for a deleted subscription is neither handed over nor cancelled", &error);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        if all != HandedOver::default() {
            info!(target.name = %old, moved = all.moved, dropped = all.dropped, "what waited for a deleted subscription was handed over");
        }
        if let Some(heir) = self.heir(old) {
            // Where that is under a cap, all that is to be counted may have come by now.
            running.deliver.signs().released(&heir);
        }
    }

    /// Cancels what waits for `old`, whose place nobody took.
    async fn cancel_rest(&self, running: &Running, old: &Name) -> store::Result<HandedOver> {
        let reason = "its subscription was deleted, and nobody took its place in time";
        let cancelled = self.cancel_all(running, waiting(old), reason).await?;
        if 0 < cancelled {
            info!(target.name = %old, cancelled, "nobody took the place of a deleted subscription: what waited for it is cancelled");
        }
        Ok(HandedOver::default())
    }

    async fn hand_over_slice(&self, running: &Running, old: &Name, heir: &Name) -> store::Result<HandedOver> {
        let slice = self.parts.store.hand_over(old, heir, self.parts.clock.now()).await?;
        running.deliver.wake(std::slice::from_ref(heir));
        Ok(slice)
    }

    /// Who takes over what comes for `old`: the last of those that took each other's place. `None`: that one is gone.
    pub(super) fn heir(&self, old: &Name) -> Option<Name> {
        let known = self.known();
        let mut name = old.clone();
        // A place is taken by one that was made later: there is no ring.
        for _ in 0..=known.len() {
            match &known.get(&name)?.subscription.life {
                Life::Living | Life::InGrace { .. } => return Some(name),
                Life::Adopted { by, .. } => name = by.clone(),
                Life::Over { .. } => return None,
            }
        }
        None
    }

    /// Forgets those that have been gone for long enough.
    async fn forget_gone(&self, todo: &mut Todo) -> Result<(), Refused> {
        let now = self.parts.clock.now();
        let gone = |it: &Subscription| match it.life {
            Life::Adopted { at, .. } | Life::Over { at } => later(at, REMEMBERED) <= now && todo.settled.contains(&it.id),
            Life::Living | Life::InGrace { .. } => false,
        };
        for kept in self.all(gone) {
            let name = kept.subscription.id.clone();
            let left = self.parts.store.count_deliveries(Filter { state: Some(State::Pending), ..waiting(&name) }).await?;
            if 0 < left {
                todo.settled.remove(&name);
                continue;
            }
            // Who comes after one that is forgotten must not be looked for under its name.
            if self.all(|it| matches!(&it.life, Life::Adopted { by, .. } if *by == name)).is_empty() {
                let _changing = self.begin_change().await?;
                let Some(kept) = self.kept(&name) else { continue };
                let mut batch = Batch::by(RELAY, now);
                batch.note("subscription.removed", Some(&kept), None);
                batch.remove(&kept);
                self.write(batch).await?;
                if let Some(running) = self.running.get() {
                    running.deliver.forget_lane(&name).await?;
                }
                todo.settled.remove(&name);
            }
        }
        Ok(())
    }
}
