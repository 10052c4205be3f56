//! Who takes what by subscription: thousands of them, each with globs, a filter and namespaces, coming and going while events are planned.
//!
//! Subscribers come in one at a time, or all at once at a start; whose turn it is goes out, for one event at a time. Knows nothing of where
//! they are sent, nor of who registered them.
//!
//! Most of them are settled: they lie under an index of their own, which never changes. The few that came or changed since lie under a small
//! one, which is made anew with every change; those that went are named. Every so many changes, all are settled. So a change costs little,
//! and planning takes one pointer and waits for nobody.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    OWN_SOURCE, View,
    glob::Glob,
    index::{Field, Filed, Index, Says},
    when::Condition,
};
use crate::{
    envelope::{Envelope, Name},
    live::Live,
};

mod why;

pub use why::{Taken, Takers};

/// Most changes that are not settled yet. Each change makes the small index anew, so this many times what one subscriber costs there.
const RECENT_MAX: usize = 128;

/// A subscription as planning sees it.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Its id, which is its target's name.
    pub target: Name,
    /// The event types it wants; one must fit.
    pub events: Vec<Glob>,
    /// What must hold of the envelope besides.
    pub filter: Vec<Condition>,
    /// The namespaces whose events it may have, exactly so; an event of none is not among them. `None`: all.
    pub namespaces: Option<BTreeSet<String>>,
}

/// Whether `name` is one that only a subscription's target has: `wh_` and 26 lower-case letters and digits.
pub fn is_id(name: &Name) -> bool {
    let drawn = name.as_str().strip_prefix("wh_").map(str::as_bytes);
    drawn.is_some_and(|drawn| drawn.len() == 26 && drawn.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')))
}

impl Subscriber {
    /// Whether `event` is one it may have at all, whatever it wants: never the relay's own, nor one of somebody else's namespace.
    pub fn may_have(&self, event: &Envelope) -> bool {
        event.source.as_str() != OWN_SOURCE
            && match (&self.namespaces, &event.namespace) {
                (None, _) => true,
                (Some(own), Some(namespace)) => own.contains(namespace),
                (Some(_), None) => false,
            }
    }

    fn takes(&self, event: &Envelope, view: &mut View<'_>) -> bool {
        self.may_have(event)
            && self.events.iter().any(|glob| glob.matches(&event.r#type))
            && self.filter.iter().all(|condition| condition.holds(view.value()))
    }
}

impl Filed for Arc<Subscriber> {
    fn says(&self, field: Field) -> Says<'_> {
        match (field, &self.namespaces) {
            (Field::Type, _) => Says::Globs(&self.events),
            (Field::Namespace, Some(namespaces)) => Says::Texts(namespaces),
            (Field::Namespace, None) | (Field::Source, _) => Says::Globs(&[]),
        }
    }

    fn when(&self) -> &[Condition] {
        &self.filter
    }
}

/// All subscribers of a relay. Clones are the same ones: every generation's router plans with them.
#[derive(Debug, Clone)]
pub struct Subscribers {
    live: Live<Set>,
    /// Held while the next set is made, so that no change is lost to another. Planning never takes it.
    changing: Arc<Mutex<()>>,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { live: Live::new(Arc::default()), changing: Arc::default() }
    }
}

impl Subscribers {
    /// Takes these in the place of all there are: at a start. Of two with the same name the last counts.
    pub fn load(&self, all: Vec<Subscriber>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all: HashMap<Name, Subscriber> = all.into_iter().map(|it| (it.target.clone(), it)).collect();
        self.live.replace(Arc::new(Set::settled(all.into_values().map(Arc::new).collect())));
    }

    /// Adds one, or puts it in the place of the one of that name. Events planned from now on go by it.
    ///
    /// Takes well under a millisecond, and one in [`RECENT_MAX`] changes as long as an index of all takes.
    pub fn put(&self, subscriber: Subscriber) {
        let target = subscriber.target.clone();
        self.change(&target, Some(Arc::new(subscriber)));
    }

    /// Events planned from now on do not go to it. One that is not there is gone already.
    pub fn remove(&self, target: &Name) {
        self.change(target, None);
    }

    /// Those of now. Whoever plans takes them once.
    pub(super) fn now(&self) -> Arc<Set> {
        self.live.now()
    }

    fn change(&self, target: &Name, subscriber: Option<Arc<Subscriber>>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.live.now().with(target, subscriber);
        self.live.replace(Arc::new(next));
    }
}

/// Subscribers at one moment. It never changes.
#[derive(Debug, Default)]
pub(super) struct Set {
    settled: Arc<Shelf>,
    /// Of the settled, those that changed or went since.
    gone: HashSet<Name>,
    recent: Shelf,
}

impl Set {
    fn settled(all: Vec<Arc<Subscriber>>) -> Self {
        Self { settled: Arc::new(Shelf::new(all)), ..Self::default() }
    }

    /// The same with `subscriber` as `target`, or without it.
    fn with(&self, target: &Name, subscriber: Option<Arc<Subscriber>>) -> Self {
        let others = self.recent.all.iter().filter(|it| it.target != *target);
        let recent: Vec<_> = others.cloned().chain(subscriber).collect();
        let mut gone = self.gone.clone();
        if self.settled.by_name.contains_key(target) {
            gone.insert(target.clone());
        }
        if recent.len() + gone.len() <= RECENT_MAX {
            return Self { settled: self.settled.clone(), gone, recent: Shelf::new(recent) };
        }
        let kept = self.settled.all.iter().filter(|it| !gone.contains(&it.target)).cloned();
        Self::settled(kept.chain(recent).collect())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.settled.all.len() - self.gone.len() + self.recent.all.len()
    }

    /// The one of this name.
    pub(super) fn get(&self, target: &Name) -> Option<&Arc<Subscriber>> {
        let settled = || self.settled.get(target).filter(|_| !self.gone.contains(target));
        self.recent.get(target).or_else(settled)
    }

    /// Those that take `event`: first the settled, then those that came since; each once.
    pub(super) fn taking(&self, event: &Envelope, view: &mut View<'_>) -> Vec<&Arc<Subscriber>> {
        if event.source.as_str() == OWN_SOURCE || self.len() == 0 {
            return Vec::new();
        }
        let settled = self.settled.candidates(event, view).into_iter().filter(|it| !self.gone.contains(&it.target));
        let mut taking: Vec<_> = settled.collect();
        taking.extend(self.recent.candidates(event, view));
        taking.retain(|it| it.takes(event, view));
        taking
    }

    /// Every one of them.
    fn all(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        self.settled.all.iter().filter(|it| !self.gone.contains(&it.target)).chain(&self.recent.all)
    }
}

/// Some subscribers under an index.
#[derive(Debug, Default)]
struct Shelf {
    all: Vec<Arc<Subscriber>>,
    by_name: HashMap<Name, usize>,
    index: Index,
}

impl Shelf {
    fn new(all: Vec<Arc<Subscriber>>) -> Self {
        let by_name = all.iter().enumerate().map(|(at, it)| (it.target.clone(), at)).collect();
        Self { index: Index::new(&all), by_name, all }
    }

    fn get(&self, target: &Name) -> Option<&Arc<Subscriber>> {
        self.all.get(*self.by_name.get(target)?)
    }

    /// Those that can take `event`; the others are not looked at.
    fn candidates(&self, event: &Envelope, view: &mut View<'_>) -> Vec<&Arc<Subscriber>> {
        if self.all.is_empty() {
            return Vec::new();
        }
        self.index.candidates(event, view).into_iter().filter_map(|at| self.all.get(at)).collect()
    }
}

#[cfg(test)]
mod tests;
