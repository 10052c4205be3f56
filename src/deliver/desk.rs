//! One lane as others see it: what it goes by, what it is told, and where its condition is kept.
//!
//! A condition is one record of the store, which every write takes the place of by its revision. Whoever works on the lane
//! ([`super::inbox::State::mine`]) knows better than the record, but for what people want: who asks a replica that does not work on it
//! changes the record, and the owner does what is new in it ([`Condition::obey`]). For everybody else the record is all there is to know.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Destination,
    attempt::Tools,
    condition::{Condition, quiet_of},
    endpoint::Endpoint,
    inbox::Inbox,
    seats,
    signs::Signs,
    status::{TargetState, TargetStatus},
};
use crate::{
    clock::Timestamp,
    envelope::Name,
    live::Live,
    store::{self, Change, Changed, Record, RecordKind, Store, Write},
};

/// How often a change is made again that another replica was faster than.
const TRIES: u32 = 10;

/// What a lane goes by until another file holds: its destination, and what attempts are made with.
pub(super) struct Today {
    pub(super) destination: Arc<Destination>,
    pub(super) tools: Tools,
}

impl Today {
    /// Where it sends, where that is a URL.
    pub(super) fn url(&self) -> Option<&Url> {
        self.destination.kind.endpoint().map(Endpoint::url)
    }

    /// Whether `other` sends to the same URL.
    pub(super) fn goes_where(&self, other: &Self) -> bool {
        self.url() == other.url()
    }
}

/// See the top of this file.
pub(super) struct Desk {
    name: Name,
    today: Live<Today>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) store: Arc<dyn Store>,
    /// Cancelled once nothing of the lane is under way and nothing ever will be.
    pub(super) ended: CancellationToken,
    /// Of a subscription's lane.
    pub(super) seated: Option<Seated>,
    /// One of this process writes the record at a time.
    writing: tokio::sync::Mutex<()>,
}

/// What only the lanes of subscriptions have.
pub(super) struct Seated {
    /// Where they tell what befalls their subscriptions.
    pub(super) signs: Arc<Signs>,
    /// Since when it is switched off, as whoever keeps the subscription last said.
    off: Mutex<Option<Timestamp>>,
}

impl Desk {
    /// The desk of a lane that goes by `today`, well at `now`.
    pub(super) fn new(today: Arc<Today>, store: Arc<dyn Store>, now: Timestamp) -> Self {
        let destination = today.destination.clone();
        let inbox = Inbox::new(Condition::new(destination.concurrency, quiet_of(&destination), now));
        Self {
            name: destination.name.clone(),
            today: Live::new(today),
            inbox: Arc::new(inbox),
            store,
            ended: CancellationToken::new(),
            seated: None,
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// The desk of a subscription's lane, which does not work yet; it is switched off since `off`.
    pub(super) fn of_subscription(
        today: Arc<Today>,
        store: Arc<dyn Store>,
        now: Timestamp,
        signs: Arc<Signs>,
        off: Option<Timestamp>,
    ) -> Self {
        let condition = Condition::of_subscription(today.destination.concurrency, off, now);
        let desk = Self { seated: Some(Seated { signs, off: Mutex::new(off) }), ..Self::new(today, store, now) };
        {
            let mut state = desk.inbox.state();
            (state.condition, state.asleep) = (condition, true);
        }
        desk
    }

    /// The same, going on as the lane of `former`, whose destination it takes the place of, stands at `now`.
    pub(super) fn after(today: Arc<Today>, former: &Self, now: Timestamp) -> Self {
        let desk = Self::new(today, former.store.clone(), now);
        let condition = {
            let state = former.inbox.state();
            state.loaded.then(|| state.condition.clone())
        };
        if let Some(mut condition) = condition {
            condition.follow(&desk.today().destination, now);
            condition.breaker.probe_lost();
            let mut state = desk.inbox.state();
            (state.condition, state.loaded, state.version) = (condition, true, 1);
            state.anew = true;
        }
        desk
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// What the lane goes by now.
    pub(super) fn today(&self) -> Arc<Today> {
        self.today.now()
    }

    /// Whether it still goes by `today`.
    pub(super) fn goes_by(&self, today: &Arc<Today>) -> bool {
        self.today.is(today)
    }

    /// Goes by `today` from the next attempt on. False: its lane has ended, and nothing happens.
    pub(super) fn follow(&self, today: &Arc<Today>, now: Timestamp) -> bool {
        let mut state = self.inbox.state();
        if self.ended.is_cancelled() {
            return false;
        }
        state.retired = false;
        state.condition.follow(&today.destination, now);
        if self.seated.is_some() && !self.today().goes_where(today) {
            state.condition.begins_anew();
        }
        drop(state);
        self.today.replace(today.clone());
        self.inbox.bell.notify_one();
        true
    }

    /// Its destination is gone: nothing more is begun, and the lane ends when what is under way is recorded.
    pub(super) fn retire(&self) {
        self.inbox.state().retired = true;
        self.inbox.bell.notify_one();
    }

    /// Ends it, unless its destination has come back.
    pub(super) fn end(&self) -> bool {
        // Under the lock, so that nobody goes on with a lane that has ended.
        let mut state = self.inbox.state();
        if state.retired {
            state.mine = false;
            self.ended.cancel();
        }
        state.retired
    }

    /// How the lane stands at `now`; `here`: it is this replica's, which counts what it sends.
    pub(super) fn status(&self, now: Timestamp, here: bool) -> TargetStatus {
        let destination = &self.today().destination;
        let state = self.inbox.state();
        let (condition, open) = (&state.condition, state.condition.breaker.open());
        let (attempts, deliveries) = here.then(|| state.minute.sums(now)).unzip();
        let (word, since) = match (condition.off, &condition.paused, open) {
            (Some(since), ..) => (TargetState::Disabled, Some(since)),
            (None, Some(paused), _) => (TargetState::Paused, Some(paused.since)),
            (None, None, Some(open)) => (TargetState::Broken, Some(open.since)),
            (None, None, None) => (TargetState::Ok, None),
        };
        TargetStatus {
            name: self.name().clone(),
            kind: if self.seated.is_some() { seats::KIND } else { destination.kind.word() },
            url: destination.masked_url(),
            state: word,
            since,
            cause: open.map(|open| open.cause),
            paused_by: condition.paused.as_ref().map(|paused| paused.by.clone()),
            last_error: condition.last_error.clone(),
            last_success_at: condition.last_success_at,
            attempts_last_minute: attempts,
            deliveries_last_minute: deliveries,
            next_probe_at: open.map(|open| open.probe_at),
        }
    }

    /// Its subscription is switched off since `off`, or on.
    pub(super) async fn switch(&self, off: Option<Timestamp>, now: Timestamp) -> store::Result<()> {
        self.is_told(off);
        self.change(|condition| condition.switch(off, now)).await
    }

    /// The same, where another replica has switched it. Whoever works on the lane keeps that.
    pub(super) fn switched(&self, off: Option<Timestamp>, now: Timestamp) {
        self.is_told(off);
        {
            let mut state = self.inbox.state();
            state.version += 1;
            state.unkept = state.mine;
            state.condition.switch(off, now);
        }
        self.inbox.bell.notify_one();
    }

    fn is_told(&self, off: Option<Timestamp>) {
        if let Some(seated) = &self.seated {
            *seated.off.lock().unwrap_or_else(PoisonError::into_inner) = off;
        }
    }

    /// The subscription itself says whether it is switched off; how long it has been is the condition's to know.
    fn switch_as_told(&self, condition: &mut Condition) {
        if let Some(seated) = &self.seated {
            let off = *seated.off.lock().unwrap_or_else(PoisonError::into_inner);
            condition.switch(off, self.today().tools.clock.now());
        }
    }
}

/// Where it is kept.
impl Desk {
    /// Goes on as `json`, which an older version kept, says.
    pub(super) fn restore(&self, json: &str) {
        let mut state = self.inbox.state();
        if !state.loaded {
            state.condition.restore(json);
            state.loaded = true;
            self.switch_as_told(&mut state.condition);
        }
    }

    /// Takes note of the record of this revision, unless it is known: another replica may have written it.
    pub(super) fn learn(&self, revision: i64, doc: &str) {
        let now = self.today().tools.clock.now();
        let mut state = self.inbox.state();
        if state.revision.is_some_and(|known| revision <= known) {
            return;
        }
        state.revision = Some(revision);
        let anew = std::mem::take(&mut state.anew);
        if !state.mine {
            state.condition.restore(doc);
            state.loaded = true;
            self.switch_as_told(&mut state.condition);
        } else if !anew && state.condition.obey(doc, now) {
            state.version += 1;
            state.unkept = true;
            tracing::info!(target.name = %self.name, "what another replica was asked for holds here");
        }
        drop(state);
        self.inbox.bell.notify_one();
    }

    /// Reads what an earlier run, or owner, kept, unless that was done.
    pub(super) async fn load(&self) -> store::Result<()> {
        if self.inbox.state().loaded {
            return Ok(());
        }
        let _writing = self.writing.lock().await;
        self.read().await
    }

    /// Goes by what is kept. Under [`Desk::writing`].
    async fn read(&self) -> store::Result<()> {
        let kept = self.kept().await?;
        let mut state = self.inbox.state();
        match kept {
            // Somebody was faster, and told already.
            Some((Some(revision), _)) if state.loaded && state.revision.is_some_and(|known| revision < known) => {}
            Some((revision, json)) => {
                state.condition.restore(&json);
                state.revision = revision;
            }
            None => state.revision = None,
        }
        (state.loaded, state.anew) = (true, false);
        self.switch_as_told(&mut state.condition);
        Ok(())
    }

    /// What is kept, and as which revision of its record: `None` where an older version kept it, or under its former name.
    async fn kept(&self) -> store::Result<Option<(Option<i64>, String)>> {
        let former = self.today().destination.renamed_from.clone();
        for name in [Some(&self.name), former.as_ref()].into_iter().flatten() {
            if let Some(Record { revision, doc: Some(doc), .. }) = self.store.record_of(RecordKind::Lane, name.as_str()).await? {
                return Ok(Some((Some(revision).filter(|_| *name == self.name), doc)));
            }
            if let Some(json) = self.store.setting(&key_of(name.as_str())).await? {
                return Ok(Some((None, json)));
            }
        }
        Ok(None)
    }

    /// Changes the condition as a person wants it, and keeps that, whoever works on the lane. May be called several times. On an error the
    /// change holds for this run, but may not outlive it.
    pub(super) async fn change<T>(&self, change: impl Fn(&mut Condition) -> T) -> store::Result<T> {
        let _writing = self.writing.lock().await;
        for _ in 0..TRIES {
            let is_known = {
                let state = self.inbox.state();
                state.loaded && (state.mine || state.anew)
            };
            let known = if is_known { Ok(()) } else { self.read().await };
            let changed = {
                let mut state = self.inbox.state();
                state.version += 1;
                change(&mut state.condition)
            };
            self.inbox.bell.notify_one();
            known?;
            if self.put().await?.is_some() || !self.meet().await? {
                return Ok(changed);
            }
        }
        Err(store::Error::Full("others change the same lane".into()))
    }

    /// Keeps the condition as it is, where this replica works on the lane. Whoever finds that it was changed meanwhile keeps it again.
    pub(super) async fn keep(&self) -> store::Result<()> {
        let _writing = self.writing.lock().await;
        while self.inbox.state().mine {
            match self.put().await? {
                Some(version) if self.inbox.state().version == version => break,
                Some(_) => {}
                None if self.meet().await? => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Writes the record; which version of the condition that was. `None`: another replica has changed it.
    async fn put(&self) -> store::Result<Option<u64>> {
        let (version, doc, expected) = {
            let state = self.inbox.state();
            (state.version, state.condition.to_json(), state.revision)
        };
        let id = self.name.to_string();
        let write = Write::Put { kind: RecordKind::Lane, id, owner: String::new(), doc, sealed: None, expected };
        let Changed::Done { revision } = self.store.change(Change { writes: vec![write], ..Change::default() }).await? else {
            return Ok(None);
        };
        let mut state = self.inbox.state();
        (state.revision, state.anew) = (state.revision.max(Some(revision)), false);
        Ok(Some(version))
    }

    /// Takes note of what another replica has written; false: there is no record any more, and none will be.
    async fn meet(&self) -> store::Result<bool> {
        let Some(record) = self.store.record_of(RecordKind::Lane, self.name.as_str()).await? else { return Ok(false) };
        {
            let mut state = self.inbox.state();
            if std::mem::take(&mut state.anew) {
                state.revision = Some(record.revision);
                return Ok(true);
            }
        }
        self.learn(record.revision, &record.doc.unwrap_or_default());
        Ok(true)
    }
}

/// Where older versions kept the condition of the lane of `target`, or of all whose names begin so, among the settings.
pub(super) fn key_of(target: &str) -> String {
    format!("lane.{target}")
}
