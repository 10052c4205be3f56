//! What a file would change: events that were taken in, planned by today's rules and by the file's, and the difference counted.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    config::Config,
    contacts::Contacts,
    envelope::{Envelope, Name},
    route::Router,
    store::Severity,
};

/// Events named as examples of a change, for each rule and target.
const EXAMPLES: usize = 3;
/// Most rules and targets that are counted apart.
const NAMES_MAX: usize = 20_000;
/// Most namespaces named as having no contact, for each target.
const NAMESPACES: usize = 5;

/// What one set of rules plans for one event, as far as people compare it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Planned)]
pub struct Summary {
    /// Names of the rules that fire.
    pub rules: Vec<String>,
    /// Where it goes.
    pub targets: Vec<Going>,
}

/// One delivery that a set of rules plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PlannedDelivery)]
pub struct Going {
    /// Where to.
    pub target: String,
    /// How grave.
    pub severity: String,
    /// The template that its rule names.
    #[serde(default)]
    pub template: Option<String>,
    /// Whether it may be throttled,
    #[serde(default)]
    pub throttled: bool,
    /// or goes out in a digest.
    #[serde(default)]
    pub digested: bool,
}

impl Summary {
    /// What the rules of `router` plan for `event`. Subscriptions are none of a file's business.
    pub fn of(router: &Router, event: &Envelope) -> Self {
        let plan = router.plan_by_rules(event);
        let word = |severity| Severity::ALL.iter().find(|(_, it)| *it == severity).map_or("info", |(word, _)| word);
        let going = |planned: crate::store::NewDelivery| Going {
            severity: word(planned.severity).to_owned(),
            throttled: planned.handling.as_ref().is_some_and(|it| !it.throttles.is_empty()),
            digested: planned.handling.as_ref().is_some_and(|it| it.digest.is_some()),
            target: planned.target.to_string(),
            template: planned.template,
        };
        Self {
            rules: plan.rules.iter().map(ToString::to_string).collect(),
            targets: plan.deliveries.into_iter().map(going).collect(),
        }
    }
}

/// What became of the comparison so far.
#[derive(Debug, Default, Serialize)]
pub struct Backtest {
    /// How many events were planned twice.
    pub events: u64,
    /// How many no rule matched before,
    pub unmatched_before: u64,
    /// and how many no rule would match.
    pub unmatched_after: u64,
    /// By rule: how many events fire it.
    pub rules: BTreeMap<String, Change>,
    /// By target: how many deliveries it gets.
    pub targets: BTreeMap<String, Change>,
    /// By target of the file: how many events nobody could be written to about.
    pub unaddressed: BTreeMap<String, Unaddressed>,
}

/// How often something comes before and after.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// By today's rules.
    pub before: u64,
    /// By the file's.
    pub after: u64,
    /// Events that come to it newly.
    pub gained: u64,
    /// Events that come to it no more.
    pub lost: u64,
    /// Events that come with another severity, template, throttle or digest (targets).
    pub changed: u64,
    /// Some that are gained, by the relay's ids; the newest first.
    pub gained_examples: Vec<String>,
    /// Some that are lost.
    pub lost_examples: Vec<String>,
    /// Some that are changed.
    pub changed_examples: Vec<String>,
}

/// Deliveries that nobody could get.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Unaddressed {
    /// How many.
    pub events: u64,
    /// Why the first one.
    pub reason: String,
    /// Some of their namespaces.
    pub namespaces: Vec<String>,
}

impl Change {
    fn count(&mut self, id: &str, before: bool, after: bool, same: bool) {
        self.before += u64::from(before);
        self.after += u64::from(after);
        let (count, examples) = match (before, after) {
            (false, true) => (&mut self.gained, &mut self.gained_examples),
            (true, false) => (&mut self.lost, &mut self.lost_examples),
            (true, true) if !same => (&mut self.changed, &mut self.changed_examples),
            _ => return,
        };
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(id.to_owned());
        }
    }

    /// Whether anything is different.
    pub fn is_change(&self) -> bool {
        0 < self.gained + self.lost + self.changed
    }
}

impl Backtest {
    /// Takes in one event: its id here, and what both sets of rules make of it.
    pub fn add(&mut self, id: &str, before: &Summary, after: &Summary) {
        self.events += 1;
        self.unmatched_before += u64::from(before.rules.is_empty());
        self.unmatched_after += u64::from(after.rules.is_empty());
        compare(&mut self.rules, id, before.rules.iter().map(|it| (it, ())), after.rules.iter().map(|it| (it, ())));
        let going = |it: &Summary| it.targets.iter().map(|it| (it.target.clone(), it.clone())).collect::<Vec<_>>();
        let (before, after) = (going(before), going(after));
        compare(&mut self.targets, id, before.iter().map(|(name, it)| (name, it)), after.iter().map(|(name, it)| (name, it)));
    }

    /// Notes whom of `targets` nobody could be written to about `event`, as far as `contacts` knows without asking.
    pub fn address(&mut self, config: &Config, contacts: &Contacts, event: &Envelope, after: &Summary) {
        for going in &after.targets {
            let destination = config.destinations.iter().find(|it| it.name == Name::from(going.target.as_str()));
            let Some(reason) = destination.and_then(|it| it.kind.unaddressed(event, contacts)) else { continue };
            let known = self.unaddressed.entry(going.target.clone()).or_default();
            known.events += 1;
            if known.reason.is_empty() {
                known.reason = reason;
            }
            let namespace = event.namespace.clone().unwrap_or_default();
            if known.namespaces.len() < NAMESPACES && !namespace.is_empty() && !known.namespaces.contains(&namespace) {
                known.namespaces.push(namespace);
            }
        }
    }

    /// Whether the file would change anything.
    pub fn is_change(&self) -> bool {
        self.rules.values().chain(self.targets.values()).any(Change::is_change)
    }
}

/// Counts what is among `before`, `after` or both.
fn compare<'n, T: PartialEq>(
    all: &mut BTreeMap<String, Change>,
    id: &str,
    before: impl Iterator<Item = (&'n String, T)>,
    after: impl Iterator<Item = (&'n String, T)>,
) {
    let mut both: HashMap<&String, (Option<T>, Option<T>)> = HashMap::new();
    before.for_each(|(name, it)| both.entry(name).or_default().0 = Some(it));
    after.for_each(|(name, it)| both.entry(name).or_default().1 = Some(it));
    for (name, (before, after)) in both {
        if !all.contains_key(name) && NAMES_MAX <= all.len() {
            continue;
        }
        let same = before == after;
        all.entry(name.clone()).or_default().count(id, before.is_some(), after.is_some(), same);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(rules: &[&str], targets: &[(&str, &str)]) -> Summary {
        let going = |(target, severity): &(&str, &str)| Going {
            target: (*target).into(),
            severity: (*severity).into(),
            template: None,
            throttled: false,
            digested: false,
        };
        Summary { rules: rules.iter().map(|it| (*it).to_owned()).collect(), targets: targets.iter().map(going).collect() }
    }

    #[test]
    fn what_is_gained_lost_and_changed_is_counted_with_examples() {
        let mut test = Backtest::default();
        let nothing = summary(&[], &[]);
        let one = summary(&["a"], &[("crm", "info")]);
        test.add("ev_0", &one, &one);
        assert!(!test.is_change());
        for n in 1..=5 {
            test.add(&format!("ev_{n}"), &nothing, &one);
        }
        test.add("ev_6", &one, &summary(&["b"], &[("crm", "critical"), ("mail", "critical")]));
        assert!(test.is_change());
        assert_eq!((test.events, test.unmatched_before, test.unmatched_after), (7, 5, 0));
        let a = &test.rules["a"];
        assert_eq!((a.before, a.after, a.gained, a.lost), (2, 6, 5, 1));
        assert_eq!((a.gained_examples.join(" "), a.lost_examples.join(" ")), ("ev_1 ev_2 ev_3".into(), "ev_6".into()));
        let crm = &test.targets["crm"];
        assert_eq!((crm.before, crm.after, crm.changed, crm.changed_examples.join(" ")), (2, 7, 1, "ev_6".into()));
        assert_eq!((test.targets["mail"].gained, test.rules["b"].gained), (1, 1));
    }
}
