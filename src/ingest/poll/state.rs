//! How far a poll source has come: kept in the store, so that a restart goes on from there.

use std::collections::HashSet;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{
    envelope::Name,
    store::{self, Store},
};

/// What an item is known again by: the store's own key.
pub(super) type Key = [u8; 16];

/// Items of the last answers that are remembered here, so that what is asked for again is not held against the store each time. Of those
/// beyond, the store itself knows (for as long as it remembers ids).
const SEEN_MAX: usize = 20_000;
/// What the store keeps it under, before the source's name.
const PREFIX: &str = "poll.";

/// How far a source has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    /// `start` as the file had it when this began: another one begins anew.
    pub(super) start: String,
    /// The value before which nothing is taken in.
    pub(super) floor: Option<String>,
    /// The greatest value that was reached.
    pub(super) reached: Option<String>,
    /// Items that are on disk and are likely to come again.
    pub(super) seen: HashSet<Key>,
}

/// The same as text.
#[derive(Serialize, Deserialize)]
struct Kept {
    start: String,
    #[serde(default)]
    floor: Option<String>,
    #[serde(default)]
    reached: Option<String>,
    #[serde(default)]
    seen: Vec<String>,
}

impl State {
    /// Notes that the items of `keys` are on disk, beside those before or in their place.
    pub(super) fn see(&mut self, keys: &HashSet<Key>, instead: bool) {
        if instead {
            self.seen.clear();
        }
        for key in keys {
            if SEEN_MAX <= self.seen.len() {
                return;
            }
            self.seen.insert(*key);
        }
    }

    /// What the store keeps of `source`; `None`: nothing that can be read.
    pub(super) async fn read(store: &dyn Store, source: &Name) -> store::Result<Option<Self>> {
        let text = store.setting(&key(source)).await?;
        Ok(text.and_then(|text| Self::of_text(&text)))
    }

    /// Whether the store keeps something of `source`.
    pub(super) async fn is_kept(store: &dyn Store, source: &Name) -> store::Result<bool> {
        Ok(store.setting(&key(source)).await?.is_some())
    }

    /// Keeps it.
    pub(super) async fn keep(&self, store: &dyn Store, source: &Name) -> store::Result<()> {
        let (key, text) = self.setting(source);
        store.set_setting(&key, text).await
    }

    /// What the store keeps it under and as.
    pub(super) fn setting(&self, source: &Name) -> (String, String) {
        (key(source), self.text())
    }

    fn text(&self) -> String {
        let mut seen: Vec<_> = self.seen.iter().map(|key| BASE64URL_NOPAD.encode(key)).collect();
        seen.sort_unstable();
        let kept = Kept { start: self.start.clone(), floor: self.floor.clone(), reached: self.reached.clone(), seen };
        // Texts can always be written.
        serde_json::to_string(&kept).unwrap_or_default()
    }

    fn of_text(text: &str) -> Option<Self> {
        let Kept { start, floor, reached, seen } = serde_json::from_str(text).ok()?;
        let key = |text: &String| BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok();
        Some(Self { start, floor, reached, seen: seen.iter().filter_map(key).collect() })
    }
}

fn key(source: &Name) -> String {
    format!("{PREFIX}{source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let mut state = State { start: "now".into(), floor: Some("1".into()), reached: None, ..State::default() };
        state.see(&[[1; 16], [2; 16]].into(), false);
        assert_eq!(State::of_text(&state.text()), Some(state.clone()));
        state.see(&[[3; 16]].into(), false);
        assert_eq!(state.seen.len(), 3);
        state.see(&[[4; 16]].into(), true);
        assert_eq!(state.seen, [[4; 16]].into());
        assert_eq!(State::of_text("{}"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let keys: HashSet<Key> =
            (0..SEEN_MAX as u64 + 5).map(|n| std::array::from_fn(|at| n.to_le_bytes().get(at).copied().unwrap_or(0))).collect();
        let mut state = State::default();
        state.see(&keys, true);
        assert_eq!(state.seen.len(), SEEN_MAX);
    }
}
