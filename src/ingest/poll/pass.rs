//! Once over the pages of an answer: what was met. Pure.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{state::Key, value::Value};

/// What has been met since the first page.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Pages.
    pub(super) pages: u32,
    /// Items on them.
    pub(super) items: u64,
    /// The greatest value.
    pub(super) greatest: Option<Value>,
    /// The items, where pages are counted. As many as `max_pages` lets them be: without their bodies.
    pub(super) met: HashSet<Mark>,
}

/// An item as it stood on a page: one whose value is another may stand elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(Key, u64);

impl Mark {
    /// That of the item of `key` with `value`.
    pub(super) fn of(key: Key, value: Option<&Value>) -> Self {
        let mut hasher = DefaultHasher::new();
        value.map(|value| &value.text).hash(&mut hasher);
        Self(key, hasher.finish())
    }
}
