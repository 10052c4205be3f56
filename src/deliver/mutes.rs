//! What people want to hear nothing of for a while: which deliveries, why, who said so, and until when. Kept in the store, so that it
//! outlives a restart; known to every lane.

use std::{collections::BTreeMap, sync::Arc};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::{Clock, Timestamp},
    envelope::{Envelope, Name},
    route::{Match, glob::Glob},
    sign::hex,
    store::{self, Store},
};

/// Most mutes at a time: every delivery is held against each of them.
pub const MUTES_MAX: usize = 200;
/// Longest reason and longest author, in characters.
pub const TEXT_MAX: usize = 500;
/// What the keys of mutes begin with among the store's settings.
const PREFIX: &str = "mute.";

/// A mute, as it is kept and shown. Globs as rules have them; an empty list is anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// Its id: `mute_` and 16 hex digits.
    pub id: String,
    /// Sources of events.
    pub source: Vec<String>,
    /// Types of events.
    pub r#type: Vec<String>,
    /// Namespaces of events.
    pub namespace: Vec<String>,
    /// Targets.
    pub target: Vec<String>,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub author: String,
    /// Since when.
    #[serde(with = "instant")]
    pub created_at: Timestamp,
    /// Until when.
    #[serde(with = "instant")]
    pub until: Timestamp,
}

/// Times as RFC 3339.
mod instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::clock::{Timestamp, rfc3339_ms};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339_ms(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What somebody wants to be muted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// See [`Mute::source`].
    pub source: Vec<String>,
    /// See [`Mute::type`].
    pub r#type: Vec<String>,
    /// See [`Mute::namespace`].
    pub namespace: Vec<String>,
    /// See [`Mute::target`].
    pub target: Vec<String>,
    /// See [`Mute::reason`].
    pub reason: String,
    /// See [`Mute::author`].
    pub author: String,
}

/// Why something cannot be muted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// What is asked makes no sense; says why.
    #[error("{0}")]
    Unfit(String),
    /// There are too many.
    #[error("there are {MUTES_MAX} mutes already: remove one first")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A mute, made ready to hold deliveries against.
#[derive(Debug)]
pub(super) struct Ready {
    mute: Mute,
    matches: Match,
    target: Vec<Glob>,
}

/// Those that were not over when they were last changed; shared with the lanes.
pub(super) type Active = Arc<Vec<Ready>>;

/// All mutes.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Mutes {
    store: Arc<dyn Store>,
    clock: Clock,
    active: watch::Sender<Active>,
    /// One change at a time; false until what an earlier run kept is known.
    loaded: tokio::sync::Mutex<bool>,
}

impl Mutes {
    /// None yet: see [`Mutes::load`].
    pub(super) fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        let active = watch::Sender::new(Active::default());
        Self { store, clock, active, loaded: tokio::sync::Mutex::new(false) }
    }

    /// Reads what an earlier run kept, once.
    pub(super) async fn load(&self) -> store::Result<()> {
        let mut loaded = self.loaded.lock().await;
        if *loaded {
            return Ok(());
        }
        let kept = self.store.settings(PREFIX).await?;
        let mutes = kept.into_iter().filter_map(|(_, json)| serde_json::from_str(&json).ok());
        self.active.send_replace(Arc::new(mutes.map(Ready::new).collect()));
        *loaded = true;
        Ok(())
    }

    /// Takes up what others have changed in the store.
    ///
    /// # Errors
    /// The store's; then nothing has changed.
    pub async fn refresh(&self) -> store::Result<()> {
        self.load().await?;
        let _changing = self.loaded.lock().await;
        let kept = self.store.settings(PREFIX).await?;
        let kept: Vec<Mute> = kept.into_iter().filter_map(|(_, json)| serde_json::from_str(&json).ok()).collect();
        // Lanes look at what they hold whenever this changes.
        let by_id = |all: Vec<Mute>| all.into_iter().map(|mute| (mute.id.clone(), mute)).collect::<BTreeMap<_, _>>();
        let known = self.active.borrow().iter().map(|it| it.mute.clone()).collect();
        if by_id(known) != by_id(kept.clone()) {
            let mut kept = kept;
            kept.sort_by_key(|mute| mute.created_at);
            self.active.send_replace(Arc::new(kept.into_iter().map(Ready::new).collect()));
        }
        Ok(())
    }

    /// Those that are not over, oldest first.
    pub async fn list(&self) -> store::Result<Vec<Mute>> {
        self.load().await?;
        let now = self.clock.now();
        Ok(self.active.borrow().iter().map(|it| it.mute.clone()).filter(|mute| now < mute.until).collect())
    }

    /// What holds deliveries back now, and whenever that changes.
    pub(super) fn watch(&self) -> watch::Receiver<Active> {
        self.active.subscribe()
    }

    /// Mutes what `wanted` says until then.
    pub async fn add(&self, wanted: Wanted, until: Timestamp) -> Result<Mute, Refused> {
        self.load().await?;
        let now = self.clock.now();
        check(&wanted, now, until)?;
        let Wanted { source, r#type, namespace, target, reason, author } = wanted;
        let id = new_id().ok_or_else(|| Refused::Store(store::Error::Backend("the system gives no random bytes".into())))?;
        let mute = Mute { id, source, r#type, namespace, target, reason, author, created_at: now, until };
        let _changing = self.loaded.lock().await;
        let mut all = self.forget_over(now).await?;
        if MUTES_MAX <= all.len() {
            return Err(Refused::TooMany);
        }
        // Plain data: writing it cannot fail.
        self.store.set_setting(&key(&mute.id), serde_json::to_string(&mute).unwrap_or_default()).await?;
        all.push(mute.clone());
        self.active.send_replace(Arc::new(all.into_iter().map(Ready::new).collect()));
        Ok(mute)
    }

    /// Ends a mute before its time; `None` when there is none of this id.
    pub async fn remove(&self, id: &str) -> store::Result<Option<Mute>> {
        self.load().await?;
        let now = self.clock.now();
        let _changing = self.loaded.lock().await;
        let mut all = self.forget_over(now).await?;
        let Some(at) = all.iter().position(|mute| mute.id == id) else { return Ok(None) };
        let mute = all.remove(at);
        self.store.remove_setting(&key(id)).await?;
        self.active.send_replace(Arc::new(all.into_iter().map(Ready::new).collect()));
        Ok(Some(mute))
    }

    /// Forgets those that are over at `now`; answers the others.
    async fn forget_over(&self, now: Timestamp) -> store::Result<Vec<Mute>> {
        let all: Vec<Mute> = self.active.borrow().iter().map(|it| it.mute.clone()).collect();
        let (over, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|mute| mute.until <= now);
        for mute in over {
            self.store.remove_setting(&key(&mute.id)).await?;
        }
        Ok(left)
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn new_id() -> Option<String> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(format!("mute_{}", hex(&bytes)))
}

fn check(wanted: &Wanted, now: Timestamp, until: Timestamp) -> Result<(), Refused> {
    let unfit = |why: String| Err(Refused::Unfit(why));
    let lists =
        [("source", &wanted.source), ("type", &wanted.r#type), ("namespace", &wanted.namespace), ("target", &wanted.target)];
    if lists.iter().all(|(_, globs)| globs.is_empty()) {
        return unfit("a mute names a source, type, namespace or target; `**` as its type is everything".into());
    }
    for (name, globs) in lists {
        if let Some(bad) = globs.iter().find(|text| Glob::parse(text).is_err()) {
            let bad: String = bad.chars().take(64).collect();
            return unfit(format!("`{bad}` is no {name}, and no glob of one"));
        }
    }
    for (name, text) in [("reason", &wanted.reason), ("author", &wanted.author)] {
        if text.trim().is_empty() || TEXT_MAX < text.chars().count() || text.chars().any(char::is_control) {
            return unfit(format!("a mute has a {name}: one line of at most {TEXT_MAX} characters"));
        }
    }
    if until <= now {
        return unfit("a mute ends in the future".into());
    }
    Ok(())
}

impl Ready {
    fn new(mute: Mute) -> Self {
        let globs = |texts: &Vec<String>| texts.iter().filter_map(|text| Glob::parse(text).ok()).collect();
        let matches = Match { source: globs(&mute.source), r#type: globs(&mute.r#type), namespace: globs(&mute.namespace) };
        Self { matches, target: globs(&mute.target), mute }
    }

    /// Whether it holds back a delivery of `event` to `target` at `now`.
    fn holds(&self, event: &Envelope, target: &Name, now: Timestamp) -> bool {
        now < self.mute.until
            && (self.target.is_empty() || self.target.iter().any(|glob| glob.matches(target.as_str())))
            && self.matches.fits(event)
    }
}

/// Why a delivery of `event` to `target` is held back at `now`; `None` when it is not.
pub(super) fn held_back(active: &[Ready], event: &Envelope, target: &Name, now: Timestamp) -> Option<String> {
    let mute = muting(active, event, target, now)?;
    Some(format!("{} ({}, {} until {})", mute.reason, mute.author, mute.id, crate::clock::rfc3339_s(mute.until)))
}

/// The mute that holds back a delivery of `event` to `target` at `now`.
pub(super) fn muting<'m>(active: &'m [Ready], event: &Envelope, target: &Name, now: Timestamp) -> Option<&'m Mute> {
    Some(&active.iter().find(|it| it.holds(event, target, now))?.mute)
}
