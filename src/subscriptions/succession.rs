//! Who takes whose place: of the subscriptions that one token has for one URL, whether one gets all that another did. Pure.
//!
//! n8n and Zapier delete and make anew at every edit, in either order, and one token may have several for one URL (in Honeyframe's dialect
//! there is one for each type). So it is what they want that tells which of them was meant.
//!
//! Facts: `delivery.md`, "What moves a delivery" (a subscription that is deleted).

use std::collections::BTreeSet;

use super::{
    Dialect, EventFilter,
    model::{Kept, Life, Subscription},
};
use crate::route::{glob::Glob, overlap};

/// How much is compared for one subscription that is made or deleted, in pairs of bytes of globs with stars; what is beyond counts as not
/// covered. Strangers write globs, and some take long to compare. Those whose text is the same cost nothing.
const PAIRS_MAX: usize = 40_000;

/// Of those of one token and URL (`others`), those in grace whose place `made` takes: all that it covers. Where it covers none, the only
/// one there is, as Interactor's dialect has all types of one receiver in one subscription: an edit that changed them.
pub(super) fn adopted(made: &Subscription, others: Vec<Kept>) -> Vec<Kept> {
    let alone = !others.iter().any(|kept| kept.subscription.is_living());
    let mut in_grace: Vec<_> = others.into_iter().filter(|kept| matches!(kept.subscription.life, Life::InGrace { .. })).collect();
    let mut pairs = PAIRS_MAX;
    let covered: Vec<bool> = in_grace.iter().map(|kept| covers(made, &kept.subscription, &mut pairs)).collect();
    if covered.contains(&true) {
        let mut covered = covered.into_iter();
        in_grace.retain(|_| covered.next().unwrap_or_default());
        return in_grace;
    }
    let edited = |kept: &Kept| {
        let old = &kept.subscription;
        made.dialect == Dialect::Interactor && old.dialect == made.dialect && covers_namespaces(made, old)
    };
    match in_grace.as_slice() {
        [only] if alone && edited(only) => in_grace,
        _ => Vec::new(),
    }
}

/// Of those of one token and URL (`others`), the living one that takes the place of `deleted` at once: the last that was made after it and
/// covers it. Whoever subscribes anew before he unsubscribes makes such a one.
pub(super) fn heir(deleted: &Kept, others: Vec<Kept>) -> Option<Kept> {
    let made = |kept: &Kept| (kept.subscription.created_at, kept.revision);
    let mut pairs = PAIRS_MAX;
    let mut later: Vec<_> =
        others.into_iter().filter(|kept| kept.subscription.is_living() && made(deleted) < made(kept)).collect();
    later.sort_unstable_by_key(|kept| std::cmp::Reverse(made(kept)));
    later.into_iter().find(|kept| covers(&kept.subscription, &deleted.subscription, &mut pairs))
}

/// Whether `new` gets every event that `old` would, signed alike.
fn covers(new: &Subscription, old: &Subscription, pairs: &mut usize) -> bool {
    let filter = match (written(&new.filter), written(&old.filter)) {
        (None, _) => true,
        (Some(new), Some(old)) => new.written == old.written,
        (Some(_), None) => false,
    };
    new.dialect == old.dialect
        && filter
        && covers_namespaces(new, old)
        && old.events.iter().all(|inner| takes_all_of(&new.events, inner, pairs))
}

/// A filter without conditions is none.
fn written(filter: &Option<EventFilter>) -> Option<&EventFilter> {
    filter.as_ref().filter(|filter| !filter.conditions.is_empty())
}

fn covers_namespaces(new: &Subscription, old: &Subscription) -> bool {
    match (&new.namespaces, &old.namespaces) {
        (None, _) => true,
        (Some(new), Some(old)) => BTreeSet::is_superset(new, old),
        (Some(_), None) => false,
    }
}

fn takes_all_of(outer: &[Glob], inner: &Glob, pairs: &mut usize) -> bool {
    if outer.iter().any(|outer| outer.text() == inner.text() || outer.text() == "**") {
        return true;
    }
    outer.iter().any(|outer| {
        if inner.exact().is_none() && outer.exact().is_none() {
            let Some(left) = pairs.checked_sub(outer.text().len() * inner.text().len()) else { return false };
            *pairs = left;
        }
        overlap::covers(outer, inner)
    })
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::{clock::later, subscriptions::tests::sample};

    fn one(events: &[&str]) -> Subscription {
        let events = events.iter().map(|text| Glob::parse(text).unwrap()).collect();
        Subscription { events, filter: None, namespaces: None, life: Life::Living, ..sample() }
    }

    fn kept(subscription: Subscription) -> Kept {
        Kept { subscription: Arc::new(subscription), sealed: bytes::Bytes::new(), revision: 1 }
    }

    fn gone(events: &[&str]) -> Kept {
        let it = one(events);
        kept(Subscription { life: Life::InGrace { until: it.created_at, held: false }, ..it })
    }

    fn gets_all(new: &Subscription, old: &Subscription) -> bool {
        covers(new, old, &mut PAIRS_MAX.clone())
    }

    #[test]
    fn events_filter_namespaces_and_dialect_tell_whether_one_gets_all_that_another_did() {
        for (new, old, covered) in [
            (&["a.*", "b"][..], &["a.b", "b"][..], true),
            (&["**"], &["a.*", "b.**"], true),
            (&["b", "a.b"], &["a.b", "b"], true),
            (&["a.*"], &["a.**"], false),
            (&["a.b"], &["a.b", "b"], false),
        ] {
            assert_eq!(gets_all(&one(new), &one(old)), covered, "{new:?} {old:?}");
        }
        let filtered = |n: i32| {
            let written = json!([{"path": "$.data.n", "gt": n}]);
            Subscription { filter: Some(super::super::filter::compile(written).unwrap()), ..one(&["**"]) }
        };
        let empty = Subscription { filter: Some(super::super::filter::compile(json!([])).unwrap()), ..one(&["**"]) };
        assert!(gets_all(&one(&["**"]), &filtered(1)) && gets_all(&filtered(1), &filtered(1)) && gets_all(&empty, &filtered(1)));
        assert!(
            !gets_all(&filtered(1), &one(&["**"])) && !gets_all(&filtered(1), &filtered(2)) && !gets_all(&filtered(1), &empty)
        );
        let within = |names: &[&str]| {
            let namespaces = Some(names.iter().map(ToString::to_string).collect());
            Subscription { namespaces, ..one(&["**"]) }
        };
        assert!(gets_all(&one(&["**"]), &within(&["a"])) && gets_all(&within(&["a", "b"]), &within(&["a"])));
        assert!(!gets_all(&within(&["a"]), &one(&["**"])) && !gets_all(&within(&["a"]), &within(&["a", "b"])));
        let other = Subscription { dialect: Dialect::Honeyframe, ..one(&["**"]) };
        assert!(!gets_all(&other, &one(&["**"])) && gets_all(&other, &other));
    }

    #[test]
    fn all_that_are_covered_are_adopted_and_an_edit_only_where_it_is_the_only_one() {
        let ids = |all: Vec<Kept>| -> BTreeSet<_> { all.into_iter().map(|kept| kept.subscription.id.clone()).collect() };
        let (a, b, living) = (gone(&["a"]), gone(&["b"]), kept(one(&["c"])));
        let id = |kept: &Kept| kept.subscription.id.clone();
        let of = |made: &[&str], others: &[&Kept]| ids(adopted(&one(made), others.iter().copied().cloned().collect()));
        assert_eq!(of(&["*"], &[&a, &b, &living]), BTreeSet::from([id(&a), id(&b)]));
        assert_eq!(of(&["b"], &[&a, &b]), BTreeSet::from([id(&b)]));
        assert_eq!(of(&["x"], &[&a]), BTreeSet::from([id(&a)]));
        assert_eq!(of(&["x"], &[&a, &b]), BTreeSet::new());
        assert_eq!(of(&["x"], &[&a, &living]), BTreeSet::new());
        let bound = Subscription { namespaces: Some(BTreeSet::new()), ..one(&["x"]) };
        assert_eq!(ids(adopted(&bound, vec![a.clone()])), BTreeSet::new(), "an edit widens what it gets, not whose");
        let honeyframe = Subscription { dialect: Dialect::Honeyframe, ..one(&["x"]) };
        assert_eq!(ids(adopted(&honeyframe, vec![a])), BTreeSet::new());
    }

    #[test]
    fn the_last_that_was_made_later_is_the_heir() {
        let at = |seconds: u64, events: &[&str]| {
            let it = one(events);
            kept(Subscription { created_at: later(it.created_at, Duration::from_secs(seconds)), ..it })
        };
        let deleted = at(10, &["a"]);
        let others = vec![at(5, &["a"]), at(15, &["a"]), at(20, &["*"]), at(30, &["b"]), at(10, &["a"])];
        let heir_of = |others: Vec<Kept>| heir(&deleted, others).map(|kept| kept.subscription.id.clone());
        assert_eq!(heir_of(others.clone()), Some(others[2].subscription.id.clone()));
        assert_eq!(heir_of(vec![others[0].clone(), others[3].clone(), others[4].clone(), gone(&["a"])]), None);
    }

    #[test]
    fn what_takes_long_to_compare_counts_as_not_covered() {
        let long: Vec<String> = (0..50).map(|n| format!("{}{n}", "a*".repeat(120))).collect();
        let (long, other): (Vec<&str>, Vec<String>) =
            (long.iter().map(String::as_str).collect(), long.iter().map(|it| format!("*{it}")).collect());
        let other: Vec<&str> = other.iter().map(String::as_str).collect();
        assert!(gets_all(&one(&long), &one(&long)));
        let mut pairs = PAIRS_MAX;
        assert!(!covers(&one(&other[..1]), &one(&[&format!("{}x", long[0])]), &mut pairs));
        assert!(!covers(&one(&other), &one(&long[1..]), &mut pairs) && pairs < 240 * 240);
    }
}
