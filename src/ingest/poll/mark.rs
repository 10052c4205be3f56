//! What the store keeps of a source that was asked and is no longer, until it has been asked a last time: a restart or a crash in between
//! must not lose what happened just before its sender came by itself.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    envelope::Name,
    store::{self, Store},
};

/// What the store keeps it under, before the source's name.
const PREFIX: &str = "poll-ending.";

/// That a source is no longer asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Since when.
    pub(crate) since: Timestamp,
    /// The configuration by which it was asked, as the store keeps the last good one: sealed.
    pub(crate) file: String,
}

impl Mark {
    /// Every one there is, with the name of its source.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn all(store: &dyn Store) -> store::Result<Vec<(Name, Self)>> {
        let kept = store.settings(PREFIX).await?;
        let read =
            |(key, text): (String, String)| Some((Name::parse(key.strip_prefix(PREFIX)?)?, serde_json::from_str(&text).ok()?));
        Ok(kept.into_iter().filter_map(read).collect())
    }

    /// Keeps it for the source `name`, unless there is one already: what a source was asked by first is what it was asked by.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn keep(&self, store: &dyn Store, name: &Name) -> store::Result<()> {
        if store.setting(&key(name)).await?.is_some() {
            return Ok(());
        }
        // Texts can always be written.
        store.set_setting(&key(name), serde_json::to_string(self).unwrap_or_default()).await
    }

    /// Forgets that of the source `name`: it was asked a last time, or is asked again.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn remove(store: &dyn Store, name: &Name) -> store::Result<()> {
        store.remove_setting(&key(name)).await
    }
}

fn key(name: &Name) -> String {
    format!("{PREFIX}{name}")
}
