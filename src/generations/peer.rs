//! What a replica says of itself, for the others and for people.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    store::{OwnerId, Replica},
};

/// Where the system keeps the machine's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// Longest name that is said, in characters.
const NAME_MAX: usize = 64;

/// A replica, as it says itself and as the store knows it. What another version leaves out is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Drawn at its start.
    pub id: String,
    /// Its machine and its process: `relay-0/17`.
    pub name: String,
    /// The version of Hookyard.
    pub version: String,
    /// A keyed hash of what its configuration means.
    pub digest: String,
    /// Since when it goes by that.
    pub loaded_at: Timestamp,
    /// When it started.
    pub started_at: Timestamp,
    /// Who it is to the store.
    #[serde(skip)]
    pub owner: Option<OwnerId>,
    /// When it was last seen.
    #[serde(skip)]
    pub seen_at: Timestamp,
    /// The shards of lanes that it owns.
    #[serde(skip)]
    pub shards: Vec<u16>,
}

impl Peer {
    /// What `replica` says of itself; one that says nothing that can be read is there all the same.
    pub(super) fn of(replica: Replica) -> Self {
        let Replica { owner, doc, seen_at, shards } = replica;
        let said: Self = serde_json::from_str(&doc).unwrap_or_default();
        let id = if said.id.is_empty() { format!("{:016x}", owner.0) } else { said.id };
        Self { id, owner: Some(owner), seen_at, shards, ..said }
    }

    /// As the store keeps it.
    pub(super) fn doc(&self) -> String {
        // Plain data: writing it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What this process is called.
pub(super) fn name() -> String {
    let host = std::fs::read_to_string(HOSTNAME).ok().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    format!("{host}/{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_read_back_and_what_another_version_says_as_far_as_it_goes() {
        let at: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let said = Peer { id: "ab".into(), name: name(), digest: "d".into(), loaded_at: at, started_at: at, ..Peer::default() };
        let replica = |doc: String| Replica { owner: OwnerId(7), doc, seen_at: at, shards: vec![1] };
        assert_eq!(Peer::of(replica(said.doc())), Peer { owner: Some(OwnerId(7)), seen_at: at, shards: vec![1], ..said });
        let later = Peer::of(replica(r#"{"name": "b/1", "version": "9.0.0", "mood": "good"}"#.into()));
        assert_eq!((&*later.id, &*later.name, &*later.version), ("0000000000000007", "b/1", "9.0.0"));
        assert_eq!(Peer::of(replica("nonsense".into())).name, "");
    }
}
