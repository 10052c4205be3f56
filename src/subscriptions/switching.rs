//! Subscriptions switched off and on, and deleted: by their makers.
//!
//! While one is off, events are planned for it all the same, and wait. What waited when it is switched on goes out under a cap, which a
//! job counts ([`crate::jobs::Kind::Release`]).

use std::{sync::Arc, time::Duration};

use tracing::info;

use super::{Batch, Kept, Refused, Subscriptions, TRIES, Updated, succession};
use crate::{
    access::Caller,
    clock::{Timestamp, later},
    config::decode::Rate,
    deliver::TargetState,
    envelope::Name,
    jobs::Job,
    store::{self, Filter, State},
    subscriptions::{Disabled, Life, Release, Subscription, Why},
};

/// What an heir may send at once of what those before it have held: as much as the cap would let go in this time.
const AT_ONCE: Duration = Duration::from_secs(10);

impl Subscriptions {
    /// Switches it on; what it held is released at `rate`, or at `subscriptions.release_rate`. One that is on stays so.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::Releasing`]; else what the store says.
    pub async fn enable(&self, caller: &Caller, id: &str, rate: Option<Rate>) -> Result<Updated, Refused> {
        self.set(caller, id, |_| true, rate).await
    }

    /// Switches it off: what comes for it is held. One that is off stays so.
    ///
    /// # Errors
    /// [`Refused::NotFound`]; else what the store says.
    pub async fn disable(&self, caller: &Caller, id: &str) -> Result<Updated, Refused> {
        self.set(caller, id, |_| false, None).await
    }

    /// Switches it on where it is off, and off where it is on.
    ///
    /// # Errors
    /// As [`Subscriptions::enable`].
    pub async fn toggle(&self, caller: &Caller, id: &str, rate: Option<Rate>) -> Result<Updated, Refused> {
        self.set(caller, id, |it| it.disabled.is_some(), rate).await
    }

    async fn set(
        &self,
        caller: &Caller,
        id: &str,
        on: impl Fn(&Subscription) -> bool,
        rate: Option<Rate>,
    ) -> Result<Updated, Refused> {
        // What it came to is decided once: another replica's change must not turn a toggle back.
        let on = on(&self.found(caller, id)?.subscription);
        for _ in 1..TRIES {
            match self.set_once(caller, id, on, rate).await {
                Err(Refused::Raced) => {}
                done => return done,
            }
        }
        self.set_once(caller, id, on, rate).await
    }

    async fn set_once(&self, caller: &Caller, id: &str, on: bool, rate: Option<Rate>) -> Result<Updated, Refused> {
        let _changing = self.begin_change().await?;
        let kept = self.found(caller, id)?;
        if on == kept.subscription.disabled.is_none() {
            return Ok(Updated { job: self.release_of(&kept.subscription), subscription: kept.subscription });
        }
        let after = Subscription { updated_at: self.parts.clock.now(), ..(*kept.subscription).clone() };
        self.switched(caller, &kept, after, kept.sealed.clone(), Some(on), rate).await
    }

    /// Keeps `after` in the place of `kept`, switched on or off where `switched` says so. Under [`Subscriptions::changing`].
    pub(super) async fn switched(
        &self,
        caller: &Caller,
        kept: &Kept,
        mut after: Subscription,
        sealed: bytes::Bytes,
        switched: Option<bool>,
        rate: Option<Rate>,
    ) -> Result<Updated, Refused> {
        let now = after.updated_at;
        let action = match switched {
            None => "subscription.updated",
            Some(false) => {
                after.disabled = Some(Disabled { at: now, why: Why::Person, error: None });
                "subscription.disabled"
            }
            Some(true) => {
                after.disabled = None;
                after.release = self.begins_release(&after, rate, now).await?;
                "subscription.enabled"
            }
        };
        let ends = if switched == Some(false) { after.release.take() } else { None };
        let mut batch = Batch::by(&caller.id, now);
        batch.put(action, Some(kept), after.clone(), sealed);
        self.write(batch).await?;
        // Counted before the first of it can go.
        let job = if switched == Some(true) { self.count_release(&after.id, &caller.id).await } else { Ok(None) };
        self.reseat(&after.id).await;
        self.parts.subscribers.put(after.subscriber());
        if let Some(release) = ends {
            self.end_release(&release, "it was switched off again: what it holds is released when it is switched on").await;
        }
        if switched.is_some() {
            info!(target.name = %after.id, by = %caller.id, "{action}");
        }
        let job = job?;
        let subscription = self.kept(&after.id).map_or_else(|| Arc::new(after), |kept| kept.subscription);
        Ok(Updated { subscription, job })
    }

    /// What is to be released, where anything is held.
    async fn begins_release(&self, it: &Subscription, rate: Option<Rate>, now: Timestamp) -> Result<Option<Release>, Refused> {
        if self.heritage(&it.id).await? == 0 {
            return Ok(None);
        }
        self.release_from(now, rate.unwrap_or(self.settings.now().release_rate)).map(Some)
    }

    fn release_from(&self, now: Timestamp, rate: Rate) -> Result<Release, Refused> {
        if self.running.get().is_some_and(|running| running.jobs.too_many_releases()) {
            return Err(Refused::Releasing);
        }
        // Whatever was planned in this millisecond was planned before, too.
        Ok(Release::new(later(now, Duration::from_millis(1)), rate))
    }

    /// Lets a job count the release of `id`, which has begun; `None`: what is to be counted is still being handed over to it, and whoever
    /// does that asks again. Under [`Subscriptions::changing`].
    pub(super) async fn count_release(&self, id: &Name, by: &str) -> Result<Option<Job>, Refused> {
        let (Some(running), Some(kept)) = (self.running.get(), self.kept(id)) else { return Ok(None) };
        let Some(release) = kept.subscription.release.clone() else { return Ok(None) };
        if self.inherits(id).await? {
            return Ok(None);
        }
        let job = running.jobs.release(id, release.until, release.per_second(), by).await?;
        let release = release.counted_by(&job.id);
        let after = Subscription { release: Some(release), ..(*kept.subscription).clone() };
        let mut batch = Batch::by(by, self.parts.clock.now());
        batch.put_silently(Some(&kept), after, kept.sealed.clone());
        self.write(batch).await?;
        Ok(Some(job))
    }

    fn release_of(&self, it: &Subscription) -> Option<Job> {
        self.running.get()?.jobs.get(it.release.as_ref()?.job.as_deref()?)
    }

    /// Ends the job that counts `release`, without cancelling anything.
    pub(super) async fn end_release(&self, release: &Release, why: &str) {
        let (Some(running), Some(job)) = (self.running.get(), &release.job) else { return };
        if let Err(error) = running.jobs.end_release(job, why).await {
            tracing::warn!(job.id = %job, %error, "a job that has ended is not kept as ended");
        }
    }

    /// Deletes it. What waits for it goes to another of the same token with the same URL: at once where one was made since that gets all
    /// that this one got; else it is held for `subscriptions.grace` for one that may come, and cancelled then.
    ///
    /// # Errors
    /// [`Refused::NotFound`], [`Refused::Releasing`]; else what the store says.
    pub async fn delete(&self, caller: &Caller, id: &str) -> Result<Arc<Subscription>, Refused> {
        for _ in 1..TRIES {
            match self.delete_once(caller, id).await {
                Err(Refused::Raced) => {}
                done => return done,
            }
        }
        self.delete_once(caller, id).await
    }

    async fn delete_once(&self, caller: &Caller, id: &str) -> Result<Arc<Subscription>, Refused> {
        let _changing = self.begin_change().await?;
        let kept = self.found(caller, id)?;
        let now = self.parts.clock.now();
        let it = &kept.subscription;
        let mut batch = Batch::by(&caller.id, now);
        let (held, heir) = (self.holds(it), succession::heir(&kept, self.of_one_url(it)));
        let life = match &heir {
            Some(heir) => Life::Adopted { by: heir.subscription.id.clone(), at: now },
            None => Life::InGrace { until: later(now, self.settings.now().grace), held },
        };
        let after = Subscription { life, release: None, updated_at: now, ..(**it).clone() };
        batch.put("subscription.deleted", Some(&kept), after.clone(), kept.sealed.clone());
        if let Some(heir) = heir.as_ref().filter(|_| held) {
            let release = self.release_of_heir(&heir.subscription, std::slice::from_ref(&after.id), now).await?;
            if let Some(release) = release {
                let under_cap = Subscription { release: Some(release), ..(*heir.subscription).clone() };
                batch.put_silently(Some(heir), under_cap, heir.sealed.clone());
            }
        }
        self.write(batch).await?;
        if let Some(heir) = &heir {
            self.parts.subscribers.remove(&after.id);
            self.reseat(&heir.subscription.id).await;
        }
        self.reseat(&after.id).await;
        if let Some(release) = &it.release {
            self.end_release(release, "its subscription was deleted").await;
        }
        self.look_again();
        info!(target.name = %after.id, by = %caller.id, adopted = heir.is_some(), "a subscription was deleted");
        Ok(Arc::new(after))
    }

    /// Whether what waits for `it` is held, so that it may be much.
    fn holds(&self, it: &Subscription) -> bool {
        let lane = || Some(self.running.get()?.deliver.seat_status(&it.id)?.state != TargetState::Ok);
        it.disabled.is_some() || it.release.is_some() || lane().unwrap_or_default()
    }

    /// What `heir` begins to release, of what those whose place it takes have held. `None`: no more than may go at once, or it has a
    /// release already, or it is off and releases what it holds once it is enabled. Under [`Subscriptions::changing`].
    pub(super) async fn release_of_heir(
        &self,
        heir: &Subscription,
        of: &[Name],
        now: Timestamp,
    ) -> Result<Option<Release>, Refused> {
        if heir.release.is_some() || heir.disabled.is_some() {
            return Ok(None);
        }
        let mut held = 0;
        for name in of {
            held += self.heritage(name).await?;
        }
        let rate = self.settings.now().release_rate;
        if held <= Release::new(now, rate).within(AT_ONCE) {
            return Ok(None);
        }
        self.release_from(now, rate).map(Some)
    }

    /// How many deliveries wait for `name`, and for those whose place it took.
    async fn heritage(&self, name: &Name) -> store::Result<u64> {
        let mut waits = self.parts.store.count_deliveries(waiting(name)).await?;
        for old in self.predecessors(name) {
            waits += self.parts.store.count_deliveries(waiting(&old)).await?;
        }
        Ok(waits)
    }

    /// Those whose place `name` took, directly or after others.
    fn predecessors(&self, name: &Name) -> Vec<Name> {
        let adopted = self.all(|it| matches!(it.life, Life::Adopted { .. }));
        let names = adopted.into_iter().map(|kept| kept.subscription.id.clone());
        names.filter(|old| self.heir(old).as_ref() == Some(name)).collect()
    }

    /// Whether something that waits for a predecessor of `name` is still to be handed over.
    async fn inherits(&self, name: &Name) -> store::Result<bool> {
        for old in self.predecessors(name) {
            if 0 < self.parts.store.count_deliveries(waiting(&old)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whatever waits for one target.
pub(super) fn waiting(target: &Name) -> Filter {
    Filter { target: Some(target.to_string()), state: Some(State::Pending), ..Filter::default() }
}

/// Says what the store said of something that is tried again later.
pub(super) fn later_again(what: &str, error: &store::Error) {
    tracing::warn!(%error, "{what}; it is tried again");
}
