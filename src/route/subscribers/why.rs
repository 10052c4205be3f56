//! Which subscriptions take an event, and why others do not: asked of planning's own matchers, bounded however many there are.

use std::collections::BTreeSet;

use super::{Set, Subscriber};
use crate::{
    envelope::{Envelope, Name},
    route::{
        OWN_SOURCE, View,
        why::{SEEN_MAX, WANTED_MAX, shown, wanted_globs},
    },
};

/// Most subscriptions named as taking an event,
const TAKING_MAX: usize = 100;
/// and as not taking it, with the reason of each.
const OTHERS_MAX: usize = 20;

/// What the subscriptions make of one event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Takers {
    /// How many subscriptions there are.
    pub total: usize,
    /// How many of them take it.
    pub taking: usize,
    /// Some of them by name: those that take it, then those that came nearest, then others.
    pub some: Vec<Taken>,
}

/// Whether one subscription takes the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its id.
    pub subscription: Name,
    /// Why it does not take the event; `None` when it does.
    pub reason: Option<String>,
}

impl Set {
    /// What they make of `event`. Those that take it are those of [`Set::taking`].
    pub(in crate::route) fn explain(&self, event: &Envelope) -> Takers {
        let mut view = View::new(event);
        let taking = self.taking(event, &mut view);
        let takers = taking.iter().take(TAKING_MAX).map(|it| Taken { subscription: it.target.clone(), reason: None });
        let mut some: Vec<_> = takers.collect();
        // Those of which only the filter fails come first.
        let near = |it: &Subscriber| it.unfit(event).is_none();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for subscriber in self.all() {
            let list = if near(subscriber) { &mut first } else { &mut rest };
            if list.len() < OTHERS_MAX
                && let Some(reason) = subscriber.why_not(event, &mut view)
            {
                list.push(Taken { subscription: subscriber.target.clone(), reason: Some(reason) });
            }
        }
        some.extend(first.into_iter().chain(rest).take(OTHERS_MAX));
        Takers { total: self.len(), taking: taking.len(), some }
    }
}

impl Subscriber {
    /// Why it does not take `event`; `None` when it does.
    fn why_not(&self, event: &Envelope, view: &mut View<'_>) -> Option<String> {
        let mut conditions = self.filter.iter().enumerate();
        let failing = || conditions.find_map(|(at, condition)| condition.why_not(&format!("filter[{at}]"), view.value()));
        self.unfit(event).or_else(failing)
    }

    /// What of the event's source, namespace or type does not fit.
    fn unfit(&self, event: &Envelope) -> Option<String> {
        if event.source.as_str() == OWN_SOURCE {
            return Some(format!("source is {OWN_SOURCE}: the relay's own events go to no subscription"));
        }
        if let Some(own) = self.namespaces.as_ref().filter(|_| !self.may_have(event)) {
            let seen = event.namespace.as_deref().map_or_else(|| "absent".to_owned(), |it| shown(it, SEEN_MAX));
            return Some(format!("namespace is {seen}, wanted {}", wanted_texts(own)));
        }
        let fits = self.events.iter().any(|glob| glob.matches(&event.r#type));
        (!fits).then(|| format!("type is {}, wanted {}", shown(&event.r#type, SEEN_MAX), wanted_globs(&self.events)))
    }
}

fn wanted_texts(texts: &BTreeSet<String>) -> String {
    // No more of them is put together than is shown.
    let some: Vec<_> = texts.iter().take(WANTED_MAX).map(String::as_str).collect();
    let all = shown(&some.join(", "), WANTED_MAX);
    if texts.len() == 1 { all } else { format!("one of {all}") }
}
