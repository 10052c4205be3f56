//! Numbers of targets that are on disk, kept in memory: with every delivery one is written.

use std::collections::{HashMap, HashSet};

use crate::envelope::Name;

/// Names whose numbers were asked for last. Subscriptions come and go, so their names are without end.
#[derive(Debug)]
pub(super) struct Numbers {
    /// `max` at most that were asked for last.
    recent: HashMap<Name, i64>,
    /// Those before them, as many at most: nothing that was just asked for is gone at once.
    older: HashMap<Name, i64>,
    max: usize,
}

impl Numbers {
    /// None yet, and twice `max` at most.
    pub(super) fn new(max: usize) -> Self {
        Self { recent: HashMap::new(), older: HashMap::new(), max }
    }

    /// That of `name`, where it is known.
    pub(super) fn get(&self, name: &Name) -> Option<i64> {
        self.recent.get(name).or_else(|| self.older.get(name)).copied()
    }

    /// Those of `names` whose numbers are not known. The others are known until `max` numbers were kept at least.
    pub(super) fn missing<'n>(&mut self, names: impl Iterator<Item = &'n Name>) -> HashSet<&'n Name> {
        let (mut missing, mut again) = (HashSet::new(), Vec::new());
        for name in names.filter(|name| !self.recent.contains_key(*name)) {
            match self.older.get_key_value(name) {
                Some((name, number)) => again.push((name.clone(), *number)),
                None => _ = missing.insert(name),
            }
        }
        again.into_iter().for_each(|(name, number)| self.put(name, number));
        missing
    }

    /// Keeps that of `name`.
    pub(super) fn put(&mut self, name: Name, number: i64) {
        if self.max <= self.recent.len() && !self.recent.contains_key(&name) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(name, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: std::ops::Range<usize>) -> Vec<Name> {
        of.map(|n| format!("t{n}").as_str().into()).collect()
    }

    #[test]
    fn what_is_asked_for_again_and_again_stays_however_many_others_come() {
        let (mut numbers, always) = (Numbers::new(10), names(0..5));
        always.iter().for_each(|name| numbers.put(name.clone(), 7));
        for other in names(5..1000) {
            assert!(numbers.missing(always.iter()).is_empty(), "before {other}");
            numbers.put(other, 8);
            assert!(numbers.recent.len() <= 10 && numbers.older.len() <= 10);
        }
        assert_eq!(numbers.get(&names(5..6)[0]), None);
    }

    #[test]
    fn what_was_seen_to_be_there_is_there_still_when_as_many_others_came() {
        let (mut numbers, first) = (Numbers::new(10), names(0..10));
        first.iter().for_each(|name| numbers.put(name.clone(), 7));
        names(10..19).into_iter().for_each(|name| numbers.put(name, 8));
        let mut asked = names(15..25);
        asked.extend(names(0..5));
        let missing: Vec<Name> = numbers.missing(asked.iter()).into_iter().cloned().collect();
        assert_eq!(missing.len(), 6);
        missing.into_iter().for_each(|name| numbers.put(name, 9));
        assert!(asked.iter().all(|name| numbers.get(name).is_some()), "{numbers:?}");
    }
}
