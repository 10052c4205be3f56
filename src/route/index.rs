//! Finds the few rules that can match an event without looking at the others.
//!
//! Each rule is filed once, under the narrowest thing it says: exact namespaces, else exact types and literal beginnings of type
//! globs, else exact sources. Rules that say none of these are looked at for every event.

use std::collections::HashMap;

use super::{glob::Glob, rule::Rule};
use crate::envelope::Envelope;

#[derive(Debug, Default)]
pub(super) struct Index {
    by_namespace: HashMap<String, Vec<usize>>,
    by_type: HashMap<String, Vec<usize>>,
    by_type_prefix: HashMap<String, Vec<usize>>,
    by_source: HashMap<String, Vec<usize>>,
    others: Vec<usize>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            index.file(at, rule);
        }
        index
    }

    /// The places of the rules that can match `event`, in order, each once.
    pub(super) fn candidates(&self, event: &Envelope) -> impl Iterator<Item = usize> {
        let mut found = self.others.clone();
        let mut take = |map: &HashMap<String, Vec<usize>>, key: &str| found.extend(map.get(key).into_iter().flatten());
        take(&self.by_source, event.source.as_str());
        take(&self.by_type, &event.r#type);
        if let Some(namespace) = &event.namespace {
            take(&self.by_namespace, namespace);
        }
        if !self.by_type_prefix.is_empty() {
            for (dot, _) in event.r#type.match_indices('.') {
                take(&self.by_type_prefix, event.r#type.get(..dot).unwrap_or_default());
            }
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter()
    }

    fn file(&mut self, at: usize, rule: &Rule) {
        let matches = &rule.matches;
        if all(&matches.namespace, |glob| glob.exact().is_some()) {
            return file_exact(&mut self.by_namespace, &matches.namespace, at);
        }
        if all(&matches.r#type, |glob| glob.literal_prefix().is_some()) {
            for glob in &matches.r#type {
                match glob.exact() {
                    Some(exact) => self.by_type.entry(exact.to_owned()).or_default().push(at),
                    None => self.by_type_prefix.entry(glob.literal_prefix().unwrap_or_default().to_owned()).or_default().push(at),
                }
            }
            return;
        }
        if all(&matches.source, |glob| glob.exact().is_some()) {
            return file_exact(&mut self.by_source, &matches.source, at);
        }
        self.others.push(at);
    }
}

fn all(globs: &[Glob], test: impl Fn(&Glob) -> bool) -> bool {
    !globs.is_empty() && globs.iter().all(test)
}

fn file_exact(map: &mut HashMap<String, Vec<usize>>, globs: &[Glob], at: usize) {
    for exact in globs.iter().filter_map(Glob::exact) {
        map.entry(exact.to_owned()).or_default().push(at);
    }
}
